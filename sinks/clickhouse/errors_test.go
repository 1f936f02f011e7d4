package clickhouse

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"

	"catena/schemas"
	"catena/sinks"
	"catena/sinks/sinktest"
)

func TestClassify(t *testing.T) {
	for _, test := range []struct {
		err       error
		permanent bool
	}{
		{nil, false},
		{&clickhouse.Exception{Code: 53}, true},
		{&clickhouse.HTTPError{StatusCode: 400, Err: &clickhouse.Exception{Code: 469}}, true},
		{&clickhouse.Exception{Code: 241}, false}, // memory limit
		{&clickhouse.Exception{Code: 252}, false}, // too many parts
		{&clickhouse.Exception{Code: 159}, false}, // timeout
		{&clickhouse.Exception{Code: 242}, false}, // table is read only
		{&clickhouse.Exception{Code: 243}, false}, // no space
		{&clickhouse.Exception{Code: 60}, false},  // unknown table: a person mends it
		{&clickhouse.Exception{Code: 16}, false},  // no such column
		{&clickhouse.Exception{Code: 516}, false}, // password
		{&clickhouse.HTTPError{StatusCode: 503, Err: errors.New("bad gateway")}, false},
		{&column.ColumnConverterError{}, true},
		{clickhouse.ErrBatchInvalid, true},
		{io.ErrUnexpectedEOF, false},
		{context.DeadlineExceeded, false},
		{&net.OpError{Op: "dial", Err: errors.New("refused")}, false},
	} {
		if got := sinks.IsPermanent(classify(fmt.Errorf("wrapped: %w", test.err))); test.err != nil && got != test.permanent {
			t.Errorf("%v: permanent %v, want %v", test.err, got, test.permanent)
		}
	}
}

func TestOpenSaysWhereAndWhatToDo(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts and answers nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	deny := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-ClickHouse-Exception-Code", "516")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "Code: 516. DB::Exception: reader: Authentication failed. (AUTHENTICATION_FAILED)")
	}))
	defer deny.Close()

	for _, test := range []struct {
		name string
		o    Options
		want []string
	}{
		{"refused", Options{Addrs: []string{"http://" + dead.Addr().String()}}, []string{"http://" + dead.Addr().String(), "nothing listens there", "catena clickhouse"}},
		{"refused, native", Options{Addrs: []string{"clickhouse://" + dead.Addr().String()}}, []string{"clickhouse://" + dead.Addr().String(), "nothing listens there"}},
		{"silent", Options{Addrs: []string{"http://" + silent.Addr().String()}, DialTimeout: 200 * time.Millisecond, ReadTimeout: 200 * time.Millisecond}, []string{"no answer in time"}},
		{"no such name", Options{Addrs: []string{"http://clickhouse.invalid:8123"}, DialTimeout: 2 * time.Second}, []string{"http://clickhouse.invalid:8123"}},
		{"not let in", Options{Addrs: []string{deny.URL}, User: "reader", Password: "hunter2"}, []string{`user "reader" was not let in`}},
		{"TLS to a plain port", Options{Addrs: []string{strings.Replace(web.URL, "http:", "https:", 1)}}, []string{"does not speak TLS"}},
		{"native to an HTTP port", Options{Addrs: []string{strings.Replace(web.URL, "http:", "clickhouse:", 1)}, DialTimeout: 300 * time.Millisecond}, []string{"does this port not speak the native protocol"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := Open(t.Context(), test.o)
			if err == nil {
				s.Close()
				t.Fatal("no error")
			}
			for _, w := range test.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q lacks %q", err, w)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q holds the password", err)
			}
		})
	}
	s := &Store{where: "https://h:8443", native: clickhouse.HTTP}
	if err := s.explain(x509.UnknownAuthorityError{}); !strings.Contains(err.Error(), "TLS failed: check the certificate") {
		t.Error(err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, test := range []struct {
		o    Options
		want string
	}{
		{Options{Addrs: []string{"ftp://h:21"}}, `the protocol "ftp" is none of`},
		{Options{Addrs: []string{"http://me:secret@h:8123"}}, "holds a user or password"},
		{Options{Addrs: []string{"http://h:8123/db"}}, "want only scheme, host and port"},
		{Options{Addrs: []string{"http://"}}, "want host:port"},
		{Options{Addrs: []string{"h:99999x"}}, "want host:port"},
		{Options{Addrs: []string{"http://a:8123", "clickhouse://b:9000"}}, "differ in protocol"},
		{Options{Database: "a; DROP"}, "want letters, digits and underscores"},
		{Options{Compression: "gzip"}, "want lz4, zstd or none"},
	} {
		if _, err := Open(t.Context(), test.o); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v; want %s", test.o, err, test.want)
		}
	}
	for text, want := range map[string]string{
		"h":                    "http://h:8123",
		"h:8123":               "http://h:8123",
		"h:9000":               "clickhouse://h:9000",
		"h:9440":               "clickhouses://h:9440",
		"h:8443":               "https://h:8443",
		"http://h:9000":        "http://h:9000",
		"https://h":            "https://h:8443",
		"tcp://h":              "clickhouse://h:9000",
		"clickhouses://h":      "clickhouses://h:9440",
		"[::1]:8123":           "http://[::1]:8123",
		"http://[2001:db8::1]": "http://[2001:db8::1]:8123",
	} {
		if a, err := parseAddr(text, ""); err != nil || a.String() != want {
			t.Errorf("%s: %s, %v; want %s", text, a, err, want)
		}
	}
	if a, err := parseAddr("h:1234", "native"); err != nil || a.String() != "clickhouse://h:1234" {
		t.Error(a, err)
	}
}

