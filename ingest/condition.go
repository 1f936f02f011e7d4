package ingest

import (
	"math/bits"
	"regexp"
	"strings"

	"catena/schemas"
	"catena/schemas/sources"
)

// An atom is one question to one slot, false where there is no value. Every
// distinct atom of a program is one bit; the bits of a record are found slot by
// slot, once, and a condition is then a comparison of a few words. Regular
// expressions are dear: they are asked only when a condition gets that far.
//
// Whether there is a value at all is the atom of a slot's number behind
// maxAtoms; the walk answers it.
type atom struct {
	slot   int32
	op     sources.CheckOp // OneOf, Prefix, Suffix, Contains, Matches
	texts  []string
	regexp *regexp.Regexp
	table  *dfa // decides most of what the regexp would
	source string
}

// maxAtoms bounds the atoms of a program, and its slots.
const (
	maxAtoms   = 2048
	thereWords = maxAtoms / 64 // where the words of the slots begin
)

// cond is a compiled condition; the zero value holds.
type cond struct {
	want, not []wordBits // atoms that hold, and that do not
	dear      []dear     // regular expressions
	any, none [][]cond
}

// wordBits are some of a word of atoms.
type wordBits struct {
	word int32
	mask uint64
}

// dear is an atom that is asked late.
type dear struct {
	atom int32
	want bool
}

// atoms collects the atoms of a program.
type atoms struct {
	list   []atom
	index  map[string]int32
	needed []int32 // slots of which is asked whether they have a value
	bySlot []slotAtoms
	slots  []uint64 // a bit for each slot whose value is asked about
	starry []uint64 // and for those with [*] that are asked about at all: a walk does not know whether they have one
	words  int
}

// slotAtoms are the atoms of a slot, without the regular expressions.
type slotAtoms struct {
	texts    textTable    // with which it is compared
	equal    []textAtoms  // of each text
	more     [][]wordBits // what does not fit there; nil if all does
	affixes  []affix
	contains []container
}

// textAtoms are the atoms that hold for a text. One that stands in a source and
// holds no secret need not be looked at again where it is found in a record.
type textAtoms struct {
	wordBits
	clean bool
}

// affix is a prefix or suffix: in most texts, eight bytes tell that it is not theirs.
type affix struct {
	end, mask uint64 // the first eight bytes of a prefix, the last of a suffix
	suffix    bool
	atom      wordBits
	text      string
}

// container is a text that others contain.
type container struct {
	needle
	atom wordBits
}

func newAffix(text string, suffix bool, atom int32) affix {
	x := affix{text: text, suffix: suffix, atom: wordBits{atom / 64, 1 << (atom % 64)}}
	x.end, x.mask = firstOf(text), ^uint64(0)
	if n := len(text); n < 8 {
		x.mask >>= 64 - 8*n
	}
	if suffix {
		x.end = lastOf(text)
		if n := len(text); n < 8 {
			x.mask <<= 64 - 8*n
		}
	}
	return x
}

// firstOf is the first eight bytes of a text, from the lowest on.
func firstOf(s string) uint64 {
	first, _ := endsOf(s, 0, min(len(s), 8))
	return first
}

// lastOf is the last eight bytes of a text, up to the highest.
func lastOf(s string) uint64 {
	if len(s) >= 8 {
		return load(s, len(s)-8)
	}
	return firstOf(s) << (64 - 8*len(s))
}

func (x *affix) holds(v string, first, last uint64) bool {
	if x.suffix {
		return (last^x.end)&x.mask == 0 && strings.HasSuffix(v, x.text)
	}
	return (first^x.end)&x.mask == 0 && strings.HasPrefix(v, x.text)
}

func (s *slotAtoms) compare(text string, atom int32) {
	i := s.texts.number(text)
	bit := wordBits{atom / 64, 1 << (atom % 64)}
	switch {
	case i == len(s.equal):
		a, _ := findSecret(text, 0)
		s.equal = append(s.equal, textAtoms{bit, a < 0 && !schemas.Placeholder(text)})
	case s.equal[i].word == bit.word:
		s.equal[i].mask |= bit.mask
	default:
		for len(s.more) <= i {
			s.more = append(s.more, nil)
		}
		s.more[i] = addBit(s.more[i], atom)
	}
}

// newAtoms makes an empty list.
func newAtoms() *atoms { return &atoms{index: map[string]int32{}} }

