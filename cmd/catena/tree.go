package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"catena/schemas"
)

// A chain as a tree: the root, the keys on the way down, and under each key
// the actions performed with it; what a tool call caused stands under the call.

// branch is one line of the tree and what hangs below it.
type branch struct {
	text     string
	at       int64 // for order among siblings
	parent   *branch
	children []*branch
	like     string // equal for siblings that can be told in one line
}

// painter writes trees, in colour on a terminal. Unless all is set, it leaves
// out what repeats the line above: the protocol's spans of a tool call, the
// records of its policy decisions, model calls, and runs of like actions.
type painter struct {
	w      io.Writer
	colour bool
	all    bool
}

const (
	bold   = "\x1b[1m"
	dim    = "\x1b[2m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	blue   = "\x1b[34m"
	cyan   = "\x1b[36m"
	reset  = "\x1b[0m"
)

func (p *painter) paint(code, s string) string {
	if !p.colour || s == "" {
		return s
	}
	return code + s + reset
}

func (p *painter) grade(g schemas.Grade) string {
	code := map[schemas.Grade]string{schemas.GradeProven: green, schemas.GradeStated: cyan, schemas.GradeInferred: blue,
		schemas.GradeAmbiguous: yellow, schemas.GradeUnattributed: red}[g]
	return p.paint(code, g.String())
}

// chain prints one chain. The rows are those of one chain_id.
func (p *painter) chain(rows []*schemas.Action) {
	rows = slices.SortedFunc(slices.Values(rows), actionOrder)
	if len(rows) == 0 {
		return
	}
	t := &chainTree{p: p, calls: map[schemas.Key]*schemas.Action{}, byID: map[schemas.ID]*branch{}, keys: map[string]*branch{}}
	for _, a := range rows {
		if k := ownCall(a); !k.IsZero() {
			t.calls[k] = a
		}
	}
	t.top = &branch{}
	for _, a := range rows {
		t.byID[a.ID] = &branch{text: t.line(a), at: a.TimeNanos, like: likeness(a)}
	}
	folded := 0
	for _, a := range rows {
		if p.all || !t.folds(a) {
			t.hang(a)
		} else {
			folded++
		}
	}
	fmt.Fprintln(p.w, t.summary(rows))
	p.branches(t.top.children, "")
	if folded > 0 {
		fmt.Fprintln(p.w, p.paint(dim, fmt.Sprintf("   (%d more rows, of MCP, policy decisions and model calls, stand in the tables; explain --all draws them)", folded)))
	}
}

type chainTree struct {
	p     *painter
	top   *branch
	calls map[schemas.Key]*schemas.Action // the action of a span
	byID  map[schemas.ID]*branch
	keys  map[string]*branch // path of keys → its line
}

// ownCall is the span that an action is, if it is one.
func ownCall(a *schemas.Action) schemas.Key {
	k := a.FirstKey(schemas.KindCall)
	if k.IsZero() || a.SpanID == "" || !strings.HasSuffix(k.Value, a.SpanID) || a.Class == schemas.ClassDecision {
		return schemas.Key{}
	}
	return k
}

// folds reports whether an action is told by the line above it.
func (t *chainTree) folds(a *schemas.Action) bool {
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

func (t *chainTree) hang(a *schemas.Action) {
	b := t.byID[a.ID]
	parent := t.above(a)
	if parent == nil || parent.below(b) { // spans that call each other in a circle are drawn all the same
		parent = t.anchor(a)
	}
	b.parent = parent
	parent.children = append(parent.children, b)
}

// below reports whether a branch is b or hangs under it.
func (x *branch) below(b *branch) bool {
	for ; x != nil; x = x.parent {
		if x == b {
			return true
		}
	}
	return false
}

// above is the line of the action that drove this one: the span it runs in,
// or the tool call that caused it. Nil if neither is in the chain.
func (t *chainTree) above(a *schemas.Action) *branch {
	own := ownCall(a)
	for i := len(a.Hops) - 1; i >= 0; i-- {
		k := a.Hops[i].Key
		if k.Kind == schemas.KindCall && k != own {
			if owner := t.calls[k]; owner != nil && owner.ID != a.ID && (t.p.all || !t.folds(owner)) {
				return t.byID[owner.ID]
			}
		}
	}
	return t.byID[a.CauseID]
}

// anchor is the line of the lowest key that the action was performed with.
func (t *chainTree) anchor(a *schemas.Action) *branch {
	at, path := t.top, ""
	for i, h := range a.Hops {
		if h.Key.Kind == schemas.KindCall || h.Key.Kind == schemas.KindRequest || h.Lent {
			continue
		}
		path += "\x00" + h.Key.String()
		next := t.keys[path]
		if next == nil {
			next = &branch{text: t.key(a, i), at: cmp.Or(h.AtNanos, a.TimeNanos)}
			t.keys[path] = next
			at.children = append(at.children, next)
		}
		at = next
	}
	return at
}

// key is the line of one hop: what it is, how it is driven, and the proof.
func (t *chainTree) key(a *schemas.Action, i int) string {
	h := a.Hops[i]
	p := t.p
	name := h.Key.Kind.String() + " " + p.paint(bold, safe(h.Key.ID()))
	if i == 0 {
		name = p.paint(bold, safe(cmp.Or(h.Name, h.Key.Value))) + "  " + h.Key.Kind.String() + p.paint(dim, "  "+safe(h.Key.ID()))
		if a.Frontier == h.Key {
			name += p.paint(red, "  frontier: nothing seen says who drives it")
		}
		return name
	}
	text := name + "  " + h.Relation.String()
	if h.Strength != schemas.StrengthExact {
		text += " " + p.paint(yellow, "("+h.Strength.String()+")")
	}
	if !h.Proof.IsZero() && h.Proof != a.ID {
		text += p.paint(dim, "  proof "+shortID(h.Proof)+" "+clock(h.AtNanos))
	}
	return text
}

// line is the line of one action.
func (t *chainTree) line(a *schemas.Action) string {
	p := t.p
	parts := []string{p.paint(dim, clock(a.TimeNanos)), a.Class.String(), p.paint(bold, safe(a.Event.Action))}
	if r := object(a); r != "" {
		parts = append(parts, shorten(r, 60))
	}
	if a.Outcome != schemas.OutcomeSuccess {
		parts = append(parts, p.paint(red, a.Outcome.String()))
	}
	grade := p.grade(a.Grade)
	if a.Reason != schemas.ReasonComplete {
		grade += p.paint(dim, " ("+a.Reason.String()+")")
	}
	parts = append(parts, grade)
	if a.CauseGrade != schemas.CauseNone {
		parts = append(parts, p.paint(dim, "cause "+a.CauseGrade.String()))
	}
	parts = append(parts, t.via(a)...)
	if a.Authority != "" {
		parts = append(parts, p.paint(dim, "as "+safe(a.Authority[strings.LastIndexAny(a.Authority, "/")+1:])))
	}
	if a.PolicyDecision != schemas.VerdictNone {
		code := green
		if a.PolicyDecision == schemas.VerdictDeny {
			code = red
		}
		parts = append(parts, p.paint(code, "policy "+a.PolicyDecision.String()))
	}
	if a.GrantID != "" {
		parts = append(parts, p.paint(green, "grant "+shorten(a.GrantID, 13)))
	}
	for _, f := range a.Flags.Words() {
		parts = append(parts, p.paint(red, "⚑ "+f))
	}
	parts = append(parts, p.paint(dim, fmt.Sprintf("%s/%d@%d", a.Evidence.Topic, a.Evidence.Partition, a.Evidence.Offset)))
	return strings.Join(parts, "  ")
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

// via names the credential where the line above is a call, not the key.
func (t *chainTree) via(a *schemas.Action) []string {
	if t.above(a) == nil || len(a.Hops) == 0 {
		return nil
	}
	if k := a.FirstKey(schemas.KindToken); !k.IsZero() {
		return []string{t.p.paint(dim, "with "+safe(k.ID()))}
	}
	return nil
}

// summary is the heading of a chain.
func (t *chainTree) summary(rows []*schemas.Action) string {
	worst, flags, mfa, method := schemas.GradeProven, schemas.Flags(0), schemas.MFAUnknown, ""
	for _, a := range rows {
		worst = min(worst, a.Grade)
		flags |= a.Flags
		if a.MFA > mfa {
			mfa, method = a.MFA, a.AuthMethod
		}
	}
	first, last := rows[0].TimeNanos, rows[len(rows)-1].TimeNanos
	s := fmt.Sprintf("chain %s  %s  %d actions in %s, weakest %s", t.p.paint(bold, rows[0].ChainID.String()),
		time.Unix(0, first).UTC().Format("2006-01-02"), len(rows), time.Duration(last-first).Round(time.Second), t.p.grade(worst))
	if mfa != schemas.MFAUnknown {
		s += "  mfa " + mfa.String()
		if method != "" {
			s += " (" + method + ")"
		}
	}
	if flags != 0 {
		s += "  " + t.p.paint(red, "⚑ "+flags.String())
	}
	return s
}

func (p *painter) branches(list []*branch, indent string) {
	slices.SortStableFunc(list, func(a, b *branch) int { return cmp.Compare(a.at, b.at) })
	if !p.all {
		list = fold(list)
	}
	for i, b := range list {
		tee, pipe := "├─ ", "│  "
		if i == len(list)-1 {
			tee, pipe = "└─ ", "   "
		}
		fmt.Fprintln(p.w, indent+p.paint(dim, tee)+b.text)
		p.branches(b.children, indent+p.paint(dim, pipe))
	}
}

// fold tells runs of four or more like siblings in two lines.
func fold(list []*branch) []*branch {
	var out []*branch
	for i := 0; i < len(list); {
		j := i + 1
		for j < len(list) && list[i].like != "" && list[j].like == list[i].like && len(list[i].children)+len(list[j].children) == 0 {
			j++
		}
		out = append(out, list[i])
		if n := j - i; n >= 4 {
			out = append(out, &branch{text: fmt.Sprintf("… and %d more like it until %s", n-1, clock(list[j-1].at)), at: list[j-1].at})
		} else {
			out = append(out, list[i+1:j]...)
		}
		i = j
	}
	return out
}

func clock(nanos int64) string { return time.Unix(0, nanos).UTC().Format("15:04:05.000") }

func shortID(id schemas.ID) string { return id.String()[:8] }

// safe makes a text from a log fit to print: a record must not be able to
// move the cursor or recolour what a person reads.
func safe(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '·'
	}, s)
}

// shorten brings a text onto one line of at most n characters.
func shorten(s string, n int) string {
	s = safe(strings.Join(strings.Fields(s), " "))
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
