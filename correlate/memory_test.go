package correlate

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"catena/schemas"
)

var budgetFlag = flag.Int("budget", 4, "memory of TestTenTimesTheMemory, in MiB")

// byKey is what the tables hold, found by key.
type byKey struct {
	bindings map[schemas.Key][]schemas.Binding // by child
	below    map[schemas.Key][]schemas.Key     // children that are looked up from a parent
	actions  map[schemas.ID]*schemas.Action
	holding  map[schemas.Key][]schemas.ID // actions that name a key in their keys or hops
}

func newByKey() *byKey {
	return &byKey{map[schemas.Key][]schemas.Binding{}, map[schemas.Key][]schemas.Key{}, map[schemas.ID]*schemas.Action{}, map[schemas.Key][]schemas.ID{}}
}

func (t *byKey) write(out *Output) {
	for _, b := range out.Bindings {
		all := t.bindings[b.Child]
		i := slices.IndexFunc(all, func(o schemas.Binding) bool {
			return o.Parent == b.Parent && o.Relation == b.Relation && o.Strength == b.Strength && o.FromNanos == b.FromNanos
		})
		switch {
		case i < 0:
			t.bindings[b.Child] = append(all, b)
			if b.Relation == schemas.RelationAuthenticated {
				t.below[b.Parent] = append(t.below[b.Parent], b.Child)
			}
		case b.Version >= all[i].Version:
			all[i] = b
		}
	}
	for _, a := range out.Actions {
		if old := t.actions[a.ID]; old == nil {
			for _, k := range a.Keys {
				t.holding[k] = append(t.holding[k], a.ID)
			}
		} else if old.Version > a.Version {
			continue
		}
		t.actions[a.ID] = a
	}
	out.Reset()
}

// answer looks keys up until the engine wants nothing more.
func (t *byKey) answer(e *Engine, out *Output) {
	for len(out.Wanted) > 0 {
		keys := slices.Clone(out.Wanted)
		t.write(out)
		var bindings []schemas.Binding
		var actions []*schemas.Action
		for _, k := range keys {
			bindings = append(bindings, t.bindings[k]...)
			for _, child := range t.below[k] {
				bindings = append(bindings, t.bindings[child]...)
			}
			for _, id := range t.holding[k] {
				actions = append(actions, t.actions[id])
			}
		}
		e.Found(out, keys, bindings, actions)
	}
	t.write(out)
}

// TestTenTimesTheMemory: an engine whose bindings take ten times its memory
// stays inside it, counts what it drops, and with look-ups gives the rows of
// one that holds everything. Half of the mints come after their uses.
func TestTenTimesTheMemory(t *testing.T) {
	budget := *budgetFlag << 20
	if testing.Short() || raceEnabled {
		budget = 2 << 20 // a batch and the keys it needs have to fit
	}
	n := 10 * budget / 200
	sessions := n / 5
	session := func(i int) schemas.Key {
		return schemas.Key{Kind: schemas.KindSession, Namespace: "okta", Value: fmt.Sprintf("102fixture%015d", i)}
	}
	token := func(i int) schemas.Key {
		return schemas.Key{Kind: schemas.KindToken, Namespace: "aws.access_key", Value: fmt.Sprintf("ASIA%016d", i)}
	}
	// The events, in their order: each names a session or token by number.
	play := func(cfg Config, table *byKey) (rows map[schemas.ID]*schemas.Action, st Stats) {
		rng := rand.New(rand.NewPCG(5, 6))
		e := New(cfg)
		e.Assign("t", 0, 1000)
		var out Output
		serial := 0
		var batch []schemas.Event
		say := func(ev schemas.Event, at int) {
			serial++
			ev.ID, ev.Source, ev.TimeNanos = schemas.MakeID("e", fmt.Sprint(serial)), "test", noon+int64(at)*int64(time.Second)
			ev.Evidence = schemas.Evidence{Topic: "t", Offset: int64(serial)}
			for i := range ev.Makes {
				ev.Makes[i].FromNanos *= ev.TimeNanos
			}
			if batch = append(batch, ev); len(batch) == 500 {
				e.Process(&out, batch)
				table.answer(e, &out)
				batch = batch[:0]
				if got := e.bytes(); got > e.room {
					t.Fatalf("%d bytes are held and %d allowed", got, e.room)
				}
			}
		}
		mint := func(i, at int) {
			say(schemas.Event{BindOnly: "x", Makes: []schemas.Binding{bind(token(i), session(i%sessions), schemas.RelationAssumed, schemas.StrengthExact, 1, 0)}}, at)
		}
		use := func(i, at int) {
			say(schemas.Event{Class: schemas.ClassAPICall, Action: "use", Keys: []schemas.Key{token(i)}}, at)
		}
		for i := range sessions {
			person := schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: fmt.Sprintf("person%d@example.com", i/10)}
			say(schemas.Event{BindOnly: "x", Makes: []schemas.Binding{bind(session(i), person, schemas.RelationAuthenticated, schemas.StrengthExact, 0, 0)}}, 0)
		}
		for i := range 4 * sessions {
			if i%16 == 1 { // its first use arrives before its mint
				use(i, 2)
			}
			mint(i, 1)
		}
		for range n / 10 {
			use(rng.IntN(4*sessions), 3+rng.IntN(50))
		}
		for range 20 { // keys that did not fit together are asked for again when events come
			for say(schemas.Event{BindOnly: "x"}, 60); len(batch) != 0; {
				say(schemas.Event{BindOnly: "x"}, 60)
			}
		}
		return table.actions, e.Stats()
	}
	cfg := Config{AllowedLateness: Forever, Window: Forever, MemoryBytes: 64 << 30}
	want, whole := play(cfg, newByKey())
	if whole.Bytes < 10*budget {
		t.Logf("everything takes %d MiB, and the budget is %d", whole.Bytes>>20, budget>>20)
	}
	cfg.MemoryBytes, cfg.Lookup = budget, true
	got, small := play(cfg, newByKey())
	if len(got) != len(want) {
		t.Fatalf("%d rows, want %d", len(got), len(want))
	}
	differ := 0
	for id, w := range want {
		if g := got[id]; !same(g, w) {
			if differ++; differ < 4 {
				t.Errorf("got %v %v %v %v, want %v %v %v", g.Grade, g.Reason, g.Root, g.Hops, w.Grade, w.Reason, w.Root)
			}
		}
	}
	if differ > 0 {
		t.Errorf("%d of %d rows differ", differ, len(want))
	}
	if small.KeysEvicted == 0 || small.RowsEvicted == 0 || small.Found == 0 {
		t.Errorf("dropped %d keys and %d rows, found %d again", small.KeysEvicted, small.RowsEvicted, small.Found)
	}
	t.Logf("%d rows; everything takes %.1f MiB, held at most %d MiB; %d keys and %d rows dropped, %d keys asked for, %d found", len(want),
		float64(whole.Bytes)/(1<<20), budget>>20, small.KeysEvicted, small.RowsEvicted, small.Wanted, small.Found)
	runtime.KeepAlive(want)
}
