package simtest

import (
	"fmt"
	"time"

	"catena/schemas"
)

// story is something that happens in a world.
type story struct {
	name string
	tell func(*World)
}

// stories are told with equal chance; what matters most stands here more than once.
var stories = []story{
	{"login", storyLogin},
	{"failed_login", storyFailedLogin},
	{"token", storyToken},
	{"token", storyToken},
	{"rotation", storyRotation},
	{"proxied", storyProxied},
	{"handover", storyHandover},
	{"runner", storyRunner},
	{"stated_session", storyStatedSession},
	{"two_people", storyTwoPeople},
	{"two_kinds", storyTwoKinds},
	{"circle", storyCircle},
	{"depth", storyDepth},
	{"nobody", storyNobody},
	{"future", storyFuture},
	{"old_login", storyOldLogin},
	{"agent", storyAgent},
	{"agent", storyAgent},
	{"agent", storyAgent},
	{"ambient", storyAmbient},
	{"ambient", storyAmbient},
	{"quiet", storyQuiet},
	{"quiet", storyQuiet},
	{"cached_token", storyCachedToken},
	{"access_key", storyAccessKey},
	{"access_key", storyAccessKey},
	{"cross_account", storyCrossAccount},
	{"pod_token", storyPodToken},
	{"theft", storyTheft},
	{"pipeline", storyPipeline},
	{"pipeline", storyPipeline},
	{"grant", storyGrant},
	{"grant", storyGrant},
	{"impersonation", storyImpersonation},
}

// logIn is a login session of a person, told by one to three records.
func (w *World) logIn(p person, at int64) schemas.Key {
	s := w.key(schemas.KindSession, "okta", "102")
	for i := range 1 + w.rng.IntN(3) {
		class, action := schemas.ClassLogin, "user.session.start"
		if i > 0 {
			class, action = schemas.ClassOther, "policy.evaluate_sign_on"
		}
		r := w.record(IDP, at, class, action).with(s).driven(p.email)
		b := always(s, p.email, schemas.RelationAuthenticated, schemas.StrengthExact)
		b.ParentName = pick(w.rng, []string{"", "A. Person", "Person, A."}) // names are not unique
		b.MFA, b.AuthMethod = schemas.MFA(w.rng.IntN(3)), pick(w.rng, []string{"", "password", "push", "totp"})
		w.truly(r, b)
		at = w.later(at, 4)
	}
	return s
}

// logOut ends a session, and may be followed by uses around its end.
func (w *World) logOut(s, who schemas.Key, at int64) {
	r := w.record(IDP, at, schemas.ClassSession, "user.session.end").with(s).driven(who)
	r.Ends = []schemas.End{{Key: s, AtNanos: r.TimeNanos}}
	if w.one(3) { // and again, from another device: the first counts
		again := w.record(IDP, at+int64(3+w.rng.IntN(6))*tick, schemas.ClassSession, "user.session.end").with(s).driven(who)
		again.Ends = []schemas.End{{Key: s, AtNanos: again.TimeNanos}}
		w.useSession(s, who, again.at)
	}
	for range w.rng.IntN(3) {
		w.useSession(s, who, w.near(IDP, r.TimeNanos))
	}
}

func (w *World) useSession(s, who schemas.Key, at int64) {
	w.record(IDP, at, schemas.ClassAPICall, "user.authentication.sso").with(s).driven(who)
}

func storyLogin(w *World) {
	p, at := pick(w.rng, w.people), w.moment()-int64(time.Minute)
	s := w.logIn(p, at)
	w.sessions = append(w.sessions, s)
	for range w.rng.IntN(3) {
		w.useSession(s, p.email, w.later(at, 60))
	}
	if w.one(3) {
		w.logOut(s, p.email, at+int64(20+w.rng.IntN(60))*tick)
	}
}

// storyOldLogin: a login that lies a day before what it might lend its facts to.
func storyOldLogin(w *World) {
	p := w.stranger()
	at := w.moment() - int64(24*time.Hour)
	s := w.logIn(p, at)
	edge := w.links[s].recs[0].TimeNanos + loginAge
	for range 2 {
		r := w.record(Cloud, w.near(Cloud, edge), schemas.ClassAPICall, "signin:CheckMfa").driven(p.email)
		r.Actor = p.email
		r = w.record(Gateway, edge+int64(w.rng.IntN(3)-1)*resolutions[Gateway]-w.Clocks[Gateway], schemas.ClassAPICall, "get").driven(p.email)
		r.Actor = p.email
	}
}

