package sinktest

import (
	"crypto/sha256"
	"fmt"
	"time"

	"catena/schemas"
)

// start is the event time of the first row; rows follow 10 ms apart and a few
// nanoseconds beside the microsecond.
var start = time.Date(2026, 3, 1, 8, 0, 0, 123_456_789, time.UTC).UnixNano()

// Actions makes n rows such as a busy stream holds: API calls of a person's
// agent through an assumed role, three hops up. The same n gives the same rows.
func Actions(n int) []*schemas.Action {
	rows := make([]*schemas.Action, n)
	for i := range rows {
		rows[i] = action(i)
	}
	return rows
}

func action(i int) *schemas.Action {
	var (
		at      = start + int64(i)*10_000_000 + int64(i%7)
		person  = fmt.Sprintf("person%d@example.com", i/500)
		human   = schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: person}
		session = schemas.Key{Kind: schemas.KindSession, Namespace: "okta", Value: fmt.Sprintf("102%07d", i/500)}
		token   = schemas.Key{Kind: schemas.KindToken, Namespace: "aws.access_key", Value: fmt.Sprintf("ASIAT4ZCFKQY%08d", i/50)}
		request = schemas.Key{Kind: schemas.KindRequest, Namespace: "aws", Value: fmt.Sprintf("b3c4d5e6-f708-4a1b-%04x-%012x", i%65536, i)}
		role    = "arn:aws:sts::123456789012:assumed-role/agent-runtime/" + person
		issued  = schemas.MakeID("issuance", token.Value)
		login   = schemas.MakeID("login", session.Value)
	)
	return &schemas.Action{
		Event: schemas.Event{
			ID: schemas.MakeID("event", fmt.Sprint(i)), Source: "aws.cloudtrail", TimeNanos: at, ResolutionNanos: 1_000_000_000,
			Class: schemas.ClassAPICall, Action: []string{"s3.amazonaws.com:GetObject", "dynamodb.amazonaws.com:Query", "sts.amazonaws.com:GetCallerIdentity"}[i%3],
			Resource: fmt.Sprintf("arn:aws:s3:::customer-exports/2026/%04d.parquet", i%1000), Outcome: schemas.OutcomeSuccess, Tenant: "123456789012",
			Actor: schemas.Key{Kind: schemas.KindService, Namespace: "aws.arn", Value: role}, ActorName: "agent-runtime",
			Keys:      []schemas.Key{request, token},
			Authority: "arn:aws:iam::123456789012:role/agent-runtime", AuthMethod: "okta.push", MFA: schemas.MFAYes,
			SourceIP: fmt.Sprintf("10.20.%d.%d", i/250%250, i%250), UserAgent: "Boto3/1.34.0 md/Botocore#1.34.0 ua/2.0 os/linux#6.1 md/arch#x86_64",
			Attributes: []schemas.Attribute{{Name: "aws_region", Value: "eu-central-1"}, {Name: "event_type", Value: "AwsApiCall"}},
			Evidence:   evidence("cloudtrail", int64(i)),
		},
		Grade: schemas.GradeProven, Reason: schemas.ReasonComplete, ChainID: schemas.MakeID("chain", session.Value), Root: human, RootName: person,
		Hops: []schemas.Hop{
			{Key: human, Name: person},
			{Key: session, Relation: schemas.RelationAuthenticated, Strength: schemas.StrengthExact, Proof: login, AtNanos: at - 3_000_000_001},
			{Key: token, Name: role, Relation: schemas.RelationAssumed, Strength: schemas.StrengthExact, Proof: issued, AtNanos: at - 1_000_000_001},
			{Key: request, Relation: schemas.RelationInvoked, Strength: schemas.StrengthExact, Proof: schemas.MakeID("call", fmt.Sprint(i/5)), AtNanos: at},
		},
		Depth: 3, CauseID: schemas.MakeID("call", fmt.Sprint(i/5)), CauseGrade: schemas.CauseExact,
		Version: schemas.MakeVersion(1_772_000_000_000, 1),
	}
}

