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

// roomSize is how many bytes of bodies may be in temporary files, over the whole
// process, until their secret is found and they are read again.
const roomSize = 1 << 30

// shareOf: an address may hold one shareOf-th of what it leaves free. So the first address can have
// a fifth of the room, the next one a fifth of the rest, and so on: there is always some left.
const shareOf = 4

// room is a number of bytes that all bodies share.
type room struct {
	mu   sync.Mutex
	free int64
	held map[netip.Prefix]int64
}

func newRoom(size int64) *room {
	return &room{free: size, held: make(map[netip.Prefix]int64)}
}

// bodyRoom belongs to the process, as the disk does.
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

// take takes size more bytes of the room, if the address may have them.
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

// giveBack gives everything back. It may be called more than once.
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

// Until the secret is found, stretchBytes of a body, or the rest of it, have to come in each
// stretch of time, which is about 13 KiB a second. An average over the whole body would not do:
// somebody could send most of it at once, and then have the room held for hours.
const (
	stretch      = 20 * time.Second
	stretchBytes = 256 << 10
)

// pace makes sure that a body comes at the least rate.
type pace struct {
	control  *http.ResponseController
	deadline time.Time // the end of the present stretch
	received int       // how many bytes have come in it
}

func newPace(w http.ResponseWriter) *pace {
	p := &pace{control: http.NewResponseController(w)}
	p.begin()
	return p
}

// begin begins a stretch. Caddy's own timeouts for idle bodies never go beyond the deadline that is
// set here. On a connection that has no deadlines, a read that blocks is not interrupted, and the
// rate is checked between two reads.
func (p *pace) begin() {
	p.deadline, p.received = time.Now().Add(stretch), 0
	_ = p.control.SetReadDeadline(p.deadline)
}

// read reads once from the body. The error is [os.ErrDeadlineExceeded] if too
// little has come in time.
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

// end removes the deadline. One that has passed stays: then nobody is to wait for
// the rest of the body.
func (p *pace) end(err error) {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		_ = p.control.SetReadDeadline(time.Time{})
	}
}
