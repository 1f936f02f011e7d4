package correlate

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"catena/schemas"
)

// Config bounds the engine. The zero value of a field takes its default.
type Config struct {
	// Skew is how far two systems' clocks may differ. Default 1 s.
	Skew time.Duration
	// OutOfOrderness is how far the watermark trails the newest event time of
	// a partition. Default 15 min: CloudTrail delivers minutes late.
	OutOfOrderness time.Duration
	// AllowedLateness is how long after the watermark a row still waits for
	// what would improve it. Default 1 h.
	AllowedLateness time.Duration
	// Window is how long a key that nothing touches is remembered. Default 7 days.
	Window time.Duration
	// MemoryBytes bounds the state. Default 1 GiB. Beyond it the oldest waiting
	// rows leave early, then the keys unused for longest; both are counted.
	MemoryBytes int
	// MaxDepth bounds a path. Default 32.
	MaxDepth int
	// MaxFuture is how far ahead of its ingestion an event time may lie and
	// still move the watermark. Default 5 min.
	MaxFuture time.Duration
	// Lookup says that the caller answers Output.Wanted with Engine.Found, so
	// that what was dropped from memory comes back from the tables.
	Lookup bool
	// Share says that other engines have the other partitions, and that the
	// caller hands them Output.Bindings and Output.Shared.
	Share bool
	// Reread says that every event may be in the tables already, whatever its
	// time: each is looked up like one that comes too late, see Engine.Unknown,
	// and none is flagged for it. With Lookup.
	Reread bool
}

// Forever waits for everything: for files, where nothing is too late.
const Forever = time.Duration(math.MaxInt64)

func (c Config) withDefaults() Config {
	c.Skew = cmp.Or(c.Skew, time.Second)
	c.OutOfOrderness = cmp.Or(c.OutOfOrderness, 15*time.Minute)
	c.AllowedLateness = cmp.Or(c.AllowedLateness, time.Hour)
	c.Window = cmp.Or(c.Window, 7*24*time.Hour)
	c.MemoryBytes = cmp.Or(c.MemoryBytes, 1<<30)
	c.MaxDepth = cmp.Or(c.MaxDepth, 32)
	c.MaxFuture = cmp.Or(c.MaxFuture, 5*time.Minute)
	return c
}

// Output collects what a call has to say. Its slices are appended to; the
// actions are never changed once they are here.
type Output struct {
	Actions  []*schemas.Action // new rows, and rows that became better
	Bindings []schemas.Binding
	// Shared are actions that engines with other partitions have to know of, to
	// be handed to their Learn: tool calls, decisions, and what else more than a
	// binding depends on. Empty without Config.Share.
	Shared []*schemas.Action
	// Wanted are keys of which the tables know more than memory: see
	// Engine.Found. Empty without Config.Lookup.
	Wanted []schemas.Key
	// WantedSince is the event time from which on rows of these keys are wanted,
	// if that is earlier than that of rows which can still be improved: late
	// records correct rows that are final. Zero otherwise.
	WantedSince int64
	// Duplicates are the places of events that have their row under another,
	// lower place. The same one may come again.
	Duplicates []Duplicate
}

// Duplicate is a place from which no row comes, since the event's row names
// another one.
type Duplicate struct {
	Event schemas.ID
	At    schemas.Evidence // topic, partition, offset and index alone
}

// Reset empties the output and keeps its capacity.
func (o *Output) Reset() {
	clear(o.Actions)
	clear(o.Bindings)
	clear(o.Shared)
	clear(o.Wanted)
	clear(o.Duplicates)
	o.Actions, o.Bindings, o.Shared, o.Wanted, o.Duplicates = o.Actions[:0], o.Bindings[:0], o.Shared[:0], o.Wanted[:0], o.Duplicates[:0]
	o.WantedSince = 0
}

