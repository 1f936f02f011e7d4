package ingest

import (
	"math"
	"math/bits"
)

// Documents of one kind have one skeleton: names, brackets, colons and commas in
// the same order, around values that change. A walker remembers the skeletons of
// a program's documents and goes over the next one by comparing what lies between
// two values with what lay there before, in one look: no name is searched for its
// end or looked up, and what follows from the structure (that it is JSON, how deep
// it is, that no member stands twice) need not be found out again. Where a
// document leaves all known skeletons, it is walked over from its beginning as
// if there were none.
//
// Only what the program reads inside of objects belongs to a skeleton. Arrays whose
// elements it wants, documents inside of strings and what nobody wants are values.
type skeletons struct {
	steps  []step            // a tree; the first is where all documents begin
	texts  []byte            // of the steps
	opened [maxNesting]int32 // by depth: where the object began whose end will fill a slot
	missed [missedSlots]uint64
	luck   int // how often it was of use lately; below zero it rests
}

// step is a piece of a skeleton and the value behind it.
type step struct {
	// The text from the end of the value before up to the value, with its opening
	// quote or bracket: where it stands in skeletons.texts, and its first, second
	// and last eight bytes, of which mask says how many of the first there are.
	head, mask, mid, tail uint64
	from                  int32
	len                   uint16
	depth                 uint16 // around the value
	kind                  stepKind
	high                  uint8 // all bytes of the text, or-ed
	slot                  int32 // of the value, if somebody wants it
	first, next           int32 // steps that may follow, and other ones beside it; 0 for none
	node                  *node // of the value
}

type stepKind uint8

const (
	stepString stepKind = iota
	stepScalar
	stepSkipped // an object or array that nobody wants
	stepWanted  // what is more than a value of a slot
	stepOpened  // an object that a slot wants, and of which members are wanted
	stepClosed  // its end
	stepEnd     // of the document
)

const (
	maxSteps    = 4096      // of a program; then it begins anew
	maxSkeleton = 256       // steps of a document
	maxTexts    = 256 << 10 // bytes of a program's texts
	missedSlots = 256
	maxLuck     = 256
	missCost    = 2   // what a miss takes of the luck that a hit gives
	rest        = 256 // documents
)

// walk walks over the document at p, whose program has that trie.
func (k *skeletons) walk(w *walker, t *trie, p int) (end int) {
	if k.luck < 0 {
		if k.luck++; k.luck == 0 {
			k.luck = maxLuck / 2
		}
		return w.walkOver(t, p)
	}
	w.begin(t)
	text := w.s
	end, at, astray := w.follow(k, p)
	if end >= 0 {
		k.luck = min(k.luck+1, maxLuck)
		return end
	}
	w.s = text // that of a string in it, if it went astray there
	if end = w.walkOver(t, p); end < 0 {
		return end
	}
	if k.luck -= missCost; k.luck < 0 {
		k.luck = -rest
	}
	// What never comes again costs little.
	h := hashWords(uint64(at)+1, []uint64{uint64(astray - p), tail(w.s, astray)})
	if m := &k.missed[h%missedSlots]; *m != h {
		*m = h
	} else {
		k.learn(w, t, p)
	}
	return end
}

// tail are eight bytes of a text from p on; behind its end, zeros.
func tail(s string, p int) uint64 {
	if p+8 <= len(s) {
		return load(s, p)
	}
	first, _ := endsOf(s, p, len(s))
	return first
}

