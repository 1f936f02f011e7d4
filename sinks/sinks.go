package sinks

import (
	"context"
	"errors"
	"time"

	"catena/schemas"
)

// Sink is where rows are kept.
type Sink interface {
	// Write makes the rows durable, all of them or some, and returns nil only
	// when it was all. It writes Progress after the other rows were
	// acknowledged. The batch belongs to the caller and is not changed; Write
	// keeps nothing of it after it returned.
	//
	// Write is repeated with the same rows after an error, so that writing a
	// row twice must be harmless. An error marked by [Permanent] says that at
	// least one of the rows can never be written and repeating is in vain; any
	// other error is worth a retry.
	Write(context.Context, *Batch) error
	// Close writes what the sink itself still holds. It may be called twice.
	Close() error
}

// Batch is rows on their way to a sink. The zero Batch is empty. It shares the
// memory of its rows with whoever made them; nobody changes a row once it is
// in a batch, and none of a row's strings may alias bytes that will be reused.
type Batch struct {
	Actions     []*schemas.Action
	Bindings    []schemas.Binding
	DeadLetters []schemas.DeadLetter
	Skips       []schemas.Skip
	ItemCounts  []schemas.ItemCount
	Progress    []schemas.Progress

	// Since is when the batch began to be made, for its age in a [Writer]; zero
	// is when it is appended.
	Since time.Time
}

// Rows is the number of rows of all tables.
func (b *Batch) Rows() int {
	return len(b.Actions) + len(b.Bindings) + len(b.DeadLetters) + len(b.Skips) + len(b.ItemCounts) + len(b.Progress)
}

// Bytes estimates the memory that the rows hold, in bytes. It is also about
// what they take on the wire before compression.
func (b *Batch) Bytes() int {
	n := len(b.Progress)*64 + len(b.Skips)*128 + len(b.ItemCounts)*32
	for _, a := range b.Actions {
		n += actionBytes(a)
	}
	for i := range b.Bindings {
		n += bindingBytes(&b.Bindings[i])
	}
	for i := range b.DeadLetters {
		n += 192 + len(b.DeadLetters[i].Error) + len(b.DeadLetters[i].Bytes)
	}
	return n
}

// The fixed part of a row: the struct itself and its small words.
const (
	actionBase  = 1024
	bindingBase = 448
)

func actionBytes(a *schemas.Action) int {
	n := actionBase + len(a.Event.Action) + len(a.Resource) + len(a.Tenant) + keyBytes(a.Actor) + len(a.ActorName) +
		len(a.Authority) + len(a.Scopes) + len(a.SourceIP) + len(a.UserAgent) + len(a.TraceID) + len(a.SpanID) +
		keyBytes(a.Root) + len(a.RootName) + keyBytes(a.Frontier) + len(a.GrantID) + len(a.PolicyID)
	for i := range a.Keys {
		n += 40 + keyBytes(a.Keys[i])
	}
	for i := range a.Hops {
		n += 96 + keyBytes(a.Hops[i].Key) + len(a.Hops[i].Name)
	}
	for i := range a.Candidates {
		n += 96 + keyBytes(a.Candidates[i].Parent) + keyBytes(a.Candidates[i].Root)
	}
	for i := range a.Attributes {
		n += 32 + len(a.Attributes[i].Name) + len(a.Attributes[i].Value)
	}
	return n
}

func bindingBytes(b *schemas.Binding) int {
	return bindingBase + keyBytes(b.Child) + keyBytes(b.Parent) + len(b.ChildName) + len(b.ParentName) + len(b.Scopes)
}

func keyBytes(k schemas.Key) int { return len(k.Namespace) + len(k.Value) }

// Permanent marks an error that no retry can mend: at least one row of the
// batch will never be accepted. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanentError{err}
}

// IsPermanent reports whether the error, or one that it wraps, was marked by
// [Permanent].
func IsPermanent(err error) bool {
	var p permanentError
	return errors.As(err, &p)
}

type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }
