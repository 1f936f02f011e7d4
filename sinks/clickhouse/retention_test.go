package clickhouse

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"catena/schemas"
	"catena/sinks"
	"catena/sinks/sinktest"
)

// withRetention migrates the same database with another setting.
func withRetention(t *testing.T, s *Store, retention time.Duration) {
	t.Helper()
	s.options.Retention = retention
	if _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// ttls are the tables that forget, in the order of their names.
func ttls(t *testing.T, s *Store) string {
	t.Helper()
	return strings.Join(rows(t, s, "SELECT name || ' ' || arrayStringConcat(extractAll(engine_full, 'toIntervalSecond\\\\((\\\\d+)\\\\)'), ' ') FROM system.tables WHERE database = currentDatabase() AND engine_full LIKE '% TTL %' ORDER BY name"), ", ")
}

func TestRetentionIsThatOfTheSetting(t *testing.T) {
	s := migrated(t)
	if got := ttls(t, s); got != "" {
		t.Errorf("without the setting: %s, want nothing to expire", got)
	}
	for _, c := range []struct {
		retention time.Duration
		want      string
	}{
		{720 * time.Hour, "actions 2592000, bindings 10368000, chain_hours 2592000, dead_letters 2592000, item_counts 2592000, key_hours 2592000, skips 2592000"},
		{720 * time.Hour, "actions 2592000, bindings 10368000, chain_hours 2592000, dead_letters 2592000, item_counts 2592000, key_hours 2592000, skips 2592000"},
		{8760 * time.Hour, "actions 31536000, bindings 63072000, chain_hours 31536000, dead_letters 31536000, item_counts 31536000, key_hours 31536000, skips 31536000"},
		{0, ""},
	} {
		withRetention(t, s, c.retention)
		if got := ttls(t, s); got != c.want {
			t.Errorf("retention %v: got %s, want %s", c.retention, got, c.want)
		}
	}
	exec(t, s, "ALTER TABLE actions MODIFY TTL toDateTime(event_time) + INTERVAL 1 YEAR")
	withRetention(t, s, 0)
	if got := rows(t, s, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND engine_full LIKE '% TTL %'"); got[0] != "1" {
		t.Errorf("an empty setting took away a TTL that was not of its making")
	}
}

// What is old goes, what is younger or still needed stays.
func TestRetentionForgets(t *testing.T) {
	s := migrated(t)
	now := time.Now()
	ago := func(days int) int64 { return now.Add(-time.Duration(days) * 24 * time.Hour).UnixNano() }
	var batch sinks.Batch
	for _, days := range []int{1, 29, 31, 400} {
		a := sinktest.Bare()
		a.ID, a.TimeNanos = schemas.MakeID("retention", fmt.Sprint(days)), ago(days)
		batch.Actions = append(batch.Actions, a)
	}
	binding := func(kind schemas.Kind, namespace, value string, days, until int) {
		b := schemas.Binding{Child: schemas.Key{Kind: kind, Namespace: namespace, Value: value}, Parent: schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: "a@example.com"},
			Relation: schemas.RelationIssued, Strength: schemas.StrengthExact, ProofNanos: ago(days), Proof: schemas.MakeID("proof", value), Version: 1}
		if until > 0 {
			b.UntilNanos = ago(until)
		}
		batch.Bindings = append(batch.Bindings, b)
	}
	binding(schemas.KindToken, "jti", "young", 1, 0)
	binding(schemas.KindToken, "jti", "older than the rows", 100, 0)
	binding(schemas.KindToken, "jti", "old", 130, 0)
	binding(schemas.KindToken, "jti", "old but held until lately", 400, 20)
	binding(schemas.KindToken, "aws.access_key", "AKIAFIXTURE0000000001", 400, 0)
	binding(schemas.KindToken, "aws.access_key", "AKIAFIXTURE0000000002", 400, 300)
	binding(schemas.KindToken, "aws.access_key", "ASIAFIXTURE0000000003", 400, 0)
	binding(schemas.KindWorkload, "ip", "10.0.0.1", 400, 0)
	write(t, s, &batch)
	write(t, s, &sinks.Batch{Progress: []schemas.Progress{{Topic: "old", WatermarkNanos: ago(4000)}}})
	withRetention(t, s, 720*time.Hour)
	exec(t, s, "OPTIMIZE TABLE actions FINAL", "OPTIMIZE TABLE bindings FINAL")

	if got, want := rows(t, s, "SELECT dateDiff('day', event_time, now()) AS d FROM actions FINAL ORDER BY d"), []string{"1", "29"}; !slices.Equal(got, want) {
		t.Errorf("rows that are left, by their age in days: %v, want %v", got, want)
	}
	want := []string{"10.0.0.1", "AKIAFIXTURE0000000001", "old but held until lately", "older than the rows", "young"}
	if got := rows(t, s, "SELECT replaceRegexpOne(child, '^[a-z]+:[^:]+:', '') AS c FROM bindings FINAL ORDER BY c"); !slices.Equal(got, want) {
		t.Errorf("bindings that are left: %q, want %q", got, want)
	}
	if got := rows(t, s, "SELECT count() FROM progress FINAL"); got[0] != "1" {
		t.Errorf("progress has %s rows, want 1", got[0])
	}
}
