package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSourcesList(t *testing.T) {
	code, out, _ := runCommandLine(t, "", "sources", "list", "--format", "json")
	var list []listed
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != exitOK || len(list) < 7 {
		t.Fatalf("exit code %d, %d sources, %v", code, len(list), err)
	}
	_, table, _ := runCommandLine(t, "", "sources", "list")
	byName := map[string]listed{}
	for _, s := range list {
		byName[s.Name] = s
		if s.Vendor == "" || s.Title == "" || !strings.HasPrefix(s.Reference, "https://") {
			t.Errorf("source %s lacks vendor, title or reference", s.Name)
		}
		if len(s.Carries)+len(s.Mints)+len(s.Binds)+len(s.Grants) == 0 {
			t.Errorf("source %s says nothing that joins with anything", s.Name)
		}
		if !strings.Contains(table, s.Name) {
			t.Errorf("the table lacks %s", s.Name)
		}
	}
	for _, c := range []struct {
		source, what, key string
		list              []string
	}{
		{"okta.system", "mints", "session:okta", byName["okta.system"].Mints},
		{"okta.system", "mints", "token:jti", byName["okta.system"].Mints},
		{"okta.system", "mints", "token:okta.api_token", byName["okta.system"].Mints},
		{"okta.system", "carries", "token:okta.api_token", byName["okta.system"].Carries},
		{"okta.system", "ends", "session:okta", byName["okta.system"].Ends},
		{"aws.cloudtrail", "mints", "token:aws.access_key", byName["aws.cloudtrail"].Mints},
		{"kubernetes.audit", "mints", "token:jti", byName["kubernetes.audit"].Mints},
		{"kubernetes.audit", "binds", "token:x509.sha256", byName["kubernetes.audit"].Binds},
		{"teleport.audit", "grants", "grant:teleport.request", byName["teleport.audit"].Grants},
		{"otel.genai", "classes", "tool_call", byName["otel.genai"].Classes},
	} {
		if !slices.Contains(c.list, c.key) {
			t.Errorf("%s %s %q, which lacks %s", c.source, c.what, c.list, c.key)
		}
	}
	if slices.Contains(byName["kubernetes.audit"].Mints, "token:x509.sha256") {
		t.Error("that kubernetes.audit tells whose a certificate is does not mean that it mints it")
	}
	if !byName["opa.decision"].Decides || byName["okta.system"].Decides {
		t.Error("opa.decision alone of the two tells decisions")
	}
}

