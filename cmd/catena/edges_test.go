package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"catena/ingest"
	"catena/schemas"
	"catena/sinks"
)

// -update writes the wants of testdata/edges again, for a person to read.
var update = flag.Bool("update", false, "write want, want_mint and want_twin of testdata/edges again")

// An edge is a place where two records join: a key that one of them mints or
// binds and the other uses. Each file of testdata/edges shows one:
//
//	A sentence or two on what is joined with what, and why it may be.
//
//	edge: session:okta exact proven
//
//	-- mint.jsonl --       raw records, one a line, that mint or bind the key
//	-- use.jsonl --        raw records that use it
//	-- want --             the rows of use.jsonl, see edgeRow
//	-- want_mint --        those of mint.jsonl, where they say something; may be left out
//	-- twin.jsonl --       the same uses with the value redacted, or out of validity, or of another scope
//	-- twin_mint.jsonl --  where the twin needs another mint; may be left out
//	-- want_twin --        the rows of twin.jsonl
//
// A line "# topic NAME" says from which topic the lines after it come; other
// lines with # are remarks. The edge lines say how some row of use.jsonl must
// join, in the words that edgeRow writes after "by": the kind and namespace of
// the key (or cause, policy or grant), the strength and the row's grade. They
// are held apart from the wants, so that -update cannot lose a join; and
// no row of the twin may join at all.

// edgeCatalogue names the edges that have to be shown, and the file of each.
var edgeCatalogue = []struct{ file, what string }{
	{"aws_access_key", "a minted AWS key and its use in CloudTrail"},
	{"aws_access_key_eks", "an AWS key and its use on EKS (user.extra.accessKeyId)"},
	{"aws_access_key_ocsf", "a minted AWS key and its use as an OCSF credential_uid"},
	{"aws_shared_event", "the two accounts' copies of one cross-account AssumeRole"},
	{"aws_console_session", "a console login and its keys, which nothing mints in the log (creationDate)"},
	{"aws_role_session", "a role session by its ARN"},
	{"aws_fas", "a service calling on behalf of a user's own call"},
	{"aws_workload", "an instance and the keys minted for it"},
	{"saml_assertion", "a SAML assertion at the identity provider and at AssumeRoleWithSAML"},
	{"oidc_sub_github", "a GitHub run and the AWS key of its OIDC subject"},
	{"oidc_sub_k8s", "a Kubernetes service account and the AWS key of its OIDC subject"},
	{"oidc_sub_gcp", "an OIDC subject and its Google Cloud principalSubject"},
	{"oidc_sub_teleport", "a GitHub run and the Teleport bot that joined with its token"},
	{"k8s_jti", "a Kubernetes token minted and used"},
	{"k8s_pod_uid", "a pod in Kubernetes audit and in telemetry"},
	{"entra_uti_activity", "an Entra token and its use in Azure Activity (claims.uti)"},
	{"entra_uti_graph", "an Entra token and its use in Microsoft Graph (signInActivityId)"},
	{"entra_uti_365", "an Entra token and its use in Microsoft 365 (UniqueTokenId)"},
	{"entra_sid", "an interactive sign-in and what follows in its session"},
	{"entra_credential", "an application's secret and what was done with the token it got"},
	{"entra_managed_identity", "a machine's identity at its sign-in and in Azure Activity"},
	{"entra_pim", "a privileged role activated, and what the person did in its window"},
	{"azure_sas", "a shared access signature and the account key that signed it"},
	{"gcp_sa", "GenerateAccessToken and the use of the service account"},
	{"gcp_sa_key", "a service account key created and used"},
	{"gcp_pam", "a privileged grant, and what the person did in its window"},
	{"okta_session", "an Okta session started and used"},
	{"okta_session_ecs", "an Okta session and what followed in it as an ECS event"},
	{"okta_api_token", "an Okta API token created and used"},
	{"auth0_jti", "an Auth0 token issued and used"},
	{"auth0_refresh", "a refresh token's family and a token got with it"},
	{"auth0_act", "a token exchanged on behalf, through its actors to the person"},
	{"keycloak_sid", "a Keycloak session and what follows in it"},
	{"keycloak_jti", "a Keycloak token issued, refreshed and used"},
	{"vault_accessor", "a Vault token minted and used"},
	{"vault_lease", "a Vault lease and its renewal"},
	{"teleport_sid", "a Teleport session and its commands"},
	{"teleport_request", "a Teleport access request and the session under it"},
	{"spiffe_id", "an SVID issued and its SPIFFE id as a peer"},
	{"spiffe_serial", "an X.509 SVID by its serial"},
	{"github_token", "a GitHub token created and used (hashed_token)"},
	{"trace_span", "a span and its child"},
	{"mcp_call", "the two sides of an MCP call in a session"},
	{"mcp_traceparent", "a span and the MCP message that it sent"},
	{"token_on_span", "a token granted, and captured on a span"},
	{"anthropic_api_key", "an API key of Claude's console created and used"},
	{"openai_api_key", "an API key of OpenAI's platform created and used"},
	{"agent_decision", "a tool call and what was decided on it"},
	{"agent_conversation", "a conversation and the calls in it"},
	{"agent_tool_call", "a tool call by the model's id of it"},
	{"agent_prompt", "a prompt and what it led to"},
	{"http_x_request_id", "a request at the proxy and at the policy engine"},

	{"k8s_jti_vault_accessor", "a Kubernetes token and the Vault token that it logged in to (auth.metadata.jti)"},
	{"k8s_jti_token_review", "a Kubernetes token and the relying party that had it reviewed"},
	{"span_k8s_audit", "a span and the Kubernetes request it caused (audit-id and link)"},
	{"span_vault_request", "a span and the Vault request it caused (audited traceparent)"},
	{"span_opa", "a span and the policy decision on it (logged Traceparent)"},
	{"opa_decision_envoy", "a policy decision and the proxy's request that it was made for"},
	{"sshd_connection", "an sshd login and its disconnection, by address and port"},
	{"vault_client_token", "a Vault token without an accessor, by the HMAC of one device"},
	{"vault_ssh_serial", "an ssh certificate signed by Vault and the login with it"},
	{"sshd_audit_session", "an sshd login and the audit session of its child"},
	{"vault_database_user", "a database user leased by Vault and the statements it runs"},
	{"vault_conversation", "token metadata that names a conversation"},
}

