package app

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/stream"
)

const namespace, subsystem = "caddy", "deepgram_callback"

// The metrics count over the life of the process: each configuration has a
// registry of its own, with the same collectors in it. Labels take their values
// from lists in the code, from the configuration's routes and from the names of
// gateways, never from a callback.
var (
	requestsTotal = counter("requests_total",
		"Callbacks by kind (batch, stream) and outcome: admitted, or the reason of the refusal.",
		"kind", "outcome")

	streamsOpenedTotal = counter("streams_opened_total",
		"Streams that were bridged to a backend.", "route")
	streamsEndedTotal = counter("streams_ended_total",
		"Streams that ended, by the side that ended them and why.", "route", "by", "reason")
	streamMessagesTotal = counter("stream_messages_total",
		"Messages that were passed on, by the side they came from.", "route", "from")
	streamBytesTotal = counter("stream_bytes_total",
		"Bytes of messages that were passed on, by the side they came from.", "route", "from")

	spoolAcceptedTotal = counter("spool_accepted_total",
		"Callbacks that were accepted onto disk.", "route")
	spoolDuplicatesTotal = counter("spool_duplicates_total",
		"Callbacks that were there already.", "route")
	spoolRefusedTotal = counter("spool_refused_total",
		"Callbacks that the inbox could not keep, by reason.", "route", "reason")
	spoolAttemptsTotal = counter("spool_attempts_total",
		"Attempts to deliver, by outcome: delivered, rejected, unavailable, gone.", "route", "outcome")
	spoolDeliveredTotal = counter("spool_delivered_total",
		"Callbacks that were delivered.", "route")
	spoolDiedTotal = counter("spool_died_total",
		"Callbacks that became dead letters.", "route")
	spoolDroppedTotal = counter("spool_dropped_total",
		"Dead letters that were dropped because they had been kept long enough.", "route")

	spoolEvictedTotal = counter("spool_evicted_total",
		"Delivered callbacks that gave way to new ones before their time, for lack of room.", "route")

	spoolAttemptSeconds = histogram("spool_attempt_duration_seconds",
		"How long attempts to deliver took.", "route")
	spoolDeliverySeconds = histogram("spool_delivery_duration_seconds",
		"How long callbacks waited from their acceptance to their delivery.", "route")
	spoolSyncSeconds = histogram("spool_sync_duration_seconds",
		"How long group commits to disk took.", "path")
)

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Subsystem: subsystem, Name: name, Help: help,
	}, labels)
}

func histogram(name, help string, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Subsystem: subsystem, Name: name, Help: help,
		Buckets: prometheus.ExponentialBuckets(0.0005, 4, 12), // half a millisecond to half an hour
	}, labels)
}

func collectors(p *Process) []prometheus.Collector {
	return []prometheus.Collector{
		requestsTotal,
		streamsOpenedTotal, streamsEndedTotal, streamMessagesTotal, streamBytesTotal,
		spoolAcceptedTotal, spoolDuplicatesTotal, spoolRefusedTotal, spoolAttemptsTotal,
		spoolDeliveredTotal, spoolDiedTotal, spoolDroppedTotal, spoolEvictedTotal,
		spoolAttemptSeconds, spoolDeliverySeconds, spoolSyncSeconds,
		levels{p},
	}
}

// Collectors are all metrics of this module.
func Collectors() []prometheus.Collector { return collectors(thisProcess) }

// registerMetrics makes the metrics part of a configuration's registry.
func registerMetrics(registry prometheus.Registerer, p *Process) error {
	for _, collector := range collectors(p) {
		var registered prometheus.AlreadyRegisteredError
		if err := registry.Register(collector); err != nil && !errors.As(err, &registered) {
			return err
		}
	}
	return nil
}

// CountRequest counts a callback that was admitted, or refused for a reason.
func CountRequest(kind, outcome string) { requestsTotal.WithLabelValues(kind, outcome).Inc() }

// levels collects what is counted where it is kept, when it is asked for.
type levels struct{ process *Process }

func level(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, name), help, labels, nil)
}

var (
	streamsOpen = level("streams_open",
		"Streams that are live.", "route")
	spoolPending = level("spool_pending",
		"Callbacks that wait for their delivery.", "path", "route")
	spoolPendingBytes = level("spool_pending_bytes",
		"Bytes of the bodies that wait for their delivery.", "path", "route")
	spoolDead = level("spool_dead",
		"Dead letters.", "path", "route")
	spoolKept = level("spool_kept",
		"Delivered callbacks that are kept.", "path", "route")
	spoolKeptBytes = level("spool_kept_bytes",
		"Bytes of the bodies of delivered callbacks that are kept.", "path", "route")
	spoolPaused = level("spool_paused",
		"Whether deliveries of the route are paused.", "path", "route")
	spoolDown = level("spool_service_down",
		"Whether the service of the route is found to be down.", "path", "route")
	spoolOldestSeconds = level("spool_oldest_pending_seconds",
		"Age of the callback that waits longest; zero without one.", "path", "route")
	spoolDiskBytes = level("spool_disk_bytes",
		"What the inbox takes up on disk.", "path")
	spoolMaxBytes = level("spool_max_bytes",
		"What the inbox may take up on disk.", "path")
	spoolRefusing = level("spool_refusing",
		"Whether the inbox refuses new callbacks.", "path")
	spoolGatewayLastSeen = level("spool_gateway_last_seen_timestamp_seconds",
		"When a gateway that shares the inbox was last seen, as Unix time.", "path", "gateway")
	spoolGatewayStreams = level("spool_gateway_streams_open",
		"Streams that are live at a gateway that shares the inbox.", "path", "gateway")
	spoolGatewayDelivering = level("spool_gateway_delivering",
		"Callbacks that a gateway that shares the inbox is delivering.", "path", "gateway")
)

