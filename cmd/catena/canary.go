package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"catena/ingest"
	"catena/schemas"
	"catena/sinks/clickhouse"
)

// The canary is a process of its own, and no part of run: what checks the whole
// path from a producer to the tables must not stand still with what it checks,
// and one canary is enough for many instances.

var canaryCommand = command{
	name: "canary", args: "[flags]", short: "send a known chain through the whole path and see that it comes out attributed",
	help: `
Writes three made-up records in their sources' true formats into a topic: a login and the
grant of an access token (Okta), and an agent's run with that token (an OpenTelemetry span).
Then it asks ClickHouse until all three are rows and the run is proven to be driven by the
person who logged in. If that does not happen within --within, something between Kafka and
the tables is down, stuck, too slow, or attributes wrongly; it says which row lacks what.

The topic has to be one that catena run reads: add it to CATENA_KAFKA_TOPICS. It is made if
it is missing, with one partition that keeps an hour. Each round leaves three rows and one
chain of the person catena-canary@example.com, to be left out where they disturb:

  SELECT … FROM catena.actions FINAL WHERE root_id != 'email:catena-canary@example.com'

Without --every it does one round: exit code 0 if the chain came out right, 3 if it did not
in time, 1 if Kafka or ClickHouse could not be reached. With --every it goes on until Ctrl-C,
logs when the outcome changes, and serves its metrics (catena_canary_…) at --listen, beside
/healthz and /readyz, which says whether the last round went well.

  catena canary --within 30s
  catena canary --every 1m --within 30s --listen 0.0.0.0:8322

The settings that apply: CATENA_KAFKA_… and CATENA_CLICKHOUSE_…, as for catena run;
CATENA_LOG_FORMAT, CATENA_LOG_LEVEL, CATENA_PPROF.`,
	run: runCanary,
}

// canaryChain holds the records of a round, one a line, with names in braces
// for what changes from round to round.
//
//go:embed canary/chain.jsonl
var canaryChain string

// canaryRoot is who drives the chain.
const canaryRoot = "email:catena-canary@example.com"

// The outcomes of a round, in the order of how far the chain came.
const (
	canaryOK           = "ok"
	canaryUnsent       = "unsent"       // Kafka did not take the records
	canaryMissing      = "missing"      // rows are missing
	canaryUnattributed = "unattributed" // the rows are there, and say something else
	canaryUnasked      = "unasked"      // ClickHouse did not answer
)

// canary is one run of the command.
type canary struct {
	topic    string
	within   time.Duration
	producer *ingest.Producer
	store    *clickhouse.Store
	log      *slog.Logger
	meter    *canaryMeter
}

func runCanary(ctx context.Context, env *environment, c *command, args []string) (err error) {
	var fs flag.FlagSet
	topic := fs.String("topic", "catena_canary", "topic to write to, one of those that catena run reads")
	every := fs.Duration("every", 0, "begin a round this often, until Ctrl-C; without it there is one")
	within := fs.Duration("within", 30*time.Second, "how long a chain may take")
	listen := fs.String("listen", "127.0.0.1:8322", "with --every: where to answer /metrics, /healthz and /readyz; empty for nowhere")
	rest, err := c.parse(env, &fs, args)
	switch {
	case err != nil:
		return err
	case len(rest) > 0:
		return usagef("unexpected argument %q", rest[0])
	case *within <= 0 || *every < 0:
		return usagef("--within %v and --every %v: want a time to wait, and no negative one", *within, *every)
	case *every > 0 && *every < *within:
		return usagef("--every %v is shorter than --within %v: rounds would overlap", *every, *within)
	case *every > 0 && *listen != "":
		if _, _, err := net.SplitHostPort(*listen); err != nil {
			return usagef("--listen %q: want host:port: %w", *listen, err)
		}
	}
	cfg, err := loadConfig(env)
	if err != nil {
		return err
	}
	k := &canary{topic: *topic, within: *within, log: cfg.log, meter: newCanaryMeter(*within)}
	if *every > 0 {
		cfg.Listen = *listen
		web, err := openWeb(cfg, cfg.log)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, web.stop()) }()
		web.attach(k.meter)
	}
	if err := k.connect(ctx, cfg); err != nil {
		return err
	}
	defer func() { k.producer.Close(); err = errors.Join(err, k.store.Close()) }()
	if *every > 0 {
		k.loop(ctx, *every)
		return nil
	}
	r := k.round(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case r.outcome != canaryOK:
		fmt.Fprintf(env.stderr, "catena canary: %s: %v\n", r.outcome, r.err)
		if r.outcome == canaryMissing || r.outcome == canaryUnattributed {
			return exitError(exitFound)
		}
		return exitError(exitFailure)
	}
	fmt.Fprintf(env.stdout, "ok: the chain of session %s came out proven in %v\n", r.session, r.took.Round(time.Millisecond))
	return nil
}

