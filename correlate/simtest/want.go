package simtest

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"catena/schemas"
)

// answer works out what each row has to say.
func (o *oracle) answer(w *World) {
	o.world = w
	o.survey(w)
	causes := map[int]why{}
	for _, r := range w.recs {
		if r.BindOnly != "" {
			continue
		}
		q := &asker{oracle: o, rec: r, slack: int64(Skew) + r.ResolutionNanos}
		r.Want, causes[r.index] = q.want()
		r.Lossy = r.Lossy || q.lossy()
	}
	for _, r := range w.recs {
		if r.Want != nil {
			o.shareCause(r, causes)
		}
	}
	for _, r := range w.recs {
		if r.Want != nil {
			o.policy(r, causes[r.index])
		}
	}
	for _, r := range w.recs {
		if r.silent || w.Wrong != Systems {
			r.Want = nil // with a wrong clock in the world no claim is made, but that proven is true
		}
	}
}

// survey gathers what the records that arrived tell of people and places.
func (o *oracle) survey(w *World) {
	for _, r := range w.recs {
		lost := w.Lost[r.index]
		for _, end := range r.Ends {
			at := o.ended
			if end.Revoked {
				at = o.revoked
			}
			if lost {
				o.endLost[end.Key] = true
			} else if old, ok := at[end.Key]; !ok || end.AtNanos < old {
				at[end.Key] = end.AtNanos
			}
		}
		if lost {
			continue
		}
		if r.Class == schemas.ClassLogin && r.Outcome != schemas.OutcomeSuccess {
			o.use(r)
			continue
		}
		for i := range r.Makes {
			o.remember(&r.Makes[i], r)
		}
		o.use(r)
	}
}

// remember notes logins and addresses.
func (o *oracle) remember(b *schemas.Binding, r *rec) {
	if b.Relation == schemas.RelationAuthenticated && b.Child.Kind == schemas.KindSession {
		s := o.sessions[b.Child]
		if s == nil {
			s = &login{key: b.Child, at: r.TimeNanos}
			o.sessions[b.Child] = s
			if b.Parent.Kind == schemas.KindHuman {
				o.logins[b.Parent] = append(o.logins[b.Parent], s)
			}
		}
		s.at, s.mfa, s.method = min(s.at, r.TimeNanos), max(s.mfa, b.MFA), better(s.method, b.AuthMethod)
	}
	if b.Child.Namespace == "ip" {
		if o.homes[b.Parent] == nil {
			o.homes[b.Parent] = map[string]bool{}
		}
		o.homes[b.Parent][b.Child.Value] = true
	}
}

// better joins two tellings of a method: anything says more than a password.
func better(a, b string) string {
	both := slices.DeleteFunc([]string{a, b}, func(s string) bool { return s == "" || s == "password" })
	if len(both) == 0 {
		return cmp.Or(a, b)
	}
	return slices.Min(both)
}

