package main

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// TestOperationsGuide: its statements run, and the commands and settings that
// it names exist.
func TestOperationsGuide(t *testing.T) {
	for _, name := range []string{"operations.md", "sizing.md"} {
		text, err := os.ReadFile("../../docs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		guide := string(text)
		known := map[string]bool{"CATENA_CACHE": true, "CATENA_LIBCHDB": true, "CATENA_SIZING_LIMIT": true}
		eachField(&config{}, func(setting string, f reflect.StructField, _ reflect.Value) error {
			known[setting] = true
			if f.Tag.Get("secret") != "" {
				known[setting+"_FILE"] = true
			}
			return nil
		})
		for _, setting := range regexp.MustCompile(`\bCATENA_[A-Z][A-Z_]*[A-Z]\b`).FindAllString(guide, -1) {
			if !known[setting] {
				t.Errorf("%s names %s, which is no setting", name, setting)
			}
		}
		names := " version "
		for _, c := range commands() {
			names += c.name + " "
		}
		for _, m := range regexp.MustCompile("(?:`|\n)catena ([a-z]+)").FindAllStringSubmatch(guide, -1) {
			if !strings.Contains(names, " "+m[1]+" ") {
				t.Errorf("%s names catena %s, which is no command", name, m[1])
			}
		}
	}
}

// TestOperationsStatements runs them on the tables of the demo.
func TestOperationsStatements(t *testing.T) {
	store := demoTables(t)
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	statements := regexp.MustCompile("`SELECT [^O`][^`]*`").FindAllString(string(text), -1)
	if len(statements) == 0 {
		t.Fatal("the guide has no statements")
	}
	for _, s := range statements {
		sql := strings.NewReplacer("`", "", "…", "okta.system", "catena.", "", "\n", " ").Replace(s)
		if _, _, err := store.Query(t.Context(), sql, 10); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
}
