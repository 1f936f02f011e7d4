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
)

// node is what is known of one key.
type node struct {
	key    schemas.Key
	up     []schemas.Binding // who drives it; ordered by edgeOrder
	grants []schemas.Binding // relation granted: the grants it exists under; for a grant key, its windows
	down   []schemas.Key     // keys that are looked up from above: login sessions of a person, addresses of a workload

	endedNanos, revokedNanos int64 // zero: not seen

	call      *call      // set when the key is a span whose event was seen
	decisions []decision // policy decisions about this call, ordered
	firstUse  use        // earliest use of a token, for new_source_ip

	rows  []*row // rows whose walk visited this node; some may be done
	done  int    // how many of rows are done
	bytes int
	gone  bool  // evicted or expired: no longer counted
	seen  int64 // newest event time that touched it
}

// call is what a span's own event says of the call.
type call struct {
	event schemas.ID
	tool  bool // a tool call as the agent sees it
	mcp   bool // the protocol's span of a tool call
}

// decision is one policy decision, as the rows that it concerns see it.
type decision struct {
	row     *row
	verdict schemas.Verdict
	id      string
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
	n = s.intern(b.Child, b.ProofNanos)
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

// remember notes the way down for the two look-ups that go downward.
func (s *state) remember(b *schemas.Binding) {
	login := b.Relation == schemas.RelationAuthenticated && b.Child.Kind == schemas.KindSession && b.Parent.Kind == schemas.KindHuman
	address := b.Child.Kind == schemas.KindWorkload && b.Child.Namespace == addressNamespace
	if !login && !address {
		return
	}
	parent := s.intern(b.Parent, b.ProofNanos)
	if i, found := slices.BinarySearchFunc(parent.down, b.Child, schemas.Key.Compare); !found {
		parent.down = slices.Insert(parent.down, i, b.Child)
		s.grow(parent, 40)
	}
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
		untilOrder(a, b),
	)
}

// untilOrder tells apart two weak bindings of one start: two calls of one
// workload may begin together. Exact ones are one mint, told twice.
func untilOrder(a, b schemas.Binding) int {
	if a.Strength != schemas.StrengthWeak {
		return 0
	}
	return cmp.Compare(a.UntilNanos, b.UntilNanos)
}

// merge joins two tellings of one edge. The earliest proof stays; what either
// shows of the child is kept.
func merge(old, add schemas.Binding) (schemas.Binding, bool) {
	now := old
	if proofOrder(&add, &old) < 0 {
		now = add
		now.ChildName = cmp.Or(add.ChildName, old.ChildName)
		now.ParentName = cmp.Or(add.ParentName, old.ParentName)
		now.AuthMethod, now.MFA = old.AuthMethod, old.MFA
	} else {
		now.ChildName = cmp.Or(old.ChildName, add.ChildName)
		now.ParentName = cmp.Or(old.ParentName, add.ParentName)
	}
	if add.MFA > now.MFA || add.MFA == now.MFA && add.AuthMethod != "" && (now.AuthMethod == "" || add.AuthMethod < now.AuthMethod) {
		now.MFA, now.AuthMethod = add.MFA, cmp.Or(add.AuthMethod, now.AuthMethod)
	}
	return now, now != old
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
	}
	r.deps = nil
}
