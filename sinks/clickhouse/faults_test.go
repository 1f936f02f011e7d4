package clickhouse

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"catena/schemas"
	"catena/sinks"
	"catena/sinks/sinktest"
)

// outage is how long the faults of these tests last; with -outage 1m and the
// writer's own backoff they are what they are in production.
var outage = flag.Duration("outage", 0, "how long the faults of TestFaults last; 0 for 300ms with a short backoff")

// faults is a writer before a database of its own, with a proxy in between.
type faults struct {
	t      *testing.T
	db     *child
	name   string // of the database in it
	proxy  *proxy
	store  *Store
	writer *sinks.Writer
	log    logLines
	done   map[string]int64 // newest progress that is durable
	mu     sync.Mutex

	rows []*schemas.Action // all that were appended
}

// newFaults starts all of it before a database process, over the protocol that
// the test's name says.
func newFaults(t *testing.T, db *child, o sinks.Options) *faults {
	t.Helper()
	f := &faults{t: t, db: db, name: fmt.Sprintf("faults_%d", databases.Add(1)), done: map[string]int64{}}
	f.proxy = newProxy(t, f.upstream())
	f.store = f.connect(f.proxy.addr())
	if _, err := f.store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if *outage == 0 {
		o.MinBackoff, o.MaxBackoff = 5*time.Millisecond, 50*time.Millisecond
	}
	o.MaxRows = cmp.Or(o.MaxRows, 1000)
	o.MaxAge = 20 * time.Millisecond
	o.Log = slog.New(slog.NewTextHandler(&f.log, nil))
	o.Done = func(b *sinks.Batch) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, p := range b.Progress {
			f.done[p.Topic] = p.Offset
		}
	}
	f.writer = sinks.NewWriter(f.store, o)
	t.Cleanup(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = f.writer.Close(ended) // closed already, unless the test failed
	})
	return f
}

// upstream is where the database listens for the test's protocol.
func (f *faults) upstream() string {
	if strings.Contains(f.t.Name()+"/", "/native/") {
		return f.db.native
	}
	return f.db.http
}

// connect opens a store at these addresses.
func (f *faults) connect(addrs ...string) *Store {
	f.t.Helper()
	scheme, _, _ := strings.Cut(addrOf(f.t), "://")
	for i := range addrs {
		addrs[i] = scheme + "://" + addrs[i]
	}
	s, err := Open(f.t.Context(), Options{Addrs: addrs, Database: f.name, DialTimeout: 2 * time.Second})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = s.Close() })
	return s
}

// restart starts the database again behind the proxy.
func (f *faults) restart() {
	f.t.Helper()
	f.db.start(f.t)
	f.proxy.mu.Lock()
	f.proxy.upstream = f.upstream()
	f.proxy.mu.Unlock()
	f.proxy.set(passing)
}

// feed appends n more rows, with bindings and progress, and pauses while the
// writer is full, as the pipeline does.
func (f *faults) feed(n int) {
	f.t.Helper()
	all := sinktest.Actions(len(f.rows) + n)
	bindings := sinktest.Bindings(len(all))
	for i := len(f.rows); i < len(all); i += 100 {
		end := min(i+100, len(all))
		select {
		case <-f.writer.Room():
		case <-time.After(2*time.Minute + *outage):
			f.t.Fatal("no room")
		}
		err := f.writer.Append(&sinks.Batch{Actions: all[i:end], Bindings: bindings[i:end],
			Progress: []schemas.Progress{{Topic: "cloudtrail", Offset: int64(end)}}})
		if err != nil {
			f.t.Fatal(err)
		}
	}
	f.rows = all
}

// patience is how long a write may take in the tests that wait for one to take
// too long; a busy machine must not.
const patience = 3 * time.Second

// await waits until the writer has noticed the fault, and then as long as it lasts.
func (f *faults) await() {
	f.t.Helper()
	for deadline := time.Now().Add(time.Minute); f.writer.Stats().Down.IsZero(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatal("the writer does not say that the sink is down")
		}
	}
	time.Sleep(f.last())
}

// last is how long a fault lasts.
func (f *faults) last() time.Duration { return cmp.Or(*outage, 300*time.Millisecond) }

// fill appends until the writer says that it is full, and checks that it then
// holds no more than it may.
func (f *faults) fill(maxRows int) {
	f.t.Helper()
	for i := 0; !f.writer.Full(); i++ {
		f.feed(100)
		if len(f.rows) > 100*maxRows {
			f.t.Fatal("it is never full")
		}
	}
	// 300 rows in 100 events: 100 rows, 100 bindings and a place.
	if pending := f.writer.Stats().PendingRows; pending > maxRows+201 {
		f.t.Errorf("%d rows are held, more than %d", pending, maxRows)
	}
}