// Stats counts what happened since the engine was made.
type Stats struct {
	Events      int64 // processed, bind-only ones included
	BindOnly    int64 // of them, those that are no row
	Duplicates  int64 // delivered again while their row was waiting
	Late        int64 // arrived behind the watermark and the allowed lateness
	Future      int64 // event time ahead of ingestion by more than MaxFuture
	Improved    int64 // rows written again
	RowsEvicted int64 // rows that left early for lack of room
	KeysEvicted int64 // keys that left early for lack of room
	KeysExpired int64
	Wanted      int64 // keys asked for in the tables
	Found       int64 // of them, those of which the tables knew something

	Rows, Keys, Bindings, Bytes int // held now
	WatermarkNanos              int64
}

// Engine is the correlator. It is not safe for concurrent use.
type Engine struct {
	cfg    Config
	room   int // bytes for the state
	state  *state
	water  watermarks
	rows   rows
	dirty  []rowID // to be resolved again before the call returns
	trails slab[trail]
	links  slab[link]
	arena  arena
	kept   map[schemas.ID][]waiting // rows that tell of a cause which is not in memory
	coming []*coming                // see Engine.Coming
	walker walker
	stats  Stats
	grades map[string]*Grades

	lateSince int64 // earliest event time of late records whose keys are to be asked for; zero if there are none
	reach     int64 // the same of what was asked for and is not answered yet
}

// Grades counts, by grade, the rows that came to have it and those that were
// improved away from it. Both only grow, so that they can be added up over
// processes and restarts: the difference is how many rows have the grade.
type Grades struct {
	Entered, Left [schemas.GradeProven + 1]int64
}

// New makes an engine with nothing in its state.
func New(cfg Config) *Engine {
	cfg = cfg.withDefaults()
	e := &Engine{cfg: cfg, room: cfg.MemoryBytes, state: newState(), water: newWatermarks(int64(cfg.OutOfOrderness)), rows: newRows(), grades: map[string]*Grades{}, kept: map[schemas.ID][]waiting{}}
	e.walker = walker{s: e.state, maxDepth: cfg.MaxDepth, hopsFrom: &e.arena.hops}
	e.state.stale = func(w *watch) { e.trails.at(w.owner &^ trailOwner).stale = true }
	if cfg.Lookup {
		e.state.lost = newBloom(cfg.MemoryBytes / 8)
		e.room -= e.state.lost.bytes()
	}
	return e
}

// Assign says since when this process owns a partition, in Unix milliseconds.
// Rows of a later owner win over those of an earlier one. Until the partition
// speaks or is said to be idle it holds the watermark: it may have a backlog.
func (e *Engine) Assign(topic string, index int32, ownerMillis int64) {
	pr := e.water.part(partition{topic, index})
	pr.ownerMilli, pr.idle = ownerMillis, false
}

// Unassign drops the waiting rows of a partition: they are its next owner's.
// What rows of other partitions may rest on is heard on.
func (e *Engine) Unassign(topic string, index int32) {
	p := partition{topic, index}
	delete(e.water.parts, p)
	part := e.state.part(topic, index)
	var theirs []rowID
	for _, w := range e.rows.waits {
		if r := e.rows.waiting(w); r != nil && r.part == part {
			theirs = append(theirs, w.row)
		}
	}
	for _, i := range theirs {
		if r := e.rows.at(i); e.cfg.Share && e.concernsOthers(r) {
			r.bits |= rowShadow // rows of ours may rest on it, and on what is yet to be learned of it
			continue
		}
		e.leave(i)
	}
}

// Idle says that a partition has nothing to tell for now, so that it does not
// hold the watermark back.
func (e *Engine) Idle(topic string, index int32) {
	if pr := e.water.parts[partition{topic, index}]; pr != nil {
		pr.idle = true
	}
}

