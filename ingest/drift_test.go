package ingest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"catena/schemas"
	"catena/schemas/sources"
)

// What writes logs changes: members go, types come. These tests take every
// golden record of every source and change it, one member at a time.

// membersOfEnvelopes are the members of envelopes in which the record of a source lies,
// by one that tells the envelope: without one of them there is no such record.
var membersOfEnvelopes = map[string][]string{
	"resourceSpans":   {"resourceSpans", "scopeSpans", "spans", "traceId", "spanId", "attributes", "key", "value", "stringValue", "scope", "name", "resource"},
	"resourceLogs":    {"resourceLogs", "scopeLogs", "logRecords", "attributes", "key", "value", "stringValue", "scope", "name", "resource", "body", "eventName"},
	"items":           {"items", "kind", "apiVersion"},
	"Records":         {"Records", "body", "Message"},
	"records":         {"records"},
	"detail-type":     {"detail", "detail-type", "source"},
	"CloudTrailEvent": {"CloudTrailEvent"},
	"logEvents":       {"logEvents", "messageType", "message"},
	"specversion":     {"data", "data_base64", "specversion", "source", "type", "id"},
	"subscription":    {"message", "data", "subscription"},
	"log_id":          {"data"},
	"syslogtag":       {"syslogtag", "programname", "msg"},
	"journald":        {"journald", "message"},
}

// mustHave are the member names without which a source does not recognise a
// record, and without which an event of it has no time or no id.
func mustHave(src *sources.Source, doc any) (match, timeID map[string]bool) {
	match, timeID = map[string]bool{}, map[string]bool{}
	add := func(set map[string]bool) func(sources.Path) {
		return func(p sources.Path) {
			for _, step := range p {
				set[step.Name] = true
				if step.Op == sources.Select {
					set[step.Value] = true
				}
			}
		}
	}
	src.Match.Paths(add(match))
	src.Common.Time.Paths(add(timeID))
	for i := range src.ID {
		src.ID[i].Paths(add(timeID))
	}
	for i := range src.Rules {
		if t := src.Rules[i].Time; t != nil {
			t.Paths(add(timeID))
		}
	}
	if top, ok := doc.(map[string]any); ok {
		for teller, names := range membersOfEnvelopes {
			if _, ok := top[teller]; !ok {
				continue
			}
			for _, name := range names {
				match[name] = true
			}
		}
	}
	for _, name := range []string{"startTimeUnixNano", "timeUnixNano", "observedTimeUnixNano"} { // start and time of what OTLP becomes
		timeID[name] = true
	}
	return match, timeID
}

// eachJSONGolden calls f with every golden record that is JSON and decodes
// without a dead letter.
func eachJSONGolden(t *testing.T, f func(t *testing.T, d *Decoder, src *sources.Source, doc any)) {
	set, err := sources.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDecoder(set, DecoderOptions{HMACKey: testKey})
	if err != nil {
		t.Fatal(err)
	}
	for _, src := range set.Sources() {
		for _, file := range testdata(t, src.Name) {
			t.Run(src.Name+"/"+filepath.Base(file), func(t *testing.T) {
				for _, value := range recordsOf(t, file) {
					dec := json.NewDecoder(bytes.NewReader(value))
					dec.UseNumber()
					var doc any
					if dec.Decode(&doc) != nil || dec.More() {
						continue
					}
					if out := decodeDoc(t, d, doc); len(out.Dead) == 0 {
						f(t, d, src, doc)
					}
				}
			})
		}
	}
}

func decodeDoc(t *testing.T, d *Decoder, doc any) *Decoded {
	t.Helper()
	value, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	var out Decoded
	d.Decode(&out, &schemas.Record{Topic: "drift", Value: value, TimestampNanos: 1_772_441_700_000_000_000})
	if len(out.Events)+len(out.Dead)+len(out.Skips) == 0 {
		t.Fatalf("the record vanished: %s", value)
	}
	return &out
}

// envelopeNames are the members that hold what is in an envelope: without it
// there is no record.
func envelopeNames() map[string]bool {
	names := map[string]bool{}
	for _, e := range envelopes() {
		for _, step := range pathOf(e.content) {
			names[step.Name] = true
		}
	}
	return names
}

// TestGoldenMissingMember: without any one member less is known of the event, and
// it is an event all the same, unless the member is one by which the record is
// recognised or its time or id.
func TestGoldenMissingMember(t *testing.T) {
	tried, wraps := 0, envelopeNames()
	eachJSONGolden(t, func(t *testing.T, d *Decoder, src *sources.Source, doc any) {
		match, timeID := mustHave(src, doc)
		var walk func(v any, at string)
		walk = func(v any, at string) {
			switch v := v.(type) {
			case map[string]any:
				for _, name := range slices.Sorted(maps.Keys(v)) {
					old, path := v[name], at+"."+name
					delete(v, name)
					tried++
					for _, dead := range decodeDoc(t, d, doc).Dead {
						switch {
						case dead.Reason == schemas.DeadUnknownFormat && (match[name] || wraps[name]):
						case dead.Reason == schemas.DeadMissingField && timeID[name]:
						default:
							t.Errorf("without %s the record is a dead letter: %s: %s", path, dead.Reason, dead.Error)
						}
					}
					v[name] = old
					walk(old, path)
				}
			case []any:
				for i := range v {
					walk(v[i], fmt.Sprintf("%s[%d]", at, i))
				}
			}
		}
		walk(doc, "")
	})
	t.Logf("%d members were removed, one at a time", tried)
}

// TestGoldenUnknownValues: whatever a rule compares with words it knows may hold a
// word that it does not know. The record stays an event.
func TestGoldenUnknownValues(t *testing.T) {
	tried := 0
	eachJSONGolden(t, func(t *testing.T, d *Decoder, src *sources.Source, doc any) {
		match, timeID := mustHave(src, doc)
		asked := map[string]bool{}
		for i := range src.Rules {
			src.Rules[i].When.Paths(func(p sources.Path) { asked[p[len(p)-1].Name] = true })
		}
		var walk func(v any, at string)
		walk = func(v any, at string) {
			switch v := v.(type) {
			case map[string]any:
				for _, name := range slices.Sorted(maps.Keys(v)) {
					old, path := v[name], at+"."+name
					if _, isText := old.(string); isText && asked[name] && !match[name] && !timeID[name] {
						tried++
						for _, other := range []any{"acme.unknown.type", "", nil, true, json.Number("17"), []any{}, map[string]any{}} {
							v[name] = other
							for _, dead := range decodeDoc(t, d, doc).Dead {
								t.Errorf("with %s %v the record is a dead letter: %s: %s", path, other, dead.Reason, dead.Error)
							}
						}
						v[name] = old
					}
					walk(old, path)
				}
			case []any:
				for i := range v {
					walk(v[i], fmt.Sprintf("%s[%d]", at, i))
				}
			}
		}
		walk(doc, "")
	})
	if tried < 100 {
		t.Errorf("only %d values were changed", tried)
	}
}
