package clickhouse

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"

	"catena/schemas"
	"catena/sinks/sinktest"
)

// No server here speaks the native protocol, so its half of an insert is
// checked against the HTTP half: what the driver's columns hold after fill, it
// sends as the same bytes.
func TestNativeSendsWhatHTTPSends(t *testing.T) {
	rows := append(sinktest.Actions(300), sinktest.Full(), sinktest.Bare())
	actions := newTables().actions
	for range 2 { // a table is used again
		actions.reset()
		for _, a := range rows {
			actions.add(a)
		}
		sameBytes(t, actions)
	}
	bound := newTables().bindings
	for i := range sinktest.Bindings(5) {
		bound.add(&sinktest.Bindings(5)[i])
	}
	sameBytes(t, bound)
	letters := newTables().deadLetters
	for i := range sinktest.DeadLetters() {
		letters.add(&sinktest.DeadLetters()[i])
	}
	sameBytes(t, letters)
}

func sameBytes[R any](t *testing.T, table *table[R]) {
	t.Helper()
	into := driverColumns(t, table)
	if err := table.fill(into); err != nil {
		t.Fatal(err)
	}
	for i, c := range table.columns {
		var want, got proto.Buffer
		table.buffer.Reset()
		if err := table.encode(c.data); err != nil {
			t.Fatal(err)
		}
		want.Buf = append(want.Buf, table.buffer.Buf...)
		if state, ok := into[i].(column.CustomSerialization); ok {
			if err := state.WriteStatePrefix(&got); err != nil {
				t.Fatal(err)
			}
		}
		into[i].Encode(&got)
		if into[i].Rows() != table.rows || !bytes.Equal(got.Buf, want.Buf) {
			t.Errorf("column %s %s: %d rows and %d bytes, want %d and %d", c.name, c.kind, into[i].Rows(), len(got.Buf), table.rows, len(want.Buf))
		}
	}
}

// driverColumns makes the columns that the driver would make for the table.
func driverColumns[R any](t testing.TB, table *table[R]) (all []column.Interface) {
	t.Helper()
	for _, c := range table.columns {
		col, err := column.Type(c.kind).Column(c.name, &column.ServerContext{})
		if err != nil {
			t.Fatal(c.name, err)
		}
		all = append(all, col)
	}
	return all
}

func TestFillNamesAColumnOfAnotherType(t *testing.T) {
	p := newTables().progress
	p.add(&schemas.Progress{Topic: "t"})
	into := driverColumns(t, p)
	into[1], _ = column.Type("String").Column("partition", &column.ServerContext{})
	if err := p.fill(into); err == nil || !strings.Contains(err.Error(), "column partition is String in the database, want Int32") {
		t.Error(err)
	}
	if err := p.fill(into[1:]); err == nil {
		t.Error("no error although a column is missing")
	}
	if !sameType("Array(Tuple(\n    key String,\n    lent Bool))", "Array(Tuple(key String, lent Bool))") {
		t.Error("line ends make a difference")
	}
}

// The body is the same however it is read, and compressed is the same body.
func TestBodyInPiecesAndCompressed(t *testing.T) {
	table := newTables().actions
	for _, a := range sinktest.Actions(50) {
		table.add(a)
	}
	whole, err := io.ReadAll(&body[schemas.Action]{table: table})
	if err != nil {
		t.Fatal(err)
	}
	var pieces bytes.Buffer
	if _, err := io.CopyBuffer(struct{ io.Writer }{&pieces}, struct{ io.Reader }{&body[schemas.Action]{table: table}}, make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(whole, pieces.Bytes()) {
		t.Error("read in pieces it differs")
	}
	packed, err := io.ReadAll(compress.NewReader(&body[schemas.Action]{table: table, compressor: compress.NewWriter(0, compress.LZ4)}))
	if err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(whole, packed) {
		t.Errorf("compressed it differs, error %v", err)
	}
	over := &body[schemas.Action]{table: table}
	over.retire()
	if n, err := over.Read(make([]byte, 9)); n != 0 || err == nil {
		t.Error("a body can be read after its request is over")
	}
}