// follow walks over the document at p along a known skeleton. It returns the
// document's end; -1 if there is none, and behind which step at which place.
func (w *walker) follow(k *skeletons, p int) (end int, at int32, astray int) {
	s, steps := w.s, k.steps
	high := uint64(0)
	for {
		// The step whose text stands at p.
		var x uint64
		if p+8 <= len(s) {
			x = load(s, p)
		} else {
			x = tail(s, p)
		}
		var st *step
		before, c := int32(0), steps[at].first
		for {
			if c == 0 {
				return -1, at, p
			}
			st = &steps[c]
			if (x^st.head)&st.mask == 0 {
				n := int(st.len)
				if (n <= 8 || p+n <= len(s) && load(s, p+n-8) == st.tail && (n <= 16 || load(s, p+8) == st.mid && (n <= 24 || k.standsAt(s, p, st)))) &&
					(st.kind != stepScalar || scalarAt(s, p+n)) {
					break
				}
			}
			before, c = c, st.next
		}
		if before != 0 { // what came last comes next
			steps[before].next, st.next, steps[at].first = st.next, steps[at].first, c
		}
		at = c
		start := p
		p += int(st.len)
		high |= uint64(st.high)
		if st.kind == stepString { // read as str does, without a call
			e := p
			for e+8 <= len(s) {
				x := load(s, e)
				high |= x
				if found := special(x); found != 0 {
					e += bits.TrailingZeros64(found) >> 3
					break
				}
				e += 8
			}
			w.escaped = false
			if e >= len(s) || s[e] != '"' {
				if e = w.str(p); e < 0 {
					return -1, at, start
				}
			}
			if st.slot >= 0 {
				w.fill(st.slot, s[p:e], kindString, w.escaped)
			}
			p = e
			continue
		}
		switch st.kind {
		case stepScalar:
			e := w.scalar(p)
			if e < 0 {
				return -1, at, start
			}
			if st.slot >= 0 {
				w.fill(st.slot, s[p:e], scalarKind(s[p]), false)
			}
			p = e
		case stepSkipped:
			w.depth = int(st.depth)
			if p = w.nested(p - 1); p < 0 {
				return -1, at, start
			}
		case stepWanted:
			w.depth = int(st.depth)
			if p = w.at(p-1, st.node); p < 0 {
				return -1, at, start
			}
		case stepOpened:
			k.opened[st.depth] = int32(p - 1)
		case stepClosed:
			w.fill(st.slot, s[k.opened[st.depth]:p], kindObject, false)
		default:
			w.high |= high
			w.depth = 0
			return p, at, p
		}
	}
}

// standsAt reports whether the middle of a step's text stands in s.
func (k *skeletons) standsAt(s string, p int, st *step) bool {
	from, n := int(st.from), int(st.len)
	return s[p+16:p+n-8] == string(k.texts[from+16:from+n-8])
}

// scalarAt reports whether neither a string nor an object or array begins at p.
func scalarAt(s string, p int) bool { return p < len(s) && s[p] != '"' && s[p] != '{' && s[p] != '[' }

func scalarKind(b byte) valueKind {
	switch b {
	case 't', 'f':
		return kindBool
	case 'n':
		return kindNull
	}
	return kindNumber
}

// learner takes down the skeleton of a document that was walked over.
type learner struct {
	cursor
	arena *arena
	steps []step
	texts []byte
	from  int // end of the value before

	tooLong bool
}

// object takes down an object whose opening bracket is at p, and returns its
// end; -1 if it is not to be learned.
func (l *learner) object(p int, n *node, depth int) int {
	var seen []*node
	p = l.blanks(p + 1)
	for p < len(l.s) && l.s[p] == '"' {
		e := l.str(p + 1)
		if e < 0 {
			return -1
		}
		name := l.s[p+1 : e]
		if l.escaped {
			name = l.arena.unescaped(name)
		}
		child := n.members.child(name, 0, len(name))
		if child != nil {
			for _, x := range seen {
				if x == child {
					return -1
				}
			}
			seen = append(seen, child)
		}
		if p = l.afterName(e); p < 0 || p >= len(l.s) {
			return -1
		}
		if p = l.value(p, child, depth+1); p < 0 {
			return -1
		}
		if p = l.blanks(p); p < len(l.s) && l.s[p] == ',' {
			p = l.blanks(p + 1)
		}
	}
	if p >= len(l.s) || l.s[p] != '}' {
		return -1
	}
	return p + 1
}

