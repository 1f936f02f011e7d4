package sinks

// ActionColumns is the one list of the columns of the actions table, in their
// order. The ClickHouse sink inserts them, the JSON lines sink prints them and
// a test compares them with the table, so that the three cannot drift apart.
func ActionColumns() []string { return actionColumns[:] }

var actionColumns = [...]string{
	"event_id", "event_time", "ended_at", "source", "class", "action", "resource", "outcome", "tenant",
	"actor_kind", "actor_id", "actor_name",
	"token", "session", "workload", "request", "trace_id", "span_id", "source_ip", "user_agent",
	"grade", "reason", "chain_id", "root_kind", "root_id", "root_name", "hops", "depth", "frontier",
	"cause_id", "cause_grade", "candidates",
	"authority", "scopes", "grant_id", "policy_decision", "policy_id", "auth_method", "mfa", "flags",
	"topic", "partition", "offset", "record_index", "raw_sha256", "ingested_at", "attributed_at", "version", "attributes",
	"keys", "redacted", "self_reported", "record_auth_method", "record_mfa", "decision", "decision_id", "decision_policy", "time_nanos", "ended_nanos", "resolution_nanos",
}
