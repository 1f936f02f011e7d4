package correlate

import (
	"math"
	"slices"

	"catena/schemas"
)

// step is one edge of a path, from a key to what drives it.
type step struct {
	edge   *schemas.Binding // valid while the walk lasts
	parent *node            // of the edge
}

// path is what a walk upward from one key found: the start key, then each
// step's parent.
type path struct {
	start  schemas.Key
	node   *node // of start
	steps  []step
	rooted bool // ended at a root rather than at a frontier

	strength schemas.Strength // of the weakest step
	reason   schemas.Reason   // why it is not exact, or why it stopped
	flags    schemas.Flags

	chainKey   schemas.Key // highest key on the path that is no principal
	chainNanos int64       // when that key was used; cuts the chains of long-lived keys

	ambiguous  bool // several candidates with different roots; stopped at the fork
	loose      bool // the step at the fork could be any of the candidates
	candidates []schemas.Candidate
	causes     []cause // what the candidates at the fork say of the cause, each in turn
	fork       schemas.Key
}

func (p *path) end() schemas.Key {
	if len(p.steps) == 0 {
		return p.start
	}
	return p.steps[len(p.steps)-1].edge.Parent
}

// under puts an edge below a path: the child is driven by where p starts.
func (p path) under(b *schemas.Binding, child *node, childNanos int64) path {
	steps := make([]step, 0, len(p.steps)+1)
	p.steps = append(append(steps, step{b, p.node}), p.steps...)
	p.start, p.node = b.Child, child
	if p.rooted && b.Strength < p.strength { // the weakest step, the highest of them, gives the reason
		p.reason = whyNotExact(b)
	}
	p.strength = min(p.strength, b.Strength)
	if p.chainKey.IsZero() && !b.Child.Kind.Principal() {
		p.chainKey, p.chainNanos = b.Child, childNanos
	}
	return p
}

// whyNotExact is the reason that a step gives a path which is otherwise complete.
func whyNotExact(b *schemas.Binding) schemas.Reason {
	switch {
	case b.Strength == schemas.StrengthExact:
		return schemas.ReasonComplete
	case b.Strength == schemas.StrengthStated && (b.Child.Kind == schemas.KindCall || b.Child.Kind == schemas.KindSession):
		return schemas.ReasonSelfReported
	case b.Strength == schemas.StrengthStated:
		return schemas.ReasonNameOnly
	case b.Child.Kind.Principal():
		return schemas.ReasonSubjectMatch
	default:
		return schemas.ReasonTimeContainment
	}
}

// stopped is a path that ends where it begins.
func stopped(n *node, nanos int64, reason schemas.Reason) path {
	k := n.key
	p := path{start: k, node: n, strength: schemas.StrengthExact, reason: reason, chainNanos: nanos}
	if k.Kind.Root() && reason == schemas.ReasonComplete {
		p.rooted = true
	}
	if !k.Kind.Principal() {
		p.chainKey = k
	}
	return p
}

// maxVisits bounds the work of one walk, whatever shape the bindings have.
const maxVisits = 512

// maxCandidates is how many competing parents a row lists; a busy workload may
// have hundreds. All of them count for the grade.
const maxCandidates = 32

// walker climbs from one row.
type walker struct {
	e        *Engine
	row      *row
	slack    int64 // skew and the record's own resolution
	stack    []schemas.Key
	visits   int
	bridging bool // a gap in the trace is being bridged; one in a walk
	keys     []schemas.Key
	paths    []path // one for each key, for the caller
}

// walkerFor returns the engine's one walker, which climbs from one row at a
// time and keeps its buffers.
func (e *Engine) walkerFor(r *row) *walker {
	w := &e.walker
	clear(w.paths)
	*w = walker{e: e, row: r, slack: int64(e.cfg.Skew) + r.act.ResolutionNanos, stack: w.stack[:0], keys: w.keys[:0], paths: w.paths[:0]}
	return w
}

