package ingest

import (
	"encoding/base64"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf8"

	"catena/schemas"
)

// valueKind is the JSON type of a value.
type valueKind uint8

const (
	kindNothing valueKind = iota // the path leads nowhere
	kindNull
	kindBool
	kindNumber
	kindString
	kindObject
	kindArray
	kindStamp // of a string that is yet to be made, see [evaluator.stamp]
)

// value is what a path leads to: a string's inside as it stands, anything else
// as written.
type value struct {
	text    string
	kind    valueKind
	escaped bool // the text of a string holds escapes
	starred bool // of a slot: the path has [*]
	look    look // of a slot: what is known of the text by now
}

// slot keeps the value of a path. It holds if its bit in walker.has is set, so
// that slots need not be cleared between records.
type slot struct {
	value
	first, last int32 // its values in walker.many, if it is starred
}

// one is a value of a path with [*].
type one struct {
	value
	element int32 // number of the element, over all arrays of the group
	next    int32 // -1 for the last
}

// walker walks over documents and fills the slots of a trie.
type walker struct {
	cursor
	trie   *trie
	slots  []slot
	has    []uint64 // a bit for each slot: what the current walk has filled
	there  []uint64 // with a value that is neither null nor "", or with some of [*]
	marks  []uint64 // by node: the visit that saw it last
	visits uint64
	walk   uint64 // number of the current walk
	many   []one
	counts []int32  // elements by group
	items  int      // elements of all groups
	limit  int      // of items
	arena  *arena   // for what had to be decoded
	taken  *outline // of arrays of which it is wanted; nil for nobody

	wanting []*node // of the elements that are being read

	// The array that was entered last of those that a slot wants: where to look
	// for whole items in a document that breaks off.
	opened     *node
	openedAt   int
	openedWalk uint64
}

// begin forgets the walk before.
func (w *walker) begin(t *trie) {
	w.trie = t
	w.depth, w.fault, w.high = 0, fault{}, 0
	if len(w.slots) < len(t.slots) {
		w.slots = make([]slot, len(t.slots))
	}
	if len(w.marks) < t.nodes {
		w.marks = make([]uint64, t.nodes)
	}
	w.walk++
	w.has, w.there = w.has[:0], w.there[:0]
	for range t.words() {
		w.has, w.there = append(w.has, 0), append(w.there, 0)
	}
	if len(w.counts) < len(t.stars) {
		w.counts = make([]int32, len(t.stars))
	}
	clear(w.counts)
	w.many, w.items, w.wanting = w.many[:0], 0, w.wanting[:0]
}

// walkOver walks over the value at p and fills the slots of a trie.
func (w *walker) walkOver(t *trie, p int) (end int) {
	w.begin(t)
	return w.at(p, t.root)
}

// get returns the value of a slot of which there is at most one.
func (w *walker) get(s int32) *value {
	if w.filled(s) {
		return &w.slots[s].value
	}
	return nil
}

// filled reports whether the walk has found a value for a slot.
func (w *walker) filled(s int32) bool { return w.has[uint(s)/64]>>(uint(s)%64)&1 != 0 }

// empty takes the value of a slot away.
func (w *walker) empty(s int32) {
	word, bit := uint(s)/64, uint64(1)<<(uint(s)%64)
	w.has[word] &^= bit
	w.there[word] &^= bit
}

// fill gives a slot of which there is at most one a value.
func (w *walker) fill(s int32, text string, kind valueKind, escaped bool) {
	x := &w.slots[s]
	x.text, x.kind, x.escaped, x.starred, x.look = text, kind, escaped, false, unseen
	word, bit := uint(s)/64, uint64(1)<<(uint(s)%64)
	w.has[word] |= bit
	if text != "" && kind != kindNull {
		w.there[word] |= bit
	}
}

