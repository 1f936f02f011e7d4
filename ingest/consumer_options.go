package ingest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Topics that do not exist when the consumer is made: [ConsumerOptions.Missing].
const (
	MissingFail  = ""      // an error that names them
	MissingWait  = "wait"  // wait for them, up to the start timeout
	MissingAllow = "allow" // start; they are read once they exist
)

// ConsumerOptions configures [NewConsumer]. Zero values mean the defaults.
type ConsumerOptions struct {
	Cluster

	Group  string
	Topics []string
	// Regex makes each of Topics a regular expression that has to match a whole
	// topic name; topics created later join within a minute. Exclude holds
	// expressions of names to leave out.
	Regex   bool
	Exclude []string
	Missing string // MissingFail, MissingWait or MissingAllow

	// Start is where a partition without a committed offset begins: "earliest"
	// (default), "latest" or a time as of RFC 3339. "latest" means from the
	// start of this process on, so that a partition added later is read whole.
	Start string

	// MaxPollRecords bounds the records of one Poll; 10,000.
	MaxPollRecords int
	// FetchMaxBytes bounds a response of a broker, as compressed, 8 MiB;
	// FetchMaxPartitionBytes the part of one partition in it, 1 MiB: what has come
	// is polled partition by partition, so the more of one, the longer the others
	// wait while there is a backlog. A batch larger than either is delivered all
	// the same, or reading would never get past it. One response of each broker
	// is buffered ahead, so the memory held outside Poll is about brokers ×
	// FetchMaxBytes × compression ratio.
	FetchMaxBytes, FetchMaxPartitionBytes int32
	// MaxBatchBytes bounds a batch after decompression, 128 MiB. A larger one
	// is unreadable: see OnUnreadable.
	MaxBatchBytes int
	Rack          string // read from the replica there, if the brokers allow it
	// Protocol is that of the group: "classic" (default), or "consumer" for the
	// one of Kafka 4 (KIP-848), in which the broker assigns the partitions. Use
	// it from Kafka 4.3 on; brokers that do not know it get the classic one.
	Protocol string

	// SessionTimeout is how long the group waits for a sign of life, 45 s.
	// RebalanceTimeout is how long a rebalance waits for a member, 60 s: a
	// loop that takes longer from Poll to Allow, or callbacks that do, cost the
	// membership. CommitTimeout bounds a commit with its retries, 10 s.
	SessionTimeout, RebalanceTimeout, CommitTimeout time.Duration
	// FatalAfter is how long an error that needs somebody (no permission, a
	// wrong password) must last before Poll returns it, 30 s. While nothing was
	// ever assigned, such an error of the group is returned at once.
	FatalAfter time.Duration

	// Hold keeps new partitions from being read until they are given to
	// [Consumer.Release], while those before them go on.
	Hold bool

	// The callbacks run one at a time and never while records are between Poll
	// and Allow; Poll blocks while one runs. They must not call Poll or Close.
	// Each is optional.

	// OnAssigned runs before the first record of new partitions is polled.
	// OwnerMillis is the wall clock in Unix milliseconds, raised where needed so
	// that it is larger than that of any owner before. Its context ends after
	// three quarters of RebalanceTimeout.
	OnAssigned func(ctx context.Context, ps []Partition, ownerMillis int64)
	// LastOwner, if set, is asked with each assignment for the highest
	// ownerMillis under which something of the partitions was written; ours goes
	// above it. Commits tell too, but a reset of the group's offsets takes away
	// what they say. After an error commits and the clock have to do.
	LastOwner func(ctx context.Context, ps []Partition) (ownerMillis int64, err error)
	// OnRevoked runs while the partitions are still ours: stop, drain, flush
	// and commit within it. Once it returns, commits for them are refused. Its
	// context ends after three quarters of RebalanceTimeout; what was not
	// committed by then is read again by the next owner.
	OnRevoked func(ctx context.Context, ps []Partition)
	// OnLost runs when the partitions are gone already: drop what is in flight
	// of them. Commits for them are refused.
	OnLost func(ps []Partition)
	// OnUnreadable runs within Poll for a range of offsets that cannot be read,
	// which is then skipped: leave a dead letter for it. Without the callback
	// the partition stays where it is.
	OnUnreadable func(Unreadable)
	// OnGap runs within Poll for a range of offsets for which the broker has no
	// record, before the records behind it are returned. Whoever sets it
	// accounts for the range, and may then commit up to its end.
	OnGap func(Gap)
}

func (o *ConsumerOptions) fill() {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	set32 := func(v *int32, d int32) {
		if *v <= 0 {
			*v = d
		}
	}
	setTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&o.MaxPollRecords, 10_000)
	set32(&o.FetchMaxBytes, 8<<20)
	set32(&o.FetchMaxPartitionBytes, 1<<20)
	set(&o.MaxBatchBytes, 128<<20)
	setTime(&o.SessionTimeout, 45*time.Second)
	setTime(&o.RebalanceTimeout, 60*time.Second)
	setTime(&o.CommitTimeout, 10*time.Second)
	setTime(&o.FatalAfter, 30*time.Second)
}

