package embedded

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// answer is a response read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

// call sends a request as curl would. Header pairs follow the body.
func call(t testing.TB, method, target, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return answer{res.StatusCode, res.Header, string(data)}
}

// query makes the URL of a query from parameter pairs.
func query(server *httptest.Server, pairs ...string) string {
	values := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		values.Add(pairs[i], pairs[i+1])
	}
	return server.URL + "/?" + values.Encode()
}

func TestHTTPForms(t *testing.T) {
	server := serve(t, HandlerOptions{})
	for _, test := range []struct {
		name, method, target, body string
		headers                    []string
		status                     int
		want                       string
	}{
		{"ping", "GET", server.URL + "/ping", "", nil, 200, "Ok.\n"},
		{"replicas", "GET", server.URL + "/replicas_status", "", nil, 200, "Ok.\n"},
		{"root", "GET", server.URL + "/", "", nil, 200, "Ok.\n"},
		{"no such path", "GET", server.URL + "/nope", "", nil, 404, "There is no handle"},
		{"get", "GET", query(server, "query", "SELECT 1"), "", nil, 200, "1\n"},
		{"post body", "POST", server.URL + "/", "SELECT 1", nil, 200, "1\n"},
		{"post url", "POST", query(server, "query", "SELECT 2"), "", nil, 200, "2\n"},
		{"query split", "POST", query(server, "query", "SELECT 1 +"), "2", nil, 200, "3\n"},
		{"put", "PUT", server.URL + "/", "SELECT 4", nil, 200, "4\n"},
		{"head", "HEAD", query(server, "query", "SELECT 1"), "", nil, 200, ""},
		{"delete", "DELETE", query(server, "query", "SELECT 1"), "", nil, 405, "Method not allowed"},
		{"format", "POST", server.URL, "SELECT 1 AS a FORMAT JSONEachRow", nil, 200, "{\"a\":1}\n"},
		{"default_format", "POST", query(server, "default_format", "CSV"), "SELECT 'a'", nil, 200, "\"a\"\n"},
		{"format header", "POST", server.URL, "SELECT 'a'", []string{"X-ClickHouse-Format", "CSV"}, 200, "\"a\"\n"},
		{"format beats default", "POST", query(server, "default_format", "CSV"), "SELECT 'a' FORMAT TSV", nil, 200, "a\n"},
		{"database", "POST", query(server, "database", "system"), "SELECT currentDatabase()", nil, 200, "system\n"},
		{"database header", "POST", server.URL, "SELECT currentDatabase()", []string{"X-ClickHouse-Database", "system"}, 200, "system\n"},
		{"no such database", "POST", query(server, "database", "nope"), "SELECT 1", nil, 404, "Code: 81. DB::Exception: "},
		{"setting", "POST", query(server, "max_threads", "3"), "SELECT getSetting('max_threads')", nil, 200, "3\n"},
		{"setting quoted", "POST", query(server, "log_comment", `a'b\c`), "SELECT getSetting('log_comment') FORMAT TSVRaw", nil, 200, "a'b\\c\n"},
		{"unknown setting", "POST", query(server, "nope", "3"), "SELECT 1", nil, 404, "Code: 115. DB::Exception: "},
		{"setting injection", "POST", query(server, "max_threads = 1, log_comment", "3"), "SELECT 1", nil, 404, "Code: 115. DB::Exception: "},
		{"bad setting", "POST", query(server, "max_threads", "many"), "SELECT 1", nil, 400, "Code: 27. DB::Exception: "},
		{"param", "POST", query(server, "param_x", "7", "param_s", `a\tb'`), "SELECT {x:UInt32}, {s:String}", nil, 200, "7\ta\\tb\\'\n"},
		{"param null", "POST", query(server, "param_x", `\N`), "SELECT {x:Nullable(String)} IS NULL", nil, 200, "1\n"},
		{"param identifier", "POST", query(server, "param_t", "one"), "SELECT dummy FROM system.{t:Identifier}", nil, 200, "0\n"},
		{"param unset", "POST", server.URL, "SELECT {x:UInt32}", nil, 500, "Code: 456. DB::Exception: "},
		{"param bad", "POST", query(server, "param_x", "a"), "SELECT {x:UInt32}", nil, 500, "Code: 457. DB::Exception: "},
		{"ddl by get", "GET", query(server, "query", "CREATE DATABASE by_get"), "", nil, 500, "Code: 164. DB::Exception: "},
		{"readonly", "POST", query(server, "readonly", "1"), "CREATE DATABASE by_get", nil, 500, "Code: 164. DB::Exception: "},
		{"unknown table", "POST", server.URL, "SELECT * FROM nope", nil, 404, "Code: 60. DB::Exception: "},
		{"syntax", "POST", server.URL, "SELEC", nil, 400, "Code: 62. DB::Exception: "},
		{"implicit select", "POST", server.URL, "1 + 1", nil, 400, "Code: 62. DB::Exception: "},
		{"empty", "POST", server.URL, " ", nil, 400, "Code: 62. DB::Exception: "},
		{"several", "POST", server.URL, "SELECT 1; SELECT 2", nil, 400, "Code: 62. DB::Exception: "},
		{"outfile", "POST", server.URL, "SELECT 1 INTO OUTFILE '/tmp/x'", nil, 500, "Code: 358. DB::Exception: "},
		{"infile", "POST", server.URL, "INSERT INTO FUNCTION null('a String') FROM INFILE '/etc/hostname' FORMAT LineAsString", nil, 500, "Code: 358. DB::Exception: "},
		{"host file", "POST", server.URL, "SELECT * FROM file('/etc/hostname', LineAsString)", nil, 403, "Code: 497. DB::Exception: "},
		{"write host file", "POST", server.URL, "INSERT INTO FUNCTION file('/tmp/catena-must-not-exist.csv', CSV, 'a Int8') VALUES (1)", nil, 403, "Code: 497. DB::Exception: "},
		{"shutdown", "POST", server.URL, "SYSTEM SHUTDOWN", nil, 403, "Code: 497. DB::Exception: "},
		{"timeout", "POST", query(server, "max_execution_time", "1"), "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 5", nil, 408, "Code: 159. DB::Exception: "},
		{"show", "POST", server.URL, "SHOW DATABASES LIKE 'system'", nil, 200, "system\n"},
		{"totals", "POST", server.URL, "SELECT number % 2 AS k, count() FROM numbers(4) GROUP BY k WITH TOTALS ORDER BY k", nil, 200, "0\t2\n1\t2\n\n0\t4\n"},
		{"names", "POST", server.URL, "SELECT number AS n FROM numbers(2) FORMAT CSVWithNames", nil, 200, "\"n\"\n0\n1\n"},
		{"ddl", "POST", server.URL, "CREATE TEMPORARY TABLE x (a Int8)", nil, 200, ""},
		{"revision not a number", "POST", query(server, "client_protocol_version", "x"), "SELECT 1", nil, 400, "Code: 36. DB::Exception: "},
		{"compression unknown", "POST", server.URL, "SELECT 1", []string{"Content-Encoding", "rot13"}, 500, "Code: 89. DB::Exception: "},
		{"gzip that is none", "POST", server.URL, "SELECT 1", []string{"Content-Encoding", "gzip"}, 500, "Code: 271. DB::Exception: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := call(t, test.method, test.target, test.body, test.headers...)
			matches := got.body == test.want
			if test.status != 200 {
				matches = strings.HasPrefix(got.body, test.want)
			}
			if got.status != test.status || !matches {
				t.Fatalf("got %d %q, want %d %q", got.status, got.body, test.status, test.want)
			}
			if code, ok := strings.CutPrefix(test.want, "Code: "); ok && got.header.Get("X-ClickHouse-Exception-Code") != strings.TrimSuffix(code, ". DB::Exception: ") {
				t.Fatalf("exception code %q", got.header.Get("X-ClickHouse-Exception-Code"))
			}
		})
	}
	if dbs := mustQuery(t, "SHOW DATABASES LIKE 'by_get'"); dbs != "" {
		t.Fatal("a read-only request created a database")
	}
}

