package main

import (
	"math"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"catena/correlate"
	"catena/ingest"
	"catena/schemas"
)

// The metrics of a pipeline. No label takes values without bound: topics,
// partitions, sources and closed lists, never a principal or a key.

const (
	isCounter = prometheus.CounterValue
	isGauge   = prometheus.GaugeValue
)

// Bounds of the histograms, in seconds.
var (
	latencyBuckets = []float64{0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600}
	insertBuckets  = []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120}
	restoreBuckets = []float64{0.1, 0.5, 1, 2, 5, 10, 20, 30, 45, 60, 120, 300}
)

func (m *meter) describeIngest() {
	s := m.set
	m.perTopic("records_total", "records read", func(t *topicCount) int64 { return t.records })
	m.perTopic("record_bytes_total", "bytes of keys and values read", func(t *topicCount) int64 { return t.bytes })
	m.perSource(isCounter, "events_total", "events decoded", func(c *sourceCount) float64 { return float64(c.events) })
	m.perSource(isCounter, "unclassified_total", "events of types that no rule of the source names; more than before tell of a new version of what writes them",
		func(c *sourceCount) float64 { return float64(c.unclassified) })
	m.perSource(isGauge, "source_last_event_timestamp_seconds", "newest event time, in Unix seconds", func(c *sourceCount) float64 { return seconds(c.eventNanos) })
	m.perSource(isGauge, "source_last_heard_timestamp_seconds", "when the last event was read, in Unix seconds of our clock",
		func(c *sourceCount) float64 { return seconds(c.heardNanos) })
	s.read(isCounter, "skips_total", "records left out on purpose, by the name of the skip; source is empty for envelopes", func(e emit) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for k, n := range m.skips {
			e(float64(n), k.source, k.name)
		}
	}, "source", "name")
	s.read(isCounter, "secrets_total", "values that were secrets and were replaced by their HMAC", func(e emit) {
		m.mu.Lock()
		defer m.mu.Unlock()
		e(float64(m.secrets))
	})
	m.deadLetters = s.counter("dead_letters_total", "records, or rows of them, that ended as a dead letter, by reason", "topic", "reason")
	m.describeConsumer()
	m.describeSharing()
}

func (m *meter) perTopic(name, help string, of func(*topicCount) int64) {
	m.set.read(isCounter, name, help, func(e emit) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for topic, c := range m.topics {
			e(float64(of(c)), topic)
		}
	}, "topic")
}

func (m *meter) perSource(kind prometheus.ValueType, name, help string, of func(*sourceCount) float64) {
	m.set.read(kind, name, help, func(e emit) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for source, c := range m.sources {
			e(of(c), source)
		}
	}, "source")
}

func (m *meter) describeConsumer() {
	s := m.set
	stats := func(name, help string, of func(ingest.Stats) int64) {
		s.read(isCounter, name, help, func(e emit) { e(float64(of(m.p.consumer.Stats()))) })
	}
	m.perPartition("lag_records", "records in the partition that are not durable in the tables yet", func(p ingest.Position) (float64, bool) {
		return float64(behind(p)), placed(p)
	})
	m.perPartition("lag_seconds", "how long ago the last record that was read had been appended; 0 when all is durable", m.lagSeconds)
	m.perPartition("partition_committed_offset", "commit point: the lowest offset that is not durable", func(p ingest.Position) (float64, bool) {
		return float64(p.Committed), p.Committed >= 0
	})
	m.perPartition("partition_next_offset", "next offset to read", func(p ingest.Position) (float64, bool) { return float64(p.Next), p.Next >= 0 })
	m.perPartition("partition_end_offset", "end of the log, as far as it can be read", func(p ingest.Position) (float64, bool) { return float64(p.End), p.End >= 0 })
	s.read(isGauge, "partitions_assigned", "partitions that are ours", func(e emit) { e(float64(len(m.p.consumer.Positions(nil)))) })
	s.read(isGauge, "partitions_paused", "partitions not read because the database is behind: all of ours, or none", func(e emit) {
		if m.p.consumer.Paused() {
			e(float64(len(m.p.consumer.Positions(nil))))
			return
		}
		e(0)
	})
	s.read(isGauge, "partitions_failing", "partitions that cannot be read at the moment", func(e emit) { e(float64(len(m.p.consumer.Failing()))) })
	s.read(isGauge, "group_joined", "1 while a member of the consumer group", func(e emit) { e(flag01(m.p.consumer.Joined())) })
	s.read(isCounter, "rebalances_total", "partitions that were assigned, revoked (given away with all written) or lost (taken away)", func(e emit) {
		st := m.p.consumer.Stats()
		e(float64(st.Assigned), "assigned")
		e(float64(st.Revoked), "revoked")
		e(float64(st.Lost), "lost")
	}, "event")
	s.read(isCounter, "offsets_without_record_total", "offsets from which no record came: transaction markers (control), compacted or aborted (gap), deleted by retention before they were read (expired), beyond the limits (unreadable)", func(e emit) {
		st := m.p.consumer.Stats()
		e(float64(st.Control), "control")
		e(float64(st.Gaps), "gap")
		e(float64(st.Expired), "expired")
		e(float64(st.Unreadable), "unreadable")
	}, "why")
	stats("commits_total", "commits of a partition that the broker took", func(st ingest.Stats) int64 { return st.Commits })
	stats("commit_failures_total", "commits of a partition that were refused or failed; the records are read again", func(st ingest.Stats) int64 { return st.CommitErrors })
	stats("fetch_errors_total", "fetches that failed", func(st ingest.Stats) int64 { return st.FetchErrors })
	s.read(isGauge, "fetched_records", "records fetched ahead", func(e emit) { e(float64(m.p.consumer.Stats().BufferedRecords)) })
	s.read(isGauge, "fetched_bytes", "bytes fetched ahead", func(e emit) { e(float64(m.p.consumer.Stats().BufferedBytes)) })
}

