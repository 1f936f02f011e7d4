package correlate

import (
	"slices"

	"catena/schemas"
)

// keepCause keeps what a restored row told of a cause that did not come back
// with it, as long as its path is the same and no other record of its request
// is there to tell: a restart takes back the rows that may still become
// better, and not all the older calls that those rest on.
func (e *Engine) keepCause(i rowID, r *row, before, now *schemas.Action) {
	if _, ok := e.rows.byID[before.CauseID]; ok || before.CauseID.IsZero() || now.CauseGrade != schemas.CauseNone ||
		!slices.EqualFunc(before.Hops, now.Hops, func(a, b schemas.Hop) bool { return a.Key == b.Key }) {
		return
	}
	if n := e.ownOf(r, schemas.KindRequest); n != 0 && e.state.watchedBesides(n, i) {
		return
	}
	now.CauseID, now.CauseGrade = before.CauseID, before.CauseGrade
	if now.PolicyDecision == schemas.VerdictNone {
		now.PolicyDecision, now.PolicyID = before.PolicyDecision, before.PolicyID
		now.Flags |= before.Flags & schemas.FlagDeniedButDone
	}
	me := waiting{r.overNanos, i, r.seq}
	if !slices.Contains(e.kept[now.CauseID], me) {
		e.kept[now.CauseID] = append(e.kept[now.CauseID], me)
	}
}

// keepNoMore forgets that a row told of a cause which is not in memory.
func (e *Engine) keepNoMore(id schemas.ID, i rowID) {
	rest := slices.DeleteFunc(e.kept[id], func(w waiting) bool { return w.row == i })
	if e.kept[id] = rest; len(rest) == 0 {
		delete(e.kept, id)
	}
}

// cause is the tool call that drove an action, as one path tells it.
type cause struct {
	event schemas.ID
	call  nodeID
	grade schemas.CauseGrade
}

// findCause looks upward for the tool call that drove the action, on the path
// that counts first.
func (w *walker) findCause(a *schemas.Action, paths []path, pick int) (c cause) {
	if failedLogin(&a.Event) {
		return c
	}
	if pick >= 0 {
		c = w.causeOf(&paths[pick])
	}
	// A span says itself what called it: what else ran there does not count.
	span := slices.ContainsFunc(w.own, func(n nodeID) bool { return w.s.at(n).kind == schemas.KindCall })
	for i := 0; i < len(paths) && c.grade == schemas.CauseNone && !span; i++ {
		if i != pick {
			c = w.causeOf(&paths[i])
		}
	}
	a.CauseID, a.CauseGrade = c.event, c.grade
	return c
}

// causeOf is the nearest tool call that a path runs through. The call as the
// agent made it counts; the protocol's span of it only where there is none.
func (w *walker) causeOf(p *path) cause {
	if p.trail != nil {
		return cause{} // there are no calls on it, or it would not be remembered
	}
	var protocol cause
	grade, n := schemas.CauseExact, p.start
	for st := p.first; ; st = st.above {
		if c := &w.s.extra(n).call; !c.event.IsZero() && c.event != w.act.ID {
			if !c.protocol {
				return cause{c.event, n, grade}
			}
			if protocol.grade == schemas.CauseNone && !w.act.ProtocolSpan() {
				protocol = cause{c.event, n, grade}
			}
		}
		if st == nil {
			return oneOf(p.causes, protocol)
		}
		if p.loose && st.child == p.fork {
			return oneOf(p.causes, protocol)
		}
		if st.edge.strength == schemas.StrengthWeak {
			grade = schemas.CauseInferred
		}
		n = st.edge.parent
	}
}

// shareCause tells the cause of a row to the other records of its request, and
// takes theirs where it has none of its own: all of them are one request.
func (e *Engine) shareCause(a *schemas.Action, r *row, own cause) cause {
	s := e.state
	n := e.ownOf(r, schemas.KindRequest)
	if n == 0 {
		return own
	}
	e.tellCause(n, a.ID, own)
	if own.grade == schemas.CauseAmbiguous && r.bits&rowDoubted == 0 {
		r.bits |= rowDoubted
		e.wake(n) // an owner before us may have known one for a while, and told the others: see outranked
	}
	if own.grade > schemas.CauseAmbiguous {
		return own
	}
	told := s.extra(n).told
	if len(told) == 0 {
		return own
	}
	theirs := make([]cause, 0, len(told))
	for _, t := range told {
		if t.event != a.ID && t.cause.event != a.ID {
			theirs = append(theirs, t.cause)
		}
	}
	if c := oneOf(theirs, cause{}); c.grade > own.grade {
		a.CauseID, a.CauseGrade = c.event, c.grade
		return c
	}
	return own
}

// tellCause notes at a request what one of its records knows of the cause.
func (e *Engine) tellCause(n nodeID, event schemas.ID, c cause) {
	s, known := e.state, !c.event.IsZero()
	if !known && s.at(n).more == 0 {
		return
	}
	m := s.grow(n)
	before := m.bytes()
	i, found := slices.BinarySearchFunc(m.told, event, func(t toldCause, id schemas.ID) int { return compareIDs(t.event, id) })
	switch {
	case found && known && m.told[i].cause == c, !found && !known:
		return
	case found:
		old := m.told[i].cause.call
		if known {
			s.at(c.call).refs++
			m.told[i].cause = c
		} else {
			m.told = slices.Delete(m.told, i, i+1)
		}
		s.unref(old)
	default:
		s.at(c.call).refs++
		m.told = slices.Insert(m.told, i, toldCause{event, c})
	}
	s.moreBytes += m.bytes() - before
	e.wake(n)
	e.callBack(n)
}

func (w *walker) causesOf(paths []path) []cause {
	out := make([]cause, len(paths))
	for i := range paths {
		out[i] = w.causeOf(&paths[i])
	}
	return out
}

// oneOf is the cause that all candidates at a fork share. Where they differ
// nobody is named, unless a protocol's span below the fork is certain.
func oneOf(causes []cause, below cause) cause {
	var c cause
	for i := range causes {
		switch {
		case i == 0:
			c = causes[0]
		case causes[i].event != c.event:
			c = cause{grade: schemas.CauseAmbiguous}
		default:
			c.grade = min(c.grade, causes[i].grade)
		}
		if c.grade == schemas.CauseAmbiguous {
			break
		}
	}
	if c.event.IsZero() && below.grade != schemas.CauseNone {
		return below
	}
	return c
}
