package correlate

import (
	"slices"
	"testing"
	"time"

	"catena/schemas"
)

// settleWith writes what an engine has said and answers its look-ups as the
// database does, until it has none.
func settleWith(e *Engine, tab *table, out *Output) {
	keys, since := slices.Clone(out.Wanted), out.WantedSince
	tab.write(out)
	for len(keys) > 0 {
		bindings, actions := recallFrom(e, tab, keys, since)
		e.Found(out, keys, bindings, actions)
		keys, since = slices.Clone(out.Wanted), out.WantedSince
		tab.write(out)
	}
}

func recallFrom(e *Engine, tab *table, keys []schemas.Key, wantedSince int64) ([]schemas.Binding, []*schemas.Action) {
	wanted := map[schemas.Key]bool{}
	for _, k := range keys {
		wanted[k] = true
	}
	since := e.Watermark() - int64(e.cfg.AllowedLateness)
	if wantedSince != 0 {
		since = min(since, wantedSince)
	}
	var bindings []schemas.Binding
	for _, b := range tab.loadBindings() {
		if wanted[b.Child] {
			bindings = append(bindings, b)
		}
	}
	var actions []*schemas.Action
	for _, a := range tab.load() {
		named := false
		for _, k := range a.Keys {
			named = named || wanted[k]
		}
		for _, h := range a.Hops {
			named = named || wanted[h.Key]
		}
		if named && max(a.TimeNanos, a.EndedNanos) >= since {
			actions = append(actions, a)
		}
	}
	return bindings, actions
}

const day = int64(24 * time.Hour)

// lateWorld is an engine that has gone on for a day since alice's token was
// minted and used; how it came to be depends on whether the mint was seen.
func lateWorld(mintSeen bool) (e *Engine, tab *table, mint, use schemas.Event) {
	tok := schemas.Key{Kind: schemas.KindToken, Namespace: "jti", Value: "T"}
	alice := schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: "alice"}
	at := func(offset int64) schemas.Evidence { return schemas.Evidence{Topic: "t", Offset: offset} }
	mint = schemas.Event{ID: schemas.MakeID("mint"), TimeNanos: noon, Class: schemas.ClassIssuance, Evidence: at(1)}
	mint.Makes = []schemas.Binding{bind(tok, alice, schemas.RelationIssued, schemas.StrengthExact, noon, 0)}
	use = schemas.Event{ID: schemas.MakeID("use"), TimeNanos: noon + 1e9, Class: schemas.ClassAPICall, Keys: []schemas.Key{tok}, Evidence: at(2)}
	e, tab = New(Config{Window: time.Hour, Lookup: true}), newTable()
	var out Output
	if mintSeen {
		e.Process(&out, []schemas.Event{mint})
		tab.write(&out)
	}
	out.Reset()
	e.Process(&out, []schemas.Event{use})
	tab.write(&out)
	out.Reset()
	for h := range 25 {
		e.Process(&out, []schemas.Event{{ID: schemas.MakeID("tick", string(rune('a'+h))), TimeNanos: noon + int64(h)*int64(time.Hour), Evidence: at(int64(10 + h))}})
		settleWith(e, tab, &out)
	}
	return e, tab, mint, use
}

func (t *table) row(id schemas.ID) *schemas.Action {
	for _, a := range t.load() {
		if a.ID == id {
			return a
		}
	}
	return nil
}

