package simtest

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
	"time"

	"catena/schemas"
)

// none is the index of no event.
const none = -1

// Truth is what is known of one event, whatever the logs say.
type Truth struct {
	Story  string
	Driver schemas.Key   // who drove it; zero where nobody did or nobody can know
	Roots  []schemas.Key // whom a proven row may name
	Cause  int           // index of the tool call that drove it, or none
	// Contested is set where two records fight over a key, so that an early row
	// may be overtaken by one that is still on its way.
	Contested bool
	// Edge is set where the use lies so near to the end of a window that clocks
	// cannot tell on which side.
	Edge bool
	// Hopeless is set where no evidence exists at all: anonymous, redacted, a circle.
	Hopeless bool
	// Lossy is set when a record was lost that the row rests on.
	Lossy bool
	Want  *Want // what the final row must say if it is not lossy; nil: no claim
}

// Want is what a row has to say when all that concerns it has arrived.
type Want struct {
	Grade      schemas.Grade
	Reason     schemas.Reason
	Root       schemas.Key
	Frontier   schemas.Key
	Chain      schemas.ID
	Path       []schemas.Key // from the root to the row's own key
	Lent       schemas.Key   // login session found by name and time
	Proofs     []schemas.ID  // of the hops below the root: the earliest record that shows it; zero for a joint hop
	Cause      int
	CauseGrade schemas.CauseGrade
	Grant      string
	Policy     schemas.Verdict
	PolicyID   string
	Flags      schemas.Flags
	MFA        schemas.MFA
	Method     string
}

// MaxDepth is how many keys a path may have; the engine's default.
const MaxDepth = 32

// loginAge is how old a login may be to lend its facts.
const loginAge = int64(24 * time.Hour)

// oracle works out what rows have to say, from the links that are true and the
// times that were recorded.
type oracle struct {
	links    map[schemas.Key]*link         // the one true parent
	turns    map[schemas.Key][]*link       // of keys that go from hand to hand, or hold for a while
	calls    map[schemas.Key][]*activity   // what was active on a workload
	runs     map[schemas.Key][]*link       // of a subject: the runs that may stand behind it
	tools    map[schemas.Key]*rec          // a call's own record
	grants   map[schemas.Key][]schemas.Key // of a session
	windows  map[schemas.Key]*link         // of a grant
	inside   map[schemas.Key]schemas.Key   // a call's parent call
	ended    map[schemas.Key]int64
	revoked  map[schemas.Key]int64
	endLost  map[schemas.Key]bool
	logins   map[schemas.Key][]*login // of a person
	sessions map[schemas.Key]*login
	homes    map[schemas.Key]map[string]bool // known addresses of a workload
	first    map[schemas.Key]firstUse
	judged   map[schemas.Key][]*rec // decisions about a call
	world    *World
}

// link says that a key is driven by another, and which records tell of it.
type link struct {
	schemas.Binding
	recs   []*rec
	always bool // some record says, besides the mint, that it always was so
}

// proof is the earliest record of those that arrive which shows the link as it
// counts: as of its mint, or as it always was.
func (l *link) proof(w *World) schemas.ID {
	var first *rec
	for _, r := range l.recs {
		shows := slices.ContainsFunc(r.Makes, func(b schemas.Binding) bool {
			return b.Child == l.Child && b.Parent == l.Parent && b.FromNanos == l.FromNanos && b.Strength == l.Strength
		})
		if shows && !w.Lost[r.index] && (first == nil || r.TimeNanos < first.TimeNanos || r.TimeNanos == first.TimeNanos && bytes.Compare(r.ID[:], first.ID[:]) < 0) {
			first = r
		}
	}
	if first == nil {
		return schemas.ID{}
	}
	return first.ID
}

func (l *link) lost(w *World) bool {
	return slices.ContainsFunc(l.recs, func(r *rec) bool { return w.Lost[r.index] })
}

// activity is a call that was active on a workload.
type activity struct {
	span        schemas.Key
	from, until int64
	rec         *rec
}

// login is a session that was authenticated for a person.
type login struct {
	key    schemas.Key
	at     int64
	mfa    schemas.MFA
	method string
}

