package ingest

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// TestNeedle compares the search with that of package strings.
func TestNeedle(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 5))
	some := func(n int) string {
		b := make([]byte, rng.IntN(n))
		for i := range b {
			b[i] = " aB"[rng.IntN(3)]
		}
		return string(b)
	}
	for range 20_000 {
		s, n := some(24), newNeedle(some(5))
		if rng.IntN(4) == 0 { // full of one byte
			at := rng.IntN(len(s) + 1)
			s = s[:at] + strings.Repeat("B", rng.IntN(60)) + s[at:]
		}
		if got, want := n.index(s), strings.Index(s, n.text); got != want {
			t.Fatalf("index of %q in %q: %d, not %d", n.text, s, got, want)
		}
		if got, want := n.lastIndex(s), strings.LastIndex(s, n.text); got != want {
			t.Fatalf("last index of %q in %q: %d, not %d", n.text, s, got, want)
		}
	}
}
