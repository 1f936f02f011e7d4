package ingest

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"catena/schemas"
	"catena/schemas/sources"
)

// header is the part of a source.yaml that the tests below have in common.
const header = `name: test
match: {match: present}
id: ["{id ?? 'id'}"]
time: "{time ?? '2026-11-23T16:00:00Z'}"
`

// testDecoder makes a decoder of source.yaml texts.
func testDecoder(t testing.TB, opts DecoderOptions, yamls ...string) *Decoder {
	t.Helper()
	var list []*sources.Source
	for _, y := range yamls {
		name, _, _ := strings.Cut(strings.TrimPrefix(y, "name: "), "\n")
		src, err := sources.Parse(name, []byte(y))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, src)
	}
	set, err := sources.NewSet(list...)
	if err != nil {
		t.Fatal(err)
	}
	opts.HMACKey = testKey
	d, err := NewDecoder(set, opts)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func decode(d *Decoder, value string) *Decoded {
	var out Decoded
	d.Decode(&out, &schemas.Record{Topic: "t", Value: []byte(value)})
	return &out
}

// oneEvent decodes a record that holds one event.
func oneEvent(t *testing.T, d *Decoder, value string) *schemas.Event {
	t.Helper()
	out := decode(d, value)
	if len(out.Events) != 1 || len(out.Dead) != 0 {
		t.Fatalf("%s: want one event, got\n%s", value, textOfDecoded(out))
	}
	// From the second time on what follows from its shape is in a table.
	for range 3 {
		if first, again := textOfDecoded(out), textOfDecoded(decode(d, value)); !bytes.Equal(first, again) {
			t.Fatalf("%s: decoded again, it differs:\n%s", value, lineDiff(string(first), string(again)))
		}
	}
	return &out.Events[0]
}

// delegatedJWT says that agent-b acts for agent-a, which acts for alice.
var delegatedJWT = unsignedJWT(`{"jti":"jti-fixture-1","sub":"alice@example.com","act":{"sub":"agent-b","act":{"sub":"agent-a"}}}`)

func unsignedJWT(claims string) string {
	return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".REDACTED"
}

