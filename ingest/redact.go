package ingest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"hash/maphash"
	"strings"
	"sync"

	"catena/schemas"
)

// Redactor replaces bearer tokens, passwords, keys and cookies in free text by
// [redacted:xxxxxxxx], eight hex digits of the keyed HMAC-SHA-256 of what stood
// there: the same secret is recognisable as the same, and cannot be guessed
// from it. What it knows of:
//
//   - tokens by their form: JWTs, AWS session tokens, those of GitHub, GitLab,
//     Slack, Vault, npm, Google, Stripe, OpenAI and Anthropic keys, PEM private keys;
//   - what stands after Bearer, Basic, SSWS, Negotiate, Cookie:, Authorization:;
//   - values by their name: "password":"…" in JSON (also escaped, inside a
//     string), password=… and token=… in URLs and commands, --password …;
//   - PASSWORD '…' and IDENTIFIED BY '…' in SQL, and user:password@ in URLs.
//
// It errs on the side of replacing too much. It may be used by several
// goroutines at once.
type Redactor struct{ macs sync.Pool }

// NewRedactor makes a redactor with the key of its HMAC.
func NewRedactor(key []byte) *Redactor {
	key = bytes.Clone(key)
	return &Redactor{sync.Pool{New: func() any { return &keyedHash{Hash: hmac.New(sha256.New, key)} }}}
}

const (
	markStart = "[redacted:"
	markLen   = len(markStart) + 8 + 1
)

// Redact returns s with its secrets replaced; s itself if there are none.
func (r *Redactor) Redact(s string) string {
	a, b := findSecret(s, 0)
	if a < 0 {
		return s
	}
	return text(r.replace(s, a, b))
}

// RedactBytes returns a copy of b with its secrets replaced.
func (r *Redactor) RedactBytes(b []byte) []byte {
	s := string(b)
	a, e := findSecret(s, 0)
	if a < 0 {
		return []byte(s)
	}
	return r.replace(s, a, e)
}

// maxPasses bounds how often a text is searched again: what was replaced may
// have hidden the beginning of what follows it.
const maxPasses = 8

// replace replaces the secret at a..b and all behind it.
func (r *Redactor) replace(s string, a, b int) (out []byte) {
	for range maxPasses {
		out = r.append(make([]byte, 0, len(s)+2*markLen), s, a, b)
		s = text(out)
		if a, b = findSecret(s, 0); a < 0 {
			break
		}
	}
	return out
}

func (r *Redactor) append(dst []byte, s string, a, b int) []byte {
	from := 0
	for a >= 0 {
		dst = append(dst, s[from:a]...)
		dst = append(dst, markStart...)
		dst = r.appendHash(dst, s[a:b])
		dst = dst[:len(dst)-2*sha256.Size+8]
		dst = append(dst, ']')
		from = b
		a, b = findSecret(s, from)
	}
	return append(dst, s[from:]...)
}

// keyedHash is an HMAC with its memory, to be used again.
type keyedHash struct {
	hash.Hash
	secret, sum []byte
}

// hash is the keyed HMAC-SHA-256 of a secret in lower-case hex.
func (r *Redactor) hash(secret string) string { return string(r.appendHash(nil, secret)) }

// appendHash appends it.
func (r *Redactor) appendHash(dst []byte, secret string) []byte {
	h := r.macs.Get().(*keyedHash)
	h.Reset()
	h.secret = append(h.secret[:0], secret...)
	h.Write(h.secret)
	h.sum = h.Sum(h.sum[:0])
	clear(h.secret)
	dst = hex.AppendEncode(dst, h.sum)
	r.macs.Put(h)
	return dst
}

// cleanTexts remembers the texts without secrets that it saw last, of which
// logs repeat the same few all the time: roles, user agents, actions. Looking
// one up costs a tenth of looking into it. Of a text only its hash is kept, of
// 63 bits and with a seed that nobody knows: that a secret has that of a clean
// text can be left to chance.
type cleanTexts struct {
	textHash
	hashes [cleanSlots]uint64
}

const cleanSlots = 4096

// textHash hashes texts with a seed that nobody knows.
type textHash struct{ seed maphash.Seed }

func newTextHash() textHash { return textHash{maphash.MakeSeed()} }

