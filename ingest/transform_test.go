package ingest

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// TestCased compares lower and upper with those of package strings.
func TestCased(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 4))
	alphabet := []rune("azAZ@[`{09-éÉK")
	e := &evaluator{walker: &walker{arena: new(arena)}}
	for range 20_000 {
		text := make([]rune, rng.IntN(30))
		letters := len(alphabet) - 3*rng.IntN(2) // some texts are ASCII
		for i := range text {
			text[i] = alphabet[rng.IntN(letters)]
		}
		s := string(text)
		if got, want := lower(e, s), strings.ToLower(s); got != want {
			t.Fatalf("lower of %q: %q, not %q", s, got, want)
		}
		if got, want := upper(e, s), strings.ToUpper(s); got != want {
			t.Fatalf("upper of %q: %q, not %q", s, got, want)
		}
	}
}
