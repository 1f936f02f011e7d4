package sources

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"catena/schemas"
)

const small = `name: test
match: {a: present}
id: ["{a}"]
time: "{t}"
`

func TestEmbedded(t *testing.T) {
	set, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Sources()) == 0 {
		t.Fatal("no sources")
	}
	for i, s := range set.Sources() {
		if s.Vendor == "" || s.Title == "" || !strings.HasPrefix(s.Reference, "https://") {
			t.Errorf("%s: vendor, title or reference is missing", s.Name)
		}
		if i > 0 && set.Sources()[i-1].Priority > s.Priority {
			t.Errorf("%s stands behind a later priority", s.Name)
		}
		if got, ok := set.Get(s.Name); !ok || got != s {
			t.Errorf("Get(%q) does not find it", s.Name)
		}
	}
	if _, ok := set.Get("nobody"); ok {
		t.Error("Get finds what is not there")
	}
}

func TestParse(t *testing.T) {
	src, err := Parse("acme.audit", []byte(`
name: acme.audit
priority: 7
match:
  kind: audit
  'user."id/x"': {prefix: u-, not: {suffix: -x}}
  any: [{a: present}, {b: absent}]
id: ["{id ?? 'none'}", "{n}"]
time: "{ts|millis}"
resolution: 1s
class: login
actor: {key: "human:acme:{user|lower}", name: "{user}"}
keys:
  - token:acme:{token}
  - {key: "session:acme:{s}", when: {s: [a, 2, true]}}
makes:
  - {child: "session:acme:{s}", parent: "human:acme:{user}", relation: authenticated, strength: exact, from: always, until: "{end}"}
rules:
  - when: {kind: {matches: '^x'}}
    outcome: "{o|map('ok'='success')}"
    flags: [impersonated]
    ends: [{key: "token:acme:{token}", revoked: true}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if src.Priority != 7 || *src.Common.Class != schemas.ClassLogin || len(src.Common.Keys) != 2 || len(src.Rules) != 1 || len(src.Match) != 3 {
		t.Errorf("got %+v", src)
	}
	k := src.Common.Keys[0].Key
	if k.Kind != schemas.KindToken || k.Namespace != "acme" || len(k.Value.Parts) != 1 {
		t.Errorf("key: got %+v", k)
	}
	m := src.Common.Makes[0]
	if !m.FromAlways || m.Until == nil || m.Relation != schemas.RelationAuthenticated || m.Strength != schemas.StrengthExact {
		t.Errorf("make: got %+v", m)
	}
	if texts := src.Common.Keys[1].When[0].Test.Check.Texts; !slices.Equal(texts, []string{"a", "2", "true"}) {
		t.Errorf("when: got %q", texts)
	}
	if r := src.Rules[0]; r.Flags != schemas.FlagImpersonated || !r.Ends[0].Revoked || r.When[0].Test.Check.Op != Matches {
		t.Errorf("rule: got %+v", r)
	}
}

// TestFaults checks that every kind of fault is found, at its place.
func TestFaults(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "line 1, column 1: the file is empty"},
		{"a: [", "line 1, column 1: not YAML"},
		{"[]", "line 1, column 1: want a map, not a list"},
		{"name: test", "line 1, column 1: match: is missing"},
		{"name: other\n", `line 1, column 7: name: "other" is not the name of the folder, "test"`},
		{small + "nonsense: x", `line 5, column 1: unknown field "nonsense"; there are name, vendor`},
		{small + "name: test", `line 5, column 1: "name" stands twice`},
		{small + "priority: high", `line 5, column 11: priority: "high" is no whole number`},
		{small + "class: nap", `line 5, column 8: class: "nap" is no class; there are other, login`},
		{small + "outcome: fine", `line 5, column 10: outcome: "fine" is none of unknown, success, failure, denied`},
		{small + "mfa: perhaps", `mfa: "perhaps" is none of unknown, no, yes`},
		{small + "decision: {verdict: maybe}", `decision.verdict: "maybe" is none of undefined, allow, deny`},
		{small + "flags: [odd]", `line 5, column 9: flags: "odd" is no flag; there are divergent`},
		{small + "resolution: fast", `resolution: "fast" is no duration`},
		{small + "resolution: -1s", `resolution: "-1s" is no duration`},
		{small + "self_reported: yes", `self_reported: "yes" is neither true nor false`},
		{small + "bind_only: \"{a}\"", `bind_only: is not a plain word`},
		{small + "action: {a: b}", `line 5, column 9: action: want text, not a map`},
		{small + `action: ""`, `action: is empty; leave it out instead`},
		{small + `action: "{a"`, `expected ??, | or }, at character 3 of "{a"`},
		{small + `action: "{}"`, `expected a member's name`},
		{small + `action: "a}"`, `a } without {`},
		{small + `action: "{a|nap}"`, `"nap" is no transform; there are lower, upper`},
		{small + `action: "{a|before}"`, `before takes 1 arguments in single quotes, not 0`},
		{small + `action: "{a|lower('x')}"`, `lower takes 0 arguments`},
		{small + `action: "{a|map('x')}"`, `map takes pairs`},
		{small + `action: "{a|before('x}"`, `the quote is not closed`},
		{small + `action: "{a|millis}"`, `has a transform that gives a time`},
		{small + `action: "{a[x]}"`, `expected = after the member's name`},
		{small + `action: "{a[-2]}"`, `expected = after the member`},
		{small + `action: "{a~xml}"`, `expected ~json, ~base64 or ~jwt`},
		{small + `action: "{a..b}"`, `expected a member's name`},
		{small + `ended: "{a|millis|lower}"`, `millis gives a time: it must be the last transform`},
		{small + `ended: "2020"`, `is literal text: a time comes from the record`},
		{small + "keys: [token]", `"token" is no key: want kind:namespace:value`},
		{small + "keys: ['tok:x:{a}']", `"tok:x:{a}" is no key`},
		{small + "keys: ['{k}:x:{a}']", `is no key`},
		{small + "keys: ['token:x:']", `has no value`},
		{small + "keys: [{when: {a: b}}]", `is neither a key template nor`},
		{small + "keys: x", `line 5, column 7: keys: want a list, not text`},
		{small + "keys: ['token:x:{a[*]}-{b[*]}']", `runs through two arrays, a[*] and b[*]`},
		{small + "makes: [{child: 'token:x:{a}'}]", `makes[0]: has no parent`},
		{small + "makes: [{child: 'token:x:{a}', parent: 'token:x:{b}', relation: likes, strength: exact}]", `makes[0].relation: "likes" is no relation; there are authenticated`},
		{small + "makes: [{child: 'token:x:{a}', parent: 'token:x:{b}', relation: ended, strength: exact}]", `"ended" is no relation`},
		{small + "makes: [{child: 'token:x:{a}', parent: 'token:x:{b}', relation: issued, strength: iron}]", `makes[0].strength: "iron" is no strength; there are weak, stated, exact`},
		{small + "makes: [{child: 'token:x:{a[*]}', parent: 'token:x:{b[*]}', relation: issued, strength: weak}]", `runs through two arrays`},
		{small + "ends: [{at: '{a}'}]", `ends[0]: has no key`},
		{small + "actor: {name: '{a}'}", `actor: has no key`},
		{small + "rules: [{when: {a: }}]", `asks nothing; for no value write absent`},
		{small + "rules: [{when: {a: {}}}]", `asks nothing`},
		{small + "rules: [{when: {a: []}}]", `is empty`},
		{small + "rules: [{when: {a: {like: x}}}]", `unknown field "like"; there are prefix, suffix, contains, matches, not, one_of`},
		{small + "rules: [{when: {a: {matches: '('}}}]", `no RE2 expression`},
		{small + "rules: [{when: {a: {prefix: ''}}}]", `is empty`},
		{small + "rules: [{when: {'a b': x}}]", `path: expected the end of the path`},
		{small + "rules: [{when: {any: []}}]", `any: is empty`},
		{small + "rules: [{when: {none: [{}]}}]", `none[0]: is empty`},
		{small + "rules: [{nap: x}]", `rules[0]: unknown field "nap"; there are when, time`},
		{small + "rules: [{id: ['{a}']}]", `rules[0]: unknown field "id"`},
		{small + "x: &y z\naction: *y", `unknown field "x"`},
		{"name: &n test\nmatch: {a: *n}\nid: ['{a}']\ntime: '{a}'", "an alias (anchors are not supported)"},
		{"name: test\nmatch: {}\nid: ['{a}']\ntime: '{a}'", "match: is empty: it would take every record"},
		{"name: test\nmatch: {a: b}\nid: []\ntime: '{a}'", "id: is empty"},
	} {
		_, err := Parse("test", []byte(c.text))
		var faults Faults
		if !errors.As(err, &faults) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\ngot  %v\nwant %s", c.text, err, c.want)
			continue
		}
		for _, f := range faults {
			if f.Line < 1 || f.Col < 1 || f.Source != "test" {
				t.Errorf("%s: a fault without a place: %+v", c.text, f)
			}
		}
	}
}

