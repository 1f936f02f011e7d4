package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"catena/schemas"
	"catena/sinks/clickhouse"
	"catena/sinks/jsonl"
)

// lab is where catena is ill-treated: Apache Kafka, ClickHouse behind a proxy
// that sees every statement, and catena as processes of their own. Nothing in
// catena knows of it: what the lab does, it does from outside, to the program
// as it ships.
type lab struct {
	t        *testing.T
	program  string // the test binary, told to be catena, or another build
	broker   *kafkaNode
	client   *kgo.Client
	admin    *kadm.Client
	database *child // the engine
	proxy    *dbProxy
	store    *clickhouse.Store // past the proxy
	name     string            // of database and group
	env      []string

	mu  sync.Mutex
	saw func(who *child, what string) // told of each log line and statement
}

// newLab starts Kafka and ClickHouse. Settings are further variables for
// `catena run`.
func newLab(t *testing.T, name string, settings ...string) *lab {
	t.Helper()
	if os.Getenv("CATENA_TEST_CRASH") == "" {
		t.Skip("needs Apache Kafka and some minutes: run `make test-crash`")
	}
	l := &lab{t: t, program: os.Args[0], name: name, saw: func(*child, string) {}}
	l.broker = newKafkaNode(t)
	l.broker.start()
	var err error
	if l.client, err = kgo.NewClient(kgo.SeedBrokers(l.broker.addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(250*time.Millisecond),
		kgo.ProducerBatchMaxBytes(16<<20), kgo.BrokerMaxWriteBytes(100<<20)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.client.Close)
	l.admin = kadm.NewClient(l.client)

	port := freePort(t)
	l.database = l.start([]string{"CATENA_BE_MAIN=1"}, os.Args[0], "clickhouse", "--listen", "127.0.0.1:"+port, "--data", t.TempDir())
	l.database.await("answers at", 30*time.Second)
	l.proxy = newDBProxy(t, "127.0.0.1:"+port, func(what string) { l.tell(nil, what) })
	l.env = append([]string{"CATENA_BE_MAIN=1", "CATENA_KAFKA_BROKERS=" + l.broker.addr, "CATENA_CLICKHOUSE_ADDR=http://" + l.proxy.addr,
		"CATENA_CLICKHOUSE_DATABASE=" + name, "CATENA_KAFKA_GROUP=" + name, "CATENA_KAFKA_TOPICS=" + feedTopic, "CATENA_HMAC_KEY=a key for tests only",
		"CATENA_KAFKA_SESSION_TIMEOUT=3s", "CATENA_BATCH_AGE=100ms", "CATENA_OUT_OF_ORDERNESS=10s",
		"CATENA_ALLOWED_LATENESS=876000h", "CATENA_WINDOW=876000h", "CATENA_DRAIN=20s"}, settings...)
	l.catena("migrate")
	store, err := clickhouse.Open(t.Context(), clickhouse.Options{Addrs: []string{"http://127.0.0.1:" + port}, Database: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	l.store = store
	return l
}

// tell passes on what was seen.
func (l *lab) tell(who *child, what string) {
	l.mu.Lock()
	saw := l.saw
	l.mu.Unlock()
	saw(who, what)
}

// watch sets who is told.
func (l *lab) watch(saw func(who *child, what string)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saw = saw
}

// makeTopic creates a topic that keeps what was stamped long ago.
func (l *lab) makeTopic(topic string, partitions int, config map[string]string) {
	l.t.Helper()
	settings := map[string]*string{"retention.ms": kadm.StringPtr("-1"), "max.message.bytes": kadm.StringPtr("16777216")}
	for k, v := range config {
		settings[k] = kadm.StringPtr(v)
	}
	if r, err := l.admin.CreateTopic(l.t.Context(), int32(partitions), 1, settings, topic); err != nil || r.Err != nil {
		l.t.Fatal(err, r.Err)
	}
}

// produce sends records to their places and waits for the acknowledgement.
func (l *lab) produce(records []schemas.Record) {
	l.t.Helper()
	out := make([]*kgo.Record, len(records))
	for i, r := range records {
		out[i] = kafkaRecord(&r)
	}
	results := l.client.ProduceSync(l.t.Context(), out...)
	if err := results.FirstErr(); err != nil {
		l.t.Fatalf("produce: %v", err)
	}
	for i := range records {
		if out[i].Offset != records[i].Offset {
			l.t.Fatalf("a record went to %s/%d@%d instead of @%d", records[i].Topic, records[i].Partition, out[i].Offset, records[i].Offset)
		}
	}
}

func kafkaRecord(r *schemas.Record) *kgo.Record {
	out := &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value}
	if r.TimestampNanos != 0 {
		out.Timestamp = time.Unix(0, r.TimestampNanos)
	}
	return out
}

// evict throws members out of the group, as the session timeout does. Nil is all
// of them.
func (l *lab) evict(is func(member kadm.DescribedGroupMember) bool) int {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
	defer cancel()
	groups, err := l.admin.DescribeGroups(ctx, l.name)
	if err != nil {
		return 0 // no coordinator yet: nobody is in it
	}
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = l.name
	for _, m := range groups[l.name].Members {
		if is == nil || is(m) {
			member := kmsg.NewLeaveGroupRequestMember()
			member.MemberID = m.MemberID
			req.Members = append(req.Members, member)
		}
	}
	if len(req.Members) > 0 {
		if _, err := req.RequestWith(ctx, l.client); err != nil {
			l.t.Logf("evict: %v", err)
		}
	}
	return len(req.Members)
}

// child is a process of the lab.
type child struct {
	lab    *lab
	listen string // where its metrics are
	cmd    *exec.Cmd
	done   chan struct{} // ended and waited for
	err    error

	mu     sync.Mutex
	output bytes.Buffer
	news   chan struct{} // closed and replaced with each line
}

func (l *lab) start(env []string, program string, args ...string) *child {
	l.t.Helper()
	c := &child{lab: l, cmd: exec.Command(program, args...), done: make(chan struct{}), news: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), env...)
	r, w := io.Pipe()
	c.cmd.Stdout, c.cmd.Stderr = w, w
	if err := c.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	lines := make(chan struct{})
	go func() {
		defer close(lines)
		c.read(r)
	}()
	go func() {
		c.err = c.cmd.Wait()
		_ = w.Close()
		<-lines
		close(c.done)
	}()
	l.t.Cleanup(func() { c.signal(syscall.SIGCONT); c.kill() })
	return c
}

// read takes in what the process prints, line by line.
func (c *child) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		c.mu.Lock()
		c.output.Write(lines.Bytes())
		c.output.WriteByte('\n')
		close(c.news)
		c.news = make(chan struct{})
		c.mu.Unlock()
		var said struct {
			Msg string `json:"msg"`
		}
		if json.Unmarshal(lines.Bytes(), &said) == nil && said.Msg != "" {
			c.lab.tell(c, "log "+said.Msg)
		}
	}
}