func evidence(topic string, offset int64) schemas.Evidence {
	return schemas.Evidence{
		Topic: topic, Partition: int32(offset % 12), Offset: offset, RecordIndex: 0,
		RawSHA256: sha256.Sum256(fmt.Append(nil, topic, offset)), TimestampNanos: start/1_000_000*1_000_000 + offset*1_000_000,
	}
}

// Full is a row in which nothing is empty and all text is awkward.
func Full() *schemas.Action {
	key := func(k schemas.Kind, v string) schemas.Key {
		return schemas.Key{Kind: k, Namespace: "test.ns", Value: v}
	}
	const awkward = "quote ' \" backslash \\ tab \t line \n null \x00 <&> ü 語 \u2028 {{}} ;"
	return &schemas.Action{
		Event: schemas.Event{
			ID: schemas.MakeID("full"), Source: "test.full", TimeNanos: start + 1, EndedNanos: start + 999_999_999_999, ResolutionNanos: 1,
			Class: schemas.ClassDecision, Action: awkward, Resource: awkward, Outcome: schemas.OutcomeDenied, Tenant: awkward,
			Actor: key(schemas.KindAgent, "a:b:c"), ActorName: awkward,
			Keys: []schemas.Key{
				key(schemas.KindRequest, "r"), key(schemas.KindCall, "c"), key(schemas.KindToken, "t:with:colons"), key(schemas.KindToken, awkward),
				key(schemas.KindSession, "s"), key(schemas.KindWorkload, "w"), key(schemas.KindGrant, "g"),
			},
			Authority: awkward, Scopes: "read  write", AuthMethod: "saml", MFA: schemas.MFANo,
			Decision: schemas.Decision{Verdict: schemas.VerdictDeny, ID: "d-1", Policy: awkward},
			SourceIP: "2001:db8::1", UserAgent: awkward, TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", SpanID: "00f067aa0ba902b7",
			Attributes: []schemas.Attribute{{Name: "a", Value: awkward}, {Name: "b", Value: ""}, {Name: "c d", Value: "1"}},
			Flags:      1<<15 - 1, Redacted: true, SelfReported: true,
			Evidence: schemas.Evidence{Topic: "t", Partition: 1<<31 - 1, Offset: 1<<63 - 1, RecordIndex: 7, RawSHA256: sha256.Sum256(nil), TimestampNanos: start / 1000 * 1000},
		},
		Grade: schemas.GradeAmbiguous, Reason: schemas.ReasonSeveralCandidates, ChainID: schemas.MakeID("c"),
		Root: key(schemas.KindWorkload, "root:x"), RootName: awkward,
		Hops: []schemas.Hop{
			{Key: key(schemas.KindHuman, "h"), Name: awkward, Lent: true},
			{Key: key(schemas.KindSession, "s"), Name: "n", Relation: schemas.RelationRevoked, Strength: schemas.StrengthStated, Proof: schemas.MakeID("p"), AtNanos: start + 7, Lent: false},
		},
		Depth: 65535, Frontier: key(schemas.KindToken, "f"), CauseID: schemas.MakeID("cause"), CauseGrade: schemas.CauseInferred,
		Candidates: []schemas.Candidate{
			{Parent: key(schemas.KindSession, "p1"), Root: key(schemas.KindHuman, "h1"), Proof: schemas.MakeID("p1")},
			{Parent: key(schemas.KindSession, "p2")},
		},
		RecordAuthMethod: "password", RecordMFA: schemas.MFANo, GrantID: "g", PolicyDecision: schemas.VerdictDeny, PolicyID: "p", Version: 1<<64 - 1,
	}
}

// Bare is a row in which everything that can be empty is.
func Bare() *schemas.Action {
	return &schemas.Action{Event: schemas.Event{ID: schemas.MakeID("bare"), TimeNanos: start}}
}