// Describe implements [prometheus.Collector].
func (levels) Describe(descriptions chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		streamsOpen, spoolPending, spoolPendingBytes, spoolDead, spoolKept, spoolKeptBytes,
		spoolPaused, spoolDown, spoolOldestSeconds,
		spoolDiskBytes, spoolMaxBytes, spoolRefusing,
		spoolGatewayLastSeen, spoolGatewayStreams, spoolGatewayDelivering,
	} {
		descriptions <- d
	}
}

// Collect implements [prometheus.Collector].
func (l levels) Collect(metrics chan<- prometheus.Metric) {
	set := gauge(func(d *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	})
	for route, open := range l.process.Streams.open() {
		set(streamsOpen, float64(open), route)
	}
	for path, inbox := range l.process.Inboxes() {
		set.inbox(path, inbox)
	}
}

// A gauge takes what a level is now.
type gauge func(d *prometheus.Desc, value float64, labels ...string)

func (set gauge) inbox(path string, inbox *spool.Inbox) {
	ctx, cancel := context.WithTimeout(context.Background(), statsTimeout)
	defer cancel()
	stats, err := inbox.Stats(ctx)
	if err != nil {
		if stats.Refusing != "" {
			set(spoolRefusing, 1, path)
		}
		return // the inbox says so itself, and what is not known is not to look like zero
	}
	set(spoolDiskBytes, float64(stats.DiskBytes), path)
	set(spoolMaxBytes, float64(stats.MaxBytes), path)
	set(spoolRefusing, truth(stats.Refusing != ""), path)
	for route, s := range stats.Routes {
		set.route(path, route, s)
	}
	gateways, _ := inbox.Gateways(ctx) // none where the store went away since
	set.gateways(path, gateways)
}

func (set gauge) route(path, route string, s spool.RouteStats) {
	set(spoolPending, float64(s.Pending), path, route)
	set(spoolPendingBytes, float64(s.PendingBytes), path, route)
	set(spoolDead, float64(s.Dead), path, route)
	set(spoolKept, float64(s.Delivered), path, route)
	set(spoolKeptBytes, float64(s.DeliveredBytes), path, route)
	set(spoolPaused, truth(s.Paused), path, route)
	set(spoolDown, truth(s.Down), path, route)
	age := 0.0
	if !s.OldestPending.IsZero() {
		age = time.Since(s.OldestPending).Seconds()
	}
	set(spoolOldestSeconds, age, path, route)
}

// gatewayGone is for how long what a gateway last said of itself is taken for what is.
const gatewayGone = time.Minute

// gateways adds up those of one name: of one machine, where one may have died and come again.
func (set gauge) gateways(path string, gateways []spool.Gateway) {
	var now time.Time // by the clock of the store, which has just seen this gateway
	lastSeen := make(map[string]time.Time)
	for _, g := range gateways {
		if g.LastSeen.After(now) {
			now = g.LastSeen
		}
		if g.LastSeen.After(lastSeen[g.Name]) {
			lastSeen[g.Name] = g.LastSeen
		}
	}
	streams, delivering := make(map[string]int), make(map[string]int)
	for _, g := range gateways {
		if now.Sub(g.LastSeen) < gatewayGone {
			streams[g.Name] += g.LiveStreams
			delivering[g.Name] += g.Leases
		}
	}
	for name, at := range lastSeen {
		set(spoolGatewayLastSeen, float64(at.UnixMilli())/1000, path, name)
	}
	for name := range streams {
		set(spoolGatewayStreams, float64(streams[name]), path, name)
		set(spoolGatewayDelivering, float64(delivering[name]), path, name)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// countStream counts a stream's end and what went through it.
func countStream(s *Stream, end stream.End) {
	streamsEndedTotal.WithLabelValues(s.Route, end.By, end.Reason).Inc()
	fromCaller, fromBackend := s.Traffic()
	streamMessagesTotal.WithLabelValues(s.Route, stream.ByCaller).Add(float64(fromCaller.Messages))
	streamMessagesTotal.WithLabelValues(s.Route, stream.ByBackend).Add(float64(fromBackend.Messages))
	streamBytesTotal.WithLabelValues(s.Route, stream.ByCaller).Add(float64(fromCaller.Bytes))
	streamBytesTotal.WithLabelValues(s.Route, stream.ByBackend).Add(float64(fromBackend.Bytes))
}
