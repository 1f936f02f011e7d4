package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"catena/correlate/simtest"
	"catena/schemas"
)

var (
	crashSeed   = flag.Uint64("crash.seed", 0, "seed of the crash tests; 0: drawn, and printed")
	crashRounds = flag.Int("crash.rounds", 56, "how often TestCrash kills catena")
)

func drawSeed(t *testing.T) uint64 {
	seed := *crashSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1e9
	}
	t.Logf("seed %d: repeat with -crash.seed %[1]d", seed)
	return seed
}

// blow is a way to kill catena: when something was seen for the nth time since
// it started, and up to a delay later. It is dealt from outside: the log tells
// of the group, and the statements that come by at the proxy of the restore and
// of the writes, so that "done insert progress" lies between insert and commit.
type blow struct {
	name  string
	seen  string        // what lab.watch tells; empty for a random moment
	nth   int           // the last of the times that are drawn from
	delay time.Duration // at most
	two   bool          // a second instance joins when the first writes
	whose int           // of a log line: 0 for the first instance, 1 for the second
}

var blows = []blow{
	{name: "at any time", delay: 1500 * time.Millisecond},
	{name: "while it joins the group", seen: "log joining consumer group", delay: 80 * time.Millisecond},
	{name: "when partitions are assigned", seen: "log partitions assigned", delay: 40 * time.Millisecond},
	{name: "before a question of start and restore", seen: "before select", nth: 8},
	{name: "in the answer of start and restore", seen: "done select", nth: 8},
	{name: "before bindings are written", seen: "before insert bindings", nth: 2},
	{name: "between bindings and rows", seen: "done insert bindings", nth: 2},
	{name: "before rows are written", seen: "before insert actions", nth: 2},
	{name: "between rows and progress", seen: "done insert actions", nth: 2},
	{name: "between insert and commit", seen: "done insert progress", nth: 2},
	{name: "about the commit", seen: "after insert progress", nth: 2, delay: 4 * time.Millisecond},
	{name: "in a rebalance, who gives", seen: "log partitions revoked", delay: 30 * time.Millisecond, two: true},
	{name: "in a rebalance, who takes", seen: "log partitions assigned", delay: 30 * time.Millisecond, two: true, whose: 1},
	{name: "in a rebalance, who joins", seen: "log joining consumer group", delay: 200 * time.Millisecond, two: true, whose: 1},
}

// TestCrash kills catena again and again while records flow, then lets it
// finish: the rows are those of a run that nothing disturbed.
func TestCrash(t *testing.T) {
	seed := drawSeed(t)
	l := newLab(t, "crash", "CATENA_SHARE_TOPIC=crash_share")
	c := newCrashing(l, seed, 40)
	for i := range *crashRounds {
		c.round(i, *crashRounds, c.order[i%len(c.order)])
	}
	if err := c.finish(2 * time.Minute); err != nil {
		t.Error(err)
	}
	c.report()
	c.check()
	c.checkTruth()
}

// TestCrashFindsABug plants the bug that all this is about, commit before
// insert, and demands that a few of the blows find it.
func TestCrashFindsABug(t *testing.T) {
	seed := drawSeed(t)
	l := newLab(t, "crash_bug")
	l.program = buildWith(t, "../../sinks/writer.go",
		[2]string{"\t\tw.options.Done(&c.batch)\n", ""},
		[2]string{"\t\tw.dedup(&c.batch)\n", "\t\tw.dedup(&c.batch)\n\t\tw.options.Done(&c.batch)\n"})
	c := newCrashing(l, seed, 8)
	const rounds = 6
	for i := range rounds {
		c.round(i, rounds, blow{name: "before rows are written", seen: "before insert actions", nth: 2})
	}
	err := c.finish(8 * time.Second)
	faults := l.difference(c.want)
	if err == nil && len(faults) == 0 {
		t.Fatal("commit before insert was not found: the crash test is too weak")
	}
	t.Logf("found: %v %v", err, faults[max(0, len(faults)-1):])
}

