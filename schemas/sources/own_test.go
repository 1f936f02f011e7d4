package sources

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// folder writes files under a new folder; a name that ends in / is a folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			continue
		}
		if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func named(name, more string) string { return strings.Replace(small, "test", name, 1) + more }

func builtIn(t *testing.T) *Set {
	t.Helper()
	var list []*Source
	for _, text := range []string{named("early", "priority: 20\n"), named("usual", ""), named("late", "priority: 80\n")} {
		src, err := parse("built-in", "", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, src)
	}
	set, err := NewSet(list...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestOwnSources(t *testing.T) {
	dir := folder(t, map[string]string{
		"any-file.yaml":        named("acme.app", ""),
		"acme.db/source.yaml":  named("acme.db", "priority: 10\n"),
		"acme.db/notes.txt":    "not a source",
		"late.yml":             named("late", "replaces: true\n"),
		"README.md":            "not a source either",
		"..data/acme.app.yaml": named("acme.app", ""), // as a mounted config map has it
	})
	own, err := ReadFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	set, err := builtIn(t).With(own...)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(set), []string{"acme.db", "early", "usual", "acme.app", "late"}; !slices.Equal(got, want) {
		t.Errorf("tried in the order %q, want %q", got, want)
	}
	if src, _ := set.Get("late"); src.File != filepath.Join(dir, "late.yml") || src.Priority != 80 {
		t.Errorf("what replaces a source comes from %q with priority %d", src.File, src.Priority)
	}
	if src, _ := set.Get("acme.app"); src.Where() != filepath.Join(dir, "any-file.yaml") {
		t.Errorf("acme.app is from %s", src.Where())
	} else if text, err := src.YAML(); err != nil || string(text) != named("acme.app", "") {
		t.Errorf("its text is %q, %v", text, err)
	}
}

// TestOwnSourcesFaults: every fault of every file is told at once, with the
// file, the line, the column and what to do.
func TestOwnSourcesFaults(t *testing.T) {
	dir := folder(t, map[string]string{
		"a.yaml":             named("acme.a", "klass: login\nkeys: [\"tocken:acme:{a}\"]\n"),
		"b.yaml":             named("acme.b", "action: {event}\n"),
		"c/source.yaml":      named("other", ""),
		"d/readme.txt":       "",
		"broken.yaml":        "name: [\n",
		"e.yaml":             "name: acme.e\n",
		"not a name.yaml":    named("'Acme E'", ""),
		"huge.yaml":          strings.Repeat("# much\n", maxFileBytes/6),
		"sub/dir/other.yaml": "ignored: it lies too deep",
	})
	_, err := ReadFolder(dir)
	if err == nil {
		t.Fatal("nothing is wrong")
	}
	for _, want := range []string{
		`/a.yaml: line 5, column 1: unknown field "klass"; did you mean class? there are name,`,
		`/a.yaml: line 6, column 8: keys[0]: "tocken:acme:{a}" is no key: want kind:namespace:value`,
		`/b.yaml: line 5, column 9: action: want text, not a map: a template begins with a brace, so put it in quotes`,
		`/c/source.yaml: line 1, column 7: name: "other" is not the name of the folder, "c": make the two the same`,
		`/d/source.yaml: `,
		`/broken.yaml: line 1, column 1: not YAML:`,
		`/e.yaml: line 1, column 1: match: is missing: name the members`,
		`/e.yaml: line 1, column 1: time: is missing: write where the event time lies`,
		`/not a name.yaml: line 1, column 7: name: "Acme E" is no name: write small letters`,
		`/huge.yaml: longer than`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

func TestOwnSourcesClash(t *testing.T) {
	dir := folder(t, map[string]string{
		"1.yaml": named("usual", ""),
		"2.yaml": named("acme.app", ""),
		"3.yaml": named("acme.app", ""),
		"4.yaml": named("usaul", "replaces: true\n"),
	})
	own, err := ReadFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = builtIn(t).With(own...)
	if err == nil {
		t.Fatal("nothing clashes")
	}
	for _, want := range []string{
		`1.yaml: line 1, column 7: name: "usual" is a built-in source: choose another name, or add replaces: true`,
		`3.yaml: line 1, column 7: name: "acme.app" is also the name of ` + filepath.Join(dir, "2.yaml"),
		`4.yaml: line 1, column 7: name: there is no built-in source "usaul" that this file could replace`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
	for _, c := range []struct{ dir, want string }{
		{folder(t, map[string]string{"notes.txt": ""}), "no *.yaml in it"},
		{filepath.Join(dir, "nowhere"), "no such file or directory: name a folder"},
	} {
		if _, err := ReadFolder(c.dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.dir, err, c.want)
		}
	}
}
