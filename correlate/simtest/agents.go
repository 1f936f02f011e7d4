package simtest

import (
	"fmt"

	"catena/schemas"
)

// talk is one conversation of a person with an agent: a trace of spans.
type talk struct {
	w     *World
	trace string
	conv  schemas.Key
	who   schemas.Key
	spans int
}

// span is one call of a conversation, nested in another.
type span struct {
	key         schemas.Key
	from, until int64 // true time
	pod         *pod
	rec         *rec
	protocol    bool
	tool        bool
}

func (t *talk) newKey() schemas.Key {
	t.spans++
	return schemas.Key{Kind: schemas.KindCall, Namespace: "span", Value: fmt.Sprintf("%s/%04d", t.trace, t.spans)}
}

func (t *talk) traceKey() schemas.Key {
	return schemas.Key{Kind: schemas.KindCall, Namespace: "trace", Value: t.trace}
}

// say records a span as telemetry does: itself, what called it, where it ran.
func (t *talk) say(class schemas.Class, action string, parent *span, from, until int64, p *pod) *span {
	w := t.w
	s := &span{key: t.newKey(), from: from, until: until, pod: p, tool: class == schemas.ClassToolCall}
	r := w.record(Agent, from, class, action).with(s.key).driven(t.who)
	s.rec = r
	r.EndedNanos = w.stamp(Agent, until)
	r.TraceID, r.SpanID, r.SelfReported = t.trace, s.key.Value[len(t.trace)+1:], true
	s.protocol = r.ProtocolSpan()
	if parent != nil {
		w.truly(r, always(s.key, parent.key, schemas.RelationInvoked, schemas.StrengthExact))
		r.shows(always(parent.key, t.traceKey(), schemas.RelationInvoked, schemas.StrengthWeak))
		w.inside[s.key] = parent.key
	}
	if p != nil {
		r.with(p.key)
		r.Roots = append(r.Roots, p.key)
		r.shows(always(schemas.Key{Kind: schemas.KindWorkload, Namespace: "ip", Value: p.ip}, p.key, schemas.RelationRanAs, schemas.StrengthWeak))
	}
	if s.tool {
		w.tools[s.key] = r
	}
	return s
}

// active says that a span was active on its pod: what the pod did meanwhile
// may be its doing.
func (t *talk) active(s *span) {
	b := from(s.rec.TimeNanos, s.pod.key, s.key, schemas.RelationInvoked, schemas.StrengthWeak)
	b.UntilNanos = s.rec.EndedNanos
	s.rec.shows(b)
	t.w.calls[s.pod.key] = append(t.w.calls[s.pod.key], &activity{s.key, b.FromNanos, b.UntilNanos, s.rec})
}

// begin starts a conversation: of a token's owner, or of whoever telemetry
// says it is.
func (w *World) begin(at, until int64, p *pod) (*talk, *span) {
	t := &talk{w: w, trace: fmt.Sprintf("%032x", w.Seed<<20|uint64(w.serial)), conv: w.key(schemas.KindSession, "gen_ai.conversation", "conv-")}
	stated, token := w.one(4) || len(w.tokens) == 0, schemas.Key{}
	if stated {
		t.who = pick(w.rng, w.people).email
	} else {
		token = pick(w.rng, w.tokens)
		t.who = w.ownerOf(token)
	}
	s := t.say(schemas.ClassSession, "invoke_agent support", nil, at, until, p)
	s.rec.with(t.conv)
	w.truly(s.rec, always(s.key, t.conv, schemas.RelationRanAs, schemas.StrengthExact))
	s.rec.shows(always(t.traceKey(), t.conv, schemas.RelationRanAs, schemas.StrengthWeak))
	if stated {
		w.truly(s.rec, always(t.conv, t.who, schemas.RelationDelegated, schemas.StrengthStated))
	} else {
		s.rec.with(token)
		w.truly(s.rec, always(t.conv, token, schemas.RelationDelegated, schemas.StrengthExact))
		if w.one(3) { // telemetry names somebody, truly or not: the token knows
			s.rec.shows(always(t.conv, pick(w.rng, w.people).email, schemas.RelationDelegated, schemas.StrengthStated))
		}
	}
	t.active(s)
	return t, s
}

// storyAgent: a conversation with nested and concurrent tool calls, protocol
// spans on both sides, sub-agents, policy decisions, and what the calls did.
func storyAgent(w *World) {
	at := w.moment()
	until := at + int64(30+w.rng.IntN(40))*tick
	t, root := w.begin(at, until, pick(w.rng, w.pods))
	open := []*span{root}
	for i := range 2 + w.rng.IntN(3) {
		parent := pick(w.rng, open)
		from := w.later(parent.from, 8)
		end := min(from+int64(2+w.rng.IntN(16))*tick, parent.until)
		if end <= from {
			continue
		}
		switch {
		case i == 1 && w.one(3):
			open = append(open, t.subAgent(parent, from, end))
		default:
			open = append(open, t.tool(parent, from, end, parent.pod))
		}
	}
}

