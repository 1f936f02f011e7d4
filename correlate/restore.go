package correlate

import (
	"net/netip"

	"catena/schemas"
)

// Restore takes back what earlier runs wrote: bindings first, then the rows
// that may still be improved. Where everything is known that rows may rest on,
// they may come in pieces, and after events of their partition: see
// Engine.Coming. Rows that now come out better are appended to out. A row that
// comes again, since an earlier owner of its partition wrote it after it had
// come, is judged again. It does not retain the arguments' slices.
func (e *Engine) Restore(out *Output, bindings []schemas.Binding, actions []*schemas.Action) {
	e.takeBack(out, bindings, actions, fromTables)
	e.settle(out)
	e.shrink()
	e.ask(out)
}

// Used takes back the first uses of tokens, for what is said of where a token is
// used from. Of tokens whose bindings are not in memory they are had from the
// tables with these.
func (e *Engine) Used(out *Output, uses []schemas.Use) {
	for i := range uses {
		u := &uses[i]
		if ip, err := netip.ParseAddr(u.SourceIP); err == nil {
			if n := e.state.peek(u.Token); n != 0 {
				e.used(n, ip, u.TimeNanos, u.Event)
			}
		}
	}
	e.settle(out)
	e.shrink()
	e.ask(out)
}

// Learn takes in what another engine, which has other partitions, said in its
// Output. It may come in any order, late, and more than once.
func (e *Engine) Learn(out *Output, bindings []schemas.Binding, shared []*schemas.Action) {
	e.takeBack(out, bindings, shared, fromOthers)
	e.finish(out)
}

// Found answers Output.Wanted: bindings are all that the tables hold with one
// of the keys as child, and, with relation authenticated or a workload:ip
// child, as parent; actions are those that can still be improved and whose keys
// or hops name one of them or, of a grant, a key under it, and all tool calls,
// decisions and first uses among their keys. An answer may hold more than was
// asked for.
func (e *Engine) Found(out *Output, keys []schemas.Key, bindings []schemas.Binding, actions []*schemas.Action) {
	known := map[nodeID]bool{}
	var answered []nodeID
	for i := range bindings {
		known[e.state.peek(bindings[i].Child)], known[e.state.peek(bindings[i].Parent)] = true, true
	}
	for _, k := range keys {
		n, h := e.state.lookup(k)
		if n == 0 || e.state.at(n).bits&nodeAsked == 0 {
			continue
		}
		e.state.at(n).bits &^= nodeAsked | nodeLost | nodeDropped
		if known[n] || len(actions) > 0 {
			e.stats.Found++
		} else {
			e.state.nobody.Add(h, struct{}{})
		}
		e.wake(n)
		answered = append(answered, n)
	}
	e.takeBack(out, bindings, actions, fromLookup)
	for _, n := range answered {
		e.state.unref(n)
	}
	if e.state.unanswered -= len(answered); e.state.unanswered == 0 {
		e.reach = 0 // what late records wanted has come
	}
	e.finish(out)
}

// origin is where bindings and actions come from that no event of ours brings.
type origin int

const (
	fromTables origin = iota
	fromLookup        // the tables, when asked for keys
	fromReread        // the tables, when asked for events that are read again
	fromOthers        // another engine, which may have written more of them since
)

// takeBack learns bindings that stand in the tables or that others know, and
// lets actions wait again. Those of partitions that are not ours are heard and
// never written; so are those that another engine tells of partitions that have
// become ours, since what stands in the tables may say more, and final ones that
// no late record wants: what they rested on may be gone from memory.
func (e *Engine) takeBack(out *Output, bindings []schemas.Binding, actions []*schemas.Action, from origin) {
	for i := range bindings {
		e.bind(out, &bindings[i], true)
	}
	for _, a := range actions {
		ours := from != fromOthers && e.mine(&a.Evidence)
		if over := max(a.TimeNanos, a.EndedNanos); from == fromLookup && e.late(over) && (e.reach == 0 || over < e.reach) {
			ours = false
		}
		if i, ok := e.rows.byID[a.ID]; ok {
			// Its partition has become ours, or an owner before us has written it once more since it came back.
			if r := e.rows.at(i); ours && (r.bits&rowShadow != 0 || from == fromTables && a.Version > r.act.Version) {
				r.act, r.revision, r.written = a, uint32(a.Version&schemas.MaxRevision), a.Grade
				r.part = e.state.part(a.Evidence.Topic, a.Evidence.Partition)
				r.bits = r.bits&^rowShadow | rowRestored | rowQuiet
				e.soil(i)
			}
			continue
		}
		i := e.admit(a, uint32(a.Version&schemas.MaxRevision))
		if from == fromLookup || from == fromReread { // it has to wait for what else is being looked up for it
			e.rows.postpone(i, e.water.newest())
		}
		r := e.rows.at(i)
		r.bits |= rowRestored | rowQuiet
		if !ours {
			r.bits |= rowShadow
		}
	}
}

// mine reports whether a record lies in one of our partitions. Who shares them
// with nobody and was never assigned any has them all.
func (e *Engine) mine(at *schemas.Evidence) bool {
	pr := e.water.parts[partition{at.Topic, at.Partition}]
	return pr != nil && pr.ownerMilli != 0 || !e.cfg.Share && !e.water.assigned()
}

// ask names the keys that have to be looked up.
func (e *Engine) ask(out *Output) {
	if len(e.state.unasked) > 0 && e.lateSince != 0 {
		out.WantedSince = e.lateSince
		if e.reach == 0 || e.lateSince < e.reach {
			e.reach = e.lateSince
		}
		if len(e.state.deferred) == 0 {
			e.lateSince = 0
		}
	}
	for _, n := range e.state.unasked {
		e.stats.Wanted++
		out.Wanted = append(out.Wanted, e.state.key(n))
	}
	e.state.unasked = e.state.unasked[:0]
}