type firstUse struct {
	ip    string
	nanos int64
	id    schemas.ID
}

func newOracle() oracle {
	return oracle{links: map[schemas.Key]*link{}, turns: map[schemas.Key][]*link{}, calls: map[schemas.Key][]*activity{},
		runs: map[schemas.Key][]*link{}, tools: map[schemas.Key]*rec{}, grants: map[schemas.Key][]schemas.Key{},
		windows: map[schemas.Key]*link{}, inside: map[schemas.Key]schemas.Key{}, ended: map[schemas.Key]int64{},
		revoked: map[schemas.Key]int64{}, endLost: map[schemas.Key]bool{}, logins: map[schemas.Key][]*login{},
		sessions: map[schemas.Key]*login{}, homes: map[schemas.Key]map[string]bool{}, first: map[schemas.Key]firstUse{},
		judged: map[schemas.Key][]*rec{}}
}

// link notes a true binding for the oracle.
func (o *oracle) link(r *rec, b schemas.Binding) {
	l := o.links[b.Child]
	if l == nil {
		o.links[b.Child] = &link{Binding: b, recs: []*rec{r}}
		return
	}
	l.recs = append(l.recs, r)
	switch b.FromNanos {
	case l.FromNanos: // told again
	case 0:
		l.always = true
	default: // the mint tells more than that it always was so
		b, l.Binding = l.Binding, b
		l.always = l.always || b.FromNanos == 0
	}
}

// turn notes one of several owners of a key.
func (o *oracle) turn(r *rec, b schemas.Binding) {
	r.shows(b)
	o.turns[b.Child] = append(o.turns[b.Child], &link{Binding: b, recs: []*rec{r}})
}

// answer is what the oracle finds above a key.
type answer struct {
	path      []schemas.Key // from the key upward
	links     []*link       // between them; nil for a joint step
	strengths []schemas.Strength
	rooted    bool
	strength  schemas.Strength // the weakest
	reason    schemas.Reason
	flags     schemas.Flags
	chain     schemas.Key
	chainAt   int64
	ambiguous bool
	fork      schemas.Key
	causes    []why // of the competitors at the fork
	joint     bool  // the step at the fork stands for several
	lossy     bool
}

func (a *answer) end() schemas.Key { return a.path[len(a.path)-1] }

// why is a cause as one path tells it.
type why struct {
	rec   *rec
	grade schemas.CauseGrade
}

// asker climbs for one record.
type asker struct {
	*oracle
	rec   *rec
	slack int64
}

func stop(k schemas.Key, at int64, reason schemas.Reason) answer {
	a := answer{path: []schemas.Key{k}, strength: schemas.StrengthExact, reason: reason, chainAt: at}
	a.rooted = k.Kind.Root() && reason == schemas.ReasonComplete
	if !k.Kind.Principal() {
		a.chain = k
	}
	return a
}

func (q *asker) climb(k schemas.Key, at int64, seen []schemas.Key) answer {
	if slices.Contains(seen, k) {
		a := stop(k, at, schemas.ReasonCycle)
		a.flags = schemas.FlagCycle
		return a
	}
	if len(seen) >= MaxDepth {
		a := stop(k, at, schemas.ReasonDepthLimit)
		a.flags = schemas.FlagDepthLimit
		return a
	}
	seen = append(slices.Clip(seen), k)
	when := at
	if k.Kind == schemas.KindWorkload {
		when = q.rec.TimeNanos
	}
	var a answer
	switch {
	case q.turns[k] != nil:
		a = q.handed(k, at, when, seen)
	case q.links[k] != nil:
		a = q.step(q.links[k], at, when, seen)
	default:
		a = stop(k, at, nothingAbove(k))
	}
	if a.rooted && len(a.path) == 1 {
		if above, ok := q.behind(k, at, when, seen); ok {
			a = above
		}
	}
	if k.Kind == schemas.KindToken || k.Kind == schemas.KindSession {
		if t, ok := q.ended[k]; ok && at > t+q.slack {
			a.flags |= schemas.FlagUsedAfterEnd
		}
		if t, ok := q.revoked[k]; ok && at > t+q.slack {
			a.flags |= schemas.FlagUsedAfterRevoke
		}
		a.lossy = a.lossy || q.endLost[k]
	}
	return a
}