// at reads the value at p, of which n wants something.
func (w *walker) at(p int, n *node) int {
	if p >= len(w.s) {
		return w.bad(p, "the text ends where a value is expected")
	}
	start := p
	switch b := w.s[p]; b {
	case '"':
		e := w.str(p + 1)
		if e < 0 {
			return -1
		}
		text, escaped := w.s[p+1:e], w.escaped
		if n.slot >= 0 {
			w.put(n, text, kindString, escaped)
		}
		if n.json != nil || n.base64 != nil || n.jwt != nil {
			return w.inside(e+1, n, text, escaped)
		}
		return e + 1
	case '{':
		if p = w.object(p, n); p >= 0 && n.slot >= 0 {
			w.put(n, w.s[start:p], kindObject, false)
		}
		return p
	case '[':
		if n.slot >= 0 {
			w.opened, w.openedAt, w.openedWalk = n, p, w.walk
		}
		if n.outlined && w.taken != nil && !n.elements() {
			p = w.taken.of(&w.cursor, p)
		} else {
			p = w.array(p, n)
		}
		if p >= 0 && n.slot >= 0 {
			w.put(n, w.s[start:p], kindArray, false)
		}
		return p
	default:
		if p = w.scalar(p); p < 0 || n.slot < 0 {
			return p
		}
		kind := kindNumber
		switch b {
		case 't', 'f':
			kind = kindBool
		case 'n':
			kind = kindNull
		}
		w.put(n, w.s[start:p], kind, false)
		return p
	}
}

func (w *walker) put(n *node, text string, kind valueKind, escaped bool) {
	if n.star < 0 {
		w.fill(n.slot, text, kind, escaped)
		return
	}
	at := int32(len(w.many))
	w.many = append(w.many, one{value{text: text, kind: kind, escaped: escaped}, w.counts[n.star] - 1, -1})
	if x := &w.slots[n.slot]; w.filled(n.slot) {
		w.many[x.last].next, x.last = at, at
		return
	}
	w.fill(n.slot, "", kindNothing, false)
	w.there[n.slot/64] |= 1 << (n.slot % 64)
	x := &w.slots[n.slot]
	x.starred, x.first, x.last = true, at, at
}

// object walks an object whose opening brace is at p.
func (w *walker) object(p int, n *node) int {
	if n.members.empty() {
		return w.nested(p)
	}
	if w.depth >= w.maxDepth {
		return w.fail(schemas.DeadTooDeep, p, "nested deeper than the limit")
	}
	w.depth++
	w.visits++
	visit := w.visits
	s := w.s
	if p = w.blanks(p + 1); p < len(s) && s[p] == '}' {
		w.depth--
		return p + 1
	}
	for {
		if p >= len(s) || s[p] != '"' {
			return w.bad(p, "expected the name of a member")
		}
		// The name is read as str does, without a call: there are many.
		at, e := p, p+1
		high := w.high
		for e+8 <= len(s) {
			x := load(s, e)
			high |= x
			if found := special(x); found != 0 {
				e += bits.TrailingZeros64(found) >> 3
				break
			}
			e += 8
		}
		w.high = high
		var child *node
		if e < len(s) && s[e] == '"' {
			child = n.members.child(s, p+1, e)
		} else {
			if e = w.str(p + 1); e < 0 {
				return -1
			}
			name := s[p+1 : e]
			if w.escaped {
				name = w.arena.unescaped(name)
			}
			child = n.members.child(name, 0, len(name))
		}
		if e+2 < len(s) && s[e+1] == ':' && s[e+2] > ' ' {
			p = e + 2
		} else if p = w.afterName(e); p < 0 {
			return -1
		}
		switch {
		case child == nil:
			p = w.value(p)
		case w.marks[child.id] == visit:
			p = w.again(p, at, child)
		default:
			w.marks[child.id] = visit
			p = w.at(p, child)
		}
		if p < 0 {
			return -1
		}
		if p+1 < len(s) && s[p] == ',' && s[p+1] == '"' {
			p++
			continue
		}
		if p = w.blanks(p); p >= len(s) {
			return w.bad(p, "the text ends inside an object or array")
		}
		if s[p] == '}' {
			w.depth--
			return p + 1
		}
		if s[p] != ',' {
			return w.bad(p, "expected a comma or the closing bracket")
		}
		p = w.blanks(p + 1)
	}
}

