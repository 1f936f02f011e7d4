package ingest

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/bits"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The transforms here bring the ways in which systems write one id to one
// form, so that a key that one of them mints meets its use in another.

// split gives the element at a position of what stands between separators,
// counted from 0, or from the end if it is negative. Where the separator is
// absent, element 0 is the whole.
func split(sep, position string) (transformFunc, error) {
	at, err := strconv.Atoi(position)
	if err != nil || sep == "" {
		return nil, fmt.Errorf("split takes a separator and a position, as in split('/','2') or split('/','-1'), not split('%s','%s')", sep, position)
	}
	return func(_ *evaluator, s string) string {
		n := at
		if n < 0 {
			n += strings.Count(s, sep) + 1
		}
		if n < 0 {
			return ""
		}
		for ; n > 0; n-- {
			_, rest, ok := strings.Cut(s, sep)
			if !ok {
				return ""
			}
			s = rest
		}
		s, _, _ = strings.Cut(s, sep)
		return s
	}, nil
}

// urlDecode replaces %xx as in the path of a URL and in W3C baggage, where a
// plus stands for itself.
func urlDecode(e *evaluator, s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	out, err := url.PathUnescape(s)
	if err != nil {
		return ""
	}
	return e.keep(out)
}

// maxSerialDigits are 160 bits, the longest serial number that RFC 5280 allows.
const maxSerialDigits = 40

// hexToDecimal writes a serial number in decimal: OpenBao's certificate
// authorities say it in hex, with or without colons, sshd and SPIRE in decimal.
// By hand, because math/big allocates four times.
func hexToDecimal(e *evaluator, s string) string {
	var words [3]uint64 // the number, its lowest word first
	digits := 0
	for _, c := range []byte(strings.TrimPrefix(s, "0x")) {
		if c == ':' {
			continue
		}
		v, ok := hexDigit(c)
		if digits++; !ok || digits > maxSerialDigits {
			return ""
		}
		words[2] = words[2]<<4 | words[1]>>60
		words[1] = words[1]<<4 | words[0]>>60
		words[0] = words[0]<<4 | uint64(v)
	}
	if digits == 0 {
		return ""
	}
	const group, groupDigits = 1e19, 19 // the highest power of ten in a word
	var text [3 * 20]byte
	start, end := len(text), len(text)
	for {
		var rest uint64
		for i := 2; i >= 0; i-- {
			words[i], rest = bits.Div64(rest, words[i], group)
		}
		for ; rest > 0; rest /= 10 {
			start--
			text[start] = byte('0' + rest%10)
		}
		if words == [3]uint64{} {
			break
		}
		for end -= groupDigits; start > end; {
			start--
			text[start] = '0'
		}
	}
	if start == len(text) {
		return "0"
	}
	kept := len(e.arena.buf)
	e.arena.buf = append(e.arena.buf, text[start:]...)
	return e.arena.since(kept)
}

// entraID brings the encodings of one Entra id to that of the claim uti: 22
// characters of base64url over the GUID's bytes in the order of .NET, which
// has its first three groups little-endian. The others are the GUID as text,
// and base64 of that text in 48 characters (sign-in logs until 2022). What is
// none of these stays: the id is compared as it is then.
func entraID(e *evaluator, s string) string {
	guid := s
	if len(s) == 48 {
		plain, ok := e.arena.base64(s)
		if !ok {
			return s
		}
		guid = plain
	}
	raw, ok := parseGUID(guid)
	if !ok {
		return s
	}
	for _, group := range [...][2]int{{0, 4}, {4, 6}, {6, 8}} {
		for i, j := group[0], group[1]-1; i < j; i, j = i+1, j-1 {
			raw[i], raw[j] = raw[j], raw[i]
		}
	}
	start := len(e.arena.buf)
	e.arena.buf = base64.RawURLEncoding.AppendEncode(e.arena.buf, raw[:])
	return e.arena.since(start)
}

// parseGUID reads 8-4-4-4-12 hex digits in the order in which they stand.
func parseGUID(s string) (raw [16]byte, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return raw, false
	}
	var digits [32]byte
	n := copy(digits[:], s[:8])
	for _, at := range [...]int{9, 14, 19} {
		n += copy(digits[n:], s[at:at+4])
	}
	copy(digits[n:], s[24:])
	_, err := hex.Decode(raw[:], digits[:])
	return raw, err == nil
}

// claims returns the claims of a JSON Web Token in compact form (RFC 7519),
// with or without "Bearer " before it and whatever its signature is: logs cut
// it off or replace it. Nothing is verified, so what a claim tells is what a
// record says of itself; and nothing but the claims comes out. An encrypted
// token has none to read.
func (a *arena) claims(s string) (string, bool) {
	const bearer = "Bearer "
	if len(s) > len(bearer) && strings.EqualFold(s[:len(bearer)], bearer) {
		s = s[len(bearer):]
	}
	if !strings.HasPrefix(s, "eyJ") || strings.Count(s, ".") > 2 { // {"…
		return "", false
	}
	_, rest, ok := strings.Cut(s, ".")
	if !ok {
		return "", false
	}
	payload, _, _ := strings.Cut(rest, ".")
	if !strings.HasPrefix(payload, "e") { // {
		return "", false
	}
	plain, ok := a.base64(payload)
	return plain, ok && utf8.ValidString(plain)
}
