package sources

import "regexp"

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