// hash is never zero.
func (t *textHash) hash(s string) uint64 { return maphash.String(t.seed, s) | 1 }

// has reports whether the text of that hash is known to be clean.
func (c *cleanTexts) has(hash uint64) bool { return c.hashes[hash>>1%cleanSlots] == hash }

// add says that it is clean.
func (c *cleanTexts) add(hash uint64) { c.hashes[hash>>1%cleanSlots] = hash }

// pivots are the bytes at one of which every form of secret can be told, each
// with a bit of its own.
var pivots = [256]uint16{'J': 1, 'G': 2, '_': 4, '-': 8, '.': 16, '@': 32, '\'': 64, ' ': 128, ':': 256, '=': 512}

// before has the bits of the pivots in front of which a byte can stand, if a
// secret is told there: the last letters of the words that are looked for. Most
// pivots stand in ids, times and addresses, and behind other bytes.
var before = func() (t [256]uint16) {
	for pivot, last := range map[byte]string{
		'J': "yo", 'G': "o", '_': "pousrtme", '.': "sbr9", '\'': " \t\r\n", ' ': "rscedtnyRSCEDTNY", ':': " \"\\dtenyDTENY", '=': " detnygDETNYG",
	} {
		for _, c := range []byte(last) {
			t[c] |= pivots[pivot]
		}
	}
	for c := range t {
		t[c] |= pivots['-'] | pivots['@'] // what they take to be a secret is told by more than one byte
	}
	return t
}()

// findSecret returns where the first secret that begins at or after from lies
// in s; -1 if there is none.
func findSecret(s string, from int) (a, b int) {
	for p := from; p < len(s); p++ {
		pivot := pivots[s[p]]
		if pivot == 0 || p > 0 && before[s[p-1]]&pivot == 0 {
			continue
		}
		if a, b = secretAt(s, p); a >= from && a < b {
			return a, b
		}
	}
	return -1, -1
}

// secretAt returns the secret that the pivot at p belongs to; a == b for none.
func secretAt(s string, p int) (a, b int) {
	switch s[p] {
	case 'J':
		if strings.HasSuffix(s[:p], "ey") {
			return jwt(s, p-2)
		}
		return prefixed(s, p, "IQo", "Jb3JpZ2lu", 100) // AWS session token
	case 'G':
		return prefixed(s, p, "Fwo", "GZXIvYXdz", 100) // AWS session token, older form
	case '_':
		return underscored(s, p)
	case '-':
		return dashed(s, p)
	case '.':
		return dotted(s, p)
	case '@':
		return userinfo(s, p)
	case '\'':
		return sqlPassword(s, p)
	case ' ':
		return afterWord(s, p)
	case ':':
		return afterColon(s, p)
	case '=':
		return afterEquals(s, p)
	}
	return 0, 0
}

func alnum(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
}

// tokenByte is a character of base64, base64url or token68.
func tokenByte(c byte) bool {
	return alnum(c) || c == '-' || c == '_' || c == '.' || c == '~' || c == '+' || c == '/' || c == '='
}

func urlByte(c byte) bool { return alnum(c) || c == '-' || c == '_' }

// run returns the end of the longest run of such characters from p on.
func runOf(s string, p int, ok func(byte) bool) int {
	for p < len(s) && ok(s[p]) {
		p++
	}
	return p
}

// wordStart reports whether word stands right before p and begins there. It is
// for words with which others end (desk-…); the rest is found glued to
// anything.
func wordStart(s string, p int, word string) bool {
	a := p - len(word)
	return a >= 0 && s[a:p] == word && (a == 0 || !alnum(s[a-1]))
}

// prefixed finds a token that consists of the word before p, of what follows
// from p on and of base64, at least so long.
func prefixed(s string, p int, before, after string, atLeast int) (a, b int) {
	if !strings.HasPrefix(s[p:], after) || !wordStart(s, p, before) {
		return 0, 0
	}
	a = p - len(before)
	b = runOf(s, p, func(c byte) bool { return tokenByte(c) || c == '%' })
	if b-a < atLeast && b < len(s) {
		return 0, 0
	}
	return a, b
}

