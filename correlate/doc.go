// Package correlate finds out who drove each event. It is pure: no I/O, no
// clock, no goroutine, no log, and the same events in any order give the same
// final rows.
//
//	events ──Process──► state.learn: bindings become edges between keys
//	                    engine:      each event becomes a waiting row
//	                    resolve:     walk upward from the row's keys
//	                    attribute:   grade, reason, chain, cause, grant, policy, flags
//	         ◄─────────  Action for every new or improved row, Binding for every new edge
//
// State is a graph of keys in pages without pointers (slab.go, index.go,
// state.go, merge.go). A row depends on the keys that its walk
// visited; when one of them learns something, the row is resolved again and is
// written again, with a higher version, if anything changed. Because a row is
// a pure function of the edges known, the order in which they arrive cannot
// matter.
//
// Invariants:
//   - An edge set is merged, never overwritten by what came last: of equal
//     bindings the one with the earliest proof stays.
//   - Two mints so near to a use that the clocks cannot order them compete, and
//     so do exact bindings that contradict each other: unless all lead to one
//     root, the row is ambiguous. What is called proven must be true.
//   - Whatever chooses between candidates orders them by time, then by id or
//     key, never by arrival and never by map order.
//   - What is known of a key can be dropped at any time; its name stays for as
//     long as an edge or a row refers to it, counted. Without a look-up, rows
//     that rest on a dropped key are frozen: resolved again they would say less.
//     With one, the key is asked for (lost.go), and until the answer comes no
//     row that was written is written again.
//   - A walk that looked at nothing but exact and stated steps and the time is
//     remembered as a trail (trail.go) for the rows that share its key, until a
//     key on it learns something.
//   - The first time that a record brings a later owner to a row or binding of
//     an earlier one, it is written again even if it says the same: one between
//     them who does not know that it is over may still write a poorer one.
//   - Event time decides everything. A row waits until the watermark has
//     passed it by the allowed lateness (watermark.go), then leaves.
//
// Rejected: union-find over keys (a binding holds for a time, and a path must
// be shown hop by hop); one window per kind of join (a chain crosses them all).
package correlate
