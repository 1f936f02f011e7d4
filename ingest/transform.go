package ingest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"catena/schemas/sources"
)

// transformFunc turns a text into another. The result is a part of the text,
// or stands in the evaluator's arena; an empty one is nothing.
type transformFunc func(e *evaluator, s string) string

// transform makes the function of a transform with its arguments.
func compileTransform(t sources.Transform) (transformFunc, error) {
	arg := func(i int) string {
		if i < len(t.Args) {
			return t.Args[i]
		}
		return ""
	}
	a, b := arg(0), arg(1)
	switch t.Name {
	case "lower":
		return lower, nil
	case "upper":
		return upper, nil
	case "trim":
		return func(_ *evaluator, s string) string { return strings.TrimSpace(s) }, nil
	case "trim_prefix":
		return func(_ *evaluator, s string) string { return strings.TrimPrefix(s, a) }, nil
	case "trim_suffix":
		return func(_ *evaluator, s string) string { return strings.TrimSuffix(s, a) }, nil
	case "before":
		return cutAt(a, (*needle).index, true), nil
	case "after":
		return cutAt(a, (*needle).index, false), nil
	case "before_last":
		return cutAt(a, (*needle).lastIndex, true), nil
	case "after_last":
		return cutAt(a, (*needle).lastIndex, false), nil
	case "has_prefix":
		return keepIf(func(s string) bool { return strings.HasPrefix(s, a) }), nil
	case "contains":
		n := newNeedle(a)
		return keepIf(func(s string) bool { return n.index(s) >= 0 }), nil
	case "private_ip":
		return keepIf(privateIP), nil
	case "replace":
		return func(e *evaluator, s string) string { return replace(e, s, a, b) }, nil
	case "first_word":
		return firstWord, nil
	case "hex":
		return base64ToHex, nil
	case "hmac":
		return func(e *evaluator, s string) string { return e.hmac(s) }, nil
	case "sha256":
		return sha256Base64, nil
	case "map":
		return mapping(t.Args), nil
	case "split":
		return split(a, b)
	case "at_most":
		return atMost(a)
	case "earlier":
		return earlier(a)
	case "later":
		return later(a)
	case "url_decode":
		return urlDecode, nil
	case "decimal":
		return hexToDecimal, nil
	case "entra_id":
		return entraID, nil
	}
	return nil, fmt.Errorf("transform %s is not implemented", t.Name)
}

// cutAt gives the part before or after a separator; nothing where there is none.
func cutAt(sep string, index func(n *needle, s string) int, before bool) transformFunc {
	n := newNeedle(sep)
	return func(_ *evaluator, s string) string {
		switch i := index(&n, s); {
		case i < 0:
			return ""
		case before:
			return s[:i]
		default:
			return s[i+len(sep):]
		}
	}
}

// atMost gives a text of at most so many bytes, and nothing for a longer one,
// such as a line that its writer may have cut.
func atMost(bytes string) (transformFunc, error) {
	n, err := strconv.Atoi(bytes)
	if err != nil || n < 1 {
		return nil, fmt.Errorf("at_most takes a number of bytes, as in at_most('900'), not at_most('%s')", bytes)
	}
	return keepIf(func(s string) bool { return len(s) <= n }), nil
}

func keepIf(ok func(string) bool) transformFunc {
	return func(_ *evaluator, s string) string {
		if ok(s) {
			return s
		}
		return ""
	}
}

func privateIP(s string) bool {
	ip, err := netip.ParseAddr(s)
	return err == nil && ip.Unmap().IsPrivate()
}

// lower and upper leave a text that is already so where it is.
func lower(e *evaluator, s string) string { return e.cased(s, 'A', 'Z', strings.ToLower) }

func upper(e *evaluator, s string) string { return e.cased(s, 'a', 'z', strings.ToUpper) }

// cased turns the ASCII letters from first to last into those of the other
// case; all is the slow way, for texts that are not ASCII.
func (e *evaluator) cased(s string, first, last byte, all func(string) string) string {
	some, i := false, 0
	from, behind := uint64(0x80-first)*eachByte, uint64(0x7f-last)*eachByte // carry letters from first on, or behind last, over 0x7f
	for ; i+8 <= len(s); i += 8 {
		if x := load(s, i); (x|(x+from)&^(x+behind))&highBits != 0 {
			break
		}
	}
	for ; i < len(s); i++ {
		c := s[i]
		if c >= 0x80 {
			return e.keep(all(s))
		}
		some = some || first <= c && c <= last
	}
	if !some {
		return s
	}
	start := len(e.arena.buf)
	e.arena.buf = append(e.arena.buf, s...)
	for i, c := range e.arena.buf[start:] {
		if first <= c && c <= last {
			e.arena.buf[start+i] = c ^ 0x20
		}
	}
	return e.arena.since(start)
}

// maxReplaced bounds what replace can blow a text up to.
const maxReplaced = 1 << 20

func replace(e *evaluator, s, from, to string) string {
	if from == "" || !strings.Contains(s, from) {
		return s
	}
	if strings.Count(s, from)*len(to) > maxReplaced {
		return ""
	}
	return e.keep(strings.ReplaceAll(s, from, to))
}

func firstWord(_ *evaluator, s string) string {
	start := 0
	for start < len(s) && blank(s[start]) {
		start++
	}
	end := start
	for end < len(s) && !blank(s[end]) {
		end++
	}
	return s[start:end]
}

func blank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func base64ToHex(e *evaluator, s string) string {
	raw, ok := e.arena.base64(s)
	if !ok {
		return ""
	}
	return e.keep(hex.EncodeToString([]byte(raw)))
}

func sha256Base64(e *evaluator, s string) string {
	sum := sha256.Sum256([]byte(s))
	return e.keep(base64.StdEncoding.EncodeToString(sum[:]))
}

func mapping(pairs []string) transformFunc {
	m := make(map[string]string, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(_ *evaluator, s string) string { return m[s] }
}
