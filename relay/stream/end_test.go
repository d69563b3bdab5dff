package stream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Every way in which a leg can end without a Close frame, or with a broken one.
func TestWhateverEndsOneLegEndsTheOther(t *testing.T) {
	large := frame{fin: true, opcode: 1, payload: make([]byte, 100<<10)}
	ways := map[string]struct {
		act     func(p *peer)
		tcpOnly bool
		forward []frame // what of it reaches the survivor
		reason  string
		code    CloseCode // that the survivor is told; zero where no Close frame can be sent
		ownCode CloseCode // that the culprit is told, where it can still hear
	}{
		"FIN": {act: (*peer).close, reason: EndDropped, code: 1001},
		"half-close": {act: (*peer).halfClose, tcpOnly: true, reason: EndDropped,
			code: 1001, ownCode: 1002},
		"RST": {act: (*peer).reset, tcpOnly: true, reason: EndDropped, code: 1001},
		"FIN inside a header": {act: func(p *peer) {
			p.sendRaw(text("hello").encode(p.key())[:1])
			p.close()
		}, reason: EndDropped, code: 1001},
		"FIN inside a small frame": {act: func(p *peer) {
			p.sendRaw(text("hello").encode(p.key())[:6])
			p.close()
		}, reason: EndDropped, code: 1001},
		"RST inside a small frame": {act: func(p *peer) {
			p.sendRaw(text("hello").encode(p.key())[:6])
			p.reset()
		}, tcpOnly: true, reason: EndDropped, code: 1001},
		"FIN inside a large frame": {act: func(p *peer) {
			p.sendRaw(large.encode(p.key())[:50<<10])
			p.close()
		}, reason: EndDropped},
		"FIN inside a control frame": {act: func(p *peer) {
			p.sendRaw(closing(1000, "bye").encode(p.key())[:4])
			p.close()
		}, reason: EndDropped, code: 1001},
		"FIN inside a message": {act: func(p *peer) { p.send(frame{opcode: 1}); p.close() },
			forward: []frame{{opcode: 1}}, reason: EndDropped, code: 1001},
		"reserved bits": {act: func(p *peer) {
			p.send(frame{fin: true, rsv: 4, opcode: 1})
		}, reason: EndViolation, code: 1011, ownCode: 1002},
		"wrong masking": {act: func(p *peer) {
			p.sendRaw(text("x").encode(map[bool][]byte{false: testKey, true: nil}[p.client]))
		}, reason: EndViolation, code: 1011, ownCode: 1002},
		"binary": {act: func(p *peer) { p.send(frame{fin: true, opcode: 2}) },
			reason: EndViolation, code: 1011, ownCode: 1003},
		"message too big": {act: func(p *peer) {
			p.sendRaw(append([]byte{0x81, p.maskBit() | 127, 0, 0, 0, 0, 0, 16, 0, 1}, p.key()...))
		}, reason: EndViolation, code: 1011, ownCode: 1009},
		"Close with an illegal code": {act: func(p *peer) { p.send(closing(1006, "")) },
			reason: EndViolation, code: 1011, ownCode: 1002},
		"Close with half a code": {act: func(p *peer) {
			p.send(frame{fin: true, opcode: 8, payload: []byte{3}})
		}, reason: EndViolation, code: 1011, ownCode: 1002},
		"Close with a reason not UTF8": {act: func(p *peer) { p.send(closing(1000, "\xff")) },
			reason: EndViolation, code: 1011, ownCode: 1007},
	}
	for wireName, w := range wires {
		for name, way := range ways {
			if way.tcpOnly && wireName == "pipe" {
				continue
			}
			for _, side := range sides {
				t.Run(fmt.Sprintf("%s/%s by %s", wireName, name, side), func(t *testing.T) {
					t.Parallel()
					b := start(t, setup{caller: w.caller, backend: w.backend})
					culprit, survivor := b.of(side)
					culprit.send(text("before"))
					survivor.wants(text("before"))
					acted := make(chan struct{})
					go func() {
						defer close(acted)
						way.act(culprit)
					}()
					defer func() { <-acted }()
					for _, f := range way.forward {
						survivor.wants(f)
					}

					if way.code == 0 {
						for err := error(nil); err == nil; { // part of a frame, then the end
							_, err = survivor.next()
							require.NotErrorIs(t, err, errIllegal)
						}
					} else {
						reason := survivor.wantsClose(way.code)
						require.Contains(t, reason, side)
						survivor.send(closing(way.code, ""))
						survivor.wantsEnd()
					}
					if way.ownCode != 0 {
						require.NotEmpty(t, culprit.wantsClose(way.ownCode))
						culprit.wantsEnd()
						culprit.close()
					}
					survivor.close()

					end := b.wantsEnded(side, way.reason)
					require.Error(t, end.Err)
				})
			}
		}
	}
}

