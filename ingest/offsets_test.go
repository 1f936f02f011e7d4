package ingest

import (
	"math/rand/v2"
	"reflect"
	"testing"
)

func TestTracker(t *testing.T) {
	a0, a1 := Partition{"a", 0}, Partition{"a", 1}
	add := func(t *testing.T, tr *Tracker, p Partition, offsets ...int64) {
		t.Helper()
		for _, o := range offsets {
			if !tr.Add(p.Topic, p.Partition, o) {
				t.Fatalf("Add(%v, %d) = false, want true", p, o)
			}
		}
	}
	wantPoints := func(t *testing.T, tr *Tracker, want ...Offset) {
		t.Helper()
		if got := tr.Points(nil); !reflect.DeepEqual(got, want) {
			t.Errorf("Points() = %v, want %v", got, want)
		}
	}

	t.Run("in order", func(t *testing.T) {
		var tr Tracker
		tr.Assign([]Partition{a0, a1})
		wantPoints(t, &tr)
		add(t, &tr, a0, 5, 6)
		add(t, &tr, a1, 0)
		b1 := tr.Seal()
		add(t, &tr, a0, 7)
		wantPoints(t, &tr) // nothing is durable yet
		tr.Done(b1)
		wantPoints(t, &tr, Offset{"a", 0, 7}, Offset{"a", 1, 1})
		tr.Done(tr.Seal())
		wantPoints(t, &tr, Offset{"a", 0, 8}, Offset{"a", 1, 1})
		if n := tr.Pending(); n != 0 {
			t.Errorf("Pending() = %d, want 0", n)
		}
	})

	t.Run("a batch waits for the older ones of its partitions only", func(t *testing.T) {
		var tr Tracker
		tr.Assign([]Partition{a0, a1})
		add(t, &tr, a0, 0)
		b1 := tr.Seal()
		add(t, &tr, a0, 1)
		b2 := tr.Seal()
		add(t, &tr, a1, 0)
		b3 := tr.Seal()
		tr.Done(b3)
		wantPoints(t, &tr, Offset{"a", 1, 1})
		tr.Done(b2)
		wantPoints(t, &tr, Offset{"a", 1, 1})
		if n := tr.Pending(); n != 2 {
			t.Errorf("Pending() = %d, want 2", n)
		}
		tr.Done(b1)
		tr.Done(b1)
		wantPoints(t, &tr, Offset{"a", 0, 2}, Offset{"a", 1, 1})
	})

	t.Run("gaps", func(t *testing.T) {
		var tr Tracker
		tr.Assign([]Partition{a0})
		add(t, &tr, a0, 3, 900)
		b1 := tr.Seal()
		add(t, &tr, a0, 10_000)
		b2 := tr.Seal()
		tr.Done(b1)
		wantPoints(t, &tr, Offset{"a", 0, 901})
		tr.Done(b2)
		wantPoints(t, &tr, Offset{"a", 0, 10_001})
	})

	t.Run("forgotten while in flight", func(t *testing.T) {
		var tr Tracker
		tr.Assign([]Partition{a0, a1})
		add(t, &tr, a0, 0)
		add(t, &tr, a1, 0)
		b1 := tr.Seal()
		tr.Forget([]Partition{a0})
		if tr.Add("a", 0, 1) {
			t.Error("Add of a forgotten partition = true, want false")
		}
		tr.Done(b1)
		wantPoints(t, &tr, Offset{"a", 1, 1})
	})

	t.Run("assigned again while in flight", func(t *testing.T) {
		var tr Tracker
		tr.Assign([]Partition{a0})
		add(t, &tr, a0, 100)
		old := tr.Seal()
		tr.Assign([]Partition{a0})
		add(t, &tr, a0, 50)
		b := tr.Seal()
		tr.Done(old) // of the assignment before: says nothing of this one
		wantPoints(t, &tr)
		tr.Done(b)
		wantPoints(t, &tr, Offset{"a", 0, 51})
	})

	t.Run("a truncated log goes back", func(t *testing.T) {
		var tr Tracker
		tr.Assign([]Partition{a0})
		add(t, &tr, a0, 100)
		b1 := tr.Seal()
		add(t, &tr, a0, 60)
		b2 := tr.Seal()
		tr.Done(b1)
		wantPoints(t, &tr, Offset{"a", 0, 101})
		tr.Done(b2)
		wantPoints(t, &tr, Offset{"a", 0, 61})
	})

	t.Run("nothing to seal", func(t *testing.T) {
		var tr Tracker
		if b := tr.Seal(); b != nil {
			t.Errorf("Seal() = %v, want nil", b)
		}
		tr.Done(nil)
	})
}

// TestTrackerModel completes batches in random order and holds the commit
// points against the definition: the lowest offset that is not durable.
func TestTrackerModel(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		var tr Tracker
		ps := []Partition{{"a", 0}, {"a", 1}, {"b", 0}}
		tr.Assign(ps)
		next := map[Partition]int64{}
		type record struct {
			offset  int64
			durable bool
		}
		log := map[Partition][]*record{}
		inBatch := map[*Batch][]*record{}
		var open []*record
		var batches []*Batch
		for range 200 {
			switch rnd.IntN(4) {
			case 0, 1:
				p := ps[rnd.IntN(len(ps))]
				next[p] += 1 + rnd.Int64N(3) // gaps
				r := &record{offset: next[p]}
				log[p] = append(log[p], r)
				open = append(open, r)
				tr.Add(p.Topic, p.Partition, r.offset)
			case 2:
				if b := tr.Seal(); b != nil {
					inBatch[b], open = open, nil
					batches = append(batches, b)
				}
			case 3:
				if len(batches) > 0 {
					i := rnd.IntN(len(batches))
					tr.Done(batches[i])
					for _, r := range inBatch[batches[i]] {
						r.durable = true
					}
					batches = append(batches[:i], batches[i+1:]...)
				}
			}
			var want []Offset
			for _, p := range ps {
				point := int64(-1)
				for _, r := range log[p] {
					if !r.durable {
						break
					}
					point = r.offset + 1
				}
				if point >= 0 {
					want = append(want, Offset{p.Topic, p.Partition, point})
				}
			}
			if got := tr.Points(nil); !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: Points() = %v, want %v", seed, got, want)
			}
		}
	}
}

func BenchmarkTrackerAdd(b *testing.B) {
	var tr Tracker
	tr.Assign([]Partition{{"a", 0}, {"a", 1}})
	b.ReportAllocs()
	var o int64
	for b.Loop() {
		tr.Add("a", int32(o>>10&1), o)
		if o++; o&0xffff == 0 {
			tr.Done(tr.Seal())
		}
	}
}
