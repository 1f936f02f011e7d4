package ingest

import (
	"strconv"
	"time"
	"unicode/utf8"

	"catena/schemas"
	"catena/schemas/sources"
)

// Envelopes and topics know things that the record inside does not say: the pod
// whose output it is, the log group, the audit device. A source reads them by
// paths that begin with $envelope. They have slots like any path, which are
// filled from here and never by a walk.

// maxKnown is room for all of [sources.EnvelopeMembers].
const maxKnown = 24

// known holds what is known of the record at hand, by the position of the
// member; empty texts are unknown.
type known [maxKnown]string

// set sets a member, whose name stands in this package: a test reads them all.
func (k *known) set(name, text string) { k[knownMember(name)] = text }

func knownMember(name string) int {
	for i, n := range sources.EnvelopeMembers() {
		if n == name {
			return i
		}
	}
	panic("ingest: there is no $envelope." + name)
}

// knownSlot is where a program reads a member of $envelope.
type knownSlot struct {
	slot   int32
	which  int
	header string                  // of the Kafka record; empty for a member
	made   func(d *Decoder) string // of what is made for each record
	stamp  bool                    // it is the record's timestamp, which is written out when it is asked for
}

func newKnownSlot(slot int32, member, header string) knownSlot {
	if header != "" {
		return knownSlot{slot: slot, header: header}
	}
	k := knownSlot{slot: slot, which: knownMember(member)}
	switch member {
	case "position":
		k.made = (*Decoder).position
	case "timestamp":
		k.stamp = true
	}
	return k
}

// fillKnown fills the slots of $envelope in the program that has just walked.
func (d *Decoder) fillKnown(p *program) {
	for i := range p.trie.known {
		k := &p.trie.known[i]
		s := d.known[k.which]
		switch {
		case k.header != "":
			s = d.header(k.header)
		case k.made != nil:
			s = k.made(d)
		case k.stamp && d.evidence.TimestampNanos != 0:
			d.eval.fill(k.slot, "later", kindStamp, true)
			continue
		}
		if s != "" {
			d.eval.fill(k.slot, s, kindString, false)
		} else {
			d.eval.empty(k.slot)
		}
	}
}

// position is where the item at hand lies: an id for records that have none.
func (d *Decoder) position() string {
	arena := d.eval.arena
	start := len(arena.buf)
	arena.buf = append(append(arena.buf, d.evidence.Topic...), '/')
	arena.buf = append(strconv.AppendInt(arena.buf, int64(d.evidence.Partition), 10), '/')
	arena.buf = append(strconv.AppendInt(arena.buf, d.evidence.Offset, 10), '/')
	arena.buf = strconv.AppendInt(arena.buf, int64(d.index), 10)
	return arena.since(start)
}

// stamp is when Kafka got the record: the time of records that tell none.
func (e *evaluator) stamp() string {
	start := len(e.arena.buf)
	e.arena.buf = time.Unix(0, e.timestampNanos).UTC().AppendFormat(e.arena.buf, time.RFC3339Nano)
	return e.arena.since(start)
}

// header is the first header of a name.
func (d *Decoder) header(name string) string {
	for _, h := range d.record.Headers {
		if h.Key == name && utf8.Valid(h.Value) {
			return text(h.Value)
		}
	}
	return ""
}

// naming gives a name to what stands at a path. Of several paths of one name
// the first that has a value counts.
type naming struct{ name, path string }

// reader reads some members of a document with a small program of its own,
// where the program of a source has no use for them.
type reader struct {
	program *program
	names   []string
	slots   []int32
}

func newReader(list []naming) *reader {
	if len(list) == 0 {
		return nil
	}
	r := &reader{program: &program{trie: newTrie(), atoms: newAtoms()}}
	for _, n := range list {
		r.names = append(r.names, n.name)
		r.slots = append(r.slots, r.program.trie.slot(pathOf(n.path)))
	}
	return r
}

// read calls f with each name that has a value in the document at a position of
// the walker's text; false, with the walker's fault set, if the document
// contradicts itself. Values need not be UTF-8.
func (d *Decoder) read(r *reader, start int, f func(name, text string)) bool {
	if d.eval.walkOver(r.program.trie, start) < 0 {
		return false
	}
	last := ""
	for i, name := range r.names {
		if text, ok := d.eval.present(r.slots[i]); ok && name != last && !notTold(text) {
			last = name
			f(name, text)
		}
	}
	return true
}

// learn adds what an envelope knows to what is known from further out, which it
// replaces: the inner envelope is nearer.
func (d *Decoder) learn(r *reader, start int) bool {
	return r == nil || d.read(r, start, func(name, text string) {
		if utf8.ValidString(text) {
			d.known.set(name, text)
		}
	})
}

// learnHeaders learns from the headers of a Kafka record, as CloudEvents uses
// them in binary mode (Kafka protocol binding 1.0.2, section 3.2).
func (d *Decoder) learnHeaders(list []schemas.Header) {
	for _, h := range list {
		name, ok := map[string]string{"ce_source": "source", "ce_type": "type", "ce_id": "id", "ce_time": "time", "ce_subject": "resource"}[h.Key]
		if ok && utf8.Valid(h.Value) {
			d.headers = true
			d.known.set(name, text(h.Value))
		}
	}
}
