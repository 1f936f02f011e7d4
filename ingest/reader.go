package ingest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"catena/schemas"
)

// Reader reads ranges of offsets without a consumer group: it owns nothing,
// commits nothing, and no group notices it.
type Reader struct {
	cluster Cluster
	client  *kgo.Client
	admin   *kadm.Client
	// Stall is how long a broker may give nothing of what it should have; 1 min
	// if zero.
	Stall time.Duration
}

// NewReader checks that a broker answers within the start timeout.
func NewReader(ctx context.Context, c Cluster) (*Reader, error) {
	opts, err := c.options()
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(append(opts,
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // so that the position gets past them
		kgo.FetchMaxBytes(8<<20),
		kgo.FetchMaxPartitionBytes(4<<20),
		kgo.BrokerMaxReadBytes(max(100<<20, 2*MaxRecordBytes)),
		kgo.MaxDecompressBatchBytes(128<<20),
		kgo.MetadataMinAge(250*time.Millisecond),
	)...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	if err := c.check(ctx, client); err != nil {
		client.Close()
		return nil, err
	}
	return &Reader{cluster: c, client: client, admin: kadm.NewClient(client)}, nil
}

// Close hangs up.
func (r *Reader) Close() { r.client.Close() }

// Ranges returns what the brokers have of the topics' partitions, as
// [LogRanges] does.
func (r *Reader) Ranges(ctx context.Context, topics ...string) (map[Partition]LogRange, error) {
	return logRanges(ctx, r.admin, topics)
}

// Read calls fn with the records of the ranges, some at a time, those of a
// partition in the order of its log, and with the offsets within the ranges
// that no record comes for. It returns when all ranges have been read, with
// fn's error, or with that of a partition that cannot be read. The records'
// bytes belong to fn.
func (r *Reader) Read(ctx context.Context, ranges map[Partition]LogRange, maxRecords int, fn func([]schemas.Record, []Gap) error) error {
	next := map[Partition]int64{}
	from := map[string]map[int32]kgo.Offset{}
	for p, rg := range ranges {
		if rg.From >= rg.To {
			continue
		}
		if from[p.Topic] == nil {
			from[p.Topic] = map[int32]kgo.Offset{}
		}
		from[p.Topic][p.Partition] = kgo.NewOffset().At(rg.From)
		next[p] = rg.From
	}
	r.client.AddConsumePartitions(from)
	defer func() {
		for p := range next {
			r.client.RemoveConsumePartitions(map[string][]int32{p.Topic: {p.Partition}})
		}
	}()
	stall := r.Stall
	if stall <= 0 {
		stall = time.Minute
	}
	var records []schemas.Record
	var gaps []Gap
	for last := time.Now(); len(next) > 0; {
		pollCtx, cancel := context.WithTimeout(ctx, time.Second)
		fetches := r.client.PollRecords(pollCtx, maxRecords)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		records, gaps = records[:0], gaps[:0]
		var err error
		fetches.EachPartition(func(t kgo.FetchTopicPartition) {
			p := Partition{t.Topic, t.Partition}
			at, wanted := next[p]
			if !wanted {
				return
			}
			if t.Err != nil && err == nil && !errors.Is(t.Err, context.DeadlineExceeded) {
				err = fmt.Errorf("kafka: topic %s partition %d from offset %d: %w", p.Topic, p.Partition, at, t.Err)
			}
			to := ranges[p].To
			for _, rec := range t.Records {
				if rec.Offset >= to {
					if at < to {
						gaps = append(gaps, Gap{Partition: p, From: at, Next: to, Expired: to <= t.LogStartOffset})
					}
					at = to
					break
				}
				if rec.Offset > at {
					gaps = append(gaps, Gap{Partition: p, From: at, Next: rec.Offset, Expired: rec.Offset <= t.LogStartOffset})
				}
				if rec.Attrs.IsControl() {
					gaps = append(gaps, Gap{Partition: p, From: rec.Offset, Next: rec.Offset + 1})
				} else {
					records = append(records, plainRecord(rec))
				}
				at = rec.Offset + 1
			}
			if next[p] = at; at >= to {
				delete(next, p)
				r.client.RemoveConsumePartitions(map[string][]int32{p.Topic: {p.Partition}})
			}
		})
		if len(records)+len(gaps) > 0 {
			last = time.Now()
			if err := fn(records, gaps); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		if time.Since(last) > stall {
			for p, at := range next {
				return fmt.Errorf("kafka: topic %s partition %d gives no record from offset %d on, up to %d, for %s", p.Topic, p.Partition, at, ranges[p].To, stall)
			}
		}
	}
	return nil
}

func plainRecord(r *kgo.Record) schemas.Record {
	rec := schemas.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value, TimestampNanos: r.Timestamp.UnixNano()}
	for _, h := range r.Headers {
		rec.Headers = append(rec.Headers, schemas.Header{Key: h.Key, Value: h.Value})
	}
	return rec
}
