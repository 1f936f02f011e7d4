package correlate

import (
	"cmp"
	"unsafe"

	"catena/schemas"
)

// rowID names a waiting row; zero is none.
type rowID = uint32

// row is an action that later events may still improve.
type row struct {
	act       *schemas.Action // as last written
	own       []nodeID        // the action's keys, grants left out, in order of precedence
	overNanos int64           // event time at which the action was over; from the future: its arrival
	revision  uint32
	part      uint32
	watches   watchID // keys that its walks visited
	trails    uint32  // remembered walks that it rests on; links
	judged    nodeID  // of a decision: the call that it was attached to
	seq       uint32  // tells the rows apart that have had this number
	weight    uint32
	bits      rowBits
	written   schemas.Grade // with which it stands in the tables, from the first revision on
}

type rowBits uint16

const (
	rowDirty         rowBits = 1 << iota
	rowTouched               // to be written when the call settles
	rowRestored              // came back from the tables, without what they do not hold
	rowPending               // a key that it rests on is being looked up
	rowQuiet                 // just came back: what says the same as the tables is not written
	rowFrozen                // a key that it rests on was dropped: what is written stays
	rowShadow                // another engine's: heard, never written
	rowTold                  // shared with the other engines
	rowResolved              // has been attributed before
	rowDoubted               // its cause has been ambiguous, and the other records of its request have heard so
	rowWorkloadToken         // rests on a workload's token: where it was first used from counts
)

// waiting is an entry in the order in which rows leave.
type waiting struct {
	overNanos int64
	row       rowID
	seq       uint32
}

// rows holds the waiting rows.
type rows struct {
	slab    slab[row]
	byID    map[schemas.ID]rowID
	waits   []waiting // a heap of four children, by the time at which rows are over
	gone    int       // of waits, those whose row has left
	seq     uint32
	held    int // bytes of the actions
	touched []rowID
	spare   []rowID
}

func newRows() rows { return rows{byID: map[schemas.ID]rowID{}} }

func (rs *rows) at(i rowID) *row { return rs.slab.at(i) }

// bytes is what the rows weigh.
func (rs *rows) bytes() int {
	return rs.slab.bytes() + rs.held + len(rs.byID)*(8+mapEntryBytes) + len(rs.waits)*int(unsafe.Sizeof(waiting{}))
}

// add makes an action a row that waits.
func (rs *rows) add(act *schemas.Action, revision, part uint32) rowID {
	over := max(act.TimeNanos, act.EndedNanos)
	if act.Flags&schemas.FlagFutureTime != 0 {
		over = act.Evidence.TimestampNanos
	}
	rs.seq++
	i, r := rs.slab.take()
	*r = row{act: act, overNanos: over, revision: revision, part: part, seq: rs.seq, written: act.Grade}
	rs.weigh(r)
	rs.byID[act.ID] = i
	rs.push(waiting{over, i, rs.seq})
	return i
}

// postpone puts a row at the end of those that are over at a time, or where it
// stands if that is later.
func (rs *rows) postpone(i rowID, nanos int64) {
	r := rs.at(i)
	nanos = max(nanos, r.overNanos)
	rs.seq++
	rs.gone++ // its first entry
	r.overNanos, r.seq = nanos, rs.seq
	rs.push(waiting{nanos, i, rs.seq})
}

// remove forgets a row.
func (rs *rows) remove(i rowID) {
	r := rs.at(i)
	delete(rs.byID, r.act.ID)
	rs.held -= int(r.weight)
	if len(rs.waits) > 0 && rs.waits[0].row == i && rs.waits[0].seq == r.seq {
		rs.pop()
	} else if rs.gone++; rs.gone > 64 && rs.gone*2 > len(rs.waits) {
		rs.sweep(i)
	}
	if rs.slab.give(i); len(rs.byID) == 0 {
		rs.waits, rs.gone = rs.waits[:0], 0
	}
}

// weigh counts anew what the action of a row weighs: the struct, its lists and
// its strings. Hops that stand in a trail belong to all its rows.
func (rs *rows) weigh(r *row) {
	a := r.act
	n := actionBytes + stringBytes(&a.Event) + len(a.Keys)*(keyBytes+4) + len(a.Attributes)*attributeBytes + cap(a.Candidates)*candidateBytes
	if r.trails == 0 {
		n += cap(a.Hops) * hopBytes
	}
	rs.held += n - int(r.weight)
	r.weight = uint32(n)
}

// oldest is the row that is over first, and when; zero if none waits.
func (rs *rows) oldest() (rowID, int64) {
	for len(rs.waits) > 0 {
		w := rs.waits[0]
		if rs.waiting(w) != nil {
			return w.row, w.overNanos
		}
		rs.pop()
		rs.gone--
	}
	return 0, 0
}

// waiting is the row of an entry, or nil if that has left.
func (rs *rows) waiting(w waiting) *row {
	if r := rs.at(w.row); r.act != nil && r.seq == w.seq {
		return r
	}
	return nil
}

// sweep drops the entries of rows that have left, of i among them.
func (rs *rows) sweep(i rowID) {
	all := rs.waits
	rs.waits, rs.gone = rs.waits[:0], 0
	for _, w := range all {
		if w.row != i && rs.waiting(w) != nil {
			rs.push(w)
		}
	}
}

func (a waiting) before(b waiting) bool {
	return a.overNanos < b.overNanos || a.overNanos == b.overNanos && a.seq < b.seq
}

