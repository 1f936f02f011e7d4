package main

import (
	"bytes"
	"testing"

	"catena/schemas/sources"
)

// explainText is what catena explain prints for the stories.
func explainText(t *testing.T, what string, f explainFlags) string {
	t.Helper()
	set, err := sources.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	if f.limit == 0 {
		f.limit = 10
	}
	e, err := (&asker{store: demoTables(t), sources: set}).explain(t.Context(), what, f)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := e.write(&environment{stdout: &out, getenv: func(string) string { return "" }}, f); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
