package ingest

import (
	"math/bits"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"

	"catena/schemas"
)

// cursor reads one JSON text. It goes over the bytes once, checks their
// structure as it goes (RFC 8259, to the letter) and builds nothing. Methods
// take a position and return the one behind what they read, or -1 after having
// set fault.
//
// Strings are read eight bytes at a time. bytes.IndexByte, which is vectorised,
// was slower: most strings of a log are short, it has to be called, and what
// must not stand in a string takes another pass.
type cursor struct {
	s        string
	escaped  bool   // the last string read holds a backslash
	high     uint64 // every byte read in strings, or-ed: without a high bit, all was ASCII
	depth    int
	maxDepth int
	fault    fault
	outline  *outline // takes down what nested skips; nil for nobody
}

// fault says why a text could not be read.
type fault struct {
	reason schemas.DeadReason
	at     int // byte offset in the text
	what   string
}

// maxNesting is the deepest limit that can be configured: one bit a level.
const maxNesting = 512

// open starts at the beginning of a text.
func (c *cursor) open(s string) { c.s, c.fault = s, fault{} }

func (c *cursor) bad(at int, what string) int {
	return c.fail(schemas.DeadMalformed, at, what)
}

func (c *cursor) fail(reason schemas.DeadReason, at int, what string) int {
	c.fault = fault{reason, min(at, len(c.s)), what}
	return -1
}

// blanks skips white space, of which there mostly is none.
func (c *cursor) blanks(p int) int {
	if p < len(c.s) && c.s[p] > ' ' {
		return p
	}
	return c.moreBlanks(p)
}

func (c *cursor) moreBlanks(p int) int {
	for p < len(c.s) && (c.s[p] == ' ' || c.s[p] == '\n' || c.s[p] == '\r' || c.s[p] == '\t') {
		p++
	}
	return p
}

