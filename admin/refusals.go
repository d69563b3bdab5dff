package admin

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/app"
)

// refusal is one refused callback as the API shows it.
type refusal struct {
	At       time.Time `json:"at"`
	Reason   string    `json:"reason"`
	Status   int       `json:"status"`
	Method   string    `json:"method"`
	Host     string    `json:"host"`
	Path     string    `json:"path"`
	ClientIP string    `json:"client_ip"`
	Kind     string    `json:"kind"`
	Size     *int64    `json:"size,omitempty"` // of the body, where the sender declared it
}

func showRefusal(r app.Refusal) refusal {
	shown := refusal{
		At:       r.At.UTC(),
		Reason:   r.Reason,
		Status:   r.Status,
		Method:   r.Method,
		Host:     r.Host,
		Path:     r.Path,
		ClientIP: r.ClientIP,
		Kind:     r.Kind,
	}
	if r.Size >= 0 {
		shown.Size = &r.Size
	}
	return shown
}

// refusalFilters are the parameters by which refusals are selected.
var refusalFilters = []string{"reason", "limit"}

// listRefusals answers GET /refusals: the last refused callbacks, the newest
// first.
func (API) listRefusals(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, refusalFilters...)
	if err != nil {
		return err
	}
	reason, err := refusalReason(query.Get("reason"))
	if err != nil {
		return err
	}
	limit, err := refusalLimit(query.Get("limit"))
	if err != nil {
		return err
	}
	shown := []refusal{}
	for _, refused := range app.Refusals.List() {
		if len(shown) == limit {
			break
		}
		if reason == "" || refused.Reason == reason {
			shown = append(shown, showRefusal(refused))
		}
	}
	return reply(w, shown)
}

// refusalReason reads a reason. A misspelt one is an error: that none was refused
// for it would be no answer.
func refusalReason(reason string) (string, error) {
	if known := app.Reasons(); reason != "" && !slices.Contains(known, reason) {
		err := fmt.Errorf("unknown reason %q; there are: %s", reason, strings.Join(known, ", "))
		return "", failure(http.StatusBadRequest, err)
	}
	return reason, nil
}

// refusalLimit reads how many refusals are wanted; less than zero is all.
func refusalLimit(limit string) (int, error) {
	if limit == "" {
		return -1, nil
	}
	n, err := strconv.Atoi(limit)
	if err != nil || n < 1 {
		return 0, failure(http.StatusBadRequest, fmt.Errorf("limit is %q, not a number from 1 on", limit))
	}
	return n, nil
}