// add returns the number of an atom, which it appends if it is new.
func (as *atoms) add(a atom) int32 {
	key := string([]byte{byte(a.slot), byte(a.slot >> 8), byte(a.op)}) + a.source + strings.Join(a.texts, "\x00")
	if i, ok := as.index[key]; ok {
		return i
	}
	i := int32(len(as.list))
	as.list = append(as.list, a)
	as.index[key] = i
	return i
}

// finish arranges the atoms by slot.
func (as *atoms) finish(slots []slotInfo) {
	words := (len(slots) + 63) / 64
	as.words = (len(as.list) + 63) / 64
	as.bySlot, as.slots, as.starry = make([]slotAtoms, len(slots)), make([]uint64, words), make([]uint64, words)
	for _, i := range as.needed {
		if slots[i].star >= 0 {
			as.starry[i/64] |= 1 << (i % 64)
		}
	}
	for i, a := range as.list {
		if slots[a.slot].star >= 0 {
			as.starry[a.slot/64] |= 1 << (a.slot % 64)
		}
		if a.op == sources.Matches {
			continue
		}
		as.slots[a.slot/64] |= 1 << (a.slot % 64)
		s := &as.bySlot[a.slot]
		switch a.op {
		case sources.OneOf:
			for _, t := range a.texts {
				s.compare(t, int32(i))
			}
		case sources.Contains:
			s.contains = append(s.contains, container{newNeedle(a.texts[0]), wordBits{int32(i) / 64, 1 << (i % 64)}})
		default:
			s.affixes = append(s.affixes, newAffix(a.texts[0], a.op == sources.Suffix, int32(i)))
		}
	}
}

// addBit sets an atom's bit, once.
func addBit(list []wordBits, atom int32) []wordBits {
	word, mask := atom/64, uint64(1)<<(atom%64)
	for i := range list {
		if list[i].word == word {
			list[i].mask |= mask
			return list
		}
	}
	return append(list, wordBits{word, mask})
}

// compileCondition turns a condition into bits of the program's atoms.
func (c *compiler) condition(src sources.Condition) cond {
	var out cond
	for _, clause := range src {
		switch {
		case clause.Test != nil:
			c.check(&out, c.trie.slot(clause.Test.Path), clause.Test.Check, true)
		case clause.Any != nil:
			out.any = append(out.any, c.conditions(clause.Any))
		default:
			out.none = append(out.none, c.conditions(clause.None))
		}
	}
	return out
}

func (c *compiler) conditions(src []sources.Condition) []cond {
	out := make([]cond, len(src))
	for i := range src {
		out[i] = c.condition(src[i])
	}
	return out
}

// check adds to a condition that a check holds, or does not.
func (c *compiler) check(out *cond, slot int32, ch sources.Check, want bool) {
	switch ch.Op {
	case sources.Not:
		c.check(out, slot, ch.Sub[0], !want)
		return
	case sources.All:
		if want {
			for _, sub := range ch.Sub {
				c.check(out, slot, sub, true)
			}
			return
		}
		var all cond
		for _, sub := range ch.Sub {
			c.check(&all, slot, sub, true)
		}
		out.none = append(out.none, []cond{all})
		return
	}
	if ch.Op == sources.Present {
		c.atoms.needed = append(c.atoms.needed, slot)
		if want {
			out.want = addBit(out.want, maxAtoms+slot)
		} else {
			out.not = addBit(out.not, maxAtoms+slot)
		}
		return
	}
	a := atom{slot: slot, op: ch.Op, texts: ch.Texts}
	if ch.Op == sources.Matches {
		a.source, a.regexp = ch.Regexp.String(), ch.Regexp
		a.table = compileDFA(a.regexp)
	}
	i := c.atoms.add(a)
	switch {
	case ch.Op == sources.Matches:
		out.dear = append(out.dear, dear{i, want})
		if want { // so that the slot's presence decides most often
			out.want = addBit(out.want, maxAtoms+slot)
		}
	case want:
		out.want = addBit(out.want, i)
	default:
		out.not = addBit(out.not, i)
	}
}

// facts are the atoms of the current record.
type facts struct {
	program *program
	eval    *evaluator
	is      [2 * thereWords]uint64
	asked   [thereWords]uint64 // of regular expressions: whether they were tried
	answers answers
}

// answers remembers what regular expressions said of the texts that were asked
// last: types of events, names, addresses, which come again and again. Of a text
// and an expression only a hash is kept, of 63 bits, whose seed nobody knows.
type answers struct {
	textHash
	kept [answerSlots]uint64 // the hash; the lowest bit is the answer
}