func nothingAbove(k schemas.Key) schemas.Reason {
	if k.Kind.Root() {
		return schemas.ReasonComplete
	}
	return schemas.ReasonNoBindingSeen
}

// step follows the one true link, if it holds at the time.
func (q *asker) step(l *link, at, when int64, seen []schemas.Key) answer {
	from := l.FromNanos
	if l.always && from > when {
		from = 0
	}
	switch {
	case from != 0 && from > when+q.slack:
		return q.shut(l, at, schemas.ReasonBindingNotYet)
	case l.UntilNanos != 0 && when >= l.UntilNanos+q.slack:
		return q.shut(l, at, schemas.ReasonBindingExpired)
	}
	up := when
	if from != 0 {
		up = from
	}
	a := q.climb(l.Parent, up, seen).below(l.Binding, l, at)
	if l.ExpiresNanos != 0 && (from != 0 || !l.always) && when > l.ExpiresNanos+q.slack {
		a.flags |= schemas.FlagUsedAfterExpiry
	}
	a.lossy = a.lossy || l.lost(q.world)
	return a
}

func (q *asker) shut(l *link, at int64, reason schemas.Reason) answer {
	if l.Child.Kind.Root() {
		reason = schemas.ReasonComplete
	}
	a := stop(l.Child, at, reason)
	a.lossy = l.lost(q.world)
	return a
}

// below puts a key under an answer.
func (a answer) below(b schemas.Binding, l *link, at int64) answer {
	a.path = append([]schemas.Key{b.Child}, a.path...)
	a.links = append([]*link{l}, a.links...)
	a.strengths = append([]schemas.Strength{b.Strength}, a.strengths...)
	if a.rooted && b.Strength < a.strength {
		a.reason = weaknessOf(b)
	}
	a.strength = min(a.strength, b.Strength)
	if a.chain.IsZero() && !b.Child.Kind.Principal() {
		a.chain, a.chainAt = b.Child, at
	}
	return a
}

// weaknessOf is the reason that a step gives which is not exact.
func weaknessOf(b schemas.Binding) schemas.Reason {
	if b.Strength == schemas.StrengthWeak {
		if b.Child.Kind.Principal() {
			return schemas.ReasonSubjectMatch
		}
		return schemas.ReasonTimeContainment
	}
	if b.Child.Kind == schemas.KindCall || b.Child.Kind == schemas.KindSession {
		return schemas.ReasonSelfReported
	}
	return schemas.ReasonNameOnly
}

// handed decides whose turn it was: the latest that began before the use,
// unless the clocks cannot tell.
func (q *asker) handed(k schemas.Key, at, when int64, seen []schemas.Key) answer {
	turns := slices.Clone(q.turns[k])
	slices.SortStableFunc(turns, func(a, b *link) int { return cmp.Compare(b.FromNanos, a.FromNanos) }) // the latest first
	var fit []*link
	lossy, past, future := false, false, false
	for _, l := range turns {
		lossy = lossy || l.lost(q.world)
		if l.FromNanos > when+q.slack {
			future = true
			continue
		}
		if l.UntilNanos != 0 && when >= l.UntilNanos+q.slack {
			past = true
			continue
		}
		if i := slices.IndexFunc(fit, func(o *link) bool { return o.Parent == l.Parent }); i < 0 {
			fit = append(fit, l)
		} else if fit[i].FromNanos > when {
			fit[i] = l
		}
		if l.FromNanos <= when-q.slack { // surely before the use: what is older no longer counts
			break
		}
	}
	if len(fit) == 0 {
		reason := nothingAbove(k)
		switch {
		case k.Kind.Root():
		case past:
			reason = schemas.ReasonBindingExpired
		case future:
			reason = schemas.ReasonBindingNotYet
		}
		a := stop(k, at, reason)
		a.lossy = lossy
		return a
	}
	best := 0
	for i, l := range fit {
		if l.FromNanos <= when && (fit[best].FromNanos > when || l.FromNanos > fit[best].FromNanos) {
			best = i
		}
	}
	fit[0], fit[best] = fit[best], fit[0]
	answers := make([]answer, len(fit))
	reason := schemas.ReasonConflict
	for i, l := range fit {
		answers[i] = q.climb(l.Parent, l.FromNanos, seen).below(l.Binding, l, at)
		if l.FromNanos != fit[0].FromNanos {
			reason = schemas.ReasonSeveralCandidates
		}
	}
	a := answers[0]
	if len(answers) > 1 && !q.agree(answers) {
		a = q.compete(k, at, answers, reason)
	}
	a.lossy = lossy || slices.ContainsFunc(answers, func(a answer) bool { return a.lossy })
	return a
}

