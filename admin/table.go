package admin

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/caddy-deepgram/deepgram-callback/internal/printable"
	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// A table is rows of aligned cells. Senders and services have their words in them,
// so what would steer the terminal is escaped.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer) table {
	return table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
}

func (t table) row(cells ...string) {
	for i, cell := range cells {
		if cell == "" {
			cell = "-"
		}
		cells[i] = printable.Escape(cell)
	}
	_, _ = fmt.Fprintln(t.w, strings.Join(cells, "\t")) // an error comes back from flush
}

func (t table) flush() error { return t.w.Flush() }

// shorten keeps a cell from making all rows too long.
func shorten(text string, limit int) string {
	runes := []rune(text)
	if len(runes) <= limit {
		return text
	}
	return string(runes[:limit-1]) + "…"
}

// ago says how far from now a time is; never is an empty cell.
func ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return humanize.Time(t)
}

// exactly says when, and how far from now that is.
func exactly(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339) + " (" + humanize.Time(*t) + ")"
}

func size(bytes int64) string { return humanize.IBytes(uint64(max(bytes, 0))) }

func messageHeader(t table) {
	t.row("ID", "STATE", "RECEIVED", "DELIVERED", "SIZE", "ATTEMPTS", "NEXT",
		"ROUTE", "CALLBACK", "USER", "REQUEST ID", "LAST ERROR")
}

// messageRow is a message in a list. Only its path is shown of the URI: an S3
// URL's query fills the line without its values, too.
func messageRow(t table, m operate.Message) {
	path, _, more := strings.Cut(m.URI, "?")
	if more {
		path += "?…"
	}
	var delivered string
	if m.DeliveredAt != nil {
		delivered = ago(*m.DeliveredAt)
	}
	t.row(m.ID.String(), string(m.State), ago(m.ReceivedAt), delivered, size(m.Size),
		strconv.Itoa(m.Attempts), next(m), m.Route, m.Method+" "+shorten(path, 50),
		shorten(m.User, 30), m.RequestID, shorten(m.LastError, 60))
}

// next says when a message is tried again.
func next(m operate.Message) string {
	switch {
	case m.State != spool.Pending:
		return ""
	case m.NextAttemptAt == nil || m.NextAttemptAt.Before(time.Now()):
		return "in turn" // after the message before it, or once its service is up
	}
	return ago(*m.NextAttemptAt)
}

func messageDetails(out io.Writer, m operate.Details) error {
	t := newTable(out)
	t.row("id:", m.ID.String())
	t.row("state:", state(m.Message))
	t.row("inbox:", m.Path)
	t.row("route:", m.Route)
	t.row("callback:", m.Method+" "+m.URI)
	t.row("host:", m.Host)
	t.row("content type:", m.ContentType)
	t.row("size:", fmt.Sprintf("%s (%d bytes)", size(m.Size), m.Size))
	t.row("request id:", m.RequestID)
	t.row("user:", m.User)
	t.row("received:", exactly(&m.ReceivedAt))
	t.row("attempts:", strconv.Itoa(m.Attempts))
	switch m.State {
	case spool.Dead:
		t.row("died:", exactly(m.DiedAt))
	case spool.Delivered:
		t.row("delivered:", exactly(m.DeliveredAt))
	default:
		t.row("next attempt:", nextExactly(m.Message))
	}
	t.row("last error:", m.LastError)
	if err := t.flush(); err != nil {
		return err
	}
	if err := headerTable(out, m.Header); err != nil {
		return err
	}
	return attemptTable(out, m.History)
}

// state is that of a message, and whether somebody had it sent again.
func state(m operate.Message) string {
	if m.Replayed {
		return string(m.State) + ", sent again"
	}
	return string(m.State)
}

// headerTable shows the fields of a header, each value in a line of its own.
func headerTable(out io.Writer, header http.Header) error {
	if len(header) == 0 {
		return nil
	}
	_, _ = fmt.Fprintln(out) // an error comes back from flush
	t := newTable(out)
	t.row("FIELD", "VALUE")
	for _, name := range sortedKeys(header) {
		for _, value := range header[name] {
			t.row(name, value)
		}
	}
	return t.flush()
}

