package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/race"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/internal/disktest"
)

// A power failure is simulated by putting together what can be on disk at any moment: of files
// that go through our own seam, everything up to their last sync, and any part of what was
// written since; of the index, every stage of bbolt's commit. bbolt writes the changed pages,
// syncs, writes one of the two roots, and syncs again (tx.go: write, writeMeta); so either the
// old root is there with any part of the new pages, or all new pages with any part of the new
// root.

// diskEvent is something that happened to the directory, in order.
type diskEvent struct {
	kind string // create, write, truncate, remove, sync, syncdir, commit
	path string
	data []byte
	at   int64
}

// recordingFS records what is done to segments, body files and their directories.
type recordingFS struct {
	bodies.OS

	mu     sync.Mutex
	events []diskEvent
}

func (f *recordingFS) record(e diskEvent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e)
}

// isBody reports whether a file is one of those that are simulated from events.
func isBody(path string) bool {
	return strings.HasSuffix(path, bodies.SegmentSuffix) || strings.HasSuffix(path, bodies.LargeSuffix)
}

func (f *recordingFS) OpenFile(name string, flag int) (bodies.File, error) {
	opened, err := f.OS.OpenFile(name, flag)
	if err != nil || !isBody(name) {
		return opened, err
	}
	if flag&os.O_CREATE != 0 {
		f.record(diskEvent{kind: "create", path: name})
	}
	return &recordingFile{File: opened, fs: f, name: name}, nil
}

func (f *recordingFS) Remove(name string) error {
	if isBody(name) {
		f.record(diskEvent{kind: "remove", path: name})
	}
	return f.OS.Remove(name)
}

func (f *recordingFS) SyncDir(name string) error {
	err := f.OS.SyncDir(name)
	f.record(diskEvent{kind: "syncdir", path: name})
	return err
}

type recordingFile struct {
	bodies.File
	fs   *recordingFS
	name string
}

func (f *recordingFile) WriteAt(p []byte, offset int64) (int, error) {
	f.fs.record(diskEvent{kind: "write", path: f.name, data: bytes.Clone(p), at: offset})
	return f.File.WriteAt(p, offset)
}

func (f *recordingFile) Truncate(size int64) error {
	f.fs.record(diskEvent{kind: "truncate", path: f.name, at: size})
	return f.File.Truncate(size)
}

func (f *recordingFile) Sync() error {
	err := f.File.Sync()
	f.fs.record(diskEvent{kind: "sync", path: f.name})
	return err
}

// commitState is the index file after a commit, and what is to be found in it.
type commitState struct {
	index   []byte
	content map[spool.ID]string
}

// contentOf says what a store holds: of each message its state, attempts and body.
func contentOf(t *testing.T, d *Store) map[spool.ID]string {
	t.Helper()
	list, err := d.List(context.Background(), spool.Filter{Limit: 1 << 20})
	require.NoError(t, err)
	content := make(map[spool.ID]string)
	for _, m := range list {
		body, err := d.Body(context.Background(), m.ID)
		require.NoError(t, err, "a message without its body")
		b, err := io.ReadAll(body)
		require.NoError(t, err, "a body that is not what was accepted")
		require.NoError(t, body.Close())
		content[m.ID] = fmt.Sprintf("%s %d %x", m.State, m.Tries, sha256.Sum256(b))
	}
	return content
}

// simulatedFile is a file with what is surely on disk of it and what may be.
type simulatedFile struct {
	durable []byte
	pending []diskEvent // since the last sync
	entry   bool        // its name is surely on disk
	removed bool        // but that may not be on disk
}

// simulatedDir is the directory at one moment.
type simulatedDir struct {
	files map[string]*simulatedFile
}

