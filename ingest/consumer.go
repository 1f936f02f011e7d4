package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
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

// pollWait is how long Poll waits for records.
const pollWait = 100 * time.Millisecond

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
