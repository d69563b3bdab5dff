// What is copied from one store to another. The package transfer does it.

package spool

import (
	"context"
	"time"
)

// Portable is what a store has beside, if what it keeps can be copied to another one.
type Portable interface {
	Store

	// Export returns the next messages behind an id, at most limit, by rising id; none at the end.
	Export(ctx context.Context, after ID, limit int) ([]Exported, error)

	// Missing returns those of some ids that Import would take: of which the store has no message,
	// and never had an imported one.
	Missing(ctx context.Context, ids []ID) ([]ID, error)

	// Import keeps messages that another store accepted, with their ids and all that became of them,
	// durably, and takes over their bodies, which are of NewBody, whatever happens. It returns the
	// ids of those that it kept: not what is there already, in whatever state, nor what was imported
	// in the last 30 days at least, though it was delivered or dropped since. So nothing is
	// delivered again because a copy is repeated.
	//
	// What was accepted here later has higher ids than all that was imported of its order key.
	// Imported messages take the place in the order that their ids give them: before all that waits
	// and has higher ids, but not before what is leased already.
	Import(ctx context.Context, messages []Imported) (kept []ID, err error)

	// ExportPrints has take called with the fingerprints that are kept, some at a time.
	ExportPrints(ctx context.Context, take func([]Print) error) error

	// ExportStreams returns the live streams that were noted, whoever did.
	ExportStreams(ctx context.Context) ([]OpenStream, error)

	// ImportPrints keeps fingerprints durably, but for those of which it has the same or a later one.
	ImportPrints(ctx context.Context, prints []Print) error
}

// Exported is a message to be copied.
type Exported struct {
	*Message

	// Err says that the record of the message is damaged; it wraps [ErrDamaged].
	Err error

	// Doomed messages were dropped while they were being delivered, by a process that died since:
	// they are not to be copied.
	Doomed bool
}

// Imported is a message from another store, with its body.
type Imported struct {
	*Message
	Body BodyWriter
}

// Print is a fingerprint that is kept: of which message, and when that was accepted. Of a store that
// keeps the first 16 bytes alone, the others are zero; then those 16 are what is compared.
type Print struct {
	Fingerprint Fingerprint
	ID          ID
	At          time.Time
}

// Same reports whether f is the fingerprint that is kept.
func (p Print) Same(f Fingerprint) bool {
	const half = len(f) / 2
	return p.Fingerprint == f || [half]byte(p.Fingerprint[half:]) == [half]byte{} &&
		[half]byte(p.Fingerprint[:half]) == [half]byte(f[:half])
}

// Loss is a message that could not be saved.
type Loss struct {
	ID        ID     `json:"id"`
	Route     string `json:"route"`
	RequestID string `json:"request_id,omitempty"`
	Reason    string `json:"reason"`
}
