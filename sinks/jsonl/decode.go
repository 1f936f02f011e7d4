package jsonl

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"catena/schemas"
)

// Decode is the inverse of [Encode]: one line, one action. Attributes come
// back sorted by name; Makes, Ends and BindOnly are not in a line. A line of a
// newer program with more columns is understood, one with unknown words is an
// error.
func Decode(text []byte) (*schemas.Action, error) {
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, fmt.Errorf("jsonl: %w", err)
	}
	var p parser
	a := p.action(&l)
	if err := errors.Join(p.faults...); err != nil {
		return nil, fmt.Errorf("jsonl: event %s: %w", l.EventID, err)
	}
	return a, nil
}

// parser collects what it could not understand.
type parser struct{ faults []error }

func (p *parser) action(l *line) *schemas.Action {
	a := &schemas.Action{
		Event: schemas.Event{
			ID: p.id(l.EventID), Source: l.Source, TimeNanos: l.TimeNanos, EndedNanos: l.EndedNanos, ResolutionNanos: l.ResolutionNanos,
			Class: word(p, "class", l.Class, schemas.ParseClass), Action: l.Action, Resource: l.Resource,
			Outcome: word(p, "outcome", l.Outcome, schemas.ParseOutcome), Tenant: l.Tenant,
			Actor: p.keyOf(l.ActorKind, l.ActorID), ActorName: l.ActorName,
			Authority: l.Authority, Scopes: l.Scopes, AuthMethod: l.AuthMethod, MFA: word(p, "mfa", l.MFA, schemas.ParseMFA),
			Decision: schemas.Decision{Verdict: word(p, "decision", l.Decision, schemas.ParseVerdict), ID: l.DecisionID, Policy: l.DecisionPolicy},
			SourceIP: l.SourceIP, UserAgent: l.UserAgent, TraceID: l.TraceID, SpanID: l.SpanID, Redacted: l.Redacted, SelfReported: l.SelfReported,
			Evidence: schemas.Evidence{
				Topic: l.Topic, Partition: l.Partition, Offset: l.Offset, RecordIndex: l.RecordIndex,
				RawSHA256: p.hash(l.RawSHA256), TimestampNanos: p.time(l.IngestedAt),
			},
		},
		Grade: word(p, "grade", l.Grade, schemas.ParseGrade), Reason: word(p, "reason", l.Reason, schemas.ParseReason),
		ChainID: p.id(l.ChainID), Root: p.keyOf(l.RootKind, l.RootID), RootName: l.RootName, Depth: l.Depth, Frontier: p.key(l.Frontier),
		CauseID: p.id(l.CauseID), CauseGrade: word(p, "cause_grade", l.CauseGrade, schemas.ParseCauseGrade),
		RecordAuthMethod: l.RecordAuth, RecordMFA: word(p, "record_mfa", l.RecordMFA, schemas.ParseMFA),
		GrantID: l.GrantID, PolicyDecision: word(p, "policy_decision", l.PolicyDecision, schemas.ParseVerdict), PolicyID: l.PolicyID,
		Version: l.Version,
	}
	for _, k := range l.Keys {
		a.Keys = append(a.Keys, p.key(k))
	}
	for _, f := range l.Flags {
		a.Flags |= word(p, "flags", f, schemas.ParseFlag)
	}
	for _, name := range slices.Sorted(maps.Keys(l.Attributes)) {
		a.Attributes = append(a.Attributes, schemas.Attribute{Name: name, Value: l.Attributes[name]})
	}
	for _, h := range l.Hops {
		a.Hops = append(a.Hops, schemas.Hop{
			Key: p.key(h.Key), Name: h.Name, Relation: word(p, "hops.relation", h.Relation, schemas.ParseRelation),
			Strength: word(p, "hops.strength", h.Strength, schemas.ParseStrength), Proof: p.id(h.Proof), AtNanos: p.time(h.At), Lent: h.Lent,
		})
	}
	for _, c := range l.Candidates {
		a.Candidates = append(a.Candidates, schemas.Candidate{Parent: p.key(c.Parent), Root: p.key(c.Root), Proof: p.id(c.Proof)})
	}
	return a
}

func (p *parser) fault(err error) {
	if err != nil {
		p.faults = append(p.faults, err)
	}
}

func (p *parser) id(s string) schemas.ID {
	id, err := schemas.ParseID(s)
	p.fault(err)
	return id
}

func (p *parser) key(s string) schemas.Key {
	k, err := schemas.ParseKey(s)
	p.fault(err)
	return k
}

func (p *parser) keyOf(kind, id string) schemas.Key {
	if kind == "" {
		return schemas.Key{}
	}
	return p.key(kind + ":" + id)
}

func (p *parser) time(s string) int64 {
	t, err := time.Parse(time.RFC3339Nano, s)
	p.fault(err)
	return t.UnixNano()
}

func (p *parser) hash(s string) (sum [32]byte) {
	if s == "" {
		return sum
	}
	b, err := hex.DecodeString(s)
	if err == nil && len(b) != len(sum) {
		err = fmt.Errorf("raw_sha256 %q: want 64 hexadecimal digits", s)
	}
	p.fault(err)
	copy(sum[:], b)
	return sum
}

func word[T any](p *parser, column, s string, parse func(string) (T, bool)) T {
	v, ok := parse(s)
	if !ok {
		p.fault(fmt.Errorf("%s: unknown word %q", column, s))
	}
	return v
}
