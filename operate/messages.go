package operate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/deliver"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Message is one message as it is shown. Every key is always there.
type Message struct {
	ID            spool.ID    `json:"id"`
	State         spool.State `json:"state"`
	Path          string      `json:"path"` // of the inbox
	Route         string      `json:"route"`
	Method        string      `json:"method"`
	URI           string      `json:"uri"` // without the values of its query
	ContentType   string      `json:"content_type"`
	Size          int64       `json:"size"`
	RequestID     string      `json:"request_id"`
	User          string      `json:"user"` // whose credential brought it in, where that names one
	ReceivedAt    time.Time   `json:"received_at"`
	Attempts      int         `json:"attempts"`
	NextAttemptAt *time.Time  `json:"next_attempt_at"` // null: in its turn, or never if it is dead
	DiedAt        *time.Time  `json:"died_at"`         // null unless it is dead
	DeliveredAt   *time.Time  `json:"delivered_at"`    // null unless it was delivered
	Replayed      bool        `json:"replayed"`        // it was sent again by somebody
	LastError     string      `json:"last_error"`
}

// Details is a message with what only one who asks for it wants to know.
type Details struct {
	Message

	// Host is the one that the sender called.
	Host string `json:"host"`

	// Header has the fields of the request, without those that may have a credential in them.
	Header http.Header `json:"header"`

	// History has the last ten attempts, the latest one last.
	History []Attempt `json:"history"`
}

// Attempt is one attempt to deliver a message.
type Attempt struct {
	At          time.Time `json:"at"`
	TookSeconds float64   `json:"took_seconds"`
	Status      int       `json:"status"` // 0 where there was no answer
	Error       string    `json:"error"`  // empty where it was delivered
	Upstream    string    `json:"upstream"`
	Gateway     string    `json:"gateway,omitempty"`
}

func showAttempts(attempts []spool.Attempt) []Attempt {
	shown := []Attempt{}
	for _, a := range attempts {
		shown = append(shown, Attempt{
			At: a.At.UTC(), TookSeconds: a.Took.Seconds(), Status: a.Status,
			Error: a.Error, Upstream: a.Upstream, Gateway: a.Gateway,
		})
	}
	return shown
}

func show(in inbox, m *spool.Message) Message {
	return Message{
		ID:            m.ID,
		State:         m.State,
		Path:          in.path,
		Route:         m.Route,
		Method:        m.Method,
		URI:           redactQuery(m.URI),
		ContentType:   m.Header.Get("Content-Type"),
		Size:          m.Size,
		RequestID:     m.RequestID,
		User:          m.User,
		ReceivedAt:    m.ReceivedAt.UTC(),
		Attempts:      m.Tries,
		NextAttemptAt: timeOrNull(m.NextAttemptAt),
		DiedAt:        timeOrNull(m.DiedAt),
		DeliveredAt:   timeOrNull(m.DeliveredAt),
		Replayed:      m.Replayed,
		LastError:     m.LastError,
	}
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// A Ref names one message.
type Ref struct {
	// ID of the message, as text.
	ID string

	// Path of its inbox; empty: any that is open.
	Path string
}

// in returns the inboxes that a message may be in, and its id.
func (g *Gateway) in(ref Ref) ([]inbox, spool.ID, error) {
	open, err := g.inboxes(ref.Path)
	if err != nil {
		return nil, spool.ID{}, err
	}
	id, err := spool.ParseID(ref.ID)
	if err != nil {
		return nil, spool.ID{}, fmt.Errorf("%w: %q", spool.ErrNotFound, ref.ID)
	}
	return open, id, nil
}

// find returns a message and its inbox.
func (g *Gateway) find(ctx context.Context, ref Ref) (inbox, *spool.Message, error) {
	open, id, err := g.in(ref)
	if err != nil {
		return inbox{}, nil, err
	}
	missing := fmt.Errorf("%w: %q", spool.ErrNotFound, ref.ID)
	for _, in := range open {
		m, err := in.Get(ctx, id)
		if err == nil {
			return in, m, nil
		}
		if !errors.Is(err, spool.ErrNotFound) {
			missing = fmt.Errorf("spool %s: %w", in.path, err)
		}
	}
	return inbox{}, nil, missing
}

// Message returns one message, with its history.
func (g *Gateway) Message(ctx context.Context, ref Ref) (Details, error) {
	in, m, err := g.find(ctx, ref)
	if err != nil {
		return Details{}, err
	}
	return Details{
		Message: show(in, m),
		Host:    deliver.Host(m),
		Header:  redactHeader(m.Header),
		History: showAttempts(m.Attempts),
	}, nil
}

// Body is the body of a message, to be read and closed.
type Body struct {
	spool.Body
	ID spool.ID
}

// Body opens the body of a message, once it was read through: whether it is damaged is
// known only at its end.
func (g *Gateway) Body(ctx context.Context, ref Ref) (Body, error) {
	in, m, err := g.find(ctx, ref)
	if err != nil {
		return Body{}, err
	}
	body, err := in.Body(ctx, m.ID)
	if err != nil {
		return Body{}, fmt.Errorf("body of %s: %w", m.ID, err)
	}
	if err := readThrough(body); err != nil {
		_ = body.Close() // it was only read
		return Body{}, fmt.Errorf("body of %s: %w", m.ID, err)
	}
	return Body{body, m.ID}, nil
}

func readThrough(body spool.Body) error {
	if _, err := io.Copy(io.Discard, body); err != nil {
		return err
	}
	_, err := body.Seek(0, io.SeekStart)
	return err
}

// Replay makes a message due now, with a fresh schedule and the same id.
func (g *Gateway) Replay(ctx context.Context, ref Ref) (Replayed, error) {
	in, m, err := g.find(ctx, ref)
	if err != nil {
		return Replayed{}, err
	}
	if err := in.Replay(ctx, m.ID); err != nil {
		return Replayed{}, fmt.Errorf("replay %s: %w", m.ID, err)
	}
	done := Replayed{Replayed: 1}
	if g.process.Revoked(in.path, m.Route, m.User) {
		done.RevokedUsers = []string{m.User}
	}
	return done, nil
}

// Drop forgets a message, which does not have to be readable. It reports later for one
// that is being delivered and is forgotten when that has ended.
func (g *Gateway) Drop(ctx context.Context, ref Ref) (later bool, err error) {
	open, id, err := g.in(ref)
	if err != nil {
		return false, err
	}
	failed := fmt.Errorf("%w: %q", spool.ErrNotFound, ref.ID)
	for _, in := range open {
		_, err := in.Drop(ctx, id)
		switch {
		case err == nil:
			return false, nil
		case errors.Is(err, spool.ErrInFlight):
			return true, nil
		case !errors.Is(err, spool.ErrNotFound):
			failed = fmt.Errorf("spool %s: drop %s: %w", in.path, id, err)
		}
	}
	return false, failed
}
