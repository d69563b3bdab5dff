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
	Inboxes   map[string]spool.Stats `json:"inboxes"`
}

// Status counts what the inbox at a path has, or all if it is empty.
func (g *Gateway) Status(ctx context.Context, path string) (Status, error) {
	open, err := g.inboxes(path)
	if err != nil {
		return Status{}, err
	}
	all := Status{Inboxes: make(map[string]spool.Stats, len(open))}
	for _, in := range open {
		stats, err := in.Stats(ctx)
		if err != nil {
			return Status{}, fmt.Errorf("spool %s: %w", in.path, err)
		}
		all.Inboxes[in.path] = stats
		all.add(stats)
	}
	return all, nil
}

func (s *Status) add(stats spool.Stats) {
	s.Totals.Add(stats.Totals)
	s.DiskBytes += stats.DiskBytes
}
