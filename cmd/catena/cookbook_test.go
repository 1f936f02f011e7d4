package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const cookbook = "../../docs/sql-cookbook.md"

// recipe is one question of the cookbook: its heading, the sentence that says
// why, the statement, and the answer that stands below it.
type recipe struct {
	title, why, sql, answer string
	from, to                int // where the answer stands in the page
}

// recipes reads the page. Every sql block has to be followed by the text block
// of its answer, and to stand under a heading of its own with a sentence.
func recipes(t *testing.T, page string) (all []recipe) {
	t.Helper()
	const sqlFence, textFence, fence = "\n```sql\n", "\n\n```text\n", "```\n"
	for at := 0; ; {
		start := strings.Index(page[at:], sqlFence)
		if start < 0 {
			return all
		}
		head := page[at : at+start]
		sql, rest, closed := strings.Cut(page[at+start+len(sqlFence):], fence)
		answer, isText := strings.CutPrefix(rest, textFence[1:])
		i := strings.LastIndex(head, "\n### ")
		if !closed || !isText || i < 0 {
			t.Fatalf("this statement has no heading or no text block for its answer:\n%s", sql)
		}
		title, why, _ := strings.Cut(head[i+len("\n### "):], "\n")
		answer, _, closed = strings.Cut(answer, fence)
		if !closed {
			t.Fatalf("%s: the answer's block does not end", title)
		}
		from := at + start + len(sqlFence) + len(sql) + len(fence) + len(textFence) - 1
		all = append(all, recipe{title, strings.TrimSpace(why), strings.TrimSpace(sql), answer, from, from + len(answer)})
		at = from + len(answer) + len(fence)
	}
}

// TestCookbook runs every statement of docs/sql-cookbook.md on the demo's data
// and compares the answer with what the page says. -update writes the page.
func TestCookbook(t *testing.T) {
	text, err := os.ReadFile(cookbook)
	if err != nil {
		t.Fatal(err)
	}
	store := demoTables(t)
	page, titles := string(text), map[string]bool{}
	all := recipes(t, page)
	if len(all) < 20 {
		t.Errorf("only %d statements were found", len(all))
	}
	const most = 40
	var written strings.Builder
	end := 0
	for _, r := range all {
		if titles[r.title] || r.why == "" {
			t.Errorf("%s: the heading is there twice, or no sentence says why one asks", r.title)
		}
		titles[r.title] = true
		var out bytes.Buffer
		columns, rows, err := store.Query(t.Context(), r.sql, most+1)
		switch {
		case err != nil:
			t.Errorf("%s: %v", r.title, err)
		case len(rows) == 0:
			t.Errorf("%s: no rows", r.title)
		case len(rows) > most:
			t.Errorf("%s: more than %d rows: give the statement a LIMIT", r.title, most)
		default:
			printAnswer(&out, columns, rows)
		}
		if out.String() != r.answer && !*update {
			t.Errorf("%s: the answer is stale, write it with go test ./cmd/catena -run TestCookbook -update\nthe page says\n%s\nit is\n%s", r.title, r.answer, out.String())
		}
		written.WriteString(page[end:r.from] + out.String())
		end = r.to
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(cookbook, []byte(written.String()+page[end:]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// printAnswer is a table as wide as its cells; those of several columns are cut.
func printAnswer(w io.Writer, columns []string, rows [][]string) {
	table := append([][]string{columns}, rows...)
	widths := make([]int, len(columns))
	for _, cells := range table {
		for i := range cells {
			if len(columns) > 1 {
				cells[i] = shorten(cells[i], 60)
			}
			widths[i] = max(widths[i], len([]rune(cells[i])))
		}
	}
	for _, cells := range table {
		line := ""
		for i, c := range cells {
			line += c + strings.Repeat(" ", widths[i]-len([]rune(c))+2)
		}
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
}

// curlLine is a call of the page that hands over a parameter.
var curlLine = regexp.MustCompile(`(?m)^curl 'http://127\.0\.0\.1:8123/\?database=catena&([^']+)' \\\n +--data-binary "([^"]+)"$`)

// TestCookbookParameters: the calls with parameters do what the page says.
func TestCookbookParameters(t *testing.T) {
	text, err := os.ReadFile(cookbook)
	if err != nil {
		t.Fatal(err)
	}
	demoTables(t)
	calls := curlLine.FindAllStringSubmatch(string(text), -1)
	if len(calls) == 0 {
		t.Fatal("no call with a parameter was found")
	}
	for _, call := range calls {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, database(t)+"/?database="+demoDatabase+"&"+call[1], strings.NewReader(call[2]))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || bytes.Count(body, []byte("\n")) < 2 {
			t.Errorf("%s: %s %v, want rows\n%s", call[2], answer.Status, err, body)
		}
	}
}

// TestProofs: the place and the hash of every row lead to its record, which is
// what the last question of the page rests on.
func TestProofs(t *testing.T) {
	type place struct{ topic, partition, offset string }
	records := map[place]string{}
	for _, r := range demoRecords(t) {
		sum := sha256.Sum256(r.Value)
		records[place{r.Topic, strconv.Itoa(int(r.Partition)), strconv.FormatInt(r.Offset, 10)}] = hex.EncodeToString(sum[:])
	}
	_, rows, err := demoTables(t).Query(t.Context(), "SELECT topic, partition, offset, raw_sha256 FROM actions FINAL", 0)
	if err != nil || len(rows) < 200 {
		t.Fatal(len(rows), err)
	}
	for _, r := range rows {
		if want := records[place{r[0], r[1], r[2]}]; r[3] != want {
			t.Errorf("%s/%s@%s has the hash %s, want %s", r[0], r[1], r[2], r[3], want)
		}
	}
}
