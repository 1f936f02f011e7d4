package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"catena/ingest/broker"
	"catena/schemas"
)

func TestRestartAtCommitPoint(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"a"}})
	produce(t, b, "a", 1, 100)

	var owners []int64
	opts := ConsumerOptions{Cluster: at(b), Topics: []string{"a"}, OnAssigned: func(_ context.Context, _ []Partition, ms int64) {
		owners = append(owners, ms)
	}}
	c := newConsumer(t, opts)
	pollN(t, c, 100)
	if got := commitOf(b, "a", 0).Offset; got != -1 {
		t.Fatalf("commit point is %d before any commit", got)
	}
	if err := c.Commit(t.Context(), []Offset{{"a", 0, 40}}); err != nil {
		t.Fatal(err)
	}
	if err := c.Commit(t.Context(), []Offset{{"a", 0, 101}}); err == nil || !strings.Contains(err.Error(), "only records below 100 were polled") {
		t.Errorf("commit of a record not polled: %v", err)
	}
	closeConsumer(t, c)
	if got := commitOf(b, "a", 0); got.Offset != 40 || got.LeaderEpoch < 0 {
		t.Fatalf("commit is %+v, want offset 40 with its epoch", got)
	}
	if err := c.Commit(t.Context(), []Offset{{"a", 0, 50}}); !errors.Is(err, ErrNotOwned) {
		t.Errorf("commit after Close: %v, want ErrNotOwned", err)
	}

	// The next owner's clock may be behind: an owner of next year came before.
	future := time.Now().AddDate(1, 0, 0).UnixMilli()
	adm, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	var os kadm.Offsets
	os.Add(kadm.Offset{Topic: "a", Partition: 0, At: 40, LeaderEpoch: -1, Metadata: fmt.Sprint(ownerPrefix, future)})
	if err := kadm.NewClient(adm).CommitAllOffsets(t.Context(), "g", os); err != nil {
		t.Fatal(err)
	}
	adm.Close()

	c = newConsumer(t, opts)
	recs := pollN(t, c, 60)
	if len(recs) != 60 || recs[0].Offset != 40 {
		t.Fatalf("after the restart: %d records from %d, want 60 from 40", len(recs), recs[0].Offset)
	}
	if len(owners) != 2 || owners[1] != future+1 {
		t.Errorf("owners %v, want the second to be %d", owners, future+1)
	}
	if got := commitOf(b, "a", 0); got.Metadata != fmt.Sprint(ownerPrefix, future+1) || got.Offset != 40 {
		t.Errorf("commit after the assignment is %+v, want it claimed", got)
	}
}

// pipeline is a caller in small: a worker makes batches durable behind the
// loop's back.
type pipeline struct {
	c       *Consumer
	points  commitPoints
	queue   chan []schemas.Record
	drained sync.WaitGroup // batches in flight

	mu      sync.Mutex
	handled map[string]int // "partition/offset" made durable
	dropped atomic.Int64
	done    chan struct{}
}

// commitPoints are those of a caller that makes batches durable in order.
type commitPoints struct {
	mu    sync.Mutex
	parts map[Partition]int64 // next to read; -1 while nothing is durable
}

func (p *commitPoints) assign(ps []Partition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parts == nil {
		p.parts = map[Partition]int64{}
	}
	for _, part := range ps {
		p.parts[part] = -1
	}
}

func (p *commitPoints) forget(ps []Partition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, part := range ps {
		delete(p.parts, part)
	}
}

// add notes a durable record; false if its partition is no longer ours.
func (p *commitPoints) add(r schemas.Record) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	part := Partition{r.Topic, r.Partition}
	if _, mine := p.parts[part]; !mine {
		return false
	}
	p.parts[part] = r.Offset + 1
	return true
}

func (p *commitPoints) next() (out []Offset) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for part, offset := range p.parts {
		if offset >= 0 {
			out = append(out, Offset{part.Topic, part.Partition, offset})
		}
	}
	return out
}