// TestEdgeCatalogue fails for an edge that nobody shows, and for a file that
// the catalogue does not name.
func TestEdgeCatalogue(t *testing.T) {
	named := map[string]bool{}
	for _, e := range edgeCatalogue {
		named[edgeFile(e.file)] = true
		if _, err := os.Stat(edgeFile(e.file)); err != nil {
			t.Errorf("not shown: %s (%s)", e.file, e.what)
		}
	}
	files, err := filepath.Glob(edgeFile("*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !named[file] {
			t.Errorf("%s is not in the catalogue: add a line that says what it joins", file)
		}
	}
}

func edgeFile(name string) string { return filepath.Join("testdata", "edges", name+".txtar") }

// TestStitchEdges holds every file of testdata/edges: with the mint before the use,
// with the use before the mint, and record by record, the rows are the wanted.
func TestStitchEdges(t *testing.T) {
	files, err := filepath.Glob(edgeFile("*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no edges: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			testEdge(t, file, ar)
		})
	}
}

func testEdge(t *testing.T, file string, ar *txtar.Archive) {
	mint, use, twin := edgeSection(ar, "mint.jsonl"), edgeSection(ar, "use.jsonl"), edgeSection(ar, "twin.jsonl")
	twinMint := mint
	if s := edgeSection(ar, "twin_mint.jsonl"); s != "" {
		twinMint = s
	}
	for name, s := range map[string]string{"mint.jsonl": mint, "use.jsonl": use, "twin.jsonl": twin} {
		if s == "" {
			t.Fatalf("the section %s is missing", name)
		}
	}
	got, other := playEdge(t, mint, use), playEdge(t, twinMint, twin)

	wanted, joins := edgeLines(t, string(ar.Comment)), strings.Join(got.joins, "\n")
	for _, w := range wanted {
		if !slices.Contains(got.joins, w) {
			t.Errorf("no row of use.jsonl joins by %q; there are:\n%s", w, joins)
		}
	}
	if len(other.joins) > 0 {
		t.Errorf("the twin joins, and must not:\n%s\n%s", strings.Join(other.joins, "\n"), other.use)
	}
	sections := map[string]string{"want": got.use, "want_twin": other.use}
	if edgeSection(ar, "want_mint") != "" {
		sections["want_mint"] = got.mint
	}
	if *update {
		rewriteEdge(t, file, ar, sections)
		return
	}
	for name, rows := range sections {
		if want := edgeSection(ar, name); want != rows {
			t.Errorf("%s differs; go test ./cmd/catena -run Edges -update writes it again\ngot:\n%s\nwant:\n%s", name, rows, want)
		}
	}
}

