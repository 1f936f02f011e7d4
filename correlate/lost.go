package correlate

// bloom remembers which keys were dropped from memory and can be looked up in
// the tables, in a fixed number of bytes. What it says no to was never
// dropped; what it says yes to is looked up, for nothing one time in forty
// when it is full. Then the older half of what it knows goes: keys that were
// dropped longest ago are taken for unknown.
//
// Rejected: to look up every key that is not in memory. Most keys are request
// ids that nobody has ever spoken of.
type bloom struct {
	now, before []uint64
	mask        uint64
	added       int
}

// newBloom makes a filter of about the given size.
func newBloom(bytes int) *bloom {
	words := 1 << 7
	for words*2*16 <= bytes {
		words *= 2
	}
	return &bloom{now: make([]uint64, words), before: make([]uint64, words), mask: uint64(words)*64 - 1}
}

// A key sets four bits, picked by parts of its hash.
const bloomBits = 4

func (b *bloom) add(hash uint64) {
	if b.added*8 >= len(b.now)*64 { // eight bits a key
		b.now, b.before, b.added = b.before, b.now, 0
		clear(b.now)
	}
	b.added++
	for range bloomBits {
		b.now[hash&b.mask>>6] |= 1 << (hash & 63)
		hash = hash*0x9e3779b97f4a7c15 + 0x632be59bd9b4e019
		hash ^= hash >> 29
	}
}

func (b *bloom) has(hash uint64) bool { return in(b.now, b.mask, hash) || in(b.before, b.mask, hash) }

func in(words []uint64, mask, hash uint64) bool {
	for range bloomBits {
		if words[hash&mask>>6]&(1<<(hash&63)) == 0 {
			return false
		}
		hash = hash*0x9e3779b97f4a7c15 + 0x632be59bd9b4e019
		hash ^= hash >> 29
	}
	return true
}

func (b *bloom) bytes() int { return (len(b.now) + len(b.before)) * 8 }
