// Bodies whose records are lost, and the report.

package rescue

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
)

func bodiesBeside(into string) string { return into + ".bodies" }

// saveBodies saves bodies that no record points to, where records were lost.
func (r *rescue) saveBodies(ctx context.Context) error {
	dir := bodiesBeside(r.Into)
	save := func(name string, body io.Reader) error {
		if r.BodiesIn == "" {
			if err := os.Mkdir(dir, bodies.DirPerm); err != nil {
				return err
			}
			r.BodiesIn = dir
		}
		f, err := os.OpenFile(
			filepath.Join(dir, name),
			os.O_WRONLY|os.O_CREATE|os.O_EXCL,
			bodies.FilePerm,
		)
		if errors.Is(err, fs.ErrExist) {
			return nil // a copy of it from before its segment was cleared
		}
		if err != nil {
			return err
		}
		r.Bodies++
		_, err = io.Copy(f, body)
		return errors.Join(err, f.Close())
	}
	lost := make(map[spool.ID]bool)
	for _, l := range r.Lost {
		lost[l.ID] = true
	}

	entries, err := r.fsys.ReadDir(filepath.Join(r.from, bodies.SegmentDir))
	if err != nil {
		r.note("%s: %v", bodies.SegmentDir, err)
	}
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, ok := bodies.SegmentNumber(entry.Name()); !ok {
			continue
		}
		err := r.eachSegmentBody(entry.Name(), func(route uint32, key [16]byte, body []byte) error {
			id := spool.ID(key)
			if r.saved[id] || !lost[id] && !r.salvage.MayBeLostOf(route, id) {
				return nil
			}
			return save(id.String()+bodies.LargeSuffix, bytes.NewReader(body))
		})
		if err != nil {
			return err
		}
	}

	entries, err = r.fsys.ReadDir(filepath.Join(r.from, bodies.LargeDir))
	if err != nil {
		r.note("%s: %v", bodies.LargeDir, err)
	}
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if name, ok := bodies.LargeName(entry.Name()); !ok || r.usedFile[name] {
			continue
		}
		f, err := r.fsys.OpenFile(filepath.Join(r.from, bodies.LargeDir, entry.Name()), os.O_RDONLY)
		if err != nil {
			r.note("%v", err)
			continue
		}
		size, err := f.Size()
		if err == nil {
			err = save(entry.Name(), io.NewSectionReader(f, 0, size))
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// eachSegmentBody calls fn for every whole body in a segment, wherever it begins.
func (r *rescue) eachSegmentBody(
	name string,
	fn func(route uint32, id [16]byte, body []byte) error,
) error {
	f, err := r.fsys.OpenFile(filepath.Join(r.from, bodies.SegmentDir, name), os.O_RDONLY)
	if err != nil {
		r.note("%v", err)
		return nil
	}
	defer func() { _ = f.Close() }() // was only read
	return bodies.SearchSegment(f, fn)
}

// count says how many messages the totals of the index speak of that were not found.
func (r *rescue) count() {
	var expected int64
	for _, totals := range r.salvage.Totals {
		for _, n := range []int64{totals.Pending, totals.Dead, totals.Delivered} {
			if n >= 0 && n < 1<<40 {
				expected += n
			}
		}
	}
	r.Missing = max(expected-int64(r.Pending+r.Dead+r.Delivered+len(r.Lost)), 0)
}

// giveAway has the new files belong to whom the old ones do, where the caller may do that: an
// administrator recovers, and Caddy is to open it.
func (r *rescue) giveAway() error {
	info, err := os.Stat(r.from)
	if err != nil {
		return err
	}
	for _, dir := range [...]string{r.Into, r.BodiesIn} {
		if dir == "" {
			continue
		}
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return bodies.GiveTo(info, path)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
