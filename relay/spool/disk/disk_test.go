package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/internal/disktest"
)

func openTestDisk(t testing.TB, dir string, options Options) *Store {
	t.Helper()
	d, err := Open(dir, options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close(context.Background())) })
	return d
}

func counts(t testing.TB, d *Store) spool.Counts {
	t.Helper()
	counts, err := d.Counts(context.Background())
	require.NoError(t, err)
	return counts
}

func leaseAll(t testing.TB, d *Store) []*spool.Lease {
	t.Helper()
	var all []*spool.Lease
	for {
		require.NoError(t, d.Flush(context.Background()))
		leased, err := d.Lease(context.Background(), spool.LeaseRequest{Route: "r", Max: 1000})
		require.NoError(t, err)
		tried, err := d.Lease(
			context.Background(),
			spool.LeaseRequest{Route: "r", Max: 1000, Tried: true},
		)
		require.NoError(t, err)
		if len(leased.Leases)+len(tried.Leases) == 0 {
			return all
		}
		all = append(append(all, leased.Leases...), tried.Leases...)
	}
}

func TestASecondProcessIsKeptOut(t *testing.T) {
	dir := filepath.Join(disktest.TempDir(t), "inbox")
	openTestDisk(t, dir, Options{})
	began := time.Now()
	_, err := Open(dir, Options{})
	require.ErrorIs(t, err, spool.ErrLocked)
	require.ErrorContains(t, err, dir)
	require.ErrorContains(t, err, "in use by another process")
	require.Less(t, time.Since(began), time.Second)
}

func TestEverythingIsClosedToOthers(t *testing.T) {
	dir := filepath.Join(disktest.TempDir(t), "a", "b")
	d := openTestDisk(t, dir, Options{})
	disktest.Keep(t, d, "small")
	disktest.Keep(t, d, strings.Repeat("large", bodies.MaxSmall))
	n := 0
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := entry.Info()
		require.NoError(t, err)
		want := bodies.FilePerm
		if entry.IsDir() {
			want = bodies.DirPerm
		}
		require.Equal(t, want, info.Mode().Perm(), path)
		n++
		return nil
	}))
	require.GreaterOrEqual(t, n, 8)
}

func TestADirectoryWithOtherThingsInItStaysAsItIs(t *testing.T) {
	dir := disktest.TempDir(t)
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "else"), nil, 0o644))
	openTestDisk(t, dir, Options{})
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o755), info.Mode().Perm())
}

func TestWhatIsNotAnInboxIsRefusedAndLeftAlone(t *testing.T) {
	whole := disktest.TempDir(t)
	d, err := Open(whole, Options{})
	require.NoError(t, err)
	for i := range 200 {
		disktest.Keep(t, d, fmt.Sprint(i))
	}
	require.NoError(t, d.Close(context.Background()))
	inbox, err := os.ReadFile(filepath.Join(whole, index.FileName))
	require.NoError(t, err)

	for name, c := range map[string]struct {
		index []byte
		want  error
	}{
		"empty":            {[]byte{}, spool.ErrForeign},
		"text":             {[]byte("hello"), spool.ErrForeign},
		"long text":        {bytes.Repeat([]byte("hello"), 10_000), spool.ErrForeign},
		"zeros":            {make([]byte, 1<<20), spool.ErrForeign},
		"cut off":          {inbox[:3*len(inbox)/8/4096*4096], spool.ErrDamaged},
		"another database": {boltFile(t, "other", ""), spool.ErrForeign},
		"another version":  {boltFile(t, "state", "deepgram-callback inbox 99"), spool.ErrForeign},
	} {
		t.Run(name, func(t *testing.T) {
			dir := disktest.TempDir(t)
			path := filepath.Join(dir, index.FileName)
			require.NoError(t, os.WriteFile(path, c.index, 0o600))
			_, err := Open(dir, Options{})
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, path)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, c.index, after)

			// And nothing of it stays open.
			require.NoError(t, os.WriteFile(path, inbox, 0o600))
			d, err := Open(dir, Options{})
			require.NoError(t, err)
			require.NoError(t, d.Close(context.Background()))
		})
	}

	t.Run("a directory that cannot be one", func(t *testing.T) {
		path := filepath.Join(disktest.TempDir(t), "file")
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		_, err := Open(path, Options{})
		require.ErrorContains(t, err, path)
	})
}