// connect reaches Kafka and ClickHouse, and makes the topic if it is missing.
func (k *canary) connect(ctx context.Context, cfg *config) (err error) {
	k.producer, err = ingest.NewProducer(ctx, ingest.ProducerOptions{Cluster: cfg.cluster(cfg.log)})
	if err != nil {
		return err
	}
	hour := strconv.Itoa(int(time.Hour.Milliseconds()))
	if _, err = k.producer.EnsureTopic(ctx, k.topic, 1, map[string]string{"retention.ms": hour}); err == nil {
		k.store, err = openStore(ctx, cfg)
	}
	if err != nil {
		k.producer.Close()
	}
	return err
}

// loop begins a round every so often, and logs when the outcome changes.
func (k *canary) loop(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for before := ""; ; {
		r := k.round(ctx)
		if ctx.Err() != nil {
			return
		}
		k.meter.ended(r)
		switch r.outcome {
		case before:
		case canaryOK:
			k.log.Info("canary came out proven", "seconds", r.took.Seconds())
		default:
			k.log.Error("canary did not come out", "outcome", r.outcome, "session", r.session, "error", r.err)
		}
		before = r.outcome
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// canaryRound is how a round went.
type canaryRound struct {
	session string
	outcome string
	err     error // why it is not ok
	took    time.Duration
}

// round sends a chain and waits for it.
func (k *canary) round(ctx context.Context) (r canaryRound) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, k.within)
	defer cancel()
	id := newCanaryID()
	r.session = "session:okta:102catenacanary" + id
	if err := k.send(ctx, canaryRecords(id, began)); err != nil {
		r.outcome, r.err = canaryUnsent, err
		return r
	}
	for {
		// An answer that comes when the time is up is as good as any.
		asking, over := context.WithTimeout(context.WithoutCancel(ctx), max(5*time.Second, k.within/4))
		r.outcome, r.err = k.look(asking, id)
		over()
		r.took = time.Since(began)
		if r.outcome == canaryOK {
			return r
		}
		select {
		case <-ctx.Done():
			r.err = fmt.Errorf("after %v: %w", k.within, r.err)
			return r
		case <-time.After(min(200*time.Millisecond, k.within/10)):
		}
	}
}

func (k *canary) send(ctx context.Context, records [][]byte) error {
	for _, value := range records {
		if err := k.producer.Produce(ctx, schemas.Record{Topic: k.topic, Value: value}); err != nil {
			return err
		}
	}
	return k.producer.Flush(ctx)
}

// look asks the tables once how far a chain has come.
func (k *canary) look(ctx context.Context, id string) (outcome string, err error) {
	// The id is hexadecimal and our own: nothing has to be quoted.
	_, rows, err := k.store.Query(ctx, "SELECT class, grade, reason, root_id FROM actions FINAL WHERE has(keys, 'session:okta:102catenacanary"+id+
		"') OR has(keys, 'token:jti:AT.catena-canary-"+id+"') LIMIT 10", 10)
	if err != nil {
		return canaryUnasked, err
	}
	var missing, wrong []string
	for _, class := range []schemas.Class{schemas.ClassLogin, schemas.ClassIssuance, schemas.ClassSession} {
		i := slices.IndexFunc(rows, func(row []string) bool { return row[0] == class.String() })
		switch {
		case i < 0:
			missing = append(missing, class.String())
		case rows[i][1] != schemas.GradeProven.String() || rows[i][3] != canaryRoot:
			wrong = append(wrong, fmt.Sprintf("%s is %s (%s) with root %q", class, rows[i][1], rows[i][2], rows[i][3]))
		}
	}
	switch {
	case len(missing) == 3:
		return canaryMissing, fmt.Errorf("no row came out: is topic %s among CATENA_KAFKA_TOPICS of catena run, and is that running and ready?", k.topic)
	case len(missing) > 0:
		return canaryMissing, fmt.Errorf("rows are missing: %s", strings.Join(missing, ", "))
	case len(wrong) > 0:
		return canaryUnattributed, fmt.Errorf("the rows say something else: %s; want proven and root %q", strings.Join(wrong, "; "), canaryRoot)
	}
	return canaryOK, nil
}

