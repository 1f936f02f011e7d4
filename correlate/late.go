package correlate

import (
	"math"

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
// Restore, so that they are looked up when somebody uses them.
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
	if at := s.at(n); at.bits&nodeLive != 0 {
		s.miss(n, at)
	} else {
		at.bits |= nodeLost
	}
}

// Unknown appends the ids of those events that are late and of which memory
// holds no row, with the earliest and the latest of their times: they may be
// records that are read again, and their rows stand in the tables. What is
// found there is given to Engine.Remember before the events are processed.
// Without Config.Lookup there are none.
func (e *Engine) Unknown(ids []schemas.ID, events []schemas.Event) (_ []schemas.ID, firstNanos, lastNanos int64) {
	if e.state.lost == nil {
		return ids, 0, 0
	}
	firstNanos, lastNanos = math.MaxInt64, math.MinInt64
	for i := range events {
		ev := &events[i]
		if ev.BindOnly != "" || !e.late(max(ev.TimeNanos, ev.EndedNanos)) {
			continue
		}
		if _, ok := e.rows.byID[ev.ID]; !ok {
			ids = append(ids, ev.ID)
			firstNanos, lastNanos = min(firstNanos, ev.TimeNanos), max(lastNanos, ev.TimeNanos)
		}
	}
	return ids, firstNanos, lastNanos
}

// Remember takes back rows that had left memory, because their records come
// again. They are written only if they come out better once the tables have
// told what they know of their keys.
func (e *Engine) Remember(out *Output, actions []*schemas.Action) {
	for _, a := range actions {
		if _, ok := e.rows.byID[a.ID]; ok {
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
	e.takeBack(out, nil, actions, fromLookup)
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
