package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
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
	back     *comeback
	share    *sharing // with other instances; nil if this is the only one
	dead     *deadTopic
	lonely   atomic.Bool
	standing standing
	working  atomic.Int64 // since when the loop is at work, Unix milliseconds; zero between two turns
	meter    *meter
	traces   *traces            // nil if no collector is named
	registry *registry.Registry // nil if there is none

	// mu is held by the loop while it works on what a poll brought, and by the
	// consumer's callbacks, which may come in between.
	mu     sync.Mutex
	heard  map[ingest.Partition]time.Time // when a partition last spoke
	owners map[ingest.Partition]int64     // since when it is ours, Unix milliseconds
	paused bool
	fault  error // of a callback, which can return none

	began            time.Time
	based            bool // the bindings came back from the tables
	restoredBindings int
}

// newPipeline connects everything. Nothing is consumed before [pipeline.run].
func newPipeline(ctx context.Context, cfg *config, log *slog.Logger) (*pipeline, error) {
	p := &pipeline{cfg: cfg, log: log, heard: map[ingest.Partition]time.Time{}, owners: map[ingest.Partition]int64{}, began: time.Now()}
	p.meter = newMeter(p)
	var err error
	if p.traces, err = openTraces(ctx, cfg, log); err != nil {
		return nil, err
	}
	if p.registry, err = cfg.openRegistry(ctx, log); err != nil {
		return nil, err
	}
	if p.stitcher, err = newStitcher(cfg, p.registry); err != nil {
		return nil, err
	}
	settings := cfg.correlator()
	settings.Lookup = true // the tables are there to ask
	settings.Share = cfg.ShareTopic != ""
	p.engine = correlate.New(settings)
	if p.store, err = openStore(ctx, cfg); err != nil {
		return nil, err
	}
	if _, err = p.store.Migrate(ctx); err != nil {
		return nil, errors.Join(err, p.store.Close())
	}
	p.writer = sinks.NewWriter(meteredSink{amongOthers{p.store, p}, p.meter}, sinks.Options{MaxRows: cfg.BatchRows, MaxBytes: int(cfg.BatchBytes), MaxAge: cfg.BatchAge, Done: p.durable, Log: log,
		Record: refused{cfg.cluster(log), ingest.NewRedactor([]byte(cfg.HMACKey))}.record})
	p.recall = newRecall(meteredLookup{p.store, p.meter}, p.writer.Flush, log)
	if p.consumer, err = ingest.NewConsumer(ctx, cfg.consumer(log, p)); err != nil {
		return nil, errors.Join(err, p.writer.Close(ctx), p.store.Close())
	}
	if p.share, err = openSharing(ctx, cfg, log); err != nil {
		return nil, errors.Join(err, p.consumer.Close(ctx), p.writer.Close(ctx), p.store.Close())
	}
	if p.dead, err = openDeadTopic(ctx, cfg, log); err != nil {
		p.share.close(0)()
		return nil, errors.Join(err, p.consumer.Close(ctx), p.writer.Close(ctx), p.store.Close())
	}
	p.back = newComeback(p.store, p.share, cfg, log, p.meter)
	return p, nil
}

// run moves records until ctx ends, then drains, commits and leaves the group.
func (p *pipeline) run(ctx context.Context) error {
	recalling, stop := context.WithCancel(ctx)
	go p.recall.run(recalling)
	defer func() { stop(); <-p.recall.done }()
	defer p.meter.watch(ctx)()
	go p.mark(recalling)
	var records []schemas.Record
	err := p.prepare(ctx)
	p.meter.enter(phaseRunning)
	for err == nil && ctx.Err() == nil && p.fault == nil && !p.standing.ousted.Load() {
		began := p.traces.now()
		if records, err = p.consumer.Poll(ctx, records[:0]); err != nil {
			break
		}
		batch, end := p.traces.batch(ctx, began, records)
		err = p.work(batch, records)
		if end(err); err != nil {
			break
		}
		p.consumer.Allow()
		p.backPressure()
	}
	p.meter.enter(phaseStopping)
	if ctx.Err() != nil {
		err = nil // asked to stop
	} else if p.standing.ousted.Load() {
		err = errors.Join(err, fmt.Errorf("table progress names a later owner of partitions that consumer group %s says are ours: somebody outside of it writes rows of the same topics into database %s, "+
			"and ours would not count; give each group a database of its own. Started again, catena takes the partitions back and reads what it could not write", p.cfg.KafkaGroup, p.cfg.ClickHouseDatabase))
	}
	return errors.Join(err, p.fault, p.close())
}

// work takes in the records of one poll, and what the tables have answered.
// With an error nothing of the records is kept: they are read again.
func (p *pipeline) work(ctx context.Context, records []schemas.Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	batch := sinks.Batch{Since: time.Now()}
	p.working.Store(batch.Since.UnixMilli())
	defer p.working.Store(0)
	p.comeBack(&batch)
	p.hear(&batch)
	if err := p.stitch(ctx, records, &batch); err != nil {
		return err
	}
	p.meter.took(records, p.decoded)
	p.dead.copy(ctx, records, batch.DeadLetters)
	if !p.writer.Full() {
		p.remember(&batch)
	}
	p.account(records, &batch)
	p.meter.turned(p.engine, len(p.back.held))
	end := p.traces.step(ctx, "append")
	err := p.append(ctx, &batch)
	end(err)
	return err
}

