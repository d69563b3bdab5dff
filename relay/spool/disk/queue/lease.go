// A lease, as the queue knows it.

package queue

import (
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// Lease is a message that was handed out.
type Lease struct {
	Msg     *index.Entry
	Queue   *Queue
	parked  bool // it is, or is about to be, among the parked
	settled bool // and waits to be on disk
	Dropped bool // to be forgotten when it is settled

	// advanced: it was settled and its key went on without waiting for the disk.
	advanced bool
}

// IsSettled reports whether the lease has ended, and waits for its outcome to be on disk.
func (l *Lease) IsSettled() bool { return l.settled }

// Quarantined is the lease of a message whose record cannot be read. Nobody delivers it, and it
// holds nothing up.
func (q *Queue) Quarantined(id spool.ID) *Lease {
	m := &index.Entry{Message: spool.Message{ID: id}}
	return &Lease{Msg: m, Queue: q, settled: true, advanced: true}
}
