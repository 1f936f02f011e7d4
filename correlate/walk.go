package correlate

import (
	"math"
	"slices"
	"strings"
	"time"

	"catena/schemas"
)

// step is one edge of a path, from a key to what drives it.
type step struct {
	edge  *edge    // stands in the state, or is made up for where paths meet
	ext   *edgeExt // of the edge
	child nodeID
	above *step
}

// path is what a walk upward from one key found: the start key, then each
// step's parent.
type path struct {
	start       nodeID
	first, last *step // the lowest and the highest step; nil where there is none
	depth       int   // number of steps
	rooted      bool  // ended at a root rather than at a frontier

	strength schemas.Strength // of the weakest step
	reason   schemas.Reason   // why it is not exact, or why it stopped
	flags    schemas.Flags

	chainKey   nodeID // highest key on the path that is no principal
	chainNanos int64  // when that key was used; cuts the chains of long-lived keys

	ambiguous  bool // several candidates with different roots; stopped at the fork
	loose      bool // the step at the fork could be any of the candidates
	candidates []schemas.Candidate
	causes     []cause // what the candidates at the fork say of the cause, each in turn
	fork       nodeID

	trail *trail // where the walk was remembered rather than made
}

// end is the highest key of a path.
func (p *path) end() nodeID {
	if p.last == nil {
		return p.start
	}
	return p.last.edge.parent
}

// under puts an edge below a path: the child is driven by where p starts.
func (w *walker) under(p path, e *edge, child nodeID, childNanos int64) path {
	st := w.step(step{e, w.s.ext(e), child, p.first})
	if p.last == nil {
		p.last = st
	}
	if x, up := st.ext.scopes, st.above; x != 0 && up != nil && up.ext.scopes != 0 && x != up.ext.scopes && w.widens(x, up.ext.scopes) {
		p.flags |= schemas.FlagScopeWidened
	}
	p.first, p.start = st, child
	p.depth++
	if p.rooted && e.strength < p.strength { // the weakest step, the highest of them, gives the reason
		p.reason = w.whyNotExact(e, child)
	}
	p.strength = min(p.strength, e.strength)
	if p.chainKey == 0 && !w.s.at(child).kind.Principal() {
		p.chainKey, p.chainNanos = child, childNanos
	}
	return p
}

// widens reports whether a list of scopes holds one that another has not.
func (w *walker) widens(child, parent name) bool {
	has := strings.Fields(w.s.names.string(parent))
	for scope := range strings.FieldsSeq(w.s.names.string(child)) {
		if !slices.Contains(has, scope) {
			return true
		}
	}
	return false
}

// step keeps a step for as long as the row is being resolved. Chunks never
// move, so that pointers into them hold.
func (w *walker) step(st step) *step {
	if len(w.steps) == cap(w.steps) {
		w.steps = make([]step, 0, 128)
	}
	w.steps = append(w.steps, st)
	return &w.steps[len(w.steps)-1]
}

// whyNotExact is the reason that a step gives a path which is otherwise complete.
func (w *walker) whyNotExact(e *edge, child nodeID) schemas.Reason {
	kind := w.s.at(child).kind
	switch {
	case e.strength == schemas.StrengthExact:
		return schemas.ReasonComplete
	case e.strength == schemas.StrengthStated && (kind == schemas.KindCall || kind == schemas.KindSession):
		return schemas.ReasonSelfReported
	case e.strength == schemas.StrengthStated:
		return schemas.ReasonNameOnly
	case kind.Principal():
		return schemas.ReasonSubjectMatch
	default:
		return schemas.ReasonTimeContainment
	}
}

// stopped is a path that ends where it begins.
func (w *walker) stopped(n nodeID, nanos int64, reason schemas.Reason) path {
	kind := w.s.at(n).kind
	p := path{start: n, strength: schemas.StrengthExact, reason: reason, chainNanos: nanos}
	if kind.Root() && reason == schemas.ReasonComplete {
		p.rooted = true
	}
	if !kind.Principal() {
		p.chainKey = n
	}
	return p
}

// maxVisits bounds the work of one walk, whatever shape the bindings have.
const maxVisits = 512

// maxCandidates is how many competing parents a row lists; a busy workload may
// have hundreds. All of them count for the grade.
const maxCandidates = 32

