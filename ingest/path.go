package ingest

import (
	"slices"

	"catena/schemas/sources"
)

// trie holds the paths that a program reads. Each path ends in a slot; paths
// with a common beginning share nodes, so that one walk over a document serves
// them all.
type trie struct {
	root  *node
	nodes int
	slots []slotInfo
	byKey map[string]int32 // path as text to its slot
	stars []sources.Path   // array paths that end in [*]; a group each
	known []knownSlot      // slots that no walk fills
}

// slotInfo is what is known of a slot before any record is read.
type slotInfo struct {
	path sources.Path
	node *node
	star int32 // its group; -1 for one value at most
}

// words is how many words hold a bit for each slot.
func (t *trie) words() int { return (len(t.slots) + 63) / 64 }

// node is a place in a document. Its children are what the program wants of
// the value there.
type node struct {
	id   int   // index of its mark in the walk
	slot int32 // -1 if nobody wants the value itself
	star int32 // group that values below belong to; -1 for none
	each int32 // group that the node opens for each element; -1 for none

	outlined bool // an array whose outline is wanted

	members memberTable
	indexes []indexed // a[3]
	last    *node     // a[-1]
	selects []selection
	all     *node // a[*]

	json, base64, jwt *node // of a string: what it holds, decoded
}

type indexed struct {
	index int
	node  *node
}

// selection is a[name=value] for all values that are asked for.
type selection struct {
	name   string
	values memberTable
}

// elements reports whether anything is wanted of an array's elements.
func (n *node) elements() bool {
	return n.all != nil || n.last != nil || len(n.indexes) > 0 || len(n.selects) > 0
}

func newTrie() *trie {
	t := &trie{byKey: map[string]int32{}}
	t.root = t.newNode(-1)
	return t
}

func (t *trie) newNode(star int32) *node {
	n := &node{id: t.nodes, slot: -1, star: star, each: -1}
	t.nodes++
	return n
}

// slot returns the slot of a path, which it makes if it is new.
func (t *trie) slot(p sources.Path) int32 {
	key := p.String()
	if s, ok := t.byKey[key]; ok {
		return s
	}
	n := t.root
	if member, header := p.Envelope(); member != "" || header != "" {
		n = &node{star: -1} // outside of every document
		t.known = append(t.known, newKnownSlot(int32(len(t.slots)), member, header))
	} else {
		for i := range p {
			n = t.child(n, p[:i+1])
		}
	}
	n.slot = int32(len(t.slots))
	t.slots = append(t.slots, slotInfo{path: p, node: n, star: n.star})
	t.byKey[key] = n.slot
	return n.slot
}

// child returns the node that the last step of p leads to from n.
func (t *trie) child(n *node, p sources.Path) *node {
	step := p[len(p)-1]
	switch step.Op {
	case sources.Member:
		if !n.members.empty() {
			if c := n.members.child(step.Name, 0, len(step.Name)); c != nil {
				return c
			}
		}
		c := t.newNode(n.star)
		n.members.add(step.Name, c)
		return c
	case sources.Index:
		return t.indexChild(n, step.Index)
	case sources.Select:
		return t.selectChild(n, step.Name, step.Value)
	case sources.Each:
		if n.all == nil {
			n.each = int32(len(t.stars))
			t.stars = append(t.stars, slices.Clone(p))
			n.all = t.newNode(n.each)
		}
		return n.all
	case sources.JSON:
		if n.json == nil {
			n.json = t.newNode(n.star)
		}
		return n.json
	case sources.JWT:
		if n.jwt == nil {
			n.jwt = t.newNode(n.star)
		}
		return n.jwt
	default:
		if n.base64 == nil {
			n.base64 = t.newNode(n.star)
		}
		return n.base64
	}
}

func (t *trie) indexChild(n *node, index int) *node {
	if index < 0 {
		if n.last == nil {
			n.last = t.newNode(n.star)
		}
		return n.last
	}
	for _, x := range n.indexes {
		if x.index == index {
			return x.node
		}
	}
	c := t.newNode(n.star)
	n.indexes = append(n.indexes, indexed{index, c})
	return c
}

func (t *trie) selectChild(n *node, name, value string) *node {
	i := slices.IndexFunc(n.selects, func(s selection) bool { return s.name == name })
	if i < 0 {
		i = len(n.selects)
		n.selects = append(n.selects, selection{name: name})
	}
	values := &n.selects[i].values
	if !values.empty() {
		if c := values.child(value, 0, len(value)); c != nil {
			return c
		}
	}
	c := t.newNode(n.star)
	values.add(value, c)
	return c
}

// star returns the group of a path that ends in [*]; -1 if no slot uses it.
func (t *trie) star(p sources.Path) int32 {
	key := p.String()
	return int32(slices.IndexFunc(t.stars, func(s sources.Path) bool { return s.String() == key }))
}

// memberTable finds the child of a member's name.
type memberTable struct {
	textTable
	nodes []*node
}

func (t *memberTable) empty() bool { return len(t.nodes) == 0 }

// child returns the child of the name s[p:e]; nil if it has none.
func (t *memberTable) child(s string, p, e int) *node {
	if i := t.find(s, p, e); i >= 0 {
		return t.nodes[i]
	}
	return nil
}

func (t *memberTable) add(name string, n *node) {
	t.number(name)
	t.nodes = append(t.nodes, n)
}