// Stats returns the counters.
func (e *Engine) Stats() Stats {
	s := e.stats
	s.Rows, s.Keys, s.Bindings, s.Bytes = len(e.rows.byID), e.state.live, e.state.edges.len(), e.bytes()
	s.WatermarkNanos = e.Watermark()
	return s
}

// EachGrades calls f, by source and in no order, with what happened to the
// grades of rows since the engine was made.
func (e *Engine) EachGrades(f func(source string, g Grades)) {
	for source, g := range e.grades {
		f(source, *g)
	}
}

// bytes is what the whole of the state weighs.
func (e *Engine) bytes() int {
	return e.state.bytes() + e.rows.bytes() + e.trails.bytes() + e.links.bytes()
}

// Watermark is the event time before which nothing is expected any more, in
// nanoseconds; zero while nothing is known.
func (e *Engine) Watermark() int64 {
	if e.water.current == math.MinInt64 {
		return 0
	}
	return e.water.current
}

// Process takes in events and appends to out every row that is new or better
// and every binding that is new or better proven. It does not retain the
// events' memory.
func (e *Engine) Process(out *Output, events []schemas.Event) {
	if len(events) > 0 {
		e.state.askAgain()
	}
	for i := range events {
		e.take(out, &events[i])
	}
	e.finish(out)
}

// finish ends a call: what was touched is resolved and written, what is over
// leaves, and room is made.
func (e *Engine) finish(out *Output) {
	e.settle(out)
	e.expire()
	e.shrink()
	e.ask(out)
}

// take learns what one event proves and makes its row.
func (e *Engine) take(out *Output, borrowed *schemas.Event) {
	e.stats.Events++
	if i, ok := e.rows.byID[borrowed.ID]; ok {
		e.again(out, i, borrowed)
		return
	}
	flags := e.observe(borrowed)
	late := (flags&schemas.FlagLate != 0 || e.cfg.Reread) && e.state.lost != nil
	if late {
		e.reachBack(borrowed)
	}
	e.learnFrom(out, borrowed)
	if borrowed.BindOnly != "" {
		e.stats.BindOnly++
		return
	}
	act := e.arena.action()
	e.arena.clone(&act.Event, borrowed)
	act.Flags |= flags
	act.RecordAuthMethod, act.RecordMFA = act.AuthMethod, act.MFA
	i := e.admit(act, 0)
	if late { // it has to wait for what is being looked up for it
		e.rows.postpone(i, e.water.newest())
	}
}

// learnFrom takes in the bindings that an event proves, and the ends.
func (e *Engine) learnFrom(out *Output, ev *schemas.Event) {
	if len(ev.Makes)+len(ev.Ends) == 0 || failedLogin(ev) {
		return
	}
	for i := range ev.Makes {
		b := ev.Makes[i]
		e.own(ev, &b)
		e.bind(out, &b, false)
	}
	for _, end := range ev.Ends {
		b := schemas.Binding{Child: end.Key, Relation: schemas.RelationEnded, Strength: schemas.StrengthExact, FromNanos: end.AtNanos}
		if end.Revoked {
			b.Relation = schemas.RelationRevoked
		}
		e.own(ev, &b)
		e.bind(out, &b, false)
	}
}

// own completes a binding with the event that proves it.
func (e *Engine) own(ev *schemas.Event, b *schemas.Binding) {
	b.Proof, b.ProofNanos, b.Source, b.Evidence = ev.ID, ev.TimeNanos, ev.Source, ev.Evidence
	if ev.Class == schemas.ClassIssuance && b.Child.Kind == schemas.KindToken {
		b.Scopes = ev.Scopes
	}
	b.Version = schemas.MakeVersion(e.water.owner(partition{ev.Evidence.Topic, ev.Evidence.Partition}), 1)
}

