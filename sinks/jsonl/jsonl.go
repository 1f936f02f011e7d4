// Package jsonl writes actions as lines of JSON: one object a row, with the
// names, the order and the words of the columns of the actions table, so that
// a line and a row of SQL read alike. All columns are there in every line, the
// empty ones too.
//
// Times are RFC 3339 in UTC with the digits of their column: six, and nine for
// the proofs of hops. Attributes are sorted by name. Text that is not UTF-8
// has the bytes at fault replaced by U+FFFD, since JSON has no others.
package jsonl

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"catena/schemas"
)

// Encoder writes lines. It is not safe for concurrent use.
type Encoder struct {
	json *json.Encoder
}

// NewEncoder returns an encoder that writes to w, one Write a line.
func NewEncoder(w io.Writer) *Encoder {
	e := &Encoder{json.NewEncoder(w)}
	e.json.SetEscapeHTML(false) // for people and jq, not for browsers
	return e
}

// Encode writes one action as a line. attributedNanos is when it was
// attributed; zero prints as 1970-01-01, which keeps the output a function of
// the input.
func (e *Encoder) Encode(a *schemas.Action, attributedNanos int64) error {
	l := toLine(a)
	l.AttributedAt = micros(attributedNanos)
	if err := e.json.Encode(l); err != nil {
		return fmt.Errorf("jsonl: event %s: %w", a.ID, err)
	}
	return nil
}

// Encode writes one action as a line, without a time of attribution.
func Encode(w io.Writer, a *schemas.Action) error { return NewEncoder(w).Encode(a, 0) }

// line is a row; its tags are the columns in their order.
type line struct {
	EventID         string            `json:"event_id"`
	EventTime       string            `json:"event_time"`
	EndedAt         string            `json:"ended_at"`
	Source          string            `json:"source"`
	Class           string            `json:"class"`
	Action          string            `json:"action"`
	Resource        string            `json:"resource"`
	Outcome         string            `json:"outcome"`
	Tenant          string            `json:"tenant"`
	ActorKind       string            `json:"actor_kind"`
	ActorID         string            `json:"actor_id"`
	ActorName       string            `json:"actor_name"`
	Token           string            `json:"token"`
	Session         string            `json:"session"`
	Workload        string            `json:"workload"`
	Request         string            `json:"request"`
	TraceID         string            `json:"trace_id"`
	SpanID          string            `json:"span_id"`
	SourceIP        string            `json:"source_ip"`
	UserAgent       string            `json:"user_agent"`
	Grade           string            `json:"grade"`
	Reason          string            `json:"reason"`
	ChainID         string            `json:"chain_id"`
	RootKind        string            `json:"root_kind"`
	RootID          string            `json:"root_id"`
	RootName        string            `json:"root_name"`
	Hops            []hop             `json:"hops"`
	Depth           int               `json:"depth"`
	Frontier        string            `json:"frontier"`
	CauseID         string            `json:"cause_id"`
	CauseGrade      string            `json:"cause_grade"`
	Candidates      []candidate       `json:"candidates"`
	Authority       string            `json:"authority"`
	Scopes          string            `json:"scopes"`
	GrantID         string            `json:"grant_id"`
	PolicyDecision  string            `json:"policy_decision"`
	PolicyID        string            `json:"policy_id"`
	AuthMethod      string            `json:"auth_method"`
	MFA             string            `json:"mfa"`
	Flags           []string          `json:"flags"`
	Topic           string            `json:"topic"`
	Partition       int32             `json:"partition"`
	Offset          int64             `json:"offset"`
	RecordIndex     int32             `json:"record_index"`
	RawSHA256       string            `json:"raw_sha256"`
	IngestedAt      string            `json:"ingested_at"`
	AttributedAt    string            `json:"attributed_at"`
	Version         uint64            `json:"version"`
	Attributes      map[string]string `json:"attributes"`
	Keys            []string          `json:"keys"`
	Redacted        bool              `json:"redacted"`
	SelfReported    bool              `json:"self_reported"`
	RecordAuth      string            `json:"record_auth_method"`
	RecordMFA       string            `json:"record_mfa"`
	Decision        string            `json:"decision"`
	DecisionID      string            `json:"decision_id"`
	DecisionPolicy  string            `json:"decision_policy"`
	TimeNanos       int64             `json:"time_nanos"`
	EndedNanos      int64             `json:"ended_nanos"`
	ResolutionNanos int64             `json:"resolution_nanos"`
}

