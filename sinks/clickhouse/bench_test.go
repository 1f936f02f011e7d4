package clickhouse

import (
	"context"
	"io"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2/lib/column"

	"catena/schemas"
	"catena/sinks"
	"catena/sinks/sinktest"
)

const benchRows = 50_000

// BenchmarkEncode is what a row costs before it leaves this process: as the
// body of an HTTP request, and into the driver's columns.
func BenchmarkEncode(b *testing.B) {
	rows := sinktest.Actions(benchRows)
	t := newTables().actions
	encode := map[string]func() error{
		"http": func() error {
			_, err := io.Copy(io.Discard, &body[schemas.Action]{table: t})
			return err
		},
		"native": func() error { return t.fill(driverColumns(b, t)) },
	}
	for _, protocol := range []string{"http", "native"} {
		b.Run(protocol, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				t.reset()
				for _, a := range rows {
					t.add(a)
				}
				if err := encode[protocol](); err != nil {
					b.Fatal(err)
				}
			}
			perRow(b, benchRows)
		})
	}
}

// BenchmarkEncodeByAppend is the same by the driver's own Append, for a few of
// the columns: it is what Encode is measured against.
func BenchmarkEncodeByAppend(b *testing.B) {
	rows := sinktest.Actions(benchRows)
	b.Run("hops", func(b *testing.B) {
		type hop struct {
			Key      string `ch:"key"`
			Name     string `ch:"name"`
			Relation string `ch:"relation"`
			Strength string `ch:"strength"`
			Proof    string `ch:"proof"`
			At       int64  `ch:"at"`
			Lent     bool   `ch:"lent"`
		}
		b.ReportAllocs()
		for b.Loop() {
			col := driverColumn(b, "hops")
			for _, a := range rows {
				hops := make([]hop, len(a.Hops))
				for i, h := range a.Hops {
					hops[i] = hop{h.Key.String(), h.Name, h.Relation.String(), h.Strength.String(), h.Proof.String(), h.AtNanos / 1e6, h.Lent}
				}
				if err := col.AppendRow(hops); err != nil {
					b.Fatal(err)
				}
			}
		}
		perRow(b, benchRows)
	})
	b.Run("hops as slices", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			col := driverColumn(b, "hops")
			for _, a := range rows {
				hops := make([][]any, len(a.Hops))
				for i, h := range a.Hops {
					hops[i] = []any{h.Key.String(), h.Name, h.Relation.String(), h.Strength.String(), h.Proof.String(), h.AtNanos / 1e6, h.Lent}
				}
				if err := col.AppendRow(hops); err != nil {
					b.Fatal(err)
				}
			}
		}
		perRow(b, benchRows)
	})
	b.Run("one word", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			col := driverColumn(b, "source")
			for _, a := range rows {
				if err := col.AppendRow(a.Source); err != nil {
					b.Fatal(err)
				}
			}
		}
		perRow(b, benchRows)
	})
}

// BenchmarkWriter carries actions through a [sinks.Writer] into a database
// process of its own, over both protocols, so that the processor time of both
// sides can be told apart: into the table as migrated, and into one of ENGINE =
// Null, which takes the rows and drops them. `make bench-writer` prints it as
// the table of docs/benchmarks.md.
func BenchmarkWriter(b *testing.B) {
	db := newChild(b)
	for _, target := range []string{"actions", "null"} {
		for _, protocol := range []string{"http", "native"} {
			for _, compression := range []string{"none", "lz4"} {
				b.Run(target+"/"+protocol+"/"+compression, func(b *testing.B) {
					benchWriter(b, db, target == "null", map[string]string{"http": "http://" + db.http, "native": "clickhouse://" + db.native}[protocol], compression)
				})
			}
		}
	}
}

func benchWriter(b *testing.B, db *child, null bool, addr, compression string) {
	s, err := Open(b.Context(), Options{Addrs: []string{addr}, Compression: compression, Database: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	conn, err := s.connect("", "", nil)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Exec(b.Context(), "DROP DATABASE IF EXISTS bench SYNC"); err != nil {
		b.Fatal(err)
	}
	if _, err := s.Migrate(b.Context()); err != nil {
		b.Fatal(err)
	}
	if null {
		exec(b, s, "RENAME TABLE actions TO kept", "CREATE TABLE actions ENGINE = Null AS SELECT * FROM kept LIMIT 0")
	}
	// The pipeline appends what one turn of it gave.
	const turn = 500
	rows := sinktest.Actions(benchRows)
	w := sinks.NewWriter(s, sinks.Options{MaxRows: benchRows})
	fill := func() {
		for at := 0; at < len(rows); at += turn {
			<-w.Room()
			if err := w.Append(&sinks.Batch{Actions: rows[at : at+turn]}); err != nil {
				b.Fatal(err)
			}
		}
	}
	fill() // connections, the engine's caches
	if err := w.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	own, its := ownCPU(b), db.cpu(b)
	b.ReportAllocs()
	for b.Loop() {
		fill()
	}
	if err := w.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
	perRow(b, benchRows)
	million := float64(b.N*benchRows) / 1e6
	b.ReportMetric((ownCPU(b)-own).Seconds()/million, "cpu-s/Mrow")
	b.ReportMetric((db.cpu(b)-its).Seconds()/million, "db-cpu-s/Mrow")
	b.ReportMetric(0, "ns/op")
}

func BenchmarkLoadActions(b *testing.B) {
	s := migrated(b)
	write(b, s, &sinks.Batch{Actions: sinktest.Actions(benchRows)})
	b.ReportAllocs()
	for b.Loop() {
		if got := actions(b, s, 0); len(got) != benchRows {
			b.Fatal(len(got))
		}
	}
	perRow(b, benchRows)
}

func BenchmarkLoadBindings(b *testing.B) {
	const n = 200_000
	s := migrated(b)
	write(b, s, &sinks.Batch{Bindings: sinktest.Bindings(n)})
	b.ReportAllocs()
	for b.Loop() {
		got := 0
		if err := s.LoadBindings(b.Context(), 0, nil, func(*schemas.Binding) error { got++; return nil }); err != nil || got != n {
			b.Fatal(got, err)
		}
	}
	perRow(b, n)
}

func perRow(b *testing.B, rows int) {
	b.ReportMetric(float64(b.N*rows)/b.Elapsed().Seconds(), "rows/s")
}

// driverColumn makes the driver's column for one of actions.
func driverColumn(b *testing.B, name string) column.Interface {
	t := newTables().actions
	all := driverColumns(b, t)
	for i, c := range t.columns {
		if c.name == name {
			return all[i]
		}
	}
	b.Fatal("no column", name)
	return nil
}
