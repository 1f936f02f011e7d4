package ingest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// LogRange is what a broker has of a partition: offsets From <= offset < To,
// as far as committed transactions go.
type LogRange struct{ From, To int64 }

// LogRanges returns what the brokers have of the topics' partitions. Topics
// that do not exist are left out.
func LogRanges(ctx context.Context, c Cluster, topics ...string) (map[Partition]LogRange, error) {
	admin, err := c.admin(ctx)
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	return logRanges(ctx, admin, topics)
}

func logRanges(ctx context.Context, admin *kadm.Client, topics []string) (map[Partition]LogRange, error) {
	ranges := map[Partition]LogRange{}
	if len(topics) == 0 {
		return ranges, nil // the client would take it for all
	}
	starts, err := admin.ListStartOffsets(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("kafka: starts of the logs: %w", err)
	}
	ends, err := admin.ListCommittedOffsets(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("kafka: ends of the logs: %w", err)
	}
	err = nil
	starts.Each(func(o kadm.ListedOffset) {
		end, ok := ends.Lookup(o.Topic, o.Partition)
		switch {
		case errors.Is(o.Err, kerr.UnknownTopicOrPartition) || !ok:
		case o.Err != nil || end.Err != nil:
			err = fmt.Errorf("kafka: topic %s partition %d: %w", o.Topic, o.Partition, errors.Join(o.Err, end.Err))
		default:
			ranges[Partition{o.Topic, o.Partition}] = LogRange{o.Offset, end.Offset}
		}
	})
	return ranges, err
}

// LogRangesAt narrows ranges to the records that arrived between two times;
// a zero time is no bound.
func LogRangesAt(ctx context.Context, c Cluster, ranges map[Partition]LogRange, since, until time.Time) (map[Partition]LogRange, error) {
	admin, err := c.admin(ctx)
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	topics := map[string]bool{}
	narrowed := map[Partition]LogRange{}
	for p, r := range ranges {
		topics[p.Topic], narrowed[p] = true, r
	}
	var names []string
	for t := range topics {
		names = append(names, t)
	}
	bound := func(at time.Time, set func(*LogRange, int64)) error {
		if at.IsZero() || len(names) == 0 {
			return nil
		}
		listed, err := admin.ListOffsetsAfterMilli(ctx, at.UnixMilli(), names...)
		if err != nil {
			return fmt.Errorf("kafka: offsets at %s: %w", at.Format(time.RFC3339), err)
		}
		for p, r := range narrowed {
			o, ok := listed.Lookup(p.Topic, p.Partition)
			if !ok || o.Err != nil {
				return fmt.Errorf("kafka: topic %s partition %d: offset at %s: %w", p.Topic, p.Partition, at.Format(time.RFC3339), o.Err)
			}
			set(&r, o.Offset)
			narrowed[p] = r
		}
		return nil
	}
	if err := bound(since, func(r *LogRange, o int64) { r.From = max(r.From, o) }); err != nil {
		return nil, err
	}
	err = bound(until, func(r *LogRange, o int64) { r.To = min(r.To, o) })
	return narrowed, err
}
