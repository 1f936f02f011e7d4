package ingest

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"catena/schemas"
)

// flatYAML shows a flat document whole.
const flatYAML = `name: flat
match: {otlp: span}
id: ["{traceId}", "{spanId}"]
time: "{start|nanos}"
ended: "{end|nanos}"
tenant: "{otlp} {name ?? ''} {kind} {status} {statusMessage ?? ''}"
trace_id: "{traceId}"
span_id: "{spanId}"
attributes: {parent: "{parentSpanId}", attributes: "{attributes}", resource: "{resource}", scope: "{scope}", links: "{links}", i: "{attributes.i}"}
`

func attribute(key string, v *commonpb.AnyValue) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: v}
}

func str(s string) *commonpb.AnyValue {
	return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: s}}
}

// testTraces has every kind of value.
func testTraces() *tracepb.TracesData {
	id := func(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }
	integer := &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: math.MinInt64}}
	double := func(x float64) *commonpb.AnyValue {
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_DoubleValue{DoubleValue: x}}
	}
	list := &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: &commonpb.ArrayValue{Values: []*commonpb.AnyValue{str("a"), integer, {}}}}}
	kv := &commonpb.AnyValue{Value: &commonpb.AnyValue_KvlistValue{KvlistValue: &commonpb.KeyValueList{Values: []*commonpb.KeyValue{attribute("in", list)}}}}
	return &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource: &resourcepb.Resource{Attributes: []*commonpb.KeyValue{attribute("service.name", str("s\"\\\n\x01é😀"))}},
		ScopeSpans: []*tracepb.ScopeSpans{{
			Scope: &commonpb.InstrumentationScope{Name: "lib", Version: "1"},
			Spans: []*tracepb.Span{{
				TraceId: id(16, 0xab), SpanId: id(8, 0xcd), ParentSpanId: id(8, 0xef), Name: "execute_tool x", Kind: tracepb.Span_SPAN_KIND_CLIENT,
				StartTimeUnixNano: 1795452232281000001, EndTimeUnixNano: 1795452232281235054,
				Attributes: []*commonpb.KeyValue{
					attribute("s", str("text")), attribute("i", integer), attribute("d", double(1.5)), attribute("whole", double(3)), attribute("big", double(1e300)), attribute("nan", double(math.NaN())),
					attribute("b", &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: true}}), attribute("bytes", &commonpb.AnyValue{Value: &commonpb.AnyValue_BytesValue{BytesValue: []byte{0, 255}}}),
					attribute("list", list), attribute("kv", kv), attribute("none", &commonpb.AnyValue{}),
				},
				Links:  []*tracepb.Span_Link{{TraceId: id(16, 1), SpanId: id(8, 2)}, {TraceId: id(16, 3), SpanId: id(8, 4)}},
				Status: &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: "went wrong"},
			}, {TraceId: id(16, 0xab), SpanId: id(8, 0xce), StartTimeUnixNano: 1}},
		}},
	}, {ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{{TraceId: id(16, 9), SpanId: id(8, 9), StartTimeUnixNano: 5}}}}}}}
}

// testTracesJSON is testTraces as OTLP JSON, with the liberties that exporters
// take: numbers for strings, names for numbers, ids in upper case, members in
// another order.
const testTracesJSON = `{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"ABABABABABABABABABABABABABABABAB","spanId":"cdcdcdcdcdcdcdcd","parentSpanId":"efefefefefefefef",
	"name":"execute_tool x","kind":"SPAN_KIND_CLIENT","startTimeUnixNano":1795452232281000001,"endTimeUnixNano":"1795452232281235054","attributes":[
	{"key":"s","value":{"stringValue":"t\u0065xt"}},{"key":"i","value":{"intValue":"-9223372036854775808"}},{"value":{"doubleValue":1.50},"key":"d"},{"key":"whole","value":{"doubleValue":3.0}},{"key":"big","value":{"doubleValue":1E300}},{"key":"nan","value":{"doubleValue":"NaN"}},
	{"key":"b","value":{"boolValue":true}},{"key":"bytes","value":{"bytesValue":"AP8="}},{"key":"list","value":{"arrayValue":{"values":[{"stringValue":"a"},{"intValue":-9223372036854775808},{}]}}},
	{"key":"kv","value":{"kvlistValue":{"values":[{"key":"in","value":{"arrayValue":{"values":[{"stringValue":"a"},{"intValue":"-9223372036854775808"},{}]}}}]}}},{"key":"none","value":{}}],
	"links":[{"traceId":"01010101010101010101010101010101","spanId":"0202020202020202"},{"traceId":"03030303030303030303030303030303","spanId":"0404040404040404"}],
	"status":{"code":2,"message":"went wrong"}},{"traceId":"abababababababababababababababab","spanId":"cececececececece","kind":0,"startTimeUnixNano":"1","status":{}}],
	"scope":{"name":"lib","version":"1"}}],"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"s\"\\\n\u0001é\ud83d\ude00"}}]}},
	{"scopeSpans":[{"spans":[{"traceId":"09090909090909090909090909090909","spanId":"0909090909090909","startTimeUnixNano":5}]}]}]}`