func TestSourcesShow(t *testing.T) {
	code, out, _ := runCommandLine(t, "", "sources", "show", "okta.system")
	for _, want := range []string{
		"Okta System Log (Okta)", "uuid is there", "is told from others by {uuid}, {published}",
		"login        if eventType is one of user.session.start,", "session:okta:{authenticationContext.externalSessionId} ← human:email:{actor.alternateId|lower}  authenticated, exact, always",
		"token:jti:{target[type=access_token].id}  revoked",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("exit code %d, it lacks %q:\n%s", code, want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Error("colours, and it is no terminal")
	}
	if _, out, _ := runCommandLine(t, "", "sources", "show", "--yaml", "okta.system"); !strings.Contains(out, "name: okta.system\n") {
		t.Errorf("--yaml:\n%s", out)
	}
	if code, _, errs := runCommandLine(t, "", "sources", "show", "nobody"); code != exitUsage || !strings.Contains(errs, "sources list") {
		t.Errorf("an unknown name: exit code %d, %s", code, errs)
	}
}

func TestSourcesLint(t *testing.T) {
	dir := t.TempDir()
	good, bad, worse := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml"), filepath.Join(dir, "worse.yaml")
	const head = "name: mine\nvendor: me\ntitle: mine\nmatch: {a: present}\nid: [\"{a}\"]\ntime: \"{t}\"\n"
	write(t, good, strings.Replace(head, "mine", "okta.system", 1)+"keys: [\"token:mine:{a}\"]\n")
	write(t, bad, head+"keys:\n  - tocken:mine:{a}\n")
	write(t, worse, "name: [\n")
	code, out, errs := runCommandLine(t, "", "sources", "lint", good, bad, worse)
	for _, want := range []string{bad + ": line 8, column 5: keys[0]: \"tocken:mine:{a}\" is no key: want kind:namespace:value", worse + ": line 1, column 1: not YAML"} {
		if code != exitFailure || !strings.Contains(errs, want) {
			t.Errorf("exit code %d, it lacks %q:\n%s", code, want, errs)
		}
	}
	if !strings.Contains(out, good+": source okta.system is well formed: 0 rules; mints nothing; carries mine") || !strings.Contains(out, "replaces: true") {
		t.Errorf("of the good one it says\n%s", out)
	}
	if code, _, errs := runCommandLine(t, "", "sources", "lint", good); code != exitOK || errs != "" {
		t.Errorf("the good one alone: exit code %d, %s", code, errs)
	}
}

const firstLook = `{"hello":"world","n":1}
{"hello":"moon","n":2}
{"uuid":"0000e004-0000-4000-8000-000000000001","eventType":"user.session.start","published":"2026-03-02T08:55:41Z","actor":{"id":"x"}}
{"detail-type":"x","source":"y","detail":{"hello":"sun","n":3}}
{"uuid":"0000e004-0000-4000-8000-000000000002","eventType":"acme.new.kind","published":"2026-03-02T08:55:41Z","actor":{"id":"00u","type":"User","alternateId":"alice@example.com"},"outcome":{"result":"SUCCESS"},"authenticationContext":{"externalSessionId":"102fixtureFirstLook"}}
{broken
`

// TestSourcesTest: the first look at a topic tells what was not recognised,
// each mistake once, with a place and with the source that it comes nearest to.
func TestSourcesTest(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log.jsonl")
	write(t, log, firstLook)
	code, out, _ := runCommandLine(t, "", "sources", "test", log, "stories/3-jit/teleport.jsonl")
	for _, want := range []string{
		log + ": 6 records", "in envelopes 1 eventbridge", "okta.system 1 events", "classes 1 other", "no rule names 1 acme.new.kind",
		"keys 1 session:okta", "binds 1 session:okta ← human:email, authenticated, exact", "not decoded 5",
		"3 × unknown_format, first record 0, item 0", "its members are hello, n:", "nearest is okta.system, which also wants: actor.type is there, outcome.result is there",
		"1 × malformed, first record 5", "teleport.audit ", "grant:teleport.request",
	} {
		if plain := strings.Join(strings.Fields(out), " "); code != exitFound || !strings.Contains(plain, want) {
			t.Errorf("exit code %d, it lacks %q:\n%s", code, want, out)
		}
	}
	code, out, _ = runCommandLine(t, "", "sources", "test", "--format", "json", log)
	var reports []fileReport
	if err := json.Unmarshal([]byte(out), &reports); err != nil || code != exitFound || len(reports) != 1 {
		t.Fatalf("exit code %d, %v:\n%s", code, err, out)
	}
	if r := reports[0]; r.Records != 6 || r.Dead != 5 || r.Sources["okta.system"].Unclassified["acme.new.kind"] != 1 || len(r.Mistakes) != 3 || r.Mistakes[0].Count != 3 {
		t.Errorf("got %+v", r)
	}
	// Spans that are only links in the chain are no events of a class.
	if _, out, _ = runCommandLine(t, "", "sources", "test", "stories/1-agent/otlp_spans.jsonl"); !strings.Contains(out, "otel.genai 16 events") || !strings.Contains(out, "plain_span, first record") {
		t.Errorf("spans:\n%s", out)
	}
	if code, out, _ = runCommandLine(t, "", "sources", "test", "--events", "stories/3-jit/teleport.jsonl"); code != exitOK || !strings.Contains(out, "with   grant:teleport.request:") {
		t.Errorf("--events: exit code %d\n%s", code, out)
	}
}

// TestStitchTellsOfUnknownTypes: an event of a type that the source's rules do
// not know is a row of class other, and counted.
func TestStitchTellsOfUnknownTypes(t *testing.T) {
	_, out, errs := runCommandLine(t, firstLook, "stitch")
	if !strings.Contains(out, `"class":"other","action":"acme.new.kind"`) || !strings.Contains(errs, "1 of okta.system are of types that no rule names") {
		t.Errorf("got\n%s\n%s", out, errs)
	}
}

// catalogue names the formats that catena promises to understand.
const catalogue = `okta.system entra.signin entra.audit microsoft.graph microsoft.365 auth0 keycloak google.workspace teleport.audit
spire.server vault.audit linux.sshd linux.sudo postgres github.audit aws.cloudtrail gcp.audit azure.activity kubernetes.audit
otel.genai openinference openllmetry claude_code langfuse langsmith bedrock.invocation bedrock.agentcore anthropic.activity
openai.audit mcp.jsonrpc opa.decision envoy.access verifiedpermissions ocsf ecs`

// TestSourcesCatalogue: every promised source is there, has at least three
// golden files with events, and a fuzz target of its own.
func TestSourcesCatalogue(t *testing.T) {
	_, out, _ := runCommandLine(t, "", "sources", "list", "--format", "json")
	var list []listed
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	targets, err := os.ReadFile("../../ingest/fuzz_targets_test.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if !strings.Contains(string(readme), "| `"+s.Name+"` |") {
			t.Errorf("README.md has no row for %s", s.Name)
		}
		goldens, err := filepath.Glob(filepath.Join("..", "..", "schemas", "sources", s.Name, "testdata", "*.golden"))
		if err != nil {
			t.Fatal(err)
		}
		events := 0
		for _, file := range goldens {
			if text, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(text), "event ") {
				events++
			}
		}
		if events < 3 {
			t.Errorf("%s has %d golden files with events, and should have at least three", s.Name, events)
		}
		if !strings.Contains(string(targets), `fuzzSource(f, "`+s.Name+`")`) {
			t.Errorf("%s has no fuzz target", s.Name)
		}
	}
	for name := range strings.FieldsSeq(catalogue) {
		if !slices.ContainsFunc(list, func(s listed) bool { return s.Name == name }) {
			t.Errorf("%s is promised and not there", name)
		}
	}
}
