package main

import (
	"strings"

	"catena/correlate"
	"catena/ingest"
	"catena/schemas"
	"catena/sinks"
)

// ledger accounts for every offset: what is no action and no dead letter is a
// named skip, written in the batch whose progress passes it. `catena verify`
// holds the tables against it.
//
// Skips are the same whenever the same records are read, so that a replay
// lands on the same rows, but for the runs, which begin and end with a batch:
// those of a replay may overlap those of before, and count once. The zero
// ledger is ready for use.
type ledger struct {
	begun map[ingest.Partition]bool // something of it is accounted for already
	gaps  []schemas.Skip            // of the poll under way
	names map[string]string         // of skips, which may alias records
}

// ledgerBlock cuts runs, so that each lies in one block of offsets or spans
// whole ones: the proof goes block by block.
const ledgerBlock = 1 << 16

// known says of which partitions the tables have something.
func (l *ledger) known(progress []schemas.Progress) {
	if l.begun == nil {
		l.begun = map[ingest.Partition]bool{}
	}
	for i := range progress {
		l.begun[ingest.Partition{Topic: progress[i].Topic, Partition: progress[i].Partition}] = true
	}
}

// gap notes offsets that no record comes for, to be accounted for with the
// records behind them.
func (l *ledger) gap(part ingest.Partition, from, next int64, name string) {
	l.gaps = appendRun(l.gaps, schemas.Skip{Topic: part.Topic, Partition: part.Partition, Offset: from, Until: next, Name: name})
}

// account adds to the batch what no record came for, and returns up to where
// each partition has come.
func (l *ledger) account(records []schemas.Record, batch *sinks.Batch) map[ingest.Partition]int64 {
	l.known(nil)
	next := map[ingest.Partition]int64{}
	started := map[ingest.Partition]int64{}
	pass := func(topic string, index int32, from, until int64) {
		part := ingest.Partition{Topic: topic, Partition: index}
		next[part] = max(next[part], until)
		if at, ok := started[part]; ok {
			started[part] = min(at, from)
		} else if !l.begun[part] {
			l.begun[part], started[part] = true, from
		}
	}
	for i := range l.gaps {
		pass(l.gaps[i].Topic, l.gaps[i].Partition, l.gaps[i].Offset, l.gaps[i].Until)
	}
	for i := range records {
		pass(records[i].Topic, records[i].Partition, records[i].Offset, records[i].Offset+1)
	}
	for part, from := range started {
		l.gap(part, 0, from, schemas.SkipBeforeStart)
	}
	batch.Skips = append(batch.Skips, l.gaps...)
	l.gaps = l.gaps[:0]
	return next
}

// decoded adds what the decoder left out. Neighbours that were left out as a
// whole, for one reason, become one run.
func (l *ledger) decoded(out *ingest.Decoded, batch *sinks.Batch) {
	several := map[place]bool{}
	for i := range out.ItemCounts {
		c := &out.ItemCounts[i]
		several[place{c.Topic, c.Partition, c.Offset}] = true
	}
	first := len(batch.Skips)
	for i := range out.Skipped {
		s := out.Skipped[i]
		s.Name, s.Source, s.Until = l.name(s.Name), l.name(s.Source), s.Offset+1
		whole := s.Event == schemas.ID{} && !several[place{s.Topic, s.Partition, s.Offset}]
		if n := len(batch.Skips); whole && n > first && extends(&batch.Skips[n-1], &s) {
			batch.Skips[n-1].Until = s.Until
			continue
		}
		batch.Skips = append(batch.Skips, s)
	}
	batch.ItemCounts = append(batch.ItemCounts, out.ItemCounts...)
}

// name keeps one copy of each name.
func (l *ledger) name(s string) string {
	kept, ok := l.names[s]
	if !ok {
		if l.names == nil {
			l.names = map[string]string{}
		}
		kept = strings.Clone(s)
		l.names[kept] = kept
	}
	return kept
}

// duplicates adds the places of events whose row names another place.
func (l *ledger) duplicates(all []correlate.Duplicate, batch *sinks.Batch) {
	for i := range all {
		at := &all[i].At
		batch.Skips = append(batch.Skips, schemas.Skip{Topic: at.Topic, Partition: at.Partition, Offset: at.Offset, RecordIndex: at.RecordIndex,
			Until: at.Offset + 1, Name: schemas.SkipDuplicate, Event: all[i].Event})
	}
}

// place is where a record lies.
type place struct {
	topic     string
	partition int32
	offset    int64
}

// extends reports whether a single skip continues a run within its block.
func extends(run, s *schemas.Skip) bool {
	return run.Until == s.Offset && s.Offset%ledgerBlock != 0 && run.Partition == s.Partition && run.Topic == s.Topic &&
		run.Name == s.Name && run.Source == s.Source && run.Event == schemas.ID{} && run.RecordIndex == 0
}

// appendRun appends a run of offsets, cut so that no piece lies in two blocks
// unless it is whole ones.
func appendRun(dst []schemas.Skip, run schemas.Skip) []schemas.Skip {
	whole := (run.Offset + ledgerBlock - 1) / ledgerBlock * ledgerBlock // first block boundary
	end := run.Until / ledgerBlock * ledgerBlock                        // last one
	for _, cut := range []int64{min(whole, run.Until), max(end, min(whole, run.Until)), run.Until} {
		if cut > run.Offset {
			piece := run
			piece.Until = cut
			dst = append(dst, piece)
			run.Offset = cut
		}
	}
	return dst
}
