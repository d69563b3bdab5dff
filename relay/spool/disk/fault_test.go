//go:build linux

package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/internal/disktest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest"
)

// faultFS is a file system whose calls fail when a test wants them to.
type faultFS struct {
	bodies.OS

	mu    sync.Mutex
	fault func(op, path string) error // returns what the call is to fail with
	index *os.File                    // of the index, as opened last for writing
}

func (f *faultFS) fails(fault func(op, path string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

func (f *faultFS) check(op, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fault == nil {
		return nil
	}
	return f.fault(op, path)
}

func (f *faultFS) OpenFile(name string, flag int) (bodies.File, error) {
	if err := f.check("open", name); err != nil {
		return nil, bodies.PathError("open", name, err)
	}
	opened, err := f.OS.OpenFile(name, flag)
	if err != nil {
		return nil, err
	}
	return &faultFile{File: opened, fs: f, name: name}, nil
}

func (f *faultFS) OpenIndex(name string, flag int, perm fs.FileMode) (*os.File, error) {
	opened, err := f.OS.OpenIndex(name, flag, perm)
	if err == nil && flag&os.O_RDWR != 0 && filepath.Base(name) == index.FileName {
		f.mu.Lock()
		f.index = opened
		f.mu.Unlock()
	}
	return opened, err
}

func (f *faultFS) SyncDir(name string) error {
	if err := f.check("syncdir", name); err != nil {
		return &bodies.SyncError{Path: name, Err: err}
	}
	return f.OS.SyncDir(name)
}

// sabotageIndex puts a device under the descriptor with which bbolt writes and syncs, where
// no interface of ours is in between. Of /dev/null, a write succeeds and a sync fails, as with a
// disk that loses what the kernel has accepted; of /dev/full, a write fails with ENOSPC. A commit
// for which the index has to grow fails in other ways, as neither has a size: see spareIndex.
func (f *faultFS) sabotageIndex(t *testing.T, device string) {
	t.Helper()
	dev, err := os.OpenFile(device, os.O_RDWR, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, dev.Close()) }()
	f.mu.Lock()
	defer f.mu.Unlock()
	require.NoError(t, syscall.Dup3(int(dev.Fd()), int(f.index.Fd()), syscall.O_CLOEXEC))
}

// spareIndex leaves so many free pages in the index that it need not grow for what a test does
// next. What was freed can be used once nobody reads what was before, and an inbox that has just
// been opened looks around in it: so of two pieces that were freed together, one is asked back.
func spareIndex(t *testing.T, in *spool.Inbox) {
	t.Helper()
	d := in.Store().(*Store)
	d.indexMu.RLock()
	defer d.indexMu.RUnlock()
	asked, spare := []byte("asked"), []byte("spare")
	put := func(tx *index.Tx, key []byte) error {
		return tx.Put(index.State, key, make([]byte, 64*disktest.PageSize))
	}
	require.NoError(t, d.index.Update(func(tx *index.Tx) error {
		return errors.Join(put(tx, asked), put(tx, spare))
	}))
	require.NoError(t, d.index.Update(func(tx *index.Tx) error {
		return errors.Join(tx.Delete(index.State, asked), tx.Delete(index.State, spare))
	}))
	eventually(t, func() error {
		_, before := d.index.Usage()
		err := d.index.Update(func(tx *index.Tx) error { return put(tx, asked) })
		if _, after := d.index.Usage(); err == nil && after > before {
			return errors.New("the index has grown")
		}
		return err
	})
	require.NoError(t, d.index.Update(func(tx *index.Tx) error { return tx.Delete(index.State, asked) }))
}

type faultFile struct {
	bodies.File
	fs   *faultFS
	name string
}

var errShort = errors.New("write half of it")

func (f *faultFile) WriteAt(p []byte, offset int64) (int, error) {
	switch err := f.fs.check("write", f.name); {
	case errors.Is(err, errShort):
		return f.File.WriteAt(p[:len(p)/2], offset)
	case err != nil:
		n, _ := f.File.WriteAt(p[:len(p)/2], offset)
		return n, bodies.PathError("write", f.name, err)
	}
	return f.File.WriteAt(p, offset)
}

func (f *faultFile) Sync() error {
	if err := f.fs.check("sync", f.name); err != nil {
		return &bodies.SyncError{Path: f.name, Err: err}
	}
	return f.File.Sync()
}

func failing(op, part string, err error) func(string, string) error {
	return func(o, path string) error {
		if o == op && strings.Contains(path, part) {
			return err
		}
		return nil
	}
}

func tryAccept(in *spool.Inbox, body string) (spool.Receipt, error) {
	return in.Accept(
		context.Background(),
		spool.Envelope{Route: "r", Method: "POST", URI: "/hook", ContentLength: -1},
		strings.NewReader(body),
	)
}

func requireRefused(t *testing.T, err error, reason spool.Reason) {
	t.Helper()
	var refused *spool.RefusedError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, reason, refused.Reason)
	require.Positive(t, refused.RetryAfter)
}

