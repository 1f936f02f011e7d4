package correlate

import (
	"fmt"
	"testing"
	"time"

	"catena/schemas"
)

// BenchmarkPlainUse is the common case: an event with the token of a person,
// whose binding is known, among 100,000 live ones. One operation is one event.
func BenchmarkPlainUse(b *testing.B) {
	const live = 100_000
	e := New(Config{OutOfOrderness: time.Second, AllowedLateness: time.Second})
	alice := schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: "alice@example.com"}
	tokens := make([]schemas.Key, live)
	var out Output
	for i := range tokens {
		tokens[i] = schemas.Key{Kind: schemas.KindToken, Namespace: "aws.access_key", Value: fmt.Sprintf("ASIA%016d", i)}
		session := schemas.Key{Kind: schemas.KindSession, Namespace: "okta", Value: fmt.Sprint(i)}
		ev := schemas.Event{ID: schemas.MakeID("mint", fmt.Sprint(i)), TimeNanos: noon, BindOnly: "x", Evidence: schemas.Evidence{Topic: "t"}}
		ev.Makes = []schemas.Binding{
			bind(tokens[i], session, schemas.RelationAssumed, schemas.StrengthExact, noon, 0),
			bind(session, alice, schemas.RelationAuthenticated, schemas.StrengthExact, 0, 0),
		}
		e.Process(&out, []schemas.Event{ev})
		out.Reset()
	}
	bytes := e.Stats().Bytes
	benchmarkUses(b, e, func(i int, ev *schemas.Event) {
		ev.Keys = append(ev.Keys[:0], tokens[i*7919%live], schemas.Key{Kind: schemas.KindRequest, Namespace: "aws", Value: "0123456789abcdef"})
		ev.SourceIP = "10.0.0.1"
	})
	b.ReportMetric(float64(bytes)/(2*live), "accounted-B/binding")
}

// BenchmarkBusyWorkload is an event with a credential of a workload on which
// ten tool calls are active at once, and of which hundreds ran before.
func BenchmarkBusyWorkload(b *testing.B) {
	e := New(Config{OutOfOrderness: time.Second, AllowedLateness: time.Second})
	pod := schemas.Key{Kind: schemas.KindWorkload, Namespace: "k8s.pod_uid", Value: "pod"}
	cred := schemas.Key{Kind: schemas.KindToken, Namespace: "aws.access_key", Value: "ASIA0123456789"}
	alice := schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: "alice@example.com"}
	conv := schemas.Key{Kind: schemas.KindSession, Namespace: "conv", Value: "c"}
	var out Output
	for i := range 500 {
		span := schemas.Key{Kind: schemas.KindCall, Namespace: "span", Value: fmt.Sprintf("0123456789abcdef0123456789abcdef/%016x", i)}
		from, until := noon-int64(i)*int64(time.Minute), noon-int64(i)*int64(time.Minute)+int64(30*time.Second)
		if i < 10 {
			from, until = noon, noon+int64(1000*time.Hour)
		}
		ev := schemas.Event{ID: schemas.MakeID("call", fmt.Sprint(i)), TimeNanos: noon, BindOnly: "x", Evidence: schemas.Evidence{Topic: "t"}}
		ev.Makes = []schemas.Binding{
			bind(pod, span, schemas.RelationInvoked, schemas.StrengthWeak, from, until),
			bind(span, conv, schemas.RelationRanAs, schemas.StrengthExact, 0, 0),
			bind(conv, alice, schemas.RelationAuthenticated, schemas.StrengthExact, 0, 0),
			bind(cred, pod, schemas.RelationIssued, schemas.StrengthExact, noon-int64(2*time.Hour), 0),
		}
		e.Process(&out, []schemas.Event{ev})
	}
	out.Reset()
	benchmarkUses(b, e, func(_ int, ev *schemas.Event) { ev.Keys = append(ev.Keys[:0], cred) })
}

// benchmarkUses processes events in batches of 1,000, one per millisecond of
// event time, so that rows leave as fast as they come.
func benchmarkUses(b *testing.B, e *Engine, fill func(i int, ev *schemas.Event)) {
	b.Helper()
	const batch = 1000
	events := make([]schemas.Event, batch)
	var out Output
	i, n := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		ev := &events[n]
		i++
		ev.ID = schemas.ID{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24)}
		ev.Source, ev.Class, ev.Action, ev.Outcome = "aws.cloudtrail", schemas.ClassAPICall, "s3:GetObject", schemas.OutcomeSuccess
		ev.TimeNanos = noon + int64(i)*int64(time.Millisecond)
		ev.Evidence = schemas.Evidence{Topic: "t", Offset: int64(i)}
		fill(i, ev)
		if n++; n == batch {
			e.Process(&out, events)
			out.Reset()
			n = 0
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