// newCanaryID is what tells a round from all others, 16 hexadecimal digits.
func newCanaryID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, as crypto/rand documents
	return hex.EncodeToString(b[:])
}

// canaryRecords are the records of a round: the login, the grant of a token in
// its session, and the run of an agent with the token, seconds apart until now.
func canaryRecords(id string, now time.Time) (records [][]byte) {
	stamp := func(d time.Duration) string { return now.Add(d).UTC().Format("2006-01-02T15:04:05.000Z") }
	nanos := func(d time.Duration) string { return strconv.FormatInt(now.Add(d).UnixNano(), 10) }
	filled := strings.NewReplacer("{{id}}", id, "{{uuid1}}", uuid.NewString(), "{{uuid2}}", uuid.NewString(),
		"{{login}}", stamp(-3*time.Second), "{{mint}}", stamp(-2*time.Second), "{{expires}}", stamp(time.Hour),
		"{{begin}}", nanos(-time.Second), "{{end}}", nanos(0)).Replace(strings.TrimSpace(canaryChain))
	for line := range strings.SplitSeq(filled, "\n") {
		records = append(records, []byte(line))
	}
	return records
}

// canaryMeter counts the rounds of a canary, and is what its probes ask.
type canaryMeter struct {
	set     *metricSet
	rounds  *prometheus.CounterVec
	last    *prometheus.GaugeVec
	seconds *prometheus.HistogramVec

	mu    sync.Mutex
	round *canaryRound // the last one; nil before the first
}

func newCanaryMeter(within time.Duration) *canaryMeter {
	s := newMetricSet()
	m := &canaryMeter{set: s}
	m.rounds = s.counter("canary_rounds_total", "rounds of the canary by outcome: ok, unsent (Kafka took no records), missing (rows did not come out in time), unattributed (they say something else), unasked (ClickHouse did not answer)", "outcome")
	for _, outcome := range []string{canaryOK, canaryUnsent, canaryMissing, canaryUnattributed, canaryUnasked} {
		m.rounds.WithLabelValues(outcome)
	}
	m.last = s.gauge("canary_last_success_timestamp_seconds", "when a chain last came out right, in Unix seconds; 0 before the first")
	m.seconds = s.histogram("canary_seconds", "from the first record sent until the whole chain was found attributed, of the rounds that went well", latencyBuckets)
	s.gauge("canary_within_seconds", "how long a chain may take: --within").WithLabelValues().Set(within.Seconds())
	return m
}

// ended counts a round.
func (m *canaryMeter) ended(r canaryRound) {
	m.rounds.WithLabelValues(r.outcome).Inc()
	if r.outcome == canaryOK {
		m.last.WithLabelValues().SetToCurrentTime()
		m.seconds.WithLabelValues().Observe(r.took.Seconds())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.round = &r
}

// alive implements health.
func (m *canaryMeter) alive() error { return nil }

// ready implements health.
func (m *canaryMeter) ready() (phase string, reasons, warnings []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.round == nil:
		return phaseStarting, []string{"the first round is under way"}, nil
	case m.round.outcome != canaryOK:
		reasons = []string{fmt.Sprintf("%s: %v", m.round.outcome, m.round.err)}
	}
	return phaseRunning, reasons, nil
}

// Gather implements prometheus.Gatherer.
func (m *canaryMeter) Gather() ([]*dto.MetricFamily, error) { return m.set.registry.Gather() }