// boltFile makes a database with all our buckets if first is one of them, or only that one.
func boltFile(t *testing.T, first, format string) []byte {
	path := filepath.Join(disktest.TempDir(t), "db")
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		names := [][]byte{[]byte(first)}
		if format != "" {
			names = names[:0]
			for b := index.State; b <= index.Files; b++ {
				names = append(names, []byte(b.String()))
			}
		}
		for _, name := range names {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(first)).Put([]byte("format"), []byte(format))
	}))
	require.NoError(t, db.Close())
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return content
}

func TestBodiesWithoutTheirIndexAreNotSweptAway(t *testing.T) {
	dir := disktest.TempDir(t)
	d, err := Open(dir, Options{})
	require.NoError(t, err)
	disktest.Keep(t, d, "a")
	require.NoError(t, d.Close(context.Background()))
	require.NoError(t, os.Remove(filepath.Join(dir, index.FileName)))
	_, err = Open(dir, Options{})
	require.ErrorIs(t, err, spool.ErrForeign)
	require.ErrorContains(t, err, "inbox.db is missing")
	entries, err := os.ReadDir(filepath.Join(dir, bodies.SegmentDir))
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

func TestOpeningSweepsWhatNothingPointsTo(t *testing.T) {
	dir := disktest.TempDir(t)
	d, err := Open(dir, Options{})
	require.NoError(t, err)
	kept := strings.Repeat("kept", bodies.MaxSmall)
	receipt := disktest.Keep(t, d, kept)
	disktest.Keep(t, d, "small")

	body, err := d.NewBody(context.Background(), -1) // never finished: the process ends
	require.NoError(t, err)
	_, err = body.Write(bytes.Repeat([]byte("x"), 3*bodies.MaxSmall))
	require.NoError(t, err)
	require.NoError(t, d.Close(context.Background()))
	for _, name := range []string{
		bodies.SegmentDir + "/00ffff00" + bodies.SegmentSuffix, index.DraftName,
		bodies.SegmentDir + "/notes.txt",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600))
	}

	d = openTestDisk(t, dir, Options{})
	names := func(sub string) (names []string) {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		require.NoError(t, err)
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		return names
	}
	require.Len(t, names(bodies.LargeDir), 1)
	require.Equal(t, []string{bodies.SegmentName(1), "notes.txt"}, names(bodies.SegmentDir))
	require.Equal(t, int64(len(kept)), d.files.Bytes())
	msg, err := d.Get(context.Background(), receipt.ID)
	require.NoError(t, err)
	stored, err := d.Body(context.Background(), msg.ID)
	require.NoError(t, err)
	require.NoError(t, stored.Close())
	body.Discard()
}

func TestConcurrentDuplicatesAreOneMessage(t *testing.T) {
	dir := disktest.TempDir(t)
	d := openTestDisk(t, dir, Options{})
	for _, text := range []string{"small", strings.Repeat("large", bodies.MaxSmall)} {
		var mu sync.Mutex
		ids := make(map[spool.ID]int)
		originals := 0
		var writers sync.WaitGroup
		for range 16 {
			writers.Go(func() {
				receipt := disktest.Keep(t, d, text)
				mu.Lock()
				defer mu.Unlock()
				ids[receipt.ID]++
				if !receipt.Duplicate {
					originals++
				}
			})
		}
		writers.Wait()
		require.Len(t, ids, 1)
		require.Equal(t, 1, originals)
	}
	list, err := d.List(context.Background(), spool.Filter{})
	require.NoError(t, err)
	require.Len(t, list, 2)
	entries, err := os.ReadDir(filepath.Join(dir, bodies.LargeDir))
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

func TestADuplicateFailsWithItsOriginal(t *testing.T) {
	fsys := &slowFS{release: make(chan struct{})}
	d := openTestDisk(t, disktest.TempDir(t), Options{fsys: fsys, pause: time.Millisecond})
	fsys.slow.Store(true)
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			body, err := d.NewBody(context.Background(), -1)
			if err == nil {
				_, _ = body.Write([]byte("same"))
				_, err = d.Accept(
					context.Background(),
					&spool.Message{Route: "r"},
					sha256.Sum256([]byte("same")),
					time.Hour,
					body,
				)
			}
			errs <- err
		}()
	}
	close(fsys.release) // whoever was first, nobody can have succeeded
	for range cap(errs) {
		var refused *spool.RefusedError
		require.ErrorAs(t, <-errs, &refused)
		require.Equal(t, spool.ReasonSync, refused.Reason)
	}
	fsys.slow.Store(false)
	require.Eventually(
		t,
		func() bool { return counts(t, d).Refusing == "" },
		time.Minute,
		time.Millisecond,
	)
	require.False(t, disktest.Keep(t, d, "same").Duplicate)
}

