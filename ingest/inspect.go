package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"catena/schemas"
)

// Inspection is what a cluster says of itself and of a group's topics. Asking
// for it changes nothing: no group is joined and nothing is committed.
type Inspection struct {
	Brokers []string // host:port, as the cluster tells clients to connect
	Cluster string   // its id
	Topics  []TopicState
	Missing []string // topics, or patterns that match none

	// Group is the state of the consumer group in the brokers' words, Members how
	// many it has. GroupFault is why it cannot be used.
	Group      string
	Members    int
	GroupFault error
}

// TopicState is one topic as the group would find it.
type TopicState struct {
	Topic      string
	Partitions int
	Leaderless []int32 // partitions nobody leads: they cannot be read
	Records    int64   // between the first and the last offset
	// Lag is how many of them the group has not read, -1 if it never committed
	// anything. Overtaken counts offsets that retention deleted before the group
	// read them.
	Lag, Overtaken int64
	OldestUnread   time.Time     // when the oldest record that the group has not read was written; zero if unknown
	Retention      time.Duration // 0: unknown; negative: kept for ever
	Compacted      bool
	Newest         []schemas.Record // the newest record of some partitions
	Fault          error            // why the topic cannot be read
}

// maxSamples bounds the partitions of a topic that are looked into.
const maxSamples = 8

// Inspect asks the cluster about the topics, or patterns of topics, of a group.
func Inspect(ctx context.Context, o ConsumerOptions) (*Inspection, error) {
	adm, err := o.admin(ctx)
	if err != nil {
		return nil, err
	}
	defer adm.Close()
	ctx = kadm.WithAuthorizedOps(ctx)
	meta, err := adm.BrokerMetadata(ctx)
	if err != nil {
		return nil, fmt.Errorf("kafka: brokers: %w", err)
	}
	in := &Inspection{Cluster: meta.Cluster}
	for _, b := range meta.Brokers {
		in.Brokers = append(in.Brokers, fmt.Sprintf("%s:%d", b.Host, b.Port))
	}
	details, err := o.topics(ctx, adm)
	if err != nil {
		return nil, err
	}
	if in.Missing, err = o.absent(details); err != nil {
		return nil, err
	}
	committed := in.group(ctx, adm, o.Group)
	names := details.Names()
	starts, _ := adm.ListStartOffsets(ctx, names...) // each offset has its own error
	ends, _ := adm.ListEndOffsets(ctx, names...)
	configs, _ := adm.DescribeTopicConfigs(ctx, names...)
	for _, d := range details.Sorted() {
		in.Topics = append(in.Topics, inspectTopic(d, starts[d.Topic], ends[d.Topic], committed[d.Topic], configs))
	}
	return in, o.sample(ctx, in, starts, ends, committed)
}

// topics returns the topics that exist of those that are asked for.
func (o *ConsumerOptions) topics(ctx context.Context, adm *kadm.Client) (kadm.TopicDetails, error) {
	var ask []string
	if !o.Regex {
		ask = o.Topics
	}
	details, err := adm.ListTopics(ctx, ask...)
	if err != nil {
		return nil, fmt.Errorf("kafka: list topics: %w", err)
	}
	include, err := anchored(o.Topics)
	if err != nil {
		return nil, err
	}
	exclude, err := anchored(o.Exclude)
	if err != nil {
		return nil, err
	}
	for name, d := range details {
		if errors.Is(d.Err, kerr.UnknownTopicOrPartition) || o.Regex && (!matches(include, name) || matches(exclude, name)) {
			delete(details, name)
		}
	}
	return details, nil
}

// absent returns the topics, or the patterns, that nothing was found for. A
// topic that may not be seen is not absent: its fault says so.
func (o *ConsumerOptions) absent(details kadm.TopicDetails) (missing []string, err error) {
	for _, name := range o.Topics {
		there := details.Has(name)
		if o.Regex {
			pattern, err := anchored([]string{name})
			if err != nil {
				return nil, err
			}
			there = slices.ContainsFunc(details.Names(), func(topic string) bool { return matches(pattern, topic) })
		}
		if !there {
			missing = append(missing, name)
		}
	}
	return missing, nil
}

// group asks for the group's state and returns its commit points.
func (in *Inspection) group(ctx context.Context, adm *kadm.Client, group string) kadm.OffsetResponses {
	if group == "" {
		return nil
	}
	committed, err := adm.FetchOffsets(ctx, group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		in.GroupFault = err
		return nil
	}
	described, err := adm.DescribeGroups(ctx, group)
	if err != nil {
		in.GroupFault = err
		return committed
	}
	d := described[group]
	in.Group, in.Members = d.State, len(d.Members)
	switch may := d.AuthorizedOperations; {
	case d.Err != nil && !errors.Is(d.Err, kerr.GroupIDNotFound):
		in.GroupFault = d.Err
	case !mayRead(may):
		in.GroupFault = errors.New("no right to Read the group, which joining and committing need")
	}
	return committed
}

// mayRead is true as well where the brokers do not tell.
func mayRead(may []kadm.ACLOperation) bool {
	return len(may) == 0 || slices.Contains(may, kmsg.ACLOperationRead) || slices.Contains(may, kmsg.ACLOperationAll)
}

