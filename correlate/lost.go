package correlate

import "math/bits"

// bloom remembers which keys were dropped from memory and can be looked up in
// the tables, in a fixed number of bytes: a sixteenth of the memory holds the
// keys of ten times as many bindings as the memory itself. What it says no to
// was never dropped; what it says yes to is looked up, for nothing one time in
// forty when it is full. Then the older half of what it knows goes: keys that
// were dropped longest ago are taken for unknown.
//
// Rejected: to look up every key that is not in memory. Most keys are request
// ids that nobody has ever spoken of.
type bloom struct {
	now, before []uint64
	added       int
}

// newBloom makes a filter of the given size, in bytes.
func newBloom(size int) *bloom {
	words := max(1, size/16)
	return &bloom{now: make([]uint64, words), before: make([]uint64, words)}
}

// A key sets four bits, picked by its hash, and a filter of eight bits a key
// is full.
const (
	bloomBits   = 4
	bloomPerKey = 8
)

func (b *bloom) add(hash uint64) {
	if in(b.now, hash) {
		return
	}
	if b.added*bloomPerKey >= len(b.now)*64 {
		b.now, b.before, b.added = b.before, b.now, 0
		clear(b.now)
	}
	b.added++
	for range bloomBits {
		i := pick64(hash, len(b.now))
		b.now[i/64] |= 1 << (i % 64)
		hash = next(hash)
	}
}

func (b *bloom) has(hash uint64) bool { return in(b.now, hash) || in(b.before, hash) }

func in(words []uint64, hash uint64) bool {
	for range bloomBits {
		i := pick64(hash, len(words))
		if words[i/64]&(1<<(i%64)) == 0 {
			return false
		}
		hash = next(hash)
	}
	return true
}

// pick64 is a bit of so many words.
func pick64(hash uint64, words int) uint64 {
	i, _ := bits.Mul64(hash, uint64(words)*64)
	return i
}

func next(hash uint64) uint64 {
	hash = (hash ^ hash>>31) * 0x9e3779b97f4a7c15
	return hash ^ hash>>29
}

func (b *bloom) bytes() int { return (len(b.now) + len(b.before)) * 8 }

// miss notes that a key has to be looked up in the tables: once for each call
// with events, or keys that do not all fit would push each other out and ask
// for each other for ever.
func (s *state) miss(n nodeID, at *node) {
	h := s.hashOf(n)
	if s.nobody.Contains(h) {
		at.bits &^= nodeLost
		return
	}
	at.bits |= nodeLost
	if at.bits&nodeAsked != 0 {
		return
	}
	at.bits |= nodeAsked
	at.refs++ // until it is answered
	s.unanswered++
	if _, lately := s.asked[h]; lately || len(s.asked) >= maxAsked {
		s.deferred = append(s.deferred, n)
		return
	}
	s.asked[h] = struct{}{}
	s.unasked = append(s.unasked, n)
}

// maxAsked is how many keys are looked up for one call; the rest wait for the
// next.
const maxAsked = 1 << 16

// askAgain lets the keys be asked for that had to wait.
func (s *state) askAgain() {
	clear(s.asked)
	for len(s.deferred) > 0 && len(s.asked) < maxAsked {
		n := s.deferred[len(s.deferred)-1]
		s.deferred = s.deferred[:len(s.deferred)-1]
		s.asked[s.hashOf(n)] = struct{}{}
		s.unasked = append(s.unasked, n)
	}
}

// awaits is incomplete for somebody who rests on the key: it is asked for.
func (s *state) awaits(n nodeID) bool {
	if at := s.at(n); s.lost != nil && at.bits&(nodeLost|nodeAsked) == nodeLost {
		s.miss(n, at)
	}
	return s.incomplete(n)
}

// incomplete reports whether the tables may know more of a key than memory.
func (s *state) incomplete(n nodeID) bool {
	return s.lost != nil && s.at(n).bits&(nodeLost|nodeAsked) != 0
}