// walker climbs from one row. It keeps its buffers from row to row.
type walker struct {
	s        *state
	maxDepth int
	hopsFrom *[]schemas.Hop // chunks that hops are made from

	act      *schemas.Action
	slack    int64    // skew and the record's own resolution
	own      []nodeID // the keys of the action
	single   [1]*edge
	stack    []nodeID
	visited  []nodeID
	visits   int
	bridging bool // a gap in the trace is being bridged; one in a walk
	pending  bool // a key on the way has been asked for and not yet answered

	// While these hold, a walk from the same key at a time in [lo, hi) would find
	// the same: see trail.
	plain  bool
	lo, hi int64

	steps []step
	paths []path // one for each key, for the caller
}

// begin makes the walker ready for a row.
func (w *walker) begin(act *schemas.Action, skew int64) {
	clear(w.paths)
	w.act, w.slack, w.bridging, w.pending, w.visits = act, skew+act.ResolutionNanos, false, false, 0
	w.own = nil
	w.stack, w.visited, w.steps, w.paths = w.stack[:0], w.visited[:0], w.steps[:0], w.paths[:0]
}

// reached reports whether a time is at or after a bound. Where the time is
// the action's own it notes for which other times the answer would be the same.
func (w *walker) reached(bound, at int64) bool {
	yes := at >= bound
	if at == w.act.TimeNanos {
		if yes {
			w.lo = max(w.lo, bound)
		} else {
			w.hi = min(w.hi, bound)
		}
	}
	return yes
}

// climb finds the best path upward from a key. at is the time at which the key
// was used: that of the action, or of the mint below which the walk stands.
//
// Exact bindings are tried before stated ones and those before weak ones;
// within one strength calls before tokens before sessions before workloads
// before principals. The first that leads to a root over exact steps wins;
// otherwise the best does.
func (w *walker) climb(n nodeID, at int64) path {
	w.s.wakeUp(n) // a key asked for is a key waited for
	w.visited = append(w.visited, n)
	if slices.Contains(w.stack, n) {
		w.plain = false
		p := w.stopped(n, at, schemas.ReasonCycle)
		p.flags |= schemas.FlagCycle
		return p
	}
	w.visits++
	if len(w.stack) >= w.maxDepth || w.visits > maxVisits {
		w.plain = false
		p := w.stopped(n, at, schemas.ReasonDepthLimit)
		p.flags |= schemas.FlagDepthLimit
		return p
	}
	node := w.s.at(n)
	if node.kind == schemas.KindCall || node.kind == schemas.KindRequest || node.more != 0 && w.s.mores.at(node.more).crowded() {
		w.plain = false
	}
	w.pending = w.s.awaits(n) || w.pending
	w.stack = append(w.stack, n)
	best := w.best(n, at)
	best.flags |= w.afterEnd(n, at)
	w.stack = w.stack[:len(w.stack)-1]
	return best
}

// crowded reports whether a key has facts that more depends on than time.
func (m *more) crowded() bool {
	return m.grants != 0 || !m.call.event.IsZero() || len(m.decisions)+len(m.told) != 0
}

func (w *walker) best(n nodeID, at int64) path {
	best := w.known(n, at)
	if !best.rooted && !best.ambiguous {
		if p := w.weak(n, at); p.rooted || p.ambiguous || best.first == nil && p.first != nil {
			best = p
		}
	} else if best.rooted && best.first == nil { // a root as it stands: look for somebody behind it
		if p := w.weak(n, at); p.rooted || p.ambiguous {
			best = p
		} else if p.first != nil || len(p.causes) > 0 { // nobody, but perhaps the call that drove it
			best.fork, best.causes = n, []cause{w.causeOf(&p)}
		}
	}
	if best.first == nil && !best.rooted && !best.ambiguous {
		if p, ok := w.bridge(n, at); ok {
			best = p
		}
	}
	return best
}

// when is the time at which a key is judged that was used at a time: a
// workload always at the time of the action, because what it was doing then
// is the question.
func (w *walker) when(n nodeID, at int64) int64 {
	if w.s.at(n).kind == schemas.KindWorkload {
		return w.act.TimeNanos
	}
	return at
}