const (
	answerSlots   = 1024
	longestAnswer = 64 // bytes of a text: longer ones hardly come again
)

// matches asks an expression, which has that number among those of all
// programs, about a text.
func (as *answers) matches(a *atom, number int, text string) bool {
	if len(text) > longestAnswer {
		return a.matches(text)
	}
	hash := (as.hash(text) ^ uint64(number)*0x9e3779b97f4a7c15) &^ 1 // the golden ratio, so that numbers differ in all bits
	kept := &as.kept[hash>>1%answerSlots]
	if *kept&^1 != hash {
		*kept = hash
		if a.matches(text) {
			*kept |= 1
		}
	}
	return *kept&1 != 0
}

// words returns the words of the atoms that are no slots', and of the slots'.
func (f *facts) words() (atoms, there []uint64) {
	return f.is[:f.program.atoms.words], f.is[thereWords : thereWords+f.program.trie.words()]
}

// learn finds all atoms but the dear ones, slot by slot.
func (f *facts) learn(p *program, e *evaluator) {
	f.program, f.eval = p, e
	is, there := f.words()
	clear(is)
	clear(f.asked[:len(is)])
	copy(there, e.there)
	for word, starry := range p.atoms.starry {
		for m := e.has[word] & starry; m != 0; m &= m - 1 {
			if _, ok := e.present(int32(word*64 + bits.TrailingZeros64(m))); !ok {
				there[word] &^= m & -m
			}
		}
	}
	for word, asked := range p.atoms.slots {
		for m := there[word] & asked; m != 0; m &= m - 1 {
			slot := int32(word*64 + bits.TrailingZeros64(m))
			x := &e.slots[slot]
			v := x.text
			if x.starred || x.escaped {
				v, _ = e.madeText(x)
			}
			s := &p.atoms.bySlot[slot]
			if len(s.equal) > 0 {
				if i := s.texts.find(v, 0, len(v)); i >= 0 {
					found := &s.equal[i]
					is[found.word] |= found.mask
					if found.clean && !x.starred {
						x.look = cleaned
					}
					if i < len(s.more) {
						for _, b := range s.more[i] {
							is[b.word] |= b.mask
						}
					}
				}
			}
			if len(s.affixes) > 0 {
				first, last := firstOf(v), lastOf(v)
				for j := range s.affixes {
					if x := &s.affixes[j]; x.holds(v, first, last) {
						is[x.atom.word] |= x.atom.mask
					}
				}
			}
			for j := range s.contains {
				if x := &s.contains[j]; x.index(v) >= 0 {
					is[x.atom.word] |= x.atom.mask
				}
			}
		}
	}
}

// holds reports whether a condition holds for the record.
func (f *facts) holds(c *cond) bool {
	if !f.cheapHold(c) {
		return false
	}
	for _, list := range c.any {
		if !f.holdsOne(list) {
			return false
		}
	}
	for _, list := range c.none {
		if f.holdsOne(list) {
			return false
		}
	}
	for _, d := range c.dear {
		if f.matches(d.atom) != d.want {
			return false
		}
	}
	return true
}

// cheapHold reports whether the plain atoms of a condition are as it wants.
func (f *facts) cheapHold(c *cond) bool {
	for _, b := range c.want {
		if f.is[b.word]&b.mask != b.mask {
			return false
		}
	}
	for _, b := range c.not {
		if f.is[b.word]&b.mask != 0 {
			return false
		}
	}
	return true
}

func (f *facts) holdsOne(list []cond) bool {
	for i := range list {
		if f.holds(&list[i]) {
			return true
		}
	}
	return false
}

// matches asks a regular expression, once a record.
func (f *facts) matches(i int32) bool {
	word, mask := i/64, uint64(1)<<(i%64)
	if f.asked[word]&mask == 0 {
		f.asked[word] |= mask
		a := &f.program.atoms.list[i]
		if v, ok := f.eval.present(a.slot); ok && f.answers.matches(a, f.program.number*maxAtoms+int(i), v) {
			f.is[word] |= mask
		}
	}
	return f.is[word]&mask != 0
}

// matches asks an atom that is a regular expression about a value.
func (a *atom) matches(v string) bool {
	if is, ok := a.table.match(v); ok {
		return is
	}
	return a.regexp.MatchString(v)
}
