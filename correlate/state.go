package correlate

import (
	"cmp"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"unsafe"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"catena/schemas"
)

// nodeID names a key in the state; zero is none. It stays good as long as
// something refers to it: an edge, a row's watch, or the caller's promise not
// to let go of anything meanwhile.
type nodeID uint32

// edgeID names a binding in the state; zero is none.
type edgeID uint32

// node is what is known of one key.
type node struct {
	first     uint32 // of its value, see text
	size      uint16
	kind      schemas.Kind
	bits      nodeBits
	namespace name

	up     edgeID  // who drives it, linked in edgeOrder
	more   uint32  // facts that few keys have
	use    uint32  // earliest use of a token
	watch  watchID // rows and trails that visited it
	trails uint32  // walks from here that are remembered
	refs   uint32  // edges, rows and lists of others that name it

	older, newer nodeID // in the order of use
	stamp        uint32 // clock of the state when it was last moved there
	seen         int64  // newest event time that touched it
}

func (n *node) value() text { return text{n.first, n.size} }

type nodeBits uint8

const (
	nodeLive     nodeBits = 1 << iota // in the order of use; otherwise a name alone, kept because something refers to it
	nodeLost                          // the tables know more of it than we do
	nodeAsked                         // that has been asked for, and not yet answered
	nodeRowsLost                      // rows that rest on it left for lack of room
	nodeDropped                       // what was known of it was dropped for lack of room
)

// edge is one binding, without its child, which owns it.
type edge struct {
	parent     nodeID
	next       edgeID
	from       int64 // zero: always
	proofNanos int64
	proof      schemas.ID
	offset     int64
	part       uint32 // of the proof; a number of state.parts
	index      int32
	version    uint32 // a number of state.versions
	childName  name
	ext        uint32 // what few bindings have
	source     uint16 // a number of state.sources
	relation   schemas.Relation
	strength   schemas.Strength
}

// edgeExt is what a binding may say besides.
type edgeExt struct {
	until, expires int64
	parentName     name
	method         name
	scopes         name
	mfa            schemas.MFA
}

// more is what is known of a key beyond who drives it.
type more struct {
	grants    edgeID   // the grants it exists under; for a grant key, its windows
	down      []nodeID // keys looked up from here: logins of a person, addresses of a workload, what a trace hangs on
	ended     int64    // zero: not seen
	revoked   int64
	call      call        // set when the key is a tool call's span whose event was seen
	decisions []decision  // policy decisions about this call, ordered
	told      []toldCause // of a request: what its records know of the cause, by event
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

	// What a row has to agree with that shares no more than a request id with it.
	resource string
	person   schemas.Key // zero where no person is known
}

// toldCause is what one record of a request knows of the cause of them all.
type toldCause struct {
	event schemas.ID
	cause cause
}

// use is the earliest use of a token from an address.
type use struct {
	ip    [16]byte
	nanos int64
	event schemas.ID
}

// What Go's maps take for an entry of ours beside the entry itself, measured.
const mapEntryBytes = 24

// state is the graph of keys inside a byte budget: a window over the tables.
type state struct {
	seed     maphash.Seed
	index    index // by hash
	nodes    slab[node]
	edges    slab[edge]
	exts     slab[edgeExt]
	mores    slab[more]
	uses     slab[use]
	watches  slab[watch]
	texts    texts
	names    names
	parts    numbering[partition]
	sources  numbering[string]
	versions numbering[uint64] // few: one for each owner and merge

	oldest, newest nodeID
	live           int    // keys in the order of use
	clock          uint32 // moves with each use of a key
	moreBytes      int    // of the lists in mores

	lost       *bloom // keys that were dropped and that the tables know; nil without a look-up
	unasked    []nodeID
	deferred   []nodeID                         // asked for when events come next
	unanswered int                              // keys asked for whose answer has not come
	asked      map[uint64]struct{}              // hashes of keys asked for since events last came
	nobody     *simplelru.LRU[uint64, struct{}] // hashes of keys of which the tables know nothing
	evicted    *simplelru.LRU[uint64, struct{}] // hashes of keys lately dropped for lack of room, to name the reason
	stale      func(*watch)                     // hears when a key is dropped that a trail leads through
	cache      [1 << 12]struct {
		node nodeID
		key  schemas.Key
	}
	chains [1 << 12]struct {
		node nodeID
		day  int64
		id   schemas.ID
	}
}

func newState() *state {
	s := &state{seed: maphash.MakeSeed(), asked: map[uint64]struct{}{}, evicted: newSet(1 << 14), nobody: newSet(1 << 16)}
	s.names = names{texts: &s.texts, seed: s.seed, find: map[uint64]name{}}
	return s
}

