package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"catena/correlate"
	"catena/ingest"
	"catena/ingest/registry"
	"catena/schemas"
	"catena/sinks"
	"catena/sinks/clickhouse"
)

// The whole path. Decoding runs on all cores around one single-threaded,
// deterministic correlator; offsets are committed when the rows are durable.
//
//	consumer.Poll ──records──► decode ──events──► engine.Process ──actions, bindings──► writer.Append
//	      ▲                      │ (all cores)         (one)                                 │
//	      │                      └──dead letters────────────────────────────────────────────►│
//	      └──────────────── consumer.Commit ◄──progress── Done ◄── store.Write (ClickHouse) ◄┘
type pipeline struct {
	stitcher
	cfg      *config
	log      *slog.Logger
	consumer *ingest.Consumer
	writer   *sinks.Writer
	store    *clickhouse.Store
	recall   *recall

	heard  map[ingest.Partition]time.Time // when a partition last spoke
	paused bool
	loaded bool  // the bindings came back from the tables
	fault  error // of a callback, which can return none
}

// newPipeline connects everything. Nothing is consumed before [pipeline.run].
func newPipeline(ctx context.Context, cfg *config, log *slog.Logger) (*pipeline, error) {
	p := &pipeline{cfg: cfg, log: log, heard: map[ingest.Partition]time.Time{}}
	reg, err := cfg.openRegistry(ctx, log)
	if err != nil {
		return nil, err
	}
	if p.stitcher, err = newStitcher(cfg, reg); err != nil {
		return nil, err
	}
	settings := cfg.correlator()
	settings.Lookup = true // the tables are there to ask
	p.engine = correlate.New(settings)
	if p.store, err = openStore(ctx, cfg); err != nil {
		return nil, err
	}
	if _, err = p.store.Migrate(ctx); err != nil {
		return nil, errors.Join(err, p.store.Close())
	}
	p.writer = sinks.NewWriter(p.store, sinks.Options{MaxRows: cfg.BatchRows, MaxAge: cfg.BatchAge, Done: p.durable, Log: log})
	p.recall = newRecall(p.store, p.writer.Flush, log)
	if p.consumer, err = ingest.NewConsumer(ctx, cfg.consumer(log, p)); err != nil {
		return nil, errors.Join(err, p.writer.Close(ctx), p.store.Close())
	}
	return p, nil
}

// run moves records until ctx ends, then drains, commits and leaves the group.
func (p *pipeline) run(ctx context.Context) error {
	recalling, stop := context.WithCancel(ctx)
	go p.recall.run(recalling)
	defer func() { stop(); <-p.recall.done }()
	var records []schemas.Record
	var batch sinks.Batch
	var err error
	for ctx.Err() == nil && p.fault == nil {
		if records, err = p.consumer.Poll(ctx, records[:0]); err != nil {
			break
		}
		batch = sinks.Batch{}
		if err = p.stitch(records, &batch); err != nil {
			break // nothing of them is kept: read again next time
		}
		p.remember(&batch)
		p.account(records, &batch)
		if err = p.append(ctx, &batch); err != nil {
			break
		}
		if len(records) > 0 {
			p.consumer.Allow()
		}
		p.backPressure()
	}
	if ctx.Err() != nil {
		err = nil // asked to stop
	}
	return errors.Join(err, p.fault, p.close())
}

// remember lets the tables tell what memory no longer holds.
func (p *pipeline) remember(batch *sinks.Batch) {
	a, ok := p.recall.next(p.out.Wanted, p.engine.Watermark()-int64(p.cfg.AllowedLateness))
	if !ok {
		return
	}
	p.out.Reset()
	p.engine.Found(&p.out, a.keys, a.bindings, a.actions)
	batch.Actions = append(batch.Actions, p.out.Actions...)
	batch.Bindings = append(batch.Bindings, p.out.Bindings...)
	p.recall.wanted = append(p.recall.wanted, p.out.Wanted...)
}

