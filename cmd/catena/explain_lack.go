package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"catena/schemas"
	"catena/schemas/sources"
	"catena/sinks/clickhouse"
)

// What an action lacks to be proven: the key on which it hangs, the bindings
// that came nearest and by how much they missed, and which records of which
// sources would have proven it.

// lack is empty (nil) for a proven action.
type lack struct {
	Sentence string // what is missing, in words
	Keys     []schemas.Key
	Near     []nearMiss
	Would    []wouldProve
}

// nearMiss is a binding that might have driven the action and did not.
type nearMiss struct {
	schemas.Binding
	Miss   string        // "had expired 12 s before"
	missBy time.Duration // for order; zero if it held
}

// wouldProve is a sort of record that, seen, would have made the step exact.
type wouldProve struct {
	Source, Title string
	Binds         string // child ← parent, as the source's plan says it
	Relation      string
	When          string // what a record has to hold
	Seen          string // whether anything of that source was read
}

const (
	maxNear  = 5
	maxWould = 6
	// maxKnown bounds how many bindings of the action's keys are compared: an
	// address or a node may have had thousands.
	maxKnown = 2000
)

// lackOf works out what an action lacks. seen is what was read of each source.
func (q *asker) lackOf(ctx context.Context, a *schemas.Action) (*lack, error) {
	if a.Grade == schemas.GradeProven {
		return nil, nil
	}
	l := &lack{Sentence: missing(a), Keys: lackingKeys(a)}
	if a.Redacted && a.Reason != schemas.ReasonRedactedKey {
		l.Sentence += "; a field of the record that would have given a key holds a placeholder"
	}
	known, err := q.store.BindingsOf(ctx, nearKeys(a, l.Keys), maxKnown)
	if err != nil {
		return nil, err
	}
	for _, b := range known {
		n, ok := missed(a, b)
		// What held counts only where something is lacking: of the other keys the path has its step.
		if ok && (n.missBy > 0 || slices.Contains(l.Keys, b.Child)) {
			l.Near = append(l.Near, n)
		}
	}
	slices.SortStableFunc(l.Near, func(x, y nearMiss) int {
		return cmp.Or(cmp.Compare(x.missBy, y.missBy), cmp.Compare(y.Strength, x.Strength), x.Parent.Compare(y.Parent))
	})
	l.Near = l.Near[:min(len(l.Near), maxNear)]
	seen, err := q.sourcesSeen(ctx)
	if err != nil {
		return nil, err
	}
	if a.Reason == schemas.ReasonNoKey || a.Reason == schemas.ReasonRedactedKey && len(l.Keys) == 0 {
		l.Would = q.keysOf(a.Source, seen)
	} else {
		l.Would = q.wouldProve(l.Keys, seen)
	}
	return l, nil
}

