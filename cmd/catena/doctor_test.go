package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"catena/ingest"
	"catena/ingest/broker"
	"catena/schemas"
)

// ask runs catena doctor --format json with these settings beside sound ones.
func ask(t *testing.T, settings ...string) (code int, d doctor, text string) {
	t.Helper()
	t.Setenv("CATENA_HMAC_KEY", "a fixture of a key that nobody can guess")
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		t.Setenv("CATENA_"+name, value)
	}
	code, out, errs := runCommandLine(t, "", "doctor", "--format", "json")
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		t.Fatalf("%v\n%s%s", err, out, errs)
	}
	if (code == exitFailure) != (d.State == stateFail) {
		t.Errorf("exit code %d with state %s", code, d.State)
	}
	return code, d, out
}

// has demands a finding that contains the words.
func (d *doctor) has(t *testing.T, state, about, words string) {
	t.Helper()
	for _, f := range d.Findings {
		if f.State == state && f.About == about && strings.Contains(f.Found, words) {
			if state != stateOK && f.Do == "" {
				t.Errorf("%s %s: %q does not say what to do", state, about, f.Found)
			}
			return
		}
	}
	text, _ := json.MarshalIndent(d.Findings, "", " ")
	t.Errorf("no %q about %q with %q in\n%s", state, about, words, text)
}

// produceAt writes records with the time at which they were written.
func produceAt(t *testing.T, addr, topic string, at time.Time, values ...string) {
	t.Helper()
	produceTo(t, ingest.Cluster{Brokers: []string{addr}}, topic, at, values...)
}

func produceTo(t *testing.T, k ingest.Cluster, topic string, at time.Time, values ...string) {
	t.Helper()
	p, err := ingest.NewProducer(t.Context(), ingest.ProducerOptions{Cluster: k})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, v := range values {
		if err := p.Produce(t.Context(), schemas.Record{Topic: topic, Value: []byte(v), TimestampNanos: at.UnixNano()}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// commitAt sets a group's commit point.
func commitAt(t *testing.T, addr, group, topic string, offset int64) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var offsets kadm.Offsets
	offsets.AddOffset(topic, 0, offset, -1)
	if err := kadm.NewClient(client).CommitAllOffsets(t.Context(), group, offsets); err != nil {
		t.Fatal(err)
	}
}

func TestDoctorTopics(t *testing.T) {
	b, err := broker.Start(broker.Options{Topics: []string{"okta", "garbage", "empty", "behind", "overtaken"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	okta := oktaRecord(t)
	now := time.Now()
	produceAt(t, b.Addr(), "okta", now, okta, okta)
	produceAt(t, b.Addr(), "garbage", now, `{"nobody":"knows this"}`)
	produceAt(t, b.Addr(), "behind", now.Add(-6*24*time.Hour), okta, okta)
	produceAt(t, b.Addr(), "overtaken", now, okta, okta, okta)
	commitAt(t, b.Addr(), "g", "okta", 2)
	commitAt(t, b.Addr(), "g", "behind", 1)
	commitAt(t, b.Addr(), "g", "overtaken", 0)
	deleteBefore(t, b.Addr(), "overtaken", 2)
	setRetention(t, b.Addr(), "behind", 7*24*time.Hour)

	before := groups(t, b.Addr())
	code, d, text := ask(t, "KAFKA_BROKERS="+b.Addr(), "KAFKA_GROUP=g", "KAFKA_TOPICS=okta,garbage,empty,behind,overtaken,missing", "CLICKHOUSE_ADDR=http://127.0.0.1:1")
	if code != exitFailure {
		t.Errorf("exit code %d", code)
	}
	d.has(t, stateOK, "kafka", "1 brokers")
	d.has(t, stateOK, "configuration", "HMAC key ")
	d.has(t, stateOK, "topic okta", "the newest are okta.system (1)")
	d.has(t, stateOK, "topic okta", "0 ")
	d.has(t, stateFail, "topic garbage", "none is understood: ")
	d.has(t, stateWarn, "topic empty", "no records")
	d.has(t, stateWarn, "topic behind", "the oldest 144h0m")
	d.has(t, stateFail, "topic overtaken", "retention deleted 2 records")
	d.has(t, stateFail, "topic missing", "does not exist")
	d.has(t, stateFail, "clickhouse", "nothing listens there")
	if strings.Contains(text, "alice") || strings.Contains(text, "nobody") {
		t.Errorf("what stands in records is shown:\n%s", text)
	}
	if after := groups(t, b.Addr()); after != before {
		t.Errorf("the group changed from %s to %s", before, after)
	}
}

// groups shows the state and the commit points of group g.
func groups(t *testing.T, addr string) string {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	described, err := adm.DescribeGroups(t.Context(), "g")
	if err != nil {
		t.Fatal(err)
	}
	committed, err := adm.FetchOffsets(t.Context(), "g")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	all.WriteString(described["g"].State)
	for _, o := range committed.Sorted() {
		all.WriteString(" " + o.Topic + "=" + strconv.FormatInt(o.At, 10))
	}
	return all.String()
}

func deleteBefore(t *testing.T, addr, topic string, offset int64) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var offsets kadm.Offsets
	offsets.AddOffset(topic, 0, offset, -1)
	if _, err := kadm.NewClient(client).DeleteRecords(t.Context(), offsets); err != nil {
		t.Fatal(err)
	}
}

func setRetention(t *testing.T, addr, topic string, d time.Duration) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ms := strconv.FormatInt(d.Milliseconds(), 10)
	if _, err := kadm.NewClient(client).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "retention.ms", Value: &ms}}, topic); err != nil {
		t.Fatal(err)
	}
}

