package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"catena/ingest"
	"catena/schemas"
	"catena/sinks"
	"catena/sinks/clickhouse"
)

// get asks the server and returns the status and the body.
func get(t *testing.T, s *server, path string) (int, string) {
	t.Helper()
	status, body, err := fetchURL("http://" + s.addr() + path)
	if err != nil {
		t.Fatal(err)
	}
	return status, body
}

func fetchURL(url string) (status int, body string, err error) {
	res, err := http.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

func probe(t *testing.T, s *server, path string) (int, verdict) {
	t.Helper()
	status, body := get(t, s, path)
	var v verdict
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%s: %v: %s", path, err, body)
	}
	return status, v
}

// feigned is a pipeline as the probes see it.
type feigned struct {
	prometheus.Gatherer
	hangs   error
	reasons []string
}

func (f feigned) alive() error { return f.hangs }

func (f feigned) ready() (string, []string, []string) {
	return phaseRunning, f.reasons, []string{"ClickHouse takes no rows: it is away"}
}

func serving(t *testing.T, cfg *config) *server {
	t.Helper()
	s, err := openWeb(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestServer: what the probes answer before, while and after a pipeline is
// well, and that nothing is there which was not asked for.
func TestServer(t *testing.T) {
	s := serving(t, &config{Listen: "127.0.0.1:0", Page: pageLocal})
	if status, v := probe(t, s, "/healthz"); status != 200 || !v.OK || v.Phase != phaseStarting {
		t.Errorf("/healthz of one that starts: %d %+v", status, v)
	}
	if status, v := probe(t, s, "/readyz"); status != 503 || v.OK || len(v.Reasons) == 0 {
		t.Errorf("/readyz of one that starts: %d %+v", status, v)
	}
	s.attach(feigned{Gatherer: prometheus.NewRegistry()})
	if status, v := probe(t, s, "/readyz"); status != 200 || !v.OK || len(v.Warnings) != 1 {
		t.Errorf("/readyz of one that is well: %d %+v", status, v)
	}
	s.attach(feigned{Gatherer: prometheus.NewRegistry(), hangs: errors.New("it hangs"), reasons: []string{"left the group"}})
	if status, v := probe(t, s, "/readyz"); status != 503 || len(v.Reasons) != 1 || v.Reasons[0] != "left the group" {
		t.Errorf("/readyz of one that is not: %d %+v", status, v)
	}
	if status, v := probe(t, s, "/healthz"); status != 503 || len(v.Reasons) != 1 || v.Reasons[0] != "it hangs" {
		t.Errorf("/healthz of one that hangs: %d %+v", status, v)
	}
	if status, body := get(t, s, "/metrics"); status != 200 || !strings.Contains(body, "catena_build_info{") || !strings.Contains(body, "go_goroutines") {
		t.Errorf("/metrics: %d\n%s", status, body)
	}
	for path, want := range map[string]int{"/": 200, "/debug/pprof/": 404, "/nothing": 404} {
		if status, _ := get(t, s, path); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
	if res, err := http.Post("http://"+s.addr()+"/healthz", "", nil); err != nil || res.StatusCode < 400 {
		t.Errorf("POST is answered: %v %v", res, err)
	}
	if _, err := openWeb(&config{Listen: s.addr()}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "CATENA_LISTEN="+s.addr()) {
		t.Errorf("an address that is taken: %v", err)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if _, err := http.Get("http://" + s.addr() + "/healthz"); err == nil {
		t.Error("it answers after it was stopped")
	}
}

// TestServerNowhere: without an address nothing listens and nothing fails.
func TestServerNowhere(t *testing.T) {
	s := serving(t, &config{})
	s.attach(feigned{})
	s.mount(http.NotFoundHandler())
	if err := s.stop(); s != nil || s.addr() != "" || err != nil {
		t.Errorf("%v %v", s, err)
	}
}

// TestServerShowsPage: the page is for this machine alone unless the settings
// say otherwise, since it asks for no password.
func TestServerShowsPage(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "who did what") })
	for _, c := range []struct {
		listen, page string
		shown        bool
	}{
		{"127.0.0.1:0", pageLocal, true}, {"[::1]:0", pageLocal, true}, {"0.0.0.0:0", pageLocal, false},
		{"0.0.0.0:0", pageAlways, true}, {"127.0.0.1:0", pageNever, false},
	} {
		s, err := openWeb(&config{Listen: c.listen, Page: c.page, Pprof: true}, slog.New(slog.DiscardHandler))
		if err != nil {
			if strings.HasPrefix(c.listen, "[") {
				continue // a machine without IPv6
			}
			t.Fatal(err)
		}
		s.mount(page)
		if _, body := get(t, s, "/"); (body == "who did what") != c.shown {
			t.Errorf("CATENA_LISTEN=%s CATENA_PAGE=%s: %q", c.listen, c.page, body)
		}
		if status, _ := get(t, s, "/debug/pprof/"); status != 200 {
			t.Errorf("CATENA_PPROF=true: /debug/pprof/ answers %d", status)
		}
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	}
}

// TestServingSettings: faults of the server's and the log's settings are all
// told at once.
func TestServingSettings(t *testing.T) {
	for name, value := range map[string]string{"CATENA_LISTEN": "8321", "CATENA_LOG_FORMAT": "xml", "CATENA_LOG_LEVEL": "loud", "CATENA_PAGE": "yes"} {
		t.Setenv(name, value)
	}
	_, err := loadConfig(&environment{getenv: func(string) string { return "" }})
	for _, want := range []string{"CATENA_LISTEN", "CATENA_LOG_FORMAT", "CATENA_LOG_LEVEL", "CATENA_PAGE"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	for name, value := range map[string]string{"CATENA_LISTEN": "", "CATENA_LOG_FORMAT": "text", "CATENA_LOG_LEVEL": "warn", "CATENA_PAGE": "never"} {
		t.Setenv(name, value)
	}
	cfg, err := loadConfig(&environment{getenv: func(string) string { return "" }})
	if err != nil || cfg.Listen != "" {
		t.Fatalf("an empty CATENA_LISTEN: %q, %v", cfg.Listen, err)
	}
	var out bytes.Buffer
	log := newLog(&out, cfg)
	log.Info("not this")
	log.Warn("this", "topic", "okta")
	if got := out.String(); !strings.Contains(got, "level=WARN msg=this topic=okta") || strings.Contains(got, "not this") {
		t.Errorf("%q", got)
	}
}

// families parses what /metrics answers, and fails on what Prometheus would
// not take.
func families(t *testing.T, s *server) map[string]*dto.MetricFamily {
	t.Helper()
	status, body := get(t, s, "/metrics")
	if status != 200 {
		t.Fatalf("/metrics: %d\n%s", status, body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	out, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	return out
}

// sum adds up the samples of a metric whose labels include those given.
func sum(f *dto.MetricFamily, labels map[string]string) (total float64, samples int) {
	for _, m := range f.GetMetric() {
		has := 0
		for _, l := range m.GetLabel() {
			if v, ok := labels[l.GetName()]; ok && v == l.GetValue() {
				has++
			}
		}
		if has == len(labels) {
			total += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue() + float64(m.GetHistogram().GetSampleCount())
			samples++
		}
	}
	return total, samples
}

// inProcess is a pipeline with its server, as `catena run` has them.
type inProcess struct {
	cfg   *config
	web   *server
	store *clickhouse.Store
	stop  func() error
}

func startInProcess(t *testing.T, k cluster, name, topics string) *inProcess {
	t.Helper()
	for n, v := range map[string]string{"CATENA_KAFKA_BROKERS": k.addr, "CATENA_CLICKHOUSE_ADDR": database(t), "CATENA_CLICKHOUSE_DATABASE": name,
		"CATENA_KAFKA_TOPICS": topics, "CATENA_KAFKA_GROUP": name, "CATENA_HMAC_KEY": "a key for tests only", "CATENA_ALLOWED_LATENESS": "876000h",
		"CATENA_WINDOW": "876000h", "CATENA_BATCH_AGE": "100ms", "CATENA_LISTEN": "127.0.0.1:0"} {
		t.Setenv(n, v)
	}
	cfg, err := loadConfig(&environment{getenv: os.Getenv, stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	web := serving(t, cfg)
	p, err := newPipeline(ctx, cfg, log)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	if err := web.show(p); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.run(ctx) }()
	stopped := false
	r := &inProcess{cfg: cfg, web: web, store: openTest(t, database(t), name)}
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return errors.Join(<-ended, web.stop())
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// produce makes topics of three partitions and sends records to them.
func produce(t *testing.T, k cluster, records []schemas.Record) {
	t.Helper()
	producer, err := ingest.NewProducer(t.Context(), ingest.ProducerOptions{Cluster: ingest.Cluster{Brokers: []string{k.addr}}, RoundRobin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	for _, r := range records {
		if _, err := producer.EnsureTopic(t.Context(), r.Topic, 3, nil); err != nil {
			t.Fatal(err)
		}
		if err := producer.Produce(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := producer.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// producerTopics makes topics of one partition.
func producerTopics(t *testing.T, k cluster, topics ...string) {
	t.Helper()
	producer, err := ingest.NewProducer(t.Context(), ingest.ProducerOptions{Cluster: ingest.Cluster{Brokers: []string{k.addr}}})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	for _, topic := range topics {
		if _, err := producer.EnsureTopic(t.Context(), topic, 1, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// until waits for something to become true.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute still not: %s", what)
		}
	}
}

// TestMetrics runs the stories and two poison records through the whole path
// and compares what the metrics say with what the tables say.
func TestMetrics(t *testing.T) {
	k := fakeKafka(t)
	records := storyRecords(t, func(string) bool { return true })
	for i := range records {
		records[i].Partition, records[i].Offset = 0, 0
	}
	records = append(records, schemas.Record{Topic: "okta", Value: []byte("{broken")}, schemas.Record{Topic: "okta", Value: []byte(`{"unknown":"format"}`)})
	topics := map[string]float64{}
	for _, r := range records {
		topics[r.Topic]++
	}
	produce(t, k, records)
	p := startInProcess(t, k, "test_metrics", strings.Join(demoTopics(), ","))
	awaitOffsets(t, p.store, int64(len(records)), &catena{})
	until(t, "everything is committed", func() bool {
		lag, n := sum(families(t, p.web)["catena_lag_records"], nil)
		return n > 0 && lag == 0
	})

	m := families(t, p.web)
	check := func(name string, labels map[string]string, want float64) {
		t.Helper()
		if got, _ := sum(m[name], labels); got != want {
			t.Errorf("%s%v is %v, want %v", name, labels, got, want)
		}
	}
	for topic, n := range topics {
		check("catena_records_total", map[string]string{"topic": topic}, n)
	}
	check("catena_dead_letters_total", map[string]string{"topic": "okta", "reason": "malformed"}, 1)
	check("catena_dead_letters_total", map[string]string{"topic": "okta", "reason": "unknown_format"}, 1)
	check("catena_group_joined", nil, 1)
	check("catena_ready", nil, 1)
	check("catena_database_failing", nil, 0)
	check("catena_pending_rows", nil, 0)
	check("catena_restore_seconds", nil, 1)
	for query, name := range map[string]string{"source": "source", "grade": "grade"} {
		_, rows, err := p.store.Query(t.Context(), "SELECT "+query+", toString(count()) FROM actions FINAL GROUP BY 1", 100)
		if err != nil || len(rows) < 4 {
			t.Fatalf("%v %v", rows, err)
		}
		for _, row := range rows {
			entered, _ := sum(m["catena_grade_entered_total"], map[string]string{name: row[0]})
			left, _ := sum(m["catena_grade_left_total"], map[string]string{name: row[0]})
			if number(row[1]) != entered-left {
				t.Errorf("catena_grade_…_total{%s=%q}: %v entered and %v left, the table has %s rows", name, row[0], entered, left, row[1])
			}
		}
	}
	_, rows, err := p.store.Query(t.Context(), "SELECT toString(count()) FROM actions FINAL", 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"catena_row_latency_seconds", "catena_event_latency_seconds"} {
		// A row that was improved within its first batch is not measured.
		if got, _ := sum(m[name], nil); got > number(rows[0][0]) || got < number(rows[0][0])/2 {
			t.Errorf("%s has measured %v of %s rows", name, got, rows[0][0])
		}
	}
	for _, name := range []string{"catena_state_bytes", "catena_state_keys", "catena_state_bindings", "catena_watermark_timestamp_seconds",
		"catena_source_last_event_timestamp_seconds", "catena_rows_total", "catena_insert_seconds", "catena_batches_total", "catena_commits_total", "catena_skips_total"} {
		if got, n := sum(m[name], nil); n == 0 || got <= 0 {
			t.Errorf("%s has %d samples, together %v", name, n, got)
		}
	}

	listed := map[string]string{}
	for _, l := range allMetrics() {
		listed[l.name] = l.kind
	}
	for name, f := range m {
		if strings.HasPrefix(name, metricPrefix) && listed[name] != strings.ToLower(f.GetType().String()) {
			t.Errorf("/metrics has %s, a %s, which docs/reference.md does not list: make it with metricSet", name, f.GetType())
		}
	}
	if status, v := probe(t, p.web, "/readyz"); status != 200 || v.Phase != phaseRunning || len(v.Warnings) > 0 {
		t.Errorf("/readyz: %d %+v", status, v)
	}
	if status, v := probe(t, p.web, "/healthz"); status != 200 || !v.OK {
		t.Errorf("/healthz: %d %+v", status, v)
	}
	if status, body := get(t, p.web, "/"); status != 200 || !strings.Contains(body, "<html") {
		t.Errorf("the page: %d\n%.200s", status, body)
	}
}

// TestLiveness: a loop that does not turn is dead, one that waits is not.
func TestLiveness(t *testing.T) {
	m := newMeter(&pipeline{})
	long := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.lastTurn = time.Now().Add(-2 * stuckAfter)
	}
	m.enter(phaseRunning)
	if err := m.alive(); err != nil {
		t.Errorf("just begun: %v", err)
	}
	long()
	if err := m.alive(); err == nil {
		t.Error("a loop that does not turn counts as alive")
	}
	over := m.wait("room")
	long()
	if err := m.alive(); err != nil {
		t.Errorf("waiting for the database: %v", err)
	}
	over()
	if err := m.alive(); err != nil {
		t.Errorf("it had waited: %v", err)
	}
	m.mu.Lock()
	m.restore = 1
	m.mu.Unlock()
	long()
	if err := m.alive(); err != nil {
		t.Errorf("restoring: %v", err)
	}
}

func number(s string) float64 {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return -1
	}
	return n
}

// TestLagCountsWhatIsNotDurable: what was read and not committed is behind, also
// where nothing was committed yet.
func TestLagCountsWhatIsNotDurable(t *testing.T) {
	for _, c := range []struct {
		first, next, committed, end, want int64
	}{
		{40, -1, -1, 100, 60},  // nothing read; retention has left what begins at 40
		{40, 100, -1, 100, 60}, // all read since offset 40, nothing durable
		{40, 100, 70, 100, 30},
		{40, 100, 100, 100, 0},
		{-1, 100, 100, 100, 0},
	} {
		if got := behind(ingest.Position{First: c.first, Next: c.next, Committed: c.committed, End: c.end}); got != c.want {
			t.Errorf("%+v: %d behind", c, got)
		}
	}
}

// failingSink answers as it is told.
type failingSink struct {
	sinks.Sink
	err error
}

func (s failingSink) Write(context.Context, *sinks.Batch) error { return s.err }

// TestMeteredSink: an insert that fails is told until one succeeds, and one that
// is refused for good tells nothing of the database's health.
func TestMeteredSink(t *testing.T) {
	m := newMeter(&pipeline{})
	away := errors.New("it is away")
	write := func(err error) {
		got := meteredSink{failingSink{err: err}, m}.Write(t.Context(), &sinks.Batch{Progress: make([]schemas.Progress, 2)})
		if !errors.Is(got, err) {
			t.Errorf("%v becomes %v", err, got)
		}
	}
	write(away)
	if err := m.failing.Load(); err == nil || !errors.Is(*err, away) {
		t.Error("the failure is not told")
	}
	write(sinks.Permanent(errors.New("no such column")))
	if m.failing.Load() != nil {
		t.Error("a refusal is told as a failure")
	}
	write(away)
	write(nil)
	if m.failing.Load() != nil {
		t.Error("the failure is told after it is over")
	}
	want := map[string]float64{"done": 1, "failed": 2, "refused": 1}
	for outcome, n := range want {
		if got := testutil.ToFloat64(m.inserts.WithLabelValues("progress", outcome)); got != n {
			t.Errorf("%v inserts %s, want %v", got, outcome, n)
		}
	}
	if got := testutil.ToFloat64(m.rows.WithLabelValues("progress")); got != 2 {
		t.Errorf("%v rows durable, want 2", got)
	}
}

// BenchmarkMeter is what counting costs a record, next to nothing at all.
func BenchmarkMeter(b *testing.B) {
	m := newMeter(&pipeline{})
	records, decoded := make([]schemas.Record, 10_000), make([]ingest.Decoded, 2)
	for i := range records {
		records[i] = schemas.Record{Topic: "okta", Partition: int32(i / 2500), Offset: int64(i), Value: make([]byte, 100)}
		d := &decoded[i/5000]
		d.Events = append(d.Events, schemas.Event{Source: []string{"okta.system", "aws.cloudtrail"}[i/20%2], TimeNanos: int64(i)})
	}
	batch := &sinks.Batch{}
	for i := range records {
		batch.Actions = append(batch.Actions, &schemas.Action{Event: schemas.Event{TimeNanos: int64(i), Evidence: schemas.Evidence{TimestampNanos: int64(i + 1)}}, Version: 1})
	}
	b.ReportAllocs()
	for b.Loop() {
		m.took(records, decoded)
		m.wrote(batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(records)), "ns/record")
}
