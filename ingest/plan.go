package ingest

import (
	"math/bits"
	"slices"
	"strconv"

	"catena/schemas"
)

// plan is what the rules that hold for a record make of it, and the common
// part: what is evaluated, in order.
type plan struct {
	program    *program
	on         []uint64      // which rules hold, a bit each
	event      schemas.Event // what does not depend on the record
	classified bool          // its class is told
	id         []expr
	time       []*timeExpr
	fields     []*scalar // of one value each: the first that gives something counts
	keys       []*keyEntry
	makes      []*makeEntry
	ends       []*endEntry
	attributes []*attributeEntry
}

// Which conditions hold depends on the facts alone, and what templates can give
// on which slots have a value. Records of one kind agree in both, again and again.
// So what follows from a shape, as this is called here, is worked out once:
// which regular expressions have to be asked, which source it is, what is to be
// evaluated, without what cannot be there. The next record of the shape finds
// that in a table.
type shape struct {
	program  *program
	is       []uint64 // facts that are no regular expressions
	there    []uint64 // and which slots have a value
	dear     []int32  // atoms that matter to some condition: bits of answers
	variants []*variant
}

// variant is what follows from a shape and the answers of its regular
// expressions.
type variant struct {
	answers uint64
	winner  *program // nil if no source's match holds
	plan    *plan    // made when it is asked for
}

// shapes is the table of a decoder. It is bounded, and a shape gets into it when
// it is seen for the second time: what never comes again costs little.
type shapes struct {
	sets    [shapeSets]shapeSet
	scratch variant // of what is not in the table
	memory  plan
}

type shapeSet struct {
	seen uint64    // hash of the last shape that was not found
	kept [2]*shape // the newer first
}

const (
	shapeSets   = 512
	maxVariants = 4
)

// variant returns what follows for the document that p has walked over. It
// holds until the next call.
func (d *Decoder) variant(p *program) *variant {
	is, there := d.facts.words()
	h := hashWords(hashWords(uint64(p.number)+1, there), is)
	set := &d.shapes.sets[h%shapeSets]
	for _, s := range set.kept {
		if s != nil && s.program == p && slices.Equal(s.there, there) && slices.Equal(s.is, is) {
			return d.variantOf(s)
		}
	}
	if set.seen == h {
		if s := d.newShape(p, is, there); len(s.dear) <= 64 {
			set.kept = [2]*shape{s, set.kept[0]}
			return d.variantOf(s)
		}
	}
	set.seen = h
	v := &d.shapes.scratch
	*v = variant{winner: d.winner(p)}
	return v
}

func hashWords(h uint64, words []uint64) uint64 {
	for _, w := range words {
		hi, lo := bits.Mul64(h^w, 0x9e3779b97f4a7c15)
		h = hi ^ lo
	}
	return h
}

// newShape takes down the current shape.
func (d *Decoder) newShape(p *program, is, there []uint64) *shape {
	s := &shape{program: p, is: slices.Clone(is), there: slices.Clone(there)}
	ask := func(c *cond) { s.dear = d.facts.dearOf(c, s.dear) }
	for i := range p.matches.conds {
		ask(&p.matches.conds[i])
	}
	for i := range p.rules.conds {
		ask(&p.rules.conds[i])
	}
	p.eachBlock(func(b *block) {
		for i := range b.keys {
			ask(b.keys[i].when)
		}
		for i := range b.makes {
			ask(b.makes[i].when)
		}
		for i := range b.ends {
			ask(b.ends[i].when)
		}
	})
	return s
}

// dearOf appends the regular expressions on which the condition depends, as far
// as the other facts leave it open.
func (f *facts) dearOf(c *cond, list []int32) []int32 {
	if !f.cheapHold(c) {
		return list
	}
	for _, x := range c.dear {
		if !slices.Contains(list, x.atom) {
			list = append(list, x.atom)
		}
	}
	for _, alternatives := range [][][]cond{c.any, c.none} {
		for _, conds := range alternatives {
			for i := range conds {
				list = f.dearOf(&conds[i], list)
			}
		}
	}
	return list
}

// variantOf finds the variant of a shape for the answers that its regular
// expressions give.
func (d *Decoder) variantOf(s *shape) *variant {
	answers := uint64(0)
	for i, a := range s.dear {
		if d.facts.matches(a) {
			answers |= 1 << i
		}
	}
	for _, v := range s.variants {
		if v.answers == answers {
			return v
		}
	}
	v := &variant{answers: answers, winner: d.winner(s.program)}
	if len(s.variants) < maxVariants {
		s.variants = append(s.variants, v)
		return v
	}
	d.shapes.scratch = *v
	return &d.shapes.scratch
}

