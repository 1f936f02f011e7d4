package ingest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"catena/schemas"
)

// event makes the event of a document as the plan has it.
func (d *Decoder) event(pl *plan, doc string) {
	p := pl.program
	nanos, ok := d.timeOf(pl)
	if !ok {
		d.missingTime(pl, doc)
		return
	}
	id, ok := d.makeID(pl)
	if !ok {
		d.missingID(p, doc)
		return
	}
	d.out.Events = append(d.out.Events, pl.event)
	ev := &d.out.Events[len(d.out.Events)-1]
	ev.ID, ev.TimeNanos, ev.Evidence = id, nanos, d.evidence
	ev.Evidence.RecordIndex = int32(d.index)
	d.index++
	d.fields(pl, ev)
	d.lists(pl, ev)
	if d.hint.relayed {
		weaken(ev)
	}
	switch {
	case ev.BindOnly != "":
		d.out.skip(ev.BindOnly, ev.Source, ev.ID, &ev.Evidence)
	case !pl.classified:
		d.out.Unclassified = append(d.out.Unclassified, len(d.out.Events)-1)
	}
}

// weaken takes from an event what a record in a log message cannot prove.
func weaken(ev *schemas.Event) {
	ev.Flags |= schemas.FlagRelayed
	for i := range ev.Makes {
		ev.Makes[i].Strength = min(ev.Makes[i].Strength, schemas.StrengthStated)
	}
	ev.Ends = nil
}

func (d *Decoder) makeID(pl *plan) (id schemas.ID, ok bool) {
	parts := append(d.id[:0], pl.program.idStart...)
	if d.hint.relayed { // never the id of a record that came directly
		parts = parts.Add("relayed")
	}
	for i := range pl.id {
		s, found := d.eval.text(&pl.id[i])
		parts = parts.Add(s)
		ok = ok || found
	}
	d.id = parts
	return parts.ID(), ok
}

func (d *Decoder) missingID(p *program, doc string) {
	var parts []string
	for _, t := range p.source.ID {
		parts = append(parts, t.Text)
	}
	d.dead(schemas.DeadMissingField, doc, "%s: every part of the id is missing (%s)%s: nothing would tell the event from others; correct id in source.yaml, or the producer",
		p.source.Name, strings.Join(parts, ", "), d.item())
}

func (d *Decoder) timeOf(pl *plan) (int64, bool) {
	for _, x := range pl.time {
		if t, ok := d.eval.time(x); ok {
			return t, true
		}
	}
	return 0, false
}

func (d *Decoder) missingTime(pl *plan, doc string) {
	p := pl.program
	path, what := "time", "is missing"
	for i := range p.time {
		o := &p.time[i]
		if !pl.applies(o.rule) {
			continue
		}
		path = o.expr.path
		if s, ok := d.eval.text(&o.expr.expr); ok {
			what = fmt.Sprintf("is no time that can be read: %q", s[:min(len(s), 64)])
			break
		}
	}
	d.dead(schemas.DeadMissingField, doc, "%s: the event time, %s, %s%s: correct time in source.yaml, or the producer", p.source.Name, path, what, d.item())
}

// clean evaluates a template and replaces the secrets in its text; false if it
// gives nothing.
func (d *Decoder) clean(x *expr) (string, bool) {
	if s, ok := d.sure(x); ok {
		return s, true
	}
	s, clean, ok := d.looked(x)
	if !ok || clean {
		return s, ok
	}
	if x.number <= sureSlot {
		return d.redactor.Redact(s), true
	}
	m := d.eval.memo(x)
	if !m.redacted {
		m.cleaned, m.redacted = d.redactor.Redact(s), true
	}
	return m.cleaned, true
}

// sure returns what most templates give: the text of a slot that has one, tells
// something and holds no secret.
func (d *Decoder) sure(x *expr) (string, bool) {
	if x.number != sureSlot {
		return "", false
	}
	v := &d.eval.slots[x.slot]
	return v.text, v.look == cleaned || d.vouch(v)
}

// vouch finds out with one look that a slot's text is clean; false if that takes more.
func (d *Decoder) vouch(v *slot) bool {
	if v.look == unseen && (v.escaped || v.text == "" || schemas.Placeholder(v.text)) {
		return false
	}
	if len(v.text) < shortestSecret || d.cleanTexts.has(d.cleanTexts.hash(v.text)) {
		v.look = cleaned
		return true
	}
	return false
}

// looked evaluates a template, and says whether there is no secret in its text.
func (d *Decoder) looked(x *expr) (s string, clean, ok bool) {
	s, ok = d.eval.text(x)
	switch {
	case !ok:
		return "", false, false
	case x.number > sureSlot:
		m := d.eval.memo(x)
		m.clean = m.clean || d.isClean(s)
		return s, m.clean, true
	}
	return s, d.isClean(s), true
}

// shortestSecret is pwd=xy.
const shortestSecret = 6

