package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestFiles: what lies in dashboards/ is what the code here makes, and all.
func TestFiles(t *testing.T) {
	made := files()
	names, err := filepath.Glob("dashboards/*")
	if err != nil || len(names) != len(made) {
		t.Errorf("%d files lie in dashboards/, %d are made, %v: run make dashboards, and remove what is no longer made", len(names), len(made), err)
	}
	for name, want := range made {
		got, err := os.ReadFile(filepath.Join("dashboards", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("dashboards/%s is stale: run make dashboards", name)
		}
	}
}

// parsed is a dashboard as Grafana reads it.
type parsed struct {
	UID           string  `json:"uid"`
	ID            *int    `json:"id"`
	Title         string  `json:"title"`
	SchemaVersion int     `json:"schemaVersion"`
	Panels        []tile  `json:"panels"`
	Templating    choices `json:"templating"`
}

type choices struct {
	List []struct {
		Name       string          `json:"name"`
		Type       string          `json:"type"`
		Definition string          `json:"definition"`
		Query      json.RawMessage `json:"query"`
		Datasource *dataSource     `json:"datasource"`
	} `json:"list"`
}

type dataSource struct{ Type, UID string }

type tile struct {
	ID          int
	Title, Type string
	Description string
	Datasource  *dataSource
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct {
		Datasource                                             *dataSource
		RefID, RawSQL, Expr, EditorType, QueryType, EditorMode string
		PluginVersion                                          string
		Format                                                 *int
	}
}

func pages(t *testing.T) (all []parsed) {
	t.Helper()
	for name, text := range files() {
		var p parsed
		if err := json.Unmarshal(text, &p); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, p)
	}
	return all
}

// TestShape: schema version, ids and places are what Grafana can load, and no
// panel lies over another.
func TestShape(t *testing.T) {
	uids := map[string]bool{}
	for _, p := range pages(t) {
		if p.SchemaVersion != schemaVersion || p.ID != nil || uids[p.UID] || !regexp.MustCompile(`^[a-z-]{1,40}$`).MatchString(p.UID) || p.Title == "" {
			t.Errorf("%s: schema version %d, id %v, title %q: want version %d, no id, a uid of its own and a title", p.UID, p.SchemaVersion, p.ID, p.Title, schemaVersion)
		}
		uids[p.UID] = true
		ids, taken := map[int]string{}, map[[2]int]string{}
		for _, tile := range p.Panels {
			if other, twice := ids[tile.ID]; twice || tile.ID < 1 {
				t.Errorf("%s: panel %q has the id %d, as %q has", p.UID, tile.Title, tile.ID, other)
			}
			ids[tile.ID] = tile.Title
			g := tile.GridPos
			if g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
				t.Errorf("%s: panel %q lies outside of the 24 columns: %+v", p.UID, tile.Title, g)
			}
			for x := g.X; x < g.X+g.W; x++ {
				for y := g.Y; y < g.Y+g.H; y++ {
					if other, lies := taken[[2]int{x, y}]; lies {
						t.Fatalf("%s: panel %q lies over %q", p.UID, tile.Title, other)
					}
					taken[[2]int{x, y}] = tile.Title
				}
			}
		}
	}
}

// TestQueries: each panel asks one of the provisioned data sources, in the
// words of its plugin.
func TestQueries(t *testing.T) {
	known := provisioned(t)
	check := func(where string, ds *dataSource) {
		if ds == nil || known[ds.UID] == "" || known[ds.UID] != ds.Type {
			t.Errorf("%s: data source %+v is not provisioned", where, ds)
		}
	}
	for _, p := range pages(t) {
		for _, v := range p.Templating.List {
			if v.Type == "query" {
				check(p.UID+" "+v.Name, v.Datasource)
			}
		}
		for _, tile := range p.Panels {
			if tile.Type == "row" {
				continue
			}
			where := p.UID + " " + tile.Title
			check(where, tile.Datasource)
			if len(tile.Targets) == 0 {
				t.Errorf("%s asks nothing", where)
			}
			for _, q := range tile.Targets {
				check(where, q.Datasource)
				switch {
				case q.Datasource.UID == prometheusUID && (q.Expr == "" || q.EditorMode != "code" || q.RawSQL != ""):
					t.Errorf("%s: a query to Prometheus has expr alone: %+v", where, q)
				case q.Datasource.UID == clickhouseUID && (q.RawSQL == "" || q.EditorType != "sql" || q.PluginVersion != pluginVersion || q.Format == nil || (*q.Format == 0) != (q.QueryType == "timeseries")):
					t.Errorf("%s: a query to ClickHouse has rawSql, editorType sql, and format 0 for a time series or 1 for a table: %+v", where, q)
				case strings.ContainsAny(q.RawSQL, ";") || strings.Contains(q.RawSQL, "--"):
					t.Errorf("%s: the plugin parses statements to take conditions out; comments and semicolons break that", where)
				}
			}
		}
	}
}

// provisioned are the types of the data sources by their uid.
func provisioned(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("provisioning/datasources/catena.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []struct {
			Name, UID, Type string
			JSONData        map[string]any    `yaml:"jsonData"`
			SecureJSONData  map[string]string `yaml:"secureJsonData"`
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil || file.APIVersion != 1 {
		t.Fatalf("apiVersion %d, %v", file.APIVersion, err)
	}
	types := map[string]string{}
	for _, d := range file.Datasources {
		types[d.UID] = d.Type
		for name, secret := range d.SecureJSONData {
			if !strings.HasPrefix(secret, "$") {
				t.Errorf("%s: %s has to come from the environment", d.Name, name)
			}
		}
	}
	return types
}

// TestVariables: every variable that is asked for is used, and every one that
// is used is there. Links lead to pages that exist and set what these have.
func TestVariables(t *testing.T) {
	all := pages(t)
	variables := map[string][]string{}
	for _, p := range all {
		variables[p.UID] = []string{}
		for _, v := range p.Templating.List {
			variables[p.UID] = append(variables[p.UID], v.Name)
		}
	}
	used := regexp.MustCompile(`\$\{?([a-z]+)\b`)
	link := regexp.MustCompile(`/d/([a-z-]+)\?var-([a-z]+)=`)
	for name, text := range files() {
		uid := strings.TrimSuffix(name, ".json")
		body := string(text[bytes.Index(text, []byte(`"panels"`)):bytes.LastIndex(text, []byte(`"refresh"`))])
		found := map[string]bool{}
		for _, m := range used.FindAllStringSubmatch(body, -1) {
			found[m[1]] = true
			if !slices.Contains(variables[uid], m[1]) {
				t.Errorf("%s uses the variable %s, which it does not have", uid, m[1])
			}
		}
		for _, v := range variables[uid] {
			if !found[v] {
				t.Errorf("%s has the variable %s and does not use it", uid, v)
			}
		}
		for _, m := range link.FindAllStringSubmatch(body, -1) {
			if !slices.Contains(variables[m[1]], m[2]) {
				t.Errorf("%s links to %s with the variable %s, which is not there", uid, m[1], m[2])
			}
		}
	}
}

// TestProvider: Grafana looks for the dashboards where the README says that
// they are mounted.
func TestProvider(t *testing.T) {
	text, err := os.ReadFile("provisioning/dashboards/catena.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Name, Type string
			Options    struct{ Path string }
		}
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &file); err != nil || file.APIVersion != 1 || len(file.Providers) != 1 || file.Providers[0].Type != "file" {
		t.Fatalf("%+v %v", file, err)
	}
	if path := file.Providers[0].Options.Path; !strings.Contains(string(readme), path) {
		t.Errorf("README.md does not name %s", path)
	}
}