func TestAFailedWriteOrSyncRefusesAndRecovers(t *testing.T) {
	large := strings.Repeat("large", bodies.MaxSmall)
	type fault func(t *testing.T, f *faultFS)
	file := func(op, part string, err error) fault {
		return func(_ *testing.T, f *faultFS) { f.fails(failing(op, part, err)) }
	}
	device := func(path string) fault {
		return func(t *testing.T, f *faultFS) { f.sabotageIndex(t, path) }
	}
	for _, c := range []struct {
		name     string
		body     string
		fault    fault
		reason   spool.Reason
		refusing bool // all messages, not only this one
	}{
		{
			"sync of a segment", "x",
			file("sync", bodies.SegmentSuffix, syscall.EIO), spool.ReasonSync, true,
		},
		{
			"short write to a segment", "x",
			file("write", bodies.SegmentSuffix, errShort), spool.ReasonWrite, true,
		},
		{
			"failed write to a segment", "x",
			file("write", bodies.SegmentSuffix, syscall.EIO), spool.ReasonWrite, true,
		},
		{"no room for a segment", "x", func(_ *testing.T, f *faultFS) {
			f.fails(func(op, _ string) error {
				if op == "write" {
					return syscall.ENOSPC
				}
				return nil
			})
		}, spool.ReasonDisk, true},
		{
			"no quota for a segment", "x",
			file("write", bodies.SegmentSuffix, syscall.EDQUOT), spool.ReasonDisk, true,
		},
		{
			"sync of a large body", large,
			file("sync", bodies.LargeSuffix, syscall.EIO), spool.ReasonSync, false,
		},
		{
			"sync of the directory of a large body", large,
			file("syncdir", bodies.LargeDir, syscall.EIO), spool.ReasonSync, false,
		},
		{
			"no room for a large body", large,
			file("write", bodies.LargeSuffix, syscall.ENOSPC), spool.ReasonDisk, false,
		},
		{"sync of the index", "x", device("/dev/null"), spool.ReasonSync, true},
		{"sync of the index with a large body", large, device("/dev/null"), spool.ReasonSync, true},
		{"no room for the index", "x", device("/dev/full"), spool.ReasonDisk, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := disktest.TempDir(t)
			fsys := &faultFS{}
			var heard refusals
			options := inboxOptions{Options: Options{
				fsys: fsys, pause: 5 * time.Millisecond, Events: spool.StoreEvents{Refusing: heard.refusing},
			}}
			in, err := openInbox(dir, options)
			require.NoError(t, err)
			for i := range 10 {
				accept(t, in, fmt.Sprint("before", i))
			}

			spareIndex(t, in)
			c.fault(t, fsys)
			_, err = tryAccept(in, c.body)
			requireRefused(t, err, c.reason)
			if c.refusing {
				require.Equal(t, fmt.Sprint(c.reason, " true"), heard.all()[0])
			}

			fsys.fails(nil)
			eventually(t, func() error {
				_, err := tryAccept(in, c.body)
				return err
			})
			if c.refusing {
				require.Equal(
					t,
					[]string{fmt.Sprint(c.reason, " true"), fmt.Sprint(c.reason, " false")},
					heard.all(),
				)
			}
			require.Empty(t, stats(t, in).Refusing)
			accept(t, in, "after")

			svc := newService()
			release := storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: svc.deliver})
			want := []string{c.body, "after"}
			for i := range 10 {
				want = append(want, fmt.Sprint("before", i))
			}
			require.ElementsMatch(t, want, svc.waitFor(t, len(want)))
			release(context.Background())
			require.NoError(t, in.Close(context.Background()))

			// Nothing is left of it.
			in = openTestInbox(t, dir, inboxOptions{})
			require.Zero(t, stats(t, in).Pending)
			entries, err := os.ReadDir(filepath.Join(dir, bodies.LargeDir))
			require.NoError(t, err)
			require.Empty(t, entries)
		})
	}
}

