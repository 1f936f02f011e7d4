package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"catena/schemas"
	"catena/sinks/jsonl"
)

// TestRealCloudTrail: keys minted and used in one file of real records lead to
// the identity that minted them, and the one file whose mint is missing says
// so. The same in any order, byte for byte.
func TestRealCloudTrail(t *testing.T) {
	files := map[string]bool{}
	for _, f := range realFiles(t) {
		files[f] = true
	}
	if len(files) == 0 {
		t.Skip("CATENA_SAMPLES is not set: no real records to read")
	}
	dir := filepath.Join(os.Getenv("CATENA_SAMPLES"), "cloudtrail-stratus")
	uses := 0
	for _, test := range []struct {
		file, key, parent, user string
		uses                    int
	}{
		{"aws.credential-access.ec2-get-password-data", "ASIANQQHHS551LWULIWD", "AKIAWOGXN38MFN92ING5", "user/christophe", 30},
		{"aws.defense-evasion.organizations-leave", "ASIA36EV31F1RB3OA8IG", "AKIADVISM0T50G52IF0D", "user/christophe", 1},
		{"aws.discovery.ec2-download-user-data", "ASIA4URVX2JM5MT0ZGK8", "AKIAMJ2320ZAXACWCPJI", "user/christophe", 15},
		{"aws.execution.ec2-launch-unusual-instances", "ASIA9F6MXE9HSYOXYQOS", "AKIAR7ISFR69YWROPYAN", "user/christophe", 1},
		{"aws.persistence.sts-federation-token", "ASIASTJKC5GCM7ZE6LUP", "AKIA6V1GNZTT65XQH36M", "user/stratus-red-team-user-federation-user", 1},
	} {
		n := 0
		for _, a := range stitchRecords(t, realRecords(t, filepath.Join(dir, test.file+".json"))) {
			if a.FirstKey(schemas.KindToken).Value != test.key {
				continue
			}
			n++
			parent := slices.ContainsFunc(a.Hops, func(h schemas.Hop) bool { return h.Key.Value == test.parent })
			if a.Grade != schemas.GradeProven || !strings.HasSuffix(a.Root.Value, test.user) || !parent {
				t.Errorf("%s: %s: %v %v root %v hops %s", test.file, a.Event.Action, a.Grade, a.Reason, a.Root, hopText(a))
			}
		}
		if n != test.uses {
			t.Errorf("%s: %d uses of %s, want %d", test.file, n, test.key, test.uses)
		}
		uses += n
	}
	t.Logf("%d of 48 uses lead to the identity that minted the key", uses)

	stolen := 0
	for _, a := range stitchRecords(t, realRecords(t, filepath.Join(dir, "aws.credential-access.ec2-steal-instance-credentials.json"))) {
		if !strings.HasPrefix(a.FirstKey(schemas.KindToken).Value, "ASIA") {
			continue
		}
		stolen++
		if a.Grade == schemas.GradeProven || a.Reason == schemas.ReasonComplete {
			t.Errorf("stolen key: %s: %v %v", a.Event.Action, a.Grade, a.Reason)
		}
	}
	if stolen == 0 {
		t.Error("no use of the stolen key was seen")
	}

	for f := range files {
		records := realRecords(t, f)
		want := storyLines(t, records, 50)
		rng := rand.New(rand.NewPCG(7, uint64(len(f))))
		rng.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
		if got := storyLines(t, records, 3); got != want {
			t.Errorf("%s: another order gives other rows: %s", f, firstDifference(want, got))
		}
	}
}

// realRecords reads a file of records.
func realRecords(t *testing.T, file string) []schemas.Record {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	records := make([]schemas.Record, 0, len(list))
	for i, v := range list {
		records = append(records, schemas.Record{Topic: filepath.Base(file), Offset: int64(i), Value: v})
	}
	return records
}

func stitchRecords(t *testing.T, records []schemas.Record) []*schemas.Action {
	t.Helper()
	rows, _ := stitchAll(t, records, 10)
	if len(rows) != len(records) {
		t.Errorf("%d rows of %d records", len(rows), len(records))
	}
	return slices.SortedFunc(maps.Values(rows), actionOrder)
}

