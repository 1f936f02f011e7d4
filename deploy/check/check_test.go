package check

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	compose "github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/rulefmt"
	promql "github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write deploy/k8s/catena.yaml")

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestCompose(t *testing.T) {
	text := read(t, "compose.yaml")
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	project, err := loader.LoadWithContext(context.Background(), compose.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []compose.ConfigFile{{Filename: filepath.Join(dir, "compose.yaml"), Content: text}},
		Environment: compose.Mapping{},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range project.Services {
		if !pinned(s.Image) {
			t.Errorf("service %s: image %s has no version", name, s.Image)
		}
		if s.HealthCheck == nil {
			t.Errorf("service %s has no health check, and does not say that it needs none", name)
		}
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("service %s publishes port %s on %q, want loopback alone", name, p.Published, p.HostIP)
			}
		}
		for _, v := range s.Volumes {
			if v.Type != compose.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(v.Source); err != nil {
				t.Errorf("service %s mounts what is not there: %v", name, err)
			}
			if !v.ReadOnly {
				t.Errorf("service %s may change %s", name, v.Source)
			}
		}
	}
	checkCatenaServices(t, project)
}

func pinned(image string) bool {
	_, version, found := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	return found && version != "latest"
}

// checkCatenaServices holds what the files of stories, topics and passwords
// have to do with each other.
func checkCatenaServices(t *testing.T, project *compose.Project) {
	run, stories := project.Services["catena"], project.Services["stories"]
	topics := strings.Split(*run.Environment["CATENA_KAFKA_TOPICS"], ",")
	replayed := map[string]bool{}
	for _, file := range stories.Command[1:] {
		local := filepath.Join("../../cmd/catena/stories", strings.TrimPrefix(file, "/stories"))
		if _, err := os.Stat(local); err != nil {
			t.Errorf("stories: %v", err)
		}
		base := filepath.Base(file)
		replayed[strings.TrimSuffix(base, filepath.Ext(base))] = true
	}
	replayed["catena_canary"] = true // the canary writes to it
	for _, topic := range topics {
		if !replayed[topic] {
			t.Errorf("topic %s is read, and no story writes to it", topic)
		}
	}
	if len(replayed) != len(topics) {
		t.Errorf("stories write to %d topics, %d are read", len(replayed), len(topics))
	}
	all, err := filepath.Glob("../../cmd/catena/stories/*/*.json*")
	if err != nil || len(all) != len(stories.Command)-1 {
		t.Errorf("%d files of stories are replayed, there are %d (%v)", len(stories.Command)-1, len(all), err)
	}
	for _, s := range []compose.ServiceConfig{run, stories, project.Services["catena-canary"]} {
		if !s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") {
			t.Errorf("service %s: want a read-only file system and no capabilities", s.Name)
		}
		checkSettings(t, "compose "+s.Name, keys(s.Environment))
	}
	clickhouse := project.Services["clickhouse"].Environment
	if *clickhouse["CLICKHOUSE_PASSWORD"] != *run.Environment["CATENA_CLICKHOUSE_PASSWORD"] || *clickhouse["CLICKHOUSE_USER"] != *run.Environment["CATENA_CLICKHOUSE_USER"] {
		t.Error("catena logs in at ClickHouse with another user or password than it has")
	}
}

func keys[V any](m map[string]V) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// settings are the variables that docs/reference.md names, which a test of
// catena holds equal to the program.
func settings(t *testing.T) map[string]bool {
	all := map[string]bool{}
	for _, m := range regexp.MustCompile("`(CATENA_[A-Z_]+)`").FindAllStringSubmatch(string(read(t, "../docs/reference.md")), -1) {
		all[m[1]] = true
	}
	return all
}

