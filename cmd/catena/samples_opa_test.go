package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"catena/schemas"
)

// TestRealOPA: of what a real OPA wrote, every decision is a row with its
// verdict, and every other line of the server's log is left out by name. The
// caller's span is known where OPA was told to log its header, and nowhere
// else: the trace that OPA invents for itself joins nothing.
func TestRealOPA(t *testing.T) {
	dir := os.Getenv("CATENA_SAMPLES")
	if dir == "" {
		t.Skip("CATENA_SAMPLES is not set: no real records to read")
	}
	for file, decisions := range map[string]int{"decisions-plain": 6, "decisions-tracing": 14, "server-log-mixed": 14} {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(dir, "real-software", "opa", file+".jsonl"))
			if err != nil {
				t.Fatal(err)
			}
			var records []schemas.Record
			if file == "server-log-mixed" { // as a collector reads it, in which not all lines are records
				records = []schemas.Record{{Topic: file, Value: text}}
			} else {
				for line := range bytes.Lines(text) {
					records = append(records, schemas.Record{Topic: file, Offset: int64(len(records)), Value: bytes.TrimSpace(line)})
				}
			}
			want := opaLines(t, text)
			rows, _ := stitchAll(t, records, 8)
			if len(rows) != len(want) || len(rows) < decisions {
				t.Errorf("%d rows of %d decisions, want at least %d", len(rows), len(want), decisions)
			}
			for _, a := range rows {
				line, ok := want[a.Decision.ID]
				if !ok || a.Source != "opa.decision" || a.Class != schemas.ClassDecision {
					t.Errorf("%s is no decision of the file", rowText(a))
					continue
				}
				if a.PolicyDecision != line.verdict() {
					t.Errorf("%s: verdict %v, want %v", a.Decision.ID, a.PolicyDecision, line.verdict())
				}
				var span string
				if header := line.Context.HTTP.Headers["Traceparent"]; len(header) > 0 {
					parts := strings.Split(header[0], "-")
					span = parts[1] + "/" + parts[2]
				}
				if got := a.FirstKey(schemas.KindCall).Value; got != span {
					t.Errorf("%s: the caller's span is %q, want %q", a.Decision.ID, got, span)
				}
			}
		})
	}
}

type opaLine struct {
	ID      string          `json:"decision_id"`
	Result  json.RawMessage `json:"result"`
	Context struct {
		HTTP struct {
			Headers map[string][]string `json:"headers"`
		} `json:"http"`
	} `json:"request_context"`
}

// opaLines are the decisions among the lines, by id.
func opaLines(t *testing.T, text []byte) map[string]opaLine {
	t.Helper()
	out := map[string]opaLine{}
	for line := range bytes.Lines(text) {
		var l opaLine
		if json.Unmarshal(line, &l) == nil && l.ID != "" {
			out[l.ID] = l
		}
	}
	return out
}

func (l *opaLine) verdict() schemas.Verdict {
	var yes bool
	var rule struct{ Allow *bool }
	switch {
	case l.Result == nil:
		return schemas.VerdictUndefined
	case json.Unmarshal(l.Result, &yes) == nil:
	case json.Unmarshal(l.Result, &rule) == nil && rule.Allow != nil:
		yes = *rule.Allow
	default:
		return schemas.VerdictNone // of another shape
	}
	if yes {
		return schemas.VerdictAllow
	}
	return schemas.VerdictDeny
}
