package simtest

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"catena/correlate"
	"catena/schemas"
)

// place is one partition.
type place struct {
	topic string
	index int32
}

// plan is one way of delivering the records of a world.
type plan struct {
	seed     uint64
	order    order
	bounded  bool // finite lateness and window: what is final leaves memory
	copies   int  // of a hundred records, how many lie twice in the log
	crashes  int
	zombies  bool // whoever crashed goes on writing for a while
	maxBatch int

	memory    int  // bytes; 0 is plenty. What does not fit is looked up in the tables
	instances int  // that split the partitions
	partly    bool // whoever begins again takes back the latest bindings, and looks up the others
}

// order is how the partitions are read.
type order int

const (
	byArrival  order = iota // as a consumer that keeps up
	interwoven              // partitions at random, each in its own order
	oneByOne                // one partition after the other, as after an outage
	shuffled                // any order at all: needs an engine that waits for ever
	backwards
	orders
)

var orderNames = [orders]string{"by_arrival", "interwoven", "one_by_one", "shuffled", "backwards"}

func (p plan) String() string {
	return fmt.Sprintf("%s bounded=%v copies=%d%% crashes=%d zombies=%v batch<=%d memory=%d instances=%d partly=%v (%d)",
		orderNames[p.order], p.bounded, p.copies, p.crashes, p.zombies, p.maxBatch, p.memory, p.instances, p.partly, p.seed)
}

// drawPlan draws one of the many ways.
func drawPlan(seed uint64) plan {
	rng := rand.New(rand.NewPCG(seed, 3))
	p := plan{seed: seed, order: order(rng.IntN(int(orders))), copies: pick(rng, []int{0, 10, 40}), crashes: rng.IntN(4),
		zombies: rng.IntN(4) != 0, maxBatch: pick(rng, []int{1, 4, 32, 1000})}
	p.bounded = p.order <= oneByOne && rng.IntN(2) == 0
	if p.instances = pick(rng, []int{1, 1, 3}); p.instances > 1 {
		p.bounded = false // what others say may take as long as it likes
	}
	p.partly = p.crashes > 0 && rng.IntN(2) == 0
	return p
}

// player delivers a world to an engine as Kafka and crashes make it.
type player struct {
	t    testing.TB
	w    *World
	plan plan
	rng  *rand.Rand

	feed      []*schemas.Event // in the order in which they are read
	lowest    map[schemas.ID]schemas.Evidence
	twice     map[schemas.ID]bool // two engines may each have a copy, and neither knows of the other's
	committed int
	owner     int64

	engine *correlate.Engine
	zombie *correlate.Engine // who crashed and does not know it
	beyond []*schemas.Event  // what the zombie reads next
	out    correlate.Output
	tab    *table
	model  model
	seen   map[schemas.ID]uint64 // version last written by the living engine
	asks   *questions            // of the living engine
	watch  func(correlate.Stats)
	probes int
	fail   string // first thing that went wrong
}

func newPlayer(t testing.TB, w *World, p plan) *player {
	pl := &player{t: t, w: w, plan: p, rng: rand.New(rand.NewPCG(p.seed, 4)), owner: 1000, tab: newTable(),
		lowest: map[schemas.ID]schemas.Evidence{}, twice: map[schemas.ID]bool{}, model: newModel(p.bounded)}
	pl.layOut()
	return pl
}

func (pl *player) config() correlate.Config {
	cfg := correlate.Config{Skew: Skew, OutOfOrderness: Bound, AllowedLateness: correlate.Forever, Window: correlate.Forever,
		MemoryBytes: pl.plan.memory, Lookup: pl.plan.memory != 0 || pl.plan.partly, Share: pl.plan.instances > 1}
	if pl.plan.bounded {
		cfg.AllowedLateness, cfg.Window = Lateness, Window
	}
	return cfg
}

