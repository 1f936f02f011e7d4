package ingest

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"

	"catena/schemas"
	"catena/schemas/sources"
)

// Records arrive wrapped: in batches, in the envelopes of what transported
// them, as JSON inside a string. What is an envelope is told like what is a
// source, by conditions on its members, in the same walk; it is then opened by
// a function of a few lines. Envelopes stand in each other; four levels are
// opened.

// maxLevels is how many envelopes are opened inside each other.
const maxLevels = 4

// Names of envelopes in [TopicFormat].
const (
	envelopeOTLPProto = "otlp_proto"
	envelopeOTLPJSON  = "otlp_json"
)

// Names of skips.
const (
	skipEmptyBatch = "empty_batch" // an envelope without items
	skipMetrics    = "otlp_metrics"
	skipPlainLog   = "plain_log" // a log record that no source knows
)

// envelope is one shape. An object is it if all conditions hold and what lies
// at content is of the kind.
type envelope struct {
	name    string
	when    []sources.Clause
	content string
	kind    valueKind
	batch   bool // content is an array of items, which can be read one by one if it is broken
	signal  bool // of OTLP: the object may hold others, too
	open    func(d *Decoder, v value, level int)
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
}

// handDown is where a program reads a member that lists hand down.
type handDown struct {
	slot int32
	get  func(*handed) string
}

// envelopes lists the shapes, in the order in which they are tried.
func envelopes() []*envelope {
	has := func(path string) sources.Clause { return clause(path, sources.Check{Op: sources.Present}) }
	is := func(path, text string) sources.Clause {
		return clause(path, sources.Check{Op: sources.OneOf, Texts: []string{text}})
	}
	return []*envelope{
		// {"resourceSpans":[…]}: a TracesData, ExportTraceServiceRequest or a line of the collector's file exporter.
		{name: "otlp", content: "resourceSpans", kind: kindArray, signal: true, open: (*Decoder).openSpans},
		{name: "otlp_logs", content: "resourceLogs", kind: kindArray, signal: true, open: (*Decoder).openLogs},
		{name: "otlp_metrics", content: "resourceMetrics", kind: kindArray, signal: true, open: skipAs(skipMetrics)},
		// {"Records":[…]}: files of CloudTrail, events of Lambda.
		{name: "records", content: "Records", kind: kindArray, batch: true, open: (*Decoder).openArray},
		// The webhook of kube-apiserver; its items have neither kind nor apiVersion.
		{name: "kubernetes_list", when: []sources.Clause{is("kind", "EventList")}, content: "items", kind: kindArray, batch: true, open: (*Decoder).openEventList},
		{name: "eventbridge", when: []sources.Clause{has(`"detail-type"`), has("source")}, content: "detail", kind: kindObject, open: (*Decoder).openObject},
		{name: "sqs", when: []sources.Clause{is("eventSource", "aws:sqs")}, content: "body", kind: kindString, open: (*Decoder).openText},
		{name: "sns", when: []sources.Clause{is("Type", "Notification"), has("TopicArn")}, content: "Message", kind: kindString, open: (*Decoder).openText},
		// CloudTrail LookupEvents.
		{name: "lookup_events", when: []sources.Clause{has("EventId")}, content: "CloudTrailEvent", kind: kindString, open: (*Decoder).openText},
	}
}

func clause(path string, check sources.Check) sources.Clause {
	p, err := sources.ParsePath(path)
	if err != nil {
		panic(err) // the paths stand above, and a test reads them
	}
	return sources.Clause{Test: &sources.Test{Path: p, Check: check}}
}

func (c *compiler) compileEnvelopes() {
	for _, env := range envelopes() {
		content := clause(env.content, sources.Check{}).Test.Path
		o := opening{envelope: env, when: c.condition(env.when), slot: c.trie.slot(content)}
		c.envelopes = append(c.envelopes, o)
	}
	for _, h := range []struct {
		path string
		get  func(*handed) string
	}{{"kind", func(h *handed) string { return h.kind }}, {"apiVersion", func(h *handed) string { return h.apiVersion }}} {
		c.inherits = append(c.inherits, handDown{c.trie.slot(clause(h.path, sources.Check{}).Test.Path), h.get})
	}
}