func TestDuplicatesAreKnownOverARestartAndWithinTheirWindow(t *testing.T) {
	dir := disktest.TempDir(t)
	d, err := Open(dir, Options{})
	require.NoError(t, err)
	original := disktest.Keep(t, d, "a")
	for _, lease := range leaseAll(t, d) {
		d.Settle(lease, spool.Settlement{Verdict: spool.Done})
	}
	require.NoError(t, d.Close(context.Background()))

	d = openTestDisk(t, dir, Options{})
	again := disktest.Keep(t, d, "a")
	require.Equal(t, spool.Receipt{ID: original.ID, Duplicate: true, Size: 1}, again)

	require.Eventually(
		t,
		func() bool { return time.Since(original.ID.Time()) > 2*time.Millisecond },
		time.Second,
		time.Millisecond,
	)
	body, err := d.NewBody(context.Background(), -1)
	require.NoError(t, err)
	_, _ = body.Write([]byte("a"))
	receipt, err := d.Accept(
		context.Background(),
		&spool.Message{Route: "r"},
		sha256.Sum256([]byte("a")),
		time.Millisecond,
		body,
	)
	require.NoError(t, err)
	require.False(t, receipt.Duplicate, "the window is over")
	require.True(t, disktest.Keep(t, d, "a").Duplicate, "of the later one, or of both")
}

func TestFingerprintsAreForgottenInTime(t *testing.T) {
	dir := disktest.TempDir(t)
	d, err := Open(dir, Options{MaxFingerprints: 50})
	require.NoError(t, err)
	for i := range 300 {
		disktest.Keep(t, d, fmt.Sprint(i))
	}
	require.LessOrEqual(t, counts(t, d).Fingerprints, int64(60))
	require.True(t, disktest.Keep(t, d, "299").Duplicate)
	require.False(t, disktest.Keep(t, d, "0").Duplicate)

	d.SetLimits(spool.Limits{})
	require.Eventually(
		t,
		func() bool { return counts(t, d).Fingerprints < 20 || disktest.Keep(t, d, rnd()).Duplicate },
		time.Minute,
		time.Millisecond,
	)
	require.NoError(t, d.Close(context.Background()))
	d = openTestDisk(t, dir, Options{})
	require.Less(t, counts(t, d).Fingerprints, int64(25))
}

var rndCount int

func rnd() string { rndCount++; return fmt.Sprint("rnd", rndCount) }

func TestASegmentThatIsMostlyDoneIsCleared(t *testing.T) {
	dir := disktest.TempDir(t)
	d := openTestDisk(t, dir, Options{segmentSize: 64 << 10})
	want := make(map[spool.ID]string)
	for i := range 60 {
		text := fmt.Sprint(i, strings.Repeat("x", 4000))
		want[disktest.Keep(t, d, text).ID] = text
	}
	for i, m := range leaseAll(t, d) {
		verdict := spool.Settlement{Verdict: spool.Done}
		switch i % 20 {
		case 0:
			verdict = spool.Settlement{Verdict: spool.Bury}
		case 1:
			verdict = spool.Settlement{Verdict: spool.Retry}
		case 2:
			verdict = spool.Settlement{Verdict: spool.Return}
		default:
			delete(want, m.Message.ID)
		}
		d.Settle(m, verdict)
	}
	require.NoError(t, d.Flush(context.Background()))
	leased, err := d.Lease(
		context.Background(),
		spool.LeaseRequest{Route: "r", Max: 1},
	) // knows where its body was
	require.NoError(t, err)
	require.Len(t, leased.Leases, 1)
	require.Eventually(t, func() bool {
		return d.segments.Bytes() < 2*64<<10 // of four times as much
	}, time.Minute, 10*time.Millisecond)

	entries, err := os.ReadDir(filepath.Join(dir, bodies.SegmentDir))
	require.NoError(t, err)
	require.LessOrEqual(t, len(entries), 2)
	list, err := d.List(context.Background(), spool.Filter{})
	require.NoError(t, err)
	require.Len(t, list, len(want))
	for _, m := range append(list, leased.Leases[0].Message) {
		body, err := d.Body(context.Background(), m.ID)
		require.NoError(t, err)
		b := make([]byte, body.Size())
		_, err = body.Read(b)
		require.NoError(t, err)
		require.Equal(t, want[m.ID], string(b))
		require.NoError(t, body.Close())
	}
}

