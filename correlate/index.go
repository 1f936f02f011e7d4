package correlate

// index finds a key's number by the key's hash: open addressing in segments
// that grow one at a time, so that growing never stops the engine for long. A
// slot holds the lower half of the hash and the number.
//
// Rejected: Go's map. It takes twice the room and touches memory twice for
// each look.
type index struct {
	segments [256]segment
}

type segment struct {
	slots []uint64
	used  int
}

func (x *index) segment(hash uint64) *segment { return &x.segments[hash>>56] }

// find calls is with the numbers of a hash until it says yes, and returns that
// number, or zero.
func (g *segment) find(hash uint64, is func(n nodeID) bool) nodeID {
	if len(g.slots) == 0 {
		return 0
	}
	low, mask := uint32(hash), len(g.slots)-1
	for i := int(low) & mask; g.slots[i] != 0; i = (i + 1) & mask {
		if g.slots[i]>>32 == uint64(low) {
			if n := nodeID(g.slots[i]); is(n) {
				return n
			}
		}
	}
	return 0
}

// add puts in a number that is not there.
func (g *segment) add(hash uint64, n nodeID) {
	if (g.used+1)*4 > len(g.slots)*3 {
		old := g.slots
		g.slots = make([]uint64, max(8, len(old)*2))
		for _, slot := range old {
			if slot != 0 {
				g.put(slot)
			}
		}
	}
	g.used++
	g.put(hash<<32 | uint64(n))
}

func (g *segment) put(slot uint64) {
	mask := len(g.slots) - 1
	i := int(slot>>32) & mask
	for g.slots[i] != 0 {
		i = (i + 1) & mask
	}
	g.slots[i] = slot
}

// remove takes a number out that is there, and closes the gap.
func (g *segment) remove(hash uint64, n nodeID) {
	mask := len(g.slots) - 1
	slot := hash<<32 | uint64(n)
	i := int(uint32(hash)) & mask
	for g.slots[i] != slot {
		i = (i + 1) & mask
	}
	g.used--
	for j := (i + 1) & mask; g.slots[j] != 0; j = (j + 1) & mask {
		if home := int(g.slots[j]>>32) & mask; (j-home)&mask >= (j-i)&mask {
			g.slots[i] = g.slots[j]
			i = j
		}
	}
	g.slots[i] = 0
}

// indexBytes is what an entry takes: slots are three quarters full at the
// most, and twice as many after growing.
const indexBytes = 15
