package ingest

import (
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"unicode/utf8"
	"unsafe"

	"catena/schemas"
	"catena/schemas/sources"
)

// TopicFormat fixes what the records of a topic are. What is empty is found out
// from the content of each record.
type TopicFormat struct {
	Source   string // name of a source, whose match is then not asked
	Envelope string // otlp_proto, otlp_json or logs
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
	on    []bool // which rules hold
	gzip  *gzip.Reader
	cleanTexts

	topic string // of the last record
	state *topicState
	all   map[string]*topicState

	// of the current record
	out      *Decoded
	evidence schemas.Evidence
	index    int      // of the next item
	written  int      // bytes that were made of it, see spend
	unpacked int64    // bytes of all that was packed in it
	repaired bool     // the document at hand had bytes that are not UTF-8
	known    known    // from outside of the document at hand
	headers  bool     // some of it from the record's headers
	base     int      // where the text at hand begins in the record; negative in text that was unwrapped
	hint     handed   // what a list hands down to its items
	id       []string // scratch
	otlp     otlpWriter
	trace    *tracer // of Recognise; usually nil
	clauses  *clauseProgram
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
		sh.programs, faults = append(sh.programs, p), append(faults, err)
	}
	var err error
	sh.recognise, err = compile(nil, set.Sources(), shapes)
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
		if f.Envelope != "" && f.Envelope != envelopeOTLPProto && f.Envelope != envelopeOTLPJSON && f.Envelope != envelopeLogs {
			faults = append(faults, fmt.Errorf("decoder: topic %s: envelope %q is neither %s nor %s nor %s", topic, f.Envelope, envelopeOTLPProto, envelopeOTLPJSON, envelopeLogs))
		}
	}
	slices.SortFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return faults
}

func (sh *shared) decoder() *Decoder {
	d := &Decoder{shared: sh, all: map[string]*topicState{}}
	d.eval.walker = &walker{limit: sh.opts.MaxItems}
	d.eval.maxDepth = sh.opts.MaxDepth
	d.eval.secrets, d.eval.element = sh.redactor, -1
	d.cleanTexts.seed = maphash.MakeSeed()
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
}

// decode is Decode without the hash of the value.
func (d *Decoder) decode(out *Decoded, rec *schemas.Record, sum [sha256.Size]byte) {
	d.begin(out, rec.Topic)
	d.evidence = schemas.Evidence{Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset, TimestampNanos: rec.TimestampNanos, RawSHA256: sum}
	s := text(rec.Value)
	if len(s) > d.opts.MaxRecordBytes {
		d.dead(schemas.DeadTooLarge, s, "the record has %d bytes, the limit is %d: raise the limit, or make the producer split it", len(s), d.opts.MaxRecordBytes)
		return
	}
	if len(rec.Headers) > 0 {
		d.learnHeaders(rec.Headers)
	}
	d.content(s, 0)
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
	st := &topicState{guess: d.recognise, general: f.Envelope == envelopeLogs}
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
	if !utf8.ValidString(doc) {
		d.dead(schemas.DeadInvalidUTF8, doc, "the bytes are not UTF-8, %s%s: make the producer write UTF-8, then redrive", d.place(start+invalidAt(doc)), d.item())
		return
	}
	winner := d.winner(p)
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
	}
	d.event(winner, doc)
}

