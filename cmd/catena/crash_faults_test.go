package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"catena/schemas"
)

// settle waits until the tables are those of the undisturbed run: what an
// instance hears from another takes a moment to reach them. It returns what is
// wrong when the time is up.
func (c *crashing) settle(limit time.Duration) (faults []string) {
	c.t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(300 * time.Millisecond) {
		if faults = c.difference(c.want); len(faults) == 0 || time.Now().After(deadline) {
			return faults
		}
	}
}

// awaitMembers waits until the group has so many members and is at rest.
func (l *lab) awaitMembers(n int, limit time.Duration) {
	l.t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		groups, err := l.admin.DescribeGroups(l.t.Context(), l.name)
		g := groups[l.name]
		if err == nil && g.State == "Stable" && len(g.Members) == n {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("after %v the group is %s with %d members, want %d (%v)", limit, g.State, len(g.Members), n, err)
		}
	}
}

// TestCrashStaleWriter stops an instance in the middle of an insert for longer
// than the session timeout. Its partitions move and are read on; then its
// insert reaches the database after all, and it wakes up. The rows are those of
// the undisturbed run.
func TestCrashStaleWriter(t *testing.T) { testStopped(t, "crash_stale", "before insert actions") }

// TestCrashStoppedWriter stops it before the insert, when it asks whose the
// partitions are. It wakes up and writes nothing of those that have gone.
func TestCrashStoppedWriter(t *testing.T) {
	victim := testStopped(t, "crash_stopped", "before select progress")
	if !strings.Contains(victim.text(), "rows left out: their partitions have gone") {
		t.Errorf("the victim left nothing out\n%s", tail(victim.text()))
	}
}

// testStopped stops an instance at a statement to the database.
func testStopped(t *testing.T, name, at string) (victim *child) {
	seed := drawSeed(t)
	l := newLab(t, name, "CATENA_SHARE_TOPIC="+name+"_share")
	c := newCrashing(l, seed, 20)
	third := len(c.records) / 3

	var mu sync.Mutex
	armed, stopped, release := false, make(chan struct{}), make(chan struct{})
	gate := newDBProxy(t, l.proxy.target.Host, func(what string) {
		mu.Lock()
		hit := armed && what == at
		armed = armed && !hit
		mu.Unlock()
		if hit {
			victim.signal(syscall.SIGSTOP)
			close(stopped)
			<-release
		}
	})
	victim = l.run("CATENA_CLICKHOUSE_ADDR=http://" + gate.addr)
	victim.await("partitions restored", time.Minute)
	c.send(third)
	other := l.run()
	l.awaitMembers(2, time.Minute)
	other.await("partitions restored", time.Minute)

	mu.Lock()
	armed = true
	mu.Unlock()
	for i := 1; i <= 10; i++ {
		c.send(third + third*i/10)
		time.Sleep(50 * time.Millisecond)
	}
	select {
	case <-stopped:
	case <-time.After(30 * time.Second):
		close(release)
		t.Fatalf("the victim never wrote\n%s", tail(victim.text()))
	}
	l.awaitMembers(1, time.Minute)
	c.send(len(c.records) * 9 / 10)
	if err := l.awaitAll(c.produced, time.Minute, other); err != nil {
		t.Error(err)
	}
	close(release) // the stale insert is written now
	victim.signal(syscall.SIGCONT)
	victim.await("partitions lost", time.Minute)
	l.awaitMembers(2, time.Minute)
	c.send(len(c.records)) // the stale insert took progress back, which the owners' next raises again
	if err := l.awaitAll(c.produced, time.Minute, other); err != nil {
		t.Error(err)
	}
	faults := c.settle(20 * time.Second)
	victim.terminate()
	other.terminate()
	if len(faults) > 0 {
		t.Log("settled only without the two, or never: ", faults[len(faults)-1])
	}
	c.check()
	if t.Failed() {
		t.Logf("victim:\n%s\nother:\n%s", tail(victim.text()), tail(other.text()))
	}
	return victim
}

