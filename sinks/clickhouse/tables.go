package clickhouse

import (
	"encoding/hex"
	"fmt"

	"catena/schemas"
	"catena/sinks"
)

// tables are those that rows are written to.
type tables struct {
	actions     *table[schemas.Action]
	bindings    *table[schemas.Binding]
	deadLetters *table[schemas.DeadLetter]
	skips       *table[schemas.Skip]
	itemCounts  *table[schemas.ItemCount]
	progress    *table[schemas.Progress]
}

func newTables() tables {
	return tables{
		actions:     newTable("actions", orderedActionCells()...),
		bindings:    newTable("bindings", bindingCells()...),
		deadLetters: newTable("dead_letters", deadLetterCells()...),
		skips:       newTable("skips", skipCells()...),
		itemCounts:  newTable("item_counts", itemCountCells()...),
		progress:    newTable("progress", progressCells()...),
	}
}

// databaseSets are the columns that the database fills in by itself.
var databaseSets = map[string]bool{"attributed_at": true}

// orderedActionCells are the columns of actions in the order of the one list.
func orderedActionCells() []cells[schemas.Action] {
	byName := map[string]cells[schemas.Action]{}
	for _, c := range actionCells() {
		byName[c.name] = c
	}
	var ordered []cells[schemas.Action]
	for _, name := range sinks.ActionColumns() {
		c, ok := byName[name]
		if ok == databaseSets[name] {
			panic(fmt.Sprintf("clickhouse: column %s of sinks.ActionColumns has no cells, or should have none", name))
		}
		if ok {
			ordered = append(ordered, c)
		}
	}
	return ordered
}

