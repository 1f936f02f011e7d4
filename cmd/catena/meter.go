package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"catena/correlate"
	"catena/ingest"
	"catena/schemas"
	"catena/sinks"
)

// meter counts what a pipeline does and tells how it is, for /metrics and the
// probes. The loop tells it what happened, once a turn; the consumer, the
// writer and the correlator count for themselves and are read.
//
//	loop ──took, turned──► meter ◄──read── server
//	writer ──wrote───────►   ▲
//	                         └── consumer.Stats, writer.Stats
type meter struct {
	set *metricSet
	p   *pipeline

	mu       sync.Mutex // of what follows
	phase    string
	restore  int    // partitions whose rows are on their way back
	waiting  string // for what the loop waits, which comes back by itself
	lastTurn time.Time
	engine   correlate.Stats
	grades   map[string]correlate.Grades
	topics   map[string]*topicCount
	sources  map[string]*sourceCount
	parts    map[ingest.Partition]int64 // ingestion time of the last record that was taken
	skips    map[skipName]int64
	secrets  int64

	failing atomic.Pointer[error] // of the last insert; nil when it went well

	deadLetters, rows, inserts                   *prometheus.CounterVec
	rowLatency, eventLatency                     prometheus.Observer
	insertSeconds, lookupSeconds                 *prometheus.HistogramVec
	restores, cameBack, restoreFaults, overtaken *prometheus.CounterVec
	restoreSeconds                               prometheus.Observer
	lookedUp, lookupFaults                       *prometheus.CounterVec
}

type topicCount struct{ records, bytes int64 }

type sourceCount struct {
	events, unclassified int64
	eventNanos           int64 // newest event time
	heardNanos           int64 // our clock, when it last spoke
}

type skipName struct{ source, name string }

// Phases of a pipeline, as /healthz and /readyz name them.
const (
	phaseStarting  = "starting"  // connecting
	phaseRestoring = "restoring" // taking back what is known, and what the last owner of new partitions wrote
	phaseRunning   = "running"
	phaseStopping  = "stopping" // writing what is pending, committing, leaving the group
)

// stuckAfter is how long a turn of the loop may take before the process counts
// as hanging. A turn is milliseconds; decoding the largest poll, seconds.
const stuckAfter = 5 * time.Minute

// endsEvery is how often the brokers are asked where the logs end.
const endsEvery = 10 * time.Second

func newMeter(p *pipeline) *meter {
	m := &meter{set: newMetricSet(), p: p, phase: phaseStarting, lastTurn: time.Now(), grades: map[string]correlate.Grades{},
		topics: map[string]*topicCount{}, sources: map[string]*sourceCount{}, parts: map[ingest.Partition]int64{}, skips: map[skipName]int64{}}
	m.describeIngest()
	m.describeCorrelate()
	m.describeSinks()
	m.describeHealth()
	return m
}

// took counts what was polled and what was decoded of it.
func (m *meter) took(records []schemas.Record, decoded []ingest.Decoded) {
	if len(records) == 0 {
		return
	}
	now := time.Now().UnixNano()
	m.mu.Lock()
	defer m.mu.Unlock()
	var topic *topicCount
	for i := range records {
		r := &records[i]
		if i == 0 || r.Topic != records[i-1].Topic {
			topic = entry(m.topics, r.Topic)
		}
		topic.records++
		topic.bytes += int64(len(r.Key) + len(r.Value))
		if i+1 == len(records) || records[i+1].Partition != r.Partition || records[i+1].Topic != r.Topic {
			m.parts[ingest.Partition{Topic: r.Topic, Partition: r.Partition}] = r.TimestampNanos
		}
	}
	for i := range decoded {
		m.tookDecoded(&decoded[i], now)
	}
}

