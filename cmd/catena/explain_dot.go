package main

import (
	"fmt"
	"io"
	"strings"

	"catena/schemas"
)

// writeDOT draws the answer for Graphviz. Grades are told by the line of a
// node's border as well as by its colour.
func (e *explanation) writeDOT(w io.Writer) error {
	d := &dotWriter{proofs: e.proofText}
	d.line(`digraph catena {`)
	d.line(`  rankdir=LR; fontname="sans-serif"; node [fontname="sans-serif", fontsize=10, shape=box]; edge [fontname="sans-serif", fontsize=9];`)
	d.line(`  label=%s; labelloc=t;`, dotQuote(e.what))
	for _, c := range e.chains {
		d.chain(c)
	}
	for _, a := range append(e.lone, e.action) {
		if a != nil && a.ChainID.IsZero() {
			d.action("event", a.Action)
		}
	}
	for i, m := range e.matches {
		if e.choose {
			d.line(`  match%d [label=%s, style=dashed];`, i+1, dotQuote(fmt.Sprintf("%d: %s\n%s, %d actions", i+1, m.Chain, orElse(m.RootName, m.Root.ID()), m.Actions)))
		}
	}
	d.line(`}`)
	_, err := io.WriteString(w, d.b.String())
	return err
}

// proofText says where the record of a proof lies.
func (e *explanation) proofText(h schemas.Hop) string {
	for _, c := range e.chains {
		if p, ok := c.proofs[h.Proof]; ok {
			return placeOf(p.At)
		}
	}
	return ""
}

type dotWriter struct {
	b      strings.Builder
	n      int
	proofs func(schemas.Hop) string
}

func (d *dotWriter) line(format string, args ...any) { fmt.Fprintf(&d.b, format+"\n", args...) }

func (d *dotWriter) chain(c *chainStory) {
	d.line(`  subgraph %s {`, dotQuote("cluster_"+c.chain.String()))
	d.line(`    label=%s;`, dotQuote(fmt.Sprintf("chain %s, %s, %d actions, weakest %s", c.chain, day(c.first), len(c.rows), c.worst)))
	for _, n := range c.top.children {
		d.node("", n)
	}
	d.line(`  }`)
}

// node writes a node, the edge that leads to it, and what hangs below.
func (d *dotWriter) node(parent string, n *node) {
	d.n++
	id := fmt.Sprintf("n%d", d.n)
	edge := ""
	switch {
	case n.key != nil:
		h := n.key.Hop
		label := h.Key.Kind.String() + "\n" + orElse(h.Name, h.Key.ID())
		if h.Name != "" {
			label += "\n" + h.Key.ID()
		}
		style := "filled"
		if n.key.frontier {
			label, style = label+"\nfrontier: nothing says who drives it", `filled,dashed`
		}
		d.line(`    %s [label=%s, style=%s, fillcolor="#eef2f7"];`, id, dotQuote(label), dotQuote(style))
		edge = strings.TrimSpace(h.Relation.String() + "\n" + d.proofs(h))
		if h.Strength != schemas.StrengthExact && h.Relation != schemas.RelationNone {
			edge += "\n" + h.Strength.String()
		}
	case n.action != nil:
		d.action(id, n.action)
	default:
		d.line(`    %s [label=%s, style=dotted];`, id, dotQuote(fmt.Sprintf("%d more like it", n.more)))
	}
	if parent != "" {
		d.line(`    %s -> %s [label=%s];`, parent, id, dotQuote(edge))
	}
	for _, c := range n.children {
		d.node(id, c)
	}
}

func (d *dotWriter) action(id string, a *schemas.Action) {
	label := a.Event.Action
	if o := object(a); o != "" {
		label += "\n" + shorten(o, 60)
	}
	label += "\n" + clock(a.TimeNanos) + "  " + a.Grade.String()
	if a.Flags != 0 {
		label += "\n⚑ " + a.Flags.String()
	}
	looks := map[schemas.Grade][2]string{schemas.GradeProven: {"solid", "#1a7f37"}, schemas.GradeStated: {"solid", "#0969da"},
		schemas.GradeInferred: {"dashed", "#8250df"}, schemas.GradeAmbiguous: {"dotted", "#9a6700"}, schemas.GradeUnattributed: {"dotted", "#cf222e"}}[a.Grade]
	d.line(`    %s [label=%s, shape=box, style=%s, color=%s, tooltip=%s];`, id, dotQuote(label), dotQuote("rounded,"+looks[0]), dotQuote(looks[1]),
		dotQuote(a.ID.String()+" "+placeOf(a.Evidence)))
}

// dotQuote writes a text as a DOT string: what a log holds may end neither the
// string nor the line, and makes no escape sequence of Graphviz's own.
func dotQuote(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(safe(l))
	}
	return `"` + strings.Join(lines, `\n`) + `"`
}
