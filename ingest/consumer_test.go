package ingest

import (
	"bytes"
	"context"
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