func (p *peer) maskBit() byte {
	if p.client {
		return 0x80
	}
	return 0
}

// A survivor gets its Close frame and the end of the stream at once, and has
// CloseTimeout to close its own side.
func TestSurvivorThatIgnoresTheEndIsCutOff(t *testing.T) {
	for wireName, w := range wires {
		for _, side := range sides {
			t.Run(wireName+"/"+side+" ends", func(t *testing.T) {
				t.Parallel()
				options := generous
				options.CloseTimeout = 200 * time.Millisecond
				b := start(t, setup{caller: w.caller, backend: w.backend, options: options})
				culprit, survivor := b.of(side)
				culprit.close()
				survivor.wantsClose(1001)
				// It never answers, and does not close either.
				b.wantsEnded(side, EndDropped)
				_, err := survivor.next()
				require.Error(t, err)
			})
		}
	}
}

func TestSurvivorThatGoesOnSendingIsCutOff(t *testing.T) {
	for _, side := range sides {
		t.Run(side+" ends", func(t *testing.T) {
			options := generous
			options.CloseTimeout = 300 * time.Millisecond
			b := start(t, setup{options: options})
			culprit, survivor := b.of(side)
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				raw := text("still here").encode(survivor.key())
				for {
					if _, err := survivor.conn.Write(raw); err != nil {
						return
					}
				}
			}()
			go func() { _, _ = io.Copy(io.Discard, culprit.conn) }()
			culprit.halfClose()
			b.wantsEnded(side, EndDropped)
			<-stopped
		})
	}
}

// A survivor that does not read cannot be told, but its connection is closed all
// the same.
func TestSurvivorThatDoesNotReadIsEnded(t *testing.T) {
	for _, side := range sides {
		t.Run(side+" ends", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, setup{caller: pipeWire, backend: pipeWire})
				began := time.Now()
				culprit, _ := b.of(side)
				culprit.close()
				b.wantsEnded(side, EndDropped)
				require.LessOrEqual(t, time.Since(began), settle)
			})
		})
	}
}

func TestMessagesBeforeTheEndAreDelivered(t *testing.T) {
	const count = 1000
	ends := map[string]struct {
		act    func(*peer)
		reason string
		code   CloseCode
	}{
		"FIN":       {(*peer).close, EndDropped, 1001},
		"Close":     {func(p *peer) { p.send(closing(1000, "done")) }, EndClosed, 1000},
		"violation": {func(p *peer) { p.send(frame{fin: true, rsv: 1, opcode: 1}) }, EndViolation, 1011},
		"binary":    {func(p *peer) { p.send(frame{fin: true, opcode: 2}) }, EndViolation, 1011},
	}
	for wireName, w := range wires {
		for name, e := range ends {
			for _, side := range sides {
				t.Run(fmt.Sprintf("%s/%s by %s", wireName, name, side), func(t *testing.T) {
					t.Parallel()
					b := start(t, setup{caller: w.caller, backend: w.backend})
					culprit, survivor := b.of(side)
					go func() {
						for i := range count {
							culprit.send(text(fmt.Sprintf("message %d", i)))
						}
						e.act(culprit)
					}()
					var bytes int64
					for i := range count {
						want := text(fmt.Sprintf("message %d", i))
						bytes += int64(len(want.payload))
						survivor.wants(want)
					}
					survivor.wantsClose(e.code)
					survivor.close()
					if e.reason != EndDropped {
						own := map[string]CloseCode{"Close": 1000, "violation": 1002, "binary": 1003}
						culprit.wantsClose(own[name])
						culprit.close()
					}
					b.wantsEnded(side, e.reason)
					counted := b.pair.FromCaller()
					if side == ByBackend {
						counted = b.pair.FromBackend()
					}
					require.Equal(t, Traffic{Messages: count, Bytes: bytes}, counted)
				})
			}
		}
	}
}

