package ingest

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"catena/schemas"
	"catena/schemas/sources"
)

// Messages of syslog come as lines (RFC 5424, RFC 3164, and what rsyslog writes
// to files), as rsyslog's JSON, and from journald. A source reads all of them
// alike, because each becomes a document in the words that journald has for
// what a program says of itself:
//
//	{"syslog":"rfc5424|rfc3164|rsyslog","time":"<RFC 3339>","host":"…","SYSLOG_IDENTIFIER":"sshd","SYSLOG_PID":"123",
//	 "SYSLOG_FACILITY":"10","PRIORITY":"6","MESSAGE":"…"}
//
// Nothing in it is more than what the sender claims. Journald's own documents
// stay as they are; their members with an underscore are what journald saw.
//
// rsyslog passes bytes through that are not UTF-8, into its JSON, too. One such
// byte in an argument of sudo would take the line out of every log that insists
// on UTF-8, and any local user can write it: so they become U+FFFD here, and no
// key is made of a value with one, since two different values may look the same
// then.

// syslogNames is where the parts of a message are, by whatever wrote the JSON:
// rsyslog's properties, its usual templates, fluentd's and Vector's syslog.
func syslogNames() []naming {
	return []naming{
		{"time", "timereported"}, {"time", `"@timestamp"`}, {"time", "timestamp"}, {"time", "time"}, {"time", "timegenerated"},
		{"host", "hostname"}, {"host", "host"}, {"host", "fromhost"}, {"host", "source"},
		{"SYSLOG_IDENTIFIER", "programname"}, {"SYSLOG_IDENTIFIER", `"app-name"`}, {"SYSLOG_IDENTIFIER", "appname"}, {"SYSLOG_IDENTIFIER", "ident"}, {"tag", "syslogtag"}, {"tag", `"syslog-tag"`}, {"tag", "tag"},
		{"SYSLOG_PID", "procid"}, {"SYSLOG_PID", "pid"},
		{"SYSLOG_FACILITY", "syslogfacility"}, {"SYSLOG_FACILITY", "facility"}, {"PRIORITY", "syslogseverity"}, {"PRIORITY", "severity"},
		{"MESSAGE", "msg"}, {"MESSAGE", "message"},
	}
}

// readers read members that programs of sources have no use for.
type readers struct{ syslog, beatsJournal, vectorJournal, logBody *reader }

func newReaders() readers {
	return readers{newReader(syslogNames()), newReader(beatsJournal()), newReader(vectorJournal()), newReader(logBody())}
}

// syslogTag tells such JSON by the name of the program.
func syslogTag() sources.Clause {
	return oneOf(has("syslogtag"), has(`"syslog-tag"`), has("programname"), is("source_type", "syslog"), has("ident"))
}

// beatsJournal is where Filebeat's journald input puts what journald saw. The
// names under log.syslog and journald.process are those since version 8; both
// have older forms.
func beatsJournal() []naming {
	return []naming{
		{"time", `"@timestamp"`}, {"_HOSTNAME", "host.hostname"}, {"_HOSTNAME", "host.name"},
		{"SYSLOG_IDENTIFIER", "log.syslog.appname"}, {"SYSLOG_IDENTIFIER", "syslog.identifier"}, {"SYSLOG_PID", "log.syslog.procid"}, {"SYSLOG_PID", "syslog.pid"},
		{"_PID", "journald.pid"}, {"_UID", "journald.uid"}, {"_GID", "journald.gid"}, {"_COMM", "journald.process.name"}, {"_COMM", "journald.name"}, {"_EXE", "journald.process.executable"}, {"_EXE", "journald.executable"},
		{"_AUDIT_SESSION", "journald.audit.session"}, {"_AUDIT_LOGINUID", "journald.audit.login_uid"}, {"_AUDIT_LOGINUID", "journald.audit.loginuid"},
		{"_BOOT_ID", "journald.host.boot_id"}, {"_BOOT_ID", "host.boot_id"}, {"_TRANSPORT", "systemd.transport"}, {"_SYSTEMD_UNIT", "systemd.unit"}, {"MESSAGE", "message"},
	}
}

// vectorJournal is Vector's: journald's names, but for three.
func vectorJournal() []naming {
	list := []naming{{"time", "timestamp"}, {"_HOSTNAME", "host"}, {"MESSAGE", "message"}}
	for _, name := range []string{
		"SYSLOG_IDENTIFIER", "SYSLOG_PID", "SYSLOG_FACILITY", "PRIORITY", "_PID", "_UID", "_GID", "_COMM", "_EXE", "_AUDIT_SESSION", "_AUDIT_LOGINUID", "_BOOT_ID", "_TRANSPORT", "_SYSTEMD_UNIT",
		"__REALTIME_TIMESTAMP", "_SOURCE_REALTIME_TIMESTAMP",
	} {
		list = append(list, naming{name, name})
	}
	return list
}