// startPipeline runs the loop until ctx ends; wait for done, then close the
// consumer.
func startPipeline(ctx context.Context, t *testing.T, opts ConsumerOptions) *pipeline {
	p := &pipeline{queue: make(chan []schemas.Record, 64), handled: map[string]int{}, done: make(chan struct{})}
	opts.OnAssigned = func(_ context.Context, ps []Partition, _ int64) { p.points.assign(ps) }
	opts.OnRevoked = func(ctx context.Context, ps []Partition) {
		p.drained.Wait()
		if err := p.c.Commit(ctx, p.points.next()); err != nil {
			t.Error("commit on revoke:", err)
		}
		p.points.forget(ps)
	}
	opts.OnLost = func(ps []Partition) { p.points.forget(ps); p.drained.Wait() }
	p.c = newConsumer(t, opts)
	var worker sync.WaitGroup
	worker.Go(func() {
		for recs := range p.queue {
			time.Sleep(2 * time.Millisecond)
			p.mu.Lock()
			for _, r := range recs {
				if p.points.add(r) {
					p.handled[fmt.Sprintf("%d/%d", r.Partition, r.Offset)]++
				} else {
					p.dropped.Add(1)
				}
			}
			p.mu.Unlock()
			p.drained.Done()
		}
	})
	go func() {
		defer close(p.done)
		defer worker.Wait()
		defer close(p.queue)
		for {
			recs, err := p.c.Poll(ctx, nil)
			if len(recs) > 0 {
				p.drained.Add(1)
				p.queue <- recs
				p.c.Allow()
			}
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				return
			}
		}
	}()
	return p
}

func (p *pipeline) stop(t *testing.T, cancel context.CancelFunc) {
	cancel()
	<-p.done
	closeConsumer(t, p.c)
}

// TestRebalanceMidBatch lets a second member come and go while records flow.
// Clean revokes drain and commit, so each record is handled once.
func TestRebalanceMidBatch(t *testing.T) {
	b := startBroker(t, broker.Options{Partitions: 6, Topics: []string{"a"}})
	opts := ConsumerOptions{Cluster: at(b), Topics: []string{"a"}, MaxPollRecords: 20}
	produced := make(chan struct{})
	go func() {
		defer close(produced)
		for range 40 {
			produce(t, b, "a", 6, 50)
			time.Sleep(50 * time.Millisecond)
		}
	}()

	ctx1, cancel1 := context.WithCancel(t.Context())
	ctx2, cancel2 := context.WithCancel(t.Context())
	first := startPipeline(ctx1, t, opts)
	time.Sleep(500 * time.Millisecond)
	second := startPipeline(ctx2, t, opts)
	time.Sleep(1500 * time.Millisecond)
	second.stop(t, cancel2)
	<-produced
	const want = 40 * 50 * 6
	count := func(p *pipeline) int { p.mu.Lock(); defer p.mu.Unlock(); return len(p.handled) }
	for deadline := time.Now().Add(20 * time.Second); count(first)+count(second) < want && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	first.stop(t, cancel1)

	if n := len(second.handled); n == 0 {
		t.Error("the second member handled nothing: no rebalance was tested")
	}
	all := map[string]int{}
	for _, p := range []*pipeline{first, second} {
		for k, n := range p.handled {
			all[k] += n
		}
		if n := p.dropped.Load(); n > 0 {
			t.Errorf("%d records came for partitions not owned", n)
		}
	}
	if len(all) != want {
		t.Errorf("%d records were handled, want %d", len(all), want)
	}
	for k, n := range all {
		if n != 1 {
			t.Fatalf("record %s was handled %d times after clean revokes", k, n)
		}
	}
	for p := range int32(6) {
		if got := commitOf(b, "a", p).Offset; got != 40*50 {
			t.Errorf("partition %d is committed at %d, want %d", p, got, 40*50)
		}
	}
}

// TestLost has the group forget the member: heartbeats get UNKNOWN_MEMBER_ID.
func TestLost(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"a"}})
	produce(t, b, "a", 1, 100)
	var c *Consumer
	var lost, assigned, revoked atomic.Int32
	var owners []int64
	c = newConsumer(t, ConsumerOptions{
		Cluster: at(b), Topics: []string{"a"}, SessionTimeout: 600 * time.Millisecond,
		OnAssigned: func(_ context.Context, _ []Partition, ms int64) { owners = append(owners, ms); assigned.Add(1) },
		OnRevoked:  func(context.Context, []Partition) { revoked.Add(1) },
		OnLost: func(ps []Partition) {
			lost.Add(1)
			if !slices.Equal(ps, []Partition{{"a", 0}}) {
				t.Errorf("lost %v", ps)
			}
			if err := c.Commit(context.Background(), []Offset{{"a", 0, 100}}); !errors.Is(err, ErrNotOwned) {
				t.Errorf("commit of a lost partition: %v, want ErrNotOwned", err)
			}
		},
	})
	pollN(t, c, 100)
	if err := c.Commit(t.Context(), []Offset{{"a", 0, 30}}); err != nil {
		t.Fatal(err)
	}
	b.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID})
	pollUntilLost := func() bool { return lost.Load() == 1 }
	pollUntil(t, c, "the loss", pollUntilLost)
	recs := pollN(t, c, 70) // the rest, from the commit point
	if recs[0].Offset != 30 {
		t.Errorf("after the loss the first record is %d, want 30", recs[0].Offset)
	}
	if assigned.Load() != 2 || revoked.Load() != 0 || owners[1] <= owners[0] {
		t.Errorf("assigned %d times by owners %v, revoked %d times; want 2, rising, 0", assigned.Load(), owners, revoked.Load())
	}
	if err := c.Commit(t.Context(), []Offset{{"a", 0, 100}}); err != nil {
		t.Errorf("commit after the partition came back: %v", err)
	}
	if f := c.Failing(); len(f) > 0 {
		t.Errorf("failing after the partition came back: %v", f)
	}
}

