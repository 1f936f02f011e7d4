package ingest

import (
	"fmt"
	"slices"

	"catena/schemas"
)

// Recognition says what one item of a record is.
type Recognition struct {
	Envelopes []string // that were opened on the way, outermost first
	Source    string   // empty if none recognises it
	Why       string   // why not, or why it is no event; empty otherwise
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
			tr.items = append(tr.items, traced{index: -1, Recognition: Recognition{Why: fmt.Sprintf("%d left out as %s", s.Count, s.Name)}})
		}
	}
	list := make([]Recognition, len(tr.items))
	for i := range tr.items {
		list[i] = tr.items[i].Recognition
	}
	return list
}

// tracer writes down what a decoder finds.
type tracer struct {
	chain []string
	items []traced
}

type traced struct {
	index int
	Recognition
}

func (t *tracer) enter(name string) (leave func()) {
	t.chain = append(t.chain, name)
	return func() { t.chain = t.chain[:len(t.chain)-1] }
}

func (t *tracer) found(d *Decoder, p *program, _ string) {
	r := Recognition{Envelopes: slices.Clone(t.chain)}
	if p != nil {
		r.Source = p.source.Name
	}
	t.items = append(t.items, traced{d.index, r})
}

// explain adds what a dead letter says of an item.
func (t *tracer) explain(index int, dead schemas.DeadLetter) {
	why := fmt.Sprintf("%s: %s", dead.Reason, dead.Error)
	for i := range t.items {
		if t.items[i].index == index {
			t.items[i].Why = why
			return
		}
	}
	t.items = append(t.items, traced{index, Recognition{Why: why}})
}
