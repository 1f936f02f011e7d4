package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSourcesDoc does what docs/sources.md says. A fenced block with a file's
// name behind its language is written; a console block is run, each command
// behind its $, and what follows is what it must print.
func TestSourcesDoc(t *testing.T) {
	text, err := os.ReadFile("../../docs/sources.md")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	ran := 0
	for _, b := range fencedBlocks(string(text)) {
		switch words := strings.Fields(b.info); {
		case b.info == "console":
			ran += runConsole(t, b.text)
		case len(words) == 2:
			if err := os.MkdirAll(filepath.Dir(words[1]), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, words[1], b.text)
		}
	}
	if ran < 5 {
		t.Errorf("only %d commands were found", ran)
	}
}

// fenced is a block between lines of three backticks.
type fenced struct{ info, text string }

func fencedBlocks(text string) (out []fenced) {
	var block *fenced
	for line := range strings.Lines(text) {
		info, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && block == nil:
			block = &fenced{info: info}
		case isFence:
			out = append(out, *block)
			block = nil
		case block != nil:
			block.text += line
		}
	}
	return out
}

// shellLine is a command of a console block: variables, arguments and perhaps
// a jq filter that lists members.
var shellLine = regexp.MustCompile(`^\$ ((?:[A-Z_]+=\S+ )*)catena ([^|]*?)(?: \| jq -c '\[([^\]]*)\]')?$`)

func runConsole(t *testing.T, text string) (ran int) {
	for part := range strings.SplitSeq("\n"+strings.TrimSuffix(text, "\n"), "\n$ ") {
		if part == "" {
			continue
		}
		command, want, _ := strings.Cut(part, "\n")
		m := shellLine.FindStringSubmatch("$ " + command)
		if m == nil {
			t.Errorf("%q is no command that the test can run", command)
			continue
		}
		t.Setenv("CATENA_SOURCES_DIR", "") // what the lines before set is gone
		for pair := range strings.FieldsSeq(m[1]) {
			name, value, _ := strings.Cut(pair, "=")
			t.Setenv(name, value)
		}
		_, out, errs := runCommandLine(t, "", strings.Fields(m[2])...)
		if m[3] != "" {
			out = jq(t, m[3], out)
		}
		if got := strings.TrimSuffix(out+errs, "\n"); got != want && !(m[3] != "" && strings.TrimSuffix(out, "\n") == want) {
			t.Errorf("%s\nprints:\n%s\nthe page says:\n%s", command, got, want)
		}
		ran++
	}
	return ran
}

// jq prints the named members of each line, as jq -c '[.a,.b]' does.
func jq(t *testing.T, members, lines string) (out string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		var row map[string]any
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		var values []any
		for name := range strings.SplitSeq(members, ",") {
			values = append(values, row[strings.TrimPrefix(name, ".")])
		}
		text, err := json.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		out += string(text) + "\n"
	}
	return out
}
