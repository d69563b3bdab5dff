package operate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// An inbox is one that is open, and where.
type inbox struct {
	*spool.Inbox
	path string
}

// inboxes returns the one at a path, or all that are open if it is empty. There is at
// least one.
func (g *Gateway) inboxes(path string) ([]inbox, error) {
	var found []inbox
	for at, in := range g.process.Inboxes() {
		if path == "" || path == at {
			found = append(found, inbox{in, at})
		}
	}
	switch {
	case len(found) > 0:
		slices.SortFunc(found, func(a, b inbox) int { return cmp.Compare(a.path, b.path) })
		return found, nil
	case path != "":
		return nil, notFound(fmt.Errorf("no inbox is open at %q", path))
	}
	// Not an empty answer: it would look as if no callback were waiting.
	return nil, unavailable(errors.New("no inbox is open: the configuration has no spool"))
}

// Status is what there is over all inboxes, and in each by its path.
type Status struct {
	spool.Totals
	DiskBytes int64                  `json:"disk_bytes"`
	Inboxes   map[string]InboxStatus `json:"inboxes"`
}

// InboxStatus is what there is in one.
type InboxStatus struct {
	spool.Stats

	// Gateways are those that use the inbox now or did lately, where several can.
	Gateways []spool.Gateway `json:"gateways,omitempty"`

	// Error says why it is not known what there is: the database of the inbox is away. Then only
	// Refusing has a meaning.
	Error string `json:"error,omitempty"`
}

// Status counts what the inbox at a path has, or all if it is empty. One whose store is away does not
// hide the others.
func (g *Gateway) Status(ctx context.Context, path string) (Status, error) {
	open, err := g.inboxes(path)
	if err != nil {
		return Status{}, err
	}
	all := Status{Inboxes: make(map[string]InboxStatus, len(open))}
	for _, in := range open {
		status, err := in.status(ctx)
		if err != nil {
			return Status{}, fmt.Errorf("spool %s: %w", in.path, err)
		}
		all.Inboxes[in.path] = status
		all.add(status.Stats)
	}
	return all, nil
}

func (in inbox) status(ctx context.Context) (status InboxStatus, err error) {
	status.Stats, err = in.Stats(ctx)
	if err == nil {
		status.Gateways, err = in.Gateways(ctx)
	}
	if err != nil && status.Refusing != "" && ctx.Err() == nil {
		status.Error = err.Error()
		return status, nil
	}
	return status, err
}

func (s *Status) add(stats spool.Stats) {
	s.Totals.Add(stats.Totals)
	s.DiskBytes += stats.DiskBytes
}
