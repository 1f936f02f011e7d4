package simtest

import (
	"fmt"
	"math"
	"time"

	"catena/schemas"
)

// model foretells what an engine holds: which rows may still become better,
// and which keys can still join. It knows event times only.
type model struct {
	bounded   bool            // rows become final
	newest    map[place]int64 // event time seen; MinInt64 while a partition is silent
	watermark int64
	rows      map[schemas.ID]int64 // when each was over
	keys      map[schemas.Key]bool
	late      int64
	future    int64
}

func newModel(bounded bool) model {
	return model{bounded: bounded, newest: map[place]int64{}, watermark: math.MinInt64, rows: map[schemas.ID]int64{}, keys: map[schemas.Key]bool{}}
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
	_, held := m.rows[ev.ID]
	for _, k := range ev.Keys {
		m.key(k)
	}
	m.key(ev.Actor)
	for _, b := range ev.Makes {
		m.key(b.Child)
		m.key(b.Parent)
	}
	for _, e := range ev.Ends {
		m.key(e.Key)
	}
	if held {
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
		m.rows[ev.ID] = over
	}
}

// key notes a key, and the trace of a span.
func (m *model) key(k schemas.Key) {
	if k.IsZero() {
		return
	}
	m.keys[k] = true
	if k.Kind == schemas.KindCall && k.Namespace == "span" {
		m.keys[schemas.Key{Kind: schemas.KindCall, Namespace: "trace", Value: k.Value[:len(k.Value)-5]}] = true
	}
}

// restore notes a row that was taken back.
func (m *model) restore(a *schemas.Action) {
	over := max(a.TimeNanos, a.EndedNanos)
	if a.Flags&schemas.FlagFutureTime != 0 {
		over = a.Evidence.TimestampNanos
	}
	m.rows[a.ID] = over
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
	for id, over := range m.rows {
		if over < m.final() {
			delete(m.rows, id)
		}
	}
}

// checkHeld compares what is held after a call with what may be.
func (pl *player) checkHeld() {
	st := pl.engine.Stats()
	if st.Rows != len(pl.model.rows) {
		pl.held("%d rows are held, and %d may still become better", st.Rows, len(pl.model.rows))
	}
	if st.Late != pl.model.late || st.Future != pl.model.future {
		pl.held("%d late and %d future events, want %d and %d", st.Late, st.Future, pl.model.late, pl.model.future)
	}
	if pl.plan.crashes == 0 && st.Keys > len(pl.model.keys) {
		pl.held("%d keys are held of %d that were ever named", st.Keys, len(pl.model.keys))
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

// close lets event time pass everything: nothing may be held but the heartbeats
// themselves, which are the newest there is.
func (pl *player) close() {
	if pl.fail != "" || !pl.plan.bounded {
		return
	}
	end := Noon + int64(60*24*time.Hour)
	var beats []schemas.Event
	for at := range pl.model.newest {
		ev := schemas.Event{ID: schemas.MakeID("heartbeat", fmt.Sprint(at)), TimeNanos: end, Class: schemas.ClassOther,
			Evidence: schemas.Evidence{Topic: at.topic, Partition: at.index, Offset: 1 << 40, TimestampNanos: end}}
		beats = append(beats, ev)
	}
	pl.engine.Process(&pl.out, beats)
	pl.out.Reset()
	st := pl.engine.Stats()
	if st.Rows != len(beats) || st.Keys != 0 {
		pl.held("after the end of time %d rows (%d heartbeats) and %d keys are held", st.Rows, len(beats), st.Keys)
	}
	for at := range pl.model.newest {
		pl.engine.Unassign(at.topic, at.index)
	}
	if st := pl.engine.Stats(); st.Rows != 0 || st.Keys != 0 || st.Bytes != 0 {
		pl.held("with no partition left %d rows, %d keys and %d bytes are held", st.Rows, st.Keys, st.Bytes)
	}
}