// stranger is a person of their own, who shares a name with somebody.
func (w *World) stranger() person {
	p := pick(w.rng, w.people)
	for _, k := range []*schemas.Key{&p.email, &p.cloud, &p.github, &p.kubern} {
		*k = w.key(k.Kind, k.Namespace, p.name)
	}
	return p
}

// storyFailedLogin: somebody tries another's name, and then their own. The
// session is that of who came in.
func storyFailedLogin(w *World) {
	victim, p, at := pick(w.rng, w.people), w.stranger(), w.moment()
	s := w.key(schemas.KindSession, "okta", "102")
	for i := range 1 + w.rng.IntN(2) {
		r := w.record(IDP, w.later(at, 6), schemas.ClassLogin, "user.session.start").with(s).driven(victim.email)
		r.Outcome, r.Actor, r.ActorName = schemas.OutcomeFailure, victim.email, victim.name
		if i == 1 {
			r.Outcome = schemas.OutcomeDenied
		}
		r.shows(always(s, victim.email, schemas.RelationAuthenticated, schemas.StrengthExact))
		r.shows(from(r.mint(), s, victim.email, schemas.RelationAuthenticated, schemas.StrengthExact))
	}
	if w.one(3) {
		w.record(IDP, w.later(at, 20), schemas.ClassAPICall, "user.authentication.sso").with(s).Hopeless = true
		return
	}
	r := w.record(IDP, w.later(at, 6), schemas.ClassLogin, "user.session.start").with(s).driven(p.email)
	w.truly(r, always(s, p.email, schemas.RelationAuthenticated, schemas.StrengthExact))
	w.useSession(s, p.email, w.later(at, 20))
}

// ownerOf is whose a session or token truly is.
func (w *World) ownerOf(k schemas.Key) schemas.Key {
	for w.links[k] != nil {
		k = w.links[k].Parent
	}
	return k
}

// mintToken issues a token for a session and returns it with its record.
func (w *World) mintToken(s schemas.Key, at int64) (schemas.Key, *rec) {
	t, who := w.key(schemas.KindToken, "jti", "AT."), w.ownerOf(s)
	r := w.record(IDP, at, schemas.ClassIssuance, "app.oauth2.token.grant.access_token").with(s).driven(who)
	b := from(r.mint(), t, s, schemas.RelationIssued, schemas.StrengthExact)
	if w.one(2) {
		b.ExpiresNanos = r.mint() + int64(w.rng.IntN(60))*tick
	}
	if w.one(6) {
		b.UntilNanos = r.mint() + int64(1+w.rng.IntN(60))*tick
	}
	w.truly(r, b)
	if b.UntilNanos == 0 && at < Noon {
		w.tokens = append(w.tokens, t)
	}
	return t, r
}

func (w *World) useToken(t schemas.Key, at int64) *rec {
	return w.record(pick(w.rng, []System{Gateway, Cluster}), at, schemas.ClassAPICall, "get").with(t).driven(w.ownerOf(t))
}

// storyToken: a token, its uses around every edge it has, its renewal and its
// withdrawal.
func storyToken(w *World) {
	t, r := w.mintToken(pick(w.rng, w.sessions), w.moment())
	b := w.links[t].Binding
	edges := []int64{b.FromNanos, b.ExpiresNanos, b.UntilNanos}
	if w.one(3) {
		off := w.record(IDP, r.at+int64(10+w.rng.IntN(60))*tick, schemas.ClassIssuance, "app.oauth2.token.revoke")
		off.Hopeless = true
		off.Ends = []schemas.End{{Key: t, AtNanos: off.TimeNanos, Revoked: true}}
		edges = append(edges, off.TimeNanos, off.TimeNanos)
	}
	for range 2 + w.rng.IntN(3) {
		sys := pick(w.rng, []System{Gateway, Cluster})
		at := w.later(r.at, 80)
		if edge := pick(w.rng, edges); edge != 0 {
			at = w.near(sys, edge)
		}
		use := w.record(sys, at, schemas.ClassAPICall, "get").with(t).driven(w.ownerOf(t))
		use.Hopeless = at < r.at || b.UntilNanos != 0 && w.stamp(IDP, at) >= b.UntilNanos // it was no token then
	}
	for range w.rng.IntN(3) { // renewed, perhaps several times
		r2 := w.record(IDP, r.at+int64(1+w.rng.IntN(40))*tick, schemas.ClassIssuance, "app.oauth2.token.refresh").with(t).driven(w.ownerOf(t))
		t2 := w.key(schemas.KindToken, "jti", "AT.")
		w.truly(r2, from(r2.mint(), t2, t, schemas.RelationRefreshed, schemas.StrengthExact))
		early := w.useToken(t2, w.near(Gateway, r2.mint()))
		early.Hopeless = early.at < r2.at
		w.useToken(t2, w.later(r2.at, 20))
		t, r = t2, r2
	}
}

