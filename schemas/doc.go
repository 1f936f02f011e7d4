// Package schemas holds the nouns that every stage speaks, and the data that
// describes the outside world: log formats (sources/) and tables (clickhouse/).
//
//	Record --Decode--> Event --Process--> Action, Binding --Append--> Batch --Write--> ClickHouse
//
// It is a leaf: it imports nothing of ours, does no I/O and reads no clock.
//
// One idea carries the model: everything is a binding. A [Key] names a token, a
// session, a workload, a call, a request, a grant or a principal. A [Binding]
// says that a child key is driven by a parent key, how strongly that is known,
// and which event proves it. An [Action] is an [Event] with the path that was
// found by walking bindings upward from the event's keys.
//
// All times are int64 nanoseconds since the Unix epoch in UTC and carry the
// suffix Nanos; zero means unknown or unbounded, as each field says.
package schemas
