package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// A damaged index must be an error or no loss, and never the end of the process, which bbolt's panics in
// goroutines of its own are. That tests of this file end at all is what they show.

// inboxWithEverything makes an inbox in which every bucket has entries, some of them over several
// pages, and returns how many messages are in it. It is left as a process leaves it that is killed, if
// so asked: without the list of free pages.
func inboxWithEverything(t testing.TB, dir string, killed bool) (count int) {
	t.Helper()
	ctx := context.Background()
	d, err := Open(dir, Options{})
	require.NoError(t, err)
	for i := range 120 {
		keep(t, d, fmt.Sprint("message ", i))
	}
	keep(t, d, strings.Repeat("large", maxSegmentBody))
	leased, _, err := d.Lease(context.Background(), spool.LeaseRequest{Route: "r", Now: time.Now(), Max: 50})
	require.NoError(t, err)
	require.Len(t, leased, 50)
	for i, lease := range leased {
		d.Settle(lease, spool.Settlement{Verdict: spool.Verdict(i % 3), At: time.Now().Add(time.Hour), LastError: "x"})
	}
	require.NoError(t, d.Flush(ctx))
	count = len(everythingIn(t, d))
	if killed {
		copyInbox(t, dir, dir+".copy")
		require.NoError(t, d.Close(context.Background()))
		require.NoError(t, os.RemoveAll(dir))
		require.NoError(t, os.Rename(dir+".copy", dir))
		return count
	}
	require.NoError(t, d.Close(context.Background()))
	return count
}

// everythingIn reads everything there is.
func everythingIn(t testing.TB, d *Store) map[spool.ID]string {
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

func copyInbox(t testing.TB, from, to string) {
	t.Helper()
	require.NoError(t, os.CopyFS(to, os.DirFS(from)))
	require.NoError(t, os.Chmod(to, dirPerm))
}

// damages are ways to spoil a page of a file, by name.
var damages = map[string]func(rng *rand.Rand, file []byte, page int) []byte{
	"zeros": func(_ *rand.Rand, file []byte, page int) []byte {
		clear(file[page*pageSize : (page+1)*pageSize])
		return file
	},
	"noise": func(rng *rand.Rand, file []byte, page int) []byte {
		for i := range pageSize {
			file[page*pageSize+i] = byte(rng.Uint32())
		}
		return file
	},
	"noise behind the header": func(rng *rand.Rand, file []byte, page int) []byte {
		for i := pageHeader; i < pageSize; i++ {
			file[page*pageSize+i] = byte(rng.Uint32())
		}
		return file
	},
	"one bit": func(rng *rand.Rand, file []byte, page int) []byte {
		file[page*pageSize+rng.IntN(pageSize)] ^= 1 << rng.IntN(8)
		return file
	},
	"one bit near the header": func(rng *rand.Rand, file []byte, page int) []byte {
		file[page*pageSize+rng.IntN(256)] ^= 1 << rng.IntN(8)
		return file
	},
	"a sector of zeros": func(rng *rand.Rand, file []byte, page int) []byte {
		at := page*pageSize + 512*rng.IntN(pageSize/512)
		clear(file[at : at+512])
		return file
	},
	"cut off": func(rng *rand.Rand, file []byte, page int) []byte {
		return file[:page*pageSize+rng.IntN(pageSize)]
	},
	"another page in its place": func(rng *rand.Rand, file []byte, page int) []byte {
		other := rng.IntN(len(file) / pageSize)
		copy(file[page*pageSize:(page+1)*pageSize], file[other*pageSize:(other+1)*pageSize])
		return file
	},
	"another page under its name": func(rng *rand.Rand, file []byte, page int) []byte {
		other := rng.IntN(len(file) / pageSize)
		copy(file[page*pageSize+8:(page+1)*pageSize], file[other*pageSize+8:(other+1)*pageSize])
		return file
	},
	"a pointer to anywhere": func(rng *rand.Rand, file []byte, page int) []byte {
		at := page*pageSize + pageHeader + pageElement*rng.IntN(4) + 8
		binary.NativeEndian.PutUint64(file[at:], rng.Uint64N(uint64(len(file)/pageSize)))
		return file
	},
}

func TestADamagedIndexIsAnErrorOrWhole(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed ", killed), func(t *testing.T) {
			whole := filepath.Join(tempDir(t), "whole")
			count := inboxWithEverything(t, whole, killed)
			index, err := os.ReadFile(filepath.Join(whole, indexName))
			require.NoError(t, err)
			rng := rand.New(rand.NewPCG(1, 2))
			refused := 0
			for name, damage := range damages {
				for page := range min(len(index)/pageSize, 40) {
					dir := filepath.Join(tempDir(t), "inbox")
					copyInbox(t, whole, dir)
					require.NoError(t, os.WriteFile(filepath.Join(dir, indexName), damage(rng, append([]byte(nil), index...), page), filePerm))
					if tryDamaged(t, dir, count, fmt.Sprintf("%s in page %d", name, page)) {
						refused++
					}
					require.NoError(t, os.RemoveAll(dir))
				}
			}
			require.Positive(t, refused)
		})
	}
}