// TestReplacedMember has the group throw the member out between its revoke and
// its join. The client then joins as a new member and would read on.
func TestReplacedMember(t *testing.T) {
	b := startBroker(t, broker.Options{Partitions: 2, Topics: []string{"a"}})
	produce(t, b, "a", 2, 100)
	var events logs
	var owners []int64
	var lost atomic.Int32
	c := newConsumer(t, ConsumerOptions{
		Cluster: at(b), Topics: []string{"a"}, SessionTimeout: 600 * time.Millisecond, RebalanceTimeout: 1500 * time.Millisecond,
		OnAssigned: func(_ context.Context, ps []Partition, ms int64) {
			owners = append(owners, ms)
			fmt.Fprintln(&events, "assigned", ps)
		},
		OnRevoked: func(_ context.Context, ps []Partition) { fmt.Fprintln(&events, "revoked", ps) },
		OnLost:    func(ps []Partition) { fmt.Fprintln(&events, "lost", ps); lost.Add(1) },
	})
	pollN(t, c, 200)
	if err := c.Commit(t.Context(), []Offset{{"a", 0, 60}}); err != nil {
		t.Fatal(err)
	}
	// A rebalance, in which the member's own join fails.
	b.Cluster().ControlKey(int16(kmsg.JoinGroup), func(req kmsg.Request) (kmsg.Response, error, bool) {
		resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
		resp.ErrorCode = kerr.UnknownMemberID.Code
		return resp, nil, true
	})
	c.client.Load().ForceRebalance()
	var recs []schemas.Record
	pollUntilBack := func() bool { return lost.Load() > 0 && len(recs) >= 140 }
	for deadline := time.Now().Add(15 * time.Second); !pollUntilBack(); {
		var err error
		if recs, err = c.Poll(t.Context(), recs); err != nil {
			t.Fatal(err)
		}
		c.Allow()
		if time.Now().After(deadline) {
			t.Fatalf("%d records again; events:\n%s", len(recs), events.buf.String())
		}
	}
	first := map[int32]int64{}
	for _, r := range recs {
		if o, ok := first[r.Partition]; !ok || r.Offset < o {
			first[r.Partition] = r.Offset
		}
	}
	if first[0] != 60 || first[1] != 0 || len(recs) != 140 {
		t.Errorf("read %d records again from %v, want 140 from 60 and 0\n%s", len(recs), first, events.buf.String())
	}
	if n := len(owners); n != 2 || owners[1] <= owners[0] {
		t.Errorf("owners %v, want two, rising\n%s", owners, events.buf.String())
	}
	if events.count("revoked") != 0 {
		t.Errorf("a partition that was lost was called revoked:\n%s", events.buf.String())
	}
	if err := c.Commit(t.Context(), []Offset{{"a", 0, 100}, {"a", 1, 100}}); err != nil {
		t.Error(err)
	}
}

