package ingest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
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
	"go.uber.org/goleak"

	"catena/ingest/broker"
	"catena/schemas"
)

// startBroker runs a broker for the test and checks at its end that nothing is
// left running.
func startBroker(t *testing.T, opts broker.Options) *broker.Broker {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	opts.Kafka = append(opts.Kafka, kfake.GroupMinSessionTimeout(100*time.Millisecond))
	b, err := broker.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// logs collects a test's log, for it to look at.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), s)
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func at(b *broker.Broker) Cluster {
	return Cluster{Brokers: []string{b.Addr()}, StartTimeout: 5 * time.Second}
}

func newConsumer(t *testing.T, opts ConsumerOptions) *Consumer {
	t.Helper()
	if opts.Group == "" {
		opts.Group = "g"
	}
	if opts.SessionTimeout == 0 {
		opts.SessionTimeout = 2 * time.Second
	}
	if opts.RebalanceTimeout == 0 {
		opts.RebalanceTimeout = 10 * time.Second
	}
	c, err := NewConsumer(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeConsumer(t, c) })
	return c
}

func closeConsumer(t *testing.T, c *Consumer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		t.Error(err)
	}
}

// produce writes n records "0", "1", … to each partition from 0 on.
func produce(t *testing.T, b *broker.Broker, topic string, partitions, n int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i := range n {
		for p := range partitions {
			cl.Produce(t.Context(), &kgo.Record{Topic: topic, Partition: int32(p), Value: fmt.Append(nil, i)}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	if err := cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// pollN polls until it has n records.
func pollN(t *testing.T, c *Consumer, n int) []schemas.Record {
	t.Helper()
	var recs []schemas.Record
	for deadline := time.Now().Add(20 * time.Second); len(recs) < n; {
		had := len(recs)
		var err error
		if recs, err = c.Poll(t.Context(), recs); err != nil {
			t.Fatal(err)
		}
		if len(recs) > had {
			c.Allow()
		}
		if time.Now().After(deadline) {
			t.Fatalf("polled %d records, want %d", len(recs), n)
		}
	}
	return recs
}

// pollUntil polls, dropping what comes, until done.
func pollUntil(t *testing.T, c *Consumer, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); {
		recs, err := c.Poll(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(recs) > 0 {
			c.Allow()
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s took too long", what)
		}
	}
}

func commitOf(b *broker.Broker, topic string, partition int32) kfake.GroupCommit {
	if g := b.Cluster().GroupInfo("g"); g != nil {
		if c, ok := g.Commits[topic][partition]; ok {
			return c
		}
	}
	return kfake.GroupCommit{Offset: -1}
}

func TestConsumeAll(t *testing.T) {
	b := startBroker(t, broker.Options{Partitions: 3, Topics: []string{"a", "b"}})
	produce(t, b, "a", 3, 1000)
	produce(t, b, "b", 3, 100)
	c := newConsumer(t, ConsumerOptions{Cluster: at(b), Topics: []string{"a", "b"}, MaxPollRecords: 70})

	next := map[Partition]int64{}
	for total := 0; total < 3300; {
		recs, err := c.Poll(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(recs) > 70 {
			t.Fatalf("Poll gave %d records, want at most 70", len(recs))
		}
		for _, r := range recs {
			p := Partition{r.Topic, r.Partition}
			if r.Offset != next[p] || string(r.Value) != fmt.Sprint(r.Offset) {
				t.Fatalf("%v: got offset %d with %q, want offset %d", p, r.Offset, r.Value, next[p])
			}
			if age := time.Since(time.Unix(0, r.TimestampNanos)); age < -time.Minute || age > time.Minute {
				t.Fatalf("timestamp is %v ago", age)
			}
			next[p]++
		}
		total += len(recs)
		c.Allow()
	}
	if len(next) != 6 {
		t.Errorf("records came from %d partitions, want 6", len(next))
	}
	for _, p := range c.Positions(nil) {
		if p.Lag() != 0 || p.Next != next[p.Partition] || p.Committed != -1 {
			t.Errorf("position %+v, want lag 0, next %d, nothing committed", p, next[p.Partition])
		}
	}
	if s := c.Stats(); s.Records != 3300 || s.Gaps != 0 || s.Control != 0 || s.Expired != 0 || s.Assigned != 6 {
		t.Errorf("stats %+v", s)
	}

	produce(t, b, "a", 1, 10)
	c.Pause()
	if err := c.UpdateEnds(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := c.Positions(nil)[0]; p.Lag() != 10 {
		t.Errorf("lag of %v is %d, want 10", p.Partition, p.Lag())
	}
}

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

// TestPause holds a consumer still for longer than the session lasts.
func TestPause(t *testing.T) {
	b := startBroker(t, broker.Options{Partitions: 2, Topics: []string{"a"}})
	p, err := NewProducer(t.Context(), ProducerOptions{Cluster: at(b), Compression: "none", RoundRobin: true})
	if err != nil {
		t.Fatal(err)
	}
	const n, size = 640, 100 << 10
	for range n {
		if err := p.Produce(t.Context(), schemas.Record{Topic: "a", Value: make([]byte, size)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Close()

	var lost atomic.Int32
	c := newConsumer(t, ConsumerOptions{
		Cluster: at(b), Topics: []string{"a"}, SessionTimeout: 500 * time.Millisecond, MaxPollRecords: 10,
		FetchMaxBytes: 4 << 20, FetchMaxPartitionBytes: 2 << 20,
		OnLost: func([]Partition) { lost.Add(1) },
	})
	got := len(pollN(t, c, 10))
	c.Pause()
	var most int64
	for until := time.Now().Add(2 * time.Second); time.Now().Before(until); {
		began := time.Now()
		recs, err := c.Poll(t.Context(), nil)
		if err != nil || len(recs) > 0 {
			t.Fatalf("Poll while paused: %d records, %v", len(recs), err)
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("Poll while paused took %v", d)
		}
		most = max(most, c.Stats().BufferedBytes)
	}
	// A batch of 16 MiB may be larger than the limit of a fetch, and is delivered.
	if most == 0 || most > 2*MaxRecordBytes+4<<20 {
		t.Errorf("%d bytes were held while paused", most)
	}
	// Others may come and go meanwhile.
	g, err := b.Cluster().WaitGroupStable(t.Context(), "g", 1)
	if err != nil || len(g.Members) != 1 || lost.Load() != 0 {
		t.Fatalf("the group after the pause: %+v, %v, %d losses", g, err, lost.Load())
	}
	c.Resume()
	pollN(t, c, n-got)
	if s := c.Stats(); s.Records != n {
		t.Errorf("%d records, want %d", s.Records, n)
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

func TestPollEndsWithContext(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"a"}})
	c := newConsumer(t, ConsumerOptions{Cluster: at(b), Topics: []string{"a"}})
	pollUntil(t, c, "the assignment", func() bool { return c.Stats().Assigned == 1 })
	began := time.Now()
	if recs, err := c.Poll(t.Context(), nil); err != nil || len(recs) > 0 {
		t.Errorf("Poll of an empty topic: %d records, %v", len(recs), err)
	}
	if d := time.Since(began); d > time.Second {
		t.Errorf("Poll of an empty topic took %v", d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(30*time.Millisecond, cancel)
	var err error
	for err == nil {
		_, err = c.Poll(ctx, nil)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Poll after its context ended: %v", err)
	}
	closeConsumer(t, c)
	if _, err := c.Poll(t.Context(), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Poll after Close: %v, want ErrClosed", err)
	}
}

// TestCloseGivesUp has a callback that would never return.
func TestCloseGivesUp(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"a"}})
	produce(t, b, "a", 1, 1)
	c := newConsumer(t, ConsumerOptions{Cluster: at(b), Topics: []string{"a"}, OnRevoked: func(ctx context.Context, _ []Partition) { <-ctx.Done() }})
	pollN(t, c, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close: %v, want the context's error", err)
	}
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("Close took %v", d)
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

func TestStartErrors(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"audit", "audit-dlq"}})
	here, quick := at(b), 200*time.Millisecond
	sealed := startBroker(t, broker.Options{Topics: []string{"a"}, Kafka: []kfake.Opt{
		kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "u", "p"), kfake.Superuser("PLAIN", "u", "p"),
	}})
	rude := listen(t, func(conn net.Conn) { conn.Read(make([]byte, 1)); conn.Close() })
	silent := listen(t, func(conn net.Conn) { t.Cleanup(func() { conn.Close() }) })
	base := func(o ConsumerOptions) ConsumerOptions {
		if o.Brokers == nil {
			o.Brokers = here.Brokers
		}
		o.Group, o.StartTimeout = "g", quick
		return o
	}
	for _, tc := range []struct {
		name string
		opts ConsumerOptions
		want string
	}{
		{"refused", ConsumerOptions{Cluster: Cluster{Brokers: []string{"127.0.0.1:1"}}, Topics: []string{"audit"}},
			"kafka: no broker answers at 127.0.0.1:1: connection refused; check CATENA_KAFKA_BROKERS"},
		{"no brokers", ConsumerOptions{Cluster: Cluster{Brokers: []string{}}, Topics: []string{"audit"}}, "kafka: no broker address given; check CATENA_KAFKA_BROKERS"},
		{"no topics", ConsumerOptions{}, "kafka: no topic given; check CATENA_KAFKA_TOPICS"},
		{"missing topic", ConsumerOptions{Topics: []string{"audit", "nope"}},
			"kafka: topic nope does not exist at " + b.Addr() + "; create it or check CATENA_KAFKA_TOPICS"},
		{"missing topics", ConsumerOptions{Topics: []string{"x", "audit", "y"}, Missing: MissingWait},
			"kafka: topics x, y do not exist at " + b.Addr() + "; create it or check CATENA_KAFKA_TOPICS"},
		{"no match", ConsumerOptions{Topics: []string{"aud"}, Regex: true},
			"kafka: no topic matches aud at " + b.Addr() + "; create it or check CATENA_KAFKA_TOPICS"},
		{"excluded", ConsumerOptions{Topics: []string{"audit.*"}, Exclude: []string{"audit", ".*-dlq"}, Regex: true}, "kafka: no topic matches audit.*"},
		{"bad pattern", ConsumerOptions{Topics: []string{"("}, Regex: true}, `kafka: topic pattern "(":`},
		{"bad start", ConsumerOptions{Topics: []string{"audit"}, Start: "yesterday"}, `kafka: start "yesterday" is none of`},
		{"bad mechanism", ConsumerOptions{Cluster: Cluster{SASL: SASL{Mechanism: "GSSAPI"}}, Topics: []string{"audit"}}, `kafka: SASL mechanism "GSSAPI" is none of`},
		// A broker without TLS hangs up, or waits for the rest of what it takes for a request.
		{"TLS to a broker that hangs up", ConsumerOptions{Cluster: Cluster{Brokers: []string{rude}, TLS: systemTLS}, Topics: []string{"audit"}},
			"kafka: " + rude + " hangs up: "},
		{"TLS to a broker that waits", ConsumerOptions{Cluster: Cluster{Brokers: []string{silent}, TLS: systemTLS}, Topics: []string{"audit"}},
			"kafka: no broker answers at " + silent + " within 200ms with TLS; check CATENA_KAFKA_BROKERS and CATENA_KAFKA_TLS"},
		{"silence", ConsumerOptions{Cluster: Cluster{Brokers: []string{silent}}, Topics: []string{"audit"}},
			"kafka: no broker answers at " + silent + " within 200ms; check CATENA_KAFKA_BROKERS"},
		{"wrong password", ConsumerOptions{Cluster: Cluster{Brokers: []string{sealed.Addr()}, SASL: login("SCRAM-SHA-256", "u", "x")}, Topics: []string{"a"}},
			"kafka: " + sealed.Addr() + " hangs up: EOF; check CATENA_KAFKA_TLS and CATENA_KAFKA_TLS_… and CATENA_KAFKA_SASL_MECHANISM"},
		{"no login", ConsumerOptions{Cluster: Cluster{Brokers: []string{sealed.Addr()}}, Topics: []string{"a"}}, "kafka: " + sealed.Addr() + " hangs up: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := NewConsumer(t.Context(), base(tc.opts))
			if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256"} {
		c, err := NewConsumer(t.Context(), ConsumerOptions{Cluster: Cluster{Brokers: []string{sealed.Addr()}, SASL: login(mechanism, "u", "p")}, Group: "g", Topics: []string{"a"}})
		if err != nil {
			t.Errorf("%s: %v", mechanism, err)
			continue
		}
		closeConsumer(t, c)
	}
}

func login(mechanism, user, password string) SASL {
	return SASL{Mechanism: mechanism, User: user, Password: func() string { return password }}
}

func systemTLS() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS12} }

// listen runs a listener that is no broker and returns its address.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serve(conn)
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func TestMissingTopics(t *testing.T) {
	b := startBroker(t, broker.Options{})
	time.AfterFunc(300*time.Millisecond, func() { b.Cluster().CreateTopic("late", 1, nil) })
	c := newConsumer(t, ConsumerOptions{Cluster: at(b), Topics: []string{"late"}, Missing: MissingWait})
	produce(t, b, "late", 1, 3)
	pollN(t, c, 3)

	c = newConsumer(t, ConsumerOptions{Cluster: at(b), Group: "h", Topics: []string{"later"}, Missing: MissingAllow})
	if _, err := c.Poll(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	b.Cluster().CreateTopic("later", 1, nil)
	produce(t, b, "later", 1, 3)
	pollN(t, c, 3)
}

func TestRegex(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"audit", "audit-dlq", "audit-eu", "my-audit"}})
	for _, topic := range []string{"audit", "audit-dlq", "audit-eu", "my-audit"} {
		produce(t, b, topic, 1, 5)
	}
	c := newConsumer(t, ConsumerOptions{Cluster: at(b), Topics: []string{"audit.*"}, Exclude: []string{".*-dlq"}, Regex: true})
	got := map[string]int{}
	for _, r := range pollN(t, c, 10) {
		got[r.Topic]++
	}
	if len(got) != 2 || got["audit"] != 5 || got["audit-eu"] != 5 {
		t.Errorf("read %v, want audit and audit-eu", got)
	}
}

func TestStart(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"a"}})
	produce(t, b, "a", 1, 5)
	time.Sleep(20 * time.Millisecond)
	middle := time.Now()
	produce(t, b, "a", 1, 5)
	time.Sleep(20 * time.Millisecond)
	for i, tc := range []struct {
		start string
		first int64
	}{
		{"", 0}, {"earliest", 0}, {middle.Format(time.RFC3339Nano), 5}, {"latest", 10},
	} {
		c := newConsumer(t, ConsumerOptions{Cluster: at(b), Group: fmt.Sprint("g", i), Topics: []string{"a"}, Start: tc.start})
		if tc.first == 10 {
			pollUntil(t, c, "the assignment", func() bool { return c.Stats().Assigned == 1 })
			// What a start leaves out is nothing to read: it must not count as lag.
			if err := c.UpdateEnds(t.Context()); err != nil {
				t.Fatal(err)
			}
			if p := c.Positions(nil)[0]; p.First != 10 || p.End != 10 {
				t.Errorf("before the first record: %+v, want reading to begin at 10", p)
			}
			produce(t, b, "a", 1, 5)
		}
		if recs := pollN(t, c, 5); recs[0].Offset != tc.first {
			t.Errorf("start %q: the first record is %d, want %d", tc.start, recs[0].Offset, tc.first)
		}
		if p := c.Positions(nil)[0]; p.First != tc.first {
			t.Errorf("start %q: reading began at %d, want %d", tc.start, p.First, tc.first)
		}
	}
}

