package main

import (
	"bytes"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"catena/schemas"
)

// TestTraces runs the stories with a collector that keeps what it is sent: the
// spans are those of the path, rightly nested, and say nothing of a record.
func TestTraces(t *testing.T) {
	var mu sync.Mutex
	var got []*spans.Span
	var sent bytes.Buffer
	service := ""
	web := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var req collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &req)
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		sent.Write(body)
		for _, rs := range req.ResourceSpans {
			for _, a := range rs.Resource.Attributes {
				if a.Key == "service.name" {
					service = a.Value.GetStringValue()
				}
			}
			for _, ss := range rs.ScopeSpans {
				got = append(got, ss.Spans...)
			}
		}
	}))
	defer web.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", web.URL)
	k := fakeKafka(t)
	records := storyRecords(t, func(string) bool { return true })
	for i := range records {
		records[i].Offset = 0
	}
	produce(t, k, records)
	p := startInProcess(t, k, "test_traces", strings.Join(demoTopics(), ","))
	awaitOffsets(t, p.store, int64(len(records)), &catena{})
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}

	mu.Lock()
	defer mu.Unlock()
	byID := map[string]*spans.Span{}
	for _, s := range got {
		byID[string(s.SpanId)] = s
	}
	under := map[string]map[string]bool{} // names by the name of the parent
	links := 0
	for _, s := range got {
		parent := ""
		if len(s.ParentSpanId) > 0 {
			if byID[string(s.ParentSpanId)] == nil {
				t.Errorf("%s has a parent that was not sent", s.Name)
				continue
			}
			parent = byID[string(s.ParentSpanId)].Name
		}
		if under[parent] == nil {
			under[parent] = map[string]bool{}
		}
		under[parent][s.Name] = true
		for _, l := range s.Links {
			if s.Name != "write" || byID[string(l.SpanId)] == nil || byID[string(l.SpanId)].Name != "batch" {
				t.Errorf("%s is linked to a span that is no batch", s.Name)
			}
			links++
		}
	}
	for parent, want := range map[string][]string{"": {"batch", "write"}, "batch": {"append", "decode", "poll", "process"}} {
		if names := slices.Sorted(maps.Keys(under[parent])); !slices.Equal(slices.DeleteFunc(names, func(n string) bool { return n == "look_back" }), want) {
			t.Errorf("under %q: %q, want %q", parent, names, want)
		}
	}
	for _, table := range []string{"insert actions", "insert bindings", "insert progress"} {
		if !under["write"][table] {
			t.Errorf("no span %q under write, which has %v", table, under["write"])
		}
	}
	if links == 0 || service != "catena" {
		t.Errorf("%d links, service %q", links, service)
	}
	for _, secret := range []string{"alice", "ASIA", "fixture", "okta:"} {
		if bytes.Contains(sent.Bytes(), []byte(secret)) {
			t.Errorf("the spans hold %q of a record", secret)
		}
	}
}

// TestTracesOff: without a collector nothing is made, and the hooks cost
// neither an allocation nor a span.
func TestTracesOff(t *testing.T) {
	for _, env := range []map[string]string{
		{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
	} {
		if tracesWanted(func(name string) string { return env[name] }) {
			t.Errorf("%v turns traces on", env)
		}
	}
	off, err := openTraces(t.Context(), &config{}, slog.New(slog.DiscardHandler))
	if off != nil || err != nil {
		t.Fatalf("%v %v", off, err)
	}
	records := []schemas.Record{{Topic: "okta"}}
	ctx := t.Context()
	allocs := testing.AllocsPerRun(100, func() {
		ctx, end := off.batch(ctx, off.now(), records)
		off.step(ctx, "decode")(nil)
		ctx, over := off.insert(ctx, nil)
		_ = ctx
		over(nil)
		end(nil)
		off.wrote(nil)
	})
	if allocs != 0 {
		t.Errorf("hooks that are off allocate %v times", allocs)
	}
}