func TestAnIndexOfMostlyFreePagesIsCompacted(t *testing.T) {
	dir := disktest.TempDir(t)
	d, err := Open(dir, Options{})
	require.NoError(t, err)
	receipt := disktest.Keep(t, d, "stays")
	const entries = 4_000
	require.NoError(t, d.perform(context.Background(), func(c *change) error { // a lot that comes
		for i := range uint32(entries) {
			if err := c.Put(index.Damaged, index.IDKey(i, spool.ID{}), make([]byte, 10_000)); err != nil {
				return err
			}
		}
		return nil
	}))
	require.NoError(t, d.perform(context.Background(), func(c *change) error { // and goes
		for i := range uint32(entries) {
			if err := c.Delete(index.Damaged, index.IDKey(i, spool.ID{})); err != nil {
				return err
			}
		}
		return nil
	}))
	size := func() int64 {
		info, err := os.Stat(filepath.Join(dir, index.FileName))
		require.NoError(t, err)
		return info.Size()
	}
	require.Greater(t, size(), int64(minCompaction))
	require.Eventually(
		t,
		func() bool { return size() < minCompaction/4 },
		time.Minute,
		10*time.Millisecond,
	)
	_, err = d.Get(context.Background(), receipt.ID)
	require.NoError(t, err)
	require.False(t, disktest.Keep(t, d, "more").Duplicate)
	require.True(t, disktest.Keep(t, d, "stays").Duplicate)
	require.NoError(t, d.Close(context.Background()))
	d = openTestDisk(t, dir, Options{})
	require.Len(t, leaseAll(t, d), 2)
}

func TestClosedStoresSaySo(t *testing.T) {
	d, err := Open(disktest.TempDir(t), Options{})
	require.NoError(t, err)
	receipt := disktest.Keep(t, d, "a")
	body, err := d.NewBody(context.Background(), -1)
	require.NoError(t, err)
	require.NoError(t, d.Close(context.Background()))
	require.NoError(t, d.Close(context.Background()))

	ctx := context.Background()
	_, err = d.NewBody(context.Background(), 0)
	require.ErrorIs(t, err, spool.ErrClosed)
	_, err = d.Accept(ctx, &spool.Message{Route: "r"}, spool.Fingerprint{}, 0, body)
	require.ErrorIs(t, err, spool.ErrClosed)
	_, err = d.Lease(context.Background(), spool.LeaseRequest{Route: "r", Max: 1})
	require.ErrorIs(t, err, spool.ErrClosed)
	_, err = d.Get(context.Background(), receipt.ID)
	require.ErrorIs(t, err, spool.ErrClosed)
	_, err = d.List(context.Background(), spool.Filter{})
	require.ErrorIs(t, err, spool.ErrClosed)
	require.ErrorIs(t, d.Replay(ctx, receipt.ID), spool.ErrClosed)
	require.ErrorIs(t, d.Flush(ctx), spool.ErrClosed)
	_, err = d.Counts(ctx)
	require.ErrorIs(t, err, spool.ErrClosed)
}

func TestAcceptCanBeGivenUp(t *testing.T) {
	fsys := &slowFS{release: make(chan struct{})}
	d := openTestDisk(t, disktest.TempDir(t), Options{fsys: fsys, pause: time.Millisecond})
	fsys.slow.Store(true)
	body, err := d.NewBody(context.Background(), -1)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = d.Accept(ctx, &spool.Message{Route: "r"}, spool.Fingerprint{}, 0, body)
	require.ErrorIs(t, err, context.Canceled)
	fsys.slow.Store(false)
	close(fsys.release)
}

