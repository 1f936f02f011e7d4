package clickhouse

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	osexec "os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"catena/sinks/embedded"
)

// childEnv names the data folder of a process that is the database.
const childEnv = "CATENA_TEST_DATABASE"

// runChild is the database as a process of its own, which can be killed. It
// prints its addresses and serves until its standard input ends.
func runChild(dir string) error {
	engine, err := embedded.Open(embedded.Options{Dir: dir})
	if err != nil {
		return err
	}
	front, err := embedded.NewServer(engine, embedded.ServerOptions{Listen: "127.0.0.1:0", Native: "127.0.0.1:0",
		HandlerOptions: embedded.HandlerOptions{Log: slog.New(slog.DiscardHandler)}})
	if err != nil {
		return err
	}
	fmt.Println(front.Addr(), front.NativeAddr())
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // the parent's end
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := front.Close(ctx); err != nil {
		return err
	}
	return engine.Close()
}

// child is a database that a test can kill and start again on the same folder.
type child struct {
	dir          string
	cmd          *osexec.Cmd
	http, native string // host:port; others after each start
}

func newChild(t testing.TB) *child {
	t.Helper()
	require(t)
	short(t)
	c := &child{dir: t.TempDir()}
	c.start(t)
	t.Cleanup(c.kill)
	return c
}

// short leaves out what needs a process with a database of its own.
func short(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no database process")
	}
}

// shared is one for all tests that leave it alive; the end of this process
// ends it.
var shared struct {
	once sync.Once
	*child
}

func sharedChild(t testing.TB) *child {
	t.Helper()
	require(t)
	short(t)
	shared.once.Do(func() {
		dir, err := os.MkdirTemp("", "catena-faults-") //nolint:usetesting // it outlives the test that starts it
		if err != nil {
			t.Fatal(err)
		}
		c := &child{dir: dir}
		c.start(t)
		shared.child = c
	})
	if shared.child == nil {
		t.Fatal("the database did not start")
	}
	return shared.child
}

// endShared ends it.
func endShared() {
	if shared.child != nil {
		shared.kill()
		_ = os.RemoveAll(shared.dir) // a temporary folder
	}
}

func (c *child) start(t testing.TB) {
	t.Helper()
	c.cmd = osexec.Command(os.Args[0])
	c.cmd.Env = append(os.Environ(), childEnv+"="+c.dir)
	c.cmd.Stderr = os.Stderr
	// It reads what never comes: should this process die, its end tells the child.
	if _, err := c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	fields := strings.Fields(line)
	if err != nil || len(fields) != 2 {
		t.Fatalf("the database did not start: %q, %v", line, err)
	}
	c.http, c.native = fields[0], fields[1]
}

// kill ends it as kill -9 does.
func (c *child) kill() {
	if c.cmd == nil {
		return
	}
	_ = c.cmd.Process.Kill() // gone already, perhaps
	_ = c.cmd.Wait()         // says that it was killed
	c.cmd = nil
}

// cpu is the processor time that it has used.
func (c *child) cpu(t testing.TB) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	// utime and stime are the 14th and 15th field, in hundredths of a second; the name before may hold blanks.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks [2]int64
	for i := range ticks {
		if _, err := fmt.Sscan(fields[11+i], &ticks[i]); err != nil {
			t.Fatal(err)
		}
	}
	return time.Duration(ticks[0]+ticks[1]) * 10 * time.Millisecond
}

// ownCPU is the processor time that this process has used.
func ownCPU(t testing.TB) time.Duration {
	t.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}