// edgeLines are the "edge:" lines of the text on top.
func edgeLines(t *testing.T, text string) (out []string) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "edge: "); ok {
			out = append(out, strings.TrimSpace(rest))
		}
	}
	if len(out) == 0 {
		t.Error(`there is no line "edge: kind:namespace strength grade" that says how it must join`)
	}
	return out
}

func edgeSection(ar *txtar.Archive, name string) string {
	for _, f := range ar.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

// rewriteEdge replaces the sections, and appends those that are new.
func rewriteEdge(t *testing.T, file string, ar *txtar.Archive, with map[string]string) {
	t.Helper()
	for _, name := range []string{"want", "want_mint", "want_twin"} {
		rows, ok := with[name]
		if !ok {
			continue
		}
		i := slices.IndexFunc(ar.Files, func(f txtar.File) bool { return f.Name == name })
		if i < 0 {
			ar.Files = append(ar.Files, txtar.File{Name: name})
			i = len(ar.Files) - 1
		}
		ar.Files[i].Data = []byte(rows)
	}
	if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
		t.Fatal(err)
	}
}

// edgeRows are the final rows of the two sides as text, and how those of the
// use join with the mint.
type edgeRows struct {
	mint, use string
	joins     []string
}

// playEdge puts the records through decoder and correlator in several orders,
// which must all give the same.
func playEdge(t *testing.T, mint, use string) edgeRows {
	t.Helper()
	first := edgeRecords(mint, 0)
	second := edgeRecords(use, len(first))
	minted := decodeMint(t, first)
	rows := func(records []schemas.Record, size int) edgeRows {
		return edgeTexts(t, minted, len(first), records, size)
	}
	backwards := slices.Concat(first, second)
	slices.Reverse(backwards)
	want := rows(slices.Concat(first, second), 1<<20)
	for name, got := range map[string]edgeRows{
		"record by record":           rows(slices.Concat(first, second), 1),
		"use first":                  rows(slices.Concat(second, first), 1<<20),
		"use first, one by one":      rows(slices.Concat(second, first), 1),
		"backwards":                  rows(backwards, 1),
		"every record twice, by one": rows(slices.Concat(first, second, first, second), 1),
	} {
		if got.use != want.use || got.mint != want.mint {
			t.Errorf("%s, the rows are others\ngot:\n%s%s\nwant:\n%s%s", name, got.mint, got.use, want.mint, want.use)
		}
	}
	if want.use == "" {
		t.Error("the use gives no row")
	}
	return want
}

// edgeRecords reads a section: records from the given offset on.
func edgeRecords(text string, offset int) (out []schemas.Record) {
	topic := "edge"
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "# topic "); ok {
			topic = strings.TrimSpace(name)
		}
		if line == "" || line[0] == '#' {
			continue
		}
		out = append(out, schemas.Record{Topic: topic, Offset: int64(offset + len(out)), Value: []byte(line)})
	}
	return out
}

// minted is what could join a row with the mint.
type minted struct {
	proofs    map[schemas.ID]bool // its events
	grants    map[string]bool
	decisions map[string]bool
}

func edgeStitcher(t *testing.T) *stitcher { return testStitcher(t, 1) }