// tryDamaged opens an inbox. It reports whether that was refused; if not, everything must be there, or
// be shown as damaged.
func tryDamaged(t *testing.T, dir string, count int, what string) bool {
	t.Helper()
	d, err := Open(dir, Options{})
	if err != nil {
		require.ErrorContains(t, err, filepath.Join(dir, indexName), what)
		if !strings.Contains(err.Error(), "spool recover") {
			require.ErrorIs(t, err, spool.ErrForeign, what)
		}
		return true
	}
	defer func() { require.NoError(t, d.Close(context.Background()), what) }()
	list, err := d.List(context.Background(), spool.Filter{Limit: 1000})
	require.NoError(t, err, what)
	require.Len(t, list, count, what)
	for { // it works
		leased, _, err := d.Lease(context.Background(), spool.LeaseRequest{Route: "r", Now: time.Now().Add(2 * time.Hour), Max: 1000})
		require.NoError(t, err, what)
		if len(leased) == 0 {
			break
		}
		for _, lease := range leased {
			d.Settle(lease, spool.Settlement{Verdict: spool.Done})
		}
		require.NoError(t, d.Flush(context.Background()), what)
	}
	return false
}

// spoil overwrites a part of a file in place, as nothing but a fault of the disk does, and returns how
// to mend it.
func spoil(t *testing.T, path string, from, to int64, b func([]byte)) (mend func()) {
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

func noise(b []byte) {
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
}

func zero(b []byte) { clear(b) }

// acceptOne tries to keep a message, which need not work.
func acceptOne(d *Store, text string) error {
	body, err := d.NewBody(context.Background(), int64(len(text)))
	if err != nil {
		return err
	}
	if _, err := body.Write([]byte(text)); err != nil {
		body.Discard()
		return err
	}
	msg := &spool.Message{Route: "r", OrderKey: keyOf(text), ReceivedAt: time.Now(), ScheduledFrom: time.Now()}
	_, err = d.Accept(context.Background(), msg, spool.Fingerprint{}, 0, body)
	return err
}

func TestAnIndexThatTurnsBadWhileRunningEndsNothingElse(t *testing.T) {
	for name, c := range map[string]struct {
		from, to int64 // pages
		how      func([]byte)
	}{
		"all but the roots, zeros": {2, 1 << 20, zero},
		"all but the roots, noise": {2, 1 << 20, noise},
		"both roots, zeros":        {0, 2, zero},
		"both roots, noise":        {0, 2, noise},
		"the first root":           {0, 1, zero},
		"the second root":          {1, 2, noise},
		"everything":               {0, 1 << 20, zero},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(tempDir(t), "inbox")
			count := inboxWithEverything(t, dir, false)
			heard := make(chan string, 100)
			d := openTestDisk(t, dir, Options{pause: time.Millisecond, Events: spool.StoreEvents{Refusing: func(reason spool.Reason, on bool, cause error) {
				heard <- fmt.Sprint(reason, " ", on, " ", cause)
			}}})
			mend := spoil(t, filepath.Join(dir, indexName), c.from*pageSize, c.to*pageSize, c.how)

			eventually(t, func() error {
				_, _, _ = d.Lease(context.Background(), spool.LeaseRequest{Route: "r", Now: time.Now(), Max: 10})
				_, _ = d.List(context.Background(), spool.Filter{})
				var refused *spool.RefusedError
				if err := acceptOne(d, fmt.Sprint(rand.Uint64())); !errors.As(err, &refused) || refused.Reason != spool.ReasonDamaged {
					return fmt.Errorf("not refused, but %w", err)
				}
				return nil
			})
			require.Contains(t, <-heard, "inbox_damaged true "+filepath.Join(dir, indexName))

			// Nobody knows what a part of a transaction has become, but here none was under way.
			mend()
			eventually(t, func() error { return acceptOne(d, "after") })
			list, err := d.List(context.Background(), spool.Filter{Limit: 1000})
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(list), count)
		})
	}
}