// again meets a member that the object had before. Parsers differ in which one
// they take, and somebody may have put it there to be read differently here
// than by the system that acted: so a record with two values is refused. Twice
// the same plain value does no harm.
func (w *walker) again(p, at int, n *node) int {
	var old value
	if n.slot >= 0 && n.star < 0 {
		if v := w.get(n.slot); v != nil {
			old = *v
		}
	}
	start := p
	if p = w.value(p); p < 0 {
		return -1
	}
	now := w.s[start:p]
	if old.kind == kindString && len(now) >= 2 {
		now = now[1 : len(now)-1]
	}
	if old.kind != kindNothing && old.kind < kindObject && old.text == now {
		return p
	}
	return w.bad(at, "an object has a member twice, with different values")
}

// array walks an array whose opening bracket is at p.
func (w *walker) array(p int, n *node) int {
	if !n.elements() {
		return w.nested(p)
	}
	if w.depth >= w.maxDepth {
		return w.fail(schemas.DeadTooDeep, p, "nested deeper than the limit")
	}
	w.depth++
	w.visits++
	visit := w.visits
	if p = w.blanks(p + 1); p < len(w.s) && w.s[p] == ']' {
		w.depth--
		return p + 1
	}
	for i := 0; ; i++ {
		start := p
		if p = w.element(p, n, i, visit); p < 0 {
			return -1
		}
		if p = w.blanks(p); p >= len(w.s) {
			return w.bad(p, "the text ends inside an object or array")
		}
		if w.s[p] == ',' {
			p = w.blanks(p + 1)
			continue
		}
		if w.s[p] != ']' {
			return w.bad(p, "expected a comma or the closing bracket")
		}
		if n.last != nil && w.at(start, n.last) < 0 {
			return -1
		}
		w.depth--
		return p + 1
	}
}

// element reads the element number i at p for every child that wants it, and
// at least once.
func (w *walker) element(p int, n *node, i int, visit uint64) (end int) {
	text, depth, start := w.s, w.depth, len(w.wanting)
	if n.all != nil {
		w.wanting = append(w.wanting, n.all)
	}
	for _, x := range n.indexes {
		if x.index == i {
			w.wanting = append(w.wanting, x.node)
		}
	}
	for j := range n.selects {
		if c := w.selected(p, &n.selects[j]); c != nil && w.marks[c.id] != visit {
			w.marks[c.id] = visit
			w.wanting = append(w.wanting, c)
		}
	}
	wanting := w.wanting[start:]
	if len(wanting) == 1 && w.items < w.limit {
		w.wanting = w.wanting[:start]
		if n.all != nil {
			w.items++
			w.counts[n.each]++
		}
		if end = w.at(p, wanting[0]); end >= 0 {
			return end
		}
		// What is wrong with the element itself comes before what is wrong for the one that wants it.
		failed := w.cursor // perhaps in a string of it
		if w.s, w.depth = text, depth; w.value(p) >= 0 {
			w.cursor = failed
		}
		return -1
	}
	if end = w.value(p); end < 0 {
		return -1
	}
	if n.all != nil {
		if w.items++; w.items > w.limit {
			return w.fail(schemas.DeadTooManyItems, p, "an array of which every element is wanted is longer than "+strconv.Itoa(w.limit))
		}
		w.counts[n.each]++
	}
	for _, c := range wanting {
		if w.at(p, c) < 0 {
			return -1
		}
	}
	w.wanting = w.wanting[:start]
	return end
}