func TestCloseGoesThroughWithItsCodeAndReason(t *testing.T) {
	for wireName, w := range wires {
		for _, side := range sides {
			for _, code := range []CloseCode{1000, 1001, 1008, 1011, 1014, 3000, 4999} {
				t.Run(fmt.Sprintf("%s/%d by %s", wireName, code, side), func(t *testing.T) {
					t.Parallel()
					b := start(t, setup{caller: w.caller, backend: w.backend})
					first, second := b.of(side)
					first.send(closing(code, "so long"))
					require.Equal(t, "so long", second.wantsClose(code))
					// The answer is the other end's own, and may differ.
					second.send(closing(3456, "and thanks"))
					require.Equal(t, "and thanks", first.wantsClose(3456))
					first.wantsEnd()
					second.wantsEnd()
					first.close()
					second.close()
					end := b.wantsEnded(side, EndClosed)
					require.Equal(t, code, end.Code)
					require.Equal(t, "so long", end.Text)
					require.NoError(t, end.Err)
				})
			}
		}
	}
}

func TestEmptyCloseStaysEmpty(t *testing.T) {
	empty := frame{fin: true, opcode: 8, payload: []byte{}}
	for _, side := range sides {
		b := start(t, setup{})
		first, second := b.of(side)
		first.send(empty)
		second.wants(empty)
		second.send(empty)
		first.wants(empty)
		first.wantsEnd()
		second.wantsEnd()
		first.close()
		second.close()
		end := b.wantsEnded(side, EndClosed)
		require.Equal(t, CloseNoStatus, end.Code)
	}
}

func TestMessagesOfTheOtherSideStillArriveDuringTheClosingHandshake(t *testing.T) {
	for _, side := range sides {
		b := start(t, setup{})
		first, second := b.of(side)
		first.send(closing(1000, ""))
		second.wantsClose(1000)
		second.send(text("one"), text("two"), closing(1000, ""))
		first.wants(text("one"))
		first.wants(text("two"))
		first.wantsClose(1000)
		first.wantsEnd()
		second.wantsEnd()
	}
}

func TestNothingGoesThroughAfterAClose(t *testing.T) {
	for _, side := range sides {
		b := start(t, setup{})
		first, second := b.of(side)
		first.sendRaw(append(closing(1000, "").encode(first.key()),
			text("too late").encode(first.key())...))
		second.wantsClose(1000)
		second.send(closing(1000, ""))
		second.wantsEnd()
		first.wantsClose(1000)
		first.wantsEnd()
		require.Zero(t, b.pair.FromCaller().Messages+b.pair.FromBackend().Messages)
	}
}

func TestBothCloseAtOnce(t *testing.T) {
	for wireName, w := range wires {
		t.Run(wireName, func(t *testing.T) {
			b := start(t, setup{caller: w.caller, backend: w.backend})
			go b.caller.send(closing(1000, "caller"))
			go b.backend.send(closing(1001, "backend"))
			require.Equal(t, "backend", b.caller.wantsClose(1001))
			require.Equal(t, "caller", b.backend.wantsClose(1000))
			b.caller.wantsEnd()
			b.backend.wantsEnd()
			b.caller.close()
			b.backend.close()
			end := <-b.ended
			require.Equal(t, EndClosed, end.Reason)
			require.Equal(t, end.By, end.Text, "what happened first is told whole")
		})
	}
}

// RFC 6455, section 7.1.1, lets the server close the connection after a Close
// frame; many servers do so without an answer.
func TestCloseThatIsAnsweredByTheEndOfTheStream(t *testing.T) {
	for wireName, w := range wires {
		for _, side := range sides {
			t.Run(wireName+"/Close by "+side, func(t *testing.T) {
				b := start(t, setup{caller: w.caller, backend: w.backend})
				first, second := b.of(side)
				first.send(closing(4001, "bye"))
				second.wantsClose(4001)
				second.close()
				require.Equal(t, "bye", first.wantsClose(4001), "its own code comes back")
				first.wantsEnd()
				first.close()
				end := b.wantsEnded(side, EndClosed)
				require.Equal(t, CloseCode(4001), end.Code)
			})
		}
	}
}

