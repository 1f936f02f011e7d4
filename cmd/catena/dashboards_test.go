package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"catena/sinks/clickhouse"
)

// grafanaPage is what the tests need of a dashboard's JSON.
type grafanaPage struct {
	UID        string `json:"uid"`
	Templating struct {
		List []grafanaVariable `json:"list"`
	} `json:"templating"`
	Panels []grafanaPanel `json:"panels"`
}

type grafanaVariable struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Multi      bool   `json:"multi"`
	IncludeAll bool   `json:"includeAll"`
	Definition string `json:"definition"`
	Options    []struct {
		Value string `json:"value"`
	} `json:"options"`
}

type grafanaPanel struct {
	ID      int    `json:"id"`
	Title   string `json:"title"`
	Type    string `json:"type"`
	Targets []struct {
		RawSQL string `json:"rawSql"`
		Format int    `json:"format"`
		Expr   string `json:"expr"`
	} `json:"targets"`
}

func grafanaPages(t *testing.T) (pages []grafanaPage) {
	t.Helper()
	names, err := filepath.Glob("../../deploy/grafana/dashboards/*.json")
	if err != nil || len(names) < 6 {
		t.Fatalf("%d dashboards, %v", len(names), err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var p grafanaPage
		if err := json.Unmarshal(text, &p); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		pages = append(pages, p)
	}
	return pages
}

// chosen is what is chosen at the top of a page: the values of each variable,
// and whether they are all of them.
type chosen map[string]struct {
	values []string
	all    bool
}

var (
	conditionalAll = regexp.MustCompile(`\$__conditionalAll\(((?:[^()]|\([^()]*\))*),\s*\$(\w+)\)`)
	quotedVariable = regexp.MustCompile(`\$\{(\w+):singlequote\}`)
	timeMacro      = regexp.MustCompile(`\$__(timeFilter|timeInterval)\(([^()]+)\)`)
	anyMacro       = regexp.MustCompile(`\$_*\w+|\$\{[^}]*\}`)
)

// grafanaSQL expands a statement as the plugin and Grafana do: conditions on
// all, variables, and the macros of the time range (docs of the plugin: query
// editor, macros; template variables).
func grafanaSQL(t *testing.T, sql string, choice chosen, from, to time.Time, interval time.Duration) string {
	t.Helper()
	sql = conditionalAll.ReplaceAllStringFunc(sql, func(m string) string {
		parts := conditionalAll.FindStringSubmatch(m)
		if choice[parts[2]].all {
			return "1=1"
		}
		return parts[1]
	})
	sql = quotedVariable.ReplaceAllStringFunc(sql, func(m string) string {
		var quoted []string
		for _, v := range choice[quotedVariable.FindStringSubmatch(m)[1]].values {
			quoted = append(quoted, "'"+strings.ReplaceAll(v, "'", `\'`)+"'")
		}
		return strings.Join(quoted, ",")
	})
	sql = timeMacro.ReplaceAllStringFunc(sql, func(m string) string {
		parts := timeMacro.FindStringSubmatch(m)
		if parts[1] == "timeInterval" {
			return fmt.Sprintf("toStartOfInterval(toDateTime(%s), INTERVAL %d second)", parts[2], int(interval.Seconds()))
		}
		return fmt.Sprintf("%s >= toDateTime(%d) AND %s <= toDateTime(%d)", parts[2], from.Unix(), parts[2], to.Unix())
	})
	sql = strings.NewReplacer(
		"$__fromTime_ms", fmt.Sprintf("fromUnixTimestamp64Milli(%d)", from.UnixMilli()), "$__toTime_ms", fmt.Sprintf("fromUnixTimestamp64Milli(%d)", to.UnixMilli()),
		"$__fromTime", fmt.Sprintf("toDateTime(%d)", from.Unix()), "$__toTime", fmt.Sprintf("toDateTime(%d)", to.Unix())).Replace(sql)
	if left := anyMacro.FindString(sql); left != "" {
		t.Errorf("%s is no macro and no variable of the page, in\n%s", left, sql)
	}
	return sql
}

// grafanaType are the types that the plugin turns into a field that panels can
// work with; arrays and tuples become JSON, which is not meant for people.
var grafanaType = regexp.MustCompile(`^(?:Nullable\(|LowCardinality\()?(?:String|Bool|U?Int\d+|Float\d+|Date|DateTime(?:\('UTC'\))?|DateTime64\(\d(?:, 'UTC')?\))\)?$`)

// TestDashboards runs every panel's statement, and every variable's, on the
// demo's data: each has to give rows, of columns that Grafana can show.
func TestDashboards(t *testing.T) {
	store := demoTables(t)
	day := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	expand := func(t *testing.T, sql string, choice chosen) string {
		return grafanaSQL(t, sql, choice, day, day.Add(24*time.Hour), 5*time.Minute)
	}
	statements := 0
	for _, page := range grafanaPages(t) {
		t.Run(page.UID, func(t *testing.T) {
			for i, choice := range grafanaChoices(t, store, page.Templating.List, expand) {
				for _, p := range page.Panels {
					for _, target := range p.Targets {
						if target.RawSQL != "" {
							statements++
							checkPanel(t, store, p, expand(t, target.RawSQL, choice), target.Format == 0, i == 0)
						}
					}
				}
			}
		})
	}
	if statements < 50 {
		t.Errorf("only %d statements were run", statements)
	}
}

// grafanaChoices are the choices to try: all of everything that has all, and
// for a variable that can also be one thing, one that the demo tells of.
func grafanaChoices(t *testing.T, store *clickhouse.Store, variables []grafanaVariable, expand func(*testing.T, string, chosen) string) []chosen {
	t.Helper()
	first, second := chosen{}, chosen{}
	differ := false
	for _, v := range variables {
		var values []string
		for _, o := range v.Options {
			if o.Value != "$__all" {
				values = append(values, o.Value)
			}
		}
		if v.Type == "query" {
			_, rows, err := store.Query(t.Context(), expand(t, v.Definition, first), 0)
			if err != nil || len(rows) == 0 {
				t.Fatalf("variable %s: %d values, %v", v.Name, len(rows), err)
			}
			for _, r := range rows {
				values = append(values, r[0])
			}
		}
		all := first[v.Name]
		all.values, all.all = values, v.IncludeAll
		one := all
		if v.Type == "query" && !v.Multi {
			// Of the chains and people, one whose story has everything.
			i := slices.IndexFunc(values, func(s string) bool {
				return s == "b0a8a072-479d-86a8-8b85-b56e77624ea9" || s == "email:alice.moreau@example.com"
			})
			if i < 0 {
				t.Fatalf("variable %s: the chain and the person of story 1 are not among its values %v", v.Name, values)
			}
			one.values, one.all, differ = values[i:i+1], false, v.IncludeAll
			if !v.IncludeAll {
				all = one
			}
		}
		first[v.Name], second[v.Name] = all, one
	}
	if differ {
		return []chosen{first, second}
	}
	return []chosen{first}
}

func checkPanel(t *testing.T, store *clickhouse.Store, p grafanaPanel, sql string, series, everything bool) {
	t.Helper()
	_, rows, err := store.Query(t.Context(), sql, 0)
	if err != nil || len(rows) == 0 {
		t.Errorf("panel %d, %s: %d rows, %v\n%s", p.ID, p.Title, len(rows), err, sql)
		return
	}
	// A stat of nothing is one row too.
	if p.Type == "stat" && everything && !slices.ContainsFunc(rows[0], func(v string) bool { return v != "0" && v != "" && v != "nan" }) {
		t.Errorf("panel %d, %s: the demo answers with nothing\n%s", p.ID, p.Title, sql)
	}
	_, columns, err := store.Query(t.Context(), "DESCRIBE TABLE ("+sql+")", 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range columns {
		if !grafanaType.MatchString(c[1]) {
			t.Errorf("panel %d, %s: column %s is a %s, which Grafana shows as JSON or not at all", p.ID, p.Title, c[0], c[1])
		}
		if series && (i == 0) != (c[0] == "time") {
			t.Errorf("panel %d, %s: the first column of a time series has to be time", p.ID, p.Title)
		}
	}
	if series && !slices.IsSortedFunc(rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) }) {
		t.Errorf("panel %d, %s: a time series has to be in the order of time", p.ID, p.Title)
	}
}

