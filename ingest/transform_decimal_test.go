package ingest

import (
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestHexToDecimal holds serial numbers of every length against math/big, and
// refuses what is none.
func TestHexToDecimal(t *testing.T) {
	e := &evaluator{walker: &walker{arena: &arena{}}}
	rng := rand.New(rand.NewPCG(1, 2))
	for digits := 1; digits <= maxSerialDigits; digits++ {
		for range 200 {
			var b strings.Builder
			for range digits {
				b.WriteByte("0000123456789abcdefABCDEF"[rng.IntN(25)])
			}
			n, ok := new(big.Int).SetString(b.String(), 16)
			if got := hexToDecimal(e, b.String()); !ok || got != n.String() {
				t.Fatalf("%s: %q, want %s", b.String(), got, n)
			}
		}
	}
	for in, want := range map[string]string{
		"": "", ":": "", "0x": "", "-1": "", "+1": "", "1_0": "", "g": "", "0": "0", "00:00": "0", "0x0a": "10", "7b:00": "31488",
		strings.Repeat("f", maxSerialDigits): "1461501637330902918203684832716283019655932542975", strings.Repeat("f", maxSerialDigits+1): "",
	} {
		if got := hexToDecimal(e, in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		e.arena.reset()
		hexToDecimal(e, "7b:00:00:00:00:00:00:00:00:00:00:00:00:00:00:02")
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