// TestDoctorRights: a user that may see the topic and not use the group.
func TestDoctorRights(t *testing.T) {
	allow := func(kind kmsg.ACLResourceType, name string, op kmsg.ACLOperation) kfake.ACL {
		return kfake.ACL{Resource: kind, Name: name, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
	}
	b, err := broker.Start(broker.Options{Topics: []string{"okta"}, Kafka: []kfake.Opt{
		kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "fixture-admin"),
		kfake.User("PLAIN", "reader", "fixture-password", allow(kmsg.ACLResourceTypeTopic, "okta", kmsg.ACLOperationDescribe)),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	admin := ingest.Cluster{Brokers: []string{b.Addr()}, SASL: ingest.SASL{Mechanism: "PLAIN", User: "admin", Password: func() string { return "fixture-admin" }}}
	produceTo(t, admin, "okta", time.Now(), oktaRecord(t))
	_, d, text := ask(t, "KAFKA_BROKERS="+b.Addr(), "KAFKA_TOPICS=okta", "KAFKA_SASL_MECHANISM=PLAIN", "KAFKA_SASL_USER=reader",
		"KAFKA_SASL_PASSWORD=fixture-password", "CLICKHOUSE_ADDR=http://127.0.0.1:1")
	d.has(t, stateOK, "kafka", "plain text, PLAIN")
	d.has(t, stateFail, "kafka", "group catena cannot be used")
	d.has(t, stateFail, "topic okta", "cannot be read")
	if strings.Contains(text, "fixture-password") {
		t.Error("the password is shown")
	}
}

// TestDoctorConfiguration: all faults, each on a line of its own.
func TestDoctorConfiguration(t *testing.T) {
	code, d, _ := ask(t, "KAFKA_START=yesterday", "BATCH_ROWS=0", "KAFKA_SASL_MECHANISM=PLAIN")
	if code != exitFailure {
		t.Errorf("exit code %d", code)
	}
	d.has(t, stateFail, "configuration", "CATENA_KAFKA_START")
	d.has(t, stateFail, "configuration", "CATENA_BATCH_ROWS")
	d.has(t, stateFail, "configuration", "CATENA_KAFKA_SASL_USER")
	_, d, text := ask(t, "KAFKA_START=latest", "BATCH_ROWS=1000", "KAFKA_SASL_MECHANISM=", "HMAC_KEY=a short fixture key", "KAFKA_BROKERS=127.0.0.1:1", "CLICKHOUSE_ADDR=http://127.0.0.1:1", "MEMORY=4096GiB")
	d.has(t, stateWarn, "configuration", "CATENA_HMAC_KEY can be guessed")
	d.has(t, stateFail, "configuration", "CATENA_KAFKA_TOPICS is not set")
	d.has(t, stateFail, "kafka", "no broker answers at 127.0.0.1:1")
	if strings.Contains(text, "a short fixture key") {
		t.Error("the key is shown")
	}
}

// TestDoctorReady asks the daemon, as the health check of a container does.
func TestDoctorReady(t *testing.T) {
	var code atomic.Int32
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(int(code.Load()))
		_, _ = io.WriteString(w, `{"ok":false,"phase":"restoring"}`)
	}))
	t.Cleanup(daemon.Close)
	_, port, _ := strings.Cut(daemon.Listener.Addr().String(), ":")
	t.Setenv("CATENA_LISTEN", "0.0.0.0:"+port)
	for status, want := range map[int]int{http.StatusOK: exitOK, http.StatusServiceUnavailable: exitFailure} {
		code.Store(int32(status))
		if got, out, errs := runCommandLine(t, "", "doctor", "--ready"); got != want || !strings.Contains(out, "restoring") {
			t.Errorf("status %d: exit code %d, want %d\n%s%s", status, got, want, out, errs)
		}
	}
	daemon.Close()
	if got, _, errs := runCommandLine(t, "", "doctor", "--ready"); got != exitFailure || !strings.Contains(errs, "connection refused") {
		t.Errorf("without a daemon: exit code %d\n%s", got, errs)
	}
	t.Setenv("CATENA_LISTEN", "")
	if got, _, errs := runCommandLine(t, "", "doctor", "--ready"); got != exitUsage || !strings.Contains(errs, "CATENA_LISTEN") {
		t.Errorf("without an address: exit code %d\n%s", got, errs)
	}
}

