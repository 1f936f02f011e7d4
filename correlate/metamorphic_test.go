package correlate

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"catena/schemas"
)

var seedFlag = flag.Uint64("seed", 0, "play only this world of the metamorphic test")

// TestMetamorphic makes up small worlds in which it is known who did what, and
// delivers the records that tell of them in many ways: any order, any cut into
// batches, duplicates, crashes and restarts. The final rows must be the same,
// and whatever is called proven must be true.
func TestMetamorphic(t *testing.T) {
	worlds, orders := uint64(200), uint64(6)
	if testing.Short() || raceEnabled {
		worlds = 40
	}
	first := uint64(1)
	if *seedFlag != 0 {
		first, worlds, orders = *seedFlag, *seedFlag, 60
	}
	proven := 0
	for seed := first; seed <= worlds; seed++ {
		w := makeWorld(rand.New(rand.NewPCG(seed, 2)))
		if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			want := w.deliver(t, rand.New(rand.NewPCG(seed, 3)))
			for id, a := range want.rows {
				if a.Grade != schemas.GradeProven {
					continue
				}
				proven++
				if roots, ok := w.truth[id]; ok && !slices.Contains(roots, a.Root) {
					t.Fatalf("proven and wrong: in truth it was one of %v\n%s\n%s", roots, w.print(want), w.tell())
				}
			}
			for order := range orders {
				got := w.deliver(t, rand.New(rand.NewPCG(seed, 100+order)))
				if g, o := w.print(got), w.print(want); g != o {
					t.Fatalf("order %d gives other rows\ngot:\n%s\nwant:\n%s\n%s", order, firstDifference(g, o), firstDifference(o, g), w.tell())
				}
			}
		}) {
			t.Fatalf("replay with -run Metamorphic -seed %d", seed)
		}
	}
	t.Logf("%d rows proven", proven)
	if proven < 100 && *seedFlag == 0 {
		t.Errorf("only %d rows were proven: the worlds say too little", proven)
	}
}

// TestTogether puts the events of all scenarios into one engine: strangers
// must not disturb each other's rows.
func TestTogether(t *testing.T) {
	w := &world{names: map[schemas.ID]string{}}
	for i, file := range scenarioFiles(t) {
		ar, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s := parseScript(t, section(ar, "events"))
		if s.ordered || s.cfg != (Config{}) {
			continue
		}
		for _, ev := range s.events() {
			ev.Evidence.Topic, ev.Evidence.Offset = fmt.Sprint("t", i), ev.Evidence.Offset%1000
			if _, ok := w.names[ev.ID]; ok { // the scenarios share names and keys: all the better
				ev.ID = schemas.MakeID(file, s.names[ev.ID])
			}
			w.names[ev.ID] = fmt.Sprint(i, ".", s.names[ev.ID])
			w.events = append(w.events, ev)
		}
	}
	want := w.print(w.deliver(t, rand.New(rand.NewPCG(1, 4))))
	for order := range uint64(24) {
		if got := w.print(w.deliver(t, rand.New(rand.NewPCG(order, 5)))); got != want {
			t.Fatalf("order %d gives other rows\ngot:\n%s\nwant:\n%s", order, firstDifference(got, want), firstDifference(want, got))
		}
	}
}

// firstDifference is where a departs from b, and what stands around it.
func firstDifference(a, b string) string {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return "…" + a[max(0, i-600):min(len(a), i+900)] + "…"
}

// world is a made-up world: what happened, and the records that tell of it.
type world struct {
	rng    *rand.Rand
	events []schemas.Event
	names  map[schemas.ID]string
	truth  map[schemas.ID][]schemas.Key // who may be called the root of an event

	skews   [4]time.Duration // by which each system's clock is off
	people  []schemas.Key
	holders map[schemas.Key]schemas.Key // whose a session or token is, where it has one owner
}

// The systems that write records.
const (
	sysIDP = iota
	sysCloud
	sysAgent
	sysCI
)

const tick = 500 * time.Millisecond

