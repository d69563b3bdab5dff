// What comes in: a body that streams by, and the message that it becomes.

package spool

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/identity"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/seal"
)

// Envelope is what comes with the body of a message to be accepted.
type Envelope struct {
	Route  string
	Method string

	// Host is the one that the sender called, User who it is as far as its credentials say.
	// Both keep the messages of one from being taken for another's.
	Host string
	User string

	// URI is path and query as they are to be delivered.
	URI string

	// Header is kept as it is; so credentials and hop-by-hop fields must have been removed.
	Header http.Header

	// ContentLength is the expected size of the body; negative if unknown.
	ContentLength int64

	// Stream is the id of the live stream that the message is a part of, empty where it is a callback
	// of its own. All messages of a stream are delivered in order, whatever OrderBy says, and
	// none is a duplicate.
	Stream string

	// EndOfStream has the message be the last one of its stream, of which there is only one: another
	// one is a duplicate.
	EndOfStream bool
}

// callback is what says who the message is, beside its body.
func (e Envelope) callback() identity.Callback {
	return identity.Callback{
		Route: e.Route, Method: e.Method, Host: e.Host, User: e.User, URI: e.URI,
		ContentType: strings.Join(e.Header["Content-Type"], "\n"), Stream: e.Stream,
	}
}

// Accept takes a message in. When it returns without an error the message is
// safe, and will be delivered; or it was so before, and the receipt says duplicate. A
// *RefusedError says that it cannot be kept at present. An error of reading
// the body is returned wrapped. Once the body was read, the end of ctx changes nothing any more:
// what is stored is not to be reported as refused, whatever becomes of its sender.
//
// Only what says who it is can be a duplicate: a message without a request id never is, however
// equal its bytes are to those of another. Two live streams have the same UtteranceEnd.
func (in *Inbox) Accept(ctx context.Context, envelope Envelope, body io.Reader) (Receipt, error) {
	m, err := in.Begin(ctx, envelope)
	if err != nil {
		return Receipt{}, err
	}
	if err := m.readAll(body); err != nil {
		m.Discard()
		return Receipt{}, err
	}
	return m.Accept(context.WithoutCancel(ctx))
}

// Incoming is a message whose body is coming in. It is used by one goroutine at a time, and ends
// with Accept or Discard.
type Incoming struct {
	in       *Inbox
	envelope Envelope
	config   RouteConfig
	writer   BodyWriter
	sealing  *sealer           // nil where the route encrypts nothing
	digest   hash.Hash         // nil for a message of a stream
	scanner  *identity.Scanner // for what the body says of itself
}

// Begin begins a message, whose body is written to what it returns. It fails with a *RefusedError
// where nothing can be kept at present.
func (in *Inbox) Begin(ctx context.Context, envelope Envelope) (*Incoming, error) {
	return in.begin(ctx, envelope, in.configOf(envelope.Route))
}

func (in *Inbox) begin(
	ctx context.Context, envelope Envelope, config RouteConfig,
) (*Incoming, error) {
	m := &Incoming{in: in, envelope: envelope, config: config, scanner: identity.NewScanner()}
	var err error
	if m.writer, err = in.store.NewBody(ctx, envelope.ContentLength); err != nil {
		return nil, in.told(envelope.Route, err)
	}
	if m.config.Encrypt != nil {
		if m.sealing, err = newSealer(m.config.Encrypt, m.writer); err != nil {
			m.Discard()
			return nil, in.told(envelope.Route, err)
		}
	}
	if envelope.Stream == "" {
		m.digest = envelope.callback().Fingerprint()
	}
	return m, nil
}

// Write takes the next part of the body.
func (m *Incoming) Write(part []byte) (int, error) {
	if m.digest != nil {
		m.digest.Write(part)
	}
	if !m.scanner.Done() {
		_, _ = m.scanner.Write(part)
	}
	var to io.Writer = m.writer
	if m.sealing != nil {
		to = m.sealing
	}
	n, err := to.Write(part)
	return n, m.in.told(m.envelope.Route, err)
}

// copyBuffers are for reading bodies.
var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// readAll reads the body once, for all who need it.
func (m *Incoming) readAll(body io.Reader) error {
	buffer := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buffer)
	for {
		n, err := body.Read(*buffer)
		if n > 0 {
			if _, err := m.Write((*buffer)[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("read body: %w", err)
		}
	}
}

// Discard forgets the message.
func (m *Incoming) Discard() { m.writer.Discard() }

// Accept makes the message safe. When the error is that of ctx, it may still come to be accepted.
func (m *Incoming) Accept(ctx context.Context) (Receipt, error) {
	msg := &Message{
		Route:       m.envelope.Route,
		Method:      m.envelope.Method,
		URI:         m.envelope.URI,
		Header:      m.envelope.Header,
		User:        m.envelope.User,
		RequestID:   m.scanner.RequestID(),
		OrderKey:    m.config.OrderBy.Key(m.envelope.callback(), m.scanner),
		Destination: destinationOf(m.envelope.Host, m.envelope.URI),
	}
	fingerprint, window := m.fingerprint(msg)
	if m.sealing != nil {
		if err := m.sealing.finish(msg); err != nil {
			m.Discard()
			return Receipt{}, m.in.told(msg.Route, err)
		}
	}
	receipt, err := m.in.store.Accept(ctx, msg, fingerprint, window, m.writer)
	if m.sealing != nil {
		receipt.Size = seal.PlainSize(receipt.Size)
	}
	if err != nil {
		return receipt, m.in.told(msg.Route, err)
	}
	tell := m.in.hooks
	switch {
	case receipt.Duplicate && tell.Duplicate != nil:
		tell.Duplicate(msg.Route)
	case !receipt.Duplicate && tell.Accepted != nil:
		tell.Accepted(msg.Route, receipt.Size)
	}
	return receipt, nil
}

// fingerprint is by what the message is a duplicate, and for how long; zero where it cannot be one.
func (m *Incoming) fingerprint(msg *Message) (f Fingerprint, window time.Duration) {
	window = m.config.DedupeWindow
	switch {
	case m.envelope.EndOfStream:
		return identity.EndOfStream(m.envelope.Stream), max(window, defaultDedupeWindow)
	case m.digest == nil || msg.RequestID == "" || window <= 0:
		return f, window
	}
	return m.config.Encrypt.Blind(Fingerprint(m.digest.Sum(nil))), window
}

// told tells of a refusal, if err is one, and returns err.
func (in *Inbox) told(route string, err error) error {
	var refused *RefusedError
	if errors.As(err, &refused) && in.hooks.Refused != nil {
		in.hooks.Refused(route, refused.Reason)
	}
	return err
}