func TestDoctorClickHouse(t *testing.T) {
	db := database(t)
	b := fakeKafka(t)
	ours := []string{"KAFKA_BROKERS=" + b.addr, "KAFKA_TOPICS=okta", "CLICKHOUSE_ADDR=" + db}
	_, d, _ := ask(t, append(ours, "CLICKHOUSE_DATABASE=doctor_test")...)
	d.has(t, stateWarn, "clickhouse", "database doctor_test does not exist")
	if _, rows, err := openTest(t, db, "default").Query(t.Context(), "SELECT name FROM system.databases WHERE name = 'doctor_test'", 0); err != nil || len(rows) != 0 {
		t.Errorf("doctor made the database: %v (%v)", rows, err)
	}
	if code, out, errs := runCommandLine(t, "", "migrate"); code != exitOK {
		t.Fatal(out, errs)
	}
	_, d, _ = ask(t)
	d.has(t, stateOK, "clickhouse", "database doctor_test is up to date")
	d.has(t, stateOK, "clickhouse", "may read, insert and migrate")
	d.has(t, stateOK, "clickhouse", "the settings of inserts can be set")
	d.has(t, stateOK, "clickhouse", "its clock agrees")

	// A server that lacks rights and whose clock is wrong, as it would answer.
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { deny(t, db, w, r) }))
	t.Cleanup(front.Close)
	_, d, _ = ask(t, "CLICKHOUSE_ADDR="+front.URL)
	d.has(t, stateFail, "clickhouse", "lacks rights: INSERT")
	d.has(t, stateWarn, "clickhouse", "its clock differs from ours by 1h0m0s")
}

