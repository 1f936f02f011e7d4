package ingest

import (
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"catena/ingest/registry"
	"catena/schemas"
	"catena/schemas/sources"
)

// TopicFormat fixes what the records of a topic are. What is empty is found out
// from the content of each record.
type TopicFormat struct {
	Source   string // name of a source, whose match is then not asked
	Envelope string // otlp_proto, otlp_json, logs or audit
	Scope    string // within which ids that are no more than locally unique are compared; the topic's name if empty
}

// DecoderOptions bounds a decoder. The zero value of a field takes its default;
// HMACKey has none.
type DecoderOptions struct {
	Topics         map[string]TopicFormat
	MaxRecordBytes int    // of a record, default 8 MiB; eight times as much after gunzipping
	MaxDepth       int    // of objects and arrays in each other, default 64, at most 512
	MaxItems       int    // of one record, default 100,000; also elements behind [*] of one item
	MaxDeadBytes   int    // that a dead letter keeps of its record, default 64 KiB
	HMACKey        []byte // keys the HMAC that replaces secrets
	// Registry decodes what is in the wire format of a schema registry; nil for none.
	Registry *registry.Registry
	// Reference is about the time of records that were not stamped by Kafka, such
	// as those of files: where a time tells no year, it lies before.
	Reference time.Time
}

// maxInflation is how many times the limit of a record its unpacked content
// may have.
const maxInflation = 8

func (o DecoderOptions) withDefaults() DecoderOptions {
	o.MaxRecordBytes = cmp.Or(o.MaxRecordBytes, 8<<20)
	o.MaxDepth = cmp.Or(o.MaxDepth, 64)
	o.MaxItems = cmp.Or(o.MaxItems, 100_000)
	o.MaxDeadBytes = cmp.Or(o.MaxDeadBytes, 64<<10)
	return o
}

// Decoder turns records into events. It is not safe for concurrent use: each
// goroutine has its own, see [Decoder.Clone].
type Decoder struct {
	*shared
	eval  evaluator // holds the walker
	facts facts
	match []uint64 // which sources' matches hold
	gzip  *gzip.Reader
	shapes
	skeletons []*skeletons // by the number of the program; nil until it is used
	cleanTexts

	topic string // of the last record
	state *topicState
	all   map[string]*topicState

	// of the current record
	record   *schemas.Record
	out      *Decoded
	evidence schemas.Evidence
	index    int             // of the next item
	written  int             // bytes that were made of it, see spend
	unpacked int64           // bytes of all that was packed in it
	repaired bool            // the document at hand had bytes that are not UTF-8
	known    known           // from outside of the document at hand
	headers  bool            // some of it from the record's headers
	base     int             // where the text at hand begins in the record; negative in text that was unwrapped
	hint     handed          // what a list hands down to its items
	id       schemas.IDParts // scratch
	more     []byte          // scratch of a message, see [message]
	otlp     otlpWriter

	spare      *otlpJSON // readers that nobody uses now
	spareProto *otlpProto
	trace      *tracer // of Recognise; usually nil
	clauses    *clauseProgram
}

// shared is what all clones of a decoder have in common; it never changes.
type shared struct {
	opts      DecoderOptions
	programs  []*program // in the order of recognition
	recognise *program
	redactor  *Redactor
	readers   readers
}

// topicState is what a decoder remembers of a topic.
type topicState struct {
	fixed   *program // nil: by content
	known   known    // of every record
	general bool     // logs of all kinds
	vouched bool     // what stands in messages is what it seems to be, see relay
	otlp    bool     // protobuf is OTLP and needs no second look
	unclear signal   // what OTLP is whose records do not tell
	guess   *program // what the record before was, which is tried first
}

// NewDecoder compiles a set of sources. The error tells every fault.
func NewDecoder(set *sources.Set, opts DecoderOptions) (*Decoder, error) {
	opts = opts.withDefaults()
	faults := opts.check(set)
	sh := &shared{opts: opts, redactor: NewRedactor(opts.HMACKey), readers: newReaders()}
	shapes := envelopes()
	for _, src := range set.Sources() {
		p, err := compile(src, set.Sources(), shapes)
		p.number = len(sh.programs)
		sh.programs, faults = append(sh.programs, p), append(faults, err)
	}
	var err error
	sh.recognise, err = compile(nil, set.Sources(), shapes)
	sh.recognise.number = len(sh.programs)
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	return sh.decoder(), nil
}

func (o *DecoderOptions) check(set *sources.Set) (faults []error) {
	if len(o.HMACKey) == 0 {
		faults = append(faults, errors.New("decoder: HMACKey is empty: secrets cannot be replaced without a key"))
	}
	if o.MaxDepth < 1 || o.MaxDepth > maxNesting {
		faults = append(faults, fmt.Errorf("decoder: MaxDepth %d is not within 1 to %d", o.MaxDepth, maxNesting))
	}
	if o.MaxRecordBytes < 1 || o.MaxItems < 1 || o.MaxDeadBytes < 1 {
		faults = append(faults, errors.New("decoder: a limit is negative"))
	}
	for topic, f := range o.Topics {
		if _, ok := set.Get(f.Source); f.Source != "" && !ok {
			faults = append(faults, fmt.Errorf("decoder: topic %s: there is no source %q", topic, f.Source))
		}
		if names := []string{"", envelopeOTLPProto, envelopeOTLPJSON, envelopeLogs, envelopeAudit}; !slices.Contains(names, f.Envelope) {
			faults = append(faults, fmt.Errorf("decoder: topic %s: envelope %q is none of %s", topic, f.Envelope, strings.Join(names[1:], ", ")))
		}
	}
	slices.SortFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return faults
}