// describeSharing describes what instances tell each other; nothing of it is
// there without a topic for it.
func (m *meter) describeSharing() {
	m.set.read(isCounter, "shared_total", "bindings and actions that were told to the other instances (told), that they have told (heard), and of these what is not understood (strange)", func(e emit) {
		if s := m.p.share; s != nil {
			e(float64(s.told.Load()), "told")
			e(float64(s.heard.Load()), "heard")
			e(float64(s.strange.Load()), "strange")
		}
	}, "what")
	m.set.read(isGauge, "shared_unkept_seconds", "how long ago the oldest was told that may not be in the tables yet: an instance that begins has to hear what came since", func(e emit) {
		if s := m.p.share; s != nil {
			if at := s.kept.Load(); at != 0 {
				e(max(0, time.Since(time.UnixMilli(at)).Seconds()))
			}
		}
	})
}

func (m *meter) perPartition(name, help string, of func(ingest.Position) (float64, bool)) {
	m.set.read(isGauge, name, help, func(e emit) {
		for _, p := range m.p.consumer.Positions(nil) {
			if v, ok := of(p); ok {
				e(v, p.Topic, strconv.Itoa(int(p.Partition.Partition)))
			}
		}
	}, "topic", "partition")
}

// placed reports whether it is known where a partition ends and from where on
// it is ours to read.
func placed(p ingest.Position) bool { return p.End >= 0 && (p.Committed >= 0 || p.First >= 0) }

// behind is how many offsets of a partition are not durable yet.
func behind(p ingest.Position) int64 {
	from := p.Committed
	if from < 0 { // nothing was committed: reading began, or will, at the first record
		from = p.First
	}
	return max(0, p.End-from)
}

func (m *meter) lagSeconds(p ingest.Position) (float64, bool) {
	if behind(p) == 0 {
		return 0, placed(p)
	}
	m.mu.Lock()
	at, ok := m.parts[p.Partition]
	m.mu.Unlock()
	return max(0, seconds(time.Now().UnixNano()-at)), ok && at != 0
}

func (m *meter) describeCorrelate() {
	s := m.set
	of := func(kind prometheus.ValueType, name, help string, value func(correlate.Stats) float64) {
		s.read(kind, name, help, func(e emit) {
			m.mu.Lock()
			defer m.mu.Unlock()
			e(value(m.engine))
		})
	}
	count := func(name, help string, value func(correlate.Stats) int64) {
		of(isCounter, name, help, func(st correlate.Stats) float64 { return float64(value(st)) })
	}
	m.perGrade("grade_entered_total", "rows that were written first with a grade, or improved to it", func(g correlate.Grades) [schemas.GradeProven + 1]int64 { return g.Entered })
	m.perGrade("grade_left_total", "rows that had a grade and were improved to another, or written anew with the same", func(g correlate.Grades) [schemas.GradeProven + 1]int64 { return g.Left })
	count("bind_only_events_total", "events that are no row and only make bindings", func(st correlate.Stats) int64 { return st.BindOnly })
	count("duplicate_events_total", "events that were read again while their row was waiting", func(st correlate.Stats) int64 { return st.Duplicates })
	count("late_events_total", "events behind the watermark and the allowed lateness", func(st correlate.Stats) int64 { return st.Late })
	count("future_events_total", "events ahead of their ingestion, which do not move the watermark", func(st correlate.Stats) int64 { return st.Future })
	count("improved_rows_total", "rows written again because more became known", func(st correlate.Stats) int64 { return st.Improved })
	count("expired_keys_total", "keys that left the state by event time", func(st correlate.Stats) int64 { return st.KeysExpired })
	s.read(isCounter, "evictions_total", "rows and keys that left the state early for lack of room: raise CATENA_MEMORY", func(e emit) {
		m.mu.Lock()
		defer m.mu.Unlock()
		e(float64(m.engine.RowsEvicted), "row")
		e(float64(m.engine.KeysEvicted), "key")
	}, "what")
	of(isGauge, "state_bytes", "memory of the correlator's state", func(st correlate.Stats) float64 { return float64(st.Bytes) })
	s.read(isGauge, "state_limit_bytes", "its limit: CATENA_MEMORY", func(e emit) { e(float64(m.p.cfg.Memory)) })
	of(isGauge, "state_keys", "keys in the state", func(st correlate.Stats) float64 { return float64(st.Keys) })
	of(isGauge, "state_bindings", "bindings in the state", func(st correlate.Stats) float64 { return float64(st.Bindings) })
	of(isGauge, "state_rows", "rows in the state, which can still be improved", func(st correlate.Stats) float64 { return float64(st.Rows) })
	s.read(isGauge, "watermark_timestamp_seconds", "event time before which nothing is expected any more, in Unix seconds; absent while unknown", func(e emit) { m.watermark(e, 0) })
	s.read(isGauge, "watermark_delay_seconds", "how far the watermark is behind our clock; absent while unknown", func(e emit) { m.watermark(e, time.Now().UnixNano()) })
	count("wanted_keys_total", "keys that are no longer in memory and have to be looked up in the tables", func(st correlate.Stats) int64 { return st.Wanted })
	count("found_keys_total", "of them, those of which the tables knew something", func(st correlate.Stats) int64 { return st.Found })
	m.lookedUp = s.counter("looked_up_keys_total", "keys asked for in the tables")
	m.lookupFaults = s.counter("lookup_failures_total", "look-ups that failed and are tried again")
	m.lookupSeconds = s.histogram("lookup_seconds", "time of one look-up of many keys", insertBuckets)
}