// TestTemplates reads a value with every form of path, alternative and
// transform.
func TestTemplates(t *testing.T) {
	doc := `{"match":1, "a":{"b":{"c":"abc"},"b.c/d":{"e":"dotted"},"esc":"x\n\"y\u00e9\ud83d\ude00\\","n":-1.5e3,"t":true,"nul":null,"empty":"","o":{"k": [1, "2"]}},
		"list":["first",{"x":"second"},"last"],"nest":[{"x":["p","q"]},{"x":["r"]}],
		"attrs":[{"key":"other","value":"no"},{"value":"sel\u0065cted","key":"gen.ai"},{"key":"gen.ai","value":"later"},{"key":7,"value":"seven"}],
		"json":"{\"in\":{\"side\":\"deep\"},\"again\":\"{\\\"x\\\":\\\"deeper\\\"}\"}","notjson":"{\"in\":","b64":"eyJpbiI6ImI2NCJ9","b64u":"eyJpbiI6Ij8-Pz4ifQ","plain64":"aGVsbG8=",
		"hidden":"HIDDEN_DUE_TO_SECURITY_REASONS","dash":"-","zeros":"00000000-0000-0000-0000-000000000000","zero":0,"zerotext":"0",
		"mail":"Alice@Example.ORG","arn":"arn:aws:iam::1:user/bob","words":"  two words ","hash":"/+8=","ip":"10.1.2.3","public":"8.8.8.8","ip6":"::ffff:192.168.0.1",
		"jwt":"` + delegatedJWT + `","bearer":"Bearer ` + delegatedJWT + `","cut":"` + strings.TrimSuffix(delegatedJWT, "REDACTED") + `","jwe":"` + delegatedJWT + `.b.c","badjwt":"eyJhbGciOiJub25lIn0.e30x.","in":"{\"token\":\"bearer ` + delegatedJWT + `\"}",
		"guid":"00112233-4455-6677-8899-AABBCCDDEEFF","guid64":"MDAxMTIyMzMtNDQ1NS02Njc3LTg4OTktYWFiYmNjZGRlZWZm","uti":"MyIRAFVEd2aImaq7zN3u_w","serial":"de:0F:f2:40","wide":"ffffffffffffffffffffffffffffffff","baggage":"userId=alice%40example.com+x,b=2","pct":"100%",
		"":"nameless","0":"digit"}`
	for _, c := range []struct{ template, want string }{
		// paths
		{"{a.b.c}", "abc"}, {`{a."b.c/d".e}`, "dotted"}, {"{a.esc}", "x\n\"yé😀\\"}, {"{a.n}", "-1.5e3"}, {"{a.t}", "true"},
		{"{a.nul}", ""}, {"{a.empty}", ""}, {"{a.missing}", ""}, {"{a.b.c.d}", ""}, {"{a.o}", `{"k": [1, "2"]}`}, {"{a.o.k}", `[1, "2"]`},
		{"{list[0]}", "first"}, {"{list[1].x}", "second"}, {"{list[2]}", "last"}, {"{list[3]}", ""}, {"{list[-1]}", "last"}, {"{a[0]}", ""},
		{"{nest[*].x[*]}", "p q r"}, {"{nest[*].x[0]}", "p r"}, {"{nest[*].x}", `["p","q"] ["r"]`}, {"{nest[-1].x[-1]}", "r"}, {"{list[*]}", `first {"x":"second"} last`}, {"{list[*].x}", "second"},
		{"{attrs[key=gen.ai].value}", "selected"}, {`{attrs[key="gen.ai"].value}`, "selected"}, {"{attrs[key=7].value}", "seven"}, {"{attrs[key=none].value}", ""}, {"{attrs[nokey=x].value}", ""},
		{"{json~json.in.side}", "deep"}, {"{json~json.again~json.x}", "deeper"}, {"{notjson~json.in}", ""}, {"{mail~json.x}", ""}, {"{a~json.x}", ""},
		{"{jwt~jwt.act.act.sub}", "agent-a"}, {"{bearer~jwt.jti}", "jti-fixture-1"}, {"{cut~jwt.sub}", "alice@example.com"}, {"{jwt~jwt.missing}", ""}, {"{jwe~jwt.sub}", ""}, {"{mail~jwt.sub}", ""}, {"{badjwt~jwt.sub}", ""},
		{"{in~json.token~jwt.act.sub}", "agent-b"}, {"{jwt~jwt.act}", `{"sub":"agent-b","act":{"sub":"agent-a"}}`},
		{"{b64~base64~json.in}", "b64"}, {"{b64u~base64~json.in}", "?>?>"}, {"{plain64~base64}", "hello"}, {"{mail~base64}", ""},
		{`{""}`, "nameless"}, {"{0}", "digit"},
		// literals and alternatives
		{"plain", "plain"}, {"{{{a.b.c}}}", "{abc}"}, {"a {a.b.c} b {list[0]}", "a abc b first"}, {"a {a.missing} b", ""},
		{"{a.missing ?? a.nul ?? a.b.c}", "abc"}, {"{a.missing ?? 'lit'}", "lit"}, {"{a.missing ?? ''}-x", "-x"}, {"{a.missing ?? 'x' | upper}", "X"},
		{"{hidden}", ""}, {"{dash}", ""}, {"{zeros}", ""}, {"{hidden ?? a.b.c}", "abc"}, {"{zero}", "0"}, {"{zerotext}", "0"},
		// transforms
		{"{mail|lower}", "alice@example.org"}, {"{mail|upper}", "ALICE@EXAMPLE.ORG"}, {"{words|trim}", "two words"}, {"{words|first_word}", "two"},
		{"{mail|before('@')}", "Alice"}, {"{mail|after('@')}", "Example.ORG"}, {"{mail|before('z')}|", ""}, {"{mail|after('nothing')}", ""},
		{"{arn|before_last(':')}", "arn:aws:iam::1"}, {"{arn|after_last(':')|after('/')}", "bob"}, {"{arn|before(':')}", "arn"},
		{"{arn|trim_prefix('arn:')}", "aws:iam::1:user/bob"}, {"{arn|trim_prefix('x')}", "arn:aws:iam::1:user/bob"}, {"{arn|trim_suffix('/bob')}", "arn:aws:iam::1:user"},
		{"{arn|has_prefix('arn:aws')}", "arn:aws:iam::1:user/bob"}, {"{arn|has_prefix('x')}", ""}, {"{arn|contains('iam')}", "arn:aws:iam::1:user/bob"}, {"{arn|contains('x')}", ""},
		{"{arn|replace(':','-')}", "arn-aws-iam--1-user/bob"}, {"{arn|replace('x','y')}", "arn:aws:iam::1:user/bob"}, {"{arn|after('arn:aws:iam::1:user/bob')}", ""},
		{"{hash|hex}", "ffef"}, {"{mail|hex}", ""}, {"{a.b.c|sha256}", "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="},
		{"{arn|split(':','5')|split('/','0')}", "user"}, {"{arn|split(':','-1')}", "user/bob"}, {"{arn|split('/','0')}", "arn:aws:iam::1:user"}, {"{arn|split('#','0')}", "arn:aws:iam::1:user/bob"}, {"{arn|split('/','2')}", ""}, {"{arn|split('/','-3')}", ""},
		{"{baggage|after('userId=')|split(',','0')|url_decode}", "alice@example.com+x"}, {"{pct|url_decode}", ""}, {"{mail|url_decode}", "Alice@Example.ORG"},
		{"{serial|decimal}", "3725587008"}, {"{wide|decimal}", "340282366920938463463374607431768211455"}, {"{arn|decimal}", ""}, {"{zero|decimal}", "0"},
		{"{guid|entra_id}", "MyIRAFVEd2aImaq7zN3u_w"}, {"{guid64|entra_id}", "MyIRAFVEd2aImaq7zN3u_w"}, {"{uti|entra_id}", "MyIRAFVEd2aImaq7zN3u_w"}, {"{mail|entra_id}", "Alice@Example.ORG"},
		{"{a.b.c|hmac}", NewRedactor(testKey).hash("abc")}, {"{a.b.c|map('abc'='x','d'='y')}", "x"}, {"{mail|map('abc'='x')}", ""},
		{"{'2026-03-02T23:30:00.5+01:00'|later('1h')}", "2026-03-02T23:30:00.5Z"}, {"{mail|later('1h')}", ""},
		{"{ip|private_ip}", "10.1.2.3"}, {"{public|private_ip}", ""}, {"{ip6|private_ip}", "::ffff:192.168.0.1"}, {"{mail|private_ip}", ""},
	} {
		d := testDecoder(t, DecoderOptions{}, header+"tenant: "+yamlText(c.template)+"\n")
		if got := oneEvent(t, d, doc).Tenant; got != c.want {
			t.Errorf("%s: got %q, want %q", c.template, got, c.want)
		}
		if strings.Contains(c.template, "~") { // a path whose string is missing
			oneEvent(t, d, `{"match":1}`)
		}
	}
}

