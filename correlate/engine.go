package correlate

import (
	"cmp"
	"container/heap"
	"math"
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
}

// Reset empties the output and keeps its capacity.
func (o *Output) Reset() {
	clear(o.Actions)
	clear(o.Bindings)
	o.Actions, o.Bindings = o.Actions[:0], o.Bindings[:0]
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

	Rows, Keys, Bytes int // held now
	WatermarkNanos    int64
}

// Engine is the correlator. It is not safe for concurrent use.
type Engine struct {
	cfg    Config
	state  *state
	water  watermarks
	rows   map[schemas.ID]*row
	waits  rowHeap // by event time, for leaving
	dirty  []*row  // to be resolved again before the call returns
	stats  Stats
	rbytes int // of rows
	walker walker
}

// row is an action that later events may still improve.
type row struct {
	act       *schemas.Action // as last written
	deps      []*node
	part      partition
	revision  uint32
	dirty     bool
	done      bool
	restored  bool        // came back from the tables, without what they do not hold
	frozen    bool        // a key that it rests on was dropped: what is written stays
	judged    schemas.Key // of a decision: the call that it was attached to
	overNanos int64       // event time at which the action was over; from the future: its arrival
	heapAt    int
	bytes     int
}

// New makes an engine with nothing in its state.
func New(cfg Config) *Engine {
	cfg = cfg.withDefaults()
	return &Engine{cfg: cfg, state: newState(), water: newWatermarks(int64(cfg.OutOfOrderness)), rows: map[schemas.ID]*row{}}
}

// Assign says since when this process owns a partition, in Unix milliseconds.
// Rows of a later owner win over those of an earlier one. Until the partition
// speaks or is said to be idle it holds the watermark: it may have a backlog.
func (e *Engine) Assign(topic string, index int32, ownerMillis int64) {
	pr := e.water.part(partition{topic, index})
	pr.ownerMilli, pr.idle = ownerMillis, false
}