type hop struct {
	Key      string `json:"key"`
	Name     string `json:"name"`
	Relation string `json:"relation"`
	Strength string `json:"strength"`
	Proof    string `json:"proof"`
	At       string `json:"at"`
	Lent     bool   `json:"lent"`
}

type candidate struct {
	Parent string `json:"parent"`
	Root   string `json:"root"`
	Proof  string `json:"proof"`
}

func toLine(a *schemas.Action) *line {
	l := &line{
		EventID: a.ID.String(), EventTime: micros(a.TimeNanos), EndedAt: micros(max(a.TimeNanos, a.EndedNanos)),
		Source: a.Source, Class: a.Class.String(), Action: a.Event.Action, Resource: a.Resource, Outcome: a.Outcome.String(), Tenant: a.Tenant,
		ActorKind: a.Actor.Kind.String(), ActorID: a.Actor.ID(), ActorName: a.ActorName,
		Token: a.FirstKey(schemas.KindToken).String(), Session: a.FirstKey(schemas.KindSession).String(),
		Workload: a.FirstKey(schemas.KindWorkload).String(), Request: a.FirstKey(schemas.KindRequest).String(),
		TraceID: a.TraceID, SpanID: a.SpanID, SourceIP: a.SourceIP, UserAgent: a.UserAgent,

		Grade: a.Grade.String(), Reason: a.Reason.String(), ChainID: a.ChainID.String(),
		RootKind: a.Root.Kind.String(), RootID: a.Root.ID(), RootName: a.RootName,
		Hops: hops(a.Hops), Depth: a.Depth, Frontier: a.Frontier.String(),
		CauseID: a.CauseID.String(), CauseGrade: a.CauseGrade.String(), Candidates: candidates(a.Candidates),

		Authority: a.Authority, Scopes: a.Scopes, GrantID: a.GrantID, PolicyDecision: a.PolicyDecision.String(), PolicyID: a.PolicyID,
		AuthMethod: a.AuthMethod, MFA: a.MFA.String(), Flags: append([]string{}, a.Flags.Words()...),

		Topic: a.Evidence.Topic, Partition: a.Evidence.Partition, Offset: a.Evidence.Offset, RecordIndex: a.Evidence.RecordIndex,
		RawSHA256: hash(&a.Evidence), IngestedAt: micros(a.Evidence.TimestampNanos), Version: a.Version,
		Attributes: make(map[string]string, len(a.Attributes)), Keys: make([]string, len(a.Keys)),

		Redacted: a.Redacted, SelfReported: a.SelfReported, RecordAuth: a.RecordAuthMethod, RecordMFA: a.RecordMFA.String(),
		Decision: a.Decision.Verdict.String(), DecisionID: a.Decision.ID, DecisionPolicy: a.Decision.Policy,
		TimeNanos: a.TimeNanos, EndedNanos: a.EndedNanos, ResolutionNanos: a.ResolutionNanos,
	}
	for _, at := range a.Attributes {
		l.Attributes[at.Name] = at.Value
	}
	for i, k := range a.Keys {
		l.Keys[i] = k.String()
	}
	return l
}

func hops(all []schemas.Hop) []hop {
	out := make([]hop, len(all))
	for i, h := range all {
		out[i] = hop{h.Key.String(), h.Name, h.Relation.String(), h.Strength.String(), h.Proof.String(), nanos(h.AtNanos), h.Lent}
	}
	return out
}

func candidates(all []schemas.Candidate) []candidate {
	out := make([]candidate, len(all))
	for i, c := range all {
		out[i] = candidate{c.Parent.String(), c.Root.String(), c.Proof.String()}
	}
	return out
}

func hash(e *schemas.Evidence) string {
	if e.RawSHA256 == [32]byte{} {
		return ""
	}
	return hex.EncodeToString(e.RawSHA256[:])
}

// Layouts cut what is finer; Go's zeros in a layout never round.
const (
	microsLayout = "2006-01-02T15:04:05.000000Z"
	nanosLayout  = "2006-01-02T15:04:05.000000000Z"
)

func micros(n int64) string { return time.Unix(0, n).UTC().Format(microsLayout) }
func nanos(n int64) string  { return time.Unix(0, n).UTC().Format(nanosLayout) }