// storyProxied: requests that a proxy asked the policy engine about, or did
// not. Its log carries the engine's own id of the decision and no span.
func storyProxied(w *World) {
	if len(w.tokens) == 0 {
		return
	}
	t, at := pick(w.rng, w.tokens), w.moment()
	who := w.ownerOf(t)
	for range 1 + w.rng.IntN(3) {
		at = w.later(at+tick, 10)
		request := w.key(schemas.KindRequest, "opa.decision", "D")
		use := w.record(Gateway, at+tick, schemas.ClassAPICall, "GET /orders").with(t, request).driven(who)
		for range w.rng.IntN(3) {
			d := w.record(Policy, at, schemas.ClassDecision, "decide http").with(t, request).driven(who)
			d.Decision = schemas.Decision{Verdict: schemas.Verdict(1 + w.rng.IntN(3)), ID: fmt.Sprint("d-fixture-", d.index), Policy: "http/allow"}
			if d.Decision.Verdict == schemas.VerdictDeny && w.one(2) {
				use.Outcome = schemas.OutcomeDenied
			}
		}
	}
}

// storyRotation: one key minted again and again, for one person by different
// sessions.
func storyRotation(w *World) {
	if w.Wrong == CI {
		return
	}
	p, k := w.stranger(), w.key(schemas.KindToken, "jti", "RT.")
	at := w.moment() - int64(time.Minute)
	sessions := []schemas.Key{w.logIn(p, at), w.logIn(p, at)}
	if w.one(2) {
		sessions = sessions[:1]
	}
	var edges []int64
	first := at + 40*tick
	for range 2 + w.rng.IntN(3) {
		at = w.later(at, 30) + tick
		first = min(first, at)
		s := pick(w.rng, sessions)
		r := w.record(CI, at, schemas.ClassIssuance, "rotate").with(s).driven(p.email)
		r.solid = true
		w.turn(r, from(r.mint(), k, s, schemas.RelationIssued, schemas.StrengthExact))
		edges = append(edges, r.mint())
	}
	for range 4 {
		sys := pick(w.rng, []System{Gateway, Cluster, CI})
		r := w.record(sys, w.near(sys, pick(w.rng, edges)), schemas.ClassAPICall, "get").with(k).driven(p.email)
		r.Contested, r.Hopeless = true, r.at < first
	}
}

// storyHandover: a session that goes from person to person, as a shared
// runner's does.
func storyHandover(w *World) {
	if w.Wrong == CI {
		return
	}
	k := w.key(schemas.KindSession, "runner", "r-")
	type turn struct {
		at    int64
		owner schemas.Key
	}
	var turns []turn
	var edges []int64
	at := w.moment()
	for range 2 + w.rng.IntN(3) {
		s := pick(w.rng, w.sessions)
		owner := w.ownerOf(s)
		r := w.record(CI, at, schemas.ClassSession, "takes_over").with(s).driven(owner)
		r.solid = true
		w.turn(r, from(r.mint(), k, s, schemas.RelationDelegated, schemas.StrengthExact))
		turns = append(turns, turn{at, owner})
		edges = append(edges, r.mint())
		at += tick + w.later(0, 12)
	}
	for range 6 {
		sys := pick(w.rng, []System{CI, Gateway, Cluster, Cloud})
		use := w.near(sys, pick(w.rng, edges))
		if use < turns[0].at {
			continue // nobody's yet
		}
		owner := turns[0].owner
		for _, t := range turns {
			if t.at <= use {
				owner = t.owner
			}
		}
		r := w.record(sys, use, schemas.ClassCommand, "run").with(k).driven(owner)
		r.Contested = true
	}
}

