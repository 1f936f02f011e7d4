package sinks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"catena/schemas"
	"catena/sinks"
	"catena/sinks/sinktest"
)

// memory is a sink that keeps what it is given and fails as it is told.
type memory struct {
	mu     sync.Mutex
	writes []sinks.Batch
	fail   func(n int, b *sinks.Batch) error // n counts attempts from 1
	n      int
	block  chan struct{} // when not nil, each write waits for a value
}

func (m *memory) Write(ctx context.Context, b *sinks.Batch) error {
	if m.block != nil {
		select {
		case <-m.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n++
	if m.fail != nil {
		if err := m.fail(m.n, b); err != nil {
			return err
		}
	}
	m.writes = append(m.writes, sinks.Batch{
		Actions: slices.Clone(b.Actions), Bindings: slices.Clone(b.Bindings),
		DeadLetters: slices.Clone(b.DeadLetters), Progress: slices.Clone(b.Progress),
	})
	return nil
}

func (m *memory) Close() error { return nil }

// shape tells each write as counts: actions, bindings, dead letters, progress.
func (m *memory) shape() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var words []string
	for _, b := range m.writes {
		words = append(words, fmt.Sprintf("%da%db%dd%dp", len(b.Actions), len(b.Bindings), len(b.DeadLetters), len(b.Progress)))
	}
	return strings.Join(words, " ")
}

func one(i int) *sinks.Batch { return &sinks.Batch{Actions: sinktest.Actions(i + 1)[i:]} }

func upTo(offset int64) *sinks.Batch {
	return &sinks.Batch{Progress: []schemas.Progress{{Topic: "t", Partition: 0, Offset: offset}}}
}

func appendAll(t *testing.T, w *sinks.Writer, all ...*sinks.Batch) {
	t.Helper()
	for _, b := range all {
		if err := w.Append(b); err != nil {
			t.Fatal(err)
		}
	}
}

func expectShape(t *testing.T, m *memory, want string) {
	t.Helper()
	if got := m.shape(); got != want {
		t.Errorf("writes %q, want %q", got, want)
	}
}

func TestBatchIsWrittenWhenOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		w := sinks.NewWriter(m, sinks.Options{})
		appendAll(t, w, one(0))
		time.Sleep(900 * time.Millisecond)
		appendAll(t, w, one(1))
		synctest.Wait()
		expectShape(t, m, "")
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		expectShape(t, m, "2a0b0d0p")
		appendAll(t, w, one(2)) // its age counts from now
		time.Sleep(999 * time.Millisecond)
		synctest.Wait()
		expectShape(t, m, "2a0b0d0p")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		expectShape(t, m, "2a0b0d0p 1a0b0d0p")
		time.Sleep(3 * time.Hour) // nothing to do
		closeWriter(t, w)
	})
}

func closeWriter(t *testing.T, w *sinks.Writer) {
	t.Helper()
	if err := w.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestBatchIsWrittenWhenFull(t *testing.T) {
	for name, o := range map[string]sinks.Options{"rows": {MaxRows: 3}, "bytes": {MaxBytes: 3 * (&sinks.Batch{Actions: sinktest.Actions(1)}).Bytes()}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &memory{}
				w := sinks.NewWriter(m, o)
				appendAll(t, w, one(0), one(1), one(2), one(3))
				synctest.Wait()
				expectShape(t, m, "3a0b0d0p")
				// The rows of one Append stay together, also when they are too many.
				appendAll(t, w, &sinks.Batch{Actions: sinktest.Actions(20)[4:]})
				synctest.Wait()
				expectShape(t, m, "3a0b0d0p 17a0b0d0p")
				closeWriter(t, w)
			})
		})
	}
}

func TestProgressIsWrittenLastAndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		var done []sinks.Batch
		w := sinks.NewWriter(m, sinks.Options{Done: func(b *sinks.Batch) { done = append(done, *b) }})
		appendAll(t, w, upTo(1), &sinks.Batch{
			Actions: sinktest.Actions(2), Bindings: sinktest.Bindings(3), DeadLetters: sinktest.DeadLetters(),
			Progress: []schemas.Progress{{Topic: "t", Partition: 1, Offset: 9}, {Topic: "t", Partition: 0, Offset: 2}},
		}, upTo(3))
		closeWriter(t, w)
		expectShape(t, m, "0a3b0d0p 2a0b0d0p 0a0b3d0p 0a0b0d2p")
		want := []schemas.Progress{{Topic: "t", Partition: 0, Offset: 3}, {Topic: "t", Partition: 1, Offset: 9}}
		if !slices.Equal(m.writes[3].Progress, want) {
			t.Errorf("progress %+v, want %+v", m.writes[3].Progress, want)
		}
		if len(done) != 1 || !slices.Equal(done[0].Progress, want) || len(done[0].Actions) != 2 || len(done[0].Bindings) != 3 {
			t.Errorf("done %+v", done)
		}
	})
}

func TestNewestVersionInABatchStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		w := sinks.NewWriter(m, sinks.Options{})
		version := func(v uint64) *sinks.Batch {
			a := *sinktest.Actions(1)[0]
			a.Version = v
			return &sinks.Batch{Actions: []*schemas.Action{&a}}
		}
		appendAll(t, w, version(1), one(1), version(3), version(2))
		closeWriter(t, w)
		expectShape(t, m, "2a0b0d0p")
		if got := m.writes[0].Actions[0].Version; got != 3 {
			t.Errorf("version %d, want 3", got)
		}
		if s := w.Stats(); s.Replaced != 2 || s.Rows != 2 || s.Batches != 1 || s.PendingRows != 0 || s.PendingBytes != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestRetryBacksOffAndLogsChangesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		start := time.Now()
		m := &memory{fail: func(n int, _ *sinks.Batch) error {
			at = append(at, time.Since(start))
			if n <= 12 {
				return errors.New("connection refused")
			}
			return nil
		}}
		var log bytes.Buffer
		w := sinks.NewWriter(m, sinks.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		appendAll(t, w, one(0), upTo(1))
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		expectShape(t, m, "1a0b0d0p 0a0b0d1p")
		backoff := 100 * time.Millisecond
		for i := 1; i <= 12; i++ {
			if wait := at[i] - at[i-1]; wait < backoff/2 || wait > backoff {
				t.Errorf("wait %d was %v, want %v to %v", i, wait, backoff/2, backoff)
			}
			backoff = min(2*backoff, 4*time.Second)
		}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "sink down") || !strings.Contains(lines[0], "connection refused") || !strings.Contains(lines[1], "sink recovered") {
			t.Errorf("log:\n%s", log.String())
		}
		if s := w.Stats(); s.Retries != 12 {
			t.Errorf("%d retries, want 12", s.Retries)
		}
		closeWriter(t, w)
	})
}

func TestAWriteThatHangsIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{block: make(chan struct{})}
		w := sinks.NewWriter(m, sinks.Options{WriteTimeout: 10 * time.Second})
		appendAll(t, w, one(0))
		time.Sleep(25 * time.Second)
		synctest.Wait()
		if s := w.Stats(); s.Retries != 2 {
			t.Errorf("%d retries, want 2", s.Retries)
		}
		close(m.block)
		closeWriter(t, w)
		expectShape(t, m, "1a0b0d0p")
	})
}

// Only the rows at fault go, however they lie, and the others are written once.
func TestRefusedRowsBecomeDeadLetters(t *testing.T) {
	const n = 64
	for _, bad := range [][]int{{0}, {n - 1}, {31, 32}, {5, 6, 7, 50}, {0, 63}} {
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			all := sinktest.Actions(n)
			poison := map[schemas.ID]bool{}
			for _, i := range bad {
				poison[all[i].ID] = true
			}
			m := &memory{fail: func(_ int, b *sinks.Batch) error {
				for _, a := range b.Actions {
					if poison[a.ID] {
						return sinks.Permanent(errors.New("too long"))
					}
				}
				return nil
			}}
			var done []sinks.Batch
			w := sinks.NewWriter(m, sinks.Options{Done: func(b *sinks.Batch) { done = append(done, *b) }})
			appendAll(t, w, &sinks.Batch{Actions: all, Progress: sinktest.Progress()})
			closeWriter(t, w)

			times := map[schemas.ID]int{}
			var letters []schemas.DeadLetter
			for _, b := range m.writes {
				for _, a := range b.Actions {
					times[a.ID]++
				}
				letters = append(letters, b.DeadLetters...)
			}
			for _, a := range all {
				if want := 1; poison[a.ID] == (times[a.ID] == want) {
					t.Errorf("event %s was written %d times", a.ID, times[a.ID])
				}
			}
			if len(letters) != len(bad) {
				t.Fatalf("%d dead letters, want %d", len(letters), len(bad))
			}
			for i, d := range letters {
				a := all[bad[i]]
				if d.Evidence != a.Evidence || d.Reason != schemas.DeadRejected || !strings.Contains(d.Error, "too long") || !strings.Contains(d.Error, a.ID.String()) {
					t.Errorf("dead letter %+v", d)
				}
			}
			if m.n > len(bad)*2*8+4 {
				t.Errorf("%d writes to find %d rows of %d", m.n, len(bad), n)
			}
			if len(m.writes[len(m.writes)-1].Progress) != 2 {
				t.Error("progress was not written last")
			}
			if s := w.Stats(); s.Rejected != uint64(len(bad)) || s.Rows != n+2 || len(done) != 1 || len(done[0].DeadLetters) != len(bad) {
				t.Errorf("stats %+v, done %d", s, len(done))
			}
		})
	}
}