// load reads eight bytes of a string.
func load(s string, p int) uint64 {
	s = s[p : p+8]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 | uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

const (
	eachByte = 0x0101010101010101
	highBits = 0x80 * eachByte
)

// special marks with their high bits the bytes of x that end or interrupt a
// string: quotes, backslashes and what is below 0x20. Bytes above the lowest
// that is marked may be marked wrongly.
func special(x uint64) uint64 {
	// (y-n)&^y has the high bit of each byte of y below n. With bit 1 turned
	// over, the quote stands right above the control characters.
	quote, slash := x^0x02*eachByte, x^'\\'*eachByte
	return ((quote-0x21*eachByte)&^quote | (slash-eachByte)&^slash) & highBits
}

// str reads a string whose opening quote lies before p, and returns the
// position of its closing quote.
func (c *cursor) str(p int) int {
	s := c.s
	c.escaped = false
	for p+8 <= len(s) {
		x := load(s, p)
		c.high |= x
		found := special(x)
		if found == 0 {
			p += 8
			continue
		}
		p += bits.TrailingZeros64(found) >> 3
		if s[p] == '"' {
			return p
		}
		if p = c.escape(p); p < 0 {
			return -1
		}
	}
	for p < len(s) {
		switch b := s[p]; {
		case b == '"':
			return p
		case b >= 0x20 && b != '\\':
			c.high |= uint64(b)
			p++
		default:
			if p = c.escape(p); p < 0 {
				return -1
			}
		}
	}
	return c.bad(len(s), "the text ends inside a string")
}

// escape reads the escape sequence at p, where a backslash or a control
// character stands in a string.
func (c *cursor) escape(p int) int {
	if c.s[p] != '\\' {
		return c.bad(p, "an unescaped control character in a string")
	}
	n := escapeLen(c.s[p:])
	if n == 0 {
		return c.bad(p, "no valid escape follows the backslash")
	}
	c.escaped = true
	return p + n
}

// escapeLen is the length of the escape sequence at the start of s; zero if
// there is no valid one.
func escapeLen(s string) int {
	if len(s) < 2 {
		return 0
	}
	switch s[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if _, ok := hex4(s[2:]); ok {
			return 6
		}
	}
	return 0
}

// value skips one value of any kind; p is at its first byte.
func (c *cursor) value(p int) int {
	if p >= len(c.s) {
		return c.bad(p, "the text ends where a value is expected")
	}
	switch c.s[p] {
	case '"':
		if p = c.str(p + 1); p < 0 {
			return -1
		}
		return p + 1
	case '{', '[':
		return c.nested(p)
	}
	return c.scalar(p)
}

// scalar skips a number, true, false or null.
func (c *cursor) scalar(p int) int {
	if p >= len(c.s) {
		return c.bad(p, "the text ends where a value is expected")
	}
	switch b := c.s[p]; {
	case b == 't' && strings.HasPrefix(c.s[p:], "true"), b == 'n' && strings.HasPrefix(c.s[p:], "null"):
		p += 4
	case b == 'f' && strings.HasPrefix(c.s[p:], "false"):
		p += 5
	case b == '-' || '0' <= b && b <= '9':
		return c.number(p)
	default:
		return c.bad(p, "no JSON value begins here")
	}
	return p
}

func (c *cursor) number(p int) int {
	start := p
	if c.s[p] == '-' {
		p++
	}
	switch {
	case p >= len(c.s):
		return c.bad(start, "not a number")
	case c.s[p] == '0':
		p++
	default:
		n := c.digits(p)
		if n == p {
			return c.bad(start, "not a number")
		}
		p = n
	}
	if p < len(c.s) && c.s[p] == '.' {
		n := c.digits(p + 1)
		if n == p+1 {
			return c.bad(start, "not a number: no digit follows the point")
		}
		p = n
	}
	if p < len(c.s) && c.s[p]|0x20 == 'e' {
		p++
		if p < len(c.s) && (c.s[p] == '+' || c.s[p] == '-') {
			p++
		}
		n := c.digits(p)
		if n == p {
			return c.bad(start, "not a number: the exponent has no digit")
		}
		p = n
	}
	return p
}

func (c *cursor) digits(p int) int {
	for p < len(c.s) && '0' <= c.s[p] && c.s[p] <= '9' {
		p++
	}
	return p
}

// nested skips an object or array without recursion, one bit a level. Most of a
// record is skipped here, so strings are read in place, as str does it.
func (c *cursor) nested(p int) int {
	var objects [maxNesting / 64]uint64
	s, base, high := c.s, c.depth, c.high
	name := false
	for {
		// Here a value begins, or the name of a member.
		if p >= len(s) {
			return c.bad(p, "the text ends where a value is expected")
		}
		switch b := s[p]; {
		case b == '"':
			e := p + 1
			for e+8 <= len(s) {
				x := load(s, e)
				high |= x
				if found := special(x); found != 0 {
					e += bits.TrailingZeros64(found) >> 3
					break
				}
				e += 8
			}
			if e >= len(s) || s[e] != '"' {
				if e = c.str(p + 1); e < 0 {
					return -1
				}
			}
			if !name {
				p = e + 1
				break
			}
			name = false
			if e+2 < len(s) && s[e+1] == ':' && s[e+2] > ' ' {
				p = e + 2
			} else if p = c.afterName(e); p < 0 {
				return -1
			}
			continue
		case name:
			return c.bad(p, "expected the name of a member")
		case b == '{' || b == '[':
			if c.outline != nil {
				if e := c.attribute(p); e > 0 {
					p = e
					break
				}
			}
			if c.depth >= c.maxDepth {
				return c.fail(schemas.DeadTooDeep, p, "nested deeper than the limit")
			}
			name = b == '{'
			bit := uint64(1) << (uint(c.depth) % 64)
			word := &objects[uint(c.depth)/64%uint(len(objects))]
			*word &^= bit
			if name {
				*word |= bit
			}
			c.depth++
			if c.outline != nil {
				c.outline.begin()
			}
			p = c.blanks(p + 1)
			if p >= len(s) || s[p] != b+2 { // ] and } stand two behind their opening brackets
				continue
			}
			p, c.depth = p+1, c.depth-1
			if c.outline != nil {
				c.outline.end(p)
			}
		default:
			if p = c.scalar(p); p < 0 {
				return -1
			}
		}
		// Here a value has ended.
		for {
			if c.depth == base {
				c.high |= high
				return p
			}
			if p = c.blanks(p); p >= len(s) {
				return c.bad(p, "the text ends inside an object or array")
			}
			top := uint(c.depth - 1)
			object := objects[top/64%uint(len(objects))]>>(top%64)&1 != 0
			b := s[p]
			if b == ',' {
				p = c.blanks(p + 1)
				name = object
				break
			}
			if object && b != '}' || !object && b != ']' {
				return c.bad(p, "expected a comma or the closing bracket")
			}
			p, c.depth = p+1, c.depth-1
			if c.outline != nil {
				c.outline.end(p)
			}
		}
	}
}

// afterName goes from a name's closing quote to its value.
func (c *cursor) afterName(p int) int {
	if s := c.s; p+2 < len(s) && s[p+1] == ':' && s[p+2] > ' ' {
		return p + 2
	}
	p = c.blanks(p + 1)
	if p >= len(c.s) || c.s[p] != ':' {
		return c.bad(p, "expected a colon after the name of a member")
	}
	return c.blanks(p + 1)
}

// unescape appends the text of a JSON string's inside, which was read before.
// A lone surrogate becomes U+FFFD, as in encoding/json.
func unescape(dst []byte, s string) []byte {
	for {
		i := strings.IndexByte(s, '\\')
		if i < 0 || i+1 >= len(s) {
			return append(dst, s...)
		}
		dst = append(dst, s[:i]...)
		c := s[i+1]
		s = s[i+2:]
		switch c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, n := unescapeRune(s)
			dst = utf8.AppendRune(dst, r)
			s = s[n:]
		default:
			dst = append(dst, c)
		}
	}
}

