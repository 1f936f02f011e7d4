package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"catena/sinks/embedded"
)

// server is the embedded engine behind its HTTP front, one for all tests: a
// process can have no two.
var server struct {
	addr   string // http://…
	native string // clickhouse://…
	err    error
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := runChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := run(m)
	endShared()
	os.Exit(code)
}

func run(m *testing.M) int {
	engine, err := embedded.Open(embedded.Options{})
	if server.err = err; err != nil {
		return m.Run()
	}
	defer func() {
		if err := engine.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "close:", err)
		}
	}()
	front, err := embedded.NewServer(engine, embedded.ServerOptions{
		Listen: "127.0.0.1:0", Native: "127.0.0.1:0", HandlerOptions: embedded.HandlerOptions{Log: slog.New(slog.DiscardHandler)},
	})
	if server.err = err; err != nil {
		return m.Run()
	}
	server.addr = "http://" + front.Addr().String()
	server.native = "clickhouse://" + front.NativeAddr().String()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := front.Close(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "close:", err)
		}
	}()
	return m.Run()
}

// require skips the test where there is no engine.
func require(t testing.TB) {
	t.Helper()
	if errors.Is(server.err, embedded.ErrNoLibrary) && os.Getenv("CATENA_REQUIRE_LIBCHDB") == "" {
		t.Skip("no libchdb: run deploy/dev/libchdb.sh (CATENA_REQUIRE_LIBCHDB=1 makes this a failure):", server.err)
	}
	if server.err != nil {
		t.Fatal(server.err)
	}
}

var databases atomic.Int64

// overBoth runs a test over HTTP and over the native protocol; its name tells open which.
func overBoth(t *testing.T, test func(t *testing.T)) {
	t.Run("http", test)
	t.Run("native", test)
}

func addrOf(t testing.TB) string {
	if strings.Contains(t.Name()+"/", "/native/") {
		return server.native
	}
	return server.addr
}

// open returns a store on a database of its own that is not migrated yet.
func open(t testing.TB) *Store {
	t.Helper()
	require(t)
	s, err := Open(t.Context(), Options{Addrs: []string{addrOf(t)}, Database: fmt.Sprintf("test_%d", databases.Add(1))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		conn := s.pool("")
		defer conn.Close()
		if err := conn.Exec(context.Background(), "DROP DATABASE IF EXISTS "+s.options.Database); err != nil {
			t.Error(err)
		}
	})
	return s
}

// migrated returns a store with its tables.
func migrated(t testing.TB) *Store {
	t.Helper()
	s := open(t)
	if _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// exec runs statements in the store's database.
func exec(t testing.TB, s *Store, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if err := s.conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// rows runs a query and returns each row as words separated by blanks.
func rows(t testing.TB, s *Store, sql string) []string {
	t.Helper()
	_, all, err := s.Query(t.Context(), sql, 0)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	var lines []string
	for _, r := range all {
		lines = append(lines, strings.Join(r, " "))
	}
	return lines
}
