package correlate

import (
	"cmp"
	"slices"
	"strings"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"catena/schemas"
)

// What things weigh against the memory budget, in bytes: measured sizes of the
// structs with their allocations, rounded up. Strings are added on top.
const (
	nodeBytes      = 320 // node, LRU entry, map slot
	edgeBytes      = 360 // schemas.Binding in a slice
	rowBytes       = 2200
	dependentBytes = 24
	downBytes      = 40
	decisionBytes  = 96
	toldBytes      = 80
)

// node is what is known of one key.
type node struct {
	key    schemas.Key
	up     []schemas.Binding // who drives it; ordered by edgeOrder
	grants []schemas.Binding // relation granted: the grants it exists under; for a grant key, its windows
	down   []schemas.Key     // keys looked up from here: logins of a person, addresses of a workload, what a trace hangs on

	endedNanos, revokedNanos int64 // zero: not seen

	call      call        // set when the key is a tool call's span whose event was seen
	decisions []decision  // policy decisions about this call, ordered
	told      []toldCause // of a request: what its records know of the cause, by event
	firstUse  use         // earliest use of a token, for new_source_ip

	chainID  schemas.ID // of the chain that starts here, on chainDay; zero: not yet asked
	chainDay int64

	rows  []*row // rows whose walk visited this node; some may be done
	done  int    // how many of rows are done
	bytes int
	gone  bool  // evicted or expired: no longer counted
	seen  int64 // newest event time that touched it
}

// call is what a tool call's own event says of it.
type call struct {
	event    schemas.ID
	nanos    int64
	protocol bool // the protocol's span of the call, not the call as the agent sees it
}

func (c call) before(o call) bool {
	if o.event.IsZero() || c.protocol != o.protocol {
		return o.event.IsZero() || !c.protocol
	}
	return c.nanos < o.nanos || c.nanos == o.nanos && compareIDs(c.event, o.event) < 0
}

// decision is one policy decision, as the rows that it concerns see it.
type decision struct {
	nanos   int64
	event   schemas.ID
	verdict schemas.Verdict
	id      string
}

// toldCause is what one record of a request knows of the cause of them all.
type toldCause struct {
	event schemas.ID
	cause cause
}

// use is one use of a token: where from, and when.
type use struct {
	ip    string
	nanos int64
	event schemas.ID
}

func (u use) before(o use) bool {
	return o.ip == "" || u.nanos < o.nanos || u.nanos == o.nanos && compareIDs(u.event, o.event) < 0
}

// state is the graph of keys inside a byte budget: a window over the tables.
type state struct {
	nodes   *simplelru.LRU[schemas.Key, *node]
	evicted *simplelru.LRU[schemas.Key, struct{}] // keys lately dropped for lack of room, to name the reason
	bytes   int
}

func newState() *state {
	// The entry counts never bind: room is made by bytes (see Engine.shrink).
	nodes, err := simplelru.NewLRU[schemas.Key, *node](1<<40, nil)
	if err != nil {
		panic(err) // impossible: the size is positive
	}
	evicted, err := simplelru.NewLRU[schemas.Key, struct{}](1<<14, nil)
	if err != nil {
		panic(err) // impossible: the size is positive
	}
	return &state{nodes: nodes, evicted: evicted}
}

// find returns the node of a key, or nil, and marks it as used.
func (s *state) find(k schemas.Key) *node {
	n, _ := s.nodes.Get(k)
	return n
}

// intern returns the node of a key and makes it if need be. The state owns its
// strings, so that a key does not keep the whole event alive that named it.
func (s *state) intern(k schemas.Key, nanos int64) *node {
	n, ok := s.nodes.Get(k)
	if !ok {
		k = ownKey(k)
		n = &node{key: k, bytes: nodeBytes + len(k.Namespace) + len(k.Value)}
		s.nodes.Add(k, n)
		s.bytes += n.bytes
	}
	n.seen = max(n.seen, nanos)
	return n
}

func (s *state) grow(n *node, bytes int) {
	if n.gone {
		return
	}
	n.bytes += bytes
	s.bytes += bytes
}