func (s *simulatedDir) apply(e diskEvent) {
	f := s.files[e.path]
	switch e.kind {
	case "create":
		s.files[e.path] = &simulatedFile{}
	case "write", "truncate":
		f.pending = append(f.pending, e)
	case "sync":
		f.durable = applyEvents(f.durable, f.pending)
		f.pending = nil
	case "remove":
		if f != nil {
			f.removed = true
		}
	case "syncdir":
		for path, f := range s.files {
			if filepath.Dir(path) != e.path {
				continue
			}
			f.entry = true
			if f.removed {
				delete(s.files, path)
			}
		}
	}
}

func applyEvents(data []byte, events []diskEvent) []byte {
	data = bytes.Clone(data)
	for _, e := range events {
		if e.kind == "truncate" {
			data = data[:min(int64(len(data)), e.at)]
			continue
		}
		if end := int(e.at) + len(e.data); end > len(data) {
			data = append(data, make([]byte, end-len(data))...)
		}
		copy(data[e.at:], e.data)
	}
	return data
}

// after returns one thing that may be in a file after a power failure, or false for no such file.
func (f *simulatedFile) after(rng *rand.Rand) ([]byte, bool) {
	if f.removed && rng.IntN(2) == 0 || !f.entry && rng.IntN(2) == 0 {
		return nil, false
	}
	data := bytes.Clone(f.durable)
	for _, e := range f.pending { // in any order, some not at all, some in part
		switch {
		case rng.IntN(3) == 0:
			continue
		case e.kind == "write":
			for sector := 0; sector < len(e.data); sector += 512 {
				if rng.IntN(3) > 0 {
					part := e.data[sector:min(sector+512, len(e.data))]
					data = applyEvents(data, []diskEvent{{kind: "write", data: part, at: e.at + int64(sector)}})
				}
			}
		default:
			data = applyEvents(data, []diskEvent{e})
		}
	}
	return data, true
}

// torn returns a stage of bbolt's commit between two states of the file: before the first sync,
// any sectors of the new pages; between the first and the second, all of them and any sectors of
// the root.
func torn(before, after []byte, rng *rand.Rand, pagesSynced bool) []byte {
	file := bytes.Clone(before)
	if pagesSynced || rng.IntN(2) == 0 {
		file = append(file, make([]byte, max(len(after)-len(before), 0))...)
	}
	for at := 0; at+512 <= len(after); at += 512 {
		isRoot := at < 2*disktest.PageSize
		if at+512 > len(file) {
			continue
		}
		if isRoot && pagesSynced && rng.IntN(2) == 0 || !isRoot && (pagesSynced || rng.IntN(2) == 0) {
			copy(file[at:at+512], after[at:at+512])
		}
	}
	return file
}

// A message's fate over a power failure must be one and whole: there with its body, or not there
// and no trace of its fingerprint.
func TestAPowerFailureLosesNothingAcknowledged(t *testing.T) {
	dir := disktest.TempDir(t)
	fsys := &recordingFS{}
	var commits []commitState
	var d *Store
	opened := make(chan struct{})
	readIndex := func() []byte {
		raw, err := os.ReadFile(filepath.Join(dir, index.FileName))
		require.NoError(t, err)
		return raw
	}
	d, err := Open(
		dir,
		Options{fsys: fsys, segmentSize: 20 << 10, Events: spool.StoreEvents{Synced: func(time.Duration) {
			<-opened
			fsys.record(diskEvent{kind: "commit"})
			commits = append(commits, commitState{index: readIndex(), content: contentOf(t, d)})
		}}},
	)
	require.NoError(t, err)
	first := commitState{index: readIndex(), content: contentOf(t, d)}
	close(opened)

	prints := powerWorkload(t, d)
	require.NoError(t, d.Flush(context.Background()))
	events := fsys.events
	d.abandon()

	rng := rand.New(rand.NewPCG(1, 2))
	state := &simulatedDir{files: make(map[string]*simulatedFile)}
	before, commit := first, 0
	variants := 3
	if testing.Short() || race.Enabled {
		variants = 1
	}
	failures := 0
	for i, e := range events {
		for range variants {
			if e.kind == "commit" {
				after := commits[commit]
				for _, pagesSynced := range []bool{false, true} {
					checkAfterPowerFailure(
						t,
						dir,
						state,
						torn(before.index, after.index, rng, pagesSynced),
						rng,
						prints,
						before.content,
						after.content,
					)
					failures++
				}
			} else if i%2 == 0 || !race.Enabled {
				checkAfterPowerFailure(t, dir, state, before.index, rng, prints, before.content)
				failures++
			}
		}
		if e.kind == "commit" {
			before = commits[commit]
			commit++
			continue
		}
		state.apply(e)
	}
	t.Logf("%d power failures over %d commits", failures, len(commits))
	require.Greater(t, len(commits), 20)
}