// Unassign drops the waiting rows of a partition: they are its next owner's.
func (e *Engine) Unassign(topic string, index int32) {
	p := partition{topic, index}
	delete(e.water.parts, p)
	var theirs []*row
	for _, r := range e.waits {
		if r.part == p {
			theirs = append(theirs, r)
		}
	}
	for _, r := range theirs {
		e.leave(r)
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
	s.Rows, s.Keys, s.Bytes = len(e.rows), e.state.nodes.Len(), e.state.bytes+e.rbytes
	s.WatermarkNanos = e.Watermark()
	return s
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
	for i := range events {
		e.take(out, &events[i])
	}
	e.settle(out)
	e.expire()
	e.shrink()
}

// take learns what one event proves and makes its row.
func (e *Engine) take(out *Output, borrowed *schemas.Event) {
	e.stats.Events++
	if r := e.rows[borrowed.ID]; r != nil {
		e.again(out, r, borrowed)
		return
	}
	ev := borrowed.Clone()
	e.observe(&ev)
	e.learnFrom(out, &ev)
	if ev.BindOnly != "" {
		e.stats.BindOnly++
		return
	}
	e.admit(&schemas.Action{Event: ev, RecordAuthMethod: ev.AuthMethod, RecordMFA: ev.MFA}, 0)
}

// learnFrom takes in the bindings that an event proves, and the ends.
func (e *Engine) learnFrom(out *Output, ev *schemas.Event) {
	if failedLogin(ev) {
		return
	}
	for i := range ev.Makes {
		e.bind(out, e.ownBinding(ev, ev.Makes[i]))
	}
	for _, end := range ev.Ends {
		b := schemas.Binding{Child: end.Key, Relation: schemas.RelationEnded, Strength: schemas.StrengthExact, FromNanos: end.AtNanos}
		if end.Revoked {
			b.Relation = schemas.RelationRevoked
		}
		e.bind(out, e.ownBinding(ev, b))
	}
}

// Restore takes back what earlier runs wrote: bindings first, then the rows
// that may still be improved. Rows that now come out better are appended to
// out. It does not retain the arguments' slices.
func (e *Engine) Restore(out *Output, bindings []schemas.Binding, actions []*schemas.Action) {
	for i := range bindings {
		e.bind(nil, bindings[i])
	}
	for _, a := range actions {
		if e.rows[a.ID] == nil {
			r := e.admit(a, uint32(a.Version&schemas.MaxRevision))
			r.restored = true
		}
	}
	e.settle(out)
	e.shrink()
}

// ownBinding completes a binding with the event that proves it.
func (e *Engine) ownBinding(ev *schemas.Event, b schemas.Binding) schemas.Binding {
	b.Proof, b.ProofNanos, b.Source, b.Evidence = ev.ID, ev.TimeNanos, ev.Source, ev.Evidence
	b.Version = schemas.MakeVersion(e.water.owner(partition{ev.Evidence.Topic, ev.Evidence.Partition}), 1)
	return b
}

// observe moves event time on. What is known only at its end counts with its end.
func (e *Engine) observe(ev *schemas.Event) {
	over := max(ev.TimeNanos, ev.EndedNanos)
	if at := ev.Evidence.TimestampNanos; at != 0 && over > at+int64(e.cfg.MaxFuture) {
		ev.Flags |= schemas.FlagFutureTime
		e.stats.Future++
		return
	}
	if e.water.current != math.MinInt64 && over < satSub(e.water.current, int64(e.cfg.AllowedLateness)) {
		ev.Flags |= schemas.FlagLate
		e.stats.Late++
	}
	e.water.see(partition{ev.Evidence.Topic, ev.Evidence.Partition}, over)
}

// bind learns one binding and wakes the rows that may see it.
func (e *Engine) bind(out *Output, b schemas.Binding) {
	n, now, changed := e.state.learn(b)
	if !changed {
		return
	}
	if out != nil {
		out.Bindings = append(out.Bindings, now)
	}
	if b.Strength == schemas.StrengthWeak && n.key.Kind == schemas.KindWorkload {
		e.wakeAround(n, &now)
	} else {
		e.wake(n)
	}
	if b.Relation == schemas.RelationAuthenticated || b.Child.Namespace == addressNamespace {
		if parent := e.state.find(b.Parent); parent != nil {
			e.wake(parent) // rows that look down from it
		}
	}
	if anchors(&b) {
		k, _ := traceOf(b.Child)
		if trace := e.state.find(k); trace != nil {
			e.wake(trace)
		}
	}
}

// wakeAround marks the rows that lie inside a weak binding of a workload: a
// busy one has many rows and gets a binding with every call, and no row
// outside its time can see it.
func (e *Engine) wakeAround(n *node, b *schemas.Binding) {
	for _, r := range n.rows {
		if r.done {
			continue
		}
		at, slack := r.act.TimeNanos, int64(e.cfg.Skew)+r.act.ResolutionNanos
		if (b.FromNanos == 0 || b.FromNanos <= at+slack) && (b.UntilNanos == 0 || at < b.UntilNanos+slack) {
			e.soil(r)
		}
	}
}

// wake marks the rows that visited a node.
func (e *Engine) wake(n *node) {
	for _, r := range n.rows {
		e.soil(r)
	}
}

func (e *Engine) soil(r *row) {
	if !r.dirty && !r.done {
		r.dirty = true
		e.dirty = append(e.dirty, r)
	}
}

// again handles an event that was delivered before: the row carries the lowest
// of its places. What it proves is learned again, since a crash may have kept
// the row and lost the binding, and a row from the tables gets back what they
// do not hold.
func (e *Engine) again(out *Output, r *row, borrowed *schemas.Event) {
	e.stats.Duplicates++
	lower := evidenceOrder(&borrowed.Evidence, &r.act.Evidence) < 0
	if !lower && !r.restored {
		return
	}
	ev := borrowed.Clone()
	e.learnFrom(out, &ev)
	act := *r.act
	if r.restored {
		r.restored = false
		ev.AuthMethod, ev.MFA, ev.Flags, ev.Evidence = act.AuthMethod, act.MFA, act.Flags, act.Evidence // as written
		act.Event = ev
	}
	if lower {
		act.Evidence = borrowed.Evidence
		act.Version = 0 // makes settle write it again
	}
	r.act = &act
	e.soil(r)
}

// admit makes an action a waiting row, to be resolved when the call settles.
func (e *Engine) admit(act *schemas.Action, revision uint32) *row {
	r := &row{act: act, part: partition{act.Evidence.Topic, act.Evidence.Partition}, revision: revision,
		overNanos: max(act.TimeNanos, act.EndedNanos)}
	if act.Flags&schemas.FlagFutureTime != 0 {
		r.overNanos = act.Evidence.TimestampNanos
	}
	r.bytes = rowBytes + rowStrings(&act.Event)
	e.rbytes += r.bytes
	e.rows[act.ID] = r
	heap.Push(&e.waits, r)
	e.note(r)
	e.soil(r)
	return r
}

// note tells the keys of a row what the row itself shows of them.
func (e *Engine) note(r *row) {
	ev := &r.act.Event
	for _, k := range ev.Keys {
		switch {
		case k.Kind == schemas.KindCall && ev.Class == schemas.ClassToolCall && ownsCall(ev, k):
			n := e.state.intern(k, heardNanos(ev.TimeNanos, &ev.Evidence))
			if c := (call{ev.ID, ev.TimeNanos, ev.ProtocolSpan()}); c.before(n.call) {
				n.call = c
				e.wake(n)
			}
		case k.Kind == schemas.KindToken && isAddress(ev.SourceIP):
			n := e.state.intern(k, heardNanos(ev.TimeNanos, &ev.Evidence))
			u := use{ev.SourceIP, ev.TimeNanos, ev.ID}
			if !u.before(n.firstUse) {
				continue
			}
			moved := n.firstUse.ip != "" && n.firstUse.ip != u.ip
			u.ip = strings.Clone(u.ip)
			n.firstUse = u
			if moved {
				e.wake(n)
			}
		}
	}
}

// ownsCall reports whether a call key names the event's own span, rather than
// the span of somebody that it answers.
func ownsCall(ev *schemas.Event, k schemas.Key) bool {
	return ev.SpanID != "" && strings.HasSuffix(k.Value, "/"+ev.SpanID)
}

// settle resolves what is dirty until nothing is, and writes what changed.
func (e *Engine) settle(out *Output) {
	var touched []*row
	// A decision that moves to another call soils rows again; each round
	// either moves one or ends. The bound is a guard against our own mistakes.
	for round := 0; len(e.dirty) > 0 && round < 8; round++ {
		batch := e.dirty
		e.dirty = nil
		for _, r := range batch {
			r.dirty = false
			if r.done {
				continue
			}
			if e.resolve(r) {
				touched = append(touched, r)
			}
		}
	}
	slices.SortFunc(touched, rowOrder)
	for _, r := range slices.Compact(touched) {
		if r.revision++; r.revision > 1 {
			e.stats.Improved++
		}
		r.act.Version = schemas.MakeVersion(e.water.owner(r.part), r.revision)
		out.Actions = append(out.Actions, r.act)
	}
}

func rowOrder(a, b *row) int {
	return cmp.Or(cmp.Compare(a.act.TimeNanos, b.act.TimeNanos), compareIDs(a.act.ID, b.act.ID))
}

// expire lets go of rows and keys that the watermark has passed.
func (e *Engine) expire() {
	w := e.water.advance()
	if w == math.MinInt64 {
		return
	}
	final := satSub(w, int64(e.cfg.AllowedLateness))
	for len(e.waits) > 0 && e.waits[0].overNanos < final {
		e.leave(e.waits[0])
	}
	old := satSub(w, int64(e.cfg.Window))
	for {
		_, n, ok := e.state.nodes.GetOldest()
		if !ok || n.seen >= old || len(n.rows) > n.done {
			return
		}
		e.state.forget(n)
		e.stats.KeysExpired++
	}
}

// shrink makes room when the state is over its budget.
func (e *Engine) shrink() {
	for e.state.bytes+e.rbytes > e.cfg.MemoryBytes {
		if len(e.waits) > 0 && e.rbytes*2 > e.cfg.MemoryBytes {
			e.leave(e.waits[0])
			e.stats.RowsEvicted++
			continue
		}
		_, n, ok := e.state.nodes.GetOldest()
		if !ok {
			if len(e.waits) == 0 {
				return
			}
			e.leave(e.waits[0])
			e.stats.RowsEvicted++
			continue
		}
		e.state.forget(n)
		if len(n.up) > 0 || !n.call.event.IsZero() {
			e.state.evicted.Add(n.key, struct{}{})
			for _, r := range n.rows {
				r.frozen = true // what they say is no longer to be had: resolved again they would say less
			}
		}
		e.stats.KeysEvicted++
	}
}

// leave ends the waiting of a row.
func (e *Engine) leave(r *row) {
	heap.Remove(&e.waits, r.heapAt)
	delete(e.rows, r.act.ID)
	e.rbytes -= r.bytes
	e.state.release(r)
	r.act = nil // lists that still name the row must not keep its memory
}

// rowStrings is the length of an event's strings.
func rowStrings(ev *schemas.Event) int {
	n := len(ev.Action) + len(ev.Resource) + len(ev.UserAgent) + len(ev.Authority)
	for _, k := range ev.Keys {
		n += 40 + len(k.Namespace) + len(k.Value)
	}
	for _, a := range ev.Attributes {
		n += 32 + len(a.Name) + len(a.Value)
	}
	return n
}

func satSub(a, b int64) int64 {
	if d := a - b; d < a || b <= 0 {
		return d
	}
	return math.MinInt64
}

// rowHeap orders waiting rows by the time at which they are over.
type rowHeap []*row

func (h rowHeap) Len() int { return len(h) }
func (h rowHeap) Less(i, j int) bool {
	return h[i].overNanos < h[j].overNanos
}
func (h rowHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapAt, h[j].heapAt = i, j
}

// Push implements heap.Interface.
func (h *rowHeap) Push(x any) {
	r := x.(*row)
	r.heapAt = len(*h)
	*h = append(*h, r)
}

// Pop implements heap.Interface.
func (h *rowHeap) Pop() any {
	old := *h
	r := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return r
}
