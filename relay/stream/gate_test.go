package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
)

// password admits the message that says so, and refuses "wrong".
func password(message []byte) (bool, error) {
	if string(message) == "wrong" {
		return false, errors.New("wrong credentials")
	}
	return string(message) == "open sesame", nil
}

func TestGateHoldsEverythingBackUntilAMessageIsAdmitted(t *testing.T) {
	for wireName, w := range wires {
		t.Run(wireName, func(t *testing.T) {
			b := start(t, setup{caller: w.caller, backend: w.backend, admit: password})
			b.backend.send(text("welcome"))
			early := wireBytes([]frame{text("one"), {opcode: 1, payload: []byte("two")},
				{fin: true, payload: []byte(" halves")}}, testKey)
			b.caller.sendRaw(early)
			// A ping behind the messages is answered: so the gate has seen them.
			b.caller.send(frame{fin: true, opcode: 9, payload: []byte("seen?")})
			b.caller.wants(frame{fin: true, opcode: 10, payload: []byte("seen?")})
			require.Zero(t, b.pair.FromCaller())
			require.Zero(t, b.pair.FromBackend())

			admitted := wireBytes([]frame{text("open sesame"), text("behind it")}, testKey)
			b.caller.sendRaw(admitted)
			b.backend.wantsBytes(append(early, admitted...))
			b.caller.wants(text("welcome"))

			b.caller.send(text("wrong")) // is only a message now
			b.backend.wants(text("wrong"))
			b.backend.send(text("fine"))
			b.caller.wants(text("fine"))
			b.caller.send(closing(1000, "bye"))
			require.Equal(t, "bye", b.backend.wantsClose(1000))
			b.backend.send(closing(1000, ""))
			b.caller.wantsClose(1000)
			require.EqualValues(t, 5, b.pair.FromCaller().Messages)
			require.EqualValues(t, 2, b.pair.FromBackend().Messages)
		})
	}
}

func TestGateAdmitsAFragmentedMessageWithAPingBetween(t *testing.T) {
	b := start(t, setup{admit: password})
	first := frame{opcode: 1, payload: []byte("open ")}
	ping := frame{fin: true, opcode: 9}
	last := frame{fin: true, payload: []byte("sesame")}
	b.caller.send(first, ping)
	b.caller.wants(frame{fin: true, opcode: 10, payload: []byte{}})
	b.caller.send(last, text("more"))
	b.backend.wants(first) // the ping was answered, and does not come late
	b.backend.wants(last)
	b.backend.wants(text("more"))
}

func TestGateAdmitsHoweverTheBytesAreCut(t *testing.T) {
	frames := []frame{text("one"), {fin: true, opcode: 10}, {opcode: 1, payload: []byte("open ")},
		{fin: true, opcode: 9}, {fin: true, payload: []byte("sesame")}, text("more")}
	raw := wireBytes(frames, testKey)
	want := wireBytes([]frame{frames[0], frames[2], frames[4], frames[5]}, testKey)
	for cut := range len(raw) {
		b := start(t, setup{caller: pipeWire, backend: pipeWire, admit: password})
		go func() {
			if cut > 0 {
				b.caller.sendRaw(raw[:cut])
			}
			b.caller.sendRaw(raw[cut:])
		}()
		b.caller.wants(frame{fin: true, opcode: 10, payload: []byte{}})
		b.backend.wantsBytes(want)
		b.caller.close()
		b.backend.close()
	}
}

func TestGateAnswersThePingsOfTheBackend(t *testing.T) {
	b := start(t, setup{admit: password})
	b.backend.send(frame{fin: true, opcode: 10},
		frame{fin: true, opcode: 9, payload: []byte("anybody?")})
	b.backend.wants(frame{fin: true, opcode: 10, payload: []byte("anybody?")})
	b.caller.send(text("open sesame"))
	b.backend.wants(text("open sesame"))
	ping := frame{fin: true, opcode: 9, payload: []byte("and now?")}
	b.backend.send(ping)
	b.caller.wants(ping)
}

