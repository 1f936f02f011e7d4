package embedded

import "strings"

// This file reads SQL just far enough to route a statement: its verb, its FORMAT clause, where the data of an INSERT
// begins. Whether the statement is valid is for the engine to say.

// statementClass is the engine's judgement of a statement (chdb_query_class).
type statementClass uint32

const (
	classReadOnly statementClass = 0 // leaves no trace
	classUnknown  statementClass = 4 // did not parse
)

// shape is what the text of a statement says about how to run it.
type shape struct {
	verb    string // first keyword in upper case; "(" for a parenthesised SELECT, "" for an empty statement
	format  string // of the FORMAT clause; "" where there is none
	clause  [2]int // where the FORMAT clause of a statement that returns rows begins and ends
	multi   bool   // a second statement follows a semicolon
	outfile bool   // INTO OUTFILE or FROM INFILE: reads or writes a file of this host

	// For an INSERT whose data follows the statement:
	insert  bool
	headEnd int  // the statement without VALUES or FORMAT is sql[:headEnd]
	data    int  // the data begins at sql[data:]; -1 while neither VALUES nor FORMAT has been seen
	input   bool // INSERT … SELECT … FROM input(…), which would read the data
}

// shapeOf reads the shape of a statement. It looks at no more of an INSERT than what precedes its data, so data may be
// binary. It never fails: an unfinished string or comment extends to the end.
func shapeOf(sql string) shape {
	s := shape{data: -1}
	t := tokenizer{sql: sql}
	tok := t.next()
	s.verb = tok.keyword()
	if s.verb == "INSERT" {
		s.readInsert(&t)
		return s
	}
	s.readFormat(&t)
	return s
}

// readInsert finds the end of the statement: VALUES, FORMAT, or a SELECT.
func (s *shape) readInsert(t *tokenizer) {
	s.insert, s.headEnd = true, len(t.sql)
	depth, selects, last := 0, false, ""
	for tok := t.next(); tok.kind != tokenEnd; tok = t.next() {
		word := tok.keyword()
		switch {
		case word == "(":
			depth++
			s.input = s.input || last == "INPUT"
		case word == ")":
			depth--
		case depth > 0 && (word == "SELECT" || word == "WITH") && last == "(":
			selects = true // INSERT INTO t (SELECT …)
		case depth > 0:
		case word == "VALUES" && !selects:
			s.format, s.headEnd, s.data = "Values", tok.start, tok.end
			return
		case word == "SELECT" || word == "WITH" || word == "WATCH":
			selects = true
		case word == "INFILE" && last == "FROM":
			s.outfile = true
			return
		case word == ";":
			s.multi = t.next().kind != tokenEnd
			s.insert = !selects
			return
		case word == "FORMAT" && (!selects || s.input):
			mark := *t
			if name := t.next(); name.kind == tokenWord {
				s.format, s.headEnd, s.data = name.text, tok.start, skipLineEnd(t.sql, name.end)
				return
			}
			*t = mark
		}
		last = word
	}
	if selects {
		s.insert = false // INSERT … SELECT carries no data
	}
}

// skipLineEnd returns where data begins after FORMAT x: blanks and one line end belong to the statement.
func skipLineEnd(sql string, at int) int {
	for at < len(sql) && (sql[at] == ' ' || sql[at] == '\t' || sql[at] == '\f') {
		at++
	}
	if at < len(sql) && sql[at] == '\r' {
		at++
	}
	if at < len(sql) && sql[at] == '\n' {
		at++
	}
	return at
}

// readFormat finds the FORMAT clause of a statement that returns rows: the word FORMAT and a name, outside parentheses,
// with nothing but SETTINGS or INTO OUTFILE after it. A column named format does not look like that.
func (s *shape) readFormat(t *tokenizer) {
	depth, last := 0, s.verb
	if last == "(" {
		depth = 1
	}
	var before, name string // the tokens in front of the current one, to recognise FORMAT name <end>
	var clause [2]int       // where these two begin and end
	for {
		tok := t.next()
		word := tok.keyword()
		ends := tok.kind == tokenEnd || word == ";" || word == "SETTINGS" || word == "INTO"
		if ends && depth == 0 && before == "FORMAT" && name != "" {
			s.format, s.clause = name, clause
		}
		switch {
		case tok.kind == tokenEnd:
			return
		case word == ";":
			s.multi = s.multi || t.peek().kind != tokenEnd
		case word == "(":
			depth++
		case word == ")":
			depth--
		case last == "INTO" && word == "OUTFILE":
			s.outfile = true
		}
		before, name = last, ""
		if tok.kind == tokenWord {
			name = tok.text
		}
		if word != "FORMAT" {
			clause[1] = tok.end
		} else {
			clause[0] = tok.start
		}
		last = word
	}
}

// streams reports whether the engine can stream the statement: it streams SELECT only.
func (s shape) streams() bool {
	return s.verb == "SELECT" || s.verb == "WITH" || s.verb == "(" || s.verb == "FROM"
}

// streamable lists the output formats of which one block's output after another's is the output of both: those without
// header, footer or separator. Keys are in lower case, as format names are case-insensitive here.
var streamable = map[string]bool{
	"native": true, "rowbinary": true,
	"tabseparated": true, "tsv": true, "tabseparatedraw": true, "tsvraw": true, "raw": true, "tskv": true,
	"csv": true, "lineasstring": true,
	"jsoneachrow": true, "jsonlines": true, "ndjson": true, "jsonstringseachrow": true,
	"jsoncompacteachrow": true, "jsoncompactstringseachrow": true,
}

