package stream

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestShutdownWhereBothAnswer(t *testing.T) {
	for wireName, w := range wires {
		t.Run(wireName, func(t *testing.T) {
			b := start(t, setup{caller: w.caller, backend: w.backend})
			b.pair.Shutdown(1001, "maintenance", time.Minute)
			require.Equal(t, "maintenance", b.caller.wantsClose(1001))
			b.caller.send(closing(1000, "as you wish"))
			require.Equal(t, "maintenance", b.backend.wantsClose(1001), "not the caller's answer")
			b.backend.send(closing(1001, ""))
			b.caller.wantsEnd()
			b.backend.wantsEnd()
			b.caller.close()
			b.backend.close()
			end := b.wantsEnded(ByGateway, EndShutdown)
			require.Equal(t, CloseGoingAway, end.Code)
			require.Equal(t, "maintenance", end.Text)
			require.NoError(t, end.Err)
		})
	}
}

func TestShutdownTellsTheBackendRightAfterTheCallersAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, setup{caller: pipeWire, backend: pipeWire})
		began := time.Now()
		b.pair.Shutdown(1001, "maintenance", time.Minute)
		b.caller.wantsClose(1001)
		b.caller.send(closing(1001, ""))
		b.backend.wantsClose(1001)
		b.backend.send(closing(1001, ""))
		b.wantsEnded(ByGateway, EndShutdown)
		require.Zero(t, time.Since(began))
	})
}

func TestShutdownWhereTheCallerDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const drain = 10 * time.Second
		b := start(t, setup{caller: pipeWire, backend: pipeWire})
		began := time.Now()
		b.pair.Shutdown(1001, "maintenance", drain)
		b.caller.wantsClose(1001)
		go func() { _, _ = io.Copy(io.Discard, b.caller.conn) }()

		_ = b.backend.conn.SetReadDeadline(time.Time{})
		require.Equal(t, "maintenance", b.backend.wantsClose(1001))
		require.Equal(t, settle, time.Since(began))
		b.backend.send(closing(1001, ""))
		b.wantsEnded(ByGateway, EndShutdown)
		require.Equal(t, drain, time.Since(began))
	})
}

func TestShutdownWhereNobodyEvenReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, drain := range []time.Duration{5 * time.Second, 100 * time.Millisecond, 0} {
			b := start(t, setup{caller: pipeWire, backend: pipeWire})
			began := time.Now()
			b.pair.Shutdown(1001, "maintenance", drain)
			require.Zero(t, time.Since(began), "it does not wait")
			b.wantsEnded(ByGateway, EndShutdown)
			require.Equal(t, drain, time.Since(began))
		}
	})
}

func TestShutdownStillDeliversWhatTheCallerSentBeforeItsAnswer(t *testing.T) {
	for wireName, w := range wires {
		t.Run(wireName, func(t *testing.T) {
			const count = 500
			b := start(t, setup{caller: w.caller, backend: w.backend})
			b.caller.send(text("message 0"))
			b.backend.wants(text("message 0"))
			go func() {
				for i := 1; i < count; i++ {
					b.caller.send(text(fmt.Sprint("message ", i)))
				}
				b.caller.wantsClose(1001)
				b.caller.send(closing(1001, ""))
			}()
			b.backend.wants(text("message 1"))
			b.pair.Shutdown(1001, "maintenance", time.Minute)
			for i := 2; i < count; i++ {
				b.backend.wants(text(fmt.Sprint("message ", i)))
			}
			b.backend.wantsClose(1001)
			b.backend.send(closing(1001, ""))
			b.backend.wantsEnd()
			require.EqualValues(t, count, b.pair.FromCaller().Messages)
		})
	}
}

// A large frame that is under way is completed first: in the middle of it no Close
// frame can be sent.
func TestShutdownInTheMiddleOfALargeFrame(t *testing.T) {
	for _, side := range sides {
		t.Run("from "+side, func(t *testing.T) {
			b := start(t, setup{})
			sender, receiver := b.of(side)
			raw := bytes.Repeat(frame{
				fin:     true,
				opcode:  1,
				payload: make([]byte, 100<<10),
			}.encode(sender.key()), 2)
			half := len(raw) / 4
			go sender.sendRaw(raw[:half])
			receiver.wantsBytes(raw[:half])
			b.pair.Shutdown(1001, "maintenance", patience)
			if side == ByBackend {
				require.Eventually(t, func() bool {
					b.pair.caller.writing.Lock()
					defer b.pair.caller.writing.Unlock()
					return b.pair.caller.pending != nil
				}, patience, time.Millisecond, "the Close waits for the frame")
				sender.sendRaw(raw[half:]) // the second frame begins after the Close is due
				receiver.wantsBytes(raw[half : len(raw)/2])
				receiver.wantsClose(1001)
				receiver.send(closing(1001, ""))
				sender.wantsClose(1001)
				sender.send(closing(1001, ""))
			} else {
				sender.wantsClose(1001)
				sender.sendRaw(raw[half:])
				sender.send(closing(1001, ""))
				receiver.wantsBytes(raw[half:])
				receiver.wantsClose(1001)
				receiver.send(closing(1001, ""))
			}
			sender.wantsEnd()
			receiver.wantsEnd()
			sender.close()
			receiver.close()
			b.wantsEnded(ByGateway, EndShutdown)
		})
	}
}

func TestShutdownOfACallerThatReadsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, setup{caller: pipeWire, backend: pipeWire})
		b.pair.Shutdown(1001, "maintenance", 10*time.Second)
		go func() { _, _ = io.Copy(io.Discard, b.backend.conn) }()
		time.Sleep(8 * time.Second)
		require.Equal(t, "maintenance", b.caller.wantsClose(1001), "it has all of drain")
		b.caller.send(closing(1001, ""))
		b.caller.wantsEnd()
		b.backend.close()
		b.wantsEnded(ByGateway, EndShutdown)
	})
}

func TestShutdownWhereTheCallerDropsInsteadOfAnswering(t *testing.T) {
	for _, side := range sides {
		t.Run(side+" drops", func(t *testing.T) {
			b := start(t, setup{})
			this, other := b.of(side)
			b.pair.Shutdown(1001, "maintenance", time.Minute)
			this.close()
			require.Equal(t, "maintenance", other.wantsClose(1001))
			other.send(closing(1001, ""))
			other.wantsEnd()
			other.close()
			b.wantsEnded(ByGateway, EndShutdown)
		})
	}
}

func TestShutdownDoesNotChangeAnEndThatWasFirst(t *testing.T) {
	b := start(t, setup{})
	b.caller.send(closing(1000, "bye"))
	b.backend.wantsClose(1000)
	b.pair.Shutdown(1001, "maintenance", 0)
	b.backend.send(closing(1000, ""))
	b.caller.wantsClose(1000)
	b.caller.close()
	b.backend.close()
	b.wantsEnded(ByCaller, EndClosed)
	b.pair.Shutdown(1001, "maintenance", time.Minute) // nor does it hurt a pair that is over
}

func TestShutdownTwice(t *testing.T) {
	b := start(t, setup{})
	b.pair.Shutdown(1001, "first", time.Minute)
	b.pair.Shutdown(1011, "second", 0)
	require.Equal(t, "first", b.caller.wantsClose(1001))
	b.caller.close()
	require.Equal(t, "first", b.backend.wantsClose(1001))
	b.backend.close()
	b.wantsEnded(ByGateway, EndShutdown)
}
