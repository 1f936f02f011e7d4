package correlate

// watchID names a watch; zero is none.
type watchID uint32

// watch says that a row or trail visited a node, so that it hears when the
// node learns something. It is linked with the others of its node, both ways,
// and with the others of its owner.
type watch struct {
	node       nodeID
	owner      uint32 // a row, or a trail where trailOwner is set
	next, prev watchID
	sibling    watchID
}

const trailOwner = 1 << 31

// watch registers a row or trail with a node that its walk visited. head is
// the list of the owner, in which each node stands once.
func (s *state) watch(head *watchID, n nodeID, owner uint32) {
	for i := *head; i != 0; {
		w := s.watches.at(uint32(i))
		if w.node == n {
			return
		}
		i = w.sibling
	}
	i, w := s.watches.take()
	at := s.at(n)
	*w = watch{node: n, owner: owner, next: at.watch, sibling: *head}
	if at.watch != 0 {
		s.watches.at(uint32(at.watch)).prev = watchID(i)
	}
	at.watch, *head = watchID(i), watchID(i)
}

// unwatch ends all watches of an owner.
func (s *state) unwatch(head *watchID) {
	for i := *head; i != 0; {
		w := *s.watches.at(uint32(i))
		if w.prev != 0 {
			s.watches.at(uint32(w.prev)).next = w.next
		} else {
			s.at(w.node).watch = w.next
		}
		if w.next != 0 {
			s.watches.at(uint32(w.next)).prev = w.prev
		}
		s.watches.give(uint32(i))
		s.release(w.node)
		i = w.sibling
	}
	*head = 0
}

// watchedBesides reports whether anybody but an owner watches a key.
func (s *state) watchedBesides(n nodeID, owner uint32) bool {
	for i := s.at(n).watch; i != 0; i = s.watches.at(uint32(i)).next {
		if s.watches.at(uint32(i)).owner != owner {
			return true
		}
	}
	return false
}
