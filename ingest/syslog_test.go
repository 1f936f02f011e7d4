package ingest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"catena/schemas"
)

// messageYAML shows the document of a message.
const messageYAML = `name: message
match: {MESSAGE: present, SYSLOG_IDENTIFIER: [sshd, sudo]}
id: ["{MESSAGE}", "{time}"]
time: "{time ?? '2026-01-01T00:00:00Z'}"
action: "{MESSAGE}"
tenant: "{syslog ?? journal ?? 'journald'} {_HOSTNAME ?? host ?? $envelope.host ?? 'nowhere'} {SYSLOG_IDENTIFIER}[{_PID ?? SYSLOG_PID ?? '?'}] {SYSLOG_FACILITY ?? '?'}.{PRIORITY ?? '?'} uid={_UID ?? '?'}"
resource: "{time} {structured ?? ''}"
keys: ["token:ssh.key_id:{MESSAGE|after('ID ')}"]
`

// TestSyslog: one message in each of the forms in which syslog and journald
// arrive gives the same event, as far as the form tells.
func TestSyslog(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, messageYAML)
	const msg = "Accepted publickey for alice from 10.0.0.9 port 50022 ssh2: ED25519-CERT SHA256:fixture ID alice@example.com"
	kafka := time.Date(2026, 11, 23, 17, 0, 0, 0, time.UTC).UnixNano()
	for _, c := range []struct{ name, value, tenant, resource string }{
		{"RFC 3164", "<86>Nov 23 16:28:13 web-1 sshd[4711]: " + msg, "rfc3164 web-1 sshd[4711] 10.6 uid=?", "2026-11-23T16:28:13Z"},
		{"RFC 3164, one digit", "<86>Nov  3 16:28:13 web-1 sshd[4711]: " + msg + "\n", "rfc3164 web-1 sshd[4711] 10.6 uid=?", "2026-11-03T16:28:13Z"},
		{"RFC 3164 of last year", "<86>Dec 31 23:59:59 web-1 sshd[4711]: " + msg, "rfc3164 web-1 sshd[4711] 10.6 uid=?", "2025-12-31T23:59:59Z"},
		{"RFC 3164 from the host itself", "<86>Nov 23 16:28:13 sshd[4711]: " + msg, "rfc3164 nowhere sshd[4711] 10.6 uid=?", "2026-11-23T16:28:13Z"},
		{"a file", "Nov 23 16:28:13 web-1 sshd[4711]: " + msg, "rfc3164 web-1 sshd[4711] ?.? uid=?", "2026-11-23T16:28:13Z"},
		{"a file of rsyslog", "2026-11-23T16:28:13.349682+00:00 web-1 sshd[4711]: " + msg, "rfc3164 web-1 sshd[4711] ?.? uid=?", "2026-11-23T16:28:13.349682+00:00"},
		{"RFC 5424", "<86>1 2026-11-23T16:28:13.349Z web-1 sshd 4711 ID47 - " + msg, "rfc5424 web-1 sshd[4711] 10.6 uid=?", "2026-11-23T16:28:13.349Z"},
		{"RFC 5424 with data", `<86>1 2026-11-23T16:28:13.349Z web-1 sshd 4711 - [origin@0 ip="10.0.0.1" note="a \"b\" \] c"][empty] ` + "\ufeff" + msg, "rfc5424 web-1 sshd[4711] 10.6 uid=?", `2026-11-23T16:28:13.349Z {"origin@0":{"ip":"10.0.0.1","note":"a \"b\" ] c"},"empty":{}}`},
		{"rsyslog's JSON", `{"msg":" ` + msg + `","rawmsg":"x","timereported":"2026-11-23T16:28:13.349682+00:00","hostname":"web-1","syslogtag":"sshd[4711]:","programname":"sshd","procid":"4711","syslogfacility":"10","syslogseverity":"6","pri":"86","$!":null}`, "rsyslog web-1 sshd[4711] 10.6 uid=?", "2026-11-23T16:28:13.349682+00:00"},
		{"a template of rsyslog", `{"@timestamp":"2026-11-23T16:28:13.349682+00:00","host":"web-1","severity":"6","facility":"10","syslogtag":"sshd[4711]:","message":"` + msg + `"}`, "rsyslog web-1 sshd[4711] 10.6 uid=?", "2026-11-23T16:28:13.349682+00:00"},
		{"vector's syslog", `{"appname":"sshd","procid":4711,"facility":"authpriv","severity":"info","hostname":"web-1","host":"web-1","message":"` + msg + `","source_type":"syslog","timestamp":"2026-11-23T16:28:13Z"}`, "rsyslog web-1 sshd[4711] authpriv.info uid=?", "2026-11-23T16:28:13Z"},
		{"journald", `{"__REALTIME_TIMESTAMP":"1795451293349682","__CURSOR":"c","time":"2026-11-23T16:28:13Z","_HOSTNAME":"web-1","SYSLOG_IDENTIFIER":"sshd","_PID":"4711","_UID":"0","SYSLOG_FACILITY":"10","PRIORITY":"6","MESSAGE":"` + msg + `"}`, "journald web-1 sshd[4711] 10.6 uid=0", "2026-11-23T16:28:13Z"},
		{"journald in bytes", `{"__REALTIME_TIMESTAMP":"1795451293349682","__CURSOR":"c","time":"2026-11-23T16:28:13Z","_HOSTNAME":"web-1","MESSAGE":` + byteArray(msg) + `,"SYSLOG_IDENTIFIER":"sshd","_PID":"4711","_UID":"0","SYSLOG_FACILITY":"10","PRIORITY":"6"}`, "journald web-1 sshd[4711] 10.6 uid=0", "2026-11-23T16:28:13Z"},
		{"vector's journald", `{"source_type":"journald","timestamp":"2026-11-23T16:28:13Z","host":"web-1","SYSLOG_IDENTIFIER":"sshd","_PID":"4711","_UID":"0","SYSLOG_FACILITY":"10","PRIORITY":"6","message":"` + msg + `"}`, "vector web-1 sshd[4711] 10.6 uid=0", "2026-11-23T16:28:13Z"},
		{"filebeat's journald", `{"@timestamp":"2026-11-23T16:28:13.000Z","host":{"hostname":"web-1"},"log":{"syslog":{"appname":"sshd"}},"journald":{"pid":4711,"uid":0,"process":{"name":"sshd"}},"message":"` + msg + `"}`, "beats web-1 sshd[4711] ?.? uid=0", "2026-11-23T16:28:13.000Z"},
		{"filebeat of a file", `{"@timestamp":"2026-11-23T16:28:14.000Z","agent":{"type":"filebeat"},"message":"Nov 23 16:28:13 web-1 sshd[4711]: ` + msg + `"}`, "rfc3164 web-1 sshd[4711] ?.? uid=?", "2026-11-23T16:28:13Z"},
		{"containerd of a line without host", "2026-11-23T16:28:14Z stdout F <86>Nov 23 16:28:13 sshd[4711]: " + msg, "rfc3164 nowhere sshd[4711] 10.6 uid=?", "2026-11-23T16:28:13Z"},
		{"raw of the collector", quote("<86>Nov 23 16:28:13 web-1 sshd[4711]: " + msg), "rfc3164 web-1 sshd[4711] 10.6 uid=?", "2026-11-23T16:28:13Z"},
		{"body of an OTLP log", `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"1","body":{"stringValue":"<86>Nov 23 16:28:13 web-1 sshd[4711]: ` + msg + `"}}]}]}]}`, "rfc3164 web-1 sshd[4711] 10.6 uid=?", "2026-11-23T16:28:13Z"},
	} {
		var out Decoded
		d.Decode(&out, &schemas.Record{Topic: "t", TimestampNanos: kafka, Value: []byte(c.value)})
		if len(out.Events) != 1 || len(out.Dead)+len(out.Skips) != 0 {
			t.Errorf("%s:\n%s", c.name, textOfDecoded(&out))
			continue
		}
		if ev := &out.Events[0]; ev.Action != msg || ev.Tenant != c.tenant || strings.TrimSpace(ev.Resource) != c.resource || len(ev.Keys) != 1 || ev.Keys[0].Value != "alice@example.com" {
			t.Errorf("%s: got %q\n%s, %s, %v\nwant %s, %s", c.name, ev.Action, ev.Tenant, ev.Resource, ev.Keys, c.tenant, c.resource)
		}
	}
}