// jwt finds a JWS or JWE: base64url parts with points between them.
func jwt(s string, a int) (int, int) {
	p := runOf(s, a, urlByte)
	if p-a < 10 || p >= len(s) || s[p] != '.' {
		return 0, 0
	}
	b := runOf(s, p+1, func(c byte) bool { return urlByte(c) || c == '.' || c == '=' })
	if b-p < 3 {
		return 0, 0
	}
	return a, b
}

// underscored finds ghp_…, github_pat_…, npm_…, sk_live_….
func underscored(s string, p int) (int, int) {
	for _, t := range []struct {
		word    string
		atLeast int
	}{{"ghp", 16}, {"gho", 16}, {"ghu", 16}, {"ghs", 16}, {"ghr", 16}, {"github_pat", 16}, {"npm", 30}, {"sk_live", 10}, {"sk_test", 10}, {"rk_live", 10}, {"rk_test", 10}} {
		if s[p-min(p, 1)] == t.word[len(t.word)-1] && strings.HasSuffix(s[:p], t.word) {
			if b := runOf(s, p+1, func(c byte) bool { return alnum(c) || c == '_' }); b-p > t.atLeast {
				return p - len(t.word), b
			}
		}
	}
	return 0, 0
}

// dashed finds xoxb-…, glpat-…, sk-… and PEM private keys.
func dashed(s string, p int) (int, int) {
	if p == 0 || s[p-1] != '-' {
		if strings.HasPrefix(s[p:], "-----BEGIN ") {
			return pem(s, p)
		}
	}
	if p < 2 || s[p-1] != 'k' && s[p-1] != 't' && s[p-2] != 'x' {
		return 0, 0
	}
	switch b := runOf(s, p+1, urlByte); s[p-1] {
	case 'k':
		if wordStart(s, p, "sk") && b-p > 20 && strings.ContainsAny(s[p:b], "ABCDEFGHIJKLMNOPQRSTUVWXYZ") && strings.ContainsAny(s[p:b], "0123456789") {
			return p - 2, b
		}
	case 't':
		if strings.HasSuffix(s[:p], "glpat") && b-p > 16 {
			return p - 5, b
		}
	default:
		if p >= 4 && s[p-4:p-1] == "xox" && b-p > 10 {
			return p - 4, b
		}
	}
	return 0, 0
}

// pem finds a private key in PEM, up to its end line or the end of the text.
func pem(s string, p int) (int, int) {
	label := s[p+len("-----BEGIN "):]
	end := strings.Index(label[:min(len(label), 64)], "-----")
	if end < 0 || !strings.HasSuffix(label[:end], "PRIVATE KEY") {
		return 0, 0
	}
	a := p + len("-----BEGIN ") + end + 5
	i := strings.Index(s[a:], "-----END ")
	if i < 0 {
		return trimMarks(s, a, len(s))
	}
	return trimMarks(s, a, a+i)
}

// dotted finds hvs.…, hvb.…, hvr.… and ya29.….
func dotted(s string, p int) (int, int) {
	for _, word := range []string{"hvs", "hvb", "hvr", "ya29"} {
		if s[p-min(p, 1)] == word[len(word)-1] && strings.HasSuffix(s[:p], word) {
			if b := runOf(s, p+1, urlByte); b-p > 20 {
				return p - len(word), b
			}
		}
	}
	return 0, 0
}

// userinfo finds the password, or a long token, before the @ of a URL.
func userinfo(s string, p int) (int, int) {
	a, colon := p, -1
	for a > 0 && p-a < 512 && !strings.ContainsRune("/ \t\r\n\"'<>", rune(s[a-1])) {
		if a--; s[a] == ':' {
			colon = a
		}
	}
	if a < 3 || s[a-3:a] != "://" {
		return 0, 0
	}
	if colon >= 0 {
		return trimMarks(s, colon+1, p)
	}
	if p-a >= 16 {
		return trimMarks(s, a, p)
	}
	return 0, 0
}

// sqlPassword finds the text whose opening quote is at p, after PASSWORD or
// IDENTIFIED BY.
func sqlPassword(s string, p int) (int, int) {
	word := strings.TrimRight(s[max(0, p-40):p], " \t\r\n")
	if len(word) == p-max(0, p-40) || !hasSuffixFold(word, "password") && !hasSuffixFold(word, "identified by") {
		return 0, 0
	}
	b := p + 1
	for b < len(s) && s[b] != '\'' {
		if s[b] == '\\' {
			b++
		}
		b++
	}
	return trimMarks(s, p+1, min(b, len(s)))
}

