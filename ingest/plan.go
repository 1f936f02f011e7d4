package ingest

import (
	"math/bits"
	"slices"

	"catena/schemas"
)

// plan is what the rules that hold for a record make of it, and the common
// part: what is evaluated, in order.
type plan struct {
	program    *program
	on         []uint64 // which rules hold, a bit each
	flags      schemas.Flags
	selfTold   bool
	id         []expr
	time       []*timeExpr
	fields     []*scalar // of one value each: the first that gives something counts
	keys       []*keyEntry
	makes      []*makeEntry
	ends       []*endEntry
	attributes []*attributeEntry
}

// Which conditions hold depends on the facts alone, and what templates can give
// on which slots are filled. Records of one kind agree in both, again and again.
// So what follows from a shape, as this is called here, is worked out once:
// which regular expressions have to be asked, which source it is, what is to be
// evaluated, without what cannot be there. The next record of the shape finds
// that in a table.
type shape struct {
	program  *program
	has, is  []uint64 // filled slots, and facts that are no regular expressions
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
	f, has := &d.facts, d.eval.has
	is := f.is[:p.atoms.words]
	h := hashWords(hashWords(uint64(p.number)+1, has), is)
	set := &d.shapes.sets[h%shapeSets]
	for _, s := range set.kept {
		if s != nil && s.program == p && slices.Equal(s.has, has) && slices.Equal(s.is, is) {
			return d.variantOf(s)
		}
	}
	if set.seen == h {
		if s := d.newShape(p, has, is); len(s.dear) <= 64 {
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
func (d *Decoder) newShape(p *program, has, is []uint64) *shape {
	s := &shape{program: p, has: slices.Clone(has), is: slices.Clone(is)}
	ask := func(c *cond) { s.dear = d.facts.dearOf(c, s.dear) }
	for i := range p.matches.conds {
		ask(&p.matches.conds[i])
	}
	for i := range p.rules.conds {
		ask(&p.rules.conds[i])
	}
	p.eachBlock(func(b *block) {
		for i := range b.keys {
			ask(&b.keys[i].when)
		}
		for i := range b.makes {
			ask(&b.makes[i].when)
		}
		for i := range b.ends {
			ask(&b.ends[i].when)
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
		v.plan.prune(d.eval.has)
	}
	return v.plan
}

// makePlan gathers what the rules that hold say. Fields go from the last rule
// back to the common part, as what is said later counts; lists go forward.
func (d *Decoder) makePlan(pl *plan, p *program) {
	*pl = plan{
		program: p, on: p.rules.hold(&d.facts, pl.on), id: p.id, time: pl.time[:0], fields: pl.fields[:0],
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
}

// applies reports whether what a rule says counts.
func (pl *plan) applies(rule int32) bool {
	return rule == common || pl.on[rule/64]>>(rule%64)&1 != 0
}

func (pl *plan) addFields(b *block) {
	pl.flags |= b.flags
	pl.selfTold = pl.selfTold || b.selfTold
	for i := range b.fields {
		pl.fields = append(pl.fields, &b.fields[i])
	}
}

func (d *Decoder) addLists(pl *plan, b *block) {
	for i := range b.keys {
		if e := &b.keys[i]; d.facts.holds(&e.when) {
			pl.keys = append(pl.keys, e)
		}
	}
	for i := range b.makes {
		if e := &b.makes[i]; d.facts.holds(&e.when) {
			pl.makes = append(pl.makes, e)
		}
	}
	for i := range b.ends {
		if e := &b.ends[i]; d.facts.holds(&e.when) {
			pl.ends = append(pl.ends, e)
		}
	}
	for i := range b.attributes {
		pl.attributes = append(pl.attributes, &b.attributes[i])
	}
}

// prune leaves out what cannot give anything where only these slots are filled.
func (pl *plan) prune(has []uint64) {
	pl.id = slices.Clone(pl.id)
	for i := range pl.id {
		pl.id[i] = pl.id[i].pruned(has)
	}
	pl.time = kept(pl.time, func(t *timeExpr) bool { return t.prune(has) })
	done := uint32(0)
	pl.fields = kept(pl.fields, func(f *scalar) bool {
		if done>>f.id&1 != 0 || !f.prune(has) {
			return false
		}
		if f.sure() {
			done |= 1 << f.id
		}
		return true
	})
	pl.keys = kept(pl.keys, func(e *keyEntry) bool { return e.key.prune(has) })
	pl.makes = kept(pl.makes, func(e *makeEntry) bool {
		for _, x := range []**expr{&e.childName, &e.parentName} {
			*x = prunedOptional(*x, has)
		}
		for _, x := range []**timeExpr{&e.from, &e.until, &e.expires} {
			*x = prunedTime(*x, has)
		}
		return e.child.prune(has) && e.parent.prune(has)
	})
	pl.ends = kept(pl.ends, func(e *endEntry) bool {
		e.at = prunedTime(e.at, has)
		return e.key.prune(has)
	})
	pl.attributes = kept(pl.attributes, func(e *attributeEntry) bool {
		e.expr = e.expr.pruned(has)
		return !e.expr.nothing
	})
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

func (f *scalar) prune(has []uint64) bool {
	switch {
	case f.actor != nil:
		a := *f.actor
		a.name = prunedOptional(a.name, has)
		f.actor = &a
		return a.key.prune(has)
	case f.ended != nil:
		f.ended = prunedTime(f.ended, has)
		return f.ended != nil
	case f.id == fieldClass || f.id == fieldResolution:
		return true
	}
	f.expr = f.expr.pruned(has)
	return !f.expr.nothing
}

// sure reports whether the field gets a value in any case.
func (f *scalar) sure() bool {
	switch f.id {
	case fieldActor, fieldEnded:
		return false
	case fieldOutcome, fieldMFA, fieldVerdict:
		return f.number >= 0
	}
	return f.expr.isLiteral()
}

func (k *keyExpr) prune(has []uint64) bool {
	k.value = k.value.pruned(has)
	return !k.value.nothing
}

func (t *timeExpr) prune(has []uint64) bool {
	t.expr = t.expr.pruned(has)
	return !t.nothing
}

func prunedOptional(x *expr, has []uint64) *expr {
	if x == nil {
		return nil
	}
	c := x.pruned(has)
	if c.nothing {
		return nil
	}
	return &c
}

func prunedTime(x *timeExpr, has []uint64) *timeExpr {
	if x == nil {
		return nil
	}
	c := *x
	if !c.prune(has) {
		return nil
	}
	return &c
}

// pruned is the template without the choices whose slots are not filled.
func (x *expr) pruned(has []uint64) expr {
	if x.isLiteral() {
		return *x
	}
	out := expr{slot: -1}
	for _, p := range x.parts {
		if len(p.choices) > 0 {
			choices := p.choices
			p.choices, p.slots = nil, nil // all that are left are filled
			for _, c := range choices {
				if c.slot < 0 || has[c.slot/64]>>(c.slot%64)&1 != 0 {
					p.choices = append(p.choices, c)
				}
			}
			if len(p.choices) == 0 {
				return expr{slot: -1, nothing: true}
			}
		}
		out.parts = append(out.parts, p)
	}
	out.plain()
	return out
}
