package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"catena/ingest"
	"catena/ingest/broker"
	"catena/schemas"
)

// output runs a command of the program as a process.
func (c *catena) outputOf(args ...string) (code int, out string) {
	c.t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = c.env
	b, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		c.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(b)
}

// send writes values to a topic of one partition.
func (k cluster) send(t *testing.T, topic string, values ...[]byte) {
	t.Helper()
	p, err := ingest.NewProducer(t.Context(), ingest.ProducerOptions{Cluster: ingest.Cluster{Brokers: []string{k.addr}}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, v := range values {
		if err := p.Produce(t.Context(), schemas.Record{Topic: topic, Value: v}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

const badgeSource = `name: acme.badge
title: door badges
match:
  badge: present
  door: present
id: ["{badge}", "{at}"]
time: "{at}"
action: badge
`

// TestDeadLetters: bad records are listed, shown, and redriven: from the broker
// and, where that has deleted them, from the kept bytes if they are whole. Once
// there is a source for them they become actions and the letters are mended;
// before that the loop guard ends it.
func TestDeadLetters(t *testing.T) {
	b, err := broker.Start(broker.Options{Partitions: 1, Topics: []string{"doors"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	k, db, name := cluster{b.Addr()}, database(t), "dead_letters"
	c := newCatena(t, k, db, name, "doors")
	c.run("migrate")
	if code, out := c.outputOf("deadletters", "list"); code != exitOK || !strings.Contains(out, "no dead letters") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	store := openTest(t, db, name)
	read := func(n int64) {
		t.Helper()
		run := c.start("run")
		awaitOffsets(t, store, n, c)
		c.terminate(run)
	}
	k.send(t, "doors",
		[]byte(`{"badge":"b-1","door":"north","at":"2026-03-02T08:00:00Z"}`),
		[]byte(`{"badge":"b-2","door":"north","at":"2026-03-02T08:00:01Z"`),
		[]byte(`{"badge":"b-3","door":"north","at":"2026-03-02T08:00:02Z","password":"FIXTURESECRET-door"}`),
		[]byte("\x1b[31m\xff\xfe"),
	)
	read(4)
	code, out := c.outputOf("deadletters", "list")
	if code != exitOK || !strings.Contains(out, "doors  unknown_format  3        0") || !strings.Contains(out, "malformed") {
		t.Errorf("list: exit code %d\n%s", code, out)
	}
	code, out = c.outputOf("deadletters", "list", "--format", "json", "--reason", "unknown_format")
	var counts []map[string]any
	if err := json.Unmarshal([]byte(out), &counts); err != nil || code != exitOK || len(counts) != 1 || counts[0]["letters"] != 3.0 || counts[0]["offset"] != 3.0 {
		t.Errorf("list as json: %v\n%s", err, out)
	}
	code, out = c.outputOf("deadletters", "show", "doors/0/1")
	if code != exitOK || !strings.Contains(out, `{"badge":"b-2"`) || !strings.Contains(out, "whole and unchanged") {
		t.Errorf("show: exit code %d\n%s", code, out)
	}
	if _, out = c.outputOf("deadletters", "show", "doors/0/2"); strings.Contains(out, "FIXTURESECRET") || !strings.Contains(out, "or changed") {
		t.Errorf("show of a secret:\n%s", out)
	}
	if _, out = c.outputOf("deadletters", "show", "doors/0/3"); strings.Contains(out, "\x1b") || !strings.Contains(out, "1b 5b") {
		t.Errorf("bytes that are no text are not shown as hexadecimal:\n%s", out)
	}
	if code, out = c.outputOf("deadletters", "show", "doors/0/9"); code != exitFailure || !strings.Contains(out, "no dead letter there") {
		t.Errorf("show of nothing: exit code %d\n%s", code, out)
	}

	// The broker loses the first two: one of them is whole in the table.
	if err := b.Cluster().DeleteRecords("doors", 0, 3); err != nil {
		t.Fatal(err)
	}
	code, out = c.outputOf("deadletters", "redrive", "--reason", "unknown_format", "--dry-run")
	if code != exitFound || !strings.Contains(out, "would    doors/0/0  unknown_format  to doors, 58 bytes from kept bytes, redrive 1") || !strings.Contains(out, "gone     doors/0/2") {
		t.Errorf("dry run: exit code %d\n%s", code, out)
	}
	if code, out = c.outputOf("deadletters", "redrive", "doors/0/3"); code != exitOK || !strings.Contains(out, "from kafka, redrive 1") {
		t.Errorf("redrive: exit code %d\n%s", code, out)
	}
	read(5) // the dry run wrote nothing

	// Round it goes, until the guard stops it.
	for n := 2; n <= 3; n++ {
		if code, out = c.outputOf("deadletters", "redrive", "doors/0/"+strconv.Itoa(n+2)); code != exitOK || !strings.Contains(out, "redrive "+strconv.Itoa(n)) {
			t.Errorf("redrive %d: exit code %d\n%s", n, code, out)
		}
		read(int64(n + 4))
	}
	if code, out = c.outputOf("deadletters", "redrive", "doors/0/6"); code != exitFound || !strings.Contains(out, "refused  doors/0/6") {
		t.Errorf("the fourth redrive: exit code %d\n%s", code, out)
	}
	if code, out = c.outputOf("deadletters", "redrive", "doors/0/6", "--max", "4", "--to", "elsewhere", "--dry-run"); code != exitOK || !strings.Contains(out, "to elsewhere") {
		t.Errorf("with a higher limit: exit code %d\n%s", code, out)
	}

	// With a source for them they become actions.
	dir := t.TempDir()
	write(t, dir+"/badge.yaml", badgeSource)
	c.env = append(c.env, "CATENA_SOURCES_DIR="+dir)
	if code, out = c.outputOf("deadletters", "redrive", "doors/0/0"); code != exitOK {
		t.Errorf("redrive: exit code %d\n%s", code, out)
	}
	read(8)
	code, out = c.outputOf("deadletters", "list", "--reason", "unknown_format")
	if code != exitOK || !strings.Contains(out, "doors  unknown_format  6        1") {
		t.Errorf("list afterwards: exit code %d, want one mended\n%s", code, out)
	}
	if code, out = c.outputOf("deadletters", "redrive", "doors/0/0", "--dry-run"); code != exitOK || !strings.Contains(out, "0 would be redriven") {
		t.Errorf("a mended letter is redriven again: exit code %d\n%s", code, out)
	}
	if code, out = verifyNow(t, c); code != exitOK {
		t.Errorf("verify: exit code %d\n%s", code, out)
	}
	if strings.Contains(c.text(), "FIXTURESECRET") {
		t.Error("a secret stands in the program's output")
	}
}

func TestDeadLettersArguments(t *testing.T) {
	for _, args := range [][]string{
		{}, {"frobnicate"}, {"list", "--reason", "bored"}, {"show", "okta/0"}, {"show", "okta/zero/1"}, {"show", "a/0/1", "b/0/1"}, {"list", "--since", "soon"}, {"redrive", "--max", "0"},
	} {
		if code, _, errs := runCommandLine(t, "", append([]string{"deadletters"}, args...)...); code != exitUsage || !strings.Contains(errs, "catena deadletters --help") {
			t.Errorf("%v: exit code %d, %s", args, code, errs)
		}
	}
}

// TestDeadLetterTopic: what cannot be decoded is copied as it came, with where
// from and why, before its offset is committed; a pattern of topics leaves the
// copies alone.
func TestDeadLetterTopic(t *testing.T) {
	k, db, name := fakeKafka(t), database(t), "dead_letter_topic"
	c := newCatena(t, k, db, name, "door.*")
	c.env = append(c.env, "CATENA_KAFKA_TOPICS_REGEX=true", "CATENA_DEAD_LETTER_TOPIC=doors-dead")
	makeTopics(t, k, "doors")
	c.run("migrate")
	store := openTest(t, db, name)
	bad := []byte(`{"badge":"b-1","password":"FIXTURESECRET-door"}`)
	k.send(t, "doors", oktaLogin(1, time.Now()), bad, []byte("no json at all"))
	run := c.start("run")
	awaitOffsets(t, store, 3, c)
	c.terminate(run)
	run = c.start("run") // nothing is copied twice, nor read from the copies
	time.Sleep(time.Second)
	c.terminate(run)

	reader, err := ingest.NewReader(t.Context(), ingest.Cluster{Brokers: []string{k.addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	ranges, err := reader.Ranges(t.Context(), "doors-dead")
	if err != nil {
		t.Fatal(err)
	}
	var copies []schemas.Record
	if err := reader.Read(t.Context(), ranges, 100, func(records []schemas.Record, _ []ingest.Gap) error {
		copies = append(copies, records...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(copies) != 2 {
		t.Fatalf("%d copies, want 2\n%s", len(copies), c.text())
	}
	for _, r := range copies {
		said := map[string]string{}
		for _, h := range r.Headers {
			said[h.Key] = string(h.Value)
		}
		if said["catena-topic"] != "doors" || said["catena-reason"] != "unknown_format" || said["catena-error"] == "" || said["catena-offset"] == "" || said["catena-partition"] == "" {
			t.Errorf("headers %v", said)
		}
		if strings.Contains(string(r.Value), "badge") && string(r.Value) != string(bad) {
			t.Errorf("the copy is %s, want it as it came", r.Value)
		}
	}
	if strings.Contains(c.text(), "FIXTURESECRET") {
		t.Error("a secret stands in the program's output")
	}
	if code, out := verifyNow(t, c, "--kafka"); code != exitOK || strings.Contains(out, "doors-dead") {
		t.Errorf("verify: exit code %d\n%s", code, out)
	}
	_, _, errs := runWith(t, map[string]string{"CATENA_KAFKA_TOPICS": "a,b", "CATENA_DEAD_LETTER_TOPIC": "b", "CATENA_HMAC_KEY": "a key for tests only"}, "run")
	if !strings.Contains(errs, "CATENA_DEAD_LETTER_TOPIC: b is one of CATENA_KAFKA_TOPICS") {
		t.Errorf("a topic that is read and written: %s", errs)
	}
}

// runWith runs the program in process with an environment of its own.
func runWith(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	for name, value := range env {
		t.Setenv(name, value)
	}
	return runCommandLine(t, "", args...)
}
