// Recover saves what is whole of a damaged inbox. It needs none of the machinery by which an inbox is
// read otherwise: it goes through the files by itself, and counts with any bytes in them.

package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Recovery is what [Recover] has to tell.
type Recovery struct {
	// Into is the directory of the new inbox.
	Into string `json:"into"`

	// Pending and Dead are how many messages were copied.
	Pending int `json:"pending"`
	Dead    int `json:"dead"`

	// Uncertain is how many of them were found only on pages that nothing points to any more, or under another id
	// than their body. The former may have been delivered already; they have their old ids, by which a service
	// can tell. The latter have the id that is stored with the body.
	Uncertain int `json:"uncertain"`

	// Lost are the messages of which something is left, but not enough to deliver them.
	Lost []Loss `json:"lost"`

	// Missing is how many more messages the totals of the index speak of.
	Missing int64 `json:"missing"`

	// Bodies is how many bodies were saved, into the directory BodiesIn, that may be of lost messages, but whose
	// method, URI and header are lost. Those of an ordinary size have the id of their message as their name.
	Bodies   int    `json:"bodies"`
	BodiesIn string `json:"bodies_in,omitempty"`

	// Damage says what was found to be damaged.
	Damage []string `json:"damage"`
}

// Loss is a message that could not be saved.
type Loss struct {
	ID        spool.ID `json:"id"`
	Route     string   `json:"route"`
	RequestID string   `json:"request_id,omitempty"`
	Reason    string   `json:"reason"`
}

const maxDamageNotes = 20

// Recover copies every message that is still whole from an inbox that is not open into a new one, and changes
// nothing in the old one. The messages keep their ids, states and attempts, and the fingerprints of those
// that are not lost are kept too.
//
// A message is whole if its record is (with its URI and header), and its body. A record is found also
// where the pages that lead to it are destroyed: what it is found by then are its own checksum and the ids
// that were on those pages. Of a message whose record is destroyed only the body is left; such
// bodies are saved as files.
func Recover(ctx context.Context, from, into string) (*Recovery, error) {
	from, err := filepath.Abs(from)
	if err == nil {
		into, err = filepath.Abs(into)
	}
	if err != nil {
		return nil, err
	}
	for _, path := range [...]string{into, bodiesBeside(into)} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(fmt.Errorf("%s is there already: move it away", path), err)
		}
	}
	r := &rescue{fsys: &osFileSystem{anyOwner: true}, from: from, Recovery: Recovery{Into: into, Lost: []Loss{}, Damage: []string{}}}
	if err := r.run(ctx); err != nil {
		// What there is of the copy is no use to anybody.
		return nil, errors.Join(fmt.Errorf("recover %s: %w", from, err), os.RemoveAll(into), os.RemoveAll(bodiesBeside(into)))
	}
	return &r.Recovery, nil
}

func bodiesBeside(into string) string { return into + ".bodies" }

// rescue is one call of Recover.
type rescue struct {
	Recovery
	fsys *osFileSystem
	from string

	salvage  *salvage
	segments *segments
	files    *bodyFiles
	usedFile map[[16]byte]bool // bodies that a record points to
	saved    map[spool.ID]bool
}

func (r *rescue) run(ctx context.Context) (err error) {
	if err := r.fsys.Enter(r.from); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.fsys.Leave()) }()
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()

	index, err := r.fsys.OpenIndex(filepath.Join(r.from, indexName), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, index.Close()) }()
	info, err := index.Stat()
	if err != nil {
		return err
	}
	r.salvage = newSalvage(index, info.Size(), r.note)
	r.salvage.search()
	if err := ctx.Err(); err != nil {
		return err
	}

	r.segments, r.files = newSegments(r.fsys, r.from, defaultSegmentSize), newBodyFiles(r.fsys, r.from)
	defer r.segments.close()
	r.usedFile, r.saved = make(map[[16]byte]bool), make(map[spool.ID]bool)
	if err := r.fill(ctx); err != nil {
		return err
	}
	if r.salvage.lostAnything() || len(r.Lost) > 0 {
		if err := r.saveBodies(ctx); err != nil {
			return err
		}
	}
	r.count()
	return r.giveAway()
}