type tokenKind uint8

const (
	tokenEnd    tokenKind = iota
	tokenWord             // identifier or keyword
	tokenQuoted           // string, quoted identifier, heredoc
	tokenOther            // one byte of anything else, or a number
)

type token struct {
	kind       tokenKind
	text       string
	start, end int
}

// keyword is the token for comparison: words in upper case, punctuation as is, quoted things as nothing.
func (t token) keyword() string {
	switch t.kind {
	case tokenWord:
		return strings.ToUpper(t.text)
	case tokenOther:
		return t.text
	}
	return ""
}

// tokenizer cuts SQL as ClickHouse's lexer does, without its comments and spaces.
type tokenizer struct {
	sql string
	at  int
}

func (t *tokenizer) peek() token {
	mark := *t
	return mark.next()
}

func (t *tokenizer) next() token {
	t.skipBlanks()
	start := t.at
	if start >= len(t.sql) {
		return token{kind: tokenEnd, start: len(t.sql), end: len(t.sql)}
	}
	kind := tokenOther
	switch c := t.sql[start]; {
	case isWordStart(c):
		kind = tokenWord
		t.skipWord()
	case c >= '0' && c <= '9':
		t.skipWord() // 1e6, 0x1F: digits and letters
	case c == '\'' || c == '"' || c == '`':
		kind = tokenQuoted
		t.skipQuoted(c)
	case c == '$':
		if kind = tokenQuoted; !t.skipHeredoc() {
			kind = tokenOther
			t.at++
		}
	default:
		t.at++
	}
	return token{kind: kind, text: t.sql[start:t.at], start: start, end: t.at}
}

// skipBlanks passes white space and comments: -- and # to the end of the line, /* to */.
func (t *tokenizer) skipBlanks() {
	for t.at < len(t.sql) {
		rest := t.sql[t.at:]
		switch {
		case strings.IndexByte(" \t\n\r\f\v\x00", rest[0]) >= 0:
			t.at++
		case strings.HasPrefix(rest, "\xef\xbb\xbf"): // byte order mark
			t.at += 3
		case strings.HasPrefix(rest, "--"), strings.HasPrefix(rest, "#!"), strings.HasPrefix(rest, "# "):
			t.skipThrough("\n")
		case strings.HasPrefix(rest, "/*"):
			t.at += 2
			t.skipThrough("*/")
		default:
			return
		}
	}
}

// skipThrough moves behind the next occurrence of end, or to the end.
func (t *tokenizer) skipThrough(end string) {
	i := strings.Index(t.sql[t.at:], end)
	if i < 0 {
		t.at = len(t.sql)
		return
	}
	t.at += i + len(end)
}

func (t *tokenizer) skipWord() {
	for t.at < len(t.sql) && (isWordStart(t.sql[t.at]) || t.sql[t.at] >= '0' && t.sql[t.at] <= '9') {
		t.at++
	}
}

// skipQuoted passes a quoted token. A backslash escapes; a doubled quote continues as the next token, which is as good.
func (t *tokenizer) skipQuoted(quote byte) {
	for t.at++; t.at < len(t.sql); t.at++ {
		switch t.sql[t.at] {
		case '\\':
			t.at++
		case quote:
			t.at++
			return
		}
	}
	t.at = len(t.sql)
}

// skipHeredoc passes $tag$ … $tag$.
func (t *tokenizer) skipHeredoc() bool {
	rest := t.sql[t.at:]
	end := strings.IndexByte(rest[1:], '$')
	if end < 0 || strings.IndexFunc(rest[1:1+end], func(r rune) bool { return r >= 128 || !isWordStart(byte(r)) && (r < '0' || r > '9') }) >= 0 {
		return false
	}
	tag := rest[:end+2]
	t.at += len(tag)
	t.skipThrough(tag)
	return true
}

func isWordStart(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// isWord reports whether text is one identifier, which needs no quotes.
func isWord(text string) bool {
	t := tokenizer{sql: text}
	tok := t.next()
	return tok.kind == tokenWord && tok.text == text
}

// quoteName quotes an identifier.
func quoteName(name string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(name) + "`"
}

// unquote undoes quoteName and quoteString, and what a dump of a field escapes.
func unquote(text string) string {
	quote, inner := text[0], strings.TrimSuffix(text[1:], text[:1])
	if strings.IndexByte(inner, '\\') < 0 && strings.IndexByte(inner, quote) < 0 {
		return inner
	}
	out := make([]byte, 0, len(inner))
	for i := 0; i < len(inner); i++ {
		c := inner[i]
		switch {
		case c == quote && i+1 < len(inner) && inner[i+1] == quote:
			i++
		case c == '\\' && i+1 < len(inner):
			i++
			if c = inner[i]; strings.IndexByte(escapes, c) >= 0 {
				c = escaped[strings.IndexByte(escapes, c)]
			}
		}
		out = append(out, c)
	}
	return string(out)
}

// escapes are the letters that stand for something else behind a backslash, and escaped is what for.
const escapes, escaped = "ntr0bfav", "\n\t\r\x00\b\f\a\v"

// quoteString quotes a string literal.
func quoteString(value string) string {
	return "'" + strings.NewReplacer("\\", "\\\\", "'", "\\'").Replace(value) + "'"
}