func inspectTopic(d kadm.TopicDetail, starts, ends map[int32]kadm.ListedOffset, committed map[int32]kadm.OffsetResponse, configs kadm.ResourceConfigs) TopicState {
	t := TopicState{Topic: d.Topic, Partitions: len(d.Partitions), Lag: -1, Fault: d.Err}
	if d.Err == nil && !mayRead(d.AuthorizedOperations) {
		t.Fault = errors.New("no right to Read it")
	}
	for index, p := range d.Partitions {
		if p.Leader < 0 {
			t.Leaderless = append(t.Leaderless, index)
			continue
		}
		start, end := starts[index], ends[index]
		if err := errors.Join(start.Err, end.Err); err != nil {
			t.Fault = err
			continue
		}
		t.Records += end.Offset - start.Offset
		c, ok := committed[index]
		if !ok || c.Err != nil || c.At < 0 {
			continue
		}
		t.Lag = max(0, t.Lag) + max(0, end.Offset-c.At)
		t.Overtaken += max(0, start.Offset-c.At)
	}
	slices.Sort(t.Leaderless)
	if c, err := configs.On(d.Topic, nil); err == nil && c.Err == nil {
		for _, entry := range c.Configs {
			switch entry.Key {
			case "retention.ms":
				if ms, err := strconv.ParseInt(entry.MaybeValue(), 10, 64); err == nil {
					t.Retention = time.Duration(min(ms, int64(1<<62)/int64(time.Millisecond))) * time.Millisecond
				}
			case "cleanup.policy":
				t.Compacted = strings.Contains(entry.MaybeValue(), "compact")
			}
		}
	}
	return t
}

// sample reads the newest record of some partitions of each topic, and when
// the oldest unread one was written.
func (o *ConsumerOptions) sample(ctx context.Context, in *Inspection, starts, ends kadm.ListedOffsets, committed kadm.OffsetResponses) error {
	newest, oldest := map[string]map[int32]int64{}, map[string]map[int32]int64{}
	for i := range in.Topics {
		topic := in.Topics[i].Topic
		newest[topic], oldest[topic] = map[int32]int64{}, map[int32]int64{}
		for index, end := range ends[topic] {
			start := starts[topic][index]
			if start.Err != nil || end.Err != nil || end.Offset <= start.Offset || len(newest[topic]) >= maxSamples {
				continue
			}
			newest[topic][index] = end.Offset - 1
			if c, ok := committed[topic][index]; ok && c.Err == nil && c.At >= 0 && c.At < end.Offset {
				oldest[topic][index] = max(c.At, start.Offset)
			}
		}
	}
	latest, err := o.readAt(ctx, newest, starts)
	if err != nil {
		return err
	}
	unread, err := o.readAt(ctx, oldest, starts)
	if err != nil {
		return err
	}
	for i := range in.Topics {
		t := &in.Topics[i]
		t.Newest = latest.records[t.Topic]
		if fault := latest.faults[t.Topic]; fault != nil && t.Fault == nil {
			t.Fault = fault
		}
		for _, r := range unread.records[t.Topic] {
			if at := time.Unix(0, r.TimestampNanos); t.OldestUnread.IsZero() || at.Before(t.OldestUnread) {
				t.OldestUnread = at
			}
		}
	}
	return nil
}

// sampled is what [ConsumerOptions.readAt] found, by topic.
type sampled struct {
	records map[string][]schemas.Record
	faults  map[string]error
}

// readAt reads one record of each partition, at the offset or, where a marker
// of a transaction or nothing stands there, a little before. It waits for five
// seconds at most.
func (o *ConsumerOptions) readAt(ctx context.Context, at map[string]map[int32]int64, starts kadm.ListedOffsets) (sampled, error) {
	found := sampled{map[string][]schemas.Record{}, map[string]error{}}
	want, missing := map[string]map[int32]kgo.Offset{}, 0
	for topic, parts := range at {
		want[topic] = map[int32]kgo.Offset{}
		for index, offset := range parts {
			want[topic][index] = kgo.NewOffset().At(max(starts[topic][index].Offset, offset-16))
			missing++
		}
	}
	if missing == 0 {
		return found, nil
	}
	opts, err := o.Cluster.options()
	if err != nil {
		return found, err
	}
	client, err := kgo.NewClient(append(opts, kgo.ConsumePartitions(want), kgo.FetchMaxWait(250*time.Millisecond), kgo.FetchMaxPartitionBytes(1<<20))...)
	if err != nil {
		return found, fmt.Errorf("kafka: %w", err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	best := map[Partition]*kgo.Record{}
	done := map[Partition]bool{}
	for len(done) < missing {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			break
		}
		fetches.EachError(func(topic string, index int32, err error) {
			found.faults[topic], done[Partition{topic, index}] = err, true
		})
		fetches.EachRecord(func(r *kgo.Record) {
			p := Partition{r.Topic, r.Partition}
			if target := at[r.Topic][r.Partition]; best[p] == nil || r.Offset <= target {
				best[p] = r
				done[p] = done[p] || r.Offset >= target
			}
		})
	}
	for _, p := range sortPartitions(keysOf(best)) {
		r := best[p]
		found.records[p.Topic] = append(found.records[p.Topic], schemas.Record{Topic: p.Topic, Partition: p.Partition, Offset: r.Offset,
			Key: r.Key, Value: r.Value, TimestampNanos: r.Timestamp.UnixNano(), Headers: headersOf(r)})
	}
	return found, nil
}

func keysOf(m map[Partition]*kgo.Record) []Partition {
	all := make([]Partition, 0, len(m))
	for p := range m {
		all = append(all, p)
	}
	return all
}

func headersOf(r *kgo.Record) []schemas.Header {
	headers := make([]schemas.Header, len(r.Headers))
	for i, h := range r.Headers {
		headers[i] = schemas.Header{Key: h.Key, Value: h.Value}
	}
	return headers
}