func (sh *shared) decoder() *Decoder {
	d := &Decoder{shared: sh, all: map[string]*topicState{}, skeletons: make([]*skeletons, len(sh.programs)+1)}
	d.eval.walker = &walker{limit: sh.opts.MaxItems, taken: &d.otlp.outline}
	d.eval.maxDepth = sh.opts.MaxDepth
	d.eval.secrets, d.eval.element = sh.redactor, -1
	d.cleanTexts.textHash = newTextHash()
	d.facts.answers.textHash = newTextHash()
	return d
}

// Clone returns a decoder for another goroutine. They share what was compiled.
func (d *Decoder) Clone() *Decoder { return d.shared.decoder() }

// Redactor returns the redactor that the decoder uses.
func (d *Decoder) Redactor() *Redactor { return d.redactor }

// Decode appends to out what a record holds. Every record ends as at least one
// event, dead letter or skip. The value is not changed, and the events alias
// it, see [Decoded].
func (d *Decoder) Decode(out *Decoded, rec *schemas.Record) {
	d.decode(out, rec, sha256.Sum256(rec.Value))
	if d.index > 1 {
		out.ItemCounts = append(out.ItemCounts, schemas.ItemCount{Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset, Items: int32(d.index)})
	}
}

// decode is Decode without the hash of the value.
func (d *Decoder) decode(out *Decoded, rec *schemas.Record, sum [sha256.Size]byte) {
	d.begin(out, rec.Topic)
	at := &d.evidence
	at.Topic, at.Partition, at.Offset, at.TimestampNanos, at.RawSHA256, at.RecordIndex = rec.Topic, rec.Partition, rec.Offset, rec.TimestampNanos, sum, 0
	d.record, d.eval.timestampNanos = rec, rec.TimestampNanos
	s := text(rec.Value)
	if len(s) > d.opts.MaxRecordBytes {
		d.dead(schemas.DeadTooLarge, s, "the record has %d bytes, the limit is %d: raise the limit, or make the producer split it", len(s), d.opts.MaxRecordBytes)
		return
	}
	if len(rec.Headers) > 0 {
		d.learnHeaders(rec.Headers)
	}
	if !d.framed(rec) {
		d.content(s, 0)
	}
}

// begin starts a record.
func (d *Decoder) begin(out *Decoded, topic string) {
	d.out, d.eval.arena = out, &out.arena
	d.index, d.written, d.unpacked, d.base, d.hint = 0, 0, 0, 0, handed{}
	if d.state == nil || d.topic != topic || d.headers {
		d.topic, d.state, d.headers = topic, d.all[topic], false
		if d.state == nil {
			d.state = d.newTopic(topic)
			d.all[topic] = d.state
		}
		d.known = d.state.known // whoever adds to it takes it back
	}
	d.hint.general = d.state.general
}

func (d *Decoder) newTopic(topic string) *topicState {
	f := d.opts.Topics[topic]
	st := &topicState{guess: d.recognise, general: f.Envelope == envelopeLogs, vouched: f.Source != "" || f.Envelope == envelopeAudit}
	st.known.set("topic", topic)
	st.known.set("scope", cmp.Or(f.Scope, topic))
	byName := f.Source == "" && f.Envelope == ""
	for _, p := range d.programs {
		if p.source.Name == f.Source {
			st.fixed, st.guess = p, p
		}
	}
	switch { // the names are the defaults of the OpenTelemetry Collector's kafkaexporter
	case f.Envelope == envelopeOTLPProto, byName && topic == "otlp_spans":
		st.otlp = true
	case byName && topic == "otlp_logs":
		st.unclear = signalLogs // text, too: what the exporter calls raw
	case byName && topic == "otlp_metrics":
		st.unclear = signalMetrics
	}
	return st
}

// full reports whether the record has as many items as it may; the first time
// it says so in a dead letter that holds the rest.
func (d *Decoder) full(rest string) bool {
	if d.written > d.opts.MaxRecordBytes*maxInflation {
		return true // spend has said so
	}
	if d.index < d.opts.MaxItems {
		return false
	}
	if d.index == d.opts.MaxItems {
		d.dead(schemas.DeadTooManyItems, rest, "the record has more than %d items: raise the limit, or make the producer send smaller batches", d.opts.MaxItems)
	}
	return true
}

