package sources

import (
	"regexp"
	"strings"
)

// Condition holds if all its clauses hold; the zero value always does.
type Condition []Clause

// Clause is a test of one path, or a list of conditions of which at least one
// (Any) or none (None) must hold. Exactly one of the three is set.
type Clause struct {
	Test *Test
	Any  []Condition
	None []Condition
}

// Test asks something of the value at a path.
type Test struct {
	Path      Path
	Check     Check
	Line, Col int
}

// CheckOp is what a check asks of a value.
type CheckOp uint8

// What a check can ask.
const (
	Present  CheckOp = iota // there is a value; null and "" are none
	OneOf                   // it is equal to one of Texts, compared as text
	Prefix                  // it begins with Texts[0]
	Suffix                  // it ends with Texts[0]
	Contains                // Texts[0] stands somewhere in it
	Matches                 // Regexp matches somewhere in it
	All                     // all of Sub hold
	Not                     // Sub[0] does not hold; so true where there is no value
)

// Check is a question to one value. Everything except Not is false where
// there is no value.
type Check struct {
	Op     CheckOp
	Texts  []string
	Regexp *regexp.Regexp
	Sub    []Check
}

// Paths calls f with every path of the condition.
func (c Condition) Paths(f func(Path)) {
	for _, clause := range c {
		if clause.Test != nil {
			f(clause.Test.Path)
		}
		for _, sub := range clause.Any {
			sub.Paths(f)
		}
		for _, sub := range clause.None {
			sub.Paths(f)
		}
	}
}

// String says in words what the condition asks for.
func (c Condition) String() string {
	var out []string
	for _, clause := range c {
		switch {
		case clause.Test != nil:
			out = append(out, clause.Test.Check.words(clause.Test.Path.String(), true))
		case clause.Any != nil:
			out = append(out, "any of ("+list(clause.Any)+")")
		default:
			out = append(out, "none of ("+list(clause.None)+")")
		}
	}
	return strings.Join(out, ", ")
}

func list(conditions []Condition) string {
	out := make([]string, len(conditions))
	for i, c := range conditions {
		out[i] = c.String()
	}
	return strings.Join(out, "; ")
}

// words says that the value at a path is as asked, or with is false, that it
// is not.
func (c Check) words(path string, is bool) string {
	verb := func(yes, no string) string {
		if is {
			return path + " " + yes + " "
		}
		return path + " " + no + " "
	}
	switch c.Op {
	case Present:
		return strings.TrimSpace(verb("is there", "is not there"))
	case OneOf:
		if len(c.Texts) == 1 {
			return verb("is", "is not") + c.Texts[0]
		}
		return verb("is one of", "is none of") + strings.Join(c.Texts, ", ")
	case Prefix:
		return verb("begins with", "does not begin with") + c.Texts[0]
	case Suffix:
		return verb("ends with", "does not end with") + c.Texts[0]
	case Contains:
		return verb("holds", "does not hold") + c.Texts[0]
	case Matches:
		return verb("matches", "does not match") + c.Regexp.String()
	case Not:
		return c.Sub[0].words(path, !is)
	}
	parts := make([]string, len(c.Sub)) // All: of a negated one, at least one part fails
	for i, sub := range c.Sub {
		parts[i] = sub.words(path, is)
	}
	if is {
		return strings.Join(parts, " and ")
	}
	return strings.Join(parts, " or ")
}