func TestCloserThatIsGoneAtOnceIsStillHeard(t *testing.T) {
	for wireName, w := range wires {
		for _, side := range sides {
			t.Run(wireName+"/Close by "+side, func(t *testing.T) {
				b := start(t, setup{caller: w.caller, backend: w.backend})
				first, second := b.of(side)
				go func() {
					first.send(text("last words"), closing(1000, "bye"))
					first.close()
				}()
				second.wants(text("last words"))
				require.Equal(t, "bye", second.wantsClose(1000))
				second.send(closing(1000, ""))
				second.wantsEnd()
				second.close()
				b.wantsEnded(side, EndClosed)
			})
		}
	}
}

func TestPeerThatIgnoresTheCloseIsCutOffAfterCloseTimeout(t *testing.T) {
	for _, side := range sides {
		t.Run("Close by "+side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				options := generous
				options.CloseTimeout = 5 * time.Second
				b := start(t, setup{caller: pipeWire, backend: pipeWire, options: options})
				first, second := b.of(side)
				first.send(closing(1000, "bye"))
				second.wantsClose(1000)
				began := time.Now()
				go func() { _, _ = io.Copy(io.Discard, second.conn) }()
				_, err := first.next()
				require.ErrorIs(t, err, io.EOF)
				require.Equal(t, options.CloseTimeout, time.Since(began))
				b.wantsEnded(side, EndClosed)
			})
		})
	}
}

func TestCloseTowardsAPeerThatDoesNotReadIsBounded(t *testing.T) {
	for _, side := range sides {
		t.Run("Close by "+side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				options := generous
				options.CloseTimeout = 5 * time.Second
				b := start(t, setup{caller: pipeWire, backend: pipeWire, options: options})
				first, _ := b.of(side)
				began := time.Now()
				first.send(closing(1000, "bye"))
				b.wantsEnded(side, EndClosed)
				require.Equal(t, options.CloseTimeout, time.Since(began))
			})
		})
	}
}

func TestStalledPeerIsGivenUpAfterWriteTimeout(t *testing.T) {
	for _, side := range sides {
		t.Run(side+" stalls", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				options := generous
				options.WriteTimeout = 5 * time.Second
				b := start(t, setup{caller: pipeWire, backend: pipeWire, options: options})
				_, sender := b.of(side)
				began := time.Now()
				sender.send(text("nobody takes this"))
				require.Contains(t, sender.wantsClose(1001), side)
				require.Equal(t, options.WriteTimeout, time.Since(began))
				sender.send(closing(1001, ""))
				sender.wantsEnd()
				end := b.wantsEnded(side, EndStalled)
				require.Equal(t, options.WriteTimeout, time.Since(began), "the survivor's answer ends it")
				require.ErrorContains(t, end.Err, "timeout")
				require.Zero(t, b.pair.FromCaller().Messages+b.pair.FromBackend().Messages,
					"not delivered, not counted")
			})
		})
	}
}

// Of the options' limit on a write and the endpoint's own, the shorter one holds,
// and only for that end.
func TestWriteTimeoutOfOneEndBoundsItsWrites(t *testing.T) {
	for _, side := range sides {
		for own, want := range map[time.Duration]time.Duration{
			2 * time.Second: 2 * time.Second,
			time.Minute:     5 * time.Second,
			1<<63 - 1:       5 * time.Second,
		} {
			t.Run(fmt.Sprintf("%s stalls, %s of its own", side, own), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					options := generous
					options.WriteTimeout = 5 * time.Second
					b := start(t, setup{
						caller:  pipeWire,
						backend: pipeWire,
						options: options,
						own:     ownLimits(side, 0, own),
					})
					_, sender := b.of(side)
					began := time.Now()
					sender.send(text("nobody takes this"))
					sender.wantsClose(1001)
					require.Equal(t, want, time.Since(began))
					sender.send(closing(1001, ""))
					b.wantsEnded(side, EndStalled)
				})
			})
		}
	}
}

