package ingest

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"catena/schemas"
)

// OTLP log records, JSON or protobuf, become one flat document each, like
// spans:
//
//	{"otlp":"log","traceId":"<32 hex>","spanId":"<16 hex>","time":"<Unix nanoseconds>","observedTime":"…",
//	 "severity":"INFO","eventName":"…","body":…,"attributes":{…},"resource":{…},"scope":{…}}
//
// What a record does not have is left out. The event's name stands in the field
// of that name since OTLP 1.5 and in the attribute event.name before; severity
// is the sender's text, or the name of the number's range. A body that is not
// text keeps its structure (opentelemetry/proto/logs/v1/logs.proto).

// attributeEventName holds the event's name in logs of OTLP before 1.5.
const attributeEventName = "event.name"

// severityWord is the short name of a severity number's range.
func severityWord(n uint64) string {
	if n < 1 || n > 24 {
		return ""
	}
	return [...]string{"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"}[(n-1)/4]
}

// openLogs decodes the array of ResourceLogs in an OTLP JSON document.
func (d *Decoder) openLogs(c content) {
	d.openOTLP(otlpJSON{level: c.level, array1: "resourceLogs", resources: otlpResourceLogs, scopes: otlpScopeLogs, record: (*otlpJSON).log}, c.text)
}

// log writes the flat document of a log record and decodes it.
func (j *otlpJSON) log(at where) {
	var f [9]where
	if !j.find(at, otlpLog, f[:]) {
		j.refuse(at)
		return
	}
	arena := j.d.eval.arena
	begin := len(arena.buf)
	b := append(arena.buf, `{"otlp":"log"`...)
	b = j.id(b, "traceId", f[6])
	b = j.id(b, "spanId", f[7])
	b = j.nanos(b, "time", f[0])
	b = j.nanos(b, "observedTime", f[1])
	if s, ok := j.inside(f[3]); ok && s != "" {
		b = word(b, "severity", s)
	} else if s := severityWord(j.severity(f[2])); s != "" {
		b = word(b, "severity", s)
	}
	event, _ := j.inside(f[8])
	if event == "" {
		event = j.textOf(f[5], attributeEventName)
	}
	if event != "" {
		b = word(b, "eventName", event)
	}
	if f[4].ok() {
		b = j.any(name(b, "body"), f[4])
	}
	b = append(b, `,"attributes":{`...)
	b = j.attributes(b, f[5])
	b = append(b, `},"resource":`...)
	b = append(b, j.memory.resource...)
	b = append(b, `,"scope":`...)
	b = append(b, j.memory.scope...)
	arena.buf = append(b, '}')
	j.d.flatLog(arena.since(begin), j.level)
}

// severity reads a severity number, or the name that Protobuf's JSON may use
// for it: SEVERITY_NUMBER_WARN2.
func (j *otlpJSON) severity(at where) uint64 {
	if !at.ok() {
		return 0
	}
	s, quoted := j.inside(at)
	if !quoted {
		n, err := strconv.ParseUint(j.s[at.start:at.end], 10, 32)
		if err != nil {
			return 0
		}
		return n
	}
	s = strings.TrimRight(strings.TrimPrefix(s, "SEVERITY_NUMBER_"), "234")
	for n := uint64(1); n <= 24; n += 4 {
		if s == severityWord(n) {
			return n
		}
	}
	return 0
}

// textOf is the text of an attribute, as it stands; empty if it has none.
func (j *otlpJSON) textOf(list where, key string) (found string) {
	j.array(list, func(at where) bool {
		if k, text, ok := j.attribute(at); ok {
			if k == key {
				found = text[1 : len(text)-1]
			}
			return k != key
		}
		var f [2]where
		var v [1]where
		if !j.find(at, otlpKeyValue, f[:]) {
			return true
		}
		if k, ok := j.inside(f[0]); !ok || k != key || !f[1].ok() || !j.find(f[1], otlpString, v[:]) {
			return true
		}
		found, _ = j.inside(v[0])
		return false
	})
	return found
}

