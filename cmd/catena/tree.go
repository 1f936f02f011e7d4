package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"catena/schemas"
)

// A chain as a tree: the root, the keys on the way down, and under each key
// the actions performed with it; what a tool call caused stands under the call.

// node is one line of the tree and what hangs below it: a key, an action, or
// so many more actions like the one before.
type node struct {
	key    *keyNode
	action *schemas.Action
	more   int

	at       int64 // for order among siblings
	until    int64 // of more: when the last of them was
	parent   *node
	children []*node
	like     string // equal for siblings that can be told in one line
}

// keyNode is a key on the way from the root down.
type keyNode struct {
	schemas.Hop
	frontier bool            // the walk stopped here
	by       *schemas.Action // of the actions below, the one that the hop was taken from
}

// tree is one chain.
type tree struct {
	chain    schemas.ID
	top      *node
	rows     []*schemas.Action // in event-time order
	folded   int               // rows that the lines above them tell
	worst    schemas.Grade
	flags    schemas.Flags
	mfa      schemas.MFA
	method   string
	first    int64
	last     int64
	all      bool
	calls    map[schemas.Key]*schemas.Action // the action of a span
	byID     map[schemas.ID]*node
	keys     map[string]*node // path of keys → its line
	rootKey  schemas.Key
	rootName string
}

// newTree puts the rows of one chain_id together. Unless all is set, it leaves
// out what repeats the line above: the protocol's spans of a tool call, the
// records of its policy decisions, model calls, and runs of like actions.
func newTree(rows []*schemas.Action, all bool) *tree {
	t := &tree{rows: slices.SortedFunc(slices.Values(rows), actionOrder), all: all, top: &node{}, worst: schemas.GradeProven,
		calls: map[schemas.Key]*schemas.Action{}, byID: map[schemas.ID]*node{}, keys: map[string]*node{}}
	if len(rows) == 0 {
		return t
	}
	t.summarise()
	for _, a := range t.rows {
		if k := ownCall(a); !k.IsZero() {
			t.calls[k] = a
		}
		t.byID[a.ID] = &node{action: a, at: a.TimeNanos, like: likeness(a)}
	}
	for _, a := range t.rows {
		if all || !t.folds(a) {
			t.hang(a)
		} else {
			t.folded++
		}
	}
	t.arrange(t.top)
	return t
}

func (t *tree) summarise() {
	t.chain, t.first = t.rows[0].ChainID, t.rows[0].TimeNanos
	for _, a := range t.rows {
		t.worst = min(t.worst, a.Grade)
		t.flags |= a.Flags
		t.last = max(t.last, a.TimeNanos)
		if a.MFA > t.mfa {
			t.mfa, t.method = a.MFA, a.AuthMethod
		}
		if t.rootKey.IsZero() && !a.Root.IsZero() {
			t.rootKey = a.Root
		}
		if t.rootName == "" {
			t.rootName = a.RootName
		}
	}
	if t.rootKey.IsZero() {
		t.rootKey = t.rows[0].Frontier
	}
}

// span is how long the chain lasted.
func (t *tree) span() time.Duration { return time.Duration(t.last - t.first).Round(time.Second) }

// ownCall is the span that an action is, if it is one.
func ownCall(a *schemas.Action) schemas.Key {
	k := a.FirstKey(schemas.KindCall)
	if k.IsZero() || a.SpanID == "" || !strings.HasSuffix(k.Value, a.SpanID) || a.Class == schemas.ClassDecision {
		return schemas.Key{}
	}
	return k
}

// folds reports whether an action is told by the line above it.
func (t *tree) folds(a *schemas.Action) bool {
	told := t.byID[a.CauseID] != nil && (a.ProtocolSpan() || a.Class == schemas.ClassDecision)
	operation, _, _ := strings.Cut(a.Event.Action, " ")
	modelCall := slices.Contains([]string{"chat", "generate_content", "text_completion", "embeddings"}, operation)
	if told && a.ProtocolSpan() {
		return true // the call's own line has the flags too
	}
	return a.Flags == 0 && (told || modelCall && a.Class == schemas.ClassOther)
}

