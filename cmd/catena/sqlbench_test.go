package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"catena/sinks/clickhouse"
)

// What the questions cost on a large table: `make bench-sql`. The rows are those
// of the stories, copied as often as it takes, each copy with ids of its own.
var (
	sqlRows = flag.Int("sql.rows", 0, "how many actions TestSQLBench asks its questions of; 0 skips it")
	sqlRuns = flag.Int("sql.runs", 15, "how often TestSQLBench asks each")
	sqlData = flag.String("sql.data", "", "folder in which TestSQLBench keeps its tables for the next run")
	sqlSeed = flag.Uint64("sql.seed", 1, "which ids TestSQLBench asks for")
)

// sqlBench is one run.
type sqlBench struct {
	*testing.T
	addr   string
	random *rand.Rand
	copies int
}

func TestSQLBench(t *testing.T) {
	if *sqlRows == 0 {
		t.Skip("a measurement: run `make bench-sql`")
	}
	b := &sqlBench{T: t, addr: databaseIn(t, *sqlData), random: rand.New(rand.NewPCG(*sqlSeed, 0))}
	b.fill()
	fmt.Printf("\n%s rows of actions, %s bindings; %s on disk, %s parts; ClickHouse %s\n\n", b.one("SELECT formatReadableQuantity(sum(rows)) FROM system.parts WHERE active AND database = 'sqlbench' AND table = 'actions'"),
		b.one("SELECT formatReadableQuantity(sum(rows)) FROM system.parts WHERE active AND database = 'sqlbench' AND table = 'bindings'"),
		b.one("SELECT formatReadableSize(sum(bytes_on_disk)) FROM system.parts WHERE active AND database = 'sqlbench' AND table NOT LIKE 'raw%'"),
		b.one("SELECT count() FROM system.parts WHERE active AND database = 'sqlbench' AND table = 'actions'"), b.one("SELECT version()"))
	b.measure()
}

// Over how much the copies are spread.
const (
	benchDays      = 30
	benchPeople    = 2000 // of each of the sample's people
	benchWorkloads = 1500
	benchResources = 20_000
)

// fill makes the tables and as many rows as asked for, unless a run before left
// them.
func (b *sqlBench) fill() {
	if b.one("SELECT count() FROM system.tables WHERE database = 'sqlbench' AND name = 'filled'") == "1" {
		b.copies = b.number("SELECT copies FROM sqlbench.filled")
		return
	}
	started := time.Now()
	storiesInTables(b.T) // in the database views
	bench, err := clickhouse.Open(b.Context(), clickhouse.Options{Addrs: []string{b.addr}, Database: "sqlbench"})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = bench.Close() }()
	if _, err := bench.Migrate(b.Context()); err != nil {
		b.Fatal(err)
	}
	sample := b.number("SELECT count() FROM views.actions FINAL")
	perDay := max(1, *sqlRows/sample/benchDays)
	b.copies = perDay * benchDays
	for day := range benchDays {
		b.exec(benchBindings(day, perDay))
		b.exec(benchActions(day, perDay, true))
		b.exec(benchActions(day, perDay, false))
	}
	fmt.Printf("filled with %d copies of %d rows in %v\n", b.copies, sample, time.Since(started).Round(time.Second))
	for _, sql := range rawTables {
		b.exec(sql)
	}
	b.exec(fmt.Sprintf("CREATE TABLE sqlbench.filled ENGINE = MergeTree ORDER BY copies AS SELECT toUInt64(%d) AS copies", b.copies))
	for b.one("SELECT count() FROM system.merges") != "0" {
		time.Sleep(time.Second)
	}
	fmt.Printf("raw tables filled, merges done after %v\n", time.Since(started).Round(time.Second))
}

// copyOf is SQL for the number that stands behind a key or id of a kind in the
// copy n: people and workloads come back, sessions and tokens do not.
func copyOf(kind string) string {
	return fmt.Sprintf("multiIf(%[1]s IN ('human', 'agent'), n %% %[2]d, %[1]s IN ('workload', 'service', 'external'), n %% %[3]d, n)", kind, benchPeople, benchWorkloads)
}

