package correlate

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"unsafe"
)

// The state lives in slabs: pages of equal items that are named by a number
// and used again when they are given back. Pages hold no pointers, so that the
// garbage collector never looks inside, however many keys are live, and
// because a page never moves, what points into it stays good until the item
// is given back.
//
// Rejected: Go maps of pointers to structs with strings. They took 740 bytes a
// binding and a tenth of the speed, half of it spent in the collector.

const (
	pageBits = 10
	pageSize = 1 << pageBits
)

// slab is a store of items. Number 0 is no item.
type slab[T any] struct {
	pages [][]T
	used  uint32 // numbers handed out so far, given back or not
	free  []uint32
}

// at is the item of a number, which must have been taken.
func (s *slab[T]) at(i uint32) *T { return &s.pages[i>>pageBits][i&(pageSize-1)] }

// take hands out a zero item.
func (s *slab[T]) take() (uint32, *T) {
	if n := len(s.free); n > 0 {
		i := s.free[n-1]
		s.free = s.free[:n-1]
		return i, s.at(i)
	}
	s.used++
	if int(s.used>>pageBits) >= len(s.pages) {
		s.pages = append(s.pages, make([]T, pageSize))
	}
	return s.used, s.at(s.used)
}

// give takes an item back and zeroes it.
func (s *slab[T]) give(i uint32) {
	var zero T
	*s.at(i) = zero
	s.free = append(s.free, i)
}

// len is how many items are out.
func (s *slab[T]) len() int { return int(s.used) - len(s.free) }

// bytes is what the items that are out weigh.
func (s *slab[T]) bytes() int {
	var zero T
	return s.len() * int(unsafe.Sizeof(zero))
}

// textBlock holds up to blockText bytes of a text, and where the rest stands.
// An access key id fills one block, a UUID two.
type textBlock struct {
	next uint32
	text [blockText]byte
}

const blockText = 20

// text is a string in blocks.
type text struct {
	first uint32
	size  uint16
}

// maxText is how long a text can be, which is far above what any source
// writes. Names beyond it are cut, parts of keys pass shorten first.
const maxText = 1<<16 - 1

// texts stores strings outside the garbage collector's sight.
type texts struct{ blocks slab[textBlock] }

// shorten gives a part of a key that is too long another value of its own:
// its beginning and its hash, so that two long ones never become one.
func shorten(s string) string {
	if len(s) <= maxText {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return s[:maxText-len(sum)*2] + hex.EncodeToString(sum[:])
}

// put stores a string of at most maxText bytes.
func (t *texts) put(s string) text {
	out := text{size: uint16(len(s))}
	var last *textBlock
	for len(s) > 0 {
		i, b := t.blocks.take()
		n := copy(b.text[:], s)
		s = s[n:]
		if last == nil {
			out.first = i
		} else {
			last.next = i
		}
		last = b
	}
	return out
}

// drop gives the blocks of a text back.
func (t *texts) drop(x text) {
	for i := x.first; i != 0; {
		next := t.blocks.at(i).next
		t.blocks.give(i)
		i = next
	}
}

// equal reports whether a stored text is s.
func (t *texts) equal(x text, s string) bool {
	if int(x.size) != len(s) {
		return false
	}
	for i := x.first; i != 0; {
		b := t.blocks.at(i)
		n := min(len(s), blockText)
		if string(b.text[:n]) != s[:n] {
			return false
		}
		s, i = s[n:], b.next
	}
	return true
}

// append appends a stored text to dst.
func (t *texts) append(dst []byte, x text) []byte {
	left := int(x.size)
	for i := x.first; i != 0; {
		b := t.blocks.at(i)
		n := min(left, blockText)
		dst, left, i = append(dst, b.text[:n]...), left-n, b.next
	}
	return dst
}

// string makes a Go string of a stored text.
func (t *texts) string(x text) string {
	if x.size == 0 {
		return ""
	}
	var stack [128]byte
	return string(t.append(stack[:0], x))
}

// compare orders two stored texts as strings.Compare does.
func (t *texts) compare(a, b text) int {
	var x, y [128]byte
	s, u := t.append(x[:0], a), t.append(y[:0], b)
	switch {
	case string(s) < string(u):
		return -1
	case string(s) > string(u):
		return 1
	}
	return 0
}

// name is a text that many share, such as the name of a role, by number. Zero
// is the empty text.
type name uint32

// names stores each name once and counts who uses it.
type names struct {
	texts *texts
	seed  maphash.Seed
	find  map[uint64]name // the first of those of a hash
	slots slab[nameSlot]
	cache [1 << 8]struct { // as Go strings: few names are on most paths
		name name
		text string
	}
}

type nameSlot struct {
	text text
	next name // another name of the same hash
	refs uint32
}

// use is the number of a name, made if need be, and counts one more user.
func (n *names) use(s string) name {
	if s == "" {
		return 0
	}
	if len(s) > maxText {
		s = s[:maxText]
	}
	h := maphash.String(n.seed, s)
	head := n.find[h]
	for i := head; i != 0; {
		slot := n.slots.at(uint32(i))
		if n.texts.equal(slot.text, s) {
			slot.refs++
			return i
		}
		i = slot.next
	}
	i, slot := n.slots.take()
	*slot = nameSlot{text: n.texts.put(s), next: head, refs: 1}
	n.find[h] = name(i)
	return name(i)
}

// drop counts one user less, and forgets a name that nobody uses.
func (n *names) drop(i name) {
	if i == 0 {
		return
	}
	slot := n.slots.at(uint32(i))
	if slot.refs--; slot.refs > 0 {
		return
	}
	h := maphash.String(n.seed, n.string(i))
	if head := n.find[h]; head != i {
		for p := n.slots.at(uint32(head)); ; p = n.slots.at(uint32(p.next)) {
			if p.next == i {
				p.next = slot.next
				break
			}
		}
	} else if slot.next != 0 {
		n.find[h] = slot.next
	} else {
		delete(n.find, h)
	}
	n.texts.drop(slot.text)
	n.slots.give(uint32(i))
	if c := &n.cache[i%name(len(n.cache))]; c.name == i {
		c.name, c.text = 0, ""
	}
}

// string is the text of a name.
func (n *names) string(i name) string {
	if i == 0 {
		return ""
	}
	c := &n.cache[i%name(len(n.cache))]
	if c.name != i {
		c.name, c.text = i, n.texts.string(n.slots.at(uint32(i)).text)
	}
	return c.text
}
