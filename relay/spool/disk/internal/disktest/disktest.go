// Package disktest has what the tests of the engine and of the rescue share: inboxes with a bit of
// everything in them, and ways to damage them.
package disktest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	// PageSize is that of the indexes here.
	PageSize = 4096

	// PageHeader and PageElement are the sizes of what bbolt has at the beginning of a page.
	PageHeader  = 16
	PageElement = 16
)

// TempDir is t.TempDir in memory, where there is such a thing: what these tests show does not
// depend on how long a disk takes.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "spool")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// KeyOf is an order key for a text.
func KeyOf(text string) uint64 {
	sum := sha256.Sum256([]byte(text))
	return binary.BigEndian.Uint64(sum[:])
}

// Keep accepts a message of its own order key straight into the store.
func Keep(t testing.TB, d spool.Store, text string) spool.Receipt {
	t.Helper()
	body, err := d.NewBody(context.Background(), int64(len(text)))
	require.NoError(t, err)
	_, err = body.Write([]byte(text))
	require.NoError(t, err)
	now := time.Now()
	msg := &spool.Message{
		State:         spool.Pending,
		Route:         "r",
		OrderKey:      KeyOf(text),
		ReceivedAt:    now,
		ScheduledFrom: now,
	}
	receipt, err := d.Accept(context.Background(), msg, sha256.Sum256([]byte(text)), time.Hour, body)
	require.NoError(t, err)
	return receipt
}

// Fill makes an inbox in which every bucket has entries, some of them over several pages, and
// returns how many messages are in it. It is left as a process leaves it that is killed, if so
// asked: without the list of free pages.
func Fill(
	t testing.TB,
	dir string,
	open func(dir string) (spool.Store, error),
	killed bool,
) (count int) {
	t.Helper()
	ctx := context.Background()
	d, err := open(dir)
	require.NoError(t, err)
	for i := range 120 {
		Keep(t, d, fmt.Sprint("message ", i))
	}
	Keep(t, d, strings.Repeat("large", 64<<10))
	leased, err := d.Lease(context.Background(), spool.LeaseRequest{Route: "r", Max: 50})
	require.NoError(t, err)
	require.Len(t, leased.Leases, 50)
	var dead []spool.ID
	for i, lease := range leased.Leases {
		s := spool.Settlement{
			Verdict: spool.Verdict(i % 3), Keep: i%2 == 0, Delay: time.Hour,
			Attempt: spool.Attempt{At: time.Now(), Status: 500, Error: "x", Upstream: "10.0.0.1:80"},
		}
		if s.Verdict == spool.Bury {
			dead = append(dead, lease.Message.ID)
		}
		d.Settle(lease, s)
	}
	require.NoError(t, d.Flush(ctx))
	for _, id := range dead[:4] {
		require.NoError(t, d.Replay(ctx, id))
	}
	require.NoError(t, d.Pause(ctx, "paused", true))
	require.NoError(t, d.NoteStream(ctx, LiveStream))
	count = len(Everything(t, d))
	if killed {
		Copy(t, dir, dir+".copy")
		require.NoError(t, d.Close(context.Background()))
		require.NoError(t, os.RemoveAll(dir))
		require.NoError(t, os.Rename(dir+".copy", dir))
		return count
	}
	require.NoError(t, d.Close(context.Background()))
	return count
}

// LiveStream is one that Fill leaves open.
var LiveStream = spool.OpenStream{ID: "live", Route: "calls", Data: []byte("data\x00\xff")}

// Everything reads everything there is.
func Everything(t testing.TB, d spool.Store) map[spool.ID]string {
	t.Helper()
	list, err := d.List(context.Background(), spool.Filter{Limit: 1 << 20})
	require.NoError(t, err)
	content := make(map[spool.ID]string)
	for _, m := range list {
		body, err := d.Body(context.Background(), m.ID)
		require.NoError(t, err)
		b, err := io.ReadAll(body)
		require.NoError(t, err)
		require.NoError(t, body.Close())
		content[m.ID] = string(b)
	}
	return content
}

func Copy(t testing.TB, from, to string) {
	t.Helper()
	require.NoError(t, os.CopyFS(to, os.DirFS(from)))
	require.NoError(t, os.Chmod(to, 0o700))
}

