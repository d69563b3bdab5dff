package rescue

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/internal/disktest"
)

// inboxWithEverything is [disktest.Fill] with the engine.
func inboxWithEverything(t testing.TB, dir string, killed bool) (count int) {
	t.Helper()
	return disktest.Fill(t, dir, func(dir string) (spool.Store, error) {
		return disk.Open(dir, disk.Options{})
	}, killed)
}

func openInbox(t testing.TB, dir string) *disk.Store {
	t.Helper()
	d, err := disk.Open(dir, disk.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close(context.Background())) })
	return d
}

func counts(t testing.TB, d *disk.Store) spool.Counts {
	t.Helper()
	counts, err := d.Counts(context.Background())
	require.NoError(t, err)
	return counts
}

// No checksum covers the key of a record, but its body knows whose it is.
func TestRecoverFindsTheRightIDOfARecord(t *testing.T) {
	whole := filepath.Join(disktest.TempDir(t), "whole")
	inboxWithEverything(t, whole, false)
	disktest.Copy(t, whole, whole+"2")
	d, err := disk.Open(whole+"2", disk.Options{})
	require.NoError(t, err)
	want := disktest.Everything(t, d)
	list, err := d.List(context.Background(), spool.Filter{Limit: 1000})
	require.NoError(t, err)
	ids := list[:16]
	require.NoError(t, d.Close(context.Background()))
	raw, err := os.ReadFile(filepath.Join(whole, index.FileName))
	require.NoError(t, err)

	for i, m := range ids {
		dir := filepath.Join(disktest.TempDir(t), "inbox")
		disktest.Copy(t, whole, dir)
		spoiled := append([]byte(nil), raw...)
		for at := 0; ; at += len(m.ID) {
			next := bytes.Index(spoiled[at:], m.ID[:])
			if next < 0 {
				break
			}
			if at += next; isRecord(spoiled[at+len(m.ID):]) {
				spoiled[at+i] ^= 1 << (i % 8)
			}
		}
		require.NotEqual(t, raw, spoiled)
		require.NoError(t, os.WriteFile(filepath.Join(dir, index.FileName), spoiled, bodies.FilePerm))
		r, err := Recover(context.Background(), dir, dir+".recovered")
		require.NoError(t, err)
		require.Positive(t, r.Uncertain)
		d, err := disk.Open(r.Into, disk.Options{})
		require.NoError(t, err)
		require.Equal(t, want, disktest.Everything(t, d), "byte %d", i)
		require.NoError(t, disktest.TryKeep(d, "more"))
		require.NoError(t, d.Close(context.Background()))
	}
}

// isRecord reports whether there is the record of a message at the beginning of b.
func isRecord(b []byte) bool {
	for size := range min(len(b), 1<<10) {
		if index.Record(b[:size]).Intact() {
			return true
		}
	}
	return false
}

// pageOfBuckets returns the page from which bbolt finds the buckets.
func pageOfBuckets(t *testing.T, path string) (page int) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	require.NoError(t, err)
	require.NoError(t, db.View(func(tx *bolt.Tx) error {
		page = int(tx.Cursor().Bucket().Root())
		return nil
	}))
	require.NoError(t, db.Close())
	return page
}

// A copy of the inbox that was made while it was whole tells what there was.
func TestRecoverSavesWhatIsWhole(t *testing.T) {
	whole := filepath.Join(disktest.TempDir(t), "whole")
	count := inboxWithEverything(t, whole, true)
	disktest.Copy(t, whole, whole+"2")
	d, err := disk.Open(whole+"2", disk.Options{})
	require.NoError(t, err)
	want := disktest.Everything(t, d)
	root := pageOfBuckets(t, filepath.Join(whole, index.FileName))
	require.NoError(t, d.Close(context.Background()))
	raw, err := os.ReadFile(filepath.Join(whole, index.FileName))
	require.NoError(t, err)

	rng := rand.New(rand.NewPCG(3, 4))
	kinds := slices.Sorted(maps.Keys(disktest.Damages))
	for page := range min(len(raw)/disktest.PageSize, 40) {
		for _, name := range []string{"zeros", kinds[page%len(kinds)]} {
			what := fmt.Sprintf("%s in page %d", name, page)
			dir := filepath.Join(disktest.TempDir(t), "inbox")
			disktest.Copy(t, whole, dir)
			require.NoError(
				t,
				os.WriteFile(
					filepath.Join(dir, index.FileName),
					disktest.Damages[name](rng, append([]byte(nil), raw...), page),
					bodies.FilePerm,
				),
			)
			r, err := Recover(context.Background(), dir, dir+".recovered")
			require.NoError(t, err, what)
			d, err := disk.Open(r.Into, disk.Options{})
			require.NoError(t, err, what)
			got := disktest.Everything(t, d)
			for id, body := range got {
				if old, known := want[id]; known {
					require.Equal(t, old, body, what)
				} else if page > 1 && len(body) <= bodies.MaxSmall {
					// The older root is of when the last ones were not delivered.
					require.Positive(t, r.Uncertain, what)
				}
			}
			require.Equal(t, len(got), r.Pending+r.Dead+r.Delivered, what)
			require.NoError(t, disktest.TryKeep(d, "more"), what)
			require.NoError(t, d.Close(context.Background()), what)
			if name == "zeros" && (page == root || page < 2) {
				for id := range want {
					require.Contains(t, got, id, "%s: no record was on it", what)
				}
			}
			if name == "zeros" { // which is never taken for something else
				require.GreaterOrEqual(t, len(got)+len(r.Lost)+int(r.Missing), count, what)
				if len(got) < count {
					require.NotEmpty(t, r.Damage, what)
					require.GreaterOrEqual(t, r.Bodies, 1, what)
				}
			}
			require.NoError(t, os.RemoveAll(filepath.Dir(dir)))
		}
	}
}

