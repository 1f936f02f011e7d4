package ingest

import (
	"strings"
	"unsafe"
)

// outline knows where the objects and arrays of a text end, so that whoever
// goes through them level by level need not read again what is inside. They are
// numbered in the order in which they begin.
type outline struct {
	text string // the whole of it
	from int    // where it begins in what is read
	ends []ending
	open []int // numbers of those that are not closed yet
}

type ending struct {
	at   int // behind the closing bracket
	next int // number of the first one that begins behind it
	// Of an attribute that is plain text, see [cursor.attribute]: where its key and
	// its text end; zero of all else.
	key, text int
}

// of takes down the array or object at p while a cursor reads it.
func (o *outline) of(c *cursor, p int) (end int) {
	o.text, o.from, o.ends, o.open = "", p, o.ends[:0], o.open[:0]
	c.outline = o
	if end = c.nested(p); end >= 0 {
		o.text = c.s[p:end]
	}
	c.outline = nil
	return end
}

func (o *outline) begin() {
	o.open = append(o.open, len(o.ends))
	o.ends = append(o.ends, ending{})
}

func (o *outline) end(p int) {
	last := len(o.open) - 1
	o.ends[o.open[last]] = ending{at: p - o.from, next: len(o.ends)}
	o.open = o.open[:last]
}

// attribute reads an attribute of OTLP that is plain text and written as most are,
// {"key":"…","value":{"stringValue":"…"}}, to the letter; zero if none begins at p.
func (c *cursor) attribute(p int) (end int) {
	s := c.s
	if !strings.HasPrefix(s[p:], attributeStart) || c.depth+2 > c.maxDepth {
		return 0
	}
	key := c.str(p + len(attributeStart))
	if key < 0 || !strings.HasPrefix(s[key:], attributeMiddle) {
		return 0
	}
	text := c.str(key + len(attributeMiddle))
	if text < 0 || !strings.HasPrefix(s[text:], attributeEnd) {
		return 0
	}
	o := c.outline
	end, next := text+len(attributeEnd), len(o.ends)+2
	o.ends = append(o.ends, ending{end - o.from, next, key - o.from, text - o.from}, ending{at: end - 1 - o.from, next: next})
	return end
}

const (
	attributeStart  = `{"key":"`
	attributeMiddle = `","value":{"stringValue":"`
	attributeEnd    = `"}}`
)

// attribute returns an attribute that is plain text: the key's inside, and the
// text with its quotes.
func (o *outlined) attribute(at where) (key, text string, ok bool) {
	x := &o.ends[at.number]
	if x.text == 0 || o.s[at.start] != '{' {
		return "", "", false
	}
	return o.s[at.start+len(attributeStart) : x.key], o.s[x.key+len(attributeMiddle)-1 : x.text+1], true
}

// tells reports whether it is that of this very text.
func (o *outline) tells(text string) bool {
	return len(o.text) == len(text) && unsafe.StringData(o.text) == unsafe.StringData(text)
}

// where is a value within a text; zero if there is none.
type where struct {
	start, end int
	number     int // in the outline, of an object or array
}

func (w where) ok() bool { return w.end > 0 }

// outlined reads a text level by level.
type outlined struct {
	cursor
	*outline
}

// from is the value that begins at p; number is that of the next object or
// array. It returns what is the next behind the value.
func (o *outlined) from(p, number int) (v where, next int) {
	if p < 0 || p >= len(o.s) {
		return where{end: -1}, number
	}
	if b := o.s[p]; (b == '{' || b == '[') && number < len(o.ends) {
		return where{p, o.ends[number].at, number}, o.ends[number].next
	}
	return where{start: p, end: o.value(p)}, number
}

// elements calls f with each element of an array.
func (o *outlined) elements(at where, f func(v where) bool) {
	next := at.number + 1
	p := o.blanks(at.start + 1)
	for p < len(o.s) && o.s[p] != ']' {
		var v where
		if v, next = o.from(p, next); v.end < 0 || !f(v) {
			return
		}
		if p = o.blanks(v.end); p < len(o.s) && o.s[p] == ',' {
			p = o.blanks(p + 1)
		}
	}
}