func makeWorld(rng *rand.Rand) *world {
	w := &world{rng: rng, names: map[schemas.ID]string{}, truth: map[schemas.ID][]schemas.Key{}, holders: map[schemas.Key]schemas.Key{}}
	for i := range w.skews { // two clocks differ by at most the allowed skew
		w.skews[i] = time.Duration(rng.IntN(3)-1) * tick
	}
	for _, p := range []string{"alice", "bob", "carol"} {
		w.people = append(w.people, schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: p})
	}
	var sessions, tokens []schemas.Key
	for range 2 + rng.IntN(3) {
		sessions = append(sessions, w.login())
	}
	for range 1 + rng.IntN(4) {
		tokens = append(tokens, w.token(pick(rng, sessions)))
	}
	if rng.IntN(2) == 0 {
		w.shared(sessions)
	}
	pods := []schemas.Key{w.key(schemas.KindWorkload, "k8s.pod_uid"), w.key(schemas.KindWorkload, "k8s.pod_uid")}
	for i, pod := range pods {
		w.pod(pod, fmt.Sprintf("10.0.0.%d", i+1))
	}
	for range 1 + rng.IntN(3) {
		w.agent(tokens, pods)
	}
	if rng.IntN(2) == 0 {
		w.runner()
	}
	if rng.IntN(2) == 0 {
		w.pipeline()
	}
	return w
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

func (w *world) key(kind schemas.Kind, namespace string) schemas.Key {
	return schemas.Key{Kind: kind, Namespace: namespace, Value: fmt.Sprintf("%s%d", kind.String()[:1], w.rng.IntN(1e9))}
}

// lost says that a record never arrives.
func (w *world) lost() bool { return w.rng.IntN(7) == 0 }

// at is a true time, on a coarse grid so that edges are met.
func (w *world) at() time.Duration { return time.Duration(w.rng.IntN(120)) * tick }

// stamp is what a system's clock writes for a true time.
func (w *world) stamp(sys int, at time.Duration) int64 { return noon + int64(at+w.skews[sys]) }

// record writes what happened at a true time; roots are who may be called its root.
func (w *world) record(sys int, at time.Duration, class schemas.Class, action string, roots ...schemas.Key) *schemas.Event {
	n := len(w.events)
	ev := schemas.Event{ID: schemas.MakeID("world", fmt.Sprint(n, w.rng.Uint64())), Source: "test", TimeNanos: w.stamp(sys, at), Class: class,
		Action: action, Outcome: schemas.OutcomeSuccess, Evidence: schemas.Evidence{Topic: "t", Partition: int32(sys), Offset: int64(n)}}
	if sys == sysCloud { // writes seconds
		ev.ResolutionNanos = int64(time.Second)
		ev.TimeNanos -= ev.TimeNanos % ev.ResolutionNanos
	}
	w.names[ev.ID] = fmt.Sprintf("%d.%s", n, action)
	if len(roots) > 0 {
		w.truth[ev.ID] = roots
	}
	w.events = append(w.events, ev)
	return &w.events[n]
}

func bind(child, parent schemas.Key, r schemas.Relation, s schemas.Strength, from, until int64) schemas.Binding {
	return schemas.Binding{Child: child, Parent: parent, Relation: r, Strength: s, FromNanos: from, UntilNanos: until}
}

func (w *world) login() schemas.Key {
	s, p, at := w.key(schemas.KindSession, "okta"), pick(w.rng, w.people), w.at()/4
	w.holders[s] = p
	for i := range 1 + w.rng.IntN(2) { // each record of the session shows its owner
		if w.lost() {
			continue
		}
		ev := w.record(sysIDP, at+time.Duration(i)*w.at(), schemas.ClassLogin, "login", p)
		ev.Keys = []schemas.Key{s}
		b := bind(s, p, schemas.RelationAuthenticated, schemas.StrengthExact, 0, 0)
		b.MFA, b.AuthMethod, b.ParentName = schemas.MFA(w.rng.IntN(3)), pick(w.rng, []string{"", "push", "totp"}), pick(w.rng, []string{"", "A", "B"})
		ev.Makes = []schemas.Binding{b}
	}
	if w.rng.IntN(3) == 0 {
		ev := w.record(sysIDP, w.at(), schemas.ClassSession, "logout", p)
		ev.Keys = []schemas.Key{s}
		ev.Ends = []schemas.End{{Key: s, AtNanos: ev.TimeNanos, Revoked: w.rng.IntN(2) == 0}}
	}
	if w.rng.IntN(3) == 0 { // somebody tries their name
		ev := w.record(sysIDP, at, schemas.ClassLogin, "failed")
		ev.Outcome, ev.Actor, ev.Keys = schemas.OutcomeFailure, pick(w.rng, w.people), []schemas.Key{s}
		ev.Makes = []schemas.Binding{bind(s, ev.Actor, schemas.RelationAuthenticated, schemas.StrengthExact, 0, 0)}
	}
	return s
}

