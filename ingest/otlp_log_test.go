package ingest

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"catena/schemas"
)

// logYAML shows the flat document of a log record whole.
const logYAML = `name: flatlog
match: {otlp: log, eventName: {not: unknown.event}}
id: ["{traceId}", "{spanId}", "{time ?? observedTime}"]
time: "{time ?? observedTime|nanos}"
action: "{eventName}"
tenant: "{severity ?? 'no severity'}"
trace_id: "{traceId}"
span_id: "{spanId}"
attributes: {time: "{time}", observed: "{observedTime}", body: "{body}", tool: "{body.tool}", attributes: "{attributes}", resource: "{resource}", scope: "{scope}"}
`

// testLogs has a record of each way to name an event, each kind of body and
// each way to say severity.
func testLogs() *logspb.LogsData {
	id := func(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }
	object := &commonpb.AnyValue{Value: &commonpb.AnyValue_KvlistValue{KvlistValue: &commonpb.KeyValueList{Values: []*commonpb.KeyValue{attribute("tool", str("read_file"))}}}}
	return &logspb.LogsData{ResourceLogs: []*logspb.ResourceLogs{{
		Resource: &resourcepb.Resource{Attributes: []*commonpb.KeyValue{attribute("k8s.pod.uid", str("00000000-fixture"))}},
		ScopeLogs: []*logspb.ScopeLogs{{
			Scope: &commonpb.InstrumentationScope{Name: "lib"},
			LogRecords: []*logspb.LogRecord{
				{TraceId: id(16, 0xab), SpanId: id(8, 0xcd), TimeUnixNano: 1795452232281000001, ObservedTimeUnixNano: 1795452232281000002, SeverityNumber: logspb.SeverityNumber_SEVERITY_NUMBER_WARN2, EventName: "tool.call", Body: str("say \"hi\""), Attributes: []*commonpb.KeyValue{attribute("n", str("1"))}},
				{ObservedTimeUnixNano: 7, SeverityText: "notice", SeverityNumber: logspb.SeverityNumber_SEVERITY_NUMBER_INFO, Body: object, Attributes: []*commonpb.KeyValue{attribute("other", str("x")), attribute("event.name", str("old.name"))}},
				{TimeUnixNano: 9, EventName: "unknown.event", Body: str("x")},
				{TimeUnixNano: 8, SeverityNumber: 99},
			},
		}},
	}}}
}

const testLogsJSON = `{"resourceLogs":[{"scopeLogs":[{"logRecords":[
	{"eventName":"tool.call","traceId":"ABABABABABABABABABABABABABABABAB","spanId":"cdcdcdcdcdcdcdcd","timeUnixNano":1795452232281000001,"observedTimeUnixNano":"1795452232281000002","severityNumber":"SEVERITY_NUMBER_WARN2","body":{"stringValue":"say \u0022hi\""},"attributes":[{"key":"n","value":{"stringValue":"1"}}]},
	{"observedTimeUnixNano":"7","severityText":"notice","severityNumber":9,"body":{"kvlistValue":{"values":[{"key":"tool","value":{"stringValue":"read_file"}}]}},"attributes":[{"key":"other","value":{"stringValue":"x"}},{"value":{"stringValue":"old.name"},"key":"event.name"}],"eventName":""},
	{"timeUnixNano":"9","eventName":"unknown.event","body":{"stringValue":"x"}},
	{"timeUnixNano":"8","severityNumber":99}],
	"scope":{"name":"lib"}}],"resource":{"attributes":[{"key":"k8s.pod.uid","value":{"stringValue":"00000000-fixture"}}]}}]}`

