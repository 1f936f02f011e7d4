package ingest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"catena/schemas"
)

// ProducerOptions configures [NewProducer]. Zero values mean the defaults.
type ProducerOptions struct {
	Cluster

	// RoundRobin spreads records evenly over the partitions. Otherwise records
	// with the same key go to the same partition, as Kafka's own client would
	// place them, and those without a key stick to a partition for a batch.
	RoundRobin bool
	// MaxMessageBytes bounds a batch, and so a record, 16 MiB. The topic has to
	// allow it: [Producer.EnsureTopic] says so to those it creates.
	MaxMessageBytes int32
	Compression     string        // none, gzip, snappy, lz4 or zstd; lz4 if empty
	Linger          time.Duration // how long a batch waits for more, 5 ms; negative is not at all
	// MaxBufferedBytes bounds what is not acknowledged yet, 64 MiB and at least
	// MaxMessageBytes; Produce waits beyond it.
	MaxBufferedBytes int

	// OnProgress is told at most once each ProgressEvery (1 s) while records
	// are acknowledged, and at the end of Flush. It must not call the producer.
	OnProgress    func(Progress)
	ProgressEvery time.Duration
}

// Progress is what became of the records so far.
type Progress struct {
	Records, Bytes int64 // acknowledged; bytes of keys and values
	Failed         int64
}

// Producer writes records to topics, idempotently and with all replicas'
// acknowledgement: a retry writes nothing twice, and records of one partition
// stay in order.
type Producer struct {
	opts   ProducerOptions
	client *kgo.Client
	admin  *kadm.Client

	mu       sync.Mutex
	progress Progress
	told     time.Time
	err      error // the first
}

// NewProducer checks that a broker answers within the start timeout.
func NewProducer(ctx context.Context, opts ProducerOptions) (*Producer, error) {
	if opts.MaxMessageBytes <= 0 {
		opts.MaxMessageBytes = MaxRecordBytes
	}
	if opts.MaxBufferedBytes <= 0 {
		opts.MaxBufferedBytes = 64 << 20
	}
	opts.MaxBufferedBytes = max(opts.MaxBufferedBytes, int(opts.MaxMessageBytes))
	if opts.ProgressEvery <= 0 {
		opts.ProgressEvery = time.Second
	}
	if opts.Linger == 0 {
		opts.Linger = 5 * time.Millisecond
	}
	base, err := opts.options()
	if err != nil {
		return nil, err
	}
	codec, err := codec(opts.Compression)
	if err != nil {
		return nil, err
	}
	partitioner := kgo.StickyKeyPartitioner(nil)
	if opts.RoundRobin {
		partitioner = kgo.RoundRobinPartitioner()
	}
	client, err := kgo.NewClient(append(base,
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchMaxBytes(opts.MaxMessageBytes),
		kgo.BrokerMaxWriteBytes(max(100<<20, 2*opts.MaxMessageBytes)),
		kgo.MaxBufferedBytes(opts.MaxBufferedBytes),
		kgo.MaxBufferedRecords(1_000_000), // the bytes bound it
		kgo.ProducerBatchCompression(codec),
		kgo.ProducerLinger(max(0, opts.Linger)),
		kgo.RecordPartitioner(partitioner),
		kgo.UnknownTopicRetries(5),
		kgo.MetadataMinAge(250*time.Millisecond), // a topic that was just created is to be seen soon
	)...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	if err := opts.check(ctx, client); err != nil {
		client.Close()
		return nil, err
	}
	return &Producer{opts: opts, client: client, admin: kadm.NewClient(client)}, nil
}

func codec(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "", "lz4":
		return kgo.Lz4Compression(), nil
	case "none":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	}
	return kgo.CompressionCodec{}, fmt.Errorf("kafka: compression %q is none of none, gzip, snappy, lz4, zstd", name)
}