// Bindings makes n bindings with nanoseconds in their times; the first always
// held and has no known end.
func Bindings(n int) []schemas.Binding {
	rows := make([]schemas.Binding, n)
	for i := range rows {
		at := start + int64(i)*1_000_003
		rows[i] = schemas.Binding{
			Child:     schemas.Key{Kind: schemas.KindToken, Namespace: "aws.access_key", Value: fmt.Sprintf("ASIAT4ZCFKQY%08d", i)},
			Parent:    schemas.Key{Kind: schemas.KindSession, Namespace: "okta", Value: fmt.Sprintf("102%07d", i/5)},
			ChildName: "agent-runtime/session", ParentName: "person@example.com",
			Relation: schemas.RelationAssumed, Strength: schemas.StrengthExact,
			FromNanos: at, UntilNanos: at + 3_600_000_000_001, ExpiresNanos: at + 3_600_000_000_002,
			AuthMethod: "okta.push", MFA: schemas.MFAYes, Scopes: "read write", Proof: schemas.MakeID("proof", fmt.Sprint(i)), ProofNanos: at,
			Source: "aws.cloudtrail", Evidence: schemas.Evidence{Topic: "cloudtrail", Partition: int32(i % 12), Offset: int64(i)}, Version: schemas.MakeVersion(1_772_000_000_000, 1),
		}
	}
	if n > 0 {
		rows[0].FromNanos, rows[0].UntilNanos, rows[0].ExpiresNanos = 0, 0, 0
	}
	if n > 1 {
		rows[1] = schemas.Binding{ // an end: no parent
			Child: rows[1].Child, Relation: schemas.RelationRevoked, FromNanos: rows[1].FromNanos, Proof: rows[1].Proof, ProofNanos: rows[1].ProofNanos,
			Source: rows[1].Source, Evidence: rows[1].Evidence, Version: rows[1].Version,
		}
	}
	return rows
}

// DeadLetters makes one dead letter for each of a few sorts of bytes, among
// them such as are not text.
func DeadLetters() []schemas.DeadLetter {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	return []schemas.DeadLetter{
		{Evidence: evidence("agents", 1), Reason: schemas.DeadInvalidUTF8, Error: "invalid UTF-8 at byte 3", Bytes: []byte("{\"\xff\xfe\"}")},
		{Evidence: evidence("agents", 2), Reason: schemas.DeadMalformed, Error: "quote ' and \x00", Bytes: every},
		{Evidence: evidence("agents", 3), Reason: schemas.DeadEmpty, Error: "the value is empty", Bytes: []byte{}},
	}
}

// Skips makes a skip of each sort: of an event, of an item, of a run.
func Skips() []schemas.Skip {
	return []schemas.Skip{
		{Topic: "cloudtrail", Partition: 0, Offset: 7, Until: 8, Name: schemas.SkipDuplicate, Event: schemas.MakeID("event", "7")},
		{Topic: "agents", Partition: 1, Offset: 9, RecordIndex: 3, Until: 10, Name: "plain_span", Source: "otel.genai", Event: schemas.MakeID("span")},
		{Topic: "agents", Partition: 1, Offset: 10, Until: 1 << 40, Name: schemas.SkipLost},
	}
}

// ItemCounts makes a row for each of two records.
func ItemCounts() []schemas.ItemCount {
	return []schemas.ItemCount{{Topic: "agents", Partition: 1, Offset: 9, Items: 4}, {Topic: "agents", Partition: 1, Offset: 2, Items: 100_000}}
}

// Progress makes a row for each of two partitions.
func Progress() []schemas.Progress {
	return []schemas.Progress{
		{Topic: "cloudtrail", Partition: 0, Offset: 301, WatermarkNanos: start - 7},
		{Topic: "cloudtrail", Partition: 1, Offset: 0, WatermarkNanos: 0},
	}
}
