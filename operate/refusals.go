package operate

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/app"
)

// Refusal is one refused callback as it is shown.
type Refusal struct {
	At       time.Time `json:"at"`
	Reason   string    `json:"reason"`
	Remedy   string    `json:"remedy"` // what the reason means, and what to do about it
	Status   int       `json:"status"`
	Method   string    `json:"method"`
	Host     string    `json:"host"`
	Path     string    `json:"path"`
	ClientIP string    `json:"client_ip"`
	Kind     string    `json:"kind"`
	Size     *int64    `json:"size,omitempty"` // of the body, where the sender declared it
}

func showRefusal(r app.Refusal) Refusal {
	shown := Refusal{
		At:       r.At.UTC(),
		Reason:   r.Reason,
		Remedy:   app.Remedy(r.Reason),
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

// A RefusalFilter selects refusals. What is empty selects all.
type RefusalFilter struct {
	Period
	Reason string
}

// Refusals returns those of the last refused callbacks that a filter selects, the newest
// first; at most limit, if that is not zero. A misspelt reason is an error: that none was
// refused for it would be no answer.
func (g *Gateway) Refusals(filter RefusalFilter, limit int) ([]Refusal, error) {
	if known := app.Reasons(); filter.Reason != "" && !slices.Contains(known, filter.Reason) {
		return nil, invalid(fmt.Errorf("unknown reason %q; there are: %s",
			filter.Reason, strings.Join(known, ", ")))
	}
	shown := []Refusal{}
	for _, r := range g.process.Refusals.List() {
		if limit > 0 && len(shown) == limit {
			break
		}
		if filter.Includes(r.At) && (filter.Reason == "" || filter.Reason == r.Reason) {
			shown = append(shown, showRefusal(r))
		}
	}
	return shown, nil
}