// known follows exact and stated bindings.
func (w *walker) known(n nodeID, at int64) path {
	node := w.s.at(n)
	best := w.stopped(n, at, schemas.ReasonNoBindingSeen)
	if node.kind.Root() {
		best = w.stopped(n, at, schemas.ReasonComplete)
	}
	for i := node.up; i != 0; {
		e := w.s.edge(i)
		if e.strength == schemas.StrengthWeak {
			break // the weak ones stand last
		}
		var group []*edge
		group, i = w.fitting(i, w.when(n, at))
		if len(group) == 0 {
			continue
		}
		if e.strength == schemas.StrengthStated && best.ambiguous {
			break // what a record says of itself settles no contradiction between those who know
		}
		p := w.follow(n, group, at)
		if p.rooted && p.strength == schemas.StrengthExact {
			if i != 0 {
				p = w.contradicted(n, p, i, at)
			}
			return p
		}
		if better(&p, &best) {
			best = p
		}
	}
	if best.first == nil && !best.ambiguous && best.start == n {
		if reason := w.whyNothing(n, at); best.reason == schemas.ReasonNoBindingSeen {
			best.reason = reason
		}
	}
	return best
}

// contradicted looks whether the other exact bindings of a key lead from it to
// somebody else than p does. p still counts, being the most specific, but is
// flagged: whoever holds such a key may not be whose it is.
func (w *walker) contradicted(n nodeID, p path, next edgeID, at int64) path {
	for next != 0 && w.s.edge(next).strength == schemas.StrengthExact && w.visits < maxVisits/2 {
		w.plain = false
		var group []*edge
		if group, next = w.fitting(next, w.when(n, at)); len(group) == 0 {
			continue
		}
		other := w.follow(n, group, at)
		if other.rooted && other.strength == schemas.StrengthExact && w.contradict(&p, &other) {
			p.flags |= schemas.FlagDivergent
			p.candidates = append(slices.Clip(p.candidates), w.candidatesOf([]path{other})...)
		}
	}
	return p
}

// better prefers a root over a fork over a frontier, and then the stronger. A
// root that is one only because nothing is known above it gives way to a fork.
func better(a, b *path) bool {
	if b.rooted && b.first == nil && len(b.candidates) == 0 {
		return a.rooted || a.ambiguous
	}
	if a.rooted != b.rooted {
		return a.rooted
	}
	if a.rooted {
		return b.first == nil || a.strength > b.strength
	}
	if a.ambiguous != b.ambiguous {
		return a.ambiguous
	}
	return b.first == nil && a.first != nil
}

// fitting returns the exact or stated bindings that may hold at a time out of
// the run that starts at i, all of one strength and kind of parent, one for
// each parent, and where the next run starts. The first is the latest mint
// before the use. Others compete with it: those of the same time, those that
// always hold, and those so near to the use that the clocks cannot tell which
// came first.
func (w *walker) fitting(i edgeID, at int64) (fit []*edge, next edgeID) {
	first := w.s.edge(i)
	kind := w.s.at(first.parent).kind
	if first.next == 0 { // the common case: there is but one
		if w.holds(first, at) {
			w.single[0] = first
			return w.single[:], 0
		}
		return nil, 0
	}
	best := -1                     // of fit: the latest mint that is not after the use
	surely := int64(math.MaxInt64) // time of the latest mint that is surely before the use
	for ; i != 0; i = w.s.edge(i).next {
		e := w.s.edge(i)
		if e.strength != first.strength || w.s.at(e.parent).kind != kind {
			break
		}
		if e.strength == schemas.StrengthWeak || e.from != 0 && e.from < surely && surely != math.MaxInt64 || !w.holds(e, at) {
			continue
		}
		if surely == math.MaxInt64 && w.reached(e.from+w.slack, at) {
			surely = e.from
		}
		j := slices.IndexFunc(fit, func(o *edge) bool { return o.parent == e.parent })
		switch {
		case j < 0:
			j = len(fit)
			fit = append(fit, e)
		case !w.reached(fit[j].from, at): // the mint before the use tells more
			fit[j] = e
		}
		if best < 0 && w.reached(fit[j].from, at) {
			best = j
		}
	}
	if best > 0 {
		fit[0], fit[best] = fit[best], fit[0]
	}
	return fit, i
}

// holds reports whether a binding holds at a time, clock skew and the record's
// own resolution allowed.
func (w *walker) holds(e *edge, at int64) bool {
	if e.from != 0 && !w.reached(e.from-w.slack, at) {
		return false
	}
	until := w.s.ext(e).until
	return until == 0 || !w.reached(until+w.slack, at)
}