// learn adds a binding to the graph and reports whether anything that a row
// can see has changed, and the binding as it now stands.
func (s *state) learn(b schemas.Binding) (n *node, now schemas.Binding, changed bool) {
	n = s.intern(b.Child, heardNanos(b.ProofNanos, &b.Evidence))
	switch b.Relation {
	case schemas.RelationEnded:
		return n, b, earliest(&n.endedNanos, b.FromNanos)
	case schemas.RelationRevoked:
		return n, b, earliest(&n.revokedNanos, b.FromNanos)
	}
	list := &n.up
	if b.Relation == schemas.RelationGranted {
		list = &n.grants
	}
	i, found := slices.BinarySearchFunc(*list, b, edgeOrder)
	if found {
		now, changed = merge((*list)[i], b)
		if changed {
			now = ownStrings(now)
			(*list)[i] = now
		}
		return n, now, changed
	}
	b = ownStrings(b)
	*list = slices.Insert(*list, i, b)
	s.grow(n, edgeBytes+len(b.Parent.Namespace)+len(b.Parent.Value)+len(b.ChildName)+len(b.ParentName))
	s.remember(&b)
	return n, b, true
}

// heardNanos is the event time that a fact counts with for being forgotten. One
// from the future counts with its arrival, or it would never leave.
func heardNanos(nanos int64, at *schemas.Evidence) int64 {
	if at.TimestampNanos != 0 {
		return min(nanos, at.TimestampNanos)
	}
	return nanos
}

func ownKey(k schemas.Key) schemas.Key {
	k.Namespace, k.Value = strings.Clone(k.Namespace), strings.Clone(k.Value)
	return k
}

func ownStrings(b schemas.Binding) schemas.Binding {
	b.Child, b.Parent = ownKey(b.Child), ownKey(b.Parent)
	b.ChildName, b.ParentName = strings.Clone(b.ChildName), strings.Clone(b.ParentName)
	b.AuthMethod = strings.Clone(b.AuthMethod)
	return b
}

// remember notes the way down for the look-ups that go downward.
func (s *state) remember(b *schemas.Binding) {
	login := b.Relation == schemas.RelationAuthenticated && b.Child.Kind == schemas.KindSession && b.Parent.Kind == schemas.KindHuman
	address := b.Child.Kind == schemas.KindWorkload && b.Child.Namespace == addressNamespace
	switch {
	case login || address:
		s.lookDown(b.Parent, b.Child, b)
	case anchors(b):
		trace, _ := traceOf(b.Child)
		s.lookDown(trace, b.Parent, b)
	}
}

func (s *state) lookDown(from, to schemas.Key, b *schemas.Binding) {
	n := s.intern(from, heardNanos(b.ProofNanos, &b.Evidence))
	i, found := slices.BinarySearchFunc(n.down, to, schemas.Key.Compare)
	if found {
		return
	}
	n.down = slices.Insert(n.down, i, to)
	s.grow(n, downBytes)
	if l := len(n.down); l >= 64 && l&(l-1) == 0 { // now and then, those that are no more
		n.down = slices.DeleteFunc(n.down, func(k schemas.Key) bool { return k != to && !s.nodes.Contains(k) })
		s.grow(n, (len(n.down)-l)*downBytes)
	}
}

// spanNamespace is that of call keys whose value is <trace>/<span>.
const spanNamespace = "span"

// traceOf is the key under which what a span's whole trace hangs on is known.
func traceOf(k schemas.Key) (schemas.Key, bool) {
	if k.Kind != schemas.KindCall || k.Namespace != spanNamespace {
		return schemas.Key{}, false
	}
	trace, _, ok := strings.Cut(k.Value, "/")
	return schemas.Key{Kind: schemas.KindCall, Namespace: "trace", Value: trace}, ok && trace != ""
}

// anchors reports whether a binding ties a span to something outside its
// trace that may lead to a person. Where it ran is no such thing: a trace
// crosses many workloads.
func anchors(b *schemas.Binding) bool {
	trace, ok := traceOf(b.Child)
	if !ok || b.Strength == schemas.StrengthWeak || b.Parent.Kind == schemas.KindWorkload || b.Relation == schemas.RelationGranted {
		return false
	}
	other, span := traceOf(b.Parent)
	return !span || other != trace
}

// addressNamespace is that of workload:ip:… keys: a place, not an identity.
const addressNamespace = "ip"