// TestStitchCommand runs the command over a story's files and over a shuffled
// copy of them: the same lines but for offsets and processing times.
func TestStitchCommand(t *testing.T) {
	dir := t.TempDir()
	lines := map[bool][]byte{}
	for _, shuffled := range []bool{false, true} {
		var files []string
		for _, name := range storyFiles() {
			if !strings.Contains(name, "1-agent") {
				continue
			}
			var values [][]byte
			err := eachStoryRecord(name, func(v []byte) error {
				values = append(values, bytes.ReplaceAll(v, []byte("\n"), nil))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if shuffled {
				slices.Reverse(values)
			}
			file := filepath.Join(dir, topicOf(name))
			if err := os.WriteFile(file, bytes.Join(values, []byte("\n")), 0o600); err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
		var stdout, stderr bytes.Buffer
		env := &environment{stdout: &stdout, stderr: &stderr, getenv: os.Getenv}
		if code := run(t.Context(), env, append([]string{"stitch"}, files...)); code != exitOK {
			t.Fatalf("exit code %d: %s", code, stderr.String())
		}
		if strings.Contains(stdout.String()+stderr.String(), "FIXTURESECRET") {
			t.Error("a secret stands in the output")
		}
		lines[shuffled] = offsets.ReplaceAll(processingTimes.ReplaceAll(stdout.Bytes(), nil), nil)
		for line := range bytes.Lines(stdout.Bytes()) {
			if _, err := jsonl.Decode(line); err != nil {
				t.Fatalf("a line cannot be read back: %v", err)
			}
		}
	}
	if n := bytes.Count(lines[false], []byte("\n")); n < 40 {
		t.Errorf("%d lines, want one for each action", n)
	}
	if !bytes.Equal(lines[false], lines[true]) {
		t.Error(firstDifference(string(lines[false]), string(lines[true])))
	}
}

// kubernetesTruth is what is known of a real audit log. Line numbers count
// from 0.
type kubernetesTruth struct {
	Mints []struct {
		Credential string                      `json:"credential_id"`
		Line       int64                       `json:"mint_line"`
		Initiator  string                      `json:"initiator"`
		For        string                      `json:"for"`
		BoundTo    *struct{ Kind, UID string } `json:"bound_to"`
		Uses       []int64                     `json:"use_lines"`
		Reviews    []int64                     `json:"tokenreview_lines"`
	} `json:"mints"`
	Impersonation []struct {
		Line         int64  `json:"line"`
		Actor        string `json:"real_actor"`
		Impersonated string `json:"impersonated"`
	} `json:"impersonation"`
	Refused      []int64 `json:"refused_impersonation_lines"`
	OtherAddress []int64 `json:"stolen_token_lines_other_source_ip"`
	Forwarded    []int64 `json:"spoofed_forwarded_for_lines"`
	SharedIDs    []struct {
		AuditID string   `json:"auditID"`
		Lines   []int64  `json:"lines"`
		Users   []string `json:"users"`
	} `json:"one_auditID_two_requests"`
}

// TestRealKubernetes: every use of a token in a real audit log leads to who
// minted it, or to the pod that it was minted for; the copy used from another
// address, the forged address and the shared audit id are told apart.
func TestRealKubernetes(t *testing.T) {
	truth, records := realKubernetes(t)
	byLine := map[int64]*schemas.Action{}
	rows, _ := stitchAll(t, records, 16)
	for _, a := range rows {
		byLine[a.Evidence.Offset] = a
	}
	t.Run("mints and uses", func(t *testing.T) { realKubernetesUses(t, truth, byLine) })
	t.Run("impersonation", func(t *testing.T) {
		for _, x := range truth.Impersonation {
			a := byLine[x.Line]
			if a == nil || a.Root.Value != x.Actor || a.Grade != schemas.GradeProven || a.Authority != x.Impersonated || a.Flags&schemas.FlagImpersonated == 0 {
				t.Errorf("line %d: want %s as %s, have %s", x.Line, x.Actor, x.Impersonated, rowText(a))
			}
		}
		refused := 0
		for _, line := range truth.Refused {
			if !bytes.Contains(records[line].Value, []byte("cannot impersonate")) {
				continue // a role whose name says so was looked for and not found
			}
			refused++
			a := byLine[line]
			if a == nil || a.Outcome != schemas.OutcomeDenied || a.Authority != "" || a.Flags&schemas.FlagImpersonated != 0 || a.Grade != schemas.GradeProven {
				t.Errorf("line %d: want a refusal that is the caller's own, have %s", line, rowText(a))
			}
		}
		if len(truth.Impersonation) < 6 || refused < 2 {
			t.Errorf("only %d impersonations and %d refusals were looked at", len(truth.Impersonation), refused)
		}
	})
	t.Run("one audit id, two requests", func(t *testing.T) {
		for _, x := range truth.SharedIDs {
			users := map[string]schemas.ID{}
			for i, line := range x.Lines {
				if a := byLine[line]; a != nil {
					users[x.Users[i]] = a.ID
				}
			}
			if len(users) != 2 || users[x.Users[0]] == users[x.Users[len(x.Users)-1]] {
				t.Errorf("%s: %d rows of its requests are told apart, want 2", x.AuditID, len(users))
			}
		}
	})
	t.Run("nobody was authenticated", func(t *testing.T) {
		n := 0
		for line, r := range records {
			if !bytes.Contains(r.Value, []byte(`"code":401`)) {
				continue
			}
			n++
			a := byLine[int64(line)]
			if a == nil || a.Outcome != schemas.OutcomeDenied || a.Grade != schemas.GradeUnattributed || !a.Root.IsZero() {
				t.Errorf("line %d: want a refusal of nobody, have %s", line, rowText(a))
			}
		}
		if n < 3 {
			t.Errorf("only %d refusals were looked at", n)
		}
	})
}

func realKubernetes(t *testing.T) (truth kubernetesTruth, records []schemas.Record) {
	t.Helper()
	dir := os.Getenv("CATENA_SAMPLES")
	if dir == "" {
		t.Skip("CATENA_SAMPLES is not set: no real records to read")
	}
	dir = filepath.Join(dir, "real-software", "kubernetes")
	text, err := os.ReadFile(filepath.Join(dir, "truth.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &truth); err != nil {
		t.Fatal(err)
	}
	audit, err := os.ReadFile(filepath.Join(dir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(audit) {
		records = append(records, schemas.Record{Topic: "kubernetes", Offset: int64(len(records)), Value: bytes.TrimSpace(line)})
	}
	return truth, records
}

func realKubernetesUses(t *testing.T, truth kubernetesTruth, byLine map[int64]*schemas.Action) {
	uses := 0
	for _, m := range truth.Mints {
		jti := strings.TrimPrefix(m.Credential, "JTI=")
		root := m.Initiator
		if m.BoundTo != nil && m.BoundTo.Kind == "Pod" {
			root = m.BoundTo.UID
		}
		if a := byLine[m.Line]; a == nil || a.Grade != schemas.GradeProven || !strings.HasSuffix(a.Root.Value, strings.TrimPrefix(m.Initiator, "system:node:")) ||
			a.Class != schemas.ClassIssuance || attribute(a, "minted_jti") != jti || attribute(a, "for") != m.For {
			t.Errorf("line %d: want the mint of %s by %s for %s, have %s", m.Line, jti, m.Initiator, m.For, rowText(a))
		}
		for _, line := range m.Reviews {
			if a := byLine[line]; a == nil || attribute(a, "reviewed_jti") != jti {
				t.Errorf("line %d: want a review of %s, have %s", line, jti, rowText(a))
			}
		}
		for _, line := range m.Uses {
			a := byLine[line] // nil for the stage RequestReceived, whose outcome comes in another line
			if a == nil {
				continue
			}
			uses++
			if a.Grade != schemas.GradeProven || a.Root.Value != root {
				t.Errorf("line %d, %s: %v, root %v, want %s", line, m.Credential, a.Grade, a.Root, root)
			}
			if got, want := a.Flags&schemas.FlagNewSourceIP != 0, slices.Contains(truth.OtherAddress, line); got != want {
				t.Errorf("line %d: new_source_ip %v, want %v", line, got, want)
			}
			if got, want := a.Flags&schemas.FlagSpoofableSourceIP != 0, slices.Contains(truth.Forwarded, line); got != want {
				t.Errorf("line %d: spoofable_source_ip %v, want %v", line, got, want)
			}
		}
	}
	if uses < 20 {
		t.Errorf("only %d uses were looked at", uses)
	}
	t.Logf("%d uses of %d minted tokens", uses, len(truth.Mints))
}

func attribute(a *schemas.Action, name string) string {
	for _, x := range a.Attributes {
		if x.Name == name {
			return x.Value
		}
	}
	return ""
}

// rowText is a row, or that there is none.
func rowText(a *schemas.Action) string {
	if a == nil {
		return "no row"
	}
	return strings.TrimSpace(edgeRow(a, nil)) + "; authority " + a.Authority
}