func decodeMint(t *testing.T, records []schemas.Record) minted {
	t.Helper()
	st := edgeStitcher(t)
	m := minted{proofs: map[schemas.ID]bool{}, grants: map[string]bool{}, decisions: map[string]bool{}}
	var out ingest.Decoded
	for i := range records {
		st.decoders[0].Decode(&out, &records[i])
	}
	for i := range out.Events {
		e := &out.Events[i]
		m.proofs[e.ID] = true
		if e.Decision.Verdict != schemas.VerdictNone {
			m.decisions[strings.Clone(e.Decision.ID)] = true
		}
		for _, b := range e.Makes {
			if b.Child.Kind == schemas.KindGrant {
				m.grants[strings.Clone(b.Child.Value)] = true
			}
		}
	}
	if len(out.Events) == 0 {
		t.Error("the mint gives no event")
	}
	return m
}

// edgeTexts correlates the records in batches of a size. Those with an offset
// from uses on are of the use.
func edgeTexts(t *testing.T, m minted, uses int, records []schemas.Record, size int) (out edgeRows) {
	t.Helper()
	st := edgeStitcher(t)
	final := map[schemas.ID]*schemas.Action{}
	for part := range slices.Chunk(records, size) {
		var batch sinks.Batch
		if err := st.decode(part); err != nil {
			t.Fatal(err)
		}
		st.correlate(&batch)
		for _, d := range batch.DeadLetters {
			t.Errorf("record %d is a dead letter: %s: %s", d.Evidence.Offset, d.Reason, d.Error)
		}
		for _, a := range batch.Actions {
			final[a.ID] = a
		}
	}
	var rows []*schemas.Action
	for _, a := range final {
		rows = append(rows, a)
	}
	slices.SortFunc(rows, actionOrder)
	for _, a := range rows {
		joins := m.joins(a)
		if int(a.Evidence.Offset) < uses {
			out.mint += edgeRow(a, nil)
			continue
		}
		out.use += edgeRow(a, joins)
		for _, j := range joins {
			if j.key.IsZero() {
				out.joins = append(out.joins, fmt.Sprintf("%s %s", j.how, a.Grade))
			} else {
				out.joins = append(out.joins, fmt.Sprintf("%s:%s %s %s", j.key.Kind, j.key.Namespace, j.how, a.Grade))
			}
		}
	}
	return out
}

// join is one way in which a row depends on the mint: a step of its path that
// the mint proves, or without a key, what else came from it.
type join struct {
	key      schemas.Key
	relation schemas.Relation
	how      string
}

// joins lists the steps of a row's path that the mint proves, from the action
// upwards, and then its cause, grant and policy decision, if they are the mint's.
func (m minted) joins(a *schemas.Action) (out []join) {
	for _, h := range slices.Backward(a.Hops) {
		if m.proofs[h.Proof] {
			how := h.Strength.String()
			if h.Lent {
				how = "lent"
			}
			out = append(out, join{h.Key, h.Relation, how})
		}
	}
	if m.proofs[a.CauseID] {
		out = append(out, join{how: "cause " + a.CauseGrade.String()})
	}
	if m.grants[a.GrantID] {
		out = append(out, join{how: "grant"})
	}
	if a.PolicyDecision != schemas.VerdictNone && a.Decision.Verdict == schemas.VerdictNone && m.decisions[a.PolicyID] {
		out = append(out, join{how: "policy " + a.PolicyDecision.String()})
	}
	return out
}

// edgeRow writes a row as a person would want to read it: what happened; grade
// and reason; where its path ends or stops; the steps that the mint proves.
func edgeRow(a *schemas.Action, joins []join) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s, %s, %s: %s, %s", a.Source, a.Event.Action, a.Class, a.Outcome, a.Grade, a.Reason)
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "; %s %s", name, value)
		}
	}
	field("root", a.Root.String())
	field("frontier", a.Frontier.String())
	for _, j := range joins {
		if j.key.IsZero() {
			field("by", j.how)
		} else {
			field("by", fmt.Sprintf("%s (%s, %s)", j.key, j.relation, j.how))
		}
	}
	field("candidates", candidateText(a))
	field("flags", a.Flags.String())
	b.WriteByte('\n')
	return b.String()
}
