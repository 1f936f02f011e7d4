package correlate

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"catena/schemas"
)

// resolve attributes a row afresh and reports whether it has to be written.
func (e *Engine) resolve(r *row) bool {
	before := r.act
	if r.frozen {
		return before.Version == 0
	}
	now := before
	if before.Version != 0 { // it was handed out, and may no longer change
		now = new(schemas.Action)
	}
	*now = schemas.Action{Event: before.Event, Version: before.Version, RecordAuthMethod: before.RecordAuthMethod, RecordMFA: before.RecordMFA}
	now.Flags &= flagsOfRecord
	now.AuthMethod, now.MFA = now.RecordAuthMethod, now.RecordMFA
	w := e.walkerFor(r)
	paths := w.all(&now.Event)
	e.attribute(now, paths)
	why := e.shareCause(now, w.findCause(now, paths))
	e.findGrant(now, w, paths)
	e.findDecision(now, r, why)
	e.findAssurance(now, w, paths)
	e.compare(now, w, paths)
	if now.PolicyDecision == schemas.VerdictDeny && now.Class != schemas.ClassDecision && now.Outcome == schemas.OutcomeSuccess {
		now.Flags |= schemas.FlagDeniedButDone
	}
	if now.Class == schemas.ClassDecision {
		e.judge(r, now, why)
	}
	if r.restored && e.rows[before.CauseID] == nil {
		keepCause(before, now)
	}
	if before.Version != 0 && same(before, now) {
		return false
	}
	r.act = now
	return true
}

// keepCause keeps what a restored row told of a cause that did not come back
// with it, as long as its path is the same: a restart takes back the rows that
// may still become better, and not all the older calls that those rest on.
func keepCause(before, now *schemas.Action) {
	if before.CauseID.IsZero() || now.CauseGrade != schemas.CauseNone || !slices.EqualFunc(before.Hops, now.Hops, func(a, b schemas.Hop) bool { return a.Key == b.Key }) {
		return
	}
	now.CauseID, now.CauseGrade = before.CauseID, before.CauseGrade
	if now.PolicyDecision == schemas.VerdictNone {
		now.PolicyDecision, now.PolicyID = before.PolicyDecision, before.PolicyID
		now.Flags |= before.Flags & schemas.FlagDeniedButDone
	}
}

// flagsOfRecord are the flags that come from the record and its arrival; all
// others are worked out anew each time.
const flagsOfRecord = schemas.FlagFutureTime | schemas.FlagLate | schemas.FlagImpersonated | schemas.FlagSpoofableSourceIP

// all climbs from every key of an event, in order of precedence, and from the
// actor when there is no key.
func (w *walker) all(ev *schemas.Event) []path {
	keys, paths := w.keys, w.paths
	for _, k := range ev.Keys {
		if k.Kind != schemas.KindGrant {
			keys = append(keys, k)
		}
	}
	slices.SortStableFunc(keys, func(a, b schemas.Key) int { return int(a.Kind) - int(b.Kind) })
	for _, k := range keys {
		p := w.climb(k, ev.TimeNanos)
		if ev.SelfReported && k.Kind == schemas.KindWorkload && p.rooted {
			p.strength = min(p.strength, schemas.StrengthStated)
			if p.reason == schemas.ReasonComplete {
				p.reason = schemas.ReasonSelfReported
			}
		}
		paths = append(paths, p)
	}
	w.keys, w.paths = keys, paths
	if authenticates(keys) || !ev.Actor.Kind.Root() {
		return paths
	}
	p := w.climb(ev.Actor, ev.TimeNanos)
	if p.strength = min(p.strength, schemas.StrengthStated); p.strength == schemas.StrengthStated || !p.rooted {
		p.reason = schemas.ReasonNoKey
	}
	paths = append(paths, p)
	w.paths = paths
	return paths
}

// authenticates reports whether any key names a credential, a session, a call
// or a place: a bare request id or address says nothing of who.
func authenticates(keys []schemas.Key) bool {
	return slices.ContainsFunc(keys, func(k schemas.Key) bool {
		return k.Kind != schemas.KindRequest && k.Namespace != addressNamespace
	})
}