// options are those of the client that joins the group.
func (c *Consumer) options() ([]kgo.Opt, error) {
	o := &c.opts
	switch {
	case o.Group == "":
		return nil, errors.New("kafka: no consumer group given; check CATENA_KAFKA_GROUP")
	case len(o.Topics) == 0:
		return nil, errors.New("kafka: no topic given; " + checkTopics)
	}
	topics, exclude := o.Topics, []string(nil)
	if o.Regex {
		var err error
		if topics, err = anchored(o.Topics); err != nil {
			return nil, err
		}
		if exclude, err = anchored(o.Exclude); err != nil {
			return nil, err
		}
	}
	var err error
	if c.startMillis, err = startMillis(o.Start); err != nil {
		return nil, err
	}
	start := kgo.NewOffset().AtStart()
	if c.startMillis >= 0 {
		start = kgo.NewOffset().AfterMilli(c.startMillis)
	}
	opts, err := o.Cluster.options()
	if err != nil {
		return nil, err
	}
	opts = append(opts,
		kgo.ConsumerGroup(o.Group),
		kgo.ConsumeTopics(topics...),
		kgo.ConsumeStartOffset(start),
		kgo.BlockRebalanceOnPoll(),
		kgo.DisableAutoCommit(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // so that the position gets past them
		kgo.FetchMaxBytes(o.FetchMaxBytes),
		kgo.FetchMaxPartitionBytes(o.FetchMaxPartitionBytes),
		kgo.FetchMaxWait(500*time.Millisecond), // a new partition joins the next fetch
		kgo.BrokerMaxReadBytes(max(100<<20, 2*o.FetchMaxBytes+2*MaxRecordBytes)),
		kgo.MaxDecompressBatchBytes(o.MaxBatchBytes),
		kgo.SessionTimeout(o.SessionTimeout),
		kgo.HeartbeatInterval(min(time.Second, o.SessionTimeout/3)), // how long others wait for us when the group changes
		kgo.RebalanceTimeout(o.RebalanceTimeout),
		kgo.OnPartitionsAssigned(c.onAssigned),
		kgo.OnPartitionsRevoked(c.onRevoked),
		kgo.OnPartitionsLost(c.onLost),
	)
	switch o.Protocol {
	case "", "classic":
		opts = append(opts, kgo.Balancers(kgo.CooperativeStickyBalancer()))
	case "consumer":
		opts = append(opts, kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer()))
	default:
		return nil, fmt.Errorf(`kafka: group protocol %q is neither "classic" nor "consumer"; check CATENA_KAFKA_GROUP_PROTOCOL`, o.Protocol)
	}
	if o.Regex {
		opts = append(opts, kgo.ConsumeRegex())
		if len(exclude) > 0 {
			opts = append(opts, kgo.ConsumeExcludeTopics(exclude...))
		}
	}
	if o.Rack != "" {
		opts = append(opts, kgo.Rack(o.Rack))
	}
	if err := kgo.ValidateOpts(opts...); err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	return opts, nil
}

// anchored makes expressions match whole names. The client's own match
// anywhere, so that "audit" would read "audit-dead-letters" as well.
func anchored(exprs []string) ([]string, error) {
	out := make([]string, len(exprs))
	for i, e := range exprs {
		if _, err := regexp.Compile(e); err != nil {
			return nil, fmt.Errorf("kafka: topic pattern %q: %w; %s", e, err, checkTopics)
		}
		out[i] = "^(?:" + e + ")$"
	}
	return out, nil
}

// startMillis is the time from which a partition without a commit is read, in
// Unix milliseconds; -1 for its beginning.
func startMillis(s string) (int64, error) {
	switch s {
	case "", "earliest":
		return -1, nil
	case "latest":
		// Not the end of the log: of a partition that is added later, that would
		// skip what was written before we noticed it.
		return time.Now().UnixMilli(), nil
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return 0, fmt.Errorf(`kafka: start %q is none of "earliest", "latest" and a time such as 2026-01-31T00:00:00Z`, s)
	}
	return max(0, at.UnixMilli()), nil
}

// checkTopics returns an error that names the topics that do not exist, or
// waits for them.
func (o *ConsumerOptions) checkTopics(ctx context.Context, adm *kadm.Client) error {
	ctx, cancel := context.WithTimeout(ctx, o.startTimeout())
	defer cancel()
	for {
		missing, err := o.missing(ctx, adm)
		switch {
		case err != nil:
			return err
		case len(missing) == 0 || o.Missing == MissingAllow:
			return nil
		case o.Missing == MissingWait && pause(ctx, 500*time.Millisecond):
			continue
		}
		what := "topic " + strings.Join(missing, ", ") + " does not exist"
		switch {
		case o.Regex:
			what = "no topic matches " + strings.Join(missing, ", ")
		case len(missing) > 1:
			what = "topics " + strings.Join(missing, ", ") + " do not exist"
		}
		return fmt.Errorf("kafka: %s at %s; create it or %s", what, strings.Join(o.Brokers, ", "), checkTopics)
	}
}

func (o *ConsumerOptions) missing(ctx context.Context, adm *kadm.Client) ([]string, error) {
	var ask []string
	if !o.Regex {
		ask = o.Topics
	}
	details, err := adm.ListTopics(ctx, ask...)
	if err != nil {
		return nil, fmt.Errorf("kafka: list topics: %w", err)
	}
	if !o.Regex {
		var missing []string
		for _, name := range o.Topics {
			switch d, ok := details[name]; {
			case !ok, errors.Is(d.Err, kerr.UnknownTopicOrPartition):
				missing = append(missing, name)
			case d.Err != nil && !kerr.IsRetriable(d.Err):
				return nil, fmt.Errorf("kafka: topic %s: %w; %s", name, d.Err, checkTopics)
			}
		}
		return missing, nil
	}
	include, err := anchored(o.Topics)
	if err != nil {
		return nil, err
	}
	exclude, err := anchored(o.Exclude)
	if err != nil {
		return nil, err
	}
	for name := range details {
		if matches(include, name) && !matches(exclude, name) {
			return nil, nil
		}
	}
	return o.Topics, nil
}

func matches(exprs []string, name string) bool {
	return slices.ContainsFunc(exprs, func(e string) bool { return regexp.MustCompile(e).MatchString(name) })
}
