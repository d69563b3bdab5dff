// Live streams whose messages are accepted: of which a later process has to know.

package disk

import (
	"bytes"
	"context"
	"maps"
	"slices"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// NoteStream implements [spool.Store].
func (d *Store) NoteStream(ctx context.Context, stream spool.OpenStream) error {
	return d.perform(ctx, func(c *change) error {
		return c.Put(index.Streams, []byte(stream.ID), index.EncodeStream(stream))
	})
}

// ForgetStream implements [spool.Store].
func (d *Store) ForgetStream(ctx context.Context, id string) error {
	return d.perform(ctx, func(c *change) error {
		c.after = append(c.after, func() { delete(d.lost, id) })
		return c.Delete(index.Streams, []byte(id))
	})
}

// LostStreams implements [spool.Store].
func (d *Store) LostStreams(ctx context.Context) ([]spool.OpenStream, error) {
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Values(d.lost)), nil
}

// ExportStreams implements [spool.Portable].
func (d *Store) ExportStreams(ctx context.Context) (streams []spool.OpenStream, err error) {
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	err = d.view(func(t *index.Tx) error {
		t.Scan(index.Streams, nil, nil, func(key, value []byte) bool {
			streams = append(streams, index.ParseStream(key, bytes.Clone(value)))
			return true
		})
		return nil
	})
	return streams, err
}

// loadStreams reads which streams were live when the process before this one ended.
func (d *Store) loadStreams(t *index.Tx) {
	if d.lost != nil {
		return // the index is opened once more, and has those of this process too
	}
	d.lost = make(map[string]spool.OpenStream)
	t.Scan(index.Streams, nil, nil, func(key, value []byte) bool {
		d.lost[string(key)] = index.ParseStream(key, bytes.Clone(value))
		return true
	})
}