// account notes how far each partition has come, in the same batch as its rows.
func (p *pipeline) account(records []schemas.Record, batch *sinks.Batch) {
	now := time.Now()
	next := map[ingest.Partition]int64{}
	for i := range records {
		part := ingest.Partition{Topic: records[i].Topic, Partition: records[i].Partition}
		next[part] = max(next[part], records[i].Offset+1)
		p.heard[part] = now
	}
	for part, offset := range next {
		batch.Progress = append(batch.Progress, schemas.Progress{Topic: part.Topic, Partition: part.Partition,
			Offset: offset, WatermarkNanos: p.engine.Watermark()})
	}
	for part, at := range p.heard {
		if now.Sub(at) > p.cfg.IdleAfter {
			p.engine.Idle(part.Topic, part.Partition)
		}
	}
}

// append hands rows to the writer, and waits when even its reserve is full.
func (p *pipeline) append(ctx context.Context, batch *sinks.Batch) error {
	for {
		err := p.writer.Append(batch)
		if !errors.Is(err, sinks.ErrFull) {
			return err
		}
		select {
		case <-p.writer.Room():
		case <-ctx.Done():
			return ctx.Err() // not appended, so never committed: read again next time
		}
	}
}

// backPressure stops fetching while the database is behind. Polling goes on,
// so that the group does not take us for dead.
func (p *pipeline) backPressure() {
	full := p.writer.Full()
	if full == p.paused {
		return
	}
	if p.paused = full; full {
		p.consumer.Pause()
		p.log.Warn("paused: the database is behind")
	} else {
		p.consumer.Resume()
		p.log.Info("resumed")
	}
}

// durable is called by the writer when a batch is in the tables.
func (p *pipeline) durable(batch *sinks.Batch) {
	offsets := make([]ingest.Offset, 0, len(batch.Progress))
	for _, pr := range batch.Progress {
		offsets = append(offsets, ingest.Offset{Topic: pr.Topic, Partition: pr.Partition, Offset: pr.Offset})
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.Drain)
	defer cancel()
	if err := p.consumer.Commit(ctx, offsets); err != nil {
		p.log.Warn("commit failed; these records will be read again", "error", err)
	}
}

// assigned takes partitions over: everything their last owner wrote comes back
// first. The consumer calls it between polls.
func (p *pipeline) assigned(ctx context.Context, parts []ingest.Partition, ownerMillis int64) {
	mine := map[ingest.Partition]bool{}
	for _, part := range parts {
		p.engine.Assign(part.Topic, part.Partition, ownerMillis)
		p.heard[part] = time.Now()
		mine[part] = true
	}
	if err := p.restore(ctx, mine); err != nil {
		p.fault = fmt.Errorf("restore: %w", err)
	}
}

