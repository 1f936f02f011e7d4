package ingest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"catena/schemas"
	"catena/schemas/sources"
)

// knownYAML shows what envelopes know.
func knownYAML() string {
	y := header + "attributes:\n"
	for _, name := range sources.EnvelopeMembers() {
		if name != "topic" && name != "scope" && name != "position" && name != "timestamp" {
			y += fmt.Sprintf("  %s: '{$envelope.%s}'\n", name, name)
		}
	}
	return y
}

// quote writes a text as a JSON string.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// envelopeShape is a record in an envelope, and what comes of it.
type envelopeShape struct {
	name, value string
	events      int
	envelopes   string
	knows       string // by each event
	skip        string
}

// envelopeShapes has each shape around one or two records.
func envelopeShapes() []envelopeShape {
	const one, two = `{"match":1,"id":"1"}`, `{"match":1,"id":"2"}`
	bridge := `{"version":"0","id":"e-fixture","detail-type":"AWS API Call via CloudTrail","source":"aws.s3","account":"000011112222","time":"2026-11-23T16:00:00Z","region":"eu-central-1","resources":[],"detail":` + one + `}`
	const bridgeKnows = "account=000011112222 region=eu-central-1 source=aws.s3 type=AWS API Call via CloudTrail id=e-fixture time=2026-11-23T16:00:00Z"
	logs := `{"messageType":"DATA_MESSAGE","owner":"000011112222","logGroup":"/aws/eks/acme/cluster","logStream":"kube-apiserver-audit-fixture","subscriptionFilters":["all"],"logEvents":[` +
		`{"id":"1","timestamp":1795452232281,"message":` + quote(one) + `},{"id":"2","timestamp":1795452232282,"message":` + quote(two) + `}]}`
	const logsKnow = "log_group=/aws/eks/acme/cluster log_stream=kube-apiserver-audit-fixture account=000011112222"
	event := func(data string) string {
		return `{"specversion":"1.0","id":"ce-fixture","source":"//acme/audit","type":"com.acme.audit","subject":"door","time":"2026-11-23T16:00:00Z",` + data + `}`
	}
	const eventKnows = "source=//acme/audit type=com.acme.audit id=ce-fixture time=2026-11-23T16:00:00Z resource=door"
	return []envelopeShape{
		{"eventbridge", bridge, 1, "eventbridge", bridgeKnows, ""},
		{"sns in lambda", `{"Records":[{"EventSource":"aws:sns","Sns":{"Type":"Notification","Message":` + quote(one) + `}}]}`, 1, "records sns_lambda", "", ""},
		{"sqs of sns of eventbridge", `{"Records":[{"eventSource":"aws:sqs","body":` + quote(`{"Type":"Notification","TopicArn":"arn:aws:sns:eu-central-1:000011112222:acme","Message":`+quote(bridge)+`}`) + `}]}`, 1, "records sqs sns eventbridge", bridgeKnows, ""},
		{"cloudwatch", logs, 2, "cloudwatch_logs cloudwatch_event", logsKnow, ""}, {"cloudwatch in gzip", zip(logs), 2, "cloudwatch_logs cloudwatch_event", logsKnow, ""},
		{"cloudwatch in lambda", `{"awslogs":{"data":"` + b64(zip(logs)) + `"}}`, 2, "lambda_logs cloudwatch_logs cloudwatch_event", logsKnow, ""},
		{"cloudwatch in kinesis", `{"Records":[{"kinesis":{"data":"` + b64(zip(logs)) + `"},"eventSource":"aws:kinesis"}]}`, 2, "records kinesis cloudwatch_logs cloudwatch_event", logsKnow, ""},
		{"control message", `{"messageType":"CONTROL_MESSAGE","owner":"CloudwatchLogs","logGroup":"","logEvents":[{"id":"","timestamp":1795452232281,"message":"CWL CONTROL MESSAGE: Checking health of destination Firehose."}]}`, 0, "", "", "control_message"},
		{"text in cloudwatch", `{"messageType":"DATA_MESSAGE","owner":"0","logGroup":"g","logStream":"s","logEvents":[{"id":"1","timestamp":1,"message":"[INFO] I0000 starting"},{"id":"2","timestamp":1,"message":""},{"id":"3","timestamp":1,"message":"{\"unknown\":1}"}]}`, 0, "", "", "plain_log"},
		{"azure", `{"records":[` + one + `,` + two + `]}`, 2, "azure_records", "", ""},
		{"aks as text", `{"records":[{"category":"kube-audit-admin","resourceId":"/SUBSCRIPTIONS/ACME","properties":{"log":` + quote(one) + `,"stream":"stdout"}}]}`, 1, "azure_records aks", "resource=/SUBSCRIPTIONS/ACME", ""},
		{"aks as an object", `{"category":"kube-audit","resourceId":"/SUBSCRIPTIONS/ACME","properties":{"log":` + one + `}}`, 1, "aks", "resource=/SUBSCRIPTIONS/ACME", ""},
		{"aks, another log", `{"category":"kube-apiserver","resourceId":"/SUBSCRIPTIONS/ACME","properties":{"log":"I1123 16:00:00.000000 1 trace.go:236] done\n"}}`, 0, "", "", "plain_log"},
		{"page of graph", `{"@odata.context":"https://graph.example.com/v1.0/$metadata#auditLogs","value":[` + one + `,` + two + `]}`, 2, "odata", "", ""},
		{"pubsub", `{"message":{"data":"` + b64(one) + `","messageId":"7","publishTime":"2026-11-23T16:00:00Z"},"subscription":"projects/acme/subscriptions/audit"}`, 1, "pubsub", "id=7 time=2026-11-23T16:00:00Z resource=projects/acme/subscriptions/audit", ""},
		{"pubsub of gzip", `{"message":{"data":"` + b64(zip(one)) + `"},"subscription":"s"}`, 1, "pubsub", "resource=s", ""},
		{"cloudevent", event(`"data":` + one), 1, "cloudevents", eventKnows, ""}, {"cloudevent of an array", event(`"data":[` + one + `,` + two + `]`), 2, "cloudevents", eventKnows, ""},
		{"cloudevent of text", event(`"datacontenttype":"text/json","data":` + quote(one)), 1, "cloudevents", eventKnows, ""}, {"cloudevent of base64", event(`"data_base64":"` + b64(one) + `"`), 1, "cloudevents", eventKnows, ""},
		{"batch of cloudevents", "[" + event(`"data":`+one) + "," + event(`"data":`+two) + "]", 2, "cloudevents", eventKnows, ""},
		{"connect", `{"schema":{"type":"struct","optional":false},"payload":` + one + `}`, 1, "connect", "", ""}, {"connect of text", `{"schema":{"type":"string","optional":false},"payload":` + quote(one) + `}`, 1, "connect", "", ""},
		{"okta hook", `{"eventType":"com.okta.event_hook","eventTypeVersion":"1.0","source":"https://acme.example.com/hooks","data":{"events":[` + one + `,` + two + `]}}`, 2, "okta_hook", "source=https://acme.example.com/hooks", ""},
		{"auth0", `{"log_id":"000fixture","data":` + one + `}`, 1, "auth0_stream", "", ""}, {"auth0 over eventbridge", `{"detail-type":"Auth0 log","source":"aws.partner/auth0.com","detail":{"log_id":"000fixture","data":` + one + `}}`, 1, "eventbridge auth0_stream", "source=aws.partner/auth0.com type=Auth0 log", ""},
		{"workspace", `{"kind":"admin#reports#activities","items":[{"match":1,"id":"1","kind":"admin#reports#activity","events":[{"name":"a"},{"name":"b"}],"etag":"x"}]}`, 2, "workspace_page workspace", "", ""},
		{"workspace, split before", `{"match":1,"id":"1","kind":"admin#reports#activity","events":{"name":"a"}}`, 1, "", "", ""},
		{"workspace without events", `{"match":1,"id":"1","kind":"admin#reports#activity","events":[]}`, 0, "", "", "empty_batch"},
		{"fluent bit", `{"log":` + quote(one+"\n") + `,"stream":"stdout","time":"2026-11-23T16:00:00.1Z","kubernetes":{"pod_name":"api-0","namespace_name":"kube-system","pod_id":"00000000-0000-4000-8000-00000000000a","host":"node-1","container_name":"api","docker_id":"c0ffee"}}`, 1, "fluentbit",
			"node=node-1 namespace=kube-system pod=api-0 pod_uid=00000000-0000-4000-8000-00000000000a container=api container_id=c0ffee time=2026-11-23T16:00:00.1Z", ""},
		{"fluent bit, parsed", `{"log":` + one + `,"kubernetes":{"pod_name":"api-0"}}`, 1, "fluentbit", "pod=api-0", ""},
		{"fluent bit, text", `{"log":"[INFO] listening\n","stream":"stderr","kubernetes":{"pod_name":"api-0"}}`, 0, "", "", "plain_log"},
		{"fluentd", `{"stream":"stdout","logtag":"F","message":` + quote(one) + `,"kubernetes":{"pod_name":"api-0"}}`, 1, "fluentd", "pod=api-0", ""},
		{"docker", `{"log":` + quote(one) + `,"stream":"stdout","time":"2026-11-23T16:00:00.1Z"}`, 1, "fluentbit", "time=2026-11-23T16:00:00.1Z", ""},
		{"vector", `{"message":` + quote(one) + `,"source_type":"kubernetes_logs","timestamp":"2026-11-23T16:00:00Z","kubernetes":{"pod_uid":"u","pod_name":"api-0","pod_namespace":"ns","pod_node_name":"node-1","container_name":"api","container_id":"c"}}`, 1, "vector",
			"node=node-1 namespace=ns pod=api-0 pod_uid=u container=api container_id=c time=2026-11-23T16:00:00Z", ""},
		{"beats", `{"@timestamp":"2026-11-23T16:00:00.000Z","message":` + quote(one) + `,"agent":{"type":"filebeat"},"host":{"name":"web-1"},"ecs":{"version":"8.0.0"},"kubernetes":{"pod":{"uid":"u","name":"api-0"},"namespace":"ns","node":{"name":"node-1"},"container":{"name":"api"}},"cloud":{"account":{"id":"0"},"region":"r"}}`, 1, "beats",
			"host=web-1 node=node-1 namespace=ns pod=api-0 pod_uid=u container=api account=0 region=r time=2026-11-23T16:00:00.000Z", ""},
		{"beats, original", `{"@timestamp":"2026-11-23T16:00:00.000Z","message":"somebody logged in","event":{"original":` + quote(one) + `}}`, 1, "beats", "time=2026-11-23T16:00:00.000Z", ""},
		{"logstash", `{"@timestamp":"2026-11-23T16:00:00.000Z","@version":"1","message":` + quote(one) + `,"host":"web-1"}`, 1, "beats", "host=web-1 time=2026-11-23T16:00:00.000Z", ""},
		{"beats, the whole is the record", `{"match":1,"id":"1","@timestamp":"2026-11-23T16:00:00.000Z","message":"somebody logged in","event":{"original":"{\"unknown\":1}"}}`, 1, "", "", ""},
		{"beats, nobody knows it", `{"@timestamp":"2026-11-23T16:00:00.000Z","message":"GET / 200"}`, 0, "", "", "plain_log"},
		{"containerd", "2026-11-23T16:00:00.123456789Z stdout F " + one + "\n2026-11-23T16:00:01.123456789Z stderr F " + two + "\n", 2, "", "time=2026-11-23T16:00:0", ""},
		{"raw of the collector", quote(one), 1, "", "", ""},
		{"gzip in gzip", zip(zip(one)), 1, "", "", ""},
		{"body of an OTLP log", `{"resourceLogs":[{"resource":{"attributes":[{"key":"k8s.pod.uid","value":{"stringValue":"u"}},{"key":"host.name","value":{"stringValue":"web-1"}}]},"scopeLogs":[{"logRecords":[{"timeUnixNano":"1","body":{"stringValue":` + quote(one) + `}},{"timeUnixNano":"2","body":{"kvlistValue":{"values":[{"key":"match","value":{"intValue":1}},{"key":"id","value":{"stringValue":"2"}}]}}}]}]}]}`, 2, "otlp_logs", "host=web-1 pod_uid=u", ""},
		{"plain bodies of OTLP logs", `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"1","body":{"stringValue":"{\"unknown\":1}"}},{"timeUnixNano":"2","body":{"stringValue":"[x] y"}},{"timeUnixNano":"3"},{"body":{"intValue":"7"}}]}]}]}`, 0, "", "", "plain_log"},
	}
}