// Damages are ways to Spoil a page of a file, by name.
var Damages = map[string]func(rng *rand.Rand, file []byte, page int) []byte{
	"zeros": func(_ *rand.Rand, file []byte, page int) []byte {
		clear(file[page*PageSize : (page+1)*PageSize])
		return file
	},
	"noise": func(rng *rand.Rand, file []byte, page int) []byte {
		for i := range PageSize {
			file[page*PageSize+i] = byte(rng.Uint32())
		}
		return file
	},
	"noise behind the header": func(rng *rand.Rand, file []byte, page int) []byte {
		for i := PageHeader; i < PageSize; i++ {
			file[page*PageSize+i] = byte(rng.Uint32())
		}
		return file
	},
	"one bit": func(rng *rand.Rand, file []byte, page int) []byte {
		file[page*PageSize+rng.IntN(PageSize)] ^= 1 << rng.IntN(8)
		return file
	},
	"one bit near the header": func(rng *rand.Rand, file []byte, page int) []byte {
		file[page*PageSize+rng.IntN(256)] ^= 1 << rng.IntN(8)
		return file
	},
	"a sector of zeros": func(rng *rand.Rand, file []byte, page int) []byte {
		at := page*PageSize + 512*rng.IntN(PageSize/512)
		clear(file[at : at+512])
		return file
	},
	"cut off": func(rng *rand.Rand, file []byte, page int) []byte {
		return file[:page*PageSize+rng.IntN(PageSize)]
	},
	"another page in its place": func(rng *rand.Rand, file []byte, page int) []byte {
		other := rng.IntN(len(file) / PageSize)
		copy(file[page*PageSize:(page+1)*PageSize], file[other*PageSize:(other+1)*PageSize])
		return file
	},
	"another page under its name": func(rng *rand.Rand, file []byte, page int) []byte {
		other := rng.IntN(len(file) / PageSize)
		if isOfBuckets(file[other*PageSize:]) {
			return file // which may be the inbox as it once was, and nothing could tell
		}
		copy(file[page*PageSize+8:(page+1)*PageSize], file[other*PageSize+8:(other+1)*PageSize])
		return file
	},
	"a pointer to anywhere": func(rng *rand.Rand, file []byte, page int) []byte {
		at := page*PageSize + PageHeader + PageElement*rng.IntN(4) + 8
		binary.NativeEndian.PutUint64(file[at:], rng.Uint64N(uint64(len(file)/PageSize)))
		return file
	},
}

// Spoil overwrites a part of a file in place, as nothing but a fault of the disk does, and
// returns how to mend it.
func Spoil(t *testing.T, path string, from, to int64, b func([]byte)) (mend func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	info, err := f.Stat()
	require.NoError(t, err)
	old := make([]byte, min(to, info.Size())-from)
	_, err = f.ReadAt(old, from)
	require.NoError(t, err)
	spoiled := append([]byte(nil), old...)
	b(spoiled)
	_, err = f.WriteAt(spoiled, from)
	require.NoError(t, err)
	return func() {
		_, err := f.WriteAt(old, from)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
}

func Noise(b []byte) {
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
}

func Zero(b []byte) { clear(b) }

// TryKeep tries to keep a message, which need not work.
func TryKeep(d spool.Store, text string) error {
	body, err := d.NewBody(context.Background(), int64(len(text)))
	if err != nil {
		return err
	}
	if _, err := body.Write([]byte(text)); err != nil {
		body.Discard()
		return err
	}
	msg := &spool.Message{
		Route:         "r",
		OrderKey:      KeyOf(text),
		ReceivedAt:    time.Now(),
		ScheduledFrom: time.Now(),
	}
	_, err = d.Accept(context.Background(), msg, spool.Fingerprint{}, 0, body)
	return err
}

// FirstMessage returns the record of the first message of a page, or nil if it is not a page of
// messages.
func FirstMessage(page []byte) []byte {
	const leaf, idKey = 0x02, 4 + 16
	kind, count := binary.NativeEndian.Uint16(page[8:]), binary.NativeEndian.Uint16(page[10:])
	if kind != leaf || count == 0 {
		return nil
	}
	element := page[PageHeader:] // flags, where the key is from here, the sizes of key and value
	at := binary.NativeEndian.Uint32(element[4:])
	keySize, size := binary.NativeEndian.Uint32(element[8:]), binary.NativeEndian.Uint32(element[12:])
	if keySize != idKey || uint64(at)+uint64(keySize)+uint64(size) > uint64(len(element)) {
		return nil
	}
	return element[at+keySize : at+keySize+size]
}

// isOfBuckets reports whether a page is the one that the buckets are found on, or was once.
func isOfBuckets(page []byte) bool {
	const leaf, bucket = 0x02, 0x01
	kind, count := binary.NativeEndian.Uint16(page[8:]), binary.NativeEndian.Uint16(page[10:])
	return kind == leaf && count > 0 && binary.NativeEndian.Uint32(page[PageHeader:]) == bucket
}
