package simulator

// GET /v1/listen: a live stream. A speaker sends audio by WebSocket. The results go
// back to the speaker or, with a callback, to the callback server alone. One
// incoming stream has one outgoing WebSocket, and when either ends, so does the
// other (https://developers.deepgram.com/docs/callback#streaming-audio).

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/zap"

	"github.com/caddy-deepgram/deepgram-callback/simulator/audio"
)

const (
	// streamIdleTimeout is how long the vendor waits for audio or a KeepAlive
	// before it closes a stream with NET-0001
	// (https://developers.deepgram.com/docs/audio-keep-alive).
	streamIdleTimeout = 10 * time.Second

	// closeTimeout is how long the other side may take to answer a Close frame.
	closeTimeout = 2 * time.Second

	// maxControl is how many bytes a control message of the speaker may have.
	maxControl = 64 << 10
)

func (s *Simulator) serveLive(w http.ResponseWriter, r *http.Request, c *call) error {
	if !websocket.IsWebSocketUpgrade(r) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		return c.refuse(w, refusal(http.StatusUpgradeRequired,
			"GET /v1/listen is for WebSockets; send audio files by POST"))
	}
	o, err := parseOptions(c.query, defaultModel)
	if err != nil {
		return c.refuse(w, err)
	}
	meter, err := newMeter(c.query)
	if err != nil {
		return c.refuse(w, err)
	}
	var target *callbackURL
	if raw := c.query.Get("callback"); raw != "" {
		if target, err = s.urls.parse(raw, streamSchemes); err != nil {
			return c.refuse(w, err)
		}
	}

	if !s.outbox.enter(pendingOverhead) {
		return c.refuse(w, errTooManyPending)
	}
	defer s.outbox.leave(pendingOverhead)
	// The request's context ends with the server of its configuration. That of the
	// outbox ends with the last simulator.
	ctx, cancel := context.WithCancelCause(s.outbox.ctx)
	defer cancel(nil)

	l := &live{
		meter:      meter,
		script:     s.newScript(c, o, meter.Channels()),
		idle:       s.idle,
		dropAfter:  s.Faults.DropAfter,
		neverClose: s.Faults.NeverClose,
		inputs:     make(chan input),
		over:       make(chan struct{}),
		logger:     s.sender.logger.Load().With(zap.String("request_id", c.requestID)),
	}
	if err := l.connect(ctx, s, c, target); err != nil {
		return c.refuse(w, err)
	}
	upgrader := websocket.Upgrader{
		// A page of any origin may open a stream, as with the vendor: the key decides.
		CheckOrigin: func(*http.Request) bool { return true },
		// Browsers send the key as a subprotocol, and expect one of theirs in the answer.
		Subprotocols: []string{"token", "bearer"},
		Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
			w.Header().Set("Sec-WebSocket-Version", "13") // RFC 6455, section 4.4
			_ = c.refuse(w, refusal(status, "%v", reason))
		},
	}
	conn, err := upgrader.Upgrade(hijacker{w}, r, http.Header{"Dg-Request-Id": {c.requestID}})
	if err != nil {
		// The upgrader has answered, as far as it could.
		if l.callback != nil {
			l.callback.close(websocket.CloseGoingAway, "")
		}
		return nil
	}
	l.run(ctx, newSocket(conn, s.sender.limit))
	return nil
}

// hijacker is an http.Hijacker, as gorilla's upgrader needs one. Caddy's response
// writers are none themselves, and only unwrap to one.
type hijacker struct{ http.ResponseWriter }

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(h.ResponseWriter).Hijack()
}

func (s *Simulator) newScript(c *call, o options, channels int) script {
	if len(s.bodies.stream) > 0 {
		return newRecordedScript(c.requestID, o, s.bodies.stream)
	}
	return newStoryScript(c.requestID, o, channels, s.bodies.text)
}

// live is one stream.
type live struct {
	script     script
	idle       time.Duration
	dropAfter  int
	neverClose bool
	logger     *zap.Logger

	meterMu sync.Mutex
	meter   *audio.Meter

	speaker  *socket
	callback *socket // nil unless the callback is a WebSocket
	// send delivers a message to where the results go. Its errors are endings.
	send func(ctx context.Context, body []byte) error

	inputs chan input
	over   chan struct{} // closed when nobody reads inputs any more

	messages, results int
}

// ending is how a stream ends: with these close codes for its two sides, of which zero is
// for a side that is gone already.
type ending struct {
	reason   string
	speaker  int
	callback int
}

func (e *ending) Error() string { return e.reason }