// TestLateReplay reads a record again whose row and keys have left memory, in
// the same process and in one that has restarted: the good row stays.
func TestLateReplay(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		e, tab, _, use := lateWorld(true)
		if got := tab.row(use.ID); got.Grade != schemas.GradeProven {
			t.Fatalf("the row is %v from the start", got.Grade)
		}
		var out Output
		if restarted {
			e = New(Config{Window: time.Hour, Lookup: true})
			e.Assign("t", 0, 2)
			e.Older([]schemas.Key{use.Keys[0]})
			e.Process(&out, []schemas.Event{{ID: schemas.MakeID("now"), TimeNanos: noon + day, Evidence: schemas.Evidence{Topic: "t", Offset: 99}}})
			out.Reset()
		}
		ids, first, last := e.Unknown(nil, []schemas.Event{use})
		if len(ids) != 1 || ids[0] != use.ID || first != use.TimeNanos || last != use.TimeNanos {
			t.Fatalf("unknown: %v from %d to %d", ids, first, last)
		}
		e.Remember(&out, []*schemas.Action{tab.row(use.ID)})
		settleWith(e, tab, &out)
		again := use
		again.Evidence.Offset = 77 // delivered at another place, too
		e.Process(&out, []schemas.Event{again})
		if len(out.Duplicates) != 1 || out.Duplicates[0].At.Offset != 77 {
			t.Errorf("restarted %v: duplicates %v", restarted, out.Duplicates)
		}
		settleWith(e, tab, &out)
		if got := tab.row(use.ID); got.Grade != schemas.GradeProven || got.Evidence.Offset != 2 {
			t.Errorf("restarted %v: the row became %v (%v) at offset %d", restarted, got.Grade, got.Reason, got.Evidence.Offset)
		}
	}
}

// TestLateUse is of a key that was minted before the restart, further back
// than what was loaded: it is looked up.
func TestLateUse(t *testing.T) {
	_, tab, _, use := lateWorld(true)
	e := New(Config{Window: time.Hour, Lookup: true})
	var out Output
	e.Process(&out, []schemas.Event{{ID: schemas.MakeID("now"), TimeNanos: noon + day, Evidence: schemas.Evidence{Topic: "t", Offset: 99}}})
	use.ID, use.Evidence.Offset = schemas.MakeID("another use"), 100
	out.Reset()
	e.Process(&out, []schemas.Event{use})
	settleWith(e, tab, &out)
	if got := tab.row(use.ID); got.Grade != schemas.GradeProven || got.Flags&schemas.FlagLate == 0 {
		t.Errorf("got %v (%v), flags %v", got.Grade, got.Reason, got.Flags)
	}
}

// TestLateEvidence corrects a row that is final: the mint comes a day late.
func TestLateEvidence(t *testing.T) {
	e, tab, mint, use := lateWorld(false)
	if got := tab.row(use.ID); got.Grade != schemas.GradeUnattributed {
		t.Fatalf("without the mint the row is %v", got.Grade)
	}
	var out Output
	e.Process(&out, []schemas.Event{mint})
	settleWith(e, tab, &out)
	if got := tab.row(use.ID); got.Grade != schemas.GradeProven {
		t.Errorf("with the mint it is %v (%v)", got.Grade, got.Reason)
	}
	checkEngine(t, e)
}

// TestReread: events that are read again are looked up whatever their time, and
// are not flagged for it.
func TestReread(t *testing.T) {
	_, _, mint, use := lateWorld(true)
	e := New(Config{Lookup: true, Reread: true, AllowedLateness: Forever})
	ids, first, last := e.Unknown(nil, []schemas.Event{use, mint})
	if !slices.Equal(ids, []schemas.ID{use.ID, mint.ID}) || first != mint.TimeNanos || last != use.TimeNanos {
		t.Errorf("unknown %v from %d to %d, want both events", ids, first, last)
	}
	var out Output
	e.Process(&out, []schemas.Event{use})
	if len(out.Actions) != 1 || out.Actions[0].Flags&schemas.FlagLate != 0 {
		t.Errorf("rows %+v, want one that is not flagged", out.Actions)
	}
	if !slices.Contains(out.Wanted, use.Keys[0]) || out.WantedSince == 0 {
		t.Errorf("wanted %v since %d, want the event's key", out.Wanted, out.WantedSince)
	}
	if ids, _, _ = e.Unknown(nil, []schemas.Event{use}); len(ids) != 0 {
		t.Errorf("%v is looked up though it is in memory", ids)
	}
}

