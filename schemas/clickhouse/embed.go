// Package migrations holds the tables as SQL: one file a step, applied in the
// order of their numbers and never changed once released. Each statement can
// be pasted into clickhouse-client as it stands, and each can run twice, since
// two instances may start at once and a step may be cut short.
package migrations

import "embed"

// Files are the steps, named NNNN_<what>.sql from 0001 on without a gap.
// Statements end with a semicolon at the end of a line.
//
//go:embed *.sql
var Files embed.FS
