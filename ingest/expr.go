package ingest

import (
	"fmt"

	"catena/schemas"
	"catena/schemas/sources"
)

// expr is a compiled template. There are many in plans, so it is small.
type expr struct {
	slot      int32 // all of it is what stands in the slot; else one of the two below
	number    int32 // of its memo in a plan; sureSlot for a slot that has a value; 0 for neither
	*template       // what it says beyond a slot
}

const (
	noSlot  = -1
	nothing = -2 // it cannot give anything, see specialise

	sureSlot = 1
)

// template is literal text if it has no parts.
type template struct {
	literal string
	parts   []part
}

// isLiteral reports whether the template has no placeholder.
func (x *expr) isLiteral() bool { return x.slot == noSlot && len(x.parts) == 0 }

// newExpr makes a template of its parts.
func newExpr(parts []part) expr {
	if len(parts) == 1 && len(parts[0].choices) == 1 && len(parts[0].transforms) == 0 {
		if slot := parts[0].choices[0].slot; slot >= 0 {
			return expr{slot: slot, template: &template{parts: parts}}
		}
	}
	return expr{slot: noSlot, template: &template{parts: parts}}
}

// part is literal text, or the first of some choices that finds something,
// sent through transforms.
type part struct {
	literal    string
	choices    []choice   // none in literal text
	slots      []wordBits // of the choices, if all are slots: where none is filled, there is nothing
	transforms []transformFunc
	name       string // what tells the transforms from others
	number     int32  // of its memo in a plan, if it has transforms; 0 for none
}

// choice is a slot, or literal text if that is negative.
type choice struct {
	slot    int32
	literal string
}

// timeExpr is a template of which a time is made.
type timeExpr struct {
	expr
	unit timeUnit
	path string // for messages
}

// evaluator makes texts of the slots that a walk has filled. Its results alias
// the record, the program or its arena.
type evaluator struct {
	*walker
	secrets *Redactor
	element int32 // which element [*] stands for; -1 for all, joined with blanks
	// hidden is set when a placeholder such as HIDDEN_DUE_TO_SECURITY_REASONS
	// was found where a value was looked for.
	hidden bool

	timestampNanos int64 // of the record; zero for none

	pieces []string // of the template at hand
	memos  []memo   // by number
}

// memo is what a template has given: others may say the same.
type memo struct {
	text     string
	cleaned  string // without secrets, if redacted is set
	walk     uint64 // in which it was evaluated; of another one it says nothing
	ok       bool
	hidden   bool
	clean    bool // there is no secret in it
	redacted bool
}

// keep puts a text into the arena, where it costs no allocation of its own to
// hold on to. The text given may be garbage then.
func (e *evaluator) keep(s string) string {
	start := len(e.arena.buf)
	e.arena.buf = append(e.arena.buf, s...)
	return e.arena.since(start)
}

// hmac is the keyed hash of a secret.
func (e *evaluator) hmac(secret string) string {
	start := len(e.arena.buf)
	e.arena.buf = e.secrets.appendHash(e.arena.buf, secret)
	return e.arena.since(start)
}

// text evaluates a template; false if it gives nothing.
func (e *evaluator) text(x *expr) (string, bool) {
	switch x.number {
	case 0:
		return e.evaluate(x)
	case sureSlot:
		return e.lookAt(&e.slots[x.slot])
	}
	m := e.memo(x)
	e.hidden = e.hidden || m.hidden
	return m.text, m.ok
}

// memo is the memo of a template that has one and is more than a slot.
func (e *evaluator) memo(x *expr) *memo {
	m := &e.memos[x.number]
	if m.walk != e.walk {
		hidden := e.hidden
		e.hidden = false
		text, ok := e.evaluate(x)
		e.keepMemo(m, text, ok)
		e.hidden = hidden
	}
	return m
}

func (e *evaluator) keepMemo(m *memo, text string, ok bool) {
	m.text, m.ok, m.hidden, m.walk, m.clean, m.redacted = text, ok, e.hidden, e.walk, false, false
}

