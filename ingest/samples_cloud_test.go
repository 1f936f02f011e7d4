package ingest

import (
	"strings"
	"testing"

	"catena/schemas"
)

// TestRealCloudRecords: what exports of the clouds really look like is
// recognised, each record as its own source, and gives one event. Only the
// entries of a project's own log, which are no audit log, are not.
func TestRealCloudRecords(t *testing.T) {
	dir := samples(t)
	d := newDecoder(t, DecoderOptions{})
	for _, c := range []struct {
		file, source string
		others       int // records that are of no source
	}{
		{"aws_cloudtrail.jsonl", "aws.cloudtrail", 0},
		{"azure_activity_log.jsonl", "azure.activity", 0},
		{"gcp_logging.jsonl", "gcp.audit", 2},
		{"microsoft_audit_log.jsonl", "microsoft.365", 0},
	} {
		events, others := 0, 0
		for i, l := range lines(t, dir, "mixed-plaso", c.file) {
			var out Decoded
			d.Decode(&out, &schemas.Record{Topic: c.file, Offset: int64(i), Value: l})
			if len(out.Events)+len(out.Dead) != 1 || len(out.Skips) != 0 {
				t.Errorf("%s, record %d: %d events, %d dead letters, %d skips", c.file, i, len(out.Events), len(out.Dead), len(out.Skips))
			}
			for j := range out.Events {
				ev := &out.Events[j]
				events++
				if ev.Source != c.source || ev.Actor.IsZero() || ev.Action == "" {
					t.Errorf("%s, record %d: source %s, action %q, actor %v", c.file, i, ev.Source, ev.Action, ev.Actor)
				}
				for _, k := range ev.Keys {
					if schemas.Placeholder(k.Value) {
						t.Errorf("%s, record %d: key %v stands for nothing", c.file, i, k)
					}
				}
			}
			for _, dead := range out.Dead {
				others++
				if dead.Reason != schemas.DeadUnknownFormat || strings.Contains(string(l), "protoPayload") {
					t.Errorf("%s, record %d: %v %s", c.file, i, dead.Reason, dead.Error)
				}
			}
		}
		if others != c.others || events == 0 {
			t.Errorf("%s: %d events, %d of no source, want %d", c.file, events, others, c.others)
		}
		t.Logf("%s: %d events", c.file, events)
	}
}