func copyKey(k string) string {
	return fmt.Sprintf("if(%[1]s = '', '', concat(%[1]s, '~', toString(%[2]s)))", k, copyOf("substring("+k+", 1, position("+k+", ':') - 1)"))
}

func copyText(text, number string) string {
	return fmt.Sprintf("if(%[1]s = '', '', concat(%[1]s, '~', toString(%[2]s)))", text, number)
}

func copyID(id, number string) string {
	return fmt.Sprintf("if(%[1]s = toUUID('00000000-0000-0000-0000-000000000000'), %[1]s, reinterpretAsUUID(sipHash128(%[1]s, %[2]s)))", id, number)
}

// copyTime moves a time by the copy's day and its place within sixteen hours.
func copyTime(at string, day int) string {
	return fmt.Sprintf("%s + toIntervalSecond(%d + sipHash64(n) %% 57600)", at, day*86400)
}

// benchActions copies the sample. A tenth of the rows is written at first as
// they are known before their bindings are.
func benchActions(day, perDay int, first bool) string {
	nanos := fmt.Sprintf(" + toInt64(%d + sipHash64(n) %% 57600) * 1000000000", day*86400)
	// Chains of workloads are cut by the day.
	chain := fmt.Sprintf("if(a.root_kind = 'human', n, %s + %d)", copyOf("a.root_kind"), (day+1)*1_000_000)
	root := copyOf("a.root_kind")
	replace := []string{
		copyID("a.event_id", "n") + " AS event_id",
		copyTime("a.event_time", day) + " AS event_time", copyTime("a.ended_at", day) + " AS ended_at",
		copyTime("a.event_time", day) + " + toIntervalMillisecond(sipHash64(n, 1) % 90000) AS ingested_at",
		copyTime("a.event_time", day) + " + toIntervalMillisecond(90500 + sipHash64(n, 1) % 3000) AS attributed_at",
		"a.time_nanos" + nanos + " AS time_nanos", "if(a.ended_nanos = 0, 0, a.ended_nanos" + nanos + ") AS ended_nanos",
		copyText("a.resource", fmt.Sprintf("n %% %d", benchResources)) + " AS resource",
		copyText("a.actor_id", copyOf("a.actor_kind")) + " AS actor_id", copyText("a.actor_name", copyOf("a.actor_kind")) + " AS actor_name",
		"if(a.source_ip = '', '', concat('10.', toString(sipHash64(n) % 64), '.', toString(sipHash64(n, 2) % 250), '.', toString(sipHash64(a.source_ip) % 250))) AS source_ip",
		"if(a.trace_id = '', '', lower(hex(sipHash128(a.trace_id, n)))) AS trace_id", "if(a.span_id = '', '', lower(hex(sipHash64(a.span_id, n)))) AS span_id",
		"arrayMap(k -> " + copyKey("k") + ", a.keys) AS keys", copyText("a.grant_id", "n") + " AS grant_id",
		"lower(concat(hex(sipHash128(a.raw_sha256, n)), hex(sipHash128(n, a.raw_sha256)))) AS raw_sha256", "toInt64(n) * 100 + a.offset AS offset",
	}
	for _, k := range []string{"token", "session", "workload", "request"} {
		replace = append(replace, copyKey("a."+k)+" AS "+k)
	}
	where := ""
	if first {
		where = " WHERE sipHash64(a.event_id, n) % 10 = 0"
		replace = append(replace, "toUInt64(1) AS version", "'unattributed' AS grade", "'no_binding_seen' AS reason", "'' AS root_kind", "'' AS root_id", "'' AS root_name",
			copyID("a.chain_id", "n + 7")+" AS chain_id", "[] AS hops", "toUUID('00000000-0000-0000-0000-000000000000') AS cause_id", "'' AS cause_grade")
	} else {
		replace = append(replace, "toUInt64(2) AS version", copyID("a.chain_id", chain)+" AS chain_id", copyID("a.cause_id", "n")+" AS cause_id",
			copyText("a.root_id", root)+" AS root_id", copyText("a.root_name", root)+" AS root_name", copyKey("a.frontier")+" AS frontier",
			"arrayMap(h -> ("+copyKey("h.1")+", h.2, h.3, h.4, "+copyID("h.5", "n")+", "+copyTime("h.6", day)+", h.7), a.hops) AS hops",
			"arrayMap(c -> ("+copyKey("c.1")+", "+copyKey("c.2")+", "+copyID("c.3", "n")+"), a.candidates) AS candidates")
	}
	return fmt.Sprintf("INSERT INTO sqlbench.actions SELECT a.* REPLACE (%s) FROM (SELECT number AS n FROM numbers(%d, %d)) AS c CROSS JOIN (SELECT * FROM views.actions FINAL) AS a%s",
		strings.Join(replace, ", "), day*perDay, perDay, where)
}

