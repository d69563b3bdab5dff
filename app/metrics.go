package app

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/stream"
)

const namespace, subsystem = "caddy", "deepgram_callback"

// The metrics count over the life of the process: each configuration has a
// registry of its own, with the same collectors in it. Labels take their values
// from lists in the code and from the configuration's routes, never from a
// callback.
var (
	requestsTotal = counter("requests_total", "Callbacks by kind (batch, stream) and outcome: admitted, or the reason of the refusal.", "kind", "outcome")

	streamsOpenedTotal  = counter("streams_opened_total", "Streams that were bridged to a backend.", "route")
	streamsEndedTotal   = counter("streams_ended_total", "Streams that ended, by the side that ended them and why.", "route", "by", "reason")
	streamMessagesTotal = counter("stream_messages_total", "Messages that were passed on, by the side they came from.", "route", "from")
	streamBytesTotal    = counter("stream_bytes_total", "Bytes of messages that were passed on, by the side they came from.", "route", "from")

	spoolAcceptedTotal   = counter("spool_accepted_total", "Callbacks that were accepted onto disk.", "route")
	spoolDuplicatesTotal = counter("spool_duplicates_total", "Callbacks that were there already.", "route")
	spoolRefusedTotal    = counter("spool_refused_total", "Callbacks that the inbox could not keep, by reason.", "route", "reason")
	spoolAttemptsTotal   = counter("spool_attempts_total", "Attempts to deliver, by outcome: delivered, rejected, unavailable, gone.", "route", "outcome")
	spoolDeliveredTotal  = counter("spool_delivered_total", "Callbacks that were delivered.", "route")
	spoolDiedTotal       = counter("spool_died_total", "Callbacks that became dead letters.", "route")
	spoolDroppedTotal    = counter("spool_dropped_total", "Dead letters that were dropped because they had been kept long enough.", "route")

	spoolAttemptSeconds  = histogram("spool_attempt_duration_seconds", "How long attempts to deliver took.", "route")
	spoolDeliverySeconds = histogram("spool_delivery_duration_seconds", "How long callbacks waited from their acceptance to their delivery.", "route")
	spoolSyncSeconds     = histogram("spool_sync_duration_seconds", "How long group commits to disk took.", "path")
)

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
}

func histogram(name, help string, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Subsystem: subsystem, Name: name, Help: help,
		Buckets: prometheus.ExponentialBuckets(0.0005, 4, 12), // half a millisecond to half an hour
	}, labels)
}

// Collectors are all metrics of this module.
func Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		requestsTotal,
		streamsOpenedTotal, streamsEndedTotal, streamMessagesTotal, streamBytesTotal,
		spoolAcceptedTotal, spoolDuplicatesTotal, spoolRefusedTotal, spoolAttemptsTotal,
		spoolDeliveredTotal, spoolDiedTotal, spoolDroppedTotal,
		spoolAttemptSeconds, spoolDeliverySeconds, spoolSyncSeconds,
		levels{},
	}
}

// registerMetrics makes the metrics part of a configuration's registry.
func registerMetrics(registry prometheus.Registerer) error {
	for _, collector := range Collectors() {
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
type levels struct{}

func level(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, name), help, labels, nil)
}

var (
	streamsOpen        = level("streams_open", "Streams that are live.", "route")
	spoolPending       = level("spool_pending", "Callbacks that wait for their delivery.", "path", "route")
	spoolPendingBytes  = level("spool_pending_bytes", "Bytes of the bodies that wait for their delivery.", "path", "route")
	spoolDead          = level("spool_dead", "Dead letters.", "path", "route")
	spoolDown          = level("spool_service_down", "Whether the service of the route is found to be down.", "path", "route")
	spoolOldestSeconds = level("spool_oldest_pending_seconds", "Age of the callback that waits longest; zero without one.", "path", "route")
	spoolDiskBytes     = level("spool_disk_bytes", "What the inbox takes up on disk.", "path")
	spoolMaxBytes      = level("spool_max_bytes", "What the inbox may take up on disk.", "path")
	spoolRefusing      = level("spool_refusing", "Whether the inbox refuses new callbacks.", "path")
)

// Describe implements [prometheus.Collector].
func (levels) Describe(descriptions chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		streamsOpen, spoolPending, spoolPendingBytes, spoolDead, spoolDown, spoolOldestSeconds,
		spoolDiskBytes, spoolMaxBytes, spoolRefusing,
	} {
		descriptions <- d
	}
}

