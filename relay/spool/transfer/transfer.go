// Package transfer copies all that one store keeps into another one, of whatever engines they are.
// What a store has to have for that is [spool.Portable].
package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Copied is what [Copy] has to tell.
type Copied struct {
	// Total is how many messages there were to be copied, Seen how many it has come to.
	Total int64 `json:"total"`
	Seen  int64 `json:"seen"`

	// Routes has what became of the messages, by route and by state.
	Routes map[string]map[spool.State]*Counts `json:"routes"`

	// Fingerprints is how many were handed over, Paused are the routes whose pause was.
	Fingerprints int64    `json:"fingerprints"`
	Paused       []string `json:"paused"`

	// Streams is how many live streams there were whose ends are still to be delivered.
	Streams int64 `json:"streams"`

	// Lost are the messages that are damaged in the store they were to be copied from.
	Lost []spool.Loss `json:"lost"`

	// Counted says that what the destination has more than before was compared with what was copied,
	// which is only possible where nobody else uses it.
	Counted bool `json:"counted"`
}

// Counts counts messages of a route and state.
type Counts struct {
	Copied  int64 `json:"copied"`
	Present int64 `json:"present"` // were there, or copied before
	Lost    int64 `json:"lost"`
}

// pageSize is how many messages are copied at a time.
const pageSize = 100

// Copy copies all that one store keeps into another: paused routes, fingerprints, messages in every
// state, and which streams were live. Nothing is changed in the first, which nobody else may use
// meanwhile; the second may be in use. What was copied before is not copied again, so a copy that
// ended early is simply repeated. progress, if not nil, is told now and then how far it is. With an
// error, Copied says what was done until then.
func Copy(ctx context.Context, from, to spool.Portable, progress func(*Copied)) (*Copied, error) {
	c := &copying{from: from, to: to, progress: progress, Copied: Copied{
		Routes: make(map[string]map[spool.State]*Counts),
		Paused: []string{},
		Lost:   []spool.Loss{},
	}}
	return &c.Copied, c.run(ctx)
}

type copying struct {
	Copied
	from, to spool.Portable
	progress func(*Copied)
}

// run has pauses come first, so that nothing is delivered that was not to be, and fingerprints before
// messages, as the destination may be accepting already.
func (c *copying) run(ctx context.Context) error {
	c.to.SetLimits(spool.Limits{Fingerprints: 1 << 62}) // for as long as a configuration says otherwise
	there, err := c.from.Counts(ctx)
	if err != nil {
		return err
	}
	before, err := c.to.Counts(ctx)
	if err != nil {
		return err
	}
	for route, counts := range there.Routes {
		c.Total += counts.Pending + counts.Dead + counts.Delivered
		if !counts.Paused {
			continue
		}
		if err := c.to.Pause(ctx, route, true); err != nil {
			return err
		}
		c.Paused = append(c.Paused, route)
	}
	err = c.from.ExportPrints(ctx, func(prints []spool.Print) error {
		c.Fingerprints += int64(len(prints))
		return c.to.ImportPrints(ctx, prints)
	})
	if err != nil {
		return err
	}
	if err := c.messages(ctx); err != nil {
		return err
	}
	if err := c.streams(ctx); err != nil {
		return err
	}
	return c.check(ctx, there, before)
}

func (c *copying) messages(ctx context.Context) error {
	var after spool.ID
	for {
		page, err := c.from.Export(ctx, after, pageSize)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := c.page(ctx, page); err != nil {
			return err
		}
		after = page[len(page)-1].ID
		if c.progress != nil {
			c.progress(&c.Copied)
		}
	}
}

// streams copies which streams were live when the process ended that took their messages. Whoever
// delivers the copied messages delivers their ends too, and each once, by its fingerprint.
func (c *copying) streams(ctx context.Context) error {
	streams, err := c.from.ExportStreams(ctx)
	if err != nil {
		return err
	}
	for _, stream := range streams {
		if err := c.to.NoteStream(ctx, stream); err != nil {
			return err
		}
		c.Streams++
	}
	return nil
}

// page copies messages that follow each other.
func (c *copying) page(ctx context.Context, page []spool.Exported) error {
	var ids []spool.ID
	for _, m := range page {
		ids = append(ids, m.ID)
	}
	missing, err := c.to.Missing(ctx, ids)
	if err != nil {
		return err
	}
	absent := make(map[spool.ID]bool, len(missing))
	for _, id := range missing {
		absent[id] = true
	}
	var batch []spool.Imported
	defer func() {
		for _, m := range batch { // which Import has not taken over
			m.Body.Discard()
		}
	}()
	for _, m := range page {
		c.Seen++
		counts := c.counts(m.Message)
		switch {
		case !absent[m.ID] || m.Doomed:
			counts.Present++
			continue
		case m.Err != nil:
			c.lose(m, m.Err)
			continue
		}
		body, damage, err := c.body(ctx, m.Message)
		switch {
		case err != nil:
			return fmt.Errorf("message %s: %w", m.ID, err)
		case damage != nil:
			c.lose(m, damage)
			continue
		}
		batch = append(batch, spool.Imported{Message: m.Message, Body: body})
	}
	taken := batch
	batch = nil
	return c.take(ctx, taken)
}

