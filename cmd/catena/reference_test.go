package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"catena/schemas/sources"
)

const referenceFile = "../../docs/reference.md"

// TestReference compares docs/reference.md with the code. The parts between
// `<!-- begin NAME -->` and `<!-- end NAME -->` are made of the code and have
// to be the same to the letter, which holds both ways: nothing is missing there,
// and nothing is there that the code does not have. -update writes them.
func TestReference(t *testing.T) {
	text, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]string{
		"commands": referenceCommands(t), "exit codes": referenceExitCodes(t), "settings": referenceSettings(),
		"metrics": referenceMetrics(), "words": referenceWords(t), "alerts": referenceAlerts(t), "recording rules": referenceRecordings(t),
	}
	doc := string(text)
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->"
		before, rest, ok := strings.Cut(doc, begin)
		is, after, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Errorf("docs/reference.md has no lines %q and %q", strings.TrimSpace(begin), end)
			continue
		}
		if is == parts[name] {
			continue
		}
		if *update {
			doc = before + begin + parts[name] + end + after
			continue
		}
		t.Errorf("docs/reference.md, %s:\n%swrite it with `go test ./cmd/catena -run TestReference -update`", name, differing(is, parts[name]))
	}
	if *update && doc != string(text) {
		if err := os.WriteFile(referenceFile, []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name := range parts {
		if n := strings.Count(doc, "begin "+name+" -->"); n > 1 {
			t.Errorf("docs/reference.md has the part %q %d times", name, n)
		}
	}
}

// differing lists the lines that have to be added and those that have to go.
func differing(is, want string) string {
	var b strings.Builder
	a, w := strings.Split(is, "\n"), strings.Split(want, "\n")
	for _, line := range w {
		if !slices.Contains(a, line) {
			fmt.Fprintf(&b, "  add:    %s\n", line)
		}
	}
	for _, line := range a {
		if !slices.Contains(w, line) {
			fmt.Fprintf(&b, "  remove: %s\n", line)
		}
	}
	if b.Len() == 0 {
		b.WriteString("  the same lines in another order\n")
	}
	return b.String()
}

// cell makes a text fit into a table.
func cell(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, "|", `\|`), "\n", " ") }

func referenceSettings() string {
	var b strings.Builder
	b.WriteString("\n| variable | default | what |\n|---|---|---|\n")
	var c config
	eachField(&c, func(name string, f reflect.StructField, _ reflect.Value) error {
		def, also := "", ""
		if d := f.Tag.Get("default"); d != "" {
			def = "`" + d + "`"
		}
		if f.Tag.Get("secret") != "" {
			also = "; also as `…_FILE`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s%s |\n", name, def, cell(f.Tag.Get("desc")), also)
		return nil
	})
	return b.String() + "\n"
}

func referenceMetrics() string {
	var b strings.Builder
	b.WriteString("\n| metric | type | labels | what |\n|---|---|---|---|\n")
	for _, m := range allMetrics() {
		labels := ""
		if len(m.labels) > 0 {
			labels = "`" + strings.Join(m.labels, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, m.kind, labels, cell(m.help))
	}
	return b.String() + "\n"
}

// allMetrics are those of every command.
func allMetrics() []metric {
	return append(append(processMetrics().all, newMeter(&pipeline{}).set.all...), newCanaryMeter(0).set.all...)
}

// ruleFile is a file of Prometheus rules.
type ruleFile struct {
	Groups []struct {
		Name  string
		Rules []rule
	}
}

type rule struct {
	Alert, Record, Expr, For string
	Labels, Annotations      map[string]string
}

func rules(t *testing.T, name string) (all []rule) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "prometheus", name))
	if err != nil {
		t.Fatal(err)
	}
	var f ruleFile
	if err := yaml.Unmarshal(text, &f); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, g := range f.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 5 {
		t.Fatalf("%s has %d rules: the test does not see them", name, len(all))
	}
	return all
}