// selected returns who wants the element at p for what its member of a name
// says. Of several such members the first counts. The element was not read yet.
func (w *walker) selected(p int, x *selection) (found *node) {
	if p >= len(w.s) || w.s[p] != '{' {
		return nil
	}
	depth := w.depth
	for p = w.blanks(p + 1); p < len(w.s) && w.s[p] == '"'; {
		e := w.str(p + 1)
		if e < 0 {
			break
		}
		is := w.s[p+1:e] == x.name || w.escaped && w.arena.unescaped(w.s[p+1:e]) == x.name
		start := w.afterName(e)
		if start < 0 {
			break
		}
		if p = w.value(start); p < 0 {
			break
		}
		if is {
			v := w.s[start:p]
			if v[0] == '"' {
				if v = v[1 : len(v)-1]; strings.IndexByte(v, '\\') >= 0 {
					v = w.arena.unescaped(v)
				}
			}
			return x.values.child(v, 0, len(v))
		}
		if p = w.blanks(p); p < len(w.s) && w.s[p] == ',' {
			p = w.blanks(p + 1)
		}
	}
	w.fault, w.depth = fault{}, depth // who reads the element finds it again
	return nil
}

// inside walks over what a string holds: JSON, base64 of something, or a JWT. What is
// not what the path takes it for gives nothing. It returns next.
func (w *walker) inside(next int, n *node, content string, escaped bool) int {
	if escaped {
		content = w.arena.unescaped(content)
	}
	outer := w.cursor
	if !w.unwrap(content, n) {
		return -1
	}
	w.cursor = outer
	return next
}

// unwrap reads a string's content for the children that want it decoded.
func (w *walker) unwrap(content string, n *node) (ok bool) {
	if n.json != nil && !w.document(content, n.json) {
		return false
	}
	if n.jwt != nil {
		if claims, ok := w.arena.claims(content); ok && !w.document(claims, n.jwt) {
			return false
		}
	}
	if n.base64 == nil {
		return true
	}
	plain, ok := w.arena.base64(content)
	if !ok || !utf8.ValidString(plain) {
		return true
	}
	if n.base64.slot >= 0 {
		w.put(n.base64, plain, kindString, false)
	}
	return w.unwrap(plain, n.base64)
}

// document walks over a document inside a string. It is read twice: once to
// see that it is whole, so that no half of it fills slots.
func (w *walker) document(s string, n *node) (ok bool) {
	depth := w.depth
	if depth+1 >= w.maxDepth {
		return true
	}
	w.depth++
	w.open(s)
	p := w.blanks(0)
	if p = w.value(p); p >= 0 && w.blanks(p) == len(s) {
		w.open(s)
		if w.at(w.blanks(0), n) < 0 {
			w.fault.what += " (inside a string of JSON, counted from its start)"
			return false
		}
	}
	w.fault = fault{}
	w.depth = depth
	return true
}

// arena is memory for text that had to be decoded. Strings made of it live
// until it is reset; when it grows, older strings keep their old memory.
type arena struct{ buf []byte }

// keptArena is how much memory a reset keeps.
const keptArena = 4 << 20

func (a *arena) reset() {
	if cap(a.buf) > keptArena {
		a.buf = nil
	}
	a.buf = a.buf[:0]
}

// since is the text appended from start on.
func (a *arena) since(start int) string { return text(a.buf[start:len(a.buf):len(a.buf)]) }

func (a *arena) unescaped(s string) string {
	start := len(a.buf)
	a.buf = unescape(a.buf, s)
	return a.since(start)
}

// base64 decodes standard and URL-safe base64, padded or not.
func (a *arena) base64(s string) (string, bool) {
	s = strings.TrimRight(s, "=")
	enc := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		enc = base64.RawURLEncoding
	}
	start := len(a.buf)
	var err error
	if a.buf, err = enc.AppendDecode(a.buf, []byte(s)); err != nil {
		a.buf = a.buf[:start]
		return "", false
	}
	return a.since(start), true
}
