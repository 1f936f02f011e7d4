package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"catena/ingest"
	"catena/ingest/broker"
	"catena/schemas"
)

// verifyNow runs catena verify as a process.
func verifyNow(t *testing.T, c *catena, args ...string) (code int, out string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"verify"}, args...)...)
	cmd.Env = c.env
	b, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(b)
}

// oktaLogin is a login session of its own for each i.
func oktaLogin(i int, at time.Time) []byte {
	return fmt.Appendf(nil, `{"uuid":"00000000-feed-4000-8000-%012d","published":%q,"eventType":"user.session.start","version":"0","severity":"INFO","actor":{"id":"00uFIXTURE","type":"User","alternateId":"olga@example.com","displayName":"Olga"},"outcome":{"result":"SUCCESS"},"authenticationContext":{"externalSessionId":"102fixtureOLGA%04d"},"client":{"ipAddress":"192.0.2.1"},"target":null}`,
		i, at.UTC().Format("2006-01-02T15:04:05.000Z"), i)
}

func reported(t *testing.T, out string) *verification {
	t.Helper()
	var r verification
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return &r
}

func execSQL(t *testing.T, db, name, sql string) {
	t.Helper()
	if _, _, err := openTest(t, db, name).Query(t.Context(), sql, 1); err != nil {
		t.Fatal(err)
	}
}

// testVerify: after the stories, the real records, bad ones and plain logs have
// gone through the whole path, everything is accounted for; and each thing
// that is taken away or added is found.
func testVerify(t *testing.T, k cluster, name string) {
	db := database(t)
	records := append(playedRecords(t), unreadableRecords()...)
	for i := range 300 {
		records = append(records, schemas.Record{Topic: "pods", Value: []byte(`{"log":"GET /healthz 200","stream":"stdout","time":"2026-03-02T08:00:00Z"}`)},
			schemas.Record{Topic: "okta", Value: records[i%20].Value}) // delivered twice
	}
	topics := strings.Join(append(demoTopics(), "stratus", "pods"), ",")
	for _, r := range records {
		if !strings.Contains(topics, r.Topic) {
			topics += "," + r.Topic
		}
	}
	c := newCatena(t, k, db, name, topics)
	c.env = append(c.env, "CATENA_KAFKA_SESSION_TIMEOUT=6s") // one is killed, and its partitions are waited for
	c.env = append(c.env, "CATENA_TOPIC_FORMATS=pods:logs")
	makeTopics(t, k, topics)
	c.run("migrate")
	if code, out := verifyNow(t, c); code != exitFailure || !strings.Contains(out, "nothing to prove") {
		t.Errorf("exit code %d before anything was read\n%s", code, out)
	}
	store := openTest(t, db, name)
	replayParts(t, c, records[:len(records)/2])
	run := c.start("run")
	awaitOffsets(t, store, int64(len(records)/2), c)
	_ = run.Process.Kill() // what was not committed is read again
	_ = run.Wait()
	replayParts(t, c, records[len(records)/2:])
	run = c.start("run")
	awaitOffsets(t, store, int64(len(records)), c)
	c.terminate(run)

	code, out := verifyNow(t, c, "--kafka")
	if code != exitOK || !strings.Contains(out, "clean") || !strings.Contains(out, "plain_log") || !strings.Contains(out, "duplicate") {
		t.Fatalf("exit code %d, want all accounted for\n%s", code, out)
	}
	t.Log("\n" + out)
	_, out = verifyNow(t, c, "--format", "json", "--kafka")
	total := reported(t, out).sum()
	if total.In < int64(len(records)) || total.Skips[schemas.SkipDuplicate] == 0 || total.Skips["plain_log"] != 300 || total.DeadLetters < 2 || total.Missing != 0 {
		t.Errorf("%d records gave %+v", len(records), total)
	}
	for _, p := range reported(t, out).Partitions {
		if p.Lag == nil || *p.Lag != 0 || p.Committed == nil && p.To > 0 {
			t.Errorf("%s/%d: %+v: want everything read and committed", p.Topic, p.Partition, p)
		}
	}
	findsEach(t, c, db, name)
}

