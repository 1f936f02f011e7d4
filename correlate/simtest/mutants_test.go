package simtest

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	mutantsFlag = flag.Bool("mutants", false, "plant each of the known bugs in turn and see that it is found")
	mutantFlag  = flag.String("mutant", "", "plant only the bugs whose name holds this")
	mutantEvery = flag.Int("mutant.every", 1, "plant one bug in so many, of the list as it goes round")
	mutantFrom  = flag.Int("mutant.from", 0, "which of them is the first, counted modulo -mutant.every")
)

// mutant is a planted bug: in a file of the engine, a text that stands there
// once becomes another. It is compiled in with an overlay, so that what runs in
// production carries no switch.
type mutant struct {
	name     string
	file     string
	old, new string
}

// TestMutants plants each bug and expects the simulation to find it within 200
// worlds, or 300 in twenty deliveries each. One that is not found means that the
// worlds or the checks are too weak.
func TestMutants(t *testing.T) {
	if !*mutantsFlag {
		t.Skip("builds the engine anew for each bug: make mutants")
	}
	planted := 0
	for i, m := range mutants {
		if !strings.Contains(m.name, *mutantFlag) || (i+*mutantFrom)%max(1, *mutantEvery) != 0 {
			continue
		}
		planted++
		t.Run(strings.ReplaceAll(m.name, " ", "_"), func(t *testing.T) {
			found, out := m.hunt(t)
			if found == "" {
				t.Fatalf("not found\n%s", last(out, 3000))
			}
			t.Log(found)
		})
	}
	if planted == 0 {
		t.Fatalf("no bug has %q in its name", *mutantFlag)
	}
}

// TestMutantsHaveTheirPlaces keeps the list in step with the engine; to plant the
// bugs takes minutes, and not every run plants all of them.
func TestMutantsHaveTheirPlaces(t *testing.T) {
	for _, m := range mutants {
		t.Run(strings.ReplaceAll(m.name, " ", "_"), func(t *testing.T) { m.place(t) })
	}
}

// place is the file of a bug and what stands in it.
func (m *mutant) place(t *testing.T) (path, text string) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", m.file))
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(content), m.old); n != 1 {
		t.Fatalf("the text to be replaced stands %d times in %s:\n%s", n, m.file, m.old)
	}
	return path, string(content)
}

var foundBy = regexp.MustCompile(`(?s)--- FAIL: (\w+).*?(seed \d+: [^\n]*\n[^\n]*)`)

// hunt builds the tests with the bug in and runs them until one fails. It
// returns which check of which seed found it.
func (m *mutant) hunt(t *testing.T) (found, out string) {
	t.Helper()
	path, text := m.place(t)
	dir := t.TempDir()
	bad, overlay := filepath.Join(dir, "bad.go"), filepath.Join(dir, "overlay.json")
	spec, err := json.Marshal(map[string]map[string]string{"Replace": {path: bad}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{bad: strings.Replace(text, m.old, m.new, 1), overlay: string(spec)} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-overlay", overlay, "-count=1", "-failfast", "-timeout", "5m",
		"-run", "^(TestTruth|TestMetamorphic)$", ".", "-seeds", "200", "-meta", "300")
	raw, err := cmd.CombinedOutput()
	out = string(raw)
	if strings.Contains(out, "[build failed]") || strings.Contains(out, "[setup failed]") {
		t.Fatalf("does not compile\n%s", last(out, 3000))
	}
	if err == nil {
		return "", out
	}
	if f := foundBy.FindStringSubmatch(out); f != nil {
		return f[1] + ", " + strings.Join(strings.Fields(f[2]), " "), out
	}
	return "", out
}

func last(s string, n int) string { return s[max(0, len(s)-n):] }