func TestHTTPHeaders(t *testing.T) {
	server := serve(t, HandlerOptions{})
	got := call(t, "POST", query(server, "query_id", "my-query", "wait_end_of_query", "1"), "SELECT number FROM system.numbers LIMIT 10 FORMAT JSON")
	for name, want := range map[string]string{
		"X-ClickHouse-Query-Id": "my-query", "X-ClickHouse-Format": "JSON", "Content-Type": "application/json; charset=UTF-8",
		"X-ClickHouse-Timezone": mustQuery(t, "SELECT timezone()"), "X-ClickHouse-Server-Display-Name": mustQuery(t, "SELECT displayName()"),
		"X-ClickHouse-Exception-Code": "",
	} {
		if value := got.header.Get(name); value != want {
			t.Errorf("%s: %q, want %q", name, value, want)
		}
	}
	var body struct{ Rows int }
	if err := json.Unmarshal([]byte(got.body), &body); err != nil || body.Rows != 10 {
		t.Errorf("body %q: %v", got.body, err)
	}
	var sum map[string]string
	if err := json.Unmarshal([]byte(got.header.Get("X-ClickHouse-Summary")), &sum); err != nil || sum["read_rows"] != "10" || sum["result_rows"] != "10" {
		t.Errorf("summary %q: %v", got.header.Get("X-ClickHouse-Summary"), err)
	}
	if id := call(t, "POST", server.URL, "SELECT 1").header.Get("X-ClickHouse-Query-Id"); len(id) < 16 {
		t.Errorf("query id %q", id)
	}
}