func (w *world) token(session schemas.Key) schemas.Key {
	tok, p, at := w.key(schemas.KindToken, "jti"), w.holders[session], w.at()/2
	w.holders[tok] = p
	if !w.lost() {
		ev := w.record(sysIDP, at, schemas.ClassIssuance, "grant", p)
		ev.Keys = []schemas.Key{session}
		b := bind(tok, session, schemas.RelationIssued, schemas.StrengthExact, ev.TimeNanos, 0)
		if w.rng.IntN(3) == 0 {
			b.UntilNanos = w.stamp(sysIDP, at+w.at())
		}
		if w.rng.IntN(3) == 0 {
			b.ExpiresNanos = w.stamp(sysIDP, at+w.at())
		}
		ev.Makes = []schemas.Binding{b}
	}
	for range 1 + w.rng.IntN(3) {
		use := w.record(sysCloud, max(at, w.at()), schemas.ClassAPICall, "use_token", p)
		use.Keys = []schemas.Key{tok}
		use.SourceIP = pick(w.rng, []string{"", "10.0.0.1", "10.0.0.2", "svc.example"})
	}
	return tok
}

// shared is a session that goes from hand to hand, as a runner's does. None of
// its records is lost: nobody could tell.
func (w *world) shared(sessions []schemas.Key) {
	s := w.key(schemas.KindSession, "runner")
	type turn struct {
		from  time.Duration
		owner schemas.Key
	}
	var turns []turn
	for at := w.at() / 8; len(turns) < 2+w.rng.IntN(3); at += tick + w.at()/8 {
		parent := pick(w.rng, sessions)
		ev := w.record(sysCI, at, schemas.ClassSession, "takes_over", w.holders[parent])
		ev.Keys = []schemas.Key{parent}
		ev.Makes = []schemas.Binding{bind(s, parent, schemas.RelationDelegated, schemas.StrengthExact, ev.TimeNanos, 0)}
		turns = append(turns, turn{at, w.holders[parent]})
	}
	for range 6 {
		tn := w.rng.IntN(len(turns))
		at := turns[tn].from + time.Duration(w.rng.IntN(4))*tick
		if tn+1 < len(turns) && at >= turns[tn+1].from {
			at = turns[tn+1].from - tick
		}
		ev := w.record(w.rng.IntN(3), at, schemas.ClassCommand, "use_shared", turns[tn].owner)
		ev.Keys = []schemas.Key{s}
	}
}

func (w *world) pod(pod schemas.Key, ip string) {
	if w.lost() {
		return
	}
	ev := w.record(sysCI, 0, schemas.ClassSession, "pod_started", pod)
	ev.Makes = []schemas.Binding{bind(schemas.Key{Kind: schemas.KindWorkload, Namespace: "ip", Value: ip}, pod, schemas.RelationRanAs, schemas.StrengthWeak, ev.TimeNanos, 0)}
	cred := w.cred(pod)
	mint := w.record(sysCloud, 0, schemas.ClassIssuance, "mint", pod)
	mint.Makes = []schemas.Binding{bind(cred, pod, schemas.RelationIssued, schemas.StrengthExact, mint.TimeNanos, 0)}
	for range 2 { // what nobody asked for
		use := w.record(sysCloud, w.at(), schemas.ClassAPICall, "housekeeping", pod)
		use.Keys, use.SourceIP = []schemas.Key{cred}, ip
	}
}

func (w *world) cred(pod schemas.Key) schemas.Key {
	return schemas.Key{Kind: schemas.KindToken, Namespace: "aws.access_key", Value: "ASIA" + pod.Value}
}