func referenceAlerts(t *testing.T) string {
	var b strings.Builder
	b.WriteString("\n| alert | severity | for | what |\n|---|---|---|---|\n")
	for _, r := range rules(t, "alerts.yaml") {
		path := strings.TrimPrefix(r.Annotations["runbook"], "docs/")
		fmt.Fprintf(&b, "| [%s](%s) | %s | %s | %s |\n", r.Alert, path, r.Labels["severity"], cmp.Or(r.For, "at once"), cell(withoutTemplates(r.Annotations["summary"])))
	}
	return b.String() + "\n"
}

// withoutTemplates shows what stands for a value by its name.
func withoutTemplates(s string) string {
	return regexp.MustCompile(`\{\{ *\$(?:labels\.)?(\w+)[^}]*\}\}`).ReplaceAllString(s, "<$1>")
}

func referenceRecordings(t *testing.T) string {
	var b strings.Builder
	b.WriteString("\n| recorded | of |\n|---|---|\n")
	for _, r := range rules(t, "recording.yaml") {
		fmt.Fprintf(&b, "| `%s` | `%s` |\n", r.Record, cell(strings.Join(strings.Fields(r.Expr), " ")))
	}
	return b.String() + "\n"
}

// TestRules: alerts and recordings speak only of metrics and labels that there
// are, and every alert says how bad it is, what it means and what to do. What
// the expressions mean is for Prometheus' own parser: make check-deploy.
func TestRules(t *testing.T) {
	known := map[string]string{"up": ""}
	for _, m := range allMetrics() {
		known[m.name] = ""
		if m.kind == "histogram" {
			known[m.name+"_bucket"], known[m.name+"_count"], known[m.name+"_sum"] = "", "", ""
		}
	}
	name := regexp.MustCompile(`[a-z_:0-9]*catena_[a-z_:0-9]+`)
	recorded := rules(t, "recording.yaml")
	for _, r := range recorded {
		known[r.Record] = ""
	}
	used := map[string]bool{}
	alerts := rules(t, "alerts.yaml")
	for _, r := range append(slices.Clone(recorded), alerts...) {
		for _, n := range name.FindAllString(r.Expr, -1) {
			used[n] = true
			if _, ok := known[n]; !ok {
				t.Errorf("%s%s asks for %s, which is neither a metric of docs/reference.md nor recorded", r.Alert, r.Record, n)
			}
		}
	}
	seen := map[string]bool{}
	for _, r := range alerts {
		if seen[r.Alert] || !strings.HasPrefix(r.Alert, "Catena") {
			t.Errorf("alert %q stands twice or does not begin with Catena", r.Alert)
		}
		seen[r.Alert] = true
		if s := r.Labels["severity"]; s != "page" && s != "ticket" {
			t.Errorf("%s: severity %q is neither page nor ticket", r.Alert, s)
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s lacks a summary or a description", r.Alert)
		}
		if want := "docs/operations.md#" + strings.ToLower(r.Alert); r.Annotations["runbook"] != want {
			t.Errorf("%s: runbook %q, want %q", r.Alert, r.Annotations["runbook"], want)
		}
	}
	checkRunbook(t, seen)
}

