package ingest

import (
	"encoding/base64"
	"encoding/hex"
	"math"
	"strconv"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"catena/schemas"
)

// Protobuf is read straight off the wire into flat documents: generated types
// would allocate every attribute first. The fields are those of
// opentelemetry/proto/{trace,common,resource}/v1.

// signal is what an OTLP message holds.
type signal uint8

const (
	signalNone signal = iota // it is no OTLP
	signalEmpty
	signalSpans
	signalLogs
	signalMetrics
	signalUnclear // OTLP by its structure, without a record that tells which
)

// protobuf decodes OTLP. It reports whether it did: always, if the value is to
// be decoded as it is, and otherwise if it is OTLP beyond doubt.
func (d *Decoder) protobuf(s string, always bool) bool {
	b := unsafe.Slice(unsafe.StringData(s), len(s)) // read only
	kind := sniff(b)
	if kind == signalUnclear && d.state.unclear != signalNone {
		kind = d.state.unclear
	}
	switch {
	case !always && kind != signalSpans && kind != signalLogs && kind != signalMetrics:
		return false
	case kind == signalSpans:
		d.spans(b)
	case kind == signalLogs:
		d.logs(b, 0)
	case kind == signalMetrics:
		d.skip(skipMetrics)
	case kind == signalEmpty && (d.state.otlp || d.state.unclear != signalNone):
		d.skip(skipEmptyBatch)
	case d.state.otlp:
		d.dead(schemas.DeadMalformed, s, "the topic is read as OTLP protobuf, and this is no OTLP%s: fix the topic's format, or what writes to it", d.item())
	default:
		d.dead(schemas.DeadUnknownFormat, s, "the record begins with neither { nor [, and is no OTLP protobuf%s%s: fix the topic's format, or what writes to it", d.item(), d.schemaHint(s))
	}
	return true
}

// field is one field of a message: bytes of a length-delimited one, else a
// number.
type field struct {
	num   protowire.Number
	typ   protowire.Type
	bytes []byte
	n     uint64
}

// next reads the first field of b; ok is false at the end and where b is no
// message.
func (f *field) next(b []byte) (rest []byte, ok bool) {
	// Most fields are short texts and messages of low numbers: tag and length take a byte each.
	if len(b) >= 2 && b[0] < 0x80 && b[0]&7 == byte(protowire.BytesType) && b[0]>>3 > 0 && int(b[1]) <= min(len(b)-2, 0x7f) {
		end := 2 + int(b[1])
		*f = field{num: protowire.Number(b[0] >> 3), typ: protowire.BytesType, bytes: b[2:end:end]}
		return b[end:], true
	}
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return nil, false
	}
	b = b[n:]
	*f = field{num: num, typ: typ}
	switch typ {
	case protowire.VarintType:
		f.n, n = protowire.ConsumeVarint(b)
	case protowire.Fixed64Type:
		f.n, n = protowire.ConsumeFixed64(b)
	case protowire.Fixed32Type:
		var x uint32
		x, n = protowire.ConsumeFixed32(b)
		f.n = uint64(x)
	case protowire.BytesType:
		f.bytes, n = protowire.ConsumeBytes(b)
	default: // groups are not in OTLP
		return nil, false
	}
	if n < 0 {
		return nil, false
	}
	return b[n:], true
}

// sniff says what b holds. TracesData, LogsData and MetricsData have the same
// outer structure, three messages deep: a list of resources, scopes and
// records; the records tell them apart.
func sniff(b []byte) signal {
	found := signalEmpty
	ok := fields(b, func(f field) bool {
		return f.num == 1 && f.typ == protowire.BytesType && fields(f.bytes, func(f field) bool {
			if f.typ != protowire.BytesType || f.num > 3 && f.num != 1000 {
				return false
			}
			if found == signalEmpty {
				found = signalUnclear
			}
			return f.num != 2 || fields(f.bytes, func(f field) bool {
				if f.typ != protowire.BytesType || f.num > 3 {
					return false
				}
				if f.num != 2 {
					return true
				}
				kind, ok := sniffRecord(f.bytes)
				if kind != signalEmpty && (found == signalEmpty || found == signalUnclear) {
					found = kind
				}
				return ok
			})
		})
	})
	if !ok {
		return signalNone
	}
	return found
}

