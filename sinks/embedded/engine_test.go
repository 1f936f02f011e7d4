package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

// children are the bodies of tests that need a process of their own: the engine is one per process. TestMain runs the one
// that childEnv names.
var children = map[string]func() error{
	"lifecycle":     childLifecycle,
	"signals":       childSignals,
	"close":         childCloseWhileRunning,
	"locked":        childLocked,
	"no library":    childNoLibrary,
	"alien library": childAlienLibrary,
	"kill insert":   childKillInsert,
	"kill count":    childKillCount,
}

const childEnv = "CATENA_TEST_EMBEDDED_CHILD"

func TestChildren(t *testing.T) {
	e := engine(t)
	for name := range children {
		if strings.HasPrefix(name, "kill") {
			continue // the two halves of TestSurvivesKill
		}
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := osexec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"="+name, "CATENA_TEST_DIR="+t.TempDir(), "CATENA_TEST_LOCKED="+e.Dir())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}

// The engine can be closed and opened again in one process, on the same directory, where the data still is, or another.
func childLifecycle() error {
	ctx, dir := context.Background(), filepath.Join(os.Getenv("CATENA_TEST_DIR"), "a <b> & 'c'")
	for round := range 3 {
		e, err := Open(Options{Dir: dir, MaxMemory: 2 << 30})
		if err != nil {
			return err
		}
		if _, err := Open(Options{Dir: dir + "2"}); !errors.Is(err, ErrAlreadyOpen) {
			return fmt.Errorf("second Open: %w", err)
		}
		if _, err := e.Query(ctx, "CREATE TABLE IF NOT EXISTS kept (n UInt64) ENGINE = MergeTree ORDER BY n", ""); err != nil {
			return err
		}
		if _, err := e.Insert(ctx, "INSERT INTO kept", "TSV", strings.NewReader(strconv.Itoa(round)+"\n")); err != nil {
			return err
		}
		out, err := e.Query(ctx, "SELECT count(), max(n) FROM kept", "")
		if want := fmt.Sprintf("%d\t%d\n", round+1, round); err != nil || string(out) != want {
			return fmt.Errorf("round %d: %q, %w", round, out, err)
		}
		if err := errors.Join(e.Close(), e.Close()); err != nil {
			return err
		}
		if _, err := e.Query(ctx, "SELECT 1", ""); !errors.Is(err, ErrClosed) {
			return fmt.Errorf("a query after Close: %w", err)
		}
		if _, err := e.sessions.acquire("late", time.Minute, false); !errors.Is(err, ErrClosed) {
			return fmt.Errorf("a session after Close: %w", err)
		}
	}
	e, err := Open(Options{})
	if err != nil {
		return err
	}
	if _, err := os.Stat(e.Dir()); err != nil {
		return err
	}
	if err := e.Close(); err != nil {
		return err
	}
	if _, err := os.Stat(e.Dir()); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the temporary directory is still there: %w", err)
	}
	return nil
}

// A nil dereference in Go still panics with the engine loaded, at work and closed, also on busy goroutines while the engine
// signals every thread.
func childSignals() error {
	e, err := Open(Options{})
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for range 4 {
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					recovers(func() { recurse(200) })
				}
			}
		})
	}
	for range 20 {
		if _, err := e.Query(context.Background(), "SELECT count() FROM system.stack_trace SETTINGS allow_introspection_functions = 1", ""); err != nil {
			return err
		}
		if !recovers(func() { dereference(nil) }) {
			return errors.New("no panic")
		}
	}
	close(stop)
	busy.Wait()
	if err := e.Close(); err != nil {
		return err
	}
	if !recovers(func() { dereference(nil) }) {
		return errors.New("no panic after Close")
	}
	return nil
}

//go:noinline
func dereference(p *int) { *p = 1 }

