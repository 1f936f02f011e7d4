package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestImports holds the one-way path: schemas imports nothing of ours; ingest,
// correlate and sinks import schemas and themselves; nothing imports cmd. Only
// ingest knows Kafka, only sinks knows ClickHouse. It reads the files rather
// than asking the go command, whose answer the test cache would keep.
func TestImports(t *testing.T) {
	allowed := map[string][]string{
		"schemas":   {"catena/schemas"},
		"ingest":    {"catena/schemas", "catena/ingest"},
		"correlate": {"catena/schemas", "catena/correlate"},
		"sinks":     {"catena/schemas", "catena/sinks"},
		"cmd":       {"catena/schemas", "catena/ingest", "catena/correlate", "catena/sinks"},
	}
	owner := map[string]string{"github.com/twmb/": "ingest", "github.com/ClickHouse/": "sinks", "github.com/ebitengine/": "sinks", "github.com/kelseyhightower/": "cmd"}
	files := 0
	for top, may := range allowed {
		err := filepath.WalkDir(filepath.Join("..", "..", top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			files++
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, spec := range f.Imports {
				imp, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					return err
				}
				if strings.HasPrefix(imp, "catena/") && !underAny(imp, may) {
					t.Errorf("%s imports %s: %s may import only %s", path, imp, top, strings.Join(may, ", "))
				}
				for prefix, who := range owner {
					if strings.HasPrefix(imp, prefix) && top != who && !strings.HasSuffix(path, "_test.go") {
						t.Errorf("%s imports %s: that is for %s alone", path, imp, who)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 20 {
		t.Fatalf("only %d files were read: the test does not see the project", files)
	}
}

func underAny(imp string, roots []string) bool {
	for _, r := range roots {
		if imp == r || strings.HasPrefix(imp, r+"/") {
			return true
		}
	}
	return false
}
