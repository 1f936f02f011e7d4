package main

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"catena/schemas"
	"catena/sinks"
	"catena/sinks/clickhouse"
)

func TestKafkaInstances(t *testing.T) {
	testInstances(t, realKafka(t), "instances_kafka", func(string, int) {})
}

// TestInstances kills no member in the middle of a rebalance, as Kafka's own
// broker lets it: where a member dies between its join and its sync, kfake takes
// those that wait with it for dead as well, counts who joins one too low, and
// the rebalance ends with its timeout of a minute.
func TestInstances(t *testing.T) {
	k := fakeKafka(t)
	testInstances(t, k, "instances_fake", func(group string, members int) { awaitSettled(t, k, group, members) })
}

// testInstances splits the partitions among three processes, of which one is
// killed, one leaves and one comes in the middle, and compares the tables with
// what one engine makes of all records.
func testInstances(t *testing.T, k cluster, name string, beforeKill func(group string, members int)) {
	db := database(t)
	records := playedRecords(t)
	rng := rand.New(rand.NewPCG(5, 6))
	rng.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	topics := strings.Join(append(demoTopics(), "stratus"), ",")
	c := newCatena(t, k, db, name, topics)
	c.env = append(c.env, "CATENA_SHARE_TOPIC="+name+"_share", "CATENA_KAFKA_SESSION_TIMEOUT=6s")
	makeTopics(t, k, topics)
	c.run("migrate")
	store := openTest(t, db, name)

	first, second := c.start("run"), c.start("run")
	replayParts(t, c, records[:len(records)/3])
	awaitOffsets(t, store, int64(len(records)/6), c)
	third := c.start("run")
	replayParts(t, c, records[len(records)/3:2*len(records)/3])
	awaitOffsets(t, store, int64(len(records)/2), c)
	beforeKill(name, 3)
	_ = second.Process.Kill()
	_ = second.Wait()
	c.terminate(first)
	replayParts(t, c, records[2*len(records)/3:])
	awaitOffsets(t, store, int64(len(records)), c)
	fourth := c.start("run")
	awaitRows(t, store, records)
	c.terminate(third)
	c.terminate(fourth)
	compareRows(t, store, records)
	checkCommitted(t, k, store, name)
	if strings.Contains(c.text(), "do not share") {
		t.Errorf("the instances share, and are told that they do not\n%s", c.text())
	}
	if t.Failed() {
		t.Log(c.text())
	}
}

// awaitSettled waits until so many members have partitions and no rebalance is
// going on.
func awaitSettled(t *testing.T, k cluster, group string, members int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.addr))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var is kadm.DescribedGroup
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		groups, err := kadm.NewClient(cl).DescribeGroups(t.Context(), group)
		if err != nil {
			t.Fatal(err)
		}
		is = groups[group]
		with := 0
		for _, m := range is.Members {
			if a, ok := m.Assigned.AsConsumer(); ok && len(a.Topics) > 0 {
				with++
			}
		}
		if is.State == "Stable" && with == members {
			return
		}
	}
	t.Fatalf("group %s is not settled with %d members: %+v", group, members, is)
}

// awaitRows waits for a while until the rows are what they shall be; what an
// instance hears from another takes a moment to reach the tables.
func awaitRows(t *testing.T, store *clickhouse.Store, records []schemas.Record) {
	t.Helper()
	want, _ := stitchAll(t, records, 100)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		differ := len(want)
		err := store.LoadActions(t.Context(), 0, nil, func(a *schemas.Action) error {
			if w := want[a.ID]; w != nil && attribution(a) == attribution(w) {
				differ--
			}
			return nil
		})
		if err == nil && differ == 0 {
			return
		}
	}
}

// TestLateWriter: a member that was thrown out does not know it yet, and writes
// rows poorer than the next owner of their partitions has read them. They become
// again what they were.
func TestLateWriter(t *testing.T) {
	k, db, name := fakeKafka(t), database(t), "late_writer"
	records := storyRecords(t, func(string) bool { return true })
	topics := strings.Join(demoTopics(), ",")
	c := newCatena(t, k, db, name, topics)
	c.env = append(c.env, "CATENA_KAFKA_SESSION_TIMEOUT=6s")
	makeTopics(t, k, topics)
	c.run("migrate")
	store := openTest(t, db, name)

	first := c.start("run")
	replayParts(t, c, records)
	awaitOffsets(t, store, int64(len(records)), c)
	awaitRows(t, store, records)
	c.terminate(first)
	said := len(c.text())
	second := c.start("run")
	awaitText(t, c, said, `"partitions restored"`)
	var late []*schemas.Action
	err := store.LoadActions(t.Context(), 0, nil, func(a *schemas.Action) error {
		if a.Grade == schemas.GradeProven {
			late = append(late, &schemas.Action{Event: a.Event, Version: a.Version + 1, RecordAuthMethod: a.RecordAuthMethod, RecordMFA: a.RecordMFA,
				Grade: schemas.GradeUnattributed, Reason: schemas.ReasonNoBindingSeen})
		}
		return nil
	})
	if err == nil {
		err = store.Write(t.Context(), &sinks.Batch{Actions: late})
	}
	if err != nil || len(late) == 0 {
		t.Fatalf("%d rows are written late: %v", len(late), err)
	}
	awaitRows(t, store, records)
	c.terminate(second)
	compareRows(t, store, records)
	if t.Failed() {
		t.Log(c.text())
	}
}

