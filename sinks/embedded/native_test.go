package embedded

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// transcode re-encodes blocks.
func transcode(data []byte, from, to uint64) (out []byte, err error) {
	err = newTranscoder(from, to).transcode(data, func(piece []byte) error {
		out = append(out, piece...)
		return nil
	})
	return out, err
}

// Every type that production tables can have goes to a revision and back without a byte of difference.
func TestTranscodeIsLossless(t *testing.T) {
	for _, expression := range []string{
		"number", "toUInt8(number)", "toInt128(number) - 5", "toUInt256(number)", "number / 3", "toFloat32(number)", "number % 2 = 0",
		"toString(number)", "repeat('x', number % 300)", "toFixedString(toString(number % 10), 3)", "toLowCardinality(toString(number % 7))",
		"toLowCardinality(toString(number))", "CAST(if(number % 3 = 0, NULL, toString(number % 5)), 'LowCardinality(Nullable(String))')",
		"if(number % 2 = 0, NULL, number)", "NULL", "toDate('2026-03-01') + number % 100", "toDate32('1900-01-01') + number % 100",
		"toDateTime('2026-03-01 00:00:00') + number", "toDateTime('2026-03-01 00:00:00', 'Europe/Paris') + number",
		"toDateTime64('2026-03-01 00:00:00.000001', 6, 'UTC') + number", "toDateTime64('2026-03-01 00:00:00.1', 9)",
		"generateUUIDv4()", "toIPv4('10.0.0.1')", "toIPv6('2001:db8::1')", "toDecimal32(number % 100, 2)", "toDecimal64(number, 4)", "toDecimal128(number, 10)", "toDecimal256(number, 10)",
		"CAST(number % 3 + 1, 'Enum8(\\'a\\' = 1, \\'b\\' = 2, \\'c\\' = 3)')", "CAST(number % 2 + 1000, 'Enum16(\\'it\\\\\\'s\\' = 1000, \\'b\\' = 1001)')",
		"range(number % 4)", "[]", "[['a'], [], [toString(number), 'b']]", "arrayMap(x -> toLowCardinality(toString(x)), range(number % 4))",
		"[if(number % 2 = 0, NULL, number)]", "(number, toString(number))", "CAST((number, 'x'), 'Tuple(id UInt64, name LowCardinality(String))')",
		"[CAST((toString(number), 'k', 1), 'Tuple(relation LowCardinality(String), key String, strength UInt8)')]",
		"map('a', number, 'b', 2)", "CAST(map('a', toString(number)), 'Map(LowCardinality(String), String)')", "map('a', [1, 2])", "CAST(map(), 'Map(String, String)')",
		"tuple()", "[tuple()]", "[NULL]", "[[], [NULL]]", "toTime(toDateTime('2026-03-01 00:00:00') + number)", "CAST(number, 'SimpleAggregateFunction(sum, UInt64)')",
		"CAST((1, 'x'), 'Tuple(`a b` UInt8, String_ LowCardinality(Nullable(String)))')", "toIntervalSecond(number)", "toBFloat16(number)", "CAST([[(1., 2.)]], 'Polygon')",
		"map(number % 5, map('x', [toLowCardinality(toString(number % 3))]))", "if(number % 2 = 0, NULL, toFixedString('ab', 2))", "CAST((1, 2), 'Point')", "CAST([(1., 2.)], 'Ring')",
	} {
		// 70000 rows make more than one block.
		data, err := engine(t).Query(t.Context(), "SELECT "+expression+" AS c, number AS n FROM numbers(70000) SETTINGS max_threads = 1", "Native", Setting{"allow_suspicious_low_cardinality_types", "1"})
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		for _, revision := range []uint64{1, 54405, 54453, 54454, MaxRevision, MaxRevision + 100} {
			there, err := transcode(data, 0, revision)
			if err != nil {
				t.Errorf("%s: to %d: %v", expression, revision, err)
				continue
			}
			back, err := transcode(there, revision, 0)
			if err != nil || !bytes.Equal(back, data) {
				t.Errorf("%s: %d and back: %d bytes of %d, %v", expression, revision, len(back), len(data), err)
			}
			if len(there) <= len(data) {
				t.Errorf("%s: %d adds nothing to the blocks", expression, revision)
			}
		}
	}
}