// TestOTLP: JSON and protobuf of the same spans give the same events.
func TestOTLP(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, flatYAML)
	wire, err := proto.Marshal(testTraces())
	if err != nil {
		t.Fatal(err)
	}
	fromWire, fromJSON := decode(d, string(wire)), decode(d, testTracesJSON)
	for _, out := range []*Decoded{fromWire, fromJSON} {
		if len(out.Events) != 3 || len(out.Dead) != 0 {
			t.Fatalf("want three events:\n%s", textOfDecoded(out))
		}
	}
	ev := &fromWire.Events[0]
	if ev.TraceID != strings.Repeat("ab", 16) || ev.SpanID != strings.Repeat("cd", 8) || ev.TimeNanos != 1795452232281000001 || ev.EndedNanos != 1795452232281235054 ||
		ev.Tenant != "span execute_tool x client error went wrong" || fromWire.Events[1].Tenant != "span  unspecified unset " || fromWire.Events[2].Evidence.RecordIndex != 2 {
		t.Errorf("got %+v", ev)
	}
	want := []schemas.Attribute{
		{Name: "parent", Value: "efefefefefefefef"},
		{Name: "attributes", Value: `{"s":"text","i":-9223372036854775808,"d":1.5,"whole":3,"big":1e+300,"nan":"NaN","b":true,"bytes":"AP8=","list":["a",-9223372036854775808,null],"kv":{"in":["a",-9223372036854775808,null]},"none":null}`},
		{Name: "resource", Value: `{"service.name":"s\"\\\u000a\u0001é😀"}`},
		{Name: "scope", Value: `{"name":"lib","version":"1"}`},
		{Name: "links", Value: `[{"traceId":"01010101010101010101010101010101","spanId":"0202020202020202"},{"traceId":"03030303030303030303030303030303","spanId":"0404040404040404"}]`},
		{Name: "i", Value: "-9223372036854775808"},
	}
	if !reflect.DeepEqual(ev.Attributes, want) {
		t.Errorf("got %q", ev.Attributes)
	}
	sameJSON(t, fromWire, fromJSON)
}

// sameJSON compares events; attributes that are JSON text are the same if they
// mean the same, since escapes may differ.
func sameJSON(t *testing.T, a, b *Decoded) {
	t.Helper()
	if len(a.Events) != len(b.Events) {
		t.Fatalf("%d and %d events", len(a.Events), len(b.Events))
	}
	for i := range a.Events {
		x, y := a.Events[i].Clone(), b.Events[i].Clone()
		for _, ev := range []*schemas.Event{&x, &y} {
			ev.Evidence = schemas.Evidence{}
			for j := range ev.Makes {
				ev.Makes[j].Evidence = schemas.Evidence{}
			}
			for j := range ev.Attributes {
				var v any
				if at := &ev.Attributes[j]; json.Unmarshal([]byte(at.Value), &v) == nil {
					text, _ := json.Marshal(v)
					at.Value = string(text)
				}
			}
		}
		if !reflect.DeepEqual(x, y) {
			t.Errorf("event %d:\n%+v\n%+v", i, x, y)
		}
	}
}

