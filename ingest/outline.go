package ingest

import "unsafe"

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
	o.ends[o.open[last]] = ending{p - o.from, len(o.ends)}
	o.open = o.open[:last]
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
