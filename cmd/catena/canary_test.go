package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"catena/schemas"
)

// TestCanaryChain: the records come out as one proven chain of the canary's
// person, whatever the round, and say nothing that would look like a finding.
func TestCanaryChain(t *testing.T) {
	var records []schemas.Record
	for _, id := range []string{newCanaryID(), newCanaryID()} {
		for _, value := range canaryRecords(id, storyEnd) {
			if bytes.Contains(value, []byte("{{")) {
				t.Errorf("not filled in: %s", value)
			}
			records = append(records, schemas.Record{Topic: "catena_canary", Offset: int64(len(records)), Value: value})
		}
	}
	rows, _ := stitchAll(t, records, 1)
	chains := map[schemas.ID]int{}
	for _, a := range rows {
		if a.Grade != schemas.GradeProven || a.Root.Namespace+":"+a.Root.Value != canaryRoot || a.Flags != 0 {
			t.Errorf("%s is %s (%s), root %s, flags %v", a.Event.Action, a.Grade, a.Reason, a.Root, a.Flags)
		}
		chains[a.ChainID]++
	}
	if len(rows) != 6 || len(chains) != 2 {
		t.Errorf("two rounds give %d rows in %d chains, want 6 in 2", len(rows), len(chains))
	}
}

// TestCanary runs rounds against the whole path: one that comes out, one into a
// topic that nobody reads, one without a database, and a loop with metrics.
func TestCanary(t *testing.T) {
	k := fakeKafka(t)
	producerTopics(t, k, "okta", "catena_canary")
	p := startInProcess(t, k, "test_canary", "okta,catena_canary")
	if code, out, errs := runCommandLine(t, "", "canary", "--within", "1m"); code != exitOK || !strings.Contains(out, "came out proven") {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	code, _, errs := runCommandLine(t, "", "canary", "--topic", "nobody_reads_this", "--within", "1s")
	if code != exitFound || !strings.Contains(errs, "missing: after 1s: no row came out: is topic nobody_reads_this among CATENA_KAFKA_TOPICS") {
		t.Errorf("a topic that nobody reads: exit code %d\n%s", code, errs)
	}
	if code, _, errs := runCommandLine(t, "", "canary", "--every", "1s", "--within", "2s"); code != exitUsage || !strings.Contains(errs, "would overlap") {
		t.Errorf("rounds that overlap: exit code %d\n%s", code, errs)
	}

	ctx, cancel := context.WithCancel(t.Context())
	listen := "127.0.0.1:" + freePort(t)
	ended := make(chan int, 1)
	env := &environment{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}, getenv: os.Getenv}
	go func() {
		ended <- run(ctx, env, []string{"canary", "--every", "1m", "--within", "1m", "--listen", listen})
	}()
	until(t, "a round went well, and the metrics say so", func() bool {
		status, body, err := fetchURL("http://" + listen + "/metrics")
		return err == nil && status == 200 && strings.Contains(body, `catena_canary_rounds_total{outcome="ok"} 1`) &&
			strings.Contains(body, "catena_canary_seconds_count 1") && !strings.Contains(body, "catena_canary_last_success_timestamp_seconds 0\n")
	})
	if status, body, err := fetchURL("http://" + listen + "/readyz"); err != nil || status != 200 {
		t.Errorf("/readyz: %d %s %v", status, body, err)
	}
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("a loop that is told to stop ends with exit code %d\n%s", code, env.stderr)
	}

	var records []schemas.Record
	id := newCanaryID()
	for _, value := range canaryRecords(id, time.Now()) {
		records = append(records, schemas.Record{Topic: "catena_canary", Value: bytes.ReplaceAll(value, []byte("catena-canary@example.com"), []byte("mallory@example.com"))})
	}
	produce(t, k, records)
	until(t, "a chain with another root is unattributed", func() bool {
		outcome, err := (&canary{store: p.store}).look(t.Context(), id)
		return outcome == canaryUnattributed && strings.Contains(err.Error(), `session is proven (complete) with root "email:mallory@example.com"`)
	})

	if err := p.stop(); err != nil {
		t.Error(err)
	}
	t.Setenv("CATENA_CLICKHOUSE_ADDR", "http://127.0.0.1:1")
	if code, _, errs := runCommandLine(t, "", "canary", "--within", "1s"); code != exitFailure || !strings.Contains(errs, "CATENA_CLICKHOUSE_ADDR") {
		t.Errorf("without a database: exit code %d\n%s", code, errs)
	}
}

// TestCanaryJudges: rows that came out with another root or grade are told
// from rows that did not come out.
func TestCanaryJudges(t *testing.T) {
	m := newCanaryMeter(0)
	if _, reasons, _ := m.ready(); len(reasons) == 0 {
		t.Error("ready before the first round")
	}
	m.ended(canaryRound{outcome: canaryUnattributed, err: os.ErrNotExist})
	if _, reasons, _ := m.ready(); len(reasons) != 1 || !strings.Contains(reasons[0], canaryUnattributed) {
		t.Errorf("after a bad round: %q", reasons)
	}
	m.ended(canaryRound{outcome: canaryOK})
	if phase, reasons, _ := m.ready(); len(reasons) != 0 || phase != phaseRunning {
		t.Errorf("after a good round: %s %q", phase, reasons)
	}
}
