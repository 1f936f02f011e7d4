package clickhouse

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"catena/schemas"
	"catena/sinks"
	"catena/sinks/sinktest"
)

// accounts is a made-up partition in which everything is accounted for: each
// offset in one of the ways there are, over several blocks.
func accounts(n int64) *sinks.Batch {
	b := &sinks.Batch{}
	rng := rand.New(rand.NewPCG(1, 2))
	at := func(o int64, index int32) schemas.Evidence {
		return schemas.Evidence{Topic: "t", Partition: 3, Offset: o, RecordIndex: index}
	}
	act := func(e schemas.Evidence) {
		b.Actions = append(b.Actions, &schemas.Action{Event: schemas.Event{ID: schemas.MakeID("prove", fmt.Sprint(e.Offset, e.RecordIndex)), TimeNanos: 1_772_000_000_000_000_000 + e.Offset, Evidence: e}})
	}
	for o := int64(0); o < n; {
		switch rng.IntN(6) {
		case 0, 1:
			act(at(o, 0))
			o++
		case 2:
			b.DeadLetters = append(b.DeadLetters, schemas.DeadLetter{Evidence: at(o, 0)})
			o++
		case 3: // several items, each in its own way
			items := int32(2 + rng.IntN(5))
			b.ItemCounts = append(b.ItemCounts, schemas.ItemCount{Topic: "t", Partition: 3, Offset: o, Items: items})
			for i := range items {
				if i%2 == 0 {
					act(at(o, i))
				} else {
					b.Skips = append(b.Skips, schemas.Skip{Topic: "t", Partition: 3, Offset: o, RecordIndex: i, Name: "plain_span", Event: schemas.MakeID("span", fmt.Sprint(o, i))})
				}
			}
			o++
		case 4:
			until := min(o+1+rng.Int64N(40), n, (o/blockSize+1)*blockSize)
			b.Skips = append(b.Skips, schemas.Skip{Topic: "t", Partition: 3, Offset: o, Until: until, Name: "plain_log"})
			o = until
		case 5:
			b.Skips = append(b.Skips, schemas.Skip{Topic: "t", Partition: 3, Offset: o, Name: schemas.SkipDuplicate, Event: schemas.MakeID("prove", "elsewhere", fmt.Sprint(o))})
			o++
		}
	}
	return b
}

func prove(t *testing.T, s *Store, from, to int64) Account {
	t.Helper()
	got, err := s.Prove(t.Context(), []Range{{"t", 3, from, to}, {"other", 0, 0, 0}})
	if err != nil {
		t.Fatal(err)
	}
	if !got[0].Balanced() || !got[1].Balanced() {
		t.Errorf("not balanced: %+v", got)
	}
	return got[0]
}

func clean(t *testing.T, a Account) {
	t.Helper()
	if a.Missing+a.Twice+a.Conflict+a.Surplus != 0 || len(a.Faults) > 0 {
		t.Errorf("faults where there are none: %+v", a)
	}
}

const proved = blockSize + 1000

func TestProveFindsNothingWhereAllIsThere(t *testing.T) {
	s := migrated(t)
	b := accounts(proved)
	write(t, s, b)
	items := int64(len(b.Actions) + len(b.DeadLetters))
	skips := map[string]int64{}
	for _, k := range b.Skips {
		n := max(k.Until, k.Offset+1) - k.Offset
		skips[k.Name] += n
		items += n
	}
	a := prove(t, s, 0, proved)
	clean(t, a)
	if a.In != items || a.Actions != int64(len(b.Actions)) || a.DeadLetters != int64(len(b.DeadLetters)) || !maps.Equal(a.Skips, skips) || a.Again != 0 {
		t.Errorf("in %d, want %d; %+v; skips want %v", a.In, items, a, skips)
	}
	clean(t, prove(t, s, 777, blockSize+5)) // runs at the edges are cut
	write(t, s, b)                          // a replay lands on the same rows
	clean(t, prove(t, s, 0, proved))
	// a replay that begins in the middle cuts its runs elsewhere
	var shifted []schemas.Skip
	for _, k := range b.Skips {
		if k.Until > k.Offset+2 {
			k.Offset++
			shifted = append(shifted, k)
		}
	}
	write(t, s, &sinks.Batch{Skips: shifted[:20]})
	again := prove(t, s, 0, proved)
	clean(t, again)
	if again.In != a.In || !maps.Equal(again.Skips, a.Skips) {
		t.Errorf("overlapping runs count twice: %+v, want %+v", again, a)
	}
}