func TestGateRefuses(t *testing.T) {
	cases := map[string]struct {
		send   func(*peer)
		code   CloseCode
		text   string
		reason string
	}{
		"wrong credentials": {func(p *peer) { p.send(text("one"), text("wrong")) }, 1008,
			"wrong credentials", EndRefused},
		"a frame that is too long": {func(p *peer) {
			p.sendRaw([]byte{0x81, 0xFF, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0})
		}, 1008, "65536 bytes", EndRefused},
		"a message that is too long": {func(p *peer) {
			p.send(frame{opcode: 1, payload: make([]byte, 60000)}, frame{payload: make([]byte, 6000)})
		}, 1008, "65536 bytes", EndRefused},
		"too many messages": {func(p *peer) {
			p.sendRaw(bytes.Repeat(text(strings.Repeat("x", 1000)).encode(testKey), 70))
		}, 1008, "65536 bytes", EndRefused},
		"too many empty messages": {func(p *peer) {
			p.sendRaw(bytes.Repeat(text("").encode(testKey), 11000))
		}, 1008, "65536 bytes", EndRefused},
		"a violation": {func(p *peer) { p.send(frame{fin: true, rsv: 1, opcode: 1}) },
			1002, "reserved bits", EndViolation},
		"binary": {func(p *peer) { p.send(frame{fin: true, opcode: 2}) }, 1003, "binary", EndViolation},
		"a Close with a code of 1005": {func(p *peer) { p.send(closing(1005, "")) }, 1002, "1005",
			EndViolation},
	}
	for wireName, w := range wires {
		for name, c := range cases {
			t.Run(wireName+"/"+name, func(t *testing.T) {
				t.Parallel()
				b := start(t, setup{caller: w.caller, backend: w.backend, admit: password})
				go c.send(b.caller)
				require.Contains(t, b.backend.wantsClose(1011), c.text)
				require.Contains(t, b.caller.wantsClose(c.code), c.text)
				b.caller.wantsEnd()
				b.caller.close()
				b.backend.close()
				end := b.wantsEnded(ByCaller, c.reason)
				require.Equal(t, CloseInternalError, end.Code)
				require.Zero(t, b.pair.FromCaller())
			})
		}
	}
}

// Where max_message is so large that nothing reaches it, the longest frames that
// the protocol allows get as far as the gate.
func TestGateRefusesTheLongestFrames(t *testing.T) {
	options := generous
	options.MaxMessage = 1<<63 - 1
	for _, length := range []uint64{1<<63 - 1, 1<<63 - 14, 1<<63 - 15, 1<<63 - 1024, 1 << 62, 1 << 32,
		1<<31 - 1} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			b := start(t, setup{options: options, admit: password})
			b.caller.send(text("one"))
			b.caller.sendRaw(append(binary.BigEndian.AppendUint64([]byte{0x81, 0xFF}, length), testKey...))
			f, err := b.caller.next()
			require.NoError(t, err)
			require.EqualValues(t, 8, f.opcode)
			b.backend.wantsClose(1011)
		})
	}
}

func TestGateAdmitsUpToItsLimit(t *testing.T) {
	b := start(t, setup{admit: func(m []byte) (bool, error) { return len(m) == 60000, nil }})
	message := frame{fin: true, opcode: 1, payload: bytes.Repeat([]byte("x"), 60000)}
	b.caller.send(text("small"), message, text("more"))
	b.backend.wants(text("small"))
	b.backend.wants(message)
	b.backend.wants(text("more"))
}

func TestGateClosesInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, setup{caller: pipeWire, backend: pipeWire, admit: password})
		began := time.Now()
		b.caller.send(text("not yet"))
		_ = b.backend.conn.SetReadDeadline(time.Time{})
		f, err := readFrame(b.backend.in, true)
		require.NoError(t, err)
		require.Equal(t, closing(1011, "caller: no right credentials in time"), f)
		require.Equal(t, admitWithin, time.Since(began))
		require.Contains(t, b.caller.wantsClose(1008), "in time")
		b.caller.close()
		b.backend.close()
		b.wantsEnded(ByCaller, EndRefused)
	})
}

func TestAdmittedCallerHasNoMoreTimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, setup{caller: pipeWire, backend: pipeWire, admit: password})
		b.caller.send(text("open sesame"))
		b.backend.wants(text("open sesame"))
		time.Sleep(2 * admitWithin)
		go b.caller.send(text("still here"))
		b.backend.wants(text("still here"))
	})
}

