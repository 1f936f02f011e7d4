package ingest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestTextTables compares the table with a map, on texts of all lengths that
// differ little, within other texts and at their ends.
func TestTextTables(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 5))
	random := func() string {
		b := make([]byte, rng.IntN(24))
		for i := range b {
			b[i] = "ab\x00"[rng.IntN(3)]
		}
		return string(b)
	}
	var table textTable
	numbers := map[string]int{}
	add := func(s string) {
		want, ok := numbers[s]
		if !ok {
			want = len(numbers)
			numbers[s] = want
		}
		if got := table.number(s); got != want {
			t.Fatalf("%q is number %d, want %d", s, got, want)
		}
	}
	for i := range 300 {
		add(random())
		add(fmt.Sprintf("requestParameters%d", i))
	}
	add("")
	for range 20_000 {
		s := random()
		before, after := random(), random()
		if rng.IntN(4) == 0 {
			after = ""
		}
		want, ok := numbers[s]
		if !ok {
			want = -1
		}
		if got := table.find(before+s+after, len(before), len(before)+len(s)); got != want {
			t.Fatalf("%q in %q is number %d, want %d", s, before+s+after, got, want)
		}
	}
	if s := strings.Repeat("a", 40); table.find(s, 0, 40) != -1 {
		t.Error("a text that was not added is found")
	}
}
