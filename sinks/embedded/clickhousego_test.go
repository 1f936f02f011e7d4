package embedded

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"
)

// compressions are the ones clickhouse-go has for HTTP.
var compressions = map[string]*clickhouse.Compression{
	"none":    nil,
	"lz4":     {Method: clickhouse.CompressionLZ4},
	"zstd":    {Method: clickhouse.CompressionZSTD, Level: 1},
	"gzip":    {Method: clickhouse.CompressionGZIP, Level: 1},
	"deflate": {Method: clickhouse.CompressionDeflate, Level: 1},
	"br":      {Method: clickhouse.CompressionBrotli, Level: 1},
}

// compressionsOf are those of the protocol that the test dials.
func compressionsOf(t testing.TB) map[string]*clickhouse.Compression {
	if protocolOf(t) == clickhouse.HTTP {
		return compressions
	}
	return map[string]*clickhouse.Compression{"none": nil, "lz4": compressions["lz4"], "zstd": compressions["zstd"]}
}

// wideTable has a column of every type that catena's schema uses, and the table features it needs.
const wideTable = `CREATE TABLE wide (
	id UUID,
	at DateTime64(6, 'UTC'),
	second DateTime,
	day Date,
	name String,
	kind LowCardinality(String),
	maybe Nullable(String),
	maybe_kind LowCardinality(Nullable(String)),
	grade Enum8('proven' = 1, 'stated' = 2, 'inferred' = 3),
	digest FixedString(4),
	attributes Map(LowCardinality(String), String),
	hops Array(Tuple(relation LowCardinality(String), key String, strength UInt8)),
	candidates Array(Array(String)),
	flags Array(LowCardinality(String)),
	ip IPv6,
	mfa Bool,
	offset UInt64,
	delta Int32,
	score Float64,
	price Decimal(18, 4),
	version UInt64,
	doubled UInt64 MATERIALIZED offset * 2,
	PROJECTION by_name (SELECT name, count() GROUP BY name)
) ENGINE = ReplacingMergeTree(version) ORDER BY id SETTINGS deduplicate_merge_projection_mode = 'rebuild'`

type wideRow struct {
	ID         uuid.UUID         `ch:"id"`
	At         time.Time         `ch:"at"`
	Second     time.Time         `ch:"second"`
	Day        time.Time         `ch:"day"`
	Name       string            `ch:"name"`
	Kind       string            `ch:"kind"`
	Maybe      *string           `ch:"maybe"`
	MaybeKind  *string           `ch:"maybe_kind"`
	Grade      string            `ch:"grade"`
	Digest     string            `ch:"digest"`
	Attributes map[string]string `ch:"attributes"`
	Hops       []map[string]any  `ch:"hops"`
	Candidates [][]string        `ch:"candidates"`
	Flags      []string          `ch:"flags"`
	IP         netip.Addr        `ch:"ip"`
	MFA        bool              `ch:"mfa"`
	Offset     uint64            `ch:"offset"`
	Delta      int32             `ch:"delta"`
	Score      float64           `ch:"score"`
	Version    uint64            `ch:"version"`
}

const wideColumns = "id, at, second, day, name, kind, maybe, maybe_kind, grade, digest, attributes, hops, candidates, flags, ip, mfa, offset, delta, score, version"

func wideRowAt(i int) wideRow {
	r := wideRow{
		ID: uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%d", i)),
		At: time.Date(2026, 3, 1, 12, 0, 0, i*1000, time.UTC), Second: time.Date(2026, 3, 1, 12, 0, i%60, 0, time.UTC),
		Day: time.Date(2026, 3, 1+i%28, 0, 0, 0, 0, time.UTC), Name: fmt.Sprintf("row %d\n\n\x00'", i), Kind: []string{"human", "service", "agent"}[i%3],
		Grade: []string{"proven", "stated", "inferred"}[i%3], Digest: fmt.Sprintf("%04d", i%10000),
		Attributes: map[string]string{"i": fmt.Sprint(i), "": "empty key"},
		Hops:       []map[string]any{{"relation": "issued", "key": fmt.Sprintf("token:%d", i), "strength": uint8(i)}},
		Candidates: [][]string{{}, {"a", fmt.Sprint(i)}}, Flags: []string{"divergent", "new_source_ip"}[:i%3%2+1],
		IP: netip.MustParseAddr("2001:db8::1"), MFA: i%2 == 0, Offset: uint64(i) << 33, Delta: int32(-i), Score: float64(i) / 3, Version: 1,
	}
	if i%2 == 1 {
		text := fmt.Sprint("maybe ", i)
		r.Maybe, r.MaybeKind = &text, &r.Kind
	}
	return r
}

