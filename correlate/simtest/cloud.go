package simtest

import (
	"fmt"
	"math"
	"time"

	"catena/schemas"
)

// startPod is a pod whose node mints a token for it.
func (w *World) startPod(name, ip string) *pod {
	p := &pod{key: w.key(schemas.KindWorkload, "k8s.pod_uid", ""), name: name, ip: ip, cred: w.key(schemas.KindToken, "jti", "POD.")}
	at := Noon - int64(5*time.Minute)
	node := w.key(schemas.KindWorkload, "k8s.node", "node-")
	cert := w.key(schemas.KindToken, "x509.sha256", "")
	r := w.record(Cluster, at, schemas.ClassIssuance, "create serviceaccounts/token").with(cert).driven(node)
	w.truly(r, always(cert, node, schemas.RelationAuthenticated, schemas.StrengthExact))
	b := from(r.mint(), p.cred, p.key, schemas.RelationIssued, schemas.StrengthExact)
	b.ParentName = name
	w.truly(r, b)
	return p
}

// startInstance is a virtual machine whose credentials the cloud mints.
func (w *World) startInstance(ip string) *pod {
	p := &pod{key: w.key(schemas.KindWorkload, "aws.instance", "i-"), ip: ip, cred: w.key(schemas.KindToken, "aws.access_key", "ASIA")}
	at := Noon - int64(5*time.Minute)
	r := w.record(Cloud, at, schemas.ClassIssuance, "sts:AssumeRole")
	r.Actor = schemas.Key{Kind: schemas.KindService, Namespace: "aws", Value: "ec2.amazonaws.com"}
	r.driven(r.Actor, p.key)
	b := from(r.mint(), p.cred, p.key, schemas.RelationIssued, schemas.StrengthExact)
	b.ExpiresNanos = r.mint() + int64(6*time.Hour)
	w.truly(r, b)
	return p
}

// address is one that nobody else has in its network.
func (w *World) address(network int) string {
	w.serial++
	return fmt.Sprintf("10.%d.%d.%d", network, w.serial/200, w.serial%200+1)
}

// storyPodToken: the cluster's record of a pod that uses its token, from its
// own address.
func storyPodToken(w *World) {
	p := w.startPod("service", w.address(5))
	if w.one(20) { // what a busy pod does by itself looks like a call's doing
		p = pick(w.rng, w.pods)
	}
	for range 1 + w.rng.IntN(3) {
		w.usePodToken(p, p.ip, w.moment())
	}
}

func (w *World) usePodToken(p *pod, ip string, at int64) *rec {
	r := w.record(Cluster, at, schemas.ClassAPICall, "get configmaps").with(p.cred, p.key, schemas.Key{Kind: schemas.KindWorkload, Namespace: "ip", Value: ip})
	r.driven(p.key)
	r.SourceIP = ip
	w.truly(r, always(p.cred, p.key, schemas.RelationIssued, schemas.StrengthExact))
	return r
}

// storyTheft: a pod's token is used from another pod's address, or from
// outside.
func storyTheft(w *World) {
	victim := w.startPod("victim", w.address(3))
	thief := w.startPod("thief", w.address(4))
	at := w.moment()
	for _, p := range []*pod{victim, thief} { // telemetry tells where they live
		if p == thief || w.one(2) {
			w.heartbeat(p, at)
		}
	}
	w.usePodToken(victim, victim.ip, at)
	r := w.usePodToken(victim, thief.ip, w.later(at, 40))
	r.thief = thief
	w.usePodToken(victim, "203.0.113.9", w.later(at, 40))
}

// heartbeat is a span that tells a pod's address.
func (w *World) heartbeat(p *pod, at int64) {
	r := w.record(Agent, at, schemas.ClassOther, "http")
	r.BindOnly = "plain_span"
	r.shows(always(schemas.Key{Kind: schemas.KindWorkload, Namespace: "ip", Value: p.ip}, p.key, schemas.RelationRanAs, schemas.StrengthWeak))
}

