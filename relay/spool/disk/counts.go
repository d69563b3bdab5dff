// How much there is, and how much more there may be.

package disk

import (
	"context"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// Counts implements [spool.Store].
func (d *Store) Counts(ctx context.Context) (spool.Counts, error) {
	if err := d.enter(ctx); err != nil {
		return spool.Counts{}, err
	}
	used := d.used()
	d.mu.Lock()
	counts := spool.Counts{
		Routes:       make(map[string]spool.RouteCounts, len(d.routes)),
		Bytes:        used,
		MaxBytes:     d.maxSize,
		Fingerprints: d.writer.prints.Size(),
	}
	if d.refusing != nil {
		counts.Refusing, counts.RefusingSince = d.refusing.Reason, d.since
	}
	numbers := make(map[string]uint32, len(d.routes))
	for name, info := range d.routes {
		if info.Counts.IsZero() && !d.paused[name] {
			continue
		}
		numbers[name] = info.Number
		c := spool.RouteCounts{
			Totals: spool.Totals{
				Pending: info.Counts.Pending, PendingBytes: info.Counts.PendingBytes,
				Dead: info.Counts.Dead, DeadBytes: info.Counts.DeadBytes,
				Delivered: info.Counts.Delivered, DeliveredBytes: info.Counts.DeliveredBytes,
			},
			Paused: d.paused[name],
		}
		if q := d.queues[name]; q != nil {
			c.InFlight = q.InFlight()
		}
		counts.Routes[name] = c
	}
	for name := range d.paused {
		if d.routes[name] == nil {
			counts.Routes[name] = spool.RouteCounts{Paused: true}
		}
	}
	d.mu.Unlock()

	_ = d.view(func(t *index.Tx) error { // without an index, the age is unknown
		for name, number := range numbers {
			c := counts.Routes[name]
			for _, bucket := range [...]index.Bucket{index.Fresh, index.Parked} {
				if id, ok := t.First(bucket, number); ok {
					received := index.Record(t.Get(bucket, index.IDKey(number, id))).ReceivedAt()
					c.OldestPending = spool.Earlier(c.OldestPending, index.FromUnixNano(received))
				}
			}
			c.Retrying = t.CountTried(number, spool.MaxRetrying)
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
	// What is kept gives way.
	if d.maxSize > 0 && more > d.maxSize-used+d.keptBytes() {
		return &spool.RefusedError{Reason: spool.ReasonFull, RetryAfter: bodies.RetryAfter}
	}
	return nil
}
