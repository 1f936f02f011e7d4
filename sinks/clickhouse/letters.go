package clickhouse

import (
	"context"
	"fmt"
	"strings"

	"catena/schemas"
)

// Letters says which dead letters are meant. The zero Letters are all.
type Letters struct {
	Topic      string
	Partition  int32 // -1, or 0 without Offset: any
	Offset     int64 // -1: any
	Reason     string
	SinceNanos int64 // arrived at or after
	// Open leaves out those whose record has since become an action: at the same
	// place, read again, or at another where it is no dead letter.
	Open bool
}

// AllLetters are those of a topic, or of all if it is empty.
func AllLetters(topic string) Letters { return Letters{Topic: topic, Partition: -1, Offset: -1} }

func (l Letters) where() string {
	conditions := []string{"1"}
	if l.Topic != "" {
		conditions = append(conditions, "topic = "+quote(l.Topic))
	}
	if l.Partition >= 0 {
		conditions = append(conditions, fmt.Sprintf("partition = %d", l.Partition))
	}
	if l.Offset >= 0 {
		conditions = append(conditions, fmt.Sprintf("offset = %d", l.Offset))
	}
	if l.Reason != "" {
		conditions = append(conditions, "reason = "+quote(l.Reason))
	}
	if l.SinceNanos != 0 {
		conditions = append(conditions, fmt.Sprintf("ingested_at >= fromUnixTimestamp64Micro(%d, 'UTC')", toMicros(l.SinceNanos)))
	}
	if l.Open {
		conditions = append(conditions, "NOT ("+mendedLetter+")")
	}
	return strings.Join(conditions, " AND ")
}

// mendedLetter holds for letters whose record has become an action since. A
// record's other items say nothing of the one at fault, so elsewhere counts
// only where no letter is.
const mendedLetter = `(topic, partition, offset, record_index) IN (
		SELECT topic, partition, offset, record_index FROM actions FINAL WHERE (topic, partition, offset) IN (SELECT topic, partition, offset FROM dead_letters))
	OR (raw_sha256 != '' AND raw_sha256 IN (
		SELECT raw_sha256 FROM actions FINAL WHERE raw_sha256 IN (SELECT raw_sha256 FROM dead_letters) AND (topic, partition, offset) NOT IN (SELECT topic, partition, offset FROM dead_letters)))`

// LetterCount is one line of the histogram of dead letters.
type LetterCount struct {
	Topic, Reason           string
	Letters, Mended         int64 // Mended of them have become actions since
	FirstMicros, LastMicros int64 // arrival
	Partition               int32 // of an example, the newest
	Offset                  int64
	Error                   string // its error
}

// CountLetters groups letters by topic and reason, the most first.
func (s *Store) CountLetters(ctx context.Context, which Letters) ([]LetterCount, error) {
	var c LetterCount
	var all []LetterCount
	fields := []field{
		{"topic", &c.Topic}, {"reason", &c.Reason}, {"toInt64(count()) AS letters", &c.Letters}, {"toInt64(countIf(mended)) AS mends", &c.Mended},
		{"toUnixTimestamp64Micro(min(ingested_at))", &c.FirstMicros}, {"toUnixTimestamp64Micro(max(ingested_at))", &c.LastMicros},
		{"argMax(partition, (ingested_at, offset))", &c.Partition}, {"argMax(offset, (ingested_at, offset))", &c.Offset}, {"argMax(error, (ingested_at, offset))", &c.Error},
	}
	from := "FROM (SELECT *, " + mendedLetter + " AS mended FROM dead_letters FINAL WHERE " + which.where() + ") GROUP BY topic, reason ORDER BY letters DESC, topic, reason"
	err := load(ctx, s, fields, from, func() error { all = append(all, c); return nil })
	return all, err
}

// EachLetter calls fn with the letters in the order of their places, at most
// limit of them (zero: all), until fn returns an error. The letter is fn's.
func (s *Store) EachLetter(ctx context.Context, which Letters, limit int, fn func(*schemas.DeadLetter) error) error {
	from := "FROM dead_letters FINAL WHERE " + which.where() + " ORDER BY topic, partition, offset, record_index"
	if limit > 0 {
		from += fmt.Sprintf(" LIMIT %d", limit)
	}
	return s.loadLetters(ctx, from, fn)
}

// SameRecord counts how many dead letters there are of a record with this hash.
func (s *Store) SameRecord(ctx context.Context, hash [32]byte) (int, error) {
	var n uint64
	err := load(ctx, s, []field{{"uniqExact(topic, partition, offset)", &n}}, fmt.Sprintf("FROM dead_letters WHERE raw_sha256 = '%x'", hash), func() error { return nil })
	return int(n), err
}
