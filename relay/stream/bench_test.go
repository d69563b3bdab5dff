package stream

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkMessages measures how fast one pair over TCP forwards messages of 1.5 KB.
func BenchmarkMessages(b *testing.B) {
	for _, wireName := range []string{"tcp", "tls to caller"} {
		b.Run(wireName, func(b *testing.B) {
			w := wires[wireName]
			pair := start(b, setup{caller: w.caller, backend: w.backend})
			raw := frame{fin: true, opcode: 1, payload: bytes.Repeat([]byte("x"), 1500)}.encode(testKey)
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			go func() {
				for range b.N {
					if _, err := pair.caller.conn.Write(raw); err != nil {
						return
					}
				}
			}()
			if _, err := io.CopyN(io.Discard, pair.backend.conn, int64(b.N*len(raw))); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkRoundTrip measures one message there and one back, each waited for, as on a stream that
// is never busy: that is, what it costs to wake up.
func BenchmarkRoundTrip(b *testing.B) {
	pair := start(b, setup{})
	there := frame{fin: true, opcode: 1, payload: bytes.Repeat([]byte("x"), 1500)}.encode(testKey)
	back := text("ok").encode(nil)
	buf := make([]byte, len(there))
	b.ReportAllocs()
	for b.Loop() {
		for _, step := range []struct {
			from, to net.Conn
			raw      []byte
		}{{pair.caller.conn, pair.backend.conn, there}, {pair.backend.conn, pair.caller.conn, back}} {
			if _, err := step.from.Write(step.raw); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(step.to, buf[:len(step.raw)]); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkIdlePair measures what a pair adds to the memory of its two connections while it is
// idle, after a message of each size has gone both ways. With TLS, what the two ends of that
// connection keep is measured too. The runtime adapts the size of new goroutines' stacks to the
// goroutines it has seen, so one case at a time and -benchtime 1x comes closest to a process full
// of pairs.
func BenchmarkIdlePair(b *testing.B) {
	for _, wireName := range []string{"tcp", "tls to caller"} {
		for _, size := range []int{-1, 100, 1500, 100 << 10} {
			after := strings.ReplaceAll(strconv.Itoa(size), "-1", "no")
			b.Run(fmt.Sprintf("%s/after %s bytes", wireName, after), func(b *testing.B) {
				for b.Loop() {
					heap, stacks := idleMemory(b, wireName, size)
					b.ReportMetric(heap, "heap-bytes/pair")
					b.ReportMetric(stacks, "stack-bytes/pair")
					b.ReportMetric(heap+stacks, "bytes/pair")
				}
			})
		}
	}
}

func idleMemory(b *testing.B, wireName string, size int) (heap, stacks float64) {
	const count = 2000
	w := wires[wireName]
	type ends struct{ caller, farCaller, backend, farBackend net.Conn }
	all := make([]ends, count)
	for i := range all {
		e := &all[i]
		e.caller, e.farCaller = w.caller(b, true)
		e.backend, e.farBackend = w.backend(b, false)
	}
	defer func() {
		for _, e := range all {
			_ = e.farCaller.Close()
			_ = e.farBackend.Close()
		}
	}()

	var before, after runtime.MemStats
	measure(&before)
	pairs := make([]*Pair, count)
	for i, e := range all {
		pairs[i] = Start(Endpoint{Conn: e.caller}, Endpoint{Conn: e.backend}, generous, func(End) {})
	}
	if size >= 0 {
		there := frame{fin: true, opcode: 1, payload: make([]byte, size)}.encode(testKey)
		back := frame{fin: true, opcode: 1, payload: make([]byte, size)}.encode(nil)
		buf := make([]byte, len(there))
		for _, e := range all {
			go func() { _, _ = e.farCaller.Write(there) }()
			_, err := io.ReadFull(e.farBackend, buf)
			require.NoError(b, err)
			go func() { _, _ = e.farBackend.Write(back) }()
			_, err = io.ReadFull(e.farCaller, buf[:len(back)])
			require.NoError(b, err)
		}
	}
	measure(&after)
	for i, e := range all {
		_ = e.farCaller.Close()
		_ = e.farBackend.Close()
		select {
		case <-pairs[i].Done():
		case <-time.After(patience):
			b.Fatal("a pair did not end")
		}
	}
	return (float64(after.HeapInuse) - float64(before.HeapInuse)) / count,
		(float64(after.StackInuse) - float64(before.StackInuse)) / count
}

// measure reads the memory statistics after everything that can be freed is.
func measure(stats *runtime.MemStats) {
	for range 3 { // a pool forgets what it holds in two collections
		runtime.GC()
	}
	runtime.ReadMemStats(stats)
}