// layOut puts the records that arrive into the order in which they are read,
// some of them twice.
func (pl *player) layOut() {
	logs := map[place][]*schemas.Event{}
	for i := range pl.w.Events {
		if pl.w.Lost[i] {
			continue
		}
		ev := &pl.w.Events[i]
		at := place{ev.Evidence.Topic, ev.Evidence.Partition}
		logs[at] = append(logs[at], ev)
		pl.lowest[ev.ID] = ev.Evidence
		if pl.rng.IntN(100) < pl.plan.copies {
			c := *ev
			c.Evidence.Offset += 10_000
			if pl.rng.IntN(2) == 0 && (pl.plan.instances == 1 || pl.plan.crashes == 0) { // the producer sent it again, elsewhere
				c.Evidence.Partition = 1 - c.Evidence.Partition
				pl.twice[ev.ID] = pl.plan.instances > 1
			}
			c.Evidence.TimestampNanos += int64(pl.rng.IntN(3)) * int64(Bound)
			at := place{c.Evidence.Topic, c.Evidence.Partition}
			logs[at] = append(logs[at], &c)
			if evidenceOrder(&c.Evidence, &ev.Evidence) < 0 {
				pl.lowest[ev.ID] = c.Evidence
			}
		}
	}
	places := make([]place, 0, len(logs))
	for at, log := range logs {
		places = append(places, at)
		slices.SortStableFunc(log, func(a, b *schemas.Event) int {
			return cmp.Or(cmp.Compare(a.Evidence.TimestampNanos, b.Evidence.TimestampNanos), cmp.Compare(a.Evidence.Offset, b.Evidence.Offset))
		})
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.index, b.index)) })
	pl.feed = readOrder(pl.rng, pl.plan.order, places, logs)
}

func readOrder(rng *rand.Rand, how order, places []place, logs map[place][]*schemas.Event) (feed []*schemas.Event) {
	switch how {
	case interwoven:
		for len(places) > 0 {
			i := rng.IntN(len(places))
			at := places[i]
			n := min(1+rng.IntN(6), len(logs[at]))
			feed = append(feed, logs[at][:n]...)
			if logs[at] = logs[at][n:]; len(logs[at]) == 0 {
				places = slices.Delete(places, i, i+1)
			}
		}
		return feed
	case oneByOne:
		rng.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	}
	for _, at := range places {
		feed = append(feed, logs[at]...)
	}
	switch how {
	case byArrival:
		slices.SortStableFunc(feed, func(a, b *schemas.Event) int {
			return cmp.Compare(a.Evidence.TimestampNanos, b.Evidence.TimestampNanos)
		})
	case backwards:
		slices.Reverse(feed)
	case shuffled:
		rng.Shuffle(len(feed), func(i, j int) { feed[i], feed[j] = feed[j], feed[i] })
	}
	return feed
}

func evidenceOrder(a, b *schemas.Evidence) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
}

// start starts an engine that owns all partitions, and gives it back what is
// in the tables.
func (pl *player) start() {
	pl.engine = correlate.New(pl.config())
	pl.model = newModel(pl.plan.bounded)
	pl.seen, pl.asks = map[schemas.ID]uint64{}, newQuestions()
	for _, ev := range pl.feed {
		at := place{ev.Evidence.Topic, ev.Evidence.Partition}
		if _, ok := pl.model.newest[at]; !ok {
			pl.engine.Assign(at.topic, at.index, pl.owner)
			pl.model.newest[at] = math.MinInt64
		}
	}
	bindings, rows := pl.tab.loadBindings(), pl.tab.load()
	if pl.plan.partly {
		bindings, rows = pl.leaveBehind(pl.engine, bindings), pl.improvable(rows)
	}
	pl.engine.Restore(&pl.out, bindings, rows)
	for _, a := range rows {
		pl.model.restore(a)
	}
	pl.take(&pl.out)
}

// leaveBehind gives an engine the bindings that were proven since some time,
// and says of which keys the tables know others.
func (pl *player) leaveBehind(e *correlate.Engine, bindings []schemas.Binding) (none []schemas.Binding) {
	if len(bindings) == 0 {
		return nil
	}
	since := pick(pl.rng, bindings).ProofNanos
	var older []schemas.Key
	e.Restore(&pl.out, slices.DeleteFunc(bindings, func(b schemas.Binding) bool {
		if b.ProofNanos >= since {
			return false
		}
		older = append(older, b.Child)
		if isLookedUpFromAbove(&b) {
			older = append(older, b.Parent)
		}
		return true
	}), nil)
	e.Older(older)
	return nil
}

