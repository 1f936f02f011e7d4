package correlate

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unsafe"

	"catena/schemas"
)

// TestEmptyInTheEnd: when event time has passed everything, nothing is held.
func TestEmptyInTheEnd(t *testing.T) {
	for seed := range uint64(20) {
		w := makeWorld(rand.New(rand.NewPCG(seed, 7)))
		e := New(Config{OutOfOrderness: time.Minute, AllowedLateness: time.Minute, Window: time.Hour})
		var out Output
		for i := range w.events {
			w.events[i].Evidence.TimestampNanos = w.events[i].TimeNanos
			e.Process(&out, w.events[i:i+1])
			checkEngine(t, e)
		}
		// From the future: it must neither stay for ever nor keep others.
		odd := schemas.Event{ID: schemas.MakeID("odd"), TimeNanos: noon + int64(1e6*time.Hour), Evidence: schemas.Evidence{Topic: "t", TimestampNanos: noon},
			Keys: []schemas.Key{{Kind: schemas.KindToken, Namespace: "jti", Value: "odd"}}, SourceIP: "10.0.0.1"}
		odd.Makes = []schemas.Binding{bind(odd.Keys[0], w.people[0], schemas.RelationIssued, schemas.StrengthExact, odd.TimeNanos, 0)}
		e.Process(&out, []schemas.Event{odd})
		for part := range int32(4) {
			end := schemas.Event{ID: schemas.MakeID("end", fmt.Sprint(part)), TimeNanos: noon + int64(48*time.Hour), Evidence: schemas.Evidence{Topic: "t", Partition: part}}
			e.Process(&out, []schemas.Event{end})
		}
		st := e.Stats()
		if st.Rows != 4 || st.Keys != 0 || e.state.bytes() != 0 {
			t.Fatalf("seed %d: %d rows (4 have just come), %d keys and %d bytes are held", seed, st.Rows, st.Keys, e.state.bytes())
		}
		for part := range int32(4) {
			e.Unassign("t", part)
		}
		if st := e.Stats(); st.Rows != 0 || st.Bytes != 0 {
			t.Fatalf("seed %d: %d rows and %d bytes are held by nobody", seed, st.Rows, st.Bytes)
		}
	}
}

