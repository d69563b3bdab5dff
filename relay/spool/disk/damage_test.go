package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/internal/disktest"
)

// A damaged index must be an error or no loss, and never the end of the process, which bbolt's
// panics in goroutines of its own are. That tests of this file end at all is what they show.

// inboxWithEverything is [disktest.Fill] with this engine.
func inboxWithEverything(t testing.TB, dir string, killed bool) (count int) {
	t.Helper()
	return disktest.Fill(
		t,
		dir,
		func(dir string) (spool.Store, error) { return Open(dir, Options{}) },
		killed,
	)
}

func TestADamagedIndexIsAnErrorOrWhole(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed ", killed), func(t *testing.T) {
			whole := filepath.Join(disktest.TempDir(t), "whole")
			count := inboxWithEverything(t, whole, killed)
			raw, err := os.ReadFile(filepath.Join(whole, index.FileName))
			require.NoError(t, err)
			rng := rand.New(rand.NewPCG(1, 2))
			refused := 0
			for name, damage := range disktest.Damages {
				for page := range min(len(raw)/disktest.PageSize, 40) {
					dir := filepath.Join(disktest.TempDir(t), "inbox")
					disktest.Copy(t, whole, dir)
					require.NoError(
						t,
						os.WriteFile(
							filepath.Join(dir, index.FileName),
							damage(rng, append([]byte(nil), raw...), page),
							bodies.FilePerm,
						),
					)
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

// tryDamaged opens an inbox. It reports whether that was refused; if not, everything must be
// there, or be shown as damaged.
func tryDamaged(t *testing.T, dir string, count int, what string) bool {
	t.Helper()
	d, err := Open(dir, Options{})
	if err != nil {
		require.ErrorContains(t, err, filepath.Join(dir, index.FileName), what)
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
		leased, err := d.Lease(context.Background(), spool.LeaseRequest{Route: "r", Max: 1000})
		require.NoError(t, err, what)
		if len(leased.Leases) == 0 {
			break
		}
		for _, lease := range leased.Leases {
			d.Settle(lease, spool.Settlement{Verdict: spool.Done})
		}
		require.NoError(t, d.Flush(context.Background()), what)
	}
	return false
}

func TestAnIndexThatTurnsBadWhileRunningEndsNothingElse(t *testing.T) {
	for name, c := range map[string]struct {
		from, to int64 // pages
		how      func([]byte)
	}{
		"all but the roots, zeros": {2, 1 << 20, disktest.Zero},
		"all but the roots, noise": {2, 1 << 20, disktest.Noise},
		"both roots, zeros":        {0, 2, disktest.Zero},
		"both roots, noise":        {0, 2, disktest.Noise},
		"the first root":           {0, 1, disktest.Zero},
		"the second root":          {1, 2, disktest.Noise},
		"everything":               {0, 1 << 20, disktest.Zero},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(disktest.TempDir(t), "inbox")
			count := inboxWithEverything(t, dir, false)
			heard := make(chan string, 100)
			d := openTestDisk(
				t,
				dir,
				Options{
					pause: time.Millisecond,
					Events: spool.StoreEvents{Refusing: func(reason spool.Reason, on bool, cause error) {
						heard <- fmt.Sprint(reason, " ", on, " ", cause)
					}},
				},
			)
			mend := disktest.Spoil(
				t,
				filepath.Join(dir, index.FileName),
				c.from*disktest.PageSize,
				c.to*disktest.PageSize,
				c.how,
			)

			eventually(t, func() error {
				_, _ = d.Lease(context.Background(), spool.LeaseRequest{Route: "r", Max: 10})
				_, _ = d.List(context.Background(), spool.Filter{})
				var refused *spool.RefusedError
				if err := disktest.TryKeep(d, fmt.Sprint(rand.Uint64())); !errors.As(err, &refused) ||
					refused.Reason != spool.ReasonDamaged {
					return fmt.Errorf("not refused, but %w", err)
				}
				return nil
			})
			require.Contains(t, <-heard, "inbox_damaged true "+filepath.Join(dir, index.FileName))

			// Nobody knows what a part of a transaction has become, but here none was under way.
			mend()
			eventually(t, func() error { return disktest.TryKeep(d, "after") })
			list, err := d.List(context.Background(), spool.Filter{Limit: 1000})
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(list), count)
		})
	}
}

