package stream

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// shortReads is a connection whose reads return few bytes each.
type shortReads struct {
	net.Conn
	size func() int
}

func (c shortReads) Read(p []byte) (int, error) { return c.Conn.Read(p[:min(len(p), c.size())]) }

func oneByteAtATime(c net.Conn) net.Conn { return shortReads{c, func() int { return 1 }} }

// A conversation is what one end sends: all kinds of frames that may come.
func conversation() []frame {
	return []frame{
		text("hello"), text(""), {fin: true, opcode: 9, payload: []byte("ping")}, {fin: true, opcode: 10},
		{opcode: 1, payload: []byte("first ")}, {fin: true, opcode: 9, payload: make([]byte, 125)},
		{payload: []byte("second ")}, {fin: true, payload: []byte("last")},
		{fin: true, opcode: 1, payload: bytes.Repeat([]byte("x"), 125)},
		{fin: true, opcode: 1, payload: bytes.Repeat([]byte("y"), 126)},
		{fin: true, opcode: 2, payload: []byte{0, 255}}, {opcode: 2}, {fin: true},
	}
}

func wireBytes(frames []frame, key []byte) (raw []byte) {
	for _, f := range frames {
		raw = append(raw, f.encode(key)...)
	}
	return raw
}

// traffic is what the relay should count for these frames.
func traffic(frames []frame) (sum Traffic) {
	for _, f := range frames {
		if f.opcode < 8 {
			sum.Bytes += int64(len(f.payload))
			if f.fin {
				sum.Messages++
			}
		}
	}
	return sum
}

func (b *bridge) trafficFrom(side string) Traffic {
	if side == ByCaller {
		return b.pair.FromCaller()
	}
	return b.pair.FromBackend()
}

// wantsBytes reads exactly these bytes.
func (p *peer) wantsBytes(want []byte) {
	p.t.Helper()
	got := make([]byte, len(want))
	_ = p.conn.SetReadDeadline(time.Now().Add(patience))
	n, err := io.ReadFull(p.in, got)
	require.NoError(p.t, err, "%s: %d of %d bytes", p.name, n, len(want))
	require.True(p.t, bytes.Equal(want, got), "%s: other bytes than were sent", p.name)
}

func binaryToo() Options {
	options := generous
	options.AllowBinary = true
	return options
}

func TestFramesArriveByteForByte(t *testing.T) {
	for wireName, w := range wires {
		for _, side := range sides {
			t.Run(wireName+"/from "+side, func(t *testing.T) {
				b := start(t, setup{caller: w.caller, backend: w.backend, options: binaryToo()})
				sender, receiver := b.of(side)
				raw := wireBytes(conversation(), sender.key())
				go sender.sendRaw(raw)
				receiver.wantsBytes(raw)
				sender.close()
				receiver.wantsClose(1001)
				require.Equal(t, traffic(conversation()), b.trafficFrom(side))
			})
		}
	}
}

func TestHowBytesAreCutMakesNoDifference(t *testing.T) {
	for _, side := range sides {
		t.Run("one byte at a time from "+side, func(t *testing.T) {
			b := start(t, setup{
				caller:      pipeWire,
				backend:     pipeWire,
				options:     binaryToo(),
				wrapCaller:  oneByteAtATime,
				wrapBackend: oneByteAtATime,
			})
			sender, receiver := b.of(side)
			raw := wireBytes(conversation(), sender.key())
			go sender.sendRaw(raw)
			receiver.wantsBytes(raw)
			go sender.send(closing(1000, "bye"))
			require.Equal(t, "bye", receiver.wantsClose(1000))
			require.Equal(t, traffic(conversation()), b.trafficFrom(side))
		})
		t.Run("cut at every byte from "+side, func(t *testing.T) {
			raw := wireBytes(append(conversation(), closing(1000, "bye")),
				(&peer{client: side == ByCaller}).key())
			before := len(raw) - len(closing(1000, "bye").encode((&peer{client: side == ByCaller}).key()))
			for cut := range len(raw) {
				b := start(t, setup{caller: pipeWire, backend: pipeWire, options: binaryToo()})
				sender, receiver := b.of(side)
				go func() { // each write to a pipe is read on its own
					if cut > 0 {
						sender.sendRaw(raw[:cut])
					}
					sender.sendRaw(raw[cut:])
				}()
				receiver.wantsBytes(raw[:before])
				require.Equal(t, "bye", receiver.wantsClose(1000))
				require.Equal(t, traffic(conversation()), b.trafficFrom(side))
				sender.close()
				receiver.close()
			}
		})
	}
}