// TestMemoryBound floods a small engine: the bound holds after every call,
// what is dropped is counted, and a use of a dropped key says why it is
// unknown. What was written before the drop stays as it is.
func TestMemoryBound(t *testing.T) {
	e := New(Config{MemoryBytes: 64 << 10})
	tab := newTable()
	var out Output
	say := func(ev schemas.Event) {
		e.Process(&out, []schemas.Event{ev})
		tab.write(&out)
		checkEngine(t, e)
	}
	tok := schemas.Key{Kind: schemas.KindToken, Namespace: "jti", Value: "T"}
	alice := schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: "alice"}
	mint := schemas.Event{ID: schemas.MakeID("mint"), TimeNanos: noon, Class: schemas.ClassIssuance, BindOnly: "x"}
	mint.Makes = []schemas.Binding{bind(tok, alice, schemas.RelationIssued, schemas.StrengthExact, noon, 0)}
	say(mint)
	early := schemas.Event{ID: schemas.MakeID("early"), TimeNanos: noon + int64(time.Hour), Keys: []schemas.Key{tok, {Kind: schemas.KindSession, Namespace: "s", Value: "1"}}}
	say(early)
	if tab.rows[early.ID].Grade != schemas.GradeProven {
		t.Fatalf("before the flood: %v", tab.rows[early.ID].Grade)
	}
	bob := schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: "bob"}
	for i := range 400 {
		k := schemas.Key{Kind: schemas.KindToken, Namespace: "jti", Value: fmt.Sprint("flood", i)}
		if i%20 == 0 { // keeps the row's other key in memory
			touch := schemas.Event{ID: schemas.MakeID("touch", fmt.Sprint(i)), TimeNanos: noon + 1, BindOnly: "x"}
			touch.Makes = []schemas.Binding{bind(early.Keys[1], bob, schemas.RelationAuthenticated, schemas.StrengthStated, noon+int64(time.Hour), 0)}
			say(touch)
		}
		ev := schemas.Event{ID: schemas.MakeID("flood", fmt.Sprint(i)), TimeNanos: noon + int64(i), BindOnly: "x"}
		ev.Makes = []schemas.Binding{bind(k, alice, schemas.RelationIssued, schemas.StrengthExact, noon, 0)}
		say(ev)
	}
	late := schemas.Event{ID: schemas.MakeID("late"), TimeNanos: noon + 5, Keys: []schemas.Key{tok}}
	say(late)
	if a := tab.rows[late.ID]; a.Grade != schemas.GradeUnattributed || a.Reason != schemas.ReasonEvicted || a.Frontier != tok {
		t.Errorf("use of a dropped key: %v %v at %v", a.Grade, a.Reason, a.Frontier)
	}
	// Something else that the early row depends on moves: it must not become poorer.
	poke := schemas.Event{ID: schemas.MakeID("poke"), TimeNanos: noon, BindOnly: "x"}
	poke.Makes = []schemas.Binding{bind(early.Keys[1], alice, schemas.RelationAuthenticated, schemas.StrengthStated, 0, 0)}
	say(poke)
	if a := tab.rows[early.ID]; a.Grade != schemas.GradeProven {
		t.Errorf("after the flood a row became poorer: %v %v", a.Grade, a.Reason)
	}
	if say(mint); tab.rows[late.ID].Grade != schemas.GradeProven { // the key comes back
		t.Errorf("after the mint came again: %v", tab.rows[late.ID].Grade)
	}
	for i := range 400 {
		say(schemas.Event{ID: schemas.MakeID("row", fmt.Sprint(i)), TimeNanos: noon + int64(i), Action: strings.Repeat("x", i)})
	}
	if st := e.Stats(); st.KeysEvicted == 0 || st.RowsEvicted == 0 {
		t.Errorf("evicted: %d keys, %d rows", st.KeysEvicted, st.RowsEvicted)
	}
}

// TestOutputsOwnTheirMemory overwrites the bytes that the events alias after
// every call, as the decoder does with its buffers.
func TestOutputsOwnTheirMemory(t *testing.T) {
	play := func(after func([]byte)) (string, []schemas.Binding) {
		w := makeWorld(rand.New(rand.NewPCG(11, 8)))
		e, tab := New(Config{AllowedLateness: Forever, Window: Forever}), newTable()
		var out Output
		for i := range w.events {
			ev, bytes := aliased(&w.events[i])
			e.Process(&out, []schemas.Event{ev})
			tab.write(&out)
			after(bytes)
		}
		return w.print(tab), tab.bindings
	}
	want, wantBindings := play(func([]byte) {})
	got, gotBindings := play(func(b []byte) {
		for i := range b {
			b[i] = '!'
		}
	})
	if got != want {
		t.Errorf("rows hold memory of the events:\n%s", firstDifference(got, want))
	}
	if len(gotBindings) != len(wantBindings) {
		t.Fatalf("%d bindings, want %d", len(gotBindings), len(wantBindings))
	}
	for i := range wantBindings {
		if gotBindings[i] != wantBindings[i] {
			t.Errorf("binding holds memory of the event: %v, want %v", gotBindings[i], wantBindings[i])
		}
	}
}

// aliased is an event whose strings all stand in one buffer.
func aliased(ev *schemas.Event) (schemas.Event, []byte) {
	c := ev.Clone()
	c.Keys, c.Makes, c.Ends = append([]schemas.Key(nil), c.Keys...), append([]schemas.Binding(nil), c.Makes...), append([]schemas.End(nil), c.Ends...)
	var all []*string
	key := func(k *schemas.Key) { all = append(all, &k.Namespace, &k.Value) }
	all = append(all, &c.Action, &c.SourceIP, &c.SpanID, &c.AuthMethod, &c.ActorName, &c.Decision.ID)
	key(&c.Actor)
	for i := range c.Keys {
		key(&c.Keys[i])
	}
	for i := range c.Makes {
		b := &c.Makes[i]
		key(&b.Child)
		key(&b.Parent)
		all = append(all, &b.ChildName, &b.ParentName, &b.AuthMethod)
	}
	for i := range c.Ends {
		key(&c.Ends[i].Key)
	}
	var buf []byte
	for _, s := range all {
		buf = append(buf, *s...)
	}
	at := 0
	for _, s := range all {
		if n := len(*s); n > 0 {
			*s = unsafe.String(&buf[at], n)
			at += n
		}
	}
	return c, buf
}

