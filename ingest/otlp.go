package ingest

import (
	"strconv"
	"strings"

	"catena/schemas"
)

// OTLP spans, JSON or protobuf, become one flat document each, so that
// source.yaml reads them with ordinary paths:
//
//	{"otlp":"span","traceId":"<32 hex>","spanId":"<16 hex>","parentSpanId":"<16 hex>","name":"…",
//	 "kind":"unspecified|internal|server|client|producer|consumer","start":"<Unix nanoseconds>","end":"…",
//	 "status":"unset|ok|error","statusMessage":"…","attributes":{…},"resource":{…},
//	 "scope":{"name":"…","version":"…"},"links":[{"traceId":"…","spanId":"…"}]}
//
// What a span does not have is left out. Attribute values are strings,
// booleans, numbers, arrays and objects. Both encodings of one span give the
// same values (OTLP 1.11, opentelemetry/proto/trace/v1/trace.proto).

// otlpWriter is memory that is used again for each record.
type otlpWriter struct {
	resource, scope []byte // their members, as JSON objects
	outline         outline
}

func kindWord(n uint64) string {
	words := [...]string{"unspecified", "internal", "server", "client", "producer", "consumer"}
	if n < uint64(len(words)) {
		return words[n]
	}
	return words[0]
}

func statusWord(n uint64) string {
	words := [...]string{"unset", "ok", "error"}
	if n < uint64(len(words)) {
		return words[n]
	}
	return words[0]
}

// flat decodes a flat document that stands in the arena. Every one repeats the
// resource, so a record of a large resource and many small spans could blow up
// to the square of its size: what all of them may take is bounded.
func (d *Decoder) flat(doc string, level int) {
	if !d.spend(len(doc), doc) {
		return
	}
	w := d.eval.walker
	outer, base := w.cursor, d.base
	w.open(doc)
	d.base = -1
	if guess, end := d.walk(0); end < 0 {
		d.deadFault(doc)
	} else {
		d.settle(guess, 0, end, level)
	}
	w.cursor, d.base = outer, base
}

// openSpans decodes the array of ResourceSpans in an OTLP JSON document.
func (d *Decoder) openSpans(c content) {
	d.openOTLP(otlpJSON{level: c.level, array1: "resourceSpans", resources: otlpResourceSpans, scopes: otlpScopeSpans, record: (*otlpJSON).span}, c.text)
}

// openOTLP decodes an array of resources with their records. Its reader is used
// again for the next; the body of a log may hold OTLP, too, and needs another.
func (d *Decoder) openOTLP(reader otlpJSON, array string) {
	j := d.spare
	if d.spare = nil; j == nil {
		j = new(otlpJSON)
	}
	*j = reader
	j.d = d
	j.all(array)
	d.spare = j
}

// otlpJSON reads OTLP JSON whose structure was checked before. Spans and logs
// have the same outer structure, under other names.
type otlpJSON struct {
	outlined
	d      *Decoder
	level  int
	memory otlpWriter

	array1            string     // name of the member
	resources, scopes *textTable // members of what it holds
	record            func(j *otlpJSON, at where)
}

// all decodes the array of resources with their records.
func (j *otlpJSON) all(array string) {
	j.memory, j.d.otlp = j.d.otlp, otlpWriter{} // the body of a log may hold OTLP, too
	j.maxDepth, j.outline = maxNesting, &j.memory.outline
	j.cursor.open(array)
	if !j.outline.tells(array) { // another one was read since
		j.outline.of(&j.cursor, 0)
	}
	before := j.d.index
	j.elements(where{end: len(array)}, j.resource)
	j.d.otlp = j.memory
	if j.d.index == before {
		j.d.skip(skipEmptyBatch)
	}
}

// The members that are read, by object, in the order in which exporters write them.
var (
	otlpResourceSpans = newTextTable("resource", "scopeSpans")
	otlpResourceLogs  = newTextTable("resource", "scopeLogs")
	otlpScopeSpans    = newTextTable("scope", "spans")
	otlpScopeLogs     = newTextTable("scope", "logRecords")
	otlpScope         = newTextTable("name", "version")
	otlpAttributes    = newTextTable("attributes")
	otlpSpan          = newTextTable("traceId", "spanId", "parentSpanId", "name", "kind", "startTimeUnixNano", "endTimeUnixNano", "attributes", "links", "status")
	otlpStatus        = newTextTable("code", "message")
	otlpLink          = newTextTable("traceId", "spanId")
	otlpKeyValue      = newTextTable("key", "value")
	otlpAny           = newTextTable("stringValue", "boolValue", "intValue", "doubleValue", "bytesValue", "arrayValue", "kvlistValue")
	otlpValues        = newTextTable("values")
	otlpString        = newTextTable("stringValue")
	otlpLog           = newTextTable("timeUnixNano", "observedTimeUnixNano", "severityNumber", "severityText", "body", "attributes", "traceId", "spanId", "eventName")
)