// The dead letter of a refused row has its record, if that can be had; not so
// many are asked for that a whole batch of them would stop the writer.
func TestRefusedRowsBringTheirRecord(t *testing.T) {
	all := sinktest.Actions(150)
	m := &memory{fail: func(_ int, b *sinks.Batch) error {
		if len(b.Actions) > 0 {
			return sinks.Permanent(errors.New("too long"))
		}
		return nil
	}}
	asked := 0
	w := sinks.NewWriter(m, sinks.Options{Record: func(_ context.Context, e schemas.Evidence) ([]byte, error) {
		asked++
		if e.Offset == 3 {
			return nil, errors.New("expired")
		}
		return fmt.Appendf(nil, "record %d", e.Offset), nil
	}})
	decoded := sinktest.DeadLetters()
	appendAll(t, w, &sinks.Batch{Actions: all, DeadLetters: decoded})
	closeWriter(t, w)
	letters := m.writes[0].DeadLetters
	if len(letters) != len(decoded)+len(all) || asked != 100 {
		t.Fatalf("%d dead letters, %d records asked for", len(letters), asked)
	}
	if !slices.Equal(letters[0].Bytes, decoded[0].Bytes) {
		t.Error("the letter of the decoder was changed")
	}
	for i, d := range letters[len(decoded):] {
		want := fmt.Sprint("record ", i)
		if i == 3 || i >= 100 {
			want = ""
		}
		if string(d.Bytes) != want || d.Evidence != all[i].Evidence || strings.Contains(d.Error, "expired") != (i == 3) {
			t.Errorf("dead letter %d: %q, %s", i, d.Bytes, d.Error)
		}
	}
}

func TestRefusedBindingsBecomeDeadLetters(t *testing.T) {
	all := sinktest.Bindings(9)
	m := &memory{fail: func(_ int, b *sinks.Batch) error {
		if slices.ContainsFunc(b.Bindings, func(x schemas.Binding) bool { return x.Child == all[4].Child }) {
			return sinks.Permanent(errors.New("bad child"))
		}
		return nil
	}}
	w := sinks.NewWriter(m, sinks.Options{})
	appendAll(t, w, &sinks.Batch{Bindings: all})
	closeWriter(t, w)
	last := m.writes[len(m.writes)-1]
	if len(last.DeadLetters) != 1 || last.DeadLetters[0].Evidence != all[4].Evidence || !strings.Contains(last.DeadLetters[0].Error, all[4].Child.String()) {
		t.Errorf("last write %+v", last)
	}
}

// A dead letter that is refused can go nowhere: the writer waits for somebody
// to mend the table, and loses nothing.
func TestARefusedDeadLetterIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{fail: func(n int, b *sinks.Batch) error {
			if len(b.DeadLetters) > 0 && n < 5 {
				return sinks.Permanent(errors.New("no"))
			}
			return nil
		}}
		w := sinks.NewWriter(m, sinks.Options{})
		appendAll(t, w, &sinks.Batch{DeadLetters: sinktest.DeadLetters(), Progress: sinktest.Progress()})
		closeWriter(t, w)
		expectShape(t, m, "0a0b3d0p 0a0b0d2p")
	})
}

func TestFullPausesAndRoomWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{block: make(chan struct{})}
		w := sinks.NewWriter(m, sinks.Options{MaxRows: 2, MaxPendingRows: 4})
		for i := range 3 {
			appendAll(t, w, one(i))
		}
		if w.Full() {
			t.Error("full with 3 of 4 rows")
		}
		select {
		case <-w.Room():
		default:
			t.Error("no room with 3 of 4 rows")
		}
		appendAll(t, w, one(3))
		if !w.Full() {
			t.Error("not full with 4 of 4 rows")
		}
		room := w.Room()
		for i := range 4 { // one that does not look is stopped at twice as much
			appendAll(t, w, one(4+i))
		}
		if err := w.Append(one(9)); !errors.Is(err, sinks.ErrFull) {
			t.Errorf("Append: %v, want ErrFull", err)
		}
		for range 2 {
			m.block <- struct{}{}
			synctest.Wait()
			select {
			case <-room:
				t.Error("room with 4 rows or more")
			default:
			}
		}
		m.block <- struct{}{}
		<-room
		if w.Full() {
			t.Error("full although there is room")
		}
		close(m.block)
		closeWriter(t, w)
		expectShape(t, m, "2a0b0d0p 2a0b0d0p 2a0b0d0p 2a0b0d0p")
	})
}