// subAgent is an agent that another one calls, perhaps with a token of its own
// that was exchanged for the first.
func (t *talk) subAgent(parent *span, from, until int64) *span {
	w := t.w
	s := t.say(schemas.ClassSession, "invoke_agent helper", parent, from, until, pick(w.rng, w.pods))
	t.active(s)
	if l := w.links[t.conv]; l != nil && l.Parent.Kind == schemas.KindToken && w.one(2) {
		own, conv := w.key(schemas.KindToken, "jti", "JAG."), w.key(schemas.KindSession, "gen_ai.conversation", "conv-")
		x := w.record(IDP, from, schemas.ClassIssuance, "app.oauth2.token.grant.id_jag").with(l.Parent).driven(t.who)
		w.truly(x, always(own, l.Parent, schemas.RelationExchanged, schemas.StrengthExact))
		s.rec.with(conv, own).shows(always(s.key, conv, schemas.RelationRanAs, schemas.StrengthExact))
		w.truly(s.rec, always(conv, own, schemas.RelationDelegated, schemas.StrengthExact))
	}
	return s
}

// tool is a tool call, with the protocol's spans below it where the tool runs
// elsewhere, decisions about it, and its effects.
func (t *talk) tool(parent *span, from, until int64, p *pod) *span {
	w := t.w
	s := t.say(schemas.ClassToolCall, "execute_tool read_customer", parent, from, until, p)
	t.active(s)
	t.decide(s)
	if w.one(6) { // the same span comes from a second exporter, under the protocol's name, and earlier
		again := w.record(Agent, from-tick, schemas.ClassToolCall, "tools/call read_customer").with(s.key).driven(t.who)
		s.rec.solid, again.solid = true, true
		again.TraceID, again.SpanID, again.SelfReported = t.trace, s.rec.SpanID, true
		w.truly(again, always(s.key, parent.key, schemas.RelationInvoked, schemas.StrengthExact))
	}
	last := s
	if w.one(2) { // the tool runs elsewhere: client and server side
		client := t.say(schemas.ClassToolCall, "tools/call read_customer", s, from, until, p)
		t.active(client)
		server := t.say(schemas.ClassToolCall, "tools/call read_customer", client, from, until, pick(w.rng, w.instances))
		t.active(server)
		if w.one(2) {
			t.decide(client)
		}
		last = server
	}
	for range w.rng.IntN(3) {
		t.effect(last)
	}
	return s
}

// decide asks the policy engine about a call, or forgets to. What is denied is
// not done, or is done all the same.
func (t *talk) decide(s *span) {
	w := t.w
	for range w.rng.IntN(3) {
		r := w.record(Policy, w.later(s.from, 2), schemas.ClassDecision, "decide tools/allow").with(s.key).driven(t.who)
		r.Roots = append(r.Roots, s.rec.Roots...)
		r.Decision = schemas.Decision{Verdict: schemas.Verdict(1 + w.rng.IntN(3)), ID: fmt.Sprint("d-fixture-", r.index), Policy: "tools/allow"}
		if r.Decision.Verdict == schemas.VerdictDeny && w.one(2) {
			s.rec.Outcome = schemas.OutcomeDenied
		}
	}
}

// effect is a cloud request that a call makes on its workload: with the
// workload's own credential, and perhaps a span that names the request.
func (t *talk) effect(s *span) {
	w := t.w
	ticks := (s.until - s.from) / tick
	at := s.from
	if ticks > 0 {
		at += w.rng.Int64N(ticks) * tick
	}
	req := w.key(schemas.KindRequest, "aws", "REQ")
	r := w.record(Cloud, at, schemas.ClassDataAccess, "s3:GetObject").driven(t.who, s.pod.key)
	r.SourceIP = pick(w.rng, []string{"", s.pod.ip, s.pod.ip, "s3.amazonaws.com", "198.51.100.4"})
	if w.one(2) {
		r.by = req
		l := t.say(schemas.ClassOther, "S3.GetObject", s, at, at+tick, nil)
		l.rec.BindOnly = "plain_span"
		w.truly(l.rec, always(req, l.key, schemas.RelationInvoked, schemas.StrengthExact))
	} else {
		r.by = s.pod.cred
	}
	r.with(req, s.pod.cred)
	r.Truth.Cause = s.rec.index
	if w.one(4) { // the owner's copy of the same request, in another account
		twin := w.record(Cloud, at, schemas.ClassDataAccess, "s3:GetObject").driven(t.who, s.pod.key)
		twin.Actor = schemas.Key{Kind: schemas.KindExternal, Namespace: "aws.account", Value: "222222222222"}
		twin.Roots = append(twin.Roots, twin.Actor)
		if r.by == req {
			twin.by = req
		}
		twin.Keys = append(twin.Keys, req)
		twin.Tenant = "333333333333"
	}
}

