package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/clickhouse-go/v2"
)

// post inserts over HTTP: the columns as they are, in the Native format, one
// after the other while the connection takes them.
func (t *table[R]) post(ctx context.Context, s *Store) error {
	body := &body[R]{table: t}
	switch s.options.Compression {
	case "lz4":
		body.compressor = compress.NewWriter(0, compress.LZ4)
	case "zstd":
		body.compressor = compress.NewWriter(1, compress.ZSTD)
	}
	if body.compressor != nil {
		ctx = clickhouse.Context(ctx, clickhouse.WithSettings(withDecompress(s.insert)))
	}
	defer body.retire()
	return s.conn.InsertFormat(ctx, "Native", t.statement, body)
}

// withDecompress adds that the body comes in ClickHouse's compressed blocks.
func withDecompress(settings clickhouse.Settings) clickhouse.Settings {
	all := clickhouse.Settings{"decompress": 1}
	for name, value := range settings {
		all[name] = value
	}
	return all
}

// body reads as a table's rows in the Native format, one column at a time, so
// that no more than one is held twice.
//
// The HTTP transport reads it from a goroutine of its own, which may outlive a
// request that failed; hence the lock, and retire, after which the table's
// memory is free for the next batch.
type body[R any] struct {
	table      *table[R]
	compressor *compress.Writer // nil for none

	mu      sync.Mutex
	next    int    // the column to encode
	pending []byte // what of the last one was not read yet
	retired bool
}

var errRetired = errors.New("insert: the request is over")

func (b *body[R]) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.pending) == 0 {
		if b.retired {
			return 0, errRetired
		}
		if b.next == len(b.table.columns) {
			return 0, io.EOF
		}
		if err := b.encode(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.pending)
	b.pending = b.pending[n:]
	return n, nil
}

// encode makes the next column pending: name, type, state and cells, the first
// preceded by the numbers of columns and rows.
func (b *body[R]) encode() error {
	t, c := b.table, b.table.columns[b.next]
	t.buffer.Reset()
	if b.next == 0 {
		t.buffer.PutInt(len(t.columns))
		t.buffer.PutInt(t.rows)
	}
	b.next++
	t.buffer.PutString(c.name)
	t.buffer.PutString(c.kind)
	if err := t.encode(c.data); err != nil {
		return fmt.Errorf("insert: column %s: %w", c.name, err)
	}
	b.pending = t.buffer.Buf
	if b.compressor == nil {
		return nil
	}
	if err := b.compressor.Compress(t.buffer.Buf); err != nil {
		return fmt.Errorf("insert: column %s: %w", c.name, err)
	}
	b.pending = b.compressor.Data
	return nil
}

// retire ends all reading.
func (b *body[R]) retire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.retired, b.pending = true, nil
}