// whyNothing is the reason for which a walk that stops at n has stopped.
func (w *walker) whyNothing(n nodeID, at int64) schemas.Reason {
	node := w.s.at(n)
	switch {
	case node.kind.Root():
		return schemas.ReasonComplete
	case node.up == 0:
		if w.s.wasEvicted(n) {
			return schemas.ReasonEvicted
		}
		return schemas.ReasonNoBindingSeen
	}
	reason := schemas.ReasonNoBindingSeen // what is above holds, and leads nowhere
	for i := node.up; i != 0; i = w.s.edge(i).next {
		e := w.s.edge(i)
		if until := w.s.ext(e).until; until != 0 && w.reached(until+w.slack, at) {
			return schemas.ReasonBindingExpired
		}
		if e.from != 0 && !w.reached(e.from-w.slack, at) {
			reason = schemas.ReasonBindingNotYet
		}
	}
	return reason
}

// follow goes up a group of exact or stated bindings, the most likely first.
func (w *walker) follow(n nodeID, group []*edge, at int64) path {
	if len(group) == 1 {
		return w.ascend(n, group[0], at)
	}
	w.plain = false
	paths := make([]path, len(group))
	for i := range group {
		paths[i] = w.ascend(n, group[i], at)
	}
	if w.agree(paths) {
		return paths[0]
	}
	reason := schemas.ReasonConflict
	for _, e := range group {
		if e.from != 0 && e.from != group[0].from { // no contradiction: one came first
			reason = schemas.ReasonSeveralCandidates
		}
	}
	return w.choose(n, at, paths, reason)
}

// agree reports whether it makes no difference which of several paths counts.
func (w *walker) agree(paths []path) bool {
	first := &paths[0]
	chain, why := w.chainOf(first), w.causeOf(first)
	for i := range paths {
		p := &paths[i]
		if !p.rooted || p.end() != first.end() || p.strength != first.strength || w.chainOf(p) != chain || w.causeOf(p) != why {
			return false
		}
	}
	return true
}

// ascend goes one step up. Above a mint, tokens and sessions are judged at the
// time of the mint (see walker.when for workloads).
func (w *walker) ascend(n nodeID, e *edge, at int64) path {
	used := w.when(n, at)
	up := used
	if e.from != 0 {
		up = e.from
	}
	p := w.under(w.climb(e.parent, up), e, n, at)
	if expires := w.s.ext(e).expires; expires != 0 && w.reached(expires+w.slack+1, used) {
		p.flags |= schemas.FlagUsedAfterExpiry
	}
	return p
}

// weak follows the weak bindings that hold at the time of the action.
func (w *walker) weak(n nodeID, at int64) path {
	when := w.when(n, at)
	var fit []*edge
	for i := w.s.at(n).up; i != 0; i = w.s.edge(i).next {
		e := w.s.edge(i)
		if e.strength != schemas.StrengthWeak {
			continue
		}
		w.plain = false
		if !w.holds(e, when) || slices.Contains(w.own, e.parent) || // a call does not contain itself
			w.overBefore(e.parent, when) {
			continue
		}
		fit = append(fit, e)
	}
	if len(fit) > 1 { // what is told twice is one candidate: by the latest binding
		slices.SortStableFunc(fit, func(a, b *edge) int { return w.s.compare(a.parent, b.parent) })
		fit = slices.CompactFunc(fit, func(a, b *edge) bool { return a.parent == b.parent })
		fit = w.innermost(fit)
	}
	var p path
	switch len(fit) {
	case 0:
		return path{start: n}
	case 1:
		p = w.under(w.climb(fit[0].parent, when), fit[0], n, at)
		if w.surely(n, fit[0], when) {
			return p
		}
		return w.doubtful(n, at, []path{p}, p)
	}
	paths := make([]path, 0, len(fit))
	sure := false
	for _, e := range fit {
		paths = append(paths, w.under(w.climb(e.parent, when), e, n, at))
		sure = sure || w.surely(n, e, when)
	}
	if p = w.choose(n, at, paths, schemas.ReasonSeveralCandidates); sure {
		return p
	}
	return w.doubtful(n, at, paths, p)
}

// surely reports whether a weak binding of a root held when its key was used,
// whatever the clocks and the resolution of the record say, as opposed to one
// that may have: then the root may as well have acted by itself.
func (w *walker) surely(n nodeID, e *edge, when int64) bool {
	until := w.s.ext(e).until
	if !w.s.at(n).kind.Root() {
		return true
	}
	ended := w.s.extra(e.parent).ended
	return (e.from == 0 || when-w.slack >= e.from) && (until == 0 || when+w.slack < until) && (ended == 0 || when+w.slack <= ended)
}

