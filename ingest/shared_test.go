package ingest

import (
	"context"
	"slices"
	"testing"
	"time"

	"catena/ingest/broker"
)

func newShared(t *testing.T, opts SharedOptions) *Shared {
	t.Helper()
	s, err := NewShared(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// hearAll returns what is heard until all has been that stands in the topic.
func hearAll(t *testing.T, s *Shared) (texts []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	caught := make(chan error, 1)
	go func() { caught <- s.CatchUp(ctx) }()
	for {
		select {
		case err := <-caught:
			if err != nil {
				t.Fatal(err)
			}
			return texts
		default:
		}
		for _, told := range s.Hear() {
			texts = append(texts, string(told.Kind)+string(told.Value))
		}
	}
}

// TestShared: everyone hears what the others tell, and whoever begins hears all
// that they told since the earliest of their marks.
func TestShared(t *testing.T) {
	b := startBroker(t, broker.Options{})
	opts := SharedOptions{Cluster: at(b), Topic: "shared", Marks: time.Minute}
	first := newShared(t, opts)
	began := time.Now()
	second := newShared(t, opts)
	first.Tell(t.Context(), 'b', []byte("1"), []byte("one"))
	second.Tell(t.Context(), 'a', []byte("2"), []byte("two"))
	kept := began.Add(-time.Hour)
	first.Mark(t.Context(), began)
	first.Mark(t.Context(), kept) // the last one counts
	second.Mark(t.Context(), began)
	for _, s := range []*Shared{first, second} {
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := hearAll(t, first); !slices.Equal(got, []string{"atwo"}) {
		t.Errorf("the first heard %q", got)
	}
	if got := hearAll(t, second); !slices.Equal(got, []string{"bone"}) {
		t.Errorf("the second heard %q", got)
	}
	third := newShared(t, opts)
	if want := kept.Truncate(time.Millisecond).Add(-clockSkew); !third.from.Equal(want) {
		t.Errorf("the third hears from %v on, want %v", third.from, want)
	}
	got := hearAll(t, third)
	if slices.Sort(got); !slices.Equal(got, []string{"atwo", "bone"}) {
		t.Errorf("the third heard %q", got)
	}
}

// TestSharedForgetsTheGone: the mark of an instance that has been silent for
// long does not count.
func TestSharedForgetsTheGone(t *testing.T) {
	b := startBroker(t, broker.Options{})
	opts := SharedOptions{Cluster: at(b), Topic: "shared", Marks: 20 * time.Millisecond}
	gone := newShared(t, opts)
	gone.Mark(t.Context(), time.Now().Add(-time.Hour))
	if err := gone.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * marksMissed * opts.Marks)
	before := time.Now()
	next := newShared(t, opts)
	if oldest := before.Add(-marksMissed*opts.Marks - clockSkew - time.Millisecond); next.from.Before(oldest) {
		t.Errorf("hears from %v on, want from %v", next.from, oldest)
	}
	if got := hearAll(t, next); len(got) != 0 {
		t.Errorf("heard %q", got)
	}
}
