package ingest

import (
	"math/bits"
	"regexp"
	"regexp/syntax"
	"slices"
	"unicode/utf8"
)

// dfa is a regular expression as a table: one look-up decides each byte. The
// tables are made when a source is compiled, for ASCII alone, which is what
// logs match on: a text with other bytes is left to the regexp. An expression
// whose table would be large, or that asks for word boundaries, has none; but
// that a text it needs is missing can be told of it, too.
type dfa struct {
	needs needle   // stands in every text that matches; a quick way to say no
	first bool     // and every match begins with it
	next  []uint16 // a row for each state, which is the row's place; by character
	atEnd []bool   // by state, counted: whether a text that ends there matches
	leave []byte   // by state: the one character above a blank by which it is left, or a blank for none; zero for several
}

// The states that need no table of their own.
const (
	dfaMatched = 0xffff
	dfaDead    = 0xfffe
	dfaRow     = utf8.RuneSelf
	maxDFA     = 128  // states
	maxDFAProg = 2000 // instructions of the expression, such as of counted repetitions
)

// dfaBuilder makes the states of a dfa: each is a set of places in the program
// in which the regexp could be.
type dfaBuilder struct {
	prog   *syntax.Prog
	sets   [][]uint32
	number map[string]uint16
}

// compileDFA makes the table of an expression, if a small one is enough.
func compileDFA(re *regexp.Regexp) *dfa {
	parsed, err := syntax.Parse(re.String(), syntax.Perl)
	if err != nil {
		return &dfa{}
	}
	d := &dfa{needs: newNeedle(needed(parsed))}
	d.first = d.needs.text != "" && needed(leading(parsed)) == d.needs.text
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(prog.Inst) > maxDFAProg {
		return d
	}
	for _, in := range prog.Inst {
		if in.Op == syntax.InstEmptyWidth && syntax.EmptyOp(in.Arg)&^(syntax.EmptyBeginText|syntax.EmptyEndText) != 0 {
			return d
		}
	}
	if !d.build(prog) {
		d.next, d.atEnd = nil, nil
	}
	return d
}

// build makes the table; false if it would be too large.
func (d *dfa) build(prog *syntax.Prog) bool {
	b := &dfaBuilder{prog: prog, number: map[string]uint16{}}
	// The first state alone knows that it stands at the beginning of the text.
	b.sets = append(b.sets, nil)
	if b.reach(&b.sets[0], uint32(prog.Start), syntax.EmptyBeginText) {
		b.sets[0] = nil
		d.next, d.atEnd = slices.Repeat([]uint16{dfaMatched}, dfaRow), append(d.atEnd, true)
		return true
	}
	for i := 0; i < len(b.sets); i++ {
		begin := syntax.EmptyOp(0)
		if i == 0 {
			begin = syntax.EmptyBeginText
		}
		d.atEnd = append(d.atEnd, b.endsIn(b.sets[i], begin|syntax.EmptyEndText))
		for c := range rune(dfaRow) {
			s, ok := b.step(b.sets[i], c)
			if !ok {
				return false
			}
			d.next = append(d.next, s)
		}
		d.leave = append(d.leave, leaving(d.next[i*dfaRow:], uint16(i*dfaRow)))
	}
	return true
}

// leaving looks in the row of a state for how it is left.
func leaving(row []uint16, state uint16) (by byte) {
	by = ' '
	for c := byte(' ' + 1); c < dfaRow; c++ {
		if row[c] != state {
			if by != ' ' {
				return 0
			}
			by = c
		}
	}
	return by
}

// needed is the longest text that stands in whatever matches, as far as that is
// easily seen.
func needed(re *syntax.Regexp) (text string) {
	switch re.Op {
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase == 0 {
			return string(re.Rune)
		}
	case syntax.OpCapture, syntax.OpPlus:
		return needed(re.Sub[0])
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			if t := needed(sub); len(t) > len(text) {
				text = t
			}
		}
	}
	return text
}

// leading is what an expression begins with.
func leading(re *syntax.Regexp) *syntax.Regexp {
	for re.Op == syntax.OpConcat || re.Op == syntax.OpCapture {
		re = re.Sub[0]
	}
	return re
}

