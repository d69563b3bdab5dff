package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

func invalid(format string, args ...any) error {
	return &operate.Error{Kind: operate.Invalid, Err: fmt.Errorf(format, args...)}
}

// parameters reads the query. A parameter that is not known is an error: a
// misspelt route must not make a request mean all routes.
func parameters(r *http.Request, known ...string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("query: %w", err)
	}
	for name, values := range query {
		if !slices.Contains(known, name) {
			return nil, invalid("unknown parameter %q", name)
		}
		if len(values) > 1 {
			return nil, invalid("parameter %s is given twice", name)
		}
	}
	return query, nil
}

// notEmpty refuses parameters that are there and empty: that comes of a variable that was
// not set, which must not mean all.
func notEmpty(query url.Values, names ...string) error {
	for _, name := range names {
		if query.Has(name) && query.Get(name) == "" {
			return invalid("%s is empty; leave it out to mean all", name)
		}
	}
	return nil
}

// selection reads which messages a request is about.
func selection(query url.Values) (operate.Selection, error) {
	received, err := operate.ParsePeriod(query.Get("since"), query.Get("until"), time.Now())
	return operate.Selection{
		Path:      query.Get("path"),
		State:     spool.State(query.Get("state")),
		Route:     query.Get("route"),
		RequestID: query.Get("request_id"),
		User:      query.Get("user"),
		Received:  received,
	}, err
}

// flag reads a parameter that is true or false.
func flag(query url.Values, name string, otherwise bool) (bool, error) {
	text := query.Get(name)
	if text == "" {
		return otherwise, nil
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		return false, invalid("%s is %q, neither true nor false", name, text)
	}
	return value, nil
}

// page reads which part of a list is wanted.
func page(query url.Values) (page operate.Page, err error) {
	page.Limit = operate.DefaultPage
	if text := query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > operate.MaxPage {
			return page, invalid("limit is %q, not a number from 1 to %d", text, operate.MaxPage)
		}
		page.Limit = n
	}
	if text := query.Get("after"); text != "" {
		if page.After, err = spool.ParseID(text); err != nil {
			return page, invalid("after is %q, not the id of a message", text)
		}
	}
	switch text := query.Get("order"); text {
	case "", "oldest":
	case "newest":
		page.Newest = true
	default:
		return page, invalid("order is %q, neither oldest nor newest", text)
	}
	return page, nil
}