// storyQuiet: one call at a time on a machine that has nothing else to do, as
// most are, and what it did there without telling.
func storyQuiet(w *World) {
	p, at := w.startInstance(w.address(6)), w.moment()
	for range 1 + w.rng.IntN(2) {
		t, root := w.begin(at, at+40*tick, pick(w.rng, w.pods))
		s := t.say(schemas.ClassToolCall, "execute_tool report", root, at+2*tick, at+38*tick, p)
		t.active(s)
		for range 2 + w.rng.IntN(3) {
			use := at + int64(10+w.rng.IntN(20))*tick
			r := w.record(Cloud, use, schemas.ClassDataAccess, "s3:GetObject").with(p.cred).driven(t.who, p.key)
			r.SourceIP = p.ip
		}
		at += int64(60+w.rng.IntN(20)) * tick
	}
}

// storyAmbient: what a pod does by itself, and what several people's calls do
// on it at the edges of their time.
func storyAmbient(w *World) {
	p := w.startPod(fmt.Sprint("tools-", w.rng.IntN(3)), w.address(2))
	at := w.moment()
	var edges []int64
	type doing struct {
		from, until int64
		who         schemas.Key
	}
	var doings []doing
	for range 1 + w.rng.IntN(3) {
		from := w.later(at, 20)
		until := from + int64(20+w.rng.IntN(20))*tick
		t, root := w.begin(from-2*tick, until+2*tick, pick(w.rng, w.pods))
		s := t.say(schemas.ClassToolCall, pick(w.rng, []string{"execute_tool sql", "tools/call sql"}), root, from, until, p)
		t.active(s)
		doings = append(doings, doing{from, until, t.who})
		edges = append(edges, s.rec.TimeNanos, s.rec.EndedNanos)
		if w.one(2) {
			inner := t.say(schemas.ClassToolCall, "execute_tool inner", s, from+4*tick, until-4*tick, p)
			t.active(inner)
			edges = append(edges, inner.rec.TimeNanos, inner.rec.EndedNanos)
		}
		if w.one(3) { // the other side tells the same call, with another end
			b := from0(s, p, -2*tick)
			other := w.record(Agent, from, schemas.ClassOther, "tools/call sql")
			other.BindOnly = "plain_span"
			other.shows(b)
		}
		if w.one(2) {
			t.decide(s)
		}
	}
	for range 3 {
		sys := pick(w.rng, []System{Cloud, Cloud, Gateway})
		use := w.near(sys, pick(w.rng, edges))
		if w.one(3) {
			use = w.later(at, 60)
		}
		r := w.record(sys, use, schemas.ClassDataAccess, "dynamodb:Query")
		r.by = p.cred
		r.with(p.cred)
		driver := p.key
		for _, d := range doings {
			r.Edge = r.Edge || beside(use, d.from) || beside(use, d.until)
			if d.from <= use && use < d.until && (driver == p.key || w.one(2)) {
				driver = d.who
			}
		}
		r.driven(driver, p.key)
	}
}

// from0 is the binding of a call to its pod with an end of its own.
func from0(s *span, p *pod, longer int64) schemas.Binding {
	b := from(s.rec.TimeNanos, p.key, s.key, schemas.RelationInvoked, schemas.StrengthWeak)
	b.UntilNanos = s.rec.EndedNanos + longer
	return b
}

// storyCachedToken: a service's own token, cached and used inside everybody's
// calls: each request is its own caller's.
func storyCachedToken(w *World) {
	svc := schemas.Key{Kind: schemas.KindService, Namespace: "okta.app", Value: w.key(schemas.KindService, "x", "app-").Value}
	shared, at := w.key(schemas.KindToken, "jti", "SVC."), w.moment()
	r := w.record(IDP, at-tick, schemas.ClassIssuance, "app.oauth2.token.grant.client_credentials").driven(svc)
	r.Actor = svc
	w.truly(r, from(r.mint(), shared, svc, schemas.RelationIssued, schemas.StrengthExact))
	for range 2 + w.rng.IntN(2) {
		from := w.later(at+4*tick, 20)
		t, root := w.begin(from, from+20*tick, pick(w.rng, w.pods))
		s := t.tool(root, from+tick, from+10*tick, root.pod)
		use := w.record(Gateway, from+2*tick, schemas.ClassAPICall, "crm.read").with(s.key, shared).driven(t.who)
		use.Roots = append(use.Roots, svc)
		use.Truth.Cause = s.rec.index
	}
	w.record(Gateway, at+40*tick, schemas.ClassAPICall, "crm.sync").with(shared).driven(svc)
}