func TestASegmentOnWhichASyncFailedIsNotWrittenToAgain(t *testing.T) {
	fsys := &faultFS{}
	in := openTestInbox(
		t,
		disktest.TempDir(t),
		inboxOptions{Options: Options{fsys: fsys, pause: time.Millisecond}},
	)
	accept(t, in, "before")
	var failed string
	fsys.fails(func(op, path string) error {
		switch {
		case failed != "" && path == failed:
			return fmt.Errorf("%s of a segment that failed", op)
		case failed == "" && op == "sync" && strings.HasSuffix(path, bodies.SegmentSuffix):
			failed = path
			return syscall.EIO
		}
		return nil
	})
	_, err := tryAccept(in, "x")
	requireRefused(t, err, spool.ReasonSync)
	eventually(t, func() error {
		_, err := tryAccept(in, "x")
		return err
	})
	fsys.fails(nil)
	list, err := in.List(context.Background(), spool.Filter{})
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.NotEqual(t, whereIs(t, in, list[0].ID).Segment, whereIs(t, in, list[1].ID).Segment)
}

func TestWhatWasDeliveredWhileTheIndexFailedIsNotDeliveredAgain(t *testing.T) {
	dir := disktest.TempDir(t)
	fsys := &faultFS{}
	in := openTestInbox(
		t,
		dir,
		inboxOptions{Options: Options{fsys: fsys, pause: 5 * time.Millisecond}},
	)
	for i := range 100 {
		accept(t, in, result(fmt.Sprint(i%5), fmt.Sprint(i)))
	}
	svc := newService()
	var once sync.Once
	svc.answers(func(body string) spool.Result {
		once.Do(func() { fsys.sabotageIndex(t, "/dev/null") })
		if strings.Contains(body, `"13"`) && svc.attempts < 50 {
			return spool.Result{Status: 500}
		}
		return spool.Result{Status: 200}
	})
	defer storetest.SetRoute(
		in,
		"r",
		spool.RouteConfig{Deliver: svc.deliver, RetryDelays: []time.Duration{20 * time.Millisecond}},
	)(
		context.Background(),
	)
	got := svc.waitFor(t, 100)
	requireNothingPending(t, in)
	require.Len(t, svc.bodies(), 100)
	requireOrder(t, got)
}

func TestTheRootsAreWrittenAgainAfterAFailedSync(t *testing.T) {
	fsys := &faultFS{}
	in := openTestInbox(
		t,
		disktest.TempDir(t),
		inboxOptions{Options: Options{fsys: fsys, pause: 5 * time.Millisecond}},
	)
	accept(t, in, "before")
	spareIndex(t, in)
	var mu sync.Mutex
	var ops []string
	fsys.fails(func(op, path string) error {
		mu.Lock()
		defer mu.Unlock()
		if filepath.Base(path) == index.FileName {
			ops = append(ops, op)
		}
		return nil
	})
	fsys.sabotageIndex(t, "/dev/null")
	_, err := tryAccept(in, "x")
	requireRefused(t, err, spool.ReasonSync)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []string{"open", "write", "sync"}, ops)
}