// TestOTLPLogs: JSON and protobuf of the same log records give the same events,
// and what no source knows is counted.
func TestOTLPLogs(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, logYAML)
	wire, err := proto.Marshal(testLogs())
	if err != nil {
		t.Fatal(err)
	}
	fromWire, fromJSON := decode(d, string(wire)), decode(d, testLogsJSON)
	for _, out := range []*Decoded{fromWire, fromJSON} {
		if len(out.Events) != 3 || len(out.Dead) != 0 || !reflect.DeepEqual(out.Skips, []Skip{{Name: "plain_log", Count: 1}}) {
			t.Fatalf("want three events and a skip:\n%s", textOfDecoded(out))
		}
	}
	sameJSON(t, fromWire, fromJSON)
	ev := fromWire.Events
	want := []schemas.Attribute{
		{Name: "time", Value: "1795452232281000001"}, {Name: "observed", Value: "1795452232281000002"}, {Name: "body", Value: `say "hi"`},
		{Name: "attributes", Value: `{"n":"1"}`}, {Name: "resource", Value: `{"k8s.pod.uid":"00000000-fixture"}`}, {Name: "scope", Value: `{"name":"lib"}`},
	}
	if e := ev[0]; e.Action != "tool.call" || e.Tenant != "WARN" || e.TraceID != strings.Repeat("ab", 16) || e.SpanID != strings.Repeat("cd", 8) || e.TimeNanos != 1795452232281000001 || !reflect.DeepEqual(e.Attributes, want) {
		t.Errorf("got %+v", e)
	}
	if e := ev[1]; e.Action != "old.name" || e.Tenant != "notice" || e.TimeNanos != 7 || e.Attributes[1] != (schemas.Attribute{Name: "body", Value: `{"tool":"read_file"}`}) || e.Attributes[2].Value != "read_file" {
		t.Errorf("got %+v", e)
	}
	if e := ev[2]; e.Action != "" || e.Tenant != "no severity" || e.Evidence.RecordIndex != 3 {
		t.Errorf("got %+v", e)
	}
}

// TestOTLPMixed: an object that holds several signals is read for all of them.
func TestOTLPMixed(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, logYAML, flatYAML)
	mixed := strings.TrimSuffix(testLogsJSON, "}") + `,"resourceMetrics":[],` + strings.TrimPrefix(testTracesJSON, "{")
	out := decode(d, mixed)
	if len(out.Events) != 6 || len(out.Dead) != 0 || !reflect.DeepEqual(out.Skips, []Skip{{Name: "plain_log", Count: 1}, {Name: "otlp_metrics", Count: 1}}) {
		t.Errorf("want three spans and three logs:\n%s", textOfDecoded(out))
	}
}

// TestOTLPRepeatedResource: each span repeats its resource. A small record of a
// large resource and many spans is cut off before it fills the memory.
func TestOTLPRepeatedResource(t *testing.T) {
	d := testDecoder(t, DecoderOptions{MaxRecordBytes: 100_000}, flatYAML)
	span := `{"traceId":"0123456789abcdef0123456789abcdef","spanId":"%016x","startTimeUnixNano":"1"}`
	var spans []string
	for i := range 500 {
		spans = append(spans, fmt.Sprintf(span, i+1))
	}
	record := `{"resourceSpans":[{"resource":{"attributes":[{"key":"a","value":{"stringValue":"` + strings.Repeat("x", 20_000) + `"}}]},"scopeSpans":[{"spans":[` + strings.Join(spans, ",") + `]}]}]}`
	out := decode(d, record)
	if len(out.Dead) != 1 || out.Dead[0].Reason != schemas.DeadTooLarge || len(out.Events) < 30 || len(out.Events) > 40 {
		t.Errorf("%d events, %d dead letters: %.500s", len(out.Events), len(out.Dead), textOfDecoded(&Decoded{Dead: out.Dead}))
	}
}

// TestOTLPWithinABody: a log record's body that is OTLP itself, with another
// resource, changes nothing of the records behind it.
func TestOTLPWithinABody(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, logYAML)
	resource := `"resource":{"attributes":[{"key":"host.name","value":{"stringValue":"%s"}}]}`
	log := `{"timeUnixNano":"%d","eventName":"%s","body":{"stringValue":%q}}`
	inner := fmt.Sprintf(`{"resourceLogs":[{`+resource+`,"scopeLogs":[{"logRecords":[`+log+`]}]}]}`, "inner", 8, "inner.event", "x")
	out := decode(d, fmt.Sprintf(`{"resourceLogs":[{`+resource+`,"scopeLogs":[{"scope":{"name":"lib"},"logRecords":[`+log+`,`+log+`]}]}]}`, "outer", 7, "unknown.event", inner, 9, "outer.event", "y"))
	var got []string
	for _, ev := range out.Events {
		for _, a := range ev.Attributes {
			if a.Name == "resource" {
				got = append(got, ev.Action+" "+a.Value)
			}
		}
	}
	if want := []string{`inner.event {"host.name":"inner"}`, `outer.event {"host.name":"outer"}`}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q\n%s", got, textOfDecoded(out))
	}
}
