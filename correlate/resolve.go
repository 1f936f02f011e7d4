package correlate

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"catena/schemas"
)

// resolve attributes a row afresh and reports whether it has to be written.
func (e *Engine) resolve(i rowID, r *row) bool {
	before := r.act
	if r.bits&rowFrozen != 0 {
		return before.Version == 0
	}
	now := before
	switch {
	case before.Version != 0: // it was handed out, and may no longer change
		now = e.arena.action()
		fallthrough
	case r.bits&rowResolved != 0:
		*now = schemas.Action{Event: before.Event, Version: before.Version, RecordAuthMethod: before.RecordAuthMethod, RecordMFA: before.RecordMFA}
		now.Flags &= flagsOfRecord
		now.AuthMethod, now.MFA = now.RecordAuthMethod, now.RecordMFA
	}
	r.bits |= rowResolved
	r.bits &^= rowWorkloadToken
	e.unwatch(r)
	w := &e.walker
	w.begin(now, int64(e.cfg.Skew))
	paths := e.climbAll(i, r, &now.Event)
	pick := choosePath(w, paths)
	e.attribute(now, w, paths, pick)
	why := w.findCause(now, paths, pick)
	why = e.shareCause(now, r, why)
	e.findGrant(now, i, r, paths, pick)
	e.findDecision(now, i, r, why)
	e.findAssurance(now, i, r, paths, pick)
	e.compare(now, i, r, paths, pick)
	if now.PolicyDecision == schemas.VerdictDeny && now.Class != schemas.ClassDecision && now.Outcome == schemas.OutcomeSuccess {
		now.Flags |= schemas.FlagDeniedButDone
	}
	if now.Class == schemas.ClassDecision {
		e.judge(r, now, why)
	}
	if r.bits&rowRestored != 0 {
		e.keepCause(i, r, before, now)
	}
	quiet := r.bits&rowQuiet != 0
	r.bits &^= rowQuiet | rowPending
	if w.pending {
		r.bits |= rowPending
	}
	switch {
	case before.Version == 0:
	case w.pending:
		return false // with an answer outstanding it could only say less for a while
	case same(before, now) && (quiet || !e.outranked(before)):
		return false
	}
	r.act = now
	e.rows.weigh(r)
	return true
}

// visit registers a row with a key that what it says depends on.
func (e *Engine) visit(i rowID, r *row, n nodeID) {
	e.walker.pending = e.state.awaits(n) || e.walker.pending
	e.state.watch(&r.watches, n, i)
}

// outranked reports whether a row was last written under an earlier owner of
// its partition. One between that owner and us, who does not know that it is
// over, may still write a poorer row. Whatever makes it do so is a record that
// we read too, so the first time that we come to the row it is written again,
// even if it says the same.
func (e *Engine) outranked(a *schemas.Action) bool {
	return a.Version < schemas.MakeVersion(e.water.owner(partition{a.Evidence.Topic, a.Evidence.Partition}), 0)
}

// flagsOfRecord are the flags that come from the record and its arrival; all
// others are worked out anew each time.
const flagsOfRecord = schemas.FlagFutureTime | schemas.FlagLate | schemas.FlagImpersonated | schemas.FlagSpoofableSourceIP | schemas.FlagRelayed

// climbAll climbs from every key of an event, in order of precedence, and from
// the actor when there is no key.
func (e *Engine) climbAll(i rowID, r *row, ev *schemas.Event) []path {
	w := &e.walker
	w.own = r.own
	for _, n := range r.own {
		p := e.climb(i, r, n, ev.TimeNanos)
		if p.rooted && (ev.Flags&schemas.FlagRelayed != 0 || ev.SelfReported && e.state.at(n).kind == schemas.KindWorkload) {
			p.strength = min(p.strength, schemas.StrengthStated)
			if p.reason == schemas.ReasonComplete {
				p.reason = schemas.ReasonSelfReported
			}
		}
		w.paths = append(w.paths, p)
	}
	if w.authenticates(r.own) || !ev.Actor.Kind.Root() {
		return w.paths
	}
	p := e.climb(i, r, e.state.intern(ev.Actor, 0), ev.TimeNanos)
	if p.strength = min(p.strength, schemas.StrengthStated); p.strength == schemas.StrengthStated || !p.rooted {
		p.reason = schemas.ReasonNoKey
	}
	w.paths = append(w.paths, p)
	return w.paths
}

