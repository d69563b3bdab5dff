package app

import (
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// hooks count, log and announce what happens in the inbox of a store.
func (p *Process) hooks(identity string) spool.Hooks {
	at := zap.String("path", identity)
	letter := func(msg *spool.Message) []zap.Field {
		return []zap.Field{
			at,
			zap.Stringer("id", msg.ID),
			zap.String("route", msg.Route),
			zap.String("method", msg.Method),
			zap.String("request_id", msg.RequestID),
			zap.Int("attempts", msg.Tries),
			zap.String("last_error", msg.LastError),
		}
	}
	return spool.Hooks{
		Accepted: func(route string, _ int64) {
			spoolAcceptedTotal.WithLabelValues(route).Inc()
			p.Accepted.Add(Destination{identity, route})
		},
		Duplicate: func(route string) { spoolDuplicatesTotal.WithLabelValues(route).Inc() },
		Refused: func(route string, reason spool.Reason) {
			spoolRefusedTotal.WithLabelValues(route, string(reason)).Inc()
		},
		Attempted: func(msg *spool.Message, result spool.Result, took time.Duration) {
			spoolAttemptsTotal.WithLabelValues(msg.Route, string(result.Outcome())).Inc()
			spoolAttemptSeconds.WithLabelValues(msg.Route).Observe(took.Seconds())
			if c := p.logger().Check(zap.DebugLevel, "delivery attempt"); c != nil {
				c.Write(append(letter(msg),
					zap.Stringer("result", result), zap.Duration("duration", took))...)
			}
		},
		Delivered: func(msg *spool.Message) {
			spoolDeliveredTotal.WithLabelValues(msg.Route).Inc()
			p.Delivered.Add(Destination{identity, msg.Route})
			spoolDeliverySeconds.WithLabelValues(msg.Route).Observe(time.Since(msg.ReceivedAt).Seconds())
		},
		Died: func(msg *spool.Message) {
			spoolDiedTotal.WithLabelValues(msg.Route).Inc()
			p.logger().Error("callback became a dead letter; replay it when its service can take it",
				letter(msg)...)
			go p.emit("deepgram_callback.dead_letter", map[string]any{
				"path": identity, "id": msg.ID.String(), "route": msg.Route, "request_id": msg.RequestID,
				"attempts": msg.Tries, "last_error": msg.LastError, "received_at": msg.ReceivedAt,
			})
		},
		Dropped: func(msg *spool.Message) {
			spoolDroppedTotal.WithLabelValues(msg.Route).Inc()
			p.logger().Warn("dead letter dropped: kept for as long as configured", letter(msg)...)
		},
		Paused: func(route string, paused bool) {
			if paused {
				p.logger().Warn("deliveries are paused; callbacks wait until somebody resumes them",
					at, zap.String("route", route))
			} else {
				p.logger().Info("deliveries are resumed", at, zap.String("route", route))
			}
			p.announce("deepgram_callback.spool_paused", map[string]any{
				"path": identity, "route": route, "paused": paused,
			})
		},
		Down: func(route string, down bool, cause string) {
			if !down {
				p.logger().Info("service answers again", at, zap.String("route", route))
				return
			}
			p.logger().Warn("service does not answer; it is probed until it does, and callbacks wait",
				at, zap.String("route", route), zap.String("cause", cause))
		},
		Unconfigured: func(route string, counts spool.RouteCounts, to string) {
			fields := []zap.Field{
				at,
				zap.String("route", route),
				zap.Int64("pending", counts.Pending),
				zap.Int64("dead", counts.Dead),
			}
			if to == "" {
				p.logger().Warn("the inbox has callbacks of a route that is not configured; "+
					"they wait until one of that name is", fields...)
				return
			}
			p.logger().Info("callbacks of a route that is not configured any more "+
				"go to the inbox's only one", append(fields, zap.String("to", to))...)
		},
		Elsewhere: func(route string, counts spool.RouteCounts) {
			p.logger().Warn("the shared inbox has callbacks of a route that this gateway does not have; "+
				"they wait for a gateway that has it. If none should have it any more, name a route so here, "+
				"or drop them",
				at,
				zap.String("route", route),
				zap.Int64("pending", counts.Pending),
				zap.Int64("dead", counts.Dead))
		},
		Problem: func(err error) { p.logger().Error("inbox", at, zap.Error(err)) },
	}
}

// evictionSilence is how long after kept callbacks had to give way it is not said again.
const evictionSilence = time.Hour

// storeEvents count, log and announce what happens in a store.
func (p *Process) storeEvents(identity string) spool.StoreEvents {
	at := zap.String("path", identity)
	var evictionSaid atomic.Int64 // in nanoseconds
	return spool.StoreEvents{
		Refusing: func(reason spool.Reason, refusing bool, cause error) {
			if refusing {
				p.logger().Error("inbox refuses callbacks; what it accepted before is safe",
					at, zap.String("reason", string(reason)), zap.Error(cause))
			} else {
				p.logger().Info("inbox accepts callbacks again", at)
			}
			p.announce("deepgram_callback.spool_refusing", map[string]any{
				"path": identity, "reason": string(reason), "refusing": refusing,
			})
		},
		Evicted: func(route string, messages int) {
			spoolEvictedTotal.WithLabelValues(route).Add(float64(messages))
			now, said := time.Now().UnixNano(), evictionSaid.Load()
			if now-said > int64(evictionSilence) && evictionSaid.CompareAndSwap(said, now) {
				p.logger().Warn("delivered callbacks are kept for less time than configured: "+
					"max_size leaves no more room; the oldest give way to new ones",
					at, zap.String("route", route))
			}
		},
		LiveStreams: func() (live int) {
			for _, n := range p.Streams.open() {
				live += n
			}
			return live
		},
		Synced: func(took time.Duration) {
			spoolSyncSeconds.WithLabelValues(identity).Observe(took.Seconds())
		},
		Problem: func(err error) { p.logger().Error("inbox", at, zap.Error(err)) },
	}
}
