package clickhouse

import (
	"fmt"
	"regexp"
	"strings"
)

// On a cluster each table of the migrations becomes two: name_local, replicated
// within its shard, holds the rows, and name is Distributed over all shards.
// Everything else in this program, and every view, goes on reading and writing
// the plain name.
//
// FINAL on a Distributed table is done by each shard for itself, so all
// versions of a row have to lie on one shard. They do, because the shard
// follows from the sort key or from a part of it, and a row's sort key never
// changes (the rule that every table's comment states).

// clusterName also lets through the macro that servers know themselves by.
var clusterName = regexp.MustCompile(`^[A-Za-z0-9_.{}-]+$`)

// shardBy is by what rows are spread where it is not the whole sort key. Both
// are part of it: an event's versions, and all that drives a key, lie together.
var shardBy = map[string]string{"actions": "event_id", "bindings": "child"}

// onCluster renders a statement of the migrations for a cluster; an error names
// what it does not know how to render.
func onCluster(statement, cluster string) ([]string, error) {
	if m := createTable.FindStringSubmatchIndex(statement); m != nil {
		return tableOnCluster(statement, statement[m[2]:m[3]], cluster)
	}
	if m := createView.FindStringSubmatchIndex(statement); m != nil {
		return []string{statement[:m[3]] + " ON CLUSTER '" + cluster + "'" + statement[m[3]:]}, nil
	}
	if m := createFeed.FindStringSubmatchIndex(statement); m != nil {
		// It is fed by the rows that arrive on a server, and feeds that server.
		feed := statement[:m[3]] + "_local ON CLUSTER '" + cluster + "'" + statement[m[3]:m[5]] + "_local" + statement[m[5]:]
		return []string{strings.Replace(feed, "FROM actions", "FROM actions_local", 1)}, nil
	}
	first, _, _ := strings.Cut(withoutComments(statement), "\n")
	return nil, fmt.Errorf("no rule says what %q is on a cluster", first)
}

var (
	createTable = regexp.MustCompile(`(?m)^CREATE TABLE IF NOT EXISTS (\w+)`)
	createView  = regexp.MustCompile(`(?m)^CREATE OR REPLACE VIEW (\w+)`)
	createFeed  = regexp.MustCompile(`(?m)^CREATE MATERIALIZED VIEW IF NOT EXISTS (\w+) TO (\w+) AS`)
	mergeTree   = regexp.MustCompile(`(?m)^ENGINE = (\w*MergeTree)\(`)
	sortKey     = regexp.MustCompile(`(?m)^ORDER BY \((.*)\)$`)
)

func tableOnCluster(statement, name, cluster string) ([]string, error) {
	engine := mergeTree.FindStringSubmatchIndex(statement)
	order := sortKey.FindStringSubmatch(statement)
	if engine == nil || order == nil {
		return nil, fmt.Errorf("table %s: want lines that begin ENGINE = …MergeTree( and ORDER BY (", name)
	}
	// Without arguments for path and replica the server takes its own defaults,
	// which hold the table's UUID and the macros {shard} and {replica}.
	local := statement[:engine[2]] + "Replicated" + statement[engine[2]:]
	local = createTable.ReplaceAllString(local, "CREATE TABLE IF NOT EXISTS ${1}_local ON CLUSTER '"+cluster+"'")
	by, ok := shardBy[name]
	if !ok {
		by = order[1]
	}
	spread := fmt.Sprintf("CREATE TABLE IF NOT EXISTS %[1]s ON CLUSTER '%[2]s' AS %[1]s_local\nENGINE = Distributed('%[2]s', currentDatabase(), %[1]s_local, cityHash64(%[3]s))", name, cluster, by)
	return []string{local, spread}, nil
}

// withoutComments drops the lines that are comments.
func withoutComments(statement string) string {
	var b strings.Builder
	for line := range strings.Lines(statement) {
		if !strings.HasPrefix(strings.TrimSpace(line), "--") {
			b.WriteString(line)
		}
	}
	return strings.TrimSpace(b.String())
}

// render gives the statements as this store's database wants them.
func (s *Store) render(statements []string) ([]string, error) {
	if s.options.Cluster == "" {
		return statements, nil
	}
	var all []string
	for _, statement := range statements {
		rendered, err := onCluster(statement, s.options.Cluster)
		if err != nil {
			return nil, err
		}
		all = append(all, rendered...)
	}
	return all, nil
}

// onClusterClause is what a statement about the whole database needs.
func (s *Store) onClusterClause() string {
	if s.options.Cluster == "" {
		return ""
	}
	return " ON CLUSTER '" + s.options.Cluster + "'"
}

// withClusterSettings adds what a cluster needs of every statement: reads go to
// the replica that was written to, as long as it lives, whatever server one
// happens to be connected to. Whoever takes over a partition would else miss
// rows that a slow replica has not fetched yet.
func withClusterSettings(settings map[string]any) map[string]any {
	all := map[string]any{"load_balancing": "in_order", "prefer_localhost_replica": 0}
	for name, value := range settings {
		all[name] = value
	}
	return all
}

// local is the name under which a table's rows lie.
func (s *Store) local(table string) string {
	if s.options.Cluster == "" {
		return table
	}
	return table + "_local"
}