var (
	endComplete    = &ending{"complete", websocket.CloseNormalClosure, websocket.CloseNormalClosure}
	endSpeakerGone = &ending{"the speaker is gone", 0, websocket.CloseNormalClosure}
	endInvalid     = &ending{"DATA-0000: a text message that is no control message",
		websocket.ClosePolicyViolation, websocket.CloseNormalClosure}
	endIdle = &ending{"NET-0001: no audio and no KeepAlive within the timeout",
		websocket.CloseInternalServerErr, websocket.CloseNormalClosure}
	endCallbackLost = &ending{"the callback connection was lost", websocket.CloseInternalServerErr, 0}
	endShutdown     = &ending{"the simulator shuts down", websocket.CloseGoingAway,
		websocket.CloseGoingAway}
	endFault = &ending{"dropped after the configured number of results", 0, 0}
)

// input is what the speaker said.
type input struct {
	seconds  float64 // the duration of the audio so far
	finalize bool
	end      *ending // nil if there can be more
}

// connect sets up where the results go. It does so before the speaker's handshake is
// answered, so that the speaker is told of a callback server that is dead.
func (l *live) connect(ctx context.Context, s *Simulator, c *call, target *callbackURL) error {
	cb := callback{kind: "stream", contentType: "application/json"}
	switch {
	case target == nil:
		l.send = func(_ context.Context, body []byte) error {
			if l.speaker.write(body) != nil {
				return endSpeakerGone
			}
			return nil
		}
	case target.webSocket():
		s.address(&cb, c, reply{target: target, method: http.MethodGet})
		socket, err := s.dialCallback(ctx, &cb)
		if err != nil {
			s.sender.logger.Load().Error("callback connection failed",
				append(cb.fields(), zap.Error(err))...)
			return refusal(http.StatusBadGateway, "The callback server could not be connected to.")
		}
		l.callback = socket
		l.send = func(_ context.Context, body []byte) error {
			if socket.write(body) != nil {
				return endCallbackLost
			}
			return nil
		}
	default:
		s.address(&cb, c, reply{target: target, method: http.MethodPost})
		l.send = func(ctx context.Context, body []byte) error {
			next := cb
			next.body = body
			// A failed attempt is logged, and does not end the stream.
			_ = s.sender.once(ctx, &next)
			if ctx.Err() != nil {
				return endShutdown
			}
			return nil
		}
	}
	return nil
}

func (s *Simulator) dialCallback(ctx context.Context, cb *callback) (*socket, error) {
	conn, resp, err := s.sockets.DialContext(ctx, cb.target.url.String(), cb.target.header(cb.keyID))
	if err != nil {
		if resp != nil {
			return nil, fmt.Errorf("handshake answered %d", resp.StatusCode)
		}
		return nil, withoutURL(err)
	}
	callback := newSocket(conn, s.sender.limit)
	go func() {
		defer close(callback.ended)
		callback.discard()
	}()
	return callback, nil
}

// run carries the stream to its end.
func (l *live) run(ctx context.Context, speaker *socket) {
	l.speaker = speaker
	start := time.Now()
	l.logger.Info("stream began")
	go l.listen()

	end := l.talk(ctx)
	close(l.over)
	l.hangUp(ctx, end)
	l.logger.Info("stream ended", zap.String("reason", end.reason), zap.Int("messages", l.messages),
		zap.Float64("audio_seconds", l.heard().Seconds), zap.Duration("duration", time.Since(start)))
}

// talk turns what the speaker says into messages until the stream ends, and returns how
// it has ended.
func (l *live) talk(ctx context.Context) *ending {
	var callbackEnded <-chan struct{}
	if l.callback != nil {
		callbackEnded = l.callback.ended
	}
	idle := time.NewTimer(l.idle)
	defer idle.Stop()
	for {
		var in input
		select {
		case <-ctx.Done():
			return endShutdown
		case <-callbackEnded:
			return endCallbackLost
		case <-idle.C:
			in.end = endIdle
		case in = <-l.inputs:
		}
		if err := l.respond(ctx, in); err != nil {
			return asEnding(err)
		}
		if in.end != nil {
			return in.end
		}
		idle.Reset(l.idle)
	}
}

// respond sends the messages that are due after an input. At the end, of whatever kind,
// these are all that are left.
func (l *live) respond(ctx context.Context, in input) error {
	emit := func(m message) error {
		if err := l.send(ctx, m.body); err != nil {
			return err
		}
		l.messages++
		if m.results {
			l.results++
		}
		if l.dropAfter > 0 && l.results == l.dropAfter {
			return endFault
		}
		return nil
	}
	if in.end != nil {
		heard := l.heard()
		if err := l.script.advance(heard.Seconds, emit); err != nil {
			return err
		}
		return l.script.finish(heard, emit)
	}
	if err := l.script.advance(in.seconds, emit); err != nil || !in.finalize {
		return err
	}
	return l.script.finalize(in.seconds, emit)
}