func TestOTLPSniff(t *testing.T) {
	d := testDecoder(t, DecoderOptions{Topics: map[string]TopicFormat{"proto": {Envelope: "otlp_proto"}, "json": {Envelope: "otlp_json"}}}, flatYAML)
	marshal := func(m proto.Message) string {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	traces := marshal(testTraces())
	logs := marshal(&logspb.LogsData{ResourceLogs: []*logspb.ResourceLogs{{ScopeLogs: []*logspb.ScopeLogs{{LogRecords: []*logspb.LogRecord{{TimeUnixNano: 5, Body: str("x")}}}}}}})
	silent := marshal(&logspb.LogsData{ResourceLogs: []*logspb.ResourceLogs{{ScopeLogs: []*logspb.ScopeLogs{{LogRecords: []*logspb.LogRecord{{Body: str("x")}}}}}}})
	metrics := marshal(&metricspb.MetricsData{ResourceMetrics: []*metricspb.ResourceMetrics{{ScopeMetrics: []*metricspb.ScopeMetrics{{Metrics: []*metricspb.Metric{{Name: "m"}}}}}}})
	none := marshal(&tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{}}})
	for _, c := range []struct {
		name, topic, value string
		events             int
		skip               string
		dead               schemas.DeadReason
	}{
		{"traces", "any", traces, 3, "", 0}, {"traces", "otlp_spans", traces, 3, "", 0}, {"traces", "proto", traces, 3, "", 0}, {"JSON all the same", "proto", testTracesJSON, 3, "", 0}, {"JSON", "json", testTracesJSON, 3, "", 0}, {"JSON", "otlp_spans", testTracesJSON, 3, "", 0},
		{"logs", "any", logs, 0, "plain_log", 0}, {"logs", "otlp_logs", logs, 0, "plain_log", 0}, {"logs without time", "otlp_logs", silent, 0, "plain_log", 0}, {"no logs", "otlp_logs", "\n\x00", 0, "empty_batch", 0}, {"metrics", "any", metrics, 0, "otlp_metrics", 0}, {"metrics", "otlp_metrics", metrics, 0, "otlp_metrics", 0},
		{"logs without time", "any", silent, 0, "", schemas.DeadUnknownFormat}, {"no spans", "any", none, 0, "", schemas.DeadUnknownFormat},
		{"truncated", "any", traces[:len(traces)-5], 0, "", schemas.DeadUnknownFormat}, {"truncated", "otlp_spans", traces[:len(traces)-5], 0, "", schemas.DeadMalformed}, {"text", "otlp_logs", "\x0ahello", 0, "", schemas.DeadUnknownFormat},
	} {
		var out Decoded
		d.Decode(&out, &schemas.Record{Topic: c.topic, Value: []byte(c.value)})
		ok := len(out.Events) == c.events
		switch {
		case c.skip != "":
			ok = ok && len(out.Dead) == 0 && len(out.Skips) == 1 && out.Skips[0].Name == c.skip
		case c.events == 0:
			ok = ok && len(out.Dead) == 1 && out.Dead[0].Reason == c.dead
		}
		if !ok {
			t.Errorf("%s in %s:\n%s", c.name, c.topic, textOfDecoded(&out))
		}
	}
	// A span that is bad takes only itself.
	bad := testTraces()
	bad.ResourceSpans[0].ScopeSpans[0].Spans[0].Attributes[0].Key = "i"
	out := decode(d, marshal(bad))
	if len(out.Events) != 2 || len(out.Dead) != 1 || !strings.Contains(out.Dead[0].Error, "a member twice") {
		t.Errorf("two attributes of one name:\n%s", textOfDecoded(out))
	}
	bad.ResourceSpans[0].ScopeSpans[0].Spans[0] = &tracepb.Span{TraceId: bytes.Repeat([]byte{1}, 16), SpanId: bytes.Repeat([]byte{1}, 8), StartTimeUnixNano: 1}
	wire := strings.Replace(marshal(bad), "lib", "l\xffb", 1)
	if out := decode(d, wire); len(out.Events) != 1 || len(out.Dead) != 2 || out.Dead[0].Reason != schemas.DeadInvalidUTF8 {
		t.Errorf("a scope that is not UTF-8:\n%s", textOfDecoded(out))
	}
	if out := decode(d, strings.Replace(testTracesJSON, `"name":"execute_tool x"`, `"name":"a","name":"b"`, 1)); len(out.Events) != 2 || len(out.Dead) != 1 {
		t.Errorf("two names:\n%s", textOfDecoded(out))
	}
}

// samples is the folder of real records, or skips the test.
func samples(t testing.TB) string {
	dir := os.Getenv("CATENA_SAMPLES")
	if dir == "" {
		t.Skip("CATENA_SAMPLES is not set: it names a folder of records that real systems wrote")
	}
	return dir
}

func lines(t testing.TB, path ...string) (values [][]byte) {
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 64<<20)
	for sc.Scan() {
		values = append(values, bytes.Clone(sc.Bytes()))
	}
	return values
}