func benchBindings(day, perDay int) string {
	replace := []string{copyKey("b.child") + " AS child", copyKey("b.parent") + " AS parent", copyTime("b.proof_time", day) + " AS proof_time", copyID("b.proof", "n") + " AS proof"}
	for _, at := range []string{"from", "until", "expires"} {
		replace = append(replace, fmt.Sprintf("if(toUnixTimestamp64Nano(b.`%[1]s`) = 0, b.`%[1]s`, %[2]s) AS `%[1]s`", at, copyTime("b.`"+at+"`", day)))
	}
	return fmt.Sprintf("INSERT INTO sqlbench.bindings SELECT b.* REPLACE (%s) FROM (SELECT number AS n FROM numbers(%d, %d)) AS c CROSS JOIN (SELECT * FROM views.bindings FINAL) AS b",
		strings.Join(replace, ", "), day*perDay, perDay)
}

// rawTables are what there is without attribution: the decoded events as they
// came, in the order of time.
var rawTables = []string{
	"CREATE TABLE sqlbench.raw_mints ENGINE = MergeTree ORDER BY at AS SELECT child, parent, relation, proof_time AS at FROM sqlbench.bindings FINAL WHERE strength = 'exact' AND parent != ''",
	"CREATE TABLE sqlbench.raw_logins ENGINE = MergeTree ORDER BY at AS SELECT event_time AS at, event_id, source, action, outcome, concat(actor_kind, ':', actor_id) AS principal, session FROM sqlbench.actions FINAL WHERE class = 'login'",
	"CREATE TABLE sqlbench.raw_uses ENGINE = MergeTree ORDER BY (toStartOfHour(at), source, at) AS " +
		"SELECT event_time AS at, event_id, source, class, action, resource, outcome, actor_kind, actor_id, token, session, workload, request, trace_id, source_ip, keys FROM sqlbench.actions FINAL",
}

// asked is a question that a person asks, with $ for what is asked for.
type asked struct {
	name string
	ids  string // SQL for what to ask for: one column
	sql  string
	raw  string // the same from the raw tables; empty if it has no counterpart
}

const (
	upward = "WITH RECURSIVE up AS (SELECT '$' AS key, 0 AS depth UNION ALL SELECT m.parent AS key, up.depth + 1 AS depth FROM up INNER JOIN " +
		"(SELECT child, parent FROM sqlbench.raw_mints WHERE child IN (SELECT key FROM up)) AS m ON m.child = up.key WHERE up.depth < 8) "
	downward = "WITH RECURSIVE down AS (SELECT '$' AS key, 0 AS depth UNION ALL SELECT m.child AS key, down.depth + 1 AS depth FROM down INNER JOIN " +
		"(SELECT child, parent FROM sqlbench.raw_mints WHERE parent IN (SELECT key FROM down)) AS m ON m.parent = down.key WHERE down.depth < 8) "
	rawUses = "SELECT at, class, action, resource, outcome, event_id FROM sqlbench.raw_uses WHERE hasAny(keys, (SELECT groupUniqArray(key) FROM down)) ORDER BY at"
)