func (rs *rows) push(w waiting) {
	rs.waits = append(rs.waits, w)
	i := len(rs.waits) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !w.before(rs.waits[up]) {
			break
		}
		rs.waits[i] = rs.waits[up]
		i = up
	}
	rs.waits[i] = w
}

func (rs *rows) pop() {
	n := len(rs.waits) - 1
	last := rs.waits[n]
	rs.waits = rs.waits[:n]
	if n == 0 {
		return
	}
	i := 0
	for {
		least := 4*i + 1
		if least >= n {
			break
		}
		for j := least + 1; j < min(least+4, n); j++ {
			if j < n && rs.waits[j].before(rs.waits[least]) {
				least = j
			}
		}
		if !rs.waits[least].before(last) {
			break
		}
		rs.waits[i] = rs.waits[least]
		i = least
	}
	rs.waits[i] = last
}

// order is that in which a call writes its rows: by event time.
func (rs *rows) order(a, b rowID) int {
	x, y := rs.at(a).act, rs.at(b).act
	if x.TimeNanos != y.TimeNanos {
		return cmp.Compare(x.TimeNanos, y.TimeNanos)
	}
	return compareIDs(x.ID, y.ID)
}

const (
	actionBytes    = int(unsafe.Sizeof(schemas.Action{}))
	keyBytes       = int(unsafe.Sizeof(schemas.Key{}))
	attributeBytes = int(unsafe.Sizeof(schemas.Attribute{}))
	candidateBytes = int(unsafe.Sizeof(schemas.Candidate{}))
	hopBytes       = int(unsafe.Sizeof(schemas.Hop{}))
)

// arena makes the actions of rows and the copies of what events hold, many at
// a time. A chunk lives as long as any row in it, and rows that came together
// leave together.
type arena struct {
	actions []schemas.Action
	bytes   []byte
	keys    []schemas.Key
	attrs   []schemas.Attribute
	nodes   []nodeID
	hops    []schemas.Hop
}

const (
	chunkActions = 32
	chunkBytes   = 16 << 10
	chunkItems   = 128
)

func (a *arena) action() *schemas.Action {
	if len(a.actions) == 0 {
		a.actions = make([]schemas.Action, chunkActions)
	}
	act := &a.actions[0]
	a.actions = a.actions[1:]
	return act
}

// string copies a string.
func (a *arena) string(s string) string {
	if s == "" {
		return ""
	}
	if len(s) > len(a.bytes) {
		if len(s) > chunkBytes/8 {
			return string(append([]byte(nil), s...))
		}
		a.bytes = make([]byte, chunkBytes)
	}
	n := copy(a.bytes, s)
	out := unsafe.String(&a.bytes[0], n)
	a.bytes = a.bytes[n:]
	return out
}

func carve[T any](from *[]T, n int) []T {
	if n == 0 {
		return nil
	}
	if n > len(*from) {
		if n > chunkItems/4 {
			return make([]T, n)
		}
		*from = make([]T, chunkItems)
	}
	out := (*from)[:n:n]
	*from = (*from)[n:]
	return out
}

// clone copies an event without what it makes and ends: what of that is true
// stands in the graph.
func (a *arena) clone(to, ev *schemas.Event) {
	*to = *ev
	to.Makes, to.Ends = nil, nil
	to.Keys = carve(&a.keys, len(ev.Keys))
	for i, k := range ev.Keys {
		to.Keys[i] = schemas.Key{Kind: k.Kind, Namespace: a.string(k.Namespace), Value: a.string(k.Value)}
	}
	to.Attributes = carve(&a.attrs, len(ev.Attributes))
	for i, at := range ev.Attributes {
		to.Attributes[i] = schemas.Attribute{Name: a.string(at.Name), Value: a.string(at.Value)}
	}
	to.Action, to.Resource, to.Tenant = a.string(ev.Action), a.string(ev.Resource), a.string(ev.Tenant)
	to.Actor.Namespace, to.Actor.Value, to.ActorName = a.string(ev.Actor.Namespace), a.string(ev.Actor.Value), a.string(ev.ActorName)
	to.Authority, to.Scopes, to.AuthMethod = a.string(ev.Authority), a.string(ev.Scopes), a.string(ev.AuthMethod)
	to.Decision.ID, to.Decision.Policy = a.string(ev.Decision.ID), a.string(ev.Decision.Policy)
	to.SourceIP, to.UserAgent = a.string(ev.SourceIP), a.string(ev.UserAgent)
	to.TraceID, to.SpanID, to.BindOnly = a.string(ev.TraceID), a.string(ev.SpanID), a.string(ev.BindOnly)
}

// stringBytes is the length of an event's strings.
func stringBytes(ev *schemas.Event) int {
	n := len(ev.Action) + len(ev.Resource) + len(ev.Tenant) + len(ev.Actor.Namespace) + len(ev.Actor.Value) + len(ev.ActorName) +
		len(ev.Authority) + len(ev.Scopes) + len(ev.AuthMethod) + len(ev.Decision.ID) + len(ev.Decision.Policy) +
		len(ev.SourceIP) + len(ev.UserAgent) + len(ev.TraceID) + len(ev.SpanID) + len(ev.BindOnly)
	for _, k := range ev.Keys {
		n += len(k.Namespace) + len(k.Value)
	}
	for _, a := range ev.Attributes {
		n += len(a.Name) + len(a.Value)
	}
	return n
}
