// Copying: how all that one store keeps comes into another one.

package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// Portable is what a store has beside, if what it keeps can be copied to another one, see [Copy].
type Portable interface {
	Store

	// Export returns the next messages behind an id, at most limit, by rising id; none at the end.
	Export(ctx context.Context, after ID, limit int) ([]Exported, error)

	// Missing returns those of some ids that Import would take: of which the store has no message,
	// and never had an imported one.
	Missing(ctx context.Context, ids []ID) ([]ID, error)

	// Import keeps messages that another store accepted, with their ids and all that became of them,
	// durably, and takes over their bodies, which are of NewBody, whatever happens. It returns the
	// ids of those that it kept: not what is there already, in whatever state, nor what was imported
	// in the last 30 days at least, though it was delivered or dropped since. So nothing is
	// delivered again because a copy is repeated.
	//
	// What was accepted here later has higher ids than all that was imported of its order key.
	// Imported messages take the place in the order that their ids give them: before all that waits
	// and has higher ids, but not before what is leased already.
	Import(ctx context.Context, messages []Imported) (kept []ID, err error)

	// ExportPrints has take called with the fingerprints that are kept, some at a time.
	ExportPrints(ctx context.Context, take func([]Print) error) error

	// ExportStreams returns the live streams that were noted, whoever did.
	ExportStreams(ctx context.Context) ([]OpenStream, error)

	// ImportPrints keeps fingerprints durably, but for those of which it has the same or a later one.
	ImportPrints(ctx context.Context, prints []Print) error
}

// Exported is a message to be copied.
type Exported struct {
	*Message

	// Err says that the record of the message is damaged; it wraps [ErrDamaged].
	Err error

	// Doomed messages were dropped while they were being delivered, by a process that died since:
	// they are not to be copied.
	Doomed bool
}

// Imported is a message from another store, with its body.
type Imported struct {
	*Message
	Body BodyWriter
}

// Print is a fingerprint that is kept: of which message, and when that was accepted. Of a store that
// keeps the first 16 bytes alone, the others are zero; then those 16 are what is compared.
type Print struct {
	Fingerprint Fingerprint
	ID          ID
	At          time.Time
}

// Same reports whether f is the fingerprint that is kept.
func (p Print) Same(f Fingerprint) bool {
	const half = len(f) / 2
	return p.Fingerprint == f || [half]byte(p.Fingerprint[half:]) == [half]byte{} &&
		[half]byte(p.Fingerprint[:half]) == [half]byte(f[:half])
}

// Copied is what [Copy] has to tell.
type Copied struct {
	// Total is how many messages there were to be copied, Seen how many it has come to.
	Total int64 `json:"total"`
	Seen  int64 `json:"seen"`

	// Routes has what became of the messages, by route and by state.
	Routes map[string]map[State]*CopiedCounts `json:"routes"`

	// Fingerprints is how many were handed over, Paused are the routes whose pause was.
	Fingerprints int64    `json:"fingerprints"`
	Paused       []string `json:"paused"`

	// Streams is how many live streams there were whose ends are still to be delivered.
	Streams int64 `json:"streams"`

	// Lost are the messages that are damaged in the store they were to be copied from.
	Lost []Loss `json:"lost"`

	// Counted says that what the destination has more than before was compared with what was copied,
	// which is only possible where nobody else uses it.
	Counted bool `json:"counted"`
}

// CopiedCounts counts messages of a route and state.
type CopiedCounts struct {
	Copied  int64 `json:"copied"`
	Present int64 `json:"present"` // were there, or copied before
	Lost    int64 `json:"lost"`
}

// Loss is a message that could not be saved.
type Loss struct {
	ID        ID     `json:"id"`
	Route     string `json:"route"`
	RequestID string `json:"request_id,omitempty"`
	Reason    string `json:"reason"`
}

// copyPage is how many messages are copied at a time.
const copyPage = 100

// Copy copies all that one store keeps into another: paused routes, fingerprints, messages in every
// state, and which streams were live. Nothing is changed in the first, which nobody else may use
// meanwhile; the second may be in use. What was copied before is not copied again, so a copy that
// ended early is simply repeated. progress, if not nil, is told now and then how far it is. With an
// error, Copied says what was done until then.
func Copy(ctx context.Context, from, to Portable, progress func(*Copied)) (*Copied, error) {
	c := &copying{from: from, to: to, progress: progress, Copied: Copied{
		Routes: make(map[string]map[State]*CopiedCounts), Paused: []string{}, Lost: []Loss{},
	}}
	return &c.Copied, c.run(ctx)
}

type copying struct {
	Copied
	from, to Portable
	progress func(*Copied)
}

// run has pauses come first, so that nothing is delivered that was not to be, and fingerprints before
// messages, as the destination may be accepting already.
func (c *copying) run(ctx context.Context) error {
	c.to.SetLimits(Limits{Fingerprints: 1 << 62}) // for as long as a configuration says otherwise
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
	err = c.from.ExportPrints(ctx, func(prints []Print) error {
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
	var after ID
	for {
		page, err := c.from.Export(ctx, after, copyPage)
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
func (c *copying) page(ctx context.Context, page []Exported) error {
	var ids []ID
	for _, m := range page {
		ids = append(ids, m.ID)
	}
	missing, err := c.to.Missing(ctx, ids)
	if err != nil {
		return err
	}
	absent := make(map[ID]bool, len(missing))
	for _, id := range missing {
		absent[id] = true
	}
	var batch []Imported
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
		batch = append(batch, Imported{m.Message, body})
	}
	taken := batch
	batch = nil
	return c.take(ctx, taken)
}

// take has the destination keep messages.
func (c *copying) take(ctx context.Context, batch []Imported) error {
	if len(batch) == 0 {
		return nil
	}
	kept, err := c.to.Import(ctx, batch)
	if err != nil {
		return err
	}
	took := make(map[ID]bool, len(kept))
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

func (c *copying) lose(m Exported, reason error) {
	c.counts(m.Message).Lost++
	c.Lost = append(c.Lost, Loss{m.ID, m.Route, m.RequestID, reason.Error()})
}

func (c *copying) counts(m *Message) *CopiedCounts {
	states := c.Routes[m.Route]
	if states == nil {
		states = make(map[State]*CopiedCounts)
		c.Routes[m.Route] = states
	}
	if states[m.State] == nil {
		states[m.State] = &CopiedCounts{}
	}
	return states[m.State]
}

// body hands the body of a message over. What is wrong with its bytes where they come from is its
// damage; anything else is an error.
func (c *copying) body(ctx context.Context, m *Message) (w BodyWriter, damage, err error) {
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
	if errors.Is(err, ErrDamaged) || errors.As(err, &file) {
		return err, nil
	}
	return nil, err
}

// check compares what was copied with what the stores say they have.
func (c *copying) check(ctx context.Context, there, before Counts) error {
	for route, counts := range there.Routes {
		for state, want := range counts.byState() {
			got := c.counts(&Message{Route: route, State: state})
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
		had := before.Routes[route].byState()
		for state, has := range after.Routes[route].byState() {
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

func (c RouteCounts) byState() map[State]int64 {
	return map[State]int64{Pending: c.Pending, Dead: c.Dead, Delivered: c.Delivered}
}

// seenLately is how long a gateway counts as a user of a shared store that was not seen since.
const seenLately = 15 * time.Second

// OtherGateways returns who else uses a store at present. Times are compared with each other, as
// they are those of the store.
func OtherGateways(ctx context.Context, store Store) (others []Gateway, err error) {
	shared, ok := store.(Shared)
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
