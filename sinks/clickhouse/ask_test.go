package clickhouse

import (
	"strings"
	"testing"
	"time"

	"catena/schemas"
	"catena/sinks"
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

// TestFindingsOfATime: the filter reaches the table below the view, and the
// chain's own span does not cut its findings.
func TestFindingsOfATime(t *testing.T) {
	s := migrated(t)
	chain := schemas.MakeID("chain")
	var batch sinks.Batch
	for i := range int64(3) {
		at := int64(1772442000e9) + i*3600e9
		batch.Actions = append(batch.Actions, &schemas.Action{Event: schemas.Event{ID: schemas.MakeID("event", string(rune('a'+i))), Source: "okta.system", TimeNanos: at,
			Flags: schemas.FlagDivergent, Keys: []schemas.Key{{Kind: schemas.KindToken, Namespace: "jti", Value: "t"}}}, ChainID: chain, Version: 1})
	}
	write(t, s, &batch)
	ctx, cancel := Bounded(t.Context(), 10*time.Second)
	defer cancel()
	for _, test := range []struct {
		chain schemas.ID
		since int64
		want  int
	}{{chain, 0, 3}, {schemas.ID{}, 0, 3}, {schemas.ID{}, 1772442000e9 + 3600e9, 2}, {schemas.ID{}, 1772442000e9 + 9999e9, 0}, {schemas.MakeID("another"), 0, 0}} {
		found, err := s.Findings(ctx, test.chain, test.since, 10)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range found {
			n += f.Actions
		}
		if n != test.want {
			t.Errorf("chain %v since %d: %d actions in findings, want %d", test.chain, test.since, n, test.want)
		}
	}
	if _, _, err := s.Query(withSettings(ctx, map[string]any{"max_threads": 1}), "DROP TABLE dead_letters", 1); err == nil {
		t.Error("further settings take the read-only one away")
	}
}
