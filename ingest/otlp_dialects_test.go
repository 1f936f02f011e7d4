package ingest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"catena/schemas"
	"catena/schemas/sources"
)

// TestSpanDialects: one OTLP record holds the spans of many libraries. Each goes
// to the source of its own dialect, whatever stood before it, and what none
// of them knows to otel.genai, where it is a link in the chain and no row.
func TestSpanDialects(t *testing.T) {
	dialects := []struct{ attribute, name, source string }{
		{"gen_ai.operation.name", "chat", "otel.genai"},
		{"openinference.span.kind", "TOOL", "openinference"},
		{"traceloop.span.kind", "tool", "openllmetry"},
		{"langfuse.observation.type", "tool", "langfuse"},
		{"session.id", "claude_code.tool", "claude_code"},
		{"http.request.method", "GET", "otel.genai"},
	}
	set, err := sources.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDecoder(set, DecoderOptions{HMACKey: testKey})
	if err != nil {
		t.Fatal(err)
	}
	// Every order of two neighbours: a decoder tries the source of the span before first.
	for shift := range dialects {
		for _, backwards := range []bool{false, true} {
			order := slices.Concat(dialects[shift:], dialects[:shift])
			if backwards {
				slices.Reverse(order)
			}
			var spans []string
			for i, x := range order {
				spans = append(spans, fmt.Sprintf(`{"traceId":"0a1f00000000000000000000000000aa","spanId":"0b1f0000000000%02x","parentSpanId":"0b1f0000000000f0","name":%q,"kind":1,"startTimeUnixNano":"1772442000000000000","endTimeUnixNano":"1772442001000000000","attributes":[{"key":%q,"value":{"stringValue":%q}}]}`,
					i+1, x.name, x.attribute, x.name))
			}
			value := `{"resourceSpans":[{"scopeSpans":[{"spans":[` + strings.Join(spans, ",") + `]}]}]}`
			var out Decoded
			d.Decode(&out, &schemas.Record{Topic: "spans", Value: []byte(value)})
			if len(out.Events) != len(order) {
				t.Fatalf("%d events of %d spans: %+v", len(out.Events), len(order), out.Dead)
			}
			for i, x := range order {
				ev := &out.Events[i]
				if ev.Source != x.source || (ev.BindOnly == "plain_span") != (x.attribute == "http.request.method") {
					t.Errorf("shift %d, %v: a span with %s comes out of %s (%q)", shift, backwards, x.attribute, ev.Source, ev.BindOnly)
				}
				parent := schemas.Key{Kind: schemas.KindCall, Namespace: "span", Value: "0a1f00000000000000000000000000aa/0b1f0000000000f0"}
				if !slices.ContainsFunc(ev.Makes, func(b schemas.Binding) bool { return b.Parent == parent && b.Strength == schemas.StrengthExact }) {
					t.Errorf("%s: the span is not bound to its parent, so that the chain would break there", x.source)
				}
			}
		}
	}
}
