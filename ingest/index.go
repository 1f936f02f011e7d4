package ingest

import (
	"math/bits"

	"catena/schemas/sources"
)

// condIndex finds which of many conditions hold without asking them all. Each
// is filed under an atom that it wants, the one that seems to hold most seldom,
// and is looked at only if that holds. What wants no atom is always looked at.
type condIndex struct {
	conds  []cond
	always []int32
	filed  []filed
}

// filed is what is filed under the atoms of a word.
type filed struct {
	word  int32
	mask  uint64 // the atoms
	conds [64][]int32
}

func (x *condIndex) add(c cond) { x.conds = append(x.conds, c) }

// finish files the conditions.
func (x *condIndex) finish(as *atoms) {
	wanted := map[int32]int{}
	for i := range x.conds {
		each(x.conds[i].want, func(a int32) { wanted[a]++ })
	}
	for i := range x.conds {
		under := filedUnder(&x.conds[i], as, wanted)
		if under == nil {
			x.always = append(x.always, int32(i))
		}
		for _, a := range under {
			f := x.of(a / 64)
			f.mask |= 1 << (a % 64)
			f.conds[a%64] = append(f.conds[a%64], int32(i))
		}
	}
}

// of returns what is filed under a word.
func (x *condIndex) of(word int32) *filed {
	for i := range x.filed {
		if x.filed[i].word == word {
			return &x.filed[i]
		}
	}
	x.filed = append(x.filed, filed{word: word})
	return &x.filed[len(x.filed)-1]
}

// filedUnder returns an atom without which the condition does not hold, or
// several of which it needs one; nil if there are none.
func filedUnder(c *cond, as *atoms, wanted map[int32]int) (under []int32) {
	best := int32(-1)
	each(c.want, func(a int32) {
		if best < 0 || as.commonness(a, wanted[a]) < as.commonness(best, wanted[best]) {
			best = a
		}
	})
	if best >= 0 {
		return []int32{best}
	}
	for _, list := range c.any {
		under = nil
		for i := range list {
			one := filedUnder(&list[i], as, wanted)
			if one == nil {
				under = nil
				break
			}
			under = append(under, one...)
		}
		if under != nil {
			return under
		}
	}
	return nil
}

// commonness guesses how often an atom holds: the more texts it takes, and the
// more conditions want it, the more often.
func (as *atoms) commonness(a int32, wanted int) int {
	if a >= maxAtoms { // that there is a value
		return 1000 + wanted
	}
	if x := &as.list[a]; x.op == sources.OneOf {
		return 10*len(x.texts) + wanted
	}
	return 100 + wanted
}

// each calls f with every atom of a set.
func each(set []wordBits, f func(atom int32)) {
	for _, b := range set {
		for m := b.mask; m != 0; m &= m - 1 {
			f(b.word*64 + int32(bits.TrailingZeros64(m)))
		}
	}
}

// hold sets in on, whose memory it uses again, a bit for each condition that
// holds.
func (x *condIndex) hold(f *facts, on []uint64) []uint64 {
	on = on[:0]
	for range (len(x.conds) + 63) / 64 {
		on = append(on, 0)
	}
	for _, i := range x.always {
		if f.holds(&x.conds[i]) {
			on[i/64] |= 1 << (i % 64)
		}
	}
	for j := range x.filed {
		under := &x.filed[j]
		for m := f.is[under.word] & under.mask; m != 0; m &= m - 1 {
			for _, i := range under.conds[bits.TrailingZeros64(m)] {
				if f.holds(&x.conds[i]) {
					on[i/64] |= 1 << (i % 64)
				}
			}
		}
	}
	return on
}
