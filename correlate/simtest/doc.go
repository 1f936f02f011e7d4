// Package simtest makes up worlds in which it is known who did what, and the
// records that tell of it.
//
//	Make ──► people, agents, pipelines, pods, keys, thefts   (what happened)
//	     ──► World.Events                                     (what the logs say)
//	     ──► World.Truth                                      (what a row may and must say)
//
// Truth comes in two parts, neither of which knows the engine. Roots and Driver
// are written down by the story itself while it happens, in true time: whatever
// is called proven must name one of Roots. Want is what the row has to say when
// every record has arrived: it is worked out afterwards, from the recorded
// times, by an oracle (oracle.go) that follows the true links only. A link that
// was lost makes the rows above it lossy: they may say less, never anything
// else.
//
// Times are drawn from a coarse grid, and uses of a key from the edges of its
// windows: on them, one unit of the record's own resolution before and after.
// Uniform random times would miss every fault of one.
//
// Limits of the truth. A session that goes from hand to hand is told by the
// records of its handing over alone; when one of them is lost, nobody could
// know. Those records are therefore never lost, and such rows are held to the
// truth in their final form only.
//
// Windows are widened by skew and resolution, so what happens that much after
// the end of a job counts as the job's; such uses are held to the rule and not
// to what truly was. Calls inferred from overlapping time are counted apart
// where they lie at such an edge, and their share of right ones elsewhere
// measures the world as much as the engine: how busy its workloads are and how
// many records were lost (one to four of a hundred in every second world).
//
// The checks live in the tests: delivery as Kafka and crashes make it, the
// comparison with the truth, and the planted bugs.
package simtest