// find looks up members of an object; ok is false if one of them stands there
// twice, see [walker.again].
func (j *otlpJSON) find(at where, names *textTable, found []where) (ok bool) {
	clear(found)
	if !at.ok() || j.s[at.start] != '{' {
		return true
	}
	ok = true
	next := at.number + 1
	p := j.blanks(at.start + 1)
	last := -1
	for p < len(j.s) && j.s[p] == '"' {
		i, e := j.member(p+1, names, last+1)
		if e < 0 {
			break
		}
		var v where
		if v, next = j.from(j.afterName(e), next); v.end < 0 {
			break
		}
		if i >= 0 {
			ok = ok && !found[i].ok()
			found[i], last = v, i
		}
		if p = j.blanks(v.end); p < len(j.s) && j.s[p] == ',' {
			p = j.blanks(p + 1)
		}
	}
	return ok
}

// member looks up the name at p, which probably is that of a certain number, and
// returns where it ends; the number is -1 if nobody wants it.
func (j *otlpJSON) member(p int, names *textTable, probably int) (number, end int) {
	if probably < len(names.entries) {
		name := names.entries[probably].text
		if end = p + len(name); end < len(j.s) && j.s[end] == '"' && j.s[p:end] == name {
			return probably, end
		}
	}
	if end = j.str(p); end < 0 {
		return -1, -1
	}
	return names.find(j.s, p, end), end
}

// array calls f with the elements of an array, if it is one.
func (j *otlpJSON) array(at where, f func(v where) bool) {
	if at.ok() && j.s[at.start] == '[' {
		j.elements(at, f)
	}
}

// raw is a value as written.
func (j *otlpJSON) raw(at where) string { return j.s[at.start:at.end] }

func (j *otlpJSON) refuse(at where) bool {
	j.d.dead(schemas.DeadMalformed, j.raw(at), "OTLP: an object has a member twice, at byte %d of %s%s: %s", at.start, j.array1, j.d.item(), advice(schemas.DeadMalformed))
	return true
}

// resource reads one ResourceSpans or ResourceLogs; false if the record is full.
func (j *otlpJSON) resource(at where) bool {
	var f [2]where
	if !j.find(at, j.resources, f[:]) {
		return j.refuse(at)
	}
	buf := append(j.memory.resource[:0], '{')
	if f[0].ok() {
		var attrs [1]where
		if !j.find(f[0], otlpAttributes, attrs[:]) {
			return j.refuse(at)
		}
		buf = j.attributes(buf, attrs[0])
	}
	j.memory.resource = append(buf, '}')
	more := true
	j.array(f[1], func(v where) bool {
		more = j.scope(v)
		return more
	})
	return more
}

func (j *otlpJSON) scope(at where) bool {
	var f [2]where
	if !j.find(at, j.scopes, f[:]) {
		return j.refuse(at)
	}
	buf := append(j.memory.scope[:0], '{')
	if f[0].ok() {
		var names [2]where
		if !j.find(f[0], otlpScope, names[:]) {
			return j.refuse(at)
		}
		buf = j.text(buf, "name", names[0])
		buf = j.text(buf, "version", names[1])
	}
	j.memory.scope = append(buf, '}')
	more := true
	j.array(f[1], func(v where) bool {
		if more = !j.d.full(j.s[v.start:]); more {
			j.record(j, v)
		}
		return more
	})
	return more
}

// span writes the flat document of a span and decodes it.
func (j *otlpJSON) span(at where) {
	var f [10]where
	if !j.find(at, otlpSpan, f[:]) {
		j.refuse(at)
		return
	}
	var status [2]where
	if f[9].ok() && !j.find(f[9], otlpStatus, status[:]) {
		j.refuse(at)
		return
	}
	arena := j.d.eval.arena
	begin := len(arena.buf)
	b := append(arena.buf, `{"otlp":"span"`...)
	b = j.id(b, "traceId", f[0])
	b = j.id(b, "spanId", f[1])
	b = j.id(b, "parentSpanId", f[2])
	b = j.text(b, "name", f[3])
	b = word(b, "kind", kindWord(j.enum(f[4], "SPAN_KIND_", kindWord, 6)))
	b = j.nanos(b, "start", f[5])
	b = j.nanos(b, "end", f[6])
	b = word(b, "status", statusWord(j.enum(status[0], "STATUS_CODE_", statusWord, 3)))
	b = j.text(b, "statusMessage", status[1])
	b = append(b, `,"attributes":{`...)
	b = j.attributes(b, f[7])
	b = append(b, `},"resource":`...)
	b = append(b, j.memory.resource...)
	b = append(b, `,"scope":`...)
	b = append(b, j.memory.scope...)
	b = j.links(b, f[8])
	arena.buf = append(b, '}')
	j.d.flat(arena.since(begin), maxLevels)
}