// No checksum covers the key of a record, but its body knows whose it is.
func TestRecoverFindsTheRightIDOfARecord(t *testing.T) {
	whole := filepath.Join(tempDir(t), "whole")
	inboxWithEverything(t, whole, false)
	copyInbox(t, whole, whole+"2")
	d, err := Open(whole+"2", Options{})
	require.NoError(t, err)
	want := everythingIn(t, d)
	list, err := d.List(context.Background(), spool.Filter{Limit: 1000})
	require.NoError(t, err)
	ids := list[:16]
	require.NoError(t, d.Close(context.Background()))
	index, err := os.ReadFile(filepath.Join(whole, indexName))
	require.NoError(t, err)

	for i, m := range ids {
		dir := filepath.Join(tempDir(t), "inbox")
		copyInbox(t, whole, dir)
		spoiled := append([]byte(nil), index...)
		for at := 0; ; at += len(m.ID) {
			next := bytes.Index(spoiled[at:], m.ID[:])
			if next < 0 {
				break
			}
			if at += next; recordBehindKey(spoiled[at-routeKeySize:]) > 0 {
				spoiled[at+i] ^= 1 << (i % 8)
			}
		}
		require.NotEqual(t, index, spoiled)
		require.NoError(t, os.WriteFile(filepath.Join(dir, indexName), spoiled, filePerm))
		r, err := Recover(context.Background(), dir, dir+".recovered")
		require.NoError(t, err)
		require.Positive(t, r.Uncertain)
		d, err := Open(r.Into, Options{})
		require.NoError(t, err)
		require.Equal(t, want, everythingIn(t, d), "byte %d", i)
		require.NoError(t, acceptOne(d, "more"))
		require.NoError(t, d.Close(context.Background()))
	}
}

