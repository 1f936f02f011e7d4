package ingest

import "catena/schemas"

// Skip counts what was left out on purpose, by name.
type Skip struct {
	Name   string // such as plain_span
	Source string // which source said so; empty for envelopes
	Count  int
}

// Decoded collects what records were decoded into. Its slices are appended to;
// their memory, and that of the events' keys, bindings and attributes, is used
// again after Reset.
//
// Events are valid until Reset, and as long as their records' values are not
// changed: their strings alias the values. Dead letters and skips own their
// memory.
type Decoded struct {
	Events []schemas.Event
	Dead   []schemas.DeadLetter
	Skips  []Skip
	// Skipped are the places of the items that Skips counts, and ItemCounts the
	// records that held several items, of whatever became of them.
	Skipped    []schemas.Skip
	ItemCounts []schemas.ItemCount
	// Unclassified are the indexes of the events to which no rule gave a class:
	// of types that the source has and source.yaml does not know. They are
	// actions of class other all the same. More of them than before tell of a
	// new version of what writes the records.
	Unclassified []int
	// SecretKeys counts the values of keys that were secrets, and were replaced
	// by their keyed HMAC.
	SecretKeys int
	// Err is set when a record could not be decoded now, because the schema
	// registry is away. What is here is incomplete then, and of no use: the
	// records have to be decoded again.
	Err error

	keys       []schemas.Key
	makes      []schemas.Binding
	ends       []schemas.End
	attributes []schemas.Attribute
	arena      arena
}

// Reset empties it and keeps its capacity. Memory of the last records stays
// referenced until it is overwritten.
func (o *Decoded) Reset() {
	clear(o.Dead)
	o.Skipped, o.ItemCounts = o.Skipped[:0], o.ItemCounts[:0]
	o.Events, o.Dead, o.Skips, o.Unclassified = o.Events[:0], o.Dead[:0], o.Skips[:0], o.Unclassified[:0]
	o.keys, o.makes, o.ends, o.attributes = o.keys[:0], o.makes[:0], o.ends[:0], o.attributes[:0]
	o.SecretKeys, o.Err = 0, nil
	o.arena.reset()
}

func (o *Decoded) skip(name, source string, event schemas.ID, at *schemas.Evidence) {
	o.Skipped = append(o.Skipped, schemas.Skip{Topic: at.Topic, Partition: at.Partition, Offset: at.Offset, RecordIndex: at.RecordIndex,
		Name: name, Source: source, Event: event})
	for i := range o.Skips {
		if s := &o.Skips[i]; s.Name == name && s.Source == source {
			s.Count++
			return
		}
	}
	o.Skips = append(o.Skips, Skip{name, source, 1})
}
