package correlate

import "catena/schemas"

// trail is a walk that is remembered, because rows that wait share it: a busy
// token has thousands. It is good for uses of the key at times in [lo, hi)
// with the same slack, until a key on it learns something.
type trail struct {
	start    nodeID
	next     uint32 // another trail of the same key
	slack    int64
	lo, hi   int64
	path     path
	steps    []step
	hops     []schemas.Hop
	rootKey  schemas.Key
	rootName string
	person   nodeID
	workload nodeID // lowest on the path
	watches  watchID
	rows     uint32 // links
	stale    bool
}

// link ties a row to a trail that it rests on.
type link struct {
	row, trail uint32
	next, prev uint32 // of the trail
	sibling    uint32 // of the row
}

// trailOf returns the remembered walk from a key for the walker's row, or nil.
func (e *Engine) trailOf(n nodeID, slack, at int64) uint32 {
	for i := e.state.at(n).trails; i != 0; {
		t := e.trails.at(i)
		if !t.stale && t.slack == slack && t.lo <= at && at < t.hi {
			return i
		}
		i = t.next
	}
	return 0
}

// lay remembers a walk that has just been made.
func (e *Engine) lay(p *path, w *walker) uint32 {
	i, t := e.trails.take()
	node := e.state.at(p.start)
	day := w.act.TimeNanos - mod(w.act.TimeNanos, dayNanos)
	*t = trail{start: p.start, next: node.trails, slack: w.slack, lo: max(w.lo, day), hi: min(w.hi, day+dayNanos)}
	node.trails = i
	t.steps = make([]step, 0, p.depth)
	for st := p.first; st != nil; st = st.above {
		t.steps = append(t.steps, *st)
	}
	for j := range t.steps[:max(len(t.steps)-1, 0)] {
		t.steps[j].above = &t.steps[j+1]
	}
	t.path = *p
	if len(t.steps) > 0 {
		t.path.first, t.path.last = &t.steps[0], &t.steps[len(t.steps)-1]
		t.hops = w.hops(&schemas.Action{}, p)
		t.rootKey, t.rootName = w.s.key(p.end()), w.nameOnPath(p)
	}
	t.person, t.workload = w.person(p), w.firstWorkload(p)
	t.path.trail = t
	for _, n := range w.visited {
		e.state.watch(&t.watches, n, i|trailOwner)
	}
	return i
}

func mod(a, b int64) int64 { return ((a % b) + b) % b }

// rest ties a row to a trail.
func (e *Engine) rest(i rowID, r *row, ti uint32) {
	t := e.trails.at(ti)
	l, to := e.links.take()
	*to = link{row: i, trail: ti, next: t.rows, sibling: r.trails}
	if t.rows != 0 {
		e.links.at(t.rows).prev = l
	}
	t.rows, r.trails = l, l
}

// unlink unties a row from a trail; one that no row rests on is forgotten.
func (e *Engine) unlink(l uint32) {
	k := *e.links.at(l)
	e.links.give(l)
	t := e.trails.at(k.trail)
	if k.prev != 0 {
		e.links.at(k.prev).next = k.next
	} else {
		t.rows = k.next
	}
	if k.next != 0 {
		e.links.at(k.next).prev = k.prev
	}
	if t.rows != 0 {
		return
	}
	node := e.state.at(t.start)
	if node.trails == k.trail {
		node.trails = t.next
	} else {
		for j := node.trails; ; j = e.trails.at(j).next {
			if o := e.trails.at(j); o.next == k.trail {
				o.next = t.next
				break
			}
		}
	}
	e.state.unwatch(&t.watches)
	e.trails.give(k.trail)
}
