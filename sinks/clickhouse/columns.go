package clickhouse

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/google/uuid"

	"catena/schemas"
)

// table turns rows into columns and columns into an insert. It keeps its
// memory from one insert to the next.
type table[R any] struct {
	statement string
	columns   []cells[R]
	rows      int

	buffer proto.Buffer // one column as it goes over the wire
	source bytes.Reader // reads buffer
	reader *proto.Reader
}

// cells is one column: what was added to it, in ClickHouse's layout.
type cells[R any] struct {
	name string
	kind string // its type in SQL
	data wire
	add  func(*R) // appends the row's cell to data
}

// wire is what this package uses of ch-go's columns.
type wire interface {
	EncodeColumn(*proto.Buffer)
	Reset()
}

func newTable[R any](name string, columns ...cells[R]) *table[R] {
	t := &table[R]{columns: columns}
	quoted := make([]string, len(columns))
	for i, c := range columns {
		quoted[i] = "`" + c.name + "`" // from, offset and partition mean something else when bare
	}
	t.statement = "INSERT INTO " + name + " (" + strings.Join(quoted, ", ") + ")"
	t.reader = proto.NewReader(&t.source)
	return t
}

func (t *table[R]) reset() {
	t.rows = 0
	for i := range t.columns {
		t.columns[i].data.Reset()
	}
}

func (t *table[R]) add(row *R) {
	t.rows++
	for i := range t.columns {
		t.columns[i].add(row)
	}
}

// send inserts what was added as one block, and returns when it is on disk.
func (t *table[R]) send(ctx context.Context, s *Store) error {
	if t.rows == 0 {
		return nil
	}
	if s.native == clickhouse.HTTP {
		return t.post(ctx, s)
	}
	batch, err := s.conn.PrepareBatch(ctx, t.statement)
	if err != nil {
		return err
	}
	defer batch.Close()
	if err := t.fill(batch.Columns()); err != nil {
		return err
	}
	return batch.Send()
}

// fill gives the driver's columns their content, for the native protocol.
func (t *table[R]) fill(into []column.Interface) error {
	if len(into) != len(t.columns) {
		return fmt.Errorf("insert: the driver made %d columns of %d", len(into), len(t.columns))
	}
	for i, c := range t.columns {
		if got := string(into[i].Type()); !sameType(got, c.kind) {
			return fmt.Errorf("insert: column %s is %s in the database, want %s", c.name, got, c.kind)
		}
		t.buffer.Reset()
		if err := t.encode(c.data); err != nil {
			return fmt.Errorf("insert: column %s: %w", c.name, err)
		}
		t.source.Reset(t.buffer.Buf)
		if state, ok := into[i].(column.CustomSerialization); ok {
			if err := state.ReadStatePrefix(t.reader); err != nil {
				return fmt.Errorf("insert: column %s: %w", c.name, err)
			}
		}
		if err := into[i].Decode(t.reader, t.rows); err != nil {
			return fmt.Errorf("insert: column %s: %w", c.name, err)
		}
	}
	return nil
}

// sameType compares types in SQL; servers lay long ones out over lines.
func sameType(a, b string) bool {
	return strings.Join(strings.Fields(a), "") == strings.Join(strings.Fields(b), "")
}

// encode adds one column to the buffer: its state, then its cells.
func (t *table[R]) encode(data wire) error {
	if p, ok := data.(proto.Preparable); ok {
		if err := p.Prepare(); err != nil {
			return err
		}
	}
	if s, ok := data.(proto.StateEncoder); ok {
		s.EncodeState(&t.buffer)
	}
	data.EncodeColumn(&t.buffer)
	return nil
}

// Columns by type. Each names the column and says how to get its cell.

// texts is the data of a String column as it goes over the wire: each length
// and its bytes. ch-go's ColStr keeps the lengths beside the bytes, and copies
// all once more value by value when they are encoded.
type texts struct{ data []byte }

func (t *texts) append(v string) {
	t.data = binary.AppendUvarint(t.data, uint64(len(v)))
	t.data = append(t.data, v...)
}

func (t *texts) EncodeColumn(b *proto.Buffer) { b.PutRaw(t.data) }
func (t *texts) Reset()                       { t.data = t.data[:0] }

// text is a String column.
func text[R any](name string, get func(*R) string) cells[R] {
	data := new(texts)
	return cells[R]{name, "String", data, func(r *R) { data.append(get(r)) }}
}

// word is a LowCardinality(String) column.
func word[R any](name string, get func(*R) string) cells[R] {
	data := new(proto.ColStr).LowCardinality()
	return cells[R]{name, "LowCardinality(String)", data, func(r *R) { data.Append(get(r)) }}
}

// built is a String column whose cells are put together in a buffer.
func built[R any](name string, build func([]byte, *R) []byte) cells[R] {
	data := new(texts)
	var scratch []byte
	return cells[R]{name, "String", data, func(r *R) {
		scratch = build(scratch[:0], r)
		data.data = binary.AppendUvarint(data.data, uint64(len(scratch)))
		data.data = append(data.data, scratch...)
	}}
}

// keyText is a String column of keys as kind:namespace:value.
func keyText[R any](name string, get func(*R) schemas.Key) cells[R] {
	return built(name, func(dst []byte, r *R) []byte { return appendKey(dst, get(r)) })
}

