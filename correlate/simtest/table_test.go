package simtest

import (
	"bytes"
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"

	"catena/correlate"
	"catena/schemas"
)

// table is what the rows and bindings written so far look like in the
// database: of each the one with the highest version.
type table struct {
	rows     map[schemas.ID]*schemas.Action
	bindings map[bindingID]schemas.Binding

	// What was written since the last commit, call by call, and what stood
	// before it: a crash may lose the end of it.
	pending []correlate.Output
	durable *table

	watermark int64 // of the last commit
}

type bindingID struct {
	child, parent schemas.Key
	relation      schemas.Relation
	strength      schemas.Strength
	from          int64
}

func newTable() *table {
	return &table{rows: map[schemas.ID]*schemas.Action{}, bindings: map[bindingID]schemas.Binding{}}
}

// write takes over what a call had to say.
func (t *table) write(out *correlate.Output) {
	o := correlate.Output{Actions: slices.Clone(out.Actions), Bindings: slices.Clone(out.Bindings)}
	t.pending = append(t.pending, o)
	t.apply(o.Actions, o.Bindings)
	out.Reset()
}

func (t *table) apply(rows []*schemas.Action, bindings []schemas.Binding) {
	for _, a := range rows {
		if old := t.rows[a.ID]; old == nil || a.Version > old.Version {
			t.rows[a.ID] = a
		}
	}
	for _, b := range bindings {
		id := bindingID{b.Child, b.Parent, b.Relation, b.Strength, b.FromNanos}
		if old, ok := t.bindings[id]; !ok || b.Version > old.Version {
			t.bindings[id] = b
		}
	}
}

// commit makes all durable that was written.
func (t *table) commit() {
	t.durable, t.pending = &table{rows: maps.Clone(t.rows), bindings: maps.Clone(t.bindings)}, nil
}

// crash loses the end of what was written since the last commit. Of a batch
// the bindings are written first and then the rows, shard by shard.
func (t *table) crash(rng *rand.Rand) {
	pending, durable := t.pending, t.durable
	t.rows, t.bindings = map[schemas.ID]*schemas.Action{}, map[bindingID]schemas.Binding{}
	if durable != nil {
		t.rows, t.bindings = durable.rows, durable.bindings
	}
	n := rng.IntN(len(pending) + 1)
	for i, o := range pending[:n] {
		rows := o.Actions
		if i == n-1 {
			rows = slices.DeleteFunc(slices.Clone(rows), func(*schemas.Action) bool { return rng.IntN(2) == 0 })
		}
		t.apply(rows, o.Bindings)
	}
	t.commit()
}

// load gives the rows as the database does, in a fixed order: without the
// bindings that their events made, which stand in their own table.
func (t *table) load() []*schemas.Action {
	rows := make([]*schemas.Action, 0, len(t.rows))
	for _, a := range t.rows {
		c := *a
		c.Makes, c.Ends = nil, nil
		rows = append(rows, &c)
	}
	slices.SortFunc(rows, func(a, b *schemas.Action) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return rows
}

func (t *table) loadBindings() []schemas.Binding {
	out := slices.Collect(maps.Values(t.bindings))
	slices.SortFunc(out, func(a, b schemas.Binding) int {
		return cmp.Or(a.Child.Compare(b.Child), a.Parent.Compare(b.Parent), cmp.Compare(a.FromNanos, b.FromNanos),
			cmp.Compare(a.Relation, b.Relation), cmp.Compare(a.Strength, b.Strength))
	})
	return out
}

// bindingsOf are the bindings above a set of keys, and the logins and addresses
// below it.
func (t *table) bindingsOf(keys []schemas.Key) []schemas.Binding {
	return slices.DeleteFunc(t.loadBindings(), func(b schemas.Binding) bool {
		return !slices.Contains(keys, b.Child) && !(isLookedUpFromAbove(&b) && slices.Contains(keys, b.Parent))
	})
}

// isLookedUpFromAbove reports whether a binding belongs to its parent, too.
func isLookedUpFromAbove(b *schemas.Binding) bool {
	return b.Relation == schemas.RelationAuthenticated || b.Child.Namespace == "ip"
}

// rowsAmong are the rows of some events that lie between two times.
func (t *table) rowsAmong(ids []schemas.ID, first, last int64) []*schemas.Action {
	return slices.DeleteFunc(t.load(), func(a *schemas.Action) bool {
		return !slices.Contains(ids, a.ID) || a.TimeNanos < first || a.TimeNanos > last
	})
}

// rowsOf are the rows that name one of a set of keys, or a key under one that
// is a grant, and end at a time or later, and, however old, their tool calls,
// decisions and first uses.
func (t *table) rowsOf(keys []schemas.Key, sinceNanos int64) []*schemas.Action {
	keys = slices.Clone(keys)
	for _, b := range t.loadBindings() {
		if b.Relation == schemas.RelationGranted && slices.Contains(keys, b.Parent) {
			keys = append(keys, b.Child)
		}
	}
	rows := slices.DeleteFunc(t.load(), func(a *schemas.Action) bool {
		return !slices.ContainsFunc(a.Keys, func(k schemas.Key) bool { return slices.Contains(keys, k) }) &&
			!slices.ContainsFunc(a.Hops, func(h schemas.Hop) bool { return slices.Contains(keys, h.Key) })
	})
	first := map[schemas.Key]*schemas.Action{} // uses of tokens
	for _, a := range rows {
		k := a.FirstKey(schemas.KindToken)
		if f := first[k]; a.SourceIP != "" && (f == nil || cmp.Or(cmp.Compare(a.TimeNanos, f.TimeNanos), bytes.Compare(a.ID[:], f.ID[:])) < 0) {
			first[k] = a
		}
	}
	return slices.DeleteFunc(rows, func(a *schemas.Action) bool {
		return max(a.TimeNanos, a.EndedNanos) < sinceNanos && a.Class != schemas.ClassToolCall && a.Class != schemas.ClassDecision &&
			first[a.FirstKey(schemas.KindToken)] != a
	})
}
