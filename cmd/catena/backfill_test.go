package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"catena/schemas"
	"catena/sinks/clickhouse"
)

// rowsByID reads all rows.
func rowsByID(t *testing.T, store *clickhouse.Store) map[schemas.ID]*schemas.Action {
	t.Helper()
	all := map[schemas.ID]*schemas.Action{}
	if err := store.LoadActions(t.Context(), 0, nil, func(a *schemas.Action) error { all[a.ID] = a; return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// makeFinal lets the watermark of all partitions pass everything, as time does.
func makeFinal(t *testing.T, db, name string) {
	t.Helper()
	execSQL(t, db, name, "ALTER TABLE "+name+".progress UPDATE watermark = '2100-01-01' WHERE 1 SETTINGS mutations_sync = 2")
}

func rowsThatDiffer(got, want map[schemas.ID]*schemas.Action) (n int, first string) {
	for id, w := range want {
		if g := got[id]; g == nil || attribution(g) != attribution(w) {
			if n++; n == 1 {
				first = fmt.Sprintf("%s %s: nothing, want %s", w.Source, w.Event.Action, attribution(w))
				if g != nil {
					first = fmt.Sprintf("%s %s:\n got %s\nwant %s", w.Source, w.Event.Action, attribution(g), attribution(w))
				}
			}
		}
	}
	return n, first
}

// TestBackfill: what was never read becomes rows, the rows of other topics that
// rest on it improve, and rows that stand are left as they are.
func TestBackfill(t *testing.T) {
	k, db, name := fakeKafka(t), database(t), "backfill"
	records := playedRecords(t)
	topics := append(demoTopics(), "stratus")
	makeTopics(t, k, strings.Join(topics, ","))
	var read []string // all but those that hold the logins
	for _, topic := range topics {
		if topic != "okta" && topic != "github" {
			read = append(read, topic)
		}
	}
	c := newCatena(t, k, db, name, strings.Join(read, ","))
	c.run("migrate")
	store := openTest(t, db, name)
	replayParts(t, c, records)
	n := int64(0)
	for _, r := range records {
		if slices.Contains(read, r.Topic) {
			n++
		}
	}
	run := c.start("run")
	awaitOffsets(t, store, n, c)
	c.terminate(run)
	c.env = append(c.env, "CATENA_ALLOWED_LATENESS=1h")
	want, _ := stitchAll(t, records, 100)
	poor := rowsByID(t, store)
	lacking, _ := rowsThatDiffer(poor, want)

	// Rows that are not final belong to catena run.
	if code, out := c.outputOf("backfill", "--topic", "okta,github", "--dry-run"); code != exitOK || !strings.Contains(out, "would be added") || !strings.Contains(out, "not final yet") {
		t.Errorf("dry run: exit code %d\n%s", code, out)
	}
	if after := rowsByID(t, store); len(after) != len(poor) {
		t.Errorf("the dry run wrote %d rows", len(after)-len(poor))
	}
	makeFinal(t, db, name)
	code, out := c.outputOf("backfill", "--topic", "okta,github")
	if code != exitOK || !strings.Contains(out, "are accounted for") || !strings.Contains(out, "100%") {
		t.Fatalf("backfill: exit code %d\n%s", code, out)
	}
	t.Log("\n" + out)
	got := rowsByID(t, store)
	if left, first := rowsThatDiffer(got, want); left*20 > lacking || len(got) != len(want) {
		t.Errorf("%d rows, want %d; %d lacked something and %d still do; the first %s", len(got), len(want), lacking, left, first)
	}
	for id, p := range poor {
		if got[id].Grade < p.Grade && !goesOn(p.Hops, got[id].Hops) || got[id].Version < p.Version {
			t.Errorf("%s %s fell from %v to %v", p.Source, p.Event.Action, p.Grade, got[id].Grade)
		}
	}

	// A second time, and everything, in another order: nothing changes.
	code, out = c.outputOf("backfill", "--topic", strings.Join(topics, ","))
	if code != exitOK || !strings.Contains(out, " 0 rows added") {
		t.Errorf("backfill of everything: exit code %d\n%s", code, out)
	}
	again := rowsByID(t, store)
	for id, g := range got {
		if again[id].Grade < g.Grade || again[id].Version < g.Version {
			t.Errorf("%s %s fell from %v to %v", g.Source, g.Event.Action, g.Grade, again[id].Grade)
		}
	}
	if code, out = verifyNow(t, c); code != exitOK {
		t.Errorf("verify: exit code %d\n%s", code, out)
	}
	grepSecrets(t, store, name, c)
}

// TestBackfillNeverSpoils: rows that live traffic resolved by what has since
// left the tables stay, and whatever catena run writes of an event wins over
// what a backfill wrote.
func TestBackfillNeverSpoils(t *testing.T) {
	k, db, name := fakeKafka(t), database(t), "backfill_spoils"
	records := playedRecords(t)
	topics := strings.Join(append(demoTopics(), "stratus"), ",")
	makeTopics(t, k, topics)
	c := newCatena(t, k, db, name, topics)
	c.run("migrate")
	store := openTest(t, db, name)
	replayParts(t, c, records)
	run := c.start("run")
	awaitOffsets(t, store, int64(len(records)), c)
	c.terminate(run)
	good := rowsByID(t, store)
	makeFinal(t, db, name)
	execSQL(t, db, name, "TRUNCATE TABLE "+name+".bindings")
	execSQL(t, db, name, "DELETE FROM "+name+".actions WHERE topic = 'okta' AND event_time < '2026-03-02 09:00:00'")
	c.env = append(c.env, "CATENA_ALLOWED_LATENESS=1h")
	gone := len(good) - len(rowsByID(t, store))
	if code, out := verifyNow(t, c, "--offsets-only"); code != exitFound || gone == 0 {
		t.Errorf("%d rows are gone, and verify says %d\n%s", gone, code, out)
	}
	code, out := c.outputOf("backfill", "--topic", "cloudtrail,kubernetes,otlp_spans")
	if code != exitOK {
		t.Fatalf("backfill: exit code %d\n%s", code, out)
	}
	code, out = c.outputOf("backfill", "--topic", "okta")
	if code != exitOK || !strings.Contains(out, fmt.Sprintf(" %d rows added", gone)) {
		t.Fatalf("backfill: exit code %d, want %d rows added\n%s", code, gone, out)
	}
	after := rowsByID(t, store)
	if worse, first := rowsThatDiffer(after, good); worse > 0 || len(after) != len(good) {
		t.Errorf("%d rows, want %d; %d say something else: %s", len(after), len(good), worse, first)
	}
	for id, g := range good {
		if a := after[id]; a != nil && a.Version>>22 > g.Version>>22 {
			t.Errorf("%s %s: version %d outranks its owner's %d", a.Source, a.Event.Action, a.Version, g.Version)
		}
	}
	if code, out = verifyNow(t, c, "--offsets-only"); code != exitOK {
		t.Errorf("verify: exit code %d\n%s", code, out)
	}
}

// TestBackfillGoesOn: one that is stopped goes on where it was, and --restart
// begins again.
func TestBackfillGoesOn(t *testing.T) {
	k, db, name := fakeKafka(t), database(t), "backfill_goes_on"
	makeTopics(t, k, "okta")
	c := newCatena(t, k, db, name, "okta")
	c.run("migrate")
	var values [][]byte
	for i := range 900 {
		values = append(values, oktaLogin(i, time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC).Add(time.Duration(i)*time.Second)))
	}
	k.send(t, "okta", values...)
	cmd := c.start("backfill", "--topic", "okta", "--rate", "150")
	store := openTest(t, db, name)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, rows, err := store.Query(t.Context(), "SELECT sum(next - `from`) FROM "+name+".backfills FINAL", 1)
		if err == nil && rows[0][0] != "0" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no progress within 30 s (%v)\n%s", err, c.text())
		}
	}
	_ = cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err == nil || !strings.Contains(c.text(), "the same command goes on from there") {
		t.Fatalf("a stopped backfill: %v\n%s", err, c.text())
	}
	some := len(rowsByID(t, store))
	code, out := c.outputOf("backfill", "--topic", "okta", "--rate", "150")
	if code != exitOK || some >= 900 || !regexp.MustCompile(`of which [1-9]\d* are done: going on`).MatchString(out) || !strings.Contains(out, "all 900 offsets") {
		t.Errorf("it goes on after %d rows: exit code %d\n%s", some, code, out)
	}
	if n := len(rowsByID(t, store)); n != 900 {
		t.Errorf("%d rows, want 900", n)
	}
	if code, out = verifyNow(t, c, "--topic", "okta", "--partition", "7", "--from", "3", "--to", "9"); code != exitFound || !strings.Contains(out, "offsets 3 to 8") {
		t.Errorf("a range that nobody read: exit code %d\n%s", code, out)
	}
	code, out = c.outputOf("backfill", "--topic", "okta", "--restart")
	if code != exitOK || strings.Contains(out, "going on") || !strings.Contains(out, "0 rows added") {
		t.Errorf("restart: exit code %d\n%s", code, out)
	}
	// What the group reads afterwards of the same places is what stands.
	run := c.start("run")
	awaitOffsets(t, store, 900, c)
	c.terminate(run)
	if n := len(rowsByID(t, store)); n != 900 {
		t.Errorf("%d rows after the group has read them too, want 900", n)
	}
	for _, a := range rowsByID(t, store) {
		if a.Version>>22 == 0 {
			t.Fatalf("%s: the backfill's version stands, want that of the owner", a.ID)
		}
	}
	if code, out = verifyNow(t, c, "--kafka"); code != exitOK {
		t.Errorf("verify: exit code %d\n%s", code, out)
	}
}

func TestBackfillArguments(t *testing.T) {
	for _, args := range [][]string{
		{}, {"okta"}, {"--topic", "a,b", "--partition", "0"}, {"--topic", "a", "--from", "3"}, {"--topic", "a", "--partition", "0", "--from", "3", "--to", "3"},
		{"--topic", "a", "--since", "soon"}, {"--topic", "a", "--rate", "-1"}, {"--topic", "a"},
	} {
		var errs strings.Builder
		env := &environment{stdin: strings.NewReader(""), stdout: io.Discard, stderr: &errs, getenv: func(string) string { return "" }}
		if code := run(context.Background(), env, append([]string{"backfill"}, args...)); code != exitUsage {
			t.Errorf("%v: exit code %d, %s", args, code, errs.String())
		}
	}
}
