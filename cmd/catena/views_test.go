package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"catena/schemas"
	"catena/sinks"
	"catena/sinks/clickhouse"
)

// storiesInTables writes the final rows of all stories into tables of their
// own, and one more: an agent's tool call made with a key that lives for years.
func storiesInTables(t *testing.T) *clickhouse.Store {
	t.Helper()
	store, err := clickhouse.Open(t.Context(), clickhouse.Options{Addrs: []string{database(t)}, Database: "views"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	if _, err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := testStitcher(t, 2)
	for part := range slices.Chunk(storyRecords(t, func(string) bool { return true }), 50) {
		var batch sinks.Batch
		if err := st.decode(part); err != nil {
			t.Fatal(err)
		}
		st.correlate(&batch)
		if err := store.Write(t.Context(), &batch); err != nil {
			t.Fatal(err)
		}
	}
	key := schemas.Key{Kind: schemas.KindToken, Namespace: "aws.access_key", Value: "AKIAFIXTURESTANDING1"}
	at := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC).UnixNano()
	standing := &schemas.Action{Event: schemas.Event{ID: schemas.MakeID("views", "standing"), Source: "aws.cloudtrail", TimeNanos: at, Class: schemas.ClassDataAccess,
		Action: "s3:GetObject", Keys: []schemas.Key{key}}, Grade: schemas.GradeProven, CauseID: schemas.MakeID("views", "cause"), CauseGrade: schemas.CauseExact, Version: 1}
	if err := store.Write(t.Context(), &sinks.Batch{Actions: []*schemas.Action{standing},
		Progress: []schemas.Progress{{Topic: "okta", WatermarkNanos: at - int64(30*time.Minute)}}}); err != nil {
		t.Fatal(err)
	}
	return store
}

// TestViewsTellTheStories asks each view the question that it is named after.
func TestViewsTellTheStories(t *testing.T) {
	store := storiesInTables(t)
	alice := "b0a8a072-479d-86a8-8b85-b56e77624ea9"
	for _, q := range []struct {
		name, sql string
		want      []string
	}{
		{"the chain in order", "SELECT class, action, performed_with FROM chain_timeline(chain = '" + alice + "') LIMIT 1", []string{
			"login user.session.start session:okta:102fixtureALICEdesk1"}},
		{"all of the chain", "SELECT count(), countIf(kind = 'action') FROM chain_timeline(chain = '" + alice + "') AS l FULL JOIN (SELECT event_id, kind FROM chain_tree(chain = '" + alice + "') WHERE kind = 'action') AS r USING event_id", []string{"23 23"}},
		{"the chain as a tree", "SELECT tree FROM chain_tree(chain = '" + alice + "') WHERE level < 3 OR action = 's3:GetObject' OR startsWith(key, 'request:')", []string{
			"human:email:alice.moreau@example.com (Alice Moreau)",
			"   session:okta:102fixtureALICEdesk1  authenticated exact",
			"      08:55:41  login  user.session.start  proven",
			"      08:55:41  other  policy.evaluate_sign_on  Default Policy  proven",
			"      08:55:52  login  user.authentication.auth_via_mfa  proven",
			"      08:56:03  session  user.authentication.sso  Support Agent  proven",
			"      08:56:04  issuance  app.oauth2.as.token.grant.id_token  Support Agent  proven",
			"      08:56:04  issuance  app.oauth2.as.token.grant.access_token  Support Agent  proven",
			"      token:jti:AT.fixture-alice-0001 (Access Token)  issued exact",
			"                              request:aws:FX01S3GETALICE01  invoked exact",
			"                                 08:57:21  data_access  s3:GetObject  arn:aws:s3:::example-customer-records/customers/4711.json  proven",
			"                              request:aws:FX01S3PUTALICE02  invoked exact",
			"      09:30:00  session  user.session.end  proven"}},
		{"every node but the root has its parent", "WITH t AS (SELECT * FROM chain_tree(chain = '" + alice + "')) SELECT node FROM t WHERE parent NOT IN (SELECT node FROM t)", []string{
			"human:email:alice.moreau@example.com"}},
		{"the chain in one row", "SELECT root_name, actions, tools[1], worst_grade, mfa FROM chain(chain = '" + alice + "')", []string{
			"Alice Moreau 23 execute_tool change_request inferred yes"}},
		{"the chains of a time, with all of theirs", "SELECT root_name, actions FROM chains_between(since = '2026-03-02 08:57:20', until = '2026-03-02 08:57:22') ORDER BY root_name", []string{
			"Alice Moreau 23"}},
		{"what was done with a key", "SELECT count(), uniqExact(root_name) FROM actions_with(key = 'token:aws.access_key:ASIAFIXTUREINSTA0001')", []string{"8 2"}},
		{"what an identity did", "SELECT class, count() FROM actions_of(identity = 'email:alice.moreau@example.com', since = '2026-03-02 08:57:01', until = '2026-03-02 09:30:00') GROUP BY class ORDER BY class", []string{
			"api_call 2", "data_access 4", "other 1", "tool_call 9"}},
		{"who touched a resource", "SELECT root_name, what, worst_grade, length(tool_calls), mfa FROM resource_touched_by(resource = 'arn:aws:s3:::example-customer-records/customers/4711.json')", []string{
			"Alice Moreau [s3:GetObject] proven 1 yes"}},
		{"who touched what begins so", "SELECT root_name FROM resource_touched_by(resource = 'arn:aws:s3:::example-customer-records/*')", []string{
			"Bob Tanaka", "Alice Moreau", "carol.singh@example.com", "dave.okoro@example.com"}},
		{"a star alone is no wildcard within", "SELECT count() FROM resource_touched_by(resource = 'arn:*:example')", []string{"0"}},
		{"what a session drives", "SELECT distance, relation, key FROM keys_driven_by(start = 'session:okta:102fixtureALICEdesk1') WHERE NOT startsWith(key, 'call:') AND distance < 6", []string{
			"0  session:okta:102fixtureALICEdesk1", "1 issued token:jti:AT.fixture-alice-0001", "2 delegated session:gen_ai.conversation:conv-fixture-alice-0001"}},
		{"what came of a session, also over weak steps", "SELECT count(), countIf(startsWith(action, 'dynamodb:')), uniqExact(chain_id) FROM blast_radius(start = 'session:okta:102fixtureALICEdesk1')", []string{"23 2 1"}},
		{"what came of a token", "SELECT root_name, action, via, distance FROM blast_radius(start = 'token:aws.access_key:ASIAFIXTUREINSTA0001') WHERE startsWith(action, 's3:') AND root_kind = 'human'", []string{
			"Alice Moreau s3:GetObject token:aws.access_key:ASIAFIXTUREINSTA0001 0", "Alice Moreau s3:PutObject token:aws.access_key:ASIAFIXTUREINSTA0001 0"}},
		{"what came of an address: its own actions, and those of the keys used there", "SELECT source_ip, count() FROM blast_radius(start = '10.20.7.77') GROUP BY source_ip ORDER BY source_ip", []string{
			"10.20.1.11 6", "10.20.7.77 8"}},
		{"what came of a workload", "SELECT count() > 5, countIf(action = 'create pods/exec') FROM blast_radius(start = 'workload:k8s.pod_uid:6c9852d6-d286-47db-8ed0-2d3cbbb3e45a')", []string{"1 1"}},
		{"nothing came of what nobody knows", "SELECT count() FROM blast_radius(start = 'token:jti:nobody-has-this')", []string{"0"}},
		{"delegations of a person", "SELECT relation, weakest_strength, child, actions FROM delegations_of(identity = 'erik-acme')", []string{
			"spawned exact session:github.run:9000001001 6", "ran_as weak service:oidc.sub:repo:acme/shop:ref:refs/heads/main 3", "assumed exact token:aws.access_key:ASIAFIXTURECICD00001 2"}},
		{"agents without a decision", "SELECT action FROM agent_actions_without_decision WHERE root_name = 'Grace Ito' ORDER BY action, event_time", []string{
			"execute_tool send_email", "tools/call send_email", "tools/call send_email"}},
		{"and what their calls caused", "SELECT action FROM agent_actions_without_decision WHERE root_name = 'Alice Moreau' AND class = 'data_access' ORDER BY event_time", []string{
			"s3:GetObject", "dynamodb:GetItem", "dynamodb:Query", "s3:PutObject"}},
		{"outside the grant", "SELECT action, attributes['statement'] FROM outside_grant", []string{"db.session.query DROP TABLE invoices_backup"}},
		{"privileged without a second factor", "SELECT root_name, action FROM privileged_without_mfa ORDER BY event_time", []string{
			"Dave Okoro app.oauth2.as.token.grant.access_token", "Grace Ito app.oauth2.as.token.grant.access_token"}},
		{"standing credentials", "SELECT credential, actions, what FROM standing_credentials_used_by_agents", []string{"token:aws.access_key:AKIAFIXTURESTANDING1 1 [s3:GetObject]"}},
		{"coverage by hour", "SELECT grade, actions, share FROM coverage_by_hour WHERE source = 'teleport.audit' AND hour = '2026-03-02 09:00:00' ORDER BY grade", []string{
			"proven 19 0.76", "stated 6 0.24"}},
		{"coverage by day adds up", "SELECT sum(actions) = (SELECT count() FROM actions FINAL), max(abs(total - 1)) < 0.001 FROM (SELECT sum(actions) AS actions, sum(share) AS total FROM coverage_by_day GROUP BY day, source)", []string{"1 1"}},
		{"coverage of an identity", "SELECT actor_kind, actions, share_with_person, share_proven FROM coverage_by_identity WHERE actor_id = 'gen_ai.agent:agent-finance-01'", []string{"agent 2 1 1"}},
		{"tools that are new", "SELECT value FROM new_since(since = '2026-03-02 11:02:45') WHERE kind = 'tool' AND startsWith(value, 'execute')", []string{
			"execute_tool delete_customer", "execute_tool export_customers", "execute_tool send_email"}},
		{"edges that are new", "SELECT kind, value FROM new_since(since = '2026-03-02 11:02:00') WHERE value LIKE '%agent-finance-01'", []string{
			"edge human:email:grace.ito@example.com -> agent:gen_ai.agent:agent-finance-01", "identity agent:gen_ai.agent:agent-finance-01",
			"edge human:email:bob.tanaka@example.com -> agent:gen_ai.agent:agent-finance-01"}},
		{"latency", "SELECT sum(actions) = (SELECT count() FROM actions FINAL), min(event_p50) > 0, countIf(event_p50 > event_p99) FROM latency_by_hour", []string{"1 1 0"}},
		{"findings", "SELECT rule, severity, root_name FROM findings WHERE rule IN ('divergent', 'outside_grant', 'denied_but_done') ORDER BY rule, root_name, subject", []string{
			"denied_but_done high Grace Ito", "denied_but_done high Grace Ito", "divergent high billing-api-7f", "outside_grant high frank-acme"}},
	} {
		t.Run(q.name, func(t *testing.T) {
			_, all, err := store.Query(t.Context(), q.sql, 0)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, row := range all {
				got = append(got, strings.Join(row, " "))
			}
			if !slices.Equal(got, q.want) {
				t.Errorf("%s\n got %s\nwant %s", q.sql, fmt.Sprintf("%q", got), fmt.Sprintf("%q", q.want))
			}
		})
	}
}