func TestFlushWaitsForAllThatWasAppended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{block: make(chan struct{}, 10)}
		var done []int64
		w := sinks.NewWriter(m, sinks.Options{Done: func(b *sinks.Batch) {
			for _, p := range b.Progress {
				done = append(done, p.Offset)
			}
		}})
		if err := w.Flush(t.Context()); err != nil {
			t.Error("flush of nothing:", err)
		}
		appendAll(t, w, upTo(1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("flush while the sink hangs: %v", err)
		}
		appendAll(t, w, upTo(2))
		m.block <- struct{}{}
		m.block <- struct{}{}
		start := time.Now()
		if err := w.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("flush waited %v for more rows", took)
		}
		if !slices.Equal(done, []int64{1, 2}) {
			t.Errorf("done %v, want 1 and 2 in order", done)
		}
		closeWriter(t, w)
	})
}

func TestCloseDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		w := sinks.NewWriter(m, sinks.Options{MaxRows: 2})
		appendAll(t, w, one(0), one(1), one(2))
		closeWriter(t, w)
		closeWriter(t, w)
		expectShape(t, m, "2a0b0d0p 1a0b0d0p")
		if err := w.Append(one(3)); !errors.Is(err, sinks.ErrClosed) {
			t.Errorf("Append after Close: %v", err)
		}
		if err := w.Flush(t.Context()); err != nil {
			t.Errorf("Flush after Close: %v", err)
		}
	})
}

func TestCloseGivesUpWhenToldTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{fail: func(int, *sinks.Batch) error { return errors.New("down") }}
		w := sinks.NewWriter(m, sinks.Options{Done: func(*sinks.Batch) { t.Error("done") }})
		appendAll(t, w, one(0), one(1))
		flushed := make(chan error)
		go func() { flushed <- w.Flush(t.Context()) }()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err := w.Close(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "2 rows were not written") {
			t.Errorf("Close: %v", err)
		}
		if err := <-flushed; !errors.Is(err, sinks.ErrClosed) {
			t.Errorf("Flush: %v, want ErrClosed", err)
		}
	})
}

func TestPermanent(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("wrapped: %w", sinks.Permanent(cause))
	if !sinks.IsPermanent(err) || !errors.Is(err, cause) || sinks.IsPermanent(cause) || sinks.Permanent(nil) != nil {
		t.Error(err)
	}
}

// Several goroutines append, flush and look while the sink fails at random
// places: in the end every row was written, and done in order.
func TestManyAtOnce(t *testing.T) {
	m := &memory{fail: func(n int, _ *sinks.Batch) error {
		if n%5 == 0 {
			return errors.New("now and then")
		}
		return nil
	}}
	last := map[int32]int64{}
	w := sinks.NewWriter(m, sinks.Options{MaxRows: 50, MaxAge: time.Millisecond, MinBackoff: time.Microsecond, Done: func(b *sinks.Batch) {
		for _, p := range b.Progress {
			if p.Offset <= last[p.Partition] {
				t.Errorf("partition %d: %d done after %d", p.Partition, p.Offset, last[p.Partition])
			}
			last[p.Partition] = p.Offset
		}
	}})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range int64(300) {
				<-w.Room()
				a := *sinktest.Bare()
				a.ID = schemas.MakeID(fmt.Sprint(g, i))
				if err := w.Append(&sinks.Batch{Actions: []*schemas.Action{&a}, Progress: []schemas.Progress{{Partition: int32(g), Offset: i + 1}}}); err != nil {
					t.Error(err)
				}
				if i%97 == 0 {
					if err := w.Flush(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	closeWriter(t, w)
	ids := map[schemas.ID]bool{}
	for _, b := range m.writes {
		for _, a := range b.Actions {
			ids[a.ID] = true
		}
	}
	if len(ids) != 1200 || last[0] != 300 || last[3] != 300 {
		t.Errorf("%d rows, done %v", len(ids), last)
	}
}

func BenchmarkAppend(b *testing.B) {
	rows := sinktest.Actions(1000)
	w := sinks.NewWriter(nowhere{}, sinks.Options{})
	batch := sinks.Batch{Actions: make([]*schemas.Action, 1)}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		batch.Actions[0] = rows[i%len(rows)]
		i++
		if w.Append(&batch) != nil {
			<-w.Room()
		}
	}
	if err := w.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}

type nowhere struct{}

func (nowhere) Write(context.Context, *sinks.Batch) error { return nil }
func (nowhere) Close() error                              { return nil }