// powerWorkload does a bit of everything, and returns the fingerprints of what was accepted.
func powerWorkload(t *testing.T, d *Store) map[spool.ID]spool.Fingerprint {
	t.Helper()
	prints := make(map[spool.ID]spool.Fingerprint)
	var mu sync.Mutex
	for round := range 12 {
		var writers sync.WaitGroup
		for i := range 4 {
			writers.Go(func() {
				size := []int{100, 3000, 9000, bodies.MaxSmall + 1000}[(i+round)%4]
				text := fmt.Sprint(round, i, strings.Repeat("x", size))
				body, err := d.NewBody(context.Background(), -1)
				require.NoError(t, err)
				_, _ = body.Write([]byte(text))
				print := sha256.Sum256([]byte(text))
				receipt, err := d.Accept(
					context.Background(),
					&spool.Message{State: spool.Pending, Route: "r", OrderKey: uint64(i)},
					print,
					time.Hour,
					body,
				)
				require.NoError(t, err)
				mu.Lock()
				defer mu.Unlock()
				prints[receipt.ID] = print
			})
		}
		writers.Wait()
		leased, err := d.Lease(context.Background(), spool.LeaseRequest{Route: "r", Max: 3})
		require.NoError(t, err)
		for i, lease := range leased.Leases {
			d.Settle(
				lease,
				spool.Settlement{
					Verdict: []spool.Verdict{spool.Done, spool.Retry, spool.Done, spool.Bury}[(i+round)%4],
				},
			)
		}
		require.NoError(t, d.Flush(context.Background()))
	}
	return prints
}

// checkAfterPowerFailure opens what may be left, and compares it with what may be in it.
func checkAfterPowerFailure(
	t *testing.T,
	dir string,
	state *simulatedDir,
	raw []byte,
	rng *rand.Rand,
	prints map[spool.ID]spool.Fingerprint,
	allowed ...map[spool.ID]string,
) {
	t.Helper()
	image := disktest.TempDir(t)
	for _, sub := range []string{bodies.SegmentDir, bodies.LargeDir} {
		require.NoError(t, os.Mkdir(filepath.Join(image, sub), bodies.DirPerm))
	}
	require.NoError(t, os.WriteFile(filepath.Join(image, index.FileName), raw, bodies.FilePerm))
	require.NoError(t, os.WriteFile(filepath.Join(image, ballastName), nil, bodies.FilePerm))
	require.NoError(t, os.Truncate(filepath.Join(image, ballastName), ballastSize))
	for _, path := range slices.Sorted(maps.Keys(state.files)) {
		if data, ok := state.files[path].after(rng); ok {
			relative, err := filepath.Rel(dir, path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(image, relative), data, bodies.FilePerm))
		}
	}

	d, err := Open(image, Options{})
	require.NoError(t, err)
	defer d.abandon()
	content := contentOf(t, d)
	require.Contains(t, allowed, content)

	// What is gone must be accepted when it is sent again, or it is lost for good; what
	// was there before must not be.
	old, latest := allowed[0], allowed[len(allowed)-1]
	for id, print := range prints {
		known := !d.writer.prints.Latest(d.view, print).IsZero()
		if _, there := content[id]; there {
			require.True(t, known)
		} else if _, later := latest[id]; later && old[id] == "" {
			require.False(t, known, "the fingerprint of a message that is not there")
		}
	}
}