// reach adds to a set where the program gets to from pc without reading; true
// if that is a match.
func (b *dfaBuilder) reach(set *[]uint32, pc uint32, holds syntax.EmptyOp) bool {
	if slices.Contains(*set, pc) {
		return false
	}
	*set = append(*set, pc)
	switch in := &b.prog.Inst[pc]; in.Op {
	case syntax.InstMatch:
		return true
	case syntax.InstAlt, syntax.InstAltMatch:
		out := b.reach(set, in.Out, holds)
		return b.reach(set, in.Arg, holds) || out
	case syntax.InstCapture, syntax.InstNop:
		return b.reach(set, in.Out, holds)
	case syntax.InstEmptyWidth:
		if syntax.EmptyOp(in.Arg)&^holds == 0 {
			return b.reach(set, in.Out, holds)
		}
	}
	return false
}

// endsIn reports whether a text that ends in a set matches.
func (b *dfaBuilder) endsIn(set []uint32, holds syntax.EmptyOp) bool {
	var seen []uint32
	for _, pc := range set {
		if b.prog.Inst[pc].Op == syntax.InstEmptyWidth && b.reach(&seen, pc, holds) {
			return true
		}
	}
	return false
}

// step is the state that follows a character; false if there are too many.
func (b *dfaBuilder) step(set []uint32, c rune) (uint16, bool) {
	var next []uint32
	for _, pc := range set {
		in := &b.prog.Inst[pc]
		switch in.Op {
		case syntax.InstRune, syntax.InstRune1:
			if !in.MatchRune(c) {
				continue
			}
		case syntax.InstRuneAny:
		case syntax.InstRuneAnyNotNL:
			if c == '\n' {
				continue
			}
		default:
			continue
		}
		if b.reach(&next, in.Out, 0) {
			return dfaMatched, true
		}
	}
	if b.reach(&next, uint32(b.prog.Start), 0) { // a match may begin anywhere
		return dfaMatched, true
	}
	next = slices.DeleteFunc(next, func(pc uint32) bool {
		switch in := &b.prog.Inst[pc]; in.Op {
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			return false
		case syntax.InstEmptyWidth: // the beginning is over
			return syntax.EmptyOp(in.Arg)&syntax.EmptyBeginText != 0
		}
		return true
	})
	if len(next) == 0 {
		return dfaDead, true
	}
	slices.Sort(next)
	key := make([]byte, 0, 4*len(next))
	for _, pc := range next {
		key = append(key, byte(pc), byte(pc>>8), byte(pc>>16), byte(pc>>24))
	}
	s, ok := b.number[string(key)]
	if !ok {
		if len(b.sets) == maxDFA {
			return 0, false
		}
		s = uint16(len(b.sets) * dfaRow)
		b.sets, b.number[string(key)] = append(b.sets, next), s
	}
	return s, true
}

// match reports whether the text matches; ok is false if the table cannot tell.
func (d *dfa) match(s string) (matches, ok bool) {
	if d.needs.text != "" {
		at := d.needs.index(s)
		if at < 0 {
			return false, true
		}
		if d.first {
			s = s[at:]
		}
	}
	if len(d.next) == 0 {
		return false, false
	}
	next, state := d.next, 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= utf8.RuneSelf {
			return false, false
		}
		before := state
		if state = int(next[state+int(c)]); state >= dfaDead {
			return state == dfaMatched, true
		}
		if state == before { // perhaps for long
			i = d.stay(s, i, state)
		}
	}
	return d.atEnd[state/dfaRow], true
}

// stay goes on while eight bytes do not lead out of a state, and returns the last
// of them.
func (d *dfa) stay(s string, i, state int) int {
	leave := uint64(d.leave[state/dfaRow])
	if leave == 0 {
		return i
	}
	leave *= eachByte
	for i+9 <= len(s) {
		x := load(s, i+1)
		other := x ^ leave
		// As in special: bytes up to the blank, the one by which it is left, and what is not ASCII.
		if found := ((x-0x21*eachByte)&^x | (other-eachByte)&^other | x) & highBits; found != 0 {
			return i + bits.TrailingZeros64(found)>>3
		}
		i += 8
	}
	return i
}