// recurse uses the goroutine's stack and ends in a nil dereference.
//
//go:noinline
func recurse(n int) int {
	var local [64]int
	local[n%64] = n
	if n == 0 {
		dereference(nil)
	}
	return recurse(n-1) + local[n%64] //nolint:staticcheck // SA5007: it ends in the dereference, which panics
}

func recovers(f func()) (panicked bool) {
	defer func() { panicked = recover() != nil }()
	f()
	return false
}

// Close stops what runs and waits for it.
func childCloseWhileRunning() error {
	e, err := Open(Options{})
	if err != nil {
		return err
	}
	failed := make(chan error)
	for range 4 {
		go func() {
			_, err := e.Query(context.Background(), "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 5 SETTINGS max_threads = 1", "")
			failed <- err
		}()
	}
	time.Sleep(300 * time.Millisecond)
	started := time.Now()
	closed := make(chan error)
	go func() { closed <- e.Close() }()
	for range 4 {
		if err := <-failed; !errors.Is(err, ErrClosed) {
			return fmt.Errorf("a running query: %w", err)
		}
	}
	if err := <-closed; err != nil {
		return err
	}
	if took := time.Since(started); took > 30*time.Second {
		return fmt.Errorf("Close took %v", took)
	}
	return nil
}

func childLocked() error {
	_, err := Open(Options{Dir: os.Getenv("CATENA_TEST_LOCKED")})
	if err == nil || !strings.Contains(err.Error(), "in use by another process") {
		return fmt.Errorf("a directory in use: %w", err)
	}
	return nil
}

func childNoLibrary() error {
	_, err := Open(Options{Library: "/nonexistent/libchdb.so"})
	if !errors.Is(err, ErrNoLibrary) || !strings.Contains(err.Error(), "make libchdb") {
		return fmt.Errorf("no library: %w", err)
	}
	return nil
}

func childAlienLibrary() error {
	if _, err := Open(Options{Library: "/proc/self/exe"}); err == nil {
		return errors.New("a file that is no library was opened")
	}
	if _, err := Open(Options{Library: "libc.so.6"}); err == nil {
		return errors.New("another library was opened")
	}
	e, err := Open(Options{}) // and the right one still works
	if err != nil {
		return err
	}
	return e.Close()
}

func TestOpenTwice(t *testing.T) {
	engine(t)
	if _, err := Open(Options{}); !errors.Is(err, ErrAlreadyOpen) {
		t.Fatal("got", err)
	}
}

func TestQueryErrors(t *testing.T) {
	e := engine(t)
	var engineError *Error
	if _, err := e.Query(t.Context(), "SELECT * FROM nope", ""); !errors.As(err, &engineError) || engineError.Code != 60 || strings.Contains(engineError.Message, "Code:") {
		t.Errorf("got %#v", err)
	}
	if _, err := e.Query(t.Context(), "SELECT 1", "", Setting{"", "1"}); !errors.As(err, &engineError) || engineError.Code != 115 {
		t.Errorf("a setting without a name: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Query(ctx, "SELECT 1", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context: %v", err)
	}
	if out := mustQuery(t, "SELECT 'a\x00b', 1"); out != "a\\0b\t1" {
		t.Errorf("a query with a zero byte: %q", out)
	}
}

// Statements run side by side: four that wait a second each take about one, not four.
func TestStatementsRunInParallel(t *testing.T) {
	engine(t)
	started := time.Now()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if out := mustQuery(t, "SELECT sleep(1)"); out != "0" {
				t.Error(out)
			}
		})
	}
	wg.Wait()
	if took := time.Since(started); took > 3*time.Second {
		t.Fatal("took", took)
	}
}

// A streamed result is not held anywhere: reading 160 MB of one that has 800 GB leaves memory as it was, and closing it ends
// it.
func TestStreamIsBounded(t *testing.T) {
	e := engine(t)
	r, err := e.Start(t.Context(), Statement{SQL: "SELECT number FROM numbers(100000000000)", Format: "Native"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	before, read := residentMiB(t), 0
	for read < 160<<20 {
		data, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		read += len(data)
	}
	if grown := residentMiB(t) - before; grown > 64 {
		t.Errorf("memory grew by %d MiB", grown)
	}
	started := time.Now()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("Close took %v", took)
	}
	if _, err := e.Query(t.Context(), "SELECT 1", ""); err != nil {
		t.Error(err)
	}
}

func residentMiB(t testing.TB) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(status))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize() >> 20
}

