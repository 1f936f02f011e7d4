// Package ingest reads records and turns them into events. Only this package
// knows Kafka, and only it knows what logs look like.
//
//	Kafka --Consumer--> Record --Decoder--> Event, DeadLetter, Skip
//
//	           content          walk               settle              event
//	Record ──> gzip, lines, ──> one pass over  ──> an envelope? ──yes─> open it: back to content
//	           OTLP, JSON       the bytes fills    a source?  ────yes─> rules read slots: Event
//	                            slots              neither ───────────> DeadLetter
//
// # Programs
//
// A source is data (schemas/sources). Each is compiled once into a program: a
// trie of all paths it reads, a slot for the value of each, conditions and
// templates that read slots. One walk over a document fills the slots; they
// alias the record, and hold until the next walk.
//
// Every program also reads what the match of every source and envelope asks
// for. So any program can tell what a document is, and the one that decoded the
// record before is tried first: if it is right, recognition costs nothing; if
// not, the right one walks again.
//
// Documents of one kind have the same names, brackets and commas around their
// values. What lies between the values is kept in a bounded tree, and a walk goes
// along it as long as the document does: no name is looked up, and only the values
// are checked. A document that leaves the tree is walked over anew.
//
// Which slots have a value and which conditions hold is a record's shape. Few
// shapes make up most of a log, so what follows from one (the source, the rules
// that hold, the templates that can give anything) is worked out once and kept
// in a bounded table. What is evaluated for a record is then a short list.
//
// # Invariants
//
//   - What a record gives does not depend on the record before it, on the
//     order of the sources' files, or on which of a decoder's clones decodes it.
//   - Every record ends as at least one event, dead letter or skip. What is
//     wrong with an item of a batch is that item's dead letter.
//   - No record makes a decoder panic, and what comes out is bounded by what
//     goes in: bytes, depth, items and unpacked size have limits.
//   - A member that is read and stands twice in an object with different values
//     is refused. Which of the two counts is where parsers differ, and where
//     somebody could show one thing to the system that acts and another to us.
//   - Secrets do not leave the package: texts pass the [Redactor], keys that are
//     secrets become their keyed HMAC.
//
// # Rejected
//
//   - A DOM, or a query for each path: each costs more than the walk.
//   - Keeping what follows from a record's values rather than from its shape:
//     ids never come again.
//   - Trying the sources one by one: the cost would grow with their number.
//   - First or last of two members wins: see above.
//   - A bitmap of where strings end, as simdjson has it: in plain Go it takes as
//     long to make as it saves; it would need assembly for each processor.
package ingest
