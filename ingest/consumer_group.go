package ingest

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The callbacks of the client, which it runs one at a time, and what they
// decide: who owns which partition.

// callbackContext ends in time for the rebalance to go on without us being
// thrown out. A quarter is left for the heartbeat that told us (3 s at most)
// and for the loop to get from Poll to Allow.
func (c *Consumer) callbackContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.opts.RebalanceTimeout/4*3)
}

func (c *Consumer) onAssigned(ctx context.Context, cl *kgo.Client, added map[string][]int32) {
	ps := partitions(added)
	kept := c.reclaim(cl)
	if ps = sortPartitions(append(ps, slices.Collect(maps.Keys(kept))...)); len(ps) == 0 {
		return // the client calls at every rebalance
	}
	ctx, cancel := c.callbackContext(ctx)
	defer cancel()
	ownerMillis, commits := c.ownerMillis(ctx, cl, ps)
	rewind := points{}
	c.mu.Lock()
	for _, p := range ps {
		own := newOwnership(ownerMillis)
		if o, ok := commits[p]; ok {
			own.committed, own.position = o.At, o.At
		}
		if old := kept[p]; old != nil {
			if at := max(own.committed, old.resumeAt()); at >= 0 {
				own.position = at
				if rewind[p.Topic] == nil {
					rewind[p.Topic] = map[int32]kgo.EpochOffset{}
				}
				rewind[p.Topic][p.Partition] = kgo.EpochOffset{Epoch: -1, Offset: at}
			}
		}
		c.owned[p] = own
	}
	c.assigned = true
	c.stats.Assigned += int64(len(ps))
	delete(c.failures, Partition{})
	c.mu.Unlock()
	cl.SetOffsets(rewind)
	c.claim(ctx, cl, commits)
	if c.opts.Hold {
		cl.PauseFetchPartitions(byTopic(ps))
	}
	c.log.Info("partitions assigned", "group", c.opts.Group, "partitions", names(ps), "owner_millis", ownerMillis)
	if c.opts.OnAssigned != nil {
		c.opts.OnAssigned(ctx, ps, ownerMillis)
	}
}

func (c *Consumer) onRevoked(ctx context.Context, cl *kgo.Client, revoked map[string][]int32) {
	ps := c.ours(partitions(revoked))
	if len(ps) == 0 {
		return // the client calls at every rebalance
	}
	if c.replaced(cl) {
		c.lose(ps)
		return
	}
	c.log.Info("partitions revoked", "group", c.opts.Group, "partitions", names(ps))
	if c.opts.OnRevoked != nil {
		ctx, cancel := c.callbackContext(ctx)
		c.opts.OnRevoked(ctx, ps)
		cancel()
	}
	c.commitMu.Lock() // a commit in flight ends first
	c.disown(ps)
	c.commitMu.Unlock()
	c.mu.Lock()
	c.stats.Revoked += int64(len(ps))
	c.mu.Unlock()
}

func (c *Consumer) onLost(context.Context, *kgo.Client, map[string][]int32) {
	c.mu.Lock()
	c.member = ""
	ps := slices.Collect(maps.Keys(c.owned))
	c.mu.Unlock()
	if len(ps) > 0 { // the client calls at every failed join, too
		c.lose(sortPartitions(ps))
	}
}

// lose takes ownership away before the caller hears of it.
func (c *Consumer) lose(ps []Partition) {
	c.commitMu.Lock()
	c.disown(ps)
	c.commitMu.Unlock()
	c.mu.Lock()
	c.stats.Lost += int64(len(ps))
	c.mu.Unlock()
	c.log.Warn("partitions lost", "group", c.opts.Group, "partitions", names(ps))
	if c.opts.OnLost != nil {
		c.opts.OnLost(ps)
	}
}

// replaced reports whether the group knows us as another member than the one
// that owns our partitions. It comes about so: a rebalance begins while the
// loop is between Poll and Allow; we answer too late and are thrown out; our
// join gets UNKNOWN_MEMBER_ID, and the client, without calling it a loss, joins
// as a new member and compares the new assignment with the old. What it has in
// both it reads on with as if it had never been away, and what it no longer has
// it revokes. But in between another member may have owned it all, with a later
// ownerMillis, and committed further than we can.
func (c *Consumer) replaced(cl *kgo.Client) bool {
	id, _ := cl.GroupMetadata()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.member != "" && c.member != id
}

// reclaim loses what a replaced member still has (see replaced), and returns
// it, to be assigned afresh and read again from where it was not durable. Its
// other effect is to note the member's id.
func (c *Consumer) reclaim(cl *kgo.Client) map[Partition]*ownership {
	replaced := c.replaced(cl)
	id, _ := cl.GroupMetadata()
	c.mu.Lock()
	c.member = id
	var kept map[Partition]*ownership
	if replaced && len(c.owned) > 0 {
		kept = maps.Clone(c.owned)
	}
	c.mu.Unlock()
	if kept != nil {
		c.lose(sortPartitions(slices.Collect(maps.Keys(kept))))
	}
	return kept
}

