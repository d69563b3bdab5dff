package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/operate"
)

// RefusalFilters are the parameters by which refusals are selected.
func RefusalFilters() []string { return []string{"reason", "since", "until", "limit"} }

// listRefusals answers GET /refusals: the last refused callbacks, the newest first.
func (h *Handler) listRefusals(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, RefusalFilters()...)
	if err != nil {
		return err
	}
	filter := operate.RefusalFilter{Reason: query.Get("reason")}
	filter.Period, err = operate.ParsePeriod(query.Get("since"), query.Get("until"), time.Now())
	if err != nil {
		return err
	}
	limit, err := refusalLimit(query.Get("limit"))
	if err != nil {
		return err
	}
	refusals, err := h.gateway.Refusals(filter, limit)
	if err != nil {
		return err
	}
	return reply(w, refusals)
}

// refusalLimit reads how many refusals are wanted; zero is all.
func refusalLimit(limit string) (int, error) {
	if limit == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(limit)
	if err != nil || n < 1 {
		return 0, invalid("limit is %q, not a number from 1 on", limit)
	}
	return n, nil
}
