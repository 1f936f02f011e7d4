package main

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"catena/correlate"
	"catena/ingest"
	"catena/schemas"
	"catena/sinks"
	"catena/sinks/jsonl"
)

// wanted is one line of a table in stories/README.md.
type wanted struct {
	story, source, at, action, grade, reason, root, cause, flags string
	other                                                        []string // name=value
}

func (w wanted) String() string { return w.story + ": " + w.source + " " + w.at + " " + w.action }

// readWanted reads the tables of stories/README.md.
func readWanted(t *testing.T) []wanted {
	t.Helper()
	text, err := stories.ReadFile("stories/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var out []wanted
	story := ""
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "## "); ok {
			story, _, _ = strings.Cut(strings.TrimSpace(name), ":")
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 9 || !strings.Contains(cells[0], ".") || strings.HasPrefix(cells[0], "---") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		out = append(out, wanted{story, cells[0], cells[1], cells[2], cells[3], cells[4], cells[5], cells[6], cells[7], splitOther(cells[8])})
	}
	if len(out) < 100 {
		t.Fatalf("only %d rows were read from the tables", len(out))
	}
	return out
}

// splitOther cuts "mfa=yes push (lent) policy=allow" before each name=.
func splitOther(s string) (out []string) {
	for _, word := range strings.Fields(s) {
		if strings.Contains(word, "=") || len(out) == 0 {
			out = append(out, word)
		} else {
			out[len(out)-1] += " " + word
		}
	}
	return out
}

// storyRecords returns the records of the stories whose folder the filter
// takes.
func storyRecords(t *testing.T, take func(story string) bool) []schemas.Record {
	t.Helper()
	var records []schemas.Record
	for _, name := range storyFiles() {
		if !take(path.Base(path.Dir(name))) {
			continue
		}
		err := eachStoryRecord(name, func(value []byte) error {
			records = append(records, schemas.Record{Topic: topicOf(name), Offset: int64(len(records)), Value: value})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return records
}

// testConfig correlates without limits in time.
func testConfig() *config {
	return &config{HMACKey: "a key for tests only", AllowedLateness: correlate.Forever, Window: correlate.Forever, Skew: time.Second}
}

// compiled is the one stitcher whose decoder all tests clone: compiling the
// sources is dear.
var compiled = sync.OnceValues(func() (stitcher, error) { return newStitcher(testConfig(), nil) })

// testStitcher is a new one that has seen nothing.
func testStitcher(t *testing.T, decoders int) *stitcher {
	t.Helper()
	first, err := compiled()
	if err != nil {
		t.Fatal(err)
	}
	st := &stitcher{decoded: make([]ingest.Decoded, decoders), engine: correlate.New(testConfig().correlator()),
		skips: map[string]int64{}, unclassified: map[string]int64{}}
	for range decoders {
		st.decoders = append(st.decoders, first.decoders[0].Clone())
	}
	return st
}

// stitchAll correlates records in chunks and returns the final rows.
func stitchAll(t *testing.T, records []schemas.Record, size int) (map[schemas.ID]*schemas.Action, *stitcher) {
	t.Helper()
	st := testStitcher(t, 2)
	final := map[schemas.ID]*schemas.Action{}
	for part := range slices.Chunk(records, size) {
		var batch sinks.Batch
		if err := st.decode(part); err != nil {
			t.Fatal(err)
		}
		st.correlate(&batch)
		for _, d := range batch.DeadLetters {
			t.Errorf("%s@%d: %s: %s", d.Evidence.Topic, d.Evidence.Offset, d.Reason, d.Error)
		}
		for _, a := range batch.Actions {
			final[a.ID] = a
		}
	}
	return final, st
}

// TestStories holds the final rows of every story, each by itself and all
// together, against what stories/README.md says must come out.
func TestStories(t *testing.T) {
	want := readWanted(t)
	var names []string
	for _, w := range want {
		if !slices.Contains(names, w.story) {
			names = append(names, w.story)
		}
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			rows, _ := stitchAll(t, storyRecords(t, func(s string) bool { return s == name }), 7)
			mine := slices.DeleteFunc(slices.Clone(want), func(w wanted) bool { return w.story != name })
			if len(rows) != len(mine) {
				t.Errorf("%d rows, want %d", len(rows), len(mine))
			}
			for _, w := range mine {
				checkRow(t, w, rows)
			}
		})
	}
	t.Run("all together, backwards", func(t *testing.T) {
		records := storyRecords(t, func(string) bool { return true })
		slices.Reverse(records)
		rows, _ := stitchAll(t, records, 1000)
		for _, w := range want {
			checkRow(t, w, rows)
		}
	})
}

// TestStoriesInAnyOrder: the same lines, byte for byte, whatever the order.
func TestStoriesInAnyOrder(t *testing.T) {
	records := storyRecords(t, func(string) bool { return true })
	want := storyLines(t, records, 64)
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 1))
		rng.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
		if got := storyLines(t, records, 1+rng.IntN(200)); got != want {
			t.Fatalf("seed %d: %s", seed, firstDifference(want, got))
		}
	}
}

