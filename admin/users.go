package admin

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// revoked are the users of whom the configuration has no account any more, of all messages that a
// filter selects. To send again what a credential brought in that was removed since is right, but
// not without a word.
func revoked(ctx context.Context, in inbox, filter spool.Filter) ([]string, error) {
	users := make(map[string]bool)
	err := eachMessage(ctx, in, filter, func(page []*spool.Message) error {
		for _, m := range page {
			if app.ThisProcess().Revoked(in.path, m.Route, m.User) {
				users[m.User] = true
			}
		}
		return nil
	})
	return slices.Sorted(maps.Keys(users)), err
}

// eachMessage goes through all messages that a filter selects, page by page.
func eachMessage(ctx context.Context, in inbox, filter spool.Filter, do func([]*spool.Message) error) error {
	filter.Limit = bulk
	for {
		page, err := in.List(ctx, filter)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := do(page); err != nil {
			return err
		}
		filter.After = page[len(page)-1].ID
	}
}

// dropOfUser forgets everything that a filter with a user selects: what its credential brought in.
// What is being delivered is forgotten when that has ended.
func dropOfUser(ctx context.Context, in inbox, filter spool.Filter) (total int, err error) {
	err = eachMessage(ctx, in, filter, func(page []*spool.Message) error {
		failed := make([]error, len(page))
		var dropping sync.WaitGroup
		for i, m := range page { // at once, so that they share a group commit
			dropping.Go(func() { _, failed[i] = in.Drop(ctx, m.ID) })
		}
		dropping.Wait()
		for i, err := range failed {
			switch {
			case err == nil, errors.Is(err, spool.ErrInFlight):
				total++
				failed[i] = nil
			case errors.Is(err, spool.ErrNotFound): // delivered meanwhile
				failed[i] = nil
			}
		}
		return errors.Join(failed...)
	})
	return total, err
}

// selectOfUser reads which messages of a user a request is about.
func selectOfUser(query url.Values) (spool.Filter, error) {
	filter := spool.Filter{User: query.Get("user"), Route: query.Get("route"), State: spool.State(query.Get("state"))}
	if filter.User == "" {
		return filter, failure(http.StatusBadRequest, errors.New("user is empty; leave it out to mean all"))
	}
	return filter, checkState(filter.State)
}