// climb walks up from one key of a row, or remembers the walk of another row.
func (e *Engine) climb(i rowID, r *row, n nodeID, at int64) path {
	w, node := &e.walker, e.state.at(n)
	if node.kind == schemas.KindRequest && node.up == 0 && !e.state.incomplete(n) { // most requests are nobody's but the row's
		e.state.watch(&r.watches, n, i)
		return w.stopped(n, at, w.whyNothing(n, at))
	}
	if t := e.trailOf(n, w.slack, at); t != 0 {
		e.rest(i, r, t)
		return e.trails.at(t).path
	}
	shared := node.watch != 0
	w.visited, w.plain, w.lo, w.hi = w.visited[:0], !w.pending, minNanos, maxNanos
	p := w.climb(n, at)
	if w.plain && shared && !w.pending {
		t := e.lay(&p, w)
		e.rest(i, r, t)
		return e.trails.at(t).path
	}
	for _, v := range w.visited {
		e.state.watch(&r.watches, v, i)
	}
	return p
}

// ownOf is the first of a row's own keys of a kind; zero if there is none.
func (e *Engine) ownOf(r *row, kind schemas.Kind) nodeID {
	for _, n := range r.own {
		if e.state.at(n).kind == kind {
			return n
		}
	}
	return 0
}

// authenticates reports whether any key names a credential, a session, a call
// or a place: a bare request id or address says nothing of who.
func (w *walker) authenticates(keys []nodeID) bool {
	return slices.ContainsFunc(keys, func(n nodeID) bool { return w.s.at(n).kind != schemas.KindRequest && !w.s.address(n) })
}

// attribute writes what the path that counts says.
func (e *Engine) attribute(a *schemas.Action, w *walker, paths []path, pick int) {
	switch {
	case failedLogin(&a.Event):
		claimOnly(a)
		return
	case pick < 0:
		a.Grade, a.Reason = schemas.GradeUnattributed, schemas.ReasonNoIdentity
		if a.Redacted {
			a.Reason = schemas.ReasonRedactedKey
		}
		return
	}
	p := &paths[pick]
	a.Flags |= p.flags
	a.Reason, a.Candidates = p.reason, p.candidates
	a.Hops, a.Depth = w.hops(a, p), p.depth
	a.ChainID = w.chainID(p)
	switch {
	case p.ambiguous:
		a.Grade, a.Frontier = schemas.GradeAmbiguous, w.s.key(p.fork)
	case !p.rooted:
		a.Grade, a.Frontier = schemas.GradeUnattributed, w.s.key(p.end())
		if a.Redacted {
			a.Reason = schemas.ReasonRedactedKey
		}
	default:
		a.Grade = gradeOf(p.strength)
		a.Root, a.RootName = w.root(a, p)
	}
}

// failedLogin reports whether somebody tried to authenticate and was not let
// in. Such an event proves nothing: the name in it is a claim.
func failedLogin(ev *schemas.Event) bool {
	return ev.Class == schemas.ClassLogin && (ev.Outcome == schemas.OutcomeFailure || ev.Outcome == schemas.OutcomeDenied)
}

// claimOnly attributes a failed login: to the name that it claims, and to no
// chain of that person.
func claimOnly(a *schemas.Action) {
	a.Reason = schemas.ReasonFailedLogin
	if a.Actor.IsZero() {
		a.Reason = schemas.ReasonNoIdentity
		return
	}
	a.Grade, a.Root, a.RootName = schemas.GradeStated, a.Actor, a.ActorName
	a.Hops = []schemas.Hop{{Key: a.Actor, Name: a.ActorName, Strength: schemas.StrengthStated}}
}