func TestFaultsTogether(t *testing.T) {
	_, err := Parse("test", []byte(small+"class: nap\noutcome: fine\nrules:\n  - {flags: [odd]}\n"))
	var faults Faults
	if !errors.As(err, &faults) || len(faults) != 3 {
		t.Fatalf("want three faults, got %v", err)
	}
	for i, line := range []int{5, 6, 8} {
		if faults[i].Line != line {
			t.Errorf("fault %d: got line %d, want %d", i, faults[i].Line, line)
		}
	}
}

func TestLoad(t *testing.T) {
	file := func(name string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte(strings.Replace(small, "test", name, 1))}
	}
	set, err := Load(fstest.MapFS{"in/b/source.yaml": file("b"), "in/a/source.yaml": file("a"), "in/a/testdata/x.json": file("x")}, "in")
	if err != nil {
		t.Fatal(err)
	}
	if got := names(set); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %q", got)
	}
	if _, err := NewSet(set.Sources()[0], set.Sources()[0]); err == nil {
		t.Error("NewSet takes two of one name")
	}
	for _, c := range []struct {
		fsys fs.FS
		want string
	}{
		{fstest.MapFS{}, "no */source.yaml"},
		{fstest.MapFS{"a/source.yaml": file("b"), "c/source.yaml": file("d")}, `"d" is not the name of the folder, "c"`},
		{fstest.MapFS{"a/source.yaml": {Data: make([]byte, maxFileBytes+1)}}, "longer than"},
	} {
		if _, err := Load(c.fsys, "."); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func names(s *Set) (out []string) {
	for _, src := range s.Sources() {
		out = append(out, src.Name)
	}
	return out
}

// TestPathText checks that a path reads the same after it was written.
func TestPathText(t *testing.T) {
	for _, text := range []string{
		"a", "a.b.c", `a."b.c/d".e`, "a[0]", "a[-1].b", "a[key=gen_ai].value", `a[key="x y"].value`, `a["k.k"=v]`, "a[*].b[*].c",
		"a~json.b", "a~base64~json.b", `"@timestamp"`, "@timestamp", "$event_schema", "X-Request-Id", `"a\"b\\c"`, "é.ü",
	} {
		p, err := ParsePath(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		again, err := ParsePath(p.String())
		if err != nil || again.String() != p.String() || !slices.Equal(p, again) {
			t.Errorf("%s: written %s, read again %v, %v", text, p, again, err)
		}
	}
}

func TestParseTemplate(t *testing.T) {
	for _, c := range []struct {
		text  string
		parts int
	}{{"x", 1}, {"{{x}}", 1}, {"{a}", 1}, {"a{b}c", 3}, {"{a}{b}", 2}, {"{ a ?? b.c ?? 'x''y' | lower | before(':') }", 1}, {"{a|map('x'='1','y'='2')}", 1}, {`{"a}b"}`, 1}} {
		tm, err := ParseTemplate(c.text)
		if err != nil || len(tm.Parts) != c.parts {
			t.Errorf("%s: got %d parts, %v", c.text, len(tm.Parts), err)
		}
	}
	tm, _ := ParseTemplate("{{x}} {a ?? 'it''s' ?? ''}")
	if tm.Parts[0].Literal != "{x} " || tm.Parts[1].Choices[1].Literal != "it's" || tm.Parts[1].Choices[2].Literal != "" {
		t.Errorf("got %+v", tm)
	}
}

func FuzzParseSource(f *testing.F) {
	f.Add([]byte(small))
	set, err := Embedded()
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range set.Sources() {
		text, err := embedded.ReadFile(s.Name + "/source.yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("a: &a [*a, *a]\n"))
	f.Add([]byte(small + "keys: ['token:x:{a[*].b~base64~json.c[k=v]|map(''a''=''b'')}']"))
	f.Fuzz(func(t *testing.T, text []byte) {
		src, err := Parse("test", text)
		var faults Faults
		if (err == nil) != (src != nil) || err != nil && (!errors.As(err, &faults) || len(faults) == 0) {
			t.Fatalf("source %v, error %v", src != nil, err)
		}
		if src == nil {
			return
		}
		if src.Name != "test" || len(src.Match) == 0 || len(src.ID) == 0 {
			t.Fatalf("a source that lacks what it must have: %+v", src)
		}
		src.Match.Paths(func(p Path) {
			if again, err := ParsePath(p.String()); err != nil || !slices.Equal(again, p) {
				t.Fatalf("path %s is not read again: %v", p, err)
			}
		})
	})
}
