package ingest

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"catena/schemas"
)

// realRecords says what the records of each file of the samples are: of which
// sources, and what else may come of them, by name. Left out are spans of no
// agent, stages that come again, what servers say of themselves; dead are the
// plain log entries of Google Cloud, the first line of OPA's console, and the
// texts of the collector's raw encoding, which hold nothing but a sentence.
var realRecords = []struct {
	files   string
	sources []string
	others  []string
}{
	{"cloudtrail-stratus/*.json", []string{"aws.cloudtrail"}, nil},
	{"mixed-plaso/aws_cloudtrail.jsonl", []string{"aws.cloudtrail"}, nil},
	{"mixed-plaso/azure_activity_log.jsonl", []string{"azure.activity"}, nil},
	{"mixed-plaso/gcp_logging.jsonl", []string{"gcp.audit"}, []string{"dead unknown_format"}},
	{"mixed-plaso/microsoft_audit_log.jsonl", []string{"microsoft.365"}, nil},
	{"real-software/kubernetes/audit.jsonl", []string{"kubernetes.audit"}, []string{"kubernetes.audit/stage_received"}},
	{"real-software/kubernetes/webhook-bodies.jsonl", []string{"kubernetes.audit"}, []string{"kubernetes.audit/stage_received"}},
	{"real-software/openbao/audit.jsonl", []string{"vault.audit"}, []string{"vault.audit/request_line"}},
	{"real-software/opa/decisions-*.jsonl", []string{"opa.decision"}, nil},
	{"real-software/opa/server-log-mixed.jsonl", []string{"opa.decision"}, []string{"opa.decision/opa_server_log", "dead unknown_format"}},
	{"real-software/spire-1.9.6/*.jsonl", []string{"spire.server"}, []string{"spire.server/spire_log"}},
	{"real-software/ssh/journald.jsonl", []string{"linux.sshd", "linux.sudo"}, []string{"linux.sshd/sshd_log", "linux.sudo/sudo_log", "plain_log"}},
	{"real-software/mcp-2026-07-28/traces.otlp*.jsonl", []string{"otel.genai"}, []string{"otel.genai/plain_span"}},
	{"real-software/mcp-2026-07-28/jsonrpc.jsonl", []string{"mcp.jsonrpc"}, []string{"dead unknown_format"}},
	{"otlp_spans*", []string{"otel.genai"}, []string{"otel.genai/plain_span"}},
	{"otlp_logs*", nil, []string{"plain_log"}},
	{"raw_logs", nil, []string{"dead unknown_format"}},
}

// TestRealRecordsAreKnown decodes every record of the samples where it came
// from. Nothing may come of it but what realRecords says.
func TestRealRecordsAreKnown(t *testing.T) {
	dir := samples(t)
	d := newDecoder(t, DecoderOptions{})
	for _, want := range realRecords {
		got := map[string]int{}
		for _, rec := range realOf(t, dir, want.files) {
			var out Decoded
			d.Decode(&out, &rec)
			for i := range out.Events {
				if ev := &out.Events[i]; ev.BindOnly == "" {
					got[ev.Source]++
				}
			}
			for _, s := range out.Skips {
				got[strings.TrimPrefix(s.Source+"/"+s.Name, "/")] += s.Count
			}
			for _, dead := range out.Dead {
				what := "dead " + dead.Reason.String()
				if got[what]++; !slices.Contains(want.others, what) {
					t.Errorf("%s: %s", want.files, dead.Error)
				}
			}
		}
		for what, n := range got {
			if !slices.Contains(want.sources, what) && !slices.Contains(want.others, what) {
				t.Errorf("%s: %d records give %s", want.files, n, what)
			}
		}
		for _, what := range want.sources {
			if got[what] == 0 {
				t.Errorf("%s: no record is of %s", want.files, what)
			}
		}
		if len(got) == 0 {
			t.Errorf("%s: no records", want.files)
		}
		t.Logf("%s: %v", want.files, got)
	}
}

// realOf reads records of the samples: those of files, each a line or a whole
// file, or those of a topic of the collector.
func realOf(t *testing.T, dir, files string) (records []schemas.Record) {
	if !strings.Contains(files, "/") {
		for _, l := range lines(t, dir, "real-software", "otel-kafka", "records.jsonl") {
			var r struct {
				Topic string `json:"topic"`
				Value []byte `json:"value_b64"`
			}
			if err := json.Unmarshal(l, &r); err != nil {
				t.Fatal(err)
			}
			if ok, _ := filepath.Match(files, r.Topic); ok {
				records = append(records, schemas.Record{Topic: r.Topic, TimestampNanos: 1795500000000000000, Value: r.Value})
			}
		}
		return records
	}
	found, err := filepath.Glob(filepath.Join(dir, files))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range found {
		list := lines(t, file)
		if filepath.Ext(file) == ".json" {
			value, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			list = [][]byte{value}
		}
		for i, value := range list {
			if strings.HasSuffix(file, ".b64.jsonl") {
				if value, err = base64.StdEncoding.DecodeString(strings.Trim(string(value), `"`)); err != nil {
					t.Fatal(err)
				}
			}
			records = append(records, schemas.Record{Topic: filepath.Base(file), Offset: int64(i), TimestampNanos: 1795500000000000000, Value: value})
		}
	}
	return records
}