// deny passes queries on, after it changed two of them.
func deny(t *testing.T, db string, w http.ResponseWriter, r *http.Request) {
	body := new(strings.Builder)
	if _, err := io.Copy(body, r.Body); err != nil {
		t.Error(err)
	}
	sql := body.String()
	switch {
	case strings.Contains(sql, "CHECK GRANT INSERT"):
		sql = "SELECT '0' AS result FORMAT Native"
	case strings.Contains(sql, "now64(6)"):
		sql = strings.ReplaceAll(sql, "now64(6)", "now64(6) + INTERVAL 1 HOUR")
	}
	req, err := http.NewRequestWithContext(r.Context(), r.Method, db+"/?"+r.URL.RawQuery, strings.NewReader(sql))
	if err != nil {
		t.Error(err)
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	if _, err := io.Copy(w, resp.Body); err != nil {
		t.Error(err)
	}
}

// TestRunWritesNoFile: as a container runs it, with a root file system that is
// read-only, and as a user that owns nothing.
func TestRunWritesNoFile(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to become another user")
	}
	db := database(t)
	k := fakeKafka(t)
	dir := t.TempDir()
	program := filepath.Join(dir, "catena")
	copyProgram(t, program)
	for p := dir; p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil { // the other user has to find the program
			t.Fatal(err)
		}
	}
	c := newCatena(t, k, db, "no_files", "okta")
	makeTopics(t, k, "okta")
	store := openTest(t, db, "no_files")
	c.run("migrate")
	produceAt(t, k.addr, "okta", time.Now(), oktaRecord(t))

	// In a mount name space of its own, where that is allowed, everything is
	// read-only as well.
	shell := []string{"sh", "-c"}
	sealed := exec.Command("unshare", "--mount", "true").Run() == nil
	if sealed {
		shell = append([]string{"unshare", "--mount", "--propagation", "private"}, shell...)
	} else {
		t.Log("no mount name space: only that nothing is written is checked, as a user who owns nothing")
	}
	const seal = `mount -o remount,bind,ro /; for m in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o ro none $m; done; `
	const run = `exec setpriv --reuid 65532 --regid 65532 --clear-groups "$0" run`
	script := run
	if sealed {
		script = seal + run
	}
	cmd := exec.Command(shell[0], append(shell[1:], script, "/proc/self/fd/3")...)
	file, err := os.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd.ExtraFiles = []*os.File{file}
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.Dir = append(c.env, "HOME=/", "TMPDIR=/tmp"), c, c, "/"
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitOffsets(t, store, 1, c)
	status, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/status")
	if err != nil || !strings.Contains(string(status), "Uid:\t65532\t65532\t65532\t65532") {
		t.Errorf("it does not run as the other user: %v\n%s", err, status)
	}
	writable(t, cmd.Process.Pid)
	mounts, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/mounts")
	if sealed && (err != nil || !regexp.MustCompile(`(?m)^\S+ / \S+ (\S+,)?ro(,|\s)`).Match(mounts)) {
		t.Errorf("the root file system is not read-only: %v\n%s", err, mounts)
	}
	c.terminate(cmd)
}

// writable fails for each regular file that the process has open for writing.
func writable(t *testing.T, pid int) {
	t.Helper()
	dir := "/proc/" + strconv.Itoa(pid)
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, _ := os.Readlink(dir + "/fd/" + fd.Name())
		info, err := os.ReadFile(dir + "/fdinfo/" + fd.Name())
		if err != nil || !strings.HasPrefix(target, "/") || strings.HasPrefix(target, "/dev/") {
			continue
		}
		for line := range strings.Lines(string(info)) {
			flags, found := strings.CutPrefix(line, "flags:")
			if n, _ := strconv.ParseInt(strings.TrimSpace(flags), 8, 64); found && n&syscall.O_ACCMODE != syscall.O_RDONLY {
				t.Errorf("%s is open for writing", target)
			}
		}
	}
}

func copyProgram(t *testing.T, to string) {
	t.Helper()
	text, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o755); err != nil {
		t.Fatal(err)
	}
}

// oktaRecord is a record of Okta's log.
func oktaRecord(t *testing.T) string {
	t.Helper()
	for _, r := range storyRecords(t, func(string) bool { return true }) {
		if r.Topic == "okta" {
			return string(r.Value)
		}
	}
	t.Fatal("no story has one")
	return ""
}