// storyRunner: a machine that runs one job after the other; what it does is
// the running job's, also with a credential minted earlier.
func storyRunner(w *World) {
	if w.Wrong == CI {
		return
	}
	machine := w.key(schemas.KindWorkload, "ci.runner", "m-")
	token := w.key(schemas.KindToken, "jti", "RUN.")
	begin := w.moment()
	from1 := begin
	type job struct {
		from, until int64
		owner       schemas.Key
	}
	var jobs []job
	var edges []int64
	for i := range 2 + w.rng.IntN(2) {
		p, s := pick(w.rng, w.people), w.key(schemas.KindSession, "ci.job", "job-")
		until := from1 + int64(4+w.rng.IntN(20))*tick
		r := w.record(CI, from1, schemas.ClassSession, "job").with(s).driven(p.email)
		r.solid = true
		w.truly(r, always(s, p.email, schemas.RelationSpawned, schemas.StrengthExact))
		b := from(r.mint(), machine, s, schemas.RelationRanAs, schemas.StrengthExact)
		b.UntilNanos = w.stamp(CI, until)
		w.turn(r, b)
		jobs = append(jobs, job{from1, until, p.email})
		edges = append(edges, b.FromNanos, b.UntilNanos)
		if i == 0 {
			m := w.record(CI, from1+tick, schemas.ClassIssuance, "runner_token").with(machine).driven(p.email, machine)
			m.Contested = true
			w.truly(m, from(m.mint(), token, machine, schemas.RelationIssued, schemas.StrengthExact))
		}
		from1 = until + int64(w.rng.IntN(2))*tick
	}
	for range 6 {
		sys := pick(w.rng, []System{CI, Gateway, Cluster, Cloud})
		use := w.near(sys, pick(w.rng, edges))
		if use < begin+tick {
			continue
		}
		roots := []schemas.Key{machine}
		for _, j := range jobs {
			if j.from <= use && use < j.until {
				roots = []schemas.Key{j.owner, machine}
			}
		}
		r := w.record(sys, use, schemas.ClassCommand, "make").with(pick(w.rng, []schemas.Key{machine, token})).driven(roots[0], roots[1:]...)
		r.Contested = true
		if roots[0] == machine { // between two jobs, and so near to one that clocks cannot tell: that job's, by the rule
			for _, j := range jobs {
				if beside(use, j.from) || beside(use, j.until) {
					r.Roots = append(r.Roots, j.owner)
				}
			}
		}
	}
}

// storyStatedSession: a role session that says whose it is, and may lie; the
// mint, where there is one, knows.
func storyStatedSession(w *World) {
	p, claimed := pick(w.rng, w.people), pick(w.rng, w.people)
	k, at := w.key(schemas.KindToken, "aws.access_key", "ASIA"), w.moment()
	minted := w.one(2)
	if minted {
		r := w.record(Cloud, at, schemas.ClassIssuance, "sts:AssumeRoleWithSAML").driven(p.email)
		r.Actor = p.email
		w.truly(r, from(r.mint(), k, p.email, schemas.RelationAssumed, schemas.StrengthExact))
	}
	for range 2 {
		r := w.record(Cloud, w.later(at+2*tick, 20), schemas.ClassAPICall, "s3:ListBuckets").with(k).driven(p.email)
		b := always(k, claimed.email, schemas.RelationAssumed, schemas.StrengthStated)
		if minted {
			r.shows(b)
			continue
		}
		w.truly(r, b)
	}
}

// storyTwoPeople: one call carries the credentials of two people.
func storyTwoPeople(w *World) {
	a, b := w.stranger(), w.stranger()
	if w.one(3) {
		b = a
	}
	at := w.moment()
	s, other := w.logIn(a, at), w.logIn(b, at)
	t, m := w.mintToken(other, w.later(at, 60))
	r := w.record(Gateway, m.at+4*tick, schemas.ClassAPICall, "get").with(t, s).driven(b.email, a.email)
	if a.email != b.email {
		r.wantFlags = schemas.FlagDivergent
	}
	if l := w.links[t]; l.UntilNanos != 0 {
		r.silent = true // which of the two counts hangs on the token's end
	}
}