// TestEnvelopeShapes opens each shape, and looks at what it knows of the records
// inside.
func TestEnvelopeShapes(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, knownYAML())
	for _, c := range envelopeShapes() {
		out := decode(d, c.value)
		if len(out.Events) != c.events || len(out.Dead) != 0 {
			t.Errorf("%s: want %d events:\n%s", c.name, c.events, textOfDecoded(out))
			continue
		}
		if c.skip != "" && (len(out.Skips) != 1 || out.Skips[0].Name != c.skip) || c.skip == "" && len(out.Skips) > 0 {
			t.Errorf("%s: skips %v, want %s", c.name, out.Skips, c.skip)
		}
		for i := range out.Events {
			var knows []string
			for _, a := range out.Events[i].Attributes {
				knows = append(knows, a.Name+"="+a.Value)
			}
			if got := strings.Join(knows, " "); got != c.knows && !(c.name == "containerd" && strings.HasPrefix(got, c.knows)) || out.Events[i].Evidence.RecordIndex != int32(i) {
				t.Errorf("%s: event %d, index %d, knows %s\nwant %s", c.name, i, out.Events[i].Evidence.RecordIndex, got, c.knows)
			}
		}
		if got := d.Recognise([]byte(c.value)); c.events > 0 && strings.Join(got[0].Envelopes, " ") != c.envelopes {
			t.Errorf("%s: envelopes %v, want %s", c.name, got[0].Envelopes, c.envelopes)
		}
	}
}

