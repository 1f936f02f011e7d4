package clickhouse

import (
	"flag"
	"os"
	"strings"
	"testing"

	migrations "catena/schemas/clickhouse"
)

var update = flag.Bool("update", false, "write testdata/cluster.sql again")

// The statements for a cluster are those of testdata/cluster.sql, comments left
// out, and the engine's own parser takes each. No cluster of servers has run
// them in this test: the embedded engine knows neither clusters nor Keeper.
func TestClusterStatements(t *testing.T) {
	plain, err := readSteps(migrations.Files)
	if err != nil {
		t.Fatal(err)
	}
	s := &Store{options: Options{Database: "catena", Cluster: "main"}}
	var b strings.Builder
	b.WriteString("-- Written by the test TestClusterStatements -update; what CATENA_CLICKHOUSE_CLUSTER=main makes.\n")
	all := []string{"CREATE DATABASE IF NOT EXISTS `catena`" + s.onClusterClause(), s.createRecord()}
	for _, st := range plain {
		rendered, err := s.render(st.statements)
		if err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
		all = append(all, rendered...)
	}
	for _, statement := range all {
		b.WriteString("\n" + withoutComments(statement) + ";\n")
	}
	if *update {
		if err := os.WriteFile("testdata/cluster.sql", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/cluster.sql")
	if err != nil || b.String() != string(want) {
		t.Errorf("the statements are not those of testdata/cluster.sql (%v); if they should be, run this test with -update and read the difference", err)
	}

	engine := migrated(t)
	for _, statement := range all {
		text := withoutComments(statement)
		if got := rows(t, engine, "SELECT formatQuerySingleLine("+quote(text)+")"); len(got) != 1 || !strings.Contains(got[0], "ON CLUSTER") {
			t.Errorf("parsed as %q: want a statement with ON CLUSTER", got)
		}
	}
}

// Every table keeps all versions of a row on one shard: what it is spread by is
// part of its sort key, which never changes for a row.
func TestShardsKeepVersionsTogether(t *testing.T) {
	s := migrated(t)
	for table, by := range shardBy {
		if got := rows(t, s, "SELECT position(sorting_key, "+quote(by)+") > 0 FROM system.tables WHERE database = currentDatabase() AND name = "+quote(table)); len(got) != 1 || got[0] != "1" {
			t.Errorf("%s is spread by %s, which is not in its sort key (%v)", table, by, got)
		}
	}
}

func TestClusterRefusesWhatItDoesNotKnow(t *testing.T) {
	for statement, want := range map[string]string{
		"-- why\nALTER TABLE actions ADD COLUMN x Int8":                            "ALTER TABLE actions ADD COLUMN x Int8",
		"CREATE TABLE IF NOT EXISTS x\n(a Int8)\nENGINE = Memory":                  "table x: want lines",
		"CREATE TABLE IF NOT EXISTS x\n(a Int8)\nENGINE = MergeTree()\nORDER BY a": "table x: want lines",
	} {
		if _, err := onCluster(statement, "c"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", statement, err, want)
		}
	}
	if _, err := newStore(Options{Cluster: "a'; DROP"}); err == nil || !strings.Contains(err.Error(), "cluster") {
		t.Errorf("error %v, want one about the cluster's name", err)
	}
}