// A pair ends in the same ways while a gate is closed. But what a caller says in its Close frame
// does not reach the backend before it is admitted, nor the backend's words the caller.
func TestEndsAtTheGate(t *testing.T) {
	for wireName, w := range wires {
		t.Run(wireName+"/caller closes", func(t *testing.T) {
			b := start(t, setup{caller: w.caller, backend: w.backend, admit: password})
			b.backend.send(text("not for strangers"))
			b.caller.send(text("secretly"), closing(1000, "psst"))
			require.NotContains(t, b.backend.wantsClose(1001), "psst")
			b.backend.send(closing(1001, ""))
			b.caller.wantsClose(1001)
			b.caller.wantsEnd()
			b.caller.close()
			b.backend.wantsEnd()
			b.backend.close()
			end := b.wantsEnded(ByCaller, EndClosed)
			require.Equal(t, "psst", end.Text)
			require.Zero(t, b.pair.FromBackend())
		})
		t.Run(wireName+"/caller drops", func(t *testing.T) {
			b := start(t, setup{caller: w.caller, backend: w.backend, admit: password})
			b.caller.send(text("secretly"))
			b.caller.close()
			b.backend.wantsClose(1001)
			b.backend.close()
			b.wantsEnded(ByCaller, EndDropped)
		})
		t.Run(wireName+"/backend closes", func(t *testing.T) {
			b := start(t, setup{caller: w.caller, backend: w.backend, admit: password})
			b.backend.send(closing(1013, "busy"))
			require.Equal(t, "busy", b.caller.wantsClose(1013))
			b.caller.close()
			b.backend.close()
			b.wantsEnded(ByBackend, EndClosed)
		})
		t.Run(wireName+"/backend drops", func(t *testing.T) {
			b := start(t, setup{caller: w.caller, backend: w.backend, admit: password})
			b.backend.close()
			b.caller.wantsClose(1001)
			b.caller.close()
			b.wantsEnded(ByBackend, EndDropped)
		})
		t.Run(wireName+"/backend speaks and drops", func(t *testing.T) {
			b := start(t, setup{caller: w.caller, backend: w.backend, admit: password})
			b.backend.send(text("not for strangers"))
			b.backend.close()
			require.Equal(t, "backend gone", b.caller.wantsClose(1001))
			b.caller.close()
			b.wantsEnded(ByBackend, EndDropped)
			require.Zero(t, b.pair.FromBackend())
		})
		t.Run(wireName+"/shutdown", func(t *testing.T) {
			b := start(t, setup{caller: w.caller, backend: w.backend, admit: password})
			b.backend.send(text("not for strangers"))
			b.caller.send(text("secretly"))
			b.pair.Shutdown(1001, "maintenance", time.Minute)
			b.caller.wantsClose(1001)
			b.caller.send(closing(1001, ""))
			b.backend.wantsClose(1001)
			b.backend.send(closing(1001, ""))
			b.caller.wantsEnd()
			b.caller.close()
			b.backend.wantsEnd()
			b.backend.close()
			b.wantsEnded(ByGateway, EndShutdown)
		})
	}
}

// The first messages of a backend wait at the gate, however many they are, and
// then come in order.
func TestGateHoldsBackAllThatTheBackendSays(t *testing.T) {
	for wireName, w := range wires {
		t.Run(wireName, func(t *testing.T) {
			b := start(t, setup{caller: w.caller, backend: w.backend, admit: password})
			raw := bytes.Repeat(text(strings.Repeat("x", 1000)).encode(nil), 100)
			go b.backend.sendRaw(raw)
			b.caller.send(text("open sesame"))
			b.backend.wants(text("open sesame"))
			b.caller.wantsBytes(raw)
		})
	}
}

// A live pair must not keep the function that admitted it in memory, nor the
// configuration behind that function.
func TestGateIsForgottenOnceItIsOpen(t *testing.T) {
	type configuration struct{ secret [1 << 10]byte }
	var gone weak.Pointer[configuration]
	judge := func() Admit {
		config := &configuration{}
		gone = weak.Make(config)
		return func(m []byte) (bool, error) { return len(m) > int(config.secret[0]), nil }
	}
	b := start(t, setup{admit: judge()})
	b.caller.send(text("hello"))
	b.backend.wants(text("hello"))
	require.Eventually(t, func() bool { runtime.GC(); return gone.Value() == nil },
		patience, time.Millisecond)
	runtime.KeepAlive(b)
}

func TestAdmitSeesTheMessageUnmaskedAndWhole(t *testing.T) {
	seen := make(chan string, 3)
	count := 0
	b := start(t, setup{
		admit: func(m []byte) (bool, error) { seen <- string(m); count++; return count == 3, nil },
	})
	b.caller.send(text("one"), frame{opcode: 1, payload: []byte("tw")}, frame{payload: nil},
		frame{fin: true, payload: []byte("o")}, text(""))
	for _, want := range []string{"one", "two", ""} {
		require.Equal(t, want, <-seen)
	}
	for range 5 {
		_, err := b.backend.next()
		require.NoError(t, err)
	}
	b.caller.send(closing(1000, ""))
	b.backend.wantsClose(1000)
	require.Equal(t, Traffic{Messages: 3, Bytes: 6}, b.pair.FromCaller(),
		"counted as if they came only now")
}