func TestADamagedBodyBecomesADeadLetter(t *testing.T) {
	dir := disktest.TempDir(t)
	in := openTestInbox(t, dir, inboxOptions{})
	for _, body := range []string{"small", strings.Repeat("l", 2*bodies.MaxSmall)} {
		receipt := accept(t, in, body)
		where := whereIs(t, in, receipt.ID)
		path := filepath.Join(dir, bodies.SegmentDir, bodies.SegmentName(where.Segment))
		if where.Segment == 0 {
			path = filepath.Join(dir, bodies.LargeDir, uuid.UUID(where.File).String()+bodies.LargeSuffix)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte("?"), where.Offset+1)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	svc := newService()
	defer storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: svc.deliver})(context.Background())
	eventually(t, func() error {
		if dead := stats(t, in).Dead; dead < 2 {
			return fmt.Errorf("%d dead", dead)
		}
		return nil
	})
	dead, err := in.List(context.Background(), spool.Filter{State: spool.Dead})
	require.NoError(t, err)
	for _, m := range dead {
		require.Contains(t, m.LastError, "damaged")
	}
	require.Empty(t, svc.bodies())
}

func TestADamagedRecordIsPutAsideAndReported(t *testing.T) {
	dir := disktest.TempDir(t)
	in, err := openInbox(dir, inboxOptions{})
	require.NoError(t, err)
	for i := range 3 {
		accept(t, in, result(fmt.Sprint(i), fmt.Sprint(i)))
	}
	list, err := in.List(context.Background(), spool.Filter{})
	require.NoError(t, err)
	require.NoError(t, in.Close(context.Background()))

	x, err := openTestIndex(dir)
	require.NoError(t, err)
	require.NoError(t, x.Update(func(tx *index.Tx) error {
		key := index.IDKey(1, list[1].ID)
		record := append([]byte(nil), tx.Get(index.Fresh, key)...)
		record[len(record)-1] ^= 1
		return tx.Put(index.Fresh, key, record)
	}))
	require.NoError(t, x.Close(true))

	problems := make(chan error, 10)
	in = openTestInbox(
		t,
		dir,
		inboxOptions{Hooks: spool.Hooks{Problem: func(err error) { problems <- err }}},
	)
	svc := newService()
	defer storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: svc.deliver})(context.Background())
	require.Len(t, svc.waitFor(t, 2), 2)
	require.ErrorIs(t, <-problems, spool.ErrDamaged)
	requireNothingPending(t, in)
	require.Zero(t, stats(t, in).PendingBytes)
}

func TestMaxSizeRefusesAndDeliveriesMakeRoom(t *testing.T) {
	var heard refusals
	in := openTestInbox(t, disktest.TempDir(t), inboxOptions{
		Options: Options{
			MaxSize:     2 << 20,
			segmentSize: 256 << 10,
			Events:      spool.StoreEvents{Refusing: heard.refusing},
		},
	})
	body := strings.Repeat("x", 50<<10)
	n := 0
	var err error
	for ; err == nil; n++ {
		_, err = tryAccept(in, fmt.Sprint(n, body))
	}
	requireRefused(t, err, spool.ReasonFull)
	require.Greater(t, n, 20)
	_, err = in.Store().NewBody(context.Background(), math.MaxInt64)
	requireRefused(t, err, spool.ReasonFull)
	_, err = tryAccept(in, strings.Repeat("large", 200<<10))
	requireRefused(t, err, spool.ReasonFull)
	require.Equal(t, spool.ReasonFull, stats(t, in).Refusing)
	require.LessOrEqual(t, stats(t, in).DiskBytes, int64(2<<20))

	svc := newService()
	defer storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: svc.deliver})(context.Background())
	svc.waitFor(t, n-1)
	eventually(t, func() error {
		_, err := tryAccept(in, "again")
		return err
	})
	require.Equal(t, []string{"inbox_full true", "inbox_full false"}, heard.all())
}