func yamlText(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// TestTransformsImplemented checks that each transform that source.yaml may
// name exists.
func TestTransformsImplemented(t *testing.T) {
	for _, name := range sources.Transforms() {
		if _, ok := timeUnits[name]; ok {
			continue
		}
		first := "1h"
		if name == "at_most" {
			first = "1"
		}
		if _, err := compileTransform(sources.Transform{Name: name, Args: []string{first, "1"}}); err != nil {
			t.Error(err)
		}
	}
}

func TestConditions(t *testing.T) {
	const doc = `{"match":1,"s":"hello world","n":42,"t":true,"f":false,"nul":null,"empty":"","o":{"x":1},"list":["a","b"],"mail":"bob@example.org","uni":"bób@exämple","dash":"-"}`
	for _, c := range []struct {
		when string
		want bool
	}{
		{"s: present", true}, {"nul: present", false}, {"empty: present", false}, {"missing: present", false}, {"o: present", true}, {"f: present", true}, {"dash: present", true},
		{"s: absent", false}, {"nul: absent", true}, {"empty: absent", true}, {"missing: absent", true}, {"s: 'present'", false},
		{"s: hello world", true}, {"s: hello", false}, {"n: 42", true}, {"n: '42'", true}, {"t: true", true}, {"f: false", true}, {"o: '{\"x\":1}'", true}, {"missing: x", false},
		{"s: [x, hello world]", true}, {"s: [x, y]", false}, {"s: {one_of: [hello world]}", true}, {"missing: [x]", false},
		{"s: {prefix: hello}", true}, {"s: {prefix: world}", false}, {"s: {suffix: world}", true}, {"s: {suffix: hello}", false}, {"s: {contains: lo w}", true}, {"s: {contains: x}", false},
		{"s: {prefix: hello, suffix: world}", true}, {"s: {prefix: hello, suffix: x}", false}, {"missing: {prefix: x}", false},
		{"s: {matches: '^h.*d$'}", true}, {"s: {matches: 'o w'}", true}, {"s: {matches: '^[a-z]+$'}", false}, {"missing: {matches: '.*'}", false},
		{"mail: {matches: '^[^@\\s]+@[^@\\s]+$'}", true}, {"s: {matches: '^[^@\\s]+@[^@\\s]+$'}", false}, {"uni: {matches: '^[^@\\s]+@[^@\\s]+$'}", true}, {"n: {matches: '^[0-9]{2}$'}", true}, {"n: {matches: '^[0-9]{3}$'}", false}, {"n: {matches: '^4'}", true},
		{"s: {not: hello}", true}, {"s: {not: hello world}", false}, {"missing: {not: x}", true}, {"s: {not: present}", false}, {"s: {not: {not: hello world}}", true},
		{"s: {not: {prefix: hello, suffix: x}}", true}, {"s: {not: {prefix: hello, suffix: world}}", false}, {"s: {not: [a, hello world]}", false}, {"s: {not: {matches: '^x'}}", true}, {"missing: {not: {matches: x}}", true},
		{"s: present, n: 42", true}, {"s: present, n: 43", false},
		{"any: [{s: x}, {n: 42}]", true}, {"any: [{s: x}, {n: 43}]", false}, {"any: [{s: hello world, n: 43}, {t: 'false'}]", false},
		{"none: [{s: x}, {n: 43}]", true}, {"none: [{s: x}, {n: 42}]", false}, {"any: [{none: [{s: hello world}]}, {any: [{n: 42}]}]", true},
		{"'list[*]': a b", true}, {"'list[1]': b", true}, {"'list[-1]': absent", false}, {"'list[2]': absent", true},
	} {
		d := testDecoder(t, DecoderOptions{}, header+"rules:\n  - when: {"+c.when+"}\n    tenant: holds\n")
		if got := oneEvent(t, d, doc).Tenant == "holds"; got != c.want {
			t.Errorf("%s: got %v, want %v", c.when, got, c.want)
		}
	}
}

func TestTimes(t *testing.T) {
	for _, c := range []struct {
		text string
		unit timeUnit
		want string
	}{
		{"2026-11-23T16:34:24Z", unitRFC3339, "2026-11-23T16:34:24Z"}, {"2026-11-23T16:34:24.8Z", unitRFC3339, "2026-11-23T16:34:24.8Z"},
		{"2026-11-23T16:34:24.123456789123Z", unitRFC3339, "2026-11-23T16:34:24.123456789Z"}, {"2026-11-23 16:34:24.807 UTC", unitRFC3339, "2026-11-23T16:34:24.807Z"},
		{"2026-11-23T16:34:24+00:00", unitRFC3339, "2026-11-23T16:34:24Z"}, {"2026-11-23T16:34:24.5+02:00", unitRFC3339, "2026-11-23T14:34:24.5Z"}, {"2026-11-23T16:34:24-0330", unitRFC3339, "2026-11-23T20:04:24Z"},
		{"2024-02-29T23:59:60Z", unitRFC3339, "2024-03-01T00:00:00Z"}, {"1969-12-31T23:59:59.5Z", unitRFC3339, "1969-12-31T23:59:59.5Z"},
		{"2026-11-23T16:34:24", unitRFC3339, ""}, {"2026-11-23", unitRFC3339, ""}, {"2026-13-01T00:00:00Z", unitRFC3339, ""}, {"2025-02-29T00:00:00Z", unitRFC3339, ""}, {"2026-11-23T24:00:00Z", unitRFC3339, ""},
		{"2026-11-23T16:34:24.Z", unitRFC3339, ""}, {"0001-01-01T00:00:00Z", unitRFC3339, ""}, {"9999-12-31T00:00:00Z", unitRFC3339, ""}, {"1970-01-01T00:00:00Z", unitRFC3339, ""}, {"tomorrow", unitRFC3339, ""},
		{"2026-1x-23T16:34:24Z", unitRFC3339, ""}, {"2026-11-23T16:34:24+25:00", unitRFC3339, ""},
		{"1795452232", unitSeconds, "2026-11-23T16:43:52Z"}, {"1795452232.25", unitSeconds, "2026-11-23T16:43:52.25Z"}, {"1.795452232e9", unitSeconds, "2026-11-23T16:43:52Z"}, {"-1.5", unitSeconds, "1969-12-31T23:59:58.5Z"},
		{"1795452232281", unitMillis, "2026-11-23T16:43:52.281Z"}, {"1795452232281000", unitMicros, "2026-11-23T16:43:52.281Z"}, {"1795452232281000001", unitNanos, "2026-11-23T16:43:52.281000001Z"},
		{"0", unitSeconds, ""}, {"99999999999", unitSeconds, ""}, {"", unitSeconds, ""}, {"12x", unitSeconds, ""}, {"1.x", unitSeconds, ""}, {"1.", unitSeconds, ""}, {"+1", unitSeconds, ""}, {"1e400", unitSeconds, ""}, {"18446744073709551615", unitNanos, ""}, {"NaN", unitSeconds, ""},
		{"Jul 10, 2023, 6:30:22 PM", unitAWS, "2023-07-10T18:30:22Z"}, {"Oct 2, 2019 11:12:29 PM", unitAWS, "2019-10-02T23:12:29Z"}, {"2023-07-10T18:30:22Z", unitAWS, "2023-07-10T18:30:22Z"}, {"soon", unitAWS, ""},
		{"Dec 31, 2026, 12:00:00 AM", unitAWS, "2026-12-31T00:00:00Z"}, {"Feb 1, 2024, 12:59:59 PM", unitAWS, "2024-02-01T12:59:59Z"}, {"Feb 29, 2023, 1:00:00 AM", unitAWS, ""},
		{"Jul 10, 2023, 13:30:22 PM", unitAWS, ""}, {"Jul 10, 2023, 0:30:22 PM", unitAWS, ""}, {"Jul 10, 2023, 6:30:22", unitAWS, ""}, {"anF 10, 2023, 6:30:22 PM", unitAWS, ""}, {"Jul 10, 23, 6:30:22 PM", unitAWS, ""},
	} {
		nanos, ok := parseTime(c.text, c.unit)
		if got := instant(nanos); ok != (c.want != "") || ok && got != c.want {
			t.Errorf("%q: got %s, %v; want %s", c.text, got, ok, c.want)
		}
	}
}

func TestFields(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, `name: test
match: {match: present}
id: ["{id}", "{n}"]
time: "{t|seconds}"
ended: "{e|seconds}"
resolution: 1s
class: login
action: "{a}"
outcome: "{o|map('ok'='success')}"
actor: {key: "human:email:{user}", name: "{name}"}
keys: ["token:x:{tok}", "token:x:{tok2 ?? tok}", "session:y:{s[*]}", "token:zero:{zero}"]
makes:
  - {child: "session:y:{s[*]}", parent: "human:email:{user}", relation: authenticated, strength: exact}
  - {child: "token:x:{b[*].k}", child_name: "{b[*].n}", parent: "session:z:{b[*].p}", relation: issued, strength: weak, from: always, until: "{b[*].u|seconds}", expires: "{x|seconds}"}
  - {child: "token:x:{tok}", parent: "token:x:{tok2 ?? tok}", relation: refreshed, strength: exact}
ends: [{key: "token:x:{dead}", revoked: true}, {key: "token:x:{dead}", at: "{e|seconds}"}]
attributes: {first: "{a}", second: "{user}"}
auth_method: "{m}"
mfa: "{mfa}"
rules:
  - when: {fail: present}
    class: command
    outcome: failure
    action: "{missing}"
    attributes: {first: "again {a}", third: x}
    flags: [impersonated]
    actor: {key: "human:email:{missing}", name: nobody}
  - when: {fail: hard}
    outcome: "{o}"
    flags: [divergent]
    actor: {key: "service:x:{svc}"}
    self_reported: true
`)
	ev := oneEvent(t, d, `{"match":1,"id":"i","t":1700000000,"e":1700000001,"a":"act","o":"ok","user":"u@x","name":"U","tok":"T1","s":["s1","s2","-",null,"s2"],
		"b":[{"k":"k1","p":"p1","n":"one","u":1700000009},{"k":"k2"},{"p":"p3","k":"k3"}],"x":1700000005,"dead":"D","m":"pwd","mfa":"yes","zero":0}`)
	var b bytes.Buffer
	writeEvent(&b, ev)
	want := `event 0.0
  id             ` + schemas.MakeID("event", "test", "i", "").String() + `
  source         test
  time           2023-11-14T22:13:20Z
  ended          2023-11-14T22:13:21Z
  resolution     1s
  class          login
  action         act
  outcome        success
  actor          human:email:u@x (U)
  key            token:x:T1
  key            session:y:s1
  key            session:y:s2
  makes          session:y:s1 <- authenticated human:email:u@x exact from 2023-11-14T22:13:20Z method pwd mfa yes
  makes          session:y:s2 <- authenticated human:email:u@x exact from 2023-11-14T22:13:20Z method pwd mfa yes
  makes          token:x:k1 (one) <- issued session:z:p1 weak from always until 2023-11-14T22:13:29Z expires 2023-11-14T22:13:25Z
  makes          token:x:k3 <- issued session:z:p3 weak from always expires 2023-11-14T22:13:25Z
  ends           token:x:D revoked at 2023-11-14T22:13:20Z
  ends           token:x:D ended at 2023-11-14T22:13:21Z
  auth_method    pwd
  mfa            yes
  attribute      first = act
  attribute      second = u@x
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	m := ev.Makes[0]
	if m.Proof != ev.ID || m.ProofNanos != ev.TimeNanos || m.Source != "test" || m.Evidence != ev.Evidence {
		t.Errorf("proof is not that of the event: %+v", m)
	}

	ev = oneEvent(t, d, `{"match":1,"id":"i","t":1700000000,"a":"act","o":"denied","user":"u@x","name":"U","svc":"S","fail":"hard"}`)
	if ev.Class != schemas.ClassCommand || ev.Outcome != schemas.OutcomeDenied || ev.Action != "act" || ev.Actor.String() != "service:x:S" || ev.ActorName != "" ||
		ev.Flags != schemas.FlagImpersonated|schemas.FlagDivergent || !ev.SelfReported || !slices.Equal(ev.Attributes, []schemas.Attribute{{Name: "first", Value: "again act"}, {Name: "second", Value: "u@x"}, {Name: "third", Value: "x"}}) {
		t.Errorf("got %+v", ev)
	}
	if ev = oneEvent(t, d, `{"match":1,"id":"i","t":1700000000,"o":"strange","user":"u@x","name":"U","fail":"hard"}`); ev.Outcome != schemas.OutcomeFailure || ev.ActorName != "U" {
		t.Errorf("a word that is none leaves the earlier one, an actor without a key too: got %s, %q", ev.Outcome, ev.ActorName)
	}
}

// TestHidden checks that a key that somebody took out is told from one that
// was never there.
func TestHidden(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, header+`keys: ["token:x:{k}", "token:y:{k ?? l}"]`)
	for doc, want := range map[string]bool{
		`{"match":1,"k":"HIDDEN_DUE_TO_SECURITY_REASONS"}`: true, `{"match":1,"k":"REDACTED","l":"x"}`: true,
		`{"match":1,"k":"-"}`: false, `{"match":1}`: false, `{"match":1,"k":""}`: false, `{"match":1,"k":"x"}`: false,
	} {
		if got := oneEvent(t, d, doc).Redacted; got != want {
			t.Errorf("%s: got %v, want %v", doc, got, want)
		}
	}
}

// TestBad lists what must end as exactly one dead letter, with its reason and
// what its sentence must say.
func TestBad(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, "name: test\nmatch: {match: present}\nid: [\"{id}\", \"{sub.id}\"]\ntime: \"{time}\"\n")
	deep := strings.Repeat("[", 100_000)
	for _, c := range []struct {
		name, value string
		reason      schemas.DeadReason
		want        string
	}{
		{"empty", "", schemas.DeadEmpty, "the value is empty"},
		{"blank", " \n\t", schemas.DeadEmpty, "the value is empty"},
		{"truncated", `{"match":1,"id":"x","ti`, schemas.DeadMalformed, "ends inside a string, at byte 23"},
		{"truncated after colon", `{"match":`, schemas.DeadMalformed, "ends where a value is expected, at byte 9"},
		{"truncated object", `{"match":1`, schemas.DeadMalformed, "ends inside an object or array, at byte 10"},
		{"trailing", `{"match":1} x`, schemas.DeadMalformed, "something follows the JSON document, at byte 12"},
		{"trailing brace", `{"match":1}}`, schemas.DeadMalformed, "at byte 11"},
		{"wrong nesting", `{"match":[1,2}`, schemas.DeadMalformed, "expected a comma or the closing bracket, at byte 13"},
		{"wrong nesting in what is skipped", `{"match":1,"x":{"y":[{"z":1]}}}`, schemas.DeadMalformed, "at byte 27"},
		{"bad literal", `{"match":tru}`, schemas.DeadMalformed, "no JSON value begins here, at byte 9"},
		{"bad literal in what is skipped", `{"x":{"y":nul}}`, schemas.DeadMalformed, "at byte 10"},
		{"glued literal", `{"match":truefalse}`, schemas.DeadMalformed, "at byte 13"},
		{"bad number", `{"match":01}`, schemas.DeadMalformed, "at byte 10"},
		{"bad number", `{"match":1.}`, schemas.DeadMalformed, "no digit follows the point, at byte 9"},
		{"bad number", `{"match":1e}`, schemas.DeadMalformed, "the exponent has no digit"},
		{"bad number", `{"match":-}`, schemas.DeadMalformed, "not a number"},
		{"bad number", `{"match":+1}`, schemas.DeadMalformed, "no JSON value begins here"},
		{"control character", "{\"match\":\"a\nb\"}", schemas.DeadMalformed, "an unescaped control character in a string, at byte 11"},
		{"control character after an escape", "{\"match\":\"a\\n\x01b\"}", schemas.DeadMalformed, "control character in a string, at byte 13"},
		{"bad escape", `{"match":"\x"}`, schemas.DeadMalformed, "no valid escape follows the backslash, at byte 10"},
		{"bad escape", `{"match":"\u12g4"}`, schemas.DeadMalformed, "no valid escape"},
		{"escaped end", `{"match":"\"}`, schemas.DeadMalformed, "ends inside a string"},
		{"missing comma", `{"match":1 "x":2}`, schemas.DeadMalformed, "expected a comma"},
		{"trailing comma", `{"match":1,}`, schemas.DeadMalformed, "expected the name of a member, at byte 11"},
		{"no name", `{1:2}`, schemas.DeadMalformed, "expected the name of a member"},
		{"no colon", `{"match" 1}`, schemas.DeadMalformed, "expected a colon"},
		{"single quotes", `{'match':1}`, schemas.DeadMalformed, "expected the name of a member"},
		{"duplicate", `{"match":1,"id":"x","id":"y"}`, schemas.DeadMalformed, "a member twice, with different values, at byte 20"},
		{"duplicate under escapes", `{"match":1,"id":"x","\u0069d":"y"}`, schemas.DeadMalformed, "a member twice"},
		{"duplicate object", `{"match":1,"sub":{"id":"x"},"sub":{"id":"x"}}`, schemas.DeadMalformed, "a member twice"},
		{"deep", deep, schemas.DeadTooDeep, "nested deeper than the limit, at byte 6"},
		{"deep inside", `{"match":` + deep + strings.Repeat("]", 100_000) + `}`, schemas.DeadTooDeep, "nested deeper"},
		{"deep objects", strings.Repeat(`{"a":`, 100_000), schemas.DeadTooDeep, "nested deeper"},
		{"large", `{"match":"` + strings.Repeat("x", 10<<20) + `"}`, schemas.DeadTooLarge, "has 10485772 bytes, the limit is 8388608"},
		{"invalid UTF-8", "{\"match\":\"a\xffb\"}", schemas.DeadInvalidUTF8, "not UTF-8, at byte 11"},
		{"invalid UTF-8 in a name", "{\"match\":1,\"\xc3\x28\":2}", schemas.DeadInvalidUTF8, "at byte 12"},
		{"surrogate in UTF-8", "{\"match\":\"\xed\xa0\x80\"}", schemas.DeadInvalidUTF8, "at byte 10"},
		{"overlong UTF-8", "{\"match\":\"\xc0\xaf\"}", schemas.DeadInvalidUTF8, "at byte 10"},
		{"unknown", `{"foo":1,"bar":{"x":2},"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc":3}`, schemas.DeadUnknownFormat, "its members are foo, bar, [redacted:"},
		{"unknown and empty", `{}`, schemas.DeadUnknownFormat, "its members are none"},
		{"string", `"match"`, schemas.DeadUnknownFormat, "begins with neither { nor ["},
		{"text", "Flag --x has been deprecated", schemas.DeadUnknownFormat, "begins with neither { nor ["},
		{"binary", "\x00\x01\x02", schemas.DeadUnknownFormat, "begins with neither { nor ["},
		{"no time", `{"match":1,"id":"x"}`, schemas.DeadMissingField, "test: the event time, {time}, is missing"},
		{"wrong type of time", `{"match":1,"id":"x","time":{"a":1}}`, schemas.DeadMissingField, `{time}, is no time that can be read: "{\"a\":1}"`},
		{"time in seconds", `{"match":1,"id":"x","time":1700000000}`, schemas.DeadMissingField, `is no time that can be read: "1700000000"`},
		{"no id", `{"match":1,"time":"2026-11-23T16:00:00Z"}`, schemas.DeadMissingField, "every part of the id is missing ({id}, {sub.id})"},
		{"not gzip", "\x1f\x8bxxxxxxxxxxxxxxx", schemas.DeadMalformed, "cannot be unpacked"},
		{"broken gzip", zip(`{"match":1}`)[:20], schemas.DeadMalformed, "gzip"},
		{"gzip bomb", zip(strings.Repeat(" ", 65<<20)), schemas.DeadTooLarge, "more than 67108864 bytes unpacked"},
		{"gzip of text", zip("hello"), schemas.DeadUnknownFormat, "neither"},
		{"array of scalars", `[7]`, schemas.DeadUnknownFormat, "no JSON object, at byte 1"},
	} {
		out := decode(d, c.value)
		if len(out.Events) != 0 || len(out.Skips) != 0 || len(out.Dead) != 1 {
			t.Errorf("%s: want one dead letter, got %.2000s", c.name, textOfDecoded(out))
			continue
		}
		dead := out.Dead[0]
		if dead.Reason != c.reason || !strings.Contains(dead.Error, c.want) {
			t.Errorf("%s: got %s, %s; want %s, %s", c.name, dead.Reason, dead.Error, c.reason, c.want)
		}
		if !strings.Contains(dead.Error, ": ") {
			t.Errorf("%s: %q does not say what to do", c.name, dead.Error)
		}
		if len(dead.Bytes) > 64<<10 || dead.Evidence.Topic != "t" {
			t.Errorf("%s: %d bytes, evidence %+v", c.name, len(dead.Bytes), dead.Evidence)
		}
	}
}

