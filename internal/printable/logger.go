// Escaping what is logged.

package printable

import (
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Logger returns a logger that writes to the same places, and escapes strings, errors
// and stringers among the fields: an encoder for people would write them as they are.
// Messages and names of fields are not escaped, as they are the program's own.
func Logger(logger *zap.Logger) *zap.Logger {
	return logger.WithOptions(zap.WrapCore(func(inner zapcore.Core) zapcore.Core {
		return &core{inner}
	}))
}

// Sampled keeps a flood of refusals from flooding the log: in each second, the first ten of the
// same reason are written, and then each thousandth.
func Sampled(logger *zap.Logger) *zap.Logger {
	return logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, 10, 1000)
	}))
}

type core struct{ zapcore.Core }

// With implements [zapcore.Core].
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{c.Core.With(escaped(fields))}
}

// Check implements [zapcore.Core]. The inner core decides, and its decision is kept
// until Write, as it may stand for several cores with levels of their own.
func (c *core) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	inner := c.Core.Check(entry, nil)
	if inner == nil {
		return checked
	}
	return checked.AddCore(entry, &line{c.Core, inner})
}

// Write implements [zapcore.Core].
func (c *core) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	return c.Core.Write(entry, escaped(fields))
}

// line is a core that writes one line, which the inner core has decided about.
type line struct {
	zapcore.Core
	checked *zapcore.CheckedEntry
}

// Write implements [zapcore.Core].
func (l *line) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	l.checked.Entry = entry // the logger has added to it since Check, such as the caller
	l.checked.Write(escaped(fields)...)
	return nil
}

// escaped returns escaped copies of the fields.
func escaped(fields []zapcore.Field) []zapcore.Field {
	out := make([]zapcore.Field, len(fields))
	for i, field := range fields {
		out[i] = escapedField(field)
	}
	return out
}

func escapedField(field zapcore.Field) zapcore.Field {
	switch field.Type {
	case zapcore.StringType:
		field.String = Escape(field.String)
	case zapcore.ErrorType, zapcore.StringerType:
		encoded := zapcore.NewMapObjectEncoder()
		field.AddTo(encoded) // handles nil values and panics
		if text, ok := encoded.Fields[field.Key].(string); ok {
			return zap.String(field.Key, Escape(text))
		}
	}
	return field
}