// storyLines are the final rows as stitch prints them. Version and processing
// times are set alike, since they tell of the run and not of the action.
func storyLines(t *testing.T, records []schemas.Record, size int) string {
	t.Helper()
	rows, _ := stitchAll(t, records, size)
	var buf bytes.Buffer
	for _, a := range slices.SortedFunc(maps.Values(rows), actionOrder) {
		row := *a
		row.Version = 1
		if err := jsonl.Encode(&buf, &row); err != nil {
			t.Fatal(err)
		}
	}
	return processingTimes.ReplaceAllString(buf.String(), "")
}

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			at := 0
			for at < min(len(x[i]), len(y[i])) && x[i][at] == y[i][at] {
				at++
			}
			from := max(0, at-120)
			return fmt.Sprintf("line %d, from byte %d:\n%.400s\n%.400s", i, from, x[i][from:], y[i][from:])
		}
	}
	return fmt.Sprintf("%d lines and %d lines", len(x), len(y))
}

// checkRow finds the row and compares what the table says of it.
func checkRow(t *testing.T, w wanted, rows map[schemas.ID]*schemas.Action) {
	t.Helper()
	a := findRow(w, rows)
	if a == nil {
		t.Errorf("%v: no such row", w)
		return
	}
	root := ""
	if !a.Root.IsZero() {
		root = a.Root.Kind.String() + " " + a.Root.ID()
	}
	cause := ""
	switch {
	case a.CauseGrade == schemas.CauseAmbiguous:
		cause = "ambiguous"
	case a.CauseGrade != schemas.CauseNone && rows[a.CauseID] != nil:
		cause = rows[a.CauseID].Event.Action + ", " + a.CauseGrade.String()
	}
	for _, c := range []struct{ name, got, want string }{
		{"grade", a.Grade.String(), w.grade}, {"reason", a.Reason.String(), w.reason}, {"root", root, w.root},
		{"cause", cause, w.cause}, {"flags", a.Flags.String(), w.flags},
	} {
		if c.got != c.want {
			t.Errorf("%v: %s %q, want %q\nhops %v", w, c.name, c.got, c.want, hopText(a))
		}
	}
	checkOther(t, w, a)
}

func checkOther(t *testing.T, w wanted, a *schemas.Action) {
	t.Helper()
	named := map[string]bool{}
	for _, o := range w.other {
		name, want, _ := strings.Cut(o, "=")
		named[name] = true
		want, lent := strings.CutSuffix(want, " (lent)")
		got := map[string]string{
			"mfa": a.MFA.String() + " " + a.AuthMethod, "policy": a.PolicyDecision.String(), "grant": a.GrantID,
			"authority": a.Authority, "frontier": a.Frontier.String(), "candidates": candidateText(a),
		}[name]
		if got != want {
			t.Errorf("%v: %s %q, want %q", w, name, got, want)
		}
		if hasLent := slices.ContainsFunc(a.Hops, func(h schemas.Hop) bool { return h.Lent }); name == "mfa" && hasLent != lent {
			t.Errorf("%v: a lent session in hops: %v, want %v", w, hasLent, lent)
		}
	}
	if w.story == "3-jit" && !named["grant"] && a.GrantID != "" {
		t.Errorf("%v: grant %q, want none", w, a.GrantID)
	}
	if w.story == "5-policy" && !named["policy"] && a.PolicyDecision != schemas.VerdictNone {
		t.Errorf("%v: policy %q, want none", w, a.PolicyDecision)
	}
}

func candidateText(a *schemas.Action) string {
	var out []string
	for _, c := range a.Candidates {
		if a.Flags&schemas.FlagDivergent != 0 {
			out = append(out, c.Root.String())
		} else {
			out = append(out, c.Parent.String())
		}
	}
	return strings.Join(out, ",")
}

func findRow(w wanted, rows map[schemas.ID]*schemas.Action) *schemas.Action {
	for _, a := range rows {
		if a.Source == w.source && a.Event.Action == w.action && strings.HasPrefix(time.Unix(0, a.TimeNanos).UTC().Format("15:04:05.000000000"), w.at) {
			return a
		}
	}
	return nil
}

func hopText(a *schemas.Action) string {
	var out []string
	for _, h := range a.Hops {
		out = append(out, fmt.Sprintf("%s[%s %s]", h.Key, h.Relation, h.Strength))
	}
	return strings.Join(out, " → ")
}

// processingTimes are the members of a line that tell when it was made.
var processingTimes = regexp.MustCompile(`"(ingested_at|attributed_at)":"[^"]*",?`)

// offsets are where a record lay in its file.
var offsets = regexp.MustCompile(`"offset":\d+,`)
