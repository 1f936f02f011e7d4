package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"catena/schemas"
	"catena/schemas/sources"
	"catena/sinks"
	"catena/sinks/clickhouse"
)

// hostile are names that somebody who is being watched might choose.
var hostile = []string{
	`<script>window.hacked=1</script>`, `"><img src=x onerror="window.hacked=1">`, `' onmouseover='window.hacked=1`, `javascript:window.hacked=1`,
	`</title><svg onload=window.hacked=1>`, "\u202egpj.exe\x1b[2J", `{{.}}`, `</script><script>window.hacked=1</script>`, `'); DROP TABLE actions; --`,
}

var hostileChain = schemas.MakeID("hostile chain")

// hostileTables hold one chain in which every text of a log is hostile.
func hostileTables(t *testing.T) *clickhouse.Store {
	t.Helper()
	store := openTest(t, database(t), "page_hostile")
	if _, err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	batch := sinks.Batch{Progress: []schemas.Progress{{Topic: "okta", Offset: 1}}}
	for i, evil := range hostile {
		root := schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: hostile[0]}
		token := schemas.Key{Kind: schemas.KindToken, Namespace: "jti", Value: evil}
		a := &schemas.Action{Event: schemas.Event{ID: schemas.MakeID("hostile", string(rune('0'+i))), Source: "okta.system", TimeNanos: 1772442000e9 + int64(i)*1e9,
			Class: schemas.ClassToolCall, Action: evil, Resource: evil, Tenant: evil, Actor: root, ActorName: evil, Keys: []schemas.Key{token}, Authority: evil, Scopes: evil,
			SourceIP: evil, UserAgent: evil, Attributes: []schemas.Attribute{{Name: evil, Value: evil}}, Flags: schemas.FlagDivergent,
			Evidence: schemas.Evidence{Topic: evil, Offset: int64(i)}},
			Grade: schemas.GradeAmbiguous, Reason: schemas.ReasonSeveralCandidates, ChainID: hostileChain, Root: root, RootName: hostile[0], GrantID: evil, PolicyID: evil,
			PolicyDecision: schemas.VerdictDeny, Version: 1}
		a.Hops = []schemas.Hop{{Key: root, Name: evil}, {Key: token, Name: evil, Relation: schemas.RelationIssued, Strength: schemas.StrengthWeak, Proof: a.ID, AtNanos: a.TimeNanos}}
		a.Candidates = []schemas.Candidate{{Parent: token, Root: root, Proof: a.ID}}
		batch.Actions = append(batch.Actions, a)
	}
	if err := store.Write(t.Context(), &batch); err != nil {
		t.Fatal(err)
	}
	return store
}

// fetch asks the page and returns the status and the answer.
func fetch(t *testing.T, base, path string) (int, string, http.Header) {
	t.Helper()
	answer, err := http.Get(base + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text), answer.Header
}

// TestPageAnswers: each page says what it is about, and says so under the
// strict policy.
func TestPageAnswers(t *testing.T) {
	base := servePage(t, demoTables(t)).URL
	for path, want := range map[string][]string{
		"/":                                    {"Grace Ito", "denied_but_done", "settled before"},
		"/findings":                            {"divergent", "privileged_without_mfa"},
		"/search?q=alice.moreau%40example.com": {"Chains that", "Alice Moreau", "email:alice.moreau@example.com"},
		"/search?q=102fixtureALICEdesk1":       {"role=\"tree\"", "s3:GetObject", "cloudtrail/1@2"},
		"/search?q=no-such-thing":              {"Nothing found"},
		"/search?q=ASIAFIXTUREIRSA00002&part=main": {"aws.access_key:ASIAFIXTUREIRSA00002"},
		"/static/page.css":                         {"prefers-color-scheme"},
		"/static/page.js":                          {"use strict"},
	} {
		status, text, header := fetch(t, base, path)
		if status != http.StatusOK {
			t.Errorf("%s: status %d: %.300s", path, status, text)
		}
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s lacks %q", path, w)
			}
		}
		if p := header.Get("Content-Security-Policy"); !strings.HasPrefix(p, "default-src 'none'") || strings.Contains(p, "unsafe") {
			t.Errorf("%s: policy %q", path, p)
		}
		if strings.Contains(text, "FIXTURESECRET") {
			t.Errorf("%s shows a secret", path)
		}
	}
}