// lackingKeys are the keys whose driver is not proven: the frontier, the keys
// of the steps that are not exact, and the request by which the call that
// caused it could have been known.
func lackingKeys(a *schemas.Action) []schemas.Key {
	var keys []schemas.Key
	add := func(k schemas.Key) {
		if !k.IsZero() && !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	add(a.Frontier)
	for _, h := range a.Hops[min(1, len(a.Hops)):] {
		if h.Strength != schemas.StrengthExact && !h.Lent && !h.Key.Kind.Principal() {
			add(h.Key)
		}
	}
	if a.CauseGrade == schemas.CauseInferred || a.CauseGrade == schemas.CauseAmbiguous || a.Reason == schemas.ReasonTimeContainment {
		add(a.FirstKey(schemas.KindRequest))
	}
	if len(keys) == 0 && a.Reason != schemas.ReasonNoKey {
		add(a.FirstKey(schemas.KindToken))
		add(a.FirstKey(schemas.KindSession))
	}
	return keys
}

// nearKeys are those whose bindings are worth comparing: where only a claim is
// lacking its proof, those of the claim; else all that might have led upward.
func nearKeys(a *schemas.Action, lacking []schemas.Key) []schemas.Key {
	keys := slices.Clone(lacking)
	if a.Reason == schemas.ReasonSelfReported || a.Reason == schemas.ReasonNameOnly {
		return keys
	}
	for _, k := range a.Keys {
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	for _, h := range a.Hops {
		if !slices.Contains(keys, h.Key) && !h.Key.Kind.Principal() {
			keys = append(keys, h.Key)
		}
	}
	return keys
}

// missed says by how much a binding failed to drive an action; ok is false for
// those that the path has, and for what is no candidate at all.
func missed(a *schemas.Action, b schemas.Binding) (n nearMiss, ok bool) {
	inTrace := b.Parent.Kind == schemas.KindCall && b.Parent.Namespace == "trace" // says no more than that they belong together
	if b.Relation == schemas.RelationGranted || inTrace || slices.ContainsFunc(a.Hops, func(h schemas.Hop) bool { return h.Proof == b.Proof && h.Key == b.Child }) {
		return n, false
	}
	at := judgedAt(a, b.Child)
	n.Binding = b
	switch {
	case b.Relation == schemas.RelationEnded || b.Relation == schemas.RelationRevoked:
		if b.FromNanos > at {
			return n, false
		}
		n.missBy, n.Miss = time.Duration(at-b.FromNanos), "was "+b.Relation.String()+" "+spoken(time.Duration(at-b.FromNanos))+" before"
	case b.FromNanos > at:
		n.missBy, n.Miss = time.Duration(b.FromNanos-at), "begins "+spoken(time.Duration(b.FromNanos-at))+" after"
	case b.UntilNanos != 0 && b.UntilNanos <= at:
		n.missBy, n.Miss = time.Duration(at-b.UntilNanos), "had ended "+spoken(time.Duration(at-b.UntilNanos))+" before"
	case slices.ContainsFunc(a.Hops, func(h schemas.Hop) bool { return h.Key == b.Parent }):
		return n, false // another record of the same step
	default:
		n.Miss = "held at that time: " + held(b.Strength)
	}
	return n, true
}

func held(s schemas.Strength) string {
	switch s {
	case schemas.StrengthExact:
		return "an exact binding that competes"
	case schemas.StrengthStated:
		return "a claim, which proves nothing"
	default:
		return "one of those that fit"
	}
}

// judgedAt is the time at which the driver of a key had to hold: of tokens and
// sessions above a mint that of the mint, else that of the action.
func judgedAt(a *schemas.Action, k schemas.Key) int64 {
	if k.Kind != schemas.KindToken && k.Kind != schemas.KindSession {
		return a.TimeNanos
	}
	for i, h := range a.Hops[:max(0, len(a.Hops)-1)] {
		if below := a.Hops[i+1]; h.Key == k && below.AtNanos != 0 && mints(below.Relation) {
			return below.AtNanos
		}
	}
	return a.TimeNanos
}

func mints(r schemas.Relation) bool {
	switch r {
	case schemas.RelationIssued, schemas.RelationRefreshed, schemas.RelationAssumed, schemas.RelationExchanged, schemas.RelationImpersonated:
		return true
	default:
		return false
	}
}

// wouldProve looks in the sources' plans for what mints or shows the keys.
func (q *asker) wouldProve(keys []schemas.Key, seen map[string]clickhouse.SourceSeen) []wouldProve {
	var mints, all []wouldProve
	for _, src := range q.sources.Sources() {
		used := keyTexts(src)
		eachFields(src, func(when sources.Condition, f *sources.Fields) {
			for i := range f.Makes {
				m := &f.Makes[i]
				if m.Strength != schemas.StrengthExact || m.Relation == schemas.RelationGranted || !slices.ContainsFunc(keys, func(k schemas.Key) bool {
					return k.Kind == m.Child.Kind && k.Namespace == m.Child.Namespace
				}) {
					continue
				}
				if m.Child.Kind == schemas.KindRequest && m.Parent.Kind != schemas.KindCall {
					continue // says with what it was made, which is known
				}
				w := wouldProve{Source: src.Name, Title: src.Title, Binds: keyText(&m.Child) + " ← " + keyText(&m.Parent),
					Relation: m.Relation.String(), When: conditions(when, m.When), Seen: seenText(src.Name, seen)}
				if used[keyText(&m.Child)] {
					all = append(all, w)
				} else {
					mints = append(mints, w)
				}
			}
		})
	}
	// Records of the mint before records of a use that shows the owner: of the
	// uses, at least this one did not.
	return firstOfEach(append(mints, all...), seen)
}

// keyTexts are the keys with which a source says that things were done.
func keyTexts(src *sources.Source) map[string]bool {
	texts := map[string]bool{}
	eachFields(src, func(_ sources.Condition, f *sources.Fields) {
		for i := range f.Keys {
			texts[keyText(&f.Keys[i].Key)] = true
		}
	})
	return texts
}

// keysOf are the keys that records of a source can hold.
func (q *asker) keysOf(source string, seen map[string]clickhouse.SourceSeen) []wouldProve {
	src, ok := q.sources.Get(source)
	if !ok {
		return nil
	}
	var all []wouldProve
	eachFields(src, func(when sources.Condition, f *sources.Fields) {
		for i := range f.Keys {
			if k := &f.Keys[i]; k.Key.Kind == schemas.KindToken || k.Key.Kind == schemas.KindSession || k.Key.Kind == schemas.KindWorkload {
				all = append(all, wouldProve{Source: src.Name, Title: src.Title, Binds: keyText(&k.Key), When: conditions(when, k.When), Seen: seenText(source, seen)})
			}
		}
	})
	return firstOfEach(all, seen)
}

// firstOfEach keeps one entry of each source and binding, those of sources
// that are being read first.
func firstOfEach(all []wouldProve, seen map[string]clickhouse.SourceSeen) []wouldProve {
	slices.SortStableFunc(all, func(x, y wouldProve) int {
		return cmp.Compare(min(seen[y.Source].Actions, 1), min(seen[x.Source].Actions, 1))
	})
	have := map[string]bool{}
	all = slices.DeleteFunc(all, func(w wouldProve) bool {
		id := w.Source + "\x00" + w.Binds
		defer func() { have[id] = true }()
		return have[id]
	})
	return all[:min(len(all), maxWould)]
}

func eachFields(src *sources.Source, f func(when sources.Condition, fields *sources.Fields)) {
	f(nil, &src.Common)
	for i := range src.Rules {
		f(src.Rules[i].When, &src.Rules[i].Fields)
	}
}

func conditions(all ...sources.Condition) string {
	var words []string
	for _, c := range all {
		if len(c) > 0 {
			words = append(words, c.String())
		}
	}
	return strings.Join(words, " and ")
}

func seenText(source string, seen map[string]clickhouse.SourceSeen) string {
	s, ok := seen[source]
	if !ok {
		return "no record of " + source + " was read"
	}
	return fmt.Sprintf("%d actions of %s were read, %s to %s", s.Actions, source, stamp(s.FirstNanos), stamp(s.LastNanos))
}

// reasonText says a reason in a sentence.
func reasonText(a *schemas.Action) string {
	switch a.Reason {
	case schemas.ReasonComplete:
		return "every step up to the root was seen"
	case schemas.ReasonNoBindingSeen:
		return "no record says who drives " + a.Frontier.String()
	case schemas.ReasonNoKey:
		return "the record names " + a.Actor.ID() + " but holds no token, session or workload id"
	case schemas.ReasonNoIdentity:
		return "the record names nobody and holds no key"
	case schemas.ReasonRedactedKey:
		return "the key was redacted before the record reached the topic"
	case schemas.ReasonBindingExpired:
		return "what was seen of " + a.Frontier.String() + " had ended before this action"
	case schemas.ReasonBindingNotYet:
		return "what was seen of " + a.Frontier.String() + " began after this action"
	case schemas.ReasonSelfReported:
		return "telemetry says so of itself; no authenticated token or session id stands on the way"
	case schemas.ReasonNameOnly:
		return "only a session or account name says so; its mint was not seen"
	case schemas.ReasonTimeContainment:
		return "one step rests on what was running there at that time, and only one thing fits"
	case schemas.ReasonSubjectMatch:
		return "one step rests on a shared subject name at that time, and only one fits"
	case schemas.ReasonSeveralCandidates:
		return "more than one thing was running there at that time"
	case schemas.ReasonConflict:
		return "records contradict each other"
	case schemas.ReasonFailedLogin:
		return "nobody was authenticated: the name is a claim"
	case schemas.ReasonEvicted:
		return "the binding of " + a.Frontier.String() + " had been dropped to stay inside the memory limit"
	case schemas.ReasonCycle:
		return "the bindings run in a circle"
	default:
		return "the path is longer than the limit"
	}
}

// missing says what would have made the attribution proven; empty if it is.
func missing(a *schemas.Action) string {
	switch a.Reason {
	case schemas.ReasonSelfReported:
		return "the id of the access token, or of the login session, on the agent's span (attribute enduser.token.id): it would tie the run to the login that authenticated " + orElse(a.RootName, a.Root.ID())
	case schemas.ReasonNameOnly, schemas.ReasonNoBindingSeen, schemas.ReasonEvicted, schemas.ReasonBindingExpired, schemas.ReasonBindingNotYet:
		k := a.Frontier
		if k.IsZero() {
			k = a.FirstKey(schemas.KindToken)
		}
		return "the record that minted " + k.String() + ": is the topic that holds it being read, and does it go back far enough?"
	case schemas.ReasonNoKey:
		return "a token, session or workload id in the record"
	case schemas.ReasonNoIdentity:
		return "anything in the record that names who it was: it holds neither a key nor a name"
	case schemas.ReasonTimeContainment, schemas.ReasonSeveralCandidates:
		return "a link between the tool call and this request, such as the attribute aws.request_id on the span of the SDK call"
	case schemas.ReasonSubjectMatch:
		return "the id of the run in the token's subject or claims"
	case schemas.ReasonRedactedKey:
		return "the key itself, seen only redacted: keep ids when redacting, they are no secrets"
	case schemas.ReasonConflict:
		return "a record that says which of the contradicting ones is true"
	case schemas.ReasonFailedLogin:
		return "nothing would help: a failed login proves nobody"
	case schemas.ReasonCycle:
		return "a key above the circle; the bindings below name each other"
	case schemas.ReasonDepthLimit:
		return "a shorter path: the walk stopped at its limit of steps"
	default:
		return ""
	}
}

// lack prints what would have proven a chain whose weakest step is a claim.
func (p *painter) lack(rows []*schemas.Action) {
	for _, a := range rows {
		if a.Reason == schemas.ReasonSelfReported {
			fmt.Fprintln(p.w, p.paint(yellow, "missing: ")+safe(missing(a)))
			return
		}
	}
}

// lackOf prints what one action lacks.
func (p *painter) lackOf(l *lack) {
	if l == nil || l.Sentence == "" {
		return
	}
	fmt.Fprintln(p.w, p.paint(yellow, "missing: ")+safe(l.Sentence))
	for _, n := range l.Near {
		fmt.Fprintf(p.w, "   nearest: %s ← %s  %s, %s: %s", safe(n.Child.String()), orElse(safe(n.Parent.String()), "nobody"), n.Relation, n.Strength, p.paint(bold, n.Miss))
		fmt.Fprintln(p.w, p.paint(dim, "  proof "+shortID(n.Proof)+" "+clock(n.ProofNanos)+" "+safe(placeOf(n.Evidence))))
	}
	if len(l.Near) == 0 {
		for _, k := range l.Keys {
			fmt.Fprintf(p.w, "   nearest: nothing that was read binds %s to anybody else\n", safe(k.String()))
		}
	}
	for _, w := range l.Would {
		text := "   would prove it: a record of " + p.paint(bold, w.Source) + " with " + safe(w.Binds)
		if w.Relation != "" {
			text = "   would prove it: a record of " + p.paint(bold, w.Source) + " that binds " + safe(w.Binds) + ", " + w.Relation
		}
		if w.When != "" {
			text += p.paint(dim, "  if "+shorten(w.When, 160))
		}
		fmt.Fprintln(p.w, text+p.paint(dim, "  ("+w.Seen+")"))
	}
}

// spoken writes a duration as people say it, in its two largest units.
func spoken(d time.Duration) string {
	d = d.Abs()
	if d < time.Second {
		return fmt.Sprintf("%d ms", max(d.Milliseconds(), 1))
	}
	units := []struct {
		name string
		d    time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}}
	var words []string
	for _, u := range units {
		if n := d / u.d; n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, u.name))
			d %= u.d
		} else if len(words) > 0 {
			break
		}
		if len(words) == 2 {
			break
		}
	}
	return strings.Join(words, " ")
}

func stamp(nanos int64) string { return time.Unix(0, nanos).UTC().Format("2006-01-02 15:04:05") }
