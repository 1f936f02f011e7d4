package simtest

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"catena/correlate"
	"catena/schemas"
)

// TestLongRun plays one world after the other, three hours apart, on one
// engine: whenever the next begins, nothing of the one before is held, and the
// last weighs no more than the first.
func TestLongRun(t *testing.T) {
	const worlds, apart = 12, int64(3 * time.Hour)
	e := correlate.New(correlate.Config{Skew: Skew, OutOfOrderness: Bound, AllowedLateness: Lateness, Window: time.Hour})
	var out correlate.Output
	places := map[place]bool{}
	first := 0
	for k := range int64(worlds) {
		w := Make(uint64(100+k), Shape{Stories: 20})
		var events []schemas.Event
		for i := range w.Events {
			ev := w.Events[i].Clone()
			if far := ev.TimeNanos - Noon; far > int64(30*time.Minute) || far < -int64(30*time.Minute) {
				continue // around another day's noon
			}
			shift(&ev, k*apart)
			places[place{ev.Evidence.Topic, ev.Evidence.Partition}] = true
			events = append(events, ev)
		}
		slices.SortStableFunc(events, func(a, b schemas.Event) int {
			return cmp.Compare(a.Evidence.TimestampNanos, b.Evidence.TimestampNanos)
		})
		for len(events) > 0 {
			n := min(16, len(events))
			e.Process(&out, events[:n])
			out.Reset()
			events = events[n:]
		}
		st := e.Stats()
		if first == 0 {
			first = st.Bytes
		}
		if st.Late != 0 || st.Bytes > 2*first {
			t.Fatalf("world %d: %d late events, %d bytes, and %d in the first", k, st.Late, st.Bytes, first)
		}
		var beats []schemas.Event
		for at := range places {
			now := Noon + k*apart + apart/2
			beats = append(beats, schemas.Event{ID: schemas.MakeID("beat", fmt.Sprint(at, k)), TimeNanos: now,
				Evidence: schemas.Evidence{Topic: at.topic, Partition: at.index, TimestampNanos: now}})
		}
		e.Process(&out, beats)
		out.Reset()
		if st := e.Stats(); st.Rows != len(beats) || st.Keys != 0 {
			t.Fatalf("after world %d: %d rows (%d heartbeats) and %d keys are held", k, st.Rows, len(beats), st.Keys)
		}
	}
	if e.Stats().KeysExpired == 0 {
		t.Error("no key ever expired")
	}
}

// shift moves an event, and all that it says of times.
func shift(ev *schemas.Event, by int64) {
	move := func(at *int64) {
		if *at != 0 {
			*at += by
		}
	}
	move(&ev.TimeNanos)
	move(&ev.EndedNanos)
	move(&ev.Evidence.TimestampNanos)
	for i := range ev.Makes {
		move(&ev.Makes[i].FromNanos)
		move(&ev.Makes[i].UntilNanos)
		move(&ev.Makes[i].ExpiresNanos)
	}
	for i := range ev.Ends {
		move(&ev.Ends[i].AtNanos)
	}
}