// choosePath returns the first path that is rooted without a weak step, else
// the first that is rooted, else a fork, else a frontier; -1 if none counts. A
// bare address is a place and no identity, and a request id that nothing is
// bound to never had an owner to miss.
func choosePath(w *walker, paths []path) int {
	pick, rank := -1, 0
	for i := range paths {
		p := &paths[i]
		r := 1
		switch {
		case p.first == nil && !p.ambiguous && w.s.at(p.start).kind == schemas.KindRequest, w.s.address(p.start):
			r = 0
		case p.rooted && p.strength != schemas.StrengthWeak:
			r = 4
		case p.rooted:
			r = 3
		case p.ambiguous:
			r = 2
		}
		if r > rank {
			pick, rank = i, r
		}
	}
	return pick
}

func gradeOf(s schemas.Strength) schemas.Grade {
	switch s {
	case schemas.StrengthExact:
		return schemas.GradeProven
	case schemas.StrengthStated:
		return schemas.GradeStated
	default:
		return schemas.GradeInferred
	}
}

// hops turns a path around: from the root to the action's own key. The proof
// of a hop is the earliest event that shows it, also in a row that shows it
// again itself: a row that came back from the tables could not tell.
func (w *walker) hops(a *schemas.Action, p *path) []schemas.Hop {
	if p.trail != nil && p.trail.hops != nil {
		return p.trail.hops
	}
	out := carve(w.hopsFrom, p.depth+1)
	top := schemas.Hop{Key: w.s.key(p.end()), Strength: schemas.StrengthExact}
	if p.first == nil {
		top.Strength = p.strength
		if top.Key == a.Actor {
			top.Name = a.ActorName
		}
	} else {
		top.Name = w.s.names.string(p.last.ext.parentName)
	}
	out[0] = top
	i := p.depth
	var below name // what the step below calls its parent, the child of this one
	for st := p.first; st != nil; st = st.above {
		h := schemas.Hop{Key: w.s.key(st.child), Relation: st.edge.relation, Strength: st.edge.strength, Proof: st.edge.proof, AtNanos: st.edge.proofNanos}
		if h.Name = w.s.names.string(st.edge.childName); h.Name == "" && st != p.first {
			h.Name = w.s.names.string(below)
		}
		out[i], below = h, st.ext.parentName
		i--
	}
	return out
}

// root is the key at the end of a path and its name.
func (w *walker) root(a *schemas.Action, p *path) (schemas.Key, string) {
	var name string
	k := w.s.key(p.end())
	if p.trail != nil && p.first != nil {
		k, name = p.trail.rootKey, p.trail.rootName
	} else {
		name = w.nameOnPath(p)
	}
	switch {
	case name != "":
		return k, name
	case a.ActorName != "" && k == a.Actor:
		return k, a.ActorName
	}
	return k, k.Value
}

// nameOnPath is what a step of a path calls its end, the highest that does.
func (w *walker) nameOnPath(p *path) string {
	var found name
	for st := p.first; st != nil; st = st.above {
		if st.edge.parent == p.end() && st.ext.parentName != 0 {
			found = st.ext.parentName
		}
	}
	return w.s.names.string(found)
}

// chainID is the id of a path's chain. The last few are kept: rows of one
// chain come together, and hashing is dear.
func (w *walker) chainID(p *path) schemas.ID {
	c := w.chainOf(p)
	cached := &w.s.chains[c.key%nodeID(len(w.s.chains))]
	if cached.node == c.key && cached.day == c.day {
		return cached.id
	}
	parts := []string{"chain", w.s.key(c.key).String()}
	if c.day != noDay {
		parts = append(parts, strconv.FormatInt(c.day, 10))
	}
	id := schemas.MakeID(parts...)
	cached.node, cached.day, cached.id = c.key, c.day, id
	return id
}

