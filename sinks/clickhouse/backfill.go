package clickhouse

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"catena/schemas"
)

// Cursor is how far a backfill has come in a partition.
type Cursor struct {
	Range
	Next int64 // offset to read next; To when it is done
}

// SaveBackfill writes how far a backfill has come.
func (s *Store) SaveBackfill(ctx context.Context, name string, cursors []Cursor) error {
	if len(cursors) == 0 {
		return nil
	}
	rows := make([]string, len(cursors))
	for i, c := range cursors {
		rows[i] = fmt.Sprintf("(%s, %s, %d, %d, %d, %d)", quote(name), quote(c.Topic), c.Partition, c.From, c.To, c.Next)
	}
	if err := s.conn.Exec(ctx, "INSERT INTO backfills (name, topic, `partition`, `from`, `to`, `next`) VALUES "+strings.Join(rows, ", ")); err != nil {
		return s.explain(err)
	}
	return nil
}

// LoadBackfill returns how far a backfill has come; nothing if there was none
// of that name.
func (s *Store) LoadBackfill(ctx context.Context, name string) ([]Cursor, error) {
	var c Cursor
	var all []Cursor
	fields := []field{{"topic", &c.Topic}, {"partition", &c.Partition}, {"`from`", &c.From}, {"`to`", &c.To}, {"`next`", &c.Next}}
	err := load(ctx, s, fields, "FROM backfills FINAL WHERE name = "+quote(name)+" ORDER BY topic, partition", func() error {
		all = append(all, c)
		return nil
	})
	return all, err
}

// Watermark is the event time before which no record is expected any more by
// those who read, in nanoseconds; the highest number if nobody ever did.
func (s *Store) Watermark(ctx context.Context) (int64, error) {
	var nanos int64
	var partitions uint64
	err := load(ctx, s, []field{{nanosOf("final_before"), &nanos}, {"partitions", &partitions}}, "FROM finality", func() error { return nil })
	if err == nil && partitions == 0 {
		nanos = math.MaxInt64
	}
	return nanos, err
}

// maxDriven bounds the steps that DrivenBy goes down.
const maxDriven = 8

// DrivenBy returns keys that are driven by the given ones, through up to eight
// bindings and without these themselves, at most limit of them.
func (s *Store) DrivenBy(ctx context.Context, keys []schemas.Key, limit int) ([]schemas.Key, error) {
	seen := make(map[schemas.Key]bool, len(keys))
	for _, k := range keys {
		seen[k] = true
	}
	var driven []schemas.Key
	for step := 0; step < maxDriven && len(keys) > 0 && len(driven) < limit; step++ {
		var below []schemas.Key
		for part := range slices.Chunk(keys, lookupKeys) {
			quoted := make([]string, len(part))
			for i, k := range part {
				quoted[i] = quote(k.String())
			}
			var child string
			from := fmt.Sprintf("FROM bindings WHERE parent IN (%s) LIMIT %d", strings.Join(quoted, ", "), limit)
			err := load(ctx, s, []field{{"DISTINCT child", &child}}, from, func() error {
				var w words
				if k := w.key("child", child); w.err == nil && !seen[k] {
					seen[k] = true
					below = append(below, k)
				}
				return w.err
			})
			if err != nil {
				return nil, err
			}
		}
		driven, keys = append(driven, below...), below
	}
	return driven[:min(len(driven), limit)], nil
}