// agent is one conversation: calls within calls, some spans lost, each on a
// pod, with cloud requests that may or may not be linked to their span.
func (w *world) agent(tokens, pods []schemas.Key) {
	conv, tok := w.key(schemas.KindSession, "conv"), pick(w.rng, tokens)
	p, trace := w.holders[tok], fmt.Sprint("t", w.rng.IntN(1e9))
	begin := w.at() / 2
	root := schemas.Key{Kind: schemas.KindCall, Namespace: "span", Value: trace + "/0"}
	if !w.lost() {
		ev := w.record(sysAgent, begin, schemas.ClassSession, "invoke_agent", p)
		w.own(ev, root)
		ev.Makes = []schemas.Binding{bind(root, conv, schemas.RelationRanAs, schemas.StrengthExact, 0, 0)}
		if w.rng.IntN(2) == 0 {
			ev.Makes = append(ev.Makes, bind(conv, p, schemas.RelationDelegated, schemas.StrengthStated, 0, 0))
		}
		if w.rng.IntN(3) > 0 {
			ev.Makes = append(ev.Makes, bind(conv, tok, schemas.RelationDelegated, schemas.StrengthExact, ev.TimeNanos, 0))
		}
	}
	spans := []schemas.Key{root}
	for i := range 2 + w.rng.IntN(4) {
		span := schemas.Key{Kind: schemas.KindCall, Namespace: "span", Value: fmt.Sprintf("%s/%d", trace, i+1)}
		from := begin + time.Duration(i)*tick
		until := from + tick + w.at()/8
		w.call(span, pick(w.rng, spans), pick(w.rng, pods), p, from, until)
		spans = append(spans, span)
	}
}

func (w *world) own(ev *schemas.Event, span schemas.Key) {
	ev.Keys = append(ev.Keys, span)
	ev.TraceID, ev.SpanID = "", span.Value[len(span.Value)-1:]
}

func (w *world) call(span, parent, pod, p schemas.Key, from, until time.Duration) {
	if !w.lost() {
		ev := w.record(sysAgent, from, schemas.ClassToolCall, pick(w.rng, []string{"execute_tool", "tools/call x"}), p)
		w.own(ev, span)
		ev.EndedNanos = w.stamp(sysAgent, until)
		ev.Makes = []schemas.Binding{
			bind(span, parent, schemas.RelationInvoked, schemas.StrengthExact, ev.TimeNanos, 0),
			bind(pod, span, schemas.RelationInvoked, schemas.StrengthWeak, ev.TimeNanos, ev.EndedNanos),
		}
		if w.rng.IntN(3) == 0 {
			ev.BindOnly = "plain_span"
		}
		if b := ev.Makes[1]; w.rng.IntN(3) == 0 { // the other side tells the same call, with another end
			b.UntilNanos -= int64(tick)
			other := w.record(sysAgent, from, schemas.ClassOther, "server_span")
			other.BindOnly, other.Makes = "plain_span", []schemas.Binding{b}
		}
	}
	for range w.rng.IntN(3) {
		d := w.record(sysAgent, from, schemas.ClassDecision, "decide", p)
		d.Decision = schemas.Decision{Verdict: schemas.Verdict(1 + w.rng.IntN(3)), ID: fmt.Sprint("d", len(w.events))}
		d.Keys = []schemas.Key{span}
	}
	for range 1 + w.rng.IntN(2) {
		req := w.key(schemas.KindRequest, "aws")
		at := from + time.Duration(w.rng.Int64N(int64((until-from)/tick)))*tick
		ev := w.record(sysCloud, at, schemas.ClassDataAccess, "effect", p, pod)
		ev.Keys, ev.SourceIP = []schemas.Key{req, w.cred(pod)}, pick(w.rng, []string{"", "10.0.0.1", "10.0.0.2", "203.0.113.9"})
		if w.rng.IntN(3) == 0 { // the owner's copy of the same request
			twin := w.record(sysCloud, at, schemas.ClassDataAccess, "twin")
			twin.Keys = []schemas.Key{req}
		}
		if w.rng.IntN(2) == 0 {
			link := w.record(sysAgent, at, schemas.ClassOther, "link")
			link.BindOnly = "plain_span"
			link.Makes = []schemas.Binding{bind(req, span, schemas.RelationInvoked, schemas.StrengthExact, link.TimeNanos, 0)}
		}
	}
}