// doubtful is what is left of p, the choice among paths up from a root, when
// nobody may have been behind the root at all. A subject is where it stops, with
// what may be above it as candidates; a workload is one candidate among them.
func (w *walker) doubtful(n nodeID, at int64, paths []path, p path) path {
	if p.ambiguous || w.s.at(n).kind.Principal() && p.first == nil {
		return p
	}
	causes := append(w.causesOf(paths), cause{})
	if !slices.ContainsFunc(paths, func(p path) bool { return p.rooted }) {
		return path{start: n, causes: causes}
	}
	d := w.stopped(n, at, schemas.ReasonComplete)
	d.fork, d.causes, d.candidates = n, causes, w.candidatesOf(paths)
	if w.s.at(n).kind.Principal() {
		return d
	}
	d.rooted, d.ambiguous, d.reason = false, true, schemas.ReasonSeveralCandidates
	d.candidates = append(d.candidates, schemas.Candidate{Parent: w.s.key(n), Root: w.s.key(n)})
	return d
}

// overBefore reports whether a session had ended before a time.
func (w *walker) overBefore(n nodeID, at int64) bool {
	ended := w.s.extra(n).ended
	return ended != 0 && at > ended+w.slack
}

// innermost drops calls that enclose another candidate: of nested calls active
// at once only the innermost counts.
func (w *walker) innermost(fit []*edge) []*edge {
	var outer []nodeID
	for _, e := range fit {
		for n, hops := e.parent, 0; hops < w.maxDepth; hops++ {
			w.visited = append(w.visited, n)
			w.pending = w.s.awaits(n) || w.pending
			up := w.s.at(n).up
			if up == 0 {
				break
			}
			first := w.s.edge(up)
			if first.strength != schemas.StrengthExact || w.s.at(first.parent).kind != schemas.KindCall {
				break
			}
			n = first.parent
			outer = append(outer, n)
		}
	}
	if len(outer) == 0 {
		return fit
	}
	slices.Sort(outer)
	return slices.DeleteFunc(fit, func(e *edge) bool { _, found := slices.BinarySearch(outer, e.parent); return found })
}

// choose decides among several paths up from n that all fit.
//
// One chain: the chain is known, and only which of them it was is not. One
// principal over different sessions: the root is known, and the chain starts
// at n. Different roots: a root of its own, such as a web identity's subject,
// is where it stops, and anything else is ambiguous. Never a guess.
func (w *walker) choose(n nodeID, at int64, paths []path, reason schemas.Reason) path {
	slices.SortFunc(paths, func(a, b path) int { return w.s.compare(a.first.edge.parent, b.first.edge.parent) })
	rooted := 0
	for i := range paths {
		if paths[i].rooted {
			rooted++
		}
	}
	if rooted == len(paths) && sameRoot(paths) {
		return w.common(n, at, paths, reason)
	}
	p := w.stopped(n, at, reason)
	p.fork, p.causes = n, w.causesOf(paths)
	kind := w.s.at(n).kind
	if rooted == 0 { // nothing is known above any of them
		if kind.Root() {
			p.reason = schemas.ReasonComplete
		}
		return p
	}
	p.candidates = w.candidatesOf(paths)
	if kind.Principal() {
		p.rooted, p.reason = true, schemas.ReasonComplete
	} else {
		p.rooted, p.ambiguous = false, true
	}
	return p
}

func sameRoot(paths []path) bool {
	for i := range paths[1:] {
		if paths[i+1].end() != paths[0].end() {
			return false
		}
	}
	return true
}

func (w *walker) candidatesOf(paths []path) []schemas.Candidate {
	out := make([]schemas.Candidate, 0, min(len(paths), maxCandidates))
	for i := range paths[:min(len(paths), maxCandidates)] {
		e := paths[i].first.edge
		c := schemas.Candidate{Parent: w.s.key(e.parent), Proof: e.proof}
		if paths[i].rooted {
			c.Root = w.s.key(paths[i].end())
		}
		out = append(out, c)
	}
	return out
}

