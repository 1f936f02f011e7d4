package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"catena/schemas"
)

// realSoftware reads the lines of a file of real records that software wrote.
func realSoftware(t *testing.T, elem ...string) (lines [][]byte) {
	t.Helper()
	samples := os.Getenv("CATENA_SAMPLES")
	if samples == "" {
		t.Skip("CATENA_SAMPLES is not set: no real records to read")
	}
	f, err := os.Open(filepath.Join(append([]string{samples, "real-software"}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		lines = append(lines, bytes.Clone(s.Bytes()))
	}
	if err := s.Err(); err != nil || len(lines) == 0 {
		t.Fatalf("%d lines: %v", len(lines), err)
	}
	return lines
}

// TestRealMCP: two clients of the sessionless revision, both of whose first call
// has the id 0. Each call leads to its own caller by its trace context, in the
// messages as in the spans, and by nothing else.
func TestRealMCP(t *testing.T) {
	var spans []schemas.Record
	for _, file := range []string{"traces.otlp.jsonl", "traces.otlp.pb.b64.jsonl"} {
		var records []schemas.Record
		for _, line := range realSoftware(t, "mcp-2026-07-28", file) {
			records = append(records, schemas.Record{Topic: "traces", Offset: int64(len(records)), Value: spanValue(t, line)})
		}
		rows, _ := stitchAll(t, records, 3)
		if text := peopleOf(rows); text != mcpSpans {
			t.Errorf("%s:\n%s\nwant:\n%s", file, text, mcpSpans)
		}
		spans = records
	}

	messages := mcpMessages(t, "")
	rows, _ := stitchAll(t, slices.Concat(messages, spans), 4)
	calls := map[string]int{}
	for _, a := range rows {
		if a.Source != "mcp.jsonrpc" || a.Class != schemas.ClassToolCall {
			continue
		}
		if said := strings.Replace(a.Root.Value, "@", "%40", 1); said == "" || !bytes.Contains(messages[a.Evidence.Offset].Value, []byte(said)) {
			t.Errorf("a call of somebody else: %s", rowText(a))
		}
		if !slices.Contains(a.Attributes, schemas.Attribute{Name: "jsonrpc_id", Value: "0"}) {
			t.Errorf("want a first call, whose id is 0, have %v", a.Attributes)
		}
		if a.Grade != schemas.GradeStated || a.CauseGrade != schemas.CauseExact || a.Hops[len(a.Hops)-1].Key.Namespace != "span" {
			t.Errorf("want a call that its caller's span causes, have %s", rowText(a))
		}
		calls[a.Root.Value]++
	}
	if want := map[string]int{"alice@example.org": 1, "bob@example.org": 1}; !maps.Equal(calls, want) {
		t.Errorf("calls of %v, want %v", calls, want)
	}

	// Without the trace context and what the client says of itself there is nothing but the id, and that joins nothing.
	rows, _ = stitchAll(t, slices.Concat(mcpMessages(t, "_meta"), spans), 4)
	ids := 0
	for _, a := range rows {
		if a.Source != "mcp.jsonrpc" {
			continue
		}
		if ids++; a.Grade != schemas.GradeUnattributed || len(a.Keys) > 0 {
			t.Errorf("a bare id joins: %s", rowText(a))
		}
	}
	if ids != 4 {
		t.Errorf("%d requests, want 4", ids)
	}
}

const mcpSpans = `execute_tool open_ticket: alice@example.org stated
execute_tool open_ticket: bob@example.org stated
invoke_agent agent-support-01: alice@example.org stated
invoke_agent agent-support-01: bob@example.org stated
tools/call open_ticket: alice@example.org stated
tools/call open_ticket: alice@example.org stated
tools/call open_ticket: bob@example.org stated
tools/call open_ticket: bob@example.org stated
`

// peopleOf lists what was done and who is behind it.
func peopleOf(rows map[schemas.ID]*schemas.Action) string {
	var lines []string
	for _, a := range rows {
		lines = append(lines, fmt.Sprintf("%s: %s %v\n", a.Action, a.Root.Value, a.Grade))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// spanValue is the record on a line of either file: JSON, or protobuf in base64.
func spanValue(t *testing.T, line []byte) []byte {
	t.Helper()
	if line[0] == '{' {
		return line
	}
	value, err := base64.StdEncoding.DecodeString(string(bytes.Trim(line, `"`)))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// mcpMessages are the captured messages in the form that the source reads. The
// capture has replies as text; here they are objects. It has no times: that of
// the record counts. A member of params can be left out.
func mcpMessages(t *testing.T, without string) (records []schemas.Record) {
	t.Helper()
	for i, line := range realSoftware(t, "mcp-2026-07-28", "jsonrpc.jsonl") {
		var message map[string]any
		if err := json.Unmarshal(line, &message); err != nil {
			t.Fatal(err)
		}
		if text, ok := message["text"].(string); ok {
			delete(message, "text")
			message["body"] = json.RawMessage(text)
		} else if params, ok := message["body"].(map[string]any)["params"].(map[string]any); ok {
			delete(params, without)
		}
		value, err := json.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, schemas.Record{Topic: "mcp", Offset: int64(i), Value: value, TimestampNanos: 1795452232*int64(time.Second) + int64(i)*int64(time.Millisecond)})
	}
	return records
}

// TestRealOTLP: what the OpenTelemetry Collector wrote to Kafka, as JSON, as
// protobuf and keyed by trace, gives the same rows, each tool call is its
// person's, and what MCP servers did was caused by the agent's call.
func TestRealOTLP(t *testing.T) {
	topics := map[string][]schemas.Record{}
	for _, line := range realSoftware(t, "otel-kafka", "records.jsonl") {
		var r struct {
			Topic     string `json:"topic"`
			Partition int32  `json:"partition"`
			Offset    int64  `json:"offset"`
			Value     []byte `json:"value_b64"`
			Millis    int64  `json:"timestamp_ms"`
		}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		topics[r.Topic] = append(topics[r.Topic], schemas.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Value: r.Value, TimestampNanos: r.Millis * int64(time.Millisecond)})
	}
	for _, topic := range []string{"otlp_spans", "otlp_spans_json", "otlp_spans_bytrace", "otlp_logs", "otlp_logs_json"} {
		if len(topics[topic]) == 0 {
			t.Errorf("no records of %s", topic)
		}
	}

	want, _ := stitchAll(t, topics["otlp_spans_json"], 50)
	for _, topic := range []string{"otlp_spans", "otlp_spans_bytrace"} {
		if got, _ := stitchAll(t, topics[topic], 7); peopleOf(got) != peopleOf(want) {
			t.Errorf("%s gives other rows than otlp_spans_json: %s", topic, firstDifference(peopleOf(want), peopleOf(got)))
		}
	}
	calls := map[string]int{}
	for _, a := range want {
		if a.Grade != schemas.GradeStated || a.Root.Namespace != "email" {
			t.Errorf("want somebody's own, have %s", rowText(a))
		}
		if a.ProtocolSpan() && a.CauseGrade != schemas.CauseExact {
			t.Errorf("want a call of MCP that a tool call caused, have %s", rowText(a))
		}
		if a.Class == schemas.ClassToolCall {
			calls[a.Root.Value]++
		}
	}
	t.Logf("%d rows; tool calls of %v", len(want), calls)
	if len(calls) < 2 {
		t.Errorf("tool calls of %v: want those of several people", calls)
	}

	// Logs of the same programs, which no source knows: counted, and no dead letters.
	for _, topic := range []string{"otlp_logs", "otlp_logs_json"} {
		if rows, _ := stitchAll(t, topics[topic], 5); len(rows) != 0 {
			t.Errorf("%s: %d rows of logs that say nothing of who", topic, len(rows))
		}
	}
}
