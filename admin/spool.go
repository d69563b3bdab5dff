package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	defaultPage = 100
	maxPage     = 1000

	// bulk is how many dead letters are dropped in one change of the inbox,
	// so that callbacks which come in meanwhile do not wait for all of them.
	bulk = 256
)

// An inbox is one that is open, and where.
type inbox struct {
	*spool.Inbox
	path string
}

// openInboxes returns those that a request is about: the one whose path it
// names, or all. There is at least one.
func openInboxes(query url.Values) ([]inbox, error) {
	var all []inbox
	wanted := query.Get("path")
	for path, in := range app.ThisProcess().Inboxes() {
		if wanted == "" || wanted == path {
			all = append(all, inbox{in, path})
		}
	}
	switch {
	case len(all) > 0:
		slices.SortFunc(all, func(a, b inbox) int { return cmp.Compare(a.path, b.path) })
		return all, nil
	case wanted != "":
		return nil, failure(http.StatusNotFound, fmt.Errorf("no inbox is open at %q", wanted))
	}
	// Not an empty answer: it would look as if no callback were waiting.
	return nil, failure(http.StatusServiceUnavailable, errors.New("no inbox is open: the configuration has no spool"))
}

// status is the answer to GET /spool: what there is over all inboxes, and in
// each by its path.
type status struct {
	spool.Totals
	DiskBytes int64                  `json:"disk_bytes"`
	Inboxes   map[string]spool.Stats `json:"inboxes"`
}

// status answers GET /spool.
func (API) status(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, "path")
	if err != nil {
		return err
	}
	open, err := openInboxes(query)
	if err != nil {
		return err
	}
	all := status{Inboxes: make(map[string]spool.Stats, len(open))}
	for _, in := range open {
		stats, err := in.Stats(r.Context())
		if err != nil {
			return spoolFailure(fmt.Errorf("spool %s: %w", in.path, err))
		}
		all.Inboxes[in.path] = stats
		all.add(stats)
	}
	return reply(w, all)
}

func (s *status) add(stats spool.Stats) {
	s.Pending += stats.Pending
	s.PendingBytes += stats.PendingBytes
	s.Dead += stats.Dead
	s.DeadBytes += stats.DeadBytes
	s.InFlight += stats.InFlight
	s.DiskBytes += stats.DiskBytes
	if oldest := stats.OldestPending; !oldest.IsZero() && (s.OldestPending.IsZero() || oldest.Before(s.OldestPending)) {
		s.OldestPending = oldest
	}
}

// message is one message as the API shows it. Every key is always there.
type message struct {
	ID            spool.ID    `json:"id"`
	State         spool.State `json:"state"`
	Path          string      `json:"path"` // of the inbox
	Route         string      `json:"route"`
	Method        string      `json:"method"`
	URI           string      `json:"uri"` // without the values of its query
	ContentType   string      `json:"content_type"`
	Size          int64       `json:"size"`
	RequestID     string      `json:"request_id"`
	User          string      `json:"user"` // whose credential brought it in, where that names one
	ReceivedAt    time.Time   `json:"received_at"`
	Attempts      int         `json:"attempts"`
	NextAttemptAt *time.Time  `json:"next_attempt_at"` // null: as soon as its turn comes, or never if it is dead
	DiedAt        *time.Time  `json:"died_at"`         // null unless it is dead
	LastError     string      `json:"last_error"`
}

func showMessage(in inbox, m *spool.Message) message {
	return message{
		ID:            m.ID,
		State:         m.State,
		Path:          in.path,
		Route:         m.Route,
		Method:        m.Method,
		URI:           redactQuery(m.URI),
		ContentType:   m.Header.Get("Content-Type"),
		Size:          m.Size,
		RequestID:     m.RequestID,
		User:          m.User,
		ReceivedAt:    m.ReceivedAt.UTC(),
		Attempts:      m.Attempts,
		NextAttemptAt: timeOrNull(m.NextAttemptAt),
		DiedAt:        timeOrNull(m.DiedAt),
		LastError:     m.LastError,
	}
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// list answers GET /spool/messages: one page, by rising id over all inboxes.
func (API) list(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, "path", "state", "route", "user", "limit", "after")
	if err != nil {
		return err
	}
	filter, err := readFilter(query)
	if err != nil {
		return err
	}
	open, err := openInboxes(query)
	if err != nil {
		return err
	}
	page := []message{}
	for _, in := range open {
		messages, err := in.List(r.Context(), filter)
		if err != nil {
			return spoolFailure(fmt.Errorf("spool %s: %w", in.path, err))
		}
		for _, m := range messages {
			page = append(page, showMessage(in, m))
		}
	}
	slices.SortFunc(page, func(a, b message) int { return a.ID.Compare(b.ID) })
	return reply(w, page[:min(len(page), filter.Limit)])
}