func (c *child) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.output.String()
}

// await waits until the process has printed a text.
func (c *child) await(text string, limit time.Duration) {
	c.lab.t.Helper()
	deadline := time.After(limit)
	for {
		c.mu.Lock()
		found, news := strings.Contains(c.output.String(), text), c.news
		c.mu.Unlock()
		if found {
			return
		}
		select {
		case <-news:
		case <-c.done:
			if !strings.Contains(c.text(), text) {
				c.lab.t.Fatalf("%v ended (%v) before it said %q:\n%s", c.cmd.Args, c.err, text, c.text())
			}
			return
		case <-deadline:
			c.lab.t.Fatalf("%v did not say %q within %v:\n%s", c.cmd.Args, text, limit, c.text())
		}
	}
}

// awaitRestored waits until the rows of so many partitions have come back.
func (c *child) awaitRestored(partitions int, limit time.Duration) {
	c.lab.t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		back := 0
		for line := range strings.Lines(c.text()) {
			var said struct {
				Msg        string `json:"msg"`
				Partitions int    `json:"partitions"`
			}
			if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "partitions restored" {
				back += said.Partitions
			}
		}
		switch {
		case back >= partitions:
			return
		case !c.alive():
			c.lab.t.Fatalf("catena ended (%v) when the rows of %d of %d partitions were back:\n%s", c.err, back, partitions, tail(c.text()))
		case time.Now().After(deadline):
			c.lab.t.Fatalf("after %v the rows of %d of %d partitions are back:\n%s", limit, back, partitions, tail(c.text()))
		}
	}
}

