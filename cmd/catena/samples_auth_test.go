package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"catena/ingest"
	"catena/schemas"
)

// realLines reads a file of real records, one a line, as one partition.
func realLines(t *testing.T, topic string, path ...string) []schemas.Record {
	t.Helper()
	dir := os.Getenv("CATENA_SAMPLES")
	if dir == "" {
		t.Skip("CATENA_SAMPLES is not set: no real records to read")
	}
	text, err := os.ReadFile(filepath.Join(append([]string{dir, "real-software"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	var records []schemas.Record
	for line := range bytes.Lines(text) {
		records = append(records, schemas.Record{Topic: topic, Offset: int64(len(records)), Value: bytes.TrimSpace(line)})
	}
	return records
}

// rowsByLine are the final rows of records, by the line that each stands on.
func rowsByLine(t *testing.T, records []schemas.Record) map[int64]*schemas.Action {
	t.Helper()
	byLine := map[int64]*schemas.Action{}
	rows, _ := stitchAll(t, records, 16)
	for _, a := range rows {
		byLine[a.Evidence.Offset] = a
	}
	return byLine
}

// TestRealOpenBao: every use of every token in a real audit log leads to who
// logged in; a token that was wrapped to whoever wrapped it, not to whoever it
// was delivered to; a batch token and a revoked one by the token's own HMAC.
func TestRealOpenBao(t *testing.T) {
	records := realLines(t, "openbao", "openbao", "audit.jsonl")
	var truth struct {
		Tokens []struct {
			ClientToken string  `json:"client_token"`
			Accessor    *string `json:"accessor"`
			Mint        int64   `json:"mint_line"`
			Wrap        *int64  `json:"wrap_line"`
			Path        string  `json:"path"`
			Root        string  `json:"root"`
			Uses        []int64 `json:"use_lines"`
			Revoked     []int64 `json:"revoke_lines"`
			Metadata    map[string]string
		}
		Leases []struct {
			ID       string `json:"lease_id"`
			Line     int64
			Username string
		}
		WithoutID []int64 `json:"lines_without_request_id"`
	}
	text, err := os.ReadFile(filepath.Join(os.Getenv("CATENA_SAMPLES"), "real-software", "openbao", "truth.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &truth); err != nil {
		t.Fatal(err)
	}
	rows := rowsByLine(t, records)

	uses := 0
	for _, token := range truth.Tokens {
		want := baoRoot(token.Root, token.Metadata)
		for _, line := range append(slices.Clone(token.Uses), token.Mint) {
			a := rows[line]
			if strings.Contains(string(records[line].Value), `"type":"request"`) {
				if a != nil {
					t.Errorf("line %d: the line before a request was done is a row", line)
				}
				continue
			}
			if a == nil {
				t.Errorf("line %d: no row", line)
				continue
			}
			if line == token.Mint && token.Wrap != nil { // done with the token of whoever unwrapped it
				if !strings.HasSuffix(a.Root.Value, "/ci") {
					t.Errorf("line %d: unwrapped by %v, want the pipeline", line, a.Root)
				}
				continue
			}
			uses++
			if a.Grade != schemas.GradeProven || a.Root.Kind.String()+":"+a.RootName != want && a.Root.String() != want {
				t.Errorf("line %d, %s: %v (%v), root %v %q, want %s; hops %s", line, token.Path, a.Grade, a.Reason, a.Root, a.RootName, want, hopText(a))
			}
			// The use comes 12 ms after the revocation, within the clocks' skew: attributed, denied, and not flagged.
			if len(token.Revoked) > 0 && line > token.Revoked[0] && a.Outcome != schemas.OutcomeDenied {
				t.Errorf("line %d: %v, after the token was revoked", line, a.Outcome)
			}
		}
	}
	if uses < 80 {
		t.Errorf("only %d uses were looked at", uses)
	}
	t.Logf("%d uses and mints of %d tokens", uses, len(truth.Tokens))

	for _, line := range truth.WithoutID {
		if strings.Contains(string(records[line].Value), `"type":"response"`) && rows[line] == nil {
			t.Errorf("line %d has no request id, and no row", line)
		}
	}
	leased := map[string]string{}
	for _, e := range decodeAll(t, records) {
		for _, b := range e.Makes {
			if b.Child.Namespace == "vault.db_user" {
				leased[b.Child.Value] = b.Parent.Value
			}
		}
	}
	for _, lease := range truth.Leases {
		if leased[lease.Username] != lease.ID {
			t.Errorf("line %d: the leased user %s is bound to %q, want %s", lease.Line, lease.Username, leased[lease.Username], lease.ID)
		}
	}
}

// baoRoot is how the truth's root is written here.
func baoRoot(root string, meta map[string]string) string {
	switch method, name, _ := strings.Cut(root, ":"); {
	case root == "dev root token":
		return "service:root"
	case strings.HasPrefix(method, "auth/userpass/"):
		return "human:" + name
	case strings.HasPrefix(method, "auth/approle/"):
		return "service:ci"
	case strings.HasPrefix(method, "auth/jwt/"):
		return "service:k8s.sa:payments:" + meta["role"]
	case strings.HasPrefix(method, "auth/kubernetes/"):
		return "service:k8s.sa:payments:" + name
	default:
		return "service:spiffe.id:spiffe://reallogs.test/ns/payments/sa/agent-tools"
	}
}

// TestRealSSH: the logins by certificate and by key, the refusals, and the
// commands of sudo and su in the sessions that they began, out of a real
// journal. The line that a user wrote with logger is no login, and a key id
// that imitates the rest of the line is read as the key id that it is.
func TestRealSSH(t *testing.T) {
	records := realLines(t, "journal", "ssh", "journald.jsonl")
	rows := rowsByLine(t, records)
	type login struct{ account, keyID, serial string }
	logins, refused, commands := map[login]int{}, 0, 0
	for line, a := range rows {
		switch {
		case a.Class == schemas.ClassLogin && a.Outcome == schemas.OutcomeSuccess:
			logins[login{a.ActorName, attribute(a, "key_id"), attribute(a, "serial")}]++
		case a.Class == schemas.ClassLogin:
			refused++
			if a.Reason != schemas.ReasonFailedLogin && a.Reason != schemas.ReasonNoIdentity || a.Depth != 0 {
				t.Errorf("line %d: a refusal is %v, with a path of %d steps", line, a.Reason, a.Depth)
			}
		case a.Class == schemas.ClassCommand:
			commands += checkCommand(t, line, a, records[line].Value)
		}
	}
	want := map[login]int{
		{"alice", "", ""}: 2, // with a plain key
		{"alice", "alice@example.org/req-7f3c", "471100001"}:                               2,
		{"deploy", "ci-pipeline run 991", "471100004"}:                                     1,
		{"alice", "x (serial 1) CA ED25519 SHA256:AAAA from 10.9.8.7 port 1", "471100005"}: 1,
	}
	if !maps.Equal(logins, want) {
		t.Errorf("logins %v, want %v", logins, want)
	}
	const forged = 56
	if a := rows[forged]; a == nil || a.Class != schemas.ClassOther || a.Grade != schemas.GradeUnattributed {
		t.Errorf("line %d, which a user wrote, is %v", forged, a)
	}
	if refused < 5 || commands != 9 {
		t.Errorf("%d refusals and %d commands in sessions, want some and 9", refused, commands)
	}
}

// checkCommand holds the root of a command against the login of its audit
// session, and counts it if it has a session.
func checkCommand(t *testing.T, line int64, a *schemas.Action, record []byte) int {
	t.Helper()
	var journal struct {
		Session string `json:"_AUDIT_SESSION"`
	}
	if err := json.Unmarshal(record, &journal); err != nil {
		t.Fatal(err)
	}
	const account = "/alice"
	want := map[string]struct {
		root  string
		grade schemas.Grade
	}{
		"1": {account, schemas.GradeProven},             // a plain key: the account is what is known
		"2": {"alice@example.org", schemas.GradeStated}, // a certificate: its key id names her
		"4": {account, schemas.GradeStated},             // a certificate whose key id names nobody
		"5": {account, schemas.GradeProven},
		"6": {"alice@example.org", schemas.GradeStated}, // at the default log level
	}[journal.Session]
	if journal.Session == "" { // su by the machine's own scripts
		if a.Grade != schemas.GradeStated || a.Reason != schemas.ReasonNoKey {
			t.Errorf("line %d: %v, %v", line, a.Grade, a.Reason)
		}
		return 0
	}
	if a.Grade != want.grade || !strings.HasSuffix(a.Root.Value, want.root) {
		t.Errorf("line %d, session %s: %v, root %v, want %v %s; hops %s", line, journal.Session, a.Grade, a.Root, want.grade, want.root, hopText(a))
	}
	return 1
}

// TestRealPodInVault: the records of two systems together. A pod's token, which
// Kubernetes minted, logs in to OpenBao, which writes its id down: what the new
// token does is the pod's.
func TestRealPodInVault(t *testing.T) {
	bao := realLines(t, "openbao", "openbao", "audit.jsonl")
	rows, _ := stitchAll(t, append(realLines(t, "kubernetes", "kubernetes", "audit.jsonl"), bao...), 16)
	uses := 0
	for _, a := range rows {
		if a.Source != "vault.audit" || !slices.ContainsFunc(a.Hops, func(h schemas.Hop) bool { return h.Key.Namespace == "jti" }) {
			continue
		}
		uses++
		if a.Grade != schemas.GradeProven || a.Root.Kind != schemas.KindWorkload || a.Root.Value != "179e5722-abe5-491e-949d-efebc9b92ee6" {
			t.Errorf("line %d: %v, root %v, want the pod; hops %s", a.Evidence.Offset, a.Grade, a.Root, hopText(a))
		}
	}
	if uses != 2 { // the login and the read that follows
		t.Errorf("%d rows lead through the pod's token, want 2", uses)
	}
}

// TestRealSPIRE: every audit line of a server is one row, also those of a batch
// that share their request id; every certificate of the log is bound to its
// SPIFFE id by its serial; what an agent gives to a process is a row; nothing
// else is, and nothing is lost.
func TestRealSPIRE(t *testing.T) {
	server := realLines(t, "spire", "spire-1.9.6", "server.jsonl")
	rows := rowsByLine(t, server)
	serials := map[string]string{}
	for _, e := range decodeAll(t, server) {
		for _, b := range e.Makes {
			if b.Child.Namespace == "x509.serial" && b.Strength == schemas.StrengthExact {
				serials[b.Child.Value] = b.Parent.Value
			}
		}
	}
	audited, signed := 0, 0
	for i, rec := range server {
		var line struct {
			Type, Msg, Status string
			Caller            string `json:"caller_id"`
			SPIFFE            string `json:"spiffe_id"`
			Serial            string `json:"serial_num"`
		}
		if err := json.Unmarshal(rec.Value, &line); err != nil {
			t.Fatal(err)
		}
		a := rows[int64(i)]
		if (line.Type == "audit") != (a != nil) {
			t.Errorf("line %d, type %q: %s", i, line.Type, rowText(a))
		}
		if line.Serial != "" {
			signed++
			if got := serials["reallogs.test/"+line.Serial]; got != line.SPIFFE {
				t.Errorf("line %d: serial %s is bound to %q, want %s", i, line.Serial, got, line.SPIFFE)
			}
		}
		if a == nil {
			continue
		}
		audited++
		if line.Caller != "" && (a.Grade != schemas.GradeProven || a.Root.Value != line.Caller) {
			t.Errorf("line %d: %v, root %v, want %s", i, a.Grade, a.Root, line.Caller)
		}
		if failed := line.Status == "error"; failed != (a.Outcome != schemas.OutcomeSuccess) {
			t.Errorf("line %d: status %s, outcome %v", i, line.Status, a.Outcome)
		}
	}
	if audited < 290 || signed < 30 {
		t.Errorf("only %d audit lines and %d certificates were looked at", audited, signed)
	}
	t.Logf("%d audit lines, %d certificates", audited, signed)

	given, refused := 0, 0
	for _, a := range rowsByLine(t, realLines(t, "spire-agent", "spire-1.9.6", "agent.jsonl")) {
		switch {
		case a.Outcome == schemas.OutcomeSuccess && a.Grade == schemas.GradeProven && strings.HasPrefix(a.Root.Value, "spiffe://reallogs.test/ns/"):
			given++
		case a.Outcome == schemas.OutcomeDenied && a.Grade == schemas.GradeUnattributed:
			refused++
		default:
			t.Errorf("agent, line %d: %s", a.Evidence.Offset, rowText(a))
		}
	}
	if given != 4 || refused != 1 {
		t.Errorf("%d identities given to processes and %d refused, want 4 and 1", given, refused)
	}
}

// decodeAll are the events of records, also those that are no rows.
func decodeAll(t *testing.T, records []schemas.Record) []schemas.Event {
	t.Helper()
	st, err := newStitcher(testConfig(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var out ingest.Decoded
	for i := range records {
		st.decoders[0].Decode(&out, &records[i])
	}
	if len(out.Dead) > 0 {
		t.Errorf("%d dead letters, the first: %s", len(out.Dead), out.Dead[0].Error)
	}
	return out.Events
}