// storyAccessKey: a user's access key around midnight, and the roles assumed
// with it, one after the other.
func storyAccessKey(w *World) {
	p, k := w.stranger(), w.key(schemas.KindToken, "aws.access_key", "AKIA")
	use := func(at int64, class schemas.Class, action string) *rec {
		r := w.record(Cloud, at, class, action).with(k).driven(p.cloud)
		b := always(k, p.cloud, schemas.RelationAuthenticated, schemas.StrengthExact)
		b.ParentName = p.name
		w.truly(r, b)
		return r
	}
	midnight := Noon + int64(12*time.Hour)
	for range 1 + w.rng.IntN(2) {
		use(midnight+int64(w.rng.IntN(3)-1)*int64(time.Second)-w.Clocks[Cloud], schemas.ClassAPICall, "ec2:DescribeInstances")
	}
	parent, at := k, w.moment()
	if w.one(3) {
		at = midnight + int64(w.rng.IntN(5)-3)*int64(time.Second)
	}
	for i := range 1 + w.rng.IntN(3) { // chained
		var r *rec
		if i == 0 {
			r = use(at, schemas.ClassIssuance, "sts:AssumeRole")
		} else {
			r = w.record(Cloud, at, schemas.ClassIssuance, "sts:AssumeRole").with(parent).driven(p.cloud)
		}
		role := w.key(schemas.KindToken, "aws.access_key", "ASIA")
		b := from(r.mint(), role, parent, schemas.RelationAssumed, schemas.StrengthExact)
		b.ExpiresNanos = r.mint() + int64(time.Minute)
		w.truly(r, b)
		for range 1 + w.rng.IntN(2) {
			u := w.near(Cloud, pick(w.rng, []int64{b.FromNanos, b.ExpiresNanos}))
			w.record(Cloud, u, schemas.ClassAPICall, "s3:ListBuckets").with(role).driven(p.cloud).Hopeless = u < at
		}
		parent, at = role, w.later(at+tick, 10)
	}
	if w.one(3) { // the key is deleted, and used once more
		r := use(at+10*tick, schemas.ClassIssuance, "iam:DeleteAccessKey")
		r.Ends = []schemas.End{{Key: k, AtNanos: r.TimeNanos, Revoked: true}}
		use(w.near(Cloud, r.TimeNanos), schemas.ClassAPICall, "sts:GetCallerIdentity")
	}
}

// storyCrossAccount: both accounts write down one AssumeRole; the owner's copy
// knows the account of the caller alone.
func storyCrossAccount(w *World) {
	p, k := w.stranger(), w.key(schemas.KindToken, "aws.access_key", "AKIA")
	role, at := w.key(schemas.KindToken, "aws.access_key", "ASIA"), w.moment()
	account := schemas.Key{Kind: schemas.KindExternal, Namespace: "aws.account", Value: "222222222222"}
	owner := w.record(Cloud, at, schemas.ClassIssuance, "sts:AssumeRole").driven(p.cloud, account)
	owner.Actor = account
	b := from(owner.mint(), role, account, schemas.RelationAssumed, schemas.StrengthStated)
	alone := w.one(3)
	if alone {
		w.truly(owner, b)
	} else {
		owner.shows(b)
		caller := w.record(Cloud, at, schemas.ClassIssuance, "sts:AssumeRole").with(k).driven(p.cloud)
		w.truly(caller, always(k, p.cloud, schemas.RelationAuthenticated, schemas.StrengthExact))
		w.truly(caller, from(caller.mint(), role, k, schemas.RelationAssumed, schemas.StrengthExact))
	}
	w.record(Cloud, at+6*tick, schemas.ClassAPICall, "s3:GetObject").with(role).driven(p.cloud, account)
}