func TestListPages(t *testing.T) {
	d := openTestDisk(t, disktest.TempDir(t), Options{})
	var ids []spool.ID
	for i := range 250 {
		ids = append(ids, disktest.Keep(t, d, fmt.Sprint(i)).ID)
	}
	for i, lease := range leaseAll(t, d) {
		d.Settle(
			lease,
			spool.Settlement{Verdict: []spool.Verdict{spool.Bury, spool.Retry, spool.Return}[i%3]},
		)
	}
	require.NoError(t, d.Flush(context.Background()))
	var seen []spool.ID
	filter := spool.Filter{}
	for {
		page, err := d.List(context.Background(), filter)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		require.LessOrEqual(t, len(page), spool.DefaultListLimit)
		for _, m := range page {
			seen = append(seen, m.ID)
		}
		filter.After = seen[len(seen)-1]
	}
	require.Equal(t, ids, seen)
	none, err := d.List(context.Background(), spool.Filter{Route: "else"})
	require.NoError(t, err)
	require.NotNil(t, none, "an empty JSON array, not null")
	require.Empty(t, none)
}

func TestErrorsNameTheirPathAndCause(t *testing.T) {
	err := bodies.Refusal(&bodies.SyncError{Path: "/x", Err: errors.New("lost")})
	require.EqualError(t, err, "refused: sync_failed: sync /x: lost")
	require.EqualError(t, &spool.RefusedError{Reason: spool.ReasonFull}, "refused: inbox_full")
}

// slowFS makes syncs of segments wait and then fail.
type slowFS struct {
	bodies.OS
	slow    atomic.Bool
	release chan struct{}
}

func (f *slowFS) OpenFile(name string, flag int) (bodies.File, error) {
	opened, err := f.OS.OpenFile(name, flag)
	if err != nil {
		return nil, err
	}
	return &slowFile{File: opened, fs: f, name: name}, nil
}

type slowFile struct {
	bodies.File
	fs   *slowFS
	name string
}

func (f *slowFile) Sync() error {
	if !f.fs.slow.Load() || !strings.HasSuffix(f.name, bodies.SegmentSuffix) {
		return f.File.Sync()
	}
	<-f.fs.release
	return &bodies.SyncError{Path: f.name, Err: errors.New("lost")}
}

// Who reads the index must not wait for mu meanwhile: Lease holds mu and waits to read, and nobody
// begins to read while the index waits for those who do, to grow or to be replaced.
func TestNobodyWaitsForTheQueuesWhileReadingTheIndex(t *testing.T) {
	d, err := Open(disktest.TempDir(t), Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close(context.Background())) })
	body, err := d.NewBody(t.Context(), -1)
	require.NoError(t, err)
	receipt, err := d.Accept(t.Context(), &spool.Message{Route: "r", RequestID: "a"},
		spool.Fingerprint{1}, time.Hour, body)
	require.NoError(t, err)

	ctx := t.Context()
	for name, read := range map[string]func(){
		"List":    func() { _, _ = d.List(ctx, spool.Filter{RequestID: "a"}) },
		"Count":   func() { _, _ = d.Count(ctx, spool.Filter{RequestID: "a"}) },
		"Counts":  func() { _, _ = d.Counts(ctx) },
		"Get":     func() { _, _ = d.Get(ctx, receipt.ID) },
		"Body":    func() { _, _ = d.Body(ctx, receipt.ID) },
		"Missing": func() { _, _ = d.Missing(ctx, []spool.ID{receipt.ID}) },
		"Export":  func() { _, _ = d.Export(ctx, spool.ID{}, 10) },
		"Streams": func() { _, _ = d.ExportStreams(ctx) },
		"Prints":  func() { _ = d.ExportPrints(ctx, func([]spool.Print) error { return nil }) },
	} {
		d.mu.Lock()
		done := make(chan struct{})
		go func() { defer close(done); read() }()
		select {
		case <-done: // it needs no mu
		case <-time.After(50 * time.Millisecond):
		}
		free := d.indexMu.TryLock()
		if free {
			d.indexMu.Unlock()
		}
		d.mu.Unlock()
		<-done
		require.True(t, free, name)
	}
}
