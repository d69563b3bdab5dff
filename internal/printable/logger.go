package printable

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Logger gives a logger to the same places that escapes the strings, errors and
// stringers among the fields of its lines: an encoder for people writes them as
// they are. Messages and names of fields are the program's own.
func Logger(logger *zap.Logger) *zap.Logger {
	return logger.WithOptions(zap.WrapCore(func(inner zapcore.Core) zapcore.Core {
		return &core{inner}
	}))
}

type core struct{ zapcore.Core }

// With implements [zapcore.Core].
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{c.Core.With(escaped(fields))}
}

// Check implements [zapcore.Core]. The inner core decides, and keeps its
// decision: behind it may be several, each with a level of its own.
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

// line is a core for one line.
type line struct {
	zapcore.Core
	checked *zapcore.CheckedEntry
}

// Write implements [zapcore.Core].
func (l *line) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	l.checked.Entry = entry // with what was found out since it was checked, such as the caller
	l.checked.Write(escaped(fields)...)
	return nil
}

// escaped gives the fields as they are logged; the caller's own stay.
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
		field.AddTo(encoded) // which takes care of nil, and of panics
		if text, ok := encoded.Fields[field.Key].(string); ok {
			return zap.String(field.Key, Escape(text))
		}
	}
	return field
}
