package embedded

import (
	"strings"
	"testing"
)

func TestShape(t *testing.T) {
	for _, test := range []struct {
		sql  string
		want shape
		data string // what follows an INSERT's statement
	}{
		{sql: "", want: shape{data: -1}},
		{sql: " -- nothing\n/* at all */ ", want: shape{data: -1}},
		{sql: "select 1", want: shape{verb: "SELECT", data: -1}},
		{sql: "SELECT 1 FORMAT JSON", want: shape{verb: "SELECT", format: "JSON", data: -1}},
		{sql: "SELECT 1 format JSON;", want: shape{verb: "SELECT", format: "JSON", data: -1}},
		{sql: "SELECT 1 FORMAT JSON SETTINGS max_threads = 1", want: shape{verb: "SELECT", format: "JSON", data: -1}},
		{sql: "SELECT 1 SETTINGS max_threads = 1 FORMAT CSV -- end", want: shape{verb: "SELECT", format: "CSV", data: -1}},
		{sql: "SELECT 'FORMAT CSV'", want: shape{verb: "SELECT", data: -1}},
		{sql: "SELECT \"a FORMAT CSV\", `FORMAT CSV`", want: shape{verb: "SELECT", data: -1}},
		{sql: "SELECT $x$ FORMAT CSV; $x$ AS a", want: shape{verb: "SELECT", data: -1}},
		{sql: "SELECT format FROM t", want: shape{verb: "SELECT", data: -1}},
		{sql: "SELECT (SELECT 1 FORMAT x)", want: shape{verb: "SELECT", data: -1}},
		{sql: "SELECT 1 /* FORMAT CSV */", want: shape{verb: "SELECT", data: -1}},
		{sql: `SELECT 'it\'s FORMAT CSV', 'it''s FORMAT CSV'`, want: shape{verb: "SELECT", data: -1}},
		{sql: "SELECT 1; SELECT 2", want: shape{verb: "SELECT", multi: true, data: -1}},
		{sql: "SELECT 1; -- done\n", want: shape{verb: "SELECT", data: -1}},
		{sql: "SELECT ';'", want: shape{verb: "SELECT", data: -1}},
		{sql: "(SELECT 1) UNION ALL (SELECT 2) FORMAT TSV", want: shape{verb: "(", format: "TSV", data: -1}},
		{sql: "WITH x AS (SELECT 1) SELECT * FROM x", want: shape{verb: "WITH", data: -1}},
		{sql: "SELECT 1 INTO OUTFILE '/tmp/x' FORMAT CSV", want: shape{verb: "SELECT", format: "CSV", outfile: true, data: -1}},
		{sql: "EXPLAIN SELECT 1 INTO/**/OUTFILE 'x'", want: shape{verb: "EXPLAIN", outfile: true, data: -1}},
		{sql: "\xef\xbb\xbfSHOW TABLES", want: shape{verb: "SHOW", data: -1}},

		{sql: "INSERT INTO t VALUES (1), (2)", want: shape{verb: "INSERT", insert: true, format: "Values"}, data: " (1), (2)"},
		{sql: "insert into t (a, values) values(1)", want: shape{verb: "INSERT", insert: true, format: "Values"}, data: "(1)"},
		{sql: "INSERT INTO t FORMAT CSV\n1;2\n", want: shape{verb: "INSERT", insert: true, format: "CSV"}, data: "1;2\n"},
		{sql: "INSERT INTO t FORMAT CSV \r\n\n1", want: shape{verb: "INSERT", insert: true, format: "CSV"}, data: "\n1"},
		{sql: "INSERT INTO t FORMAT Native\x00\xff'", want: shape{verb: "INSERT", insert: true, format: "Native"}, data: "\x00\xff'"},
		{sql: "INSERT INTO `FORMAT x`.t (`VALUES`) SETTINGS a = 1 FORMAT TSV\nx", want: shape{verb: "INSERT", insert: true, format: "TSV"}, data: "x"},
		{sql: "INSERT INTO FUNCTION null('a String') FORMAT TSV x", want: shape{verb: "INSERT", insert: true, format: "TSV"}, data: "x"},
		{sql: "INSERT INTO t SELECT 1 FORMAT Null", want: shape{verb: "INSERT", data: -1}},
		{sql: "INSERT INTO t (a) WITH 1 AS x SELECT x", want: shape{verb: "INSERT", data: -1}},
		{sql: "INSERT INTO t (SELECT 1)", want: shape{verb: "INSERT", data: -1}},
		{sql: "INSERT INTO t SELECT a FROM input('a Int8') FORMAT CSV\n1\n", want: shape{verb: "INSERT", insert: true, input: true, format: "CSV"}, data: "1\n"},
		{sql: "INSERT INTO t FROM INFILE '/etc/passwd' FORMAT CSV", want: shape{verb: "INSERT", insert: true, outfile: true, data: -1}},
		{sql: "INSERT INTO t", want: shape{verb: "INSERT", insert: true, data: -1}},
	} {
		got := shapeOf(test.sql)
		if got.data >= 0 {
			if data := test.sql[got.data:]; data != test.data {
				t.Errorf("%q: data %q, want %q", test.sql, data, test.data)
			}
			test.want.data = got.data
		}
		if got.insert && got.data >= 0 && strings.Contains(strings.ToUpper(test.sql[got.headEnd:got.headEnd+6]), " ") {
			t.Errorf("%q: statement ends at %q", test.sql, test.sql[got.headEnd:])
		}
		test.want.headEnd = got.headEnd
		if clause := test.sql[got.clause[0]:got.clause[1]]; !got.insert && (clause != "") != (got.format != "") ||
			clause != "" && (!strings.EqualFold(clause[:6], "FORMAT") || !strings.HasSuffix(clause, got.format)) {
			t.Errorf("%q: the FORMAT clause is %q", test.sql, clause)
		}
		test.want.clause = got.clause
		if got != test.want {
			t.Errorf("%q:\n got %+v\nwant %+v", test.sql, got, test.want)
		}
	}
}

