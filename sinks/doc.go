// Package sinks carries finished rows to where they are kept.
//
//	Append --> open batch --full, old or flushed--> queue --one at a time--> Sink.Write --> Done
//	   ^                                                        |  ^
//	   Full: pause reading            retry the same rows, back off  |
//
// [Writer] forms batches and writes them in order, one at a time. What it
// promises, and what rests on it:
//
//   - A batch is done only when all its rows are durable, and batches are done
//     in the order of their rows. So whoever appends a record's rows and then
//     its [schemas.Progress] may commit the offset when that progress is done.
//   - Progress is written after the rows it speaks of were acknowledged, so the
//     tables never claim more than they hold.
//   - A write that failed is repeated with the same rows until it succeeds.
//     Rows are therefore written at least once; that they are seen once is the
//     work of their ids and versions, not of the database's deduplication.
//   - A row that the database refuses for good becomes a dead letter, and only
//     that row: the batch is halved until the rows at fault stand alone. All that
//     a person has to mend (a full disk, a read-only table, a missing right)
//     waits instead.
//   - What is held is bounded. From the bound on [Writer.Full] says so, and at
//     twice as much Append refuses; an outage costs no memory beyond that.
//   - An outage is one line of log when it begins and one when a whole batch is
//     durable again, however many attempts lie between.
//
// Sinks: [catena/sinks/clickhouse] and [catena/sinks/jsonl]. Every sink passes
// the tests of [catena/sinks/sinktest].
//
// Rejected: several writes in flight (they would finish out of order, and the
// commit point would need a window); a queue that drops when full (nothing may
// vanish); one batch a table (progress could overtake the rows it speaks of).
package sinks