// EnsureTopic creates the topic if it is missing, with this many partitions
// (0: the brokers' default), the brokers' replication, and room for messages of
// MaxMessageBytes. An existing topic is left as it is. Config overrides the
// settings of a new topic, by Kafka's names, such as cleanup.policy.
func (p *Producer) EnsureTopic(ctx context.Context, topic string, partitions int32, config map[string]string) (created bool, err error) {
	if partitions <= 0 {
		partitions = -1
	}
	settings := map[string]*string{
		// A little above the batch, whose size we bound before compression.
		"max.message.bytes": kadm.StringPtr(strconv.Itoa(int(p.opts.MaxMessageBytes) + 64<<10)),
	}
	for k, v := range config {
		settings[k] = kadm.StringPtr(v)
	}
	_, err = p.admin.CreateTopic(ctx, partitions, -1, settings, topic)
	switch {
	case errors.Is(err, kerr.TopicAlreadyExists):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("kafka: create topic %s: %w", topic, err)
	}
	return true, p.await(ctx, topic)
}

// await returns once the brokers tell of a topic that was just created.
func (p *Producer) await(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, p.opts.startTimeout())
	defer cancel()
	for {
		details, err := p.admin.ListTopics(ctx, topic)
		if err == nil {
			if d, ok := details[topic]; ok && d.Err == nil && len(d.Partitions) > 0 {
				return nil
			}
		}
		if !pause(ctx, 50*time.Millisecond) {
			return fmt.Errorf("kafka: topic %s was created but does not appear: %w", topic, ctx.Err())
		}
	}
}

// Produce sends a record to rec.Topic, without waiting for the acknowledgement;
// it waits only while too much is unacknowledged. A zero TimestampNanos means
// now; Kafka keeps milliseconds. Mind that brokers delete by timestamp: records
// with an old one may expire at once in a topic with retention.
//
// Partition and Offset are ignored. The record's bytes must not change before
// Flush. The error is ctx's, or that of an earlier record: what follows a lost
// record is not worth sending.
func (p *Producer) Produce(ctx context.Context, rec schemas.Record) error {
	if err := p.firstError(); err != nil {
		return err
	}
	r := &kgo.Record{Topic: rec.Topic, Key: rec.Key, Value: rec.Value}
	if rec.TimestampNanos != 0 {
		r.Timestamp = time.Unix(0, rec.TimestampNanos)
	}
	for _, h := range rec.Headers {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	if size := len(r.Key) + len(r.Value); size > int(p.opts.MaxMessageBytes) {
		return fmt.Errorf("kafka: record of %d bytes for topic %s is larger than the limit of %d", size, rec.Topic, p.opts.MaxMessageBytes)
	}
	p.client.Produce(ctx, r, p.acknowledged)
	return ctx.Err()
}

// acknowledged is called for each record, in order within a partition, one call
// at a time.
func (p *Producer) acknowledged(r *kgo.Record, err error) {
	p.mu.Lock()
	if err != nil {
		p.progress.Failed++
		if p.err == nil {
			p.err = p.explain(r, err)
		}
	} else {
		p.progress.Records++
		p.progress.Bytes += int64(len(r.Key) + len(r.Value))
	}
	now := time.Now()
	tell := p.opts.OnProgress != nil && now.Sub(p.told) >= p.opts.ProgressEvery
	if tell {
		p.told = now
	}
	progress := p.progress
	p.mu.Unlock()
	if tell {
		p.opts.OnProgress(progress)
	}
}

func (p *Producer) explain(r *kgo.Record, err error) error {
	switch {
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return fmt.Errorf("kafka: topic %s refuses a record of %d bytes: %w; raise the topic's max.message.bytes",
			r.Topic, len(r.Key)+len(r.Value), err)
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return fmt.Errorf("kafka: topic %s does not exist: %w", r.Topic, err)
	}
	return fmt.Errorf("kafka: topic %s: %w", r.Topic, err)
}

func (p *Producer) firstError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Flush returns when everything is acknowledged or has failed. The error is the
// first of any record since the producer was made, or ctx's.
func (p *Producer) Flush(ctx context.Context) error {
	err := p.client.Flush(ctx)
	if p.opts.OnProgress != nil {
		p.opts.OnProgress(p.Progress())
	}
	if first := p.firstError(); first != nil {
		return first
	}
	if err != nil {
		return fmt.Errorf("kafka: flush: %w", err)
	}
	return nil
}

// Progress returns what became of the records so far.
func (p *Producer) Progress() Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.progress
}

// Close drops what is not acknowledged, so Flush first, and hangs up.
func (p *Producer) Close() { p.client.Close() }