func newSet(size int) *simplelru.LRU[uint64, struct{}] {
	set, err := simplelru.NewLRU[uint64, struct{}](size, nil)
	if err != nil {
		panic(err) // impossible: the size is positive
	}
	return set
}

// bytes is what the state weighs. Room that was given back is kept for later
// and not counted: it is filled again before more is taken.
func (s *state) bytes() int {
	return s.nodes.bytes() + s.edges.bytes() + s.exts.bytes() + s.mores.bytes() + s.uses.bytes() + s.watches.bytes() +
		s.texts.blocks.bytes() + s.names.slots.bytes() + s.moreBytes + s.nodes.len()*indexBytes + s.names.slots.len()*mapEntryBytes
}

// numbering gives small numbers to the few values of a kind.
type numbering[T comparable] struct {
	of  map[T]int
	all []T
}

func (n *numbering[T]) number(v T) int {
	i, ok := n.of[v]
	if !ok {
		if n.of == nil {
			n.of = map[T]int{}
		}
		i = len(n.all)
		n.of[v] = i
		n.all = append(n.all, v)
	}
	return i
}

func (s *state) at(n nodeID) *node   { return s.nodes.at(uint32(n)) }
func (s *state) edge(e edgeID) *edge { return s.edges.at(uint32(e)) }

func (s *state) hash(k schemas.Key) uint64 {
	return mix(maphash.String(s.seed, k.Value), maphash.String(s.seed, k.Namespace), k.Kind)
}

// hashOf is the hash of a key that is known.
func (s *state) hashOf(n nodeID) uint64 {
	var stack [128]byte
	at := s.at(n)
	return mix(maphash.Bytes(s.seed, s.texts.append(stack[:0], at.value())), maphash.String(s.seed, s.names.string(at.namespace)), at.kind)
}

func mix(value, namespace uint64, kind schemas.Kind) uint64 {
	h := value ^ (namespace*31+uint64(kind))*0x9e3779b97f4a7c15
	return h ^ h>>32*0x9e3779b1
}

// peek returns the number of a key, or zero.
func (s *state) peek(k schemas.Key) nodeID {
	k.Namespace, k.Value = shorten(k.Namespace), shorten(k.Value)
	n, _ := s.lookup(k)
	return n
}

func (s *state) lookup(k schemas.Key) (nodeID, uint64) {
	h := s.hash(k)
	return s.index.segment(h).find(h, func(n nodeID) bool {
		at := s.at(n)
		return at.kind == k.Kind && s.texts.equal(at.value(), k.Value) && s.texts.equal(s.names.slots.at(uint32(at.namespace)).text, k.Namespace)
	}), h
}

// name returns the number of a key and makes it if need be, as a name alone.
func (s *state) name(k schemas.Key) nodeID {
	k.Namespace, k.Value = shorten(k.Namespace), shorten(k.Value)
	n, h := s.lookup(k)
	if n != 0 {
		return n
	}
	i, at := s.nodes.take()
	n = nodeID(i)
	value := s.texts.put(k.Value)
	*at = node{first: value.first, size: value.size, namespace: s.names.use(k.Namespace), kind: k.Kind}
	s.index.segment(h).add(h, n)
	if s.lost != nil && s.lost.has(h) {
		at.bits |= nodeLost
	}
	return n
}

// intern returns the number of a key and makes it if need be, and marks it as
// used.
func (s *state) intern(k schemas.Key, nanos int64) nodeID {
	n := s.name(k)
	s.wakeUp(n)
	at := s.at(n)
	at.seen = max(at.seen, nanos)
	return n
}

// wakeUp makes a key live that is used again, and moves it to the new end.
func (s *state) wakeUp(n nodeID) {
	at := s.at(n)
	if at.bits&nodeLive != 0 {
		s.touch(n)
	} else {
		at.bits |= nodeLive
		s.live++
		s.push(n, at)
	}
	if at.bits&(nodeLost|nodeAsked) == nodeLost && s.lost != nil {
		s.miss(n, at)
	}
}

// touch marks a key as used. The order of use is exact to a quarter of the
// keys: to move each key each time would touch three of them.
func (s *state) touch(n nodeID) {
	s.clock++
	at := s.at(n)
	if s.clock-at.stamp <= uint32(s.nodes.len()/4) || s.newest == n {
		return
	}
	s.unlink(at)
	s.push(n, at)
}

