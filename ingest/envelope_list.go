package ingest

import "catena/schemas/sources"

func has(path string) sources.Clause { return clause(path, sources.Check{Op: sources.Present}) }

func lacks(path string) sources.Clause {
	return clause(path, sources.Check{Op: sources.Not, Sub: []sources.Check{{Op: sources.Present}}})
}

func is(path string, texts ...string) sources.Clause {
	return clause(path, sources.Check{Op: sources.OneOf, Texts: texts})
}

func begins(path, text string) sources.Clause {
	return clause(path, sources.Check{Op: sources.Prefix, Texts: []string{text}})
}

// oneOf holds if one of the clauses does.
func oneOf(list ...sources.Clause) sources.Clause {
	var out sources.Clause
	for _, c := range list {
		out.Any = append(out.Any, sources.Condition{c})
	}
	return out
}

func when(list ...sources.Clause) []sources.Clause { return list }

// generalShapes are documents of logs of all kinds that arrive without an
// envelope. If no source knows one, it is left out and counted.
func generalShapes() [][]sources.Clause {
	return [][]sources.Clause{
		when(has("__REALTIME_TIMESTAMP"), has("__CURSOR")), // journald
		when(has("level"), has("msg"), has("time")),        // what Go services say of themselves, OPA and SPIRE among them
	}
}

// envelopes lists the shapes, in the order in which they are tried.
func envelopes() []*envelope {
	var list []*envelope
	for _, part := range [][]*envelope{otlpEnvelopes(), awsEnvelopes(), cloudEnvelopes(), apiEnvelopes(), syslogEnvelopes(), shipperEnvelopes()} {
		list = append(list, part...)
	}
	return list
}

// otlpEnvelopes are TracesData and its siblings: export requests, and lines of
// the collector's file exporter.
func otlpEnvelopes() []*envelope {
	return []*envelope{
		{name: "otlp", content: "resourceSpans", kind: kindArray, signal: true, open: (*Decoder).openSpans},
		{name: "otlp_logs", content: "resourceLogs", kind: kindArray, signal: true, open: (*Decoder).openLogs},
		{name: "otlp_metrics", content: "resourceMetrics", kind: kindArray, signal: true, open: skipAs(skipMetrics)},
	}
}

func awsEnvelopes() []*envelope {
	return []*envelope{
		// Files of CloudTrail, events of Lambda.
		{name: "records", content: "Records", kind: kindArray, batch: true, open: (*Decoder).openArray},
		{name: "eventbridge", when: when(has(`"detail-type"`), has("source")), content: "detail", kind: kindObject, open: (*Decoder).openObject,
			knows: newReader([]naming{{"source", "source"}, {"type", `"detail-type"`}, {"id", "id"}, {"time", "time"}, {"account", "account"}, {"region", "region"}})},
		{name: "sqs", when: when(is("eventSource", "aws:sqs")), content: "body", kind: kindString, open: (*Decoder).openText},
		{name: "sns", when: when(is("Type", "Notification"), has("TopicArn")), content: "Message", kind: kindString, open: (*Decoder).openText},
		{name: "sns_lambda", when: when(is("EventSource", "aws:sns")), content: "Sns.Message", kind: kindString, open: (*Decoder).openText},
		{name: "kinesis", when: when(is("eventSource", "aws:kinesis")), content: "kinesis.data", kind: kindString, open: (*Decoder).openBase64},
		// CloudTrail LookupEvents.
		{name: "lookup_events", when: when(has("EventId")), content: "CloudTrailEvent", kind: kindString, open: (*Decoder).openText},
		// Subscriptions of CloudWatch Logs. A control message says that the subscription lives.
		{name: "lambda_logs", content: "awslogs.data", kind: kindString, open: (*Decoder).openBase64},
		{name: "cloudwatch_logs", when: when(is("messageType", "DATA_MESSAGE")), content: "logEvents", kind: kindArray, batch: true, open: general((*Decoder).openArray),
			knows: newReader([]naming{{"log_group", "logGroup"}, {"log_stream", "logStream"}, {"account", "owner"}})},
		{name: "cloudwatch_logs", when: when(is("messageType", "CONTROL_MESSAGE")), content: "logEvents", kind: kindArray, open: skipAs(skipControl)},
		// Groups that AWS itself writes; what the output of programs goes to has other names.
		{name: "cloudwatch_event", when: when(oneOf(begins("$envelope.log_group", "/aws/eks/"), begins("$envelope.log_group", "aws-cloudtrail-logs-")), has("id"), has("timestamp")),
			content: "message", kind: kindString, open: (*Decoder).openText},
		{name: "cloudwatch_event", when: when(has("$envelope.log_group"), has("id"), has("timestamp")), content: "message", kind: kindString, open: (*Decoder).openLine},
	}
}

