package ingest

import (
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzEnvelopes changes records in envelopes of every shape, lines of logs among
// them.
func FuzzEnvelopes(f *testing.F) {
	d := testDecoder(f, DecoderOptions{MaxRecordBytes: 1 << 16, Topics: map[string]TopicFormat{"logs": {Envelope: "logs"}, "audit": {Envelope: "audit"}}}, knownYAML(), messageYAML, logYAML, flatYAML)
	for _, c := range envelopeShapes() {
		f.Add([]byte(c.value))
	}
	for _, s := range []string{
		"<86>Nov 23 16:28:13 web-1 sshd[4711]: Accepted x ID y", `<86>1 2026-11-23T16:28:13.349Z web-1 sshd 4711 - [origin@0 ip="10.0.0.1" note="a \"b\" \] c"][empty] ` + "\ufeffmsg",
		`time="2026-11-23T16:41:18Z" level=info msg="API \"accessed\"" type=audit`, "2026-11-23T16:28:14Z stdout P <86>Nov 23 16:28:13 sshd[4711]: x", "level=info msg=started\nhello\n{\"match\":1}\n",
		`{"msg":" x` + "\xff" + `","hostname":"web-1","syslogtag":"sshd[1]:","timereported":"2026-11-23T16:28:13Z"}`, `{"__REALTIME_TIMESTAMP":"1","SYSLOG_IDENTIFIER":"sshd","MESSAGE":[104,105,255]}`,
		`{"source_type":"journald","message":"{\"match\":1}","_PID":1}`, `{"journald":{"pid":1},"message":"x","log":{"syslog":{"appname":"sshd"}}}`, framedValue(1, `{"match":1}`), `"\"\\\"x\\\"\""`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		for _, topic := range []string{"topic", "logs", "audit"} {
			check(t, d.Clone(), d.Clone(), topic, value)
		}
	})
}

// FuzzIDs: an id that was brought to its form stays, and what is none gives
// nothing that is not text.
func FuzzIDs(f *testing.F) {
	for _, s := range []string{"00112233-4455-6677-8899-aabbccddeeff", "MDAxMTIyMzMtNDQ1NS02Njc3LTg4OTktYWFiYmNjZGRlZWZm", "MyIRAFVEd2aImaq7zN3u_w", "de:0F:f2:40", "a%40b", delegatedJWT, "Bearer " + delegatedJWT, "a/b//c", "-1"} {
		f.Add(s, "/", int8(1))
	}
	f.Fuzz(func(t *testing.T, s, sep string, at int8) {
		e := &evaluator{walker: &walker{arena: &arena{}}}
		id := entraID(e, s)
		if again := entraID(e, id); again != id {
			t.Errorf("entra_id of %q is %q, and of that %q", s, id, again)
		}
		if n := hexToDecimal(e, s); strings.Trim(n, "0123456789") != "" {
			t.Errorf("decimal of %q is %q", s, n)
		}
		if claims, ok := e.arena.claims(s); ok && !utf8.ValidString(claims) {
			t.Errorf("claims of %q are %q", s, claims)
		}
		urlDecode(e, s)
		if cut, err := split(sep, strconv.Itoa(int(at))); err == nil && sep != "" {
			if got := cut(e, s); got != "" && !strings.Contains(s, got) {
				t.Errorf("split of %q gives %q", s, got)
			}
		}
	})
}
