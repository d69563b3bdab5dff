// Package rescue saves what is whole of a damaged inbox. It needs none of the machinery by which an
// inbox is read otherwise: it goes through the files by itself, and counts with any bytes in them.
package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// Recovery is what [Recover] has to tell.
type Recovery struct {
	// Into is the directory of the new inbox.
	Into string `json:"into"`

	// Pending, Dead and Delivered are how many messages were copied.
	Pending   int `json:"pending"`
	Dead      int `json:"dead"`
	Delivered int `json:"delivered"`

	// Uncertain is how many of them were found only on pages that nothing points to any more, or
	// under another id than their body. The former may have been delivered already; they have
	// their old ids, by which a service can tell. The latter have the id that is stored with the
	// body.
	Uncertain int `json:"uncertain"`

	// Lost are the messages of which something is left, but not enough to deliver them.
	Lost []spool.Loss `json:"lost"`

	// Missing is how many more messages the totals of the index speak of.
	Missing int64 `json:"missing"`

	// Bodies is how many bodies were saved, into the directory BodiesIn, that may be of lost
	// messages, but whose method, URI and header are lost. Those of an ordinary size have the id
	// of their message as their name.
	Bodies   int    `json:"bodies"`
	BodiesIn string `json:"bodies_in,omitempty"`

	// Damage says what was found to be damaged.
	Damage []string `json:"damage"`
}

const maxDamageNotes = 20

// Recover copies every message that is still whole from an inbox that is not open into a new one,
// and changes nothing in the old one. The messages keep their ids, states and attempts, and the
// fingerprints of those that are not lost are kept too.
//
// A message is whole if its record is (with its URI and header), and its body. A record is found
// also where the pages that lead to it are destroyed: what it is found by then are its own
// checksum and the ids that were on those pages. Of a message whose record is destroyed only the
// body is left; such bodies are saved as files.
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
	r := &rescue{
		fsys:     &bodies.OS{AnyOwner: true},
		from:     from,
		Recovery: Recovery{Into: into, Lost: []spool.Loss{}, Damage: []string{}},
	}
	if err := r.run(ctx); err != nil {
		// What there is of the copy is no use to anybody.
		return nil, errors.Join(
			fmt.Errorf("recover %s: %w", from, err),
			os.RemoveAll(into),
			os.RemoveAll(bodiesBeside(into)),
		)
	}
	return &r.Recovery, nil
}

// rescue is one call of Recover.
type rescue struct {
	Recovery
	fsys *bodies.OS
	from string

	salvage  *index.Salvage
	segments *bodies.Segments
	files    *bodies.Large
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

	f, err := r.fsys.OpenIndex(filepath.Join(r.from, index.FileName), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	r.salvage = index.NewSalvage(f, info.Size(), r.note)
	r.salvage.Search()
	if err := ctx.Err(); err != nil {
		return err
	}

	r.segments, r.files = bodies.NewSegments(r.fsys, r.from, 0), bodies.NewLarge(r.fsys, r.from)
	defer r.segments.Close()
	r.usedFile, r.saved = make(map[[16]byte]bool), make(map[spool.ID]bool)
	if err := r.fill(ctx); err != nil {
		return err
	}
	if r.salvage.LostAnything() || len(r.Lost) > 0 {
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
	f, err := r.fsys.OpenIndex(filepath.Join(r.from, bodies.LockName), os.O_RDONLY, 0)
	if err != nil {
		return func() {}, nil //nolint:nilerr // it may be what is damaged
	}
	if err := bodies.LockFile(f); err != nil {
		return nil, errors.Join(
			fmt.Errorf("%w: stop that Caddy, or take this inbox out of its configuration", err),
			f.Close(),
		)
	}
	return func() { _ = f.Close() }, nil
}

// fill makes the new inbox.
func (r *rescue) fill(ctx context.Context) (err error) {
	d, err := disk.Open(r.Into, disk.Options{CommitDelay: -1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close(context.WithoutCancel(ctx))) }()
	d.SetLimits(spool.Limits{Fingerprints: 1 << 62}) // what is too old is for the configuration to say

	restoring := d.Restore()
	for i := range r.salvage.Messages {
		if err := ctx.Err(); err != nil {
			return err
		}
		found := &r.salvage.Messages[i]
		if err := r.copyMessage(d, restoring, found); err != nil {
			return err
		}
	}
	if err := restoring.Wait(); err != nil {
		return err
	}
	for _, route := range r.salvage.Paused {
		if err := d.Pause(ctx, route, true); err != nil {
			return err
		}
	}
	for _, stream := range r.salvage.Streams {
		if err := d.NoteStream(ctx, stream); err != nil {
			return err
		}
	}
	return d.ImportPrints(ctx, slices.DeleteFunc(r.salvage.Prints, func(p spool.Print) bool {
		// That of a lost message goes, so that it is not taken for a duplicate when it is sent again.
		return !r.saved[p.ID] && r.salvage.MayBeLost(p.ID)
	}))
}

// copyMessage copies one message. That it is lost is not an error.
func (r *rescue) copyMessage(d *disk.Store, restoring *disk.Restoration, found *index.Found) error {
	m, err := r.salvage.Message(found)
	if err != nil {
		r.lose(found, "", err)
		return nil
	}
	uncertain := found.Orphan
	if m.Where.Segment == 0 {
		r.usedFile[m.Where.File] = true
	} else if id, ok := r.segments.Owner(m.Where); ok && id != m.ID && !r.salvage.Has(id) {
		m.ID, uncertain = id, true // no checksum covers the key of a record
	}
	body, err := r.body(m)
	if err != nil {
		r.lose(found, m.RequestID, err)
		return nil
	}
	w, err := d.NewBody(context.Background(), m.Size)
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
	switch m.State {
	case spool.Dead:
		r.Dead++
	case spool.Delivered:
		r.Delivered++
	default:
		r.Pending++
	}
	return restoring.Add(m, r.salvage.Bucket(m, found), w)
}

func (r *rescue) lose(found *index.Found, requestID string, cause error) {
	r.Lost = append(
		r.Lost,
		spool.Loss{
			ID:        found.ID,
			Route:     r.salvage.RouteName(found.Route),
			RequestID: requestID,
			Reason:    cause.Error(),
		},
	)
}

// body opens the body of a message in the old inbox.
func (r *rescue) body(m *index.Entry) (spool.Body, error) {
	body, err := bodies.Open(r.segments, r.files, m.Where)
	if err != nil {
		return nil, fmt.Errorf("its body: %w", err)
	}
	return body, nil
}