// checkSettings fails for variables that catena does not know: it would ignore
// them.
func checkSettings(t *testing.T, where string, names []string) {
	t.Helper()
	known := settings(t)
	for _, name := range names {
		if strings.HasPrefix(name, "CATENA_") && !known[name] && !known[strings.TrimSuffix(name, "_FILE")] {
			t.Errorf("%s: catena has no setting %s", where, name)
		}
	}
}

func TestContainerfile(t *testing.T) {
	text := read(t, "Containerfile")
	ast, err := parser.Parse(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range ast.Warnings {
		t.Errorf("line %v: %s", w.Location, w.Short)
	}
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, msg string, at []parser.Range) {
		t.Errorf("%v: %s: %s", at, rule, msg)
	}})
	stages, args, err := instructions.Parse(ast.AST, lint)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range args {
		for _, kv := range a.Args {
			if kv.Value == nil || !pinned(*kv.Value) {
				t.Errorf("ARG %s: want an image with a version", kv.Key)
			}
		}
	}
	if len(stages) != 2 {
		t.Fatalf("%d stages, want two", len(stages))
	}
	var user, entry, health bool
	labels := map[string]bool{}
	for _, c := range stages[1].Commands {
		switch c := c.(type) {
		case *instructions.UserCommand:
			user = regexp.MustCompile(`^[1-9]\d*(:[1-9]\d*)?$`).MatchString(c.User)
		case *instructions.EntrypointCommand:
			entry = !c.PrependShell
		case *instructions.HealthCheckCommand:
			health = true
		case *instructions.LabelCommand:
			for _, l := range c.Labels {
				labels[strings.Trim(l.Key, `"`)] = true
			}
		case *instructions.RunCommand:
			t.Error("the last stage runs something: its base has no shell")
		}
	}
	if !user || !entry || !health {
		t.Errorf("the image has a numbered user: %v, an entry point without a shell: %v, a health check: %v", user, entry, health)
	}
	for _, l := range []string{"title", "description", "licenses", "version", "revision", "base.name"} {
		if !labels["org.opencontainers.image."+l] {
			t.Errorf("no label org.opencontainers.image.%s", l)
		}
	}
	checkCopies(t, stages[0].Commands)
}

// checkCopies: what is copied exists and is not kept out by the ignore file,
// and every package of the program is copied.
func checkCopies(t *testing.T, commands []instructions.Command) {
	ignore := string(read(t, "Containerfile.dockerignore"))
	copied := map[string]bool{}
	for _, c := range commands {
		cp, ok := c.(*instructions.CopyCommand)
		if !ok {
			continue
		}
		for _, from := range cp.SourcePaths {
			copied[from] = true
			if _, err := os.Stat(filepath.Join("../..", from)); err != nil {
				t.Error(err)
			}
			if !strings.Contains(ignore, "\n!"+from+"\n") {
				t.Errorf("%s is kept out by Containerfile.dockerignore", from)
			}
		}
	}
	for _, dir := range []string{"cmd", "correlate", "ingest", "schemas", "sinks", "go.mod", "go.sum"} {
		if !copied[dir] {
			t.Errorf("%s is not copied", dir)
		}
	}
}

// metrics are those that docs/reference.md names.
func metrics(t *testing.T) map[string]bool {
	all := map[string]bool{}
	for _, m := range regexp.MustCompile("`(catena_[a-z_]+|go_[a-z_]+|process_[a-z_]+)").FindAllStringSubmatch(string(read(t, "../docs/reference.md")), -1) {
		all[m[1]] = true
	}
	return all
}

var promqlParser = promql.NewParser(promql.Options{})

// checkQuery parses PromQL and looks for metrics that nothing gives.
func checkQuery(t *testing.T, where, query string, known map[string]bool) {
	t.Helper()
	expr, err := promqlParser.ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %q: %v", where, query, err)
		return
	}
	promql.Inspect(expr, func(n promql.Node, _ []promql.Node) error {
		if v, ok := n.(*promql.VectorSelector); ok && strings.HasPrefix(v.Name, "catena_") {
			name := v.Name
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				name = strings.TrimSuffix(name, suffix)
			}
			if !known[v.Name] && !known[name] {
				t.Errorf("%s: catena has no metric %s", where, v.Name)
			}
		}
		return nil
	})
}