// str returns the inside of a string as it stands; false if it is none.
func (j *otlpJSON) inside(at where) (string, bool) {
	if !at.ok() || j.s[at.start] != '"' {
		return "", false
	}
	return j.s[at.start+1 : at.end-1], true
}

// name begins a member.
func name(b []byte, key string) []byte {
	if n := len(b); n > 0 && b[n-1] != '{' && b[n-1] != '[' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, key...)
	return append(b, `":`...)
}

// word appends a member whose value needs no escapes.
func word(b []byte, key, value string) []byte {
	b = name(b, key)
	b = append(b, '"')
	b = append(b, value...)
	return append(b, '"')
}

// text appends a member that is a string, with its escapes as they stand.
func (j *otlpJSON) text(b []byte, key string, at where) []byte {
	if s, ok := j.inside(at); ok && s != "" {
		return word(b, key, s)
	}
	return b
}

// id appends an id in lower case.
func (j *otlpJSON) id(b []byte, key string, at where) []byte {
	s, ok := j.inside(at)
	if !ok || s == "" {
		return b
	}
	b = word(b, key, s)
	if strings.IndexByte(s, '\\') < 0 {
		for i := len(b) - 1 - len(s); i < len(b)-1; i++ {
			if 'A' <= b[i] && b[i] <= 'Z' {
				b[i] |= 0x20
			}
		}
	}
	return b
}

// nanos appends a time, which is a string or a number.
func (j *otlpJSON) nanos(b []byte, key string, at where) []byte {
	s, ok := j.inside(at)
	if !ok && at.ok() {
		s = j.s[at.start:at.end]
	}
	if _, ok := digitsOf(s); !ok || s == "" || s == "0" {
		return b
	}
	return word(b, key, s)
}

// enum reads a number, or the name that Protobuf's JSON may use for it.
func (j *otlpJSON) enum(at where, prefix string, wordOf func(uint64) string, n uint64) uint64 {
	if !at.ok() {
		return 0
	}
	if s, ok := j.inside(at); ok {
		s = strings.TrimPrefix(s, prefix)
		for i := range n {
			if strings.EqualFold(s, wordOf(i)) {
				return i
			}
		}
		return 0
	}
	i, err := strconv.ParseUint(j.s[at.start:at.end], 10, 32)
	if err != nil {
		return 0
	}
	return i
}

func (j *otlpJSON) links(b []byte, at where) []byte {
	start := len(b)
	b = append(b, `,"links":[`...)
	open := len(b)
	j.array(at, func(v where) bool {
		var f [2]where
		if j.find(v, otlpLink, f[:]) {
			if b[len(b)-1] == '}' {
				b = append(b, ',')
			}
			b = append(b, '{')
			b = j.id(b, "traceId", f[0])
			b = j.id(b, "spanId", f[1])
			b = append(b, '}')
		}
		return true
	})
	if len(b) == open {
		return b[:start]
	}
	return append(b, ']')
}

// attributes appends an array of KeyValue as members.
func (j *otlpJSON) attributes(b []byte, at where) []byte {
	j.array(at, func(v where) bool {
		if key, text, ok := j.attribute(v); ok {
			b = append(name(b, key), text...)
			return true
		}
		var f [2]where
		if !j.find(v, otlpKeyValue, f[:]) {
			return true
		}
		if key, ok := j.inside(f[0]); ok {
			b = name(b, key)
			b = j.any(b, f[1])
		}
		return true
	})
	return b
}

// any appends an AnyValue.
func (j *otlpJSON) any(b []byte, at where) []byte {
	var f [7]where
	if !at.ok() || !j.find(at, otlpAny, f[:]) {
		return append(b, "null"...)
	}
	for i, v := range f {
		if !v.ok() || j.s[v.start] == 'n' {
			continue
		}
		raw := j.s[v.start:v.end]
		inside, quoted := j.inside(v)
		switch {
		case i == 0 && quoted, i == 4 && quoted, i == 1 && (raw == "true" || raw == "false"):
			return append(b, raw...)
		case i == 2:
			if !quoted {
				inside = raw
			}
			if n, err := strconv.ParseInt(inside, 10, 64); err == nil {
				return strconv.AppendInt(b, n, 10)
			}
		case i == 3:
			if !quoted {
				inside = raw
			}
			if x, err := strconv.ParseFloat(inside, 64); err == nil {
				return appendFloat(b, x)
			}
		case i == 5:
			return append(j.values(append(b, '['), v), ']')
		case i == 6:
			var values [1]where
			j.find(v, otlpValues, values[:])
			return append(j.attributes(append(b, '{'), values[0]), '}')
		}
	}
	return append(b, "null"...)
}

func (j *otlpJSON) values(b []byte, at where) []byte {
	var f [1]where
	j.find(at, otlpValues, f[:])
	first := true
	j.array(f[0], func(v where) bool {
		if !first {
			b = append(b, ',')
		}
		first = false
		b = j.any(b, v)
		return true
	})
	return b
}