// TestVersions: a later owner wins over any number of revisions of an earlier
// one, and a partition that is nobody's ranks last.
func TestVersions(t *testing.T) {
	tok := schemas.Key{Kind: schemas.KindToken, Namespace: "jti", Value: "T"}
	use := schemas.Event{ID: schemas.MakeID("use"), TimeNanos: noon, Keys: []schemas.Key{tok}, Evidence: schemas.Evidence{Topic: "t"}}
	play := func(owner int64, mints int) (last uint64) {
		e := New(Config{})
		if owner != 0 {
			e.Assign("t", 0, owner)
		}
		var out Output
		e.Process(&out, []schemas.Event{use})
		for i := range mints {
			who := schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: fmt.Sprint(i)}
			ev := schemas.Event{ID: schemas.MakeID(fmt.Sprint(i)), TimeNanos: noon, BindOnly: "x", Evidence: schemas.Evidence{Topic: "t", Offset: 1}}
			ev.Makes = []schemas.Binding{bind(tok, who, schemas.RelationIssued, schemas.StrengthExact, 0, 0)}
			e.Process(&out, []schemas.Event{ev})
		}
		for _, a := range out.Actions {
			if a.Version <= last {
				t.Fatalf("version %d after %d", a.Version, last)
			}
			last = a.Version
		}
		for _, b := range out.Bindings {
			if want := schemas.MakeVersion(owner, 1); b.Version != want {
				t.Fatalf("binding has version %d, want %d", b.Version, want)
			}
		}
		return last
	}
	if stale, fresh, nobody := play(1000, 50), play(1001, 0), play(0, 50); stale >= fresh || nobody >= stale {
		t.Errorf("versions: stale owner %d, next owner %d, nobody %d", stale, fresh, nobody)
	}
}