// climb finds the best path upward from a key. at is the time at which the key
// was used: that of the action, or of the mint below which the walk stands.
//
// Exact bindings are tried before stated ones and those before weak ones;
// within one strength calls before tokens before sessions before workloads
// before principals. The first that leads to a root over exact steps wins;
// otherwise the best does.
func (w *walker) climb(k schemas.Key, at int64) path {
	n := w.e.state.intern(k, 0) // a key asked for is a key waited for
	w.e.state.depend(n, w.row)
	if slices.Contains(w.stack, k) {
		p := stopped(n, at, schemas.ReasonCycle)
		p.flags |= schemas.FlagCycle
		return p
	}
	w.visits++
	if len(w.stack) >= w.e.cfg.MaxDepth || w.visits > maxVisits {
		p := stopped(n, at, schemas.ReasonDepthLimit)
		p.flags |= schemas.FlagDepthLimit
		return p
	}
	w.stack = append(w.stack, k)
	defer func() { w.stack = w.stack[:len(w.stack)-1] }()

	best := w.known(n, at)
	if !best.rooted && !best.ambiguous {
		if p := w.weak(n, at); p.rooted || p.ambiguous || len(best.steps) == 0 && len(p.steps) > 0 {
			best = p
		}
	} else if best.rooted && len(best.steps) == 0 { // a root as it stands: look for somebody behind it
		if p := w.weak(n, at); p.rooted || p.ambiguous {
			best = p
		} else if len(p.steps) > 0 || len(p.causes) > 0 { // nobody, but perhaps the call that drove it
			best.fork, best.causes = k, []cause{w.causeOf(&p)}
		}
	}
	if len(best.steps) == 0 && !best.rooted && !best.ambiguous {
		if p, ok := w.bridge(n, at); ok {
			best = p
		}
	}
	best.flags |= w.afterEnd(n, at)
	return best
}

// when is the time at which a key is judged that was used at a time: a
// workload always at the time of the action, because what it was doing then
// is the question.
func (w *walker) when(k schemas.Key, at int64) int64 {
	if k.Kind == schemas.KindWorkload {
		return w.row.act.TimeNanos
	}
	return at
}

// known follows exact and stated bindings.
func (w *walker) known(n *node, at int64) path {
	best := stopped(n, at, w.whyNothing(n, at))
	if len(n.up) == 1 { // the common case, without the slices
		if b := &n.up[0]; b.Strength != schemas.StrengthWeak && w.holds(b, w.when(n.key, at)) {
			if p := w.ascend(n, b, at); better(&p, &best) {
				return p
			}
		}
		return best
	}
	for i := 0; i < len(n.up); {
		group, next := w.fitting(n.up, i, w.when(n.key, at))
		i = next
		if len(group) == 0 {
			continue
		}
		if group[0].Strength == schemas.StrengthStated && best.ambiguous {
			break // what a record says of itself settles no contradiction between those who know
		}
		p := w.follow(n, group, at)
		if p.rooted && p.strength == schemas.StrengthExact {
			return w.contradicted(n, p, next, at)
		}
		if better(&p, &best) {
			best = p
		}
	}
	return best
}

// contradicted looks whether the other exact bindings of a key lead from it to
// somebody else than p does. p still counts, being the most specific, but is
// flagged: whoever holds such a key may not be whose it is.
func (w *walker) contradicted(n *node, p path, next int, at int64) path {
	for next < len(n.up) && n.up[next].Strength == schemas.StrengthExact && w.visits < maxVisits/2 {
		var group []*schemas.Binding
		if group, next = w.fitting(n.up, next, w.when(n.key, at)); len(group) == 0 {
			continue
		}
		other := w.follow(n, group, at)
		if other.rooted && other.strength == schemas.StrengthExact && contradict(&p, &other) {
			p.flags |= schemas.FlagDivergent
			p.candidates = append(slices.Clip(p.candidates), candidatesOf([]path{other})...)
		}
	}
	return p
}