// A copy of the inbox that was made while it was whole tells what there was.
func TestRecoverSavesWhatIsWhole(t *testing.T) {
	whole := filepath.Join(tempDir(t), "whole")
	count := inboxWithEverything(t, whole, true)
	copyInbox(t, whole, whole+"2")
	d, err := Open(whole+"2", Options{})
	require.NoError(t, err)
	want := everythingIn(t, d)
	require.NoError(t, d.Close(context.Background()))
	index, err := os.ReadFile(filepath.Join(whole, indexName))
	require.NoError(t, err)
	roots, errs, _ := readRoots(strings.NewReader(string(index)))
	require.NoError(t, errors.Join(errs[:]...))
	root := roots[0]
	if roots[1].transaction > root.transaction {
		root = roots[1]
	}

	rng := rand.New(rand.NewPCG(3, 4))
	kinds := slices.Sorted(maps.Keys(damages))
	for page := range min(len(index)/pageSize, 40) {
		for _, name := range []string{"zeros", kinds[page%len(kinds)]} {
			what := fmt.Sprintf("%s in page %d", name, page)
			dir := filepath.Join(tempDir(t), "inbox")
			copyInbox(t, whole, dir)
			require.NoError(t, os.WriteFile(filepath.Join(dir, indexName), damages[name](rng, append([]byte(nil), index...), page), filePerm))
			r, err := Recover(context.Background(), dir, dir+".recovered")
			require.NoError(t, err, what)
			d, err := Open(r.Into, Options{})
			require.NoError(t, err, what)
			got := everythingIn(t, d)
			for id, body := range got {
				if old, known := want[id]; known {
					require.Equal(t, old, body, what)
				} else if page > 1 && len(body) <= maxSegmentBody { // the older root is of when the last ones were not delivered
					require.Positive(t, r.Uncertain, what)
				}
			}
			require.Equal(t, len(got), r.Pending+r.Dead, what)
			require.NoError(t, acceptOne(d, "more"), what)
			require.NoError(t, d.Close(context.Background()), what)
			if name == "zeros" && (uint64(page) == root.root || page < 2) {
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
		dir := filepath.Join(tempDir(t), "inbox")
		inboxWithEverything(t, dir, killed)
		r, err := Recover(context.Background(), dir, dir+".recovered")
		require.NoError(t, err)
		require.Empty(t, r.Lost)
		require.Empty(t, r.Damage)
		require.Zero(t, r.Missing+int64(r.Uncertain+r.Bodies))

		old := openTestDisk(t, dir, Options{})
		recovered := openTestDisk(t, r.Into, Options{})
		require.Equal(t, everythingIn(t, old), everythingIn(t, recovered))
		a, err := old.List(context.Background(), spool.Filter{Limit: 1000})
		require.NoError(t, err)
		b, err := recovered.List(context.Background(), spool.Filter{Limit: 1000})
		require.NoError(t, err)
		require.Equal(t, a, b)
		require.Equal(t, counts(t, old).Routes, counts(t, recovered).Routes)
		require.Equal(t, counts(t, old).Fingerprints, counts(t, recovered).Fingerprints)

		first := keep(t, recovered, "message 0")
		require.True(t, first.Duplicate, "the fingerprints are there")
		_, err = Recover(context.Background(), r.Into, dir+".again")
		require.ErrorIs(t, err, spool.ErrLocked)
		_, err = Recover(context.Background(), dir, r.Into)
		require.ErrorContains(t, err, "is there already")
	}
}

func TestRecoverSurvivesAnyBytes(t *testing.T) {
	for name, index := range map[string][]byte{
		"nothing": {}, "text": []byte("hello"), "zeros": make([]byte, 100_000), "records of nonsense": nonsenseRecords(),
	} {
		t.Run(name, func(t *testing.T) {
			dir := tempDir(t)
			require.NoError(t, os.WriteFile(filepath.Join(dir, indexName), index, filePerm))
			require.NoError(t, os.Mkdir(filepath.Join(dir, segmentDir), dirPerm))
			bytes := make([]byte, 300_000)
			noise(bytes)
			for i := 0; i+4 < len(bytes); i += 1000 {
				binary.BigEndian.PutUint32(bytes[i:], segmentMark)
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, segmentDir, segmentName(1)), bytes, filePerm))
			r, err := Recover(context.Background(), dir, filepath.Join(tempDir(t), "new"))
			require.NoError(t, err)
			require.Zero(t, r.Pending+r.Dead+r.Bodies)
			require.NotEmpty(t, r.Damage)
		})
	}
}

