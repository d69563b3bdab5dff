// Change: a transaction of the writer, and what memory hears of it.

package disk

import (
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/fingerprints"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/ledger"
)

// change is a transaction that is being made up.
type change struct {
	*ledger.Ledger
	d      *Store
	prints *fingerprints.Change

	accepted      int
	acceptedBytes int64
	imported      bool     // there are messages among others that were read already
	after         []func() // what to do when it is on disk, with Store.mu held
}

func (w *writer) newChange(t *index.Tx) *change {
	return &change{
		Ledger: ledger.New(t, w.store.routeOf, w.store.segments),
		d:      w.store,
		prints: w.prints.Begin(t),
	}
}

// finish writes what goes with the transaction.
func (c *change) finish(now time.Time) error {
	if c.accepted > 0 {
		if err := c.makeRoom(); err != nil {
			return err
		}
		if err := c.trimPrints(now); err != nil {
			return err
		}
	}
	return c.Ledger.Finish()
}

// trimPrints forgets fingerprints that are out of the window, or too many.
func (c *change) trimPrints(now time.Time) error {
	c.d.mu.Lock()
	oldest := now.Add(-c.d.window)
	c.d.mu.Unlock()
	if err := c.prints.Trim(oldest, c.d.options.MaxFingerprints); err != nil {
		return err
	}
	return c.prints.WriteSequence()
}

// publish brings memory up to what is now on disk, and removes the files that nothing points to
// any more.
func (c *change) publish() {
	d := c.d
	d.writer.prints.Publish(c.prints)
	for _, id := range c.Gone() {
		d.requests.Remove(id)
	}
	c.Ledger.Publish(d.files)

	used, _ := d.index.Usage()
	c.publishCounts(used)
	d.noteFull()
}

func (c *change) publishCounts(used int64) {
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	d.usedDB = used
	for name, info := range c.Routes() {
		d.routes[name].Counts = info.Counts
	}
	for _, f := range c.after {
		f()
	}
	if c.imported {
		d.requeue()
	}
}
