// Package clickhouse keeps rows in ClickHouse and reads them back. Nothing else
// in the project knows the database.
//
//	Open --> Migrate --> Write (from [sinks.Writer])
//	                     Load…   what a restart needs
//	                     Lookup… what fell out of memory
//	                     Chain, Action, FindChains, Query: what people ask
//
// # Non-obvious
//
// Writing twice is harmless: every table is a ReplacingMergeTree whose key
// names the row for good, so the row with the highest version stays. No
// deduplication by the server is needed, and it is switched off explicitly,
// as are asynchronous inserts: an acknowledged insert is on disk.
//
// Rows become columns with ch-go's column types, in ClickHouse's own layout.
// Over HTTP they are the body of the insert as they are; over the native
// protocol the driver's columns take them by Decode. The driver's own Append
// boxes every cell, looks every short word up in a map[any]int and sends tuples
// through reflection: hops alone cost more by it than the whole row does here
// (BenchmarkEncode). The driver's connections, both protocols, compression and
// errors are used as they are.
//
// Tried and of no measurable use for the cost of an insert with its merges,
// 14 to 18 µs a row: LZ4 instead of ZSTD(1), which doubles the disk; compact
// parts; larger thresholds for vertical merges. The skip indexes together cost
// 1 to 2 µs a row.
package clickhouse