// findGrant applies the grants under which the keys of the path exist.
func (e *Engine) findGrant(a *schemas.Action, i rowID, r *row, paths []path, pick int) {
	s := e.state
	var inside nodeID
	var insideFrom int64
	windows := 0
	for _, link := range e.grantsOf(paths, pick) {
		g := link.grant
		s.wakeUp(g)
		e.visit(i, r, g)
		m := s.extra(g)
		for j := m.grants; j != 0; j = s.edge(j).next {
			b := s.edge(j)
			until := s.ext(b).until
			if !link.weak {
				windows++
			}
			// No skew: the system that enforces the window also writes the record.
			if b.from <= a.TimeNanos+a.ResolutionNanos && (until == 0 || a.TimeNanos < until) &&
				(m.ended == 0 || a.TimeNanos < m.ended) && (m.revoked == 0 || a.TimeNanos < m.revoked) &&
				(inside == 0 || b.from > insideFrom) {
				inside, insideFrom = g, b.from
			}
		}
	}
	a.GrantID = s.key(inside).Value
	if inside == 0 && windows > 0 && usesRight(a.Class) {
		a.Flags |= schemas.FlagOutsideGrant
	}
	if a.Class == schemas.ClassGrant {
		if own := a.FirstKey(schemas.KindGrant); !own.IsZero() {
			a.GrantID = own.Value
		}
	}
}

// usesRight tells the classes that exercise a right from those that manage it.
func usesRight(c schemas.Class) bool {
	switch c {
	case schemas.ClassCommand, schemas.ClassDataAccess, schemas.ClassAPICall, schemas.ClassToolCall:
		return true
	}
	return false
}

// grantLink says that a key exists under a grant, or, where it is weak, only
// that whoever has the key also has the grant: such a use need not be one of
// the right that was granted, and is not held against the window.
type grantLink struct {
	grant nodeID
	weak  bool
}

// grantsOf lists, in order, the grants of the keys on the path that counts.
func (e *Engine) grantsOf(paths []path, pick int) (out []grantLink) {
	if pick < 0 || paths[pick].trail != nil { // there are none on it, or it would not be remembered
		return nil
	}
	s := e.state
	of := func(n nodeID) {
		if s.at(n).kind == schemas.KindGrant {
			return
		}
		for j := s.extra(n).grants; j != 0; j = s.edge(j).next {
			out = append(out, grantLink{s.edge(j).parent, s.edge(j).strength == schemas.StrengthWeak})
		}
	}
	p := &paths[pick]
	of(p.start)
	for st := p.first; st != nil; st = st.above {
		of(st.edge.parent)
	}
	slices.SortFunc(out, func(a, b grantLink) int {
		return cmp.Or(s.compare(a.grant, b.grant), weakLast(a.weak, b.weak))
	})
	return slices.CompactFunc(out, func(a, b grantLink) bool { return a.grant == b.grant })
}