func TestAnyLegalFramesInAnyChunksArriveByteForByte(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var frames []frame
		control := func() {
			for range rapid.IntRange(0, 2).Draw(rt, "control frames") {
				frames = append(frames, frame{
					fin: true, opcode: rapid.SampledFrom([]byte{9, 10}).Draw(rt, "opcode"),
					payload: rapid.SliceOfN(rapid.Byte(), 0, 125).Draw(rt, "payload"),
				})
			}
		}
		for range rapid.IntRange(0, 4).Draw(rt, "messages") {
			opcode := rapid.SampledFrom([]byte{1, 2}).Draw(rt, "type")
			parts := rapid.IntRange(1, 3).Draw(rt, "fragments")
			for i := range parts {
				control()
				size := rapid.OneOf(rapid.IntRange(0, 300),
					rapid.IntRange(bufferSize-20, bufferSize+20), rapid.IntRange(0, 40000)).Draw(rt, "size")
				frames = append(frames, frame{
					fin:     i == parts-1,
					opcode:  opcode,
					payload: bytes.Repeat([]byte{byte(size)}, size),
				})
				opcode = 0
			}
		}
		control()

		side := rapid.SampledFrom(sides).Draw(rt, "side")
		chunks := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(1, 20), rapid.IntRange(1, 40000)), 1,
			10).Draw(rt, "chunks")
		next := 0
		cut := func(c net.Conn) net.Conn {
			return shortReads{c, func() int { next++; return chunks[next%len(chunks)] }}
		}
		s := setup{caller: pipeWire, backend: pipeWire, options: binaryToo()}
		if side == ByCaller {
			s.wrapCaller = cut
		} else {
			s.wrapBackend = cut
		}
		b := start(t, s)
		sender, receiver := b.of(side)
		raw := wireBytes(frames, sender.key())
		go func() {
			if len(raw) > 0 {
				sender.sendRaw(raw)
			}
			sender.send(closing(1000, "bye"))
		}()
		receiver.wantsBytes(raw)
		receiver.wantsClose(1000)
		require.Equal(rt, traffic(frames), b.trafficFrom(side))
		go receiver.send(closing(1000, ""))
		sender.wantsClose(1000)
		b.wantsEnded(side, EndClosed)
	})
}

func TestLargeFrameIsStreamed(t *testing.T) {
	for wireName, w := range wires {
		for _, side := range sides {
			t.Run(wireName+"/from "+side, func(t *testing.T) {
				b := start(t, setup{caller: w.caller, backend: w.backend})
				sender, receiver := b.of(side)
				raw := frame{
					fin:     true,
					opcode:  1,
					payload: bytes.Repeat([]byte("0123456789abcdef"), 1<<16),
				}.encode(sender.key())
				half := len(raw) / 2
				go sender.sendRaw(raw[:half])
				receiver.wantsBytes(raw[:half]) // before the sender has sent the rest
				require.Zero(t, b.trafficFrom(side).Messages, "not whole yet")
				go sender.sendRaw(raw[half:])
				receiver.wantsBytes(raw[half:])
				sender.send(closing(1000, ""))
				receiver.wantsClose(1000)
				require.Equal(t, Traffic{Messages: 1, Bytes: 1 << 20}, b.trafficFrom(side))
			})
		}
	}
}