// storyPipeline: a subject that several runs share, and keys minted for it.
func storyPipeline(w *World) {
	subject := w.key(schemas.KindService, "oidc.sub", "repo:acme/app:ref:refs/heads/")
	at := w.moment()
	type turn struct {
		begin, end int64
		who        schemas.Key
	}
	var edges []int64
	var turns []turn
	for range 1 + w.rng.IntN(3) {
		p, run := pick(w.rng, w.people), w.key(schemas.KindSession, "github.run", "")
		begin := w.later(at, 20)
		r := w.record(CI, begin, schemas.ClassSession, "workflows.created_workflow_run").with(run).driven(p.github)
		w.truly(r, always(run, p.github, schemas.RelationSpawned, schemas.StrengthExact))
		b := from(r.mint(), subject, run, schemas.RelationRanAs, schemas.StrengthWeak)
		r.shows(b)
		w.runs[subject] = append(w.runs[subject], &link{Binding: b, recs: []*rec{r}})
		turns = append(turns, turn{begin, math.MaxInt64, p.github})
		edges = append(edges, r.mint())
		if w.one(2) {
			over := begin + int64(4+w.rng.IntN(20))*tick
			end := w.record(CI, over, schemas.ClassSession, "workflows.completed_workflow_run").with(run).driven(p.github)
			end.Ends = []schemas.End{{Key: run, AtNanos: end.TimeNanos}}
			edges = append(edges, end.TimeNanos)
			turns[len(turns)-1].end = over
		}
	}
	for range 2 {
		k := w.key(schemas.KindToken, "aws.access_key", "ASIA")
		at, driver, edge := w.near(Cloud, pick(w.rng, edges)), subject, false
		for _, t := range turns {
			edge = edge || beside(at, t.begin) || beside(at, t.end)
			if t.begin <= at && at < t.end && (driver == subject || w.one(2)) {
				driver = t.who
			}
		}
		mint := w.record(Cloud, at, schemas.ClassIssuance, "sts:AssumeRoleWithWebIdentity").driven(driver, subject)
		mint.Actor, mint.Edge = subject, edge
		w.truly(mint, from(mint.mint(), k, subject, schemas.RelationAssumed, schemas.StrengthExact))
		use := w.record(Cloud, w.later(at+int64(time.Second), 10), schemas.ClassAPICall, "ecs:UpdateService").with(k).driven(driver, subject)
		use.Edge = edge
	}
}

// beside reports whether clocks may not be able to tell two true times apart:
// two skews and the coarsest resolution.
func beside(a, b int64) bool { return a > b-int64(4*Skew) && a < b+int64(4*Skew) }

// storyGrant: a right for a window; what is done inside, outside and at both
// edges; perhaps withdrawn early.
func storyGrant(w *World) {
	p, at := pick(w.rng, w.people), w.moment()
	g := w.key(schemas.KindGrant, "teleport.request", "")
	from1, until := w.stamp(JIT, w.later(at, 10)), w.stamp(JIT, at+int64(20+w.rng.IntN(40))*tick)
	ask := w.record(JIT, at, schemas.ClassGrant, "access_request.review").driven(p.email)
	ask.Actor, ask.Keys = p.email, []schemas.Key{g}
	b := from(from1, g, p.email, schemas.RelationGranted, schemas.StrengthExact)
	b.UntilNanos = until
	ask.shows(b)
	w.windows[g] = &link{Binding: b, recs: []*rec{ask}}
	edges := []int64{from1, until}

	sid := w.key(schemas.KindSession, "teleport.sid", "")
	start := w.record(JIT, w.later(at, 8), schemas.ClassSession, "session.start").with(sid).driven(p.email)
	w.truly(start, always(sid, p.email, schemas.RelationAuthenticated, schemas.StrengthExact))
	start.shows(always(sid, g, schemas.RelationGranted, schemas.StrengthExact))
	w.grants[sid] = append(w.grants[sid], g)
	if w.one(3) {
		r := w.record(JIT, at+int64(12+w.rng.IntN(20))*tick, schemas.ClassGrant, "access_request.delete").driven(p.email)
		r.Actor, r.Keys = p.email, []schemas.Key{g}
		r.Ends = []schemas.End{{Key: g, AtNanos: r.TimeNanos, Revoked: true}}
		edges = append(edges, r.TimeNanos)
	}
	if w.one(3) {
		end := w.record(JIT, at+int64(30+w.rng.IntN(40))*tick, schemas.ClassSession, "session.end").with(sid).driven(p.email)
		end.Ends = []schemas.End{{Key: sid, AtNanos: end.TimeNanos}}
		edges = append(edges, end.TimeNanos)
	}
	for range 3 + w.rng.IntN(3) {
		edge := pick(w.rng, edges)
		t := w.near(JIT, edge)
		if w.one(2) { // beside the edge itself: no skew is allowed here
			t = edge + int64(w.rng.IntN(5)-2)*resolutions[JIT] - w.Clocks[JIT]
		}
		w.record(JIT, t, schemas.ClassCommand, "db.session.query").with(sid).driven(p.email)
	}
}

// storyImpersonation: somebody acts in the name of somebody else.
func storyImpersonation(w *World) {
	p, cert := w.stranger(), w.key(schemas.KindToken, "x509.sha256", "")
	r := w.record(Cluster, w.moment(), schemas.ClassAPICall, "delete pods").with(cert).driven(p.kubern)
	r.Authority, r.Flags = "system:admin", schemas.FlagImpersonated
	w.truly(r, always(cert, p.kubern, schemas.RelationAuthenticated, schemas.StrengthExact))
}