// TestProveFindsEachFault plants one fault at a time.
func TestProveFindsEachFault(t *testing.T) {
	whole := accounts(proved)
	first := func(ok func(*schemas.Action) bool) int {
		return slices.IndexFunc(whole.Actions, func(a *schemas.Action) bool { return a.Evidence.Offset > blockSize && ok(a) })
	}
	single := first(func(a *schemas.Action) bool {
		return a.Evidence.RecordIndex == 0 && !slices.ContainsFunc(whole.ItemCounts, func(c schemas.ItemCount) bool { return c.Offset == a.Evidence.Offset })
	})
	item := first(func(a *schemas.Action) bool { return a.Evidence.RecordIndex == 2 })
	o := whole.Actions[single].Evidence.Offset
	for _, test := range []struct {
		name  string
		plant func(*sinks.Batch)
		want  Fault
	}{
		{"a row is gone", func(b *sinks.Batch) { b.Actions = slices.Delete(b.Actions, single, single+1) }, Fault{FaultMissing, o, o + 1, 1}},
		{"one item is gone", func(b *sinks.Batch) { b.Actions = slices.Delete(b.Actions, item, item+1) },
			Fault{FaultMissing, whole.Actions[item].Evidence.Offset, whole.Actions[item].Evidence.Offset + 1, 1}},
		{"one is gone and another is double", func(b *sinks.Batch) {
			moved := *b.Actions[single]
			moved.Evidence = b.Actions[single+1].Evidence
			b.Actions[single] = &moved
		}, Fault{FaultMissing, o, o + 1, 1}},
		{"two events at one place", func(b *sinks.Batch) {
			other := *b.Actions[single]
			other.ID = schemas.MakeID("another")
			b.Actions = append(b.Actions, &other)
		}, Fault{FaultTwice, o, o + 1, 1}},
		{"row and duplicate at one place", func(b *sinks.Batch) {
			b.Skips = append(b.Skips, schemas.Skip{Topic: "t", Partition: 3, Offset: o, Name: schemas.SkipDuplicate, Event: b.Actions[single].ID})
		}, Fault{FaultConflict, o, o + 1, 1}},
		{"an item too many", func(b *sinks.Batch) {
			other := *b.Actions[single]
			other.ID, other.Evidence.RecordIndex = schemas.MakeID("another"), 1
			b.Actions = append(b.Actions, &other)
		}, Fault{FaultSurplus, o, o + 1, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := migrated(t)
			b := *whole
			b.Actions, b.Skips = slices.Clone(whole.Actions), slices.Clone(whole.Skips)
			test.plant(&b)
			write(t, s, &b)
			if a := prove(t, s, 0, proved); !slices.Contains(a.Faults, test.want) {
				t.Errorf("%+v, want %+v", a.Faults, test.want)
			}
			if o > blockSize+5 {
				clean(t, prove(t, s, 0, blockSize))
			}
		})
	}
}

// TestProveOfHoles: offsets that nobody accounts for at all, next to long runs
// that are.
func TestProveOfHoles(t *testing.T) {
	s := migrated(t)
	const far = 1000 * blockSize
	write(t, s, &sinks.Batch{Skips: []schemas.Skip{
		{Topic: "t", Partition: 3, Offset: 0, Until: far, Name: schemas.SkipBeforeStart},
		{Topic: "t", Partition: 3, Offset: far, Until: far + 10, Name: schemas.SkipBeforeStart},
		{Topic: "t", Partition: 3, Offset: far + 20, Until: far + blockSize, Name: schemas.SkipLost},
		{Topic: "t", Partition: 3, Offset: far + 3*blockSize, Until: far + 5*blockSize, Name: schemas.SkipLost},
	}, DeadLetters: []schemas.DeadLetter{{Evidence: schemas.Evidence{Topic: "t", Partition: 3, Offset: far + 4*blockSize + 5}}}})
	a := prove(t, s, 0, far+6*blockSize)
	want := []Fault{{FaultMissing, far + 10, far + 20, 10}, {FaultMissing, far + blockSize, far + 3*blockSize, 2 * blockSize}, {FaultMissing, far + 5*blockSize, far + 6*blockSize, blockSize}}
	if !slices.Equal(a.Faults, want) || a.Missing != 10+3*blockSize || a.Again != 1 {
		t.Errorf("%+v, want %+v", a, want)
	}
	if a.Skips[schemas.SkipBeforeStart] != far+10 || a.Skips[schemas.SkipLost] != blockSize-20+2*blockSize {
		t.Errorf("skips %v", a.Skips)
	}
}