// edgeOrder makes two bindings the same edge when they say the same thing, and
// puts the latest first among those of one strength and kind of parent.
func edgeOrder(a, b schemas.Binding) int {
	return cmp.Or(
		-cmp.Compare(a.Strength, b.Strength),
		cmp.Compare(a.Parent.Kind, b.Parent.Kind),
		-cmp.Compare(a.FromNanos, b.FromNanos),
		a.Parent.Compare(b.Parent),
		cmp.Compare(a.Relation, b.Relation),
	)
}

// merge joins two tellings of one edge, in whatever order they come. The
// earliest proof stays with its times; names and what either shows of the
// child are kept, the smallest name of several.
func merge(old, add schemas.Binding) (schemas.Binding, bool) {
	now := old
	if proofOrder(&add, &old) < 0 {
		now = add
	}
	if now.Strength == schemas.StrengthWeak { // two tellings of one time: the longer
		now.UntilNanos = latestEnd(old.UntilNanos, add.UntilNanos)
	}
	now.ChildName = smallest(old.ChildName, add.ChildName)
	now.ParentName = smallest(old.ParentName, add.ParentName)
	now.MFA = max(old.MFA, add.MFA)
	now.AuthMethod = method(old.AuthMethod, add.AuthMethod)
	now.Version = old.Version
	changed := now != old
	if changed {
		now.Version = max(old.Version+1, add.Version)
	}
	return now, changed
}

// method joins two tellings of how somebody was authenticated. A password is
// what stands before a second factor, so that anything else tells more.
func method(a, b string) string {
	switch {
	case a == "" || a == "password" && b != "":
		return b
	case b == "" || b == "password":
		return a
	}
	return min(a, b)
}

// latestEnd is the later of two ends, of which zero is none.
func latestEnd(a, b int64) int64 {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

func smallest(a, b string) string {
	if a == "" || b != "" && b < a {
		return b
	}
	return a
}

func proofOrder(a, b *schemas.Binding) int {
	return cmp.Or(cmp.Compare(a.ProofNanos, b.ProofNanos), compareIDs(a.Proof, b.Proof), evidenceOrder(&a.Evidence, &b.Evidence))
}

// evidenceOrder ranks two deliveries of one event: the lowest place wins.
func evidenceOrder(a, b *schemas.Evidence) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition),
		cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.RecordIndex, b.RecordIndex))
}

func compareIDs(a, b schemas.ID) int { return slices.Compare(a[:], b[:]) }

// earliest lowers *at to nanos, if it is set and later or not set at all.
func earliest(at *int64, nanos int64) bool {
	if *at != 0 && *at <= nanos {
		return false
	}
	*at = nanos
	return true
}

// depend registers a row with a node that its walk visited.
func (s *state) depend(n *node, r *row) {
	for _, d := range r.deps {
		if d == n {
			return
		}
	}
	r.deps = append(r.deps, n)
	n.rows = append(n.rows, r)
	s.grow(n, dependentBytes)
}

// release forgets a row that is done. The lists are compacted only when half
// of a list is done, which keeps leaving cheap on keys with many rows.
func (s *state) release(r *row) {
	r.done = true
	for _, n := range r.deps {
		n.done++
		if n.done*2 > len(n.rows) {
			before := len(n.rows)
			n.rows = slices.DeleteFunc(n.rows, func(r *row) bool { return r.done })
			n.done = 0
			s.grow(n, -(before-len(n.rows))*dependentBytes)
		}
		if len(n.rows) == 0 && !n.gone && n.blank() {
			s.forget(n)
		}
	}
	r.deps = nil
}

// blank reports whether nothing is known of a key but that somebody asked:
// most events bring a request id that nobody will ever speak of again.
func (n *node) blank() bool {
	return len(n.up)+len(n.grants)+len(n.down)+len(n.decisions)+len(n.told) == 0 && n.call.event.IsZero() &&
		n.firstUse.ip == "" && n.endedNanos == 0 && n.revokedNanos == 0
}

// forget drops a key. Rows that visited it keep what they know.
func (s *state) forget(n *node) {
	s.nodes.Remove(n.key)
	s.bytes -= n.bytes
	n.gone = true
}