// piece is a part of a template of several.
func (e *evaluator) piece(p *part) (string, bool) {
	if p.number == 0 {
		return e.part(p)
	}
	m := &e.memos[p.number]
	if m.walk != e.walk {
		hidden := e.hidden
		e.hidden = false
		text, ok := e.part(p)
		e.keepMemo(m, text, ok)
		e.hidden = hidden
	}
	e.hidden = e.hidden || m.hidden
	return m.text, m.ok
}

func (e *evaluator) evaluate(x *expr) (string, bool) {
	if x.slot >= 0 {
		return e.find(x.slot)
	}
	switch {
	case x.slot == nothing:
		return "", false
	case len(x.parts) == 0:
		return x.literal, true
	case len(x.parts) == 1:
		return e.part(&x.parts[0])
	}
	// Parts may use the arena on their way, so the text is put together last.
	e.pieces = e.pieces[:0]
	for i := range x.parts {
		s, ok := e.piece(&x.parts[i])
		if !ok {
			return "", false
		}
		e.pieces = append(e.pieces, s)
	}
	start := len(e.arena.buf)
	for _, s := range e.pieces {
		e.arena.buf = append(e.arena.buf, s...)
	}
	return e.arena.since(start), true
}

// part evaluates one part; false if a placeholder finds nothing.
func (e *evaluator) part(p *part) (string, bool) {
	if len(p.choices) == 0 {
		return p.literal, true
	}
	if p.slots != nil && !e.filledOne(p.slots) {
		return "", false
	}
	s, ok := "", false
	for i := range p.choices {
		c := &p.choices[i]
		if c.slot < 0 {
			s, ok = c.literal, true
			break
		}
		if s, ok = e.find(c.slot); ok {
			break
		}
	}
	if !ok {
		return "", false
	}
	for _, t := range p.transforms {
		if s = t(e, s); s == "" {
			return "", false
		}
	}
	// What is cut out of a value may tell nothing where the whole told something: the zeros of a traceparent.
	return s, len(p.transforms) == 0 || !notTold(s)
}

// filledOne reports whether there is a value for one of some slots.
func (e *evaluator) filledOne(slots []wordBits) bool {
	for _, b := range slots {
		if e.has[b.word]&b.mask != 0 {
			return true
		}
	}
	return false
}

// look is what somebody who has looked at the value of a slot has found: it is
// an actor, a key and the end of a binding, but looked at once.
type look uint8

const (
	unseen  look = iota
	told         // a text without escapes that tells something
	cleaned      // and there is no secret in it
)

// find returns the value of a slot, if it tells something.
func (e *evaluator) find(slot int32) (string, bool) {
	if !e.filled(slot) {
		return "", false
	}
	return e.lookAt(&e.slots[slot])
}

// lookAt is find for a slot that is filled.
func (e *evaluator) lookAt(x *slot) (string, bool) {
	if x.look != unseen {
		return x.text, true
	}
	s, ok := e.textOf(x)
	switch {
	case !ok:
	case !notTold(s):
		if !x.starred {
			x.look = told
		}
		return s, true
	case hiddenValue(s):
		e.hidden = true
	}
	return "", false
}

// notTold reports whether a text stands for "not told". A plain 0 tells
// something: exit codes and the like. As the whole of a key it does not, which
// is looked at where keys are made.
func notTold(s string) bool {
	return s != "0" && schemas.Placeholder(s)
}

// hiddenValue reports whether a placeholder stands where somebody took a value
// out, rather than where there was none.
func hiddenValue(s string) bool {
	switch s {
	case "REDACTED", "[REDACTED]", "HIDDEN_DUE_TO_SECURITY_REASONS", "***", "1111":
		return true
	}
	return false
}

// present returns the value of a slot; false if it is null, "" or not there.
func (e *evaluator) present(slot int32) (string, bool) {
	if !e.filled(slot) {
		return "", false
	}
	return e.textOf(&e.slots[slot])
}

func (e *evaluator) textOf(x *slot) (string, bool) {
	if x.starred || x.escaped {
		return e.madeText(x)
	}
	return x.text, x.kind != kindNull && x.text != ""
}