func cloudEnvelopes() []*envelope {
	event := when(has("specversion"), has("type"), has("source"))
	attributes := newReader([]naming{{"source", "source"}, {"type", "type"}, {"id", "id"}, {"time", "time"}, {"resource", "subject"}})
	aks := newReader([]naming{{"resource", "resourceId"}})
	return []*envelope{
		// Azure diagnostic settings to an Event Hub.
		{name: "azure_records", content: "records", kind: kindArray, batch: true, open: (*Decoder).openArray},
		{name: "aks", when: when(begins("category", "kube-audit")), content: "properties.log", kind: kindString, knows: aks, open: (*Decoder).openText},
		{name: "aks", when: when(begins("category", "kube-audit")), content: "properties.log", kind: kindObject, knows: aks, open: (*Decoder).openObject},
		{name: "aks_log", when: when(has("category"), has("resourceId")), content: "properties.log", kind: kindString, knows: aks, open: (*Decoder).openMessage},
		// Pages of Microsoft Graph.
		{name: "odata", when: when(has(`"@odata.context"`)), content: "value", kind: kindArray, batch: true, open: (*Decoder).openArray},
		{name: "pubsub", when: when(has("subscription")), content: "message.data", kind: kindString, open: (*Decoder).openBase64,
			knows: newReader([]naming{{"resource", "subscription"}, {"id", "message.messageId"}, {"time", "message.publishTime"}})},
		{name: "cloudevents", when: event, content: "data", kind: kindObject, knows: attributes, open: (*Decoder).openObject},
		{name: "cloudevents", when: event, content: "data", kind: kindArray, knows: attributes, open: (*Decoder).openArray},
		{name: "cloudevents", when: event, content: "data", kind: kindString, knows: attributes, open: (*Decoder).openText},
		{name: "cloudevents", when: event, content: "data_base64", kind: kindString, knows: attributes, open: (*Decoder).openBase64},
		// Kafka Connect's JsonConverter with schemas.
		{name: "connect", when: when(has("schema.type")), content: "payload", kind: kindObject, open: (*Decoder).openObject},
		{name: "connect", when: when(has("schema.type")), content: "payload", kind: kindString, open: (*Decoder).openText},
	}
}

// apiEnvelopes are those of single products.
func apiEnvelopes() []*envelope {
	return []*envelope{
		// The webhook of kube-apiserver; its items have neither kind nor apiVersion.
		{name: "kubernetes_list", when: when(is("kind", "EventList")), content: "items", kind: kindArray, batch: true, open: (*Decoder).openEventList},
		{name: "okta_hook", when: when(begins("eventType", "com.okta.event_hook")), content: "data.events", kind: kindArray, batch: true, open: (*Decoder).openArray,
			knows: newReader([]naming{{"source", "source"}})},
		{name: "auth0_stream", when: when(has("log_id"), lacks("type")), content: "data", kind: kindObject, open: (*Decoder).openObject},
		// Google Workspace's Reports API: pages of activities, each with several events.
		{name: "workspace_page", when: when(is("kind", "admin#reports#activities")), content: "items", kind: kindArray, batch: true, open: (*Decoder).openArray},
		{name: "workspace", when: when(is("kind", "admin#reports#activity")), content: "events", kind: kindArray, open: (*Decoder).openEach},
	}
}