// TestOlder: a key of which the tables know more is asked for at once where a
// row rests on it, and otherwise when one comes to.
func TestOlder(t *testing.T) {
	session := func(id string) schemas.Key {
		return schemas.Key{Kind: schemas.KindSession, Namespace: "okta", Value: id}
	}
	e := New(Config{Window: time.Hour, Lookup: true})
	var out Output
	e.Restore(&out, []schemas.Binding{bind(session("idle"), session("busy"), schemas.RelationDelegated, schemas.StrengthExact, noon, 0)}, nil)
	use := func(id string, k schemas.Key) []schemas.Event {
		return []schemas.Event{{ID: schemas.MakeID(id), TimeNanos: noon, Class: schemas.ClassAPICall, Keys: []schemas.Key{k}, Evidence: schemas.Evidence{Topic: "t", Offset: int64(len(id))}}}
	}
	e.Process(&out, use("a use", session("busy")))
	for _, c := range []struct {
		key   schemas.Key
		asked bool
	}{{session("busy"), true}, {session("idle"), false}, {session("unheard of"), false}} {
		out.Reset()
		e.Older([]schemas.Key{c.key})
		e.Process(&out, nil)
		if slices.Contains(out.Wanted, c.key) != c.asked {
			t.Errorf("wanted %v after %v, want it among them: %v", out.Wanted, c.key, c.asked)
		}
	}
	out.Reset()
	e.Process(&out, use("the first use", session("idle")))
	if !slices.Contains(out.Wanted, session("idle")) {
		t.Errorf("wanted %v when a row came to rest on %v", out.Wanted, session("idle"))
	}
	checkEngine(t, e)
}

// TestShareFirstUse: the first use of a workload's token is told to the others,
// whoever drove it, and as soon as it is known whose the token is.
func TestShareFirstUse(t *testing.T) {
	key := func(kind schemas.Kind, namespace, value string) schemas.Key {
		return schemas.Key{Kind: kind, Namespace: namespace, Value: value}
	}
	tok, pod, session := key(schemas.KindToken, "jti", "T"), key(schemas.KindWorkload, "k8s.pod_uid", "P"), key(schemas.KindSession, "okta", "S")
	mint := bind(tok, pod, schemas.RelationIssued, schemas.StrengthExact, noon-1e9, 0)
	login := bind(session, key(schemas.KindHuman, "email", "alice"), schemas.RelationAuthenticated, schemas.StrengthExact, 0, 0)
	run := func(span, who string) []schemas.Binding {
		call := key(schemas.KindCall, "span", "T/"+span)
		on := bind(pod, call, schemas.RelationInvoked, schemas.StrengthWeak, noon-1e9, noon+60e9)
		return []schemas.Binding{on, bind(call, key(schemas.KindHuman, "email", who), schemas.RelationDelegated, schemas.StrengthExact, 0, 0)}
	}
	two := append(run("1", "alice"), run("2", "bob")...)
	use := schemas.Event{ID: schemas.MakeID("use"), TimeNanos: noon, Class: schemas.ClassDataAccess, SourceIP: "198.51.100.4", Evidence: schemas.Evidence{Topic: "t", Offset: 2}}
	for _, c := range []struct {
		name          string
		keys          []schemas.Key
		before, after []schemas.Binding
		grade         schemas.Grade
	}{
		{"ambiguous", []schemas.Key{tok}, append([]schemas.Binding{mint}, two...), nil, schemas.GradeAmbiguous},
		{"beside what drove it", []schemas.Key{tok, session}, []schemas.Binding{login}, []schemas.Binding{mint}, schemas.GradeProven},
	} {
		for _, restored := range []bool{false, true} {
			e := New(Config{Share: true})
			e.Assign("t", 0, 1000)
			var out Output
			e.Restore(&out, c.before, nil)
			ev := use
			ev.Keys = c.keys
			e.Process(&out, []schemas.Event{ev})
			if got := out.Actions[0].Grade; got != c.grade {
				t.Fatalf("%s: the row is %v, want %v", c.name, got, c.grade)
			}
			if restored {
				row := *out.Actions[0]
				e = New(Config{Share: true})
				e.Assign("t", 0, 2000)
				out.Reset()
				e.Restore(&out, c.before, []*schemas.Action{&row})
			}
			if len(c.after) > 0 && len(out.Shared) > 0 {
				t.Errorf("%s: shared before anybody knows whose token it is", c.name)
			}
			e.Learn(&out, c.after, nil)
			if len(out.Shared) != 1 || out.Shared[0].ID != use.ID {
				t.Errorf("%s, restored %v: shared %d rows, want the use", c.name, restored, len(out.Shared))
			}
			checkEngine(t, e)
		}
	}
}