// check closes the writer and compares the tables with what was appended:
// nothing is lost, nothing is there twice, and one outage is two lines of log.
func (f *faults) check(outages int) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	if err := f.writer.Close(ctx); err != nil {
		f.t.Fatal(err)
	}
	n := len(f.rows)
	direct := f.connect(f.upstream())
	for sql, want := range map[string]string{
		"SELECT count(), uniqExact(event_id) FROM actions FINAL": fmt.Sprint(n, " ", n),
		"SELECT uniqExact(event_id) FROM actions":                fmt.Sprint(n),
		"SELECT count() FROM bindings FINAL":                     fmt.Sprint(n),
		"SELECT count() FROM dead_letters":                       "0",
		"SELECT max(offset) FROM progress FINAL":                 fmt.Sprint(n),
	} {
		if got := rows(f.t, direct, sql); !slices.Equal(got, []string{want}) {
			f.t.Errorf("%s: %v, want %s", sql, got, want)
		}
	}
	if f.done["cloudtrail"] != int64(n) {
		f.t.Errorf("done to offset %d, want %d", f.done["cloudtrail"], n)
	}
	f.checkLog(outages)
}

func (f *faults) checkLog(outages int) {
	f.t.Helper()
	lines := f.log.lines()
	ok := len(lines) == 2*outages
	for i, line := range lines {
		ok = ok && strings.Contains(line, []string{`msg="sink down`, `msg="sink recovered"`}[i%2])
	}
	if !ok {
		f.t.Errorf("want %d outages, each with one line when it begins and one when it is over:\n%s", outages, strings.Join(lines, "\n"))
	}
	for _, line := range lines {
		f.t.Log(line)
	}
	f.t.Logf("%d rows, %d failed attempts", len(f.rows), f.writer.Stats().Retries)
}

// The database is killed and away for a while: the writer fills up to its
// bound, holds no more memory than that, and all rows arrive once it is back.
func TestFaultsDown(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		f := newFaults(t, newChild(t), sinks.Options{MaxPendingRows: 5000})
		f.feed(3000)
		f.db.kill()
		f.proxy.set(refusing)
		before := heap()
		f.fill(5000)
		f.await()
		if held, grown := f.writer.Stats().PendingBytes, heap()-before; grown > 4*held+16<<20 {
			t.Errorf("the heap grew by %d bytes for %d that are held", grown, held)
		}
		f.restart()
		f.feed(2000)
		f.check(1)
	})
}

func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// The database dies in the middle of an insert, of which half has arrived.
func TestFaultsRestartAmidInsert(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		f := newFaults(t, newChild(t), sinks.Options{MaxRows: 6000, MaxPendingRows: 50_000})
		f.proxy.mu.Lock()
		f.proxy.mode, f.proxy.budget = cutting, 1<<20 // bindings and some of the actions: 3,000 of them are 2.5 MB
		died := make(chan struct{})
		f.proxy.cut = func() { f.db.kill(); close(died) }
		f.proxy.mu.Unlock()
		f.feed(3000)
		select {
		case <-died:
		case <-time.After(time.Minute):
			t.Fatal("so much was never sent")
		}
		f.feed(3000)
		f.await()
		f.restart()
		f.check(1)
	})
}

// The answer to an insert is lost: the database has the rows, the writer does
// not know, and writes them again.
func TestFaultsLostAnswer(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		f := newFaults(t, sharedChild(t), sinks.Options{WriteTimeout: patience})
		f.feed(1000)
		if err := f.writer.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.proxy.mu.Lock()
		f.proxy.mode = deaf
		f.proxy.mu.Unlock()
		f.feed(1000)
		f.await()
		f.proxy.set(refusing)
		f.proxy.set(passing)
		f.check(1)
	})
}

// Settings of a table make the database refuse inserts with its own errors: a
// read-only table and a full disk are mended by a person, and nothing is lost.
func TestFaultsRefusing(t *testing.T) {
	for name, test := range map[string]struct{ set, reset, says string }{
		"read-only":    {"table_readonly = 1", "table_readonly = 0", "read-only"},
		"out of space": {"min_free_disk_bytes_to_perform_insert = 1000000000000000000", "min_free_disk_bytes_to_perform_insert = 0", "disk is full"},
	} {
		t.Run(name, func(t *testing.T) {
			overBoth(t, func(t *testing.T) {
				f := newFaults(t, sharedChild(t), sinks.Options{})
				f.feed(1000)
				if err := f.writer.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				exec(t, f.store, "ALTER TABLE actions MODIFY SETTING "+test.set)
				f.feed(2000)
				f.await()
				if got := rows(t, f.store, "SELECT count() FROM actions"); !slices.Equal(got, []string{"1000"}) {
					t.Errorf("%v rows while it is %s", got, name)
				}
				exec(t, f.store, "ALTER TABLE actions MODIFY SETTING "+test.reset)
				f.check(1)
				if lines := f.log.lines(); len(lines) > 0 && !strings.Contains(lines[0], test.says) {
					t.Errorf("%q does not say %q", lines[0], test.says)
				}
			})
		})
	}
}