// TestTransactions: markers and aborted records are offsets without a record.
func TestTransactions(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"a"}})
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.TransactionalID("x"), kgo.DefaultProduceTopic("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			cl.Produce(t.Context(), kgo.StringRecord("v"), nil)
		}
		if err := cl.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(t.Context(), end); err != nil {
			t.Fatal(err)
		}
	}
	// 0 1 2 commit, 4 5 6 abort, 8 9 10 commit
	c := newConsumer(t, ConsumerOptions{Cluster: at(b), Topics: []string{"a"}})
	recs := pollN(t, c, 6)
	if last := recs[5].Offset; last != 10 {
		t.Fatalf("the last record is %d, want 10", last)
	}
	pollUntil(t, c, "the last marker", func() bool { return c.Positions(nil)[0].Lag() == 0 })
	if s := c.Stats(); s.Records != 6 || s.Control != 3 || s.Gaps != 3 {
		t.Errorf("%d records, %d markers, %d gaps; want 6, 3, 3", s.Records, s.Control, s.Gaps)
	}
	for range 2 {
		if err := c.Commit(t.Context(), []Offset{{"a", 0, recs[5].Offset + 1}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := commitOf(b, "a", 0).Offset; got != 12 {
		t.Errorf("committed at %d, want 12: past the last marker", got)
	}
	if s := c.Stats(); s.Commits != 1 {
		t.Errorf("%d commits were sent, want 1", s.Commits)
	}
}

// TestGaps: whoever accounts for offsets without a record is told of them, and
// commits what it accounted for, even if no record follows.
func TestGaps(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"a"}})
	produce(t, b, "a", 1, 20)
	if err := b.Cluster().DeleteRecords("a", 0, 15); err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.TransactionalID("x"), kgo.DefaultProduceTopic("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, end := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit} { // 20 21 abort, 23 24 commit
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			cl.Produce(t.Context(), kgo.StringRecord("v"), nil)
		}
		if err := cl.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(t.Context(), end); err != nil {
			t.Fatal(err)
		}
	}
	if err := kadm.NewClient(cl).CommitAllOffsets(t.Context(), "g", kadm.Offsets{"a": {0: {Topic: "a", At: 10, LeaderEpoch: -1}}}); err != nil {
		t.Fatal(err)
	}
	var gaps []Gap
	c := newConsumer(t, ConsumerOptions{Cluster: at(b), Topics: []string{"a"}, OnGap: func(g Gap) { gaps = append(gaps, g) }})
	recs := pollN(t, c, 7)
	pollUntil(t, c, "the last marker", func() bool { return c.Positions(nil)[0].Lag() == 0 })
	part := Partition{"a", 0}
	want := []Gap{{part, 10, 15, true}, {part, 20, 23, false}, {part, 25, 26, false}}
	if !slices.Equal(gaps, want) {
		t.Errorf("gaps %+v, want %+v", gaps, want)
	}
	if err := c.Commit(t.Context(), []Offset{{"a", 0, recs[6].Offset + 1}}); err != nil {
		t.Fatal(err)
	}
	if got := commitOf(b, "a", 0).Offset; got != 25 {
		t.Errorf("committed at %d, want 25: what is behind is not accounted for yet", got)
	}
	if err := c.Commit(t.Context(), []Offset{{"a", 0, 26}}); err != nil {
		t.Error(err)
	}
	if err := c.Commit(t.Context(), []Offset{{"a", 0, 27}}); err == nil {
		t.Error("offset 26 was committed, which nobody has seen")
	}
}

