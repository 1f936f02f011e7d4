package main

import (
	"slices"
	"testing"

	"catena/ingest"
	"catena/schemas"
	"catena/sinks"
)

// TestRunsAreCutAtBlocks: each piece lies in one block or spans whole ones, and
// together they are the run.
func TestRunsAreCutAtBlocks(t *testing.T) {
	const b = ledgerBlock
	for _, run := range [][2]int64{{0, 1}, {5, 5}, {5, 9}, {0, b}, {5, b}, {b - 1, b + 1}, {5, b + 7}, {5, 9*b + 7}, {2 * b, 5 * b}, {b + 1, 2*b - 1}} {
		next := run[0]
		for _, p := range appendRun(nil, schemas.Skip{Offset: run[0], Until: run[1]}) {
			inOne, whole := p.Offset/b == (p.Until-1)/b, p.Offset%b == 0 && p.Until%b == 0
			if p.Offset != next || p.Until <= p.Offset || !inOne && !whole {
				t.Errorf("run %v: piece %d to %d", run, p.Offset, p.Until)
			}
			next = p.Until
		}
		if next != run[1] {
			t.Errorf("run %v: the pieces end at %d", run, next)
		}
	}
}

func TestLedgerAccounts(t *testing.T) {
	var l ledger
	old, fresh := ingest.Partition{Topic: "t", Partition: 0}, ingest.Partition{Topic: "t", Partition: 1}
	l.known([]schemas.Progress{{Topic: "t", Partition: 0, Offset: 3}})
	l.gap(old, 3, 5, schemas.SkipAbsent)
	l.gap(fresh, 8, 9, schemas.SkipAbsent)
	var batch sinks.Batch
	next := l.account([]schemas.Record{{Topic: "t", Partition: 0, Offset: 5}, {Topic: "t", Partition: 1, Offset: 9}}, &batch)
	if next[old] != 6 || next[fresh] != 10 {
		t.Errorf("progress %v", next)
	}
	want := []schemas.Skip{
		{Topic: "t", Partition: 0, Offset: 3, Until: 5, Name: schemas.SkipAbsent},
		{Topic: "t", Partition: 1, Offset: 8, Until: 9, Name: schemas.SkipAbsent},
		{Topic: "t", Partition: 1, Offset: 0, Until: 8, Name: schemas.SkipBeforeStart},
	}
	if !slices.Equal(batch.Skips, want) {
		t.Errorf("skips\n%+v, want\n%+v", batch.Skips, want)
	}
	if next = l.account(nil, &batch); len(next) != 0 || len(batch.Skips) != 3 {
		t.Error("the gaps were told twice")
	}
}

// TestLedgerMakesRuns of neighbours that were left out as a whole, and of
// nothing else.
func TestLedgerMakesRuns(t *testing.T) {
	skip := func(offset int64, index int32, name string) schemas.Skip {
		return schemas.Skip{Topic: "t", Offset: offset, RecordIndex: index, Name: name}
	}
	event := skip(13, 0, "plain_log")
	event.Event = schemas.MakeID("x")
	var l ledger
	var batch sinks.Batch
	l.decoded(&ingest.Decoded{Skipped: []schemas.Skip{
		skip(4, 0, "plain_log"), skip(5, 0, "plain_log"), skip(6, 0, "plain_log"), skip(8, 0, "plain_log"), skip(9, 0, "metrics"),
		skip(10, 0, "metrics"), skip(10, 2, "metrics"), skip(11, 0, "metrics"), skip(12, 0, "plain_log"), event, skip(14, 0, "plain_log"),
		skip(ledgerBlock-1, 0, "plain_log"), skip(ledgerBlock, 0, "plain_log"),
	}, ItemCounts: []schemas.ItemCount{{Topic: "t", Offset: 10, Items: 3}}}, &batch)
	var got [][2]int64
	for _, s := range batch.Skips {
		got = append(got, [2]int64{s.Offset, s.Until})
	}
	want := [][2]int64{{4, 7}, {8, 9}, {9, 10}, {10, 11}, {10, 11}, {11, 12}, {12, 13}, {13, 14}, {14, 15}, {ledgerBlock - 1, ledgerBlock}, {ledgerBlock, ledgerBlock + 1}}
	if !slices.Equal(got, want) || len(batch.ItemCounts) != 1 {
		t.Errorf("runs %v, want %v", got, want)
	}
}
