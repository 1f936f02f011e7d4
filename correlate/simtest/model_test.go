package simtest

import (
	"fmt"
	"math"
	"slices"
	"time"

	"catena/schemas"
)

// waiting is a row that may still become better.
type waiting struct {
	over int64 // event time
	keys []schemas.Key
}

// model foretells what an engine holds: which rows may still become better,
// and which keys can still join. It knows event times only.
type model struct {
	bounded   bool            // rows become final
	newest    map[place]int64 // event time seen; MinInt64 while a partition is silent
	watermark int64
	rows      map[schemas.ID]waiting
	told      map[schemas.Key]bool // keys of which something is known
	asked     map[schemas.Key]int  // by how many waiting rows
	onlyAsked int                  // keys that are asked for and of which nothing is known
	late      int64
	future    int64
}

func newModel(bounded bool) model {
	return model{bounded: bounded, newest: map[place]int64{}, watermark: math.MinInt64, rows: map[schemas.ID]waiting{},
		told: map[schemas.Key]bool{}, asked: map[schemas.Key]int{}}
}

// final is the time before which rows are final.
func (m *model) final() int64 {
	if !m.bounded || m.watermark == math.MinInt64 {
		return math.MinInt64
	}
	return m.watermark - int64(Lateness)
}

// ahead is by how much an event time may lie in the future and still move the
// watermark; the engine's default.
const ahead = int64(5 * time.Minute)

func (m *model) take(ev *schemas.Event) {
	over, heard := max(ev.TimeNanos, ev.EndedNanos), ev.Evidence.TimestampNanos
	for _, b := range ev.Makes {
		m.tell(b.Child)
		m.tell(b.Parent)
	}
	for _, e := range ev.Ends {
		m.tell(e.Key)
	}
	for _, k := range ev.Keys {
		// Its own call, the address of a token's first use, the call that was decided upon.
		if k.Kind == schemas.KindCall || k.Kind == schemas.KindToken && isAddress(ev.SourceIP) || k.Kind == schemas.KindRequest && ev.Class == schemas.ClassDecision {
			m.tell(k)
		}
	}
	if _, held := m.rows[ev.ID]; held {
		return
	}
	switch {
	case over > heard+ahead:
		m.future++
		over = heard
	default:
		if over < m.final() {
			m.late++
		}
		at := place{ev.Evidence.Topic, ev.Evidence.Partition}
		m.newest[at] = max(m.newest[at], over)
	}
	if ev.BindOnly == "" {
		m.wait(ev, over)
	}
}

func (m *model) wait(ev *schemas.Event, over int64) {
	keys := slices.Clone(ev.Keys)
	if !ev.Actor.IsZero() {
		keys = append(keys, ev.Actor)
	}
	m.rows[ev.ID] = waiting{over, keys}
	for _, k := range keys {
		if m.asked[k]++; m.asked[k] == 1 && !m.told[k] {
			m.onlyAsked++
		}
	}
}

func (m *model) leave(id schemas.ID) {
	for _, k := range m.rows[id].keys {
		if m.asked[k]--; m.asked[k] == 0 && !m.told[k] {
			m.onlyAsked--
		}
	}
	delete(m.rows, id)
}

// tell notes that something is known of a key, and of the trace of a span.
func (m *model) tell(k schemas.Key) {
	if !m.told[k] && m.asked[k] > 0 {
		m.onlyAsked--
	}
	m.told[k] = true
	if k.Kind == schemas.KindCall && k.Namespace == "span" {
		m.told[schemas.Key{Kind: schemas.KindCall, Namespace: "trace", Value: k.Value[:len(k.Value)-5]}] = true
	}
}

// restore notes a row that was taken back.
func (m *model) restore(a *schemas.Action) {
	over := max(a.TimeNanos, a.EndedNanos)
	if a.Flags&schemas.FlagFutureTime != 0 {
		over = a.Evidence.TimestampNanos
	}
	m.wait(&a.Event, over)
}

// settle moves the watermark on and lets go of what is final.
func (m *model) settle() {
	low := int64(math.MaxInt64)
	for _, t := range m.newest {
		low = min(low, t)
	}
	if low == math.MinInt64 || low == math.MaxInt64 {
		return
	}
	m.watermark = max(m.watermark, low-int64(Bound))
	for id, r := range m.rows {
		if r.over < m.final() {
			m.leave(id)
		}
	}
}