// TestRestoreAfterCrash: what is complete is not written again, and what the
// crash tore apart is mended when the records are read again.
func TestRestoreAfterCrash(t *testing.T) {
	s := parseScript(t, `
mint 0s issuance g
  make token:jti:T <- session:okta:S issued exact
login 1s login l
  key session:okta:S
  make session:okta:S <- human:email:alice authenticated exact always mfa=yes
use 5s api_call x
  key token:jti:T
`)
	events := s.events()
	first, tab := New(Config{}), newTable()
	var out Output
	first.Process(&out, events)
	tab.write(&out)
	pr := newPrinter(s.names, events)
	want := pr.rows(tab, s.order)

	whole := New(Config{})
	whole.Assign("t", 0, 2)
	whole.Restore(&out, tab.loadBindings(), tab.load())
	if len(out.Actions)+len(out.Bindings) != 0 {
		t.Errorf("%d rows and %d bindings were written again", len(out.Actions), len(out.Bindings))
	}
	for name, torn := range map[string]func() ([]schemas.Binding, []*schemas.Action){
		"bindings lost": func() ([]schemas.Binding, []*schemas.Action) { return nil, tab.load() },
		"rows lost":     func() ([]schemas.Binding, []*schemas.Action) { return tab.loadBindings(), nil },
		"poor row kept": func() ([]schemas.Binding, []*schemas.Action) {
			poor := newTable()
			var out Output
			New(Config{}).Process(&out, events[2:])
			poor.write(&out)
			return tab.loadBindings(), poor.load()
		},
	} {
		t.Run(name, func(t *testing.T) {
			bindings, rows := torn()
			e, after := New(Config{}), newTable()
			e.Assign("t", 0, 2)
			for _, a := range rows {
				after.rows[a.ID] = a
			}
			var out Output
			e.Restore(&out, bindings, rows)
			after.write(&out)
			e.Process(&out, events)
			after.write(&out)
			checkEngine(t, e)
			if got := pr.rows(after, s.order); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// TestRestoreKeepsTheCause: the tool call and its decision are too old to be
// taken back with the row that they caused. The row must not become poorer
// when something else about it is learned.
func TestRestoreKeepsTheCause(t *testing.T) {
	s := parseScript(t, `
tool 0s tool_call execute_tool span=T/t
  make call:span:T/t <- session:conv:C ran_as exact always
ask 1s decision opa decision=deny/d1
  key call:span:T/t
effect 5s api_call x
  key request:aws:R
  make request:aws:R <- call:span:T/t invoked exact
poke 6s login l
  make session:conv:C <- human:email:alice authenticated exact always
logout 3s session logout
  end session:conv:C
`)
	events := s.events()
	tab := newTable()
	var out Output
	New(Config{}).Process(&out, events[:4])
	tab.write(&out)
	before := *tab.rows[events[2].ID]
	e := New(Config{})
	e.Assign("t", 0, 2)
	e.Restore(&out, tab.loadBindings(), []*schemas.Action{&before})
	e.Process(&out, events[4:])
	tab.write(&out)
	after := tab.rows[events[2].ID]
	if after.CauseID != events[0].ID || after.CauseGrade != schemas.CauseExact || after.PolicyDecision != schemas.VerdictDeny || after.Flags&schemas.FlagDeniedButDone == 0 {
		t.Errorf("cause %v %v, policy %v, flags %v", after.CauseID, after.CauseGrade, after.PolicyDecision, after.Flags)
	}
}

// TestLongKeys: keys longer than any source writes neither stop the engine nor
// become one because they begin alike, and they leave as others do.
func TestLongKeys(t *testing.T) {
	long := strings.Repeat("x", 1<<16+7)
	alice := schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: "alice"}
	e, tab := New(Config{OutOfOrderness: time.Minute, AllowedLateness: time.Minute, Window: time.Hour}), newTable()
	var out Output
	say := func(ev schemas.Event) {
		ev.Evidence = schemas.Evidence{Topic: "t"}
		e.Process(&out, []schemas.Event{ev})
		tab.write(&out)
		checkEngine(t, e)
	}
	one := schemas.Key{Kind: schemas.KindToken, Namespace: "jti", Value: long + "1"}
	two := schemas.Key{Kind: schemas.KindToken, Namespace: "jti", Value: long + "2"}
	odd := schemas.Key{Kind: schemas.KindToken, Namespace: long, Value: "1"}
	mint := schemas.Event{ID: schemas.MakeID("mint"), TimeNanos: noon, BindOnly: "x"}
	mint.Makes = []schemas.Binding{bind(one, alice, schemas.RelationIssued, schemas.StrengthExact, noon, 0)}
	say(mint)
	for name, k := range map[string]schemas.Key{"one": one, "two": two, "odd": odd} {
		say(schemas.Event{ID: schemas.MakeID(name), TimeNanos: noon + 1, Keys: []schemas.Key{k}})
		if got := tab.rows[schemas.MakeID(name)].Grade == schemas.GradeProven; got != (name == "one") {
			t.Errorf("%s: proven %v", name, got)
		}
	}
	say(schemas.Event{ID: schemas.MakeID("end"), TimeNanos: noon + int64(48*time.Hour)})
	if st := e.Stats(); st.Keys != 0 || st.Rows != 1 {
		t.Errorf("%d keys and %d rows are held in the end", st.Keys, st.Rows)
	}
}

// TestVisitLimit: bindings that fan out at every step are cut off, in bounded
// work and without a claim.
func TestVisitLimit(t *testing.T) {
	e := New(Config{})
	k := func(level, i int) schemas.Key {
		return schemas.Key{Kind: schemas.KindToken, Namespace: "jti", Value: fmt.Sprintf("%d.%d", level, i)}
	}
	ev := schemas.Event{ID: schemas.MakeID("mesh"), TimeNanos: noon, BindOnly: "x"}
	for level := range 20 {
		for i := range 4 {
			for j := range 4 {
				ev.Makes = append(ev.Makes, bind(k(level, i), k(level+1, j), schemas.RelationExchanged, schemas.StrengthExact, 0, 0))
			}
		}
	}
	for i := range 4 {
		ev.Makes = append(ev.Makes, bind(k(20, i), schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: "alice"}, schemas.RelationIssued, schemas.StrengthExact, 0, 0))
	}
	use := schemas.Event{ID: schemas.MakeID("use"), TimeNanos: noon, Keys: []schemas.Key{k(0, 0)}}
	var out Output
	e.Process(&out, []schemas.Event{ev, use})
	checkEngine(t, e)
	a := out.Actions[0]
	if a.Grade == schemas.GradeProven || a.Grade == schemas.GradeStated {
		t.Errorf("%v %v for a mesh that was not walked to the end", a.Grade, a.Reason)
	}
	if len(a.Candidates) > maxCandidates {
		t.Errorf("%d candidates", len(a.Candidates))
	}
	t.Logf("%v %v flags %v", a.Grade, a.Reason, a.Flags)
}

// TestManyCandidates: a row lists a bounded number of competing parents.
func TestManyCandidates(t *testing.T) {
	e := New(Config{})
	pod := schemas.Key{Kind: schemas.KindWorkload, Namespace: "k8s.pod_uid", Value: "P"}
	var events []schemas.Event
	for i := range 2 * maxCandidates {
		span := schemas.Key{Kind: schemas.KindCall, Namespace: "span", Value: fmt.Sprintf("%d/1", i)}
		who := schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: fmt.Sprint(i)}
		ev := schemas.Event{ID: schemas.MakeID(fmt.Sprint(i)), TimeNanos: noon, BindOnly: "x"}
		ev.Makes = []schemas.Binding{bind(span, who, schemas.RelationInvoked, schemas.StrengthExact, 0, 0),
			bind(pod, span, schemas.RelationInvoked, schemas.StrengthWeak, noon, noon+int64(time.Minute))}
		events = append(events, ev)
	}
	events = append(events, schemas.Event{ID: schemas.MakeID("use"), TimeNanos: noon + 1, Keys: []schemas.Key{pod}})
	var out Output
	e.Process(&out, events)
	if a := out.Actions[0]; a.Grade != schemas.GradeAmbiguous || len(a.Candidates) != maxCandidates {
		t.Errorf("%v with %d candidates, want ambiguous with %d", a.Grade, len(a.Candidates), maxCandidates)
	}
}

// TestEveryPlaceIsAccountedFor delivers copies of one event from many places in
// any order: in the end each place is the row's own or was named a duplicate.
func TestEveryPlaceIsAccountedFor(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		e := New(Config{})
		var out Output
		places := map[schemas.Evidence]bool{}
		for range 40 {
			at := schemas.Evidence{Topic: "t", Partition: rng.Int32N(3), Offset: rng.Int64N(10), RecordIndex: rng.Int32N(2)}
			places[at] = true
			e.Process(&out, []schemas.Event{{ID: schemas.MakeID("x"), TimeNanos: noon, Evidence: at}})
		}
		named := map[schemas.Evidence]bool{out.Actions[len(out.Actions)-1].Evidence: true}
		for _, d := range out.Duplicates {
			if d.Event != schemas.MakeID("x") {
				t.Fatalf("seed %d: a duplicate of event %s, of which there is none", seed, d.Event)
			}
			if last := out.Actions[len(out.Actions)-1].Evidence; d.At == last {
				t.Fatalf("seed %d: the row's own place %v is called a duplicate", seed, last)
			}
			named[d.At] = true
		}
		if !maps.Equal(named, places) {
			t.Errorf("seed %d: accounted for %v, delivered at %v", seed, named, places)
		}
	}
}
