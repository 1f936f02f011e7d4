package main

import (
	"path/filepath"
	"strings"
	"testing"
)

const badgeYAML = `name: acme.badge
match: {door: present, badge: present}
id: ["{badge}", "{when}", "{door}"]
time: "{when|seconds}"
class: command
action: "open {door}"
outcome: "{granted|map('true'='success','false'='denied')}"
keys: ["session:acme.badge:{badge}"]
rules:
  - when: {granted: true, kiosk_session: present}
    makes:
      - child: session:acme.badge:{badge}
        parent: session:okta:{kiosk_session}
        relation: issued
        strength: exact
`

const badgeRecords = `{"badge":"badge-fixture-7","door":"vault","when":1772442060,"granted":true,"kiosk_session":"102fixtureKiosk"}
{"badge":"badge-fixture-7","door":"server room","when":1772442120,"granted":true}
{"badge":"badge-fixture-8","door":"server room","when":1772442180,"granted":false}
`

const kioskLogin = `{"uuid":"0000e005-0000-4000-8000-000000000001","eventType":"user.session.start","published":"2026-03-02T08:55:41.120Z","actor":{"id":"00ufixturebob","type":"User","alternateId":"bob@example.com","displayName":"Bob"},"outcome":{"result":"SUCCESS"},"authenticationContext":{"externalSessionId":"102fixtureKiosk"}}
`

// TestSourcesInventedFormat: a format that nobody has, in a folder of a user's own, is
// recognised, decoded and joined with an Okta session.
func TestSourcesInventedFormat(t *testing.T) {
	dir := t.TempDir()
	doors, okta := filepath.Join(dir, "doors.jsonl"), filepath.Join(dir, "okta.jsonl")
	write(t, doors, badgeRecords)
	write(t, okta, kioskLogin)
	write(t, filepath.Join(dir, "badge.yaml"), badgeYAML)
	if code, _, errs := runCommandLine(t, "", "stitch", okta, doors); code != exitFound || !strings.Contains(errs, "3 records could not be decoded") {
		t.Fatalf("without the source, exit code %d: %s", code, errs)
	}
	t.Setenv("CATENA_SOURCES_DIR", dir)
	code, out, errs := runCommandLine(t, "", "stitch", okta, doors)
	if code != exitOK {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	want := `["acme.badge","open vault","success","proven","complete","email:bob@example.com"]
["acme.badge","open server room","success","proven","complete","email:bob@example.com"]
["acme.badge","open server room","denied","unattributed","no_binding_seen",""]
`
	if got := jq(t, ".source,.action,.outcome,.grade,.reason,.root_id", out); !strings.HasSuffix(got, want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if _, list, _ := runCommandLine(t, "", "sources", "list"); !strings.Contains(list, "acme.badge") || !strings.Contains(list, "okta.system") {
		t.Errorf("sources list does not have both:\n%s", list)
	}
}

// TestSourcesMistake: no command starts with a source that has a mistake; the
// error names file, line, column and what to do, beside the other faults.
func TestSourcesMistake(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "badge.yaml")
	write(t, file, strings.Replace(badgeYAML, "relation: issued", "relation: isued", 1))
	t.Setenv("CATENA_SOURCES_DIR", dir)
	t.Setenv("CATENA_SKEW", "fast")
	for _, args := range [][]string{{"run"}, {"stitch"}, {"sources", "test", "stories/3-jit/teleport.jsonl"}} {
		code, _, errs := runCommandLine(t, "", args...)
		want := file + `: line 14, column 19: rules[0].makes[0].relation: "isued" is no relation; there are authenticated, issued,`
		if code != exitUsage || !strings.Contains(errs, want) || !strings.Contains(errs, "CATENA_SKEW") {
			t.Errorf("%q: exit code %d, it lacks %q:\n%s", args, code, want, errs)
		}
	}
}