// observe moves event time on. What is known only at its end counts with its end.
func (e *Engine) observe(ev *schemas.Event) (flags schemas.Flags) {
	over := max(ev.TimeNanos, ev.EndedNanos)
	if at := ev.Evidence.TimestampNanos; at != 0 && over > at+int64(e.cfg.MaxFuture) {
		e.stats.Future++
		return schemas.FlagFutureTime
	}
	if !e.cfg.Reread && e.late(over) {
		flags = schemas.FlagLate
		e.stats.Late++
	}
	e.water.see(partition{ev.Evidence.Topic, ev.Evidence.Partition}, over)
	return flags
}

// bind learns one binding and wakes the rows that may see it. told says that
// it stands in the tables, or was said by another engine.
func (e *Engine) bind(out *Output, b *schemas.Binding, told bool) {
	s := e.state
	l := s.learn(b, told)
	if l.write {
		out.Bindings = append(out.Bindings, l.now)
	}
	if !l.changed {
		if !told && b.Parent.IsZero() {
			e.wake(l.child) // an end that was known: see outranked
		}
		return
	}
	if b.Strength == schemas.StrengthWeak && b.Child.Kind == schemas.KindWorkload {
		e.wakeAround(l.child, &l.now)
	} else {
		e.wake(l.child)
	}
	e.callBack(l.child)
	if b.Relation == schemas.RelationAuthenticated || b.Child.Namespace == addressNamespace {
		if parent := s.peek(b.Parent); parent != 0 {
			e.wake(parent) // rows that look down from it
			e.callBack(parent)
		}
	}
	if b.Child.Kind == schemas.KindCall && b.Strength != schemas.StrengthWeak {
		if k, ok := traceOf(b.Child); ok {
			if trace := s.peek(k); trace != 0 {
				e.wake(trace)
				e.callBack(trace)
			}
		}
	}
}

// wakeAround marks the rows that lie inside a weak binding of a workload: a
// busy one has many rows and gets a binding with every call, and no row
// outside its time can see it.
func (e *Engine) wakeAround(n nodeID, b *schemas.Binding) {
	e.eachWatcher(n, func(i rowID) {
		a := e.rows.at(i).act
		at, slack := a.TimeNanos, int64(e.cfg.Skew)+a.ResolutionNanos
		if (b.FromNanos == 0 || b.FromNanos <= at+slack) && (b.UntilNanos == 0 || at < b.UntilNanos+slack) {
			e.soil(i)
		}
	})
}

// wake marks the rows that visited a key.
func (e *Engine) wake(n nodeID) { e.eachWatcher(n, e.soil) }

// eachWatcher calls f with the rows that visited a key. Trails through it are
// over.
func (e *Engine) eachWatcher(n nodeID, f func(rowID)) {
	s := e.state
	at := s.at(n)
	for i := at.watch; i != 0; {
		w := s.watches.at(uint32(i))
		i = w.next
		if w.owner&trailOwner == 0 {
			f(w.owner)
			continue
		}
		t := e.trails.at(w.owner &^ trailOwner)
		t.stale = true
		for l := t.rows; l != 0; {
			link := e.links.at(l)
			l = link.next
			f(link.row)
		}
	}
}

// callBack asks the tables for the rows that rest on a key and left for lack
// of room, now that something new is known of it.
func (e *Engine) callBack(n nodeID) {
	if at := e.state.at(n); at.bits&nodeRowsLost != 0 && e.state.lost != nil {
		at.bits &^= nodeRowsLost
		e.state.miss(n, at)
	}
}

func (e *Engine) soil(i rowID) {
	if r := e.rows.at(i); r.bits&rowDirty == 0 {
		r.bits |= rowDirty
		e.dirty = append(e.dirty, i)
	}
}

