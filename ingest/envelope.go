package ingest

import (
	"catena/schemas"
	"catena/schemas/sources"
)

// Records arrive wrapped: in batches, in the envelopes of what transported
// them, as JSON inside a string. What is an envelope is told like what is a
// source, by conditions on its members, in the same walk; it is then opened by
// a function of a few lines. Envelopes stand in each other, down to a limit.

// maxLevels is how many envelopes are opened inside each other. Real ones reach
// five: a batch of queue messages of notifications of bus events of a log line.
const maxLevels = 8

// Names of envelopes in [TopicFormat].
const (
	envelopeOTLPProto = "otlp_proto"
	envelopeOTLPJSON  = "otlp_json"
	envelopeLogs      = "logs"  // logs of all kinds: what no source knows is left out
	envelopeAudit     = "audit" // what stands in messages was written by the systems themselves
)

// Names of skips.
const (
	skipEmptyBatch = "empty_batch"     // an envelope without items
	skipMetrics    = "otlp_metrics"    // metrics: no event
	skipControl    = "control_message" // of a log subscription that looks whether anybody listens
	skipPlainLog   = "plain_log"       // a log record that no source knows, among logs of all kinds
)

// envelope is one shape. An object is it if all conditions hold and what lies
// at content is of the kind.
type envelope struct {
	name    string
	when    []sources.Clause
	content string
	kind    valueKind
	batch   bool    // content is an array of items, which can be read one by one if it is broken
	signal  bool    // of OTLP: the object may hold others, too
	knows   *reader // of members of $envelope
	open    func(d *Decoder, c content)
}

// content is what an envelope holds.
type content struct {
	value
	whole string // the envelope itself; both are parts of the walker's text
	level int    // of what is inside
	known *known // what is known of the whole from outside; nil if the envelope adds nothing
}

// opening is an envelope in a program.
type opening struct {
	*envelope
	when cond
	slot int32
}

// handed is what a list says of its items; empty if it says nothing.
type handed struct {
	kind, apiVersion string
	general          bool // it carries logs of all kinds: what no source knows is left out
	relayed          bool // any program can have written it: it is stated at best
}

// handDown is where a program reads a member that lists hand down.
type handDown struct {
	slot int32
	get  func(*handed) string
}

func pathOf(text string) sources.Path {
	p, err := sources.ParsePath(text)
	if err != nil {
		panic(err) // the paths stand in this package, and a test reads them
	}
	return p
}

func clause(path string, check sources.Check) sources.Clause {
	return sources.Clause{Test: &sources.Test{Path: pathOf(path), Check: check}}
}

func (c *compiler) compileEnvelopes(list []*envelope) {
	for _, env := range list {
		o := opening{envelope: env, when: c.condition(env.when), slot: c.trie.slot(pathOf(env.content))}
		c.envelopes, c.holders = append(c.envelopes, o), append(c.holders, o.slot)
		c.trie.slots[o.slot].node.outlined = env.signal
		for _, there := range c.condition(when(has(env.content))).want {
			c.contents = orBits(c.contents, there)
		}
	}
	for _, when := range generalShapes() {
		c.general = append(c.general, c.condition(when))
	}
	for _, h := range []struct {
		path string
		get  func(*handed) string
	}{{"kind", func(h *handed) string { return h.kind }}, {"apiVersion", func(h *handed) string { return h.apiVersion }}} {
		c.inherits = append(c.inherits, handDown{c.trie.slot(pathOf(h.path)), h.get})
	}
}

// orBits adds bits to a list.
func orBits(list []wordBits, b wordBits) []wordBits {
	for i := range list {
		if list[i].word == b.word {
			list[i].mask |= b.mask
			return list
		}
	}
	return append(list, b)
}

// some reports whether one of the atoms holds.
func (f *facts) some(list []wordBits) bool {
	for _, b := range list {
		if f.is[b.word]&b.mask != 0 {
			return true
		}
	}
	return false
}

