// Package sinktest holds the tests that every sink passes, and rows to test
// with.
package sinktest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"catena/schemas"
	"catena/sinks"
)

// Subject is a sink under test, empty at first.
type Subject struct {
	Sink sinks.Sink
	// Read returns the newest version of each action that the sink holds, in
	// any order.
	Read func(testing.TB) []*schemas.Action
}

// Run tests the sinks that open makes, a new one for each test.
func Run(t *testing.T, open func(*testing.T) Subject) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Subject)
	}{
		{"empty batch", emptyBatch},
		{"what is written is read", roundTrip},
		{"writing twice is writing once", twice},
		{"the newest version wins", newest},
		{"nothing of the batch is kept", kept},
		{"a cancelled write is worth a retry", cancelled},
		{"a write cut short is repeated", cutShort},
		{"close flushes", closeFlushes},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func emptyBatch(t *testing.T, s Subject) {
	write(t, s.Sink, &sinks.Batch{})
	same(t, s.Read(t), nil)
}

func roundTrip(t *testing.T, s Subject) {
	rows := append(Actions(300), Full(), Bare())
	write(t, s.Sink, &sinks.Batch{Actions: rows, Bindings: Bindings(10), DeadLetters: DeadLetters(), Skips: Skips(), ItemCounts: ItemCounts(), Progress: Progress()})
	same(t, s.Read(t), rows)
}

func twice(t *testing.T, s Subject) {
	b := &sinks.Batch{Actions: Actions(50)}
	write(t, s.Sink, b)
	write(t, s.Sink, b)
	same(t, s.Read(t), b.Actions)
}

func newest(t *testing.T, s Subject) {
	rows := Actions(20)
	newer := make([]*schemas.Action, len(rows))
	for i, a := range rows {
		n := *a
		n.Version++
		n.Grade, n.RootName = schemas.GradeAmbiguous, "somebody else"
		newer[i] = &n
	}
	write(t, s.Sink, &sinks.Batch{Actions: newer[:10]})
	write(t, s.Sink, &sinks.Batch{Actions: rows}) // stale for the first ten
	write(t, s.Sink, &sinks.Batch{Actions: newer[10:]})
	same(t, s.Read(t), newer)
}

func kept(t *testing.T, s Subject) {
	b := &sinks.Batch{Actions: Actions(5), Bindings: Bindings(2)}
	want := slices.Clone(b.Actions)
	write(t, s.Sink, b)
	if !slices.Equal(b.Actions, want) {
		t.Error("Write changed the batch")
	}
	clear(b.Actions)
	clear(b.Bindings)
	same(t, s.Read(t), want)
}

func cancelled(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.Sink.Write(ctx, &sinks.Batch{Actions: Actions(1)})
	if err == nil || sinks.IsPermanent(err) {
		t.Errorf("Write with a cancelled context: %v; want an error that is not permanent", err)
	}
}

// cutShort writes through a Writer while the sink fails in three ways: before
// the write, after half of it, and after all of it.
func cutShort(t *testing.T, s Subject) {
	rows := Actions(100)
	f := &faulty{sink: s.Sink, faults: []fault{before, half, after, none, after}}
	w := sinks.NewWriter(f, sinks.Options{MaxRows: 40, MinBackoff: time.Millisecond})
	for _, a := range rows {
		if err := w.Append(&sinks.Batch{Actions: []*schemas.Action{a}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := w.Stats().Retries; n != 4 {
		t.Errorf("%d retries, want 4", n)
	}
	same(t, s.Read(t), rows)
}

func closeFlushes(t *testing.T, s Subject) {
	rows := Actions(7)
	write(t, s.Sink, &sinks.Batch{Actions: rows})
	for range 2 {
		if err := s.Sink.Close(); err != nil {
			t.Fatal("Close:", err)
		}
	}
	same(t, s.Read(t), rows)
}

func write(t *testing.T, s sinks.Sink, b *sinks.Batch) {
	t.Helper()
	if err := s.Write(t.Context(), b); err != nil {
		t.Fatal("Write:", err)
	}
}

type fault int

const (
	none fault = iota
	before
	half
	after
)

// faulty fails as told, one fault a write.
type faulty struct {
	sink   sinks.Sink
	mu     sync.Mutex
	faults []fault
}

func (f *faulty) Write(ctx context.Context, b *sinks.Batch) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var now fault
	if len(f.faults) > 0 {
		now, f.faults = f.faults[0], f.faults[1:]
	}
	part := *b
	switch now {
	case before:
		return errors.New("sinktest: failed before the write")
	case half:
		part.Actions = part.Actions[:len(part.Actions)/2]
	}
	if err := f.sink.Write(ctx, &part); err != nil {
		return err
	}
	if now != none {
		return errors.New("sinktest: failed after a write")
	}
	return nil
}

func (f *faulty) Close() error { return f.sink.Close() }

// same compares rows by event, field by field.
func same(t testing.TB, got, want []*schemas.Action) {
	t.Helper()
	byID := map[schemas.ID]*schemas.Action{}
	for _, a := range got {
		if byID[a.ID] != nil {
			t.Errorf("event %s was read twice", a.ID)
		}
		byID[a.ID] = a
	}
	if len(got) != len(want) {
		t.Errorf("%d rows were read, want %d", len(got), len(want))
	}
	for _, w := range want {
		Same(t, byID[w.ID], w)
	}
}

// Same compares two actions field by field and names those that differ.
func Same(t testing.TB, got, want *schemas.Action) {
	t.Helper()
	if got == nil {
		t.Errorf("event %s is missing", want.ID)
		return
	}
	if reflect.DeepEqual(got, want) {
		return
	}
	var faults []string
	diff(&faults, "", reflect.ValueOf(*got), reflect.ValueOf(*want))
	t.Errorf("event %s: got and want differ in\n\t%s", want.ID, strings.Join(faults, "\n\t"))
}

func diff(faults *[]string, name string, got, want reflect.Value) {
	if got.Kind() == reflect.Struct {
		for i := range got.NumField() {
			diff(faults, name+"."+got.Type().Field(i).Name, got.Field(i), want.Field(i))
		}
		return
	}
	if !reflect.DeepEqual(got.Interface(), want.Interface()) {
		*faults = append(*faults, fmt.Sprintf("%s: %v, %v", name, got, want))
	}
}
