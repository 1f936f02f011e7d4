package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"catena/ingest"
	"catena/ingest/broker"
	"catena/schemas"
	"catena/sinks/clickhouse"
	"catena/sinks/embedded"
)

// The tests below run the program itself: the test binary, told to be catena.

func TestMain(m *testing.M) {
	if os.Getenv("CATENA_BE_MAIN") == "1" {
		main()
		return
	}
	code := m.Run()
	if engine.server != nil {
		_ = engine.server.stop(&config{Drain: 10 * time.Second})
	}
	os.Exit(code)
}

// engine is the one database of this test binary: libchdb allows one a process.
var engine struct {
	once   sync.Once
	server *embeddedServer
	err    error
}

// database starts the embedded engine once and returns its address.
func database(t *testing.T) string {
	t.Helper()
	return databaseIn(t, "")
}

// databaseIn is the same for whoever comes first and wants to keep the tables
// in a folder; empty for one that goes with the test.
func databaseIn(t *testing.T, dir string) string {
	t.Helper()
	if _, err := os.Stat(embedded.DefaultLibrary()); err != nil && os.Getenv("CATENA_REQUIRE_LIBCHDB") == "" {
		t.Skip("the embedded engine is not there: run `make libchdb`")
	}
	engine.once.Do(func() {
		env := &environment{stderr: io.Discard, getenv: os.Getenv}
		engine.server, engine.err = startEmbedded(env, dir, "127.0.0.1:0", &config{ClickHouseUser: "default"})
	})
	if engine.err != nil {
		t.Fatal(engine.err)
	}
	return "http://" + engine.server.Addr().String()
}

// cluster is a Kafka to test against.
type cluster struct{ addr string }

func fakeKafka(t *testing.T) cluster {
	t.Helper()
	b, err := broker.Start(broker.Options{Partitions: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return cluster{b.Addr()}
}

// realKafka starts Apache Kafka from deploy/dev and stops it with the test.
func realKafka(t *testing.T) cluster {
	return realKafkaWith(t, func(_, _ string) []string { return nil })
}

// realKafkaWith starts it with more broker properties, which may depend on the
// ports.
func realKafkaWith(t *testing.T, properties func(port, controller string) []string) cluster {
	t.Helper()
	if os.Getenv("CATENA_TEST_KAFKA") == "" {
		t.Skip("needs Apache Kafka: run `make test-kafka`")
	}
	port, controller := freePort(t), freePort(t)
	args := []string{"../../deploy/dev/kafka/kafka.sh", "run", "--port", port, "--controller-port", controller,
		"--data", t.TempDir(), "--parent", strconv.Itoa(os.Getpid())}
	for _, p := range properties(port, controller) {
		args = append(args, "--set", p)
	}
	cmd := exec.Command("bash", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
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
		t.Fatal("Kafka did not start within three minutes")
	}
	return cluster{"127.0.0.1:" + port}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// catena is the program as a process.
type catena struct {
	t      *testing.T
	env    []string
	output bytes.Buffer // of all its runs, both streams
	mu     sync.Mutex
}

func (c *catena) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.output.Write(p)
}

func (c *catena) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.output.String()
}

func newCatena(t *testing.T, k cluster, db, name, topics string) *catena {
	return &catena{t: t, env: append(os.Environ(), "CATENA_BE_MAIN=1", "CATENA_KAFKA_BROKERS="+k.addr, "CATENA_CLICKHOUSE_ADDR="+db,
		"CATENA_CLICKHOUSE_DATABASE="+name, "CATENA_KAFKA_TOPICS="+topics, "CATENA_KAFKA_GROUP="+name, "CATENA_HMAC_KEY=a key for tests only",
		"CATENA_ALLOWED_LATENESS=876000h", "CATENA_WINDOW=876000h", "CATENA_BATCH_AGE=100ms", "CATENA_LISTEN=127.0.0.1:0")}
}

func (c *catena) start(args ...string) *exec.Cmd {
	c.t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = c.env, c, c
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	return cmd
}

func (c *catena) run(args ...string) {
	c.t.Helper()
	if err := c.start(args...).Wait(); err != nil {
		c.t.Fatalf("catena %s: %v\n%s", strings.Join(args, " "), err, c.text())
	}
}

// terminate sends SIGTERM and demands a clean end.
func (c *catena) terminate(cmd *exec.Cmd) {
	c.t.Helper()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			c.t.Fatalf("SIGTERM: %v\n%s", err, c.text())
		}
	case <-time.After(time.Minute):
		_ = cmd.Process.Kill()
		c.t.Fatalf("SIGTERM: still running after a minute\n%s", c.text())
	}
}