func TestExpiredAreCounted(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"a"}})
	produce(t, b, "a", 1, 100)
	var out logs
	cluster := at(b)
	cluster.Logger = out.logger()
	c := newConsumer(t, ConsumerOptions{Cluster: cluster, Topics: []string{"a"}})
	pollN(t, c, 100)
	if err := c.Commit(t.Context(), []Offset{{"a", 0, 10}}); err != nil {
		t.Fatal(err)
	}
	closeConsumer(t, c)
	if err := b.Cluster().DeleteRecords("a", 0, 60); err != nil {
		t.Fatal(err)
	}
	c = newConsumer(t, ConsumerOptions{Cluster: cluster, Topics: []string{"a"}})
	if recs := pollN(t, c, 40); recs[0].Offset != 60 {
		t.Errorf("the first record is %d, want 60", recs[0].Offset)
	}
	if s := c.Stats(); s.Expired != 50 || s.Gaps != 0 {
		t.Errorf("%d expired, %d gaps; want 50, 0", s.Expired, s.Gaps)
	}
	if out.count("records expired") != 1 {
		t.Error("the loss was not logged once")
	}
}

func TestLargeRecord(t *testing.T) {
	b := startBroker(t, broker.Options{})
	p, err := NewProducer(t.Context(), ProducerOptions{Cluster: at(b)})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if created, err := p.EnsureTopic(t.Context(), "big", 1, nil); err != nil || !created {
		t.Fatal(created, err)
	}
	value := make([]byte, 12<<20)
	for i := range value {
		value[i] = byte(i * i >> 7)
	}
	for range 2 {
		if err := p.Produce(t.Context(), schemas.Record{Topic: "big", Key: []byte("k"), Value: value, Headers: []schemas.Header{{Key: "h", Value: []byte("v")}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := newConsumer(t, ConsumerOptions{Cluster: at(b), Topics: []string{"big"}, FetchMaxBytes: 1 << 20, FetchMaxPartitionBytes: 1 << 20})
	for _, r := range pollN(t, c, 2) {
		if !bytes.Equal(r.Value, value) || string(r.Key) != "k" || len(r.Headers) != 1 || r.Headers[0].Key != "h" || string(r.Headers[0].Value) != "v" {
			t.Error("the record came back changed")
		}
	}
}

// TestUnreadable sends a batch that is far larger than it looks.
func TestUnreadable(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"a"}})
	produce(t, b, "a", 1, 3)
	p, err := NewProducer(t.Context(), ProducerOptions{Cluster: at(b), Compression: "zstd"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Produce(t.Context(), schemas.Record{Topic: "a", Value: make([]byte, 8<<20)}); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	produce(t, b, "a", 1, 3)
	var skipped []Unreadable
	c := newConsumer(t, ConsumerOptions{
		Cluster: at(b), Topics: []string{"a"}, MaxBatchBytes: 1 << 20,
		OnUnreadable: func(u Unreadable) { skipped = append(skipped, u) },
	})
	recs := pollN(t, c, 6)
	if len(recs) != 6 || recs[2].Offset != 2 || recs[3].Offset != 4 {
		t.Fatalf("%d records: %d is followed by %d", len(recs), recs[2].Offset, recs[3].Offset)
	}
	if len(skipped) != 1 || skipped[0].From != 3 || skipped[0].Next != 4 || skipped[0].Partition != (Partition{"a", 0}) || !errors.Is(skipped[0].Err, kgo.ErrMaxDecompress) {
		t.Errorf("skipped %+v", skipped)
	}
	if s := c.Stats(); s.Unreadable != 1 || s.Gaps != 0 {
		t.Errorf("%d unreadable, %d gaps; want 1, 0", s.Unreadable, s.Gaps)
	}
	if err := c.Commit(t.Context(), []Offset{{"a", 0, 7}}); err != nil {
		t.Error(err)
	}
}

func TestFetchErrors(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"a", "b"}})
	produce(t, b, "a", 1, 5)
	produce(t, b, "b", 1, 5)
	var out logs
	cluster := at(b)
	cluster.Logger = out.logger()
	fetch := []kmsg.Key{kmsg.Fetch}

	// What others may mend is tried on, and logged when it begins and ends.
	h := b.Cluster().Fault(kfake.Fault{Keys: fetch, Topic: "a", Err: kerr.TopicAuthorizationFailed, Count: -1})
	c := newConsumer(t, ConsumerOptions{Cluster: cluster, Topics: []string{"a", "b"}})
	pollN(t, c, 5)
	pollUntil(t, c, "some errors", func() bool { return c.Stats().FetchErrors >= 3 })
	if f := c.Failing(); len(f) != 1 || !strings.Contains(f[Partition{"a", 0}], "TOPIC_AUTHORIZATION_FAILED") {
		t.Errorf("failing: %v", f)
	}
	h.Remove()
	pollN(t, c, 5)
	if f := c.Failing(); len(f) != 0 {
		t.Errorf("failing after the recovery: %v", f)
	}
	if n, m := out.count("cannot read"), out.count("reading partition again"); n != 1 || m != 1 {
		t.Errorf("logged %d failures and %d recoveries, want one each", n, m)
	}
	closeConsumer(t, c)

	// What lasts is fatal.
	b.Cluster().Fault(kfake.Fault{Keys: fetch, Topic: "a", Err: kerr.TopicAuthorizationFailed, Count: -1})
	c = newConsumer(t, ConsumerOptions{Cluster: cluster, Group: "h", Topics: []string{"a", "b"}, FatalAfter: 300 * time.Millisecond})
	err := pollError(t, c)
	if want := "kafka: topic a partition 0: TOPIC_AUTHORIZATION_FAILED"; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Poll: %v, want %s", err, want)
	}
	closeConsumer(t, c)

	// A group that cannot be joined at all is fatal at once.
	b.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup}, TopLevel: true, Err: kerr.GroupAuthorizationFailed, Count: -1})
	c = newConsumer(t, ConsumerOptions{Cluster: cluster, Group: "i", Topics: []string{"b"}})
	err = pollError(t, c)
	if want := "kafka: group i: GROUP_AUTHORIZATION_FAILED"; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Poll: %v, want %s", err, want)
	}
}

