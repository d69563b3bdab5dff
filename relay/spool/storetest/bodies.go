package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

var bodies = map[string]func(*harness){
	"bodies of any size are kept":                  anySize,
	"a body can be read from anywhere":             seeking,
	"many large bodies at once take little memory": largeBodiesTakeLittleMemory,
	"a discarded body leaves nothing":              discarded,
	"a body can be read until its delivery ends":   readWhileLeased,
}

// random makes bytes that are the same for the same seed.
type random struct {
	rest int64
	seed *rand.PCG
}

func newRandom(size int64, seed uint64) *random {
	return &random{rest: size, seed: rand.NewPCG(seed, 1)}
}

func (r *random) Read(p []byte) (int, error) {
	if r.rest == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), r.rest))
	for i := 0; i < n; i += 8 {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], r.seed.Uint64())
		copy(p[i:n], b[:])
	}
	r.rest -= int64(n)
	return n, nil
}

// stream writes a body of random bytes, in parts of so many bytes, and accepts it.
func stream(
	ctx context.Context,
	store spool.Store,
	size int64,
	seed uint64,
	part int,
	key uint64,
) (spool.ID, error) {
	body, err := store.NewBody(ctx, size)
	if err != nil {
		return spool.ID{}, err
	}
	buffer := make([]byte, part)
	for from := newRandom(size, seed); ; {
		n, err := from.Read(buffer)
		if err == io.EOF {
			break
		}
		if _, err := body.Write(buffer[:n]); err != nil {
			body.Discard()
			return spool.ID{}, err
		}
	}
	receipt, err := store.Accept(ctx, sample{key: key}.message(), spool.Fingerprint{}, 0, body)
	return receipt.ID, err
}

func digest(from io.Reader, part int) []byte {
	sum := sha256.New()
	buffer := make([]byte, part)
	if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{from}, buffer); err != nil {
		return []byte(err.Error())
	}
	return sum.Sum(nil)
}

const part = 32 << 10 // a multiple of 8, as random wants it

func anySize(h *harness) {
	sizes := []int64{
		0,
		1,
		4095,
		64<<10 - 1,
		64 << 10,
		64<<10 + 1,
		256<<10 - 1,
		256 << 10,
		256<<10 + 1,
		1<<20 + 3,
	}
	if !testing.Short() {
		sizes = append(sizes, 64<<20)
	}
	ids := make([]spool.ID, len(sizes))
	for i, size := range sizes {
		var err error
		ids[i], err = stream(h.background(), h.Store, size, uint64(i), part, uint64(i+1))
		require.NoError(h, err)
	}
	for range 2 {
		for i, size := range sizes {
			require.Equal(h, size, h.get(ids[i]).Size)
			body, err := h.Body(h.background(), ids[i])
			require.NoError(h, err)
			require.Equal(h, size, body.Size())
			require.True(
				h,
				bytes.Equal(digest(newRandom(size, uint64(i)), part), digest(body, 10_007)),
				"body of %d bytes",
				size,
			)
			require.NoError(h, body.Close())
		}
		h.reopen()
	}
	for _, lease := range h.leaseAll(spool.LeaseRequest{Route: route, Max: 100}) {
		h.settle(lease, spool.Done)
	}
	h.flush()
	require.Empty(h, h.counts().Routes)
	h.requireGone(ids[len(ids)-1])
}

func seeking(h *harness) {
	for _, size := range []int64{1000, 700_000} {
		id, err := stream(h.background(), h.Store, size, 1, part, 0)
		require.NoError(h, err)
		want, err := io.ReadAll(newRandom(size, 1))
		require.NoError(h, err)
		body, err := h.Body(h.background(), id)
		require.NoError(h, err)
		for _, c := range []struct {
			offset int64
			whence int
			at     int64
		}{{size / 2, io.SeekStart, size / 2}, {-10, io.SeekEnd, size - 10}, {0, io.SeekStart, 0}, {100, io.SeekCurrent, 100}, {0, io.SeekEnd, size}, {1, io.SeekStart, 1}} {
			at, err := body.Seek(c.offset, c.whence)
			require.NoError(h, err)
			require.Equal(h, c.at, at)
			got := make([]byte, min(7, size-at))
			_, err = io.ReadFull(body, got)
			require.NoError(h, err)
			require.Equal(h, want[at:at+int64(len(got))], got)
			_, err = body.Seek(at, io.SeekStart)
			require.NoError(h, err)
		}
		_, err = body.Seek(-1, io.SeekStart)
		require.Error(h, err)
		_, err = body.Seek(0, io.SeekStart)
		require.NoError(h, err)
		got, err := io.ReadAll(body)
		require.NoError(h, err)
		require.True(h, bytes.Equal(want, got))
		n, err := body.Read(make([]byte, 1))
		require.Zero(h, n)
		require.Equal(h, io.EOF, err)
		require.NoError(h, body.Close())
	}
}

func largeBodiesTakeLittleMemory(h *harness) {
	const many, allowed = 24, 48 << 20
	size := int64(8 << 20)
	if testing.Short() {
		size = 4 << 20
	}
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	var peak atomic.Uint64
	stop := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				runtime.GC() // so that it is what is needed, not what is left
				var now runtime.MemStats
				runtime.ReadMemStats(&now)
				peak.Store(max(peak.Load(), now.HeapAlloc))
			}
		}
	}()
	ids := make([]spool.ID, many)
	inParallel(many, func(i int) {
		var err error
		if ids[i], err = stream(h.background(), h.Store, size, uint64(i), part, 0); err != nil {
			h.Error(err)
		}
	})
	inParallel(many, func(i int) {
		body, err := h.Body(h.background(), ids[i])
		if err != nil {
			h.Error(err)
			return
		}
		defer func() { _ = body.Close() }()
		if !bytes.Equal(digest(newRandom(size, uint64(i)), part), digest(body, part)) {
			h.Error("the bytes are not those that were accepted")
		}
	})
	close(stop)
	<-watched
	grown := int64(peak.Load()) - int64(before.HeapAlloc)
	h.Logf("%d MB more memory for %d bodies of %d MB", grown>>20, many, size>>20)
	if h.factory.Abandon != nil { // it is not memory itself that the bodies are in
		require.Less(h, grown, int64(allowed))
	}
}

func discarded(h *harness) {
	before := h.counts()
	for _, size := range []int{0, 1000, 1_000_000} {
		body, err := h.NewBody(h.background(), -1)
		require.NoError(h, err)
		_, err = body.Write(make([]byte, size))
		require.NoError(h, err)
		body.Discard()
		body.Discard()
	}
	id := h.accept(sample{text: "a"})
	_, err := h.Drop(h.background(), id)
	require.NoError(h, err)
	eventually(h, func() bool { return h.counts().Bytes <= before.Bytes+64<<10 })
	require.Empty(h, h.counts().Routes)
}

func readWhileLeased(h *harness) {
	for _, size := range []int64{1000, 600_000} {
		id, err := stream(h.background(), h.Store, size, 3, part, 1)
		require.NoError(h, err)
		lease := h.leaseOne()
		body, err := h.Body(h.background(), id)
		require.NoError(h, err)
		_, err = h.Drop(h.background(), id)
		require.ErrorIs(h, err, spool.ErrInFlight)
		require.True(
			h,
			bytes.Equal(digest(newRandom(size, 3), part), digest(body, 999)),
			fmt.Sprint(size),
		)
		require.NoError(h, body.Close())
		h.settle(lease, spool.Done)
		h.flush()
		h.requireGone(id)
	}
}