// The engine tells which statements carry what; this package's reading must not contradict it: text after the statement
// that it finds has to be the data, and a FORMAT that it finds has to be the one that the engine answers in.
func TestShapeAgreesWithEngine(t *testing.T) {
	e := engine(t)
	for _, sql := range []string{
		"SELECT 1 AS format", "SELECT format FROM (SELECT 1 AS format)", "SELECT 1 AS a FORMAT JSONEachRow", "SELECT 1 a FORMAT CSV SETTINGS max_threads = 1",
		"SELECT 'x' FORMAT TSKV -- FORMAT CSV", "SHOW DATABASES FORMAT CSV", "WITH 1 AS format SELECT format", "SELECT 1 x FORMAT Values;",
	} {
		format := shapeOf(sql).format
		plain, err := e.Query(t.Context(), sql, "RowBinary")
		if err != nil {
			t.Errorf("%s: %v", sql, err)
			continue
		}
		again, err := e.Query(t.Context(), sql, "Vertical")
		if err != nil {
			t.Errorf("%s: %v", sql, err)
			continue
		}
		if named := string(plain) == string(again); named != (format != "") {
			t.Errorf("%s: found format %q, the engine has one of its own: %t", sql, format, named)
		}
	}
}

func FuzzShape(f *testing.F) {
	for _, seed := range []string{
		"SELECT 1 FORMAT JSON", "INSERT INTO t (a) VALUES (1)", "INSERT INTO t FORMAT CSV\n1", "/* x", "'", "$a$b", "`", "--", "(((", "INSERT INTO t SELECT * FROM input('a') FORMAT CSV 1",
		"\xef\xbb\xbf;", "SELECT 1; SELECT 2", "INSERT INTO t FORMAT ", "# x\nSELECT 1 INTO OUTFILE 'x'",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		s := shapeOf(sql)
		if s.data >= 0 && (s.headEnd > s.data || s.data > len(sql) || !s.insert) {
			t.Fatalf("%q: %+v", sql, s)
		}
		if s.headEnd > len(sql) || s.format != "" && !strings.Contains(sql, s.format) && s.format != "Values" {
			t.Fatalf("%q: %+v", sql, s)
		}
		if c := s.clause; c[0] > c[1] || c[1] > len(sql) || !s.insert && (c[1] > 0) != (s.format != "") {
			t.Fatalf("%q: %+v", sql, s)
		}
		// What follows the data's beginning must not matter: it may not have arrived yet.
		if s.data >= 0 {
			if again := shapeOf(sql[:s.data] + "\x00; SELECT '"); again.format != s.format || again.headEnd != s.headEnd || again.data < s.data {
				t.Fatalf("%q: %+v, with other data %+v", sql, s, again)
			}
		}
		// Tokens cover the text in order.
		at := 0
		for tk := (tokenizer{sql: sql}); ; {
			tok := tk.next()
			if tok.kind == tokenEnd {
				break
			}
			if tok.start < at || tok.end <= tok.start || tok.end > len(sql) {
				t.Fatalf("%q: token %+v after %d", sql, tok, at)
			}
			at = tok.end
		}
	})
}

func TestParseError(t *testing.T) {
	for text, want := range map[string]Error{
		"Code: 60. DB::Exception: Unknown table 'x'. (UNKNOWN_TABLE)":                                     {60, "Unknown table 'x'. (UNKNOWN_TABLE)"},
		"Code: 241. DB::Exception: Code: 241. DB::Exception: Memory limit: a: b. (MEMORY_LIMIT_EXCEEDED)": {241, "Memory limit: a: b. (MEMORY_LIMIT_EXCEEDED)"},
		"Error: Code: 1. DB::NetException: x":                                                             {1, "x"},
		"Cannot run a query while a streaming insert is active":                                           {0, "Cannot run a query while a streaming insert is active"},
		"Code: x. DB::Exception: y":                                                                       {0, "Code: x. DB::Exception: y"},
		"":                                                                                                {},
	} {
		if got := ParseError(text); *got != want {
			t.Errorf("%q: got %+v, want %+v", text, *got, want)
		}
	}
}

func FuzzParseError(f *testing.F) {
	f.Add("Code: 60. DB::Exception: x")
	f.Add("Error: Code: 1. a")
	f.Fuzz(func(t *testing.T, text string) {
		e := ParseError(text)
		if e.Code < 0 || len(e.Message) > len(text) {
			t.Fatalf("%q: %+v", text, e)
		}
		if again := ParseError(e.Error()); e.Code > 0 && *again != *e {
			t.Fatalf("%q: %+v, again %+v", text, e, again)
		}
	})
}