func pollError(t *testing.T, c *Consumer) error {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if _, err := c.Poll(t.Context(), nil); err != nil {
			return err
		}
		c.Allow()
	}
	t.Fatal("Poll did not fail")
	return nil
}

// TestBrokerGoesAndComes restarts the broker under the consumer.
func TestBrokerGoesAndComes(t *testing.T) {
	dir := t.TempDir()
	b := startBroker(t, broker.Options{Topics: []string{"a"}, DataDir: dir})
	produce(t, b, "a", 1, 5)
	var out logs
	cluster := at(b)
	cluster.Logger = out.logger()
	c := newConsumer(t, ConsumerOptions{Cluster: cluster, Topics: []string{"a"}, SessionTimeout: 5 * time.Second})
	pollN(t, c, 5)
	var port int
	fmt.Sscanf(b.Addr(), "127.0.0.1:%d", &port)
	b.Close()
	pollUntil(t, c, "the outage to be noticed", func() bool { return out.count("does not answer") > 0 })
	again, err := broker.Start(broker.Options{Port: port, DataDir: dir, Kafka: []kfake.Opt{kfake.GroupMinSessionTimeout(100 * time.Millisecond)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeConsumer(t, c); again.Close() })
	produce(t, again, "a", 1, 5)
	if recs := pollN(t, c, 5); recs[len(recs)-1].Offset != 9 {
		t.Errorf("the last record is %d, want 9", recs[len(recs)-1].Offset)
	}
	if n := out.count("does not answer"); n > 2 { // the seed and the broker it told of
		t.Errorf("the outage was logged %d times", n)
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

func TestExplain(t *testing.T) {
	c := Cluster{Brokers: []string{"k1:9092", "k2:9092"}, SASL: SASL{Mechanism: "PLAIN", User: "u"}}
	for _, tc := range []struct {
		err       error
		want      string
		permanent bool
	}{
		{kerr.SaslAuthenticationFailed, `kafka: k1:9092, k2:9092 refuses the login of user "u" (PLAIN): SASL_AUTHENTICATION_FAILED`, true},
		{x509.UnknownAuthorityError{}, "kafka: k1:9092, k2:9092: TLS: x509: certificate signed by unknown authority; check CATENA_KAFKA_TLS", true},
		{loginError{errors.New("token file is empty")}, "kafka: no credentials to log in with at k1:9092, k2:9092: token file is empty; check CATENA_KAFKA_SASL_MECHANISM", false},
		{&net.DNSError{Err: "no such host", Name: "k1", IsNotFound: true}, "kafka: no broker answers at k1:9092, k2:9092: lookup k1: no such host; check CATENA_KAFKA_BROKERS", false},
		{context.DeadlineExceeded, "kafka: no broker answers at k1:9092, k2:9092 within 15s; check CATENA_KAFKA_BROKERS", false},
	} {
		permanent, err := c.explain(fmt.Errorf("unable to dial: %w", tc.err))
		if permanent != tc.permanent {
			t.Errorf("%v: permanent = %v, want %v", tc.err, permanent, tc.permanent)
		}
		if got := strings.ReplaceAll(err.Error(), "unable to dial: ", ""); !strings.HasPrefix(got, tc.want) {
			t.Errorf("got  %s\nwant %s", got, tc.want)
		}
	}
}