func openTest(t *testing.T, db, name string) *clickhouse.Store {
	t.Helper()
	store, err := clickhouse.Open(t.Context(), clickhouse.Options{Addrs: []string{db}, Database: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// awaitOffsets waits until the tables account for n records.
func awaitOffsets(t *testing.T, store *clickhouse.Store, n int64, c *catena) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var sum int64
		progress, err := store.LoadProgress(t.Context())
		for _, p := range progress {
			sum += p.Offset
		}
		if err == nil && sum >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 90 s the tables account for %d of %d records (%v)\n%s", sum, n, err, c.text())
		}
	}
}

// realFiles are the real records, where they are.
func realFiles(t *testing.T) []string {
	t.Helper()
	dir := os.Getenv("CATENA_SAMPLES")
	if dir == "" {
		t.Log("CATENA_SAMPLES is not set: only the stories are played, no real records")
		return nil
	}
	files, err := filepath.Glob(filepath.Join(dir, "cloudtrail-stratus", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no real records in %s: %v", dir, err)
	}
	return files
}

// played is one record on its way to a topic.
func playedRecords(t *testing.T) []schemas.Record {
	t.Helper()
	records := storyRecords(t, func(string) bool { return true })
	for _, name := range realFiles(t) {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		err = ingest.SplitFile(f, func(value []byte) error {
			records = append(records, schemas.Record{Topic: "stratus", Value: value})
			return nil
		})
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	return records
}

// replayParts writes the records into files by topic and lets catena replay
// them.
func replayParts(t *testing.T, c *catena, records []schemas.Record) {
	t.Helper()
	dir := t.TempDir()
	byTopic := map[string]*bytes.Buffer{}
	for _, r := range records {
		if byTopic[r.Topic] == nil {
			byTopic[r.Topic] = &bytes.Buffer{}
		}
		byTopic[r.Topic].Write(bytes.ReplaceAll(r.Value, []byte("\n"), nil))
		byTopic[r.Topic].WriteByte('\n')
	}
	for topic, buf := range byTopic {
		file := filepath.Join(dir, topic+".jsonl")
		if err := os.WriteFile(file, buf.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		c.run("replay", "--partitions", "3", file)
	}
}

func TestKafkaEndToEnd(t *testing.T) { testEndToEnd(t, realKafka(t), "e2e_kafka") }

func TestEndToEnd(t *testing.T) { testEndToEnd(t, fakeKafka(t), "e2e_fake") }

// testEndToEnd plays the stories and the real records through catena in two
// halves that need each other, with SIGTERM between them, and compares the
// tables with what stitching all of it at once gives.
func testEndToEnd(t *testing.T, k cluster, name string) {
	db := database(t)
	records := playedRecords(t)
	rng := rand.New(rand.NewPCG(1, 2))
	rng.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	half := len(records) / 2

	topics := strings.Join(append(demoTopics(), "stratus"), ",")
	c := newCatena(t, k, db, name, topics)
	makeTopics(t, k, topics)
	c.run("migrate")
	store := openTest(t, db, name)

	replayParts(t, c, records[:half])
	first := c.start("run")
	awaitOffsets(t, store, 1, c)
	replayParts(t, c, records[half:half+half/2]) // while it runs
	c.terminate(first)
	replayParts(t, c, records[half+half/2:])
	second := c.start("run")
	awaitOffsets(t, store, int64(len(records)), c)
	c.terminate(second)

	compareRows(t, store, records)
	checkCommitted(t, k, store, name)
	checkExplain(t, c)
	grepSecrets(t, store, name, c)
}

func makeTopics(t *testing.T, k cluster, topics string) {
	t.Helper()
	producer, err := ingest.NewProducer(t.Context(), ingest.ProducerOptions{Cluster: ingest.Cluster{Brokers: []string{k.addr}}})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	for topic := range strings.SplitSeq(topics, ",") {
		if _, err := producer.EnsureTopic(t.Context(), topic, 3, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSmallMemory plays the same records through a catena whose memory holds a
// part of what they bind: what it drops it looks up in the tables. Here not
// even the rows that can still be improved fit, so that a few stay poorer than
// in a run that holds everything; none is lost, and what is proven is true.
func TestSmallMemory(t *testing.T) {
	k, db, name := fakeKafka(t), database(t), "small_memory"
	records := playedRecords(t)
	rng := rand.New(rand.NewPCG(3, 4))
	rng.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	topics := strings.Join(append(demoTopics(), "stratus"), ",")
	c := newCatena(t, k, db, name, topics)
	makeTopics(t, k, topics)
	c.env = append(c.env, fmt.Sprintf("CATENA_MEMORY=%d", len(records)*1200)) // about half of what they take
	c.run("migrate")
	store := openTest(t, db, name)
	replayParts(t, c, records)
	run := c.start("run")
	awaitOffsets(t, store, int64(len(records)), c)
	want, _ := stitchAll(t, records, 100)
	look := func() (rows, poorer int) {
		err := store.LoadActions(t.Context(), 0, nil, func(a *schemas.Action) error {
			w := want[a.ID]
			rows++
			if w == nil || attribution(a) != attribution(w) {
				poorer++
			}
			if a.Grade == schemas.GradeProven && (w == nil || w.Root != a.Root) {
				t.Errorf("%s %s is proven for %v", a.Source, a.Event.Action, a.Root)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return rows, poorer
	}
	rows, poorer := look()
	for deadline := time.Now().Add(5 * time.Second); poorer > 0 && time.Now().Before(deadline); rows, poorer = look() {
		time.Sleep(100 * time.Millisecond)
	}
	c.terminate(run)
	t.Logf("%d rows, %d poorer than with room for all", rows, poorer)
	if rows != len(want) || poorer*10 > rows {
		t.Errorf("%d rows, want %d; %d are poorer than with room for all, more than one in ten", rows, len(want), poorer)
	}
	if !regexp.MustCompile(`"rows_evicted":[1-9]`).MatchString(c.text()) {
		t.Errorf("nothing was dropped: the memory was not small\n%s", c.text())
	}
}

// checkExplain asks for a person, a key and one event.
func checkExplain(t *testing.T, c *catena) {
	t.Helper()
	for what, want := range map[string][]string{
		"carol.singh@example.com":       {"Carol", "self_reported"},
		"ASIAFIXTURECICD00002":          {"dana-acme", "patch deployments", "rollback"},
		"session:github.run:9000003001": {"frank-acme", "outside_grant"},
	} {
		cmd := exec.Command(os.Args[0], "explain", "--all", "--each", what)
		cmd.Env = c.env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("explain %s: %v\n%s", what, err, out)
		}
		for _, w := range want {
			if !strings.Contains(strings.ToLower(string(out)), strings.ToLower(w)) {
				t.Errorf("explain %s: %q is not in\n%s", what, w, out)
			}
		}
	}
}

// compareRows holds the tables against stitching the same records in memory.
func compareRows(t *testing.T, store *clickhouse.Store, records []schemas.Record) {
	t.Helper()
	want, _ := stitchAll(t, records, 100)
	got := map[schemas.ID]*schemas.Action{}
	err := store.LoadActions(t.Context(), 0, nil, func(a *schemas.Action) error {
		got[a.ID] = a
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Errorf("%d rows in the tables, want %d", len(got), len(want))
	}
	differ := 0
	for id, w := range want {
		g := got[id]
		if g == nil {
			t.Errorf("%s %s is not in the tables", w.Source, w.Event.Action)
			continue
		}
		if a, b := attribution(g), attribution(w); a != b {
			if differ++; differ < 5 {
				t.Errorf("%s %s at %s:\n got %s\nwant %s", w.Source, w.Event.Action, time.Unix(0, w.TimeNanos).UTC(), a, b)
			}
		}
	}
	if differ > 0 {
		t.Errorf("%d rows differ", differ)
	}
}

// attribution is all of a row that does not depend on where its record lay.
func attribution(a *schemas.Action) string {
	return fmt.Sprintf("%v %v chain %v root %v %q hops %v depth %d frontier %v cause %v %v candidates %v grant %q policy %v %q %q %v flags %v",
		a.Grade, a.Reason, a.ChainID, a.Root, a.RootName, a.Hops, a.Depth, a.Frontier, a.CauseID, a.CauseGrade, a.Candidates,
		a.GrantID, a.PolicyDecision, a.PolicyID, a.AuthMethod, a.MFA, a.Flags)
}

// checkCommitted: the group's committed offsets are the progress in the
// tables, so that nothing is read again and nothing is left out.
func checkCommitted(t *testing.T, k cluster, store *clickhouse.Store, group string) {
	t.Helper()
	progress, err := store.LoadProgress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	committed, err := ingest.CommittedOffsets(t.Context(), ingest.Cluster{Brokers: []string{k.addr}}, group)
	if err != nil {
		t.Fatal(err)
	}
	if len(progress) == 0 {
		t.Fatal("no progress in the tables")
	}
	for _, p := range progress {
		if got := committed[ingest.Partition{Topic: p.Topic, Partition: p.Partition}]; got != p.Offset {
			t.Errorf("%s/%d: committed %d, in the tables %d", p.Topic, p.Partition, got, p.Offset)
		}
	}
}

// grepSecrets looks for the mark of all made-up secrets in every table and in
// everything that the program printed.
func grepSecrets(t *testing.T, store *clickhouse.Store, name string, c *catena) {
	t.Helper()
	if strings.Contains(c.text(), "FIXTURESECRET") {
		t.Error("a secret stands in the program's output")
	}
	_, tables, err := store.Query(t.Context(), "SELECT name FROM system.tables WHERE database = '"+name+"' AND engine LIKE '%MergeTree'", 0)
	if err != nil || len(tables) < 4 {
		t.Fatalf("tables: %v %v", tables, err)
	}
	cells := 0
	for _, table := range tables {
		_, rows, err := store.Query(t.Context(), "SELECT * FROM "+name+"."+table[0], 1_000_000)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			for _, cell := range row {
				cells++
				if strings.Contains(cell, "FIXTURESECRET") {
					t.Errorf("a secret stands in %s: %s", table[0], cell)
				}
			}
		}
	}
	if cells < 1000 {
		t.Fatalf("only %d cells were looked at", cells)
	}
}

// TestBadInput: each bad record is one dead letter with its reason and place,
// and the records around it are all there.
func TestBadInput(t *testing.T) {
	db, k := database(t), fakeKafka(t)
	good := func(i int) []byte {
		return fmt.Appendf(nil, `{"uuid":"00000000-feed-4000-8000-%012d","published":"2026-03-02T08:00:%02d.000Z","eventType":"user.session.start","version":"0","severity":"INFO","actor":{"id":"00uFIXTURE","type":"User","alternateId":"olga@example.com","displayName":"Olga"},"outcome":{"result":"SUCCESS"},"authenticationContext":{"externalSessionId":"102fixtureOLGA%04d"},"client":{"ipAddress":"192.0.2.1"},"target":null}`, i, i, i)
	}
	deep := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	bad := []struct {
		value  []byte
		reason schemas.DeadReason
	}{
		{[]byte(`{"uuid":"00000000-dead-4000-8000-000000000001","published":"2026-03-02T`), schemas.DeadMalformed},
		{append(append([]byte(`{"big":"`), bytes.Repeat([]byte("x"), 10<<20)...), `"}`...), schemas.DeadTooLarge},
		{[]byte(`{"uuid":` + deep + `}`), schemas.DeadTooDeep},
		{[]byte(`{"uuid":{"a":1},"published":[1,2],"eventType":"user.session.start","actor":{"id":"x","type":"User","alternateId":"olga@example.com"},"outcome":{"result":"SUCCESS"}}`), schemas.DeadMissingField},
		{[]byte("{\"uuid\":\"bad \xff\xfe utf8\",\"published\":\"2026-03-02T08:00:00Z\"}"), schemas.DeadInvalidUTF8},
		{[]byte(`{"hello":"world","n":1}`), schemas.DeadUnknownFormat},
		{[]byte(""), schemas.DeadEmpty},
	}
	producer, err := ingest.NewProducer(t.Context(), ingest.ProducerOptions{Cluster: ingest.Cluster{Brokers: []string{k.addr}, Logger: slog.New(slog.DiscardHandler)}})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	if _, err := producer.EnsureTopic(t.Context(), "mixed", 1, nil); err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	wantDead := map[int64]schemas.DeadReason{}
	produce := func(value []byte) {
		if err := producer.Produce(t.Context(), schemas.Record{Topic: "mixed", Value: value}); err != nil {
			t.Fatal(err)
		}
		n++
	}
	for i, b := range bad {
		produce(good(2 * i))
		wantDead[n] = b.reason
		produce(b.value)
		produce(good(2*i + 1))
	}
	if err := producer.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := newCatena(t, k, db, "bad_input", "mixed")
	c.run("migrate")
	store := openTest(t, db, "bad_input")
	cmd := c.start("run")
	awaitOffsets(t, store, n, c)
	c.terminate(cmd)
	_, rows, err := store.Query(t.Context(), "SELECT toString(offset), reason, error FROM dead_letters FINAL WHERE topic = 'mixed' AND partition = 0 ORDER BY offset", 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(bad) {
		t.Errorf("%d dead letters, want %d: %v", len(rows), len(bad), rows)
	}
	for _, r := range rows {
		offset, _ := strconv.ParseInt(r[0], 10, 64)
		if want, ok := wantDead[offset]; !ok || want.String() != r[1] {
			t.Errorf("dead letter at %d: %s (%s), want %v", offset, r[1], r[2], wantDead[offset])
		}
		if len(r[2]) < 20 {
			t.Errorf("dead letter at %d: the error %q does not explain itself", offset, r[2])
		}
	}
	_, count, err := store.Query(t.Context(), "SELECT toString(count()) FROM actions FINAL WHERE topic = 'mixed' AND grade = 'proven'", 0)
	if err != nil || count[0][0] != strconv.Itoa(2*len(bad)) {
		t.Errorf("%v good rows, want %d (%v)", count, 2*len(bad), err)
	}
}

// TestErrors: what cannot work says so in one line that names the variable or
// the address, and ends with the documented code.
func TestErrors(t *testing.T) {
	for _, test := range []struct {
		name string
		env  []string
		args []string
		code int
		want []string
	}{
		{"no command", nil, []string{"frobnicate"}, exitUsage, []string{`"frobnicate"`, "--help"}},
		{"unknown flag", nil, []string{"demo", "--nope"}, exitUsage, []string{"nope", "catena demo --help"}},
		{"no topics", nil, []string{"run"}, exitUsage, []string{"CATENA_KAFKA_TOPICS"}},
		{"no key", []string{"CATENA_KAFKA_TOPICS=x"}, []string{"run"}, exitUsage, []string{"CATENA_HMAC_KEY", "openssl"}},
		{"all faults together", []string{"CATENA_SKEW=soon", "CATENA_MEMORY=lots", "CATENA_HMAC_KEY=short", "CATENA_KAFKA_START=middle"}, []string{"run"}, exitUsage,
			[]string{"CATENA_SKEW", "CATENA_MEMORY", "CATENA_HMAC_KEY", "CATENA_KAFKA_START"}},
		{"no such source", []string{"CATENA_KAFKA_TOPICS=x", "CATENA_HMAC_KEY=a key for tests only", "CATENA_TOPIC_FORMATS=x:nope"}, []string{"run"}, exitUsage,
			[]string{"CATENA_TOPIC_FORMATS", `"nope"`}},
		{"no broker", []string{"CATENA_KAFKA_BROKERS=127.0.0.1:1"}, []string{"replay", "main.go"}, exitFailure, []string{"127.0.0.1:1", "CATENA_KAFKA_BROKERS"}},
		{"no database", []string{"CATENA_CLICKHOUSE_ADDR=http://127.0.0.1:1"}, []string{"migrate"}, exitFailure, []string{"127.0.0.1:1", "CATENA_CLICKHOUSE_ADDR"}},
		{"secret file missing", []string{"CATENA_HMAC_KEY_FILE=/nonexistent"}, []string{"migrate"}, exitUsage, []string{"CATENA_HMAC_KEY_FILE"}},
		{"open server without password", nil, []string{"clickhouse", "--listen", "0.0.0.0:0"}, exitFailure, []string{"password"}},
		{"open native port without password", nil, []string{"clickhouse", "--listen", "127.0.0.1:0", "--tcp", "0.0.0.0:0"}, exitFailure, []string{"native protocol", "password"}},
		{"no native address", nil, []string{"clickhouse", "--tcp", "on"}, exitUsage, []string{"--tcp", "host:port or off"}},
		{"no such file", nil, []string{"stitch", "/nonexistent.json"}, exitFailure, []string{"/nonexistent.json"}},
		{"help", nil, []string{"run", "--help"}, exitOK, []string{"CATENA_KAFKA_TOPICS", "CATENA_HMAC_KEY_FILE"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.args[0] == "clickhouse" {
				if _, err := os.Stat(embedded.DefaultLibrary()); err != nil {
					t.Skip("the embedded engine is not there: run `make libchdb`")
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], test.args...)
			cmd.Env = append(os.Environ(), append(test.env, "CATENA_BE_MAIN=1")...)
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != test.code {
				t.Errorf("exit code %d, want %d\n%s", code, test.code, out)
			}
			for _, w := range test.want {
				if !strings.Contains(string(out), w) {
					t.Errorf("%q is not in the output:\n%s", w, out)
				}
			}
		})
	}
}

// TestReadme: every command is in README.md. See TestVariables for settings.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commands() {
		if !strings.Contains(string(text), "catena "+c.name) {
			t.Errorf("catena %s is not in README.md", c.name)
		}
	}
}