func TestPrometheusRules(t *testing.T) {
	known := metrics(t)
	files, err := filepath.Glob("../prometheus/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no rules: %v", err)
	}
	parsed := map[string]*rulefmt.RuleGroups{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(text), "groups:") && !strings.Contains(string(text), "\ngroups:") {
			continue // the configuration
		}
		groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, promqlParser, promslog.NewNopLogger())
		for _, err := range errs {
			t.Errorf("%s: %v", file, err)
		}
		parsed[file] = groups
		for _, g := range groups.Groups {
			for _, r := range g.Rules {
				if r.Record != "" {
					known[r.Record] = true
				}
			}
		}
	}
	if len(parsed) == 0 {
		t.Error("no file has groups of rules")
	}
	operations := string(read(t, "../docs/operations.md"))
	named := map[string]bool{}
	for file, groups := range parsed {
		for _, g := range groups.Groups {
			for _, r := range g.Rules {
				checkQuery(t, file+" "+r.Alert+r.Record, r.Expr, known)
				if r.Alert == "" {
					continue
				}
				named[r.Alert] = true
				if r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
					t.Errorf("%s: alert %s lacks a severity or a summary", file, r.Alert)
				}
				if !strings.HasSuffix(r.Annotations["runbook"], "docs/operations.md#"+strings.ToLower(r.Alert)) ||
					!strings.Contains(operations, "\n### "+r.Alert+"\n") {
					t.Errorf("%s: alert %s: no part of docs/operations.md is called so, or runbook does not lead there: %q", file, r.Alert, r.Annotations["runbook"])
				}
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^### (Catena\w+)$`).FindAllStringSubmatch(operations, -1) {
		if !named[m[1]] {
			t.Errorf("docs/operations.md explains %s, which is no alert", m[1])
		}
	}
}

// TestDashboards parses the queries to Prometheus; those to ClickHouse are run
// by catena's own tests.
func TestDashboards(t *testing.T) {
	known := metrics(t)
	files, err := filepath.Glob("../grafana/dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	queries := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var board any
		if err := json.Unmarshal(text, &board); err != nil {
			t.Fatal(err)
		}
		each(board, func(object map[string]any) {
			expr, ok := object["expr"].(string)
			if !ok {
				return
			}
			queries++
			expr = strings.NewReplacer("$__rate_interval", "1m", "$__interval", "1m", "$__range", "1h").Replace(expr)
			checkQuery(t, file, regexp.MustCompile(`\$\{?\w+\}?`).ReplaceAllString(expr, "x"), known)
		})
	}
	if queries == 0 {
		t.Error("no dashboard asks Prometheus anything")
	}
}

// each calls f with every object within a document.
func each(v any, f func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		f(v)
		for _, child := range v {
			each(child, f)
		}
	case []any:
		for _, child := range v {
			each(child, f)
		}
	}
}

// TestPrometheusConfig: the scrape configuration names what compose mounts.
func TestPrometheusConfig(t *testing.T) {
	var conf struct {
		RuleFiles     []string `json:"rule_files"`
		ScrapeConfigs []struct {
			JobName string `json:"job_name"`
		} `json:"scrape_configs"`
	}
	if err := yaml.Unmarshal(read(t, "prometheus/prometheus.yml"), &conf); err != nil {
		t.Fatal(err)
	}
	if len(conf.ScrapeConfigs) == 0 {
		t.Error("nothing is scraped")
	}
	for _, file := range conf.RuleFiles {
		matches, err := filepath.Glob(filepath.Join("../prometheus", file))
		if err != nil || len(matches) == 0 {
			t.Errorf("rule_files: no %s (%v)", file, err)
		}
	}
}