// inherit gives an item the members that its list told and it does not have.
func (d *Decoder) inherit(p *program) {
	if d.hint == (handed{}) {
		return
	}
	for _, h := range p.inherits {
		if s := h.get(&d.hint); s != "" && d.eval.get(h.slot) == nil {
			d.eval.slots[h.slot] = slot{value: value{text: s, kind: kindString}, walk: d.eval.walk}
		}
	}
}

// opens reports whether the object that was walked over is the envelope.
func (d *Decoder) opens(o *opening) bool {
	v := d.eval.get(o.slot)
	return v != nil && v.kind == o.kind && d.facts.holds(&o.when)
}

// envelope opens the object that the program has walked over; false if it is no
// envelope.
func (d *Decoder) envelope(p *program, level int) bool {
	for i := range p.envelopes {
		o := &p.envelopes[i]
		if !d.opens(o) {
			continue
		}
		if !o.signal {
			d.unwrap(o, *d.eval.get(o.slot), level)
			return true
		}
		type found struct {
			*opening
			value
		}
		var room [3]found
		signals := room[:0] // what the slots hold is gone once the first is opened
		for j := i; j < len(p.envelopes); j++ {
			if o := &p.envelopes[j]; o.signal && d.opens(o) {
				signals = append(signals, found{o, *d.eval.get(o.slot)})
			}
		}
		outer := d.eval.cursor
		for _, s := range signals {
			d.unwrap(s.opening, s.value, level)
			d.eval.cursor = outer
		}
		return true
	}
	return false
}

// unwrap opens an envelope whose content is v.
func (d *Decoder) unwrap(o *opening, v value, level int) {
	if d.tooManyLevels(v.text, level) {
		return
	}
	if d.trace != nil {
		defer d.trace.enter(o.name)()
	}
	o.open(d, v, level+1)
}

func (d *Decoder) tooManyLevels(content string, level int) bool {
	if level < maxLevels {
		return false
	}
	d.dead(schemas.DeadTooDeep, content, "more than %d envelopes in each other%s: unwrap some before they are sent", maxLevels, d.item())
	return true
}

func skipAs(name string) func(*Decoder, value, int) {
	return func(d *Decoder, _ value, _ int) { d.skip(name) }
}

// skip counts an item as left out.
func (d *Decoder) skip(name string) {
	d.out.skip(name, "")
	d.index++
}

func (d *Decoder) openArray(v value, level int) { d.items(offsetIn(d.eval.s, v.text), level) }

func (d *Decoder) openEventList(v value, level int) {
	outer := d.hint
	d.hint = handed{kind: "Event"}
	for _, h := range d.facts.program.inherits[1:] { // apiVersion is that of the list
		if api := d.eval.get(h.slot); api != nil && api.kind == kindString && !api.escaped {
			d.hint.apiVersion = api.text
		}
	}
	d.openArray(v, level)
	d.hint = outer
}

func (d *Decoder) openObject(v value, level int) {
	if d.one(offsetIn(d.eval.s, v.text), level) < 0 {
		d.deadFault(v.text)
	}
}

// openText opens a string that holds a document.
func (d *Decoder) openText(v value, level int) {
	s, base := v.text, -1
	if v.escaped {
		s = d.eval.arena.unescaped(s)
	} else if d.base >= 0 {
		base = d.base + offsetIn(d.eval.s, s)
	}
	outer := d.base
	d.base = base
	d.content(s, level)
	d.base = outer
}

// content decodes what a record, or a string in it, holds.
func (d *Decoder) content(s string, level int) {
	w := d.eval.walker
	outer := w.cursor
	w.open(s)
	switch p := w.blanks(0); {
	// Protobuf begins with what JSON takes for a line feed, and may go on with
	// what looks like a bracket.
	case level == 0 && s != "" && s[0] == '\n' && d.protobuf(s, p < len(s) && s[p] != '{' && s[p] != '['):
	case p == len(s):
		d.dead(schemas.DeadEmpty, s, "the value is empty%s: if it is the tombstone of a compacted topic, read the topic it is made from", d.item())
	case s[p] == '{' || s[p] == '[':
		d.json(p, level)
	default:
		d.protobuf(s, true)
	}
	w.cursor = outer
}

