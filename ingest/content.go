package ingest

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"catena/schemas"
)

// content decodes what a record, or a string in it, holds.
func (d *Decoder) content(s string, level int) {
	w := d.eval.walker
	outer := w.cursor
	w.open(s)
	switch p := w.blanks(0); {
	// Protobuf begins with what JSON takes for a line feed, and may go on with
	// what looks like a bracket.
	case level == 0 && s != "" && s[0] == '\n' && d.protobuf(s, p < len(s) && s[p] != '{' && s[p] != '['):
	case strings.HasPrefix(s, "\x1f\x8b"):
		d.packed(s, level)
	case p == len(s) && d.hint.general:
		d.skip(skipPlainLog)
	case p == len(s):
		d.dead(schemas.DeadEmpty, s, "the value is empty%s: if it is the tombstone of a compacted topic, read the topic it is made from", d.item())
	case (s[p] == '{' || s[p] == '[') && !d.bracketedText(s[p:]):
		d.json(p, level)
	case s[p] == '"' && d.quoted(p, level), d.lines(p, level):
	case d.hint.general && utf8.ValidString(s) && strings.IndexByte(s, 0) < 0:
		d.skip(skipPlainLog)
	default:
		d.protobuf(s, true)
	}
	w.cursor = outer
}

// bracketedText reports whether a line among logs of all kinds is text, though
// it begins like JSON: [INFO] or {worker 3}.
func (d *Decoder) bracketedText(s string) bool {
	if !d.hint.general {
		return false
	}
	next := strings.TrimLeft(s[1:], " \t\r\n")
	if next == "" {
		return false
	}
	if s[0] == '{' {
		return next[0] != '"' && next[0] != '}'
	}
	return strings.IndexByte(`{["]`, next[0]) < 0
}

// quoted opens a text that is a JSON string from end to end, as the collector's
// raw encoding writes a log's body; false if it is not.
func (d *Decoder) quoted(p, level int) bool {
	w := d.eval.walker
	e := w.str(p + 1)
	if e < 0 || w.blanks(e+1) != len(w.s) {
		return false
	}
	if s := w.s[p+1 : e]; !d.tooManyLevels(s, level) {
		if w.escaped {
			s = d.eval.arena.unescaped(s)
		}
		outer := d.hint
		general := outer.general
		d.relay()
		d.hint.general = general // a topic of such texts may hold one kind
		d.inner(s, -1, level+1)
		d.hint = outer
	}
	return true
}

// packed opens gzip.
func (d *Decoder) packed(s string, level int) {
	if d.tooManyLevels(s, level) {
		return
	}
	if s, ok := d.gunzip(s); ok {
		d.inner(s, -1, level+1)
	}
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

// walkBy walks over the value at p with the program of a source.
func (d *Decoder) walkBy(prog *program, p int) (end int) {
	w := d.eval.walker
	if p >= len(w.s) || w.s[p] != '{' {
		return w.walkOver(prog.trie, p)
	}
	k := d.skeletons[prog.number]
	if k == nil {
		k = newSkeletons()
		d.skeletons[prog.number] = k
	}
	return k.walk(w, prog.trie, p)
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
// returns where it ends: there, or on a later line. Between documents a server
// may write plain text.
func (d *Decoder) line(s string, p, end, level int) int {
	w := d.eval.walker
	if d.base >= 0 {
		d.base += p
	}
	if text := strings.TrimLeft(s[p:end], " \t\r"); strings.IndexByte("{[\"}],", text[0]) < 0 || d.bracketedText(text) {
		if !d.logLine(strings.TrimRight(text, "\r"), level) {
			d.skip(skipPlainLog)
		}
		return end
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

// gunzip unpacks a text. The memory is fresh: events alias it. How much all
// that is packed in a record may have is bounded.
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
		_, err = out.ReadFrom(io.LimitReader(d.gzip, max(limit-d.unpacked, 0)+1))
	}
	d.unpacked += int64(out.Len())
	switch {
	case err != nil && out.Len() == 0 || errors.Is(err, gzip.ErrChecksum):
		d.dead(schemas.DeadMalformed, s, "the record begins like gzip and cannot be unpacked (%v): look at what writes to this topic, then redrive", err)
		return "", false
	case d.unpacked > limit:
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