// attribute picks the path that counts and writes what it says.
func (e *Engine) attribute(a *schemas.Action, paths []path) {
	i := choosePath(paths)
	switch {
	case failedLogin(&a.Event):
		claimOnly(a)
		return
	case i < 0:
		a.Grade, a.Reason = schemas.GradeUnattributed, schemas.ReasonNoIdentity
		if a.Redacted {
			a.Reason = schemas.ReasonRedactedKey
		}
		return
	}
	p := &paths[i]
	a.Flags |= p.flags
	a.Reason, a.Candidates = p.reason, p.candidates
	a.Hops, a.Depth = hops(a, p), len(p.steps)
	a.ChainID = e.chainID(p)
	switch {
	case p.ambiguous:
		a.Grade, a.Frontier = schemas.GradeAmbiguous, p.fork
	case !p.rooted:
		a.Grade, a.Frontier = schemas.GradeUnattributed, p.end()
		if a.Redacted {
			a.Reason = schemas.ReasonRedactedKey
		}
	default:
		a.Grade = gradeOf(p.strength)
		a.Root = p.end()
		a.RootName = rootName(a, p)
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
func choosePath(paths []path) int {
	pick, rank := -1, 0
	for i := range paths {
		p := &paths[i]
		r := 1
		switch {
		case p.start.Namespace == addressNamespace, p.start.Kind == schemas.KindRequest && len(p.steps) == 0 && !p.ambiguous:
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
func hops(a *schemas.Action, p *path) []schemas.Hop {
	out := make([]schemas.Hop, 0, len(p.steps)+1)
	top := schemas.Hop{Key: p.end(), Strength: schemas.StrengthExact}
	if len(p.steps) == 0 {
		top.Strength = p.strength
	}
	if n := len(p.steps); n > 0 {
		top.Name = p.steps[n-1].edge.ParentName
	} else if p.end() == a.Actor {
		top.Name = a.ActorName
	}
	out = append(out, top)
	for i := len(p.steps) - 1; i >= 0; i-- {
		b := p.steps[i].edge
		h := schemas.Hop{Key: b.Child, Name: b.ChildName, Relation: b.Relation, Strength: b.Strength, Proof: b.Proof, AtNanos: b.ProofNanos}
		if h.Name == "" && i > 0 {
			h.Name = p.steps[i-1].edge.ParentName
		}
		out = append(out, h)
	}
	return out
}

func rootName(a *schemas.Action, p *path) string {
	for i := len(p.steps) - 1; i >= 0; i-- {
		if p.steps[i].edge.Parent == p.end() && p.steps[i].edge.ParentName != "" {
			return p.steps[i].edge.ParentName
		}
	}
	if p.end() == a.Actor && a.ActorName != "" {
		return a.ActorName
	}
	return p.end().Value
}

// chain is what a chain's id derives from: the highest key of the path alone;
// for a long-lived key, and the UTC day on which it was itself used.
type chain struct {
	key schemas.Key
	day int64 // since the epoch; noDay where the key is not long-lived
}

const noDay = math.MinInt64

func chainOf(p *path) chain {
	k := p.chainKey
	if k.IsZero() {
		k = p.end()
	}
	if !k.LongLived() {
		return chain{k, noDay}
	}
	return chain{k, p.chainNanos / int64(24*time.Hour)}
}

// chainID is the id of a path's chain. Its key remembers the last one: rows of
// one chain come together, and hashing is dear.
func (e *Engine) chainID(p *path) schemas.ID {
	c := chainOf(p)
	n := e.state.find(c.key)
	if n != nil && n.chainDay == c.day && !n.chainID.IsZero() {
		return n.chainID
	}
	parts := []string{"chain", c.key.String()}
	if c.day != noDay {
		parts = append(parts, strconv.FormatInt(c.day, 10))
	}
	id := schemas.MakeID(parts...)
	if n != nil {
		n.chainID, n.chainDay = id, c.day
	}
	return id
}

// cause is the tool call that drove an action, as one path tells it.
type cause struct {
	event schemas.ID
	call  schemas.Key
	grade schemas.CauseGrade
}

// findCause looks upward for the tool call that drove the action, on the path
// that counts first.
func (w *walker) findCause(a *schemas.Action, paths []path) (c cause) {
	if failedLogin(&a.Event) {
		return c
	}
	pick := choosePath(paths)
	if pick >= 0 {
		c = w.causeOf(&paths[pick])
	}
	// A span says itself what called it: what else ran there does not count.
	span := !a.FirstKey(schemas.KindCall).IsZero()
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
	var protocol cause
	grade, n := schemas.CauseExact, p.node
	for i := -1; i < len(p.steps); i++ {
		if i >= 0 {
			b := p.steps[i].edge
			if p.loose && b.Child == p.fork {
				return oneOf(p.causes, protocol)
			}
			if b.Strength == schemas.StrengthWeak {
				grade = schemas.CauseInferred
			}
			n = p.steps[i].parent
		}
		if n.call.event.IsZero() || n.call.event == w.row.act.ID {
			continue
		}
		if !n.call.protocol {
			return cause{n.call.event, n.key, grade}
		}
		if protocol.grade == schemas.CauseNone && !w.row.act.ProtocolSpan() {
			protocol = cause{n.call.event, n.key, grade}
		}
	}
	return oneOf(p.causes, protocol)
}

// shareCause tells the cause of a row to the other records of its request, and
// takes theirs where it has none of its own: all of them are one request.
func (e *Engine) shareCause(a *schemas.Action, own cause) cause {
	request := a.FirstKey(schemas.KindRequest)
	if request.IsZero() {
		return own
	}
	n := e.state.intern(request, 0)
	e.tellCause(n, a.ID, own)
	if own.grade > schemas.CauseAmbiguous {
		return own
	}
	theirs := make([]cause, 0, len(n.told))
	for _, t := range n.told {
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
func (e *Engine) tellCause(n *node, event schemas.ID, c cause) {
	i, found := slices.BinarySearchFunc(n.told, event, func(t toldCause, id schemas.ID) int { return compareIDs(t.event, id) })
	known := !c.event.IsZero()
	switch {
	case found && known && n.told[i].cause == c, !found && !known:
		return
	case found && known:
		n.told[i].cause = c
	case found:
		n.told = slices.Delete(n.told, i, i+1)
		e.state.grow(n, -toldBytes)
	default:
		n.told = slices.Insert(n.told, i, toldCause{event, c})
		e.state.grow(n, toldBytes)
	}
	e.wake(n)
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

// findGrant applies the grants under which the keys of the path exist.
func (e *Engine) findGrant(a *schemas.Action, w *walker, paths []path) {
	var inside schemas.Key
	var insideFrom int64
	windows := 0
	for _, g := range e.grantsOf(paths) {
		n := e.state.intern(g, 0)
		e.state.depend(n, w.row)
		for i := range n.grants {
			b := &n.grants[i]
			windows++
			// No skew: the system that enforces the window also writes the record.
			if b.FromNanos <= a.TimeNanos+a.ResolutionNanos && (b.UntilNanos == 0 || a.TimeNanos < b.UntilNanos) &&
				(n.endedNanos == 0 || a.TimeNanos < n.endedNanos) && (n.revokedNanos == 0 || a.TimeNanos < n.revokedNanos) &&
				(inside.IsZero() || b.FromNanos > insideFrom) {
				inside, insideFrom = g, b.FromNanos
			}
		}
	}
	a.GrantID = inside.Value
	if inside.IsZero() && windows > 0 && usesRight(a.Class) {
		a.Flags |= schemas.FlagOutsideGrant
	}
	if own := a.FirstKey(schemas.KindGrant); a.Class == schemas.ClassGrant && !own.IsZero() {
		a.GrantID = own.Value
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

// grantsOf lists, in order, the grants of the keys on the path that counts.
func (e *Engine) grantsOf(paths []path) (out []schemas.Key) {
	pick := choosePath(paths)
	if pick < 0 {
		return nil
	}
	p := &paths[pick]
	n := p.node
	for i := -1; i < len(p.steps); i++ {
		if i >= 0 {
			n = p.steps[i].parent
		}
		if n.key.Kind != schemas.KindGrant {
			for j := range n.grants {
				out = append(out, n.grants[j].Parent)
			}
		}
	}
	slices.SortFunc(out, schemas.Key.Compare)
	return slices.Compact(out)
}

// findDecision attaches the policy decisions about the row's own call, or
// about the tool call that caused it. Deny wins. A tool call inside another
// does not inherit: whether it was itself decided upon is the question.
func (e *Engine) findDecision(a *schemas.Action, r *row, why cause) {
	if a.Class == schemas.ClassDecision {
		a.PolicyDecision, a.PolicyID = a.Decision.Verdict, a.Decision.ID
		return
	}
	var found []decision
	for _, k := range a.Keys {
		if k.Kind != schemas.KindCall {
			continue
		}
		if n := e.state.find(k); n != nil {
			found = append(found, n.decisions...)
		}
	}
	inherits := a.Class != schemas.ClassToolCall || a.ProtocolSpan()
	if len(found) == 0 && inherits && !why.call.IsZero() {
		n := e.state.intern(why.call, 0)
		e.state.depend(n, r)
		found = n.decisions
	}
	for _, d := range found {
		if d.verdict > a.PolicyDecision {
			a.PolicyDecision, a.PolicyID = d.verdict, d.id
		}
	}
}

// judge attaches a decision to the call that it is about: the tool call whose
// span, or a span below it, asked for it. A call that was merely active at the
// time does not count.
func (e *Engine) judge(r *row, a *schemas.Action, why cause) {
	target := why.call
	if why.grade != schemas.CauseExact {
		target = a.FirstKey(schemas.KindCall)
	}
	if target == r.judged {
		return
	}
	if old := e.state.find(r.judged); old != nil {
		e.state.grow(old, -len(old.decisions)*decisionBytes)
		old.decisions = slices.DeleteFunc(old.decisions, func(d decision) bool { return d.event == a.ID })
		e.state.grow(old, len(old.decisions)*decisionBytes)
		e.wake(old)
	}
	r.judged = target
	if target.IsZero() {
		return
	}
	n := e.state.intern(target, a.TimeNanos)
	d := decision{a.TimeNanos, a.ID, a.Decision.Verdict, strings.Clone(a.Decision.ID)}
	if i, found := slices.BinarySearchFunc(n.decisions, d, decisionOrder); !found {
		n.decisions = slices.Insert(n.decisions, i, d)
		e.state.grow(n, decisionBytes)
		e.wake(n)
	}
}

func decisionOrder(a, b decision) int {
	return cmp.Or(cmp.Compare(a.nanos, b.nanos), compareIDs(a.event, b.event))
}

// findAssurance says how well the person at the start of the chain had been
// authenticated: the facts of the highest session on the path, or of a login
// session of that person that fits by name and time.
func (e *Engine) findAssurance(a *schemas.Action, w *walker, paths []path) {
	pick := choosePath(paths)
	if pick < 0 || a.Root.IsZero() || a.Reason == schemas.ReasonFailedLogin {
		return
	}
	p := &paths[pick]
	for i := len(p.steps) - 1; i >= 0; i-- {
		b := p.steps[i].edge
		if b.Relation == schemas.RelationAuthenticated && b.Child.Kind == schemas.KindSession {
			if b.MFA != schemas.MFAUnknown || b.AuthMethod != "" {
				a.MFA, a.AuthMethod = b.MFA, b.AuthMethod
			}
			return
		}
	}
	if a.Root.Kind == schemas.KindHuman && statedAtTop(p) {
		e.lend(a, w)
	}
}

// statedAtTop reports whether a record says of itself who the root is, without
// a login session that would show it.
func statedAtTop(p *path) bool {
	if n := len(p.steps); n > 0 {
		return p.steps[n-1].edge.Strength == schemas.StrengthStated
	}
	return p.strength == schemas.StrengthStated
}

// loginWindow is how old a login session may be to lend its facts.
const loginWindow = int64(24 * time.Hour)

// lend shows the one login session of the root that fits by name and time. It
// changes neither grade nor chain.
func (e *Engine) lend(a *schemas.Action, w *walker) {
	root := e.state.find(a.Root)
	if root == nil {
		return
	}
	var fit []*schemas.Binding
	for _, k := range root.down {
		n := e.state.find(k)
		if n == nil {
			continue
		}
		e.state.depend(n, w.row)
		i := slices.IndexFunc(n.up, func(b schemas.Binding) bool {
			return b.Relation == schemas.RelationAuthenticated && b.Parent == a.Root
		})
		if i < 0 {
			continue
		}
		b := &n.up[i]
		begun := b.ProofNanos <= a.TimeNanos+w.slack && b.ProofNanos > a.TimeNanos-loginWindow
		over := n.endedNanos != 0 && a.TimeNanos > n.endedNanos+w.slack || n.revokedNanos != 0 && a.TimeNanos > n.revokedNanos+w.slack
		if begun && !over {
			fit = append(fit, b)
		}
	}
	// Sessions of tools that one logs in to besides tell nothing of factors.
	telling := func(b *schemas.Binding) bool { return b.MFA != schemas.MFAUnknown || b.AuthMethod != "" }
	if slices.ContainsFunc(fit, telling) {
		fit = slices.DeleteFunc(fit, func(b *schemas.Binding) bool { return !telling(b) })
	}
	if len(fit) != 1 {
		return // of two that fit none is shown
	}
	b := fit[0]
	a.MFA, a.AuthMethod = b.MFA, b.AuthMethod
	a.Hops = slices.Insert(a.Hops, 1, schemas.Hop{Key: b.Child, Name: b.ChildName, Relation: b.Relation,
		Strength: schemas.StrengthWeak, Proof: b.Proof, AtNanos: b.ProofNanos, Lent: true})
}

// compare holds the paths of one action against each other: different people
// or different workloads mean a credential in the wrong hands.
func (e *Engine) compare(a *schemas.Action, w *walker, paths []path) {
	pick := choosePath(paths)
	if pick < 0 || a.Root.IsZero() || a.Reason == schemas.ReasonFailedLogin {
		return
	}
	main := &paths[pick]
	for i := range paths {
		p := &paths[i]
		if i == pick || !p.rooted || p.loose {
			continue
		}
		if contradict(main, p) {
			a.Flags |= schemas.FlagDivergent
			c := schemas.Candidate{Parent: p.start, Root: p.end()}
			if len(p.steps) > 0 {
				c.Parent, c.Proof = p.steps[0].edge.Parent, p.steps[0].edge.Proof
			}
			if !slices.Contains(a.Candidates, c) {
				a.Candidates = append(a.Candidates, c)
			}
		}
	}
	e.checkAddress(a, w, paths)
}

// contradict reports whether two paths of one action end in different people
// or start in different workloads. Names of different namespaces cannot be
// compared, and a workload's own credential does not contradict the person who
// asked for the call.
func contradict(a, b *path) bool {
	x, y := person(a), person(b)
	if !x.IsZero() && !y.IsZero() && x.Namespace == y.Namespace && x.Value != y.Value {
		return true
	}
	v, u := firstWorkload(a), firstWorkload(b)
	return !v.IsZero() && !u.IsZero() && v.Namespace == u.Namespace && v.Value != u.Value
}

// person is the human at the end of a path, unless overlapping time alone says
// so: who was active on a workload is not whose credential it is.
func person(p *path) schemas.Key {
	if p.end().Kind != schemas.KindHuman || slices.ContainsFunc(p.steps, func(s step) bool {
		return s.edge.Strength == schemas.StrengthWeak && !s.edge.Child.Kind.Principal()
	}) {
		return schemas.Key{}
	}
	return p.end()
}

// firstWorkload is the lowest workload of a path, addresses aside.
func firstWorkload(p *path) schemas.Key {
	at := p.start
	for i := -1; i < len(p.steps); i++ {
		if i >= 0 {
			at = p.steps[i].edge.Parent
		}
		if at.Kind == schemas.KindWorkload && at.Namespace != addressNamespace {
			return at
		}
		if at.Kind == schemas.KindCall {
			return schemas.Key{} // what a call ran on says nothing of whose the key is
		}
	}
	return schemas.Key{}
}

// checkAddress flags a workload's token that is used from elsewhere: from an
// address that is none of the workload's, or, where its addresses are not
// known, from another than that of the token's first use.
func (e *Engine) checkAddress(a *schemas.Action, w *walker, paths []path) {
	i := slices.IndexFunc(paths, func(p path) bool { return p.start.Kind == schemas.KindToken })
	if i < 0 || !isAddress(a.SourceIP) {
		return
	}
	load := firstWorkload(&paths[i])
	if load.IsZero() {
		return
	}
	n := e.state.find(load)
	if n == nil {
		return
	}
	e.state.depend(n, w.row)
	if known := slices.ContainsFunc(n.down, func(k schemas.Key) bool { return private(k.Value) == private(a.SourceIP) }); known {
		if !slices.ContainsFunc(n.down, func(k schemas.Key) bool { return k.Value == a.SourceIP }) {
			a.Flags |= schemas.FlagNewSourceIP
		}
		return
	}
	token := e.state.find(paths[i].start)
	if token != nil && token.firstUse.ip != "" && token.firstUse.ip != a.SourceIP {
		a.Flags |= schemas.FlagNewSourceIP
	}
}

// private reports whether an address is one that networks translate on the way
// out: a workload known by such a one calls the world from another.
func private(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.IsPrivate()
}

// isAddress tells an address from a service's name, which some sources put in
// its place.
func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// same reports whether two attributions of one event say the same.
func same(a, b *schemas.Action) bool {
	return a.Grade == b.Grade && a.Reason == b.Reason && a.ChainID == b.ChainID && a.Root == b.Root && a.RootName == b.RootName &&
		a.Depth == b.Depth && a.Frontier == b.Frontier && a.CauseID == b.CauseID && a.CauseGrade == b.CauseGrade &&
		a.GrantID == b.GrantID && a.PolicyDecision == b.PolicyDecision && a.PolicyID == b.PolicyID &&
		a.AuthMethod == b.AuthMethod && a.MFA == b.MFA && a.Flags == b.Flags &&
		slices.Equal(a.Hops, b.Hops) && slices.Equal(a.Candidates, b.Candidates)
}
