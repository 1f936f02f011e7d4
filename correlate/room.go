package correlate

import "math"

// expire lets go of rows and keys that the watermark has passed.
func (e *Engine) expire() {
	w := e.water.advance()
	if w == math.MinInt64 {
		return
	}
	final := satSub(w, int64(e.cfg.AllowedLateness))
	for {
		i, over := e.rows.oldest()
		if i == 0 || over >= final {
			break
		}
		e.leave(i)
	}
	old := satSub(w, int64(e.cfg.Window))
	s := e.state
	for s.oldest != 0 {
		n := s.oldest
		at := s.at(n)
		if newest := e.water.newest(); newest != math.MinInt64 && at.seen > satAdd(newest, int64(e.cfg.MaxFuture)) {
			at.seen = w // a clock was wrong; without its arrival, which the tables do not keep, it would block the way for good
			s.unlink(at)
			s.push(n, at)
			continue
		}
		if at.seen >= old || at.watch != 0 {
			return
		}
		e.stats.KeysExpired++
		s.forget(n)
	}
}

// shrink makes room when the state is over its budget.
func (e *Engine) shrink() {
	s := e.state
	for e.bytes() > e.room {
		row := e.leastMissed()
		if row != 0 && (s.oldest == 0 || e.rows.bytes()*2 > e.room) {
			e.rowsLost(row)
			e.leave(row)
			e.stats.RowsEvicted++
			continue
		}
		n := s.oldest
		if n == 0 {
			return
		}
		at := s.at(n)
		at.refs++
		if s.knows(n) {
			at.bits |= nodeDropped
			s.evicted.Add(s.hashOf(n), struct{}{})
			if s.lost == nil { // what they say is no longer to be had: resolved again they would say less
				e.freeze(n)
			}
		}
		s.forget(n)
		s.unref(n)
		e.stats.KeysEvicted++
	}
}

// leastMissed is the row that leaves next for lack of room: the one that is
// over first, but for those that wait for an answer from the tables, which may
// come under a key that their row in the tables does not name yet.
func (e *Engine) leastMissed() rowID {
	for range len(e.rows.byID) {
		i, _ := e.rows.oldest()
		if i == 0 || e.rows.at(i).bits&rowPending == 0 {
			return i
		}
		e.rows.postpone(i, e.water.newest())
	}
	i, _ := e.rows.oldest()
	return i
}

// freeze keeps the rows that visited a key as they are written.
func (e *Engine) freeze(n nodeID) {
	e.eachWatcher(n, func(i rowID) { e.rows.at(i).bits |= rowFrozen })
}

// rowsLost notes at the keys of a row that it left for lack of room: when
// something new is learned of one of them, the row is asked back.
func (e *Engine) rowsLost(i rowID) {
	s := e.state
	if s.lost == nil {
		return
	}
	mark := func(head watchID) {
		for ; head != 0; head = s.watches.at(uint32(head)).sibling {
			n := s.watches.at(uint32(head)).node
			s.at(n).bits |= nodeRowsLost
			s.lost.add(s.hashOf(n))
		}
	}
	r := e.rows.at(i)
	mark(r.watches)
	for l := r.trails; l != 0; l = e.links.at(l).sibling {
		mark(e.trails.at(e.links.at(l).trail).watches)
	}
}

// leave ends the waiting of a row.
func (e *Engine) leave(i rowID) {
	r := e.rows.at(i)
	e.unwatch(r)
	if r.judged != 0 {
		e.state.unref(r.judged)
	}
	for _, n := range r.own {
		e.state.unref(n)
	}
	if len(e.kept) > 0 && r.bits&rowRestored != 0 {
		e.keepNoMore(r.act.CauseID, i)
	}
	e.rows.remove(i)
}

// unwatch ends what a row is told of.
func (e *Engine) unwatch(r *row) {
	e.state.unwatch(&r.watches)
	for l := r.trails; l != 0; {
		next := e.links.at(l).sibling
		e.unlink(l)
		l = next
	}
	r.trails = 0
}