// planOf returns the plan of a variant.
func (d *Decoder) planOf(v *variant, p *program) *plan {
	switch {
	case v == &d.shapes.scratch:
		d.makePlan(&d.shapes.memory, p)
		return &d.shapes.memory
	case v.plan == nil:
		v.plan = &plan{}
		d.makePlan(v.plan, p)
		d.specialise(v.plan)
	}
	return v.plan
}

// makePlan gathers what the rules that hold say. Fields go from the last rule
// back to the common part, as what is said later counts; lists go forward.
func (d *Decoder) makePlan(pl *plan, p *program) {
	*pl = plan{
		program: p, on: p.rules.hold(&d.facts, pl.on), event: schemas.Event{Source: p.source.Name}, id: p.id, time: pl.time[:0], fields: pl.fields[:0],
		keys: pl.keys[:0], makes: pl.makes[:0], ends: pl.ends[:0], attributes: pl.attributes[:0],
	}
	for i := range p.time {
		if t := &p.time[i]; pl.applies(t.rule) {
			pl.time = append(pl.time, &t.expr)
		}
	}
	d.addLists(pl, &p.common)
	for word, m := range pl.on {
		for ; m != 0; m &= m - 1 {
			d.addLists(pl, &p.blocks[word*64+bits.TrailingZeros64(m)])
		}
	}
	for word := len(pl.on) - 1; word >= 0; word-- {
		for m := pl.on[word]; m != 0; {
			i := 63 - bits.LeadingZeros64(m)
			m &^= 1 << i
			pl.addFields(&p.blocks[word*64+i])
		}
	}
	pl.addFields(&p.common)
	pl.settle()
}

// settle puts into the event the fields that do not depend on the record, and
// leaves out what they stand before.
func (pl *plan) settle() {
	sure := uint32(0)
	pl.fields = slices.DeleteFunc(pl.fields, func(f *scalar) bool {
		if sure>>f.id&1 != 0 {
			return true
		}
		if !f.sure() {
			return false
		}
		sure |= 1 << f.id
		switch f.id {
		case fieldClass:
			pl.event.Class = schemas.Class(f.number)
			pl.classified = true
		case fieldResolution:
			pl.event.ResolutionNanos = f.number
		case fieldOutcome, fieldMFA, fieldVerdict:
			setWord(&pl.event, f.id, f.number)
		default:
			*textOf(&pl.event, f.id) = f.expr.literal
		}
		return true
	})
}

// applies reports whether what a rule says counts.
func (pl *plan) applies(rule int32) bool {
	return rule == common || pl.on[rule/64]>>(rule%64)&1 != 0
}

func (pl *plan) addFields(b *block) {
	pl.event.Flags |= b.flags
	pl.event.SelfReported = pl.event.SelfReported || b.selfTold
	for i := range b.fields {
		pl.fields = append(pl.fields, &b.fields[i])
	}
}

func (d *Decoder) addLists(pl *plan, b *block) {
	for i := range b.keys {
		if e := &b.keys[i]; d.facts.holds(e.when) {
			pl.keys = append(pl.keys, e)
		}
	}
	for i := range b.makes {
		if e := &b.makes[i]; d.facts.holds(e.when) {
			pl.makes = append(pl.makes, e)
		}
	}
	for i := range b.ends {
		if e := &b.ends[i]; d.facts.holds(e.when) {
			pl.ends = append(pl.ends, e)
		}
	}
	for i := range b.attributes {
		pl.attributes = append(pl.attributes, &b.attributes[i])
	}
}