// awaitText waits until the program has said something after so many bytes.
func awaitText(t *testing.T, c *catena, said int, what string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(c.text()[said:], what); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after 30 s catena has not said %s\n%s", what, c.text())
		}
	}
}

// TestNotOvertaken: rows and reports of partitions that have a later owner are
// left out, and nothing else.
func TestNotOvertaken(t *testing.T) {
	row := func(partition int32, owner int64) *schemas.Action {
		return &schemas.Action{Event: schemas.Event{Evidence: schemas.Evidence{Topic: "t", Partition: partition}}, Version: schemas.MakeVersion(owner, 7)}
	}
	report := func(partition int32, owner int64) schemas.Progress {
		return schemas.Progress{Topic: "t", Partition: partition, OwnerMillis: owner}
	}
	gone, kept, unknown := row(0, 1000), row(1, 1000), row(2, 1000)
	b := sinks.Batch{Actions: []*schemas.Action{gone, kept, unknown, gone}, Bindings: make([]schemas.Binding, 2),
		Progress: []schemas.Progress{report(0, 1000), report(1, 1000), report(2, 1000)}}
	ours := notOvertaken(&b, latestOwners([]schemas.Progress{report(0, 1001), report(1, 1000)}))
	if !slices.Equal(ours.Actions, []*schemas.Action{kept, unknown}) || len(ours.Bindings) != 2 ||
		!slices.Equal(ours.Progress, []schemas.Progress{report(1, 1000), report(2, 1000)}) {
		t.Errorf("left are %d rows, %d bindings and the reports %v", len(ours.Actions), len(ours.Bindings), ours.Progress)
	}
	if len(b.Actions) != 4 || len(b.Progress) != 3 {
		t.Error("the batch, which is the caller's, was changed")
	}
	if ours := notOvertaken(&b, latestOwners([]schemas.Progress{report(0, 1000), report(1, 999)})); ours != &b {
		t.Error("a batch of which nothing is overtaken was copied")
	}
}

// TestStanding: it counts how long one number was overtaken, also where there are
// several of them, and a number that is new has its time.
func TestStanding(t *testing.T) {
	report := func(partition int32, owner int64) schemas.Progress {
		return schemas.Progress{Topic: "t", Partition: partition, OwnerMillis: owner}
	}
	s := standing{latest: latestOwners([]schemas.Progress{report(0, 5000), report(1, 5000)})}
	if s.overtaken(report(0, 5000), 0) || s.overtaken(report(2, 1000), 0) {
		t.Error("who is the latest owner, or the first, is overtaken")
	}
	for _, p := range []schemas.Progress{report(0, 1000), report(1, 2000)} {
		if !s.overtaken(p, 0) || s.ousted.Load() {
			t.Errorf("under %d: overtaken is missing, or ousted (%v) at once", p.OwnerMillis, s.ousted.Load())
		}
	}
	time.Sleep(time.Millisecond)
	if s.overtaken(report(0, 1000), time.Minute); s.ousted.Load() {
		t.Error("ousted before its time")
	}
	if s.overtaken(report(0, 1000), 0); !s.ousted.Load() {
		t.Error("not ousted, since another number came between")
	}
}

// TestOusted: somebody outside of the group writes of its partitions, by a clock
// that is ahead. What an instance reads then does not count, so that it stops and
// says why, with nothing committed. Started again it takes the partitions back.
func TestOusted(t *testing.T) {
	k, db, name := fakeKafka(t), database(t), "ousted"
	records := storyRecords(t, func(string) bool { return true })
	topics := strings.Join(demoTopics(), ",")
	c := newCatena(t, k, db, name, topics)
	c.env = append(c.env, "CATENA_SHARE_TOPIC="+name+"_share", "CATENA_KAFKA_SESSION_TIMEOUT=6s")
	makeTopics(t, k, topics)
	c.run("migrate")
	store := openTest(t, db, name)

	first := c.start("run")
	replayParts(t, c, records[:len(records)/2])
	awaitOffsets(t, store, int64(len(records)/2), c)
	progress, err := store.LoadProgress(t.Context())
	for i := range progress {
		progress[i].OwnerMillis = time.Now().Add(time.Hour).UnixMilli()
	}
	if err == nil {
		err = store.Write(t.Context(), &sinks.Batch{Progress: progress})
	}
	if err != nil {
		t.Fatal(err)
	}
	half := (len(records) - len(records)/2) / 2
	replayParts(t, c, records[len(records)/2:len(records)-half])
	time.Sleep(15 * time.Second) // longer than it takes a group to tell a member that it is out
	replayParts(t, c, records[len(records)-half:])
	timer := time.AfterFunc(time.Minute, func() { _ = first.Process.Kill() })
	if err := first.Wait(); err == nil || !strings.Contains(c.text(), "somebody outside of it writes rows of the same topics") {
		t.Fatalf("%v\n%s", err, c.text())
	}
	timer.Stop()
	second := c.start("run")
	awaitOffsets(t, store, int64(len(records)), c)
	awaitRows(t, store, records)
	c.terminate(second)
	compareRows(t, store, records)
	checkCommitted(t, k, store, name)
	if t.Failed() {
		t.Log(c.text())
	}
}