// winner is the program of the first source whose match holds; nil if there is
// none. It does not depend on which program walked.
func (d *Decoder) winner(p *program) *program {
	if d.state.fixed != nil {
		return d.state.fixed
	}
	for i := range p.matches {
		if d.facts.holds(&p.matches[i]) {
			return d.programs[i]
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

// event makes the event of the document that the program has walked over.
func (d *Decoder) event(p *program, doc string) {
	d.applyRules(p)
	nanos, ok := d.timeOf(p.time)
	if !ok {
		d.missingTime(p, doc)
		return
	}
	id, ok := d.makeID(p)
	if !ok {
		d.missingID(p, doc)
		return
	}
	d.out.Events = append(d.out.Events, schemas.Event{})
	ev := &d.out.Events[len(d.out.Events)-1]
	ev.ID, ev.Source, ev.TimeNanos, ev.Evidence = id, p.source.Name, nanos, d.evidence
	ev.Evidence.RecordIndex = int32(d.index)
	d.index++
	classified := d.scalars(p, ev)
	d.addKeys(p, ev)
	d.addMakes(p, ev)
	d.addEnds(p, ev)
	d.addAttributes(p, ev)
	switch {
	case ev.BindOnly != "":
		d.out.skip(ev.BindOnly, ev.Source)
	case !classified:
		d.out.Unclassified = append(d.out.Unclassified, len(d.out.Events)-1)
	}
}

func (d *Decoder) applyRules(p *program) {
	if len(d.on) < len(p.rules) {
		d.on = make([]bool, len(p.rules))
	}
	for i, x := range p.ruleFirst {
		d.on[i] = d.facts.may(x) && d.facts.holds(&p.rules[i])
	}
}

// applies reports whether what a rule says counts.
func (d *Decoder) applies(rule int32) bool { return rule == common || d.on[rule] }

func (d *Decoder) makeID(p *program) (id schemas.ID, ok bool) {
	d.id = append(d.id[:0], "event", p.source.Name)
	for i := range p.id {
		s, found := d.eval.text(&p.id[i])
		d.id = append(d.id, s)
		ok = ok || found
	}
	return schemas.MakeID(d.id...), ok
}

func (d *Decoder) missingID(p *program, doc string) {
	var parts []string
	for _, t := range p.source.ID {
		parts = append(parts, t.Text)
	}
	d.dead(schemas.DeadMissingField, doc, "%s: every part of the id is missing (%s)%s: nothing would tell the event from others; correct id in source.yaml, or the producer",
		p.source.Name, strings.Join(parts, ", "), d.item())
}

func (d *Decoder) timeOf(list []timeOption) (int64, bool) {
	for i := range list {
		if o := &list[i]; d.applies(o.rule) {
			if t, ok := d.eval.time(&o.expr); ok {
				return t, true
			}
		}
	}
	return 0, false
}

func (d *Decoder) missingTime(p *program, doc string) {
	path, what := "time", "is missing"
	for i := range p.time {
		o := &p.time[i]
		if !d.applies(o.rule) {
			continue
		}
		path = o.expr.path
		if s, ok := d.eval.text(&o.expr.expr); ok {
			what = fmt.Sprintf("is no time that can be read: %q", s[:min(len(s), 64)])
			break
		}
	}
	d.dead(schemas.DeadMissingField, doc, "%s: the event time, %s, %s%s: correct time in source.yaml, or the producer", p.source.Name, path, what, d.item())
}

// textOf evaluates a plain text field.
func (d *Decoder) textOf(list []option) string {
	for i := range list {
		o := &list[i]
		if !d.applies(o.rule) {
			continue
		}
		if len(o.expr.parts) == 0 {
			return o.expr.literal
		}
		if s, ok := d.eval.text(&o.expr); ok {
			return d.clean(s)
		}
	}
	return ""
}

// clean replaces secrets in a text.
func (d *Decoder) clean(s string) string {
	if d.isClean(s) {
		return s
	}
	return d.redactor.Redact(s)
}

// isClean reports whether there is no secret in a text.
func (d *Decoder) isClean(s string) bool {
	if len(s) < 6 { // pwd=xy
		return true
	}
	known, hash := d.cleanTexts.has(s)
	if known {
		return true
	}
	if a, _ := findSecret(s, 0); a >= 0 {
		return false
	}
	d.cleanTexts.add(s, hash)
	return true
}

// wordOf evaluates a field that gives one of some words.
func wordOf[T any](d *Decoder, list []option, parse func(string) (T, bool)) (v T) {
	for i := range list {
		o := &list[i]
		if !d.applies(o.rule) {
			continue
		}
		if s, ok := d.eval.text(&o.expr); ok {
			if v, ok := parse(s); ok {
				return v
			}
		}
	}
	return v
}

func (d *Decoder) scalars(p *program, ev *schemas.Event) (classified bool) {
	for _, c := range p.class {
		if d.applies(c.rule) {
			ev.Class, classified = c.class, true
			break
		}
	}
	for _, r := range p.resolution {
		if d.applies(r.rule) {
			ev.ResolutionNanos = r.nanos
			break
		}
	}
	for _, f := range p.flags {
		if d.applies(f.rule) {
			ev.Flags |= f.flags
		}
	}
	for _, rule := range p.selfTold {
		ev.SelfReported = ev.SelfReported || d.applies(rule)
	}
	ev.EndedNanos, _ = d.timeOf(p.ended)
	ev.Action = d.textOf(p.texts[textAction])
	ev.Resource = d.textOf(p.texts[textResource])
	ev.Tenant = d.textOf(p.texts[textTenant])
	ev.Authority = d.textOf(p.texts[textAuthority])
	ev.Scopes = d.textOf(p.texts[textScopes])
	ev.AuthMethod = d.textOf(p.texts[textAuthMethod])
	ev.SourceIP = d.textOf(p.texts[textSourceIP])
	ev.UserAgent = d.textOf(p.texts[textUserAgent])
	ev.TraceID = d.textOf(p.texts[textTraceID])
	ev.SpanID = d.textOf(p.texts[textSpanID])
	ev.BindOnly = d.textOf(p.texts[textBindOnly])
	ev.Outcome = wordOf(d, p.texts[textOutcome], schemas.ParseOutcome)
	ev.MFA = wordOf(d, p.texts[textMFA], schemas.ParseMFA)
	ev.Decision.Verdict = wordOf(d, p.texts[textVerdict], schemas.ParseVerdict)
	ev.Decision.ID = d.textOf(p.texts[textDecisionID])
	ev.Decision.Policy = d.textOf(p.texts[textPolicy])
	for i := range p.actor {
		a := &p.actor[i]
		if !d.applies(a.rule) {
			continue
		}
		if ev.Actor = d.key(&a.key); !ev.Actor.IsZero() {
			ev.ActorName = d.optional(a.name)
			break
		}
	}
	return classified
}

// optional evaluates a template that may not be there, or give nothing.
func (d *Decoder) optional(x *expr) string {
	if x == nil {
		return ""
	}
	s, ok := d.eval.text(x)
	if !ok {
		return ""
	}
	return d.clean(s)
}

// key evaluates a key template. A value that is itself a secret becomes its
// keyed HMAC, the same as the transform hmac gives.
func (d *Decoder) key(x *keyExpr) schemas.Key {
	k := d.eval.key(x)
	if d.repaired && strings.ContainsRune(k.Value, utf8.RuneError) {
		return schemas.Key{}
	}
	if !d.isClean(k.Value) {
		k.Value = d.eval.keep(d.redactor.hash(k.Value))
		d.out.SecretKeys++
	}
	return k
}

// elements is how often an entry is evaluated: once, or for each element of
// the array that its [*] run through.
func (d *Decoder) elements(star int32) int32 {
	if star < 0 {
		return 1
	}
	return d.eval.counts[star]
}

// at sets which element [*] stands for.
func (d *Decoder) atElement(star, i int32) {
	if star >= 0 {
		d.eval.element = i
	}
}

func (d *Decoder) addKeys(p *program, ev *schemas.Event) {
	start := len(d.out.keys)
	for i := range p.keys {
		en := &p.keys[i]
		if !d.applies(en.rule) || !d.facts.holds(&en.when) {
			continue
		}
		for j := range d.elements(en.star) {
			d.atElement(en.star, j)
			d.eval.hidden = false
			k := d.key(&en.key)
			if k.IsZero() {
				ev.Redacted = ev.Redacted || d.eval.hidden
			} else if !slices.Contains(recent(d.out.keys[start:]), k) {
				d.out.keys = append(d.out.keys, k)
			}
		}
		d.eval.element = -1
	}
	if n := len(d.out.keys); n > start {
		ev.Keys = d.out.keys[start:n:n]
	}
}

func (d *Decoder) addMakes(p *program, ev *schemas.Event) {
	start := len(d.out.makes)
	for i := range p.makes {
		en := &p.makes[i]
		if !d.applies(en.rule) || !d.facts.holds(&en.when) {
			continue
		}
		for j := range d.elements(en.star) {
			d.atElement(en.star, j)
			d.addMake(en, ev, start)
		}
		d.eval.element = -1
	}
	if n := len(d.out.makes); n > start {
		ev.Makes = d.out.makes[start:n:n]
	}
}

// recent is as far back as repetitions are looked for: rules repeat what other
// rules say, arrays of thousands of elements need not be compared pair by pair.
func recent[T any](list []T) []T { return list[max(0, len(list)-64):] }

// addMake appends a binding, if both its ends are there and differ: a login's
// mint names one thing as both, and has no parent key.
func (d *Decoder) addMake(en *makeEntry, ev *schemas.Event, start int) {
	child := d.key(&en.child)
	if child.IsZero() {
		return
	}
	parent := d.key(&en.parent)
	if parent.IsZero() || parent == child {
		return
	}
	b := schemas.Binding{
		Child: child, Parent: parent, ChildName: d.optional(en.childName), ParentName: d.optional(en.parentName),
		Relation: en.relation, Strength: en.strength,
		Proof: ev.ID, ProofNanos: ev.TimeNanos, Source: ev.Source, Evidence: ev.Evidence,
	}
	if !en.always {
		if b.FromNanos = ev.TimeNanos; en.from != nil {
			if t, ok := d.eval.time(en.from); ok {
				b.FromNanos = t
			}
		}
	}
	b.UntilNanos = d.optionalTime(en.until)
	b.ExpiresNanos = d.optionalTime(en.expires)
	if b.Relation == schemas.RelationAuthenticated && !child.Kind.Principal() { // two names of one person have no second factor
		b.AuthMethod, b.MFA = ev.AuthMethod, ev.MFA
	}
	if !slices.Contains(recent(d.out.makes[start:]), b) {
		d.out.makes = append(d.out.makes, b)
	}
}

func (d *Decoder) optionalTime(x *timeExpr) int64 {
	if x == nil {
		return 0
	}
	t, _ := d.eval.time(x)
	return t
}

func (d *Decoder) addEnds(p *program, ev *schemas.Event) {
	start := len(d.out.ends)
	for i := range p.ends {
		en := &p.ends[i]
		if !d.applies(en.rule) || !d.facts.holds(&en.when) {
			continue
		}
		for j := range d.elements(en.star) {
			d.atElement(en.star, j)
			k := d.key(&en.key)
			if k.IsZero() {
				continue
			}
			d.out.ends = append(d.out.ends, schemas.End{Key: k, AtNanos: cmp.Or(d.optionalTime(en.at), ev.TimeNanos), Revoked: en.revoked})
		}
		d.eval.element = -1
	}
	if n := len(d.out.ends); n > start {
		ev.Ends = d.out.ends[start:n:n]
	}
}

// addAttributes appends the attributes. Of two of one name the later one, in
// the order of the rules, stays.
func (d *Decoder) addAttributes(p *program, ev *schemas.Event) {
	start := len(d.out.attributes)
	for i := range p.attributes {
		en := &p.attributes[i]
		if !d.applies(en.rule) {
			continue
		}
		s, ok := d.eval.text(&en.expr)
		if !ok {
			continue
		}
		a := schemas.Attribute{Name: en.name, Value: d.clean(s)}
		same := -1
		if en.again {
			same = slices.IndexFunc(d.out.attributes[start:], func(x schemas.Attribute) bool { return x.Name == a.Name })
		}
		if same >= 0 {
			d.out.attributes[start+same] = a
		} else {
			d.out.attributes = append(d.out.attributes, a)
		}
	}
	if n := len(d.out.attributes); n > start {
		ev.Attributes = d.out.attributes[start:n:n]
	}
}

// offsetIn is where a part of a text begins in it.
func offsetIn(s, part string) int {
	return int(uintptr(unsafe.Pointer(unsafe.StringData(part))) - uintptr(unsafe.Pointer(unsafe.StringData(s))))
}
