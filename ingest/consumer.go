package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"catena/schemas"
)

// Errors of [Consumer.Commit] and [Consumer.Poll], for errors.Is.
var (
	// ErrNotOwned: the partition is not, or no longer, assigned to us. Whoever
	// has it reads on from its commit point; nothing is lost.
	ErrNotOwned = errors.New("partition is not owned")
	// ErrStale: the group has moved on without us. OnLost follows.
	ErrStale = errors.New("group membership is stale")
	// ErrClosed: the consumer is closed.
	ErrClosed = errors.New("kafka: consumer is closed")
)

// Topics that do not exist when the consumer is made: [ConsumerOptions.Missing].
const (
	MissingFail  = ""      // an error that names them
	MissingWait  = "wait"  // wait for them, up to the start timeout
	MissingAllow = "allow" // start; they are read once they exist
)

// pollWait is how long Poll waits for records.
const pollWait = 100 * time.Millisecond

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

// Gap is a range of offsets without records.
type Gap struct {
	Partition
	From, Next int64 // Next is the offset after the range
	// Expired says that retention deleted the records before they were read.
	// Otherwise they are compacted away, of an aborted transaction, or markers
	// of transactions.
	Expired bool
}

// Unreadable is a range of offsets that the consumer cannot turn into records.
type Unreadable struct {
	Partition
	From, Next int64 // Next is the offset after the range
	Err        error
}

// Consumer reads records as a member of a consumer group.
//
// One goroutine runs the loop:
//
//	for {
//	    records, err = c.Poll(ctx, records[:0])   // rebalances wait from here …
//	    hand records to the pipeline
//	    c.Allow()                                 // … to here
//	}
//
// From Poll to Allow the partitions cannot be taken away. That must stay short
// (well under a quarter of RebalanceTimeout): when the pipeline is full, call
// Pause instead of blocking, and go on polling. While paused, Poll returns
// nothing, rebalances proceed, the group sees a live member, and at most one
// response of each broker is held.
//
// Commit, Pause, Resume, Positions and Stats may be called from any goroutine.
type Consumer struct {
	opts ConsumerOptions
	log  *slog.Logger
	kgo  []kgo.Opt

	startMillis int64 // a partition without a commit is read from here on; -1 from its beginning

	ctx    context.Context // of the client and, through it, of the callbacks
	cancel context.CancelFunc

	client atomic.Pointer[kgo.Client] // nil until the first Poll
	closed atomic.Bool
	paused atomic.Bool
	resume chan struct{} // wakes a Poll that waits out a pause

	// commitMu is held during a whole commit, and by whatever takes ownership
	// away. Without it: Commit finds p owned; the goroutine is descheduled; the
	// group drops us, p goes to another member, we rejoin; the commit goes out
	// with the new membership, which the broker accepts, for it checks the
	// member and not the partition; p's new owner is set back.
	commitMu sync.Mutex

	mu       sync.Mutex // the fields below
	owned    map[Partition]*ownership
	member   string // id under which the partitions are owned
	assigned bool   // whether anything ever was
	failures map[Partition]*failure
	gaps     []Gap // of the poll under way
	stats    Stats
	retrying bool // commits fail at the moment
}

// ownership is one partition while it is ours. Offsets are -1 when unknown.
type ownership struct {
	ownerMillis int64
	committed   int64   // commit point at the broker
	asked       int64   // what the caller called it, committed being past control records
	asking      int64   // the same of the commit in flight
	first       int64   // first offset handed out
	begin       int64   // where reading begins if nothing was committed
	handed      int64   // one past the last record handed out
	position    int64   // next offset to see; beyond handed after control records
	end         int64   // end of the log, as far as it can be read
	epochs      []epoch // leader epochs from the commit point on, oldest first
}

// epoch says that records from an offset on were written under a leader epoch.
type epoch struct {
	from  int64
	epoch int32
}

// failure is a partition's error while it lasts. The group's own stands under
// the zero Partition.
type failure struct {
	text        string
	since, last time.Time
}

