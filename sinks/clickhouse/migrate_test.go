package clickhouse

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	migrations "catena/schemas/clickhouse"
)

func TestMigrateTwice(t *testing.T) { overBoth(t, checkMigrateTwice) }

func checkMigrateTwice(t *testing.T) {
	s := open(t)
	pending, err := s.Pending(t.Context())
	if err != nil || len(pending) == 0 || pending[0] != "0001_actions" {
		t.Fatalf("pending %v, error %v; want all, beginning with 0001_actions", pending, err)
	}
	applied, err := s.Migrate(t.Context())
	if err != nil || !slices.Equal(applied, pending) {
		t.Fatalf("applied %v, error %v; want %v", applied, err, pending)
	}
	applied, err = s.Migrate(t.Context())
	if err != nil || len(applied) != 0 {
		t.Errorf("the second time applied %v, error %v; want nothing", applied, err)
	}
	if pending, err := s.Pending(t.Context()); err != nil || len(pending) != 0 {
		t.Errorf("pending %v, error %v; want nothing", pending, err)
	}
	if got := rows(t, s, "SELECT count(), min(length(sha256)) FROM schema_migrations FINAL"); got[0] != fmt.Sprint(len(applied)+5, " 64") {
		t.Errorf("record %v", got)
	}
}

// A step that was cut short is run again from its beginning.
func TestMigrateAfterACut(t *testing.T) {
	s := open(t)
	steps, err := readSteps(migrations.Files)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.createDatabase(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(t, s, steps[0].statements[0], steps[1].statements[0], steps[2].statements[0])
	if applied, err := s.Migrate(t.Context()); err != nil || len(applied) != len(steps) {
		t.Errorf("applied %v, error %v", applied, err)
	}
}

func TestMigrateByTwoStarters(t *testing.T) { overBoth(t, checkMigrateByTwoStarters) }

func checkMigrateByTwoStarters(t *testing.T) {
	s := open(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := s.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if pending, err := s.Pending(t.Context()); err != nil || len(pending) != 0 {
		t.Errorf("pending %v, error %v; want nothing", pending, err)
	}
}

// Many starters, each its own connections as in processes of their own: each
// step is applied by exactly one.
func TestMigrateIsLocked(t *testing.T) {
	s := open(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	times := map[string]int{}
	for range 6 {
		wg.Go(func() {
			o := s.options
			o.Addrs = []string{server.addr}
			one, err := Open(t.Context(), o)
			if err != nil {
				t.Error(err)
				return
			}
			defer one.Close()
			applied, err := one.Migrate(t.Context())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, name := range applied {
				times[name]++
			}
		})
	}
	wg.Wait()
	for name, n := range times {
		if n != 1 {
			t.Errorf("%s was applied %d times", name, n)
		}
	}
	if got := rows(t, s, "SELECT count(), uniqExact(version) FROM schema_migrations"); got[0] != fmt.Sprintf("%d %[1]d", len(times)) {
		t.Errorf("recorded steps: %s, want %d", got[0], len(times))
	}
	if got := rows(t, s, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'schema_migrations_lock'"); got[0] != "0" {
		t.Error("the lock is still there")
	}
}

// A lock that a starter left when it died holds the next one up, but not for
// good: it waits, and the wait can be cancelled.
func TestMigrateWaitsForTheLock(t *testing.T) {
	s := open(t)
	if err := s.createDatabase(t.Context()); err != nil {
		t.Fatal(err)
	}
	release, err := s.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if applied, err := s.Migrate(ctx); err == nil || len(applied) > 0 {
		t.Errorf("applied %v, error %v; want to wait for the lock", applied, err)
	}
	if err := s.breakStaleLock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := rows(t, s, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'schema_migrations_lock'"); got[0] != "1" {
		t.Error("a lock younger than a minute was broken")
	}
	release()
	if applied, err := s.Migrate(t.Context()); err != nil || len(applied) == 0 {
		t.Errorf("applied %v, error %v; want all", applied, err)
	}
}

func TestMigrateRefusesWhatItDoesNotKnow(t *testing.T) {
	s := migrated(t)
	exec(t, s, "INSERT INTO schema_migrations (version, name, sha256) SELECT 99, '0099_future', 'x'")
	for _, err := range []error{second(s.Migrate(t.Context())), second(s.Pending(t.Context()))} {
		if err == nil || !strings.Contains(err.Error(), "0099_future is newer than this program") || !strings.Contains(err.Error(), s.options.Database) {
			t.Errorf("error %v; want one that names database and migration", err)
		}
	}
	exec(t, s, "TRUNCATE TABLE schema_migrations", "INSERT INTO schema_migrations (version, name, sha256) SELECT 1, '0001_actions', 'abc'")
	if err := second(s.Migrate(t.Context())); err == nil || !strings.Contains(err.Error(), "0001_actions was applied with other content (sha256 abc…)") {
		t.Errorf("error %v; want one that names the step", err)
	}
}

func second[T any](_ T, err error) error { return err }

// Two starters, and steps that were cut short, are harmless only while every
// statement can run twice.
func TestEveryStatementCanRunTwice(t *testing.T) {
	steps, err := readSteps(migrations.Files)
	if err != nil {
		t.Fatal(err)
	}
	again := regexp.MustCompile(`^(CREATE (TABLE|MATERIALIZED VIEW) IF NOT EXISTS|CREATE OR REPLACE VIEW|ALTER TABLE \w+ (ADD|DROP|MODIFY) (COLUMN|INDEX) IF (NOT )?EXISTS|DROP (TABLE|VIEW) IF EXISTS)\b`)
	for _, st := range steps {
		for _, sql := range st.statements {
			for strings.HasPrefix(sql, "--") || strings.HasPrefix(sql, "\n") {
				_, sql, _ = strings.Cut(sql, "\n")
			}
			if !again.MatchString(sql) {
				t.Errorf("%s: %.60s… may fail when it runs a second time", st.name, sql)
			}
			if strings.Contains(sql, ";\n") {
				t.Errorf("%s: a semicolon ends a line inside %.60s…", st.name, sql)
			}
		}
	}
}

func TestReadSteps(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	steps, err := readSteps(fstest.MapFS{
		"0002_b.sql": file("-- c;\nSELECT 2;\n\n-- the end\n"),
		"0001_a.sql": file("SELECT 1\n  , ';'\n;SELECT 3 ;\r\nSELECT 4"),
	})
	if err != nil || len(steps) != 2 {
		t.Fatal(steps, err)
	}
	if want := []string{"SELECT 1\n  , ';'\n;SELECT 3 ", "SELECT 4"}; !slices.Equal(steps[0].statements, want) {
		t.Errorf("got %q, want %q", steps[0].statements, want)
	}
	if want := []string{"-- c;\nSELECT 2"}; !slices.Equal(steps[1].statements, want) {
		t.Errorf("got %q, want %q", steps[1].statements, want)
	}
	if _, err := readSteps(fstest.MapFS{"0001_a.sql": file(""), "0003_c.sql": file("")}); err == nil || !strings.Contains(err.Error(), "0003_c.sql: want number 0002") {
		t.Errorf("error %v", err)
	}
}