// A slow database pauses whoever appends; it is no outage. One that answers
// nothing at all is.
func TestFaultsSlow(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		f := newFaults(t, sharedChild(t), sinks.Options{MaxPendingRows: 3000, WriteTimeout: 20 * time.Second})
		f.proxy.mu.Lock()
		f.proxy.mode, f.proxy.delay = slow, 10*time.Millisecond
		f.proxy.mu.Unlock()
		f.fill(3000)
		f.feed(2000)
		f.proxy.set(passing)
		f.check(0)
	})
}

func TestFaultsSilent(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		f := newFaults(t, sharedChild(t), sinks.Options{WriteTimeout: patience})
		f.feed(1000)
		if err := f.writer.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.proxy.set(silent)
		f.feed(1000)
		f.await()
		f.proxy.set(refusing)
		f.proxy.set(passing)
		f.check(1)
	})
}

// One row of 50,000 that the database refuses for good becomes a dead letter,
// and only it; the others are not asked for one by one.
func TestFaultsOneBadRow(t *testing.T) {
	// Over one protocol: the writer does this, and TestARefusedRowIsTheOnlyOneToGo runs over both.
	t.Run("http", func(t *testing.T) {
		f := newFaults(t, sharedChild(t), sinks.Options{MaxRows: 200_000, MaxPendingRows: 400_000})
		exec(t, f.store, "ALTER TABLE actions ADD CONSTRAINT readable CHECK action != 'refused'")
		counted := &counting{Sink: f.store}
		w := sinks.NewWriter(counted, sinks.Options{MaxRows: 200_000, Log: slog.New(slog.NewTextHandler(&f.log, nil))})
		batch := &sinks.Batch{Actions: sinktest.Actions(50_000), Progress: []schemas.Progress{{Topic: "cloudtrail", Offset: 50_000}}}
		bad := *batch.Actions[31_415]
		bad.Event.Action = "refused"
		batch.Actions[31_415] = &bad
		if err := w.Append(batch); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		for sql, want := range map[string]string{
			"SELECT count(), uniqExact(event_id) FROM actions FINAL":    "49999 49999",
			"SELECT count() FROM actions WHERE action = 'refused'":      "0",
			"SELECT reason, topic, partition, offset FROM dead_letters": fmt.Sprint("rejected ", bad.Evidence.Topic, " ", bad.Evidence.Partition, " ", bad.Evidence.Offset),
			"SELECT error LIKE '%readable%' FROM dead_letters":          "1",
			"SELECT max(offset) FROM progress FINAL":                    "50000",
		} {
			if got := rows(t, f.store, sql); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %v, want %s", sql, got, want)
			}
		}
		// 50,000 is halved 16 times: two writes each, the first, the dead letter and the progress.
		if counted.writes > 2*16+3 {
			t.Errorf("%d writes", counted.writes)
		}
		t.Logf("%d writes, %d rows sent for 50,000", counted.writes, counted.rows)
		f.checkLog(0)
	})
}

// counting counts what a sink is given.
type counting struct {
	sinks.Sink
	writes, rows int
}

func (c *counting) Write(ctx context.Context, b *sinks.Batch) error {
	c.writes++
	c.rows += b.Rows()
	return c.Sink.Write(ctx, b)
}

// The first of two addresses goes away: the second takes over.
func TestFaultsFailover(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		f := newFaults(t, sharedChild(t), sinks.Options{})
		second := newProxy(t, f.upstream())
		f.store = f.connect(f.proxy.addr(), second.addr())
		w := sinks.NewWriter(f.store, sinks.Options{MaxRows: 1000, MinBackoff: 5 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
			Log: slog.New(slog.NewTextHandler(&f.log, nil)), Done: func(b *sinks.Batch) { f.done["cloudtrail"] = b.Progress[len(b.Progress)-1].Offset }})
		if err := f.writer.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.writer = w
		f.feed(2000)
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.proxy.set(refusing)
		f.feed(2000)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := w.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		f.check(min(1, len(f.log.lines())/2)) // an idle connection may be noticed before it is used
	})
}

// logLines are the lines of a log.
type logLines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logLines) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := strings.TrimSuffix(l.text.String(), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