func (q *asker) agree(answers []answer) bool {
	for i := range answers {
		a, b := &answers[i], &answers[0]
		if !a.rooted || a.end() != b.end() || a.strength != b.strength || chainOf(a) != chainOf(b) || q.why(a) != q.why(b) {
			return false
		}
	}
	return true
}

// behind looks for somebody above a root: the call that was active on a
// workload, the run behind a subject.
func (q *asker) behind(k schemas.Key, at, when int64, seen []schemas.Key) (answer, bool) {
	var answers []answer
	lossy, sure := false, false
	if k.Kind == schemas.KindWorkload {
		for _, c := range q.innermost(q.active(k, when)) {
			sure = sure || c.from <= when-q.slack && when+q.slack < c.until
			l := &link{Binding: schemas.Binding{Child: k, Parent: c.span, Relation: schemas.RelationInvoked}, recs: []*rec{c.rec}}
			a := q.climb(c.span, when, seen).below(l.Binding, l, at)
			answers = append(answers, a)
		}
		for _, c := range q.calls[k] { // one that is not heard of might have been active
			lossy = lossy || q.world.Lost[c.rec.index]
		}
	} else {
		for _, l := range q.runs[k] {
			lossy = lossy || l.lost(q.world) || q.endLost[l.Parent]
			end, ok := q.ended[l.Parent]
			if l.FromNanos > when+q.slack || ok && when > end+q.slack {
				continue
			}
			sure = sure || l.FromNanos <= when-q.slack && (!ok || when+q.slack <= end)
			answers = append(answers, q.climb(l.Parent, when, seen).below(l.Binding, l, at))
		}
	}
	var a answer
	switch {
	case len(answers) == 0:
		a = stop(k, at, schemas.ReasonComplete)
	case len(answers) == 1 && answers[0].rooted:
		a = answers[0]
	case len(answers) == 1:
		a = stop(k, at, schemas.ReasonComplete)
		a.fork, a.causes = k, []why{q.why(&answers[0])}
	default:
		a = q.compete(k, at, answers, schemas.ReasonSeveralCandidates)
	}
	if len(answers) > 0 && !sure && !a.ambiguous { // or nobody was behind it at all
		a = stop(k, at, schemas.ReasonComplete)
		a.fork, a.causes = k, []why{{}}
		anybody := false
		for i := range answers {
			a.causes = append(a.causes, q.why(&answers[i]))
			anybody = anybody || answers[i].rooted
		}
		if anybody && !k.Kind.Principal() {
			a.rooted, a.ambiguous, a.reason = false, true, schemas.ReasonSeveralCandidates
		}
	}
	a.lossy = lossy || slices.ContainsFunc(answers, func(a answer) bool { return a.lossy })
	return a, true
}

// active lists the calls that may have been active on a workload, each once.
func (q *asker) active(k schemas.Key, when int64) (out []*activity) {
	for _, c := range q.calls[k] {
		if c.from <= when+q.slack && when < c.until+q.slack && !slices.Contains(q.rec.Keys, c.span) &&
			!slices.ContainsFunc(out, func(o *activity) bool { return o.span == c.span }) {
			out = append(out, c)
		}
	}
	return out
}

// innermost drops the calls that enclose another.
func (q *asker) innermost(calls []*activity) []*activity {
	outer := map[schemas.Key]bool{}
	for _, c := range calls {
		for k := q.inside[c.span]; !k.IsZero(); k = q.inside[k] {
			outer[k] = true
		}
	}
	return slices.DeleteFunc(calls, func(c *activity) bool { return outer[c.span] })
}