func TestRecoverOfAWholeInboxIsACopy(t *testing.T) {
	for _, killed := range []bool{false, true} {
		dir := filepath.Join(disktest.TempDir(t), "inbox")
		inboxWithEverything(t, dir, killed)
		r, err := Recover(context.Background(), dir, dir+".recovered")
		require.NoError(t, err)
		require.Empty(t, r.Lost)
		require.Empty(t, r.Damage)
		require.Zero(t, r.Missing+int64(r.Uncertain+r.Bodies))

		old := openInbox(t, dir)
		recovered := openInbox(t, r.Into)
		require.Equal(t, disktest.Everything(t, old), disktest.Everything(t, recovered))
		a, err := old.List(context.Background(), spool.Filter{Limit: 1000})
		require.NoError(t, err)
		b, err := recovered.List(context.Background(), spool.Filter{Limit: 1000})
		require.NoError(t, err)
		require.Equal(t, a, b)
		require.Equal(t, counts(t, old).Routes, counts(t, recovered).Routes)
		require.Equal(t, counts(t, old).Fingerprints, counts(t, recovered).Fingerprints)

		lost, err := recovered.LostStreams(context.Background())
		require.NoError(t, err)
		require.Equal(t, []spool.OpenStream{disktest.LiveStream}, lost)

		first := disktest.Keep(t, recovered, "message 0")
		require.True(t, first.Duplicate, "the fingerprints are there")
		_, err = Recover(context.Background(), r.Into, dir+".again")
		require.ErrorIs(t, err, spool.ErrLocked)
		_, err = Recover(context.Background(), dir, r.Into)
		require.ErrorContains(t, err, "is there already")
	}
}

func TestRecoverSurvivesAnyBytes(t *testing.T) {
	for name, raw := range map[string][]byte{
		"nothing": {}, "text": []byte("hello"), "zeros": make([]byte, 100_000),
		"records of nonsense": nonsenseRecords(),
	} {
		t.Run(name, func(t *testing.T) {
			dir := disktest.TempDir(t)
			require.NoError(t, os.WriteFile(filepath.Join(dir, index.FileName), raw, bodies.FilePerm))
			require.NoError(t, os.Mkdir(filepath.Join(dir, bodies.SegmentDir), bodies.DirPerm))
			bytes := make([]byte, 300_000)
			disktest.Noise(bytes)
			for i := 0; i+4 < len(bytes); i += 1000 {
				copy(bytes[i:], "\xdb\x0d\x1e\x55") // as before a body
			}
			require.NoError(
				t,
				os.WriteFile(
					filepath.Join(dir, bodies.SegmentDir, bodies.SegmentName(1)),
					bytes,
					bodies.FilePerm,
				),
			)
			r, err := Recover(context.Background(), dir, filepath.Join(disktest.TempDir(t), "new"))
			require.NoError(t, err)
			require.Zero(t, r.Pending+r.Dead+r.Delivered+r.Bodies)
			require.NotEmpty(t, r.Damage)
		})
	}
}

// nonsenseRecords are whole records that point to what is not there.
func nonsenseRecords() []byte {
	var b []byte
	var ids spool.IDSource
	for i := range 50 {
		m := &index.Entry{
			Message: spool.Message{Method: "POST", URI: "/hook", RequestID: "x", ReceivedAt: time.Now()},
		}
		m.Where = bodies.Location{Segment: uint32(i % 3), Offset: int64(i) << 40, Size: int64(i) << 20}
		b = append(b, index.IDKey(uint32(i), ids.Next(time.Now()))...)
		b = index.AppendRecord(b, m)
	}
	return b
}

// FuzzRecover has whatever bytes recovered.
func FuzzRecover(f *testing.F) {
	f.Add(nonsenseRecords(), []byte{0xdb, 0x0d, 0x1e, 0x55})
	f.Add([]byte{}, []byte{})
	scratch := disktest.TempDir(f)
	f.Fuzz(func(t *testing.T, raw, segment []byte) {
		dir, into := filepath.Join(scratch, "inbox"), filepath.Join(scratch, "new")
		for _, path := range []string{dir, into, bodiesBeside(into)} {
			require.NoError(t, os.RemoveAll(path))
		}
		require.NoError(t, os.MkdirAll(filepath.Join(dir, bodies.SegmentDir), bodies.DirPerm))
		require.NoError(t, os.WriteFile(filepath.Join(dir, index.FileName), raw, bodies.FilePerm))
		require.NoError(
			t,
			os.WriteFile(
				filepath.Join(dir, bodies.SegmentDir, bodies.SegmentName(1)),
				segment,
				bodies.FilePerm,
			),
		)
		_, err := Recover(context.Background(), dir, into)
		require.NoError(t, err)
	})
}
