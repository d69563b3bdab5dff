// How a store is opened: the directory, the lock, the index, and what is kept of it in memory.

package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

func (d *Store) open() (err error) {
	if err := bodies.MakeDir(d.path); err != nil {
		return err
	}
	if err := d.fsys.Enter(d.path); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		if d.index != nil {
			err = errors.Join(err, d.index.Close(false))
		}
		if d.lock != nil {
			_ = d.lock.Close()
		}
		err = errors.Join(err, d.fsys.Leave())
	}()
	if err := d.closeToOthers(); err != nil {
		return err
	}
	d.lock, err = d.fsys.OpenIndex(
		filepath.Join(d.path, bodies.LockName),
		os.O_RDWR|os.O_CREATE,
		bodies.FilePerm,
	)
	if err != nil {
		return err
	}
	if err := bodies.LockFile(d.lock); err != nil {
		return err
	}

	if err := d.checkBodiesHaveIndex(); err != nil {
		return err
	}
	for _, dir := range []string{bodies.SegmentDir, bodies.LargeDir} {
		if err := d.fsys.Mkdir(filepath.Join(d.path, dir)); err != nil {
			return err
		}
	}
	var found *index.Tally
	if d.index, found, err = index.OpenOrCreate(d.fsys, d.path); err != nil {
		return err
	}
	if used, size := d.index.Usage(); worthCompacting(used, size) {
		if found, err = d.replaceIndex(); err != nil {
			return err
		}
	}
	if err := d.load(found); err != nil {
		return err
	}
	if err := d.segments.Sweep(); err != nil {
		return err
	}
	err = d.index.View(func(t *index.Tx) error {
		return d.files.Sweep(func(name [16]byte) bool { return t.Get(index.Files, name[:]) != nil })
	})
	if err != nil {
		return err
	}
	return d.restoreBallast()
}

// closeToOthers has a directory closed to others. One that has
// something else in it is left as it is: our files are closed by themselves.
func (d *Store) closeToOthers() error {
	entries, err := d.fsys.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		switch entry.Name() {
		case bodies.LockName,
			index.FileName,
			index.DraftName,
			bodies.SegmentDir,
			bodies.LargeDir,
			ballastName,
			probeName:
		default:
			return nil
		}
	}
	info, err := d.fsys.Stat(d.path)
	if err != nil || !bodies.MayClose(info) {
		return err
	}
	return os.Chmod(d.path, bodies.DirPerm)
}

// checkBodiesHaveIndex refuses to start afresh where bodies lie around whose index
// is missing: the sweep would delete them.
func (d *Store) checkBodiesHaveIndex() error {
	if _, err := d.fsys.Stat(filepath.Join(d.path, index.FileName)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, dir := range []string{bodies.SegmentDir, bodies.LargeDir} {
		entries, err := d.fsys.ReadDir(filepath.Join(d.path, dir))
		if err == nil && len(entries) > 0 {
			return fmt.Errorf(
				"%w: %s is missing beside stored bodies; restore it from a backup or move the directory away",
				spool.ErrForeign,
				index.FileName,
			)
		}
	}
	return nil
}

// load reads what is kept in memory: the routes, the segments, the fingerprints. What can be
// counted is taken as it was counted.
func (d *Store) load(found *index.Tally) error {
	d.routes, d.numbers = make(map[string]*index.RouteInfo), make(map[uint32]*index.RouteInfo)
	segments := make(map[uint32]bodies.Stats)

	err := d.index.View(func(t *index.Tx) error {
		t.Scan(index.Routes, nil, nil, func(key, value []byte) bool {
			info := index.ParseRouteInfo(string(key), value)
			info.Counts = found.Routes[info.Number]
			d.routes[info.Name], d.numbers[info.Number] = info, info
			return true
		})
		t.Scan(index.Segments, nil, nil, func(key, value []byte) bool {
			number := index.Uint32(key)
			segments[number] = index.ParseSegmentStats(value).
				Corrected(found.Segments[number], found.Unreadable > 0)
			return true
		})
		if last := t.Get(index.State, index.LastID); len(last) == len(spool.ID{}) {
			d.writer.ids.Resume(spool.ID(last))
		}
		d.writer.prints.Load(t, found.Prints)
		d.requests.Load(found.Requests)
		d.loadPaused(t)
		d.loadStreams(t)
		t.Scan(index.Damaged, nil, nil, func(_, _ []byte) bool {
			d.putAside = true
			return false
		})
		t.Scan(index.Imported, nil, nil, func(_, _ []byte) bool {
			d.hasImported = true
			return false
		})
		return nil
	})
	if err != nil {
		return err
	}
	d.segments.Adopt(segments)
	d.usedDB, _ = d.index.Usage()
	return nil
}
