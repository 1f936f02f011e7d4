package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"gonum.org/v1/gonum/graph/formats/dot"
	"gonum.org/v1/gonum/graph/formats/dot/ast"

	"catena/schemas"
	"catena/schemas/sources"
)

// explainText is what catena explain prints for the stories.
func explainText(t *testing.T, what string, f explainFlags) string {
	t.Helper()
	out, err := tryExplain(t, what, f)
	if err != nil {
		t.Fatalf("explain %s: %v", what, err)
	}
	return out
}

func tryExplain(t *testing.T, what string, f explainFlags) (string, error) {
	t.Helper()
	set, err := sources.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	if f.limit == 0 {
		f.limit = 10
	}
	e, err := (&asker{store: demoTables(t), sources: set}).explain(t.Context(), what, f)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := e.write(&environment{stdout: &out, getenv: func(string) string { return "" }}, f); err != nil {
		t.Fatal(err)
	}
	return out.String(), nil
}

// eventOf is the id of the one row of the stories that a condition fits.
func eventOf(t *testing.T, where string) string {
	t.Helper()
	_, rows, err := demoTables(t).Query(t.Context(), "SELECT event_id FROM actions FINAL WHERE "+where, 3)
	if err != nil || len(rows) != 1 {
		t.Fatalf("%s: %v, %v: want one row", where, rows, err)
	}
	return rows[0][0]
}

// TestExplainStories holds what explain says of the stories against
// testdata/explain, one file a question.
func TestExplainStories(t *testing.T) {
	for name, ask := range map[string]struct {
		what  string
		flags explainFlags
	}{
		"1-agent":         {"session:okta:102fixtureALICEdesk1", explainFlags{}},
		"1-agent-all":     {"session:okta:102fixtureALICEdesk1", explainFlags{all: true}},
		"1-proven":        {eventOf(t, "action = 's3:GetObject' AND event_time = '2026-03-02 08:57:21'"), explainFlags{}},
		"1-inferred":      {eventOf(t, "action = 'dynamodb:Query' AND event_time = '2026-03-02 08:57:26'"), explainFlags{}},
		"1-unattributed":  {eventOf(t, "grade = 'unattributed' AND reason = 'no_binding_seen' AND source = 'aws.cloudtrail' AND event_time < '2026-03-02 09:00:00' ORDER BY event_time LIMIT 1"), explainFlags{}},
		"1-failed-login":  {eventOf(t, "reason = 'failed_login' AND root_id = 'email:alice.moreau@example.com'"), explainFlags{}},
		"1-person":        {"alice.moreau@example.com", explainFlags{}},
		"1-person-pick":   {"alice.moreau@example.com", explainFlags{pick: 2}},
		"1b-stated":       {eventOf(t, "action = 'invoke_agent support-agent' AND root_id = 'email:carol.singh@example.com'"), explainFlags{}},
		"1b-inferred":     {eventOf(t, "action = 'dynamodb:GetItem' AND root_id = 'email:carol.singh@example.com'"), explainFlags{}},
		"2-cicd":          {"ASIAFIXTURECICD00002", explainFlags{}},
		"3-jit":           {"session:github.run:9000003001", explainFlags{}},
		"4-divergent":     {eventOf(t, "action = 'list secrets' AND source_ip = '10.20.7.77' AND has(flags, 'divergent')"), explainFlags{}},
		"4-address":       {"10.20.7.77", explainFlags{}},
		"4-bucket-each":   {"arn:aws:s3:::example-invoices", explainFlags{each: true}},
		"4-stated-no-key": {eventOf(t, "action = 'sts:AssumeRoleWithWebIdentity' AND event_time = '2026-03-02 09:19:40'"), explainFlags{}},
		"5-policy":        {"session:okta:102fixtureGRACE00001", explainFlags{}},
		"5-nobody":        {eventOf(t, "action = 'decide query'"), explainFlags{}},
	} {
		t.Run(name, func(t *testing.T) {
			got := explainText(t, ask.what, ask.flags)
			path := filepath.Join("testdata", "explain", name+".txt")
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				write(t, path, got)
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s differs; -update writes it again\n%s", path, got)
			}
		})
	}
}

