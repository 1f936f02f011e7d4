package sources

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Fault is one thing that is wrong in a source.yaml.
type Fault struct {
	Source    string // the source's name, or the file where the source is a user's own
	Line, Col int    // from 1
	Field     string // such as rules[3].makes[0].relation
	Message   string // what is wrong, and what is allowed
}

func (f Fault) Error() string {
	if f.Field == "" {
		return fmt.Sprintf("%s: line %d, column %d: %s", f.Source, f.Line, f.Col, f.Message)
	}
	return fmt.Sprintf("%s: line %d, column %d: %s: %s", f.Source, f.Line, f.Col, f.Field, f.Message)
}

// Faults is the error of [Parse]: everything that is wrong, in the file's order.
type Faults []Fault

func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

func (p *parser) fault(n *yaml.Node, field, format string, args ...any) {
	p.faults = append(p.faults, Fault{Source: p.source, Line: n.Line, Col: n.Column, Field: field, Message: fmt.Sprintf(format, args...)})
}

// yamlFault keeps the line that the YAML library tells in its text. The column
// is where that line begins: the library does not tell it.
func (p *parser) yamlFault(err error, file []byte) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line, col := 1, 1
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if num, msg, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(num); err == nil {
				line, text = n, msg
			}
		}
	}
	if lines := strings.Split(string(file), "\n"); line >= 1 && line <= len(lines) {
		col += len(lines[line-1]) - len(strings.TrimLeft(lines[line-1], " "))
	}
	p.faults = append(p.faults, Fault{Source: p.source, Line: line, Col: col,
		Message: "not YAML: " + text + "; look at this line and the one before: indent with blanks, close brackets and quotes, and put texts that hold { [ : or # in quotes"})
}

// quoteHint is for whoever forgot that a brace begins a map in YAML.
func quoteHint(n *yaml.Node) string {
	if n.Kind == yaml.MappingNode && n.Style&yaml.FlowStyle != 0 {
		return `: a template begins with a brace, so put it in quotes, as in "{path}"`
	}
	if n.Kind == yaml.AliasNode {
		return ": write it out"
	}
	return ": write it behind the colon"
}

// didYouMean names the allowed word that is nearest to a mistyped one.
func didYouMean(word, allowed string) string {
	best, least := "", 3
	for w := range strings.SplitSeq(allowed, ", ") {
		if d := distance(word, w); d < least && d < len(word) {
			best, least = w, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %s? ", best)
}

// distance counts the letters to insert, leave out or change (Levenshtein).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias (anchors are not supported)"
	}
	if n.Tag == "!!null" {
		return "nothing"
	}
	return "text"
}
