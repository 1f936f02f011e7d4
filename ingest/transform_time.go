package ingest

import (
	"fmt"
	"strconv"
	"time"
)

// later gives the time that lies a duration behind another: where a system
// mints for a time that it does not log.
func later(duration string) (transformFunc, error) { return shift("later", duration, false) }

// earlier gives the time that lies a duration before another: where something
// surely existed before the record that is the first to tell of it, such as a
// process before it logs its login.
func earlier(duration string) (transformFunc, error) { return shift("earlier", duration, true) }

// shift moves a time, which becomes RFC 3339.
func shift(name, duration string, back bool) (transformFunc, error) {
	d, err := time.ParseDuration(duration)
	if err != nil || d <= 0 {
		return nil, fmt.Errorf("%s takes a duration, as in %s('1h'), not %s('%s')", name, name, name, duration)
	}
	if back {
		d = -d
	}
	return func(e *evaluator, s string) string {
		nanos, ok := parseAnyTime(s)
		if !ok {
			return ""
		}
		start := len(e.arena.buf)
		e.arena.buf = time.Unix(0, nanos).Add(d).UTC().AppendFormat(e.arena.buf, time.RFC3339Nano)
		return e.arena.since(start)
	}, nil
}

// parseAnyTime reads RFC 3339, or a whole epoch number of this century, whose
// number of digits tells its unit.
func parseAnyTime(s string) (nanos int64, ok bool) {
	if nanos, ok := parseTime(s, unitRFC3339); ok {
		return nanos, true
	}
	if _, err := strconv.ParseUint(s, 10, 64); err != nil {
		return 0, false
	}
	switch len(s) {
	case 10:
		return parseTime(s, unitSeconds)
	case 13:
		return parseTime(s, unitMillis)
	case 16:
		return parseTime(s, unitMicros)
	case 19:
		return parseTime(s, unitNanos)
	}
	return 0, false
}