func TestHTTPInsertForms(t *testing.T) {
	server := serve(t, HandlerOptions{})
	db := database(t)
	table := db + ".i"
	for name, insert := range map[string]func() answer{
		"values in body": func() answer {
			return call(t, "POST", server.URL, "INSERT INTO "+table+" VALUES (1, 'a'), (2, 'b;\n\nc')")
		},
		"values in url": func() answer {
			return call(t, "POST", query(server, "query", "INSERT INTO "+table+" VALUES (1, 'a'), (2, 'b;\n\nc')"), "")
		},
		"data in body": func() answer {
			return call(t, "POST", query(server, "query", "INSERT INTO "+table+" FORMAT TSV"), "1\ta\n2\tb;\\n\\nc\n")
		},
		"values, body": func() answer {
			return call(t, "POST", query(server, "query", "INSERT INTO "+table+" VALUES"), "(1, 'a'), (2, 'b;\\n\\nc')")
		},
		"all in body": func() answer {
			return call(t, "POST", server.URL, "INSERT INTO "+table+" FORMAT CSV\n1,a\n2,\"b;\n\nc\"\n")
		},
		"json": func() answer {
			return call(t, "POST", server.URL, "INSERT INTO "+table+" (s, a) FORMAT JSONEachRow {\"a\":1,\"s\":\"a\"}\n\n{\"a\":2,\"s\":\"b;\\n\\nc\"}")
		},
		"values with expr": func() answer {
			return call(t, "POST", query(server, "param_x", "2"), "INSERT INTO "+table+" VALUES (3 - 2, lower('A')), ({x:UInt8}, 'b;\n\nc')")
		},
		"select": func() answer {
			return call(t, "POST", server.URL, "INSERT INTO "+table+" SELECT number + 1, ['a', 'b;\n\nc'][number + 1] FROM numbers(2)")
		},
		"row binary": func() answer {
			return call(t, "POST", query(server, "query", "INSERT INTO "+table+" FORMAT RowBinary"), "\x01\x01a\x02\x05b;\n\nc")
		},
		"database": func() answer {
			return call(t, "POST", query(server, "database", db, "query", "INSERT INTO i FORMAT TSV"), "1\ta\n2\tb;\\n\\nc")
		},
		"table parameter": func() answer {
			return call(t, "POST", query(server, "param_t", "i", "database", db, "query", "INSERT INTO {t:Identifier} FORMAT TSV"), "1\ta\n2\tb;\\n\\nc")
		},
		"async": func() answer {
			return call(t, "POST", query(server, "async_insert", "1", "wait_for_async_insert", "0", "query", "INSERT INTO "+table+" FORMAT TSV"), "1\ta\n2\tb;\\n\\nc")
		},
	} {
		t.Run(name, func(t *testing.T) {
			mustQuery(t, "CREATE OR REPLACE TABLE "+table+" (a UInt8, s String) ENGINE = MergeTree ORDER BY a")
			got := insert()
			if got.status != 200 || got.body != "" {
				t.Fatalf("insert: %d %q", got.status, got.body)
			}
			if rows := mustQuery(t, "SELECT groupArray((a, s)) FROM (SELECT * FROM "+table+" ORDER BY a)"); rows != `[(1,'a'),(2,'b;\n\nc')]` {
				t.Fatalf("rows %s", rows)
			}
			var sum map[string]string
			if err := json.Unmarshal([]byte(got.header.Get("X-ClickHouse-Summary")), &sum); err != nil || sum["written_rows"] != "2" {
				t.Errorf("summary %q: %v", got.header.Get("X-ClickHouse-Summary"), err)
			}
		})
	}
	mustQuery(t, "CREATE OR REPLACE TABLE "+table+" (a UInt8, s String) ENGINE = MergeTree ORDER BY a")
	for name, body := range map[string]string{
		"400 27": "INSERT INTO " + table + " FORMAT TSV\nx\ty\n",
		"404 60": "INSERT INTO " + db + ".nope FORMAT TSV\n1\ty\n",
		"404 73": "INSERT INTO " + table + " FORMAT Nope\n1\ty\n",
		"500 16": "INSERT INTO " + table + " (zz) FORMAT TSV\n1\n",
		"400 62": "INSERT INTO " + table + " VALUES (1, 'a'",
		"501 48": "INSERT INTO " + table + " SELECT a, s FROM input('a UInt8, s String') FORMAT TSV\n1\ta\n",
	} {
		got := call(t, "POST", server.URL, body)
		if have := fmt.Sprint(got.status, " ", got.header.Get("X-ClickHouse-Exception-Code")); have != name {
			t.Errorf("%q: got %s %q, want %s", body, have, got.body, name)
		}
	}
	if got := call(t, "GET", query(server, "query", "INSERT INTO "+table+" VALUES (1, 'a')"), ""); got.header.Get("X-ClickHouse-Exception-Code") != "164" {
		t.Errorf("insert by GET: %d %q", got.status, got.body)
	}
	if rows := mustQuery(t, "SELECT count() FROM "+table); rows != "0" {
		t.Errorf("%s rows from failed inserts", rows)
	}
}