// nonsenseRecords are whole records that point to what is not there.
func nonsenseRecords() []byte {
	var b []byte
	var ids spool.IDSource
	for i := range 50 {
		m := sampleMessage()
		m.where = location{segment: uint32(i % 3), offset: int64(i) << 40, size: int64(i) << 20}
		b = append(b, idKey(uint32(i), ids.Next(time.Now()))...)
		b = appendRecord(b, m)
	}
	return b
}

// A record that cannot be read can be listed and dropped, and does not end what is done to many.
func TestADamagedMessageIsListedDroppedAndPassed(t *testing.T) {
	for _, bucket := range [][]byte{bucketFresh, bucketParked, bucketDead} {
		t.Run(string(bucket), func(t *testing.T) {
			ctx := context.Background()
			dir := filepath.Join(tempDir(t), "inbox")
			count := inboxWithEverything(t, dir, false)
			x, err := openTestIndex(dir)
			require.NoError(t, err)
			var bad []spool.ID
			require.NoError(t, x.update(func(tx *indexTx) error {
				for range 2 {
					var key, record []byte
					tx.scan(bucket, routeKey(1), nil, func(k, v []byte) bool {
						key, record = append([]byte(nil), k...), append([]byte(nil), v...)
						return !recordIntact(v)
					})
					record[len(record)-1] ^= 1
					if err := tx.put(bucket, key, record); err != nil {
						return err
					}
					bad = append(bad, keyID(key))
				}
				return nil
			}))
			require.NoError(t, x.close(true))

			d := openTestDisk(t, dir, Options{})
			list, err := d.List(context.Background(), spool.Filter{Limit: 1000})
			require.NoError(t, err)
			require.Len(t, list, count)
			first, err := d.List(context.Background(), spool.Filter{Limit: 1})
			require.NoError(t, err)
			require.Len(t, first, 1)

			dropped, err := d.Drop(ctx, bad[0])
			require.NoError(t, err)
			require.Equal(t, bad[0], dropped.ID)
			require.Contains(t, dropped.LastError, "damaged")
			_, err = d.Drop(ctx, bad[0])
			require.ErrorIs(t, err, spool.ErrNotFound)

			dead := int(counts(t, d).Routes["r"].Dead)
			future := time.Now().Add(time.Hour)
			switch {
			case &bucket[0] == &bucketDead[0]:
				n, err := d.ReplayDead(ctx, "r", future, dead-1)
				require.NoError(t, err)
				require.Equal(t, dead-1, n, "all but the damaged one")
			default:
				leaseAll(t, d)
				expired, err := d.Expire(ctx, "r", future, "too late", 1000)
				require.NoError(t, err)
				require.Empty(t, expired)
			}
			require.NoError(t, d.Flush(ctx))
			gone, err := d.DropDead(ctx, "r", future, 1000)
			require.NoError(t, err)
			ids := make([]spool.ID, len(gone))
			for i, m := range gone {
				ids[i] = m.ID
			}
			if &bucket[0] != &bucketParked[0] { // whose time has not come
				require.Contains(t, ids, bad[1])
				require.Zero(t, counts(t, d).Routes["r"].Dead)
			}
			require.NoError(t, d.Close(context.Background()))
			openTestDisk(t, dir, Options{})
		})
	}
}