// Closing a TLS connection sends an alert first, and would wait five seconds for
// a peer that does not take that either.
func TestStalledPeerBehindTLSIsNotWaitedForAgain(t *testing.T) {
	for _, side := range sides {
		t.Run(side+" stalls", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				options := generous
				options.WriteTimeout = 5 * time.Second
				s := setup{caller: tlsPipeWire, backend: pipeWire, options: options}
				if side == ByBackend {
					s.caller, s.backend = pipeWire, tlsPipeWire
				}
				b := start(t, s)
				_, sender := b.of(side)
				began := time.Now()
				sender.send(text("nobody takes this"))
				sender.wantsClose(1001)
				sender.send(closing(1001, ""))
				b.wantsEnded(side, EndStalled)
				require.Equal(t, options.WriteTimeout, time.Since(began))
			})
		})
	}
}

func TestStalledPeerOverTCPAndTLS(t *testing.T) {
	for _, wireName := range []string{"tcp", "tls to caller", "tls to backend"} {
		for _, side := range sides {
			t.Run(wireName+"/"+side+" stalls", func(t *testing.T) {
				t.Parallel()
				options := generous
				options.WriteTimeout = 200 * time.Millisecond
				options.CloseTimeout = time.Second
				w := wires[wireName]
				b := start(t, setup{caller: w.caller, backend: w.backend, options: options})
				_, sender := b.of(side)
				go func() {
					raw := frame{fin: true, opcode: 1, payload: make([]byte, 10<<10)}.encode(sender.key())
					for {
						if _, err := sender.conn.Write(raw); err != nil {
							return
						}
					}
				}()
				sender.wantsClose(1001)
				began := time.Now()
				b.wantsEnded(side, EndStalled)
				require.Less(t, time.Since(began), 4*time.Second,
					"closing TLS must not wait for the stalled peer")
			})
		}
	}
}

// failingConn fails its writes from the nth on, having written part of it.
type failingConn struct {
	net.Conn
	left atomic.Int32
	err  error
}

func (c *failingConn) Write(p []byte) (int, error) {
	if c.left.Add(-1) < 0 {
		n, _ := c.Conn.Write(p[:len(p)/2])
		return n, c.err
	}
	return c.Conn.Write(p)
}

func TestWriteErrorEndsThePair(t *testing.T) {
	for _, side := range sides {
		for after := range 3 {
			t.Run(fmt.Sprintf("%s takes %d writes", side, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					wrap := func(c net.Conn) net.Conn {
						f := &failingConn{Conn: c, err: syscall.EPIPE}
						f.left.Store(int32(after))
						return f
					}
					s := setup{caller: pipeWire, backend: pipeWire, wrapCaller: wrap}
					if side == ByBackend {
						s.wrapCaller, s.wrapBackend = nil, wrap
					}
					b := start(t, s)
					broken, sender := b.of(side)
					go func() { _, _ = io.Copy(io.Discard, broken.conn) }()
					for range after + 1 {
						sender.send(text("hello"))
					}
					began := time.Now()
					sender.wantsClose(1001)
					require.LessOrEqual(t, time.Since(began), settle, "found without the help of a read")
					sender.send(closing(1001, ""))
					sender.wantsEnd()
					end := b.wantsEnded(side, EndDropped)
					require.ErrorIs(t, end.Err, syscall.EPIPE)
					require.EqualValues(t, after, b.pair.FromCaller().Messages+b.pair.FromBackend().Messages)
				})
			})
		}
	}
}

// resetConn fails every write, as a connection does that its peer has reset,
// while what the peer sent before that can still be read.
type resetConn struct {
	net.Conn
	failed chan struct{}
	once   atomic.Bool
}

func (c *resetConn) Write([]byte) (int, error) {
	if c.once.CompareAndSwap(false, true) {
		close(c.failed)
	}
	return 0, syscall.ECONNRESET
}