func hasSuffixFold(s, suffix string) bool {
	return len(s) >= len(suffix) && strings.EqualFold(s[len(s)-len(suffix):], suffix)
}

// afterWord finds what stands after Bearer, Basic, SSWS, Negotiate and after
// --password.
func afterWord(s string, p int) (int, int) {
	if p < 4 || p+1 >= len(s) {
		return 0, 0
	}
	a := p
	for a > 0 && p-a < 32 && urlByte(s[a-1]) {
		a--
	}
	word := s[a:p]
	if strings.HasPrefix(word, "--") && secretName(word[2:]) {
		return argument(s, p+1)
	}
	b := runOf(s, p+1, tokenByte)
	switch token := s[p+1 : b]; {
	case len(word) == 6 && strings.EqualFold(word, "bearer"):
		if len(token) >= 4 && (word != "bearer" || len(token) >= 20 || strings.ContainsAny(token, "0123456789")) {
			return p + 1, b
		}
	case len(word) == 4 && strings.EqualFold(word, "ssws"), len(word) == 9 && strings.EqualFold(word, "negotiate"):
		if len(token) >= 4 {
			return p + 1, b
		}
	case len(word) == 5 && strings.EqualFold(word, "basic"):
		if basicCredentials(token) {
			return p + 1, b
		}
	}
	return 0, 0
}

// basicCredentials reports whether a token is base64 of user:password.
func basicCredentials(token string) bool {
	var src, plain [128]byte
	n := copy(src[:], token)
	n, _ = base64.StdEncoding.Decode(plain[:], src[:n&^3])
	return bytes.IndexByte(plain[:n], ':') >= 0
}

// argument is the next word of a command, quoted or not.
func argument(s string, p int) (int, int) {
	p = runOf(s, p, func(c byte) bool { return c == ' ' })
	if p < len(s) && (s[p] == '\'' || s[p] == '"') {
		b := strings.IndexByte(s[p+1:], s[p])
		if b < 0 {
			return trimMarks(s, p+1, len(s))
		}
		return trimMarks(s, p+1, p+1+b)
	}
	if p < len(s) && s[p] == '-' {
		return 0, 0
	}
	return trimMarks(s, p, runOf(s, p, func(c byte) bool { return c > ' ' && c != '"' && c != '\'' && c != '\\' }))
}

// afterColon finds "name":"value" in JSON and name: value in headers.
func afterColon(s string, p int) (int, int) {
	e := p
	for e > 0 && p-e < 4 && (s[e-1] == ' ' || s[e-1] == '"' || s[e-1] == '\\') {
		e--
	}
	quoted := e < p && strings.IndexByte(s[e:p], '"') >= 0
	a := e
	for a > 0 && e-a < 64 && (urlByte(s[a-1]) || s[a-1] == '.') {
		a--
	}
	if e == a || !quoted && !headerName(s[a:e]) || quoted && !secretName(s[a:e]) {
		return 0, 0
	}
	v := runOf(s, p+1, func(c byte) bool { return c == ' ' || c == '\t' })
	if !quoted {
		if v == p+1 {
			return 0, 0
		}
		return headerValue(s, v)
	}
	return jsonSecret(s, v)
}

// headerValue is the rest of a line, or up to a quote.
func headerValue(s string, v int) (int, int) {
	b := v
	for b < len(s) && s[b] >= ' ' && s[b] != '"' && s[b] != '\'' && s[b] != '\\' && s[b] != ',' {
		b++
	}
	// Of Authorization: Bearer x the scheme stays, so that the token is the
	// same wherever it stands.
	for _, scheme := range []string{"Bearer ", "Basic ", "SSWS ", "Negotiate "} {
		if len(s)-v > len(scheme) && strings.EqualFold(s[v:v+len(scheme)], scheme) {
			v += len(scheme)
		}
	}
	return trimMarks(s, v, b)
}