// take has the destination keep messages.
func (c *copying) take(ctx context.Context, batch []spool.Imported) error {
	if len(batch) == 0 {
		return nil
	}
	kept, err := c.to.Import(ctx, batch)
	if err != nil {
		return err
	}
	took := make(map[spool.ID]bool, len(kept))
	for _, id := range kept {
		took[id] = true
	}
	for _, m := range batch {
		if took[m.ID] {
			c.counts(m.Message).Copied++
		} else {
			c.counts(m.Message).Present++
		}
	}
	return nil
}

func (c *copying) lose(m spool.Exported, reason error) {
	c.counts(m.Message).Lost++
	c.Lost = append(c.Lost, spool.Loss{
		ID: m.ID, Route: m.Route, RequestID: m.RequestID, Reason: reason.Error(),
	})
}

func (c *copying) counts(m *spool.Message) *Counts {
	states := c.Routes[m.Route]
	if states == nil {
		states = make(map[spool.State]*Counts)
		c.Routes[m.Route] = states
	}
	if states[m.State] == nil {
		states[m.State] = &Counts{}
	}
	return states[m.State]
}

// body hands the body of a message over. What is wrong with its bytes where they come from is its
// damage; anything else is an error.
func (c *copying) body(
	ctx context.Context, m *spool.Message,
) (w spool.BodyWriter, damage, err error) {
	body, err := c.from.Body(ctx, m.ID)
	if err != nil {
		damage, err = damageOr(err)
		return nil, damage, err
	}
	defer func() { _ = body.Close() }()
	if w, err = c.to.NewBody(ctx, body.Size()); err != nil {
		return nil, nil, err
	}
	source := &noting{Reader: body}
	if _, err := io.Copy(w, source); err != nil {
		w.Discard()
		if source.err != nil {
			damage, err = damageOr(source.err)
		}
		return nil, damage, err
	}
	return w, nil, nil
}

// noting is a reader that remembers what went wrong with it.
type noting struct {
	io.Reader
	err error
}

func (n *noting) Read(p []byte) (int, error) {
	count, err := n.Reader.Read(p)
	if err != nil && err != io.EOF {
		n.err = err
	}
	return count, err
}

// damageOr tells bytes that are not there any more from a store that cannot be asked at present.
func damageOr(err error) (damage, other error) {
	var file *fs.PathError
	if errors.Is(err, spool.ErrDamaged) || errors.As(err, &file) {
		return err, nil
	}
	return nil, err
}

// check compares what was copied with what the stores say they have.
func (c *copying) check(ctx context.Context, there, before spool.Counts) error {
	for route, counts := range there.Routes {
		for state, want := range byState(counts) {
			got := c.counts(&spool.Message{Route: route, State: state})
			if n := got.Copied + got.Present + got.Lost; n != want {
				return fmt.Errorf("route %s: of %d %s callbacks %d were found; nothing is lost, "+
					"but something is wrong with where they are", route, want, state, n)
			}
		}
	}
	others, err := OtherGateways(ctx, c.to)
	if err != nil || len(others) > 0 {
		return err
	}
	after, err := c.to.Counts(ctx)
	if err != nil {
		return err
	}
	for route, states := range c.Routes {
		had := byState(before.Routes[route])
		for state, has := range byState(after.Routes[route]) {
			want := had[state]
			if states[state] != nil {
				want += states[state].Copied
			}
			if has != want {
				return fmt.Errorf("route %s: the destination has %d %s callbacks, and should have %d",
					route, has, state, want)
			}
		}
	}
	c.Counted = true
	return nil
}

func byState(c spool.RouteCounts) map[spool.State]int64 {
	return map[spool.State]int64{
		spool.Pending: c.Pending, spool.Dead: c.Dead, spool.Delivered: c.Delivered,
	}
}

// seenLately is how long a gateway counts as a user of a shared store that was not seen since.
const seenLately = 15 * time.Second

// OtherGateways returns who else uses a store at present. Times are compared with each other, as
// they are those of the store.
func OtherGateways(ctx context.Context, store spool.Store) (others []spool.Gateway, err error) {
	shared, ok := store.(spool.Shared)
	if !ok {
		return nil, nil
	}
	all, err := shared.Gateways(ctx)
	if err != nil {
		return nil, err
	}
	var now time.Time
	for _, g := range all {
		if g.Self {
			now = g.LastSeen
		}
	}
	for _, g := range all {
		if !g.Self && now.Sub(g.LastSeen) < seenLately {
			others = append(others, g)
		}
	}
	return others, nil
}