func TestLargeMessageInFragmentsWithControlFramesBetween(t *testing.T) {
	for _, side := range sides {
		b := start(t, setup{})
		sender, receiver := b.of(side)
		var frames []frame
		for i := range 16 {
			f := frame{opcode: 1, fin: i == 15, payload: bytes.Repeat([]byte{'a' + byte(i)}, 1<<16)}
			if i > 0 {
				f.opcode = 0
			}
			frames = append(frames, f, frame{fin: true, opcode: 9, payload: fmt.Append(nil, i)})
		}
		go sender.send(frames...)
		for _, f := range frames {
			receiver.wants(f)
		}
		sender.send(closing(1000, ""))
		receiver.wantsClose(1000)
		require.Equal(t, Traffic{Messages: 1, Bytes: 1 << 20}, b.trafficFrom(side))
	}
}

func TestMessageOverTheLimitInFragments(t *testing.T) {
	for _, side := range sides {
		options := generous
		options.MaxMessage = 1000
		b := start(t, setup{options: options})
		culprit, survivor := b.of(side)
		exact := []frame{{opcode: 1, payload: make([]byte, 600)},
			{fin: true, payload: make([]byte, 400)}, {fin: true, opcode: 1, payload: make([]byte, 1000)}}
		culprit.send(exact...)
		for _, f := range exact {
			survivor.wants(f)
		}
		first := frame{opcode: 1, payload: make([]byte, 999)}
		culprit.send(first, frame{fin: true, payload: make([]byte, 2)})
		survivor.wants(first)
		require.Contains(t, survivor.wantsClose(1011), "1000 bytes")
		culprit.wantsClose(1009)
		culprit.close()
		survivor.close()
		require.Equal(t, Traffic{Messages: 2, Bytes: 2999}, b.trafficFrom(side))
		end := b.wantsEnded(side, EndViolation)
		require.Equal(t, CloseInternalError, end.Code)
	}
}

// A limit that no message can reach must not overflow into one that each exceeds.
func TestNoMessageLimit(t *testing.T) {
	options := generous
	options.MaxMessage = 1<<63 - 1
	b := start(t, setup{options: options})
	raw := []byte{0x81, 0xFF, 0x7F, 255, 255, 255, 255, 255, 255, 240, 1, 2, 3, 4, 'x'}
	b.caller.sendRaw(raw)
	b.backend.wantsBytes(raw)
	b.backend.send(text("and back"))
	b.caller.wants(text("and back"))

	// The longest length there is: together with its header it exceeds an int64.
	b = start(t, setup{options: options})
	b.caller.sendRaw([]byte{0x81, 0xFF, 0x7F, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4, 'x'})
	b.backend.wantsClose(1011)
	b.caller.wantsClose(1009)
}

// The protocol lets a message have any number of frames, also empty ones.
func TestMessageOfTooManyFramesEndsThePair(t *testing.T) {
	for name, payload := range map[string]string{"empty": "", "of a byte": "x"} {
		for _, side := range sides {
			t.Run(name+" from "+side, func(t *testing.T) {
				b := start(t, setup{})
				sender, receiver := b.of(side)
				piece := frame{payload: []byte(payload)}.encode(sender.key())
				go func() {
					sender.sendRaw(frame{opcode: 1}.encode(sender.key()))
					flood := bytes.Repeat(piece, 10_000)
					for range 100 {
						if _, err := sender.conn.Write(flood); err != nil {
							return
						}
					}
				}()
				frames := 0
				for {
					f, err := receiver.next()
					require.NoError(t, err)
					if f.opcode == 8 {
						require.Contains(t, string(f.payload[2:]), "frames")
						break
					}
					frames++
				}
				require.LessOrEqual(t, frames, 5000)
				require.Contains(t, sender.wantsClose(1009), "frames")
				receiver.close()
				b.wantsEnded(side, EndViolation)
			})
		}
	}
}