// value takes down the value at p.
func (l *learner) value(p int, n *node, depth int) int {
	end := l.cursor.value(p)
	if end < 0 || len(l.steps) >= maxSkeleton {
		return -1
	}
	if n != nil && n.slot < 0 && n.members.empty() && !n.elements() && !n.inside() {
		n = nil
	}
	switch b := l.s[p]; {
	case b == '"' && (n == nil || !n.inside()):
		if n != nil && n.slot < 0 {
			n = nil
		}
		l.add(stepString, p+1, end-1, n, depth)
	case b == '{' && n != nil && !n.members.empty():
		if n.slot < 0 {
			return l.object(p, n, depth)
		}
		l.add(stepOpened, p+1, p+1, n, depth)
		if p = l.object(p, n, depth); p < 0 {
			return -1
		}
		l.add(stepClosed, p, p, n, depth)
	case b == '{' && (n == nil || n.slot < 0), b == '[' && (n == nil || n.slot < 0 && !n.elements()):
		l.add(stepSkipped, p+1, end, nil, depth)
	case b == '"' || b == '{' || b == '[':
		l.add(stepWanted, p+1, end, n, depth)
	default:
		if n != nil && n.slot < 0 {
			n = nil
		}
		l.add(stepScalar, p, end, n, depth)
	}
	return end
}

func (l *learner) add(kind stepKind, at, end int, n *node, depth int) {
	text := l.s[l.from:at]
	if len(text) > math.MaxUint16 {
		text, l.tooLong = "", true
	}
	st := step{from: int32(len(l.texts)), len: uint16(len(text)), kind: kind, node: n, slot: -1, depth: uint16(depth)}
	if n != nil {
		st.slot = n.slot
	}
	for i, b := range []byte(text) {
		st.high |= b
		if i < 8 {
			st.head, st.mask = st.head|uint64(b)<<(8*i), st.mask|0xff<<(8*i)
		}
	}
	if n := len(text); n > 8 {
		st.mid, st.tail = tail(text, 8), load(text, n-8)
	}
	l.steps, l.texts = append(l.steps, st), append(l.texts, text...)
	l.from = end
}

// inside reports whether anything is wanted of what a string holds.
func (n *node) inside() bool { return n.json != nil || n.base64 != nil || n.jwt != nil }

// learn takes down the skeleton of the document at p over which a walk has gone.
func (k *skeletons) learn(w *walker, t *trie, p int) {
	l := learner{cursor: cursor{s: w.s, maxDepth: w.maxDepth}, arena: w.arena, from: p}
	end := l.object(p, t.root, 0)
	if end < 0 {
		return
	}
	if l.add(stepEnd, end, end, nil, 0); l.tooLong || len(l.texts) > maxTexts {
		return
	}
	if len(k.steps)+len(l.steps) > maxSteps || len(k.texts)+len(l.texts) > maxTexts {
		k.steps, k.texts = k.steps[:1], k.texts[:0]
		k.steps[0] = step{}
	}
	at := int32(0)
	for i := range l.steps {
		at = k.grow(at, &l, l.steps[i])
	}
}

// grow returns the step of a text and kind behind another, which it makes if it
// is new.
func (k *skeletons) grow(of int32, l *learner, st step) int32 {
	text := l.texts[st.from : int(st.from)+int(st.len)]
	for c := k.steps[of].first; c != 0; c = k.steps[c].next {
		if x := &k.steps[c]; x.kind == st.kind && string(k.texts[x.from:int(x.from)+int(x.len)]) == string(text) {
			return c
		}
	}
	st.next, st.from = k.steps[of].first, int32(len(k.texts))
	k.steps, k.texts = append(k.steps, st), append(k.texts, text...)
	c := int32(len(k.steps) - 1)
	k.steps[of].first = c
	return c
}

func newSkeletons() *skeletons { return &skeletons{steps: make([]step, 1), luck: maxLuck} }