// specialise makes a plan one for the slots that have a value now: it leaves out
// what cannot give anything, and gives templates that say the same one memo.
func (d *Decoder) specialise(pl *plan) {
	_, there := d.facts.words()
	sp := specialiser{there: there, slots: pl.program.trie.slots, numbers: map[string]int32{}}
	pl.id = slices.Clone(pl.id)
	for i := range pl.id {
		pl.id[i] = sp.expr(&pl.id[i])
	}
	pl.time = kept(pl.time, sp.time)
	pl.fields = kept(pl.fields, sp.field)
	pl.keys = kept(pl.keys, func(e *keyEntry) bool { return sp.key(&e.key) })
	pl.makes = kept(pl.makes, func(e *makeEntry) bool {
		for _, x := range []**expr{&e.childName, &e.parentName} {
			*x = sp.optional(*x)
		}
		for _, x := range []**timeExpr{&e.from, &e.until, &e.expires} {
			*x = sp.optionalTime(*x)
		}
		return sp.key(&e.child) && sp.key(&e.parent)
	})
	pl.ends = kept(pl.ends, func(e *endEntry) bool {
		e.at = sp.optionalTime(e.at)
		return sp.key(&e.key)
	})
	pl.attributes = kept(pl.attributes, func(e *attributeEntry) bool {
		e.expr = sp.expr(&e.expr)
		return e.expr.slot != nothing
	})
	if n := sureSlot + 1 + len(sp.numbers); len(d.eval.memos) < n {
		d.eval.memos = append(d.eval.memos, make([]memo, n-len(d.eval.memos))...)
	}
}

// specialiser turns the templates of a plan into what is left of them where
// only some slots have a value.
type specialiser struct {
	there   []uint64
	slots   []slotInfo
	numbers map[string]int32 // of memos
}

// kept returns copies of the entries that keep, which may change them, keeps.
func kept[T any](list []*T, keep func(*T) bool) (out []*T) {
	all := make([]T, 0, len(list)) // beside each other, in the order of their use
	for _, x := range list {
		if c := *x; keep(&c) {
			all = append(all, c)
		}
	}
	for i := range all {
		out = append(out, &all[i])
	}
	return out
}

func (sp *specialiser) field(f *scalar) bool {
	switch {
	case f.actor != nil:
		a := *f.actor
		a.name = sp.optional(a.name)
		f.actor = &a
		return sp.key(&a.key)
	case f.ended != nil:
		f.ended = sp.optionalTime(f.ended)
		return f.ended != nil
	}
	f.expr = sp.expr(&f.expr)
	return f.expr.slot != nothing
}

// sure reports whether the field gets a value in any case.
func (f *scalar) sure() bool {
	switch f.id {
	case fieldClass, fieldResolution:
		return true
	case fieldActor, fieldEnded:
		return false
	case fieldOutcome, fieldMFA, fieldVerdict:
		return f.number >= 0
	}
	return f.expr.isLiteral()
}

func (sp *specialiser) key(k *keyExpr) bool {
	k.value = sp.expr(&k.value)
	return k.value.slot != nothing
}

func (sp *specialiser) time(t *timeExpr) bool {
	t.expr = sp.expr(&t.expr)
	return t.slot != nothing
}

func (sp *specialiser) optional(x *expr) *expr {
	if x == nil {
		return nil
	}
	c := sp.expr(x)
	if c.slot == nothing {
		return nil
	}
	return &c
}

func (sp *specialiser) optionalTime(x *timeExpr) *timeExpr {
	if x == nil {
		return nil
	}
	c := *x
	if !sp.time(&c) {
		return nil
	}
	return &c
}

// expr is the template without the choices whose slots have no value.
func (sp *specialiser) expr(x *expr) expr {
	if x.isLiteral() {
		return *x
	}
	var parts []part
	name, starred := []byte(nil), false
	for _, p := range x.parts {
		start, star := len(name), false
		name = append(strconv.AppendQuote(name, p.literal), p.name...)
		if len(p.choices) > 0 {
			choices := p.choices
			p.choices, p.slots = nil, nil // all that are left are there
			for _, c := range choices {
				if c.slot < 0 || sp.there[c.slot/64]>>(c.slot%64)&1 != 0 {
					p.choices = append(p.choices, c)
					name = strconv.AppendQuote(strconv.AppendInt(append(name, ' '), int64(c.slot), 10), c.literal)
					star = star || c.slot >= 0 && sp.slots[c.slot].star >= 0
				}
			}
			if len(p.choices) == 0 {
				return expr{slot: nothing}
			}
			if len(p.transforms) > 0 && !star {
				p.number = sp.number(string(name[start:]))
			}
		}
		starred = starred || star
		parts = append(parts, p)
	}
	out := newExpr(parts)
	switch {
	case starred: // it depends on the element
	case out.slot >= 0:
		out.template, out.number = nil, sureSlot
	default:
		out.number = sp.number(string(name))
	}
	return out
}

// number returns the number of a template's memo.
func (sp *specialiser) number(name string) int32 {
	n, ok := sp.numbers[name]
	if !ok {
		n = sureSlot + 1 + int32(len(sp.numbers))
		sp.numbers[name] = n
	}
	return n
}