// logs decodes a LogsData.
func (d *Decoder) logs(b []byte, level int) {
	d.openProto(otlpProto{level: level, record: (*otlpProto).log}, b)
}

// log writes the flat document of a log record and decodes it.
func (p *otlpProto) log(b []byte) {
	var m protoMessage
	if !m.read(b) {
		p.d.dead(schemas.DeadMalformed, text(b), "OTLP: a log record is no Protobuf message%s: %s", p.d.item(), advice(schemas.DeadMalformed))
		return
	}
	arena := p.d.eval.arena
	at := len(arena.buf)
	out := append(arena.buf, `{"otlp":"log"`...)
	out = protoID(out, "traceId", m.bytes[9])
	out = protoID(out, "spanId", m.bytes[10])
	out = protoNanos(out, "time", m.numbers[1])
	out = protoNanos(out, "observedTime", m.numbers[11])
	severity := m.bytes[3]
	if len(severity) == 0 {
		severity = []byte(severityWord(m.numbers[2]))
	}
	out = protoText(out, "severity", severity)
	event := m.bytes[12]
	if len(event) == 0 {
		event = protoAttribute(b, 6, attributeEventName)
	}
	out = protoText(out, "eventName", event)
	if body := m.bytes[5]; body != nil {
		out = p.any(name(out, "body"), body)
	}
	out = append(out, `,"attributes":{`...)
	out = p.attributes(out, b, 6)
	out = append(out, `},"resource":`...)
	out = append(out, p.memory.resource...)
	out = append(out, `,"scope":`...)
	out = append(out, p.memory.scope...)
	arena.buf = append(out, '}')
	p.d.flatLog(arena.since(at), p.level)
}

// protoAttribute is the text of an attribute among the KeyValue in the fields
// of that number.
func protoAttribute(b []byte, num protowire.Number, key string) (found []byte) {
	fields(b, func(f field) bool {
		if f.num != num || f.typ != protowire.BytesType {
			return true
		}
		k, value := pair(f.bytes)
		if string(k) != key {
			return true
		}
		found, _ = pair(value) // the first field of a value is text
		return false
	})
	return found
}

// flatLog decodes the flat document of a log record. If no source knows it, its
// body may be a record of one, which a collector has read from a file or a
// journal. Most are neither, and are counted and left out.
func (d *Decoder) flatLog(doc string, level int) {
	hint, cursor, m := d.hint, d.eval.cursor, d.mark()
	d.hint = handed{general: true, relayed: hint.relayed}
	if d.flat(doc, level); d.undo(m) {
		d.relay()
		d.openBody(doc, level)
	}
	d.hint, d.eval.cursor = hint, cursor
}

// logBody is what the resource of a log record knows of the record in its body.
func logBody() []naming {
	return []naming{
		{"body", "body"}, {"host", `resource."host.name"`}, {"node", `resource."k8s.node.name"`}, {"namespace", `resource."k8s.namespace.name"`}, {"pod", `resource."k8s.pod.name"`},
		{"pod_uid", `resource."k8s.pod.uid"`}, {"container", `resource."k8s.container.name"`}, {"container_id", `resource."container.id"`}, {"account", `resource."cloud.account.id"`}, {"region", `resource."cloud.region"`},
		{"log_group", `resource."aws.log.group.names"`}, {"log_stream", `resource."aws.log.stream.names"`},
	}
}

func (d *Decoder) openBody(doc string, level int) {
	outer, base, body := d.known, d.base, ""
	d.eval.open(doc)
	d.read(d.readers.logBody, 0, func(name, text string) {
		switch {
		case name == "body":
			body = text
		case utf8.ValidString(text):
			d.known.set(name, text)
		}
	})
	d.base = -1
	if body == "" || level >= maxLevels {
		d.skip(skipPlainLog)
	} else {
		d.content(body, level+1)
	}
	d.known, d.base = outer, base
}