func weakLast(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// findDecision attaches the policy decisions about the row's own call or
// request, or about the tool call that caused it. Deny wins. A tool call inside
// another does not inherit: whether it was itself decided upon is the question.
func (e *Engine) findDecision(a *schemas.Action, i rowID, r *row, why cause) {
	if a.Class == schemas.ClassDecision {
		a.PolicyDecision, a.PolicyID = a.Decision.Verdict, a.Decision.ID
		return
	}
	decided := false
	take := func(d *decision) {
		decided = true
		if d.verdict > a.PolicyDecision {
			a.PolicyDecision, a.PolicyID = d.verdict, d.id
		}
	}
	for _, n := range r.own {
		kind, all := e.state.at(n).kind, e.state.extra(n).decisions
		for j := range all {
			if kind == schemas.KindCall || kind == schemas.KindRequest && e.concerns(n, &all[j], a) {
				take(&all[j])
			}
		}
	}
	if inherits := a.Class != schemas.ClassToolCall || a.ProtocolSpan(); !decided && inherits && why.call != 0 {
		e.state.wakeUp(why.call)
		e.visit(i, r, why.call)
		all := e.state.extra(why.call).decisions
		for j := range all {
			take(&all[j])
		}
	}
}

// concerns reports whether a decision about a request is one about a record of
// that request. Where the caller chose the id (x-request-id), who may use one
// twice, it has to be the same person and the same resource: or an id that was
// once allowed would make anything look allowed.
func (e *Engine) concerns(n nodeID, d *decision, a *schemas.Action) bool {
	if e.state.names.string(e.state.at(n).namespace) != chosenByCaller {
		return true
	}
	return !d.person.IsZero() && d.person == a.Root && d.resource != "" && (d.resource == a.Resource || d.resource == a.Event.Action)
}

// chosenByCaller is the namespace of request keys that are x-request-id.
const chosenByCaller = "http"

// judge attaches a decision to what it is about: the tool call whose span, or
// a span below it, asked for it, or else the request that it names, by an id of
// the engine's own rather than of the caller's. A call that was merely active at
// the time does not count, and neither does a decision in a log message.
func (e *Engine) judge(r *row, a *schemas.Action, why cause) {
	s, target := e.state, why.call
	if why.grade != schemas.CauseExact {
		target = e.ownOf(r, schemas.KindCall)
	}
	d := decision{nanos: a.TimeNanos, event: a.ID, verdict: a.Decision.Verdict, id: strings.Clone(a.Decision.ID)}
	if target == 0 {
		if target = e.requestOf(r); target != 0 {
			if d.resource = a.Resource; a.Root.Kind == schemas.KindHuman {
				d.person = a.Root
			}
		}
	}
	if a.Flags&schemas.FlagRelayed != 0 { // anybody could print that a call was allowed
		target = 0
	}
	if old := r.judged; old != 0 {
		m := s.extra(old)
		i, found := slices.BinarySearchFunc(m.decisions, d, decisionOrder)
		if old == target && found && m.decisions[i] == d {
			return
		}
		before := m.bytes()
		m.decisions = slices.DeleteFunc(m.decisions, func(d decision) bool { return d.event == a.ID })
		s.moreBytes += m.bytes() - before
		e.wake(old)
		s.unref(old)
	}
	if r.judged = target; target == 0 {
		return
	}
	s.at(target).refs++
	s.at(target).seen = max(s.at(target).seen, a.TimeNanos)
	m := s.grow(target)
	before := m.bytes()
	if i, found := slices.BinarySearchFunc(m.decisions, d, decisionOrder); !found {
		m.decisions = slices.Insert(m.decisions, i, d)
		s.moreBytes += m.bytes() - before
		e.wake(target)
		e.callBack(target)
	}
}

// requestOf is the request that a row names: by an id that the caller did not
// choose, if there is one.
func (e *Engine) requestOf(r *row) (found nodeID) {
	for _, n := range r.own {
		if e.state.at(n).kind != schemas.KindRequest {
			continue
		}
		if e.state.names.string(e.state.at(n).namespace) != chosenByCaller {
			return n
		}
		if found == 0 {
			found = n
		}
	}
	return found
}

func decisionOrder(a, b decision) int {
	return cmp.Or(cmp.Compare(a.nanos, b.nanos), compareIDs(a.event, b.event))
}

// findAssurance says how well the person at the start of the chain had been
// authenticated: the facts of the highest session on the path, or of a login
// session of that person that fits by name and time.
func (e *Engine) findAssurance(a *schemas.Action, i rowID, r *row, paths []path, pick int) {
	if pick < 0 || a.Root.IsZero() || a.Reason == schemas.ReasonFailedLogin {
		return
	}
	p, s := &paths[pick], e.state
	var highest *step
	for st := p.first; st != nil; st = st.above {
		if st.edge.relation == schemas.RelationAuthenticated && s.at(st.child).kind == schemas.KindSession {
			highest = st
		}
	}
	if highest != nil {
		if x := highest.ext; x.mfa != schemas.MFAUnknown || x.method != 0 {
			a.MFA, a.AuthMethod = x.mfa, s.names.string(x.method)
		}
		return
	}
	if a.Root.Kind == schemas.KindHuman && statedAtTop(p) {
		e.lend(a, i, r, p.end())
	}
}

// statedAtTop reports whether a record says of itself who the root is, without
// a login session that would show it.
func statedAtTop(p *path) bool {
	if p.last != nil {
		return p.last.edge.strength == schemas.StrengthStated
	}
	return p.strength == schemas.StrengthStated
}

// loginWindow is how old a login session may be to lend its facts.
const loginWindow = dayNanos

// lend shows the one login session of the root that fits by name and time. It
// changes neither grade nor chain.
func (e *Engine) lend(a *schemas.Action, i rowID, r *row, root nodeID) {
	type login struct {
		session nodeID
		edge    *edge
	}
	s := e.state
	slack := int64(e.cfg.Skew) + a.ResolutionNanos
	var fit []login
	for _, n := range s.extra(root).down {
		if s.at(n).kind != schemas.KindSession {
			continue
		}
		e.visit(i, r, n)
		var b *edge
		for j := s.at(n).up; j != 0; j = s.edge(j).next {
			if o := s.edge(j); o.relation == schemas.RelationAuthenticated && o.parent == root {
				b = o
				break
			}
		}
		if b == nil {
			continue
		}
		m := s.extra(n)
		begun := b.proofNanos <= a.TimeNanos+slack && b.proofNanos > a.TimeNanos-loginWindow
		over := m.ended != 0 && a.TimeNanos > m.ended+slack || m.revoked != 0 && a.TimeNanos > m.revoked+slack
		if begun && !over {
			fit = append(fit, login{n, b})
		}
	}
	// Sessions of tools that one logs in to besides tell nothing of factors.
	telling := func(l login) bool { x := s.ext(l.edge); return x.mfa != schemas.MFAUnknown || x.method != 0 }
	if slices.ContainsFunc(fit, telling) {
		fit = slices.DeleteFunc(fit, func(l login) bool { return !telling(l) })
	}
	if len(fit) != 1 {
		return // of two that fit none is shown
	}
	b, x := fit[0].edge, s.ext(fit[0].edge)
	a.MFA, a.AuthMethod = x.mfa, s.names.string(x.method)
	a.Hops = slices.Insert(slices.Clone(a.Hops), 1, schemas.Hop{Key: s.key(fit[0].session), Name: s.names.string(b.childName), Relation: b.relation,
		Strength: schemas.StrengthWeak, Proof: b.proof, AtNanos: b.proofNanos, Lent: true})
}

// compare holds the paths of one action against each other: different people
// or different workloads mean a credential in the wrong hands.
func (e *Engine) compare(a *schemas.Action, i rowID, r *row, paths []path, pick int) {
	token, load := e.workloadsToken(a, paths)
	if load != 0 {
		r.bits |= rowWorkloadToken // whatever else is known of it, it may be the first use
	}
	if pick < 0 || a.Root.IsZero() || a.Reason == schemas.ReasonFailedLogin {
		return
	}
	w, main := &e.walker, &paths[pick]
	for j := range paths {
		p := &paths[j]
		if j == pick || !p.rooted || p.loose {
			continue
		}
		if w.contradict(main, p) {
			a.Flags |= schemas.FlagDivergent
			c := schemas.Candidate{Parent: w.s.key(p.start), Root: w.s.key(p.end())}
			if p.first != nil {
				c.Parent, c.Proof = w.s.key(p.first.edge.parent), p.first.edge.proof
			}
			if !slices.Contains(a.Candidates, c) {
				a.Candidates = append(slices.Clip(a.Candidates), c)
			}
		}
	}
	if load != 0 {
		e.visit(i, r, load)
		e.checkAddress(a, token, load)
	}
}

// contradict reports whether two paths of one action end in different people
// or start in different workloads. Names of different namespaces cannot be
// compared, and a workload's own credential does not contradict the person who
// asked for the call.
func (w *walker) contradict(a, b *path) bool {
	return w.differ(w.person(a), w.person(b)) || w.differ(w.firstWorkload(a), w.firstWorkload(b))
}

// differ reports whether two keys are of one namespace and not the same.
func (w *walker) differ(a, b nodeID) bool {
	return a != 0 && b != 0 && a != b && w.s.at(a).namespace == w.s.at(b).namespace
}

// person is the human at the end of a path, unless overlapping time alone says
// so: who was active on a workload is not whose credential it is.
func (w *walker) person(p *path) nodeID {
	if p.trail != nil {
		return p.trail.person
	}
	if w.s.at(p.end()).kind != schemas.KindHuman {
		return 0
	}
	for st := p.first; st != nil; st = st.above {
		if st.edge.strength == schemas.StrengthWeak && !w.s.at(st.child).kind.Principal() {
			return 0
		}
	}
	return p.end()
}

// firstWorkload is the lowest workload of a path, addresses aside.
func (w *walker) firstWorkload(p *path) nodeID {
	if p.trail != nil {
		return p.trail.workload
	}
	n := p.start
	for st := p.first; ; st = st.above {
		switch w.s.at(n).kind {
		case schemas.KindWorkload:
			if !w.s.address(n) {
				return n
			}
		case schemas.KindCall:
			return 0 // what a call ran on says nothing of whose the key is
		}
		if st == nil {
			return 0
		}
		n = st.edge.parent
	}
}

// workloadsToken is the token of a row that is a workload's, and the workload,
// if the row tells where it was used from; else zeros.
func (e *Engine) workloadsToken(a *schemas.Action, paths []path) (token, load nodeID) {
	j := slices.IndexFunc(paths, func(p path) bool { return e.state.at(p.start).kind == schemas.KindToken })
	if j < 0 || a.SourceIP == "" {
		return 0, 0
	}
	if load = e.walker.firstWorkload(&paths[j]); load == 0 {
		return 0, 0
	}
	if _, err := netip.ParseAddr(a.SourceIP); err != nil {
		return 0, 0
	}
	return paths[j].start, load
}

// checkAddress flags a workload's token that is used from elsewhere: from an
// address that is none of the workload's, or, where its addresses are not
// known, from another than that of the token's first use.
func (e *Engine) checkAddress(a *schemas.Action, token, load nodeID) {
	s := e.state
	ip, err := netip.ParseAddr(a.SourceIP)
	if err != nil {
		return
	}
	known, its := false, false
	for _, n := range s.extra(load).down {
		value := s.key(n).Value
		known = known || private(value) == ip.IsPrivate()
		its = its || value == a.SourceIP
	}
	if known {
		if !its {
			a.Flags |= schemas.FlagNewSourceIP
		}
		return
	}
	if u := s.at(token).use; u != 0 && s.uses.at(u).ip != ip.As16() {
		a.Flags |= schemas.FlagNewSourceIP
	}
}

// private reports whether an address is one that networks translate on the way
// out: a workload known by such a one calls the world from another.
func private(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.IsPrivate()
}

// same reports whether two attributions of one event say the same.
func same(a, b *schemas.Action) bool {
	return a.Grade == b.Grade && a.Reason == b.Reason && a.ChainID == b.ChainID && a.Root == b.Root && a.RootName == b.RootName &&
		a.Depth == b.Depth && a.Frontier == b.Frontier && a.CauseID == b.CauseID && a.CauseGrade == b.CauseGrade &&
		a.GrantID == b.GrantID && a.PolicyDecision == b.PolicyDecision && a.PolicyID == b.PolicyID &&
		a.AuthMethod == b.AuthMethod && a.MFA == b.MFA && a.Flags == b.Flags &&
		slices.Equal(a.Hops, b.Hops) && slices.Equal(a.Candidates, b.Candidates)
}
