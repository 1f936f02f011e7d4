package main

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"catena/schemas"
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