func TestCommitFailures(t *testing.T) {
	b := startBroker(t, broker.Options{Partitions: 2, Topics: []string{"a"}})
	produce(t, b, "a", 2, 100)
	var out logs
	cluster := at(b)
	cluster.Logger = out.logger()
	c := newConsumer(t, ConsumerOptions{Cluster: cluster, Topics: []string{"a"}, CommitTimeout: 3 * time.Second})
	pollN(t, c, 200)
	commit := []kmsg.Key{kmsg.OffsetCommit}

	h := b.Cluster().Fault(kfake.Fault{Keys: commit, Err: kerr.RebalanceInProgress, Count: 3})
	if err := c.Commit(t.Context(), []Offset{{"a", 0, 10}, {"a", 1, 10}}); err != nil {
		t.Errorf("commit after three retryable errors: %v", err)
	}
	if h.Hits() != 3 || commitOf(b, "a", 0).Offset != 10 || commitOf(b, "a", 1).Offset != 10 {
		t.Errorf("%d faults, committed at %d and %d; want 3, 10, 10", h.Hits(), commitOf(b, "a", 0).Offset, commitOf(b, "a", 1).Offset)
	}
	if n, m := out.count("commit failed"), out.count("commits succeed again"); n != 1 || m != 1 {
		t.Errorf("logged %d failures and %d recoveries, want one each", n, m)
	}

	b.Cluster().Fault(kfake.Fault{Keys: commit, Topic: "a", Partitions: []int32{1}, Err: kerr.TopicAuthorizationFailed})
	err := c.Commit(t.Context(), []Offset{{"a", 0, 20}, {"a", 1, 20}})
	if !errors.Is(err, kerr.TopicAuthorizationFailed) || !strings.Contains(err.Error(), "a-1") || strings.Contains(err.Error(), "a-0") {
		t.Errorf("commit of which one partition is refused: %v", err)
	}
	if commitOf(b, "a", 0).Offset != 20 || commitOf(b, "a", 1).Offset != 10 {
		t.Error("the other partition was not committed")
	}

	b.Cluster().Fault(kfake.Fault{Keys: commit, Err: kerr.IllegalGeneration})
	if err := c.Commit(t.Context(), []Offset{{"a", 0, 30}}); !errors.Is(err, ErrStale) {
		t.Errorf("commit of a stale member: %v, want ErrStale", err)
	}

	b.Cluster().Fault(kfake.Fault{Keys: commit, Err: kerr.RebalanceInProgress, Count: -1})
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := c.Commit(ctx, []Offset{{"a", 0, 30}}); !errors.Is(err, kerr.RebalanceInProgress) || time.Since(began) > 30*time.Second {
		t.Errorf("commit that never succeeds: %v after %v", err, time.Since(began))
	}
	if err := c.Commit(t.Context(), []Offset{{"nowhere", 0, 30}}); !errors.Is(err, ErrNotOwned) {
		t.Errorf("commit of another's partition: %v, want ErrNotOwned", err)
	}
}

func TestPauseLetsRebalancesThrough(t *testing.T) {
	b := startBroker(t, broker.Options{Partitions: 2, Topics: []string{"a"}})
	produce(t, b, "a", 2, 10)
	var revoked atomic.Int32
	first := newConsumer(t, ConsumerOptions{Cluster: at(b), Topics: []string{"a"}, OnRevoked: func(context.Context, []Partition) { revoked.Add(1) }})
	pollN(t, first, 20)
	first.Pause()
	second := newConsumer(t, ConsumerOptions{Cluster: at(b), Topics: []string{"a"}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			first.Poll(ctx, nil)
		}
	}()
	pollN(t, second, 10) // nothing was committed: it starts over
	cancel()
	<-done
	if revoked.Load() != 1 {
		t.Errorf("revoked %d times, want 1", revoked.Load())
	}
}

func TestRevokeContextEnds(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"a"}})
	produce(t, b, "a", 1, 1)
	var left time.Duration
	c := newConsumer(t, ConsumerOptions{Cluster: at(b), Topics: []string{"a"}, RebalanceTimeout: 8 * time.Second, OnRevoked: func(ctx context.Context, _ []Partition) {
		end, _ := ctx.Deadline()
		left = time.Until(end)
	}})
	pollN(t, c, 1)
	closeConsumer(t, c)
	if left < 5*time.Second || left > 6*time.Second {
		t.Errorf("the callback had %v, want three quarters of 8 s", left)
	}
}

// TestLossWaitsForCommit has the group drop us while a commit is in flight. If
// the partitions were lost meanwhile, and we had joined again, the commit could
// go out in the name of the new membership. What is in flight here is the lock:
// the broker answers the requests of a connection in order, so that it cannot
// answer a heartbeat while it holds back a commit.
func TestLossWaitsForCommit(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"a"}})
	produce(t, b, "a", 1, 100)
	var lost atomic.Int32
	c := newConsumer(t, ConsumerOptions{Cluster: at(b), Topics: []string{"a"}, OnLost: func([]Partition) { lost.Add(1) }})
	pollN(t, c, 100)
	c.commitMu.Lock()
	h := b.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID})
	if err := h.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // for the loss to come too early, if it does
	if n := lost.Load(); n != 0 {
		t.Errorf("lost %d times while a commit was in flight", n)
	}
	c.commitMu.Unlock()
	pollUntil(t, c, "the loss", func() bool { return lost.Load() == 1 })
}
