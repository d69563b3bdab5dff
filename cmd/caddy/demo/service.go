// Package demo is the module http.handlers.demo_service, the service behind the
// gateway in the demo, which prints what it receives. Only cmd/caddy imports it, so
// it is in no production build.
//
//	service.go   taking callbacks and streams
//	describe.go  what is printed of them
//	feed.go      the app demo_feed, which has some sent
package demo

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/gorilla/websocket"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// directive is the name of the directive.
const directive = "demo_service"

const (
	// keep is how many entries GET shows.
	keep = 20

	// readLimit is how much of a body is kept to find its transcript; the
	// rest is only counted.
	readLimit = 8 << 20

	// greeting is what a stream's backend says first.
	greeting = "hello, this is the demo's WebSocket backend"
)

// Service prints the callbacks and the WebSocket messages that it receives, and
// answers GET with the latest of them. DELETE drops its streams, as a backend does
// that crashes. Callbacks below /flaky are answered 503 in the last quarter of each
// minute. It prints some header fields, none of which holds a credential, and no
// queries, since they may hold one.
type Service struct {
	// Print nothing. GET shows the latest all the same.
	Quiet bool `json:"quiet,omitempty"`

	output io.Writer        // standard output; Caddy's own log goes to standard error
	now    func() time.Time // the time by which /flaky fails

	mu        sync.Mutex
	entries   []string
	callbacks int
	streams   int
	live      map[*websocket.Conn]struct{}
	counts    map[string]streamCount // of streams that come message by message, by their ids
}

// CaddyModule returns the Caddy module information.
func (*Service) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers." + directive,
		New: func() caddy.Module { return &Service{output: os.Stdout, now: time.Now} },
	}
}

// UnmarshalCaddyfile sets up the service from Caddyfile tokens: the name, and maybe `quiet`.
func (s *Service) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		s.Quiet = d.Val() == "quiet"
		if !s.Quiet {
			return d.Errf("%s takes quiet or nothing, not %s", directive, d.Val())
		}
	}
	if d.NextArg() || d.NextBlock(0) {
		return d.Errf("%s takes neither more arguments nor a block", directive)
	}
	return nil
}

// ServeHTTP takes a stream or a callback, answers what came so far, or drops the
// streams.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	switch {
	case websocket.IsWebSocketUpgrade(r):
		return s.stream(w, r)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return s.list(w)
	case r.Method == http.MethodDelete:
		return s.drop(w)
	default:
		return s.callback(w, r)
	}
}

// callback prints a callback and answers 200 with its number.
func (s *Service) callback(w http.ResponseWriter, r *http.Request) error {
	kept, err := io.ReadAll(io.LimitReader(r.Body, readLimit))
	if err != nil {
		return caddyhttp.Error(http.StatusBadRequest, fmt.Errorf("reading the callback: %w", err))
	}
	rest, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return caddyhttp.Error(http.StatusBadRequest, fmt.Errorf("reading the callback: %w", err))
	}

	if strings.HasPrefix(r.URL.Path, flaky+"/") && s.now().Second() >= 45 {
		s.print("refused " + r.Method + " " + r.URL.EscapedPath() + "\n")
		w.WriteHeader(http.StatusServiceUnavailable)
		return nil
	}

	s.mu.Lock()
	s.callbacks++
	number := s.callbacks
	s.mu.Unlock()

	s.print(describeCallback(fmt.Sprintf("callback %d", number), r, kept, int64(len(kept))+rest) +
		s.count(r.Header))
	_, err = fmt.Fprintf(w, "received callback %d\n", number)
	return err
}

// streamCount is how much came of a stream whose messages are callbacks.
type streamCount struct{ last, missing int }