func (m *meter) tookDecoded(d *ingest.Decoded, now int64) {
	var source *sourceCount
	for i := range d.Events {
		e := &d.Events[i]
		if i == 0 || e.Source != d.Events[i-1].Source {
			source = entry(m.sources, e.Source)
			source.heardNanos = now
		}
		source.events++
		// A clock that is ahead must not hide that its source has fallen silent.
		source.eventNanos = max(source.eventNanos, min(now, max(e.TimeNanos, e.EndedNanos)))
	}
	for _, i := range d.Unclassified {
		entry(m.sources, d.Events[i].Source).unclassified++
	}
	for _, s := range d.Skips {
		m.skips[skipName{s.Source, s.Name}] += int64(s.Count)
	}
	m.secrets += int64(d.SecretKeys)
}

// entry is the value of a key, which is made when it is not there.
func entry[K comparable, V any](m map[K]*V, k K) *V {
	v := m[k]
	if v == nil {
		v = new(V)
		m[k] = v
	}
	return v
}

// turned tells that the loop has gone round, what the correlator counts, and how
// many partitions of ours are not read yet.
func (m *meter) turned(e *correlate.Engine, restoring int) {
	stats := e.Stats()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastTurn, m.engine, m.restore = time.Now(), stats, restoring
	e.EachGrades(func(source string, g correlate.Grades) { m.grades[source] = g })
}

// enter changes the phase.
func (m *meter) enter(phase string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.phase, m.lastTurn = phase, time.Now()
}

// now is the phase, in which a restore may be under way. The caller holds mu.
func (m *meter) now() string {
	if m.restore > 0 && m.phase != phaseStopping {
		return phaseRestoring
	}
	return m.phase
}

// wait says that the loop waits for something, until what it returns is called.
func (m *meter) wait(what string) (over func()) {
	set := func(s string) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.waiting, m.lastTurn = s, time.Now()
	}
	set(what)
	return func() { set("") }
}

// tookBack counts what has come back from the tables.
func (m *meter) tookBack(bindings, actions int) {
	m.cameBack.WithLabelValues("bindings").Add(float64(bindings))
	m.cameBack.WithLabelValues("actions").Add(float64(actions))
}

// restored counts an assignment whose partitions are read from now on.
func (m *meter) restored(after time.Duration) {
	m.restores.WithLabelValues().Inc()
	m.restoreSeconds.Observe(after.Seconds())
}

// lost forgets partitions that are somebody else's.
func (m *meter) lost(parts []ingest.Partition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range parts {
		delete(m.parts, p)
	}
}

// wrote counts a batch that is durable.
func (m *meter) wrote(b *sinks.Batch) {
	now := time.Now().UnixNano()
	for _, a := range b.Actions {
		if a.Version&schemas.MaxRevision != 1 {
			continue // an improvement, which says nothing of how long the row took
		}
		m.eventLatency.Observe(seconds(now - max(a.TimeNanos, a.EndedNanos)))
		if a.Evidence.TimestampNanos != 0 {
			m.rowLatency.Observe(seconds(now - a.Evidence.TimestampNanos))
		}
	}
	for i := range b.DeadLetters {
		m.deadLetters.WithLabelValues(b.DeadLetters[i].Evidence.Topic, b.DeadLetters[i].Reason.String()).Inc()
	}
}

func seconds(nanos int64) float64 { return time.Duration(nanos).Seconds() }

// watch keeps the ends of the logs up to date until it is stopped, so that the
// lag is right also while nothing is read.
func (m *meter) watch(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(endsEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			asking, over := context.WithTimeout(ctx, endsEvery)
			_ = m.p.consumer.UpdateEnds(asking) // the consumer itself tells when brokers are away
			over()
		}
	}()
	return func() { cancel(); <-done }
}

// meteredSink measures inserts on their way to the tables.
type meteredSink struct {
	sinks.Sink
	m *meter
}