// buildWith builds catena with texts of a file replaced, each of which stands
// there once: what ships carries no switch for the bug.
func buildWith(t *testing.T, file string, changes ...[2]string) string {
	t.Helper()
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := string(text)
	for _, c := range changes {
		if n := strings.Count(changed, c[0]); n != 1 {
			t.Fatalf("the text to be replaced stands %d times in %s:\n%s", n, file, c[0])
		}
		changed = strings.Replace(changed, c[0], c[1], 1)
	}
	dir := t.TempDir()
	bad, overlay, program := filepath.Join(dir, "bad.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "catena")
	spec, err := json.Marshal(map[string]map[string]string{"Replace": {path: bad}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{bad: changed, overlay: string(spec)} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build with the bug: %v\n%s", err, out)
	}
	return program
}

// crashing is one run of a crash test.
type crashing struct {
	*lab
	*feed
	rng   *rand.Rand
	want  map[schemas.ID]*schemas.Action
	order []blow
	sent  int // of the records, in their order

	partitions int              // that are there
	held       []schemas.Record // of others
	produced   int64
	hits       map[string]int
	late       map[string]int // blows that never came to the point, and were dealt after a while
	kills      int
}

func newCrashing(l *lab, seed uint64, worlds int) *crashing {
	return newCrashingIn(l, seed, worlds, 4, 4)
}

// newCrashingIn makes a topic of so many partitions, which will be more.
func newCrashingIn(l *lab, seed uint64, worlds, partitions, later int) *crashing {
	c := &crashing{lab: l, partitions: partitions, rng: rand.New(rand.NewPCG(seed, 3)), hits: map[string]int{}, late: map[string]int{}}
	var all []*simtest.World
	for i := range uint64(worlds) {
		all = append(all, simtest.Make(seed<<8+i, simtest.ShapeOf(seed<<8+i)))
	}
	c.feed = newFeed(all, later)
	c.want = c.rows(l.t)
	dir := l.t.TempDir()
	if err := c.writeSources(dir); err != nil {
		l.t.Fatal(err)
	}
	l.env = append(l.env, "CATENA_SOURCES_DIR="+dir)
	l.makeTopic(feedTopic, partitions, nil)
	c.order = slices.Clone(blows)
	c.rng.Shuffle(len(c.order), func(i, j int) { c.order[i], c.order[j] = c.order[j], c.order[i] })
	return c
}

// send produces the records up to a share of all, but for those of partitions
// that are not there yet.
func (c *crashing) send(upTo int) {
	var now []schemas.Record
	for _, r := range c.records[c.sent:upTo] {
		if int(r.Partition) < c.partitions {
			now = append(now, r)
		} else {
			c.held = append(c.held, r)
		}
	}
	c.produce(now)
	c.sent, c.produced = upTo, c.produced+int64(len(now))
}

// grow gives the topic more partitions, and those their records.
func (c *crashing) grow(partitions int) {
	c.t.Helper()
	if r, err := c.admin.CreatePartitions(c.t.Context(), partitions-c.partitions, feedTopic); err != nil || r.Error() != nil {
		c.t.Fatal(err, r.Error())
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		topics, err := c.admin.ListTopics(c.t.Context(), feedTopic)
		if err == nil && len(topics[feedTopic].Partitions) == partitions && topics[feedTopic].Partitions[int32(partitions-1)].Leader >= 0 {
			break
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the new partitions are not there: %v", err)
		}
	}
	c.client.ForceMetadataRefresh()
	time.Sleep(time.Second)
	c.produce(c.held)
	c.partitions, c.produced, c.held = partitions, c.produced+int64(len(c.held)), nil
}

// trickle produces the records up to a share of all, in pieces that make an
// insert each, until catena was killed.
func (c *crashing) trickle(upTo int, hit <-chan struct{}) {
	for piece := (upTo-c.sent)/10 + 1; c.sent < upTo; {
		select {
		case <-hit:
			return
		case <-time.After(120 * time.Millisecond):
		}
		c.send(min(c.sent+piece, upTo))
	}
}

// round starts catena, and deals it one blow.
func (c *crashing) round(i, rounds int, b blow) {
	c.t.Helper()
	share := len(c.records) * (i + 1) / rounds
	c.send(c.sent + (share-c.sent)/2)
	times, delay := 1, time.Duration(0)
	if b.nth > 1 {
		times = 1 + c.rng.IntN(b.nth)
	}
	if b.delay > 0 {
		delay = time.Duration(c.rng.Int64N(int64(b.delay)))
	}
	hit, writing := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	var live [2]*child
	var once, onceWriting sync.Once
	c.watch(func(who *child, what string) {
		if what == "after insert progress" {
			onceWriting.Do(func() { close(writing) })
		}
		mu.Lock()
		match := b.seen != "" && strings.HasPrefix(what, b.seen) && (who == nil || who == live[b.whose])
		if match {
			times--
		}
		due := match && times == 0
		victims := live
		mu.Unlock()
		if !due {
			return
		}
		strike := func() {
			time.Sleep(delay)
			once.Do(func() {
				for j, v := range victims {
					if v != nil && (who == nil || j == b.whose) {
						v.kill()
					}
				}
				close(hit)
			})
		}
		if delay > 0 {
			go strike()
		} else {
			strike() // whoever tells of it waits
		}
	})
	begin := func(j int) {
		mu.Lock() // no line of it is missed
		defer mu.Unlock()
		live[j] = c.run()
	}
	begin(0)
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		select { // what was there at the start makes the first insert
		case <-writing:
		case <-hit:
		case <-time.After(3 * time.Second):
		}
		c.trickle(share, hit)
	}()
	defer func() { <-fed }()
	switch {
	case b.seen == "":
		time.Sleep(delay)
		live[0].kill()
		close(hit)
	case b.two:
		select {
		case <-writing:
		case <-time.After(6 * time.Second):
		}
		begin(1)
	}
	select {
	case <-hit:
		c.hits[b.name]++
	case <-time.After(4 * time.Second):
		c.late[b.name]++
	}
	c.watch(func(*child, string) {})
	for _, v := range live {
		if v == nil {
			continue
		}
		if b.two && c.rng.IntN(2) == 0 { // the other lives on for a while
			time.Sleep(time.Duration(c.rng.IntN(400)) * time.Millisecond)
		}
		if v.alive() {
			v.kill()
		}
		<-v.done
		if !strings.Contains(fmt.Sprint(v.err), "killed") {
			c.t.Errorf("round %d, %s: catena ended by itself: %v\n%s", i, b.name, v.err, tail(v.text()))
		}
		c.kills++
	}
	c.evict(nil)
}

// finish lets catena read all that is left, undisturbed.
func (c *crashing) finish(limit time.Duration) error {
	c.t.Helper()
	c.send(len(c.records))
	last := c.run()
	last.awaitRestored(c.partitions, time.Minute)
	if err := c.awaitAll(int64(len(c.records)), limit, last); err != nil {
		return err
	}
	last.terminate()
	return nil
}

// forgotten holds the table of bindings against what the undisturbed run knew:
// who drives whom, by which proof.
func (c *crashing) forgotten() (faults []string) {
	c.t.Helper()
	missing, differ := maps.Clone(c.known), 0
	maps.DeleteFunc(missing, func(_ string, b schemas.Binding) bool { return b.Parent.IsZero() }) // of ends the earliest counts, which rows show
	all := len(missing)
	err := c.store.LoadBindings(c.t.Context(), -1<<62, nil, func(b *schemas.Binding) error {
		want, ok := c.known[edgeOf(b)]
		delete(missing, edgeOf(b))
		if want.Version, want.Evidence = b.Version, b.Evidence; ok && want != *b {
			if differ++; differ <= 3 {
				faults = append(faults, fmt.Sprintf("the binding\n  %+v is undisturbed\n  %+v", *b, want))
			}
		}
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	for edge := range missing {
		if len(faults) < 6 {
			faults = append(faults, "nobody knows any more that "+edge)
		}
	}
	if len(missing)+differ > 0 {
		faults = append(faults, fmt.Sprintf("of %d bindings %d are missing, %d differ", all, len(missing), differ))
	}
	return faults
}

func (c *crashing) report() {
	c.t.Logf("%d records, %d rows, %d times kill -9", len(c.records), len(c.want), c.kills)
	for _, b := range c.order {
		c.t.Logf("  %3d times killed %-40s %s", c.hits[b.name], b.name, strings.Repeat("(too late) ", c.late[b.name]))
		if c.hits[b.name] == 0 && *crashRounds >= 3*len(c.order) {
			c.t.Errorf("catena was never killed %s", b.name)
		}
	}
}

// check holds the tables against the undisturbed run, and lets catena prove that
// no offset is missing.
func (c *crashing) check() {
	c.t.Helper()
	for _, fault := range append(c.difference(c.want), c.forgotten()...) {
		c.t.Error(fault)
	}
	if out, code := c.tryCatena("verify"); code != exitOK {
		c.t.Errorf("catena verify: exit code %d\n%s", code, out)
	}
}

// checkTruth holds the undisturbed run itself against the truth of the worlds:
// whatever is proven names somebody who did it.
func (c *crashing) checkTruth() {
	c.t.Helper()
	proven, rows := 0, c.byPlace()
	for i, at := range c.records {
		truth := c.worlds[c.world[i]].Truth[c.origin[i]]
		a := rows[place{at.Topic, at.Partition, at.Offset}]
		if a == nil || a.Grade != schemas.GradeProven || truth.Contested {
			continue
		}
		if proven++; !slices.Contains(truth.Roots, a.Root) {
			c.t.Errorf("%s is proven for %v, in truth it was one of %v", at.Value, a.Root, truth.Roots)
		}
	}
	if proven < len(c.want)/10 {
		c.t.Errorf("only %d of %d rows are proven: the worlds are not what they were", proven, len(c.want))
	}
}

func (c *crashing) byPlace() map[place]*schemas.Action {
	rows := make(map[place]*schemas.Action, len(c.want))
	for _, a := range c.want {
		rows[place{a.Evidence.Topic, a.Evidence.Partition, a.Evidence.Offset}] = a
	}
	return rows
}