// isClean reports whether there is no secret in a text.
func (d *Decoder) isClean(s string) bool {
	if len(s) < shortestSecret {
		return true
	}
	hash := d.cleanTexts.hash(s)
	if d.cleanTexts.has(hash) {
		return true
	}
	if a, _ := findSecret(s, 0); a >= 0 {
		return false
	}
	d.cleanTexts.add(hash)
	return true
}

// fields fills in what has one value and depends on the record; what is there
// already stays.
func (d *Decoder) fields(pl *plan, ev *schemas.Event) {
	done := uint32(0)
	for _, f := range pl.fields {
		if done>>f.id&1 == 0 && d.give(f, ev) {
			done |= 1 << f.id
		}
	}
}

// give fills in a field; false if the record does not tell it.
func (d *Decoder) give(f *scalar, ev *schemas.Event) (ok bool) {
	switch f.id {
	case fieldActor:
		if !d.key(&ev.Actor, &f.actor.key) {
			return false
		}
		ev.ActorName = d.optional(f.actor.name)
		return true
	case fieldEnded:
		ev.EndedNanos, ok = d.eval.time(f.ended)
		return ok
	case fieldOutcome, fieldMFA, fieldVerdict:
		return d.giveWord(f, ev)
	}
	s, ok := d.clean(&f.expr)
	if ok {
		*textOf(ev, f.id) = s
	}
	return ok
}

// textOf is where an event has a plain text.
func textOf(ev *schemas.Event, id fieldID) *string {
	switch id {
	case fieldAction:
		return &ev.Action
	case fieldResource:
		return &ev.Resource
	case fieldTenant:
		return &ev.Tenant
	case fieldAuthority:
		return &ev.Authority
	case fieldScopes:
		return &ev.Scopes
	case fieldAuthMethod:
		return &ev.AuthMethod
	case fieldSourceIP:
		return &ev.SourceIP
	case fieldUserAgent:
		return &ev.UserAgent
	case fieldTraceID:
		return &ev.TraceID
	case fieldSpanID:
		return &ev.SpanID
	case fieldDecisionID:
		return &ev.Decision.ID
	case fieldPolicy:
		return &ev.Decision.Policy
	default:
		return &ev.BindOnly
	}
}

// giveWord fills in a field that is one of some words.
func (d *Decoder) giveWord(f *scalar, ev *schemas.Event) bool {
	s, ok := d.eval.text(&f.expr)
	if !ok {
		return false
	}
	n, ok := wordOf(f.id, s)
	if !ok {
		return false
	}
	setWord(ev, f.id, n)
	return true
}

func setWord(ev *schemas.Event, id fieldID, n int64) {
	switch id {
	case fieldOutcome:
		ev.Outcome = schemas.Outcome(n)
	case fieldMFA:
		ev.MFA = schemas.MFA(n)
	default:
		ev.Decision.Verdict = schemas.Verdict(n)
	}
}

// wordOf reads a word of a field.
func wordOf(id fieldID, s string) (n int64, ok bool) {
	switch id {
	case fieldOutcome:
		v, ok := schemas.ParseOutcome(s)
		return int64(v), ok
	case fieldMFA:
		v, ok := schemas.ParseMFA(s)
		return int64(v), ok
	case fieldVerdict:
		v, ok := schemas.ParseVerdict(s)
		return int64(v), ok
	}
	return 0, false
}

// optional evaluates a template that may not be there, or give nothing.
func (d *Decoder) optional(x *expr) string {
	if x == nil {
		return ""
	}
	s, ok := d.clean(x)
	if !ok {
		return ""
	}
	return s
}

// key evaluates a key template into k; false, and k is the zero key, if it gives
// nothing. A value that is itself a secret becomes its keyed HMAC, the same as
// the transform hmac gives.
//
// Keys, like all that is larger than a few words, are written where they stay:
// what is returned and then copied waits for its own parts to be stored.
func (d *Decoder) key(k *schemas.Key, x *keyExpr) bool {
	s, clean := d.sure(&x.value)
	ok := clean
	if !clean {
		s, clean, ok = d.looked(&x.value)
	}
	if !ok || schemas.Placeholder(s) || d.repaired && strings.ContainsRune(s, utf8.RuneError) {
		*k = schemas.Key{}
		return false
	}
	if !clean {
		s = d.eval.hmac(s)
		d.out.SecretKeys++
	}
	k.Kind, k.Namespace, k.Value = x.kind, x.namespace, s
	return k.Kind != schemas.KindNone
}

// elements is how often an entry is evaluated: once, or for each element of
// the array that its [*] run through.
func (d *Decoder) elements(star int32) int32 {
	if star < 0 {
		return 1
	}
	return d.eval.counts[star]
}

// at sets which element [*] stands for.
func (d *Decoder) atElement(star, i int32) {
	if star >= 0 {
		d.eval.element = i
	}
}