// Write implements sinks.Sink.
func (s meteredSink) Write(ctx context.Context, b *sinks.Batch) error {
	began := time.Now()
	ctx, end := s.m.p.traces.insert(ctx, b)
	err := s.Sink.Write(ctx, b)
	end(err)
	outcome := "done"
	switch {
	case sinks.IsPermanent(err):
		outcome = "refused"
	case err != nil:
		outcome = "failed"
		s.m.failing.Store(&err)
	}
	if outcome != "failed" {
		s.m.failing.Store(nil)
	}
	for _, t := range batchTables(b) {
		s.m.inserts.WithLabelValues(t.name, outcome).Inc()
		s.m.insertSeconds.WithLabelValues(t.name).Observe(time.Since(began).Seconds())
		if err == nil {
			s.m.rows.WithLabelValues(t.name).Add(float64(t.rows))
		}
	}
	return err
}

type tableRows struct {
	name string
	rows int
}

// batchTables are the tables of which a batch has rows.
func batchTables(b *sinks.Batch) []tableRows {
	all := []tableRows{{"actions", len(b.Actions)}, {"bindings", len(b.Bindings)}, {"dead_letters", len(b.DeadLetters)},
		{"skips", len(b.Skips)}, {"item_counts", len(b.ItemCounts)}, {"progress", len(b.Progress)}}
	return slices.DeleteFunc(all, func(t tableRows) bool { return t.rows == 0 })
}

// meteredLookup measures questions to the tables.
type meteredLookup struct {
	Lookup
	m *meter
}

// Recall implements Lookup.
func (l meteredLookup) Recall(ctx context.Context, keys []schemas.Key, sinceNanos int64) ([]schemas.Binding, []*schemas.Action, error) {
	began := time.Now()
	bindings, actions, err := l.Lookup.Recall(ctx, keys, sinceNanos)
	l.m.lookupSeconds.WithLabelValues().Observe(time.Since(began).Seconds())
	l.m.lookedUp.WithLabelValues().Add(float64(len(keys)))
	if err != nil {
		l.m.lookupFaults.WithLabelValues().Inc()
	}
	return bindings, actions, err
}

// alive implements health.
func (m *meter) alive() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	took := time.Since(m.lastTurn)
	if m.now() != phaseRunning || m.waiting != "" || took < stuckAfter || m.p.registry.Waiting() {
		return nil
	}
	return fmt.Errorf("the loop has not turned for %v", took.Round(time.Second))
}

// ready implements health.
func (m *meter) ready() (phase string, reasons, warnings []string) {
	m.mu.Lock()
	phase, waiting := m.now(), m.waiting
	m.mu.Unlock()
	failing := m.p.consumer.Failing()
	group := failing[ingest.Partition{}]
	switch {
	case phase == phaseStarting:
		reasons = append(reasons, "not running yet")
	case phase == phaseRestoring:
		reasons = append(reasons, "taking back what is known, or what the last owner of newly assigned partitions wrote")
	case phase == phaseStopping:
		reasons = append(reasons, "writing what is pending and leaving the group")
	case group != "":
		reasons = append(reasons, fmt.Sprintf("consumer group %s: %s", m.p.cfg.KafkaGroup, group))
	case !m.p.consumer.Joined():
		reasons = append(reasons, fmt.Sprintf("not a member of consumer group %s yet", m.p.cfg.KafkaGroup))
	}
	for p, text := range failing {
		if p != (ingest.Partition{}) {
			warnings = append(warnings, fmt.Sprintf("%s cannot be read: %s", p, text))
		}
	}
	slices.Sort(warnings)
	if waiting != "" {
		warnings = append(warnings, "waiting for "+waiting)
	}
	if m.p.registry.Waiting() {
		warnings = append(warnings, "waiting for the schema registry")
	}
	if err := m.failing.Load(); err != nil {
		warnings = append(warnings, fmt.Sprintf("ClickHouse takes no rows: %v", *err))
	}
	if m.p.consumer.Paused() {
		warnings = append(warnings, "reading is paused until ClickHouse has caught up")
	}
	return phase, reasons, warnings
}

// Gather implements prometheus.Gatherer.
func (m *meter) Gather() ([]*dto.MetricFamily, error) { return m.set.registry.Gather() }