// madeText is the value of a slot that does not stand in the record as it is.
func (e *evaluator) madeText(x *slot) (string, bool) {
	if x.kind == kindStamp {
		x.text, x.kind, x.escaped = e.stamp(), kindString, false
		return x.text, true
	}
	if !x.starred {
		x.text, x.escaped = e.arena.unescaped(x.text), false
		return x.text, x.text != ""
	}
	if e.element < 0 {
		return e.joined(x)
	}
	return e.elementOf(x)
}

// elementOf returns what the current element has of a slot. The values stand in
// the order of the elements, and elements are asked for in that order, so that
// each slot remembers where it was.
func (e *evaluator) elementOf(x *slot) (string, bool) {
	at := x.last
	if e.many[at].element > e.element {
		at = x.first
	}
	for at >= 0 && e.many[at].element < e.element {
		at = e.many[at].next
	}
	if at < 0 || e.many[at].element != e.element {
		return "", false
	}
	x.last = at
	return e.manyText(at)
}

func (e *evaluator) manyText(i int32) (string, bool) {
	v := &e.many[i].value
	if v.escaped {
		v.text, v.escaped = e.arena.unescaped(v.text), false
	}
	return v.text, v.kind != kindNull && v.text != ""
}

// joined puts a blank between the values of all elements.
func (e *evaluator) joined(x *slot) (string, bool) {
	if e.many[x.first].next < 0 {
		return e.manyText(x.first)
	}
	for i := x.first; i >= 0; i = e.many[i].next { // unescape before writing
		e.manyText(i)
	}
	start := len(e.arena.buf)
	for i := x.first; i >= 0; i = e.many[i].next {
		s, ok := e.manyText(i)
		if !ok {
			continue
		}
		if len(e.arena.buf) > start {
			e.arena.buf = append(e.arena.buf, ' ')
		}
		e.arena.buf = append(e.arena.buf, s...)
	}
	return e.arena.since(start), len(e.arena.buf) > start
}

// time evaluates a template and reads the time in it.
func (e *evaluator) time(x *timeExpr) (nanos int64, ok bool) {
	s, ok := e.text(&x.expr)
	if !ok {
		return 0, false
	}
	return parseTime(s, x.unit)
}

// keyExpr is a compiled key template.
type keyExpr struct {
	kind      schemas.Kind
	namespace string
	value     expr
}

// expr compiles a template.
func (c *compiler) expr(t *sources.Template) expr {
	if lit, ok := t.Literal(); ok {
		return expr{slot: noSlot, template: &template{literal: lit}}
	}
	var parts []part
	for _, p := range t.Parts {
		out := part{literal: p.Literal}
		for _, ch := range p.Choices {
			slot := int32(-1)
			if len(ch.Path) > 0 {
				slot = c.trie.slot(ch.Path)
			}
			out.choices = append(out.choices, choice{slot, ch.Literal})
		}
		for _, tr := range p.Transforms {
			if _, ok := timeUnits[tr.Name]; ok {
				continue // the last one of a time template, see timeExpr
			}
			f, err := compileTransform(tr)
			if err != nil {
				c.fault(t, err)
				continue
			}
			out.transforms = append(out.transforms, f)
			out.name += fmt.Sprintf("|%s%q", tr.Name, tr.Args)
		}
		out.slots = slotsOf(out.choices)
		parts = append(parts, out)
	}
	return newExpr(parts)
}

// slotsOf returns the bits of the choices; nil if one of them is text.
func slotsOf(choices []choice) (slots []wordBits) {
	for _, c := range choices {
		if c.slot < 0 {
			return nil
		}
		slots = addBit(slots, c.slot)
	}
	return slots
}

func (c *compiler) timeExpr(t *sources.Template) timeExpr {
	out := timeExpr{expr: c.expr(t), path: t.Text}
	for _, p := range t.Parts {
		for _, tr := range p.Transforms {
			if unit, ok := timeUnits[tr.Name]; ok {
				out.unit = unit
			}
		}
	}
	return out
}

func (c *compiler) keyExpr(k *sources.KeyTemplate) keyExpr {
	return keyExpr{kind: k.Kind, namespace: k.Namespace, value: c.expr(&k.Value)}
}