// An insert whose data fails half-way stores nothing of the last block, and the connection of the next one is sound.
func TestInsertReaderFails(t *testing.T) {
	e := engine(t)
	table := database(t) + ".f"
	mustQuery(t, "CREATE TABLE "+table+" (a UInt64) ENGINE = MergeTree ORDER BY a")
	broken := errors.New("broken")
	_, err := e.Insert(t.Context(), "INSERT INTO "+table, "TSV", io.MultiReader(strings.NewReader("1\n2\n"), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) {
		t.Fatal("got", err)
	}
	if rows := mustQuery(t, "SELECT count() FROM "+table); rows != "0" {
		t.Errorf("%s rows", rows)
	}
	stats, err := e.Insert(t.Context(), "INSERT INTO "+table, "TSV", iotest.OneByteReader(strings.NewReader("1\n2\n")))
	if err != nil || stats.WrittenRows != 2 {
		t.Errorf("got %+v, %v", stats, err)
	}
}

// Statement after statement leaves nothing behind: neither connections nor memory.
func TestStatementsDoNotLeak(t *testing.T) {
	run := func(n int) {
		for range n {
			mustQuery(t, "SELECT number, toString(number) FROM numbers(100)", Setting{"max_threads", "1"})
		}
	}
	run(500) // caches and thread pools
	before := residentMiB(t)
	run(3000)
	if grown := residentMiB(t) - before; grown > 48 {
		t.Errorf("memory grew by %d MiB in 3000 statements", grown)
	}
}

// What an insert has acknowledged is there after kill -9 amid the next one, and no insert is there by half.
func TestSurvivesKill(t *testing.T) {
	engine(t)
	env := append(os.Environ(), "CATENA_TEST_DIR="+t.TempDir())
	inserts := osexec.CommandContext(t.Context(), os.Args[0])
	inserts.Env = append(env, childEnv+"=kill insert")
	out, err := inserts.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := inserts.Start(); err != nil {
		t.Fatal(err)
	}
	acknowledged := 0
	for lines := bufio.NewScanner(out); acknowledged < 20 && lines.Scan(); {
		acknowledged++
	}
	if err := inserts.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = inserts.Wait() // it was killed
	if acknowledged < 20 {
		t.Fatalf("only %d inserts", acknowledged)
	}
	count := osexec.CommandContext(t.Context(), os.Args[0])
	count.Env = append(env, childEnv+"=kill count")
	text, err := count.CombinedOutput()
	rows, convErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || convErr != nil || rows < acknowledged*killRows || rows%killRows != 0 {
		t.Fatalf("%q rows after %d inserts of %d: %v", text, acknowledged, killRows, err)
	}
}

const killRows = 1000

func childKillInsert() error {
	e, err := Open(Options{Dir: os.Getenv("CATENA_TEST_DIR")})
	if err != nil {
		return err
	}
	if _, err := e.Query(context.Background(), "CREATE TABLE k (n UInt64) ENGINE = MergeTree ORDER BY n", ""); err != nil {
		return err
	}
	for {
		if _, err := e.Insert(context.Background(), "INSERT INTO k", "TSV", strings.NewReader(strings.Repeat("1\n", killRows))); err != nil {
			return err
		}
		fmt.Println("inserted")
	}
}

func childKillCount() error {
	e, err := Open(Options{Dir: os.Getenv("CATENA_TEST_DIR")})
	if err != nil {
		return err
	}
	out, err := e.Query(context.Background(), "SELECT count() FROM k", "")
	fmt.Print(string(out))
	return errors.Join(err, e.Close())
}
