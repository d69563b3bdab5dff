package operate

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/build"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/stream"
)

// Overview is all of a gateway at a glance. What was counted is what this gateway did since it
// was started, also where it shares its inbox.
type Overview struct {
	Now     time.Time `json:"now"`
	Started time.Time `json:"started"`
	Version string    `json:"version"`
	Gateway string    `json:"gateway"`

	Inboxes []InboxOverview `json:"inboxes"`
	Routes  []RouteOverview `json:"routes"`

	// Minutes are those of the last hour.
	Minutes Minutes `json:"minutes"`

	// Streams are those that are live, and how many there were in the last hour.
	Streams StreamsOverview `json:"streams"`

	// Refusals counts those of the last hour by reason.
	Refusals map[string]int64 `json:"refusals"`
}

// InboxOverview is how an inbox is.
type InboxOverview struct {
	Path          string       `json:"path"`
	DiskBytes     int64        `json:"disk_bytes"`
	MaxBytes      int64        `json:"max_bytes"` // 0: no limit
	Refusing      spool.Reason `json:"refusing"`  // why new callbacks are refused; empty: they are not
	RefusingSince time.Time    `json:"refusing_since,omitzero"`
	Remedy        string       `json:"remedy,omitempty"` // what to do about Refusing

	// Error is why it is not known what the inbox has. Then only Refusing has a meaning.
	Error string `json:"error,omitempty"`

	// Gateways are those that share the inbox; none where it is of one process.
	Gateways []spool.Gateway `json:"gateways"`
}

// RouteOverview is how a route of an inbox is.
type RouteOverview struct {
	Path  string `json:"path"` // of the inbox
	Route string `json:"route"`
	spool.RouteStats

	// How many were accepted and delivered in the last 60 seconds.
	AcceptedPerMinute  int64 `json:"accepted_per_minute"`
	DeliveredPerMinute int64 `json:"delivered_per_minute"`
}

// Minutes have a number for each minute, the oldest first. A callback that was forwarded at once
// is accepted and delivered.
type Minutes struct {
	From      time.Time `json:"from"`
	Accepted  []int64   `json:"accepted"`
	Delivered []int64   `json:"delivered"`
	Refused   []int64   `json:"refused"`
}

// StreamsOverview counts streams.
type StreamsOverview struct {
	Live            int   `json:"live"`
	Opened          int64 `json:"opened"`
	EndedAbnormally int64 `json:"ended_abnormally"` // neither closed nor at a shutdown
}

// statsTimeout is how long an inbox may take to say how it is. That of one which cannot be reached
// must not keep the rest from being seen.
const statsTimeout = 2 * time.Second

// Overview looks at everything. What is known of an inbox that cannot be reached is its error.
func (g *Gateway) Overview(ctx context.Context) Overview {
	now := time.Now().UTC()
	p := g.process
	all := Overview{
		Now:     now,
		Started: p.Started().UTC(),
		Version: build.Version(),
		Gateway: build.Gateway(),
		Inboxes: []InboxOverview{},
		Routes:  []RouteOverview{},
		Minutes: Minutes{
			From:      app.FirstMinute(now),
			Accepted:  p.Accepted.ByMinute(now),
			Delivered: p.Delivered.ByMinute(now),
			Refused:   p.Refusals.Hour.ByMinute(now),
		},
		Streams:  streamsOverview(p.Streams, now),
		Refusals: p.Refusals.Hour.ByName(now),
	}
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	open, _ := g.inboxes("") // which is an error where there is none
	for _, in := range open {
		shown, routes := g.inboxOverview(ctx, in, now)
		all.Inboxes = append(all.Inboxes, shown)
		all.Routes = append(all.Routes, routes...)
	}
	return all
}

func streamsOverview(streams *app.Registry, now time.Time) StreamsOverview {
	shown := StreamsOverview{Live: len(streams.List())}
	for _, opened := range streams.Opened.ByName(now) {
		shown.Opened += opened
	}
	for reason, ended := range streams.EndedBecause.ByName(now) {
		if reason != stream.EndClosed && reason != stream.EndShutdown {
			shown.EndedAbnormally += ended
		}
	}
	return shown
}

func (g *Gateway) inboxOverview(
	ctx context.Context, in inbox, now time.Time,
) (InboxOverview, []RouteOverview) {
	status, err := in.status(ctx)
	if err != nil {
		status.Error = err.Error()
	}
	shown := InboxOverview{
		Path:          in.path,
		DiskBytes:     status.DiskBytes,
		MaxBytes:      status.MaxBytes,
		Refusing:      status.Refusing,
		RefusingSince: status.RefusingSince,
		Remedy:        app.Remedy(string(status.Refusing)),
		Error:         spool.ClipError(status.Error),
		Gateways:      append([]spool.Gateway{}, status.Gateways...),
	}
	routes := make([]RouteOverview, 0, len(status.Routes))
	for name, route := range status.Routes {
		at := app.Destination{Inbox: in.path, Route: name}
		routes = append(routes, RouteOverview{
			Path:               in.path,
			Route:              name,
			RouteStats:         route,
			AcceptedPerMinute:  g.process.Accepted.PerMinute(at, now),
			DeliveredPerMinute: g.process.Delivered.PerMinute(at, now),
		})
	}
	slices.SortFunc(routes, func(a, b RouteOverview) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Route, b.Route))
	})
	return shown, routes
}
