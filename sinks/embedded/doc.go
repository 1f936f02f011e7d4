// Package embedded runs the ClickHouse engine inside this process and serves ClickHouse's HTTP interface and its native
// protocol in front of it, so that the demo, the tests and single-machine installs use the same driver and the same SQL as production.
//
//	clickhouse-go, curl, … --HTTP--> Handler --Statement--> Engine --purego--> libchdb.so
//	                                    |                      |
//	                        native.go: Native blocks     one connection a statement,
//	                        at the client's revision     or the session's own
//
// The engine is libchdb, a shared library of 560 MB that deploy/dev/libchdb.sh fetches. It is loaded without cgo by
// [Open], never at start-up. Only linux/amd64 with glibc is supported; elsewhere the package compiles and Open says so.
//
// # Files
//
//	engine.go     Open, Close, Statement, Start: what a front (HTTP, the native protocol) builds on
//	result.go     Result: a statement's output, chunk by chunk
//	insert.go     the insert path: streams data in any input format into the engine
//	session.go    connections that outlive a request, keyed by session_id
//	sql.go        how far this package reads SQL: verb, FORMAT, where an INSERT's data begins
//	native.go     re-encodes Native blocks from one protocol revision to another
//	errors.go     Error, ClickHouse's codes and their HTTP status
//	http.go       Handler; http_*.go its request, response, authentication and compression
//	tcp.go        the native protocol: connections; tcp_packets.go what clients send, bounded; tcp_query.go statements and
//	              their blocks; tcp_insert.go INSERT
//	server.go     Server: both on their listeners
//	library_*.go  libchdb's C functions
//
// # Non-obvious
//
// One engine per process. libchdb keeps its catalog, thread pools and memory tracker in globals and accepts one data
// directory at a time. A second [Open] returns [ErrAlreadyOpen]; after Close another directory may be opened.
//
// Signals. By default the library installs its own handlers for SIGSEGV and friends, and a nil dereference in Go then
// hangs instead of panicking. Open turns them off before the first connection, compares every signal's handler before
// and after, puts back what Go had, and gives handlers that the library adds for itself (the stack trace signal of
// system.stack_trace) SA_ONSTACK, without which a handler would run on a goroutine's small stack.
//
// A connection is cheap: 0.1 ms to open and close, measured, against 0.8 ms for SELECT 1. So every statement gets a fresh
// one, and settings, USE, parameters and temporary tables cannot leak from one request to the next. Statements on different
// connections run in parallel; a connection runs one at a time. Closing one under a running statement aborts the process,
// so Close cancels and waits.
//
// Cancelling. The C interface can cancel a stream between two chunks, and nothing else. A statement is therefore tagged
// through the setting query_cache_tag (a label with no effect: the engine has no query cache), and cancelling its context
// sends KILL QUERY WHERE Settings['query_cache_tag'] = … from another connection.
//
// Streaming. chdb_stream_query yields one block at a time, each formatted as a document of its own: right for Native,
// TSV or JSONEachRow, wrong for JSON, Pretty, Parquet or anything with a header. Only the formats in streamable
// are streamed; the others are built in memory by the engine, within max_memory_usage. Only SELECT can be streamed at all.
//
// Native blocks. libchdb writes Native at revision 0: no block info, no serialization flag per column. Over HTTP a client
// names the revision it wants in client_protocol_version, so the bytes in between are added on the way out. Data of an
// INSERT is revision 0 over HTTP whatever the client names, as with a ClickHouse server. Over the native protocol both ways
// are at the revision of the handshake.
//
// The native protocol has what clients need and no more: hello, ping, query with settings, parameters and external tables,
// blocks in and out, LZ4 and ZSTD, progress, profile, cancel, exceptions. There are no totals and extremes, no logs and
// profile events, no chunked packets, no part of a cluster. A connection's statements run on connections of the engine of their
// own until one of them sets what later ones see (SET, USE, a temporary table): from there on they share one.
//
// Inserts do not travel in the query text: the engine's multi-statement reader ends an INSERT at the first blank line of
// its data, which binary data contains. Data goes through chdb_stream_insert instead, which is length-delimited. It knows no
// input(), and the other way would insert nothing without an error, so INSERT … SELECT … FROM input() is refused.
//
// Files. The engine believes that it is clickhouse-local, whose user may read and write every file of the host. Unless
// [Options.HostFiles] is set, the FILE source and the File table engine are revoked; INTO OUTFILE and FROM INFILE are refused
// always, as a server does. SYSTEM SHUTDOWN, which would end this process, is revoked too. This narrows what SQL can reach
// and is no sandbox: the function file() and a dictionary's file source still read. Who may send SQL may read what the
// process may read: run it as a user of its own.
//
// The engine's own query id is random; X-ClickHouse-Query-Id echoes the client's and system.processes shows the engine's.
package embedded