func (s *state) push(n nodeID, at *node) {
	at.older, at.newer, at.stamp = s.newest, 0, s.clock
	if s.newest != 0 {
		s.at(s.newest).newer = n
	} else {
		s.oldest = n
	}
	s.newest = n
}

func (s *state) unlink(at *node) {
	if at.older != 0 {
		s.at(at.older).newer = at.newer
	} else {
		s.oldest = at.newer
	}
	if at.newer != 0 {
		s.at(at.newer).older = at.older
	} else {
		s.newest = at.older
	}
}

// key makes the key of a number. The last few are kept: rows of one chain come
// together.
func (s *state) key(n nodeID) schemas.Key {
	if n == 0 {
		return schemas.Key{}
	}
	c := &s.cache[n%nodeID(len(s.cache))]
	if c.node != n {
		at := s.at(n)
		c.node, c.key = n, schemas.Key{Kind: at.kind, Namespace: s.names.string(at.namespace), Value: s.texts.string(at.value())}
	}
	return c.key
}

// compare orders keys as schemas.Key.Compare does.
func (s *state) compare(a, b nodeID) int {
	if a == b {
		return 0
	}
	x, y := s.at(a), s.at(b)
	switch {
	case x.kind != y.kind:
		return int(x.kind) - int(y.kind)
	case x.namespace != y.namespace:
		return strings.Compare(s.names.string(x.namespace), s.names.string(y.namespace))
	}
	return s.texts.compare(x.value(), y.value())
}

// extra is what is known of a key beyond who drives it; never nil.
func (s *state) extra(n nodeID) *more {
	if i := s.at(n).more; i != 0 {
		return s.mores.at(i)
	}
	return &nothingMore
}

var nothingMore more

// grow is extra for writing.
func (s *state) grow(n nodeID) *more {
	at := s.at(n)
	if at.more == 0 {
		at.more, _ = s.mores.take()
	}
	return s.mores.at(at.more)
}

// ext is what a binding says besides; never nil.
func (s *state) ext(e *edge) *edgeExt {
	if e.ext == 0 {
		return &nothingBesides
	}
	return s.exts.at(e.ext)
}

var nothingBesides edgeExt

// learned is what a binding changed.
type learned struct {
	child   nodeID
	now     schemas.Binding // as it now stands; shares no memory with what was told
	changed bool            // something that a row can see
	write   bool            // the tables do not hold it as it now stands
}

// learn adds a binding to the graph. told says that it stands in the tables or
// was said by another engine, rather than by an event of ours.
func (s *state) learn(b *schemas.Binding, told bool) learned {
	n := s.intern(b.Child, heardNanos(b.ProofNanos, &b.Evidence))
	switch b.Relation {
	case schemas.RelationEnded:
		changed := earliest(&s.grow(n).ended, b.FromNanos)
		return learned{n, s.end(n, b), changed, changed && !told}
	case schemas.RelationRevoked:
		changed := earliest(&s.grow(n).revoked, b.FromNanos)
		return learned{n, s.end(n, b), changed, changed && !told}
	}
	parent := s.name(b.Parent)
	e := edge{parent: parent, from: b.FromNanos, relation: b.Relation, strength: b.Strength}
	link := &s.at(n).up
	if b.Relation == schemas.RelationGranted {
		link = &s.grow(n).grants
	}
	for *link != 0 {
		at := s.edge(*link)
		c := s.edgeOrder(at, &e)
		if c == 0 {
			return s.relearn(n, at, b, told)
		}
		if c > 0 {
			break
		}
		link = &at.next
	}
	i, at := s.edges.take()
	*at = e
	at.next, *link = *link, edgeID(i)
	s.at(parent).refs++
	s.fill(at, b)
	if !told && s.incomplete(n) {
		at.version = uint32(s.versions.number(1)) // must not outrank what the tables hold, which is about to be asked for
	}
	s.remember(n, at, heardNanos(b.ProofNanos, &b.Evidence))
	return learned{n, s.binding(n, at), true, !told}
}

// end is a binding of a key without a parent, which says that it ended.
func (s *state) end(n nodeID, b *schemas.Binding) schemas.Binding {
	return schemas.Binding{Child: s.key(n), Relation: b.Relation, Strength: b.Strength, FromNanos: b.FromNanos,
		Proof: b.Proof, ProofNanos: b.ProofNanos, Source: b.Source, Evidence: s.place(&b.Evidence), Version: b.Version}
}

// part numbers a partition.
func (s *state) part(topic string, index int32) uint32 {
	if i, ok := s.parts.of[partition{topic, index}]; ok {
		return uint32(i)
	}
	return uint32(s.parts.number(partition{strings.Clone(topic), index}))
}