// A record that cannot be read can be listed and dropped, and does not end what is done to many.
func TestADamagedMessageIsListedDroppedAndPassed(t *testing.T) {
	for _, bucket := range []index.Bucket{index.Fresh, index.Parked, index.Dead} {
		t.Run(bucket.String(), func(t *testing.T) {
			ctx := context.Background()
			dir := filepath.Join(disktest.TempDir(t), "inbox")
			count := inboxWithEverything(t, dir, false)
			x, err := openTestIndex(dir)
			require.NoError(t, err)
			var bad []spool.ID
			require.NoError(t, x.Update(func(tx *index.Tx) error {
				for range 2 {
					var key, record []byte
					tx.Scan(bucket, index.RouteKey(1), nil, func(k, v []byte) bool {
						key, record = append([]byte(nil), k...), append([]byte(nil), v...)
						return !index.Record(v).Intact()
					})
					record[len(record)-1] ^= 1
					if err := tx.Put(bucket, key, record); err != nil {
						return err
					}
					bad = append(bad, index.KeyID(key))
				}
				return nil
			}))
			require.NoError(t, x.Close(true))

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
			switch {
			case bucket == index.Dead:
				n, _, done, err := d.ReplayAll(ctx, spool.Filter{Route: "r", State: spool.Dead, Limit: 1000})
				require.NoError(t, err)
				require.True(t, done)
				require.Equal(t, dead-1, n, "all but the damaged one")
			default:
				leaseAll(t, d)
				expired, err := d.Expire(ctx, "r", 0, "too late", 1000)
				require.NoError(t, err)
				require.Empty(t, expired)
			}
			require.NoError(t, d.Flush(ctx))
			gone, err := d.DropAll(
				ctx,
				spool.Filter{Route: "r", State: spool.Dead, EndedFor: 1, Limit: 1000},
			)
			require.NoError(t, err)
			ids := make([]spool.ID, len(gone))
			for i, m := range gone {
				ids[i] = m.ID
			}
			if bucket != index.Parked { // whose time has not come
				require.Contains(t, ids, bad[1])
				require.Zero(t, counts(t, d).Routes["r"].Dead)
			}
			require.NoError(t, d.Close(context.Background()))
			openTestDisk(t, dir, Options{})
		})
	}
}

// FuzzIndex has the check look at damaged indexes. What it lets pass, bbolt must be able to work
// with: a panic in one of its goroutines would end the test.
func FuzzIndex(f *testing.F) {
	dir := filepath.Join(disktest.TempDir(f), "inbox")
	inboxWithEverything(f, dir, true)
	whole, err := os.ReadFile(filepath.Join(dir, index.FileName))
	require.NoError(f, err)
	f.Add([]byte{0, 2, 0, 1, 255})
	f.Add([]byte{0, 5, 0, 16, 3, 0, 6, 0, 0, 9})
	f.Add([]byte{0, 0, 0, 32, 1})
	scratch := disktest.TempDir(f)
	f.Fuzz(func(t *testing.T, edits []byte) {
		raw := append([]byte(nil), whole...)
		for ; len(edits) >= 5; edits = edits[5:] { // a page, an offset in it, a byte
			page := int(binary.BigEndian.Uint16(edits)) % (len(raw) / disktest.PageSize)
			raw[page*disktest.PageSize+int(binary.BigEndian.Uint16(edits[2:]))%disktest.PageSize] ^= edits[4]
		}
		for i := range 2 { // let damage through that the checksum of a root would find
			const rootSize = 64
			root := raw[i*disktest.PageSize+disktest.PageHeader:]
			sum := fnv.New64a()
			_, _ = sum.Write(root[:rootSize-8])
			binary.NativeEndian.PutUint64(root[rootSize-8:], sum.Sum64())
		}
		dir := filepath.Join(scratch, "inbox")
		require.NoError(t, os.RemoveAll(dir))
		require.NoError(t, os.Mkdir(dir, bodies.DirPerm))
		require.NoError(t, os.WriteFile(filepath.Join(dir, index.FileName), raw, bodies.FilePerm))
		x, err := openTestIndex(dir)
		if err != nil {
			return
		}
		err = x.Update(func(tx *index.Tx) error {
			for bucket := index.State; bucket <= index.Files; bucket++ {
				var keys [][]byte
				tx.Scan(bucket, nil, nil, func(key, _ []byte) bool {
					keys = append(keys, append([]byte(nil), key...))
					return true
				})
				for _, key := range keys {
					if err := tx.Delete(bucket, key); err != nil {
						return err
					}
				}
			}
			return nil
		})
		require.NoError(t, err)
		require.NoError(t, x.Close(true))
	})
}

// openTestIndex opens the index of an inbox that is closed.
func openTestIndex(dir string) (*index.Index, error) {
	fsys := &bodies.OS{}
	if err := fsys.Enter(dir); err != nil {
		return nil, err
	}
	x, _, err := index.Open(fsys, dir)
	return x, err
}

// Memory whose part of the file is gone faults when it is read, which is fatal unless it is asked
// for otherwise.
func TestAnIndexThatIsCutOffWhileRunningEndsNothingElse(t *testing.T) {
	dir := filepath.Join(disktest.TempDir(t), "inbox")
	inboxWithEverything(t, dir, false)
	d := openTestDisk(t, dir, Options{pause: time.Millisecond})
	path := filepath.Join(dir, index.FileName)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, 2*disktest.PageSize))
	_, err = d.List(context.Background(), spool.Filter{})
	require.ErrorIs(t, err, spool.ErrDamaged)
	eventually(t, func() error {
		var refused *spool.RefusedError
		if err := disktest.TryKeep(d, "x"); !errors.As(err, &refused) ||
			refused.Reason != spool.ReasonDamaged {
			return fmt.Errorf("not refused, but %w", err)
		}
		return nil
	})
	require.NoError(t, os.WriteFile(path, whole, bodies.FilePerm))
	eventually(t, func() error { return disktest.TryKeep(d, "after") })
}
