package clickhouse

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"

	"catena/sinks"
)

// Write inserts the rows, one block a table and progress last, and returns when
// all are on disk. See [sinks.Sink] for what errors mean.
func (s *Store) Write(ctx context.Context, b *sinks.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, err := s.inserting(ctx)
	if err != nil {
		return s.explain(err)
	}
	t := &s.tables

	if err := insertAll(ctx, s, t.bindings, b.Bindings); err != nil {
		return err
	}
	t.actions.reset()
	for _, a := range b.Actions {
		t.actions.add(a)
	}
	if err := t.actions.send(ctx, s); err != nil {
		return classify(s.explain(err))
	}
	if err := insertAll(ctx, s, t.deadLetters, b.DeadLetters); err != nil {
		return err
	}
	if err := insertAll(ctx, s, t.skips, b.Skips); err != nil {
		return err
	}
	if err := insertAll(ctx, s, t.itemCounts, b.ItemCounts); err != nil {
		return err
	}
	return insertAll(ctx, s, t.progress, b.Progress)
}

// Claim notes a new owner of partitions in progress, with what the owner before
// reported of them, so that whoever writes can know that they are no longer
// theirs. It returns when that is on disk. Of partitions that nobody has reported
// on there is nothing to note.
func (s *Store) Claim(ctx context.Context, parts []Place, ownerMillis int64) error {
	ctx, err := s.inserting(ctx)
	if err == nil {
		err = s.conn.Exec(ctx, fmt.Sprintf("INSERT INTO progress (topic, `partition`, `offset`, watermark, owner, updated_at) "+
			"SELECT topic, `partition`, `offset`, watermark, %d, updated_at FROM progress FINAL WHERE %s AND owner < %[1]d", ownerMillis, in(parts)))
	}
	if err != nil {
		return s.explain(err)
	}
	return nil
}

func insertAll[R any](ctx context.Context, s *Store, t *table[R], rows []R) error {
	t.reset()
	for i := range rows {
		t.add(&rows[i])
	}
	if err := t.send(ctx, s); err != nil {
		return classify(s.explain(err))
	}
	return nil
}

// insertSettings are what every insert says explicitly, because servers differ
// in their defaults: an acknowledged insert is on disk and not in a queue, no
// insert is taken for the repetition of another, and rows of many months (a
// backfill, a wrong clock) may come in one insert.
var insertSettings = clickhouse.Settings{
	"async_insert":                    0,
	"insert_deduplicate":              0,
	"optimize_on_insert":              0,         // FINAL and merges replace rows; doing it at the insert as well doubles its cost
	"deduplicate_insert":              "disable", // 26.2 and later: overrides insert_deduplicate
	"max_partitions_per_insert_block": 0,
	"distributed_foreground_insert":   1, // on a cluster: acknowledged when the shards have it
}

// insertSettingNames is the list of them for SQL.
func insertSettingNames() string {
	var names []string
	for name := range insertSettings {
		names = append(names, quote(name))
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// inserting returns ctx with those of them that the server knows, since it
// refuses others.
func (s *Store) inserting(ctx context.Context) (context.Context, error) {
	s.settling.Lock()
	defer s.settling.Unlock()
	if s.insert != nil {
		return clickhouse.Context(ctx, clickhouse.WithSettings(s.insert)), nil
	}
	rows, err := s.conn.Query(ctx, "SELECT name FROM system.settings WHERE name IN ("+insertSettingNames()+")")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	known := clickhouse.Settings{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		known[name] = insertSettings[name]
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	s.insert = known
	return clickhouse.Context(ctx, clickhouse.WithSettings(known)), nil
}