func TestAFullFileSystemRefusesAndDeliveriesMakeRoom(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := disktest.TempDir(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=12m"); err != nil {
		t.Skip("cannot mount: ", err)
	}
	defer func() { require.NoError(t, syscall.Unmount(dir, 0)) }()

	var heard refusals
	in, err := openInbox(filepath.Join(dir, "inbox"), inboxOptions{
		Options: Options{
			segmentSize: 1 << 20, pause: 5 * time.Millisecond,
			Events: spool.StoreEvents{Refusing: heard.refusing},
		},
	})
	require.NoError(t, err)
	var accepted []string
	for i := 0; ; i++ { // to the last byte, with bodies of several sizes
		size := []int{60 << 10, 200 << 10, 10, 1000}[i%4]
		body := result(fmt.Sprint(i%7), fmt.Sprint(i)) + strings.Repeat("x", size)
		_, err := tryAccept(in, body)
		if err != nil {
			requireRefused(t, err, spool.ReasonDisk)
			break
		}
		accepted = append(accepted, body)
	}
	require.Greater(t, len(accepted), 50)

	// A stranger takes what is left.
	filler, err := os.Create(filepath.Join(dir, "filler"))
	require.NoError(t, err)
	_, err = io.Copy(filler, zeros{})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, filler.Close())
	_, _ = tryAccept(in, "does not fit"+strings.Repeat("x", 60<<10))

	svc := newService()
	release := storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: svc.deliver})
	got := svc.waitFor(t, len(accepted))
	requireNothingPending(t, in)
	require.ElementsMatch(t, accepted, svc.bodies())
	requireOrder(t, got)
	eventually(t, func() error {
		_, err := tryAccept(in, "again")
		return err
	})
	require.Equal(t, "disk_full true", heard.all()[0])
	release(context.Background())
	require.NoError(t, in.Close(context.Background()))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// A commit that fails has bbolt look for the free pages in a goroutine of its own, if it is let.
// The same damage that makes commits fail makes that end the process.
func TestAFailedCommitOnADamagedIndexEndsNothingElse(t *testing.T) {
	dir := filepath.Join(disktest.TempDir(t), "inbox")
	inboxWithEverything(t, dir, false)
	fsys := &faultFS{}
	d := openTestDisk(t, dir, Options{fsys: fsys, pause: time.Millisecond})
	require.NoError(
		t,
		disktest.TryKeep(d, "first"),
	) // from now on the list of free pages is not on disk

	// Bad are those pages only that a commit does not look at: leaves with dead letters.
	x, err := os.ReadFile(filepath.Join(dir, index.FileName))
	require.NoError(t, err)
	spoiled := 0
	for page := int64(2); page < int64(len(x)/disktest.PageSize); page++ {
		value := disktest.FirstMessage(x[page*disktest.PageSize : (page+1)*disktest.PageSize])
		if index.Record(value).Intact() && index.UnixNano(index.Record(value).EndedAt()) != 0 {
			disktest.Spoil(
				t,
				filepath.Join(dir, index.FileName),
				page*disktest.PageSize,
				(page+1)*disktest.PageSize,
				disktest.Zero,
			)
			spoiled++
		}
	}
	require.Positive(t, spoiled)
	fsys.sabotageIndex(t, "/dev/full")
	eventually(t, func() error {
		var refused *spool.RefusedError
		if err := disktest.TryKeep(d, "second"); !errors.As(err, &refused) ||
			refused.Reason != spool.ReasonDamaged {
			return fmt.Errorf("not refused, but %w", err)
		}
		return nil
	})
}

func TestAnIndexThatVanishesWhileRunningIsNotReplacedByAnEmptyOne(t *testing.T) {
	dir := filepath.Join(disktest.TempDir(t), "inbox")
	inboxWithEverything(t, dir, false)
	fsys := &faultFS{}
	d := openTestDisk(t, dir, Options{fsys: fsys, pause: time.Millisecond})
	require.NoError(t, os.Rename(filepath.Join(dir, index.FileName), filepath.Join(dir, "away")))
	fsys.sabotageIndex(t, "/dev/null")
	eventually(t, func() error {
		var refused *spool.RefusedError
		if err := disktest.TryKeep(d, "x"); !errors.As(err, &refused) ||
			refused.Reason != spool.ReasonDamaged {
			return fmt.Errorf("not refused, but %w", err)
		}
		return nil
	})
	require.NoFileExists(t, filepath.Join(dir, index.FileName))
}

// whereIs says where the body of a message is.
func whereIs(t testing.TB, in *spool.Inbox, id spool.ID) bodies.Location {
	t.Helper()
	m, err := in.Store().(*Store).entry(id)
	require.NoError(t, err)
	return m.Where
}
