package main

import (
	"slices"
	"strings"
	"testing"

	"catena/ingest/broker"
	"catena/schemas"
)

// TestRefusedRow: a row that the database refuses for good becomes a dead
// letter with reason, place and the record, secrets replaced; the rows beside
// it are written, and the offsets go on.
func TestRefusedRow(t *testing.T) {
	b, err := broker.Start(broker.Options{Partitions: 1, Topics: []string{"okta"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	k, db, name := cluster{b.Addr()}, database(t), "refused_row"
	c := newCatena(t, k, db, name, "okta")
	c.run("migrate")
	sql := "ALTER TABLE " + name + ".actions ADD CONSTRAINT welcome CHECK source_ip != '203.0.113.66'"
	if _, err := engine.server.engine.Query(t.Context(), sql, "Null"); err != nil {
		t.Fatal(err)
	}
	login := func(id, ip string) []byte {
		return []byte(`{"uuid":"` + id + `","published":"2026-03-02T08:00:00.000Z","eventType":"user.session.start","outcome":{"result":"SUCCESS"},` +
			`"actor":{"id":"00u1","type":"User","alternateId":"person@example.com","displayName":"Person"},"client":{"ipAddress":"` + ip + `"},` +
			`"authenticationContext":{"externalSessionId":"102made-up","authenticationStep":0},"debugContext":{"debugData":{"password":"FIXTURESECRET-refused"}}}`)
	}
	k.send(t, "okta",
		login("11111111-2222-3333-4444-000000000001", "203.0.113.5"),
		login("11111111-2222-3333-4444-000000000002", "203.0.113.66"),
		login("11111111-2222-3333-4444-000000000003", "203.0.113.7"))
	store := openTest(t, db, name)
	run := c.start("run")
	awaitOffsets(t, store, 3, c)
	c.terminate(run)

	_, rows, err := store.Query(t.Context(), "SELECT offset, source_ip FROM actions FINAL ORDER BY offset", 0)
	if err != nil || len(rows) != 2 || !slices.Equal(rows[0], []string{"0", "203.0.113.5"}) || !slices.Equal(rows[1], []string{"2", "203.0.113.7"}) {
		t.Errorf("rows %v, %v", rows, err)
	}
	_, letters, err := store.Query(t.Context(), "SELECT reason, topic, partition, offset, error, bytes FROM dead_letters WHERE reason = 'rejected'", 0)
	if err != nil || len(letters) != 1 {
		t.Fatalf("dead letters %v, %v\n%s", letters, err, c.text())
	}
	letter := letters[0]
	if !slices.Equal(letter[:4], []string{schemas.DeadRejected.String(), "okta", "0", "1"}) || !strings.Contains(letter[4], "welcome") {
		t.Errorf("dead letter %q", letter)
	}
	if !strings.Contains(letter[5], "203.0.113.66") || !strings.Contains(letter[5], "11111111-2222-3333-4444-000000000002") || strings.Contains(letter[5], "FIXTURESECRET") {
		t.Errorf("its record %q", letter[5])
	}
}