// resumeAt is the lowest offset that was handed out and not committed, -1 if
// there is none to go back to.
func (o *ownership) resumeAt() int64 {
	if o.first < 0 {
		return -1
	}
	return max(o.committed, o.first)
}

func newOwnership(ownerMillis int64) *ownership {
	return &ownership{ownerMillis: ownerMillis, committed: -1, asked: -1, first: -1, begin: -1, handed: -1, position: -1, end: -1}
}

func (c *Consumer) ours(ps []Partition) []Partition {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(ps, func(p Partition) bool { return c.owned[p] == nil })
}

func (c *Consumer) disown(ps []Partition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range ps {
		delete(c.owned, p)
		delete(c.failures, p)
	}
}

// The commit's metadata says who made it, so that a later owner on a machine
// whose clock is behind still gets a larger number.
const ownerPrefix = "catena owner_millis="

// ownerMillis is the wall clock, or one more than the largest that an owner
// before left in the commits, which it returns too.
func (c *Consumer) ownerMillis(ctx context.Context, cl *kgo.Client, ps []Partition) (int64, map[Partition]kadm.Offset) {
	now := time.Now().UnixMilli()
	topics := map[string]bool{}
	for _, p := range ps {
		topics[p.Topic] = true
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.CommitTimeout)
	defer cancel()
	owner, commits := now, map[Partition]kadm.Offset{}
	if c.opts.LastOwner != nil {
		last, err := c.opts.LastOwner(ctx, ps)
		if err != nil {
			c.log.Warn("cannot look up who owned the partitions before, going by the commits", "group", c.opts.Group, "error", err)
		}
		owner = max(owner, last+1)
	}
	all, err := kadm.NewClient(cl).FetchOffsetsForTopics(ctx, c.opts.Group, slices.Sorted(maps.Keys(topics))...)
	if err != nil {
		c.log.Warn("cannot read the commits of the owners before, going by the clock", "group", c.opts.Group, "error", err)
		return owner, nil
	}
	for _, p := range ps {
		o, ok := all.Lookup(p.Topic, p.Partition)
		if !ok || o.Err != nil || o.At < 0 {
			continue
		}
		commits[p] = o.Offset
		if before, ok := strings.CutPrefix(o.Metadata, ownerPrefix); ok {
			if ms, err := strconv.ParseInt(before, 10, 64); err == nil {
				owner = max(owner, ms+1)
			}
		}
	}
	if ahead := owner - now; ahead > 60_000 {
		c.log.Warn("an owner before us had a clock far ahead of ours", "milliseconds", ahead)
	}
	return owner, commits
}

// claim commits again what is committed, with our number on it: an owner that
// dies before its first commit has written rows that the next has to outrank.
func (c *Consumer) claim(ctx context.Context, cl *kgo.Client, commits map[Partition]kadm.Offset) {
	same := points{}
	for p, o := range commits {
		if same[p.Topic] == nil {
			same[p.Topic] = map[int32]kgo.EpochOffset{}
		}
		same[p.Topic][p.Partition] = kgo.EpochOffset{Epoch: o.LeaderEpoch, Offset: o.At}
	}
	if len(same) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.CommitTimeout)
	defer cancel()
	cl.CommitOffsetsSync(c.withOwner(ctx), same, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			c.log.Warn("cannot claim the partitions, going by the clock", "group", c.opts.Group, "error", err)
		}
	})
}

// withOwner has the owner's number written into the commit.
func (c *Consumer) withOwner(ctx context.Context) context.Context {
	return kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i := range req.Topics {
			t := &req.Topics[i]
			for j := range t.Partitions {
				p := &t.Partitions[j]
				if own := c.owned[Partition{t.Topic, p.Partition}]; own != nil {
					p.Metadata = kmsg.StringPtr(ownerPrefix + strconv.FormatInt(own.ownerMillis, 10))
				}
			}
		}
		return nil
	})
}

func partitions(m map[string][]int32) []Partition {
	var ps []Partition
	for topic, nums := range m {
		for _, n := range nums {
			ps = append(ps, Partition{topic, n})
		}
	}
	return sortPartitions(ps)
}

func byTopic(ps []Partition) map[string][]int32 {
	m := map[string][]int32{}
	for _, p := range ps {
		m[p.Topic] = append(m[p.Topic], p.Partition)
	}
	return m
}

func names(ps []Partition) []string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = p.String()
	}
	return out
}