// TestDashboardMetrics: what the dashboards ask Prometheus is in the reference
// of metrics, with these labels; and a counter is never shown as it stands.
func TestDashboardMetrics(t *testing.T) {
	reference, err := os.ReadFile("../../docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile("(?m)^\\| `(catena_\\w+)` \\| (\\w+) \\| ([^|]*) \\|")
	kinds, labels := map[string]string{}, map[string]string{}
	for _, m := range line.FindAllStringSubmatch(string(reference), -1) {
		kinds[m[1]], labels[m[1]] = m[2], m[3]
	}
	name, by := regexp.MustCompile(`catena_\w+`), regexp.MustCompile(`by \(([^)]*)\)`)
	asked := 0
	for _, page := range grafanaPages(t) {
		for _, p := range page.Panels {
			for _, target := range p.Targets {
				if target.Expr == "" {
					continue
				}
				asked++
				metric := name.FindString(target.Expr)
				kind := kinds[metric]
				if kind == "" {
					metric = strings.TrimSuffix(metric, "_bucket")
					kind = kinds[metric] + " bucket"
				}
				if kind != "gauge" && !strings.Contains(target.Expr, "rate(") || kind != "gauge" && kind != "counter" && kind != "histogram bucket" {
					t.Errorf("panel %d, %s: %s is a %q in docs/reference.md: a gauge is shown as it stands, of counters and buckets their rate", p.ID, p.Title, metric, kind)
				}
				for _, m := range by.FindAllStringSubmatch(target.Expr, -1) {
					for label := range strings.SplitSeq(m[1], ", ") {
						if label != "le" && !strings.Contains(labels[metric], "`"+label+"`") {
							t.Errorf("panel %d, %s: %s has the labels %s, and not %s", p.ID, p.Title, metric, labels[metric], label)
						}
					}
				}
			}
		}
	}
	if asked < 20 || len(kinds) < 50 {
		t.Errorf("%d questions to Prometheus and %d metrics in the reference were found", asked, len(kinds))
	}
}
