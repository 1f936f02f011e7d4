package ingest

import (
	"fmt"
	"time"
)

// later gives the time that lies a duration behind another, both as RFC 3339:
// where a system mints for a time that it does not log.
func later(duration string) (transformFunc, error) {
	d, err := time.ParseDuration(duration)
	if err != nil || d <= 0 {
		return nil, fmt.Errorf("later takes a duration, as in later('1h'), not later('%s')", duration)
	}
	return func(e *evaluator, s string) string {
		nanos, ok := parseTime(s, unitRFC3339)
		if !ok {
			return ""
		}
		start := len(e.arena.buf)
		e.arena.buf = time.Unix(0, nanos).Add(d).UTC().AppendFormat(e.arena.buf, time.RFC3339Nano)
		return e.arena.since(start)
	}, nil
}
