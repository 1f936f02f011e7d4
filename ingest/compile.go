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
	trie   *trie
	atoms  *atoms

	matches   []cond     // of every source, in the order of recognition
	envelopes []opening  // of every envelope
	contents  []wordBits // what envelopes hold: one of them is there, or the document is none
	general   []cond     // documents of logs of all kinds
	inherits  []handDown // members that a list hands down to its items

	rules      []cond
	ruleFirst  []first // of each rule
	id         []expr
	texts      [textFields][]option
	class      []classOption
	actor      []actorOption
	time       []timeOption
	ended      []timeOption
	resolution []durationOption
	keys       []keyEntry
	makes      []makeEntry
	ends       []endEntry
	attributes []attributeEntry
	flags      []flagsOption
	selfTold   []int32 // rules that say so
}

// The fields that are plain text, in the order of program.texts.
const (
	textAction = iota
	textResource
	textTenant
	textAuthority
	textScopes
	textAuthMethod
	textSourceIP
	textUserAgent
	textTraceID
	textSpanID
	textOutcome
	textMFA
	textVerdict
	textDecisionID
	textPolicy
	textBindOnly
	textFields
)

// common is the rule of what stands outside of rules.
const common int32 = -1

// option is one of the templates that may give a field. They are tried from
// the last rule back to the common part, and the first that gives something
// is taken: the same as applying all in order, and cheaper.
type option struct {
	rule int32
	expr expr
}

type classOption struct {
	rule  int32
	class schemas.Class
}

type actorOption struct {
	rule int32
	key  keyExpr
	name *expr
}

type timeOption struct {
	rule int32
	expr timeExpr
}

type durationOption struct {
	rule  int32
	nanos int64
}

type flagsOption struct {
	rule  int32
	flags schemas.Flags
}

// keyEntry is an entry of keys. Star is the group of its [*]; -1 for none.
type keyEntry struct {
	rule int32
	when cond
	star int32
	key  keyExpr
}

type makeEntry struct {
	rule                  int32
	when                  cond
	star                  int32
	child, parent         keyExpr
	childName, parentName *expr
	relation              schemas.Relation
	strength              schemas.Strength
	always                bool
	from, until, expires  *timeExpr
}

type endEntry struct {
	rule    int32
	when    cond
	star    int32
	key     keyExpr
	at      *timeExpr
	revoked bool
}

type attributeEntry struct {
	rule  int32
	name  string
	expr  expr
	again bool // the name stands in an earlier entry, too
}

// compiler makes a program.
type compiler struct {
	*program
	faults []error
}

func (c *compiler) fault(t *sources.Template, err error) {
	c.faults = append(c.faults, fmt.Errorf("%s: line %d, column %d: %q: %w", c.source.Where(), t.Line, t.Col, t.Text, err))
}

// compile makes the program of a source; with nil, the one that recognises.
func compile(src *sources.Source, all []*sources.Source, shapes []*envelope) (*program, error) {
	c := &compiler{program: &program{source: src, trie: newTrie(), atoms: newAtoms()}}
	for _, s := range all {
		c.matches = append(c.matches, c.condition(s.Match))
	}
	c.compileEnvelopes(shapes)
	if src != nil {
		for i := range src.ID {
			c.id = append(c.id, c.expr(&src.ID[i]))
		}
		c.fields(common, &src.Common)
		for i := range src.Rules {
			when := c.condition(src.Rules[i].When)
			c.rules, c.ruleFirst = append(c.rules, when), append(c.ruleFirst, firstOf(&when))
			c.fields(int32(i), &src.Rules[i].Fields)
		}
		c.lastFirst()
	}
	c.atoms.finish()
	return c.program, errors.Join(c.faults...)
}

// lastFirst puts the options of each field into the order of their trial.
func (c *compiler) lastFirst() {
	for i := range c.texts {
		slices.Reverse(c.texts[i])
	}
	slices.Reverse(c.class)
	slices.Reverse(c.actor)
	slices.Reverse(c.time)
	slices.Reverse(c.ended)
	slices.Reverse(c.resolution)
}

// fields compiles what a rule, or the common part, says.
func (c *compiler) fields(rule int32, f *sources.Fields) {
	for i, t := range [textFields]*sources.Template{
		textAction: f.Action, textResource: f.Resource, textTenant: f.Tenant, textAuthority: f.Authority, textScopes: f.Scopes,
		textAuthMethod: f.AuthMethod, textSourceIP: f.SourceIP, textUserAgent: f.UserAgent, textTraceID: f.TraceID, textSpanID: f.SpanID,
		textOutcome: f.Outcome, textMFA: f.MFA, textVerdict: f.Verdict, textDecisionID: f.DecisionID, textPolicy: f.Policy, textBindOnly: f.BindOnly,
	} {
		if t != nil {
			c.texts[i] = append(c.texts[i], option{rule, c.expr(t)})
		}
	}
	if f.Class != nil {
		c.class = append(c.class, classOption{rule, *f.Class})
	}
	if f.Actor != nil {
		c.actor = append(c.actor, actorOption{rule, c.keyExpr(&f.Actor.Key), c.optional(f.Actor.Name)})
	}
	if f.Time != nil {
		c.time = append(c.time, timeOption{rule, c.timeExpr(f.Time)})
	}
	if f.Ended != nil {
		c.ended = append(c.ended, timeOption{rule, c.timeExpr(f.Ended)})
	}
	if f.Resolution > 0 {
		c.resolution = append(c.resolution, durationOption{rule, int64(f.Resolution)})
	}
	if f.Flags != 0 {
		c.flags = append(c.flags, flagsOption{rule, f.Flags})
	}
	if f.SelfReported {
		c.selfTold = append(c.selfTold, rule)
	}
	c.lists(rule, f)
}

// lists compiles the fields of which each rule may add some.
func (c *compiler) lists(rule int32, f *sources.Fields) {
	for i := range f.Keys {
		k := &f.Keys[i]
		e := keyEntry{rule: rule, when: c.condition(k.When), key: c.keyExpr(&k.Key)}
		e.star = c.starOf(&k.Key.Value)
		c.keys = append(c.keys, e)
	}
	for i := range f.Makes {
		m := &f.Makes[i]
		e := makeEntry{
			rule: rule, when: c.condition(m.When), child: c.keyExpr(&m.Child), parent: c.keyExpr(&m.Parent),
			childName: c.optional(m.ChildName), parentName: c.optional(m.ParentName), relation: m.Relation, strength: m.Strength,
			always: m.FromAlways, from: c.optionalTime(m.From), until: c.optionalTime(m.Until), expires: c.optionalTime(m.Expires),
		}
		e.star = c.starOf(&m.Child.Value, &m.Parent.Value, m.ChildName, m.ParentName, m.From, m.Until, m.Expires)
		c.makes = append(c.makes, e)
	}
	for i := range f.Ends {
		n := &f.Ends[i]
		e := endEntry{rule: rule, when: c.condition(n.When), key: c.keyExpr(&n.Key), at: c.optionalTime(n.At), revoked: n.Revoked}
		e.star = c.starOf(&n.Key.Value, n.At)
		c.ends = append(c.ends, e)
	}
	for i := range f.Attributes {
		name := f.Attributes[i].Name
		again := slices.ContainsFunc(c.attributes, func(a attributeEntry) bool { return a.name == name })
		c.attributes = append(c.attributes, attributeEntry{rule, name, c.expr(&f.Attributes[i].Value), again})
	}
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