// note keeps what is damaged for the report.
func (r *rescue) note(format string, args ...any) {
	switch n := len(r.Damage); {
	case n < maxDamageNotes:
		r.Damage = append(r.Damage, fmt.Sprintf(format, args...))
	case n == maxDamageNotes:
		r.Damage = append(r.Damage, "and more")
	}
}

// lock keeps Caddy from opening the inbox meanwhile. Without a lock file it cannot have it open.
func (r *rescue) lock() (unlock func(), err error) {
	f, err := r.fsys.OpenIndex(filepath.Join(r.from, lockName), os.O_RDONLY, 0)
	if err != nil {
		return func() {}, nil //nolint:nilerr // it may be what is damaged
	}
	if err := lockFile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: stop that Caddy, or take this inbox out of its configuration", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// fill makes the new inbox.
func (r *rescue) fill(ctx context.Context) (err error) {
	d, err := Open(r.Into, Options{CommitDelay: -1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close(context.WithoutCancel(ctx))) }()
	d.SetLimits(spool.Limits{Fingerprints: 1 << 62}) // what is too old is for the configuration to say

	restoring := restoration{d: d}
	for i := range r.salvage.messages {
		if err := ctx.Err(); err != nil {
			return err
		}
		found := &r.salvage.messages[i]
		if err := r.copyMessage(&restoring, found); err != nil {
			return err
		}
	}
	if err := restoring.wait(); err != nil {
		return err
	}
	return d.restorePrints(ctx, func(p printEntry) bool {
		// That of a lost message goes, so that it is not taken for a duplicate when it is sent again.
		return r.saved[p.id] || !r.salvage.mayBeLost(p.id)
	}, r.salvage.prints)
}

// copyMessage copies one message. That it is lost is not an error.
func (r *rescue) copyMessage(restoring *restoration, found *foundMessage) error {
	m, err := r.salvage.message(found)
	if err != nil {
		r.lose(found, "", err)
		return nil
	}
	uncertain := found.orphan
	if m.where.segment == 0 {
		r.usedFile[m.where.file] = true
	} else if id, ok := r.segments.owner(m.where); ok && id != m.ID && !r.salvage.has(id) {
		m.ID, uncertain = id, true // no checksum covers the key of a record
	}
	body, err := r.body(m)
	if err != nil {
		r.lose(found, m.RequestID, err)
		return nil
	}
	w, err := restoring.d.NewBody(context.Background(), m.Size)
	if err != nil {
		return errors.Join(err, body.Close())
	}
	_, err = io.Copy(w, body)
	err = errors.Join(err, body.Close())
	if errors.Is(err, spool.ErrDamaged) {
		w.Discard()
		r.lose(found, m.RequestID, err)
		return nil
	}
	if err != nil {
		w.Discard()
		return err
	}
	r.saved[m.ID] = true
	if uncertain {
		r.Uncertain++
	}
	if m.State == spool.Dead {
		r.Dead++
	} else {
		r.Pending++
	}
	return restoring.add(m, r.salvage.bucket(m, found), w)
}

func (r *rescue) lose(found *foundMessage, requestID string, cause error) {
	r.Lost = append(r.Lost, Loss{ID: found.id, Route: r.salvage.routeName(found.route), RequestID: requestID, Reason: cause.Error()})
}

// body opens the body of a message in the old inbox.
func (r *rescue) body(m *entry) (spool.Body, error) {
	var body spool.Body
	var err error
	switch {
	case m.where.segment == 0:
		body, err = r.files.open(m.where)
	case m.where.size > maxSegmentBody:
		return nil, spool.ErrDamaged
	default:
		var small *segmentBody
		if small, err = r.segments.read(m.where); err == nil {
			body = small
		}
	}
	if err != nil {
		return nil, fmt.Errorf("its body: %w", err)
	}
	return body, nil
}

// saveBodies saves bodies that no record points to, where records were lost.
func (r *rescue) saveBodies(ctx context.Context) error {
	dir := bodiesBeside(r.Into)
	save := func(name string, body io.Reader) error {
		if r.BodiesIn == "" {
			if err := os.Mkdir(dir, dirPerm); err != nil {
				return err
			}
			r.BodiesIn = dir
		}
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, filePerm)
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

	entries, err := r.fsys.ReadDir(filepath.Join(r.from, segmentDir))
	if err != nil {
		r.note("%s: %v", segmentDir, err)
	}
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, ok := segmentNumber(entry.Name()); !ok {
			continue
		}
		err := r.eachSegmentBody(entry.Name(), func(route uint32, id spool.ID, body []byte) error {
			if r.saved[id] || !lost[id] && !r.salvage.mayBeLostOf(route, id) {
				return nil
			}
			return save(id.String()+bodySuffix, bytes.NewReader(body))
		})
		if err != nil {
			return err
		}
	}

	entries, err = r.fsys.ReadDir(filepath.Join(r.from, bodyDir))
	if err != nil {
		r.note("%s: %v", bodyDir, err)
	}
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if name, ok := bodyName(entry.Name()); !ok || r.usedFile[name] {
			continue
		}
		f, err := r.fsys.OpenFile(filepath.Join(r.from, bodyDir, entry.Name()), os.O_RDONLY)
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
func (r *rescue) eachSegmentBody(name string, fn func(route uint32, id spool.ID, body []byte) error) error {
	f, err := r.fsys.OpenFile(filepath.Join(r.from, segmentDir, name), os.O_RDONLY)
	if err != nil {
		r.note("%v", err)
		return nil
	}
	defer func() { _ = f.Close() }() // was only read
	size, err := f.Size()
	if err != nil {
		return err
	}
	mark := binary.BigEndian.AppendUint32(nil, segmentMark)
	return eachWindow(f, 0, size, segmentHeader+maxSegmentBody, func(b []byte, _ int64, enough int) (int, error) {
		at := 0
		for at < enough {
			next := bytes.Index(b[at:], mark)
			if next < 0 {
				return max(at, len(b)-len(mark)+1), nil
			}
			at += next
			if at >= enough {
				break
			}
			body, ok := segmentBodyAt(b[at:])
			if !ok {
				at++
				continue
			}
			if err := fn(binary.BigEndian.Uint32(b[at+12:]), spool.ID(b[at+16:at+segmentHeader]), body); err != nil {
				return 0, err
			}
			at += segmentHeader + len(body)
		}
		return at, nil
	})
}

// count says how many messages the totals of the index speak of that were not found.
func (r *rescue) count() {
	var expected int64
	for _, totals := range r.salvage.totals {
		if totals.pending >= 0 && totals.dead >= 0 && totals.pending < 1<<40 && totals.dead < 1<<40 {
			expected += totals.pending + totals.dead
		}
	}
	r.Missing = max(expected-int64(r.Pending+r.Dead+len(r.Lost)), 0)
}

// giveAway has the new files belong to whom the old ones do, where the caller may do that: an administrator
// recovers, and Caddy is to open it.
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
			return giveTo(info, path)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachWindow reads a part of a file piece by piece. Pieces overlap by so much that whatever is not
// longer begins in the first enough bytes of one and is there as a whole. fn returns how far it came.
func eachWindow(f io.ReaderAt, from, to int64, longest int, fn func(b []byte, at int64, enough int) (int, error)) error {
	buffer := make([]byte, 1<<20+longest)
	for from < to {
		b := buffer[:min(int64(len(buffer)), to-from)]
		n, err := f.ReadAt(b, from)
		if n == 0 && err != nil {
			from += 1 << 12 // cannot be read: leave out as little as there may be
			continue
		}
		b = b[:n]
		enough := len(b)
		if from+int64(n) < to && err == nil {
			enough -= longest
		}
		came, err := fn(b, from, enough)
		if err != nil {
			return err
		}
		from += int64(max(came, min(enough, len(b)), 1))
	}
	return nil
}