// common joins paths that meet: what they share is the path, and the step to
// it is as weak as the weakest of theirs.
func (w *walker) common(n nodeID, at int64, paths []path, reason schemas.Reason) path {
	p := paths[0]
	meet := p.last
	for st := p.first; st != nil; st = st.above { // the first step above which all meet
		if !slices.ContainsFunc(paths[1:], func(o path) bool { return !passes(&o, st.edge.parent) }) {
			meet = st
			break
		}
	}
	first, chain := paths[0].first.edge, w.chainOf(&paths[0])
	for i := range paths {
		p.strength = min(p.strength, paths[i].strength)
		p.flags |= paths[i].flags
		if w.chainOf(&paths[i]) != chain { // one principal, different sessions: the chain starts here
			p.chainKey, p.chainNanos = n, at
		}
	}
	if p.chainKey != 0 && w.s.at(p.chainKey).kind.Principal() {
		p.chainKey = 0 // the next key below starts it
	}
	if p.strength != schemas.StrengthExact {
		p.reason = reasonOf(p.reason, reason)
	}
	joint := &edge{parent: meet.edge.parent, relation: first.relation, strength: p.strength}
	if p.strength == schemas.StrengthExact { // any of them proves it
		joint.proof, joint.proofNanos = first.proof, first.proofNanos
	}
	p.first, p.depth = w.step(step{joint, &edgeExt{parentName: meet.ext.parentName}, n, meet.above}), 1
	for st := meet.above; st != nil; st = st.above {
		p.depth++
	}
	if meet.above == nil {
		p.last = p.first
	}
	p.start, p.loose, p.fork, p.candidates, p.causes = n, true, n, w.candidatesOf(paths), w.causesOf(paths)
	return p
}

// reasonOf keeps the more telling of two reasons.
func reasonOf(own, several schemas.Reason) schemas.Reason {
	if own == schemas.ReasonComplete {
		return several
	}
	return own
}

func passes(p *path, n nodeID) bool {
	for st := p.first; st != nil; st = st.above {
		if st.edge.parent == n {
			return true
		}
	}
	return false
}

// maxAnchors is how many sessions and tokens a trace may hang on and still be
// bridged; a trace of more is no longer one thing that somebody asked for.
const maxAnchors = 32

// bridge leaps over a lost span: where nothing is known above a span, and
// everything that the rest of its trace hangs on leads to one root, that is
// the root of this span too, inferred.
func (w *walker) bridge(n nodeID, at int64) (path, bool) {
	if w.s.at(n).kind != schemas.KindCall || w.bridging {
		return path{}, false
	}
	k, ok := traceOf(w.s.key(n))
	if !ok {
		return path{}, false
	}
	trace := w.s.intern(k, 0)
	w.visited = append(w.visited, trace)
	w.pending = w.s.awaits(trace) || w.pending
	down := w.s.extra(trace).down
	if len(down) == 0 || len(down) > maxAnchors {
		return path{}, false
	}
	w.bridging = true
	defer func() { w.bridging = false }()
	var paths []path
	for _, anchor := range down {
		p := w.climb(anchor, at)
		if p.ambiguous {
			return path{}, false
		}
		if p.rooted {
			paths = append(paths, w.under(p, &edge{parent: anchor, relation: schemas.RelationInvoked}, n, at))
		}
	}
	switch {
	case len(paths) == 0 || w.visits > maxVisits || !sameRoot(paths):
		return path{}, false
	case len(paths) == 1:
		return paths[0], true
	}
	return w.choose(n, at, paths, schemas.ReasonTimeContainment), true
}

// afterEnd flags a use of a key after it had ended or was revoked.
func (w *walker) afterEnd(n nodeID, at int64) (f schemas.Flags) {
	node := w.s.at(n)
	if node.more == 0 || node.kind != schemas.KindToken && node.kind != schemas.KindSession {
		return 0
	}
	m := w.s.mores.at(node.more)
	if m.ended != 0 && w.reached(m.ended+w.slack+1, at) {
		f |= schemas.FlagUsedAfterEnd
	}
	if m.revoked != 0 && w.reached(m.revoked+w.slack+1, at) {
		f |= schemas.FlagUsedAfterRevoke
	}
	return f
}

// chain is what a chain's id derives from: the highest key of the path alone;
// for a long-lived key, and the UTC day on which it was itself used.
type chain struct {
	key nodeID
	day int64 // since the epoch; noDay where the key is not long-lived
}

const (
	noDay    = math.MinInt64
	minNanos = math.MinInt64
	maxNanos = math.MaxInt64
	dayNanos = int64(24 * time.Hour)
)

func (w *walker) chainOf(p *path) chain {
	k := p.chainKey
	if k == 0 {
		k = p.end()
	}
	if !w.s.key(k).LongLived() {
		return chain{k, noDay}
	}
	return chain{k, p.chainNanos / dayNanos}
}
