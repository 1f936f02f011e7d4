package ingest

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestDelegationRecipe decodes the bindings that FORMAT.md gives for nested act
// claims, as they stand there.
func TestDelegationRecipe(t *testing.T) {
	doc, err := os.ReadFile("../schemas/sources/FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "## Delegation")
	_, rest, _ = strings.Cut(rest, "```yaml\n")
	recipe, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("FORMAT.md has no recipe for delegation")
	}
	d := testDecoder(t, DecoderOptions{}, header+recipe+"tenant: '{t}'\nresource: '{t~jwt}'\n")
	token := func(claims string) string { return unsignedJWT(`{"jti":"j","sub":"Alice@example.com"` + claims + `}`) }
	for _, c := range []struct{ claims, want string }{
		{``, ``},
		{`,"act":{"sub":"a"}`, "token:jti:j <- session:act:j/a, session:act:j/a <- human:email:alice@example.com"},
		{`,"act":{"sub":"b","act":{"sub":"a"}}`, "token:jti:j <- session:act:j/b, session:act:j/b <- session:act:j/a, session:act:j/a <- human:email:alice@example.com"},
		{`,"act":{"sub":"e","act":{"sub":"d","act":{"sub":"c","act":{"sub":"b","act":{"sub":"a"}}}}}`,
			"token:jti:j <- session:act:j/e, session:act:j/e <- session:act:j/d, session:act:j/d <- session:act:j/c, session:act:j/c <- session:act:j/b, session:act:j/b <- human:email:alice@example.com"},
	} {
		ev := oneEvent(t, d, `{"match":1,"t":"`+token(c.claims)+`"}`)
		var got []string
		for _, m := range ev.Makes {
			got = append(got, m.Child.String()+" <- "+m.Parent.String())
		}
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s: got %s, want %s", c.claims, s, c.want)
		}
		var b bytes.Buffer
		writeEvent(&b, ev)
		if strings.Contains(b.String(), "eyJ") || !strings.HasPrefix(ev.Tenant, "[redacted:") || !strings.HasPrefix(ev.Resource, `{"jti":"j"`) {
			t.Errorf("%s: the token came out:\n%s", c.claims, b.String())
		}
	}
}

func TestSplitNeedsAPosition(t *testing.T) {
	for _, args := range [][2]string{{"/", "x"}, {"", "1"}, {"/", ""}} {
		if _, err := split(args[0], args[1]); err == nil || !strings.Contains(err.Error(), "as in split('/','2')") {
			t.Errorf("%q: got %v", args, err)
		}
	}
}

func TestLaterNeedsADuration(t *testing.T) {
	for _, arg := range []string{"", "1", "-1h", "0s", "soon"} {
		if _, err := later(arg); err == nil || !strings.Contains(err.Error(), "as in later('1h')") {
			t.Errorf("%q: got %v", arg, err)
		}
		if _, err := earlier(arg); err == nil || !strings.Contains(err.Error(), "as in earlier('1h')") {
			t.Errorf("%q: got %v", arg, err)
		}
	}
}

func TestEarlierReadsTimesAndEpochNumbers(t *testing.T) {
	f, err := earlier("2s")
	if err != nil {
		t.Fatal(err)
	}
	e := &evaluator{walker: &walker{arena: &arena{}}}
	for _, c := range [][2]string{
		{"2026-03-02T08:55:41.5Z", "2026-03-02T08:55:39.5Z"},
		{"1772441741", "2026-03-02T08:55:39Z"},
		{"1772441741500", "2026-03-02T08:55:39.5Z"},
		{"1772441741500000", "2026-03-02T08:55:39.5Z"},
		{"1772441741500000000", "2026-03-02T08:55:39.5Z"},
		{"177244174", ""}, {"+772441741", ""}, {"yesterday", ""}, {"", ""},
	} {
		if got := f(e, c[0]); got != c[1] {
			t.Errorf("%s: got %q, want %q", c[0], got, c[1])
		}
	}
}

func TestAtMostLeavesOutLongerTexts(t *testing.T) {
	for _, arg := range []string{"", "0", "-1", "many"} {
		if _, err := atMost(arg); err == nil || !strings.Contains(err.Error(), "as in at_most('900')") {
			t.Errorf("%q: got %v", arg, err)
		}
	}
	f, err := atMost("3")
	if err != nil || f(nil, "abc") != "abc" || f(nil, "abcd") != "" {
		t.Errorf("at_most('3') gives %q and %q, %v", f(nil, "abc"), f(nil, "abcd"), err)
	}
}
