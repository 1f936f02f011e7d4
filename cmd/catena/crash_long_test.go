package main

import (
	"bufio"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// The tests below run for as long as they are told: seconds in CI, by hand as
// long as it takes to believe them (make test-moves, test-away, soak).
var (
	crashRecords = flag.Int64("crash.records", 60_000, "how many records TestMoves lets flow, at least")
	crashAway    = flag.Duration("crash.away", 20*time.Second, "for how long TestCrashAway takes the database away")
	crashSoak    = flag.Duration("crash.soak", 0, "for how long TestSoak runs")
	crashRate    = flag.Int("crash.rate", 3000, "records a second")
)

// stalls watches how far the tables account for each partition, and for how
// long one stood still although records of it were there.
type stalls struct {
	mu      sync.Mutex
	longest map[int32]time.Duration
	when    map[int32]time.Duration // since the start, when that ended
	offsets map[int32]int64
	notes   []note  // what happened, for stalls that last
	long    []stall // over longStall
	stop    chan struct{}
	done    chan struct{}
}

type note struct {
	at   time.Time
	what string
}

type stall struct {
	part     int32
	from, to time.Time
}

// longStall is from when on it is told what happened during a stall.
const longStall = 4 * time.Second

// note remembers what an instance said, or what was done to it.
func (s *stalls) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = append(s.notes, note{time.Now(), fmt.Sprintf(format, args...)})
}

func (l *lab) watchStalls(p *pump) *stalls {
	s := &stalls{longest: map[int32]time.Duration{}, when: map[int32]time.Duration{}, offsets: map[int32]int64{}, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		began, since := time.Now(), map[int32]time.Time{}
		for {
			select {
			case <-s.stop:
				return
			case <-time.After(200 * time.Millisecond):
			}
			ends := p.ends()
			progress, err := l.store.LoadProgress(l.t.Context())
			if err != nil {
				continue // a busy database; the clock runs on
			}
			s.look(ends, func(yield func(int32, int64)) {
				for i := range progress {
					if progress[i].Topic == feedTopic {
						yield(progress[i].Partition, progress[i].Offset)
					}
				}
			}, since, began)
		}
	}()
	l.t.Cleanup(s.finish)
	return s
}

func (s *stalls) look(ends map[int32]int64, each func(func(int32, int64)), since map[int32]time.Time, began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	moved := map[int32]bool{}
	each(func(part int32, offset int64) {
		moved[part] = offset > s.offsets[part]
		s.offsets[part] = max(offset, s.offsets[part])
	})
	for part, end := range ends {
		if moved[part] || s.offsets[part] >= end || since[part].IsZero() {
			if from := since[part]; !from.IsZero() && now.Sub(from) > longStall {
				s.long = append(s.long, stall{part, from, now})
			}
			since[part] = now
			continue
		}
		if still := now.Sub(since[part]); still > s.longest[part] {
			s.longest[part], s.when[part] = still, now.Sub(began)
		}
	}
}

func (s *stalls) finish() {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	<-s.done
}

// most is the longest so far.
func (s *stalls) most() (most time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.longest {
		most = max(most, d)
	}
	return most
}

// table prints what was seen, and returns the longest of all.
func (s *stalls) table(t *testing.T) (most time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Logf("%9s %10s %14s %s", "partition", "records", "longest stall", "at")
	for _, part := range slices.Sorted(func(yield func(int32) bool) {
		for p := range s.offsets {
			if !yield(p) {
				return
			}
		}
	}) {
		t.Logf("%9d %10d %14v %v", part, s.offsets[part], s.longest[part].Round(10*time.Millisecond), s.when[part].Round(time.Second))
		most = max(most, s.longest[part])
	}
	if file := os.Getenv("CATENA_TEST_NOTES"); file != "" { // all that was said, for who wants to see more than the long stalls
		var b strings.Builder
		for _, n := range s.notes {
			fmt.Fprintln(&b, clockTime(n.at), n.what)
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
			t.Error(err)
		}
	}
	for i, l := range s.long {
		t.Logf("partition %d stood still from %s until %s", l.part, clockTime(l.from), clockTime(l.to))
		if i+1 < len(s.long) && s.long[i+1].to.Equal(l.to) {
			continue // the next one ended at the same time: what was said stands there
		}
		for _, n := range s.notes {
			if n.at.After(l.from.Add(-time.Second)) && n.at.Before(l.to) {
				t.Logf("    %s %s", clockTime(n.at), n.what)
			}
		}
	}
	return most
}

func clockTime(at time.Time) string { return at.Format("15:04:05.000") }

// settleFlow waits until the tables are those of the undisturbed worlds.
func (l *lab) settleFlow(f *flow, limit time.Duration) (faults []string) {
	l.t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Second) {
		if faults = f.compare(l); len(faults) == 0 || time.Now().After(deadline) {
			return faults
		}
	}
}

// checkFlow is the end of a test: all rows are right, and verify agrees.
func (l *lab) checkFlow(f *flow) {
	l.t.Helper()
	for _, fault := range f.compare(l) {
		l.t.Error(fault)
	}
	if out, code := l.tryCatena("verify"); code != exitOK {
		l.t.Errorf("catena verify: exit code %d\n%s", code, out)
	}
	if f.skipped > int(f.world)/10 {
		l.t.Errorf("%d of %d worlds were left out: make the rules from more of them", f.skipped, f.world)
	}
}

