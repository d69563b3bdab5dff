// What a stranger may take up: room for its body, and time to send it.

package auth

import (
	"errors"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"
)

// roomSize is how much may be kept in temporary files, over the whole process, of
// bodies that were searched for their secret.
const roomSize = 1 << 30

// shareOf: an address may hold one part in so many of what it leaves free. So one
// address has a fifth of the room, and takes no more than a fifth of what the
// others before it have left: there is always some for the next.
const shareOf = 4

// room is what all bodies share.
type room struct {
	mu   sync.Mutex
	free int64
	held map[netip.Prefix]int64
}

func newRoom(size int64) *room {
	return &room{free: size, held: make(map[netip.Prefix]int64)}
}

// bodyRoom is one for the process, as all share its memory and its disk.
var bodyRoom = newRoom(roomSize)

var (
	errNoRoom  = errors.New("too much is kept of bodies that are being searched for their secret")
	errNoShare = errors.New(
		"too much is kept of this address's bodies that are being searched for their secret",
	)
)

// share is what one body holds of the room.
type share struct {
	of      *room
	address netip.Prefix
	held    int64
}

// take takes size bytes more, if the address has as many left.
func (s *share) take(size int64) error {
	r := s.of
	r.mu.Lock()
	defer r.mu.Unlock()
	held, free := r.held[s.address]+size, r.free-size
	switch {
	case free < 0:
		return errNoRoom
	case held > free/shareOf:
		return errNoShare
	}
	s.held += size
	r.held[s.address], r.free = held, free
	return nil
}

// giveBack gives everything back. It may be called again.
func (s *share) giveBack() {
	r := s.of
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.held == 0 {
		return
	}
	r.free += s.held
	if r.held[s.address] -= s.held; r.held[s.address] == 0 {
		delete(r.held, s.address)
	}
	s.held = 0
}

// Until its secret is found, so much of a body has to come in each stretch of
// time, or the rest of it: about 13 KiB a second. It is not an average over the
// whole body, of which somebody could send the most at once to have room held
// for hours.
const (
	stretch      = 20 * time.Second
	stretchBytes = 256 << 10
)

// pace holds a body to its least rate.
type pace struct {
	control  *http.ResponseController
	deadline time.Time // of the stretch
	received int       // in it
}

func newPace(w http.ResponseWriter) *pace {
	p := &pace{control: http.NewResponseController(w)}
	p.begin()
	return p
}

// begin begins a stretch. Caddy's own timeouts for idle bodies take its deadline
// as a ceiling. What has no deadlines is held to its time between reads alone.
func (p *pace) begin() {
	p.deadline, p.received = time.Now().Add(stretch), 0
	_ = p.control.SetReadDeadline(p.deadline)
}

// read reads once more, with [os.ErrDeadlineExceeded] if that comes too late.
func (p *pace) read(body *replayBody) ([]byte, error) {
	if time.Now().After(p.deadline) {
		return nil, os.ErrDeadlineExceeded
	}
	piece, err := body.fill()
	if p.received += len(piece); p.received >= stretchBytes {
		p.begin()
	}
	return piece, err
}

// end lifts the deadline, unless it has passed: then nobody shall wait for what
// is left of the body.
func (p *pace) end(err error) {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		_ = p.control.SetReadDeadline(time.Time{})
	}
}