func checkState(state spool.State) error {
	switch state {
	case "", spool.Pending, spool.Dead:
		return nil
	}
	return failure(http.StatusBadRequest, fmt.Errorf("state is %q, neither pending nor dead", state))
}

func readFilter(query url.Values) (spool.Filter, error) {
	filter := spool.Filter{
		State: spool.State(query.Get("state")), Route: query.Get("route"), User: query.Get("user"), Limit: defaultPage,
	}
	if err := checkState(filter.State); err != nil {
		return filter, err
	}
	if limit := query.Get("limit"); limit != "" {
		n, err := strconv.Atoi(limit)
		if err != nil || n < 1 || n > maxPage {
			return filter, failure(http.StatusBadRequest, fmt.Errorf("limit is %q, not a number from 1 to %d", limit, maxPage))
		}
		filter.Limit = n
	}
	if after := query.Get("after"); after != "" {
		id, err := spool.ParseID(after)
		if err != nil {
			return filter, failure(http.StatusBadRequest, fmt.Errorf("after is %q, not the id of a message", after))
		}
		filter.After = id
	}
	return filter, nil
}

// find returns the message that the path of a request names, and its inbox.
func find(r *http.Request) (inbox, *spool.Message, error) {
	query, err := parameters(r, "path")
	if err != nil {
		return inbox{}, nil, err
	}
	open, err := openInboxes(query)
	if err != nil {
		return inbox{}, nil, err
	}
	text := r.PathValue("id")
	missing := fmt.Errorf("%w: %q", spool.ErrNotFound, text)
	id, err := spool.ParseID(text)
	if err != nil {
		return inbox{}, nil, spoolFailure(missing)
	}
	for _, in := range open {
		m, err := in.Get(r.Context(), id)
		if err == nil {
			return in, m, nil
		}
		if !errors.Is(err, spool.ErrNotFound) {
			missing = fmt.Errorf("spool %s: %w", in.path, err)
		}
	}
	return inbox{}, nil, spoolFailure(missing)
}

// show answers GET /spool/messages/{id}.
func (API) show(w http.ResponseWriter, r *http.Request) error {
	in, m, err := find(r)
	if err != nil {
		return err
	}
	return reply(w, showMessage(in, m))
}

// body answers GET /spool/messages/{id}/body. Whatever the callback's
// Content-Type was, the answer has none that a browser would run: it is from a
// stranger, and the origin it would run in can configure this Caddy.
func (API) body(w http.ResponseWriter, r *http.Request) error {
	in, m, err := find(r)
	if err != nil {
		return err
	}
	body, err := in.Body(r.Context(), m.ID)
	if err != nil {
		return spoolFailure(fmt.Errorf("body of %s: %w", m.ID, err))
	}
	defer body.Close()
	if err := check(body); err != nil {
		return spoolFailure(fmt.Errorf("body of %s: %w", m.ID, err))
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Disposition", `attachment; filename="`+m.ID.String()+`"`)
	w.Header().Set("Content-Length", strconv.FormatInt(body.Size(), 10))
	if r.Method != http.MethodHead {
		// An error has no place in the answer any more. That bytes are
		// missing shows from Content-Length.
		_, _ = io.Copy(w, body)
	}
	return nil
}

// check reads a body through before any of it is sent: whether it is damaged
// is known only at its end, and then it would be too late to say so.
func check(body spool.Body) error {
	if _, err := io.Copy(io.Discard, body); err != nil {
		return err
	}
	_, err := body.Seek(0, io.SeekStart)
	return err
}

// replay answers POST /spool/messages/{id}/replay.
func (API) replay(w http.ResponseWriter, r *http.Request) error {
	in, m, err := find(r)
	if err != nil {
		return err
	}
	if err := in.Replay(r.Context(), m.ID); err != nil {
		return spoolFailure(fmt.Errorf("replay %s: %w", m.ID, err))
	}
	answer := replayed{Replayed: 1}
	if app.ThisProcess().Revoked(in.path, m.Route, m.User) {
		answer.RevokedUsers = []string{m.User}
	}
	return reply(w, answer)
}

// drop answers DELETE /spool/messages/{id}: 204, or 202 for a message that is
// being delivered and is forgotten when that ends. It does not have to be readable.
func (API) drop(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, "path")
	if err != nil {
		return err
	}
	open, err := openInboxes(query)
	if err != nil {
		return err
	}
	text := r.PathValue("id")
	id, err := spool.ParseID(text)
	if err != nil {
		return spoolFailure(fmt.Errorf("%w: %q", spool.ErrNotFound, text))
	}
	failed := fmt.Errorf("%w: %q", spool.ErrNotFound, text)
	for _, in := range open {
		_, err := in.Drop(r.Context(), id)
		switch {
		case err == nil:
			w.WriteHeader(http.StatusNoContent)
			return nil
		case errors.Is(err, spool.ErrInFlight):
			w.WriteHeader(http.StatusAccepted)
			return nil
		case !errors.Is(err, spool.ErrNotFound):
			failed = fmt.Errorf("spool %s: drop %s: %w", in.path, id, err)
		}
	}
	return spoolFailure(failed)
}