// stitch decodes and correlates the records.
func (p *pipeline) stitch(ctx context.Context, records []schemas.Record, batch *sinks.Batch) error {
	end := p.traces.step(ctx, "decode")
	err := p.decode(records)
	if end(err); err != nil {
		return err
	}
	for i := range p.decoded {
		if err := p.lookBack(ctx, p.decoded[i].Events, batch); err != nil {
			return err
		}
	}
	end = p.traces.step(ctx, "process")
	p.correlate(batch)
	end(nil)
	p.passOn()
	return nil
}

// collect moves what the engine has said into the batch.
func (p *pipeline) collect(batch *sinks.Batch) {
	p.gather(batch)
	p.passOn()
}

// passOn asks the tables what the engine wants to know, and tells other
// instances what it knows.
func (p *pipeline) passOn() {
	p.recall.want(p.out.Wanted, p.out.WantedSince)
	p.share.tell(&p.out)
}

// remember lets the tables tell what memory no longer holds.
func (p *pipeline) remember(batch *sinks.Batch) {
	a, ok := p.recall.next(p.engine.Watermark() - int64(p.cfg.AllowedLateness))
	if !ok {
		return
	}
	p.out.Reset()
	p.engine.Found(&p.out, a.keys, a.bindings, a.actions)
	p.collect(batch)
}

// account notes how far each partition has come, in the same batch as its rows.
func (p *pipeline) account(records []schemas.Record, batch *sinks.Batch) {
	now := time.Now()
	for part, offset := range p.ledger.account(records, batch) {
		p.heard[part] = now
		batch.Progress = append(batch.Progress, schemas.Progress{Topic: part.Topic, Partition: part.Partition,
			Offset: offset, WatermarkNanos: p.engine.Watermark(), OwnerMillis: p.owners[part]})
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
		over := p.meter.wait("room in the writer: ClickHouse is behind")
		select {
		case <-p.writer.Room():
		case <-ctx.Done():
			err = ctx.Err() // not appended, so never committed: read again next time
		}
		if over(); ctx.Err() != nil {
			return err
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
	p.meter.wrote(batch)
	p.traces.wrote(batch)
	offsets := make([]ingest.Offset, 0, len(batch.Progress))
	for _, pr := range batch.Progress {
		if p.standing.overtaken(pr, 2*p.cfg.KafkaSessionTimeout) { // not written either, see amongOthers
			continue
		}
		offsets = append(offsets, ingest.Offset{Topic: pr.Topic, Partition: pr.Partition, Offset: pr.Offset})
	}
	if len(offsets) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.Drain)
	defer cancel()
	if err := p.share.flush(ctx); err != nil {
		p.log.Warn("not committed, since the other instances may not have heard of it; these records will be read again", "error", err)
		return
	}
	if err := p.dead.flush(ctx); err != nil {
		p.log.Warn("not committed, since dead letters may not be copied; these records will be read again", "error", err)
		return
	}
	if err := p.consumer.Commit(ctx, offsets); err != nil {
		p.log.Warn("commit failed; these records will be read again", "error", err)
	}
}

// unreadable leaves a dead letter for what the consumer had to skip.
func (p *pipeline) unreadable(u ingest.Unreadable) {
	letter := schemas.DeadLetter{Reason: schemas.DeadTooLarge, Error: fmt.Sprintf("offsets %d to %d cannot be read: %v", u.From, u.Next-1, u.Err),
		Evidence: schemas.Evidence{Topic: u.Topic, Partition: u.Partition.Partition, Offset: u.From}}
	if err := p.writer.Append(&sinks.Batch{DeadLetters: []schemas.DeadLetter{letter}}); err != nil {
		p.fault = err
	}
	p.ledger.gap(u.Partition, u.From+1, u.Next, schemas.SkipUnreadable)
}

// gap accounts for offsets that no record comes for.
func (p *pipeline) gap(g ingest.Gap) {
	name := schemas.SkipAbsent
	if g.Expired {
		name = schemas.SkipLost
	}
	p.ledger.gap(g.Partition, g.From, g.Next, name)
}

// close leaves the group, which gives all partitions away: see revoked.
func (p *pipeline) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.Drain)
	defer cancel()
	defer p.traces.close()
	p.back.close()
	defer p.share.close(p.cfg.Drain)()
	defer p.dead.close()
	return errors.Join(p.consumer.Close(ctx), p.writer.Close(ctx), p.store.Close())
}

// stitcher is the part of the path that needs no server: bytes in, rows out.
type stitcher struct {
	decoders []*ingest.Decoder
	decoded  []ingest.Decoded
	engine   *correlate.Engine
	out      correlate.Output
	ledger   ledger
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

// decode decodes records side by side. With an error they can be decoded again.
func (s *stitcher) decode(records []schemas.Record) error {
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
	return nil
}

// correlate takes in the decoded events in order and appends the rows to batch.
// They share nothing with the records' memory.
func (s *stitcher) correlate(batch *sinks.Batch) {
	s.out.Reset()
	for i := range s.decoded {
		s.engine.Process(&s.out, s.decoded[i].Events)
		batch.DeadLetters = append(batch.DeadLetters, s.decoded[i].Dead...)
		s.ledger.decoded(&s.decoded[i], batch)
		for _, skip := range s.decoded[i].Skips {
			s.skips[skip.Name] += int64(skip.Count)
		}
		for _, n := range s.decoded[i].Unclassified {
			s.unclassified[s.decoded[i].Events[n].Source]++
		}
	}
	s.gather(batch)
}

// gather appends what the engine has said to batch.
func (s *stitcher) gather(batch *sinks.Batch) {
	batch.Actions = append(batch.Actions, s.out.Actions...)
	batch.Bindings = append(batch.Bindings, s.out.Bindings...)
	s.ledger.duplicates(s.out.Duplicates, batch)
}