// use notes the earliest use of each token and where it came from.
func (o *oracle) use(r *rec) {
	if r.BindOnly != "" || !isAddress(r.SourceIP) {
		return
	}
	for _, k := range r.Keys {
		u, old := firstUse{r.SourceIP, r.TimeNanos, r.ID}, o.first[k]
		if k.Kind == schemas.KindToken && (old.ip == "" || u.nanos < old.nanos || u.nanos == old.nanos && bytes.Compare(u.id[:], old.id[:]) < 0) {
			o.first[k] = u
		}
	}
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

func private(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.IsPrivate()
}

// lossy reports whether a lost record concerns what one of the keys rests on.
func (q *asker) lossy() bool {
	return slices.ContainsFunc(append(q.keys(), q.rec.Actor), func(k schemas.Key) bool {
		a := q.climb(k, q.rec.TimeNanos, nil)
		return a.lossy
	})
}

func (q *asker) keys() []schemas.Key {
	keys := slices.DeleteFunc(slices.Clone(q.rec.Keys), func(k schemas.Key) bool { return k.Kind == schemas.KindGrant })
	slices.SortStableFunc(keys, func(a, b schemas.Key) int { return int(a.Kind) - int(b.Kind) })
	return keys
}

// want works out one row, but for what other rows tell it.
func (q *asker) want() (*Want, why) {
	r := q.rec
	n := &Want{Flags: r.Flags | r.arrival, Cause: none, MFA: r.MFA, Method: r.AuthMethod}
	if r.Class == schemas.ClassLogin && r.Outcome != schemas.OutcomeSuccess {
		n.Grade, n.Reason, n.Root, n.Path = schemas.GradeStated, schemas.ReasonFailedLogin, r.Actor, []schemas.Key{r.Actor}
		return n, why{}
	}
	byName := r.by.IsZero()
	a := answer{}
	switch {
	case !byName:
		a = q.climb(r.by, r.TimeNanos, nil)
	case r.Actor.IsZero():
		n.Reason = schemas.ReasonNoIdentity
		if r.Redacted {
			n.Reason = schemas.ReasonRedactedKey
		}
		return n, why{}
	default:
		a = q.climb(r.Actor, r.TimeNanos, nil)
		if a.strength = min(a.strength, schemas.StrengthStated); a.strength == schemas.StrengthStated {
			a.reason = schemas.ReasonNoKey
		}
	}
	q.grade(n, &a)
	c := q.cause(&a)
	q.grant(n, &a)
	q.assurance(n, &a, byName)
	if a.rooted {
		n.Flags |= r.wantFlags
		if r.thief != nil && q.homes[r.thief.key][r.SourceIP] {
			n.Flags |= schemas.FlagDivergent
		}
		if q.elsewhere() {
			n.Flags |= schemas.FlagNewSourceIP
		}
	}
	return n, c
}

func (q *asker) grade(n *Want, a *answer) {
	n.Flags |= a.flags
	n.Reason, n.Chain = a.reason, chainOf(a).id()
	n.Path = slices.Clone(a.path)
	slices.Reverse(n.Path)
	for _, l := range slices.Backward(a.links) {
		if l == nil || l.always {
			n.Proofs = append(n.Proofs, schemas.ID{}) // of several, or of one of two
			continue
		}
		n.Proofs = append(n.Proofs, l.proof(q.world))
	}
	switch {
	case a.ambiguous:
		n.Grade, n.Frontier = schemas.GradeAmbiguous, a.fork
	case !a.rooted:
		n.Frontier = a.end()
		if q.rec.Redacted {
			n.Reason = schemas.ReasonRedactedKey
		}
	default:
		n.Root = a.end()
		n.Grade = map[schemas.Strength]schemas.Grade{schemas.StrengthExact: schemas.GradeProven,
			schemas.StrengthStated: schemas.GradeStated, schemas.StrengthWeak: schemas.GradeInferred}[a.strength]
	}
}

// cause is that of the path that counts, else, unless the record is a span and
// says itself what called it, that of another of its keys.
func (q *asker) cause(a *answer) why {
	c := q.why(a)
	for _, k := range q.keys() {
		if c.grade != schemas.CauseNone || q.rec.FirstKey(schemas.KindCall).Kind != schemas.KindNone {
			break
		}
		other := q.climb(k, q.rec.TimeNanos, nil)
		c = q.why(&other)
	}
	return c
}

// shareCause gives a row without a cause that of its request's other records.
func (o *oracle) shareCause(r *rec, causes map[int]why) {
	own := causes[r.index]
	if request := r.FirstKey(schemas.KindRequest); own.grade <= schemas.CauseAmbiguous && !request.IsZero() {
		var theirs []why
		for _, other := range o.world.recs {
			if other == r || other.BindOnly != "" || o.world.Lost[other.index] || other.FirstKey(schemas.KindRequest) != request {
				continue
			}
			r.Lossy = r.Lossy || other.Lossy
			if c := causes[other.index]; c.rec != nil && c.rec != r {
				theirs = append(theirs, c)
			}
		}
		if c := shared(theirs, why{}); c.grade > own.grade {
			own = c
		}
	}
	r.Want.CauseGrade = own.grade
	if own.rec != nil {
		r.Want.Cause = own.rec.index
	}
}

// policy attaches what was decided about the row's call or request, or about
// the call that caused it. Deny wins, then the earliest.
func (o *oracle) policy(r *rec, _ why) {
	if r.Class == schemas.ClassDecision {
		r.Want.Policy, r.Want.PolicyID = r.Decision.Verdict, r.Decision.ID
		return
	}
	about := func(k schemas.Key) (out []*rec) {
		for _, d := range o.world.recs {
			if d.Class == schemas.ClassDecision && !o.world.Lost[d.index] && o.target(d) == k {
				r.Lossy = r.Lossy || d.Lossy // it may be taken for one about another call
				out = append(out, d)
			}
		}
		return out
	}
	var found []*rec
	for _, k := range r.Keys {
		if k.Kind == schemas.KindCall || k.Kind == schemas.KindRequest {
			found = append(found, about(k)...)
		}
	}
	if len(found) == 0 && r.Want.Cause != none && (r.Class != schemas.ClassToolCall || r.ProtocolSpan()) {
		found = about(o.world.recs[r.Want.Cause].FirstKey(schemas.KindCall))
	}
	slices.SortFunc(found, func(a, b *rec) int {
		return cmp.Or(-cmp.Compare(a.Decision.Verdict, b.Decision.Verdict), cmp.Compare(a.TimeNanos, b.TimeNanos), bytes.Compare(a.ID[:], b.ID[:]))
	})
	if len(found) == 0 {
		return
	}
	r.Want.Policy, r.Want.PolicyID = found[0].Decision.Verdict, found[0].Decision.ID
	if r.Want.Policy == schemas.VerdictDeny && r.Outcome == schemas.OutcomeSuccess {
		r.Want.Flags |= schemas.FlagDeniedButDone
	}
}

// target is what a decision is about: the tool call that asked, or the request
// that was asked about.
func (o *oracle) target(d *rec) schemas.Key {
	if d.Want != nil && d.Want.CauseGrade == schemas.CauseExact {
		return o.world.recs[d.Want.Cause].FirstKey(schemas.KindCall)
	}
	if call := d.FirstKey(schemas.KindCall); !call.IsZero() {
		return call
	}
	return d.FirstKey(schemas.KindRequest)
}

// grant finds the window in which the row lies. There is no skew: who enforces
// the window also writes the record.
func (q *asker) grant(n *Want, a *answer) {
	r, windows, best := q.rec, 0, int64(0)
	for _, k := range a.path {
		for _, g := range q.grants[k] {
			l := q.windows[g]
			if l == nil || q.world.Lost[l.recs[0].index] {
				continue
			}
			windows++
			end, over := q.ended[g]
			if withdrawn, ok := q.revoked[g]; ok && (!over || withdrawn < end) {
				end, over = withdrawn, true
			}
			if l.FromNanos > r.TimeNanos+r.ResolutionNanos || r.TimeNanos >= l.UntilNanos || over && r.TimeNanos >= end {
				continue
			}
			if n.Grant == "" || l.FromNanos > best {
				n.Grant, best = g.Value, l.FromNanos
			}
		}
	}
	switch r.Class {
	case schemas.ClassCommand, schemas.ClassDataAccess, schemas.ClassAPICall, schemas.ClassToolCall:
		if n.Grant == "" && windows > 0 {
			n.Flags |= schemas.FlagOutsideGrant
		}
	case schemas.ClassGrant:
		if own := r.FirstKey(schemas.KindGrant); !own.IsZero() {
			n.Grant = own.Value
		}
	}
}

// assurance is how well the person was authenticated: by the highest session
// of the path, or by a login found by name and time.
func (q *asker) assurance(n *Want, a *answer, byName bool) {
	if !a.rooted {
		return
	}
	for i := len(a.links) - 1; i >= 0; i-- {
		l := a.links[i]
		if l != nil && l.Relation == schemas.RelationAuthenticated && l.Child.Kind == schemas.KindSession {
			if s := q.sessions[l.Child]; s != nil && (s.mfa != schemas.MFAUnknown || s.method != "") {
				n.MFA, n.Method = s.mfa, s.method
			}
			return
		}
	}
	if a.end().Kind != schemas.KindHuman {
		return
	}
	if m := len(a.strengths); m > 0 && a.strengths[m-1] != schemas.StrengthStated || m == 0 && !byName {
		return
	}
	var fit []*login
	for _, s := range q.logins[a.end()] {
		t := q.rec.TimeNanos
		end, ended := q.ended[s.key]
		off, revoked := q.revoked[s.key]
		if s.at <= t+q.slack && s.at > t-loginAge && !(ended && t > end+q.slack) && !(revoked && t > off+q.slack) {
			fit = append(fit, s)
		}
	}
	tells := func(s *login) bool { return s.mfa != schemas.MFAUnknown || s.method != "" }
	if slices.ContainsFunc(fit, tells) {
		fit = slices.DeleteFunc(fit, func(s *login) bool { return !tells(s) })
	}
	if len(fit) == 1 {
		n.MFA, n.Method, n.Lent = fit[0].mfa, fit[0].method, fit[0].key
	}
}

// elsewhere reports whether a workload's token was used from an address that
// is not the workload's, or, where none is known, not that of its first use.
func (q *asker) elsewhere() bool {
	token := q.rec.FirstKey(schemas.KindToken)
	if token.IsZero() || !isAddress(q.rec.SourceIP) {
		return false
	}
	home := schemas.Key{}
	for k, steps := token, 0; steps < MaxDepth && home.IsZero(); steps++ {
		if k.Kind == schemas.KindCall {
			return false
		}
		if k.Kind == schemas.KindWorkload && k.Namespace != "ip" {
			home = k
			break
		}
		l := q.links[k]
		if l == nil {
			return false
		}
		k = l.Parent
	}
	known := false
	for ip := range q.homes[home] {
		known = known || private(ip) == private(q.rec.SourceIP)
	}
	if known {
		return !q.homes[home][q.rec.SourceIP]
	}
	return q.first[token].ip != q.rec.SourceIP
}

func (n *Want) String() string {
	var b strings.Builder
	b.WriteString(n.Grade.String() + " " + n.Reason.String() + " root=" + n.Root.String())
	if !n.Frontier.IsZero() {
		b.WriteString(" frontier=" + n.Frontier.String())
	}
	for i, k := range n.Path {
		b.WriteString([]string{" > ", " path="}[min(1, max(0, 1-i))] + k.String())
	}
	return b.String()
}