// TestEnvelopeTable: every shape has a name, its paths can be read, and so can
// what it knows. The readers of the package are made with it.
func TestEnvelopeTable(t *testing.T) {
	if n := len(sources.EnvelopeMembers()); n > maxKnown {
		t.Errorf("%d members of $envelope, room for %d", n, maxKnown)
	}
	for _, e := range envelopes() {
		if p, err := sources.ParsePath(e.content); err != nil || len(p) == 0 || e.name == "" || e.open == nil {
			t.Errorf("%s: %v", e.name, err)
		}
		if e.knows != nil {
			var k known
			for _, name := range e.knows.names {
				k.set(name, "x")
			}
		}
	}
}

// TestEnvelopeIsNotForged: what a record says of its envelope itself counts for
// nothing, and what one envelope knows does not stay for the next record.
func TestEnvelopeIsNotForged(t *testing.T) {
	d := testDecoder(t, DecoderOptions{Topics: map[string]TopicFormat{"vault-a": {Scope: "device-a"}}}, header+"tenant: '{$envelope.host ?? \"envelope\".host}'\nresource: '{$envelope.scope}/{$envelope.topic}'\n")
	vector := `{"source_type":"file","host":"web-1","message":` + quote(`{"match":1}`) + `}`
	for _, c := range []struct{ topic, value, host, scope string }{
		{"t", vector, "web-1", "t/t"}, {"t", `{"match":1,"$envelope":{"host":"forged","scope":"forged"}}`, "", "t/t"}, {"vault-a", `{"match":1,"envelope":{"host":"own"}}`, "own", "device-a/vault-a"},
		{"vault-a", `{"source_type":"file","message":` + quote(`{"match":1,"$envelope":{"host":"forged"}}`) + `}`, "", "device-a/vault-a"},
	} {
		var out Decoded
		d.Decode(&out, &schemas.Record{Topic: c.topic, Value: []byte(c.value)})
		if len(out.Events) != 1 || out.Events[0].Tenant != c.host || out.Events[0].Resource != c.scope {
			t.Errorf("%s: want %s, %s:\n%s", c.value, c.host, c.scope, textOfDecoded(&out))
		}
	}
	if _, err := sources.ParsePath("$envelope.colour"); err == nil || !strings.Contains(err.Error(), "$envelope.scope") {
		t.Errorf("a member that there is not: %v", err)
	}
}