// A program that fragments its messages on purpose is not refused.
func TestMessageInManySmallFramesPasses(t *testing.T) {
	options := generous
	options.MaxMessage = 4 << 20
	for name, test := range map[string]struct{ frames, size int }{
		"4 MiB in frames of 64 bytes": {1 << 16, 64},
		"4,000 empty frames":          {4000, 0},
		"4,000 frames of a byte":      {4000, 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, setup{options: options})
			piece := frame{payload: bytes.Repeat([]byte("x"), test.size)}
			for range 2 { // the count begins anew with each message
				first, last := piece, piece
				first.opcode, last.fin = 1, true
				raw := slices.Concat(first.encode(testKey),
					bytes.Repeat(piece.encode(testKey), test.frames-2), last.encode(testKey))
				go b.caller.sendRaw(raw)
				b.backend.wantsBytes(raw)
			}
		})
	}
}

func TestBytesBeyondTheHandshakeComeFirst(t *testing.T) {
	large := frame{fin: true, opcode: 1, payload: bytes.Repeat([]byte("z"), 40<<10)}
	for _, side := range sides {
		for name, frames := range map[string][]frame{
			"messages":           {text("one"), text("two")},
			"more than a buffer": {large, text("after")},
		} {
			t.Run(name+" from "+side, func(t *testing.T) {
				raw := wireBytes(append(frames, text("cut in two")), (&peer{client: side == ByCaller}).key())
				s := setup{callerBuffered: raw[:len(raw)-3]}
				if side == ByBackend {
					s = setup{backendBuffered: raw[:len(raw)-3]}
				}
				b := start(t, s)
				sender, receiver := b.of(side)
				for _, f := range frames {
					receiver.wants(f)
				}
				sender.sendRaw(raw[len(raw)-3:])
				receiver.wants(text("cut in two"))
			})
		}
		t.Run("Close from "+side, func(t *testing.T) {
			raw := closing(1000, "bye").encode((&peer{client: side == ByCaller}).key())
			s := setup{callerBuffered: raw}
			if side == ByBackend {
				s = setup{backendBuffered: raw}
			}
			b := start(t, s)
			_, receiver := b.of(side)
			require.Equal(t, "bye", receiver.wantsClose(1000))
		})
	}
}

func TestPingsOfTheEndsPassEndToEnd(t *testing.T) {
	for _, side := range sides {
		b := start(t, setup{})
		this, other := b.of(side)
		ping := frame{fin: true, opcode: 9, payload: []byte("12345678")}
		this.send(ping)
		other.wants(ping)
		pong := frame{fin: true, opcode: 10, payload: []byte("12345678")}
		other.send(pong)
		this.wants(pong)
		other.send(pong, text("done")) // RFC 6455, section 5.5.3: a pong may come unasked
		this.wants(pong)
		this.wants(text("done"))
	}
}

// What a slow end has not taken yet is not read from the other end: a direction
// holds no more than one buffer.
func TestBackpressure(t *testing.T) {
	for _, side := range sides {
		t.Run("from "+side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const count = 100
				b := start(t, setup{caller: pipeWire, backend: pipeWire})
				sender, receiver := b.of(side)
				message := text(string(make([]byte, 1000)))
				var sent atomic.Int32
				done := make(chan struct{})
				go func() {
					defer close(done)
					for range count {
						_, _ = sender.conn.Write(message.encode(sender.key()))
						sent.Add(1)
					}
				}()
				synctest.Wait()
				require.LessOrEqual(t, int(sent.Load())*1000, bufferSize)
				for range count {
					receiver.wants(message)
				}
				<-done
			})
		})
	}
}

// While one direction blocks in a write, the other one goes on.
func TestDirectionsDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, setup{caller: pipeWire, backend: pipeWire})
		b.caller.send(text("not taken yet"))
		for i := range 10 {
			go b.backend.send(text(fmt.Sprint(i)))
			b.caller.wants(text(fmt.Sprint(i)))
		}
		b.backend.wants(text("not taken yet"))
	})
}