// inherit gives an item the members that its list told and it does not have,
// and what is known from outside.
func (d *Decoder) inherit(p *program) {
	d.fillKnown(p)
	if d.hint.kind == "" && d.hint.apiVersion == "" {
		return
	}
	for _, h := range p.inherits {
		if s := h.get(&d.hint); s != "" && d.eval.get(h.slot) == nil {
			d.eval.fill(h.slot, s, kindString, false)
		}
	}
}

// opens reports whether the object that was walked over is the envelope.
func (d *Decoder) opens(o *opening) bool {
	v := d.eval.get(o.slot)
	return v != nil && v.kind == o.kind && v.text != "" && d.facts.holds(&o.when)
}

// envelope opens the object that the program has walked over; false if it is no
// envelope.
func (d *Decoder) envelope(p *program, whole string, level int) bool {
	if !d.facts.some(p.contents) {
		return false
	}
	for i, slot := range p.holders {
		if !d.eval.filled(slot) {
			continue
		}
		o := &p.envelopes[i]
		if !d.opens(o) {
			continue
		}
		if !o.signal {
			d.unwrap(o, content{value: *d.eval.get(o.slot), whole: whole, level: level + 1})
			return true
		}
		type found struct {
			*opening
			value
		}
		var room [3]found
		signals := room[:0]                                              // what the slots hold is gone once the first is opened
		for j := i; j < len(p.envelopes) && p.envelopes[j].signal; j++ { // they stand beside each other
			if o := &p.envelopes[j]; d.opens(o) {
				signals = append(signals, found{o, *d.eval.get(o.slot)})
			}
		}
		outer := d.eval.cursor
		for _, s := range signals {
			d.unwrap(s.opening, content{value: s.value, whole: whole, level: level + 1})
			d.eval.cursor = outer
		}
		return true
	}
	return false
}

// unwrap opens an envelope.
func (d *Decoder) unwrap(o *opening, c content) {
	if d.tooManyLevels(c.text, c.level-1) {
		return
	}
	if d.trace != nil {
		defer d.trace.enter(o.name)()
	}
	if o.knows == nil {
		o.open(d, c)
		return
	}
	known := d.known
	c.known = &known
	if d.learn(o.knows, offsetIn(d.eval.s, c.whole)) {
		o.open(d, c)
	} else {
		d.deadFault(c.whole)
	}
	d.known = known
}

func (d *Decoder) tooManyLevels(content string, level int) bool {
	if level < maxLevels {
		return false
	}
	d.dead(schemas.DeadTooDeep, content, "more than %d envelopes in each other%s: unwrap some before they are sent", maxLevels, d.item())
	return true
}

// skip counts an item as left out.
func (d *Decoder) skip(name string) {
	at := d.evidence
	at.RecordIndex = int32(d.index)
	d.out.skip(name, "", schemas.ID{}, &at)
	d.index++
}

// mark is a place to go back to, if what follows shows that nothing was known.
type mark struct {
	events, dead, index, traced int
	places                      int // in Skipped
	plain, skips                int // counts of plain_log, and of all
}

func (d *Decoder) mark() mark {
	m := mark{events: len(d.out.Events), dead: len(d.out.Dead), index: d.index, places: len(d.out.Skipped)}
	if d.trace != nil {
		m.traced = len(d.trace.items)
	}
	for _, s := range d.out.Skips {
		m.skips += s.Count
		if s.Name == skipPlainLog {
			m.plain += s.Count
		}
	}
	return m
}

// undo goes back to a mark if nothing has come since but logs that no source
// knows.
func (d *Decoder) undo(m mark) bool {
	now := d.mark()
	if now.events != m.events || now.dead != m.dead || now.skips-m.skips != now.plain-m.plain {
		return false
	}
	for i := range d.out.Skips {
		if s := &d.out.Skips[i]; s.Name == skipPlainLog {
			if s.Count = m.plain; s.Count == 0 {
				d.out.Skips = append(d.out.Skips[:i], d.out.Skips[i+1:]...)
			}
			break
		}
	}
	d.out.Skipped = d.out.Skipped[:m.places]
	if d.index = m.index; d.trace != nil {
		d.trace.items = d.trace.items[:m.traced]
	}
	return true
}