func TestWriteErrorDoesNotHideACloseThatCameBefore(t *testing.T) {
	for _, side := range sides {
		t.Run("reset by "+side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reset := &resetConn{failed: make(chan struct{})}
				wrap := func(c net.Conn) net.Conn { reset.Conn = c; return reset }
				s := setup{caller: pipeWire, backend: pipeWire, wrapCaller: wrap}
				if side == ByBackend {
					s.wrapCaller, s.wrapBackend = nil, wrap
				}
				b := start(t, s)
				broken, sender := b.of(side)
				sender.send(text("into the void"))
				<-reset.failed
				time.Sleep(settle / 2) // of the bubble's time: the write error is known
				go broken.send(text("last words"), closing(4000, "on purpose"))
				sender.wants(text("last words"))
				require.Equal(t, "on purpose", sender.wantsClose(4000))
				sender.send(closing(4000, ""))
				broken.close()
				sender.wantsEnd()
				end := b.wantsEnded(side, EndClosed)
				require.Equal(t, CloseCode(4000), end.Code)
			})
		})
	}
}

// The same over TCP: one end sends a Close frame and then resets the connection,
// and the gateway meets the reset first, when it writes.
func TestResetDoesNotHideACloseThatCameBefore(t *testing.T) {
	for _, side := range sides {
		t.Run("reset by "+side, func(t *testing.T) {
			for range 20 {
				b := start(t, setup{})
				closer, sender := b.of(side)
				go func() {
					raw := text("more").encode(sender.key())
					for {
						if _, err := sender.conn.Write(raw); err != nil {
							return
						}
					}
				}()
				_, err := closer.next()
				require.NoError(t, err)
				closer.send(closing(4000, "on purpose"))
				closer.close() // with bytes unread: the kernel sends a RST
				require.Equal(t, "on purpose", sender.wantsClose(4000))
				sender.close()
				b.wantsEnded(side, EndClosed)
			}
		})
	}
}

func TestLostLegWhoseSenderClosesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reset := &resetConn{failed: make(chan struct{})}
		b := start(t, setup{
			caller:      pipeWire,
			backend:     pipeWire,
			wrapBackend: func(c net.Conn) net.Conn { reset.Conn = c; return reset },
		})
		// One read brings both the message whose write fails and the Close frame
		// behind it.
		b.caller.sendRaw(append(text("lost").encode(testKey), closing(1000, "bye").encode(testKey)...))
		<-reset.failed
		synctest.Wait() // until the Close behind it is seen
		b.backend.close()
		require.Equal(t, "bye", b.caller.wantsClose(1000), "its own code comes back")
		b.caller.wantsEnd()
		b.wantsEnded(ByCaller, EndClosed)
	})
}

func TestCulpritThatFloodsAfterItsViolationIsCutOff(t *testing.T) {
	for _, side := range sides {
		t.Run(side, func(t *testing.T) {
			b := start(t, setup{})
			culprit, survivor := b.of(side)
			culprit.send(frame{fin: true, rsv: 7, opcode: 1})
			survivor.wantsClose(1011)
			survivor.close()
			go func() {
				for {
					if _, err := culprit.conn.Write(make([]byte, 1<<10)); err != nil {
						return
					}
				}
			}()
			culprit.wantsClose(1002)
			b.wantsEnded(side, EndViolation)
		})
	}
}

func TestBothEndAtOnce(t *testing.T) {
	for wireName, w := range wires {
		t.Run(wireName, func(t *testing.T) {
			b := start(t, setup{caller: w.caller, backend: w.backend})
			go b.caller.close()
			b.backend.close()
			end := <-b.ended
			require.Equal(t, EndDropped, end.Reason)
			<-b.pair.Done()
		})
	}
}

func TestEndErrorsSayWhatHappened(t *testing.T) {
	b := start(t, setup{})
	b.caller.send(frame{fin: true, rsv: 7, opcode: 1})
	b.backend.wantsClose(1011)
	b.caller.close()
	b.backend.close()
	end := b.wantsEnded(ByCaller, EndViolation)
	require.ErrorContains(t, end.Err, "reserved bits")
	require.Contains(t, end.Text, "caller: reserved bits")
	require.False(t, errors.Is(end.Err, io.EOF))
}