// findsEach takes rows away and puts them back under another hat.
func findsEach(t *testing.T, c *catena, db, name string) {
	t.Helper()
	_, rows, err := openTest(t, db, name).Query(t.Context(), "SELECT topic, partition, offset FROM actions FINAL WHERE topic = 'stratus' OR topic = 'okta' ORDER BY topic, offset LIMIT 1", 1)
	if err != nil || len(rows) != 1 {
		t.Fatal(rows, err)
	}
	topic, partition, offset := rows[0][0], rows[0][1], rows[0][2]
	place := "topic = '" + topic + "' AND partition = " + partition + " AND offset = " + offset
	execSQL(t, db, name, "CREATE TABLE "+name+".kept AS "+name+".actions")
	execSQL(t, db, name, "INSERT INTO "+name+".kept SELECT * FROM "+name+".actions FINAL WHERE "+place)
	execSQL(t, db, name, "DELETE FROM "+name+".actions WHERE "+place)
	code, out := verifyNow(t, c, "--topic", topic, "--partition", partition)
	if code != exitFound || !strings.Contains(out, "missing      "+topic+"/"+partition+" offset "+offset) {
		t.Errorf("a row is gone: exit code %d, want the place as missing\n%s", code, out)
	}
	if code, out = verifyNow(t, c, "--offsets-only", "--since", "2100-01-01"); code != exitOK {
		t.Errorf("nothing arrived in 2100: exit code %d\n%s", code, out)
	}
	execSQL(t, db, name, "INSERT INTO "+name+".actions SELECT * FROM "+name+".kept")
	execSQL(t, db, name, "INSERT INTO "+name+".actions SELECT * REPLACE (event_time + 7200 AS event_time) FROM "+name+".kept")
	code, out = verifyNow(t, c)
	if code != exitFound || !strings.Contains(out, "twice") || !strings.Contains(out, "event_twice") {
		t.Errorf("an event has two rows: exit code %d\n%s", code, out)
	}
	execSQL(t, db, name, "DELETE FROM "+name+".actions WHERE "+place)
	execSQL(t, db, name, "INSERT INTO "+name+".actions SELECT * FROM "+name+".kept")
	if code, out = verifyNow(t, c); code != exitOK {
		t.Errorf("all is back: exit code %d\n%s", code, out)
	}
}

func TestVerify(t *testing.T)      { testVerify(t, fakeKafka(t), "verify_fake") }
func TestKafkaVerify(t *testing.T) { testVerify(t, realKafka(t), "verify_kafka") }

// TestVerifyTellsOfRetention: what was deleted before it was read is lost, what
// will be is expiring, and what the group jumped over is missing.
func TestVerifyTellsOfRetention(t *testing.T) {
	b, err := broker.Start(broker.Options{Partitions: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	k, db, name := cluster{b.Addr()}, database(t), "verify_retention"
	makeTopics(t, k, "okta")
	c := newCatena(t, k, db, name, "okta")
	c.run("migrate")
	store := openTest(t, db, name)
	sent := 0
	send := func(n int) {
		p, err := ingest.NewProducer(t.Context(), ingest.ProducerOptions{Cluster: ingest.Cluster{Brokers: []string{k.addr}}})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		for range n { // one key: one partition
			if err := p.Produce(t.Context(), schemas.Record{Topic: "okta", Key: []byte("k"), Value: oktaLogin(sent, time.Now())}); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	read := func(n int64) {
		run := c.start("run")
		awaitOffsets(t, store, n, c)
		c.terminate(run)
	}
	send(20)
	read(20)
	part := int32(-1)
	progress, err := store.LoadProgress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range progress {
		if p.Offset == 20 {
			part = p.Partition
		}
	}
	send(30)
	if err := b.Cluster().DeleteRecords("okta", part, 33); err != nil {
		t.Fatal(err)
	}
	if code, out := verifyNow(t, c, "--kafka"); code != exitFound || !strings.Contains(out, "expiring") || !strings.Contains(out, "offsets 20 to 32") {
		t.Errorf("exit code %d, want 20 to 32 as expiring\n%s", code, out)
	}
	read(50)
	if code, out := verifyNow(t, c, "--kafka"); code != exitFound || !strings.Contains(out, "lost") || strings.Contains(out, "expiring") || !strings.Contains(out, "lost 13") {
		t.Errorf("exit code %d, want 13 lost\n%s", code, out)
	}
	execSQL(t, db, name, "DELETE FROM "+name+".skips WHERE name = 'lost'")
	if code, out := verifyNow(t, c); code != exitFound || !strings.Contains(out, "offsets 20 to 32: no action") {
		t.Errorf("exit code %d, want 20 to 32 as missing\n%s", code, out)
	}
}

// TestVerifyArguments: what contradicts itself is said at once.
func TestVerifyArguments(t *testing.T) {
	for _, args := range [][]string{
		{"verify", "--partition", "3"}, {"verify", "--from", "7"}, {"verify", "--topic", "t", "--partition", "0", "--from", "7", "--to", "7"},
		{"verify", "--since", "soon"}, {"verify", "--format", "xml"}, {"verify", "okta"},
	} {
		if code, _, errs := runCommandLine(t, "", args...); code != exitUsage || !strings.Contains(errs, "catena verify --help") {
			t.Errorf("%v: exit code %d, %s", args, code, errs)
		}
	}
}
