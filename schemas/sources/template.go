package sources

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Template is literal text with placeholders, as FORMAT.md has it.
type Template struct {
	Text  string // as written
	Parts []Part
	Line  int // where it stands in source.yaml, from 1
	Col   int
}

// Part is one piece of a template: literal text, or a placeholder if Choices
// is not empty.
type Part struct {
	Literal    string
	Choices    []Choice    // the first that finds something counts
	Transforms []Transform // applied to it, left to right
}

// Choice is one alternative of a placeholder: a path, or a literal if Path is
// empty.
type Choice struct {
	Path    Path
	Literal string
}

// Transform is a named function with its literal arguments. Those of map come
// in pairs.
type Transform struct {
	Name string
	Args []string
}

// Literal returns the text of a template without placeholders.
func (t *Template) Literal() (text string, ok bool) {
	switch {
	case len(t.Parts) == 0:
		return "", true
	case len(t.Parts) == 1 && len(t.Parts[0].Choices) == 0:
		return t.Parts[0].Literal, true
	}
	return "", false
}

// Paths calls f with every path of the template.
func (t *Template) Paths(f func(Path)) {
	for _, p := range t.Parts {
		for _, c := range p.Choices {
			if len(c.Path) > 0 {
				f(c.Path)
			}
		}
	}
}

// Time reports whether the template ends in a transform that gives a time.
func (t *Template) Time() bool {
	for _, p := range t.Parts {
		for _, tr := range p.Transforms {
			if givesTime(tr.Name) {
				return true
			}
		}
	}
	return false
}

// Path leads from the top of a document to a value, or to one value for each
// element of an array.
type Path []Step

// StepOp is what a step does.
type StepOp uint8

// What a step can do.
const (
	Member StepOp = iota // of the name Name
	Index                // the element at position Index; -1 is the last
	Select               // the first element whose member Name is the text Value
	Each                 // every element
	JSON                 // the string is a JSON document: go on inside
	Base64               // the string is base64: go on with what it holds
	JWT                  // the string is a JSON Web Token: go on inside its claims
)

// Step is one step of a path.
type Step struct {
	Op    StepOp
	Name  string
	Value string
	Index int
}

// String writes the path as FORMAT.md has it.
func (p Path) String() string {
	var b strings.Builder
	for i, s := range p {
		s.write(&b, i == 0)
	}
	return b.String()
}

func (s Step) write(b *strings.Builder, first bool) {
	switch s.Op {
	case Member:
		if !first {
			b.WriteByte('.')
		}
		b.WriteString(quoteName(s.Name))
	case Index:
		fmt.Fprintf(b, "[%d]", s.Index)
	case Select:
		fmt.Fprintf(b, "[%s=%s]", quoteName(s.Name), quoteName(s.Value))
	case Each:
		b.WriteString("[*]")
	case JSON:
		b.WriteString("~json")
	case Base64:
		b.WriteString("~base64")
	case JWT:
		b.WriteString("~jwt")
	}
}

func quoteName(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !bareRune(r) }) < 0 {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// Star is the array that a path runs through: the path up to and including
// its last [*]; empty if it has none.
func (p Path) Star() Path {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i].Op == Each {
			return p[:i+1]
		}
	}
	return nil
}

// limits of one template; far beyond what a person writes.
const (
	maxSteps   = 32
	maxChoices = 64
	maxParts   = 64
)