// improvable leaves out the rows that were final when the last batch became
// durable.
func (pl *player) improvable(rows []*schemas.Action) []*schemas.Action {
	if !pl.plan.bounded {
		return rows
	}
	final := pl.tab.watermark - int64(Lateness)
	return slices.DeleteFunc(rows, func(a *schemas.Action) bool { return max(a.TimeNanos, a.EndedNanos) < final })
}

// run delivers everything.
func (pl *player) run() {
	if pl.plan.instances > 1 {
		newCluster(pl).run()
		return
	}
	pl.start()
	crashes := pl.plan.crashes
	for done := 0; done < len(pl.feed) && pl.fail == ""; {
		n := min(1+pl.rng.IntN(pl.plan.maxBatch), len(pl.feed)-done)
		batch := pl.feed[done : done+n]
		done += n
		pl.process(batch)
		// What a record says better than the tables is lost with a crash between its
		// commit and the answer that tells what they hold: see ARCHITECTURE.md.
		if pl.rng.IntN(3) == 0 && !(pl.plan.partly && len(pl.asks.keys) > 0) {
			pl.tab.commit()
			pl.tab.watermark = pl.engine.Watermark()
			pl.committed = done
		}
		if crashes > 0 && pl.rng.IntN(max(1, len(pl.feed)/n)) < 2 {
			crashes--
			pl.crash(done)
			done = pl.committed
		}
	}
	pl.lookUp(true)
}

// process hands a batch over, in memory that is the engine's for the call only.
func (pl *player) process(batch []*schemas.Event) {
	events := make([]schemas.Event, len(batch))
	for i, ev := range batch {
		events[i] = ev.Clone()
	}
	pl.haunt(len(batch))
	if pl.plan.partly {
		pl.remember(events)
	}
	pl.engine.Process(&pl.out, events)
	for i := range events {
		pl.model.take(&events[i])
		scribble(&events[i])
	}
	pl.model.settle()
	pl.take(&pl.out)
	pl.checkHeld()
	if pl.watch != nil {
		pl.watch(pl.engine.Stats())
	}
	pl.lookUp(false)
}

// remember finds the rows of late events.
func (pl *player) remember(events []schemas.Event) {
	ids, first, last := pl.engine.Unknown(nil, events)
	if len(ids) == 0 {
		return
	}
	pl.engine.Remember(&pl.out, pl.tab.rowsAmong(ids, first, last))
	pl.take(&pl.out)
}

// haunt lets the zombie read on from where it stood, and write.
func (pl *player) haunt(n int) {
	if pl.zombie == nil {
		return
	}
	n = min(n, len(pl.beyond))
	events := make([]schemas.Event, n)
	for i, ev := range pl.beyond[:n] {
		events[i] = ev.Clone()
	}
	pl.beyond = pl.beyond[n:]
	var out correlate.Output
	pl.zombie.Process(&out, events)
	pl.tab.write(&out)
	if n == 0 || pl.rng.IntN(3) == 0 {
		pl.zombie = nil
	}
}

// crash loses what was not yet durable. The one who crashed may not know it,
// and go on writing.
func (pl *player) crash(done int) {
	if pl.plan.zombies && pl.rng.IntN(4) != 0 {
		pl.zombie, pl.beyond = pl.engine, pl.feed[done:]
	}
	pl.tab.crash(pl.rng)
	if pl.zombie != nil || pl.rng.IntN(2) == 0 { // else it is the same owner within the same millisecond
		pl.owner += 1000
	}
	pl.start()
}

// scribble overwrites the slices of an event that was handed over, as a decoder
// does that uses them again.
func scribble(ev *schemas.Event) {
	for i := range ev.Keys {
		ev.Keys[i] = schemas.Key{Kind: schemas.KindToken, Namespace: "jti", Value: "scribble"}
	}
	for i := range ev.Makes {
		ev.Makes[i] = schemas.Binding{}
	}
	for i := range ev.Ends {
		ev.Ends[i] = schemas.End{}
	}
}