func (r wideRow) values() []any {
	return []any{r.ID, r.At, r.Second, r.Day, r.Name, r.Kind, r.Maybe, r.MaybeKind, r.Grade, r.Digest, r.Attributes, r.Hops, r.Candidates,
		r.Flags, r.IP, r.MFA, r.Offset, r.Delta, r.Score, r.Version}
}

// Every type survives an insert and a select by the driver that production uses, with each of its compressions.
func TestDriverRoundTrip(t *testing.T) { overBoth(t, driverRoundTrip) }

func driverRoundTrip(t *testing.T) {
	for name, compression := range compressionsOf(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			conn := dial(t, database(t), compression)
			if err := conn.Ping(ctx); err != nil {
				t.Fatal("ping:", err)
			}
			if err := conn.Exec(ctx, wideTable); err != nil {
				t.Fatal("create:", err)
			}
			const rows = 1000
			batch, err := conn.PrepareBatch(ctx, "INSERT INTO wide ("+wideColumns+")")
			if err != nil {
				t.Fatal("prepare:", err)
			}
			defer batch.Close()
			for i := range rows {
				if err := batch.Append(wideRowAt(i).values()...); err != nil {
					t.Fatal("append:", err)
				}
			}
			if err := batch.Send(); err != nil {
				t.Fatal("send:", err)
			}
			var got []wideRow
			if err := conn.Select(ctx, &got, "SELECT "+wideColumns+" FROM wide FINAL ORDER BY offset"); err != nil {
				t.Fatal("select:", err)
			}
			if len(got) != rows {
				t.Fatalf("%d rows, want %d", len(got), rows)
			}
			for i := range got {
				// The driver's times are in the column's or the server's zone; that is a pointer to compare.
				for _, at := range []*time.Time{&got[i].At, &got[i].Second, &got[i].Day} {
					*at = at.UTC()
				}
				if want := wideRowAt(i); !reflect.DeepEqual(got[i], want) {
					t.Fatalf("row %d:\n got %+v\nwant %+v", i, got[i], want)
				}
			}
		})
	}
}

// The column interface writes what Append writes, and ReplacingMergeTree keeps the highest version.
func TestDriverColumnsAndFinal(t *testing.T) { overBoth(t, driverColumnsAndFinal) }