// Answers to what changes any number of messages.
type (
	replayed struct {
		Replayed int `json:"replayed"`

		// RevokedUsers are those of whom the configuration has no account any more.
		RevokedUsers []string `json:"revoked_users,omitempty"`
	}
	dropped struct {
		Dropped int `json:"dropped"`
	}
)

// replayDead answers POST /spool/replay.
func (API) replayDead(w http.ResponseWriter, r *http.Request) error {
	var answer replayed
	total, err := eachDead(r, func(in inbox, route string) (int, error) {
		users, err := revoked(r.Context(), in, spool.Filter{State: spool.Dead, Route: route})
		if err != nil {
			return 0, err
		}
		answer.RevokedUsers = slices.Compact(slices.Sorted(slices.Values(append(answer.RevokedUsers, users...))))
		return in.ReplayDead(r.Context(), route)
	})
	if err != nil {
		return err
	}
	answer.Replayed = total
	return reply(w, answer)
}

// dropAll answers DELETE /spool/messages: dead letters, or whatever a user brought in.
func (API) dropAll(w http.ResponseWriter, r *http.Request) error {
	change := func(in inbox, route string) (int, error) { return dropDead(r.Context(), in, route) }
	each := eachDead
	if query := r.URL.Query(); query.Has("user") {
		filter, err := selectOfUser(query)
		if err != nil {
			return err
		}
		change = func(in inbox, _ string) (int, error) { return dropOfUser(r.Context(), in, filter) }
		each = eachInbox
	}
	total, err := each(r, change)
	if err != nil {
		return err
	}
	return reply(w, dropped{total})
}

// eachDead changes the dead letters of a route, or of all, in all inboxes. That
// it is about dead letters has to be said: nothing else can be changed at once.
func eachDead(r *http.Request, change func(in inbox, route string) (int, error)) (total int, err error) {
	query, err := parameters(r, "path", "state", "route")
	if err != nil {
		return 0, err
	}
	if query.Get("state") != string(spool.Dead) {
		return 0, failure(http.StatusBadRequest, errors.New("state=dead is needed: only dead letters can be changed all at once"))
	}
	return eachInbox(r, change)
}

// eachInbox makes a change in all inboxes that a request is about.
func eachInbox(r *http.Request, change func(in inbox, route string) (int, error)) (total int, err error) {
	query, err := parameters(r, "path", "state", "route", "user")
	if err != nil {
		return 0, err
	}
	for _, name := range []string{"route", "path"} {
		// It comes of a variable that was not set, which must not mean all.
		if query.Has(name) && query.Get(name) == "" {
			return 0, failure(http.StatusBadRequest, fmt.Errorf("%s is empty; leave it out to mean all", name))
		}
	}
	open, err := openInboxes(query)
	if err != nil {
		return 0, err
	}
	for _, in := range open {
		n, err := change(in, query.Get("route"))
		total += n
		if err != nil {
			return total, spoolFailure(fmt.Errorf("spool %s, after %d messages: %w", in.path, total, err))
		}
	}
	return total, nil
}

// dropDead forgets the dead letters that there are now.
func dropDead(ctx context.Context, in inbox, route string) (total int, err error) {
	routes := []string{route}
	if route == "" {
		stats, err := in.Stats(ctx)
		if err != nil {
			return 0, err
		}
		routes = slices.Collect(maps.Keys(stats.Routes))
	}
	began := time.Now()
	for _, route := range routes {
		for {
			dropped, err := in.Store().DropDead(ctx, route, began, bulk)
			total += len(dropped)
			if err != nil {
				return total, err
			}
			if len(dropped) < bulk {
				break
			}
		}
	}
	return total, nil
}