// count takes note of a message of a stream, and describes the stream at its end.
func (s *Service) count(header http.Header) string {
	id, end := header.Get(spool.HeaderStreamID), header.Get(spool.HeaderStreamEnd)
	if id == "" {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts == nil {
		s.counts = make(map[string]streamCount)
	}
	c := s.counts[id]
	if sequence, err := strconv.Atoi(header.Get(spool.HeaderStreamSequence)); err == nil {
		c.missing += max(sequence-c.last-1, 0)
		c.last = max(sequence, c.last)
	}
	if end == "" {
		s.counts[id] = c
		return ""
	}
	delete(s.counts, id)
	return fmt.Sprintf("         the stream has ended (%s): %d deliveries, %d missing\n", end, c.last,
		c.missing)
}

// stream is the backend of one stream, from its greeting to its end.
func (s *Service) stream(w http.ResponseWriter, r *http.Request) error {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := upgrader.Upgrade(hijackable{w}, r, nil)
	if err != nil {
		return nil // the upgrader has answered
	}
	defer conn.Close()

	s.mu.Lock()
	s.streams++
	name := fmt.Sprintf("stream %d", s.streams)
	if s.live == nil {
		s.live = make(map[*websocket.Conn]struct{})
	}
	s.live[conn] = struct{}{}
	s.mu.Unlock()
	defer s.forget(conn)

	s.print(name + " opened on " + r.URL.EscapedPath() + "\n")
	if err := conn.WriteMessage(websocket.TextMessage, []byte(greeting)); err != nil {
		s.print(name + " ended: " + err.Error() + "\n")
		return nil
	}
	for {
		_, message, err := conn.ReadMessage()
		if err != nil {
			s.print(name + " ended: " + describeEnd(err) + "\n")
			return nil
		}
		s.print(name + " says " + describeMessage(message) + "\n")
	}
}

func (s *Service) forget(conn *websocket.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, conn)
}

// drop ends the connection of every stream without a Close frame.
func (s *Service) drop(w http.ResponseWriter) error {
	s.mu.Lock()
	dropped := len(s.live)
	for conn := range s.live {
		conn.NetConn().Close()
	}
	s.mu.Unlock()
	_, err := fmt.Fprintf(w, "dropped %d streams\n", dropped)
	return err
}

// list answers with what came so far, the latest last.
func (s *Service) list(w http.ResponseWriter) error {
	s.mu.Lock()
	entries := slices.Clone(s.entries)
	s.mu.Unlock()

	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if len(entries) == 0 {
		_, err := io.WriteString(w, "nothing received yet\n")
		return err
	}
	for _, entry := range entries {
		if _, err := io.WriteString(w, entry); err != nil {
			return err
		}
	}
	return nil
}

// print shows an entry and keeps it for list.
func (s *Service) print(entry string) {
	entry = time.Now().Format("15:04:05 ") + entry
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries = append(s.entries, entry)
	if over := len(s.entries) - keep; over > 0 {
		s.entries = slices.Delete(s.entries, 0, over)
	}
	if !s.Quiet {
		_, _ = io.WriteString(s.output, entry)
	}
}

// describeEnd describes how a stream has ended, by the error of reading from it.
func describeEnd(err error) string {
	var closed *websocket.CloseError
	if !errors.As(err, &closed) || closed.Code == websocket.CloseAbnormalClosure {
		return "no Close frame came (" + err.Error() + ")"
	}
	if closed.Text == "" {
		return fmt.Sprintf("close code %d", closed.Code)
	}
	return fmt.Sprintf("close code %d, %q", closed.Code, closed.Text)
}

// hijackable is an http.Hijacker, as gorilla's upgrader needs one. Caddy's response
// writers are none themselves, and only unwrap to one.
type hijackable struct{ http.ResponseWriter }

// Hijack implements [http.Hijacker].
func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(h.ResponseWriter).Hijack()
}

func init() {
	caddy.RegisterModule(new(Service))
	httpcaddyfile.RegisterHandlerDirective(directive,
		func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
			service := new(Service)
			return service, service.UnmarshalCaddyfile(h.Dispenser)
		})
	httpcaddyfile.RegisterDirectiveOrder(directive, httpcaddyfile.Before, "respond")
}

// Interface guards
var (
	_ caddyfile.Unmarshaler       = (*Service)(nil)
	_ caddyhttp.MiddlewareHandler = (*Service)(nil)
)