func driverColumnsAndFinal(t *testing.T) {
	ctx := t.Context()
	conn := dial(t, database(t), compressions["lz4"])
	if err := conn.Exec(ctx, "CREATE TABLE v (id UInt64, name String, tags Array(String), version UInt64) ENGINE = ReplacingMergeTree(version) ORDER BY id"); err != nil {
		t.Fatal(err)
	}
	const rows = 5000
	for version := uint64(3); version >= 1; version-- {
		batch, err := conn.PrepareBatch(ctx, "INSERT INTO v")
		if err != nil {
			t.Fatal(err)
		}
		ids, names, tags, versions := make([]uint64, rows), make([]string, rows), make([][]string, rows), make([]uint64, rows)
		for i := range ids {
			ids[i], names[i], tags[i], versions[i] = uint64(i), fmt.Sprintf("v%d", version), []string{"x", fmt.Sprint(version)}, version
		}
		for i, column := range []any{ids, names, tags, versions} {
			if err := batch.Column(i).Append(column); err != nil {
				t.Fatal(err)
			}
		}
		if err := batch.Send(); err != nil {
			t.Fatal(err)
		}
		if err := batch.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var all, final, newest uint64
	if err := conn.QueryRow(ctx, "SELECT count() FROM v").Scan(&all); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(ctx, "SELECT count(), countIf(name = 'v3' AND tags[2] = '3') FROM v FINAL").Scan(&final, &newest); err != nil {
		t.Fatal(err)
	}
	if all != 3*rows || final != rows || newest != rows {
		t.Fatalf("%d rows, %d final, %d of them newest; want %d, %d, %d", all, final, newest, 3*rows, rows, rows)
	}
}

func TestDriverParameters(t *testing.T) { overBoth(t, driverParameters) }

func driverParameters(t *testing.T) {
	ctx := t.Context()
	conn := dial(t, "default", nil)
	want := "tab\tline\nquote'back\\slash {x:String} \x01"
	var text string
	var number uint32
	var list []string
	bound := clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{"n": "42", "list": `['a','b\'c']`}))
	if err := conn.QueryRow(bound, "SELECT {n:UInt32}, {list:Array(String)}").Scan(&number, &list); err != nil {
		t.Fatal(err)
	}
	if number != 42 || !reflect.DeepEqual(list, []string{"a", "b'c"}) {
		t.Fatalf("got %d %q", number, list)
	}
	if err := conn.QueryRow(ctx, "SELECT {s:String}, {n:UInt32}", clickhouse.Named("s", want), clickhouse.Named("n", 7)).Scan(&text, &number); err != nil {
		t.Fatal(err)
	}
	if text != want || number != 7 {
		t.Fatalf("got %q %d, want %q 7", text, number, want)
	}
	if err := conn.QueryRow(ctx, "SELECT ?", "it's").Scan(&text); err != nil || text != "it's" {
		t.Fatalf("got %q, %v", text, err)
	}
}

func TestDriverExceptions(t *testing.T) { overBoth(t, driverExceptions) }

func driverExceptions(t *testing.T) {
	ctx := t.Context()
	for name, compression := range compressionsOf(t) {
		conn := dial(t, "default", compression)
		for sql, code := range map[string]int32{
			"SELECT * FROM nope": 60,
			"SELECT nope":        47,
			"SELEC 1":            62,
			"SELECT throwIf(number = 3) FROM numbers(10)": 395,
			"SELECT 1 SETTINGS nope = 1":                  115,
			"SELECT * FROM file('/etc/hostname')":         497,
			"SELECT throwIf(number = 900000, 'a\n\nb') FROM numbers(1000000) SETTINGS max_threads = 1": 395,
		} {
			rows, err := conn.Query(ctx, sql)
			for err == nil && rows.Next() {
			}
			if err == nil {
				err = rows.Err()
			}
			var exception *clickhouse.Exception
			if !errors.As(err, &exception) || exception.Code != code {
				t.Errorf("%s: %s: got %v, want code %d", name, sql, err, code)
			}
		}
		batch, err := conn.PrepareBatch(ctx, "INSERT INTO nope (a)")
		if err == nil {
			_ = batch.Close()
			t.Errorf("%s: a batch into no table", name)
		}
	}
}

// A server error amid an answer reaches the driver as an exception, not as the end of the rows.
func TestDriverErrorMidStream(t *testing.T) { overBoth(t, driverErrorMidStream) }

func driverErrorMidStream(t *testing.T) {
	for name, compression := range compressionsOf(t) {
		conn := dial(t, "default", compression)
		rows, err := conn.Query(t.Context(), "SELECT number, throwIf(number = 3000000) FROM numbers(4000000) SETTINGS max_threads = 1")
		if err != nil {
			t.Errorf("%s: the answer should have begun: %v", name, err)
			continue
		}
		n := 0
		for rows.Next() {
			n++
		}
		var exception *clickhouse.Exception
		if err := rows.Err(); !errors.As(err, &exception) || exception.Code != 395 {
			t.Errorf("%s: after %d rows: %v", name, n, err)
		}
		if n == 0 || n >= 4000000 {
			t.Errorf("%s: %d rows before the error", name, n)
		}
	}
}

func TestDriverMillionRows(t *testing.T) { overBoth(t, driverMillionRows) }