// lists appends what there may be several of.
func (d *Decoder) lists(pl *plan, ev *schemas.Event) {
	if len(pl.keys) > 0 {
		d.addKeys(pl.keys, ev)
	}
	if len(pl.makes) > 0 {
		d.addMakes(pl.makes, ev)
	}
	if len(pl.ends) > 0 {
		d.addEnds(pl.ends, ev)
	}
	if len(pl.attributes) > 0 {
		d.addAttributes(pl.attributes, ev)
	}
}

// since is what was appended to a list from start on; nil for nothing.
func since[T any](list []T, start int) []T {
	if n := len(list); n > start {
		return list[start:n:n]
	}
	return nil
}

// more appends a zero value and returns where it lies.
func more[T any](list *[]T) *T {
	n := len(*list)
	*list = slices.Grow(*list, 1)[:n+1]
	var zero T
	x := &(*list)[n]
	*x = zero
	return x
}

func (d *Decoder) addKeys(list []*keyEntry, ev *schemas.Event) {
	start := len(d.out.keys)
	for _, en := range list {
		for j := range d.elements(en.star) {
			d.atElement(en.star, j)
			d.eval.hidden = false
			n := len(d.out.keys)
			k := more(&d.out.keys)
			switch {
			case !d.key(k, &en.key):
				ev.Redacted = ev.Redacted || d.eval.hidden
				d.out.keys = d.out.keys[:n]
			case repeated(d.out.keys[start:n], k):
				d.out.keys = d.out.keys[:n]
			}
		}
		d.eval.element = -1
	}
	ev.Keys = since(d.out.keys, start)
}

func (d *Decoder) addMakes(list []*makeEntry, ev *schemas.Event) {
	start := len(d.out.makes)
	for _, en := range list {
		for j := range d.elements(en.star) {
			d.atElement(en.star, j)
			d.addMake(en, ev, start)
		}
		d.eval.element = -1
	}
	ev.Makes = since(d.out.makes, start)
}

// farBack is how far back repetitions are looked for: rules repeat what other
// rules say, arrays of thousands of elements need not be compared pair by pair.
const farBack = 64

func repeated(list []schemas.Key, k *schemas.Key) bool {
	for i := max(0, len(list)-farBack); i < len(list); i++ {
		if list[i] == *k {
			return true
		}
	}
	return false
}

// addMake appends a binding, if both its ends are there and differ: a login's
// mint names one thing as both, and has no parent key.
func (d *Decoder) addMake(en *makeEntry, ev *schemas.Event, start int) {
	last := len(d.out.makes)
	b := more(&d.out.makes)
	if !d.key(&b.Child, &en.child) || !d.key(&b.Parent, &en.parent) || b.Parent == b.Child {
		d.out.makes = d.out.makes[:last]
		return
	}
	b.ChildName, b.ParentName = d.optional(en.childName), d.optional(en.parentName)
	b.Relation, b.Strength = en.relation, en.strength
	b.Proof, b.ProofNanos, b.Source, b.Evidence = ev.ID, ev.TimeNanos, ev.Source, ev.Evidence
	if !en.always {
		if b.FromNanos = ev.TimeNanos; en.from != nil {
			if t, ok := d.eval.time(en.from); ok {
				b.FromNanos = t
			}
		}
	}
	b.UntilNanos = d.optionalTime(en.until)
	b.ExpiresNanos = d.optionalTime(en.expires)
	if b.Relation == schemas.RelationAuthenticated && !b.Child.Kind.Principal() { // two names of one person have no second factor
		b.AuthMethod, b.MFA = ev.AuthMethod, ev.MFA
	}
	for i := max(start, last-farBack); i < last; i++ {
		if d.out.makes[i] == *b {
			d.out.makes = d.out.makes[:last]
			return
		}
	}
}

func (d *Decoder) optionalTime(x *timeExpr) int64 {
	if x == nil {
		return 0
	}
	t, _ := d.eval.time(x)
	return t
}

func (d *Decoder) addEnds(list []*endEntry, ev *schemas.Event) {
	start := len(d.out.ends)
	for _, en := range list {
		for j := range d.elements(en.star) {
			d.atElement(en.star, j)
			var k schemas.Key
			if d.key(&k, &en.key) {
				d.out.ends = append(d.out.ends, schemas.End{Key: k, AtNanos: cmp.Or(d.optionalTime(en.at), ev.TimeNanos), Revoked: en.revoked})
			}
		}
		d.eval.element = -1
	}
	ev.Ends = since(d.out.ends, start)
}

// addAttributes appends the attributes. Of two of one name the later one, in
// the order of the rules, stays.
func (d *Decoder) addAttributes(list []*attributeEntry, ev *schemas.Event) {
	start := len(d.out.attributes)
	for _, en := range list {
		s, ok := d.clean(&en.expr)
		if !ok {
			continue
		}
		same := -1
		if en.again {
			same = slices.IndexFunc(d.out.attributes[start:], func(x schemas.Attribute) bool { return x.Name == en.name })
		}
		if same >= 0 {
			d.out.attributes[start+same].Value = s
			continue
		}
		a := more(&d.out.attributes)
		a.Name, a.Value = en.name, s
	}
	ev.Attributes = since(d.out.attributes, start)
}