// perGrade makes a counter of rows by source and grade. Rows that have a grade
// are those that entered less those that left, also over restarts.
func (m *meter) perGrade(name, help string, of func(correlate.Grades) [schemas.GradeProven + 1]int64) {
	m.set.read(isCounter, name, help, func(e emit) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for source, grades := range m.grades {
			for g, n := range of(grades) {
				e(float64(n), source, schemas.Grade(g).String())
			}
		}
	}, "source", "grade")
}

// watermark gives the watermark, or how far it is behind a time.
func (m *meter) watermark(e emit, from int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.engine.WatermarkNanos; w != 0 && w != math.MinInt64 {
		e(math.Abs(seconds(from - w)))
	}
}

func (m *meter) describeSinks() {
	s := m.set
	m.rows = s.counter("rows_total", "rows made durable; of actions, improvements too", "table")
	m.inserts = s.counter("inserts_total", "inserts by outcome: done, failed (tried again), refused (halved until the rows at fault stand alone)", "table", "outcome")
	m.insertSeconds = s.histogram("insert_seconds", "time of one insert", insertBuckets, "table")
	s.read(isCounter, "insert_retries_total", "attempts at an insert that failed and are repeated", func(e emit) { e(float64(m.p.writer.Stats().Retries)) })
	s.read(isCounter, "batches_total", "batches made durable", func(e emit) { e(float64(m.p.writer.Stats().Batches)) })
	s.read(isCounter, "rejected_rows_total", "rows that the database refuses for good, which became dead letters", func(e emit) { e(float64(m.p.writer.Stats().Rejected)) })
	s.read(isCounter, "replaced_rows_total", "rows left out because their batch held a newer version", func(e emit) { e(float64(m.p.writer.Stats().Replaced)) })
	m.overtaken = s.counter("overtaken_rows_total", "rows left out because their partition has gone to another instance, which writes them")
	s.read(isGauge, "pending_rows", "rows that wait to become durable", func(e emit) { e(float64(m.p.writer.Stats().PendingRows)) })
	s.read(isGauge, "pending_bytes", "their memory", func(e emit) { e(float64(m.p.writer.Stats().PendingBytes)) })
	m.rowLatency = s.histogram("row_latency_seconds", "from a record's append to Kafka until its first row can be queried", latencyBuckets).WithLabelValues()
	m.eventLatency = s.histogram("event_latency_seconds", "from an event until its first row can be queried; what the source and its shipping take is part of it", latencyBuckets).WithLabelValues()
}

func (m *meter) describeHealth() {
	s := m.set
	m.restores = s.counter("restores_total", "assignments whose partitions are read")
	m.restoreFaults = s.counter("restore_failures_total", "times that reading back failed and is tried on; the log says what waits for it")
	m.cameBack = s.counter("restored_rows_total", "bindings and rows that have come back", "table")
	s.read(isGauge, "partitions_restoring", "partitions that are ours and not read before it is known what their last owner told and wrote", func(e emit) {
		m.mu.Lock()
		defer m.mu.Unlock()
		e(float64(m.restore))
	})
	m.restoreSeconds = s.histogram("restore_seconds", "from an assignment until its partitions are read", restoreBuckets).WithLabelValues()
	s.read(isGauge, "ready", "1 when /readyz says so", func(e emit) {
		_, reasons, _ := m.ready()
		e(flag01(len(reasons) == 0))
	})
	s.read(isGauge, "loop_age_seconds", "time since the loop last went round", func(e emit) {
		m.mu.Lock()
		defer m.mu.Unlock()
		e(time.Since(m.lastTurn).Seconds())
	})
	s.read(isGauge, "database_failing", "1 while inserts into ClickHouse fail and are tried again", func(e emit) { e(flag01(m.failing.Load() != nil)) })
}

func flag01(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
