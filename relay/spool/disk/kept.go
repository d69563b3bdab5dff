// What was delivered and is kept: how it gives way.

package disk

import (
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/selection"
)

const (
	// roomShare is the part of max_size that is kept free, where something can give way for it.
	roomShare = 32

	// minEvicted is how many bytes are freed at least, maxEvicted how many messages go at most, in one
	// transaction.
	minEvicted = 256 << 10
	maxEvicted = 1024
)

// keptBytes is how much would give way for new messages. d.mu is held.
func (d *Store) keptBytes() (n int64) {
	for _, info := range d.routes {
		n += info.Counts.DeliveredBytes
	}
	return n
}

// makeRoom forgets the oldest of what is kept, if there is little room left: twice as much as the
// transaction brings in, so that it comes to an end.
func (c *change) makeRoom() error {
	d := c.d
	used := d.used()
	d.mu.Lock()
	limit, kept := d.maxSize, d.keptBytes()
	d.mu.Unlock()
	if limit == 0 || kept == 0 || used <= limit-limit/roomShare {
		return nil
	}
	evicted := make(map[string]int)
	need := max(2*c.acceptedBytes, minEvicted)
	for range maxEvicted {
		p, ok := selection.OldestKept(c.Tx, d.routeInfos())
		if !ok || need <= 0 {
			break
		}
		need -= p.Record.Location().Size + int64(len(p.Record))
		if _, err := c.Remove(p); err != nil {
			return err
		}
		evicted[p.Route.Name]++
	}
	if d.options.Events.Evicted != nil {
		c.after = append(c.after, func() {
			for route, n := range evicted {
				d.options.Events.Evicted(route, n)
			}
		})
	}
	return nil
}
