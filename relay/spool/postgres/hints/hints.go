// Package hints has gateways tell each other of which routes there is something to deliver. They
// are only hints, since some are lost, and some databases and poolers have none: every gateway
// looks for itself from time to time.
package hints

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
)

const (
	// pollListening is how often a gateway looks for itself when it is told by others, pollAlone
	// when it is not. The latter is less than three times a second, of the five statements that an
	// idle gateway may ask for.
	pollListening = 2 * time.Second
	pollAlone     = 400 * time.Millisecond

	// hintPause is the least time between two hints.
	hintPause = 20 * time.Millisecond

	// echoTime is how long a hint to itself may take until a gateway does not believe any more that
	// it is told, echoPause how often it tries, relisten when it tries again to listen.
	echoTime  = 3 * time.Second
	echoPause = 30 * time.Second
	relisten  = 30 * time.Second
)

// Options say who gives and takes hints.
type Options struct {
	DB      *database.DB
	Schema  string // whose gateways tell each other
	Gateway uuid.UUID

	// Told is called with a route of which there may be something to deliver.
	Told func(ctx context.Context, route int32)

	// Look looks for itself whether there is something of routes.
	Look func(ctx context.Context, routes []int32)
}

// Hints are those that a gateway gives, and those that it takes.
type Hints struct {
	options Options

	mu        sync.Mutex
	outbox    map[int32]bool
	routes    map[int32]bool // that somebody here leases from
	listening bool
	ready     chan struct{}
	repoll    chan struct{}
}

// New returns the hints of a gateway.
func New(options Options) *Hints {
	return &Hints{
		options: options, outbox: make(map[int32]bool), routes: make(map[int32]bool),
		ready: make(chan struct{}, 1), repoll: make(chan struct{}, 1),
	}
}

func (h *Hints) channel() string { return "inbox_" + h.options.Schema }

// Interest notes that there is somebody here who leases messages of a route.
func (h *Hints) Interest(route int32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.routes[route] = true
}

// Give tells the other gateways soon.
func (h *Hints) Give(route int32) {
	h.mu.Lock()
	h.outbox[route] = true
	h.mu.Unlock()
	select {
	case h.ready <- struct{}{}:
	default:
	}
}

// GiveNow tells them before it returns.
func (h *Hints) GiveNow(ctx context.Context, route int32) {
	h.mu.Lock()
	h.outbox[route] = true
	h.mu.Unlock()
	h.send(ctx)
}

// Run has all of it going until ctx ends.
func (h *Hints) Run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { h.sendAll(ctx) })
	all.Go(func() { h.listen(ctx) })
	all.Go(func() { h.poll(ctx) })
	all.Wait()
}

func (h *Hints) sendAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.ready:
		}
		h.send(ctx)
		if !pause(ctx, hintPause) {
			return
		}
	}
}

// pause waits, and reports whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (h *Hints) send(ctx context.Context) {
	h.mu.Lock()
	outbox := h.outbox
	h.outbox = make(map[int32]bool)
	h.mu.Unlock()
	var payloads []string
	for route := range outbox {
		payloads = append(payloads, h.payload(strconv.Itoa(int(route))))
	}
	if len(payloads) > 0 {
		h.notify(ctx, payloads...)
	}
}

func (h *Hints) payload(text string) string { return h.options.Gateway.String() + " " + text }

// notify is outside of every other transaction, since one that has hints in it keeps all others
// from being committed at the same time.
func (h *Hints) notify(ctx context.Context, payloads ...string) {
	const notify = `SELECT pg_notify($1, p) FROM unnest($2::text[]) AS p`
	_ = h.options.DB.Query(ctx, database.Quick, database.SQL(notify, h.channel(), payloads))
}

func (h *Hints) setListening(listening bool) {
	h.mu.Lock()
	changed := h.listening != listening
	h.listening = listening
	h.mu.Unlock()
	if changed {
		select {
		case h.repoll <- struct{}{}:
		default:
		}
	}
}

var errNoEcho = errors.New("hints do not arrive")

// listen listens on a connection of its own.
func (h *Hints) listen(ctx context.Context) {
	for {
		wait := time.Second
		if h.options.DB.Ready() == nil {
			if err := h.listenOnce(ctx); errors.Is(err, errNoEcho) {
				wait = relisten
			}
		}
		h.setListening(false)
		if !pause(ctx, wait) {
			return
		}
	}
}

func (h *Hints) listenOnce(ctx context.Context) error {
	conn, err := h.options.DB.Listen(ctx, h.channel())
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	for {
		h.notify(ctx, h.payload("echo"))
		if err := h.receive(ctx, conn, echoTime, true); err != nil {
			return err
		}
		if h.setListening(true); h.receive(ctx, conn, echoPause, false) != nil && conn.IsClosed() {
			return errors.New("the connection broke")
		}
	}
}

// receive takes in what comes, for so long, or until a hint of our own has come.
func (h *Hints) receive(ctx context.Context, conn *pgx.Conn, limit time.Duration, echo bool) error {
	until := time.Now().Add(limit)
	for {
		waiting, cancel := context.WithDeadline(ctx, until)
		notification, err := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case err != nil && waiting.Err() != nil && ctx.Err() == nil && echo:
			return errNoEcho
		case err != nil:
			return err
		case h.take(ctx, notification.Payload) && echo:
			return nil
		}
	}
}

// take passes a hint on. It reports whether it is a test of our own.
func (h *Hints) take(ctx context.Context, payload string) bool {
	from, text, _ := strings.Cut(payload, " ")
	if from == h.options.Gateway.String() {
		return text == "echo"
	}
	number, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return false // another one's test
	}
	h.options.Told(ctx, int32(number))
	return false
}

func (h *Hints) poll(ctx context.Context) {
	for {
		h.mu.Lock()
		wait := pollAlone
		if h.listening {
			wait = pollListening
		}
		routes := make([]int32, 0, len(h.routes))
		for route := range h.routes {
			routes = append(routes, route)
		}
		h.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-h.repoll:
			continue
		case <-time.After(wait):
		}
		if len(routes) > 0 {
			h.options.Look(ctx, routes)
		}
	}
}