// runner is a machine that runs one job after the other; what it does is the
// running job's.
func (w *world) runner() {
	machine, from := w.key(schemas.KindWorkload, "ci.runner"), time.Duration(0)
	for range 2 + w.rng.IntN(3) {
		job, p := w.key(schemas.KindSession, "job"), pick(w.rng, w.people)
		until := from + 2*tick + w.at()/4
		ev := w.record(sysCI, from, schemas.ClassSession, "job", p)
		ev.Keys = []schemas.Key{job}
		ev.Makes = []schemas.Binding{
			bind(job, p, schemas.RelationAuthenticated, schemas.StrengthExact, 0, 0),
			bind(machine, job, schemas.RelationRanAs, schemas.StrengthExact, ev.TimeNanos, w.stamp(sysCI, until)),
		}
		for range 2 {
			at := from + time.Duration(w.rng.Int64N(int64((until-from)/tick)))*tick
			use := w.record(w.rng.IntN(3), at, schemas.ClassCommand, "on_runner", p, machine)
			use.Keys = []schemas.Key{machine}
		}
		from = until + time.Duration(w.rng.IntN(2))*tick
	}
}

// pipeline is a web identity whose runs overlap.
func (w *world) pipeline() {
	subject := w.key(schemas.KindService, "github.sub")
	for range 1 + w.rng.IntN(3) {
		run, p, from := w.key(schemas.KindSession, "run"), pick(w.rng, w.people), w.at()/2
		ev := w.record(sysCI, from, schemas.ClassSession, "run", p)
		ev.Keys = []schemas.Key{run}
		ev.Makes = []schemas.Binding{
			bind(run, p, schemas.RelationAuthenticated, schemas.StrengthExact, 0, 0),
			bind(subject, run, schemas.RelationRanAs, schemas.StrengthWeak, ev.TimeNanos, 0),
		}
		if w.rng.IntN(2) == 0 {
			end := w.record(sysCI, from+w.at()/4, schemas.ClassSession, "run_completed", p)
			end.Ends = []schemas.End{{Key: run, AtNanos: end.TimeNanos}}
		}
		at := from + time.Duration(w.rng.IntN(10))*tick
		tok := w.key(schemas.KindToken, "aws.access_key")
		mint := w.record(sysCloud, at, schemas.ClassIssuance, "web_identity", p, subject)
		mint.Makes = []schemas.Binding{bind(tok, subject, schemas.RelationAssumed, schemas.StrengthExact, mint.TimeNanos, 0)}
		use := w.record(sysCloud, at+w.at()/8, schemas.ClassAPICall, "deploy", p, subject)
		use.Keys = []schemas.Key{tok}
	}
}

func (w *world) deliver(t testing.TB, rng *rand.Rand) *table {
	t.Helper()
	tab := deliver(t, rng, Config{AllowedLateness: Forever, Window: Forever}, w.events)
	for _, a := range tab.rows {
		if a.Evidence.Offset >= 1000 {
			t.Fatalf("%s carries the place of a copy: %d", w.names[a.ID], a.Evidence.Offset)
		}
	}
	return tab
}

func (w *world) print(tab *table) string {
	ids := make([]schemas.ID, len(w.events))
	for i := range w.events {
		ids[i] = w.events[i].ID
	}
	return newPrinter(w.names, w.events).rows(tab, ids)
}

// tell writes the records of the world, for whoever has to find the fault.
func (w *world) tell() string {
	s := "records:\n"
	for i := range w.events {
		ev := &w.events[i]
		s += fmt.Sprintf("%s %v keys %v\n", w.names[ev.ID], time.Duration(ev.TimeNanos-noon), ev.Keys)
		for _, b := range ev.Makes {
			s += fmt.Sprintf("    %v <- %v %v %v %v..%v\n", b.Child, b.Parent, b.Relation, b.Strength, time.Duration(b.FromNanos-noon), time.Duration(b.UntilNanos-noon))
		}
	}
	return s
}