// TestExplainSaysWhatToTry when nothing is found.
func TestExplainSaysWhatToTry(t *testing.T) {
	_, err := tryExplain(t, "token:jti:never-seen", explainFlags{})
	var nothing nothingError
	if !errors.As(err, &nothing) {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{"nothing found", "catena explain never-seen", "newest action is of 2026-03-02"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	if _, err := tryExplain(t, "alice.moreau@example.com", explainFlags{pick: 99}); err == nil || !strings.Contains(err.Error(), "touches") {
		t.Errorf("--pick of what is not there: %v", err)
	}
}

// TestExplainDOT: what is drawn is a graph in the language's own grammar, with
// every line of the tree as a node.
func TestExplainDOT(t *testing.T) {
	for _, what := range []string{"session:okta:102fixtureALICEdesk1", "alice.moreau@example.com", eventOf(t, "action = 'decide query'"),
		eventOf(t, "action = 'db.session.query' AND has(flags, 'outside_grant')")} {
		text := explainText(t, what, explainFlags{format: "dot"})
		file, err := dot.ParseString(text)
		if err != nil {
			t.Fatalf("%s: %v\n%s", what, err, text)
		}
		if len(file.Graphs) != 1 || !file.Graphs[0].Directed {
			t.Errorf("%s: want one directed graph", what)
		}
	}
	text := explainText(t, "session:okta:102fixtureALICEdesk1", explainFlags{format: "dot"})
	file, err := dot.ParseString(text)
	if err != nil {
		t.Fatal(err)
	}
	nodes, edges := 0, 0
	var walk func([]ast.Stmt)
	walk = func(all []ast.Stmt) {
		for _, s := range all {
			switch s := s.(type) {
			case *ast.NodeStmt:
				nodes++
			case *ast.EdgeStmt:
				edges++
			case *ast.Subgraph:
				walk(s.Stmts)
			}
		}
	}
	walk(file.Graphs[0].Stmts)
	var e jsonExplanation
	if err := json.Unmarshal([]byte(explainText(t, "session:okta:102fixtureALICEdesk1", explainFlags{format: "json"})), &e); err != nil {
		t.Fatal(err)
	}
	if want := countNodes(e.Chains[0].Tree); nodes != want || edges != want-1 {
		t.Errorf("%d nodes and %d edges: want those of a tree of %d", nodes, edges, want)
	}
}

func countNodes(list []jsonNode) int {
	n := len(list)
	for _, c := range list {
		n += countNodes(c.Children)
	}
	return n
}

// TestExplainJSON has the documented shape, with a place for each proof.
func TestExplainJSON(t *testing.T) {
	text := explainText(t, eventOf(t, "action = 'dynamodb:Query' AND event_time = '2026-03-02 08:57:26'"), explainFlags{format: "json"})
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	var e jsonExplanation
	if err := dec.Decode(&e); err != nil {
		t.Fatal(err)
	}
	if e.Action == nil || e.Action.Lack == nil || len(e.Chains) != 1 || len(e.Chains[0].Rows) != 23 || e.FinalTo == "" {
		t.Fatalf("%.2000s", text)
	}
	for _, h := range e.Action.Path[1:] {
		if h.Proof == nil || !h.Proof.Known || h.Proof.Topic == "" || h.Proof.At == "" {
			t.Errorf("%s has no place of its proof: %+v", h.Key, h.Proof)
		}
	}
	if len(e.Action.Lack.Nearest) == 0 || len(e.Action.Lack.Would) == 0 {
		t.Errorf("what is lacking: %+v", e.Action.Lack)
	}
	documented, err := os.ReadFile("../../docs/page.md")
	if err != nil {
		t.Fatal(err)
	}
	eachMember(reflect.TypeFor[jsonExplanation](), map[reflect.Type]bool{}, func(name string) {
		if !bytes.Contains(documented, []byte("`"+name+"`")) {
			t.Errorf("docs/page.md does not name `%s` of explain's JSON", name)
		}
	})
	eachMember(reflect.TypeFor[whoAnswer](), map[reflect.Type]bool{}, func(name string) {
		if !bytes.Contains(documented, []byte("`"+name+"`")) {
			t.Errorf("docs/page.md does not name `%s` of /api/who", name)
		}
	})
}

// eachMember calls f with the name of every member of a type's JSON.
func eachMember(of reflect.Type, seen map[reflect.Type]bool, f func(string)) {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct || seen[of] {
		return
	}
	seen[of] = true
	for i := range of.NumField() {
		name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
		f(name)
		eachMember(of.Field(i).Type, seen, f)
	}
}

// TestExplainColour: on a terminal, unless NO_COLOR says otherwise.
func TestExplainColour(t *testing.T) {
	for _, test := range []struct {
		terminal bool
		noColor  string
		want     bool
	}{{true, "", true}, {true, "1", false}, {false, "", false}} {
		env := &environment{terminal: test.terminal, getenv: func(string) string { return test.noColor }}
		if env.colour() != test.want {
			t.Errorf("terminal %v, NO_COLOR=%q: colour %v", test.terminal, test.noColor, env.colour())
		}
	}
}

// TestSpoken durations.
func TestSpoken(t *testing.T) {
	for nanos, want := range map[int64]string{12e9: "12 s", 3e6: "3 ms", 0: "1 ms", 3661e9: "1 h 1 min", 86400e9: "1 d", 90061e9: "1 d 1 h", 3601e9: "1 h"} {
		if got := spoken(time.Duration(nanos)); got != want {
			t.Errorf("%d: %q, want %q", nanos, got, want)
		}
	}
}

// TestMissedBy how much a binding failed to drive an action.
func TestMissedBy(t *testing.T) {
	token := schemas.Key{Kind: schemas.KindToken, Namespace: "jti", Value: "t"}
	alice := schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: "alice@example.com"}
	a := &schemas.Action{Event: schemas.Event{TimeNanos: 100e9, Keys: []schemas.Key{token}}, Hops: []schemas.Hop{{Key: token}}, Frontier: token}
	for _, test := range []struct {
		b    schemas.Binding
		want string
	}{
		{schemas.Binding{FromNanos: 1e9, UntilNanos: 88e9}, "had ended 12 s before"},
		{schemas.Binding{FromNanos: 103e9}, "begins 3 s after"},
		{schemas.Binding{Relation: schemas.RelationRevoked, FromNanos: 99e9}, "was revoked 1 s before"},
		{schemas.Binding{Strength: schemas.StrengthStated}, "held at that time: a claim, which proves nothing"},
		{schemas.Binding{Relation: schemas.RelationRevoked, FromNanos: 101e9}, ""},
		{schemas.Binding{Relation: schemas.RelationGranted, FromNanos: 1e9}, ""},
	} {
		test.b.Child, test.b.Proof = token, schemas.MakeID(test.want)
		if test.b.Relation != schemas.RelationRevoked {
			test.b.Parent = alice
		}
		if got, _ := missed(a, test.b); got.Miss != test.want {
			t.Errorf("%+v: %q, want %q", test.b, got.Miss, test.want)
		}
	}
}
