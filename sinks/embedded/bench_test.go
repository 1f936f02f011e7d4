package embedded

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"
)

// benchColumns is a row of about the width of catena's widest table: 50 columns.
func benchColumns(rows int) (ddl string, columns []any) {
	rng := rand.New(rand.NewPCG(1, 2))
	var names []string
	add := func(kind string, column any) {
		names = append(names, fmt.Sprintf("c%d %s", len(columns), kind))
		columns = append(columns, column)
	}
	texts := func(f func(i int) string) []string {
		out := make([]string, rows)
		for i := range out {
			out[i] = f(i)
		}
		return out
	}
	ids := make([]uuid.UUID, rows)
	times := make([]time.Time, rows)
	for i := range ids {
		ids[i] = uuid.UUID{byte(i), byte(i >> 8), byte(i >> 16), byte(rng.Uint32())}
		times[i] = time.Unix(1772366400, int64(i)*1000).UTC()
	}
	add("UUID", ids)
	for range 4 {
		add("DateTime64(6, 'UTC')", times)
	}
	for c := range 16 {
		add("LowCardinality(String)", texts(func(i int) string { return fmt.Sprintf("value-%d-%d", c, i%(c*10+3)) }))
	}
	for c := range 16 {
		add("String", texts(func(i int) string { return fmt.Sprintf("token:aws.access_key:ASIA%d%012d", c, i*7) }))
	}
	for range 8 {
		numbers := make([]uint64, rows)
		for i := range numbers {
			numbers[i] = rng.Uint64()
		}
		add("UInt64", numbers)
	}
	lists := make([][]string, rows)
	maps := make([]map[string]string, rows)
	for i := range lists {
		lists[i] = []string{"divergent", fmt.Sprint("flag", i%5)}
		maps[i] = map[string]string{"region": "eu-west-1", "n": fmt.Sprint(i)}
	}
	add("Array(LowCardinality(String))", lists)
	add("Array(String)", lists)
	add("Map(LowCardinality(String), String)", maps)
	small := make([]uint8, rows)
	add("UInt8", small)
	add("UInt8", small)
	return "(" + strings.Join(names, ", ") + ")", columns
}

// BenchmarkDriverInsert inserts batches of 100,000 rows of 50 columns as the sink does: clickhouse-go over HTTP, by column.
func BenchmarkDriverInsert(b *testing.B) {
	const rows = 100000
	ddl, columns := benchColumns(rows)
	for _, test := range []struct {
		name, compression string
		settings          clickhouse.Settings
	}{
		{"none", "none", nil}, {"lz4", "lz4", nil}, {"zstd", "zstd", nil},
		// The engine merges an insert's rows by key before it stores them; the next merge does that anyway.
		{"lz4,optimize_on_insert=0", "lz4", clickhouse.Settings{"optimize_on_insert": 0}},
	} {
		b.Run(test.name, func(b *testing.B) {
			ctx := clickhouse.Context(b.Context(), clickhouse.WithSettings(test.settings))
			conn := dial(b, "default", compressions[test.compression])
			table := "bench_" + test.compression
			mustQuery(b, "CREATE OR REPLACE TABLE "+table+" "+ddl+" ENGINE = ReplacingMergeTree ORDER BY c0")
			b.Cleanup(func() { mustQuery(b, "DROP TABLE "+table) })
			b.ReportAllocs()
			for b.Loop() {
				batch, err := conn.PrepareBatch(ctx, "INSERT INTO "+table)
				if err != nil {
					b.Fatal(err)
				}
				for i, column := range columns {
					if err := batch.Column(i).Append(column); err != nil {
						b.Fatal(err)
					}
				}
				if err := batch.Send(); err != nil {
					b.Fatal(err)
				}
				_ = batch.Close()
			}
			b.ReportMetric(float64(rows*b.N)/b.Elapsed().Seconds(), "rows/s")
			if got := mustQuery(b, "SELECT count() > 0 AND count() % "+fmt.Sprint(rows)+" = 0 FROM "+table); got != "1" {
				b.Fatal("rows are missing")
			}
		})
	}
}

// BenchmarkDriverSelect reads a million rows through HTTP, re-encoded for the driver.
func BenchmarkDriverSelect(b *testing.B) {
	const rows = 1000000
	for _, name := range []string{"none", "lz4"} {
		b.Run(name, func(b *testing.B) {
			conn := dial(b, "default", compressions[name])
			for b.Loop() {
				result, err := conn.Query(b.Context(), "SELECT number, toString(number) FROM numbers("+fmt.Sprint(rows)+")")
				if err != nil {
					b.Fatal(err)
				}
				n := 0
				for result.Next() {
					n++
				}
				if err := result.Err(); err != nil || n != rows {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64(rows*b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkSelectOne is what a statement costs at least: in the engine alone, and through HTTP and the driver.
func BenchmarkSelectOne(b *testing.B) {
	b.Run("engine", func(b *testing.B) {
		for b.Loop() {
			if out := mustQuery(b, "SELECT 1"); out != "1" {
				b.Fatal(out)
			}
		}
	})
	b.Run("driver", func(b *testing.B) {
		conn := dial(b, "default", &clickhouse.Compression{Method: clickhouse.CompressionLZ4})
		for b.Loop() {
			var one uint8
			if err := conn.QueryRow(b.Context(), "SELECT 1").Scan(&one); err != nil || one != 1 {
				b.Fatal(one, err)
			}
		}
	})
}
