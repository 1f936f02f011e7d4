package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	attr "go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"catena/ingest"
	"catena/schemas"
	"catena/sinks"
)

// traces tells OpenTelemetry of the pipeline's own batches: where their time
// goes. A nil *traces does nothing and costs a comparison.
//
//	batch ── poll, decode, look_back (if rows are asked for), process, append
//	write ── insert actions, insert progress, …; linked to the batches in it
//
// One write holds the rows of several polls, and begins when the last one has
// ended, so that it is a trace of its own. Nothing of a record stands in a span:
// counts, topics of the tables, no names.
type traces struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer

	mu    sync.Mutex
	polls []tracedPoll // whose rows are not durable yet, oldest first
	write trace.Span   // under way; nil if none is
	under context.Context
}

// tracedPoll is the span of a batch and up to where its records went.
type tracedPoll struct {
	span trace.SpanContext
	next map[ingest.Partition]int64
}

// maxTracedPolls bounds the batches that a write can be linked to. While the
// database is away older ones are forgotten.
const maxTracedPolls = 256

// tracesWanted reports whether the standard variables name a collector.
func tracesWanted(getenv func(string) string) bool {
	named := getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
	return named && getenv("OTEL_SDK_DISABLED") != "true" && getenv("OTEL_TRACES_EXPORTER") != "none"
}

// openTraces returns nil if no collector is named. The exporter reads the
// standard variables itself: endpoint, headers, certificates, timeout, sampler.
func openTraces(ctx context.Context, cfg *config, log *slog.Logger) (*traces, error) {
	if !cfg.traced {
		return nil, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, usagef("OTEL_EXPORTER_OTLP_ENDPOINT: %w", err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(attr.String("service.name", "catena"), attr.String("service.version", version)),
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithFromEnv())
	if err != nil {
		return nil, usagef("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	otel.SetErrorHandler(&exportFaults{log: log})
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	log.Info("traces are sent")
	return &traces{provider: provider, tracer: provider.Tracer("catena")}, nil
}

// exportFaults logs that spans cannot be sent, at most once a minute: a
// collector that is away fails every few seconds, and nothing else does.
type exportFaults struct {
	log  *slog.Logger
	mu   sync.Mutex
	last time.Time
}

// Handle implements otel.ErrorHandler.
func (f *exportFaults) Handle(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.last) > time.Minute {
		f.last = time.Now()
		f.log.Warn("spans cannot be sent and are dropped", "error", err)
	}
}

// close sends what is left, for a few seconds.
func (t *traces) close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // the error handler has told
}

// now is the time if it is going to be needed.
func (t *traces) now() time.Time {
	if t == nil {
		return time.Time{}
	}
	return time.Now()
}

// batch begins the span of a poll that brought records, which began at some
// time before. Call the function that it returns when the rows are appended.
func (t *traces) batch(ctx context.Context, began time.Time, records []schemas.Record) (context.Context, func(error)) {
	if t == nil || len(records) == 0 {
		return ctx, func(error) {}
	}
	next := map[ingest.Partition]int64{}
	bytes := 0
	for i := range records {
		next[ingest.Partition{Topic: records[i].Topic, Partition: records[i].Partition}] = records[i].Offset + 1
		bytes += len(records[i].Key) + len(records[i].Value)
	}
	ctx, span := t.tracer.Start(ctx, "batch", trace.WithTimestamp(began), trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attr.String("messaging.system", "kafka"), attr.String("messaging.operation.name", "poll"),
		attr.Int("messaging.batch.message_count", len(records)), attr.Int("catena.bytes", bytes), attr.Int("catena.partitions", len(next))))
	_, poll := t.tracer.Start(ctx, "poll", trace.WithTimestamp(began))
	poll.End()
	t.mu.Lock()
	if len(t.polls) >= maxTracedPolls {
		t.polls = append(t.polls[:0], t.polls[1:]...)
	}
	t.polls = append(t.polls, tracedPoll{span.SpanContext(), next})
	t.mu.Unlock()
	return ctx, func(err error) { endSpan(span, err) }
}

// step begins a span within that of the batch; call what it returns at its end.
func (t *traces) step(ctx context.Context, name string) func(error) {
	if t == nil || !trace.SpanContextFromContext(ctx).IsValid() {
		return func(error) {}
	}
	_, span := t.tracer.Start(ctx, name)
	return func(err error) { endSpan(span, err) }
}

// insert begins a span of an insert, in that of a write which begins with the
// first one.
func (t *traces) insert(ctx context.Context, b *sinks.Batch) (context.Context, func(error)) {
	if t == nil {
		return ctx, func(error) {}
	}
	t.mu.Lock()
	if t.write == nil {
		t.under, t.write = t.tracer.Start(context.Background(), "write", trace.WithNewRoot())
	}
	under := t.under
	t.mu.Unlock()
	ctx = trace.ContextWithSpanContext(ctx, trace.SpanContextFromContext(under))
	var about []attr.KeyValue
	name := "insert"
	for _, table := range batchTables(b) {
		name += " " + table.name
		about = append(about, attr.Int("catena.rows."+table.name, table.rows))
	}
	about = append(about, attr.String("db.system.name", "clickhouse"))
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(about...))
	return ctx, func(err error) { endSpan(span, err) }
}

// wrote ends the write, linked to the batches whose rows are now durable.
func (t *traces) wrote(b *sinks.Batch) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.write == nil {
		return
	}
	durable := map[ingest.Partition]int64{}
	for i := range b.Progress {
		p := &b.Progress[i]
		durable[ingest.Partition{Topic: p.Topic, Partition: p.Partition}] = p.Offset
	}
	kept := t.polls[:0]
	for _, p := range t.polls {
		if !p.within(durable) {
			kept = append(kept, p)
			continue
		}
		t.write.AddLink(trace.Link{SpanContext: p.span})
	}
	t.polls = kept
	t.write.SetAttributes(attr.Int("catena.rows", b.Rows()))
	t.write.End()
	t.write, t.under = nil, nil
}

// within reports whether all of a poll lies before what is durable.
func (p tracedPoll) within(durable map[ingest.Partition]int64) bool {
	for part, next := range p.next {
		if durable[part] < next {
			return false
		}
	}
	return true
}

func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
