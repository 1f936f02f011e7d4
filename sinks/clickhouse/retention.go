package clickhouse

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// keptLonger is by how much bindings outlive the rows, at the least: a token
// may be used months after its mint was logged, and without the binding that
// use would be nobody's.
const keptLonger = 90 * 24 * time.Hour

// expiry says which rows of a table go, and when.
type expiry struct {
	table string
	after string // the time from which the retention counts
	only  string // which rows; empty for all
	extra func(retention time.Duration) time.Duration
}

// expiries are the tables that the retention applies to. progress is kept: it
// is one row a partition, and says where to go on.
var expiries = []expiry{
	{table: "actions", after: "event_time"},
	// What is known of long-lived keys and of workloads and principals stays,
	// unless it had ended: it is one row a key, and needed as long as the key is
	// used. The same goes for what was revoked.
	{table: "bindings", after: "greatest(proof_time, until, expires)",
		only:  "NOT match(child, '^(workload|human|service|agent|external):') AND NOT " + strings.ReplaceAll(longLived, "$", "child") + " OR until > '1970-01-01 00:00:01'",
		extra: func(retention time.Duration) time.Duration { return max(retention, keptLonger) }},
	// Not before the last row of the hour goes: look-ups find rows by them.
	{table: "chain_hours", after: "hour + toIntervalHour(1)"},
	{table: "key_hours", after: "hour + toIntervalHour(1)"},
	{table: "dead_letters", after: "ingested_at"},
	{table: "skips", after: "written_at"},
	{table: "item_counts", after: "written_at"},
}

// longLived is what the column standing_credential goes by.
const longLived = `match($, '^token:(aws\\.access_key:AKIA|(x509\\.sha256|okta\\.api_token|github\\.hashed|gcp\\.sa_key|entra\\.credential|azure\\.storage_key|azure\\.sas|anthropic\\.api_key|openai\\.api_key):)')`

// ttl is the expiry as SQL. The seconds stand in toIntervalSecond, where
// ClickHouse leaves them as they are, which is how an earlier one is known.
func (e expiry) ttl(retention time.Duration) string {
	if e.extra != nil {
		retention += e.extra(retention)
	}
	// A DateTime ends in 2106, and a wrong clock may say later.
	sql := fmt.Sprintf("toDateTime(least(%s, toDateTime64('2100-01-01 00:00:00', 6, 'UTC'))) + toIntervalSecond(%d)", e.after, int64(retention/time.Second))
	if e.only != "" {
		sql += " DELETE WHERE " + e.only
	}
	return sql
}

// setRetention makes the tables forget what is older than the setting says, and
// keep everything when it says nothing. It changes a table only if that is new:
// ClickHouse then looks through all parts. A TTL that somebody else has put on a
// table (of another form than ours) stays as long as the setting is empty.
func (s *Store) setRetention(ctx context.Context) error {
	for _, e := range expiries {
		var engine string
		from := "FROM system.tables WHERE database = currentDatabase() AND name = '" + s.local(e.table) + "'"
		if err := load(ctx, s, []field{{"engine_full", &engine}}, from, func() error { return nil }); err != nil {
			return err
		}
		ours := strings.Contains(engine, " TTL ") && strings.Contains(engine, "toIntervalSecond(")
		var change string
		switch {
		case s.options.Retention == 0 && ours:
			change = "REMOVE TTL"
		case s.options.Retention > 0:
			if change = "MODIFY TTL " + e.ttl(s.options.Retention); ours && strings.Contains(engine, seconds(change)) {
				continue
			}
		}
		if change == "" {
			continue
		}
		if err := s.conn.Exec(ctx, "ALTER TABLE "+s.local(e.table)+s.onClusterClause()+" "+change); err != nil {
			return fmt.Errorf("retention of %s: %w", e.table, err)
		}
	}
	return nil
}

// Kept is how long the rows of actions are kept, as the table says; zero if for
// ever, or if somebody else has put a TTL on it.
func (s *Store) Kept(ctx context.Context) (time.Duration, error) {
	var engine string
	from := "FROM system.tables WHERE database = currentDatabase() AND name = '" + s.local("actions") + "'"
	if err := load(ctx, s, []field{{"engine_full", &engine}}, from, func() error { return nil }); err != nil {
		return 0, err
	}
	var n int64
	if _, ttl, ok := strings.Cut(engine, " TTL "); ok {
		_, _ = fmt.Sscanf(seconds(ttl), "toIntervalSecond(%d)", &n)
	}
	return time.Duration(n) * time.Second, nil
}

// seconds is the interval of a TTL.
func seconds(ttl string) string {
	_, rest, _ := strings.Cut(ttl, "toIntervalSecond(")
	n, _, _ := strings.Cut(rest, ")")
	return "toIntervalSecond(" + n + ")"
}