// storyTwoKinds: the records of one conversation give it to different people by
// different kinds of keys: the more specific counts, and the rest is flagged.
func storyTwoKinds(w *World) {
	a, b := w.stranger(), w.stranger()
	at := w.moment()
	s, t := w.logIn(a, at), w.key(schemas.KindToken, "jti", "TK.")
	mint := w.record(IDP, at, schemas.ClassIssuance, "token").driven(b.email)
	mint.Actor, mint.solid = b.email, true
	w.truly(mint, always(t, b.email, schemas.RelationIssued, schemas.StrengthExact))
	conv := w.key(schemas.KindSession, "gen_ai.conversation", "conv-")
	r := w.record(Gateway, at+4*tick, schemas.ClassSession, "converse").with(conv).driven(b.email, a.email)
	w.truly(r, always(conv, t, schemas.RelationDelegated, schemas.StrengthExact))
	r.shows(always(conv, s, schemas.RelationDelegated, schemas.StrengthExact))
	for _, l := range w.links[s].recs {
		l.solid = true // without it nothing contradicts
	}
	r.wantFlags, r.solid = schemas.FlagDivergent, true
	use := w.record(Gateway, at+8*tick, schemas.ClassAPICall, "get").with(conv).driven(b.email, a.email)
	use.wantFlags = schemas.FlagDivergent
}

// storyCircle: tokens exchanged for each other, with and without a way out.
func storyCircle(w *World) {
	at := w.moment()
	a, b := w.key(schemas.KindToken, "jti", "C1."), w.key(schemas.KindToken, "jti", "C2.")
	r := w.record(IDP, at, schemas.ClassIssuance, "exchange").with(a)
	w.truly(r, always(b, a, schemas.RelationExchanged, schemas.StrengthExact))
	r.Hopeless = true
	r = w.record(IDP, at, schemas.ClassIssuance, "exchange").with(b)
	w.truly(r, always(a, b, schemas.RelationExchanged, schemas.StrengthExact))
	r.Hopeless = true
	w.record(Gateway, w.later(at, 9), schemas.ClassAPICall, "get").with(a).Hopeless = true
}

// storyDepth: a long row of exchanges, at and beside the depth limit.
func storyDepth(w *World) {
	s := pick(w.rng, w.sessions)
	who, parent, at := w.ownerOf(s), s, w.moment()
	n := MaxDepth - 4 + w.rng.IntN(5) // tokens; with session and person two more keys
	for range n {
		k := w.key(schemas.KindToken, "jti", "D.")
		r := w.record(IDP, at, schemas.ClassIssuance, "exchange")
		r.BindOnly = "plain_exchange"
		w.truly(r, always(k, parent, schemas.RelationExchanged, schemas.StrengthExact))
		parent = k
	}
	r := w.record(Gateway, at+20*tick, schemas.ClassAPICall, "get").with(parent).driven(who)
	r.Hopeless = n+2 > MaxDepth
}

// storyNobody: anonymous calls, redacted keys, a key that nobody ever told of.
func storyNobody(w *World) {
	at := w.moment()
	r := w.record(Cloud, at, schemas.ClassDataAccess, "s3:GetObject")
	r.Hopeless, r.SourceIP = true, "198.51.100.7"
	r = w.record(Cloud, at, schemas.ClassAPICall, "s3:GetObject")
	r.Hopeless, r.Redacted = true, true
	r = w.record(Gateway, at, schemas.ClassAPICall, "get").with(w.key(schemas.KindToken, "jti", "UNKNOWN."))
	r.Hopeless, r.Redacted = true, w.one(2)
}

// storyFuture: a clock that is months ahead must neither expire what others
// wait for nor stay for ever.
func storyFuture(w *World) {

	at := w.moment()
	r := w.record(Gateway, at, schemas.ClassAPICall, "get").with(w.key(schemas.KindToken, "jti", "F."))
	r.TimeNanos += int64(1000*time.Hour) + int64(w.rng.IntN(1000))*tick
	r.arrival = schemas.FlagFutureTime
	r.Hopeless = true
}
