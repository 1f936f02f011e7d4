package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"catena/schemas"
)

// command runs the program in process and returns its exit code and output.
func runCommandLine(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	env := &environment{stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs, getenv: os.Getenv}
	code = run(t.Context(), env, args)
	return code, out.String(), errs.String()
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestStitchReadsStandardInput, and names what it could not decode.
func TestStitchReadsStandardInput(t *testing.T) {
	text, err := stories.ReadFile("stories/5-policy/okta.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	code, out, errs := runCommandLine(t, string(text)+"{broken\n", "stitch")
	if code != exitFound || strings.Count(out, "\n") != 7 || !strings.Contains(errs, "malformed") {
		t.Errorf("exit code %d, %d lines\n%s", code, strings.Count(out, "\n"), errs)
	}
	_, updates, _ := runCommandLine(t, string(text), "stitch", "--updates", "-")
	if n := strings.Count(updates, "\n"); n < 7 {
		t.Errorf("--updates prints %d lines, want each row at least once", n)
	}
}

func TestHelpTeaches(t *testing.T) {
	for _, c := range commands() {
		code, out, _ := runCommandLine(t, "", c.name, "--help")
		if code != exitOK || !strings.Contains(out, "usage: catena "+c.name) || len(out) < 200 {
			t.Errorf("catena %s --help: exit code %d, %d bytes", c.name, code, len(out))
		}
	}
}

// TestDemo tells the five stories on the embedded servers.
func TestDemo(t *testing.T) {
	database(t) // skips where the engine is not there; the demo below runs in a process of its own
	c := newCatena(t, cluster{"127.0.0.1:1"}, "http://127.0.0.1:1", "unused", "unused")
	c.run("demo")
	out := c.text()
	for _, want := range []string{
		"Story 1.", "Alice Moreau", "s3:GetObject", "cause exact", "missing: the id of the access token",
		"Story 2.", "dana-acme", "rollback-bot", "Story 3.", "outside_grant", "DROP TABLE", "Story 4.", "divergent",
		"Story 5.", "denied_but_done", "policy allow", "Three statements to try",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the demo does not print %q", want)
		}
	}
	if strings.Contains(out, "FIXTURESECRET") {
		t.Error("the demo prints a secret")
	}
}

// TestTreeDrawsEveryRow: spans that name each other as parent cannot hide.
func TestTreeDrawsEveryRow(t *testing.T) {
	call := func(span string) schemas.Key {
		return schemas.Key{Kind: schemas.KindCall, Namespace: "span", Value: "t/" + span}
	}
	var rows []*schemas.Action
	for _, pair := range [][2]string{{"aa", "bb"}, {"bb", "aa"}} {
		a := &schemas.Action{Event: schemas.Event{ID: schemas.MakeID(pair[0]), Action: "span " + pair[0], SpanID: pair[0], Keys: []schemas.Key{call(pair[0])}}}
		a.Hops = []schemas.Hop{{Key: call(pair[1])}, {Key: call(pair[0])}}
		rows = append(rows, a)
	}
	var out bytes.Buffer
	(&painter{w: &out}).chain(rows)
	if !strings.Contains(out.String(), "span aa") || !strings.Contains(out.String(), "span bb") {
		t.Errorf("a row is not drawn:\n%s", out.String())
	}
}

// TestPrintedTextIsSafe: escape sequences of a log do not reach the terminal.
func TestPrintedTextIsSafe(t *testing.T) {
	evil := "\x1b[2J\x1b]0;owned\x07\rrm"
	a := &schemas.Action{Event: schemas.Event{Action: evil, Resource: evil, Authority: evil, Actor: schemas.Key{Kind: schemas.KindHuman, Namespace: "x", Value: evil}}}
	a.Hops = []schemas.Hop{{Key: a.Actor, Name: evil}}
	a.Root, a.Reason = a.Actor, schemas.ReasonNoKey
	var out bytes.Buffer
	p := &painter{w: &out, all: true}
	p.action(a)
	p.chain([]*schemas.Action{a})
	printTable(&out, []string{"c"}, [][]string{{evil}})
	if strings.ContainsAny(out.String(), "\x1b\x07\r") || !strings.Contains(out.String(), "owned") {
		t.Errorf("%q", out.String())
	}
}