// TestCrashBroker does to the broker what happens to brokers: it is killed and
// comes back, the topic gets more partitions, a record is longer than allowed,
// another topic is deleted, and retention deletes what was not read yet.
func TestCrashBroker(t *testing.T) {
	seed := drawSeed(t)
	l := newLab(t, "crash_broker", "CATENA_KAFKA_TOPICS="+feedTopic+",doomed", "CATENA_MAX_RECORD=1MiB")
	c := newCrashingIn(l, seed, 20, 4, 6)
	l.makeTopic("doomed", 1, nil)
	fifth := len(c.records) / 5
	run := l.run()
	run.await("partitions restored", time.Minute)
	extra := int64(0)
	step := func(name string, f func()) {
		began := time.Now()
		f()
		if err := l.awaitAll(c.produced+extra, 2*time.Minute, run); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Logf("%-40s %v until all was read", name, time.Since(began).Round(100*time.Millisecond))
	}
	step("before anything", func() { c.send(fifth) })
	step("the broker is killed and comes back", func() {
		c.send(fifth + fifth/2)
		l.broker.stop(syscall.SIGKILL)
		time.Sleep(2 * time.Second)
		l.broker.start()
		c.send(2 * fifth)
	})
	step("a record is too long", func() {
		l.produceRaw("doomed", 0, []byte(`{"sim":"test.idp","id":"`+strings.Repeat("x", 2<<20)+`","t":1772452791000000000}`))
		extra++
		c.send(3 * fifth)
	})
	step("a topic is deleted", func() {
		if _, err := l.admin.DeleteTopics(t.Context(), "doomed"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		c.send(4 * fifth)
	})
	step("the topic gets two more partitions", func() {
		c.send(len(c.records))
		c.grow(6)
	})
	run.terminate()
	faults := l.difference(c.want)
	dead := 0
	for _, f := range faults {
		if strings.HasPrefix(f, "a dead letter: [too_large") {
			dead++
			continue
		}
		t.Error(f)
	}
	if dead != 1 {
		t.Errorf("%d dead letters for the one record that is too long: %v", dead, faults)
	}
	if out, code := l.tryCatena("verify"); code != exitOK {
		t.Errorf("catena verify: exit code %d\n%s", code, out)
	}
	c.overtake(t)
}

// overtake lets retention delete records that nobody has read: the gap is in
// the ledger by name, and verify does not call that clean.
func (c *crashing) overtake(t *testing.T) {
	before := c.next[0]
	for i := range 50 {
		c.produceRaw(feedTopic, 0, fmt.Appendf(nil, `{"sim":"test.idp","id":"late-%d","t":1772452791000000000,"class":"login","action":"late"}`, i))
	}
	offsets := kadm.Offsets{}
	offsets.AddOffset(feedTopic, 0, before+30, -1)
	if _, err := c.admin.DeleteRecords(t.Context(), offsets); err != nil {
		t.Fatal(err)
	}
	run := c.run("CATENA_KAFKA_TOPICS=" + feedTopic) // the other is gone: at a start, that is a mistake in the settings
	run.await("partitions restored", time.Minute)
	if err := c.awaitAll(int64(len(c.records))+1+50, time.Minute, run); err != nil {
		t.Fatal(err)
	}
	run.terminate()
	_, rows, err := c.store.Query(t.Context(), "SELECT toString(offset), toString(`until`) FROM skips FINAL WHERE name = 'lost'", 0)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint([]string{fmt.Sprint(before), fmt.Sprint(before + 30)})
	if len(rows) != 1 || fmt.Sprint(rows[0]) != want {
		t.Errorf("lost offsets in the ledger: %v, want %v", rows, want)
	}
	_, rows, err = c.store.Query(t.Context(), "SELECT toString(count()) FROM actions FINAL WHERE action = 'late'", 0)
	if err != nil || rows[0][0] != "20" {
		t.Errorf("%v rows of what was left, want 20 (%v)", rows, err)
	}
	out, code := c.tryCatena("verify")
	if code != exitFound || !strings.Contains(out, "lost") {
		t.Errorf("catena verify: exit code %d, want %d and a word of what was lost\n%s", code, exitFound, out)
	}
}

// produceRaw sends one record and waits for it.
func (l *lab) produceRaw(topic string, partition int32, value []byte) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	r := &schemas.Record{Topic: topic, Partition: partition, Value: value}
	if err := l.client.ProduceSync(ctx, kafkaRecord(r)).FirstErr(); err != nil {
		l.t.Fatal(err)
	}
}