// encode compresses a body the way a client would.
func encode(t testing.TB, encoding, body string) string {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser
	switch encoding {
	case "gzip":
		w = gzip.NewWriter(&buf)
	case "deflate":
		w = zlib.NewWriter(&buf)
	case "br":
		w = brotli.NewWriter(&buf)
	case "lz4":
		w = lz4.NewWriter(&buf)
	case "zstd":
		z, err := zstd.NewWriter(&buf)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := io.WriteString(w, body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func TestHTTPEncodings(t *testing.T) {
	server := serve(t, HandlerOptions{})
	table := database(t) + ".e"
	mustQuery(t, "CREATE TABLE "+table+" (a UInt64) ENGINE = MergeTree ORDER BY a")
	var numbers strings.Builder
	for i := range 300000 {
		numbers.WriteString(strconv.Itoa(i) + "\n")
	}
	for _, encoding := range []string{"gzip", "deflate", "br", "lz4", "zstd"} {
		t.Run(encoding, func(t *testing.T) {
			mustQuery(t, "TRUNCATE TABLE "+table)
			got := call(t, "POST", query(server, "query", "INSERT INTO "+table+" FORMAT TSV"), encode(t, encoding, numbers.String()), "Content-Encoding", encoding)
			if got.status != 200 {
				t.Fatal(got.body)
			}
			got = call(t, "POST", server.URL, "SELECT a FROM "+table+" ORDER BY a", "Accept-Encoding", encoding)
			if got.header.Get("Content-Encoding") != encoding {
				t.Fatalf("encoding %q", got.header.Get("Content-Encoding"))
			}
			r, err := newDecoder(encoding, strings.NewReader(got.body))
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(r); err != nil || string(body) != numbers.String() {
				t.Fatalf("%d bytes, want %d: %v", len(body), numbers.Len(), err)
			}
			// An error is plain text.
			got = call(t, "POST", server.URL, "SELECT * FROM nope", "Accept-Encoding", encoding)
			if got.header.Get("Content-Encoding") != "" || !strings.HasPrefix(got.body, "Code: 60.") {
				t.Fatalf("error %q in encoding %q", got.body, got.header.Get("Content-Encoding"))
			}
		})
	}
	if got := call(t, "POST", query(server, "enable_http_compression", "0"), "SELECT 1", "Accept-Encoding", "gzip"); got.body != "1\n" {
		t.Errorf("compression off: %q", got.body)
	}
}

func TestHTTPNativeCompression(t *testing.T) {
	server := serve(t, HandlerOptions{})
	table := database(t) + ".e"
	mustQuery(t, "CREATE TABLE "+table+" (a UInt64) ENGINE = MergeTree ORDER BY a")
	for _, method := range []compress.Method{compress.LZ4, compress.ZSTD, compress.None} {
		mustQuery(t, "TRUNCATE TABLE "+table)
		w := compress.NewWriter(0, method)
		var blocks []byte
		for i := range 3 {
			if err := w.Compress([]byte(strings.Repeat(strconv.Itoa(i)+"\n", 1000))); err != nil {
				t.Fatal(err)
			}
			blocks = append(blocks, w.Data...)
		}
		insert := query(server, "decompress", "1", "query", "INSERT INTO "+table+" FORMAT TSV")
		if got := call(t, "POST", insert, string(blocks)); got.status != 200 {
			t.Fatal(method, got.body)
		}
		got := call(t, "POST", query(server, "compress", "1", "network_compression_method", method.String()), "SELECT count(), sum(a) FROM "+table)
		if body, err := io.ReadAll(newBlockReader(strings.NewReader(got.body))); err != nil || string(body) != "3000\t3000\n" {
			t.Fatalf("%v: %q, %v", method, body, err)
		}
		for name, broken := range map[string]string{
			"cut in a header": string(blocks[:10]), "cut after a header": string(blocks[:25]), "cut in a block": string(blocks[:len(blocks)-1]),
			"flipped": "x" + string(blocks[1:]), "text": "not compressed at all, this is",
		} {
			if got := call(t, "POST", insert, broken); got.header.Get("X-ClickHouse-Exception-Code") != "271" {
				t.Errorf("%v: %s: %d %q", method, name, got.status, got.body)
			}
		}
	}
}

func TestHTTPSession(t *testing.T) {
	server := serve(t, HandlerOptions{})
	in := func(session, sql string, pairs ...string) answer {
		return call(t, "POST", query(server, append([]string{"session_id", session}, pairs...)...), sql)
	}
	if got := in("s1", "CREATE TEMPORARY TABLE x (a UInt8)"); got.status != 200 {
		t.Fatal(got.body)
	}
	if got := in("s1", "INSERT INTO x VALUES (5)"); got.status != 200 {
		t.Fatal(got.body)
	}
	for _, test := range []struct{ session, sql, want string }{
		{"s1", "SELECT a FROM x", "5\n"},
		{"s1", "SET max_threads = 7", ""},
		{"s1", "SELECT getSetting('max_threads')", "7\n"},
		{"s1", "USE system", ""},
		{"s1", "SELECT currentDatabase()", "system\n"},
		{"s2", "SELECT currentDatabase()", "default\n"},
	} {
		if got := in(test.session, test.sql); got.body != test.want {
			t.Errorf("%s: %s: got %q, want %q", test.session, test.sql, got.body, test.want)
		}
	}
	if got := in("s1", "SELECT getSetting('max_threads'), getSetting('log_comment'), currentDatabase()", "max_threads", "2", "log_comment", "x\ty'", "database", "default"); got.body != "2\tx\\ty\\'\tdefault\n" {
		t.Errorf("settings of the request: %q", got.body)
	}
	if got := in("s1", "SELECT getSetting('max_threads'), getSetting('log_comment'), currentDatabase()"); got.body != "7\t\tsystem\n" {
		t.Errorf("settings of the session after it: %q", got.body)
	}
	// A write by GET is refused, on a connection that does not even see the session's table.
	for sql, code := range map[string]string{"DROP TABLE x": "60", "CREATE DATABASE by_session": "164", "SELEC": "62"} {
		if got := call(t, "GET", query(server, "session_id", "s1", "query", sql), ""); got.header.Get("X-ClickHouse-Exception-Code") != code {
			t.Errorf("%s by GET in a session: %d %q", sql, got.status, got.body)
		}
	}
	if got := call(t, "GET", query(server, "session_id", "s1", "query", "SELECT a FROM x"), ""); got.body != "5\n" {
		t.Errorf("SELECT by GET in a session: %q", got.body)
	}
	if got := in("s2", "SELECT a FROM x"); got.status != 404 {
		t.Errorf("another session sees the table: %q", got.body)
	}
	if got := in("s3", "SELECT 1", "session_check", "1"); got.header.Get("X-ClickHouse-Exception-Code") != "372" {
		t.Errorf("session_check: %q", got.body)
	}
	if got := in("s3", "SELECT 1", "session_timeout", "99999"); got.header.Get("X-ClickHouse-Exception-Code") != "374" {
		t.Errorf("session_timeout: %q", got.body)
	}
	if got := in("s1", "SELECT 1", "close_session", "1"); got.body != "1\n" {
		t.Errorf("close_session: %q", got.body)
	}
	if got := in("s1", "SELECT 1", "session_check", "1"); got.header.Get("X-ClickHouse-Exception-Code") != "372" {
		t.Errorf("closed session lives: %q", got.body)
	}
	// A session survives a statement that was stopped.
	if got := in("s5", "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 5", "max_execution_time", "1"); got.status != 408 {
		t.Errorf("timeout: %d %q", got.status, got.body)
	}
	if got := in("s5", "SELECT getSetting('max_execution_time')"); got.body != "0\n" {
		t.Errorf("after the timeout: %q", got.body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", query(server, "session_id", "s5"), strings.NewReader("SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 6"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := http.DefaultClient.Do(req); !errors.Is(err, context.DeadlineExceeded) {
		t.Error("got", err)
	}
	for deadline := time.Now().Add(20 * time.Second); in("s5", "SELECT 1", "session_check", "1").body != "1\n"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the session of a client that has gone stays locked")
		}
	}
	slow := make(chan answer)
	go func() { slow <- in("s4", "SELECT sleep(1)") }()
	time.Sleep(300 * time.Millisecond)
	if got := in("s4", "SELECT 1"); got.header.Get("X-ClickHouse-Exception-Code") != "373" {
		t.Errorf("a session in use: %q", got.body)
	}
	if got := <-slow; got.body != "0\n" {
		t.Errorf("the one that uses it: %q", got.body)
	}
}

// Sessions end when they have been idle, and the longest idle one makes room.
func TestSessionExpiry(t *testing.T) {
	e := engine(t)
	s := &sessions{engine: e}
	defer s.close()
	first, err := s.acquire("first", time.Hour, false)
	if err != nil {
		t.Fatal(err)
	}
	s.release(first, false)
	first.lastUsed = time.Now().Add(-2 * time.Hour)
	if _, err := s.acquire("first", time.Hour, true); err == nil {
		t.Error("an expired session was found")
	}
	for i := range maxSessions + 1 {
		session, err := s.acquire(fmt.Sprint(i), time.Hour, false)
		if err != nil {
			t.Fatal(err)
		}
		s.release(session, false)
	}
	if len(s.byID) != maxSessions || s.byID["0"] != nil {
		t.Errorf("%d sessions, the oldest there: %t", len(s.byID), s.byID["0"] != nil)
	}
}

func TestHTTPExternalTables(t *testing.T) {
	server := serve(t, HandlerOptions{})
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for name, text := range map[string]string{"query": "SELECT sum(n), {p:String} FROM ids", "param_p": "x", "max_threads": "1"} {
		if err := form.WriteField(name, text); err != nil {
			t.Fatal(err)
		}
	}
	file, err := form.CreateFormFile("ids", "ids.tsv")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(file, "1\n2\n39\n")
	if err := form.Close(); err != nil {
		t.Fatal(err)
	}
	got := call(t, "POST", query(server, "ids_structure", "n UInt64", "ids_format", "TSV"), body.String(), "Content-Type", form.FormDataContentType())
	if got.body != "42\tx\n" {
		t.Fatalf("got %d %q", got.status, got.body)
	}
}

func TestHTTPAuthentication(t *testing.T) {
	server := serve(t, HandlerOptions{User: "alice", Password: "s3cret"})
	basic := func(user, password string) string {
		req, _ := http.NewRequest("GET", "/", nil)
		req.SetBasicAuth(user, password)
		return req.Header.Get("Authorization")
	}
	one := query(server, "query", "SELECT 1")
	for _, test := range []struct {
		name, target string
		headers      []string
		status       int
	}{
		{"none", one, nil, 403},
		{"basic", one, []string{"Authorization", basic("alice", "s3cret")}, 200},
		{"basic, bad password", one, []string{"Authorization", basic("alice", "secret")}, 403},
		{"basic, bad user", one, []string{"Authorization", basic("bob", "s3cret")}, 403},
		{"basic, no password", one, []string{"Authorization", basic("alice", "")}, 403},
		{"headers", one, []string{"X-ClickHouse-User", "alice", "X-ClickHouse-Key", "s3cret"}, 200},
		{"headers, bad", one, []string{"X-ClickHouse-User", "alice", "X-ClickHouse-Key", "x"}, 403},
		{"url", query(server, "query", "SELECT 1", "user", "alice", "password", "s3cret"), nil, 200},
		{"url, bad", query(server, "query", "SELECT 1", "user", "alice", "password", "x"), nil, 403},
		{"mixed", query(server, "query", "SELECT 1", "user", "alice", "password", "s3cret"), []string{"X-ClickHouse-User", "alice"}, 403},
		{"ping needs none", server.URL + "/ping", nil, 200},
		{"another host name, with a password", one, []string{"Host", "db.example", "Authorization", basic("alice", "s3cret")}, 200},
	} {
		got := call(t, "GET", test.target, "", test.headers...)
		if got.status != test.status {
			t.Errorf("%s: %d %q, want %d", test.name, got.status, got.body, test.status)
		}
		if test.status == 403 && got.header.Get("X-ClickHouse-Exception-Code") != "516" {
			t.Errorf("%s: code %q", test.name, got.header.Get("X-ClickHouse-Exception-Code"))
		}
		if strings.Contains(got.body, "s3cret") {
			t.Errorf("%s: the answer tells the password", test.name)
		}
	}
	open := serve(t, HandlerOptions{})
	for _, test := range []struct {
		name    string
		headers []string
		status  int
	}{
		{"no user", nil, 200},
		{"default", []string{"X-ClickHouse-User", "default"}, 200},
		{"default with a password", []string{"X-ClickHouse-User", "default", "X-ClickHouse-Key", "any"}, 200},
		{"unknown user", []string{"X-ClickHouse-User", "bob"}, 403},
		{"rebound name", []string{"Host", "evil.example:8123"}, 403},
		{"localhost", []string{"Host", "localhost:8123"}, 200},
		{"ipv6", []string{"Host", "[::1]:8123"}, 200},
		{"private address", []string{"Host", "192.168.1.5"}, 403},
	} {
		if got := call(t, "GET", query(open, "query", "SELECT 1"), "", test.headers...); got.status != test.status {
			t.Errorf("%s: %d %q, want %d", test.name, got.status, got.body, test.status)
		}
	}
	for _, header := range [][]string{{"Origin", "https://evil.example"}, {"Sec-Fetch-Site", "cross-site"}} {
		if got := call(t, "POST", open.URL, "CREATE DATABASE by_page", header...); got.status != 403 {
			t.Errorf("%v: %d %q", header, got.status, got.body)
		}
	}
}

func TestServerDemandsPassword(t *testing.T) {
	e := engine(t)
	for _, listen := range []string{":0", "0.0.0.0:0", "[::]:0"} {
		if server, err := NewServer(e, ServerOptions{Listen: listen}); err == nil {
			_ = server.Close(t.Context())
			t.Errorf("%s without a password", listen)
		}
	}
	for _, opts := range []ServerOptions{{Listen: "127.0.0.1:0"}, {Listen: "0.0.0.0:0", HandlerOptions: HandlerOptions{Password: "x"}}} {
		server, err := NewServer(e, opts)
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := strings.Cut(strings.TrimPrefix(server.Addr().String(), "[::]"), ":")
		if got := call(t, "GET", "http://127.0.0.1:"+port+"/ping", ""); got.body != "Ok.\n" {
			t.Errorf("ping: %d %q", got.status, got.body)
		}
		if err := server.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := server.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func TestHTTPLimits(t *testing.T) {
	server := serve(t, HandlerOptions{MaxBodyBytes: 1000, MaxRequests: 1, Log: slog.New(slog.DiscardHandler)})
	long := "SELECT '" + strings.Repeat("x", 2000) + "'"
	if got := call(t, "POST", server.URL, long); got.status != 413 || got.header.Get("X-ClickHouse-Exception-Code") != "229" {
		t.Errorf("long body: %d %q", got.status, got.body)
	}
	if got := call(t, "POST", server.URL, encode(t, "gzip", long), "Content-Encoding", "gzip"); got.status != 413 {
		t.Errorf("body that unpacks to too much: %d %q", got.status, got.body)
	}
	if got := call(t, "POST", query(server, "query", "INSERT INTO FUNCTION null('a String') FORMAT LineAsString"), long); got.status != 413 {
		t.Errorf("long data: %d %q", got.status, got.body)
	}
	slow := make(chan answer)
	go func() { slow <- call(t, "POST", server.URL, "SELECT sleep(1)") }()
	time.Sleep(300 * time.Millisecond)
	if got := call(t, "POST", server.URL, "SELECT 1"); got.status != 500 || got.header.Get("X-ClickHouse-Exception-Code") != "202" {
		t.Errorf("one too many: %d %q", got.status, got.body)
	}
	if got := <-slow; got.body != "0\n" {
		t.Errorf("the first: %q", got.body)
	}
}

// With wait_end_of_query a late error still has a status of its own; without, it breaks the body off with a marked exception.
func TestHTTPLateError(t *testing.T) {
	server := serve(t, HandlerOptions{})
	const sql = "SELECT number, throwIf(number = 2500000, 'late') FROM numbers(3000000) SETTINGS max_threads = 1"
	if got := call(t, "POST", query(server, "wait_end_of_query", "1"), sql); got.status != 500 || !strings.HasPrefix(got.body, "Code: 395.") {
		t.Errorf("held back: %d %.100q", got.status, got.body)
	}
	res, err := http.Post(server.URL, "", strings.NewReader(sql))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	tag := res.Header.Get("X-ClickHouse-Exception-Tag")
	if err == nil || res.StatusCode != 200 || len(tag) != 16 {
		t.Errorf("status %d, tag %q, error %v", res.StatusCode, tag, err)
	}
	_, frame, _ := bytes.Cut(body, []byte("\r\n__exception__\r\n"+tag+"\r\n"))
	text, end, ok := bytes.Cut(frame, []byte("\n"))
	if !bytes.HasPrefix(text, []byte("Code: 395. DB::Exception: late")) || !ok || string(end) != fmt.Sprintf("%d %s\r\n__exception__\r\n", len(text)+1, tag) {
		t.Errorf("frame %q", frame)
	}
	if got := call(t, "POST", query(server, "wait_end_of_query", "1"), "SELECT number FROM numbers(3000000)"); got.status != 200 || len(got.body) != 22888890 {
		t.Errorf("a long answer held back: %d, %d bytes", got.status, len(got.body))
	}
}

// A client that goes away takes its statement with it, and half an insert is not stored.
func TestHTTPClientGone(t *testing.T) {
	server := serve(t, HandlerOptions{})
	table := database(t) + ".gone"
	mustQuery(t, "CREATE TABLE "+table+" (a UInt64) ENGINE = MergeTree ORDER BY a")
	ctx, cancel := context.WithCancel(t.Context())
	body, feed := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, "POST", query(server, "query", "INSERT INTO "+table+" FORMAT TSV"), body)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := http.DefaultClient.Do(req)
		ended <- err
	}()
	if _, err := io.WriteString(feed, strings.Repeat("1\n", 400000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = feed.CloseWithError(context.Canceled) // the client's transport waits for its body's reader
	if err := <-ended; err == nil {
		t.Fatal("the insert succeeded")
	}
	for deadline := time.Now().Add(10 * time.Second); mustQuery(t, "SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO %gone%'") != "0"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the insert still runs")
		}
	}
	if rows := mustQuery(t, "SELECT count() FROM "+table); rows != "0" {
		t.Errorf("%s rows of half an insert", rows)
	}
}

// A client that sends much more after its statement has failed still gets the error.
func TestHTTPErrorBeforeBodyEnds(t *testing.T) {
	server := serve(t, HandlerOptions{})
	rows := strings.Repeat("x\n", 20<<20)
	for _, table := range []string{"nope", "FUNCTION null('a UInt8')"} {
		got := call(t, "POST", query(server, "query", "INSERT INTO "+table+" FORMAT TSV"), rows)
		if code := got.header.Get("X-ClickHouse-Exception-Code"); code != "60" && code != "27" {
			t.Errorf("%s: %d %.200q", table, got.status, got.body)
		}
	}
}

// A client that stops in the middle of its data does not hold its statement for ever.
func TestHTTPStalledClient(t *testing.T) {
	h := NewHandler(engine(t), HandlerOptions{})
	h.stall = 200 * time.Millisecond
	server := httptest.NewServer(h)
	defer server.Close()
	body, feed := io.Pipe()
	defer feed.Close()
	go func() { _, _ = io.WriteString(feed, "1\n") }()
	res, err := http.Post(query(server, "query", "INSERT INTO FUNCTION null('a UInt8') FORMAT TSV"), "", body)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 503 || res.Header.Get("X-ClickHouse-Exception-Code") != "209" {
		t.Errorf("status %d, code %q", res.StatusCode, res.Header.Get("X-ClickHouse-Exception-Code"))
	}
	// A statement that merely takes longer is not one that stalls.
	if got := call(t, "POST", server.URL, "SELECT sleep(1)"); got.body != "0\n" {
		t.Errorf("a slow statement: %d %q", got.status, got.body)
	}
	// Nor is a result that is not read: it is given up, and the connection cut.
	res, err = http.Post(server.URL, "", strings.NewReader("SELECT number FROM numbers(1000000000)"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for deadline := time.Now().Add(20 * time.Second); mustQuery(t, "SELECT count() FROM system.processes WHERE query LIKE 'SELECT number FROM numbers(1000000000)%'") != "0"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a result that nobody reads is still being made")
		}
	}
}