func byteArray(s string) string {
	return strings.ReplaceAll(fmt.Sprintf("%d", []byte(s)), " ", ",")
}

// TestSyslogKeepsTheBlanksOfSudo: sudo pads the name of the user to eight.
func TestSyslogKeepsTheBlanksOfSudo(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, messageYAML)
	const msg = "   alice : TTY=pts/0 ; PWD=/home/alice ; USER=root ; COMMAND=/usr/bin/id"
	for _, value := range []string{"<85>Nov 23 16:28:13 web-1 sudo: " + msg, "2026-11-23T16:28:13.349682+00:00 web-1 sudo: " + msg, `{"msg":" ` + msg + `","hostname":"web-1","programname":"sudo","timereported":"2026-11-23T16:28:13Z"}`} {
		var out Decoded
		d.Decode(&out, &schemas.Record{Topic: "t", TimestampNanos: time.Date(2026, 11, 23, 17, 0, 0, 0, time.UTC).UnixNano(), Value: []byte(value)})
		if len(out.Events) != 1 || out.Events[0].Action != msg {
			t.Errorf("%s:\n%s", value, textOfDecoded(&out))
		}
	}
}

// TestSyslogRepair: bytes that are not UTF-8 are replaced, whoever wrote them,
// and no key is made of what was replaced.
func TestSyslogRepair(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, messageYAML)
	for _, value := range []string{
		`{"msg":" Accepted x ID a` + "\xff" + `b","hostname":"web-1","programname":"sshd","timereported":"2026-11-23T16:28:13Z"}`,
		"<86>1 2026-11-23T16:28:13.349Z web-1 sshd 4711 - - Accepted x ID a\xffb",
		`{"__REALTIME_TIMESTAMP":"1","__CURSOR":"c","SYSLOG_IDENTIFIER":"sshd","MESSAGE":` + byteArray("Accepted x ID a\xffb") + `}`,
	} {
		ev := oneEvent(t, d, value)
		if ev.Action != "Accepted x ID a\ufffdb" || len(ev.Keys) != 0 {
			t.Errorf("%s: got %q, keys %v", value, ev.Action, ev.Keys)
		}
	}
	// The next record is its own.
	if ev := oneEvent(t, d, `{"__REALTIME_TIMESTAMP":"1","__CURSOR":"c","SYSLOG_IDENTIFIER":"sshd","MESSAGE":"Accepted x ID a\ufffdb"}`); len(ev.Keys) != 1 {
		t.Errorf("got %v", ev.Keys)
	}
}

