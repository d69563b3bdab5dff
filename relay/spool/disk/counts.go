// How much there is, and how much more there may be.

package disk

import (
	"context"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// Counts implements [spool.Store].
func (d *Store) Counts(context.Context) (spool.Counts, error) {
	used := d.used()
	d.mu.Lock()
	counts := spool.Counts{
		Routes:       make(map[string]spool.RouteCounts, len(d.routes)),
		DiskBytes:    used,
		MaxBytes:     d.maxSize,
		Fingerprints: int(d.writer.prints.size.Load()),
	}
	if d.refusing != nil {
		counts.Refusing, counts.RefusingSince = d.refusing.Reason, d.since
	}
	numbers := make(map[string]uint32, len(d.routes))
	for name, info := range d.routes {
		numbers[name] = info.Number
		c := spool.RouteCounts{
			Pending: info.Counts.Pending, PendingBytes: info.Counts.PendingBytes,
			Dead: info.Counts.Dead, DeadBytes: info.Counts.DeadBytes,
		}
		if q := d.queues[name]; q != nil {
			c.InFlight = q.InFlight()
		}
		counts.Routes[name] = c
	}
	d.mu.Unlock()

	_ = d.view(func(t *index.Tx) error { // without an index, the age is unknown
		for name, number := range numbers {
			c := counts.Routes[name]
			for _, bucket := range [...]index.Bucket{index.Fresh, index.Parked} {
				if id, ok := t.First(bucket, number); ok {
					received := index.Record(t.Get(bucket, index.IDKey(number, id))).ReceivedAt()
					c.OldestPending = earlier(c.OldestPending, index.FromUnixNano(received))
				}
			}
			counts.Routes[name] = c
		}
		return nil
	})
	return counts, nil
}

// used returns how many bytes the store takes up on disk, or is about to.
func (d *Store) used() int64 {
	bodies := d.segments.Bytes() + d.files.Bytes()
	d.mu.Lock()
	defer d.mu.Unlock()
	return bodies + d.usedDB
}

// admit reports whether there may be so many bytes more.
func (d *Store) admit(more int64) error {
	used := d.used()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.maxSize > 0 && more > d.maxSize-used {
		return &spool.RefusedError{Reason: spool.ReasonFull, RetryAfter: bodies.RetryAfter}
	}
	return nil
}
