// What an operator can see and do in an inbox.

package spool

import (
	"context"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/seal"
)

// Stats says what there is, overall and per route.
type Stats struct {
	Totals

	// DiskBytes is what the inbox takes up on disk; MaxBytes is its limit, 0 if it has none.
	DiskBytes int64 `json:"disk_bytes"`
	MaxBytes  int64 `json:"max_bytes,omitempty"`

	// Fingerprints is how many are kept to recognise duplicates.
	Fingerprints int64 `json:"fingerprints"`

	// Refusing is why messages are refused at present, empty if they are not.
	Refusing      Reason    `json:"refusing,omitempty"`
	RefusingSince time.Time `json:"refusing_since,omitzero"`

	Routes map[string]RouteStats `json:"routes"`
}

// Totals counts messages and the bytes of their bodies.
type Totals struct {
	Pending      int64 `json:"pending"`
	PendingBytes int64 `json:"pending_bytes"`
	Dead         int64 `json:"dead"`
	DeadBytes    int64 `json:"dead_bytes"`

	// Delivered ones are kept for a time.
	Delivered      int64 `json:"delivered"`
	DeliveredBytes int64 `json:"delivered_bytes"`

	// InFlight is how many of the pending ones are being delivered at this moment; of a shared
	// store, by anyone.
	InFlight int `json:"in_flight"`

	// Retrying is how many of the pending ones have failed and are to be tried again, without those
	// that have to wait for another one first, as it was replayed. Of a route no more are counted
	// than [MaxRetrying].
	Retrying int `json:"retrying"`

	// OldestPending is when the oldest pending message was received; zero if there is none.
	OldestPending time.Time `json:"oldest_pending,omitzero"`
}

// RouteStats says what there is of one route.
type RouteStats struct {
	Totals

	// Configured says whether the route is part of the configuration. If not, its messages wait until
	// it is.
	Configured bool `json:"configured"`

	// Paused says that an operator has paused deliveries.
	Paused bool `json:"paused"`

	// Down says that the service does not answer, and DownSince since when. NextProbe is when it is
	// tried again, LastError what was wrong.
	Down      bool      `json:"down"`
	DownSince time.Time `json:"down_since,omitzero"`
	NextProbe time.Time `json:"next_probe,omitzero"`
	LastError string    `json:"last_error,omitempty"`
}

// Stats returns what there is, without looking at every message. With an error it says at most why
// messages are refused: the store may be away.
func (in *Inbox) Stats(ctx context.Context) (Stats, error) {
	counts, err := in.store.Counts(ctx)
	if err != nil {
		return Stats{Refusing: counts.Refusing, RefusingSince: counts.RefusingSince}, err
	}
	stats := Stats{
		DiskBytes:     counts.Bytes,
		MaxBytes:      counts.MaxBytes,
		Fingerprints:  counts.Fingerprints,
		Refusing:      counts.Refusing,
		RefusingSince: counts.RefusingSince,
		Routes:        make(map[string]RouteStats),
	}
	for name, c := range counts.Routes {
		route := RouteStats{Totals: c.Totals, Paused: c.Paused}
		stats.Routes[name] = route
		stats.Totals.Add(route.Totals)
	}
	for _, r := range in.allRoutes() {
		s := stats.Routes[r.name]
		r.describe(&s)
		stats.Routes[r.name] = s
	}
	return stats, nil
}

// Add adds what there is elsewhere.
func (t *Totals) Add(other Totals) {
	t.Pending += other.Pending
	t.PendingBytes += other.PendingBytes
	t.Dead += other.Dead
	t.DeadBytes += other.DeadBytes
	t.Delivered += other.Delivered
	t.DeliveredBytes += other.DeliveredBytes
	t.InFlight += other.InFlight
	t.Retrying += other.Retrying
	t.OldestPending = Earlier(t.OldestPending, other.OldestPending)
}

// Gateways lists those that share the inbox, now or lately, by name; none where it is of one
// process.
func (in *Inbox) Gateways(ctx context.Context) ([]Gateway, error) {
	if shared, ok := in.store.(Shared); ok {
		return shared.Gateways(ctx)
	}
	return nil, nil
}

func (in *Inbox) allRoutes() []*route {
	in.mu.Lock()
	defer in.mu.Unlock()
	routes := make([]*route, 0, len(in.routes))
	for _, r := range in.routes {
		routes = append(routes, r)
	}
	return routes
}

// List returns the messages that a filter selects. One that cannot be decrypted has no header.
func (in *Inbox) List(ctx context.Context, filter Filter) ([]*Message, error) {
	messages, err := in.store.List(ctx, filter)
	for _, msg := range messages {
		_, _ = unseal(in.configOf(msg.Route).Encrypt, msg) // its delivery says so, and Body does
	}
	return messages, err
}