func actionCells() []cells[schemas.Action] {
	type row = schemas.Action
	return []cells[row]{
		id("event_id", func(a *row) schemas.ID { return a.ID }),
		micros("event_time", func(a *row) int64 { return a.TimeNanos }),
		micros("ended_at", func(a *row) int64 { return max(a.TimeNanos, a.EndedNanos) }),
		word("source", func(a *row) string { return a.Source }),
		word("class", func(a *row) string { return a.Class.String() }),
		word("action", func(a *row) string { return a.Event.Action }),
		text("resource", func(a *row) string { return a.Resource }),
		word("outcome", func(a *row) string { return a.Outcome.String() }),
		word("tenant", func(a *row) string { return a.Tenant }),
		word("actor_kind", func(a *row) string { return a.Actor.Kind.String() }),
		keyID("actor_id", func(a *row) schemas.Key { return a.Actor }),
		text("actor_name", func(a *row) string { return a.ActorName }),
		keyText("token", func(a *row) schemas.Key { return a.FirstKey(schemas.KindToken) }),
		keyText("session", func(a *row) schemas.Key { return a.FirstKey(schemas.KindSession) }),
		keyText("workload", func(a *row) schemas.Key { return a.FirstKey(schemas.KindWorkload) }),
		keyText("request", func(a *row) schemas.Key { return a.FirstKey(schemas.KindRequest) }),
		text("trace_id", func(a *row) string { return a.TraceID }),
		text("span_id", func(a *row) string { return a.SpanID }),
		text("source_ip", func(a *row) string { return a.SourceIP }),
		text("user_agent", func(a *row) string { return a.UserAgent }),

		word("grade", func(a *row) string { return a.Grade.String() }),
		word("reason", func(a *row) string { return a.Reason.String() }),
		id("chain_id", func(a *row) schemas.ID { return a.ChainID }),
		word("root_kind", func(a *row) string { return a.Root.Kind.String() }),
		keyID("root_id", func(a *row) schemas.Key { return a.Root }),
		text("root_name", func(a *row) string { return a.RootName }),
		list("hops", func(a *row) []schemas.Hop { return a.Hops }, hopCells()...),
		uint16s("depth", func(a *row) uint16 { return uint16(min(max(a.Depth, 0), 1<<16-1)) }),
		keyText("frontier", func(a *row) schemas.Key { return a.Frontier }),
		id("cause_id", func(a *row) schemas.ID { return a.CauseID }),
		word("cause_grade", func(a *row) string { return a.CauseGrade.String() }),
		list("candidates", func(a *row) []schemas.Candidate { return a.Candidates }, candidateCells()...),

		text("authority", func(a *row) string { return a.Authority }),
		text("scopes", func(a *row) string { return a.Scopes }),
		text("grant_id", func(a *row) string { return a.GrantID }),
		word("policy_decision", func(a *row) string { return a.PolicyDecision.String() }),
		text("policy_id", func(a *row) string { return a.PolicyID }),
		word("auth_method", func(a *row) string { return a.AuthMethod }),
		word("mfa", func(a *row) string { return a.MFA.String() }),
		list("flags", func(a *row) []string { return a.Flags.Words() }, word("", func(s *string) string { return *s })),

		word("topic", func(a *row) string { return a.Evidence.Topic }),
		int32s("partition", func(a *row) int32 { return a.Evidence.Partition }),
		int64s("offset", func(a *row) int64 { return a.Evidence.Offset }),
		int32s("record_index", func(a *row) int32 { return a.Evidence.RecordIndex }),
		built("raw_sha256", func(dst []byte, a *row) []byte { return appendHash(dst, &a.Evidence) }),
		micros("ingested_at", func(a *row) int64 { return a.Evidence.TimestampNanos }),
		uint64s("version", func(a *row) uint64 { return a.Version }),
		pairs("attributes", func(a *row) []schemas.Attribute { return a.Attributes },
			word("", func(a *schemas.Attribute) string { return a.Name }),
			text("", func(a *schemas.Attribute) string { return a.Value })),

		list("keys", func(a *row) []schemas.Key { return a.Keys }, keyText("", func(k *schemas.Key) schemas.Key { return *k })),
		bools("redacted", func(a *row) bool { return a.Redacted }),
		bools("self_reported", func(a *row) bool { return a.SelfReported }),
		word("record_auth_method", func(a *row) string { return a.RecordAuthMethod }),
		word("record_mfa", func(a *row) string { return a.RecordMFA.String() }),
		word("decision", func(a *row) string { return a.Decision.Verdict.String() }),
		text("decision_id", func(a *row) string { return a.Decision.ID }),
		text("decision_policy", func(a *row) string { return a.Decision.Policy }),
		int64s("time_nanos", func(a *row) int64 { return a.TimeNanos }),
		int64s("ended_nanos", func(a *row) int64 { return a.EndedNanos }),
		int64s("resolution_nanos", func(a *row) int64 { return a.ResolutionNanos }),
	}
}

func hopCells() []cells[schemas.Hop] {
	type row = schemas.Hop
	return []cells[row]{
		keyText("key", func(h *row) schemas.Key { return h.Key }),
		text("name", func(h *row) string { return h.Name }),
		word("relation", func(h *row) string { return h.Relation.String() }),
		word("strength", func(h *row) string { return h.Strength.String() }),
		id("proof", func(h *row) schemas.ID { return h.Proof }),
		nanos("at", func(h *row) int64 { return h.AtNanos }),
		bools("lent", func(h *row) bool { return h.Lent }),
	}
}

func candidateCells() []cells[schemas.Candidate] {
	type row = schemas.Candidate
	return []cells[row]{
		keyText("parent", func(c *row) schemas.Key { return c.Parent }),
		keyText("root", func(c *row) schemas.Key { return c.Root }),
		id("proof", func(c *row) schemas.ID { return c.Proof }),
	}
}