// TestPageRefuses what it does not serve, with the right status and a sentence.
func TestPageRefuses(t *testing.T) {
	base := servePage(t, demoTables(t)).URL
	for path, want := range map[string]struct {
		status int
		text   string
	}{
		"/chain/none": {400, "is a UUID"}, "/chain/01234567-89ab-8cde-8f01-23456789abcd": {404, "there is no chain"},
		"/event/01234567-89ab-8cde-8f01-23456789abcd": {404, "no row of this event"}, "/nowhere": {404, "start from /"}, "/static/frame.html": {404, "no such file"},
		"/api/who": {400, "kind:namespace:value"}, "/api/who?key=nonsense": {400, "kind:namespace:value"}, "/api/who?key=token:jti:never-seen": {404, `"known":false`},
		"/api/explain": {400, "want ?what="}, "/api/explain?what=no-such-thing": {404, "nothing found"},
		"/search?q=" + strings.Repeat("a", 600): {400, "longer than"},
	} {
		status, text, _ := fetch(t, base, path)
		if status != want.status || !strings.Contains(text, want.text) {
			t.Errorf("%s: %d %.200s, want %d and %q", path, status, text, want.status, want.text)
		}
	}
	answer, err := http.Post(base+"/", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", answer.StatusCode)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = "rebound.example.com"
	if answer, err = http.DefaultClient.Do(request); err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("a foreign name for the loopback device: %d", answer.StatusCode)
	}
}

// TestPageEscapes what logs say, on every page.
func TestPageEscapes(t *testing.T) {
	store := hostileTables(t)
	base := servePage(t, store).URL
	paths := []string{"/", "/findings", "/chain/" + hostileChain.String(), "/chain/" + hostileChain.String() + "?all=1&row=e-" + schemas.MakeID("hostile", "1").String()}
	for _, h := range hostile {
		paths = append(paths, "/search?q="+url.QueryEscape(h), "/api/explain?what="+url.QueryEscape(h))
	}
	check := func(what, text string) {
		for _, bad := range []string{"<script>window", "<img src=x", "<svg onload", "\u202e", "\x1b"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s holds %q as it stands in the log", what, bad)
			}
		}
	}
	for _, path := range paths {
		status, text, header := fetch(t, base, path)
		if status >= 500 {
			t.Errorf("%s: status %d: %.200s", path, status, text)
		}
		if strings.HasPrefix(header.Get("Content-Type"), "text/html") {
			check(path, text)
		}
	}
	set, err := sources.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"html", "text", "dot"} {
		e, err := (&asker{store: store, sources: set}).explain(t.Context(), hostileChain.String(), explainFlags{limit: 1, all: true})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := e.write(&environment{stdout: &out, getenv: func(string) string { return "" }}, explainFlags{format: format, all: true}); err != nil {
			t.Fatal(err)
		}
		if format == "html" {
			check("explain --format html", out.String())
		} else if strings.ContainsAny(out.String(), "\x1b\u202e") {
			t.Errorf("explain --format %s lets control characters through", format)
		}
	}
}

// TestWhoIsBehindWhatWasMinted: a key that was never used is followed upward by
// exact bindings, as long as there is no choice.
func TestWhoIsBehindWhatWasMinted(t *testing.T) {
	store := openTest(t, database(t), "page_who")
	if _, err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	key := func(kind schemas.Kind, value string) schemas.Key {
		return schemas.Key{Kind: kind, Namespace: "x", Value: value}
	}
	alice, bob := key(schemas.KindHuman, "alice@example.com"), key(schemas.KindHuman, "bob@example.com")
	session := key(schemas.KindSession, "s1")
	bind := func(child, parent schemas.Key, relation schemas.Relation, strength schemas.Strength) schemas.Binding {
		return schemas.Binding{Child: child, Parent: parent, Relation: relation, Strength: strength, FromNanos: 1772442000e9, Proof: schemas.MakeID(child.Value, parent.Value),
			ProofNanos: 1772442000e9, Source: "okta.system", Evidence: schemas.Evidence{Topic: "okta", Offset: 7}, Version: 1}
	}
	over := bind(key(schemas.KindToken, "over"), session, schemas.RelationIssued, schemas.StrengthExact)
	over.UntilNanos = 1772442001e9
	batch := sinks.Batch{Bindings: []schemas.Binding{
		bind(session, alice, schemas.RelationAuthenticated, schemas.StrengthExact),
		bind(key(schemas.KindToken, "t1"), session, schemas.RelationIssued, schemas.StrengthExact),
		bind(key(schemas.KindToken, "claimed"), alice, schemas.RelationIssued, schemas.StrengthStated),
		bind(key(schemas.KindToken, "torn"), alice, schemas.RelationIssued, schemas.StrengthExact),
		bind(key(schemas.KindToken, "torn"), bob, schemas.RelationIssued, schemas.StrengthExact),
		bind(key(schemas.KindToken, "gone"), session, schemas.RelationIssued, schemas.StrengthExact),
		bind(key(schemas.KindToken, "gone"), schemas.Key{}, schemas.RelationRevoked, schemas.StrengthExact), over,
		bind(key(schemas.KindToken, "ring1"), key(schemas.KindToken, "ring2"), schemas.RelationIssued, schemas.StrengthExact),
		bind(key(schemas.KindToken, "ring2"), key(schemas.KindToken, "ring1"), schemas.RelationIssued, schemas.StrengthExact),
	}}
	if err := store.Write(t.Context(), &batch); err != nil {
		t.Fatal(err)
	}
	base := servePage(t, store).URL
	for value, want := range map[string]string{
		"t1": "proven complete x:alice@example.com active 3", "gone": "proven complete x:alice@example.com revoked 3", "over": "proven complete x:alice@example.com expired 3",
		"claimed": "unattributed no_binding_seen  active 1", "torn": "ambiguous several_candidates  active 1", "ring1": "unattributed no_binding_seen  active 17",
	} {
		status, text, _ := fetch(t, base, "/api/who?key=token:x:"+value)
		var w whoAnswer
		if err := json.Unmarshal([]byte(text), &w); err != nil || status != http.StatusOK || w.Basis != "mint" {
			t.Fatalf("%s: %d %v %s", value, status, err, text)
		}
		if got := fmt.Sprint(w.Grade, " ", w.Reason, " ", w.Root.ID, " ", w.State, " ", len(w.Path)); got != want {
			t.Errorf("%s: %q, want %q", value, got, want)
		}
	}
}

