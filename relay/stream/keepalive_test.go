package stream

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func keptAlive() Options {
	return Options{
		MaxMessage:   1 << 20,
		PingInterval: 20 * time.Second,
		PongTimeout:  10 * time.Second,
		WriteTimeout: 10 * time.Second,
		CloseTimeout: 5 * time.Second,
	}
}

// answerPings plays an end that sends nothing but answers to pings. It returns the
// other frames that came, and how many pings.
func (p *peer) answerPings() (rest []frame, pings int) {
	_ = p.conn.SetDeadline(time.Time{})
	for {
		f, err := readFrame(p.in, !p.client)
		if err != nil {
			return rest, pings
		}
		switch f.opcode {
		case opPing:
			pings++
			f.opcode = opPong
			_, _ = p.conn.Write(f.encode(p.key()))
		case opClose:
			rest = append(rest, f)
			_, _ = p.conn.Write(f.encode(p.key()))
		default:
			rest = append(rest, f)
		}
	}
}

func TestSilentPeerEndsThePair(t *testing.T) {
	cases := map[string]func(*Options){
		"as by default": func(*Options) {},
		"pong timeout over ping interval": func(o *Options) {
			o.PingInterval, o.PongTimeout = time.Second, 10*time.Second
		},
		"far apart": func(o *Options) { o.PingInterval, o.PongTimeout = time.Minute, time.Second },
	}
	for name, change := range cases {
		for _, side := range sides {
			for _, earlier := range []time.Duration{0, 7 * time.Second} {
				t.Run(name+"/"+side+" silent after "+earlier.String(), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						options := keptAlive()
						change(&options)
						b := start(t, setup{caller: pipeWire, backend: pipeWire, options: options})
						silent, survivor := b.of(side)
						told := make(chan []frame, 1)
						go func() { rest, _ := survivor.answerPings(); told <- rest }()

						if earlier > 0 {
							go func() { // takes everything, says nothing after this
								time.Sleep(earlier)
								silent.send(text("last sign of life"))
							}()
						}
						began := time.Now()
						var pingedAt []time.Duration
						for {
							_ = silent.conn.SetReadDeadline(time.Time{})
							f, err := readFrame(silent.in, !silent.client)
							if err != nil {
								break
							}
							require.EqualValues(t, opPing, f.opcode, "%q", f.payload)
							pingedAt = append(pingedAt, time.Since(began))
						}
						took := time.Since(began) - earlier
						require.LessOrEqual(t, took, options.PingInterval+options.PongTimeout)
						require.Greater(t, took, options.PongTimeout)
						require.NotEmpty(t, pingedAt)
						require.GreaterOrEqual(t, time.Since(began)-pingedAt[len(pingedAt)-1],
							options.PongTimeout, "it had its time to answer")

						end := b.wantsEnded(side, EndSilent)
						require.ErrorIs(t, end.Err, errSilent)
						rest := <-told
						last := rest[len(rest)-1]
						require.Equal(t, closing(1001, side+" silent"), last)
					})
				})
			}
		}
	}
}

func TestSilenceInTheMiddleOfAFrameIsSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, setup{caller: pipeWire, backend: pipeWire, options: keptAlive()})
		go b.backend.answerPings()
		began := time.Now()
		b.caller.sendRaw(text("never finished").encode(testKey)[:9])
		for range 2 { // one ping, then the end
			_ = b.caller.conn.SetReadDeadline(time.Time{})
			_, _ = readFrame(b.caller.in, false)
		}
		b.wantsEnded(ByCaller, EndSilent)
		require.Equal(t, 30*time.Second, time.Since(began))
	})
}

func TestPeersThatOnlyAnswerPingsLiveOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, setup{caller: pipeWire, backend: pipeWire, options: keptAlive()})
		type result struct {
			rest  []frame
			pings int
		}
		results := make(chan result, 2)
		for _, p := range []*peer{b.caller, b.backend} {
			go func() { rest, pings := p.answerPings(); results <- result{rest, pings} }()
		}
		time.Sleep(time.Hour)
		select {
		case <-b.pair.Done():
			t.Fatal("ended")
		default:
		}
		b.pair.Shutdown(1001, "enough", time.Second)
		<-b.pair.Done()
		for range 2 {
			r := <-results
			require.InDelta(t, 3600/20, r.pings, 2)
			require.Equal(t, []frame{closing(1001, "enough")}, r.rest,
				"no pong of the gateway's pings went through")
		}
	})
}

func TestNoPingWhileMessagesCome(t *testing.T) {
	for _, side := range sides {
		synctest.Test(t, func(t *testing.T) {
			b := start(t, setup{caller: pipeWire, backend: pipeWire, options: keptAlive()})
			talker, listener := b.of(side)
			frames := make(chan int, 1)
			go func() { rest, _ := listener.answerPings(); frames <- len(rest) }()
			pinged := make(chan int, 1)
			go func() { _, pings := talker.answerPings(); pinged <- pings }()
			for range 100 {
				time.Sleep(19 * time.Second)
				talker.send(text("still here"))
			}
			talker.close()
			require.Zero(t, <-pinged)
			require.Equal(t, 101, <-frames)
		})
	}
}

