package correlate

import (
	"math"
	"slices"

	"catena/schemas"
)

// Records that come behind the watermark and the allowed lateness, and what
// the tables have to tell of their time, which memory has let go of.

// late reports whether what was over at a time comes too late to find its
// state in memory. Of those that are read once more nothing is there.
func (e *Engine) late(overNanos int64) bool {
	return e.cfg.Reread || e.water.current != math.MinInt64 && overNanos < satSub(e.water.current, int64(e.cfg.AllowedLateness))
}

// Older says of keys that the tables know more of them than was given to
// Restore, so that they are looked up when somebody uses them: at once where
// rows rest on them already, which are few when an engine begins.
func (e *Engine) Older(keys []schemas.Key) {
	if e.state.lost == nil {
		return
	}
	for _, k := range keys {
		k.Namespace, k.Value = shorten(k.Namespace), shorten(k.Value)
		n, h := e.state.lookup(k)
		e.older(n, h)
	}
}

func (e *Engine) older(n nodeID, hash uint64) {
	s := e.state
	s.lost.add(hash)
	s.nobody.Remove(hash)
	if n == 0 {
		return
	}
	at := s.at(n)
	at.bits |= nodeLost
	if at.watch != 0 {
		s.awaits(n)
	}
}

// Coming says which events have rows in the tables that are on their way to
// Restore, so that they are looked up if they are read again before. What it
// returns is called when all of them are back.
func (e *Engine) Coming(ids []schemas.ID) (back func()) {
	c := &coming{make(map[schemas.ID]struct{}, len(ids))}
	for _, id := range ids {
		c.ids[id] = struct{}{}
	}
	e.coming = append(e.coming, c)
	return func() { e.coming = slices.DeleteFunc(e.coming, func(other *coming) bool { return other == c }) }
}

// coming are events whose rows are on their way back together.
type coming struct {
	ids map[schemas.ID]struct{}
}

// isComing reports whether the row of an event is on its way back.
func (e *Engine) isComing(id schemas.ID) bool {
	for _, c := range e.coming {
		if _, ok := c.ids[id]; ok {
			return true
		}
	}
	return false
}

// Unknown appends the ids of those events of which memory holds no row and the
// tables do, or may: those whose row is on its way back, and late ones, with
// Config.Lookup, which may be records that are read again. It returns the
// earliest and the latest of their times, too. What is found there is given to
// Engine.Remember before the events are processed.
func (e *Engine) Unknown(ids []schemas.ID, events []schemas.Event) (_ []schemas.ID, firstNanos, lastNanos int64) {
	firstNanos, lastNanos = math.MaxInt64, math.MinInt64
	for i := range events {
		ev := &events[i]
		late := e.state.lost != nil && e.late(max(ev.TimeNanos, ev.EndedNanos))
		if ev.BindOnly != "" || !late && !e.isComing(ev.ID) {
			continue
		}
		if i, ok := e.rows.byID[ev.ID]; !ok || late && e.rows.at(i).bits&rowShadow != 0 {
			ids = append(ids, ev.ID)
			firstNanos, lastNanos = min(firstNanos, ev.TimeNanos), max(lastNanos, ev.TimeNanos)
		}
	}
	return ids, firstNanos, lastNanos
}

// Remember takes back rows that are not in memory, because their records come
// again. They are written only if they come out better once the tables have
// told what they know of their keys.
func (e *Engine) Remember(out *Output, actions []*schemas.Action) {
	for _, a := range actions {
		if i, ok := e.rows.byID[a.ID]; ok && e.rows.at(i).bits&rowShadow == 0 || !e.late(max(a.TimeNanos, a.EndedNanos)) {
			continue
		}
		e.Older(a.Keys)
		for i := range a.Hops {
			k := a.Hops[i].Key
			k.Namespace, k.Value = shorten(k.Namespace), shorten(k.Value)
			if n, h := e.state.lookup(k); n == 0 || e.state.at(n).bits&nodeLive == 0 {
				e.older(n, h)
			}
		}
	}
	e.takeBack(out, nil, actions, fromReread)
	e.settle(out)
	e.ask(out)
}

// reachBack prepares for a late event: keys that memory has let go of are
// looked up, and so are the rows that rest on what the event proves.
func (e *Engine) reachBack(ev *schemas.Event) {
	s := e.state
	for i := range ev.Keys {
		k := ev.Keys[i]
		k.Namespace, k.Value = shorten(k.Namespace), shorten(k.Value)
		if n, h := s.lookup(k); n == 0 || s.at(n).bits&nodeLive == 0 {
			e.older(n, h)
		}
	}
	if failedLogin(ev) {
		return
	}
	ask := func(k schemas.Key) {
		n := s.intern(k, 0)
		s.at(n).bits |= nodeRowsLost // see callBack
		s.nobody.Remove(s.hashOf(n))
	}
	for i := range ev.Makes {
		ask(ev.Makes[i].Child)
	}
	for i := range ev.Ends {
		ask(ev.Ends[i].Key)
	}
	since := ev.TimeNanos - int64(e.cfg.Skew) - ev.ResolutionNanos
	if e.lateSince == 0 || since < e.lateSince {
		e.lateSince = since
	}
}