// TestRealOTLP: the records of real exporters, in both encodings, give the same.
func TestRealOTLP(t *testing.T) {
	dir := samples(t)
	d := newDecoder(t, DecoderOptions{})
	var fromJSON, fromWire Decoded
	for _, l := range lines(t, dir, "real-software", "mcp-2026-07-28", "traces.otlp.jsonl") {
		d.Decode(&fromJSON, &schemas.Record{Topic: "a", Value: l})
	}
	for _, l := range lines(t, dir, "real-software", "mcp-2026-07-28", "traces.otlp.pb.b64.jsonl") {
		value, err := base64.StdEncoding.DecodeString(strings.Trim(string(l), `"`))
		if err != nil {
			t.Fatal(err)
		}
		d.Decode(&fromWire, &schemas.Record{Topic: "b", Value: value})
	}
	if len(fromJSON.Events) == 0 || len(fromJSON.Dead)+len(fromWire.Dead) > 0 {
		t.Fatalf("%s%s", textOfDecoded(&fromJSON), textOfDecoded(&fromWire))
	}
	sameJSON(t, &fromJSON, &fromWire)

	byTopic := map[string]*Decoded{}
	for _, l := range lines(t, dir, "real-software", "otel-kafka", "records.jsonl") {
		var rec struct {
			Topic string `json:"topic"`
			Value []byte `json:"value_b64"`
		}
		if err := json.Unmarshal(l, &rec); err != nil {
			t.Fatal(err)
		}
		if byTopic[rec.Topic] == nil {
			byTopic[rec.Topic] = &Decoded{}
		}
		d.Decode(byTopic[rec.Topic], &schemas.Record{Topic: rec.Topic, Value: rec.Value})
	}
	for _, topic := range []string{"otlp_spans", "otlp_spans_json", "otlp_spans_bytrace"} {
		if out := byTopic[topic]; out == nil || len(out.Events) == 0 || len(out.Dead) > 0 {
			t.Errorf("%s: %s", topic, textOfDecoded(out))
		}
	}
	byID := func(out *Decoded) map[schemas.ID]schemas.Event {
		m := map[schemas.ID]schemas.Event{}
		for i := range out.Events {
			ev := out.Events[i].Clone()
			ev.Evidence = schemas.Evidence{}
			for j := range ev.Makes {
				ev.Makes[j].Evidence = schemas.Evidence{}
			}
			m[ev.ID] = ev
		}
		return m
	}
	if got, want := byID(byTopic["otlp_spans_json"]), byID(byTopic["otlp_spans"]); !reflect.DeepEqual(got, want) {
		t.Errorf("otlp_spans_json gives other events than otlp_spans: %d and %d", len(got), len(want))
	}
}

// TestRealRecords: every record that a real system wrote and that we have a
// source for comes out as exactly one event.
func TestRealRecords(t *testing.T) {
	dir := samples(t)
	d := newDecoder(t, DecoderOptions{})
	files, err := filepath.Glob(filepath.Join(dir, "cloudtrail-stratus", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no CloudTrail samples: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var items []json.RawMessage
		if err := json.Unmarshal(data, &items); err != nil {
			t.Fatal(err)
		}
		all(t, d, file, data, "aws.cloudtrail", len(items))
		for _, item := range items {
			all(t, d, file, item, "aws.cloudtrail", 1)
		}
	}
	for _, l := range lines(t, dir, "real-software", "kubernetes", "audit.jsonl") {
		all(t, d, "audit.jsonl", l, "kubernetes.audit", 1)
	}
	for _, l := range lines(t, dir, "real-software", "kubernetes", "webhook-bodies.jsonl") {
		var list struct{ Items []json.RawMessage }
		if err := json.Unmarshal(l, &list); err != nil {
			t.Fatal(err)
		}
		all(t, d, "webhook-bodies.jsonl", l, "kubernetes.audit", len(list.Items))
	}
	for _, file := range []string{"decisions-plain.jsonl", "decisions-tracing.jsonl"} {
		for _, l := range lines(t, dir, "real-software", "opa", file) {
			all(t, d, file, l, "opa.decision", 1)
		}
	}
	for i, l := range lines(t, dir, "real-software", "opa", "server-log-mixed.jsonl") {
		var out Decoded
		d.Decode(&out, &schemas.Record{Topic: "opa", Value: l})
		if len(out.Events)+len(out.Dead) != 1 || len(out.Dead) == 1 && i > 0 {
			t.Errorf("line %d of the server's log: %s", i, textOfDecoded(&out))
		}
	}
	for _, l := range lines(t, dir, "mixed-plaso", "aws_cloudtrail.jsonl") {
		all(t, d, "aws_cloudtrail.jsonl", l, "aws.cloudtrail", 1)
	}
}

func all(t *testing.T, d *Decoder, file string, value []byte, source string, n int) {
	t.Helper()
	var out Decoded
	d.Decode(&out, &schemas.Record{Topic: file, Value: value})
	if len(out.Events) != n || len(out.Dead) != 0 {
		t.Errorf("%s: want %d events, got %d and\n%s", filepath.Base(file), n, len(out.Events), textOfDecoded(&Decoded{Dead: out.Dead}))
	}
	for i := range out.Events {
		if out.Events[i].Source != source || out.Events[i].Evidence.RecordIndex != int32(i) {
			t.Errorf("%s: event %d is of %s and has index %d", filepath.Base(file), i, out.Events[i].Source, out.Events[i].Evidence.RecordIndex)
		}
	}
}