// better prefers a root over a fork over a frontier, and then the stronger.
func better(a, b *path) bool {
	if a.rooted != b.rooted {
		return a.rooted
	}
	if a.rooted {
		return len(b.steps) == 0 || a.strength > b.strength
	}
	if a.ambiguous != b.ambiguous {
		return a.ambiguous
	}
	return len(b.steps) == 0 && len(a.steps) > 0
}

// fitting returns the exact or stated bindings that may hold at a time out of
// the run that starts at i, all of one strength and kind of parent, one for
// each parent, and where the next run starts. The first is the latest mint
// before the use. Others compete with it: those of the same time, those that
// always hold, and those so near to the use that the clocks cannot tell which
// came first.
func (w *walker) fitting(up []schemas.Binding, i int, at int64) (fit []*schemas.Binding, next int) {
	first := &up[i]
	best := -1                     // of fit: the latest mint that is not after the use
	surely := int64(math.MaxInt64) // time of the latest mint that is surely before the use
	for ; i < len(up) && up[i].Strength == first.Strength && up[i].Parent.Kind == first.Parent.Kind; i++ {
		b := &up[i]
		if b.Strength == schemas.StrengthWeak || b.FromNanos != 0 && b.FromNanos < surely && surely != math.MaxInt64 || !w.holds(b, at) {
			continue
		}
		if b.FromNanos <= at-w.slack && surely == math.MaxInt64 {
			surely = b.FromNanos
		}
		j := slices.IndexFunc(fit, func(o *schemas.Binding) bool { return o.Parent == b.Parent })
		switch {
		case j < 0:
			j = len(fit)
			fit = append(fit, b)
		case fit[j].FromNanos > at: // the mint before the use tells more
			fit[j] = b
		}
		if best < 0 && fit[j].FromNanos <= at {
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
func (w *walker) holds(b *schemas.Binding, at int64) bool {
	return (b.FromNanos == 0 || b.FromNanos <= at+w.slack) && (b.UntilNanos == 0 || at < b.UntilNanos+w.slack)
}

// whyNothing is the reason for which a walk that stops at n has stopped.
func (w *walker) whyNothing(n *node, at int64) schemas.Reason {
	switch {
	case n.key.Kind.Root():
		return schemas.ReasonComplete
	case len(n.up) == 0:
		if w.e.state.evicted.Contains(n.key) {
			return schemas.ReasonEvicted
		}
		return schemas.ReasonNoBindingSeen
	case slices.ContainsFunc(n.up, func(b schemas.Binding) bool { return b.UntilNanos != 0 && at >= b.UntilNanos+w.slack }):
		return schemas.ReasonBindingExpired
	case slices.ContainsFunc(n.up, func(b schemas.Binding) bool { return b.FromNanos > at+w.slack }):
		return schemas.ReasonBindingNotYet
	default: // what is above holds, and leads nowhere
		return schemas.ReasonNoBindingSeen
	}
}

// follow goes up a group of exact or stated bindings, the most likely first.
func (w *walker) follow(n *node, group []*schemas.Binding, at int64) path {
	if len(group) == 1 {
		return w.ascend(n, group[0], at)
	}
	paths := make([]path, len(group))
	for i := range group {
		paths[i] = w.ascend(n, group[i], at)
	}
	if w.agree(paths) {
		return paths[0]
	}
	reason := schemas.ReasonConflict
	for _, b := range group {
		if b.FromNanos != 0 && b.FromNanos != group[0].FromNanos { // no contradiction: one came first
			reason = schemas.ReasonSeveralCandidates
		}
	}
	return w.choose(n, at, paths, reason)
}

// agree reports whether it makes no difference which of several paths counts.
func (w *walker) agree(paths []path) bool {
	first := &paths[0]
	chain, why := chainOf(first), w.causeOf(first)
	for i := range paths {
		p := &paths[i]
		if !p.rooted || p.end() != first.end() || p.strength != first.strength || chainOf(p) != chain || w.causeOf(p) != why {
			return false
		}
	}
	return true
}

// ascend goes one step up. Above a mint, tokens and sessions are judged at the
// time of the mint (see walker.when for workloads).
func (w *walker) ascend(n *node, b *schemas.Binding, at int64) path {
	used := w.when(b.Child, at)
	up := used
	if b.FromNanos != 0 {
		up = b.FromNanos
	}
	p := w.climb(b.Parent, up).under(b, n, at)
	if b.ExpiresNanos != 0 && used > b.ExpiresNanos+w.slack {
		p.flags |= schemas.FlagUsedAfterExpiry
	}
	return p
}

// weak follows the weak bindings that hold at the time of the action.
func (w *walker) weak(n *node, at int64) path {
	when := w.when(n.key, at)
	var fit []*schemas.Binding
	for i := range n.up {
		b := &n.up[i]
		if b.Strength != schemas.StrengthWeak || !w.holds(b, when) ||
			slices.Contains(w.row.act.Keys, b.Parent) || // a call does not contain itself
			w.overBefore(b.Parent, when) {
			continue
		}
		fit = append(fit, b)
	}
	if len(fit) > 1 { // what is told twice is one candidate: by the latest binding
		slices.SortStableFunc(fit, func(a, b *schemas.Binding) int { return a.Parent.Compare(b.Parent) })
		fit = slices.CompactFunc(fit, func(a, b *schemas.Binding) bool { return a.Parent == b.Parent })
	}
	fit = w.innermost(fit)
	if len(fit) == 0 {
		return path{start: n.key, node: n}
	}
	paths := make([]path, 0, len(fit))
	for i := range fit {
		paths = append(paths, w.climb(fit[i].Parent, when).under(fit[i], n, at))
	}
	if len(paths) == 1 {
		return paths[0]
	}
	return w.choose(n, at, paths, schemas.ReasonSeveralCandidates)
}

// overBefore reports whether a session had ended before a time.
func (w *walker) overBefore(k schemas.Key, at int64) bool {
	n := w.e.state.find(k)
	return n != nil && n.endedNanos != 0 && at > n.endedNanos+w.slack
}

// innermost drops calls that enclose another candidate: of nested calls active
// at once only the innermost counts.
func (w *walker) innermost(fit []*schemas.Binding) []*schemas.Binding {
	if len(fit) < 2 {
		return fit
	}
	outer := map[schemas.Key]bool{}
	for i := range fit {
		for k, hops := fit[i].Parent, 0; hops < w.e.cfg.MaxDepth; hops++ {
			n := w.e.state.find(k)
			if n == nil {
				break
			}
			w.e.state.depend(n, w.row)
			if len(n.up) == 0 || n.up[0].Strength != schemas.StrengthExact || n.up[0].Parent.Kind != schemas.KindCall {
				break
			}
			k = n.up[0].Parent
			outer[k] = true
		}
	}
	return slices.DeleteFunc(fit, func(b *schemas.Binding) bool { return outer[b.Parent] })
}

// choose decides among several paths up from n that all fit.
//
// One chain: the chain is known, and only which of them it was is not. One
// principal over different sessions: the root is known, and the chain starts
// at n. Different roots: a root of its own, such as a web identity's subject,
// is where it stops, and anything else is ambiguous. Never a guess.
func (w *walker) choose(n *node, at int64, paths []path, reason schemas.Reason) path {
	slices.SortFunc(paths, func(a, b path) int { return a.steps[0].edge.Parent.Compare(b.steps[0].edge.Parent) })
	rooted := 0
	for i := range paths {
		if paths[i].rooted {
			rooted++
		}
	}
	if rooted == len(paths) && sameRoot(paths) {
		return w.common(n, at, paths, reason)
	}
	p := stopped(n, at, reason)
	p.fork, p.causes = n.key, w.causesOf(paths)
	if rooted == 0 { // nothing is known above any of them
		if n.key.Kind.Root() {
			p.reason = schemas.ReasonComplete
		}
		return p
	}
	p.candidates = candidatesOf(paths)
	if n.key.Kind.Principal() {
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

func candidatesOf(paths []path) []schemas.Candidate {
	out := make([]schemas.Candidate, 0, min(len(paths), maxCandidates))
	for i := range paths[:min(len(paths), maxCandidates)] {
		c := schemas.Candidate{Parent: paths[i].steps[0].edge.Parent, Proof: paths[i].steps[0].edge.Proof}
		if paths[i].rooted {
			c.Root = paths[i].end()
		}
		out = append(out, c)
	}
	return out
}

// common joins paths that meet: what they share is the path, and the step to
// it is as weak as the weakest of theirs.
func (w *walker) common(n *node, at int64, paths []path, reason schemas.Reason) path {
	meet := paths[0].steps[len(paths[0].steps)-1]
	tail := 0 // index in paths[0] of the first step above where all meet
	for i, s := range paths[0].steps {
		if slices.ContainsFunc(paths[1:], func(p path) bool { return !passes(&p, s.edge.Parent) }) {
			continue
		}
		meet, tail = s, i+1
		break
	}
	first, chain := paths[0].steps[0].edge, chainOf(&paths[0])
	p := paths[0]
	p.steps = slices.Clone(paths[0].steps[min(tail, len(paths[0].steps)):])
	for i := range paths {
		p.strength = min(p.strength, paths[i].strength)
		p.flags |= paths[i].flags
		if chainOf(&paths[i]) != chain { // one principal, different sessions: the chain starts here
			p.chainKey, p.chainNanos = n.key, at
		}
	}
	if p.chainKey.Kind.Principal() {
		p.chainKey = schemas.Key{} // the next key below starts it
	}
	if p.strength != schemas.StrengthExact {
		p.reason = reasonOf(p.reason, reason)
	}
	joint := &schemas.Binding{Child: n.key, Parent: meet.edge.Parent, Relation: first.Relation, Strength: p.strength, ParentName: meet.edge.ParentName}
	if p.strength == schemas.StrengthExact { // any of them proves it
		joint.Proof, joint.ProofNanos = first.Proof, first.ProofNanos
	}
	p.steps = append([]step{{joint, meet.parent}}, p.steps...)
	p.node = n
	p.start, p.loose, p.fork, p.candidates, p.causes = n.key, true, n.key, candidatesOf(paths), w.causesOf(paths)
	return p
}

// reasonOf keeps the more telling of two reasons.
func reasonOf(own, several schemas.Reason) schemas.Reason {
	if own == schemas.ReasonComplete {
		return several
	}
	return own
}

func passes(p *path, k schemas.Key) bool {
	return slices.ContainsFunc(p.steps, func(s step) bool { return s.edge.Parent == k })
}

// maxAnchors is how many sessions and tokens a trace may hang on and still be
// bridged; a trace of more is no longer one thing that somebody asked for.
const maxAnchors = 32

// bridge leaps over a lost span: where nothing is known above a span, and
// everything that the rest of its trace hangs on leads to one root, that is
// the root of this span too, inferred.
func (w *walker) bridge(n *node, at int64) (path, bool) {
	k, ok := traceOf(n.key)
	if !ok || w.bridging {
		return path{}, false
	}
	trace := w.e.state.intern(k, 0)
	w.e.state.depend(trace, w.row)
	if len(trace.down) == 0 || len(trace.down) > maxAnchors {
		return path{}, false
	}
	w.bridging = true
	defer func() { w.bridging = false }()
	var paths []path
	for _, anchor := range trace.down {
		p := w.climb(anchor, at)
		if p.ambiguous {
			return path{}, false
		}
		if p.rooted {
			paths = append(paths, p.under(&schemas.Binding{Child: n.key, Parent: anchor, Relation: schemas.RelationInvoked}, n, at))
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
func (w *walker) afterEnd(n *node, at int64) (f schemas.Flags) {
	if n.key.Kind != schemas.KindToken && n.key.Kind != schemas.KindSession {
		return 0
	}
	if n.endedNanos != 0 && at > n.endedNanos+w.slack {
		f |= schemas.FlagUsedAfterEnd
	}
	if n.revokedNanos != 0 && at > n.revokedNanos+w.slack {
		f |= schemas.FlagUsedAfterRevoke
	}
	return f
}
