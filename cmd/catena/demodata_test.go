package main

import (
	"path"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"catena/correlate"
	"catena/ingest"
	"catena/schemas"
	"catena/sinks"
	"catena/sinks/clickhouse"
)

// demoDatabase holds what the demo would have written. Tests read it only.
const demoDatabase = "demo_tables"

var demoData struct {
	once sync.Once
	err  error
}

// demoTables returns a store on the demo's data: the stories and the two
// records that nobody can read, stitched and written once a test binary. Places
// are those that the demo's producer gives; the times of processing, which
// would differ each time, are fixed (see [fixClocks]).
func demoTables(t *testing.T) *clickhouse.Store {
	t.Helper()
	store := openTest(t, database(t), demoDatabase)
	demoData.once.Do(func() { demoData.err = loadDemo(t, store) })
	if demoData.err != nil {
		t.Fatal(demoData.err)
	}
	return store
}

func loadDemo(t *testing.T, store *clickhouse.Store) error {
	t.Helper()
	if _, err := store.Migrate(t.Context()); err != nil {
		return err
	}
	records := demoRecords(t)
	st := testStitcher(t, 2)
	cfg := testConfig()
	cfg.OutOfOrderness = 15 * time.Minute // the default, so that finality says what it would
	st.engine = correlate.New(cfg.correlator())
	var batch sinks.Batch
	for part := range slices.Chunk(records, 64) {
		if err := st.decode(part); err != nil {
			return err
		}
		st.correlate(&batch)
	}
	next := map[ingest.Partition]int64{}
	for _, r := range records {
		next[ingest.Partition{Topic: r.Topic, Partition: r.Partition}] = r.Offset + 1
	}
	for part, offset := range next {
		batch.Progress = append(batch.Progress, schemas.Progress{Topic: part.Topic, Partition: part.Partition,
			Offset: offset, WatermarkNanos: st.engine.Watermark()})
	}
	if err := store.Write(t.Context(), &batch); err != nil {
		return err
	}
	return fixClocks(t, store)
}

// demoRecords are what the demo sends, at the places that it gives them: the
// records of a topic in turn over two partitions.
func demoRecords(t *testing.T) []schemas.Record {
	t.Helper()
	var records []schemas.Record
	sent := map[string]int64{}
	add := func(topic string, value []byte) {
		n := sent[topic]
		sent[topic]++
		records = append(records, schemas.Record{Topic: topic, Partition: int32(n % 2), Offset: n / 2, Value: value})
	}
	for _, name := range storyFiles() {
		err := eachStoryRecord(name, func(value []byte) error { add(topicOf(name), slices.Clone(value)); return nil })
		if err != nil {
			t.Fatalf("%s: %v", path.Base(name), err)
		}
	}
	for _, r := range unreadableRecords() {
		add(r.Topic, r.Value)
	}
	return records
}

// fixClocks gives the rows the times of processing that a steady system would
// have given them: sources deliver after some seconds or minutes, as theirs
// do, and the row is there within two seconds of the record.
func fixClocks(t *testing.T, store *clickhouse.Store) error {
	t.Helper()
	for _, statement := range []string{
		`ALTER TABLE actions UPDATE
			ingested_at = ended_at + toIntervalSecond(multiIf(source = 'aws.cloudtrail', 150 + cityHash64(event_id) % 240, source = 'github.audit', 45, source = 'okta.system', 20, 2)),
			attributed_at = ended_at + toIntervalSecond(multiIf(source = 'aws.cloudtrail', 150 + cityHash64(event_id) % 240, source = 'github.audit', 45, source = 'okta.system', 20, 2))
				+ toIntervalMillisecond(250 + cityHash64(event_id) % 1000)
			WHERE 1 SETTINGS mutations_sync = 2`,
		`ALTER TABLE dead_letters UPDATE ingested_at = '2026-03-02 11:04:30' WHERE 1 SETTINGS mutations_sync = 2`,
	} {
		if _, _, err := store.Query(t.Context(), statement, 1); err != nil {
			return err
		}
	}
	return nil
}

// TestDemoTables: what the tests of the cookbook and the dashboards read is
// what the stories say, and all of it.
func TestDemoTables(t *testing.T) {
	store := demoTables(t)
	const sql = `SELECT count(), uniqExact(event_id), (SELECT count() FROM dead_letters FINAL), (SELECT sum(offset) FROM progress FINAL)
		FROM actions FINAL`
	_, rows, err := store.Query(t.Context(), sql, 1)
	if err != nil {
		t.Fatal(err)
	}
	n := strconv.Itoa(len(readWanted(t)))
	want := []string{n, n, strconv.Itoa(len(unreadableRecords())), strconv.Itoa(len(demoRecords(t)))}
	if !slices.Equal(rows[0], want) {
		t.Errorf("actions, different ones, dead letters and offsets are %v, want %v", rows[0], want)
	}
}