// TestOvertaken: who had the partition before us writes a row once more when it
// has come back to us, of which it knows less. It is written again.
func TestOvertaken(t *testing.T) {
	tok := schemas.Key{Kind: schemas.KindToken, Namespace: "jti", Value: "T"}
	alice := schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: "alice"}
	e := New(Config{Share: true})
	e.Assign("t", 0, 2000)
	var out Output
	mint := bind(tok, alice, schemas.RelationIssued, schemas.StrengthExact, noon, 0)
	use := schemas.Event{ID: schemas.MakeID("use"), TimeNanos: noon + 1e9, Class: schemas.ClassAPICall, Keys: []schemas.Key{tok}, Evidence: schemas.Evidence{Topic: "t", Offset: 2}}
	before := New(Config{Share: true})
	before.Assign("t", 0, 1000)
	var good Output
	before.Restore(&good, []schemas.Binding{mint}, nil)
	before.Process(&good, []schemas.Event{use})
	row := *good.Actions[0]
	if row.Grade != schemas.GradeProven {
		t.Fatalf("the row is %v from the start", row.Grade)
	}
	e.Restore(&out, []schemas.Binding{mint}, []*schemas.Action{&row})
	if len(out.Actions) != 0 {
		t.Fatalf("%d rows are written that say what stands in the tables", len(out.Actions))
	}
	poor := schemas.Action{Event: row.Event, Version: row.Version + 1, Grade: schemas.GradeUnattributed, Reason: schemas.ReasonNoBindingSeen}
	for _, again := range []*schemas.Action{&row, &poor} { // what came already changes nothing
		out.Reset()
		e.Restore(&out, nil, []*schemas.Action{again})
		if (len(out.Actions) == 1) != (again == &poor) {
			t.Fatalf("version %d: %d rows are written", again.Version, len(out.Actions))
		}
	}
	if got := out.Actions[0]; got.Grade != schemas.GradeProven || got.Version <= poor.Version {
		t.Errorf("it is %v again, version %d over %d", got.Grade, got.Version, poor.Version)
	}
	out.Reset()
	e.Restore(&out, nil, []*schemas.Action{&poor})
	if len(out.Actions) != 0 {
		t.Errorf("%d rows are written for one that is older than ours", len(out.Actions))
	}
	checkEngine(t, e)
}

// TestFinalStays: a final row that a look-up brings, since others may rest on
// it, is not judged again by what memory happens to hold: here the decision that
// it was under is gone.
func TestFinalStays(t *testing.T) {
	call := schemas.Key{Kind: schemas.KindCall, Namespace: "span", Value: "T/1"}
	e := New(Config{Window: time.Hour, Lookup: true})
	var out Output
	e.Process(&out, []schemas.Event{{ID: schemas.MakeID("tick"), TimeNanos: noon + day, Evidence: schemas.Evidence{Topic: "t", Offset: 8}}})
	e.Older([]schemas.Key{call})
	out.Reset()
	e.Process(&out, []schemas.Event{{ID: schemas.MakeID("later"), TimeNanos: noon + day, Class: schemas.ClassAPICall, Keys: []schemas.Key{call}, Evidence: schemas.Evidence{Topic: "t", Offset: 9}}})
	if !slices.Contains(out.Wanted, call) {
		t.Fatalf("wanted %v, want %v", out.Wanted, call)
	}
	final := schemas.Action{Event: schemas.Event{ID: schemas.MakeID("final"), TimeNanos: noon, EndedNanos: noon + 1e9, Class: schemas.ClassToolCall, SpanID: "1",
		Keys: []schemas.Key{call}, Evidence: schemas.Evidence{Topic: "t", Offset: 1}}, Version: schemas.MakeVersion(1, 3), PolicyDecision: schemas.VerdictDeny, PolicyID: "p-1"}
	keys := slices.Clone(out.Wanted)
	out.Reset()
	e.Found(&out, keys, nil, []*schemas.Action{&final})
	for _, a := range out.Actions {
		if a.ID == final.ID {
			t.Errorf("written again, with the decision %v %q", a.PolicyDecision, a.PolicyID)
		}
	}
	checkEngine(t, e)
}