// take checks what a call said, and writes it to the table.
func (pl *player) take(out *correlate.Output) {
	for _, a := range out.Actions {
		i := pl.w.indexOf(a.ID)
		if i < 0 {
			continue // the end of time
		}
		if v := pl.seen[a.ID]; a.Version <= v {
			pl.failf(i, a, "version %d after %d", a.Version, v)
		}
		if old := pl.tab.rows[a.ID]; old != nil && a.Version <= old.Version && !pl.twice[a.ID] {
			pl.failf(i, a, "version %d does not win over %d, which stands in the table", a.Version, old.Version)
		}
		if !a.CauseID.IsZero() {
			pl.model.tell(a.FirstKey(schemas.KindRequest))
		}
		pl.seen[a.ID] = a.Version
		if t := &pl.w.Truth[i]; a.Grade == schemas.GradeProven && !t.Contested && !slices.Contains(t.Roots, a.Root) {
			pl.failf(i, a, "proven and wrong, if only for a while: in truth it is one of %v", t.Roots)
		}
	}
	pl.asks.note(out)
	pl.tab.write(out)
}

// questions are what an engine wants to know of the tables.
type questions struct {
	keys       map[schemas.Key]bool
	sinceNanos int64 // event time from which late records want rows; zero if none does
}

func newQuestions() *questions { return &questions{keys: map[schemas.Key]bool{}} }

func (q *questions) note(out *correlate.Output) {
	for _, k := range out.Wanted {
		q.keys[k] = true
	}
	if s := out.WantedSince; s != 0 && (q.sinceNanos == 0 || s < q.sinceNanos) {
		q.sinceNanos = s
	}
}

// lookUp answers what was asked of the tables: now and then, and in the end
// until nothing is asked any more.
func (pl *player) lookUp(all bool) {
	for rounds := 0; len(pl.asks.keys) > 0 && pl.fail == "" && (all || pl.rng.IntN(4) == 0); rounds++ {
		keys := pl.answer(pl.engine, pl.asks)
		pl.take(&pl.out)
		if rounds > 10 && rowsMissTheDropped && !pl.plan.partly {
			return
		}
		if rounds > 500 {
			pl.held("the tables are asked without end, now for %v", keys)
		}
	}
}

// answer tells an engine what the tables hold of some of the keys that it asks
// for: with rows that can still be improved or that late records want.
func (pl *player) answer(e *correlate.Engine, q *questions) []schemas.Key {
	keys := slices.SortedFunc(maps.Keys(q.keys), schemas.Key.Compare)
	keys = keys[:1+pl.rng.IntN(len(keys))]
	since := int64(math.MinInt64)
	if pl.plan.bounded {
		since = e.Watermark() - int64(Lateness)
	}
	if q.sinceNanos != 0 {
		since = min(since, q.sinceNanos)
	}
	for _, k := range keys {
		delete(q.keys, k)
	}
	if len(q.keys) == 0 {
		q.sinceNanos = 0
	}
	e.Found(&pl.out, keys, pl.tab.bindingsOf(keys), pl.tab.rowsOf(keys, since))
	return keys
}

func (pl *player) failf(i int, a *schemas.Action, format string, args ...any) {
	if pl.fail == "" {
		pl.fail = fmt.Sprintf("event %d, delivery %v\n%s\n%s\n%s", i, pl.plan, fmt.Sprintf(format, args...), show(a), pl.w.around(i))
	}
}

func show(a *schemas.Action) string {
	s := fmt.Sprintf("got %v %v root %v frontier %v cause %v flags %v version %d", a.Grade, a.Reason, a.Root, a.Frontier, a.CauseGrade, a.Flags, a.Version)
	for _, h := range a.Hops {
		s += fmt.Sprintf("\n    %v %v %v lent=%v", h.Relation, h.Strength, h.Key, h.Lent)
	}
	for _, c := range a.Candidates {
		s += fmt.Sprintf("\n    or %v of %v", c.Parent, c.Root)
	}
	return s
}
