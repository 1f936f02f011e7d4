package main

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"catena/correlate"
	"catena/ingest"
	"catena/schemas"
	"catena/sinks"
	"catena/sinks/clickhouse"
	"catena/sinks/jsonl"
)

// Several instances: a consumer group splits the partitions, and what one
// learns that rows of others may rest on goes through a compacted topic which
// every instance hears. Who begins reads from the tables what was told before.
// What is told is told before the offsets of its records are committed, so that
// after a crash the next owner tells it again.

// The kinds of messages.
const (
	toldBinding = 'b' // key: the binding's identity
	toldAction  = 'a' // key: the event's id
)

// sharedFor is how long what was told stays in the topic, and how far back the
// first uses of tokens are read from the tables.
const sharedFor = 24 * time.Hour

// sharing is the topic as the pipeline uses it; nil where there is but one
// instance.
type sharing struct {
	topic *ingest.Shared
	log   *slog.Logger

	told, heard atomic.Int64 // bindings and actions
	strange     atomic.Int64 // heard and not understood
	kept        atomic.Int64 // up to when all that was told is in the tables, Unix milliseconds

	ctx  context.Context // ends the wait for brokers that take nothing
	stop context.CancelFunc
}

func openSharing(ctx context.Context, cfg *config, log *slog.Logger) (*sharing, error) {
	if cfg.ShareTopic == "" {
		return nil, nil
	}
	topic, err := ingest.NewShared(ctx, ingest.SharedOptions{Cluster: cfg.cluster(log), Topic: cfg.ShareTopic, Retention: sharedFor, Marks: markEvery})
	if err != nil {
		return nil, err
	}
	s := &sharing{topic: topic, log: log}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// tell hands on what an engine has said.
func (s *sharing) tell(out *correlate.Output) {
	if s == nil {
		return
	}
	for i := range out.Bindings {
		b := &out.Bindings[i]
		value, err := jsonl.AppendBinding(nil, b)
		if err != nil { // cannot be: all of it is numbers and text
			s.log.Error("a binding was not shared", "error", err)
			continue
		}
		key := b.Child.String() + "\x00" + b.Parent.String() + "\x00" + b.Relation.String() + "\x00" + b.Strength.String() + "\x00" + strconv.FormatInt(b.FromNanos, 10)
		s.topic.Tell(s.ctx, toldBinding, []byte(key), value)
		s.told.Add(1)
	}
	for _, a := range out.Shared {
		var line bytes.Buffer
		if err := jsonl.Encode(&line, a); err != nil {
			s.log.Error("an action was not shared", "error", err)
			continue
		}
		s.topic.Tell(s.ctx, toldAction, []byte(a.ID.String()), line.Bytes())
		s.told.Add(1)
	}
}

// hear returns what others have said.
func (s *sharing) hear() (bindings []schemas.Binding, actions []*schemas.Action) {
	for _, told := range s.topic.Hear() {
		var err error
		switch told.Kind {
		case toldBinding:
			var b schemas.Binding
			if b, err = jsonl.DecodeBinding(told.Value); err == nil {
				bindings = append(bindings, b)
			}
		case toldAction:
			var a *schemas.Action
			if a, err = jsonl.Decode(told.Value); err == nil {
				actions = append(actions, a)
			}
		}
		s.heard.Add(1)
		if err != nil {
			if s.strange.Add(1) == 1 {
				s.log.Error("what another instance says is not understood; do all run the same version?", "error", err)
			}
		}
	}
	return bindings, actions
}

// catchUp returns when all that others have said until now was heard.
func (s *sharing) catchUp(ctx context.Context) error {
	if s == nil {
		return nil
	}
	return s.topic.CatchUp(ctx)
}

// mark tells now and then up to when all that we told is in the tables, until
// ctx ends: who begins need not hear it.
func (p *pipeline) mark(ctx context.Context) {
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	for p.share != nil {
		kept := time.Now()
		if at := p.working.Load(); at != 0 { // what is told now may come after
			kept = earlier(kept, time.UnixMilli(at))
		}
		if at := p.writer.Stats().Oldest; !at.IsZero() {
			kept = earlier(kept, at)
		}
		p.share.kept.Store(kept.UnixMilli())
		p.share.topic.Mark(ctx, kept)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

const markEvery = 5 * time.Second

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// flush returns when all that was told is durable.
func (s *sharing) flush(ctx context.Context) error {
	if s == nil {
		return nil
	}
	return s.topic.Flush(ctx)
}

// amongOthers is the sink of one of several instances. It tells the others what
// it writes, before it does, and writes nothing of partitions that have gone to
// them: one that was stopped for a while, or thrown out, does not know that yet,
// and would write over what the next owner has read.
type amongOthers struct {
	*clickhouse.Store
	p *pipeline
}

// toldWithin bounds the wait for brokers that take nothing: what then comes first
// into the tables is not committed before it is told, see durable.
const toldWithin = 5 * time.Second

// Write implements sinks.Sink.
func (s amongOthers) Write(ctx context.Context, b *sinks.Batch) error {
	if s.p.share == nil {
		return s.Store.Write(ctx, b)
	}
	telling, cancel := context.WithTimeout(ctx, toldWithin)
	_ = s.p.share.flush(telling)
	cancel()
	progress, err := s.LoadProgress(ctx)
	if err != nil {
		return err
	}
	s.p.standing.latest = latestOwners(progress)
	ours := notOvertaken(b, s.p.standing.latest)
	if err := s.Store.Write(ctx, ours); err != nil {
		return err
	}
	if n := len(b.Actions) - len(ours.Actions); n > 0 {
		s.p.meter.overtaken.WithLabelValues().Add(float64(n))
		s.p.log.Warn("rows left out: their partitions have gone to another instance, which writes them", "rows", n)
	}
	return nil
}

// owners are the latest of partitions, as far as the tables know.
type owners map[ingest.Partition]int64

func latestOwners(progress []schemas.Progress) owners {
	o := owners{}
	for i := range progress {
		o[ingest.Partition{Topic: progress[i].Topic, Partition: progress[i].Partition}] = progress[i].OwnerMillis
	}
	return o
}

// overtook reports whether a partition has a later owner than who reports.
func (o owners) overtook(p schemas.Progress) bool {
	return p.OwnerMillis < o[ingest.Partition{Topic: p.Topic, Partition: p.Partition}]
}

// standing is what the writer knows of whose the partitions are.
type standing struct {
	latest owners              // when it last looked
	since  map[int64]time.Time // by the number under which we reported of a partition that has a later owner, when first
	ousted atomic.Bool         // this goes on for too long
}

// overtaken reports whether a partition has a later owner than who reports. The
// group tells us so within a session timeout, and we report under another number.
// If we do not, there is somebody whom the group does not know.
func (s *standing) overtaken(p schemas.Progress, patience time.Duration) bool {
	if !s.latest.overtook(p) {
		return false
	}
	first, ok := s.since[p.OwnerMillis]
	switch {
	case s.since == nil:
		s.since = map[int64]time.Time{p.OwnerMillis: time.Now()}
	case !ok:
		s.since[p.OwnerMillis] = time.Now()
	case time.Since(first) > patience:
		s.ousted.Store(true)
	}
	return true
}

// notOvertaken is the batch without the rows of partitions that have a later
// owner, and without how far they had come.
func notOvertaken(b *sinks.Batch, latest owners) *sinks.Batch {
	row := func(a *schemas.Action) bool {
		return a.Version < schemas.MakeVersion(latest[ingest.Partition{Topic: a.Evidence.Topic, Partition: a.Evidence.Partition}], 0)
	}
	if !slices.ContainsFunc(b.Actions, row) && !slices.ContainsFunc(b.Progress, latest.overtook) {
		return b
	}
	ours := *b
	ours.Actions = slices.DeleteFunc(slices.Clone(b.Actions), row)
	ours.Progress = slices.DeleteFunc(slices.Clone(b.Progress), latest.overtook)
	return &ours
}

// close gives what was told as long as a drain lasts, and returns what hangs up.
func (s *sharing) close(drain time.Duration) func() {
	if s == nil {
		return func() {}
	}
	timer := time.AfterFunc(drain, s.stop)
	return func() {
		timer.Stop()
		s.stop()
		s.topic.Close()
	}
}

// hear takes in what other instances have said since the last call.
func (p *pipeline) hear(batch *sinks.Batch) {
	if p.share == nil || p.writer.Full() {
		return
	}
	for deadline := time.Now().Add(50 * time.Millisecond); time.Now().Before(deadline); {
		bindings, actions := p.share.hear()
		if len(bindings)+len(actions) == 0 {
			return
		}
		p.out.Reset()
		p.engine.Learn(&p.out, bindings, actions)
		p.collect(batch)
	}
}

// checkCompany says so when the group has other members of whom we do not
// hear.
func (p *pipeline) checkCompany() {
	if p.share != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if n, err := p.consumer.Members(ctx); err == nil && n > 1 && p.lonely.CompareAndSwap(false, true) {
		p.log.Warn("the consumer group has several members that do not share what they know: actions will lack the owners that other members learned of; set CATENA_SHARE_TOPIC on all of them",
			"group", p.cfg.KafkaGroup, "members", n)
	}
}