// jsonSecret is a JSON string, or the first of an array of strings, which
// begins at v; or a number.
func jsonSecret(s string, v int) (int, int) {
	v = runOf(s, v, func(c byte) bool { return c == '[' || c == ' ' })
	slashes := v
	v = runOf(s, v, func(c byte) bool { return c == '\\' })
	slashes = v - slashes
	if v >= len(s) || s[v] != '"' {
		if slashes > 0 {
			return 0, 0
		}
		return trimMarks(s, v, runOf(s, v, func(c byte) bool { return '0' <= c && c <= '9' }))
	}
	a := v + 1
	// The string ends at a quote with as many backslashes before it as its
	// opening one has; inside stand more.
	for b := a; b < len(s); b++ {
		if s[b] != '"' {
			continue
		}
		n := 0
		for b-1-n >= a && s[b-1-n] == '\\' {
			n++
		}
		if n <= slashes {
			return jsonText(s, a, b-n)
		}
	}
	return jsonText(s, a, len(s))
}

// jsonText leaves the scheme of an Authorization header out of the secret.
func jsonText(s string, a, b int) (int, int) {
	for _, scheme := range []string{"Bearer ", "Basic ", "SSWS ", "Negotiate "} {
		if b-a > len(scheme) && strings.EqualFold(s[a:a+len(scheme)], scheme) {
			a += len(scheme)
		}
	}
	return trimMarks(s, a, b)
}

// afterEquals finds name=value in URLs, commands and connection strings.
func afterEquals(s string, p int) (int, int) {
	e := p
	for e > 0 && p-e < 2 && s[e-1] == ' ' {
		e--
	}
	a := e
	for a > 0 && e-a < 64 && (urlByte(s[a-1]) || s[a-1] == '.') {
		a--
	}
	if name := strings.TrimLeft(s[a:e], "-"); name == "" || !secretName(name) && !strings.EqualFold(name, "sig") && !hasSuffixFold(name, "signature") {
		return 0, 0
	}
	v := runOf(s, p+1, func(c byte) bool { return c == ' ' })
	if s[a:e] == "PWD" && v < len(s) && s[v] == '/' {
		return 0, 0 // the working directory, as sudo writes it
	}
	if v < len(s) && (s[v] == '\'' || s[v] == '"') {
		return argument(s, v)
	}
	if v > p+1 && e == p {
		return 0, 0
	}
	return trimMarks(s, v, runOf(s, v, func(c byte) bool {
		return c > ' ' && c != '&' && c != '"' && c != '\'' && c != '\\' && c != ';' && c != '<' && c != '>' && c != '#'
	}))
}

// trimMarks leaves out what is already replaced, and what says nothing.
func trimMarks(s string, a, b int) (int, int) {
	if a >= len(markStart) && marked(s, a-len(markStart)) {
		return 0, 0
	}
	for marked(s, a) && b-a >= markLen {
		a += markLen
	}
	if a >= b || schemas.Placeholder(s[a:b]) {
		return 0, 0
	}
	return a, b
}

// marked reports whether [redacted:xxxxxxxx] stands at a.
func marked(s string, a int) bool {
	if len(s)-a < markLen || s[a] != '[' || s[a:a+len(markStart)] != markStart || s[a+markLen-1] != ']' {
		return false
	}
	for _, c := range []byte(s[a+len(markStart) : a+markLen-1]) {
		if _, ok := hexDigit(c); !ok {
			return false
		}
	}
	return true
}

// secretName reports whether a member, parameter or option of that name holds
// a secret.
func secretName(name string) bool {
	for _, end := range []string{"password", "passwd", "pwd", "passphrase", "secret", "token", "apikey", "api_key", "api-key", "accesskey",
		"access_key", "privatekey", "private_key", "secretkey", "secret_key", "authorization", "cookie", "jwt", "assertion", "credential_value"} {
		if hasSuffixFold(name, end) {
			return true
		}
	}
	return false
}

// headerName reports whether a line of that name holds a secret.
func headerName(name string) bool {
	for _, n := range []string{"password", "passwd", "secret", "cookie", "set-cookie", "authorization", "proxy-authorization", "x-api-key", "api_key", "x-amz-security-token"} {
		if strings.EqualFold(name, n) {
			return true
		}
	}
	return false
}