// TestLogLines: what lines that no source knows end as.
func TestLogLines(t *testing.T) {
	d := testDecoder(t, DecoderOptions{Topics: map[string]TopicFormat{"logs": {Envelope: "logs"}}}, messageYAML, `name: fmt
match: {type: audit, request_id: present}
id: ["{request_id}"]
time: "{time}"
action: "{msg}"
resource: "{status_message ?? ''}"
`)
	const audit = `time="2026-11-23T16:41:18Z" level=info msg="API \"accessed\"" type=audit request_id=r-fixture empty= status_message=not\found`
	for _, c := range []struct {
		name, topic, value string
		events, skips      int
		dead               string
	}{
		{"logfmt", "t", audit, 1, 0, ""}, {"logfmt of others", "t", "level=info msg=started", 0, 1, ""}, {"words with equals signs", "t", "a=b c=d", 0, 0, "unknown_format"},
		{"nearly logfmt", "t", `level=info msg="x" and more`, 0, 0, "unknown_format"}, {"an open quote", "t", `level=info msg="x`, 0, 0, "unknown_format"},
		{"lines of logfmt", "t", "level=info msg=started\n" + audit + "\nnot at all\n\n", 1, 2, ""},
		{"a console", "t", "Flag --x is deprecated\n{\"level\":\"info\",\"msg\":\"x\",\"time\":\"t\"}\n" + `{"type":"audit","request_id":"r","time":"2026-11-23T16:41:18Z"}` + "\n", 1, 2, ""},
		{"a console that begins with JSON", "t", `{"type":"audit","request_id":"r","time":"2026-11-23T16:41:18Z"}` + "\nFlag --x is deprecated\n{\"type\":\"audit\",\"request_id\":\"s\",\"time\":\"2026-11-23T16:41:18Z\"}", 2, 1, ""},
		{"a line of a server", "t", `{"level":"info","msg":"Initializing server.","time":"2026-11-23T16:32:06Z"}`, 0, 1, ""},
		{"journald of others", "t", `{"__REALTIME_TIMESTAMP":"1","__CURSOR":"c","MESSAGE":"x","SYSLOG_IDENTIFIER":"cron"}`, 0, 1, ""},
		{"syslog of others", "t", "<13>Nov 23 16:28:13 web-1 cron[1]: x", 0, 1, ""}, {"syslog without a tag", "t", "<13>Nov 23 16:28:13 web-1 no tag at all", 0, 1, ""},
		{"text", "t", "hello world", 0, 0, "unknown_format"}, {"lines of text", "t", "hello\nworld\n", 0, 0, "unknown_format"}, {"a time and text", "t", "2026-11-23T16:28:13Z INFO starting", 0, 0, "unknown_format"},
		{"text among logs", "logs", "hello world", 0, 1, ""}, {"brackets among logs", "logs", "[2026-11-23 16:28:13] INFO x", 0, 1, ""}, {"braces among logs", "logs", "{worker} x", 0, 1, ""},
		{"JSON among logs", "logs", `{"unknown":1}`, 0, 1, ""}, {"half of JSON among logs", "logs", `{"unknown":1,"x`, 0, 0, "malformed"}, {"binary among logs", "logs", "\x00\x01\x02", 0, 0, "unknown_format"},
		{"a priority and nothing", "t", "<13>", 0, 0, "unknown_format"}, {"no priority", "t", "<999>Nov 23 16:28:13 web-1 cron[1]: x", 0, 0, "unknown_format"}, {"broken data", "t", `<13>1 - - - - - [a b="c`, 0, 0, "unknown_format"},
		{"bytes that are none", "t", `{"__REALTIME_TIMESTAMP":"1","MESSAGE":[1,256]}`, 0, 0, "malformed"},
	} {
		var out Decoded
		d.Decode(&out, &schemas.Record{Topic: c.topic, Value: []byte(c.value)})
		skips := 0
		for _, s := range out.Skips {
			skips += s.Count
			if s.Name != "plain_log" {
				t.Errorf("%s: skip %s", c.name, s.Name)
			}
		}
		if len(out.Events) != c.events || skips != c.skips || (c.dead != "") != (len(out.Dead) == 1) || c.dead != "" && out.Dead[0].Reason.String() != c.dead {
			t.Errorf("%s: want %d events, %d skips, %s:\n%s", c.name, c.events, c.skips, c.dead, textOfDecoded(&out))
		}
	}
	if ev := oneEvent(t, d, audit); ev.Action != `API "accessed"` || ev.Resource != `not\found` {
		t.Errorf("got %+v", ev)
	}
}