func asEnding(err error) *ending {
	var end *ending
	if errors.As(err, &end) {
		return end
	}
	return &ending{err.Error(), websocket.CloseInternalServerErr, websocket.CloseInternalServerErr}
}

// hangUp closes both sides at the same time, so that neither has to wait while the other
// is slow to close.
func (l *live) hangUp(ctx context.Context, end *ending) {
	var callback sync.WaitGroup
	if l.callback != nil {
		callback.Go(func() { l.hangUpCallback(ctx, end) })
	}
	l.speaker.close(end.speaker, end.reason)
	callback.Wait()
}

func (l *live) hangUpCallback(ctx context.Context, end *ending) {
	if l.neverClose && end.callback == websocket.CloseNormalClosure {
		select {
		case <-l.callback.ended:
		case <-ctx.Done():
			end = endShutdown
		}
	}
	l.callback.close(end.callback, "")
}

// listen reads what the speaker sends, until the connection ends.
func (l *live) listen() {
	defer close(l.speaker.ended)
	buffer := make([]byte, 32<<10)
	for {
		kind, r, err := l.speaker.conn.NextReader()
		if err != nil {
			l.push(input{end: endSpeakerGone})
			return
		}
		in := input{}
		if kind == websocket.BinaryMessage {
			in, err = l.hear(r, buffer)
		} else {
			in, err = l.control(r)
		}
		if err != nil {
			in.end = endSpeakerGone
		}
		if !l.push(in) || in.end != nil {
			// The speaker's answer to our Close frame is still to come.
			l.speaker.discard()
			return
		}
	}
}

// push hands an input to talk. It returns false when that takes no more.
func (l *live) push(in input) bool {
	select {
	case l.inputs <- in:
		return true
	case <-l.over:
		return false
	}
}

// hear measures a message of audio. A large one is handed on in pieces, so that results
// come while it is read, and the time limit for more audio begins anew.
func (l *live) hear(r io.Reader, buffer []byte) (input, error) {
	empty := true
	for {
		n, err := r.Read(buffer)
		l.meterMu.Lock()
		_, _ = l.meter.Write(buffer[:n])
		in := input{seconds: l.meter.Seconds()}
		l.meterMu.Unlock()
		empty = empty && n == 0
		switch {
		case err == io.EOF && empty:
			// An empty message closed a stream before there was CloseStream, and still does
			// (changelog of 2022-10-17).
			return input{end: endComplete}, nil
		case err == io.EOF:
			return in, nil
		case err != nil:
			return in, err
		case !l.push(in):
			return in, nil
		}
	}
}

// control reads a control message.
func (l *live) control(r io.Reader) (input, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxControl))
	if err != nil {
		return input{}, err
	}
	var control struct {
		Type string `json:"type"`
	}
	// A message that is not JSON has no type.
	_ = json.Unmarshal(body, &control)
	l.meterMu.Lock()
	in := input{seconds: l.meter.Seconds()}
	l.meterMu.Unlock()
	switch control.Type {
	case "KeepAlive":
	case "Finalize":
		in.finalize = true
	case "CloseStream":
		in.end = endComplete
	default:
		in.end = endInvalid
	}
	return in, nil
}

// heard returns the measures of all audio that has come.
func (l *live) heard() audio.Heard {
	l.meterMu.Lock()
	defer l.meterMu.Unlock()
	return l.meter.Finish()
}

// socket is one side of a stream.
type socket struct {
	conn  *websocket.Conn
	limit func(size int) time.Duration // how long sending so many bytes may take
	ended chan struct{}                // closed by whoever reads conn, when nothing more comes
}

func newSocket(conn *websocket.Conn, limit func(size int) time.Duration) *socket {
	return &socket{conn: conn, limit: limit, ended: make(chan struct{})}
}

// write sends a text message.
func (s *socket) write(body []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.limit(len(body)))); err != nil {
		return err
	}
	return s.conn.WriteMessage(websocket.TextMessage, body)
}

// discard reads until the other side is gone.
func (s *socket) discard() {
	for {
		if _, _, err := s.conn.NextReader(); err != nil {
			return
		}
	}
}

// close sends a Close frame, waits for its answer for closeTimeout, and closes the
// connection. With the code zero it closes the connection at once. It blocks until nobody
// reads from the connection any more.
func (s *socket) close(code int, reason string) {
	if code != 0 {
		frame := websocket.FormatCloseMessage(code, reason)
		if s.conn.WriteControl(websocket.CloseMessage, frame, time.Now().Add(closeTimeout)) == nil {
			select {
			case <-s.ended:
			case <-time.After(closeTimeout):
			}
		}
	}
	_ = s.conn.Close()
	<-s.ended
}