// Collect implements [prometheus.Collector].
func (levels) Collect(metrics chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for route, open := range Streams.open() {
		gauge(streamsOpen, float64(open), route)
	}
	for path, inbox := range Inboxes() {
		stats, err := inboxStats(inbox)
		if err != nil {
			continue // the inbox says so itself, and what is not known is not to look like zero
		}
		gauge(spoolDiskBytes, float64(stats.DiskBytes), path)
		gauge(spoolMaxBytes, float64(stats.MaxBytes), path)
		gauge(spoolRefusing, truth(stats.Refusing != ""), path)
		for route, s := range stats.Routes {
			gauge(spoolPending, float64(s.Pending), path, route)
			gauge(spoolPendingBytes, float64(s.PendingBytes), path, route)
			gauge(spoolDead, float64(s.Dead), path, route)
			gauge(spoolDown, truth(s.Down), path, route)
			age := 0.0
			if !s.OldestPending.IsZero() {
				age = time.Since(s.OldestPending).Seconds()
			}
			gauge(spoolOldestSeconds, age, path, route)
		}
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

// hooks count, log and announce what happens in the inbox at path.
func hooks(path string) spool.Hooks {
	at := zap.String("path", path)
	letter := func(msg *spool.Message) []zap.Field {
		return []zap.Field{at, zap.Stringer("id", msg.ID), zap.String("route", msg.Route), zap.String("method", msg.Method),
			zap.String("request_id", msg.RequestID), zap.Int("attempts", msg.Attempts), zap.String("last_error", msg.LastError)}
	}
	return spool.Hooks{
		Accepted:  func(route string, _ int64) { spoolAcceptedTotal.WithLabelValues(route).Inc() },
		Duplicate: func(route string) { spoolDuplicatesTotal.WithLabelValues(route).Inc() },
		Refused: func(route string, reason spool.Reason) {
			spoolRefusedTotal.WithLabelValues(route, string(reason)).Inc()
		},
		Attempted: func(msg *spool.Message, result spool.Result, took time.Duration) {
			spoolAttemptsTotal.WithLabelValues(msg.Route, string(result.Outcome())).Inc()
			spoolAttemptSeconds.WithLabelValues(msg.Route).Observe(took.Seconds())
			if c := currentLogger().Check(zap.DebugLevel, "delivery attempt"); c != nil {
				c.Write(append(letter(msg), zap.Stringer("result", result), zap.Duration("duration", took))...)
			}
		},
		Delivered: func(msg *spool.Message) {
			spoolDeliveredTotal.WithLabelValues(msg.Route).Inc()
			spoolDeliverySeconds.WithLabelValues(msg.Route).Observe(time.Since(msg.ReceivedAt).Seconds())
		},
		Died: func(msg *spool.Message) {
			spoolDiedTotal.WithLabelValues(msg.Route).Inc()
			currentLogger().Error("callback became a dead letter; replay it when its service can take it", letter(msg)...)
			go emit("deepgram_callback.dead_letter", map[string]any{
				"path": path, "id": msg.ID.String(), "route": msg.Route, "request_id": msg.RequestID,
				"attempts": msg.Attempts, "last_error": msg.LastError, "received_at": msg.ReceivedAt,
			})
		},
		Dropped: func(msg *spool.Message) {
			spoolDroppedTotal.WithLabelValues(msg.Route).Inc()
			currentLogger().Warn("dead letter dropped: kept for as long as configured", letter(msg)...)
		},
		Down: func(route string, down bool, cause string) {
			if down {
				currentLogger().Warn("service does not answer; it is probed until it does, and callbacks wait", at, zap.String("route", route), zap.String("cause", cause))
			} else {
				currentLogger().Info("service answers again", at, zap.String("route", route))
			}
		},
		Unconfigured: func(route string, counts spool.RouteCounts, to string) {
			fields := []zap.Field{at, zap.String("route", route),
				zap.Int64("pending", counts.Pending), zap.Int64("dead", counts.Dead)}
			if to == "" {
				currentLogger().Warn("the inbox has callbacks of a route that is not configured; they wait until one of that name is", fields...)
				return
			}
			currentLogger().Info("callbacks of a route that is not configured any more go to the inbox's only one", append(fields, zap.String("to", to))...)
		},
		Problem: func(err error) { currentLogger().Error("inbox", at, zap.Error(err)) },
	}
}

// storeEvents count, log and announce what happens in the store of the inbox at path.
func storeEvents(path string) spool.StoreEvents {
	at := zap.String("path", path)
	return spool.StoreEvents{
		Refusing: func(reason spool.Reason, refusing bool, cause error) {
			if refusing {
				currentLogger().Error("inbox refuses callbacks; what it accepted before is safe", at, zap.String("reason", string(reason)), zap.Error(cause))
			} else {
				currentLogger().Info("inbox accepts callbacks again", at)
			}
			go emit("deepgram_callback.spool_refusing", map[string]any{"path": path, "reason": string(reason), "refusing": refusing})
		},
		Synced:  func(took time.Duration) { spoolSyncSeconds.WithLabelValues(path).Observe(took.Seconds()) },
		Problem: func(err error) { currentLogger().Error("inbox", at, zap.Error(err)) },
	}
}
