package main

import (
	"bytes"
	"context"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"catena/correlate"
	"catena/ingest"
	"catena/schemas"
	"catena/sinks"
	"catena/sinks/jsonl"
)

// Several instances: a consumer group splits the partitions, and what one
// learns that rows of others may rest on goes through a compacted topic which
// every instance hears. Who begins reads from the tables what was told before. What is told is told before the offsets of its
// records are committed, so that after a crash the next owner tells it again.

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

// toldFirst tells the other instances before it writes. Brokers that take
// nothing for a while hold nothing up for longer than that: what then comes
// first into the tables is not committed before it is told, see durable.
type toldFirst struct {
	sinks.Sink
	p *pipeline
}

// toldWithin bounds the wait.
const toldWithin = 5 * time.Second

// Write implements sinks.Sink.
func (s toldFirst) Write(ctx context.Context, b *sinks.Batch) error {
	telling, cancel := context.WithTimeout(ctx, toldWithin)
	_ = s.p.share.flush(telling)
	cancel()
	return s.Sink.Write(ctx, b)
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