// FuzzIndex has the check look at damaged indexes. What it lets pass, bbolt must be able to work with: a panic in one of
// its goroutines would end the test.
func FuzzIndex(f *testing.F) {
	dir := filepath.Join(tempDir(f), "inbox")
	inboxWithEverything(f, dir, true)
	whole, err := os.ReadFile(filepath.Join(dir, indexName))
	require.NoError(f, err)
	f.Add([]byte{0, 2, 0, 1, 255})
	f.Add([]byte{0, 5, 0, 16, 3, 0, 6, 0, 0, 9})
	f.Add([]byte{0, 0, 0, 32, 1})
	scratch := tempDir(f)
	f.Fuzz(func(t *testing.T, edits []byte) {
		index := append([]byte(nil), whole...)
		for ; len(edits) >= 5; edits = edits[5:] { // a page, an offset in it, a byte
			page := int(binary.BigEndian.Uint16(edits)) % (len(index) / pageSize)
			index[page*pageSize+int(binary.BigEndian.Uint16(edits[2:]))%pageSize] ^= edits[4]
		}
		for i := range 2 { // let damage through that the checksum of a root would find
			root := index[i*pageSize+pageHeader:]
			sum := fnv.New64a()
			_, _ = sum.Write(root[:rootSize-8])
			binary.NativeEndian.PutUint64(root[rootSize-8:], sum.Sum64())
		}
		if _, err := checkIndex(bytes.NewReader(index), int64(len(index)), indexName); err != nil {
			return
		}
		dir := filepath.Join(scratch, "inbox")
		require.NoError(t, os.RemoveAll(dir))
		require.NoError(t, os.Mkdir(dir, dirPerm))
		require.NoError(t, os.WriteFile(filepath.Join(dir, indexName), index, filePerm))
		x, err := openTestIndex(dir)
		require.NoError(t, err)
		err = x.update(func(tx *indexTx) error {
			for _, bucket := range allBuckets {
				var keys [][]byte
				tx.scan(bucket, nil, nil, func(key, _ []byte) bool {
					keys = append(keys, append([]byte(nil), key...))
					return true
				})
				for _, key := range keys {
					if err := tx.delete(bucket, key); err != nil {
						return err
					}
				}
			}
			return nil
		})
		require.NoError(t, err)
		require.NoError(t, x.close(true))
	})
}

// FuzzRecover has whatever bytes recovered.
func FuzzRecover(f *testing.F) {
	f.Add(nonsenseRecords(), []byte{0xdb, 0x0d, 0x1e, 0x55})
	f.Add([]byte{}, []byte{})
	scratch := tempDir(f)
	f.Fuzz(func(t *testing.T, index, segment []byte) {
		dir, into := filepath.Join(scratch, "inbox"), filepath.Join(scratch, "new")
		for _, path := range []string{dir, into, bodiesBeside(into)} {
			require.NoError(t, os.RemoveAll(path))
		}
		require.NoError(t, os.MkdirAll(filepath.Join(dir, segmentDir), dirPerm))
		require.NoError(t, os.WriteFile(filepath.Join(dir, indexName), index, filePerm))
		require.NoError(t, os.WriteFile(filepath.Join(dir, segmentDir, segmentName(1)), segment, filePerm))
		_, err := Recover(context.Background(), dir, into)
		require.NoError(t, err)
	})
}

// openTestIndex opens the index of an inbox that is closed.
func openTestIndex(dir string) (*index, error) {
	fsys := &osFileSystem{}
	if err := fsys.Enter(dir); err != nil {
		return nil, err
	}
	x, _, err := openIndex(fsys, dir)
	return x, err
}

// Memory whose part of the file is gone faults when it is read, which is fatal unless it is asked for otherwise.
func TestAnIndexThatIsCutOffWhileRunningEndsNothingElse(t *testing.T) {
	dir := filepath.Join(tempDir(t), "inbox")
	inboxWithEverything(t, dir, false)
	d := openTestDisk(t, dir, Options{pause: time.Millisecond})
	path := filepath.Join(dir, indexName)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, 2*pageSize))
	_, err = d.List(context.Background(), spool.Filter{})
	require.ErrorIs(t, err, spool.ErrDamaged)
	eventually(t, func() error {
		var refused *spool.RefusedError
		if err := acceptOne(d, "x"); !errors.As(err, &refused) || refused.Reason != spool.ReasonDamaged {
			return fmt.Errorf("not refused, but %w", err)
		}
		return nil
	})
	require.NoError(t, os.WriteFile(path, whole, filePerm))
	eventually(t, func() error { return acceptOne(d, "after") })
}