// restore brings back the bindings inside the window, once, and the rows of
// the given partitions that can still be improved.
func (p *pipeline) restore(ctx context.Context, mine map[ingest.Partition]bool) error {
	progress, err := p.store.LoadProgress(ctx)
	if err != nil {
		return err
	}
	var watermark int64
	for _, pr := range progress {
		watermark = max(watermark, pr.WatermarkNanos)
	}
	var bindings []schemas.Binding
	if !p.loaded {
		err = p.store.LoadBindings(ctx, watermark-int64(p.cfg.Window), func(b *schemas.Binding) error {
			bindings = append(bindings, *b)
			return nil
		})
		if err != nil {
			return err
		}
	}
	var actions []*schemas.Action
	err = p.store.LoadActions(ctx, watermark-int64(p.cfg.AllowedLateness), func(a *schemas.Action) error {
		if mine[ingest.Partition{Topic: a.Evidence.Topic, Partition: a.Evidence.Partition}] {
			actions = append(actions, a)
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.loaded = true
	p.out.Reset()
	p.engine.Restore(&p.out, bindings, actions)
	if len(bindings)+len(actions) > 0 {
		p.log.Info("restored", "bindings", len(bindings), "actions", len(actions))
	}
	return p.append(ctx, &sinks.Batch{Actions: p.out.Actions})
}

// revoked gives partitions away with everything written and committed.
func (p *pipeline) revoked(ctx context.Context, parts []ingest.Partition) {
	if err := p.writer.Flush(ctx); err != nil {
		p.log.Warn("gave partitions away before all was written; their next owner reads it again", "error", err)
	}
	p.lost(parts)
}

// lost drops the waiting rows of partitions: they are somebody else's.
func (p *pipeline) lost(parts []ingest.Partition) {
	for _, part := range parts {
		p.engine.Unassign(part.Topic, part.Partition)
		delete(p.heard, part)
	}
}

// unreadable leaves a dead letter for what the consumer had to skip.
func (p *pipeline) unreadable(u ingest.Unreadable) {
	letter := schemas.DeadLetter{Reason: schemas.DeadTooLarge, Error: fmt.Sprintf("offsets %d to %d cannot be read: %v", u.From, u.Next-1, u.Err),
		Evidence: schemas.Evidence{Topic: u.Topic, Partition: u.Partition.Partition, Offset: u.From}}
	if err := p.writer.Append(&sinks.Batch{DeadLetters: []schemas.DeadLetter{letter}}); err != nil {
		p.fault = err
	}
}

// close leaves the group, which gives all partitions away: see revoked.
func (p *pipeline) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.Drain)
	defer cancel()
	return errors.Join(p.consumer.Close(ctx), p.writer.Close(ctx), p.store.Close())
}

// stitcher is the part of the path that needs no server: bytes in, rows out.
type stitcher struct {
	decoders []*ingest.Decoder
	decoded  []ingest.Decoded
	engine   *correlate.Engine
	out      correlate.Output
	skips    map[string]int64

	// unclassified counts, by source, the events whose type no rule knows. A
	// source that begins to count here has a new version.
	unclassified map[string]int64
}

// newStitcher makes the path; the registry may be nil.
func newStitcher(cfg *config, reg *registry.Registry) (stitcher, error) {
	set, err := loadSources(cfg.SourcesDir)
	if err != nil {
		return stitcher{}, usageError{err}
	}
	opts := cfg.decoder()
	opts.Registry = reg
	first, err := ingest.NewDecoder(set, opts)
	if err != nil {
		return stitcher{}, usagef("CATENA_SOURCES_DIR, CATENA_TOPIC_FORMATS or CATENA_MAX_RECORD: %w", err)
	}
	n := cfg.Decoders
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	s := stitcher{decoders: []*ingest.Decoder{first}, decoded: make([]ingest.Decoded, n), engine: correlate.New(cfg.correlator()),
		skips: map[string]int64{}, unclassified: map[string]int64{}}
	for len(s.decoders) < n {
		s.decoders = append(s.decoders, first.Clone())
	}
	return s, nil
}

// stitch decodes records side by side, correlates their events in order, and
// appends the rows to batch. The rows share nothing with the records' memory.
// With an error nothing was correlated: the records can be stitched again.
func (s *stitcher) stitch(records []schemas.Record, batch *sinks.Batch) error {
	share := (len(records) + len(s.decoders) - 1) / len(s.decoders)
	var wg sync.WaitGroup
	for i := range s.decoders {
		part := records[min(i*share, len(records)):min((i+1)*share, len(records))]
		s.decoded[i].Reset()
		if len(part) == 0 {
			continue
		}
		wg.Go(func() {
			for j := range part {
				s.decoders[i].Decode(&s.decoded[i], &part[j])
			}
		})
	}
	wg.Wait()
	for i := range s.decoded {
		if err := s.decoded[i].Err; err != nil {
			return err
		}
	}
	s.out.Reset()
	for i := range s.decoded {
		s.engine.Process(&s.out, s.decoded[i].Events)
		batch.DeadLetters = append(batch.DeadLetters, s.decoded[i].Dead...)
		for _, skip := range s.decoded[i].Skips {
			s.skips[skip.Name] += int64(skip.Count)
		}
		for _, n := range s.decoded[i].Unclassified {
			s.unclassified[s.decoded[i].Events[n].Source]++
		}
	}
	batch.Actions = append(batch.Actions, s.out.Actions...)
	batch.Bindings = append(batch.Bindings, s.out.Bindings...)
	return nil
}
