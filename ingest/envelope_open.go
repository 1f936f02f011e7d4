package ingest

import (
	"strings"

	"catena/schemas"
)

func skipAs(name string) func(*Decoder, content) {
	return func(d *Decoder, _ content) { d.skip(name) }
}

// general opens what carries logs of all kinds.
func general(open func(*Decoder, content)) func(*Decoder, content) {
	return func(d *Decoder, c content) {
		outer := d.hint
		d.hint.general = true
		open(d, c)
		d.hint = outer
	}
}

func (d *Decoder) openArray(c content) { d.items(offsetIn(d.eval.s, c.text), c.level) }

func (d *Decoder) openEventList(c content) {
	outer := d.hint
	d.hint = handed{kind: "Event", general: outer.general, relayed: outer.relayed}
	for _, h := range d.facts.program.inherits[1:] { // apiVersion is that of the list
		if api := d.eval.get(h.slot); api != nil && api.kind == kindString && !api.escaped {
			d.hint.apiVersion = api.text
		}
	}
	d.openArray(c)
	d.hint = outer
}

func (d *Decoder) openObject(c content) {
	if d.one(offsetIn(d.eval.s, c.text), c.level) < 0 {
		d.deadFault(c.text)
	}
}

// openText opens a string that holds a document.
func (d *Decoder) openText(c content) {
	s, base := c.text, -1
	if c.escaped {
		s = d.eval.arena.unescaped(s)
	} else if at := offsetIn(d.eval.s, s); d.base >= 0 && at >= 0 && at < len(d.eval.s) {
		base = d.base + at // otherwise a condition has had it unescaped
	}
	d.inner(s, base, c.level)
}

// inner decodes a text that an envelope held.
func (d *Decoder) inner(s string, base, level int) {
	outer := d.base
	d.base = base
	d.content(strings.TrimPrefix(s, "@cee:"), level) // syslog's mark of JSON
	d.base = outer
}

func (d *Decoder) openBase64(c content) {
	s := c.text
	if c.escaped {
		s = d.eval.arena.unescaped(s)
	}
	plain, ok := d.eval.arena.base64(s)
	if !ok {
		d.dead(schemas.DeadMalformed, c.whole, "the content is no base64%s: %s", d.item(), advice(schemas.DeadMalformed))
		return
	}
	d.inner(plain, -1, c.level)
}

// openLine opens a log message of any kind that stands in nothing else.
func (d *Decoder) openLine(c content) {
	outer := d.hint
	d.relay()
	d.openText(c)
	d.hint = outer
}

// relay says of what follows that it stands in a log message. Any program can
// print a line that looks like an audit record of another system, and whoever
// collects its output carries it here. So such a record proves nothing and ends
// nothing, unless the topic's format vouches for what is in its messages.
func (d *Decoder) relay() {
	d.hint.general, d.hint.relayed = true, d.hint.relayed || !d.state.vouched
}

// openMessage opens a log message of any kind. If no source knows what it
// holds, one may know the whole.
func (d *Decoder) openMessage(c content) { d.eitherOr(c, (*Decoder).openText) }

// openVouched opens a message where the topic's format vouches for what stands
// in messages, and leaves it closed elsewhere.
func (d *Decoder) openVouched(c content) {
	if d.state.vouched {
		d.openMessage(c)
		return
	}
	hint := d.hint
	d.hint.general = true
	d.unopened(c)
	d.hint = hint
}

// openStructured is openMessage where the shipper has parsed the message.
func (d *Decoder) openStructured(c content) { d.eitherOr(c, (*Decoder).openObject) }

func (d *Decoder) eitherOr(c content, open func(*Decoder, content)) {
	hint, cursor, m := d.hint, d.eval.cursor, d.mark()
	d.relay()
	open(d, c)
	if d.hint = hint; d.undo(m) {
		d.hint.general, d.eval.cursor = true, cursor
		d.unopened(c)
	}
	d.hint = hint
}

// unopened decodes an envelope as a record of its own.
func (d *Decoder) unopened(c content) {
	known := d.known
	if c.known != nil {
		d.known = *c.known
	}
	if t := d.trace; t != nil {
		chain := t.chain
		t.chain = chain[:len(chain)-1]
		defer func() { t.chain = chain }()
	}
	d.document(c.whole)
	d.known = known
}

// document decodes a part of the walker's text that is no envelope.
func (d *Decoder) document(doc string) {
	start := offsetIn(d.eval.s, doc)
	by, end := d.walk(start)
	if end < 0 {
		d.deadFault(doc)
		return
	}
	d.inherit(by)
	d.facts.learn(by, &d.eval)
	d.source(by, start, doc)
}

// openEach decodes the whole once for each element of an array in it, which
// stands in the place of the array then. What is around the array is copied
// each time, so the sum is bounded.
func (d *Decoder) openEach(c content) {
	w := d.eval.walker
	at := offsetIn(c.whole, c.text)
	before, after := c.whole[:at], c.whole[at+len(c.text):]
	list := cursor{maxDepth: maxNesting}
	list.open(c.text)
	n := d.index
	list.elements(0, func(p, end int) bool {
		if d.full(c.whole) || !d.spend(len(before)+end-p+len(after), c.whole) {
			return false
		}
		start := len(d.eval.arena.buf)
		d.eval.arena.buf = append(append(append(d.eval.arena.buf, before...), c.text[p:end]...), after...)
		outer, base := w.cursor, d.base
		d.base = -1
		w.open(d.eval.arena.since(start))
		if d.one(0, c.level) < 0 {
			d.deadFault(w.s)
		}
		w.cursor, d.base = outer, base
		return true
	})
	if d.index == n {
		d.skip(skipEmptyBatch)
	}
}