// TestRelayed: any program can print what looks like a record of another system.
// What is told that way proves nothing, unless the topic's format vouches for it.
func TestRelayed(t *testing.T) {
	const yaml = `name: test
match: {match: present}
id: ["{id ?? 'id'}"]
time: "{time ?? '2026-11-23T16:00:00Z'}"
keys: ["token:x:{k}"]
makes: [{child: "token:x:{k}", parent: "human:email:{who}", relation: issued, strength: exact}]
ends: [{key: "token:x:{k}"}]
`
	d := testDecoder(t, DecoderOptions{Topics: map[string]TopicFormat{"audit": {Envelope: "audit"}, "fixed": {Source: "test"}}}, yaml)
	const record = `{"match":1,"k":"K","who":"alice@example.com"}`
	journal := `{"__REALTIME_TIMESTAMP":"1","__CURSOR":"c","_UID":"1001","SYSLOG_IDENTIFIER":"logger","MESSAGE":` + quote(record) + `}`
	direct := oneEvent(t, d, record)
	for name, value := range map[string]string{
		"fluent bit": `{"log":` + quote(record) + `,"stream":"stdout"}`, "fluent bit, parsed": `{"log":` + record + `,"stream":"stdout"}`, "beats": `{"@timestamp":"2026-11-23T16:00:00Z","message":` + quote(record) + `}`, "vector": `{"source_type":"file","message":` + quote(record) + `}`,
		"containerd": "2026-11-23T16:00:00.1Z stdout F " + record, "raw": quote(record), "OTLP body": `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":` + quote(record) + `}}]}]}]}`,
		"cloudwatch": `{"messageType":"DATA_MESSAGE","logGroup":"g","logEvents":[{"id":"1","timestamp":1,"message":` + quote(record) + `}]}`, "an envelope inside": `{"log":` + quote(`{"Records":[`+record+`]}`) + `,"stream":"stdout"}`, "journald": journal,
	} {
		for _, topic := range []string{"t", "audit", "fixed"} {
			var out Decoded
			d.Decode(&out, &schemas.Record{Topic: topic, Value: []byte(value)})
			if name == "journald" && topic == "t" {
				if len(out.Events)+len(out.Dead) != 0 {
					t.Errorf("JSON in a message of journald was opened:\n%s", textOfDecoded(&out))
				}
				continue
			}
			if name == "OTLP body" && topic == "fixed" {
				continue // the log record itself is what the source is given
			}
			if len(out.Events) != 1 || len(out.Events[0].Makes) != 1 {
				t.Errorf("%s in %s:\n%s", name, topic, textOfDecoded(&out))
				continue
			}
			ev := &out.Events[0]
			relayed := ev.Flags&schemas.FlagRelayed != 0 && ev.Makes[0].Strength == schemas.StrengthStated && len(ev.Ends) == 0 && ev.ID != direct.ID
			vouched := ev.Flags == 0 && ev.Makes[0].Strength == schemas.StrengthExact && len(ev.Ends) == 1 && ev.ID == direct.ID
			if topic == "t" && !relayed || topic != "t" && !vouched {
				t.Errorf("%s in %s:\n%s", name, topic, textOfDecoded(&out))
			}
		}
	}
	eks := `{"messageType":"DATA_MESSAGE","logGroup":"/aws/eks/acme/cluster","logEvents":[{"id":"1","timestamp":1,"message":` + quote(record) + `}]}`
	if ev := oneEvent(t, d, eks); ev.Flags != 0 || ev.ID != direct.ID {
		t.Errorf("a group that AWS writes: %+v", ev)
	}
	if ev := oneEvent(t, d, record); ev.Flags != 0 || ev.ID != direct.ID {
		t.Errorf("the next record: %+v", ev)
	}
}