// syslogEnvelopes are messages of syslog and journald, see syslog.go.
func syslogEnvelopes() []*envelope {
	message := oneOf(has("__REALTIME_TIMESTAMP"), has("_TRANSPORT"), has("syslog"))
	knows := newReader([]naming{{"host", "_HOSTNAME"}, {"host", "host"}})
	return []*envelope{
		{name: "journald", when: when(message), content: "MESSAGE", kind: kindArray, open: (*Decoder).openJournalBytes},
		{name: "syslog_json", when: when(message, begins("MESSAGE", `{"`)), content: "MESSAGE", kind: kindString, knows: knows, open: (*Decoder).openVouched},
		{name: "syslog_json", when: when(message, begins("MESSAGE", "@cee:")), content: "MESSAGE", kind: kindString, knows: knows, open: (*Decoder).openVouched},
		{name: "journald", when: when(has("journald")), content: "message", kind: kindString, open: (*Decoder).openBeatsJournal},
		{name: "journald", when: when(is("source_type", "journald")), content: "message", kind: kindString, open: (*Decoder).openVectorJournal},
		{name: "rsyslog", when: when(syslogTag()), content: "msg", kind: kindString, open: (*Decoder).openSyslog},
		{name: "rsyslog", when: when(syslogTag()), content: "message", kind: kindString, open: (*Decoder).openSyslog},
	}
}

// shipperEnvelopes are what collects the output of programs and hosts. What is
// inside may be anything, and the whole may be a record of a source.
func shipperEnvelopes() []*envelope {
	beats := newReader([]naming{
		{"host", "host.name"}, {"host", "host.hostname"}, {"host", "agent.hostname"}, {"host", "host"}, {"time", "@timestamp"}, {"pod_uid", "kubernetes.pod.uid"}, {"pod", "kubernetes.pod.name"},
		{"namespace", "kubernetes.namespace"}, {"node", "kubernetes.node.name"}, {"container", "kubernetes.container.name"}, {"container_id", "container.id"}, {"account", "cloud.account.id"}, {"region", "cloud.region"},
	})
	fluent := newReader([]naming{
		{"host", "hostname"}, {"host", "host"}, {"host", "_HOSTNAME"}, {"time", "time"}, {"time", "@timestamp"}, {"pod_uid", "kubernetes.pod_id"}, {"pod", "kubernetes.pod_name"},
		{"namespace", "kubernetes.namespace_name"}, {"node", "kubernetes.host"}, {"container", "kubernetes.container_name"}, {"container_id", "kubernetes.docker_id"}, {"container_id", "kubernetes.container_id"},
	})
	vector := newReader([]naming{
		{"host", "host"}, {"time", "timestamp"}, {"pod_uid", "kubernetes.pod_uid"}, {"pod", "kubernetes.pod_name"},
		{"namespace", "kubernetes.pod_namespace"}, {"node", "kubernetes.pod_node_name"}, {"container", "kubernetes.container_name"}, {"container_id", "kubernetes.container_id"},
	})
	output := is("stream", "stdout", "stderr")
	pod := oneOf(output, has("kubernetes.pod_name"))
	return []*envelope{
		{name: "vector", when: when(has("source_type")), content: "message", kind: kindString, knows: vector, open: (*Decoder).openMessage},
		{name: "fluentbit", when: when(pod), content: "log", kind: kindString, knows: fluent, open: (*Decoder).openMessage},
		{name: "fluentbit", when: when(pod), content: "log", kind: kindObject, knows: fluent, open: (*Decoder).openStructured},
		{name: "fluentd", when: when(pod), content: "message", kind: kindString, knows: fluent, open: (*Decoder).openMessage},
		{name: "beats", when: when(has(`"@timestamp"`)), content: "event.original", kind: kindString, knows: beats, open: (*Decoder).openMessage},
		{name: "beats", when: when(has(`"@timestamp"`)), content: "message", kind: kindString, knows: beats, open: (*Decoder).openMessage},
	}
}