// hang is how long a partition may stand still in a test before that counts as
// a hang. The table tells the times; what they may be is judged by who reads it,
// for machines differ.
const hang = time.Minute

// TestMoves lets records flow through three instances while partitions move
// every few seconds: a member is thrown out of the group, as by its session
// timeout, and joins again; and now and then an instance is told to leave and
// another begins, as in a rolling update, which waits for the one before.
func TestMoves(t *testing.T) {
	seed := drawSeed(t)
	l := newLab(t, "crash_moves", append(flowSettings, "CATENA_SHARE_TOPIC=crash_moves_share", "CATENA_BATCH_AGE=500ms",
		"CATENA_WINDOW=6h")...) // minutes of ours: whoever begins hears what was told up to two minutes before
	f := newFlow(l, seed, 12)
	var runs []*child
	for range 3 {
		runs = append(runs, l.run())
	}
	for _, r := range runs {
		r.await("partitions restored", time.Minute)
	}
	l.awaitMembers(3, time.Minute)
	p := l.pump(f, *crashRate, *crashRecords)
	s := l.watchStalls(p)
	l.watch(func(who *child, what string) {
		if who != nil && who != l.database {
			s.note("%d: %s", who.cmd.Process.Pid, what)
		}
	})
	began, left, thrown := time.Now(), 0, 0
	newest, told := runs[2], began
	for flowing := true; flowing; {
		select {
		case <-p.done:
			flowing = false
		case <-time.After(7 * time.Second):
		}
		if now := time.Now(); now.Sub(told) >= time.Minute {
			told = now
			t.Logf("%v: %d of %d records, longest stall %v", now.Sub(began).Round(time.Second), p.total(), *crashRecords, s.most().Round(10*time.Millisecond))
		}
		if i := left % len(runs); thrown >= 6*left && strings.Contains(newest.text(), "partitions restored") {
			s.note("%d: told to leave", runs[i].cmd.Process.Pid)
			runs[i].terminate()
			runs[i] = l.run()
			s.note("%d: begun", runs[i].cmd.Process.Pid)
			newest = runs[i]
			left++
			continue
		}
		s.note("a member thrown out")
		one := true // whichever the broker names first: it knows them by random ids
		thrown += l.evict(func(kadm.DescribedGroupMember) bool {
			defer func() { one = false }()
			return one
		})
	}
	if p.err != nil {
		t.Fatal(p.err)
	}
	if err := l.awaitAll(p.total(), 5*time.Minute, runs[0]); err != nil {
		t.Error(err)
	}
	took := time.Since(began)
	s.finish()
	l.settleFlow(f, 30*time.Second)
	for _, r := range runs {
		r.terminate()
	}
	t.Logf("%d records of %d worlds, %d rows, in %v; %d times an instance left and another began, %d times one was thrown out", p.total(), f.world, len(f.want), took.Round(time.Second), left, thrown)
	if most := s.table(t); most > hang {
		t.Errorf("a partition stood still for %v", most)
	}
	l.checkFlow(f)
}

// sample is the state of an instance at a moment.
type sample struct {
	at                time.Duration
	heap, rss         int64
	goroutines        int64
	state             int64
	sent, accountable int64
}

// look takes a sample; what cannot be had at the moment is zero.
func (l *lab) look(c *child, p *pump, began time.Time) sample {
	s := sample{at: time.Since(began), rss: residentBytes(c.cmd.Process.Pid), sent: p.total()}
	m := c.metrics()
	s.heap, s.goroutines, s.state = int64(m["go_memstats_heap_inuse_bytes"]), int64(m["go_goroutines"]), int64(m["catena_state_bytes"])
	if progress, err := l.store.LoadProgress(l.t.Context()); err == nil {
		for _, pr := range progress {
			s.accountable += pr.Offset
		}
	}
	return s
}

func (s sample) line() string {
	return fmt.Sprintf("%8v %9.1f %9.1f %9.1f %6d %10d %10d", s.at.Round(time.Second), mega(s.heap), mega(s.rss), mega(s.state), s.goroutines, s.sent, s.accountable)
}

const sampleHead = "      at  heap MiB   RSS MiB state MiB   gor.       sent  in tables"

func mega(n int64) float64 { return float64(n) / (1 << 20) }

// metrics reads the plain values of /metrics.
func (c *child) metrics() map[string]float64 {
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + c.listen + "/metrics")
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	out := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			out[name] = v
		}
	}
	return out
}

