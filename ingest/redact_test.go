package ingest

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

const (
	testJWT    = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJhbGljZSIsImV4cCI6MX0.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
	testAWS    = "IQoJb3JpZ2luX2VjEJr//////////wEaCXVzLWVhc3QtMSJHMEUCIQDabcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ+/=="
	testGitHub = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
	testOpenAI = "sk-proj-AbCdEfGhIjKlMnOpQrStUvWx0123456789"
)

// secrets are texts with where in them a secret stands.
var secrets = []struct{ text, secret string }{
	{"token is " + testJWT + " ok", testJWT},
	{"/callback?id_token_hint=" + testJWT, testJWT},
	{testJWT, testJWT},
	{"Authorization: Bearer abcd1234efgh", "abcd1234efgh"},
	{"authorization: bearer " + testJWT, testJWT},
	{"curl -H 'Authorization: Basic dXNlcjpwYXNz' x", "dXNlcjpwYXNz"},
	{"Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"},
	{"SSWS 00QCjAl4MlV-WPXM3ST5Q", "00QCjAl4MlV-WPXM3ST5Q"},
	{"Negotiate YIIabcdef0123", "YIIabcdef0123"},
	{`{"sessionToken":"` + testAWS + `"}`, testAWS},
	{"creds " + testAWS, testAWS},
	{`{"secretAccessKey":"wJalrXUtnFEMI/K7MDENG/bPxRfiCYxyz"}`, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYxyz"},
	{`{"SecretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYxyz", "x":1}`, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYxyz"},
	{`{"a":"{\"password\":\"hunter2\"}"}`, "hunter2"},
	{`{"a":"{\"b\":\"{\\\"password\\\":\\\"hunter2\\\"}\"}"}`, "hunter2"},
	{`{"password":"a\"b"}`, `a\"b`},
	{`{"client_secret":"s3cr3t"}`, "s3cr3t"},
	{`{"pin":1,"password":123456}`, "123456"},
	{`{"token":["tok-en-1"]}`, "tok-en-1"},
	{`{"token":"unterminated`, "unterminated"},
	{testGitHub, testGitHub},
	{"x=gho_16C7e42F292c6912E7710c838347Ae178B4a y", "gho_16C7e42F292c6912E7710c838347Ae178B4a"},
	{"github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz", "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz"},
	{"glpat-AbCdEfGhIjKlMnOpQrSt", "glpat-AbCdEfGhIjKlMnOpQrSt"},
	{"xoxb-123456789012-abcdefGHIJ", "xoxb-123456789012-abcdefGHIJ"},
	{"vault hvs.CAESIJlWh9Zb7XyQ0123456789abcdef", "hvs.CAESIJlWh9Zb7XyQ0123456789abcdef"},
	{"hvb.AAAAAQJlWh9Zb7XyQ0123456789abcdef", "hvb.AAAAAQJlWh9Zb7XyQ0123456789abcdef"},
	{"key " + testOpenAI, testOpenAI},
	{"sk_live_abcdefghijklmnop", "sk_live_abcdefghijklmnop"},
	{"npm_abcdefghijklmnopqrstuvwxyz0123456789", "npm_abcdefghijklmnopqrstuvwxyz0123456789"},
	{"-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\ndef\n-----END RSA PRIVATE KEY-----", "MIIEabc"},
	{`-----BEGIN PRIVATE KEY-----\nMIIEabc\ndef`, "MIIEabc"},
	{"Cookie: sid=abc; x=1", "sid=abc"},
	{`{"Set-Cookie":"sid=abc"}`, "sid=abc"},
	{"password=hunter2&x=1", "hunter2"},
	{"host=db password='hunter 2' user=x", "hunter 2"},
	{"password = hunter2", "hunter2"},
	{"pwd=/hunter2", "/hunter2"},
	{"db --password hunter2 --host x", "hunter2"},
	{"db --password=hunter2", "hunter2"},
	{`--token "hunter 2"`, "hunter 2"},
	{"CREATE ROLE x LOGIN PASSWORD 'hunter2' VALID UNTIL 'tomorrow'", "hunter2"},
	{"create user x identified by 'hunter''2'", "hunter"},
	{"postgres://bob:hunter2@db:5432/x", "hunter2"},
	{"https://abcdefghijklmnopqrst@github.com/x", "abcdefghijklmnopqrst"},
	{"/x?access_token=abc&y=1", "abc"},
	{"/x?X-Amz-Security-Token=abc%2F&X-Amz-Signature=0a1b2c3d", "0a1b2c3d"},
	{"/x?sv=1&sig=abc%3D", "abc%3D"},
	{"password: hunter2", "hunter2"},
}

func TestRedact(t *testing.T) {
	r := NewRedactor(testKey)
	mark := regexp.MustCompile(`\[redacted:[0-9a-f]{8}\]`)
	for _, c := range secrets {
		got := r.Redact(c.text)
		if strings.Contains(got, c.secret) || !mark.MatchString(got) {
			t.Errorf("%s: got %s", c.text, got)
		}
		if b := r.RedactBytes([]byte(c.text)); string(b) != got {
			t.Errorf("%s: RedactBytes gives %s", c.text, b)
		}
		if again := r.Redact(got); again != got {
			t.Errorf("%s: got %s, and again %s", c.text, got, again)
		}
	}
	if a, b := r.Redact("a token="+testGitHub), r.Redact("Bearer "+testGitHub); a[len(a)-markLen:] != b[len(b)-markLen:] {
		t.Errorf("one secret is told as two: %s, %s", a, b)
	}
	if a, b := r.Redact("password=x1"), NewRedactor([]byte("other")).Redact("password=x1"); a == b {
		t.Errorf("two keys give one mark: %s", a)
	}
	if got := r.Redact("a password=x&token=y b"); len(mark.FindAllString(got, -1)) != 2 || !strings.HasPrefix(got, "a password=[") || !strings.HasSuffix(got, "] b") {
		t.Errorf("got %s", got)
	}
}

// TestRedactLeaves lists what must stay as it is.
func TestRedactLeaves(t *testing.T) {
	r := NewRedactor(testKey)
	for _, s := range []string{
		"", "alice@example.org", "arn:aws:sts::210987654321:assumed-role/ci-deployer/deploy-7f9c2d", "arn:aws:secretsmanager:eu-west-1:1:secret:db/password-AbCdEf",
		"aws-sdk-go-v2/1.36.3 ua/2.1 os/linux lang/go#1.24.2 md/GOOS#linux api/ec2#1.210.0 m/E,Z", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
		"9b1d7c52-0f6e-4c1d-a7c3-2f1f3f7b6a55", "system:serviceaccount:prod:desk-service", "desk-service-deployment-7f9c5d-abcde", "sk-service-deployment-7f9c5dabcde", "2026-11-23T16:25:12.534Z",
		"basic authentication failed", "the bearer of news", "a token: expected", "nextToken", "/api/v1/namespaces/default/secrets/db", "repo:acme/shop:ref:refs/heads/main", "https://example.org/a@b", "ssh://git@host/x",
		"ASIA5XNCQTPL7QHD3RWE", "AKIA5XNCQTPL7QHD3RWE", `{"token":"","password":null,"secret":"REDACTED"}`, "SELECT 'password' FROM x", "eyJ", "hvs.short", "xoxb-1", "a=b", "x:y", "alice : PWD=/home/alice ; USER=root", "[redacted:0123abcd]", "password=[redacted:0123abcd]",
	} {
		if got := r.Redact(s); got != s {
			t.Errorf("%s: got %s", s, got)
		}
		if n := testing.AllocsPerRun(10, func() { r.Redact(s) }); n != 0 {
			t.Errorf("%s: %v allocations", s, n)
		}
	}
}

func FuzzRedact(f *testing.F) {
	for _, c := range secrets {
		f.Add(c.text, "")
		f.Add("", c.text)
	}
	f.Add("[redacted:", "password=[redacted:01234567][redacted:")
	f.Add(`"password":"`, `\\"`)
	r := NewRedactor(testKey)
	f.Fuzz(func(t *testing.T, before, after string) {
		all := before + " " + testJWT + " " + testGitHub + "\n" + after
		got := r.Redact(all)
		for _, secret := range []string{testJWT, testGitHub} {
			if strings.Contains(got, secret) {
				t.Errorf("%q: got %q", all, got)
			}
		}
		if again := r.Redact(got); again != got {
			t.Errorf("%q: got %q, and again %q", all, got, again)
		}
		if b := r.RedactBytes([]byte(all)); string(b) != got {
			t.Errorf("%q: RedactBytes gives %q, Redact %q", all, b, got)
		}
	})
}

// TestPivots holds the search for secrets against one that looks at every pivot.
func TestPivots(t *testing.T) {
	random := rand.New(rand.NewPCG(11, 13))
	pieces := strings.Fields(`Bearer basic SSWS Negotiate --password -- Password PWD pwd secret token= token : = " ' \ - _ . @ :// ey eyJ J G IQo Jb3JpZ2lu Fwo GZXIvYXdz ghp github_pat
		npm sk rk live test xoxb xoxp glpat hvs hvr ya29 -----BEGIN -----END PRIVATE KEY----- IDENTIFIED BY set-cookie Authorization x-api-key sig Signature /sbin/ a1 Zz9 0f1e2d3c AbCdEfGh01234567 user dXNlcjpwdw==`)
	for _, x := range secrets {
		pieces = append(pieces, x.text, x.secret)
	}
	found := 0
	for range 200_000 {
		var b strings.Builder
		for range 1 + random.IntN(7) {
			piece := pieces[random.IntN(len(pieces))]
			if random.IntN(4) == 0 {
				piece = piece[random.IntN(len(piece)):]
			}
			b.WriteString(piece)
			b.WriteString([]string{"", "", " ", "\t", "\""}[random.IntN(5)])
		}
		s := b.String()
		from := random.IntN(2) * random.IntN(len(s)+1)
		wantA, wantB := -1, -1
		for p := from; p < len(s); p++ {
			if pivots[s[p]] == 0 {
				continue
			}
			if a, b := secretAt(s, p); a >= from && a < b {
				wantA, wantB = a, b
				found++
				break
			}
		}
		if a, b := findSecret(s, from); a != wantA || b != wantB {
			t.Fatalf("%q from %d: %d to %d, want %d to %d", s, from, a, b, wantA, wantB)
		}
	}
	if found < 10_000 {
		t.Errorf("only %d texts held a secret", found)
	}
}