// fill writes what a binding says, apart from what makes it this edge.
func (s *state) fill(at *edge, b *schemas.Binding) {
	at.proofNanos, at.proof, at.version = b.ProofNanos, b.Proof, uint32(s.versions.number(b.Version))
	at.part = s.part(b.Evidence.Topic, b.Evidence.Partition)
	at.offset, at.index = b.Evidence.Offset, b.Evidence.RecordIndex
	at.source = uint16(s.sources.number(b.Source))
	old, oldName := at.ext, at.childName
	at.childName = s.names.use(b.ChildName)
	s.names.drop(oldName)
	x := edgeExt{until: b.UntilNanos, expires: b.ExpiresNanos, parentName: s.names.use(b.ParentName), method: s.names.use(b.AuthMethod), scopes: s.names.use(b.Scopes), mfa: b.MFA}
	at.ext = 0
	if x != (edgeExt{}) {
		i, to := s.exts.take()
		*to, at.ext = x, i
	}
	s.dropExt(old)
}

func (s *state) dropExt(i uint32) {
	if i == 0 {
		return
	}
	x := s.exts.at(i)
	s.names.drop(x.parentName)
	s.names.drop(x.method)
	s.names.drop(x.scopes)
	s.exts.give(i)
}

// binding is an edge as others know it. Of the record that proves it the place
// is kept, and not what stood there.
func (s *state) binding(child nodeID, e *edge) schemas.Binding {
	x, part := s.ext(e), s.parts.all[e.part]
	return schemas.Binding{
		Child: s.key(child), Parent: s.key(e.parent), Relation: e.relation, Strength: e.strength,
		ChildName: s.names.string(e.childName), ParentName: s.names.string(x.parentName),
		FromNanos: e.from, UntilNanos: x.until, ExpiresNanos: x.expires,
		AuthMethod: s.names.string(x.method), MFA: x.mfa, Scopes: s.names.string(x.scopes),
		Proof: e.proof, ProofNanos: e.proofNanos, Source: s.sources.all[e.source],
		Evidence: schemas.Evidence{Topic: part.topic, Partition: part.index, Offset: e.offset, RecordIndex: e.index},
		Version:  s.versions.all[e.version],
	}
}

// heardNanos is the event time that a fact counts with for being forgotten. One
// from the future counts with its arrival, or it would never leave.
func heardNanos(nanos int64, at *schemas.Evidence) int64 {
	if at.TimestampNanos != 0 {
		return min(nanos, at.TimestampNanos)
	}
	return nanos
}

// remember notes the way down for the look-ups that go downward.
func (s *state) remember(child nodeID, e *edge, nanos int64) {
	c, p := s.at(child), s.at(e.parent)
	login := e.relation == schemas.RelationAuthenticated && c.kind == schemas.KindSession && p.kind == schemas.KindHuman
	switch {
	case login || s.address(child):
		s.lookDown(e.parent, child, nanos)
	case s.anchors(child, e):
		trace, _ := traceOf(s.key(child))
		s.lookDown(s.name(trace), e.parent, nanos)
	}
}

