package stream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// A testSink keeps the messages that it accepted.
type testSink struct {
	begin, accept func(ctx context.Context, n int) error // of the nth message; nil: takes it

	mu        sync.Mutex
	begun     int
	accepted  []string
	discarded int
}

type sinkMessage struct {
	sink   *testSink
	n      int
	binary bool
	bytes.Buffer
}

func (s *testSink) Begin(ctx context.Context, binary bool) (Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun++
	if s.begin != nil {
		if err := s.begin(ctx, s.begun); err != nil {
			return nil, err
		}
	}
	return &sinkMessage{sink: s, n: s.begun, binary: binary}, nil
}

func (m *sinkMessage) Accept(ctx context.Context) error {
	if m.sink.accept != nil {
		if err := m.sink.accept(ctx, m.n); err != nil {
			return err
		}
	}
	m.sink.mu.Lock()
	defer m.sink.mu.Unlock()
	text := m.String()
	if m.binary {
		text = "binary " + text
	}
	m.sink.accepted = append(m.sink.accepted, text)
	return nil
}

func (m *sinkMessage) Discard() {
	m.sink.mu.Lock()
	defer m.sink.mu.Unlock()
	m.sink.discarded++
}

func (s *testSink) got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.accepted...)
}

// startSink runs a pair with a sink in the place of its backend.
func startSink(t testing.TB, sink *testSink, caller wire, options Options) *bridge {
	t.Helper()
	conn, far := caller(t, true)
	b := &bridge{
		t:      t,
		caller: &peer{t: t, name: "caller", conn: far, in: bufio.NewReader(far), client: true},
		ended:  make(chan End, 2),
	}
	b.pair = Start(Endpoint{Conn: conn}, Into(sink, options.WriteTimeout), options,
		func(end End) { b.ended <- end })
	t.Cleanup(func() {
		b.caller.close()
		select {
		case <-b.pair.Done():
		case <-time.After(patience):
			t.Errorf("the pair did not end after its caller had")
		}
	})
	return b
}

func TestSinkTakesMessagesInOrder(t *testing.T) {
	options := generous
	options.AllowBinary = true
	for name, wire := range map[string]wire{"tcp": tcpWire, "tls": tlsWire, "pipe": pipeWire} {
		t.Run(name, func(t *testing.T) {
			sink := &testSink{}
			b := startSink(t, sink, wire, options)
			large := strings.Repeat("ü large €", 40_000)
			var want []string
			for i := range 200 {
				b.caller.send(text(fmt.Sprint("message ", i)))
				want = append(want, fmt.Sprint("message ", i))
			}
			b.caller.send(
				text(large),
				frame{fin: true, opcode: 2, payload: []byte("\xff\x00")},
				text(""),
				// A message in parts, with a ping in between; and a character that is cut.
				frame{opcode: 1, payload: []byte("a \xe2\x82")},
				frame{fin: true, opcode: 9, payload: []byte("still there?")},
				frame{opcode: 0},
				frame{fin: true, opcode: 0, payload: []byte("\xac")},
			)
			want = append(want, large, "binary \xff\x00", "", "a €")
			b.caller.wants(frame{fin: true, opcode: 10, payload: []byte("still there?")})
			b.caller.send(closing(1000, "done"))
			require.Equal(t, "done", b.caller.wantsClose(1000))
			if name != "pipe" { // which has no half to shut
				b.caller.wantsEnd()
			}
			b.caller.close()
			end := b.wantsEnded(ByCaller, EndClosed)
			require.EqualValues(t, 1000, end.Code)
			require.Equal(t, want, sink.got())
			require.EqualValues(t, len(want), b.pair.FromCaller().Messages)
			require.Zero(t, b.pair.FromBackend())
			require.Zero(t, sink.discarded)
		})
	}
}