func driverMillionRows(t *testing.T) {
	conn := dial(t, "default", compressions["lz4"])
	rows, err := conn.Query(t.Context(), "SELECT number, toString(number), toLowCardinality(toString(number % 100)) FROM numbers(1000000)")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var n, sum, number uint64
	var text, low string
	for rows.Next() {
		if err := rows.Scan(&number, &text, &low); err != nil {
			t.Fatal(err)
		}
		if text != fmt.Sprint(number) || low != fmt.Sprint(number%100) {
			t.Fatalf("row %d: %q %q", number, text, low)
		}
		n, sum = n+1, sum+number
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if n != 1000000 || sum != 499999500000 {
		t.Fatalf("%d rows, sum %d", n, sum)
	}
}

// Inserts and selects at once: no row is lost, none is seen twice.
func TestDriverConcurrent(t *testing.T) { overBoth(t, driverConcurrent) }

func driverConcurrent(t *testing.T) {
	ctx := t.Context()
	conn := dial(t, database(t), compressions["lz4"])
	if err := conn.Exec(ctx, "CREATE TABLE c (writer UInt32, n UInt32) ENGINE = MergeTree ORDER BY (writer, n)"); err != nil {
		t.Fatal(err)
	}
	const writers, batches, rows = 4, 10, 500
	var wg sync.WaitGroup
	for writer := range writers {
		wg.Go(func() {
			for b := range batches {
				batch, err := conn.PrepareBatch(ctx, "INSERT INTO c")
				if err != nil {
					t.Error(err)
					return
				}
				for i := range rows {
					if err := batch.Append(uint32(writer), uint32(b*rows+i)); err != nil {
						t.Error(err)
					}
				}
				if err := batch.Send(); err != nil {
					t.Error(err)
				}
				_ = batch.Close()
			}
		})
		wg.Go(func() {
			last := uint64(0)
			for range batches {
				var count, distinct uint64
				if err := conn.QueryRow(ctx, "SELECT count(), uniqExact(n) FROM c WHERE writer = ?", writer).Scan(&count, &distinct); err != nil {
					t.Error(err)
					return
				}
				if count != distinct || count < last || count%rows != 0 {
					t.Errorf("writer %d: %d rows, %d distinct, %d before", writer, count, distinct, last)
				}
				last = count
			}
		})
	}
	wg.Wait()
	var count uint64
	if err := conn.QueryRow(ctx, "SELECT count() FROM c").Scan(&count); err != nil || count != writers*batches*rows {
		t.Fatalf("%d rows, want %d: %v", count, writers*batches*rows, err)
	}
}

// Cancelling the context ends the statement in the engine, not only the wait for it.
func TestDriverCancel(t *testing.T) { overBoth(t, driverCancel) }

func driverCancel(t *testing.T) {
	conn := dial(t, "default", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	started := time.Now()
	var n uint64
	err := conn.QueryRow(ctx, "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 5 SETTINGS max_threads = 1").Scan(&n)
	// Over the native protocol the driver gives the socket the same deadline, and either may be first.
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("got", err)
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Fatal("took", took)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		running := mustQuery(t, "SELECT count() FROM system.processes WHERE query LIKE '%sipHash64(number) = 5%' AND query NOT LIKE '%system.processes%'")
		if running == "0" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the statement still runs")
		}
	}
}

// Settings of one request do not reach the next, and per-query settings arrive.
func TestDriverSettings(t *testing.T) { overBoth(t, driverSettings) }

func driverSettings(t *testing.T) {
	conn := dial(t, "default", nil)
	var value string
	ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"max_threads": 3, "log_comment": "it's"}))
	if err := conn.QueryRow(ctx, "SELECT concat(toString(getSetting('max_threads')), getSetting('log_comment'))").Scan(&value); err != nil || value != "3it's" {
		t.Fatalf("got %q, %v", value, err)
	}
	if err := conn.QueryRow(t.Context(), "SELECT getSetting('log_comment')").Scan(&value); err != nil || value != "" {
		t.Fatalf("leaked %q, %v", value, err)
	}
	ctx = clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"no_such_setting": 1}))
	var exception *clickhouse.Exception
	if err := conn.Exec(ctx, "SELECT 1"); !errors.As(err, &exception) || exception.Code != 115 {
		t.Fatal("got", err)
	}
}