// ParsePath parses a whole text as a path.
func ParsePath(text string) (Path, error) {
	s := scanner{text: text}
	p, err := s.path()
	if err == nil && s.pos < len(s.text) {
		err = s.fault("expected the end of the path")
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// ParseTemplate parses the text of a template.
func ParseTemplate(text string) (Template, error) {
	t := Template{Text: text}
	s := scanner{text: text}
	for s.pos < len(s.text) {
		part, err := s.part()
		if err != nil {
			return Template{}, err
		}
		t.Parts = append(t.Parts, part)
		if len(t.Parts) > maxParts {
			return Template{}, s.fault("more than %d parts", maxParts)
		}
	}
	return t, nil
}

// scanner reads templates and paths.
type scanner struct {
	text string
	pos  int
}

func (s *scanner) fault(format string, args ...any) error {
	return fmt.Errorf("%s, at character %d of %q", fmt.Sprintf(format, args...), utf8.RuneCountInString(s.text[:s.pos])+1, s.text)
}

func (s *scanner) peek() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

func (s *scanner) eat(lit string) bool {
	if strings.HasPrefix(s.text[s.pos:], lit) {
		s.pos += len(lit)
		return true
	}
	return false
}

func (s *scanner) blanks() {
	for s.peek() == ' ' {
		s.pos++
	}
}

// part reads literal text up to the next placeholder, or one placeholder.
func (s *scanner) part() (Part, error) {
	if s.peek() == '{' && !strings.HasPrefix(s.text[s.pos:], "{{") {
		s.pos++
		return s.placeholder()
	}
	var lit strings.Builder
	for s.pos < len(s.text) {
		switch {
		case s.eat("{{"):
			lit.WriteByte('{')
		case s.eat("}}"):
			lit.WriteByte('}')
		case s.peek() == '{':
			return Part{Literal: lit.String()}, nil
		case s.peek() == '}':
			return Part{}, s.fault("a } without {; a literal one is written }}")
		default:
			lit.WriteByte(s.text[s.pos])
			s.pos++
		}
	}
	return Part{Literal: lit.String()}, nil
}

// placeholder reads what follows a brace, up to its end.
func (s *scanner) placeholder() (Part, error) {
	var part Part
	for {
		s.blanks()
		choice, err := s.choice()
		if err != nil {
			return part, err
		}
		part.Choices = append(part.Choices, choice)
		if len(part.Choices) > maxChoices {
			return part, s.fault("more than %d alternatives", maxChoices)
		}
		s.blanks()
		if !s.eat("??") {
			break
		}
	}
	for s.eat("|") {
		s.blanks()
		tr, err := s.transform()
		if err != nil {
			return part, err
		}
		part.Transforms = append(part.Transforms, tr)
		s.blanks()
	}
	if !s.eat("}") {
		return part, s.fault("expected ??, | or }")
	}
	return part, nil
}

func (s *scanner) choice() (Choice, error) {
	if s.peek() == '\'' {
		lit, err := s.quoted('\'')
		return Choice{Literal: lit}, err
	}
	p, err := s.path()
	return Choice{Path: p}, err
}

// transform reads name, or name(args).
func (s *scanner) transform() (Transform, error) {
	start := s.pos
	for c := s.peek(); c == '_' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9'; c = s.peek() {
		s.pos++
	}
	tr := Transform{Name: s.text[start:s.pos]}
	spec, ok := findTransform(tr.Name)
	if !ok {
		s.pos = start
		return tr, s.fault("%q is no transform; there are %s", tr.Name, transformNames())
	}
	if s.eat("(") {
		if err := s.args(&tr, spec); err != nil {
			return tr, err
		}
	}
	if err := spec.check(len(tr.Args)); err != nil {
		s.pos = start
		return tr, s.fault("%v", err)
	}
	return tr, nil
}

func (s *scanner) args(tr *Transform, spec transformSpec) error {
	for {
		s.blanks()
		if len(tr.Args) > 2*maxChoices {
			return s.fault("more than %d arguments", 2*maxChoices)
		}
		arg, err := s.quoted('\'')
		if err != nil {
			return err
		}
		tr.Args = append(tr.Args, arg)
		s.blanks()
		switch {
		case s.eat(")"):
			return nil
		case spec.pairs && len(tr.Args)%2 == 1 && s.eat("="):
		case s.eat(","):
		default:
			return s.fault("expected , or ) after an argument")
		}
	}
}

// quoted reads text in single quotes, in which two of them stand for one; or
// in double quotes, in which a backslash takes the next character as it is.
func (s *scanner) quoted(q byte) (string, error) {
	if s.peek() != q {
		return "", s.fault("expected text in %c quotes", q)
	}
	start := s.pos
	s.pos++
	var b strings.Builder
	for s.pos < len(s.text) {
		c := s.text[s.pos]
		s.pos++
		switch {
		case c == q && q == '\'' && s.peek() == q:
			s.pos++
		case c == q:
			return b.String(), nil
		case c == '\\' && q == '"' && s.pos < len(s.text):
			c = s.text[s.pos]
			s.pos++
		}
		b.WriteByte(c)
	}
	s.pos = start
	return "", s.fault("the quote is not closed")
}

func (s *scanner) path() (Path, error) {
	var p Path
	for {
		name, err := s.name()
		if err != nil {
			return nil, err
		}
		p = append(p, Step{Op: Member, Name: name})
		if p, err = s.suffixes(p); err != nil {
			return nil, err
		}
		if len(p) > maxSteps {
			return nil, s.fault("more than %d steps", maxSteps)
		}
		if !s.eat(".") {
			return p, checkEnvelope(p)
		}
	}
}

// suffixes reads any [..] and ~.. that follow a member.
func (s *scanner) suffixes(p Path) (Path, error) {
	for len(p) <= maxSteps {
		switch {
		case s.eat("~json"):
			p = append(p, Step{Op: JSON})
		case s.eat("~base64"):
			p = append(p, Step{Op: Base64})
		case s.eat("~jwt"):
			p = append(p, Step{Op: JWT})
		case s.peek() == '~':
			return nil, s.fault("expected ~json, ~base64 or ~jwt")
		case s.eat("["):
			step, err := s.bracket()
			if err != nil {
				return nil, err
			}
			p = append(p, step)
		default:
			return p, nil
		}
	}
	return nil, s.fault("more than %d steps", maxSteps)
}

// bracket reads what follows [, up to and including ].
func (s *scanner) bracket() (Step, error) {
	if s.eat("*]") {
		return Step{Op: Each}, nil
	}
	if s.eat("-1]") {
		return Step{Op: Index, Index: -1}, nil
	}
	end := strings.IndexByte(s.text[s.pos:], ']')
	if c := s.peek(); '0' <= c && c <= '9' && end > 0 && end <= 5 && strings.Trim(s.text[s.pos:s.pos+end], "0123456789") == "" {
		n := 0
		for _, d := range []byte(s.text[s.pos : s.pos+end]) {
			n = n*10 + int(d-'0')
		}
		s.pos += end + 1
		return Step{Op: Index, Index: n}, nil
	}
	name, err := s.name()
	if err != nil {
		return Step{}, s.fault("expected a position, -1, * or key=text in brackets")
	}
	if !s.eat("=") {
		return Step{}, s.fault("expected = after the member's name")
	}
	var value string
	if s.peek() == '"' {
		value, err = s.quoted('"')
	} else if n := strings.IndexByte(s.text[s.pos:], ']'); n > 0 {
		value, s.pos = s.text[s.pos:s.pos+n], s.pos+n
	}
	if err != nil {
		return Step{}, err
	}
	if value == "" || !s.eat("]") {
		return Step{}, s.fault("expected text and ] after =")
	}
	return Step{Op: Select, Name: name, Value: value}, nil
}

func (s *scanner) name() (string, error) {
	if s.peek() == '"' {
		return s.quoted('"')
	}
	start := s.pos
	for s.pos < len(s.text) {
		r, size := utf8.DecodeRuneInString(s.text[s.pos:])
		if !bareRune(r) {
			break
		}
		s.pos += size
	}
	if s.pos == start {
		return "", s.fault(`expected a member's name (in "…" if it holds dots, slashes, blanks or brackets)`)
	}
	return s.text[start:s.pos], nil
}

// bareRune says of which characters a name may consist without quotes.
func bareRune(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("_-@$#", r)
}