// asks are the look-ups, then the views. Each is asked for ids that were not
// asked for before.
func asks() []asked {
	const of = "SELECT %[1]s FROM sqlbench.actions WHERE version = 2 AND %[2]s ORDER BY sipHash64(event_id, %%d) LIMIT 1 BY %[1]s LIMIT %%d"
	chain := fmt.Sprintf(of, "chain_id", "class = 'login' AND root_kind = 'human' AND outcome = 'success'")
	session := fmt.Sprintf(of, "session", "class = 'login' AND session LIKE 'session:okta:%%%%' AND root_id != ''")
	token := fmt.Sprintf(of, "token", "token LIKE 'token:aws.access_key:ASIA%%%%'")
	person := fmt.Sprintf(of, "root_id", "class = 'login' AND root_kind = 'human'")
	resource := fmt.Sprintf(of, "resource", "resource LIKE 'arn:aws:s3%%%%'")
	address := fmt.Sprintf(of, "source_ip", "source_ip != ''")
	day := "SELECT toString(toDateTime('2026-03-03 00:00:00', 'UTC') + toIntervalDay(intHash32(number + %d) %% 28)) FROM numbers(%d)"
	columns := "SELECT event_time, class, action, resource, outcome, root_name, grade, reason, hops.key, chain_id, event_id"
	ofDay := func(column string) string {
		return " WHERE " + column + " >= toDateTime('$', 'UTC') AND " + column + " < toDateTime('$', 'UTC') + toIntervalDay(1)"
	}
	return []asked{
		{"one chain by its id", chain, "SELECT * FROM sqlbench.chain_timeline(chain = '$')", ""},
		{"one chain by its login session", session, "SELECT * FROM sqlbench.chain_timeline(chain = (SELECT chain_id FROM sqlbench.actions_with(key = '$') WHERE root_id != '' LIMIT 1))", downward + rawUses},
		{"what was done with a token, and who is behind it", token, columns + " FROM sqlbench.actions_with(key = '$') ORDER BY event_time",
			upward + "SELECT at, class, action, resource, outcome, event_id, (SELECT groupArray(key) FROM up) AS path FROM sqlbench.raw_uses WHERE token = '$' ORDER BY at"},
		{"what a person did on one day", person, columns + " FROM sqlbench.actions_of(identity = '$', since = '2026-03-20 00:00:00', until = '2026-03-21 00:00:00') ORDER BY event_time",
			strings.ReplaceAll(downward, "'$'", "'human:$'") + strings.Replace(rawUses, "WHERE ", "WHERE at >= '2026-03-20 00:00:00' AND at < '2026-03-21 00:00:00' AND ", 1)},
		{"the same by WHERE on actions FINAL alone", chain, "SELECT * FROM sqlbench.actions FINAL WHERE chain_id = '$'", ""},
		{"one action by its id", fmt.Sprintf(of, "event_id", "true"), "SELECT * FROM sqlbench.actions WHERE event_id = '$' ORDER BY version DESC LIMIT 1", ""},
		{"chain_tree", chain, "SELECT * FROM sqlbench.chain_tree(chain = '$')", ""},
		{"chain", chain, "SELECT * FROM sqlbench.chain(chain = '$')", ""},
		{"chains_between, a day", day, "SELECT * FROM sqlbench.chains_between(since = '$', until = toDateTime('$', 'UTC') + toIntervalDay(1))", ""},
		{"resource_touched_by", resource, "SELECT * FROM sqlbench.resource_touched_by(resource = '$')", ""},
		{"keys_driven_by a session", session, "SELECT * FROM sqlbench.keys_driven_by(start = '$')", ""},
		{"blast_radius of a session", session, "SELECT * FROM sqlbench.blast_radius(start = '$')", ""},
		{"blast_radius of a token", token, "SELECT * FROM sqlbench.blast_radius(start = '$')", ""},
		{"blast_radius of an address", address, "SELECT * FROM sqlbench.blast_radius(start = '$')", ""},
		{"delegations_of a person", person, "SELECT * FROM sqlbench.delegations_of(identity = '$')", ""},
		{"agent_actions_without_decision, a day", day, "SELECT count() FROM sqlbench.agent_actions_without_decision" + ofDay("event_time"), ""},
		{"privileged_without_mfa, a day", day, "SELECT count() FROM sqlbench.privileged_without_mfa" + ofDay("event_time"), ""},
		{"outside_grant, a day", day, "SELECT count() FROM sqlbench.outside_grant" + ofDay("event_time"), ""},
		{"coverage_by_hour, a day", day, "SELECT * FROM sqlbench.coverage_by_hour" + ofDay("hour"), ""},
		{"coverage_by_identity, a day", day, "SELECT * FROM sqlbench.coverage_by_identity" + ofDay("day"), ""},
		{"standing_credentials_used_by_agents, all", "", "SELECT * FROM sqlbench.standing_credentials_used_by_agents", ""},
		{"latency_by_hour, all", "", "SELECT * FROM sqlbench.latency_by_hour", ""},
		{"new_since, all", "", "SELECT count() FROM sqlbench.new_since(since = '2026-03-25 00:00:00')", ""},
		{"findings, all", "", "SELECT rule, count() FROM sqlbench.findings GROUP BY rule", ""},
	}
}