// sniffRecord tells a Span, which begins with ids of 16 and 8 bytes, from a
// LogRecord, which begins with a time, and a Metric, which begins with a name.
func sniffRecord(b []byte) (signal, bool) {
	kind := signalEmpty
	ids := 0
	ok := fields(b, func(f field) bool {
		switch {
		case f.num == 1 && f.typ == protowire.BytesType && len(f.bytes) == 16, f.num == 2 && f.typ == protowire.BytesType && len(f.bytes) == 8:
			ids++
		case f.num == 1 && f.typ == protowire.Fixed64Type, f.num == 11 && f.typ == protowire.Fixed64Type:
			kind = signalLogs
		case f.num == 1 && f.typ == protowire.BytesType && kind == signalEmpty:
			kind = signalMetrics
		}
		return true
	})
	if ids == 2 {
		kind = signalSpans
	}
	return kind, ok
}

// fields calls f with each field of a message; false if f says so, or b is no
// message.
func fields(b []byte, f func(field) bool) bool {
	var x field
	for len(b) > 0 {
		rest, ok := x.next(b)
		if !ok || !f(x) {
			return false
		}
		b = rest
	}
	return true
}

// spans decodes a TracesData.
func (d *Decoder) spans(b []byte) {
	d.openProto(otlpProto{record: (*otlpProto).span}, b)
}

// openProto is openOTLP for protobuf.
func (d *Decoder) openProto(reader otlpProto, b []byte) {
	p := d.spareProto
	if d.spareProto = nil; p == nil {
		p = new(otlpProto)
	}
	*p = reader
	p.d = d
	p.all(b)
	d.spareProto = p
}

// otlpProto reads OTLP protobuf whose outer structure was checked before. That
// of spans and of logs is the same.
type otlpProto struct {
	d      *Decoder
	depth  int
	level  int
	record func(p *otlpProto, b []byte)
	memory otlpWriter
}

func (p *otlpProto) all(b []byte) {
	before := p.d.index
	p.memory, p.d.otlp = p.d.otlp, otlpWriter{} // the body of a log may hold OTLP, too
	fields(b, func(f field) bool { return p.resource(f.bytes) })
	p.d.otlp = p.memory
	if p.d.index == before {
		p.d.skip(skipEmptyBatch)
	}
}

// resource reads one ResourceSpans or ResourceLogs; false if the record is full.
// The resource may stand behind what it belongs to, so it is looked for first.
func (p *otlpProto) resource(b []byte) bool {
	buf := append(p.memory.resource[:0], '{')
	fields(b, func(f field) bool {
		if f.num == 1 {
			buf = p.attributes(buf, f.bytes, 1)
		}
		return true
	})
	p.memory.resource = append(buf, '}')
	return fields(b, func(f field) bool { return f.num != 2 || p.scope(f.bytes) })
}

func (p *otlpProto) scope(b []byte) bool {
	buf := append(p.memory.scope[:0], '{')
	fields(b, func(f field) bool {
		if f.num == 1 {
			name, version := pair(f.bytes)
			buf = protoText(buf, "name", name)
			buf = protoText(buf, "version", version)
		}
		return true
	})
	p.memory.scope = append(buf, '}')
	return fields(b, func(f field) bool {
		if f.num != 2 {
			return true
		}
		if p.d.full(text(f.bytes)) {
			return false
		}
		p.record(p, f.bytes)
		return true
	})
}

// protoMessage is what stands in the fields of a message: of each number the last
// value, as Protobuf has it.
type protoMessage struct {
	bytes   [maxField + 1][]byte // nil if there is none
	numbers [maxField + 1]uint64
}

// maxField is the highest number of a field that is read.
const maxField = 15

// read reads a message; false if b is none.
func (m *protoMessage) read(b []byte) bool {
	return fields(b, func(f field) bool {
		switch {
		case f.num > maxField:
		case f.typ == protowire.BytesType:
			m.bytes[f.num] = f.bytes
		default:
			m.numbers[f.num] = f.n
		}
		return true
	})
}

// pair reads the first two fields of a message: key and value, two ids, name and version.
func pair(b []byte) (one, two []byte) {
	fields(b, func(f field) bool {
		switch {
		case f.typ != protowire.BytesType:
		case f.num == 1:
			one = f.bytes
		case f.num == 2:
			two = f.bytes
		}
		return true
	})
	return one, two
}

// span writes the flat document of a span and decodes it.
func (p *otlpProto) span(b []byte) {
	var m, status protoMessage
	if !m.read(b) {
		p.d.dead(schemas.DeadMalformed, text(b), "OTLP: a span is no Protobuf message%s: %s", p.d.item(), advice(schemas.DeadMalformed))
		return
	}
	arena := p.d.eval.arena
	at := len(arena.buf)
	out := append(arena.buf, `{"otlp":"span"`...)
	out = protoID(out, "traceId", m.bytes[1])
	out = protoID(out, "spanId", m.bytes[2])
	out = protoID(out, "parentSpanId", m.bytes[4])
	out = protoText(out, "name", m.bytes[5])
	out = word(out, "kind", kindWord(m.numbers[6]))
	out = protoNanos(out, "start", m.numbers[7])
	out = protoNanos(out, "end", m.numbers[8])
	status.read(m.bytes[15])
	out = word(out, "status", statusWord(status.numbers[3]))
	out = protoText(out, "statusMessage", status.bytes[2])
	out = append(out, `,"attributes":{`...)
	out = p.attributes(out, b, 9)
	out = append(out, `},"resource":`...)
	out = append(out, p.memory.resource...)
	out = append(out, `,"scope":`...)
	out = append(out, p.memory.scope...)
	out = protoLinks(out, b)
	arena.buf = append(out, '}')
	p.d.flat(arena.since(at), maxLevels)
}