func (d *Decoder) openSyslog(c content) { d.remake(c, d.readers.syslog, `"syslog":"rsyslog"`) }
func (d *Decoder) openBeatsJournal(c content) {
	d.remake(c, d.readers.beatsJournal, `"journal":"beats"`)
}
func (d *Decoder) openVectorJournal(c content) {
	d.remake(c, d.readers.vectorJournal, `"journal":"vector"`)
}

// remake writes the document of a message whose parts stand in another one.
func (d *Decoder) remake(c content, r *reader, form string) {
	m := message{more: d.more}
	ok := d.read(r, offsetIn(d.eval.s, c.whole), func(name, text string) {
		switch name {
		case "time":
			m.time = text
		case "SYSLOG_IDENTIFIER":
			m.app = text
		case "tag":
			m.tag(text)
		case "SYSLOG_PID":
			m.pid = text
		case "MESSAGE":
			m.text = strings.TrimPrefix(text, " ") // of rsyslog's msg, what stood behind the colon
		default:
			m.more = protoText(m.more, name, []byte(text))
		}
	})
	if !ok {
		d.deadFault(c.whole)
		return
	}
	d.message(form, &m, c.level)
}

// openJournalBytes opens a document of journald whose MESSAGE holds bytes that
// JSON has no text for: journald writes an array of numbers then.
func (d *Decoder) openJournalBytes(c content) {
	var raw []byte
	list := cursor{maxDepth: maxNesting}
	list.open(c.text)
	ok := true
	list.elements(0, func(p, end int) bool {
		n, err := strconv.ParseUint(c.text[p:end], 10, 8)
		raw, ok = append(raw, byte(n)), err == nil
		return ok
	})
	if !ok {
		d.dead(schemas.DeadMalformed, c.whole, "MESSAGE is an array of something else than bytes%s: %s", d.item(), advice(schemas.DeadMalformed))
		return
	}
	at := offsetIn(c.whole, c.text)
	arena := d.eval.arena
	start := len(arena.buf)
	arena.buf = appendJSON(append(arena.buf, c.whole[:at]...), raw)
	arena.buf = append(arena.buf, c.whole[at+len(c.text):]...)
	d.repair(arena.since(start), c.level)
}

// message is what syslog says with a message.
type message struct {
	time, host, app, pid, text string
	more                       []byte // members as they stand; its memory is used again
}

// tag takes sshd[123]: apart.
func (m *message) tag(s string) {
	if m.app != "" {
		return
	}
	m.app = strings.TrimSuffix(s, ":")
	if name, pid, ok := strings.Cut(strings.TrimSuffix(m.app, "]"), "["); ok {
		if m.app = name; m.pid == "" {
			m.pid = pid
		}
	}
}

// message decodes the document of a message.
func (d *Decoder) message(form string, m *message, level int) {
	arena := d.eval.arena
	start := len(arena.buf)
	b := append(append(arena.buf, '{'), form...)
	for _, f := range [...]struct{ name, text string }{{"time", d.syslogTime(m.time)}, {"host", m.host}, {"SYSLOG_IDENTIFIER", m.app}, {"SYSLOG_PID", m.pid}, {"MESSAGE", m.text}} {
		b = protoText(b, f.name, []byte(f.text))
	}
	if len(m.more) > 0 {
		b = append(append(b, ','), m.more...)
		d.more = m.more[:0]
	}
	arena.buf = append(b, '}')
	d.repair(arena.since(start), level)
}

// repair decodes a document of a message, in which bytes that are not UTF-8 are
// replaced.
func (d *Decoder) repair(doc string, level int) {
	hint, repaired := d.hint, d.repaired
	d.hint.general = true
	if !utf8.ValidString(doc) {
		doc, d.repaired = d.eval.keep(strings.ToValidUTF8(doc, "\uFFFD")), true
	}
	d.flat(doc, level)
	d.hint, d.repaired = hint, repaired
}

// syslogTime brings the time of RFC 3164, Nov 23 16:28:13, to RFC 3339. It says
// neither year nor zone: the year is that in which it lies before, or at most a
// day behind, the time at which Kafka got the record; the zone is taken to be
// UTC. Other times stay as they are.
func (d *Decoder) syslogTime(s string) string {
	now := d.opts.Reference
	if d.evidence.TimestampNanos != 0 {
		now = time.Unix(0, d.evidence.TimestampNanos)
	}
	if len(s) < bsdTimeLen || now.IsZero() {
		return s
	}
	t, err := time.Parse(time.Stamp, s[:bsdTimeLen])
	if err != nil {
		return s
	}
	now = now.UTC().Add(24 * time.Hour)
	t = time.Date(now.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
	if t.After(now) {
		t = time.Date(now.Year()-1, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
	}
	return t.Format(time.RFC3339)
}

const bsdTimeLen = len("Nov 23 16:28:13")