// checkHeld compares what is held after a call with what may be.
func (pl *player) checkHeld() {
	st := pl.engine.Stats()
	if pl.plan.memory != 0 {
		if st.Bytes > pl.plan.memory {
			pl.held("the state weighs %d bytes, and may weigh %d", st.Bytes, pl.plan.memory)
		}
		return
	}
	if pl.plan.partly { // it holds what it looked up, too
		return
	}
	if st.Rows != len(pl.model.rows) {
		pl.held("%d rows are held, and %d may still become better", st.Rows, len(pl.model.rows))
	}
	if st.Late != pl.model.late || st.Future != pl.model.future {
		pl.held("%d late and %d future events, want %d and %d", st.Late, st.Future, pl.model.late, pl.model.future)
	}
	if known := len(pl.model.told); pl.plan.crashes == 0 && st.Keys > known+pl.model.onlyAsked {
		pl.held("%d keys are held: something is known of %d, and %d more are asked for", st.Keys, known, pl.model.onlyAsked)
	}
	if w := pl.model.watermark; w != math.MinInt64 && st.WatermarkNanos != w {
		pl.held("the watermark is %s, want %s", clock(st.WatermarkNanos), clock(w))
	}
}

func (pl *player) held(format string, args ...any) {
	if pl.fail == "" {
		pl.fail = fmt.Sprintf("delivery %v\n%s", pl.plan, fmt.Sprintf(format, args...))
	}
}

// finality lets event time move on to where rows become final, one after the
// other: at the edge a row is still held, and an event is not late.
func (pl *player) finality() {
	var overs []int64
	for _, r := range pl.model.rows {
		overs = append(overs, r.over)
	}
	slices.Sort(overs)
	overs = slices.Compact(overs)
	for n := 0; len(overs) > 0 && n < 5 && pl.fail == ""; n++ {
		over := overs[0]
		overs = overs[1+pl.rng.IntN(max(1, len(overs)/4)):]
		if pl.model.watermark >= over+int64(Lateness) {
			continue
		}
		pl.beat(over + int64(Lateness) + int64(Bound))
		for _, probe := range []int64{0, -1, 1} {
			pl.probe(over+probe, pl.model.watermark, false)
		}
		pl.probe(pl.model.watermark+ahead, pl.model.watermark, false)
		pl.probe(pl.model.watermark+ahead+1, pl.model.watermark, true)
	}
}

// beat makes every partition speak of a time.
func (pl *player) beat(nanos int64) {
	var beats []*schemas.Event
	for at := range pl.model.newest {
		beats = append(beats, &schemas.Event{ID: schemas.MakeID("heartbeat", fmt.Sprint(at, nanos)), TimeNanos: nanos,
			Evidence: schemas.Evidence{Topic: at.topic, Partition: at.index, Offset: 1 << 40, TimestampNanos: nanos}})
	}
	pl.process(beats)
}

// probe sends one event of a time that arrives at another, and looks whether it
// is taken for what it is.
func (pl *player) probe(nanos, arrives int64, future bool) {
	pl.probes++
	at := pl.feed[pl.rng.IntN(len(pl.feed))].Evidence
	at.TimestampNanos = arrives
	ev := &schemas.Event{ID: schemas.MakeID("probe", fmt.Sprint(pl.probes)), TimeNanos: nanos, Evidence: at}
	var want schemas.Flags
	switch {
	case future:
		want = schemas.FlagFutureTime
	case nanos < pl.model.final():
		want = schemas.FlagLate
	}
	pl.process([]*schemas.Event{ev})
	if a := pl.tab.rows[ev.ID]; a == nil || a.Flags != want {
		pl.held("an event of %s that arrives at %s, when all before %s is final: %v, want flags %q", clock(nanos), clock(arrives), clock(pl.model.final()), a, want)
	}
}

// close lets event time pass everything: nothing may be held but the heartbeats
// themselves, which are the newest there is.
func (pl *player) close() {
	if pl.fail != "" || !pl.plan.bounded || pl.plan.partly || pl.plan.instances > 1 || len(pl.feed) == 0 {
		return
	}
	pl.finality()
	if pl.fail != "" {
		return
	}
	end := Noon + int64(60*24*time.Hour)
	pl.beat(end)
	st := pl.engine.Stats()
	if beats := len(pl.model.newest); st.Rows != beats || st.Keys != 0 {
		pl.held("after the end of time %d rows (%d heartbeats) and %d keys are held", st.Rows, beats, st.Keys)
	}
	for at := range pl.model.newest {
		pl.engine.Unassign(at.topic, at.index)
	}
	if st := pl.engine.Stats(); st.Rows != 0 || st.Keys != 0 || st.Bytes != 0 {
		pl.held("with no partition left %d rows, %d keys and %d bytes are held", st.Rows, st.Keys, st.Bytes)
	}
}