// TestWhoIsBehind a key that was used.
func TestWhoIsBehind(t *testing.T) {
	base := servePage(t, demoTables(t)).URL
	for _, test := range []struct {
		key, root, grade, state, basis string
		flag                           string
	}{
		{"token:aws.access_key:ASIAFIXTUREIRSA00002", "k8s.sa:billing:billing-api", "proven", "active", "action", ""},
		{"token:jti:1b2c0000-0000-4000-8000-00000000aa01", "k8s.pod_uid:6c9852d6-d286-47db-8ed0-2d3cbbb3e45a", "proven", "", "action", "divergent"},
		{"session:okta:102fixtureALICEdesk1", "email:alice.moreau@example.com", "proven", "ended", "action", ""},
		{"session:gen_ai.conversation:conv-fixture-carol-0001", "email:carol.singh@example.com", "", "active", "action", ""},
	} {
		status, text, _ := fetch(t, base, "/api/who?key="+url.QueryEscape(test.key))
		var w whoAnswer
		if err := json.Unmarshal([]byte(text), &w); err != nil || status != http.StatusOK {
			t.Fatalf("%s: %d %v %s", test.key, status, err, text)
		}
		if w.Root.ID != test.root || test.grade != "" && w.Grade != test.grade || test.state != "" && w.State != test.state || w.Basis != test.basis || w.Event == nil || w.AsOf == "" {
			t.Errorf("%s: %s", test.key, text)
		}
		if test.flag != "" && !strings.Contains(strings.Join(w.Flags, ","), test.flag) {
			t.Errorf("%s: flags %v, want %s", test.key, w.Flags, test.flag)
		}
	}
}

// TestAxis: places ascend with time, stay on the axis, and near times do not
// fall onto one another.
func TestAxis(t *testing.T) {
	at := func(seconds ...int64) *tree {
		tr := &tree{}
		for _, s := range seconds {
			tr.rows = append(tr.rows, &schemas.Action{Event: schemas.Event{TimeNanos: s * 1e9}})
		}
		return tr
	}
	x := newAxis(at(0, 1, 2, 86400, 86401))
	last := -1.0
	for _, s := range []int64{-5, 0, 1, 2, 3600, 86400, 86401, 90000} {
		p := x.position(s * 1e9)
		if p < last || p < 0 || p > 1 {
			t.Errorf("second %d lies at %v after %v", s, p, last)
		}
		last = p
	}
	if d := x.position(1e9) - x.position(0); d < 0.1 {
		t.Errorf("a second apart in a day is %v of the width: cannot be told apart", d)
	}
	if ticks, gaps := x.ticks(); len(ticks) < 2 || len(gaps) == 0 || gaps[0].Text == "" {
		t.Errorf("ticks %v, gaps %v", ticks, gaps)
	}
	if p := newAxis(at(7)).position(7e9); p != 0.5 {
		t.Errorf("one time alone lies at %v, want the middle", p)
	}
	newAxis(&tree{}).ticks() // nothing at all does no harm
}

// TestLongChainIsCut, and says so.
func TestLongChainIsCut(t *testing.T) {
	q := &asker{store: demoTables(t)}
	found, err := q.find(t.Context(), "session:okta:102fixtureALICEdesk1", 1)
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	c, err := q.chain(t.Context(), found[0].Chain, 5, true)
	if err != nil {
		t.Fatal(err)
	}
	if v := viewChain(c, linker{}, ""); !c.cut || !v.Cut || v.Actions != 5 {
		t.Errorf("cut %v, %d actions", c.cut, v.Actions)
	}
	if c, err = q.chain(t.Context(), found[0].Chain, 23, true); err != nil || c.cut {
		t.Errorf("a chain of just the limit is not cut: %v %v", c.cut, err)
	}
}