// likeness is equal for actions that differ in time and resource only.
func likeness(a *schemas.Action) string {
	if a.Class == schemas.ClassCommand {
		return "" // each one counts
	}
	return fmt.Sprint(a.Class, a.Event.Action, a.Outcome, a.Grade, a.Reason, a.Flags, a.GrantID, a.FirstKey(schemas.KindToken))
}

func (t *tree) hang(a *schemas.Action) {
	n := t.byID[a.ID]
	parent := t.above(a)
	if parent == nil || parent.below(n) { // spans that call each other in a circle are drawn all the same
		parent = t.anchor(a)
	}
	n.parent = parent
	parent.children = append(parent.children, n)
}

// below reports whether a node is n or hangs under it.
func (x *node) below(n *node) bool {
	for ; x != nil; x = x.parent {
		if x == n {
			return true
		}
	}
	return false
}

// above is the line of the action that drove this one: the span it runs in,
// or the tool call that caused it. Nil if neither is in the chain.
func (t *tree) above(a *schemas.Action) *node {
	own := ownCall(a)
	for i := len(a.Hops) - 1; i >= 0; i-- {
		k := a.Hops[i].Key
		if k.Kind == schemas.KindCall && k != own {
			if owner := t.calls[k]; owner != nil && owner.ID != a.ID && (t.all || !t.folds(owner)) {
				return t.byID[owner.ID]
			}
		}
	}
	return t.byID[a.CauseID]
}

// anchor is the line of the lowest key that the action was performed with.
func (t *tree) anchor(a *schemas.Action) *node {
	at, path := t.top, ""
	for _, h := range a.Hops {
		if h.Key.Kind == schemas.KindCall || h.Key.Kind == schemas.KindRequest || h.Lent {
			continue
		}
		path += "\x00" + h.Key.String()
		next := t.keys[path]
		if next == nil {
			next = &node{key: &keyNode{Hop: h, frontier: a.Frontier == h.Key, by: a}, at: cmp.Or(h.AtNanos, a.TimeNanos), parent: at}
			t.keys[path] = next
			at.children = append(at.children, next)
		}
		at = next
	}
	return at
}

// arrange sorts siblings by time and tells runs of like ones in two lines.
func (t *tree) arrange(n *node) {
	slices.SortStableFunc(n.children, func(a, b *node) int { return cmp.Compare(a.at, b.at) })
	if !t.all {
		n.children = fold(n.children)
	}
	for _, c := range n.children {
		t.arrange(c)
	}
}

// fold tells runs of four or more like siblings in two lines.
func fold(list []*node) []*node {
	var out []*node
	for i := 0; i < len(list); {
		j := i + 1
		for j < len(list) && list[i].like != "" && list[j].like == list[i].like && len(list[i].children)+len(list[j].children) == 0 {
			j++
		}
		out = append(out, list[i])
		if n := j - i; n >= 4 {
			out = append(out, &node{more: n - 1, at: list[i+1].at, until: list[j-1].at, parent: list[i].parent})
		} else {
			out = append(out, list[i+1:j]...)
		}
		i = j
	}
	return out
}

// object is what an action was about: of a command its text, of the rest the
// resource, unless the action's name has it already.
func object(a *schemas.Action) string {
	for _, attr := range a.Attributes {
		if a.Class == schemas.ClassCommand && attr.Name == "statement" {
			return attr.Value
		}
	}
	if strings.HasSuffix(a.Event.Action, " "+a.Resource) {
		return ""
	}
	return a.Resource
}

// via is the credential where the line above is a call and not the key.
func (t *tree) via(a *schemas.Action) schemas.Key {
	if t.above(a) == nil || len(a.Hops) == 0 {
		return schemas.Key{}
	}
	return a.FirstKey(schemas.KindToken)
}

// authorityName is the last part of the role or account in whose name it ran.
func authorityName(a *schemas.Action) string {
	return a.Authority[strings.LastIndexAny(a.Authority, "/")+1:]
}

// placeOf writes where a record lies.
func placeOf(e schemas.Evidence) string {
	return fmt.Sprintf("%s/%d@%d", e.Topic, e.Partition, e.Offset)
}

func clock(nanos int64) string { return time.Unix(0, nanos).UTC().Format("15:04:05.000") }

func day(nanos int64) string { return time.Unix(0, nanos).UTC().Format("2006-01-02") }

func shortID(id schemas.ID) string { return id.String()[:8] }