func TestWhatASinkDoesNotTakeEndsThePairWith1013(t *testing.T) {
	errFull := errors.New("no room")
	fail := func(_ context.Context, n int) error {
		if n == 2 {
			return errFull
		}
		return nil
	}
	for name, sink := range map[string]*testSink{
		"at its beginning": {begin: fail}, "at its end": {accept: fail},
	} {
		t.Run(name, func(t *testing.T) {
			b := startSink(t, sink, tcpWire, generous)
			b.caller.send(text("one"), text("two"), text("three"))
			b.caller.wantsClose(CloseTryAgainLater)
			b.caller.send(closing(CloseTryAgainLater, ""))
			b.caller.close()
			end := b.wantsEnded(ByGateway, EndSpool)
			require.ErrorIs(t, end.Err, errFull)
			require.Equal(t, []string{"one"}, sink.got(), "nothing comes after what was not taken")
		})
	}
}

func TestASinkThatTakesTooLongEndsThePair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		options := generous
		options.WriteTimeout = 5 * time.Second
		sink := &testSink{accept: func(ctx context.Context, n int) error {
			select { // several messages of one write have the time for each
			case <-time.After(4 * time.Second * time.Duration(n/3+1)):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
		b := startSink(t, sink, pipeWire, options)
		began := time.Now()
		var all []byte
		for i := range 4 {
			all = append(all, text(fmt.Sprint(i)).encode(testKey)...)
		}
		b.caller.sendRaw(all)
		_ = b.caller.conn.SetReadDeadline(time.Now().Add(time.Minute))
		f, err := readFrame(b.caller.in, false)
		require.NoError(t, err)
		require.EqualValues(t, 8, f.opcode)
		require.Equal(t, 13*time.Second, time.Since(began))
		b.caller.close()
		require.ErrorIs(t, b.wantsEnded(ByGateway, EndSpool).Err, context.DeadlineExceeded)
		require.Equal(t, []string{"0", "1"}, sink.got())
	})
}

func TestSinkIsToldOfTextThatIsNotUTF8(t *testing.T) {
	for name, frames := range map[string][]frame{
		"in a frame":       {text("a\xffb")},
		"cut short":        {text("a\xe2\x82")},
		"over two frames":  {{opcode: 1, payload: []byte("\xe2")}, {fin: true, opcode: 0, payload: []byte("\x28\xa1")}},
		"in a large frame": {text(strings.Repeat("x", 100_000) + "\xc0")},
		"surrogate":        {text("\xed\xa0\x80")},
	} {
		t.Run(name, func(t *testing.T) {
			sink := &testSink{}
			b := startSink(t, sink, tcpWire, generous)
			b.caller.send(text("fine"))
			b.caller.send(frames...)
			b.caller.wantsClose(CloseInvalidPayload)
			b.caller.close()
			b.wantsEnded(ByCaller, EndViolation)
			require.Equal(t, []string{"fine"}, sink.got())
			require.Equal(t, 1, sink.discarded)
		})
	}
}

// Whatever way a caller ends in the middle of a message, the rest of it is not waited for.
func TestAMessageThatDoesNotComeWholeIsDiscarded(t *testing.T) {
	for name, end := range map[string]func(*bridge){
		"closed":   func(b *bridge) { b.caller.close() },
		"reset":    func(b *bridge) { b.caller.reset() },
		"Close":    func(b *bridge) { b.caller.send(closing(1000, "")); b.caller.wantsClose(1000) },
		"breach":   func(b *bridge) { b.caller.send(text("new")); b.caller.wantsClose(1002) },
		"shutdown": func(b *bridge) { b.pair.Shutdown(CloseGoingAway, "bye", 10*time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			sink := &testSink{}
			b := startSink(t, sink, tcpWire, generous)
			b.caller.send(text("whole"), frame{opcode: 1, payload: []byte("part")})
			require.Eventually(t, func() bool {
				sink.mu.Lock()
				defer sink.mu.Unlock()
				return sink.begun == 2
			}, patience, time.Millisecond)
			end(b)
			b.caller.close()
			<-b.ended
			<-b.pair.Done()
			require.Equal(t, []string{"whole"}, sink.got())
			require.Equal(t, 1, sink.discarded)
		})
	}
}