func zip(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(s))
	w.Close()
	return b.String()
}

// TestNeighboursSurvive puts a bad item between two good ones, in every kind of
// batch.
func TestNeighboursSurvive(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, header)
	good := func(id string) string { return `{"match":1,"id":"` + id + `"}` }
	for name, bad := range map[string]string{
		"bad literal": `{"match":tru}`, "invalid UTF-8": "{\"match\":\"\xff\"}", "unknown": `{"foo":1}`, "deep": `{"match":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
		"duplicate": `{"id":1,"id":2,"match":1}`, "no comma": `{"match":1 "a":2}`, "control character": "{\"match\":\"\x01\"}", "number": `{"match":1e}`, "no time": `{"match":1,"time":"x"}`,
	} {
		for batch, format := range map[string]string{
			"lines": "%s\n%s\n%s\n", "array": "[%s,%s,%s]", "spread array": "[\n%s,\n%s,\n%s\n]", "records": `{"Records":[%s, %s, %s]}`, "records first": `{"Records":[%s,%s,%s],"x":1}`,
			"list": `{"kind":"EventList","apiVersion":"x","items":[%s,%s,%s]}`,
		} {
			out := decode(d, fmt.Sprintf(format, good("1"), bad, good("2")))
			if len(out.Events) != 2 || len(out.Dead) != 1 || out.Dead[0].Evidence.RecordIndex != 1 || out.Events[1].Evidence.RecordIndex != 2 {
				t.Errorf("%s in %s:\n%s", name, batch, textOfDecoded(out))
			}
		}
	}
	// What breaks off keeps what came before.
	for _, batch := range []string{"[%s,%s,{\"match\"", `{"Records":[%s,%s,{"match":"`, `{"Records":[%s,%s`, `[%s,%s`, `[%s,%s x`, "%s\n%s\n{\"match\""} {
		out := decode(d, fmt.Sprintf(batch, good("1"), good("2")))
		if len(out.Events) != 2 || len(out.Dead) != 1 || out.Dead[0].Reason != schemas.DeadMalformed {
			t.Errorf("%s:\n%s", batch, textOfDecoded(out))
		}
	}
}

func TestEnvelopes(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, header+"tenant: \"{kind}\"\n")
	item := func(id int) string { return fmt.Sprintf(`{"match":1,"id":"%d"}`, id) }
	bridge := func(s string) string {
		return `{"version":"0","id":"e","detail-type":"x","source":"aws.s3","detail":` + s + `}`
	}
	text := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	for _, c := range []struct {
		name, value string
		events      int
		skip        string
	}{
		{"bare", item(1), 1, ""}, {"bare with blanks", " \n" + item(1) + "\n ", 1, ""},
		{"lines", item(1) + "\n" + item(2) + "\r\n\n" + item(3) + "\n", 3, ""},
		{"documents over several lines", "{\n \"match\":1,\"id\":\"1\"\n}\n{\n \"match\":1,\"id\":\"2\"\n}\n", 2, ""},
		{"array", "[" + item(1) + " , " + item(2) + "]", 2, ""}, {"array of arrays", "[[" + item(1) + "],[" + item(2) + "]]", 2, ""},
		{"empty array", "[ ]", 0, "empty_batch"},
		{"records", `{"Records":[` + item(1) + `,` + item(2) + `]}`, 2, ""}, {"no records", `{"Records":[]}`, 0, "empty_batch"},
		{"bridge", bridge(item(1)), 1, ""}, {"records of bridges", `{"Records":[` + bridge(item(1)) + `,` + bridge(item(2)) + `]}`, 2, ""},
		{"sqs", `{"Records":[{"messageId":"m","eventSource":"aws:sqs","body":` + text(bridge(item(1))) + `}]}`, 1, ""},
		{"sns", `{"Type":"Notification","TopicArn":"a","Message":` + text(item(1)) + `}`, 1, ""},
		{"lookup", `{"EventId":"x","EventName":"y","CloudTrailEvent":` + text(item(1)) + `}`, 1, ""},
		{"list", `{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[` + item(1) + `]}`, 1, ""},
		{"gzip", zip(item(1)), 1, ""}, {"gzip of lines", zip(item(1) + "\n" + item(2)), 2, ""},
		{"logs", `{"resourceLogs":[{}]}`, 0, "empty_batch"}, {"metrics", `{"resourceMetrics":[{}]}`, 0, "otlp_metrics"}, {"no spans", `{"resourceSpans":[]}`, 0, "empty_batch"},
		{"no spans inside", `{"resourceSpans":[{"scopeSpans":[{"spans":[]}]}]}`, 0, "empty_batch"},
		{"members of envelopes alone", `{"match":1,"id":"1","Records":"x","detail":{},"items":[],"body":"x"}`, 1, ""},
	} {
		out := decode(d, c.value)
		if len(out.Events) != c.events || len(out.Dead) != 0 {
			t.Errorf("%s:\n%s", c.name, textOfDecoded(out))
			continue
		}
		if c.skip != "" && (len(out.Skips) != 1 || out.Skips[0].Name != c.skip) {
			t.Errorf("%s: skips %v, want %s", c.name, out.Skips, c.skip)
		}
		for i, ev := range out.Events {
			if ev.Evidence.RecordIndex != int32(i) || ev.ID != schemas.MakeID("event", "test", fmt.Sprint(i+1)) || (ev.Tenant == "Event") != (c.name == "list") {
				t.Errorf("%s: event %d has index %d, id %s, kind %s", c.name, i, ev.Evidence.RecordIndex, ev.ID, ev.Tenant)
			}
		}
	}
	nested := item(1)
	for range maxLevels + 1 {
		nested = bridge(nested)
	}
	if out := decode(d, nested); len(out.Events) != 0 || len(out.Dead) != 1 || out.Dead[0].Reason != schemas.DeadTooDeep {
		t.Errorf("an envelope too many:\n%s", textOfDecoded(out))
	}
}

func TestLimits(t *testing.T) {
	d := testDecoder(t, DecoderOptions{MaxItems: 3, MaxDeadBytes: 10, MaxDepth: 4}, header+"keys: ['token:x:{l[*]}']\n")
	item := `{"match":1}`
	for value, events := range map[string]int{
		"[" + item + strings.Repeat(","+item, 9) + "]": 3, strings.Repeat(item+"\n", 10): 3, `{"Records":[` + item + strings.Repeat(","+item, 9) + "]}": 3,
		`{"match":1,"l":["a","b","c","d"]}`: 0,
	} {
		out := decode(d, value)
		if len(out.Events) != events || len(out.Dead) != 1 || out.Dead[0].Reason != schemas.DeadTooManyItems || len(out.Dead[0].Bytes) != 10 {
			t.Errorf("%s:\n%s", value, textOfDecoded(out))
		}
	}
	oneEvent(t, d, `{"match":1,"x":[[[1]]]}`)
	if out := decode(d, `{"match":1,"x":[[[[1]]]]}`); len(out.Dead) != 1 || out.Dead[0].Reason != schemas.DeadTooDeep {
		t.Errorf("depth:\n%s", textOfDecoded(out))
	}
}

// TestDuplicates: twice the same plain value is harmless, and so is what
// nobody reads.
func TestDuplicates(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, header+"tenant: \"{a.b}\"\n")
	for _, doc := range []string{`{"match":1,"x":1,"x":2,"a":{"b":"v","c":1,"c":2}}`, `{"match":1,"a":{"b":"v","b":"v"},"match":1}`, `{"match":1,"a":{"b":"v"},"y":[{"b":1,"b":2}]}`} {
		if got := oneEvent(t, d, doc).Tenant; got != "v" {
			t.Errorf("%s: got %q", doc, got)
		}
	}
}

func TestRecognition(t *testing.T) {
	source := func(name string, priority int, match string) string {
		return fmt.Sprintf("name: %s\npriority: %d\nmatch: {%s}\nid: ['{id}']\ntime: \"{time ?? '2026-11-23T16:00:00Z'}\"\n", name, priority, match)
	}
	d := testDecoder(t, DecoderOptions{Topics: map[string]TopicFormat{"fixed": {Source: "late"}}},
		source("late", 60, "id: present"), source("early", 10, "kind: audit, id: present"), source("other", 50, "'who.name': {suffix: x}"), source("another", 50, "'who.name': {suffix: xx}"))
	docs := map[string]string{`{"id":1}`: "late", `{"id":1,"kind":"audit"}`: "early", `{"id":1,"who":{"name":"x"}}`: "other", `{"id":1,"who":{"name":"xx"}}`: "another", `{"id":1,"who":{"name":"y"}}`: "late"}
	for range 3 { // whatever the record before was
		for doc, want := range docs {
			if got := oneEvent(t, d, doc).Source; got != want {
				t.Errorf("%s: got %s, want %s", doc, got, want)
			}
		}
	}
	var out Decoded
	d.Decode(&out, &schemas.Record{Topic: "fixed", Value: []byte(`{"id":1,"kind":"audit"}`)})
	if len(out.Events) != 1 || out.Events[0].Source != "late" {
		t.Errorf("a fixed topic:\n%s", textOfDecoded(&out))
	}

	got := d.Recognise([]byte(`{"Records":[{"id":1},{"detail-type":"x","source":"y","detail":{"kind":"audit","id":1}},{"foo":1},{"id":1,"time":"x"}]}`))
	if len(got) != 4 || got[0].Source != "late" || !slices.Equal(got[0].Envelopes, []string{"records"}) || got[1].Source != "early" || !slices.Equal(got[1].Envelopes, []string{"records", "eventbridge"}) ||
		got[2].Source != "" || !strings.Contains(got[2].Why, "its members are foo") || got[3].Source != "late" || !strings.Contains(got[3].Why, "is no time") {
		t.Errorf("got %+v", got)
	}
	if got := d.Recognise([]byte("{")); len(got) != 1 || !strings.Contains(got[0].Why, "malformed") {
		t.Errorf("got %+v", got)
	}
	if got := d.Recognise([]byte(`{"resourceMetrics":[1]}`)); len(got) != 1 || !strings.Contains(got[0].Why, "otlp_metrics") {
		t.Errorf("got %+v", got)
	}
}

func TestDecoderOptions(t *testing.T) {
	set, err := sources.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	_, err = NewDecoder(set, DecoderOptions{MaxDepth: 10_000, MaxItems: -1, Topics: map[string]TopicFormat{"a": {Source: "nobody"}, "b": {Envelope: "tar"}}})
	for _, want := range []string{"HMACKey is empty", "MaxDepth 10000 is not within 1 to 512", "a limit is negative", `topic a: there is no source "nobody"`, `topic b: envelope "tar" is none of otlp_proto, otlp_json, logs, audit`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestSecretKeys: a token that stands where an id is expected never becomes a
// key.
func TestSecretKeys(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, header+"keys: ['token:x:{tok}']\ntenant: '{tok}'\nattributes: {a: '{nested}'}\n")
	const jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
	out := decode(d, `{"match":1,"tok":"`+jwt+`","nested":{"password":"hunter2"}}`)
	ev := &out.Events[0]
	if out.SecretKeys != 1 || ev.Keys[0].Value != NewRedactor(testKey).hash(jwt) || strings.Contains(ev.Tenant, "eyJ") || strings.Contains(ev.Attributes[0].Value, "hunter2") {
		t.Errorf("got %d, %+v", out.SecretKeys, ev)
	}
}

// TestMutation checks that events stay as they are while further records are
// decoded, and that values are not changed.
func TestMutation(t *testing.T) {
	d := newDecoder(t, DecoderOptions{})
	var out Decoded
	value := []byte(cloudtrailRecord)
	rec := schemas.Record{Topic: "t", Value: value}
	var alone Decoded
	d.Decode(&alone, &rec)
	want := alone.Events[0].Clone()
	for i := range 1000 {
		if i%7 == 0 {
			d.Decode(&out, &schemas.Record{Topic: "t", Value: []byte(`{"foo\u0020bar":"` + base64.StdEncoding.EncodeToString(make([]byte, i)) + `"}`)})
		}
		d.Decode(&out, &rec)
	}
	for i := range out.Events {
		if got := out.Events[i].Clone(); !reflect.DeepEqual(got, want) {
			t.Fatalf("event %d: got %+v, want %+v", i, got, want)
		}
	}
	if string(value) != cloudtrailRecord {
		t.Error("the value was changed")
	}
}

// TestAllocations: a record is decoded without a single allocation once the
// memory of the result has grown.
func TestAllocations(t *testing.T) {
	d := newDecoder(t, DecoderOptions{})
	var out Decoded
	rec := schemas.Record{Topic: "t", Value: []byte(cloudtrailRecord)}
	for range 3 { // until the record's shape is known
		out.Reset()
		d.Decode(&out, &rec)
	}
	if n := len(out.Events[0].Makes); n != 0 || len(out.Events[0].Keys) == 0 {
		t.Errorf("the record makes %d bindings", n)
	}
	wire, err := proto.Marshal(testTraces())
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{cloudtrailRecord, string(wire), testTracesJSON} {
		rec.Value = []byte(value)
		for range 3 {
			out.Reset()
			d.Decode(&out, &rec)
		}
		if n := testing.AllocsPerRun(100, func() { out.Reset(); d.Decode(&out, &rec) }); n != 0 {
			t.Errorf("%v allocations a record: %.40q", n, value)
		}
	}
}