func bindingCells() []cells[schemas.Binding] {
	type row = schemas.Binding
	return []cells[row]{
		keyText("child", func(b *row) schemas.Key { return b.Child }),
		keyText("parent", func(b *row) schemas.Key { return b.Parent }),
		text("child_name", func(b *row) string { return b.ChildName }),
		text("parent_name", func(b *row) string { return b.ParentName }),
		word("relation", func(b *row) string { return b.Relation.String() }),
		word("strength", func(b *row) string { return b.Strength.String() }),
		nanos("from", func(b *row) int64 { return b.FromNanos }),
		nanos("until", func(b *row) int64 { return b.UntilNanos }),
		nanos("expires", func(b *row) int64 { return b.ExpiresNanos }),
		word("auth_method", func(b *row) string { return b.AuthMethod }),
		word("mfa", func(b *row) string { return b.MFA.String() }),
		text("scopes", func(b *row) string { return b.Scopes }),
		word("source", func(b *row) string { return b.Source }),
		id("proof", func(b *row) schemas.ID { return b.Proof }),
		nanos("proof_time", func(b *row) int64 { return b.ProofNanos }),
		word("topic", func(b *row) string { return b.Evidence.Topic }),
		int32s("partition", func(b *row) int32 { return b.Evidence.Partition }),
		int64s("offset", func(b *row) int64 { return b.Evidence.Offset }),
		int32s("record_index", func(b *row) int32 { return b.Evidence.RecordIndex }),
		uint64s("version", func(b *row) uint64 { return b.Version }),
	}
}

func deadLetterCells() []cells[schemas.DeadLetter] {
	type row = schemas.DeadLetter
	return []cells[row]{
		word("topic", func(d *row) string { return d.Evidence.Topic }),
		int32s("partition", func(d *row) int32 { return d.Evidence.Partition }),
		int64s("offset", func(d *row) int64 { return d.Evidence.Offset }),
		int32s("record_index", func(d *row) int32 { return d.Evidence.RecordIndex }),
		word("reason", func(d *row) string { return d.Reason.String() }),
		text("error", func(d *row) string { return d.Error }),
		built("bytes", func(dst []byte, d *row) []byte { return append(dst, d.Bytes...) }),
		built("raw_sha256", func(dst []byte, d *row) []byte { return appendHash(dst, &d.Evidence) }),
		micros("ingested_at", func(d *row) int64 { return d.Evidence.TimestampNanos }),
	}
}

func skipCells() []cells[schemas.Skip] {
	type row = schemas.Skip
	return []cells[row]{
		word("topic", func(s *row) string { return s.Topic }),
		int32s("partition", func(s *row) int32 { return s.Partition }),
		int64s("offset", func(s *row) int64 { return s.Offset }),
		int32s("record_index", func(s *row) int32 { return s.RecordIndex }),
		int64s("until", func(s *row) int64 { return max(s.Until, s.Offset+1) }),
		word("name", func(s *row) string { return s.Name }),
		word("source", func(s *row) string { return s.Source }),
		id("event_id", func(s *row) schemas.ID { return s.Event }),
	}
}

func itemCountCells() []cells[schemas.ItemCount] {
	type row = schemas.ItemCount
	return []cells[row]{
		word("topic", func(r *row) string { return r.Topic }),
		int32s("partition", func(r *row) int32 { return r.Partition }),
		int64s("offset", func(r *row) int64 { return r.Offset }),
		int32s("items", func(r *row) int32 { return r.Items }),
	}
}

func progressCells() []cells[schemas.Progress] {
	type row = schemas.Progress
	return []cells[row]{
		word("topic", func(p *row) string { return p.Topic }),
		int32s("partition", func(p *row) int32 { return p.Partition }),
		int64s("offset", func(p *row) int64 { return p.Offset }),
		nanos("watermark", func(p *row) int64 { return p.WatermarkNanos }),
		uint64s("owner", func(p *row) uint64 { return uint64(max(0, p.OwnerMillis)) }),
	}
}

// appendHash appends the record's hash in hexadecimal; nothing if it was not
// taken.
func appendHash(dst []byte, e *schemas.Evidence) []byte {
	if e.RawSHA256 == [32]byte{} {
		return dst
	}
	return hex.AppendEncode(dst, e.RawSHA256[:])
}