func (c *child) signal(s syscall.Signal) { _ = c.cmd.Process.Signal(s) }

// kill is kill -9. The process is gone when it returns, though what it printed
// may still be read.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	for { // not <-done: a reader of its output may be who kills
		if err := syscall.Kill(c.cmd.Process.Pid, 0); err != nil {
			return
		}
		select {
		case <-c.done:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func (c *child) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// terminate asks the process to end and demands that it does so cleanly.
func (c *child) terminate() {
	c.lab.t.Helper()
	c.signal(syscall.SIGTERM)
	select {
	case <-c.done:
		if c.err != nil {
			c.lab.t.Fatalf("%v: SIGTERM: %v\n%s", c.cmd.Args, c.err, tail(c.text()))
		}
	case <-time.After(time.Minute):
		c.lab.t.Fatalf("%v: still there a minute after SIGTERM\n%s", c.cmd.Args, tail(c.text()))
	}
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// run starts `catena run`.
func (l *lab) run(settings ...string) *child {
	l.t.Helper()
	listen := "127.0.0.1:" + freePort(l.t)
	c := l.start(append(append(append([]string{}, l.env...), "CATENA_LISTEN="+listen), settings...), l.program, "run")
	c.listen = listen
	return c
}

// catena runs another command to its end and returns what it printed.
func (l *lab) catena(args ...string) string {
	l.t.Helper()
	out, code := l.tryCatena(args...)
	if code != 0 {
		l.t.Fatalf("catena %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

func (l *lab) tryCatena(args ...string) (string, int) {
	l.t.Helper()
	c := l.start(l.env, l.program, args...)
	select {
	case <-c.done:
	case <-time.After(2 * time.Minute):
		l.t.Fatalf("catena %s: still there after two minutes\n%s", strings.Join(args, " "), c.text())
	}
	return c.text(), c.cmd.ProcessState.ExitCode()
}

// accounted is how many records the tables account for.
func (l *lab) accounted() int64 {
	progress, err := l.store.LoadProgress(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	var sum int64
	for _, p := range progress {
		sum += p.Offset
	}
	return sum
}

// awaitAll waits until the tables account for n records.
func (l *lab) awaitAll(n int64, limit time.Duration, from *child) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		switch sum := l.accounted(); {
		case sum >= n:
			return nil
		case from != nil && !from.alive():
			return fmt.Errorf("catena ended (%w) when the tables accounted for %d of %d records:\n%s", from.err, sum, n, tail(from.text()))
		case time.Now().After(deadline):
			said := ""
			if from != nil {
				said = tail(from.text())
			}
			return fmt.Errorf("after %v the tables account for %d of %d records\n%s", limit, sum, n, said)
		}
	}
}

// difference holds the tables against the rows of an undisturbed run, column
// by column, but for processing times and version.
func (l *lab) difference(want map[schemas.ID]*schemas.Action) (faults []string) {
	l.t.Helper()
	missing := make(map[schemas.ID]bool, len(want))
	for id := range want {
		missing[id] = true
	}
	differ, extra := 0, 0
	err := l.store.LoadActions(l.t.Context(), -1<<62, nil, func(a *schemas.Action) error {
		w := want[a.ID]
		delete(missing, a.ID)
		switch {
		case w == nil:
			if extra++; extra <= 3 {
				faults = append(faults, "not in the undisturbed run: "+rowLine(a))
			}
		case rowLine(a) != rowLine(w):
			if differ++; differ <= 3 {
				faults = append(faults, rowDifference(a, w))
			}
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	if len(missing)+differ+extra > 0 {
		faults = append(faults, fmt.Sprintf("of %d rows %d are missing, %d differ, %d are too many", len(want), len(missing), differ, extra))
	}
	_, dead, err := l.store.Query(l.t.Context(), "SELECT reason, error FROM dead_letters FINAL LIMIT 3", 0)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, d := range dead {
		faults = append(faults, fmt.Sprint("a dead letter: ", d))
	}
	return faults
}

// rowDifference names the columns in which a row is not what it shall be.
func rowDifference(got, want *schemas.Action) string {
	var a, b map[string]any
	if err := errors.Join(json.Unmarshal([]byte(rowLine(got)), &a), json.Unmarshal([]byte(rowLine(want)), &b)); err != nil {
		return err.Error()
	}
	text := fmt.Sprintf("the row of event %s (%s %s at %s, %s/%d@%d, version %d) differs:", got.ID, got.Source, got.Event.Action,
		time.Unix(0, got.TimeNanos).UTC().Format(time.RFC3339Nano), got.Evidence.Topic, got.Evidence.Partition, got.Evidence.Offset, got.Version)
	for _, column := range slices.Sorted(maps.Keys(b)) {
		if x, y := fmt.Sprint(a[column]), fmt.Sprint(b[column]); x != y {
			text += fmt.Sprintf("\n  %-16s %s\n  %16s %s", column, x, "undisturbed", y)
		}
	}
	return text
}

// rowLine is a row as `catena stitch` prints it, without processing times and
// version.
func rowLine(a *schemas.Action) string {
	row := *a
	row.Version = 0
	var b strings.Builder
	if err := jsonl.Encode(&b, &row); err != nil {
		return err.Error()
	}
	return b.String()
}

// kafkaNode is Apache Kafka from deploy/dev. It keeps its port and its data over
// restarts.
type kafkaNode struct {
	t                      *testing.T
	addr, port, controller string
	data                   string
	cmd                    *exec.Cmd
}

func newKafkaNode(t *testing.T) *kafkaNode {
	port := freePort(t)
	n := &kafkaNode{t: t, addr: "127.0.0.1:" + port, port: port, controller: freePort(t), data: t.TempDir()}
	t.Cleanup(func() { n.stop(syscall.SIGTERM) })
	return n
}

func (n *kafkaNode) start() {
	n.t.Helper()
	n.cmd = exec.Command("bash", "../../deploy/dev/kafka/kafka.sh", "run", "--port", n.port, "--controller-port", n.controller,
		"--data", n.data, "--parent", strconv.Itoa(os.Getpid()))
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := n.cmd.StderrPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	ready := make(chan bool, 1)
	go func() {
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "Kafka Server started") {
				ready <- true
			}
		}
	}()
	select {
	case <-ready:
	case <-time.After(3 * time.Minute):
		n.t.Fatal("Kafka did not start within three minutes")
	}
}

func (n *kafkaNode) stop(s syscall.Signal) {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Signal(s)
	_ = n.cmd.Wait()
	n.cmd = nil
}

// dbProxy stands between catena and ClickHouse. It tells of each statement when
// it comes ("before"), when the database has answered and catena does not know
// yet ("done"), and when the answer is on its way ("after").
type dbProxy struct {
	addr   string
	target *url.URL
	tell   func(what string)

	mu   sync.Mutex
	down bool
}

func newDBProxy(t *testing.T, target string, tell func(string)) *dbProxy {
	t.Helper()
	p := &dbProxy{target: &url.URL{Scheme: "http", Host: target}, tell: tell}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	server := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return p
}

// setDown makes the database unreachable, or reachable again.
func (p *dbProxy) setDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

func (p *dbProxy) isDown() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.down
}

func (p *dbProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.isDown() {
		panic(http.ErrAbortHandler) // hangs up without an answer
	}
	what := statement(r)
	p.tell("before " + what)
	defer func() {
		if err := recover(); err != nil {
			panic(http.ErrAbortHandler) // whoever asked is gone
		}
	}()
	proxy := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) { pr.SetURL(p.target) },
		ModifyResponse: func(*http.Response) error {
			p.tell("done " + what)
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	proxy.ServeHTTP(w, r)
	p.tell("after " + what)
}

// statement names a request: "insert actions", "select progress" for how far all
// partitions have come, or "select".
func statement(r *http.Request) string {
	fields := strings.Fields(r.URL.Query().Get("query"))
	if len(fields) > 2 && strings.EqualFold(fields[0], "INSERT") {
		table := strings.Trim(fields[2], "`\"")
		if _, after, ok := strings.Cut(table, "."); ok {
			table = after
		}
		return "insert " + strings.Trim(table, "`\"(")
	}
	if r.Body != nil { // the statement
		body, err := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if err == nil && bytes.Contains(body, []byte("FROM progress FINAL ORDER BY")) {
			return "select progress"
		}
	}
	return "select"
}
