package simtest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"catena/schemas"
)

// mismatch says in what a final row departs from what it has to say.
func (w *World) mismatch(i int, a *schemas.Action) (out []string) {
	n := w.Truth[i].Want
	differ := func(what string, got, want any) {
		if got != want {
			out = append(out, fmt.Sprintf("%s is %v, want %v", what, got, want))
		}
	}
	differ("grade", a.Grade, n.Grade)
	differ("reason", a.Reason, n.Reason)
	differ("root", a.Root.String(), n.Root.String())
	differ("frontier", a.Frontier.String(), n.Frontier.String())
	differ("chain", a.ChainID.String(), n.Chain.String())
	differ("cause", w.indexOf(a.CauseID), n.Cause)
	differ("cause_grade", a.CauseGrade.String(), n.CauseGrade.String())
	differ("grant", a.GrantID, n.Grant)
	differ("policy", a.PolicyDecision.String()+a.PolicyID, n.Policy.String()+n.PolicyID)
	differ("flags", a.Flags.String(), n.Flags.String())
	differ("mfa", a.MFA.String()+" "+a.AuthMethod, n.MFA.String()+" "+n.Method)
	var path, lent string
	own := slices.DeleteFunc(slices.Clone(a.Hops), func(h schemas.Hop) bool { return h.Lent })
	for j := 1; j < len(own) && j <= len(n.Proofs); j++ {
		if want := n.Proofs[j-1]; !want.IsZero() {
			differ(fmt.Sprint("proof of hop ", j), w.indexOf(own[j].Proof), w.indexOf(want))
		}
	}
	for _, h := range a.Hops {
		if h.Lent {
			lent = h.Key.String()
		} else {
			path += " " + h.Key.String()
		}
	}
	want := ""
	for _, k := range n.Path {
		want += " " + k.String()
	}
	differ("path", path, want)
	differ("lent", lent, n.Lent.String())
	return out
}

func (w *World) indexOf(id schemas.ID) int {
	if id.IsZero() {
		return none
	}
	return slices.IndexFunc(w.Events, func(ev schemas.Event) bool { return ev.ID == id })
}

// tell writes down the world, record by record, for whoever has to find a fault.
func (w *World) tell() string {
	var b strings.Builder
	fmt.Fprintf(&b, "world of seed %d, shape %+v, clocks", w.Seed, w.shape)
	for s := range w.Clocks {
		fmt.Fprintf(&b, " %v%+v", System(s), time.Duration(w.Clocks[s]))
	}
	b.WriteString("\n")
	for i := range w.Events {
		b.WriteString(w.tellEvent(i))
	}
	return b.String()
}

func clock(nanos int64) string {
	if nanos == 0 {
		return "always"
	}
	return time.Duration(nanos - Noon).String()
}

func (w *World) tellEvent(i int) string {
	var b strings.Builder
	ev, t := &w.Events[i], &w.Truth[i]
	fmt.Fprintf(&b, "%d %s (%s) %s %s at %s, truly %s, arrives %s", i, ev.Action, t.Story, ev.Evidence.Topic, ev.Class, clock(ev.TimeNanos),
		clock(w.recs[i].at), clock(ev.Evidence.TimestampNanos))
	for _, word := range []struct {
		is   bool
		word string
	}{{w.Lost[i], "LOST"}, {t.Lossy, "lossy"}, {t.Contested, "contested"}, {t.Edge, "edge"}, {t.Hopeless, "hopeless"},
		{ev.BindOnly != "", "bind-only"}, {ev.Outcome != schemas.OutcomeSuccess, ev.Outcome.String()}} {
		if word.is {
			b.WriteString(" " + word.word)
		}
	}
	fmt.Fprintf(&b, "\n    driven by %v\n", t.Driver)
	if ev.Decision.ID != "" {
		fmt.Fprintf(&b, "    decision %v %s\n", ev.Decision.Verdict, ev.Decision.ID)
	}
	if ev.SourceIP != "" {
		fmt.Fprintf(&b, "    ip %s\n", ev.SourceIP)
	}
	for _, k := range ev.Keys {
		fmt.Fprintf(&b, "    key %v\n", k)
	}
	for _, m := range ev.Makes {
		fmt.Fprintf(&b, "    %v <- %v %v %v %s", m.Child, m.Parent, m.Relation, m.Strength, clock(m.FromNanos))
		if m.UntilNanos != 0 {
			b.WriteString(" until " + clock(m.UntilNanos))
		}
		if m.ExpiresNanos != 0 {
			b.WriteString(" expires " + clock(m.ExpiresNanos))
		}
		b.WriteString("\n")
	}
	for _, e := range ev.Ends {
		fmt.Fprintf(&b, "    ends %v at %s revoked=%v\n", e.Key, clock(e.AtNanos), e.Revoked)
	}
	if t.Want != nil {
		fmt.Fprintf(&b, "    want %v\n", t.Want)
	}
	return b.String()
}

// around tells the events that share a key with one, or a key of those.
func (w *World) around(i int) string {
	keys := map[schemas.Key]bool{}
	of := func(ev *schemas.Event) (out []schemas.Key) {
		out = append(out, ev.Keys...)
		for _, m := range ev.Makes {
			out = append(out, m.Child, m.Parent)
		}
		for _, e := range ev.Ends {
			out = append(out, e.Key)
		}
		return slices.DeleteFunc(out, func(k schemas.Key) bool { return k.Kind.Principal() || k.Namespace == "ip" })
	}
	for _, k := range of(&w.Events[i]) {
		keys[k] = true
	}
	in := map[int]bool{i: true}
	for range 3 {
		for j := range w.Events {
			if slices.ContainsFunc(of(&w.Events[j]), func(k schemas.Key) bool { return keys[k] && k.Kind != schemas.KindWorkload }) {
				in[j] = true
			}
		}
		for j := range in {
			for _, k := range of(&w.Events[j]) {
				keys[k] = true
			}
		}
	}
	var b strings.Builder
	for j := range w.Events {
		if in[j] {
			b.WriteString(w.tellEvent(j))
		}
	}
	return b.String()
}
