package jsonl

import (
	"encoding/json"
	"errors"
	"fmt"

	"catena/schemas"
)

// bindingLine is a binding as an object; its tags are the columns of the
// bindings table. Times are nanoseconds since 1970, zero where the table has
// 1970-01-01. What is empty is left out: bindings travel in great numbers.
type bindingLine struct {
	Child       string `json:"child"`
	Parent      string `json:"parent,omitempty"`
	ChildName   string `json:"child_name,omitempty"`
	ParentName  string `json:"parent_name,omitempty"`
	Relation    string `json:"relation"`
	Strength    string `json:"strength"`
	From        int64  `json:"from,omitempty"`
	Until       int64  `json:"until,omitempty"`
	Expires     int64  `json:"expires,omitempty"`
	AuthMethod  string `json:"auth_method,omitempty"`
	MFA         string `json:"mfa,omitempty"`
	Scopes      string `json:"scopes,omitempty"`
	Source      string `json:"source,omitempty"`
	Proof       string `json:"proof"`
	ProofTime   int64  `json:"proof_time"`
	Topic       string `json:"topic"`
	Partition   int32  `json:"partition"`
	Offset      int64  `json:"offset"`
	RecordIndex int32  `json:"record_index,omitempty"`
	Version     uint64 `json:"version"`
}

// AppendBinding appends a binding as one JSON object, without a line's end.
func AppendBinding(dst []byte, b *schemas.Binding) ([]byte, error) {
	l := bindingLine{
		Child: b.Child.String(), Parent: b.Parent.String(), ChildName: b.ChildName, ParentName: b.ParentName,
		Relation: b.Relation.String(), Strength: b.Strength.String(), From: b.FromNanos, Until: b.UntilNanos, Expires: b.ExpiresNanos,
		AuthMethod: b.AuthMethod, Scopes: b.Scopes, Source: b.Source, Proof: b.Proof.String(), ProofTime: b.ProofNanos,
		Topic: b.Evidence.Topic, Partition: b.Evidence.Partition, Offset: b.Evidence.Offset, RecordIndex: b.Evidence.RecordIndex, Version: b.Version,
	}
	if b.MFA != schemas.MFAUnknown {
		l.MFA = b.MFA.String()
	}
	text, err := json.Marshal(&l)
	if err != nil {
		return dst, fmt.Errorf("jsonl: binding of %s: %w", b.Child, err)
	}
	return append(dst, text...), nil
}

// DecodeBinding is the inverse of [AppendBinding]. An object of a newer program
// with more members is understood, one with unknown words is an error.
func DecodeBinding(text []byte) (schemas.Binding, error) {
	var l bindingLine
	if err := json.Unmarshal(text, &l); err != nil {
		return schemas.Binding{}, fmt.Errorf("jsonl: binding: %w", err)
	}
	var p parser
	b := schemas.Binding{
		Child: p.key(l.Child), Parent: p.key(l.Parent), ChildName: l.ChildName, ParentName: l.ParentName,
		Relation: word(&p, "relation", l.Relation, schemas.ParseRelation), Strength: word(&p, "strength", l.Strength, schemas.ParseStrength),
		FromNanos: l.From, UntilNanos: l.Until, ExpiresNanos: l.Expires, AuthMethod: l.AuthMethod, Scopes: l.Scopes, Source: l.Source,
		Proof: p.id(l.Proof), ProofNanos: l.ProofTime, Version: l.Version,
		Evidence: schemas.Evidence{Topic: l.Topic, Partition: l.Partition, Offset: l.Offset, RecordIndex: l.RecordIndex},
	}
	if l.MFA != "" {
		b.MFA = word(&p, "mfa", l.MFA, schemas.ParseMFA)
	}
	if b.Child.IsZero() {
		p.fault(errors.New("child is empty"))
	}
	if err := errors.Join(p.faults...); err != nil {
		return schemas.Binding{}, fmt.Errorf("jsonl: binding of %s: %w", l.Child, err)
	}
	return b, nil
}
