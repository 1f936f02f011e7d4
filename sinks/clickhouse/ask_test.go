package clickhouse

import (
	"strings"
	"testing"
	"time"
)

// TestBoundedOnlyReads: what looks at chains cannot change them, whatever it is
// made to say.
func TestBoundedOnlyReads(t *testing.T) {
	s := migrated(t)
	ctx, cancel := Bounded(t.Context(), 5*time.Second)
	defer cancel()
	if _, _, err := s.Query(ctx, "SELECT count() FROM actions", 1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Query(ctx, "DROP TABLE dead_letters", 1); err == nil || !strings.Contains(strings.ToLower(err.Error()), "readonly") {
		t.Errorf("DROP TABLE in readonly mode: %v", err)
	}
	if p, err := s.Pulse(ctx); err != nil || p.Records != 0 {
		t.Errorf("pulse of empty tables: %+v, %v", p, err)
	}
}