func (s *state) lookDown(from, to nodeID, nanos int64) {
	s.wakeUp(from)
	s.at(from).seen = max(s.at(from).seen, nanos)
	m := s.grow(from)
	i, found := slices.BinarySearchFunc(m.down, to, s.compare)
	if found {
		return
	}
	before := cap(m.down)
	m.down = slices.Insert(m.down, i, to)
	s.at(to).refs++
	if l := len(m.down); l >= 64 && l&(l-1) == 0 { // now and then, those that are no more
		keep := m.down[:0]
		for _, n := range m.down {
			if n == to || s.at(n).bits&nodeLive != 0 {
				keep = append(keep, n)
			} else {
				s.unref(n)
			}
		}
		m.down = keep
	}
	s.moreBytes += (cap(m.down) - before) * 4
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
func (s *state) anchors(child nodeID, e *edge) bool {
	if s.at(child).kind != schemas.KindCall || e.strength == schemas.StrengthWeak || e.relation == schemas.RelationGranted {
		return false
	}
	trace, ok := traceOf(s.key(child))
	if !ok || s.at(e.parent).kind == schemas.KindWorkload {
		return false
	}
	other, span := traceOf(s.key(e.parent))
	return !span || other != trace
}

// addressNamespace is that of workload:ip:… keys: a place, not an identity.
const addressNamespace = "ip"

func (s *state) address(n nodeID) bool {
	at := s.at(n)
	return at.kind == schemas.KindWorkload && s.names.string(at.namespace) == addressNamespace
}

// edgeOrder makes two bindings the same edge when they say the same thing, and
// puts the latest first among those of one strength and kind of parent.
func (s *state) edgeOrder(a, b *edge) int {
	return cmp.Or(
		-cmp.Compare(a.strength, b.strength),
		cmp.Compare(s.at(a.parent).kind, s.at(b.parent).kind),
		-cmp.Compare(a.from, b.from),
		s.compare(a.parent, b.parent),
		cmp.Compare(a.relation, b.relation),
	)
}

// firstUse keeps the earliest use of a token and reports whether that was
// known from another address.
func (s *state) firstUse(n nodeID, ip netip.Addr, nanos int64, event schemas.ID) (moved bool) {
	u := use{ip.As16(), nanos, event}
	at := s.at(n)
	if at.use == 0 {
		i, to := s.uses.take()
		*to, at.use = u, i
		return false
	}
	old := s.uses.at(at.use)
	if nanos > old.nanos || nanos == old.nanos && compareIDs(event, old.event) >= 0 {
		return false
	}
	moved = old.ip != u.ip
	*old = u
	return moved
}

func (s *state) unref(n nodeID) {
	s.at(n).refs--
	s.release(n)
}

// release lets go of a key of which nothing is known and that nothing refers
// to: most events bring a request id that nobody will ever speak of again.
func (s *state) release(n nodeID) {
	at := s.at(n)
	if at.refs|uint32(at.watch)|at.trails|uint32(at.up)|at.more|at.use != 0 {
		return
	}
	if at.bits&nodeLive != 0 {
		s.unlink(at)
		s.live--
	}
	h := s.hashOf(n)
	s.index.segment(h).remove(h, n)
	s.texts.drop(at.value())
	s.names.drop(at.namespace)
	if c := &s.cache[n%nodeID(len(s.cache))]; c.node == n {
		c.node, c.key = 0, schemas.Key{}
	}
	if c := &s.chains[n%nodeID(len(s.chains))]; c.node == n {
		c.node = 0
	}
	s.nodes.give(uint32(n))
}

// forget drops what is known of a live key. Rows that visited it keep what
// they know; the name stays as long as something refers to it.
func (s *state) forget(n nodeID) {
	at := s.at(n)
	s.unlink(at)
	s.live--
	at.bits &^= nodeLive
	for i := at.watch; i != 0; {
		w := s.watches.at(uint32(i))
		if w.owner&trailOwner != 0 {
			s.stale(w)
		}
		i = w.next
	}
	if s.knows(n) {
		at.bits |= nodeLost
		if s.lost != nil {
			h := s.hashOf(n)
			s.lost.add(h)
			s.nobody.Remove(h)
		}
	}
	at.refs++ // hold it while its edges go, which may lead back to it
	s.dropEdges(&at.up)
	if i := at.more; i != 0 {
		m := s.mores.at(i)
		at.more = 0
		s.dropEdges(&m.grants)
		s.moreBytes -= m.bytes()
		for _, d := range m.down {
			s.unref(d)
		}
		for _, t := range m.told {
			s.unref(t.cause.call)
		}
		s.mores.give(i)
	}
	if i := at.use; i != 0 {
		at.use = 0
		s.uses.give(i)
	}
	s.unref(n)
}

func (s *state) dropEdges(head *edgeID) {
	for i := *head; i != 0; {
		e := *s.edge(i)
		s.dropExt(e.ext)
		s.names.drop(e.childName)
		s.edges.give(uint32(i))
		s.unref(e.parent)
		i = e.next
	}
	*head = 0
}

// wasEvicted reports whether what was known of a key was lately dropped for
// lack of room.
func (s *state) wasEvicted(n nodeID) bool {
	return s.at(n).bits&nodeDropped != 0 || s.evicted.Len() > 0 && s.evicted.Contains(s.hashOf(n))
}

// knows reports whether more is known of a key than that somebody asked.
func (s *state) knows(n nodeID) bool {
	at := s.at(n)
	return uint32(at.up)|at.more|at.use != 0
}

// bytes is what the lists of m weigh.
func (m *more) bytes() int {
	n := cap(m.down)*4 + cap(m.told)*int(unsafe.Sizeof(toldCause{})) + cap(m.decisions)*int(unsafe.Sizeof(decision{}))
	for i := range m.decisions {
		n += len(m.decisions[i].id) + len(m.decisions[i].resource)
	}
	return n
}