// compete decides among several parents that fit.
func (q *asker) compete(k schemas.Key, at int64, answers []answer, reason schemas.Reason) answer {
	slices.SortFunc(answers, func(a, b answer) int { return a.path[1].Compare(b.path[1]) })
	rooted, same := 0, true
	causes := make([]why, len(answers))
	for i := range answers {
		if answers[i].rooted {
			rooted++
		}
		same = same && answers[i].rooted && answers[i].end() == answers[0].end()
		causes[i] = q.why(&answers[i])
	}
	if same && rooted == len(answers) {
		return q.meet(k, at, answers, reason, causes)
	}
	a := stop(k, at, reason)
	a.fork, a.causes = k, causes
	switch {
	case rooted == 0 && k.Kind.Root(), k.Kind.Principal():
		a.rooted, a.reason = true, schemas.ReasonComplete
	case rooted > 0:
		a.ambiguous, a.rooted = true, false
	}
	return a
}

// meet joins answers that lead to one root.
func (q *asker) meet(k schemas.Key, at int64, answers []answer, reason schemas.Reason, causes []why) answer {
	one := answers[0]
	a := answer{path: []schemas.Key{k}, links: []*link{nil}, rooted: true, strength: one.strength, reason: one.reason,
		chain: one.chain, chainAt: one.chainAt, fork: k, joint: true, causes: causes}
	i := 1 + slices.IndexFunc(one.path[1:], func(p schemas.Key) bool {
		return !slices.ContainsFunc(answers, func(o answer) bool { return !slices.Contains(o.path[1:], p) })
	})
	for j := range answers {
		a.strength = min(a.strength, answers[j].strength)
		a.flags |= answers[j].flags
		if chainOf(&answers[j]) != chainOf(&one) {
			a.chain, a.chainAt = k, at
		}
	}
	a.path = append(a.path, one.path[i:]...)
	a.links = append(a.links, one.links[i:]...)
	a.strengths = append([]schemas.Strength{a.strength}, one.strengths[i:]...)
	if a.chain.Kind.Principal() {
		a.chain = schemas.Key{}
	}
	if a.strength != schemas.StrengthExact && a.reason == schemas.ReasonComplete {
		a.reason = reason
	}
	return a
}

type chain struct {
	key schemas.Key
	day int64
}

func chainOf(a *answer) chain {
	k := a.chain
	if k.IsZero() {
		k = a.end()
	}
	if !k.LongLived() {
		return chain{k, 0}
	}
	return chain{k, a.chainAt / int64(24*time.Hour)}
}

func (c chain) id() schemas.ID {
	if !c.key.LongLived() {
		return schemas.MakeID("chain", c.key.String())
	}
	return schemas.MakeID("chain", c.key.String(), strconv.FormatInt(c.day, 10))
}

// why is the nearest tool call above: an agent's own if there is one.
func (q *asker) why(a *answer) why {
	var protocol why
	grade := schemas.CauseExact
	for i, k := range a.path {
		if i > 0 {
			if a.joint && a.path[i-1] == a.fork {
				return shared(a.causes, protocol)
			}
			if a.strengths[i-1] == schemas.StrengthWeak {
				grade = schemas.CauseInferred
			}
		}
		tool := q.tools[k]
		if tool == nil || tool == q.rec {
			continue
		}
		if !tool.ProtocolSpan() {
			return why{tool, grade}
		}
		if protocol.rec == nil && !q.rec.ProtocolSpan() {
			protocol = why{tool, grade}
		}
	}
	return shared(a.causes, protocol)
}

// shared is the cause that all competitors have in common.
func shared(causes []why, below why) why {
	var c why
	for i, o := range causes {
		switch {
		case i == 0:
			c = o
		case o.rec != c.rec:
			c = why{nil, schemas.CauseAmbiguous}
		default:
			c.grade = min(c.grade, o.grade)
		}
		if c.grade == schemas.CauseAmbiguous {
			break
		}
	}
	if c.rec == nil && below.rec != nil {
		return below
	}
	return c
}
