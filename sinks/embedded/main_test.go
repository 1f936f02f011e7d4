package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"go.uber.org/goleak"
)

// shared is the one engine of the test binary: a process can have no two at once.
var shared struct {
	engine *Engine
	err    error
}

func TestMain(m *testing.M) {
	if child := children[os.Getenv(childEnv)]; child != nil {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	shared.engine, shared.err = Open(Options{})
	code := m.Run()
	if shared.engine != nil {
		if err := shared.engine.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "close:", err)
			code = 1
		}
	}
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, "goroutines left behind:", err)
		code = 1
	}
	os.Exit(code)
}

// engine returns the shared engine, or skips the test where the library has not been fetched.
func engine(t testing.TB) *Engine {
	t.Helper()
	if errors.Is(shared.err, ErrNoLibrary) && os.Getenv("CATENA_REQUIRE_LIBCHDB") == "" {
		t.Skip("no libchdb: run deploy/dev/libchdb.sh (CATENA_REQUIRE_LIBCHDB=1 makes this a failure):", shared.err)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.engine
}

// database creates a database for one test and returns its name.
func database(t testing.TB) string {
	t.Helper()
	name := "t_" + strings.ToLower(strings.Map(func(r rune) rune {
		if r < 128 && (isWordStart(byte(r)) || r >= '0' && r <= '9') {
			return r
		}
		return '_'
	}, t.Name()))
	mustQuery(t, "CREATE DATABASE "+name)
	t.Cleanup(func() { mustQuery(t, "DROP DATABASE "+name) })
	return name
}

// mustQuery runs a statement in the engine and returns its output as TabSeparated, without the last line end.
func mustQuery(t testing.TB, query string, settings ...Setting) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := engine(t).Query(ctx, query, "TabSeparated", settings...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// serve starts an HTTP server in front of the engine.
func serve(t testing.TB, opts HandlerOptions) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(NewHandler(engine(t), opts))
	t.Cleanup(server.Close)
	return server
}

// serveTCP starts a server of the native protocol in front of the engine and returns its address.
func serveTCP(t testing.TB, opts HandlerOptions, timeouts ...nativeTimeouts) string {
	t.Helper()
	e := engine(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := serveNative(e, listener, opts, append(timeouts, defaultNativeTimeouts)[0])
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := server.close(ctx); err != nil {
			t.Error("close:", err)
		}
	})
	return listener.Addr().String()
}

// overBoth runs a test over HTTP and over the native protocol; its name tells dial which.
func overBoth(t *testing.T, test func(t *testing.T)) {
	t.Run("http", test)
	t.Run("native", test)
}

func protocolOf(t testing.TB) clickhouse.Protocol {
	if strings.Contains(t.Name()+"/", "/native/") {
		return clickhouse.Native
	}
	return clickhouse.HTTP
}

// dial opens clickhouse-go on a server of its own.
func dial(t testing.TB, database string, compression *clickhouse.Compression) clickhouse.Conn {
	t.Helper()
	options := &clickhouse.Options{Protocol: protocolOf(t), Auth: clickhouse.Auth{Database: database}, Compression: compression}
	if options.Protocol == clickhouse.Native {
		options.Addr = []string{serveTCP(t, HandlerOptions{})}
	} else {
		options.Addr = []string{serve(t, HandlerOptions{}).Listener.Addr().String()}
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
