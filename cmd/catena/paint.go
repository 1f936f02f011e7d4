package main

import (
	"fmt"
	"io"
	"strings"
	"unicode"

	"catena/schemas"
	"catena/sinks/clickhouse"
)

// painter writes trees, in colour on a terminal.
type painter struct {
	w      io.Writer
	colour bool
	all    bool                            // every row
	proofs map[schemas.ID]clickhouse.Proof // where the records of steps lie
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
	if len(rows) == 0 {
		return
	}
	p.tree(newTree(rows, p.all))
}

func (p *painter) tree(t *tree) {
	fmt.Fprintln(p.w, p.summary(t))
	p.nodes(t, t.top.children, "")
	if t.folded > 0 {
		fmt.Fprintln(p.w, p.paint(dim, fmt.Sprintf("   (%d more rows, of MCP, policy decisions and model calls, stand in the tables; explain --all draws them)", t.folded)))
	}
}

// summary is the heading of a chain.
func (p *painter) summary(t *tree) string {
	s := fmt.Sprintf("chain %s  %s  %s in %s, weakest %s", p.paint(bold, t.chain.String()), day(t.first), count(len(t.rows), "action"), t.span(), p.grade(t.worst))
	if t.mfa != schemas.MFAUnknown {
		s += "  mfa " + t.mfa.String()
		if t.method != "" {
			s += " (" + safe(t.method) + ")"
		}
	}
	if t.flags != 0 {
		s += "  " + p.paint(red, "⚑ "+t.flags.String())
	}
	return s
}

func (p *painter) nodes(t *tree, list []*node, indent string) {
	for i, n := range list {
		tee, pipe := "├─ ", "│  "
		if i == len(list)-1 {
			tee, pipe = "└─ ", "   "
		}
		fmt.Fprintln(p.w, indent+p.paint(dim, tee)+p.node(t, n))
		p.nodes(t, n.children, indent+p.paint(dim, pipe))
	}
}

func (p *painter) node(t *tree, n *node) string {
	switch {
	case n.key != nil:
		return p.key(n)
	case n.action != nil:
		return p.line(t, n.action)
	default:
		return fmt.Sprintf("… and %d more like it until %s", n.more, clock(n.until))
	}
}

// key is the line of one hop: what it is, how it is driven, and the proof.
func (p *painter) key(n *node) string {
	h := n.key.Hop
	name := h.Key.Kind.String() + " " + p.paint(bold, safe(h.Key.ID()))
	if n.parent.key == nil { // the root
		name = p.paint(bold, safe(orElse(h.Name, h.Key.Value))) + "  " + h.Key.Kind.String() + p.paint(dim, "  "+safe(h.Key.ID()))
		if n.key.frontier {
			name += p.paint(red, "  frontier: nothing seen says who drives it")
		}
		return name
	}
	text := name + "  " + h.Relation.String()
	if h.Strength != schemas.StrengthExact {
		text += " " + p.paint(yellow, "("+h.Strength.String()+")")
	}
	return text + p.paint(dim, p.proof(h))
}

// proof says which record shows a step, and where that lies.
func (p *painter) proof(h schemas.Hop) string {
	if h.Proof.IsZero() {
		return ""
	}
	text := "  proof " + shortID(h.Proof) + " " + clock(h.AtNanos)
	if found, ok := p.proofs[h.Proof]; ok {
		text += " " + safe(placeOf(found.At))
	}
	return text
}

// line is the line of one action.
func (p *painter) line(t *tree, a *schemas.Action) string {
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
	if k := t.via(a); !k.IsZero() {
		parts = append(parts, p.paint(dim, "with "+safe(k.ID())))
	}
	if a.Authority != "" {
		parts = append(parts, p.paint(dim, "as "+safe(authorityName(a))))
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
	parts = append(parts, p.paint(dim, safe(placeOf(a.Evidence))))
	return strings.Join(parts, "  ")
}

// action prints one action with the proof of each step.
func (p *painter) action(a *schemas.Action) {
	what := p.paint(bold, safe(a.Event.Action))
	if a.Resource != "" {
		what += "  " + shorten(a.Resource, 120)
	}
	fmt.Fprintf(p.w, "%s %s  %s  %s  %s\n", day(a.TimeNanos), clock(a.TimeNanos), a.Class, what, a.Outcome)
	fmt.Fprintf(p.w, "%s: %s\n", p.grade(a.Grade), safe(reasonText(a)))
	if a.Flags != 0 {
		fmt.Fprintln(p.w, p.paint(red, "⚑ "+a.Flags.String()))
	}
	for i, h := range a.Hops {
		indent := strings.Repeat("   ", i)
		if i == 0 {
			fmt.Fprintln(p.w, strings.TrimSpace(h.Key.Kind.String()+" "+p.paint(bold, safe(h.Key.ID()))+"  "+safe(h.Name)))
			continue
		}
		fmt.Fprintf(p.w, "%s└─ %s %s  %s, %s", indent[3:], h.Key.Kind, p.paint(bold, safe(h.Key.ID())), h.Relation, h.Strength)
		if h.Lent {
			fmt.Fprint(p.w, ", lends mfa and method only")
		}
		text := p.proof(h)
		if h.Proof == a.ID {
			text += " (this very record)"
		}
		fmt.Fprintln(p.w, p.paint(dim, text))
	}
	for _, c := range a.Candidates {
		fmt.Fprintf(p.w, "   candidate %s, which leads to %s%s\n", safe(c.Parent.String()), orElse(safe(c.Root.String()), "nobody known"),
			p.paint(dim, p.candidateProof(c)))
	}
	e := a.Evidence
	fmt.Fprintln(p.w, p.paint(dim, fmt.Sprintf("event %s  record %s item %d  sha256 %x", a.ID, safe(placeOf(e)), e.RecordIndex, e.RawSHA256)))
}

func (p *painter) candidateProof(c schemas.Candidate) string {
	if found, ok := p.proofs[c.Proof]; ok {
		return "  proof " + shortID(c.Proof) + " " + safe(placeOf(found.At))
	}
	return ""
}

// count writes a number with its noun.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprint(n, " ", noun)
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

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
