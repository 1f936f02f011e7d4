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
// Rows become columns with ch-go's column types, in ClickHouse's own layout,
// and are handed to clickhouse-go's columns by Decode. The driver's own Append
// boxes every cell and looks every short word up in a map[any]int, and its
// tuples go through reflection: see BenchmarkEncode for what that costs. Its
// connections, both protocols, compression and errors are used as they are.
package clickhouse
