package ingest

import (
	"fmt"
	"slices"

	"catena/schemas"
	"catena/schemas/sources"
)

// Recognition says what one item of a record is.
type Recognition struct {
	Item      int      // its index in the record; -1 of what an envelope left out
	Envelopes []string // that were opened on the way, outermost first
	Source    string   // empty if none recognises it
	Why       string   // why not, or why it is no event; empty otherwise
	Nearest   Nearest  // if none recognises it: the source that it comes nearest to
}

// Nearest is a source most of whose match holds for an object.
type Nearest struct {
	Source string   // empty if there is none
	Wants  []string // what its match also asks for, in words
}

// Recognise says what a record holds, as [Decoder.Decode] would find it in a
// topic without a fixed format: an entry for each item.
func (d *Decoder) Recognise(value []byte) []Recognition {
	tr := &tracer{}
	d.trace = tr
	defer func() { d.trace = nil }()
	var out Decoded
	d.state = nil // not that of a topic
	d.Decode(&out, &schemas.Record{Value: value})
	for _, dead := range out.Dead {
		tr.explain(int(dead.Evidence.RecordIndex), dead)
	}
	for _, s := range out.Skips {
		if s.Source == "" {
			tr.items = append(tr.items, Recognition{Item: -1, Why: fmt.Sprintf("%d left out as %s", s.Count, s.Name)})
		}
	}
	return tr.items
}

// maxNearest bounds the items of a record for which the nearest source is
// looked for: each costs a walk of its own.
const maxNearest = 100

// tracer writes down what a decoder finds.
type tracer struct {
	chain   []string
	items   []Recognition
	nearest int
}

func (t *tracer) enter(name string) (leave func()) {
	t.chain = append(t.chain, name)
	return func() { t.chain = t.chain[:len(t.chain)-1] }
}

func (t *tracer) found(d *Decoder, p *program, doc string) {
	r := Recognition{Item: d.index, Envelopes: slices.Clone(t.chain)}
	switch {
	case p != nil:
		r.Source = p.source.Name
	case t.nearest < maxNearest:
		t.nearest++
		r.Nearest = d.nearestSource(doc)
	}
	t.items = append(t.items, r)
}

// drop takes back what was found last: it is counted among the skips.
func (t *tracer) drop() { t.items = t.items[:len(t.items)-1] }

// explain adds what a dead letter says of an item.
func (t *tracer) explain(index int, dead schemas.DeadLetter) {
	why := fmt.Sprintf("%s: %s", dead.Reason, dead.Error)
	for i := range t.items {
		if t.items[i].Item == index {
			t.items[i].Why = why
			return
		}
	}
	t.items = append(t.items, Recognition{Item: index, Why: why})
}

// clauseProgram is a program in which every clause of every source's match is
// a match of its own. It serves people who look for a mistake, and is made
// when the first of them asks.
type clauseProgram struct {
	program *program
	of      []clauseOf // of each of program.matches
}

type clauseOf struct {
	source string
	text   string
}

func (d *Decoder) newClauseProgram() *clauseProgram {
	var out clauseProgram
	var each []*sources.Source
	for _, p := range d.programs {
		for _, clause := range p.source.Match {
			one := sources.Condition{clause}
			each = append(each, &sources.Source{Name: p.source.Name, Match: one})
			out.of = append(out.of, clauseOf{p.source.Name, one.String()})
		}
	}
	var err error
	if out.program, err = compile(nil, each, nil); err != nil {
		return nil // cannot be: the same clauses were compiled before
	}
	return &out
}

// nearestSource finds the source of whose match the object fulfils the most,
// and at least half.
func (d *Decoder) nearestSource(doc string) (best Nearest) {
	if d.clauses == nil {
		if d.clauses = d.newClauseProgram(); d.clauses == nil {
			return best
		}
	}
	x := d.shared.decoder() // one that is not in the middle of a record
	x.eval.walker.open(doc)
	if x.eval.arena = new(arena); x.eval.walkOver(d.clauses.program.trie, 0) < 0 {
		return best
	}
	x.facts.learn(d.clauses.program, &x.eval)
	score := 0
	for i := 0; i < len(d.clauses.of); {
		source, held, wants := d.clauses.of[i].source, 0, []string(nil)
		for ; i < len(d.clauses.of) && d.clauses.of[i].source == source; i++ {
			if x.facts.holds(&d.clauses.program.matches.conds[i]) {
				held++
			} else {
				wants = append(wants, d.clauses.of[i].text)
			}
		}
		if s := held - len(wants); held > 0 && s >= 0 && (best.Source == "" || s > score) {
			best, score = Nearest{source, wants}, s
		}
	}
	return best
}