// again handles an event that was delivered before: the row carries the lowest
// of its places. What it proves is learned again, since a crash may have kept
// the row and lost the binding, and a row from the tables gets back what they
// do not hold.
func (e *Engine) again(out *Output, i rowID, borrowed *schemas.Event) {
	r := e.rows.at(i)
	if r.bits&rowShadow == 0 {
		e.stats.Duplicates++
	}
	lower := evidenceOrder(&borrowed.Evidence, &r.act.Evidence) < 0
	other := &borrowed.Evidence // the place from which no row comes
	if lower {
		other = &r.act.Evidence
	}
	if evidenceOrder(&borrowed.Evidence, &r.act.Evidence) != 0 {
		out.Duplicates = append(out.Duplicates, Duplicate{r.act.ID, e.state.place(other)})
	}
	if !lower && r.bits&(rowRestored|rowShadow) == 0 {
		return
	}
	e.learnFrom(out, borrowed)
	act := e.arena.action()
	*act = *r.act
	if r.bits&rowRestored != 0 {
		e.arena.clone(&act.Event, borrowed)
		act.AuthMethod, act.MFA, act.Flags, act.Evidence = r.act.AuthMethod, r.act.MFA, r.act.Flags, r.act.Evidence // as written
	}
	if lower {
		at := borrowed.Evidence
		at.Topic = act.Evidence.Topic
		if at.Topic != borrowed.Evidence.Topic {
			at.Topic = strings.Clone(borrowed.Evidence.Topic)
		}
		act.Evidence = at
		act.Version = 0 // makes settle write it again
	}
	if r.bits&rowShadow != 0 && e.mine(&borrowed.Evidence) { // ours after all
		act.Version = 0
		r.part = e.state.part(borrowed.Evidence.Topic, borrowed.Evidence.Partition)
		r.bits &^= rowShadow
	}
	if r.bits&rowRestored != 0 { // whatever it made others write, it may make an owner before us write: see outranked
		for _, n := range r.own {
			e.wake(n)
		}
		if r.judged != 0 {
			e.wake(r.judged)
		}
	}
	r.bits &^= rowRestored
	r.act = act
	e.soil(i)
}

// admit makes an action a waiting row, to be resolved when the call settles.
func (e *Engine) admit(act *schemas.Action, revision uint32) rowID {
	i := e.rows.add(act, revision, e.state.part(act.Evidence.Topic, act.Evidence.Partition))
	r := e.rows.at(i)
	r.own = carve(&e.arena.nodes, len(act.Keys))[:0]
	for j := range act.Keys {
		if k := &act.Keys[j]; k.Kind != schemas.KindGrant {
			n := e.state.intern(*k, 0) // a key asked for is a key waited for
			if k.Kind == schemas.KindRequest {
				e.wake(n) // all records of a request share its cause
			}
			e.state.at(n).refs++
			r.own = append(r.own, n)
			e.note(&act.Event, k, n)
		}
	}
	if len(r.own) > 1 {
		slices.SortStableFunc(r.own, func(a, b nodeID) int { return int(e.state.at(a).kind) - int(e.state.at(b).kind) })
	}
	if waiting, ok := e.kept[act.ID]; ok { // they told of this cause without knowing it
		delete(e.kept, act.ID)
		for _, w := range waiting {
			if e.rows.waiting(w) != nil {
				e.soil(w.row)
			}
		}
	}
	e.soil(i)
	return i
}

// note tells a key of a row what the row itself shows of it.
func (e *Engine) note(ev *schemas.Event, k *schemas.Key, n nodeID) {
	s := e.state
	switch {
	case k.Kind == schemas.KindCall && ev.Class == schemas.ClassToolCall && ownsCall(ev, k):
		m := s.grow(n)
		if c := (call{ev.ID, ev.TimeNanos, ev.ProtocolSpan()}); c.before(m.call) {
			m.call = c
			e.wake(n)
			e.callBack(n)
		}
	case k.Kind == schemas.KindToken && ev.SourceIP != "":
		ip, err := netip.ParseAddr(ev.SourceIP)
		if err != nil {
			return
		}
		e.used(n, ip, ev.TimeNanos, ev.ID)
	default:
		return
	}
	s.at(n).seen = max(s.at(n).seen, heardNanos(ev.TimeNanos, &ev.Evidence))
}

