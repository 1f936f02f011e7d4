package ingest

import "math/bits"

// textTable numbers some texts, to find out quickly which of them a text is:
// the names of an object's members, the values that a condition compares with.
// It is open addressing by the first and the last eight bytes of a text, which
// also tell most texts apart. The texts are those of sources, never those of
// records, so nobody can make it slow.
type textTable struct {
	entries []textEntry
	index   []uint16 // by hash, a power of two: the entry's number and one; 0 for none
	shift   uint8    // what is left of a hash of 64 bits is a place in index
}

type textEntry struct {
	first, last uint64
	text        string
}

func newTextTable(texts ...string) *textTable {
	t := &textTable{}
	for _, s := range texts {
		t.number(s)
	}
	return t
}

// endsOf reads the first and the last eight bytes of s[p:e]; of a text that has
// no more, the first are all of it.
func endsOf(s string, p, e int) (first, last uint64) {
	n := uint(e - p)
	switch {
	case n > 8:
		return load(s, p), load(s, e-8)
	case p+8 <= len(s):
		return load(s, p) & (1<<(8*n) - 1), 0
	case n >= 4: // two looks that overlap
		return load4(s, p) | load4(s, e-4)<<(8*(n-4)), 0
	case n > 0:
		return uint64(s[p]) | uint64(s[p+int(n/2)])<<(8*(n/2)) | uint64(s[e-1])<<(8*(n-1)), 0
	}
	return 0, 0
}

// load4 reads four bytes of a string.
func load4(s string, p int) uint64 {
	s = s[p : p+4]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24
}

// place is where the search for a text of these ends begins.
func (t *textTable) place(first, last uint64) int {
	return int((first ^ bits.RotateLeft64(last, 29)) * 0x9e3779b97f4a7c15 >> (t.shift & 63))
}

// find returns the number of the text s[p:e]; -1 if it is none of the table's,
// which holds one at least.
func (t *textTable) find(s string, p, e int) int {
	first, last := endsOf(s, p, e)
	index := t.index
	for h := t.place(first, last); ; h++ {
		i := int(index[h&(len(index)-1)])
		if i == 0 {
			return -1
		}
		x := &t.entries[i-1]
		if x.first == first && x.last == last && len(x.text) == e-p && (e-p <= 16 || x.text[8:] == s[p+8:e]) {
			return i - 1
		}
	}
}

// number returns the number of a text, which it adds if it is new.
func (t *textTable) number(s string) int {
	if len(t.entries) > 0 {
		if i := t.find(s, 0, len(s)); i >= 0 {
			return i
		}
	}
	first, last := endsOf(s, 0, len(s))
	t.entries = append(t.entries, textEntry{first, last, s})
	t.shift = 62
	for 1<<(64-t.shift) < 4*len(t.entries) {
		t.shift--
	}
	t.index = make([]uint16, 1<<(64-t.shift))
	for i, x := range t.entries {
		h := t.place(x.first, x.last)
		for t.index[h&(len(t.index)-1)] != 0 {
			h++
		}
		t.index[h&(len(t.index)-1)] = uint16(i + 1)
	}
	return len(t.entries) - 1
}