// While a slow backend does not take the caller's messages, the gateway cannot read from the
// caller, which must not count as the caller's silence. Nor is the backend silent before
// WriteTimeout.
func TestBackpressureIsNotSilence(t *testing.T) {
	for _, side := range sides {
		t.Run("from "+side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				options := keptAlive()
				options.WriteTimeout = time.Hour
				b := start(t, setup{caller: pipeWire, backend: pipeWire, options: options})
				sender, slow := b.of(side)
				sender.send(text("one"))
				go sender.answerPings() // after send, whose deadline its pongs must not be under
				time.Sleep(50 * time.Minute)
				select {
				case end := <-b.ended:
					t.Fatalf("ended: %+v", end)
				default:
				}
				_ = slow.conn.SetReadDeadline(time.Time{})
				slow.wants(text("one"))
				go slow.answerPings()
				time.Sleep(10 * time.Minute)
				require.Empty(t, b.ended)
			})
		})
	}
}

func TestPeerThatTakesNoPingIsGivenUp(t *testing.T) {
	for _, side := range sides {
		synctest.Test(t, func(t *testing.T) {
			b := start(t, setup{caller: pipeWire, backend: pipeWire, options: keptAlive()})
			_, survivor := b.of(side)
			go survivor.answerPings()
			began := time.Now()
			<-b.pair.Done()
			require.LessOrEqual(t, time.Since(began), 31*time.Second)
			b.wantsEnded(side, EndStalled)
		})
	}
}

// Between the two parts of a large frame nothing else may be sent: a ping waits.
func TestNoPingInsideALargeFrame(t *testing.T) {
	for _, side := range sides {
		t.Run("from "+side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, setup{caller: pipeWire, backend: pipeWire, options: keptAlive()})
				sender, receiver := b.of(side)
				raw := frame{
					fin:     true,
					opcode:  1,
					payload: bytes.Repeat([]byte("x"), 100<<10),
				}.encode(sender.key())
				stopped := make(chan struct{})
				go func() { // a piece every 15 s: the sender is never silent, the receiver is for 60 s
					for i := range 4 {
						sender.sendRaw(raw[i*len(raw)/4 : (i+1)*len(raw)/4])
						time.Sleep(15 * time.Second)
					}
					close(stopped)
				}()
				got := make([]byte, len(raw))
				_ = receiver.conn.SetReadDeadline(time.Time{})
				for n := 0; n < len(got); {
					m, err := receiver.in.Read(got[n:])
					require.NoError(t, err)
					n += m
				}
				require.Equal(t, raw, got)
				began := time.Now()
				_ = receiver.conn.SetReadDeadline(time.Time{})
				f, err := readFrame(receiver.in, !receiver.client)
				require.NoError(t, err)
				require.EqualValues(t, opPing, f.opcode, "%q", f.payload)
				require.LessOrEqual(t, time.Since(began), retryPing, "as soon as there is room")
				<-stopped
			})
		})
	}
}

// ownLimits sets the limits of its own that one end has.
func ownLimits(of string, read, write time.Duration) func(string, *Endpoint) {
	return func(side string, e *Endpoint) {
		if side == of {
			e.ReadTimeout, e.WriteTimeout = read, write
		}
	}
}

// Of the options' limit on silence and the endpoint's own, the shorter one holds,
// and only for that end.
func TestReadTimeoutOfOneEndBoundsItsSilence(t *testing.T) {
	for name, test := range map[string]struct {
		read, want time.Duration
	}{
		"shorter than the ping interval": {6 * time.Second, 6 * time.Second},
		"shorter than both":              {25 * time.Second, 25 * time.Second},
		"longer":                         {time.Minute, 30 * time.Second},
		"the longest there is":           {1<<63 - 1, 30 * time.Second},
		"the shortest there is":          {1, time.Millisecond},
	} {
		for _, side := range sides {
			t.Run(name+"/"+side, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := start(t, setup{
						caller:  pipeWire,
						backend: pipeWire,
						options: keptAlive(),
						own:     ownLimits(side, test.read, 0),
					})
					silent, survivor := b.of(side)
					go survivor.answerPings()
					_ = silent.conn.SetReadDeadline(time.Time{})
					go func() { _, _ = io.Copy(io.Discard, silent.conn) }() // takes pings, and answers none
					began := time.Now()
					<-b.pair.Done()
					b.wantsEnded(side, EndSilent)
					require.InDelta(t, test.want, time.Since(began), float64(time.Millisecond))
				})
			})
		}
	}
}

func TestReadTimeoutOfOneEndLetsAQuietOneLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, setup{
			caller:  pipeWire,
			backend: pipeWire,
			options: keptAlive(),
			own:     ownLimits(ByBackend, 3*time.Second, 0),
		})
		counts := make(map[string]chan int)
		for side, p := range map[string]*peer{ByCaller: b.caller, ByBackend: b.backend} {
			count := make(chan int, 1)
			counts[side] = count
			go func() { _, pings := p.answerPings(); count <- pings }()
		}
		time.Sleep(time.Hour)
		require.Empty(t, b.ended)
		b.pair.Shutdown(1001, "enough", time.Second)
		<-b.pair.Done()
		require.InDelta(t, 3600/2, <-counts[ByBackend], 2, "pinged after two of the three seconds")
		require.InDelta(t, 3600/20, <-counts[ByCaller], 2, "the other end is pinged as before")
	})
}
