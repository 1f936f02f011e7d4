package ingest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// SharedOptions configures [NewShared]. Cluster and Topic are required.
type SharedOptions struct {
	Cluster
	Topic string
	// Partitions of the topic when it is made, 6; Retention is for how long what
	// was told stays, 24 h: longer than what is told may wait to be kept.
	Partitions int32
	Retention  time.Duration
	// Marks is how often [Shared.Mark] is called, 5 s.
	Marks time.Duration
}

// Told is something that another instance said.
type Told struct {
	Kind  byte
	Value []byte
}

// Shared is a compacted topic in which instances tell each other what they
// have found out. Everyone hears what the others tell, and leaves out what it
// said itself. What is kept elsewhere too need not be heard of whoever begins:
// each instance marks up to when all that it told is kept, and hearing begins
// at the earliest of the marks.
//
// Tell, Hear, Flush and CatchUp may be called from several goroutines.
type Shared struct {
	opts   SharedOptions
	me     []byte
	client *kgo.Client
	from   time.Time // all is heard that was told since; what was told before is kept, as the marks say
	heard  chan []Told
	failed atomic.Pointer[error]
	given  atomic.Int64 // how often something was handed to heard,
	taken  atomic.Int64 // and how often Hear has returned it
	mu     sync.Mutex
	next   map[int32]int64 // how far each partition was read and handed over; guarded by mu
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

// The headers of a message.
const (
	headerFrom = "from"
	headerKind = "kind"
)

// kindMark is the kind of a mark, whose value is a time in Unix milliseconds.
const kindMark = '='

// How far back hearing begins: an instance from which no mark has come for so
// many of them is gone, and who goes on with its records tells them again. As
// the times are those of several machines' clocks, some more is heard.
const (
	marksMissed = 12
	clockSkew   = time.Minute
)

// NewShared makes the topic if it is missing, and begins to read it. It fails
// when no broker answers within the start timeout, or when the topic can be
// neither found nor made.
func NewShared(ctx context.Context, opts SharedOptions) (*Shared, error) {
	if opts.Partitions <= 0 {
		opts.Partitions = 6
	}
	if opts.Retention <= 0 {
		opts.Retention = 24 * time.Hour
	}
	if opts.Marks <= 0 {
		opts.Marks = 5 * time.Second
	}
	s := &Shared{opts: opts, me: []byte(rand.Text()), heard: make(chan []Told, 4), next: map[int32]int64{}}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	base, err := opts.options()
	if err != nil {
		return nil, err
	}
	s.client, err = kgo.NewClient(append(base,
		kgo.ConsumeTopics(opts.Topic), kgo.ConsumeStartOffset(kgo.NewOffset().AfterMilli(s.from.UnixMilli())),
		kgo.FetchMaxWait(500*time.Millisecond), kgo.FetchMaxBytes(8<<20),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerBatchMaxBytes(MaxRecordBytes), kgo.MaxBufferedRecords(1_000_000), kgo.MaxBufferedBytes(64<<20),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.ProducerLinger(5*time.Millisecond),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
	)...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	reading, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.wg.Go(func() { s.read(reading) })
	return s, nil
}

// open makes the topic if need be, and finds out where to begin.
func (s *Shared) open(ctx context.Context) error {
	base, err := s.opts.options()
	if err != nil {
		return err
	}
	lately := time.Now().Add(-marksMissed * s.opts.Marks)
	client, err := kgo.NewClient(append(base, kgo.ConsumeTopics(s.opts.Topic), kgo.ConsumeStartOffset(kgo.NewOffset().AfterMilli(lately.UnixMilli())),
		kgo.FetchMaxWait(100*time.Millisecond), kgo.FetchMaxBytes(8<<20))...)
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	defer client.Close()
	if err := s.opts.check(ctx, client); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.startTimeout())
	defer cancel()
	adm := kadm.NewClient(client)
	_, err = adm.CreateTopic(ctx, s.opts.Partitions, -1, map[string]*string{
		"cleanup.policy": kadm.StringPtr("compact,delete"), "retention.ms": kadm.StringPtr(fmt.Sprint(s.opts.Retention.Milliseconds())),
		"max.message.bytes": kadm.StringPtr(fmt.Sprint(MaxRecordBytes + 64<<10)),
	}, s.opts.Topic)
	exists := errors.Is(err, kerr.TopicAlreadyExists)
	for { // the brokers tell of it a moment later
		ends, listed := adm.ListEndOffsets(ctx, s.opts.Topic)
		if listed == nil {
			listed = ends.Error()
		}
		if listed == nil && len(ends[s.opts.Topic]) > 0 {
			s.from, err = s.marks(ctx, client, adm, lately, ends)
			return err
		}
		if err != nil && !exists { // not made, and not there
			return fmt.Errorf("kafka: topic %s, in which instances share what they know, can be neither found nor made: %w; make it with cleanup.policy=compact,delete, or check CATENA_SHARE_TOPIC", s.opts.Topic, err)
		}
		if !pause(ctx, 100*time.Millisecond) {
			return fmt.Errorf("kafka: topic %s does not appear: %w", s.opts.Topic, errors.Join(listed, ctx.Err()))
		}
	}
}

// marks returns the earliest time that the last mark of an instance names, of
// those from which one has come lately, but for the skew of clocks.
func (s *Shared) marks(ctx context.Context, client *kgo.Client, adm *kadm.Client, lately time.Time, ends kadm.ListedOffsets) (time.Time, error) {
	next := map[int32]int64{}
	starts, err := adm.ListOffsetsAfterMilli(ctx, lately.UnixMilli(), s.opts.Topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("kafka: topic %s: %w", s.opts.Topic, err)
	}
	starts.Each(func(o kadm.ListedOffset) { next[o.Partition] = o.Offset })
	behind := func() (n int) {
		ends.Each(func(o kadm.ListedOffset) {
			if next[o.Partition] < o.Offset {
				n++
			}
		})
		return n
	}
	last := map[string]int64{}
	for behind() > 0 {
		fetches := client.PollRecords(ctx, 10_000)
		if ctx.Err() != nil {
			return time.Time{}, fmt.Errorf("kafka: topic %s cannot be read to its end: %w", s.opts.Topic, errors.Join(ctx.Err(), fetches.Err()))
		}
		fetches.EachRecord(func(r *kgo.Record) {
			next[r.Partition] = r.Offset + 1
			if from, kind := headers(r); kind == kindMark && len(r.Value) == 8 {
				last[string(from)] = int64(binary.BigEndian.Uint64(r.Value))
			}
		})
	}
	from := lately.UnixMilli()
	for _, at := range last {
		from = min(from, at)
	}
	return time.UnixMilli(from).Add(-clockSkew), nil
}

// Mark says that all that we told before a time is kept. It does not wait, and
// is called every [SharedOptions.Marks].
func (s *Shared) Mark(ctx context.Context, kept time.Time) {
	s.Tell(ctx, kindMark, append([]byte{kindMark}, s.me...), binary.BigEndian.AppendUint64(nil, uint64(kept.UnixMilli())))
}

// Tell says something to the other instances, without waiting. A later message
// of the same key stands for an earlier one. The bytes must not change before
// Flush. It waits only while too much is unacknowledged.
func (s *Shared) Tell(ctx context.Context, kind byte, key, value []byte) {
	r := &kgo.Record{Topic: s.opts.Topic, Key: key, Value: value,
		Headers: []kgo.RecordHeader{{Key: headerFrom, Value: s.me}, {Key: headerKind, Value: []byte{kind}}}}
	s.client.Produce(ctx, r, func(_ *kgo.Record, err error) {
		if err != nil {
			err = fmt.Errorf("kafka: topic %s: %w", s.opts.Topic, err)
			s.failed.CompareAndSwap(nil, &err)
		}
	})
}

// Flush returns when all that was told before is acknowledged. An error stays:
// something was lost, and offsets that rest on it must not be committed.
func (s *Shared) Flush(ctx context.Context) error {
	err := s.client.Flush(ctx)
	if failed := s.failed.Load(); failed != nil {
		return *failed
	}
	if err != nil {
		return fmt.Errorf("kafka: topic %s: %w", s.opts.Topic, err)
	}
	return nil
}

// Hear returns what others have said since the last call, as far as it has
// come; nil if nothing has.
func (s *Shared) Hear() []Told {
	select {
	case told := <-s.heard:
		s.taken.Add(1)
		return told
	default:
		return nil
	}
}

// CatchUp returns when Hear has returned all that stood in the topic when
// CatchUp was called.
func (s *Shared) CatchUp(ctx context.Context) error {
	adm := kadm.NewClient(s.client)
	ends, err := adm.ListEndOffsets(ctx, s.opts.Topic)
	if err == nil {
		err = ends.Error()
	}
	var starts kadm.ListedOffsets
	if err == nil {
		starts, err = adm.ListOffsetsAfterMilli(ctx, s.from.UnixMilli(), s.opts.Topic)
	}
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return fmt.Errorf("kafka: topic %s: %w", s.opts.Topic, err)
	}
	read := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		all := true
		ends.Each(func(o kadm.ListedOffset) {
			first, _ := starts.Lookup(o.Topic, o.Partition)
			all = all && max(s.next[o.Partition], first.Offset) >= o.Offset
		})
		return all
	}
	for !read() {
		if !pause(ctx, 5*time.Millisecond) {
			return ctx.Err()
		}
	}
	for given := s.given.Load(); s.taken.Load() < given; {
		if !pause(ctx, 5*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil
}

// read hands over what others say until ctx ends.
func (s *Shared) read(ctx context.Context) {
	failing := false
	for ctx.Err() == nil {
		fetches := s.client.PollRecords(ctx, 5000)
		if fetches.IsClientClosed() || ctx.Err() != nil {
			return
		}
		var told []Told
		fetches.EachRecord(func(r *kgo.Record) {
			if t, ok := s.message(r); ok {
				told = append(told, t)
			}
		})
		err := fetches.Err()
		switch {
		case err != nil && !failing:
			s.opts.logger().Warn("cannot hear what other instances say, trying on", "topic", s.opts.Topic, "error", err)
		case err == nil && failing && fetches.NumRecords() > 0:
			s.opts.logger().Info("hearing other instances again", "topic", s.opts.Topic)
		}
		if err != nil || fetches.NumRecords() > 0 {
			failing = err != nil
		}
		if err != nil && !pause(ctx, time.Second) {
			return
		}
		if len(told) > 0 {
			select {
			case s.heard <- told:
				s.given.Add(1)
			case <-ctx.Done():
				return
			}
		}
		s.note(fetches)
	}
}

func (s *Shared) message(r *kgo.Record) (t Told, ok bool) {
	from, kind := headers(r)
	return Told{kind, r.Value}, kind != 0 && kind != kindMark && r.Value != nil && string(from) != string(s.me)
}

func headers(r *kgo.Record) (from []byte, kind byte) {
	for _, h := range r.Headers {
		switch {
		case h.Key == headerFrom:
			from = h.Value
		case h.Key == headerKind && len(h.Value) == 1:
			kind = h.Value[0]
		}
	}
	return from, kind
}

// note says how far each partition has been read.
func (s *Shared) note(fetches kgo.Fetches) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if n := len(p.Records); n > 0 {
			s.next[p.Partition] = p.Records[n-1].Offset + 1
		}
	})
}

// Close stops reading and hangs up; Flush first.
func (s *Shared) Close() {
	s.stop()
	s.client.Close()
	s.wg.Wait()
}

// Members is how many instances the consumer's group has, ours included, as
// far as the broker tells.
func (c *Consumer) Members(ctx context.Context) (int, error) {
	cl := c.client.Load()
	if cl == nil {
		return 0, nil
	}
	adm := kadm.NewClient(cl)
	if c.opts.Protocol == "consumer" {
		groups, err := adm.DescribeConsumerGroups(ctx, c.opts.Group)
		if err != nil {
			return 0, fmt.Errorf("kafka: group %s: %w", c.opts.Group, err)
		}
		return len(groups[c.opts.Group].Members), nil
	}
	groups, err := adm.DescribeGroups(ctx, c.opts.Group)
	if err != nil {
		return 0, fmt.Errorf("kafka: group %s: %w", c.opts.Group, err)
	}
	return len(groups[c.opts.Group].Members), nil
}