// TestReadAgain: what was a dead letter and became an action is no fault.
func TestReadAgain(t *testing.T) {
	s := migrated(t)
	b := accounts(2000)
	write(t, s, b)
	for i := range b.DeadLetters {
		e := b.DeadLetters[i].Evidence
		b.Actions = append(b.Actions, &schemas.Action{Event: schemas.Event{ID: schemas.MakeID("again", fmt.Sprint(e.Offset)), TimeNanos: 1_772_000_000_000_000_000, Evidence: e}})
	}
	write(t, s, &sinks.Batch{Actions: b.Actions})
	a := prove(t, s, 0, 2000)
	clean(t, a)
	if a.Again != int64(len(b.DeadLetters)) {
		t.Errorf("%d were read again, want %d", a.Again, len(b.DeadLetters))
	}
}

func TestProofOfRowsAndBindings(t *testing.T) {
	s := migrated(t)
	rows, bindings := sinktest.Actions(50), sinktest.Bindings(3)
	bindings[0].Proof, bindings[1].Proof = rows[0].ID, schemas.MakeID("span")
	for i := range bindings {
		bindings[i].ProofNanos = rows[0].TimeNanos + 1000
	}
	write(t, s, &sinks.Batch{Actions: rows, Bindings: bindings, Skips: []schemas.Skip{{Topic: "t", Name: "plain_span", Event: schemas.MakeID("span")}}})
	ranges := []Range{{"cloudtrail", 0, 0, 100}, {"cloudtrail", 1, 0, 100}, {"cloudtrail", 2, 0, 100}}
	check := func(what string, got []schemas.ID, err error, want ...schemas.ID) {
		t.Helper()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v; want %v", what, got, err, want)
		}
	}
	ids, err := s.Unproven(t.Context(), ranges, 10)
	check("unproven", ids, err, bindings[2].Proof)
	ids, err = s.Unproven(t.Context(), ranges[:2], 10)
	check("unproven elsewhere", ids, err)
	ids, err = s.LiveTwice(t.Context(), 10)
	check("live twice", ids, err)
	moved := *rows[7]
	moved.TimeNanos += 60_000_000_000
	write(t, s, &sinks.Batch{Actions: []*schemas.Action{&moved}})
	ids, err = s.LiveTwice(t.Context(), 10)
	check("live twice", ids, err, moved.ID)
	ids, err = s.OddChains(t.Context(), 10)
	check("odd chains", ids, err)
	at, err := s.AtPlace(t.Context(), "cloudtrail", 7, 7, 10)
	if err != nil || len(at) != 2 || at[0].Event != moved.ID || at[0].SHA256 != at[1].SHA256 {
		t.Errorf("at the place: %+v, %v", at, err)
	}
}

func TestArrived(t *testing.T) {
	s := migrated(t)
	rows := sinktest.Actions(120) // a millisecond apart, over 12 partitions
	write(t, s, &sinks.Batch{Actions: rows})
	all := []Range{{"cloudtrail", 0, 0, 120}, {"cloudtrail", 1, 0, 120}, {"elsewhere", 0, 0, 9}}
	got, err := s.Arrived(t.Context(), all, rows[24].Evidence.TimestampNanos, rows[49].Evidence.TimestampNanos)
	want := []Range{{"cloudtrail", 0, 24, 49}, {"cloudtrail", 1, 25, 38}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

func TestKept(t *testing.T) {
	s := migrated(t)
	for _, test := range []struct {
		change string
		want   time.Duration
	}{
		{"", 0},
		{"ALTER TABLE actions MODIFY TTL toDateTime(event_time) + toIntervalSecond(7200)", 2 * time.Hour},
		{"ALTER TABLE actions MODIFY TTL toDateTime(event_time) + toIntervalYear(1)", 0},
	} {
		if test.change != "" {
			if err := s.conn.Exec(t.Context(), test.change); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := s.Kept(t.Context()); err != nil || got != test.want {
			t.Errorf("after %q rows are kept for %v, %v; want %v", test.change, got, err, test.want)
		}
	}
}