// Count counts them.
func (in *Inbox) Count(ctx context.Context, filter Filter) (int64, error) {
	return in.store.Count(ctx, filter)
}

// Get returns one message with its attempts, or [ErrNotFound]. One that cannot be decrypted has no
// header.
func (in *Inbox) Get(ctx context.Context, id ID) (*Message, error) {
	msg, err := in.store.Get(ctx, id)
	if err == nil {
		_, _ = unseal(in.configOf(msg.Route).Encrypt, msg)
	}
	return msg, err
}

// Body opens the body of a message. It fails with [ErrUndecryptable] where its key is gone.
func (in *Inbox) Body(ctx context.Context, id ID) (Body, error) {
	msg, err := in.store.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return in.openBody(ctx, in.configOf(msg.Route).Encrypt, msg)
}

// openBody decrypts a message and opens its body.
func (in *Inbox) openBody(ctx context.Context, keys *seal.Keys, msg *Message) (Body, error) {
	lock, err := unseal(keys, msg)
	if err != nil {
		return nil, err
	}
	stored, err := in.store.Body(ctx, msg.ID)
	if err != nil {
		return nil, err
	}
	return lock.open(stored)
}

// Replay makes a message due now, with a fresh schedule and the same id: a dead letter, one that
// was delivered, or a pending one that waits. If its service is down, it is probed at once.
func (in *Inbox) Replay(ctx context.Context, id ID) error {
	if err := in.store.Replay(ctx, id); err != nil {
		return err
	}
	msg, err := in.store.Get(ctx, id)
	if err != nil {
		return nil // delivered already
	}
	in.probeNow(msg.Route)
	return nil
}

// ReplayAll does that with all dead and delivered messages that a filter selects and that were
// there when it began, however many; its After, Newest and Limit have no meaning. It returns how
// many they were. progress, if not nil, is called again and again with how many they are so far.
// When ctx ends, what was replayed stays so.
func (in *Inbox) ReplayAll(ctx context.Context, filter Filter, progress func(int)) (total int, err error) {
	if began := time.Now(); filter.Until.IsZero() || filter.Until.After(began) {
		filter.Until = began
	}
	filter.After, filter.Newest, filter.Limit = ID{}, false, bulk
	defer func() {
		for _, r := range in.allRoutes() {
			if total > 0 && (filter.Route == "" || filter.Route == r.name) {
				r.probeNow()
			}
		}
	}()
	for {
		n, last, done, err := in.store.ReplayAll(ctx, filter)
		total += n
		if progress != nil {
			progress(total)
		}
		if err != nil || done {
			return total, err
		}
		filter.After = last
	}
}

// Pause has the deliveries of a route wait until it is resumed, also over a restart. It goes on
// accepting, and deliveries that are under way end.
func (in *Inbox) Pause(ctx context.Context, route string, paused bool) error {
	if err := in.store.Pause(ctx, route, paused); err != nil {
		return err
	}
	if in.hooks.Paused != nil {
		in.hooks.Paused(route, paused)
	}
	if !paused {
		in.probeNow(route)
	}
	return nil
}

// probeNow has the service of a route tried at once, should it be down.
func (in *Inbox) probeNow(name string) {
	in.mu.Lock()
	r := in.routes[name]
	in.mu.Unlock()
	if r != nil {
		r.probeNow()
	}
}

// Drop forgets a message, in whatever state, and returns what it was. With ErrInFlight it is
// forgotten when its delivery ends.
func (in *Inbox) Drop(ctx context.Context, id ID) (*Message, error) { return in.store.Drop(ctx, id) }

// DropAll forgets all that a filter selects and that was there when it began, but what is being
// delivered. It returns how many they were.
func (in *Inbox) DropAll(ctx context.Context, filter Filter) (total int, err error) {
	if began := time.Now(); filter.Until.IsZero() || filter.Until.After(began) {
		filter.Until = began
	}
	err = in.dropAll(ctx, filter, func(*Message) { total++ })
	return total, err
}

func (in *Inbox) dropAll(ctx context.Context, filter Filter, dropped func(*Message)) error {
	filter.After, filter.Newest, filter.Limit = ID{}, false, bulk
	for {
		messages, err := in.store.DropAll(ctx, filter)
		for _, msg := range messages {
			dropped(msg)
		}
		if err != nil || len(messages) < bulk {
			return err
		}
		filter.After = messages[len(messages)-1].ID
	}
}