// spend counts what is made of a record, by unpacking it or by repeating parts
// of it; false, with a dead letter, if that becomes too much.
func (d *Decoder) spend(n int, raw string) bool {
	limit := d.opts.MaxRecordBytes * maxInflation
	if d.written > limit {
		return false
	}
	if d.written += n; d.written <= limit {
		return true
	}
	d.dead(schemas.DeadTooLarge, raw, "the record has more than %d bytes unpacked, and the rest of it is left out%s: raise the limit, or make the producer split it", limit, d.item())
	return false
}

// place says where the byte at an offset of the current text lies.
func (d *Decoder) place(at int) string {
	if d.base < 0 {
		return fmt.Sprintf("at byte %d of the unwrapped text", at)
	}
	return fmt.Sprintf("at byte %d", d.base+at)
}

// dead appends a dead letter for an item, or a whole record.
func (d *Decoder) dead(reason schemas.DeadReason, raw, format string, args ...any) {
	ev := d.evidence
	ev.RecordIndex = int32(d.index)
	d.index++
	// Cut generously first, so that no secret is cut through before it is found.
	b := d.redactor.RedactBytes([]byte(raw[:min(len(raw), d.opts.MaxDeadBytes+4096)]))
	b = b[:min(len(b), d.opts.MaxDeadBytes)]
	d.out.Dead = append(d.out.Dead, schemas.DeadLetter{Evidence: ev, Reason: reason, Error: d.redactor.Redact(fmt.Sprintf(format, args...)), Bytes: b})
}

// deadFault is dead for what the walker found.
func (d *Decoder) deadFault(raw string) {
	f := d.eval.fault
	d.dead(f.reason, raw, "%s, %s%s: %s", f.what, d.place(f.at), d.item(), advice(f.reason))
}

// item says which item of a record it is, if the record has several.
func (d *Decoder) item() string {
	if d.index == 0 {
		return ""
	}
	return fmt.Sprintf(" (item %d of the record)", d.index)
}

func advice(r schemas.DeadReason) string {
	switch r {
	case schemas.DeadTooDeep:
		return "raise the limit if such records are real"
	case schemas.DeadTooManyItems:
		return "raise the limit, or make the producer send smaller batches"
	}
	return "look at what writes to this topic, then redrive"
}

// settle finds out what the value is over which the program p has just walked,
// and decodes it. The walker is left anywhere.
func (d *Decoder) settle(p *program, start, end, level int) {
	w := d.eval.walker
	doc := w.s[start:end]
	if doc[0] == '[' {
		d.items(start, level+1)
		return
	}
	if doc[0] != '{' {
		d.dead(schemas.DeadUnknownFormat, doc, "the item is no JSON object, %s%s: fix the topic's format, or what writes to it", d.place(start), d.item())
		return
	}
	d.inherit(p)
	d.facts.learn(p, &d.eval)
	if d.envelope(p, doc, level) {
		return
	}
	d.source(p, start, doc)
}

// source decodes a document that is no envelope, and over which the program p
// has just walked, as a record of the source that knows it.
func (d *Decoder) source(p *program, start int, doc string) {
	if d.eval.high&highBits != 0 && !utf8.ValidString(doc) {
		d.dead(schemas.DeadInvalidUTF8, doc, "the bytes are not UTF-8, %s%s: make the producer write UTF-8, then redrive", d.place(start+invalidAt(doc)), d.item())
		return
	}
	v := d.variant(p)
	winner := v.winner
	if d.state.fixed != nil {
		winner = d.state.fixed
	}
	if d.trace != nil {
		d.trace.found(d, winner, doc)
	}
	if winner == nil {
		d.unknown(p, doc)
		return
	}
	if winner != p {
		d.state.guess = winner
		if d.walkBy(winner, start) < 0 {
			d.deadFault(doc)
			return
		}
		d.inherit(winner)
		d.facts.learn(winner, &d.eval)
		v = d.variant(winner)
	}
	d.event(d.planOf(v, winner), doc)
}

// winner is the program of the first source whose match holds; nil if there is
// none. It does not depend on which program walked.
func (d *Decoder) winner(p *program) *program {
	d.match = p.matches.hold(&d.facts, d.match)
	for word, m := range d.match {
		if m != 0 {
			return d.programs[word*64+bits.TrailingZeros64(m)]
		}
	}
	return nil
}

func invalidAt(s string) int {
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(s)
}

// unknown is the end of an object that no source knows.
func (d *Decoder) unknown(p *program, doc string) {
	if d.hint.general || d.facts.holdsOne(p.general) {
		if d.trace != nil {
			d.trace.drop()
		}
		d.skip(skipPlainLog)
		return
	}
	names := topLevel(doc)
	for i := range names {
		names[i] = d.redactor.Redact(names[i])
	}
	d.dead(schemas.DeadUnknownFormat, doc, "no source recognises the object%s; its members are %s: fix the topic's format, or add a source for it", d.item(), strings.Join(names, ", "))
}

// offsetIn is where a part of a text begins in it.
func offsetIn(s, part string) int {
	return int(uintptr(unsafe.Pointer(unsafe.StringData(part))) - uintptr(unsafe.Pointer(unsafe.StringData(s))))
}
