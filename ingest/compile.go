package ingest

import (
	"errors"
	"fmt"
	"slices"

	"catena/schemas"
	"catena/schemas/sources"
)

// program is a source, compiled: a trie that one walk fills, conditions on its
// slots, and for each field of an event the templates that may give it. It is
// never changed once made, and shared by all decoders.
//
// Every program also reads what recognition needs of all sources and
// envelopes. So the walk of the program that is tried first decides at once
// what a record is, and for the next record of the same source nothing has to
// be read twice.
type program struct {
	source *sources.Source // nil in the program that only recognises
	number int             // in the order of recognition; that which only recognises is the last
	trie   *trie
	atoms  *atoms

	matches   condIndex  // of every source, in the order of recognition
	envelopes []opening  // of every envelope
	holders   []int32    // the slots of their contents
	contents  []wordBits // what envelopes hold: one of them is there, or the document is none
	general   []cond     // documents of logs of all kinds
	inherits  []handDown // members that a list hands down to its items

	idStart schemas.IDParts // what the ids of all its events begin with
	id      []expr
	time    []timeOption // in the order of their trial: the last rule first
	rules   condIndex
	blocks  []block // what each rule says
	common  block   // what stands outside of rules
}

// block is what a rule, or the common part, says.
type block struct {
	fields     []scalar
	keys       []keyEntry
	makes      []makeEntry
	ends       []endEntry
	attributes []attributeEntry
	flags      schemas.Flags
	selfTold   bool
}

// eachBlock calls f with the common part and every rule.
func (p *program) eachBlock(f func(*block)) {
	f(&p.common)
	for i := range p.blocks {
		f(&p.blocks[i])
	}
}

// fieldID names a field of an event that has one value. Of several rules that
// give it the last counts, and the common part if none does.
type fieldID uint8

// The fields. Up to the decision's policy they are plain text.
const (
	fieldAction fieldID = iota
	fieldResource
	fieldTenant
	fieldAuthority
	fieldScopes
	fieldAuthMethod
	fieldSourceIP
	fieldUserAgent
	fieldTraceID
	fieldSpanID
	fieldDecisionID
	fieldPolicy
	fieldBindOnly
	fieldOutcome
	fieldMFA
	fieldVerdict
	fieldClass
	fieldResolution
	fieldActor
	fieldEnded
)

// scalar is how a block gives a field.
type scalar struct {
	id     fieldID
	number int64 // of a word or duration that does not depend on the record
	expr   expr
	actor  *actor
	ended  *timeExpr
}

type actor struct {
	key  keyExpr
	name *expr
}

// timeOption is a template that may give the event time. Rule is common where
// no rule says so.
type timeOption struct {
	rule int32
	expr timeExpr
}

const common int32 = -1

// keyEntry is an entry of keys. Star is the group of its [*]; -1 for none.
type keyEntry struct {
	when *cond
	star int32
	key  keyExpr
}

type makeEntry struct {
	when                  *cond
	star                  int32
	child, parent         keyExpr
	childName, parentName *expr
	relation              schemas.Relation
	strength              schemas.Strength
	always                bool
	from, until, expires  *timeExpr
}

type endEntry struct {
	when    *cond
	star    int32
	key     keyExpr
	at      *timeExpr
	revoked bool
}

type attributeEntry struct {
	name  string
	expr  expr
	again bool // the name stands in an earlier entry, too
}

// compiler makes a program.
type compiler struct {
	*program
	faults []error
	named  map[string]bool // attributes
}

func (c *compiler) fault(t *sources.Template, err error) {
	c.faults = append(c.faults, fmt.Errorf("%s: line %d, column %d: %q: %w", c.source.Where(), t.Line, t.Col, t.Text, err))
}

// compile makes the program of a source; with nil, the one that recognises.
func compile(src *sources.Source, all []*sources.Source, shapes []*envelope) (*program, error) {
	c := &compiler{program: &program{source: src, trie: newTrie(), atoms: newAtoms()}, named: map[string]bool{}}
	for _, s := range all {
		c.matches.add(c.condition(s.Match))
	}
	c.compileEnvelopes(shapes)
	if src != nil {
		c.idStart = c.idStart.Add("event").Add(src.Name)
		for i := range src.ID {
			c.id = append(c.id, c.expr(&src.ID[i]))
		}
		c.common = c.block(common, &src.Common)
		for i := range src.Rules {
			c.rules.add(c.condition(src.Rules[i].When))
			c.blocks = append(c.blocks, c.block(int32(i), &src.Rules[i].Fields))
		}
		slices.Reverse(c.time)
	}
	if len(c.atoms.list) > maxAtoms || len(c.trie.slots) > maxAtoms {
		return c.program, errors.Join(append(c.faults, fmt.Errorf("%s: more than %d different paths, or conditions", c.where(), maxAtoms))...)
	}
	c.atoms.finish(c.trie.slots)
	c.matches.finish(c.atoms)
	c.rules.finish(c.atoms)
	return c.program, errors.Join(c.faults...)
}