// attemptTable shows attempts, the latest one last. Gateways are named only where several can
// have made them.
func attemptTable(out io.Writer, attempts []operate.Attempt) error {
	if len(attempts) == 0 {
		return nil
	}
	named := slices.ContainsFunc(attempts, func(a operate.Attempt) bool { return a.Gateway != "" })
	_, _ = fmt.Fprintln(out) // an error comes back from flush
	t := newTable(out)
	row := func(gateway string, cells ...string) {
		if named {
			cells = append(cells, gateway)
		}
		t.row(cells...)
	}
	row("GATEWAY", "ATTEMPT", "TOOK", "STATUS", "UPSTREAM", "ERROR")
	for _, a := range attempts {
		var status string
		if a.Status != 0 {
			status = strconv.Itoa(a.Status)
		}
		row(a.Gateway, exactly(&a.At), seconds(a.TookSeconds), status, a.Upstream, a.Error)
	}
	return t.flush()
}

// seconds is a duration, of which less than a millisecond does not matter.
func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond).String()
}

func nextExactly(m operate.Message) string {
	if m.NextAttemptAt == nil {
		return next(m)
	}
	return exactly(m.NextAttemptAt)
}

func streamTable(out io.Writer, streams []operate.Stream) error {
	t := newTable(out)
	t.row("ID", "OPENED", "USER", "CLIENT", "ROUTE", "PATH", "UPSTREAM", "FROM CALLER", "FROM BACKEND")
	for _, s := range streams {
		t.row(s.ID, ago(s.StartedAt), s.User, s.ClientIP, s.Route, shorten(s.Path, 50), s.Upstream,
			traffic(s.MessagesFromCaller, s.BytesFromCaller),
			traffic(s.MessagesFromBackend, s.BytesFromBackend))
	}
	return t.flush()
}

func endedTable(out io.Writer, streams []operate.EndedStream) error {
	t := newTable(out)
	t.row("ID", "ENDED", "AFTER", "BY", "REASON", "CLOSE", "USER", "CLIENT", "PATH", "UPSTREAM",
		"FROM CALLER", "FROM BACKEND", "ERROR")
	for _, s := range streams {
		closed := strings.TrimSpace(fmt.Sprintf("%d %s", s.CloseCode, s.CloseText))
		t.row(s.ID, ago(s.EndedAt), seconds(s.Duration), s.EndedBy, s.Reason, closed,
			s.User, s.ClientIP, shorten(s.Path, 50), s.Upstream,
			traffic(s.MessagesFromCaller, s.BytesFromCaller),
			traffic(s.MessagesFromBackend, s.BytesFromBackend), shorten(s.Error, 60))
	}
	return t.flush()
}

func traffic(messages, bytes int64) string {
	unit := "messages"
	if messages == 1 {
		unit = "message"
	}
	return fmt.Sprintf("%s %s, %s", humanize.Comma(messages), unit, size(bytes))
}

// inboxStatus shows what one inbox has, route by route.
func inboxStatus(out io.Writer, path string, stats spool.Stats) error {
	t := newTable(out)
	t.row("inbox:", path)
	t.row("on disk:", diskUse(stats))
	t.row("accepts:", accepts(stats))
	if err := t.flush(); err != nil {
		return err
	}
	t.row("ROUTE", "PENDING", "SIZE", "IN FLIGHT", "OLDEST", "DEAD", "SIZE",
		"DELIVERED", "SIZE", "SERVICE")
	for _, name := range sortedKeys(stats.Routes) {
		r := stats.Routes[name]
		t.row(name, humanize.Comma(r.Pending), size(r.PendingBytes),
			strconv.Itoa(r.InFlight), ago(r.OldestPending),
			humanize.Comma(r.Dead), size(r.DeadBytes),
			humanize.Comma(r.Delivered), size(r.DeliveredBytes), service(r))
	}
	return t.flush()
}

func diskUse(stats spool.Stats) string {
	if stats.MaxBytes == 0 {
		return size(stats.DiskBytes)
	}
	return size(stats.DiskBytes) + " of " + size(stats.MaxBytes)
}

func accepts(stats spool.Stats) string {
	if stats.Refusing == "" {
		return "yes"
	}
	return fmt.Sprintf("no: %s, since %s", stats.Refusing, exactly(&stats.RefusingSince))
}

// service says how the service of a route is, and whether an operator has paused it.
func service(r spool.RouteStats) string {
	answers := "up"
	switch {
	case !r.Configured:
		answers = "not configured"
	case r.Down:
		answers = fmt.Sprintf("down (%s), next try %s", shorten(r.LastError, 60), ago(r.NextProbe))
	}
	if !r.Paused {
		return answers
	}
	if answers == "up" {
		return "paused"
	}
	return "paused; " + answers
}