// measure asks everything and prints the table.
func (b *sqlBench) measure() {
	fmt.Println("| question | rows | rows read | read | p50 | p95 | CPU | raw join | ratio |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, q := range asks() {
		ids := []string{""} // a question about everything is asked once
		if q.ids != "" {
			ids = strings.Split(b.one(fmt.Sprintf(q.ids, *sqlSeed, *sqlRuns)), "\n")
		}
		all := make([]cost, 0, len(ids))
		for _, id := range ids {
			all = append(all, b.ask(strings.ReplaceAll(q.sql, "$", id)))
		}
		m := middle(all)
		raw, ratio := "", ""
		if q.raw != "" {
			var slow []cost
			for _, id := range ids[:min(3, len(ids))] {
				slow = append(slow, b.ask(strings.ReplaceAll(q.raw, "$", id)))
			}
			r := middle(slow)
			raw, ratio = r.took.Round(time.Millisecond).String(), fmt.Sprintf("%.0f", float64(r.took)/float64(m.took))
		}
		fmt.Printf("| %s | %d | %d | %.1f MB | %.0f ms | %.0f ms | %.0f ms | %s | %s |\n",
			q.name, m.rows, m.read, float64(m.bytes)/1e6, ms(m.took), ms(worst(all)), ms(m.cpu), raw, ratio)
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// cost is what one statement took.
type cost struct {
	rows, read, bytes int
	took              time.Duration
	cpu               time.Duration // of this process, in which the engine runs; it does not wait for others
}

// middle is the cost at the median of the times.
func middle(all []cost) cost {
	slices.SortFunc(all, func(x, y cost) int { return int(x.took - y.took) })
	return all[len(all)/2]
}

// worst is the 95th percentile of times that middle has sorted.
func worst(all []cost) time.Duration { return all[(len(all)*95+99)/100-1].took }

// ask runs a statement and returns what ClickHouse says of it.
func (b *sqlBench) ask(sql string) cost {
	started, before := time.Now(), cpuTime(b.T)
	body := b.post(sql, "JSONCompact")
	took, cpu := time.Since(started), cpuTime(b.T)-before
	var result struct {
		Rows       int
		Statistics struct {
			RowsRead  int `json:"rows_read"`
			BytesRead int `json:"bytes_read"`
		}
	}
	if err := json.Unmarshal([]byte(body), &result); err != nil {
		b.Fatalf("%s: %v in %.200s", sql, err, body)
	}
	return cost{result.Rows, result.Statistics.RowsRead, result.Statistics.BytesRead, took, cpu}
}

func cpuTime(t *testing.T) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func (b *sqlBench) exec(sql string) { b.post(sql, "TSV") }

// one returns a result as text.
func (b *sqlBench) one(sql string) string { return strings.TrimSpace(b.post(sql, "TSV")) }

func (b *sqlBench) number(sql string) (n int) {
	if _, err := fmt.Sscan(b.one(sql), &n); err != nil {
		b.Fatalf("%s: %v", sql, err)
	}
	return n
}

func (b *sqlBench) post(sql, format string) string {
	b.Helper()
	r, err := http.Post(b.addr+"/?"+url.Values{"default_format": {format}, "max_memory_usage": {"6000000000"}}.Encode(), "text/plain", strings.NewReader(sql))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		b.Fatalf("%.2000s: %v %.800s", sql, err, body)
	}
	return string(body)
}