func protoID(b []byte, key string, id []byte) []byte {
	if len(id) == 0 {
		return b
	}
	b = append(name(b, key), '"')
	b = hex.AppendEncode(b, id)
	return append(b, '"')
}

func protoText(b []byte, key string, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	return appendJSON(name(b, key), value)
}

func protoNanos(b []byte, key string, n uint64) []byte {
	if n == 0 {
		return b
	}
	b = append(name(b, key), '"')
	b = strconv.AppendUint(b, n, 10)
	return append(b, '"')
}

func protoLinks(out, span []byte) []byte {
	first := true
	fields(span, func(f field) bool {
		if f.num != 13 || f.typ != protowire.BytesType {
			return true
		}
		if first {
			out = append(out, `,"links":[`...)
		} else {
			out = append(out, ',')
		}
		first = false
		out = append(out, '{')
		trace, span := pair(f.bytes)
		out = protoID(out, "traceId", trace)
		out = protoID(out, "spanId", span)
		out = append(out, '}')
		return true
	})
	if first {
		return out
	}
	return append(out, ']')
}

// attributes appends the KeyValue in the fields of that number as members.
func (p *otlpProto) attributes(out, b []byte, num protowire.Number) []byte {
	fields(b, func(f field) bool {
		if f.num != num || f.typ != protowire.BytesType {
			return true
		}
		if c := out[len(out)-1]; c != '{' {
			out = append(out, ',')
		}
		key, value := pair(f.bytes)
		out = append(appendJSON(out, key), ':')
		out = p.any(out, value)
		return true
	})
	return out
}

// any appends an AnyValue. Of several values the last counts, as in Protobuf.
func (p *otlpProto) any(out, b []byte) []byte {
	if p.depth++; p.depth > p.d.opts.MaxDepth {
		p.depth--
		return append(out, "null"...)
	}
	start := len(out)
	fields(b, func(f field) bool {
		switch {
		case f.num == 1 && f.typ == protowire.BytesType:
			out = appendJSON(out[:start], f.bytes)
		case f.num == 2 && f.typ == protowire.VarintType:
			out = strconv.AppendBool(out[:start], f.n != 0)
		case f.num == 3 && f.typ == protowire.VarintType:
			out = strconv.AppendInt(out[:start], int64(f.n), 10)
		case f.num == 4 && f.typ == protowire.Fixed64Type:
			out = appendFloat(out[:start], math.Float64frombits(f.n))
		case f.num == 5 && f.typ == protowire.BytesType:
			out = append(p.values(append(out[:start], '['), f.bytes), ']')
		case f.num == 6 && f.typ == protowire.BytesType:
			out = append(p.attributes(append(out[:start], '{'), f.bytes, 1), '}')
		case f.num == 7 && f.typ == protowire.BytesType:
			out = append(base64.StdEncoding.AppendEncode(append(out[:start], '"'), f.bytes), '"')
		}
		return true
	})
	p.depth--
	if len(out) == start {
		return append(out, "null"...)
	}
	return out
}

func (p *otlpProto) values(out, b []byte) []byte {
	first := true
	fields(b, func(f field) bool {
		if f.num != 1 || f.typ != protowire.BytesType {
			return true
		}
		if !first {
			out = append(out, ',')
		}
		first = false
		out = p.any(out, f.bytes)
		return true
	})
	return out
}

// appendFloat writes what JSON has no number for as text.
func appendFloat(b []byte, x float64) []byte {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		b = append(b, '"')
		b = strconv.AppendFloat(b, x, 'g', -1, 64)
		return append(b, '"')
	}
	return strconv.AppendFloat(b, x, 'g', -1, 64)
}

// appendJSON appends a text as a JSON string. Bytes that are not UTF-8 stay:
// the flat document is checked for them.
func appendJSON(b, s []byte) []byte {
	const digits = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i, c := range s {
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:i]...)
		if c < 0x20 {
			b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		} else {
			b = append(b, '\\', c)
		}
		from = i + 1
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}