// Stats counts since the consumer was made.
type Stats struct {
	Records, Bytes int64 // handed out; bytes of keys and values
	// Control counts markers of transactions. Gaps counts offsets that no record
	// came for: compacted away, or of an aborted transaction. Expired counts
	// those that retention deleted before they were read. Unreadable counts
	// offsets given to OnUnreadable.
	Control, Gaps, Expired, Unreadable int64
	Commits, CommitErrors              int64 // partitions committed; partitions refused or failed
	FetchErrors                        int64
	Assigned, Revoked, Lost            int64 // partitions
	BufferedRecords, BufferedBytes     int64 // fetched ahead, not polled yet
}

// Position is where a partition stands.
type Position struct {
	Partition
	OwnerMillis int64
	First       int64 // first offset polled since it became ours, or, before it, where reading will begin; -1 if unknown
	Next        int64 // next offset to poll; -1 before the first record if nothing was committed
	Committed   int64 // commit point; -1 if there is none
	End         int64 // end of the log as last seen; -1 if not seen
}

// Lag is how many offsets are left to poll, as far as is known.
func (p Position) Lag() int64 {
	if p.End < 0 {
		return 0
	}
	return max(0, p.End-max(0, p.Next))
}

// NewConsumer checks that a broker answers and that the topics exist, each
// within the start timeout. It joins the group only at the first Poll, so that
// the callbacks find the caller ready.
func NewConsumer(ctx context.Context, opts ConsumerOptions) (*Consumer, error) {
	opts.fill()
	c := &Consumer{
		opts: opts, log: opts.logger(),
		resume:   make(chan struct{}, 1),
		owned:    map[Partition]*ownership{},
		failures: map[Partition]*failure{},
	}
	var err error
	if c.kgo, err = c.options(); err != nil {
		return nil, err
	}
	adm, err := opts.admin(ctx)
	if err != nil {
		return nil, err
	}
	defer adm.Close()
	if err := opts.checkTopics(ctx, adm); err != nil {
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
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

// Poll appends the next records to dst and returns it, waiting about 100 ms if
// there are none. If it appended any, or called OnGap, the caller calls
// [Consumer.Allow] once it has handed them on. Records of a partition come in the order of its log.
// Their bytes belong to the caller; they share a buffer with others of the same
// response, so what is kept for long is copied.
//
// The first Poll joins the group. Poll blocks for as long as a callback runs.
// The error is that of ctx, [ErrClosed], or one that will not go away by
// itself; what can be retried is retried, logged when it begins and ends, and
// counted.
func (c *Consumer) Poll(ctx context.Context, dst []schemas.Record) ([]schemas.Record, error) {
	cl, err := c.join()
	if err != nil {
		return dst, err
	}
	if c.paused.Load() {
		// Not polling is what pauses: the client fetches one response ahead of
		// each broker and no more. Its own pause would throw these away and fetch
		// them again.
		c.Allow()
		return dst, c.waitPaused(ctx)
	}
	pollCtx, cancel := context.WithTimeout(ctx, pollWait)
	fetches := cl.PollRecords(pollCtx, c.opts.MaxPollRecords)
	cancel()

	n := len(dst)
	c.gaps = c.gaps[:0]
	for i := range fetches {
		for j := range fetches[i].Topics {
			t := &fetches[i].Topics[j]
			for k := range t.Partitions {
				p := &t.Partitions[k]
				dst = c.take(dst, t.Topic, p)
				if p.Err != nil && err == nil {
					err = c.failed(cl, Partition{t.Topic, p.Partition}, p.Err)
				}
			}
		}
	}
	if c.opts.OnGap != nil {
		for _, g := range c.gaps {
			c.opts.OnGap(g)
		}
	} else {
		c.gaps = c.gaps[:0]
	}
	if len(dst) > n || len(c.gaps) > 0 {
		return dst, err
	}
	// A poll that returns nothing blocks rebalances too, where it returned an
	// error or the time was up.
	c.Allow()
	if err == nil {
		err = ctx.Err()
	}
	return dst, err
}

// join makes the client at the first call.
func (c *Consumer) join() (*kgo.Client, error) {
	if cl := c.client.Load(); cl != nil {
		if c.closed.Load() {
			return nil, ErrClosed
		}
		return cl, nil
	}
	if c.closed.Load() {
		return nil, ErrClosed
	}
	cl, err := kgo.NewClient(append(c.kgo, kgo.WithContext(c.ctx))...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	c.client.Store(cl)
	c.log.Info("joining consumer group", "group", c.opts.Group, "topics", c.opts.Topics)
	return cl, nil
}

func (c *Consumer) waitPaused(ctx context.Context) error {
	t := time.NewTimer(pollWait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.resume:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// take appends a partition's records and moves its position.
func (c *Consumer) take(dst []schemas.Record, topic string, p *kgo.FetchPartition) []schemas.Record {
	if len(p.Records) == 0 {
		return dst
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := Partition{topic, p.Partition}
	own := c.owned[key]
	if own == nil {
		// Cannot be: records come after onAssigned and before onRevoked. Hand
		// them out all the same, since a record too many is no loss.
		own = newOwnership(0)
	}
	if f := c.failures[key]; f != nil {
		delete(c.failures, key)
		c.log.Info("reading partition again", "partition", key.String(), "error", f.text)
	}
	c.count(own, key, p)

	var headers []schemas.Header // one allocation for the partition's records
	for _, r := range p.Records {
		own.position = r.Offset + 1
		if r.Attrs.IsControl() {
			continue
		}
		if own.first < 0 {
			own.first = r.Offset
		}
		own.handed = r.Offset + 1
		if n := len(own.epochs); r.LeaderEpoch >= 0 && (n == 0 || own.epochs[n-1].epoch != r.LeaderEpoch) {
			own.epochs = append(own.epochs, epoch{r.Offset, r.LeaderEpoch})
		}
		rec := schemas.Record{
			Topic: topic, Partition: p.Partition, Offset: r.Offset,
			Key: r.Key, Value: r.Value,
			TimestampNanos: r.Timestamp.UnixNano(),
		}
		if n := len(r.Headers); n > 0 {
			if cap(headers)-len(headers) < n {
				headers = make([]schemas.Header, 0, max(n, min(4*len(p.Records), 4096)))
			}
			at := len(headers)
			for _, h := range r.Headers {
				headers = append(headers, schemas.Header{Key: h.Key, Value: h.Value})
			}
			rec.Headers = headers[at:len(headers):len(headers)]
		}
		c.stats.Records++
		c.stats.Bytes += int64(len(r.Key) + len(r.Value))
		dst = append(dst, rec)
	}
	return dst
}

// count accounts for the offsets from the position to the last record that
// give no record to hand out.
func (c *Consumer) count(own *ownership, key Partition, p *kgo.FetchPartition) {
	next := own.position
	if end := p.LastStableOffset; end >= 0 {
		own.end = end
	} else {
		own.end = p.HighWatermark
	}
	if first := p.Records[0].Offset; next >= 0 && p.LogStartOffset > next && first > next {
		expired := min(p.LogStartOffset, first) - next
		c.stats.Expired += expired
		c.log.Warn("records expired before they were read: raise the topic's retention or add capacity",
			"partition", key.String(), "offset", next, "records", expired)
		c.gap(Gap{key, next, next + expired, true})
		next += expired
	}
	for _, r := range p.Records {
		if next >= 0 && r.Offset > next {
			c.stats.Gaps += r.Offset - next
			c.gap(Gap{key, next, r.Offset, false})
		}
		if r.Attrs.IsControl() {
			c.stats.Control++
			c.gap(Gap{key, r.Offset, r.Offset + 1, false})
		}
		next = r.Offset + 1
	}
}

// gap notes a range to be told of, with the one before it if they touch.
func (c *Consumer) gap(g Gap) {
	if n := len(c.gaps); n > 0 {
		if last := &c.gaps[n-1]; last.Partition == g.Partition && last.Next == g.From && last.Expired == g.Expired {
			last.Next = g.Next
			return
		}
	}
	c.gaps = append(c.gaps, g)
}

// failed classifies a fetch error. It returns an error only for what Poll has
// to end with.
func (c *Consumer) failed(cl *kgo.Client, key Partition, err error) error {
	var (
		session  *kgo.ErrGroupSession
		tooLarge *kgo.ErrDecompressTooLarge
		loss     *kgo.ErrDataLoss
	)
	switch {
	case errors.Is(err, kgo.ErrClientClosed):
		return ErrClosed
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return nil // the poll's own context
	case errors.As(err, &tooLarge) && c.opts.OnUnreadable != nil:
		c.skip(cl, key, tooLarge)
		return nil
	case errors.As(err, &loss):
		// The client goes on where the log now ends or diverged.
		c.mu.Lock()
		c.stats.FetchErrors++
		if own := c.owned[key]; own != nil {
			own.position, own.epochs = loss.ResetTo, nil
		}
		c.mu.Unlock()
		c.log.Error("brokers lost records that were read already", "partition", key.String(), "error", err)
		return nil
	case errors.As(err, &session):
		key = Partition{}
	}

	now := time.Now()
	c.mu.Lock()
	c.stats.FetchErrors++
	f := c.failures[key]
	fresh := f == nil || f.text != err.Error()
	if f == nil || now.Sub(f.last) > max(c.opts.FatalAfter, 10*time.Second) { // a new one, not the same going on
		f = &failure{since: now}
		c.failures[key] = f
	}
	f.text, f.last = err.Error(), now
	lasted, assigned := now.Sub(f.since), c.assigned
	c.mu.Unlock()

	what := fmt.Errorf("kafka: topic %s partition %d: %w", key.Topic, key.Partition, err)
	if session != nil {
		what = fmt.Errorf("kafka: group %s: %w", c.opts.Group, session.Err)
	}
	if needsSomebody(err) && (lasted >= c.opts.FatalAfter || session != nil && !assigned) {
		return what
	}
	if fresh {
		c.log.Warn("cannot read, trying on", "error", what)
	}
	return nil
}

// needsSomebody tells the errors that trying again does not mend, unless
// somebody changes a permission, a password or a configuration.
func needsSomebody(err error) bool {
	for _, e := range []error{
		kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed,
		kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState, kerr.SecurityDisabled,
		kerr.InvalidSessionTimeout, kerr.InconsistentGroupProtocol, kerr.InvalidGroupID, kerr.GroupMaxSizeReached,
		kerr.InvalidTopicException, kerr.UnsupportedVersion,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// skip tells the caller of a batch that cannot be decompressed within the bound
// and goes on behind it.
func (c *Consumer) skip(cl *kgo.Client, key Partition, e *kgo.ErrDecompressTooLarge) {
	from := e.Offset
	c.mu.Lock()
	if own := c.owned[key]; own != nil {
		from = max(from, own.position) // part of the batch may be below the commit point
		if own.first < 0 {
			own.first = from
		}
		own.position, own.handed = e.NextOffset, e.NextOffset
	}
	c.stats.Unreadable += e.NextOffset - from
	c.mu.Unlock()
	c.log.Error("batch is larger than the limit after decompression, skipping it",
		"partition", key.String(), "offset", from, "next", e.NextOffset, "limit", c.opts.MaxBatchBytes)
	c.opts.OnUnreadable(Unreadable{Partition: key, From: from, Next: e.NextOffset, Err: e})
	cl.SetOffsets(map[string]map[int32]kgo.EpochOffset{key.Topic: {key.Partition: {Epoch: e.Epoch, Offset: e.NextOffset}}})
}

// Allow lets a waiting rebalance proceed. The next Poll waits for its
// callbacks.
func (c *Consumer) Allow() {
	if cl := c.client.Load(); cl != nil {
		cl.AllowRebalance()
	}
}

// Pause makes Poll return nothing until Resume, while the group stays as it
// is. What was fetched ahead is kept.
func (c *Consumer) Pause() { c.paused.Store(true) }

// Resume ends a pause, also for a Poll that waits in it.
func (c *Consumer) Resume() {
	c.paused.Store(false)
	select {
	case c.resume <- struct{}{}:
	default:
	}
}

// Release lets partitions be read that Hold keeps back.
func (c *Consumer) Release(ps []Partition) {
	if cl := c.client.Load(); cl != nil {
		cl.ResumeFetchPartitions(byTopic(ps))
	}
}

// Paused reports whether Pause was called and Resume not yet.
func (c *Consumer) Paused() bool { return c.paused.Load() }

// Joined reports whether the group has taken us in, with partitions or without.
func (c *Consumer) Joined() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.member != ""
}

// Positions appends where each owned partition stands, in the order of topic
// and partition. The end of the log is as of the last fetch that had records,
// or of the last [Consumer.UpdateEnds].
func (c *Consumer) Positions(dst []Position) []Position {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range sortPartitions(slices.Collect(maps.Keys(c.owned))) {
		o := c.owned[p]
		dst = append(dst, Position{Partition: p, OwnerMillis: o.ownerMillis, First: o.firstOffset(), Next: o.position, Committed: o.committed, End: o.end})
	}
	return dst
}

// UpdateEnds asks the brokers where the logs of the owned partitions end, for
// a lag that is right while nothing is polled.
func (c *Consumer) UpdateEnds(ctx context.Context) error {
	cl := c.client.Load()
	topics := map[string]bool{}
	c.mu.Lock()
	for p := range c.owned {
		topics[p.Topic] = true
	}
	c.mu.Unlock()
	if cl == nil || len(topics) == 0 {
		return nil
	}
	// What can be read ends at the oldest open transaction.
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(ctx, slices.Sorted(maps.Keys(topics))...)
	if err != nil {
		return fmt.Errorf("kafka: ends of the logs: %w", err)
	}
	begins, err := c.beginnings(ctx, cl)
	if err != nil {
		return fmt.Errorf("kafka: where reading begins: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, o := range c.owned {
		if e, ok := ends.Lookup(p.Topic, p.Partition); ok && e.Err == nil {
			o.end = max(o.end, e.Offset)
		}
		if b, ok := begins.Lookup(p.Topic, p.Partition); ok && b.Err == nil {
			o.begin = b.Offset
		}
	}
	return nil
}

// beginnings asks where reading will begin in partitions of which nothing was
// read or committed yet: without it, all that retention has deleted, or that a
// start at "latest" leaves out, would count as lag.
func (c *Consumer) beginnings(ctx context.Context, cl *kgo.Client) (kadm.ListedOffsets, error) {
	topics := map[string]bool{}
	c.mu.Lock()
	for p, o := range c.owned {
		if o.first < 0 && o.committed < 0 {
			topics[p.Topic] = true
		}
	}
	c.mu.Unlock()
	names := slices.Sorted(maps.Keys(topics))
	switch {
	case len(names) == 0:
		return nil, nil
	case c.startMillis < 0:
		return kadm.NewClient(cl).ListStartOffsets(ctx, names...)
	}
	return kadm.NewClient(cl).ListOffsetsAfterMilli(ctx, c.startMillis, names...)
}

// firstOffset is the first offset handed out, or, before it, where reading will
// begin; -1 if that is not known.
func (o *ownership) firstOffset() int64 {
	if o.first >= 0 {
		return o.first
	}
	return o.begin
}

// Stats returns the counters.
func (c *Consumer) Stats() Stats {
	c.mu.Lock()
	s := c.stats
	c.mu.Unlock()
	if cl := c.client.Load(); cl != nil {
		s.BufferedRecords, s.BufferedBytes = cl.BufferedFetchRecords(), cl.BufferedFetchBytes()
	}
	return s
}

// Failing returns what cannot be read at the moment, and why, for a health
// check. The group's own failure stands under the zero Partition.
func (c *Consumer) Failing() map[Partition]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[Partition]string, len(c.failures))
	for p, f := range c.failures {
		// A topic as a whole cannot show by its records that it is well again.
		if c.owned[p] == nil && p != (Partition{}) && time.Since(f.last) > 2*time.Minute {
			delete(c.failures, p)
			continue
		}
		out[p] = f.text
	}
	return out
}

// Close leaves the group, which calls OnRevoked for what is owned, and closes
// the connections. The loop must have ended. When ctx ends, it stops waiting:
// the context of the callback ends too, and the group may notice only by the
// session timeout. Without a deadline it takes up to RebalanceTimeout.
func (c *Consumer) Close(ctx context.Context) error {
	if c.closed.Swap(true) {
		return nil
	}
	defer c.cancel()
	cl := c.client.Load()
	if cl == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.RebalanceTimeout)
	defer cancel()
	// A join may be waiting for other members, and only the end of the client's
	// own context interrupts it.
	defer context.AfterFunc(ctx, c.cancel)()
	cl.AllowRebalance()
	err := cl.LeaveGroupContext(ctx)
	cl.Close()
	if err != nil && !errors.Is(err, kerr.UnknownMemberID) { // gone already is as good
		return fmt.Errorf("kafka: leave group %s: %w", c.opts.Group, err)
	}
	c.log.Info("left consumer group", "group", c.opts.Group)
	return nil
}
