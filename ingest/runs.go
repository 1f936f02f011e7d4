package ingest

import (
	"regexp/syntax"
	"unicode/utf8"
)

// runs is a regular expression of the plain sort that formats need most, such
// as ^[^@\s]+@[^@\s]+$: a sequence of byte classes with how often each may
// stand. Where every class shares no byte with the one behind it, taking as
// many as there are is right, and one look at each byte decides.
type runs struct {
	anchored, whole bool // ^ and $
	list            []run
}

type run struct {
	class    [256]bool
	min, max int // max < 0: any number
}

// compileRuns returns nil for an expression of another sort.
func compileRuns(expr string) *runs {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil
	}
	subs := []*syntax.Regexp{re}
	if re.Op == syntax.OpConcat {
		subs = re.Sub
	}
	var r runs
	for i, sub := range subs {
		switch {
		case sub.Op == syntax.OpBeginText && i == 0:
			r.anchored = true
		case sub.Op == syntax.OpEndText && i == len(subs)-1:
			r.whole = true
		case !r.add(sub):
			return nil
		}
	}
	if !r.anchored || !r.decided() {
		return nil
	}
	return &r
}

// add appends the run of a part; false if it is none.
func (r *runs) add(re *syntax.Regexp) bool {
	lo, hi := 1, 1
	switch re.Op {
	case syntax.OpPlus:
		hi = -1
	case syntax.OpStar:
		lo, hi = 0, -1
	case syntax.OpQuest:
		lo = 0
	case syntax.OpRepeat:
		lo, hi = re.Min, re.Max
	case syntax.OpLiteral:
		return r.literal(re)
	case syntax.OpCharClass:
		return r.class(re, 1, 1)
	default:
		return false
	}
	if re.Flags&syntax.NonGreedy != 0 {
		return false
	}
	if sub := re.Sub[0]; sub.Op == syntax.OpCharClass || sub.Op == syntax.OpLiteral && len(sub.Rune) == 1 {
		return r.class(sub, lo, hi)
	}
	return false
}

func (r *runs) literal(re *syntax.Regexp) bool {
	if re.Flags&syntax.FoldCase != 0 {
		return false
	}
	for _, c := range re.Rune {
		if c >= utf8.RuneSelf {
			return false
		}
		var x run
		x.class[c], x.min, x.max = true, 1, 1
		r.list = append(r.list, x)
	}
	return true
}

// class appends a run of a class of characters. What is not ASCII must be
// wholly in it, with any number of repetitions, or wholly out of it: bytes
// cannot tell such characters apart, nor count them.
func (r *runs) class(re *syntax.Regexp, lo, hi int) bool {
	x := run{min: lo, max: hi}
	pairs := re.Rune
	if re.Op == syntax.OpLiteral {
		if re.Flags&syntax.FoldCase != 0 {
			return false
		}
		pairs = []rune{re.Rune[0], re.Rune[0]}
	}
	high := false
	for i := 0; i+1 < len(pairs); i += 2 {
		from, to := pairs[i], pairs[i+1]
		for c := from; c <= min(to, utf8.RuneSelf-1); c++ {
			x.class[c] = true
		}
		if to >= utf8.RuneSelf {
			if from > utf8.RuneSelf || to != utf8.MaxRune || lo > 1 || hi >= 0 {
				return false
			}
			high = true
		}
	}
	for c := utf8.RuneSelf; high && c < 256; c++ {
		x.class[c] = true
	}
	r.list = append(r.list, x)
	return true
}

// decided reports whether a run that takes all it can is never wrong.
func (r *runs) decided() bool {
	for i, x := range r.list {
		if x.min == x.max {
			continue
		}
		for _, y := range r.list[i+1:] {
			for c := range x.class {
				if x.class[c] && y.class[c] {
					return false
				}
			}
			if y.min > 0 {
				break
			}
		}
	}
	return true
}

func (r *runs) match(s string) bool {
	p := 0
	for i := range r.list {
		x := &r.list[i]
		start := p
		for p < len(s) && (x.max < 0 || p-start < x.max) && x.class[s[p]] {
			p++
		}
		if p-start < x.min {
			return false
		}
	}
	return !r.whole || p == len(s)
}