// The database's own refusal of a row: a constraint stands for all of them.
func TestARefusedRowIsTheOnlyOneToGo(t *testing.T) { overBoth(t, checkARefusedRowIsTheOnlyOneToGo) }

func checkARefusedRowIsTheOnlyOneToGo(t *testing.T) {
	s := migrated(t)
	exec(t, s, "ALTER TABLE actions ADD CONSTRAINT no_poison CHECK resource != 'poison'", "ALTER TABLE bindings ADD CONSTRAINT no_poison CHECK child_name != 'poison'")
	all, bound := sinktest.Actions(1000), sinktest.Bindings(20)
	all[17].Resource, all[999].Resource, bound[3].ChildName = "poison", "poison", "poison"
	if err := s.Write(t.Context(), &sinks.Batch{Actions: all}); !sinks.IsPermanent(err) {
		t.Errorf("error %v; want a permanent one", err)
	}
	w := sinks.NewWriter(s, sinks.Options{})
	if err := w.Append(&sinks.Batch{Actions: all, Bindings: bound, Progress: sinktest.Progress()}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := rows(t, s, "SELECT (SELECT count() FROM actions FINAL), (SELECT count() FROM bindings FINAL), (SELECT count() FROM progress FINAL)"); got[0] != "998 19 2" {
		t.Errorf("rows %v, want 998 19 2", got)
	}
	var letters []schemas.DeadLetter
	if err := s.LoadDeadLetters(t.Context(), func(d *schemas.DeadLetter) error { letters = append(letters, *d); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(letters) != 3 || letters[0].Reason != schemas.DeadRejected || !strings.Contains(letters[0].Error, "no_poison") {
		t.Errorf("dead letters %+v", letters)
	}
}

// A missing table is a person's to mend and no row's fault.
func TestAMissingTableIsWorthARetry(t *testing.T) { overBoth(t, checkAMissingTableIsWorthARetry) }

func checkAMissingTableIsWorthARetry(t *testing.T) {
	s := migrated(t)
	exec(t, s, "DROP TABLE actions")
	err := s.Write(t.Context(), &sinks.Batch{Actions: sinktest.Actions(1)})
	if err == nil || sinks.IsPermanent(err) || !strings.Contains(err.Error(), "catena migrate") {
		t.Errorf("error %v; want one that is not permanent and says what to do", err)
	}
}