// json decodes one JSON document, or several of which each begins on a line.
func (d *Decoder) json(p, level int) {
	w := d.eval.walker
	guess, end := d.walk(p)
	if end < 0 {
		d.salvage(guess, p, level)
		return
	}
	next := w.blanks(end)
	if next == len(w.s) {
		d.settle(guess, p, end, level)
		return
	}
	if strings.IndexByte(w.s[end:next], '\n') < 0 {
		w.bad(next, "something follows the JSON document")
		d.deadFault(w.s)
		return
	}
	outer := w.cursor
	d.settle(guess, p, end, level)
	w.cursor = outer
	d.stream(next, level)
}

// walk walks over the value at p with the program of the record before, and
// where that finds a fault, with the one that recognises: each refuses members
// that stand twice only where it reads them, and what becomes of a record may
// not depend on the one before it. It returns the program that has walked.
func (d *Decoder) walk(p int) (by *program, end int) {
	by = d.state.guess
	if end = d.walkBy(by, p); end < 0 && by != d.recognise && d.state.fixed == nil {
		by = d.recognise
		end = d.walkBy(by, p)
	}
	return by, end
}

func (d *Decoder) walkBy(prog *program, p int) (end int) {
	w := d.eval.walker
	w.begin(prog.trie)
	w.depth, w.fault = 0, fault{}
	return w.at(p, prog.trie.root)
}

// one decodes the value at p of the text at hand and returns its end; -1 with
// the walker's fault set, and nothing decoded, if there is none.
func (d *Decoder) one(p, level int) int {
	guess, end := d.walk(p)
	if end < 0 {
		return -1
	}
	after := d.eval.cursor
	d.settle(guess, p, end, level)
	d.eval.cursor = after
	return end
}

// items decodes the elements of the array at p. The array may be broken: what
// is wrong with one element is that element's dead letter.
func (d *Decoder) items(p, level int) {
	w := d.eval.walker
	if d.tooManyLevels(w.s[p:], level-1) {
		return
	}
	p = w.blanks(p + 1)
	if p < len(w.s) && w.s[p] == ']' {
		d.skip(skipEmptyBatch)
		return
	}
	for !d.full(w.s[min(p, len(w.s)):]) {
		end := d.one(p, level)
		if end < 0 {
			if end = looseEnd(w.s, p); end < 0 {
				d.deadFault(w.s[min(p, len(w.s)):])
				return
			}
			d.deadFault(w.s[p:end])
		}
		p = w.blanks(end)
		if p < len(w.s) && w.s[p] == ',' {
			p = w.blanks(p + 1)
			continue
		}
		if p >= len(w.s) || w.s[p] != ']' {
			w.bad(p, "expected a comma or the closing bracket of the batch")
			d.deadFault(w.s[min(p, len(w.s)):])
		}
		return
	}
}