// used notes a use of a token, which may be its first.
func (e *Engine) used(n nodeID, ip netip.Addr, nanos int64, event schemas.ID) {
	if e.state.firstUse(n, ip, nanos, event) {
		e.wake(n)
		e.callBack(n)
	}
}

// ownsCall reports whether a call key names the event's own span, rather than
// the span of somebody that it answers.
func ownsCall(ev *schemas.Event, k *schemas.Key) bool {
	return ev.SpanID != "" && strings.HasSuffix(k.Value, "/"+ev.SpanID)
}

// settle resolves what is dirty until nothing is, and writes what changed.
func (e *Engine) settle(out *Output) {
	touched := e.rows.touched[:0]
	// A decision that moves to another call soils rows again; each round
	// either moves one or ends. The bound is a guard against our own mistakes.
	for round := 0; len(e.dirty) > 0 && round < 8; round++ {
		batch := e.dirty
		e.dirty = e.rows.spare[:0]
		for _, i := range batch {
			r := e.rows.at(i)
			if r.act == nil {
				continue
			}
			r.bits &^= rowDirty
			was := r.bits
			switch {
			case !e.resolve(i, r):
				if was&rowWorkloadToken == 0 && r.bits&(rowWorkloadToken|rowShadow) == rowWorkloadToken && e.isFirstUse(r) { // it was not known that others need it
					e.share(out, r)
				}
			case r.bits&rowTouched == 0:
				r.bits |= rowTouched
				touched = append(touched, i)
			}
		}
		e.rows.spare = batch
	}
	slices.SortFunc(touched, e.rows.order)
	for _, i := range touched {
		r := e.rows.at(i)
		r.bits &^= rowTouched
		if r.bits&rowShadow != 0 {
			continue
		}
		grades := e.gradesOf(r.act.Source)
		if r.revision++; r.revision > 1 {
			e.stats.Improved++
			grades.Left[r.written]++
		}
		r.written = r.act.Grade
		grades.Entered[r.written]++
		r.act.Version = schemas.MakeVersion(e.water.owner(e.state.parts.all[r.part]), r.revision)
		out.Actions = append(out.Actions, r.act)
		if e.concernsOthers(r) {
			e.share(out, r)
		}
	}
	e.rows.touched = touched
}

// share tells the other engines of a row, once.
func (e *Engine) share(out *Output, r *row) {
	if e.cfg.Share && r.bits&rowTold == 0 {
		r.bits |= rowTold
		out.Shared = append(out.Shared, r.act)
	}
}

// isFirstUse reports whether a row is the earliest known use of one of its tokens.
func (e *Engine) isFirstUse(r *row) bool {
	return slices.ContainsFunc(r.own, func(n nodeID) bool {
		u := e.state.at(n).use
		return u != 0 && e.state.uses.at(u).event == r.act.ID
	})
}

func (e *Engine) gradesOf(source string) *Grades {
	g := e.grades[source]
	if g == nil {
		g = new(Grades)
		e.grades[strings.Clone(source)] = g
	}
	return g
}

// concernsOthers reports whether rows of other partitions may depend on more
// of an action than the bindings it makes: tool calls and decisions; a cause
// that all records of a request share; the first address of a workload's token.
func (e *Engine) concernsOthers(r *row) bool {
	a := r.act
	switch a.Class {
	case schemas.ClassToolCall, schemas.ClassDecision:
		return true
	}
	return a.CauseGrade != schemas.CauseNone && !a.FirstKey(schemas.KindRequest).IsZero() || r.bits&rowWorkloadToken != 0
}

func satAdd(a, b int64) int64 {
	if s := a + b; s >= a {
		return s
	}
	return math.MaxInt64
}

func satSub(a, b int64) int64 {
	if d := a - b; d < a || b <= 0 {
		return d
	}
	return math.MinInt64
}