// What the caller sends before it answers the gateway's Close frame is taken.
func TestSinkAtShutdown(t *testing.T) {
	sink := &testSink{}
	b := startSink(t, sink, tcpWire, generous)
	b.caller.send(text("before"))
	b.pair.Shutdown(CloseGoingAway, "gateway shutting down", patience)
	b.caller.wantsClose(CloseGoingAway)
	b.caller.send(text("after"), closing(CloseGoingAway, ""))
	b.caller.wantsEnd()
	b.caller.close()
	b.wantsEnded(ByGateway, EndShutdown)
	require.Equal(t, []string{"before", "after"}, sink.got())
}

// A sink that hangs does not keep a pair from ending in time.
func TestASinkThatHangsIsNotWaitedForAtTheEnd(t *testing.T) {
	hanging := make(chan struct{})
	sink := &testSink{accept: func(ctx context.Context, _ int) error {
		close(hanging)
		<-ctx.Done()
		return ctx.Err()
	}}
	b := startSink(t, sink, tcpWire, generous)
	b.caller.send(text("a"))
	<-hanging
	b.pair.Shutdown(CloseGoingAway, "bye", 50*time.Millisecond)
	select {
	case <-b.pair.Done():
	case <-time.After(patience):
		require.Fail(t, "the pair waits for its sink")
	}
}

// The gateway pings its own end too, and hears itself.
func TestASinkIsNeverSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		options := generous
		options.PingInterval, options.PongTimeout = 20*time.Second, 10*time.Second
		sink := &testSink{}
		b := startSink(t, sink, pipeWire, options)
		go func() {
			for {
				f, err := readFrame(b.caller.in, false)
				if err != nil {
					return
				}
				b.caller.send(frame{fin: true, opcode: 10, payload: f.payload})
			}
		}()
		time.Sleep(time.Hour)
		require.Empty(t, b.ended)
		b.caller.send(text("after an hour"))
		synctest.Wait()
		require.Equal(t, []string{"after an hour"}, sink.got())
		b.caller.close()
		b.wantsEnded(ByCaller, EndDropped)
	})
}

func TestAMessageAtTheGateIsTakenOnceItIsLetIn(t *testing.T) {
	sink := &testSink{}
	conn, far := tcpWire(t, true)
	b := &bridge{
		t:      t,
		caller: &peer{t: t, name: "caller", conn: far, in: bufio.NewReader(far), client: true},
		ended:  make(chan End, 2),
	}
	admit := func(m []byte) (bool, error) { return string(m) == "secret", nil }
	b.pair = Start(Endpoint{Conn: conn, Admit: admit}, Into(sink, time.Minute), generous,
		func(end End) { b.ended <- end })
	b.caller.send(text("held"), frame{fin: true, opcode: 9, payload: []byte("p")})
	b.caller.wants(frame{fin: true, opcode: 10, payload: []byte("p")})
	require.Empty(t, sink.got())
	b.caller.send(text("secret"), text("more"), closing(1000, ""))
	b.caller.wantsClose(1000)
	b.caller.close()
	b.wantsEnded(ByCaller, EndClosed)
	require.Equal(t, []string{"held", "secret", "more"}, sink.got())
}

// FuzzTextCheck compares the check of a text in parts with that of all of it.
func FuzzTextCheck(f *testing.F) {
	f.Add([]byte("a€\xf0\x9f\x98\x80"), uint64(1))
	f.Add([]byte("\xe2\x82"), uint64(2))
	f.Add([]byte("\xed\xa0\x80"), uint64(3))
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		cuts := rand.New(rand.NewPCG(seed, 0))
		var check textCheck
		valid := true
		for rest := text; valid && len(rest) > 0; {
			n := 1 + cuts.IntN(len(rest))
			valid = check.add(rest[:n])
			rest = rest[n:]
		}
		require.Equal(t, utf8.Valid(text), valid && check.whole(), "%q", text)
	})
}