// keyID is a String column of keys as namespace:value.
func keyID[R any](name string, get func(*R) schemas.Key) cells[R] {
	return built(name, func(dst []byte, r *R) []byte { return appendKeyID(dst, get(r)) })
}

// id is a UUID column.
func id[R any](name string, get func(*R) schemas.ID) cells[R] {
	data := new(proto.ColUUID)
	return cells[R]{name, "UUID", data, func(r *R) { data.Append(uuid.UUID(get(r))) }}
}

// micros is a DateTime64(6) column, from nanoseconds.
func micros[R any](name string, get func(*R) int64) cells[R] {
	data := new(proto.ColInt64)
	return cells[R]{name, "DateTime64(6, 'UTC')", data, func(r *R) { data.Append(toMicros(get(r))) }}
}

// nanos is a DateTime64(9) column.
func nanos[R any](name string, get func(*R) int64) cells[R] {
	data := new(proto.ColInt64) // laid out alike
	return cells[R]{name, "DateTime64(9, 'UTC')", data, func(r *R) { data.Append(get(r)) }}
}

// int64s is an Int64 column.
func int64s[R any](name string, get func(*R) int64) cells[R] {
	data := new(proto.ColInt64)
	return cells[R]{name, "Int64", data, func(r *R) { data.Append(get(r)) }}
}

// int32s is an Int32 column.
func int32s[R any](name string, get func(*R) int32) cells[R] {
	data := new(proto.ColInt32)
	return cells[R]{name, "Int32", data, func(r *R) { data.Append(get(r)) }}
}

// uint64s is a UInt64 column.
func uint64s[R any](name string, get func(*R) uint64) cells[R] {
	data := new(proto.ColUInt64)
	return cells[R]{name, "UInt64", data, func(r *R) { data.Append(get(r)) }}
}

// uint16s is a UInt16 column.
func uint16s[R any](name string, get func(*R) uint16) cells[R] {
	data := new(proto.ColUInt16)
	return cells[R]{name, "UInt16", data, func(r *R) { data.Append(get(r)) }}
}

// bools is a Bool column.
func bools[R any](name string, get func(*R) bool) cells[R] {
	data := new(proto.ColBool)
	return cells[R]{name, "Bool", data, func(r *R) { data.Append(get(r)) }}
}

// list is an Array column. Elements with several fields are tuples.
func list[R, E any](name string, get func(*R) []E, fields ...cells[E]) cells[R] {
	kind := fields[0].kind
	if len(fields) > 1 {
		named := make([]string, len(fields))
		for i, f := range fields {
			named[i] = f.name + " " + f.kind
		}
		kind = "Tuple(" + strings.Join(named, ", ") + ")"
	}
	data := &array[E]{fields: fields}
	return cells[R]{name, "Array(" + kind + ")", data, func(r *R) { data.add(get(r)) }}
}

// pairs is a Map column, which is laid out like an array of tuples.
func pairs[R, E any](name string, get func(*R) []E, key, value cells[E]) cells[R] {
	data := &array[E]{fields: []cells[E]{key, value}}
	return cells[R]{name, "Map(" + key.kind + ", " + value.kind + ")", data, func(r *R) { data.add(get(r)) }}
}

// array is the data of a list: where each row's elements end, then the
// elements field by field.
type array[E any] struct {
	offsets proto.ColUInt64
	end     uint64
	fields  []cells[E]
}

// add appends the elements of one row.
func (a *array[E]) add(elements []E) {
	for i := range elements {
		for f := range a.fields {
			a.fields[f].add(&elements[i])
		}
	}
	a.end += uint64(len(elements))
	a.offsets.Append(a.end)
}

var (
	_ proto.Preparable   = (*array[string])(nil)
	_ proto.StateEncoder = (*array[string])(nil)
)

func (a *array[E]) Prepare() error {
	for _, f := range a.fields {
		if p, ok := f.data.(proto.Preparable); ok {
			if err := p.Prepare(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *array[E]) EncodeState(b *proto.Buffer) {
	for _, f := range a.fields {
		if s, ok := f.data.(proto.StateEncoder); ok {
			s.EncodeState(b)
		}
	}
}

func (a *array[E]) EncodeColumn(b *proto.Buffer) {
	a.offsets.EncodeColumn(b)
	for _, f := range a.fields {
		f.data.EncodeColumn(b)
	}
}

func (a *array[E]) Reset() {
	a.offsets.Reset()
	a.end = 0
	for _, f := range a.fields {
		f.data.Reset()
	}
}

func appendKey(dst []byte, k schemas.Key) []byte {
	if k.IsZero() {
		return dst
	}
	dst = append(dst, k.Kind.String()...)
	dst = append(dst, ':')
	return appendKeyID(dst, k)
}

func appendKeyID(dst []byte, k schemas.Key) []byte {
	if k.IsZero() {
		return dst
	}
	dst = append(dst, k.Namespace...)
	dst = append(dst, ':')
	return append(dst, k.Value...)
}

// minMicros is 1900-01-01, before which DateTime64(6) has no dates.
const minMicros = -2_208_988_800_000_000

// toMicros cuts nanoseconds to microseconds, downward also before 1970.
func toMicros(nanos int64) int64 {
	m := nanos / 1000
	if nanos%1000 < 0 {
		m--
	}
	return max(m, minMicros)
}