func (c *compiler) where() string {
	if c.source == nil {
		return "what tells sources from each other"
	}
	return c.source.Where()
}

// block compiles what a rule, or the common part, says.
func (c *compiler) block(rule int32, f *sources.Fields) (b block) {
	b.flags, b.selfTold = f.Flags, f.SelfReported
	if f.Class != nil {
		b.fields = append(b.fields, scalar{id: fieldClass, number: int64(*f.Class)})
	}
	if f.Resolution > 0 {
		b.fields = append(b.fields, scalar{id: fieldResolution, number: int64(f.Resolution)})
	}
	for _, x := range []struct {
		id       fieldID
		template *sources.Template
	}{
		{fieldAction, f.Action}, {fieldResource, f.Resource}, {fieldTenant, f.Tenant}, {fieldAuthority, f.Authority}, {fieldScopes, f.Scopes},
		{fieldAuthMethod, f.AuthMethod}, {fieldSourceIP, f.SourceIP}, {fieldUserAgent, f.UserAgent}, {fieldTraceID, f.TraceID}, {fieldSpanID, f.SpanID},
		{fieldOutcome, f.Outcome}, {fieldMFA, f.MFA}, {fieldVerdict, f.Verdict}, {fieldDecisionID, f.DecisionID}, {fieldPolicy, f.Policy}, {fieldBindOnly, f.BindOnly},
	} {
		if x.template != nil {
			b.fields = append(b.fields, c.scalar(x.id, x.template))
		}
	}
	if f.Actor != nil {
		b.fields = append(b.fields, scalar{id: fieldActor, actor: &actor{c.keyExpr(&f.Actor.Key), c.optional(f.Actor.Name)}})
	}
	if f.Ended != nil {
		b.fields = append(b.fields, scalar{id: fieldEnded, ended: c.optionalTime(f.Ended)})
	}
	if f.Time != nil {
		c.time = append(c.time, timeOption{rule, c.timeExpr(f.Time)})
	}
	c.lists(&b, f)
	return b
}

// scalar compiles a field that is a text, or the word that a text gives.
func (c *compiler) scalar(id fieldID, t *sources.Template) scalar {
	f := scalar{id: id, expr: c.expr(t), number: -1}
	if text, ok := t.Literal(); ok {
		if n, ok := wordOf(id, text); ok {
			f.number = n
		}
	}
	return f
}

// lists compiles the fields of which each rule may add some.
func (c *compiler) lists(b *block, f *sources.Fields) {
	for i := range f.Keys {
		k := &f.Keys[i]
		e := keyEntry{when: c.entryCondition(k.When), key: c.keyExpr(&k.Key)}
		e.star = c.starOf(&k.Key.Value)
		b.keys = append(b.keys, e)
	}
	for i := range f.Makes {
		m := &f.Makes[i]
		e := makeEntry{
			when: c.entryCondition(m.When), child: c.keyExpr(&m.Child), parent: c.keyExpr(&m.Parent),
			childName: c.optional(m.ChildName), parentName: c.optional(m.ParentName), relation: m.Relation, strength: m.Strength,
			always: m.FromAlways, from: c.optionalTime(m.From), until: c.optionalTime(m.Until), expires: c.optionalTime(m.Expires),
		}
		e.star = c.starOf(&m.Child.Value, &m.Parent.Value, m.ChildName, m.ParentName, m.From, m.Until, m.Expires)
		b.makes = append(b.makes, e)
	}
	for i := range f.Ends {
		n := &f.Ends[i]
		e := endEntry{when: c.entryCondition(n.When), key: c.keyExpr(&n.Key), at: c.optionalTime(n.At), revoked: n.Revoked}
		e.star = c.starOf(&n.Key.Value, n.At)
		b.ends = append(b.ends, e)
	}
	for i := range f.Attributes {
		name := f.Attributes[i].Name
		b.attributes = append(b.attributes, attributeEntry{name, c.expr(&f.Attributes[i].Value), c.named[name]})
		c.named[name] = true
	}
}

// entryCondition is the condition of an entry, of which a plan has no need.
func (c *compiler) entryCondition(src sources.Condition) *cond {
	out := c.condition(src)
	return &out
}

func (c *compiler) optional(t *sources.Template) *expr {
	if t == nil {
		return nil
	}
	x := c.expr(t)
	return &x
}

func (c *compiler) optionalTime(t *sources.Template) *timeExpr {
	if t == nil {
		return nil
	}
	x := c.timeExpr(t)
	return &x
}

// starOf is the group of the array through which the templates run, of which
// [sources.Parse] has seen that there is one at most.
func (c *compiler) starOf(ts ...*sources.Template) int32 {
	star := int32(-1)
	for _, t := range ts {
		if t != nil {
			t.Paths(func(p sources.Path) {
				if s := p.Star(); s != nil {
					star = c.trie.star(s)
				}
			})
		}
	}
	return star
}