// What cannot be re-encoded is refused with a reason, and a stream that breaks off is not taken for a complete one.
func TestTranscodeErrors(t *testing.T) {
	data, err := engine(t).Query(t.Context(), "SELECT sumState(number) AS s FROM numbers(10)", "Native")
	if err != nil {
		t.Fatal(err)
	}
	var e *Error
	if _, err := transcode(data, 0, MaxRevision); !errors.As(err, &e) || e.Code != codeNotImplemented {
		t.Errorf("aggregate state: %v", err)
	}
	data, err = engine(t).Query(t.Context(), "SELECT number, toString(number) FROM numbers(10)", "Native")
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n < len(data); n++ {
		if out, err := transcode(data[:n], 0, MaxRevision); err == nil {
			t.Errorf("the first %d bytes of %d became %d without an error", n, len(data), len(out))
		}
	}
	server := serve(t, HandlerOptions{})
	got := call(t, "POST", query(server, "client_protocol_version", "54460", "default_format", "Native"), "SELECT sumState(number) AS s FROM numbers(10)")
	if got.status != 501 || !strings.HasPrefix(got.body, "Code: 48. DB::Exception: ") {
		t.Errorf("over HTTP: %d %q", got.status, got.body)
	}
}

// Blocks of any bytes are passed on or refused, and never grow beyond the few bytes that a revision adds.
func FuzzTranscode(f *testing.F) {
	f.Add([]byte("\x01\x02\x01a\x05UInt8\x01\x02"), "UInt8", uint64(0), uint64(54460))
	f.Add([]byte("\x01\x01\x01a\x16LowCardinality(String)\x01\x00\x00\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01x\x01\x00\x00\x00\x00\x00\x00\x00\x00"), "LowCardinality(Nullable(String))", uint64(0), uint64(54460))
	f.Add([]byte("\x01\x00\x02\xff\xff\xff\xff\x00\x01\x01\x01a\x06String\x00\x01x"), "Array(Tuple(a String, `b(` Map(String, Decimal(76, 3))))", uint64(54460), uint64(0))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "Tuple(", uint64(0), uint64(1))
	f.Fuzz(func(t *testing.T, data []byte, kind string, from, to uint64) {
		if l, err := parseLayout(kind, 0); err == nil {
			c := &cursor{data: data}
			l.prefix(c)
			l.skip(c, uint64(len(data)))
			if c.at > len(data) {
				t.Fatalf("%s: read %d of %d bytes", kind, c.at, len(data))
			}
		}
		before := bytes.Clone(data)
		out, err := transcode(data, from, to)
		if !bytes.Equal(before, data) {
			t.Fatal("the input was changed")
		}
		if len(out) > 9*len(data)+8 {
			t.Fatalf("%d bytes became %d", len(data), len(out))
		}
		if err != nil || from > 0 && from < to {
			return
		}
		if back, err := transcode(out, min(to, MaxRevision), min(from, MaxRevision)); from == 0 && (err != nil || !bytes.Equal(back, data)) {
			t.Fatalf("%x became %x and %x: %v", data, out, back, err)
		}
	})
}

func BenchmarkTranscode(b *testing.B) {
	data, err := engine(b).Query(b.Context(), "SELECT number, toString(number), toLowCardinality(toString(number % 10)), ['a', 'b'], map('k', toString(number)) FROM numbers(65409)", "Native")
	if err != nil {
		b.Fatal(err)
	}
	t := newTranscoder(0, MaxRevision)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := t.transcode(data, func([]byte) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
