package ingest

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"catena/ingest/broker"
	"catena/schemas"
)

// TestReaderReadsRanges: each range is read whole and nothing beside it; what
// the broker does not have is told; a reader reads again.
func TestReaderReadsRanges(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"a"}, Partitions: 3})
	produce(t, b, "a", 3, 100)
	if err := b.Cluster().DeleteRecords("a", 2, 30); err != nil {
		t.Fatal(err)
	}
	r, err := NewReader(t.Context(), at(b))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all, err := r.Ranges(t.Context(), "a", "nobody")
	if err != nil || len(all) != 3 || all[Partition{"a", 2}] != (LogRange{30, 100}) {
		t.Fatalf("ranges %v, %v", all, err)
	}
	want := map[Partition]LogRange{{"a", 0}: {0, 100}, {"a", 1}: {17, 23}, {"a", 2}: {20, 60}}
	for range 2 {
		got := map[Partition][]int64{}
		var gaps []Gap
		err = r.Read(t.Context(), want, 7, func(records []schemas.Record, g []Gap) error {
			for _, rec := range records {
				p := Partition{rec.Topic, rec.Partition}
				got[p] = append(got[p], rec.Offset)
			}
			gaps = append(gaps, g...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for p, rg := range want {
			from := max(rg.From, all[p].From)
			if len(got[p]) != int(rg.To-from) || got[p][0] != from || got[p][len(got[p])-1] != rg.To-1 || !slices.IsSorted(got[p]) {
				t.Errorf("%s: %v, want %d to %d", p, got[p], from, rg.To)
			}
		}
		if !slices.Equal(gaps, []Gap{{Partition{"a", 2}, 20, 30, true}}) {
			t.Errorf("gaps %+v", gaps)
		}
	}
	stop := errors.New("stop")
	if err := r.Read(t.Context(), want, 7, func([]schemas.Record, []Gap) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's error: %v", err)
	}
	r.Stall = time.Second
	if err := r.Read(t.Context(), map[Partition]LogRange{{"a", 0}: {90, 110}}, 100, func([]schemas.Record, []Gap) error { return nil }); err == nil || !strings.Contains(err.Error(), "from offset 100") {
		t.Errorf("what is not there yet: %v", err)
	}
	from, err := LogRangesAt(t.Context(), at(b), all, time.Now().Add(time.Hour), time.Time{})
	if err != nil || from[Partition{"a", 0}].From != 100 {
		t.Errorf("nothing has arrived in an hour's time: %v, %v", from, err)
	}
	from, err = LogRangesAt(t.Context(), at(b), all, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	if err != nil || from[Partition{"a", 2}] != (LogRange{30, 100}) {
		t.Errorf("everything arrived just now: %v, %v", from, err)
	}
}