// checkRunbook compares the alerts with the headings of the operations guide,
// both ways.
func checkRunbook(t *testing.T, alerts map[string]bool) {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	headings := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (Catena[A-Za-z]+)$`).FindAllStringSubmatch(string(text), -1) {
		headings[m[1]] = true
	}
	for alert := range alerts {
		if !headings[alert] {
			t.Errorf("docs/operations.md has no heading %q that says what the alert means and what to do", alert)
		}
	}
	for h := range headings {
		if !alerts[h] {
			t.Errorf("docs/operations.md explains %s, which is no alert of deploy/prometheus/alerts.yaml", h)
		}
	}
}

// flagLine is a line of a command's help: the flag, its default, what it is for.
var flagLine = regexp.MustCompile(`(?m)^  --(\S+)( \S+)? +(.*)$`)

func referenceCommands(t *testing.T) string {
	var b strings.Builder
	b.WriteString("\n")
	for _, c := range commands() {
		_, help, _ := runCommandLine(t, "", c.name, "--help")
		fmt.Fprintf(&b, "### catena %s\n\n`catena %s`\n\n%s\n\n", c.name, strings.TrimSpace(c.name+" "+c.args), c.short)
		_, flags, ok := strings.Cut(help, "\nflags:\n")
		if !ok {
			continue
		}
		flags, _, _ = strings.Cut(flags, "\n\n")
		b.WriteString("| flag | default | what |\n|---|---|---|\n")
		for _, m := range flagLine.FindAllStringSubmatch(flags, -1) {
			def := strings.TrimSpace(m[2])
			switch def {
			case "value":
				def = ""
			case "":
				def = "off"
			default:
				def = "`" + def + "`"
			}
			fmt.Fprintf(&b, "| `--%s` | %s | %s |\n", m[1], def, cell(m[3]))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// constants returns the constants of a file, block by block.
func constants(t *testing.T, file string) (blocks [][]constant) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		var block []constant
		for _, s := range g.Specs {
			v, ok := s.(*ast.ValueSpec)
			if !ok || len(v.Names) != 1 {
				continue
			}
			c := constant{name: v.Names[0].Name, comment: strings.TrimSpace(v.Comment.Text())}
			if id, ok := v.Type.(*ast.Ident); ok {
				c.kind = id.Name
			}
			if len(v.Values) == 1 {
				if lit, ok := v.Values[0].(*ast.BasicLit); ok {
					c.value = lit.Value
				}
			}
			block = append(block, c)
		}
		blocks = append(blocks, block)
	}
	return blocks
}

type constant struct{ name, kind, value, comment string }

func referenceExitCodes(t *testing.T) string {
	var b strings.Builder
	b.WriteString("\n| code | name in the code | when |\n|---|---|---|\n")
	n := 0
	for _, block := range constants(t, "main.go") {
		for _, c := range block {
			if strings.HasPrefix(c.name, "exit") {
				if c.comment == "" && c.name == "exitOK" {
					c.comment = "done"
				}
				fmt.Fprintf(&b, "| %s | `%s` | %s |\n", c.value, c.name, cell(c.comment))
				n++
			}
		}
	}
	if n < 4 {
		t.Fatalf("main.go has %d exit codes: the test does not see them", n)
	}
	return b.String() + "\n"
}

// wordColumns are the columns in which the words of a type stand.
var wordColumns = map[string]string{
	"Class": "class", "Outcome": "outcome", "MFA": "mfa", "Verdict": "policy_decision", "Relation": "relation, of hops and bindings",
	"Strength": "strength, of hops and bindings", "Grade": "grade", "Reason": "reason", "CauseGrade": "cause_grade",
	"DeadReason": "reason, of dead_letters", "Flags": "flags",
}

// referenceWords lists the closed lists of words that stand in the tables:
// each block of constants of schemas/words.go with the words that follow it.
func referenceWords(t *testing.T) string {
	t.Helper()
	const file = "../../schemas/words.go"
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	blocks, n := constants(t, file), 0
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR {
			continue
		}
		words := wordList(t, g)
		for len(blocks) > 0 && wordColumns[blocks[0][0].kind] == "" {
			blocks = blocks[1:]
		}
		if len(blocks) == 0 || len(words) != len(blocks[0]) {
			t.Fatalf("%s: %q do not follow a block of as many constants, or wordColumns lacks their type", file, words)
		}
		fmt.Fprintf(&b, "\n### %s\n\n| word | meaning |\n|---|---|\n", wordColumns[blocks[0][0].kind])
		for i, c := range blocks[0] {
			word := "`" + words[i] + "`"
			if words[i] == "" {
				word = "empty"
			}
			fmt.Fprintf(&b, "| %s | %s |\n", word, cell(c.comment))
		}
		blocks = blocks[1:]
		n++
	}
	b.WriteString(referenceSkips(t))
	if n != len(wordColumns) {
		t.Fatalf("%s has %d lists of words, wordColumns %d", file, n, len(wordColumns))
	}
	return b.String() + "\n"
}

// referenceSkips lists the names of skips: those that are nobody's own, and
// those of the built-in sources.
func referenceSkips(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("\n### name, of skips\n\n| word | meaning |\n|---|---|\n")
	n := 0
	blocks := append(constants(t, "../../schemas/event.go"), constants(t, "../../ingest/envelope.go")...)
	for _, c := range slices.Concat(blocks...) {
		if name, err := strconv.Unquote(c.value); err == nil && strings.HasPrefix(strings.ToLower(c.name), "skip") {
			fmt.Fprintf(&b, "| `%s` | %s |\n", name, cell(cmp.Or(c.comment, "an envelope of this kind")))
			n++
		}
	}
	if n < 9 {
		t.Fatalf("schemas and ingest have %d names of skips: the test does not see them", n)
	}
	set, err := loadSources("")
	if err != nil {
		t.Fatal(err)
	}
	by := map[string][]string{}
	for _, s := range set.Sources() {
		fields := []sources.Fields{s.Common}
		for _, r := range s.Rules {
			fields = append(fields, r.Fields)
		}
		for _, f := range fields {
			if f.BindOnly == nil {
				continue
			}
			if name, ok := f.BindOnly.Literal(); ok {
				by[name] = append(by[name], "`"+s.Name+"`")
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		fmt.Fprintf(&b, "| `%s` | of %s |\n", name, strings.Join(slices.Compact(slices.Sorted(slices.Values(by[name]))), ", "))
	}
	return b.String()
}

// wordList is the value of `var xNames = []string{…}`.
func wordList(t *testing.T, g *ast.GenDecl) (words []string) {
	t.Helper()
	ast.Inspect(g, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok {
			w, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			words = append(words, w)
		}
		return true
	})
	return words
}

// variable is the name of a setting as code and documents write it.
var variable = regexp.MustCompile(`\bCATENA_[A-Z0-9_]*[A-Z0-9]\b`)

// TestVariables: whatever the program reads from the environment stands in
// docs/reference.md, and whatever any document speaks of is read by somebody.
func TestVariables(t *testing.T) {
	known := map[string]bool{}
	var c config
	eachField(&c, func(name string, f reflect.StructField, _ reflect.Value) error {
		known[name] = true
		if f.Tag.Get("secret") != "" {
			known[name+"_FILE"] = true
		}
		return nil
	})
	reference, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range namedIn(t, isProgram, "..", "../../ingest", "../../sinks", "../../correlate", "../../schemas") {
		if begins(known, name) {
			continue // such as CATENA_KAFKA_TLS in CATENA_KAFKA_TLS_…
		}
		if !known[name] && !strings.Contains(string(reference), "`"+name+"`") {
			t.Errorf("the code names %s, which is no field of config and does not stand in docs/reference.md: add it to the table of other variables there", name)
		}
		known[name] = true
	}
	// Documents may also speak of what tests and scripts read.
	for _, name := range namedIn(t, isTestOrScript, "..", "../../ingest", "../../sinks", "../../deploy", "../../Makefile") {
		known[name] = true
	}
	documents, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(documents, "../../README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range variable.FindAllString(string(text), -1) {
			if !known[name] && !begins(known, name) {
				t.Errorf("%s speaks of %s, which nothing reads: remove it, or add the field to config", file, name)
			}
		}
	}
}

// begins reports whether a name is the beginning of known ones.
func begins(known map[string]bool, name string) bool {
	for k := range known {
		if strings.HasPrefix(k, name+"_") {
			return true
		}
	}
	return false
}

func isProgram(path string) bool {
	return strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go")
}

func isTestOrScript(path string) bool {
	return strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".sh") || filepath.Base(path) == "Makefile"
}

// namedIn finds the variables that the files of a sort below some folders name.
func namedIn(t *testing.T, is func(path string) bool, folders ...string) []string {
	t.Helper()
	var names []string
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !is(path) {
				return err
			}
			text, err := os.ReadFile(path)
			names = append(names, variable.FindAllString(string(text), -1)...)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