// residentBytes is how much memory a process holds, as Linux tells.
func residentBytes(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// TestCrashAway takes the database away while records come in: nothing is lost,
// the heap stays under its limit, and when the database is back all of it is
// written without a stop.
func TestCrashAway(t *testing.T) {
	seed := drawSeed(t)
	const state, limit = 1 << 30, 2 << 30
	l := newLab(t, "crash_away", append(flowSettings, fmt.Sprintf("CATENA_MEMORY=%d", state), fmt.Sprintf("GOMEMLIMIT=%d", limit))...)
	f := newFlow(l, seed, 6)
	run := l.run()
	run.await("partitions restored", time.Minute)
	p := l.pump(f, *crashRate, 0)
	began, every := time.Now(), max(time.Second, *crashAway/20)
	t.Log(sampleHead)
	most := int64(0)
	watch := func(until func() bool) {
		var last time.Time
		for ; !until(); time.Sleep(250 * time.Millisecond) {
			s := l.look(run, p, began)
			if most = max(most, s.heap); s.heap > limit {
				t.Errorf("the heap is %.0f MiB, its limit %.0f", mega(s.heap), mega(limit))
			}
			if time.Since(last) >= every {
				last = time.Now()
				t.Log(s.line())
			}
			if !run.alive() {
				t.Fatalf("catena ended: %v\n%s", run.err, tail(run.text()))
			}
		}
	}
	after := func(d time.Duration) func() bool {
		end := time.Now().Add(d)
		return func() bool { return time.Now().After(end) }
	}
	watch(after(5 * time.Second))
	l.proxy.setDown(true)
	t.Log("the database is away")
	atRest := l.accounted()
	watch(after(*crashAway))
	if now := l.accounted(); now > atRest+int64(*crashRate) {
		t.Errorf("the database was away, and %d records came into the tables", now-atRest)
	}
	l.proxy.setDown(false)
	back := time.Now()
	t.Log("the database is back")
	s := l.watchStalls(p)
	first, rest := time.Duration(0), time.Duration(0)
	watch(func() bool {
		n := l.accounted()
		if first == 0 && n > atRest {
			first = time.Since(back)
		}
		if rest == 0 && p.total()-n < int64(*crashRate) {
			rest = time.Since(back)
			p.stop()
		}
		select {
		case <-p.done:
			return n >= p.total() || time.Since(back) > 10*time.Minute
		default:
			return time.Since(back) > 10*time.Minute
		}
	})
	p.finish()
	s.finish()
	t.Logf("first rows %v after the database came back, caught up with the input, which goes on, after %v; %d records; largest heap %.0f MiB of %.0f", first.Round(100*time.Millisecond),
		rest.Round(100*time.Millisecond), p.total(), mega(most), mega(limit))
	if longest := s.table(t); longest > hang {
		t.Errorf("a partition stood still for %v", longest)
	}
	if p.err != nil {
		t.Fatal(p.err)
	}
	if err := l.awaitAll(p.total(), time.Second, run); err != nil {
		t.Error(err)
	}
	run.terminate()
	l.checkFlow(f)
}

// TestSoak lets records flow at a steady pace: memory is flat, goroutines do not
// become more, and in the end every row is right.
func TestSoak(t *testing.T) {
	if *crashSoak == 0 {
		t.Skip("runs for half an hour: make soak")
	}
	seed := drawSeed(t)
	l := newLab(t, "soak", flowSettings...)
	f := newFlow(l, seed, 6)
	run := l.run()
	run.await("partitions restored", time.Minute)
	p := l.pump(f, *crashRate, 0)
	began := time.Now()
	t.Log(sampleHead)
	var all []sample
	for every := max(time.Second, *crashSoak/60); time.Since(began) < *crashSoak; time.Sleep(every) {
		s := l.look(run, p, began)
		t.Log(s.line())
		if all = append(all, s); !run.alive() {
			t.Fatalf("catena ended: %v\n%s", run.err, tail(run.text()))
		}
	}
	p.finish()
	if p.err != nil {
		t.Fatal(p.err)
	}
	if err := l.awaitAll(p.total(), 5*time.Minute, run); err != nil {
		t.Error(err)
	}
	run.terminate()
	settled := all[len(all)/3:] // before, the state fills
	for name, of := range map[string]func(sample) int64{
		"heap": func(s sample) int64 { return s.heap }, "resident memory": func(s sample) int64 { return s.rss },
		"goroutines": func(s sample) int64 { return s.goroutines },
	} {
		early, late, rise := trend(settled, of)
		t.Logf("%-16s %12.1f at the beginning of the last two thirds, %12.1f at the end: %+.1f %%", name, early, late, 100*rise)
		if rise > 0.15 {
			t.Errorf("%s rises by %.0f %% in the last two thirds of the run", name, 100*rise)
		}
	}
	l.checkFlow(f)
}

// trend fits a line, and returns its ends and by what share it rises.
func trend(samples []sample, of func(sample) int64) (early, late, rise float64) {
	var n, sx, sy, sxx, sxy float64
	for _, s := range samples {
		x, y := s.at.Seconds(), float64(of(s))
		n, sx, sy, sxx, sxy = n+1, sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	slope := 0.0
	if d := n*sxx - sx*sx; d != 0 {
		slope = (n*sxy - sx*sy) / d
	}
	base := (sy - slope*sx) / n
	early, late = base+slope*samples[0].at.Seconds(), base+slope*samples[len(samples)-1].at.Seconds()
	if early > 0 {
		rise = (late - early) / early
	}
	return early, late, rise
}