// unescapeRune reads XXXX, or XXXX\uXXXX where that is a surrogate pair.
func unescapeRune(s string) (r rune, n int) {
	hi, ok := hex4(s)
	if !ok {
		return utf8.RuneError, 0
	}
	if !utf16.IsSurrogate(hi) {
		return hi, 4
	}
	if len(s) >= 10 && s[4] == '\\' && s[5] == 'u' {
		if lo, ok := hex4(s[6:]); ok {
			if r := utf16.DecodeRune(hi, lo); r != utf8.RuneError {
				return r, 10
			}
		}
	}
	return utf8.RuneError, 4
}

func hex4(s string) (r rune, ok bool) {
	if len(s) < 4 {
		return 0, false
	}
	for i := range 4 {
		d, ok := hexDigit(s[i])
		if !ok {
			return 0, false
		}
		r = r<<4 | rune(d)
	}
	return r, true
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

// text returns bytes as a string without copying them. They may not change
// as long as the string lives.
func text(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// members calls f with each member of the object at p, which must be whole:
// its name as written, and where its value lies. It stops when f returns false.
func (c *cursor) members(p int, f func(name string, start, end int) bool) {
	p = c.blanks(p + 1)
	for p < len(c.s) && c.s[p] == '"' {
		e := c.str(p + 1)
		if e < 0 {
			return
		}
		name := c.s[p+1 : e]
		start := c.afterName(e)
		if start < 0 {
			return
		}
		if p = c.value(start); p < 0 || !f(name, start, p) {
			return
		}
		if p = c.blanks(p); p < len(c.s) && c.s[p] == ',' {
			p = c.blanks(p + 1)
		}
	}
}

// elements calls f with each element of the array at p, which must be whole.
func (c *cursor) elements(p int, f func(start, end int) bool) {
	p = c.blanks(p + 1)
	for p < len(c.s) && c.s[p] != ']' {
		start := p
		if p = c.value(p); p < 0 || !f(start, p) {
			return
		}
		if p = c.blanks(p); p < len(c.s) && c.s[p] == ',' {
			p = c.blanks(p + 1)
		}
	}
}
