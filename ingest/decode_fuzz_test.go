package ingest

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"catena/schemas"
)

// addGoldens seeds a fuzz target with the records of all sources.
func addGoldens(f *testing.F, d *Decoder) {
	for _, p := range d.programs {
		for _, file := range testdata(f, p.source.Name) {
			for _, v := range recordsOf(f, file) {
				f.Add(v)
			}
		}
	}
}

// check decodes a value by a decoder that has seen nothing before, and by one
// that has seen other things and, several times, the value itself, and looks at
// what must hold for any value.
func check(t *testing.T, a, b *Decoder, topic string, value []byte) {
	before := bytes.Clone(value)
	rec := schemas.Record{Topic: topic, Partition: 3, Offset: 4, Value: value, TimestampNanos: 5}
	var x, y, warm Decoded
	a.Decode(&x, &rec)
	b.Decode(&warm, &schemas.Record{Topic: topic, Value: []byte(cloudtrailRecord)})
	for range 3 {
		y.Reset()
		b.Decode(&y, &rec)
	}
	if !bytes.Equal(before, value) {
		t.Fatal("the value was changed")
	}
	if len(x.Events)+len(x.Dead)+len(x.Skips) == 0 {
		t.Fatal("the record vanished")
	}
	if gx, gy := textOfDecoded(&x), textOfDecoded(&y); !bytes.Equal(gx, gy) {
		t.Fatalf("what was decoded depends on what was before:\n%s", lineDiff(string(gx), string(gy)))
	}
	if !reflect.DeepEqual(cloneAll(x.Events), cloneAll(y.Events)) || !reflect.DeepEqual(x.Dead, y.Dead) {
		t.Fatal("what was decoded depends on what was before")
	}
	size := 0
	for _, dead := range x.Dead {
		size += len(dead.Bytes)
		if dead.Error == "" || dead.Evidence.Topic != topic {
			t.Fatalf("dead letter %+v", dead)
		}
	}
	for i := range x.Events {
		ev := &x.Events[i]
		if ev.ID.IsZero() || ev.TimeNanos == 0 || ev.Source == "" || ev.Evidence.Offset != 4 || ev.Evidence.RawSHA256 == [32]byte{} {
			t.Fatalf("event %+v", ev)
		}
		for _, k := range ev.Keys {
			if k.IsZero() || schemas.Placeholder(k.Value) {
				t.Fatalf("key %q", k)
			}
		}
		for _, m := range ev.Makes {
			if m.Child.IsZero() || m.Parent.IsZero() || m.Child == m.Parent {
				t.Fatalf("binding %+v", m)
			}
		}
		size += len(ev.Action) + len(ev.Resource) + len(ev.UserAgent)
	}
	if limit := 64*len(value) + 1<<16; size > limit {
		t.Fatalf("%d bytes came out of %d", size, len(value))
	}
}

func cloneAll(events []schemas.Event) (out []schemas.Event) {
	for i := range events {
		out = append(out, events[i].Clone())
	}
	return out
}

func FuzzDecode(f *testing.F) {
	d := newDecoder(f, DecoderOptions{MaxRecordBytes: 1 << 20})
	addGoldens(f, d)
	item := `{"otlp":"span","traceId":"0123456789abcdef0123456789abcdef","spanId":"0123456789abcdef","start":"1700000000000000000"}`
	for _, s := range []string{
		"", " ", "{", "[", "[]", "{}", "null", `""`, "[1,{},[]]", cloudtrailRecord, testTracesJSON, testLogsJSON, item, item + "\n" + item, "[" + item + ",{]", `{"Records":[` + item + `,{"a":"`,
		`{"Records":[{"eventSource":"aws:sqs","body":"{\"detail-type\":\"x\",\"source\":\"y\",\"detail\":` + strings.ReplaceAll(item, `"`, `\"`) + `}"}]}`,
		`{"kind":"EventList","items":[{"auditID":"a","stage":"Panic","requestURI":"/","requestReceivedTimestamp":"2026-11-23T16:25:12.534Z"}]}`,
		`{"otlp":"span","otlp":"span","\u006ftlp":"x"}`, `{"a":"\ud800","b":"\udc00\ud800"}`, strings.Repeat("[", 1000), strings.Repeat(`{"Records":[`, 10), zip(item), zip(zip(item)),
		"\n{\n}\n{\n", "{\"a\":1}\n{\"b\"\n{\"c\":3}", "\x1f\x8b", "\n\x10",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) { check(t, d.Clone(), d.Clone(), "topic", value) })
}

func FuzzOTLPProto(f *testing.F) {
	d := testDecoder(f, DecoderOptions{}, flatYAML, logYAML)
	for _, m := range []proto.Message{testTraces(), testLogs()} {
		wire, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Add([]byte("\n\x04\x12\x02\x12\x00"))
	f.Fuzz(func(t *testing.T, value []byte) {
		check(t, d.Clone(), d.Clone(), "otlp_spans", value)
		check(t, d.Clone(), d.Clone(), "otlp_logs", value)
		// Where the generated types see spans with plausible ids, so do we.
		var data tracepb.TracesData
		if proto.Unmarshal(value, &data) != nil || len(value) == 0 || bytes.IndexByte(value, '\n') != 0 {
			return
		}
		spans := 0
		for _, rs := range data.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					if len(s.TraceId) != 16 || len(s.SpanId) != 8 {
						return
					}
					spans++
				}
			}
		}
		out := Decoded{}
		d.Clone().Decode(&out, &schemas.Record{Topic: "otlp_spans", Value: value})
		if n := len(out.Events) + len(out.Dead); spans > 0 && sniff(value) == signalSpans && n != spans {
			t.Fatalf("%d spans gave %d events and dead letters:\n%s", spans, n, textOfDecoded(&out))
		}
		for i := range out.Events {
			if out.Events[i].Evidence.RecordIndex >= int32(spans) {
				t.Fatal(fmt.Sprint("index ", out.Events[i].Evidence.RecordIndex))
			}
		}
	})
}
