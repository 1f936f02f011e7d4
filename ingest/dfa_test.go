package ingest

import (
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"

	"catena/schemas/sources"
)

// TestTablesMatchAsRegexpsDo compares the tables with the regexps that they
// stand for, on texts made of what the expressions are about.
func TestTablesMatchAsRegexpsDo(t *testing.T) {
	exprs := []string{
		`^[0-9]{13}$`, `^[123]`, `^[^:]+:i-[0-9a-z]{2,3}$`, `^a?b*c+$`, `^[A-Z]+[0-9A-Z]*[IWE]$`, `^a*a$`, `^(a|b)$`, `^[^a]{2}$`, `^a+?b$`,
		``, `^`, `$`, `^$`, `a`, `^a`, `a$`, `^a$`, `a*`, `^a*b$`, `(a|ab)(c|bcd)$`, `^[^@\s]+@[^@\s]+$`, `(?i)denied|forbid+en`, `a.c`, `(?s)a.c`,
		`^[0-9a-fA-F.:]+$`, `^i-[0-9a-zA-Z]{8,17}$`, `(^|,)b(,|$)`, `^é+$`, `(?i)k`, `[^a]`, `^(?:[^a]|b)*$`, `\Aa\z`, `x{0}`, `\bab\b`, `^.{1,900}ab.{1,900}$`, `(ab|ba)+(k|b){2}`, `(?:ab0){2}.`, `a??b`, `(^a|b$)c?`, `ab0*k`, `(ab)+[:0]b`, `(a(b))0?ab$`,
	}
	set, err := sources.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDecoder(set, DecoderOptions{HMACKey: testKey})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range d.programs {
		for _, a := range p.atoms.list {
			if a.op == sources.Matches {
				exprs = append(exprs, a.source)
				if len(a.table.next) == 0 {
					t.Logf("%s: left to the regexp: %s", p.source.Name, a.source)
				}
			}
		}
	}
	rng := rand.New(rand.NewPCG(7, 11))
	tables := 0
	for _, expr := range exprs {
		re := regexp.MustCompile(expr)
		table := compileDFA(re)
		if len(table.next) > 0 {
			tables++
		}
		alphabet := []rune("ab0.:@ \n-iékK\u212a" + expr)
		for range 2000 {
			text := make([]rune, rng.IntN(12))
			for i := range text {
				text[i] = alphabet[rng.IntN(len(alphabet))]
			}
			if rng.IntN(2) == 0 && len(text) > 0 { // a long run of one, as words have
				at := rng.IntN(len(text))
				text = slices.Insert(text, at, slices.Repeat(text[at:at+1], rng.IntN(30))...)
			}
			s := string(text)
			if got, ok := table.match(s); ok && got != re.MatchString(s) {
				t.Fatalf("%q on %q: the table says %v", expr, s, got)
			}
		}
	}
	if tables < 30 {
		t.Errorf("only %d expressions have a table", tables)
	}
	if compileDFA(regexp.MustCompile(`\bword\b`)).next != nil || compileDFA(regexp.MustCompile(`(?m)^a$`)).next != nil {
		t.Error("expressions that look at what stands beside them have no table")
	}
}