// TestCloudEventHeaders: CloudEvents in binary mode say in headers what the
// structured mode says in the envelope.
func TestCloudEventHeaders(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, header+"tenant: '{$envelope.source} {$envelope.type} {$envelope.id} {$envelope.resource}'\n")
	headers := []schemas.Header{{Key: "ce_specversion", Value: []byte("1.0")}, {Key: "ce_source", Value: []byte("//acme")}, {Key: "ce_type", Value: []byte("t")}, {Key: "ce_id", Value: []byte("7")}, {Key: "ce_subject", Value: []byte("door")}, {Key: "other", Value: []byte("x")}, {Key: "ce_time", Value: []byte("\xff")}}
	var out Decoded
	d.Decode(&out, &schemas.Record{Topic: "t", Headers: headers, Value: []byte(`{"match":1}`)})
	d.Decode(&out, &schemas.Record{Topic: "t", Value: []byte(`{"match":1}`)})
	if len(out.Events) != 2 || out.Events[0].Tenant != "//acme t 7 door" || out.Events[1].Tenant != "" {
		t.Errorf("got:\n%s", textOfDecoded(&out))
	}
}

// TestPosition: records without id, time or sender have those of Kafka.
func TestPosition(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, "name: test\nmatch: {match: present}\nid: ['{$envelope.position}']\ntime: '{$envelope.timestamp}'\ntenant: '{$envelope.position}'\nresource: '{$envelope.header.\"x-sender\"}'\n")
	rec := schemas.Record{Topic: "t", Partition: 3, Offset: 7, TimestampNanos: 1795452232281000000, Headers: []schemas.Header{{Key: "x-sender", Value: []byte("desk")}}, Value: []byte("[{\"match\":1},{\"match\":1}]")}
	var out Decoded
	d.Decode(&out, &rec)
	if len(out.Events) != 2 || out.Events[0].Tenant != "t/3/7/0" || out.Events[1].Tenant != "t/3/7/1" || out.Events[0].ID == out.Events[1].ID || out.Events[1].TimeNanos != rec.TimestampNanos || out.Events[1].Resource != "desk" {
		t.Errorf("got:\n%s", textOfDecoded(&out))
	}
	if out := decode(d, `{"match":1}`); len(out.Dead) != 1 || out.Dead[0].Reason != schemas.DeadMissingField {
		t.Errorf("without a time:\n%s", textOfDecoded(out))
	}
}