// looseEnd finds the end of a broken object by its brackets alone, so that its
// neighbours can be read; -1 if it has none.
func looseEnd(s string, p int) int {
	if p >= len(s) || s[p] != '{' {
		return -1
	}
	depth := 0
	for ; p < len(s); p++ {
		switch s[p] {
		case '"':
			for p++; p < len(s) && s[p] != '"'; p++ {
				if s[p] == '\\' {
					p++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return p + 1
			}
		}
	}
	return -1
}

// salvage is for a document at p that could not be read: what stands whole in
// a broken batch is decoded all the same.
func (d *Decoder) salvage(guess *program, p, level int) {
	w := d.eval.walker
	broken, dead := w.fault, len(d.out.Dead)
	at := p
	if w.s[p] != '[' {
		d.facts.learn(guess, &d.eval)
		at = d.brokenBatch(guess)
	}
	switch {
	case at >= 0:
		d.items(at, level+1)
		if len(d.out.Dead) == dead {
			w.fault = broken
			d.deadFault(w.s[p:])
		}
	case strings.Contains(w.s[p:], "\n{"):
		d.stream(p, level)
	default:
		d.deadFault(w.s[p:])
	}
}

// brokenBatch is where the array of an envelope begins in a document that was
// not read to its end; -1 if there is none.
func (d *Decoder) brokenBatch(guess *program) int {
	for i := range guess.envelopes {
		o := &guess.envelopes[i]
		if o.batch && d.eval.opened == guess.trie.slots[o.slot].node && d.eval.openedWalk == d.eval.walk && d.facts.holds(&o.when) {
			return d.eval.openedAt
		}
	}
	return -1
}

// stream decodes documents that begin on lines of their own, from p on.
func (d *Decoder) stream(p, level int) {
	outer, base := d.eval.cursor, d.base
	s := outer.s
	for p < len(s) && !d.full(s[p:]) {
		line := lineEnd(s, p)
		if strings.Trim(s[p:line], " \t\r") != "" {
			line = d.line(s, p, line, level)
			d.base = base
		}
		p = line + 1
	}
	d.eval.cursor = outer
}

// line decodes the document that begins at p, on the line that ends at end, and
// returns where it ends: there, or on a later line.
func (d *Decoder) line(s string, p, end, level int) int {
	w := d.eval.walker
	if d.base >= 0 {
		d.base += p
	}
	if d.whole(s[p:end], level) {
		return end
	}
	if i := strings.Index(s[p:], "\n{"); i < 0 {
		end = len(s)
	} else {
		end = p + i
	}
	chunk := strings.TrimRight(s[p:end], " \t\r\n")
	if len(chunk) > 0 && (chunk[0] == '{' || chunk[0] == '[') && d.whole(chunk, level) {
		return end
	}
	if w.fault.what == "" || len(chunk) == 0 {
		w.bad(0, "no JSON object begins here")
	}
	d.deadFault(chunk)
	return end
}

// whole decodes a text if it is one JSON value from end to end; otherwise
// nothing.
func (d *Decoder) whole(s string, level int) bool {
	w := d.eval.walker
	w.open(s)
	p := w.blanks(0)
	guess, end := d.walk(p)
	if end < 0 {
		return false
	}
	if next := w.blanks(end); next < len(s) {
		w.bad(next, "something follows the JSON document")
		return false
	}
	d.settle(guess, p, end, level)
	return true
}

func lineEnd(s string, p int) int {
	if i := strings.IndexByte(s[p:], '\n'); i >= 0 {
		return p + i
	}
	return len(s)
}

// gunzip unpacks a record. The memory is fresh: events alias it.
func (d *Decoder) gunzip(s string) (string, bool) {
	var err error
	if d.gzip == nil {
		d.gzip, err = gzip.NewReader(strings.NewReader(s))
	} else {
		err = d.gzip.Reset(strings.NewReader(s))
	}
	limit := int64(d.opts.MaxRecordBytes) * maxInflation
	var out bytes.Buffer
	if err == nil {
		_, err = out.ReadFrom(io.LimitReader(d.gzip, limit+1))
	}
	switch {
	case err != nil && out.Len() == 0 || errors.Is(err, gzip.ErrChecksum):
		d.dead(schemas.DeadMalformed, s, "the record begins like gzip and cannot be unpacked (%v): look at what writes to this topic, then redrive", err)
		return "", false
	case int64(out.Len()) > limit:
		d.dead(schemas.DeadTooLarge, s, "the record has more than %d bytes unpacked: raise the limit, or make the producer split it", limit)
		return "", false
	case err != nil:
		d.dead(schemas.DeadMalformed, s, "the gzip stream breaks off after %d unpacked bytes (%v): look at what writes to this topic, then redrive", out.Len(), err)
		return "", false
	}
	return text(out.Bytes()), true
}

// topLevel lists the names of an object's members, the first dozen.
func topLevel(doc string) (names []string) {
	c := cursor{maxDepth: maxNesting}
	c.open(doc)
	c.members(0, func(name string, _, _ int) bool {
		if len(names) == 12 {
			names = append(names, "…")
			return false
		}
		names = append(names, name[:min(len(name), 40)])
		return true
	})
	if len(names) == 0 {
		names = []string{"none"}
	}
	return names
}
