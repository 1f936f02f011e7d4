package main

import (
	"bytes"
	"testing"
	"time"

	"catena/schemas"
)

// TestShift: a story played again, at another time and with other ids, gives
// the same attributions beside the first, and keeps apart from it.
func TestShift(t *testing.T) {
	records := storyRecords(t, func(string) bool { return true })
	grades := func(records []schemas.Record) map[string]int {
		rows, _ := stitchAll(t, records, 500)
		n := map[string]int{}
		for _, a := range rows {
			n[a.Source+" "+a.Event.Action+" "+a.Grade.String()+" "+a.Flags.String()]++
		}
		return n
	}
	once := grades(records)
	both := append([]schemas.Record(nil), records...)
	s := newShift(time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC), 3)
	for _, r := range records {
		r.Value = s.apply(bytes.Clone(r.Value))
		both = append(both, r)
	}
	twice := grades(both)
	for what, n := range once {
		if twice[what] != 2*n {
			t.Errorf("%s: %d rows once, %d twice", what, n, twice[what])
		}
	}
	if len(twice) != len(once) {
		t.Errorf("%d kinds of rows once, %d twice", len(once), len(twice))
	}
}