// TestNestedBombs: many small packed items cannot be unpacked to more than one
// may be.
func TestNestedBombs(t *testing.T) {
	d := testDecoder(t, DecoderOptions{MaxRecordBytes: 100_000}, header)
	bomb := `{"subscription":"s","message":{"data":"` + b64(zip(strings.Repeat(" ", 300_000))) + `"}}`
	out := decode(d, "["+strings.Repeat(bomb+",", 50)+bomb+"]")
	if len(out.Events) != 0 || len(out.Dead) != 51 || out.Dead[1].Reason != schemas.DeadEmpty || out.Dead[2].Reason != schemas.DeadTooLarge || out.Dead[50].Reason != schemas.DeadTooLarge {
		t.Errorf("%.2000s", textOfDecoded(out))
	}
	d = testDecoder(t, DecoderOptions{MaxRecordBytes: 100_000}, header)
	fan := `{"kind":"admin#reports#activity","match":1,"x":"` + strings.Repeat("x", 20_000) + `","events":[` + strings.Repeat("{},", 500) + `{}]}`
	if out := decode(d, fan); len(out.Dead) != 1 || out.Dead[0].Reason != schemas.DeadTooLarge || len(out.Events) > 40 {
		t.Errorf("%d events, %.300s", len(out.Events), textOfDecoded(&Decoded{Dead: out.Dead}))
	}
}
