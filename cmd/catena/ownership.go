package main

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"catena/ingest"
	"catena/schemas"
	"catena/sinks"
	"catena/sinks/clickhouse"
)

// Taking partitions over and giving them away.
//
// We join the group once we know what is known: the bindings of the window, and
// what other instances tell. A partition that is then assigned is read when all
// that its last owner told has been heard, and the rows are back that can still
// be improved. The tables are read beside the loop, which takes in what has come
// between two polls; partitions that are ready go on meanwhile.

// comeback reads back from the tables. Its methods are called with the
// pipeline's lock held.
type comeback struct {
	store *clickhouse.Store
	share *sharing
	cfg   *config
	log   *slog.Logger
	meter *meter

	ctx   context.Context
	stop  context.CancelFunc
	wg    sync.WaitGroup
	found chan restored
	jobs  map[ingest.Partition]*restoring
}

// restoring is one assignment on its way back.
type restoring struct {
	parts    []ingest.Partition
	taken    map[ingest.Partition]bool // from us, meanwhile
	stop     context.CancelFunc
	since    time.Time
	bindings int
	rows     int
}

// restored is a part of what has come back.
type restored struct {
	job      *restoring // nil for what is known before any partition is ours
	bindings []schemas.Binding
	actions  []*schemas.Action
	older    []schemas.Key      // left in the tables, to be looked up when somebody uses them
	progress []schemas.Progress // of all partitions, with done
	done     bool
}

// chunkRows is how many rows or keys come back at a time.
const chunkRows = 5000

func newComeback(store *clickhouse.Store, share *sharing, cfg *config, log *slog.Logger, m *meter) *comeback {
	c := &comeback{store: store, share: share, cfg: cfg, log: log, meter: m, found: make(chan restored, 2), jobs: map[ingest.Partition]*restoring{}}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.wg.Go(func() {
		c.insist(c.ctx, "bindings", c.loadBase)
	})
	return c
}

// close ends the reading.
func (c *comeback) close() {
	c.stop()
	c.wg.Wait()
}

// begin reads back what partitions need that have just become ours.
func (c *comeback) begin(parts []ingest.Partition) {
	job := &restoring{parts: parts, taken: map[ingest.Partition]bool{}, since: time.Now()}
	ctx, stop := context.WithCancel(c.ctx)
	job.stop = stop
	for _, p := range parts {
		c.jobs[p] = job
	}
	c.wg.Go(func() {
		defer stop()
		c.insist(ctx, "rows", func(ctx context.Context) error { return c.loadPartitions(ctx, job) })
	})
}

// end forgets partitions that are no longer ours.
func (c *comeback) end(parts []ingest.Partition) {
	for _, p := range parts {
		job := c.jobs[p]
		if job == nil {
			continue
		}
		delete(c.jobs, p)
		if job.taken[p] = true; len(job.taken) == len(job.parts) {
			job.stop()
		}
	}
}

// insist repeats a load until it succeeds or ctx ends; nothing is read before.
func (c *comeback) insist(ctx context.Context, what string, load func(context.Context) error) {
	failing := false
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		err := load(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && failing:
			c.log.Info("restoring goes on", "of", what)
			return
		case err == nil:
			return
		case !failing:
			failing = true
			c.meter.restoreFaults.WithLabelValues().Inc()
			c.log.Warn("cannot restore from the tables, trying on; the partitions wait", "of", what, "error", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// give hands a part over to the loop.
func (c *comeback) give(ctx context.Context, r restored) error {
	select {
	case c.found <- r:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// newest is the latest watermark that any owner reported, and all reports.
func (c *comeback) newest(ctx context.Context) (int64, []schemas.Progress, error) {
	progress, err := c.store.LoadProgress(ctx)
	var watermark int64
	for _, p := range progress {
		watermark = max(watermark, p.WatermarkNanos)
	}
	return watermark, progress, err
}

// loadBase brings back the bindings of the window, and the names of those that
// are older, and waits for what other instances have said.
func (c *comeback) loadBase(ctx context.Context) error {
	watermark, _, err := c.newest(ctx)
	if err != nil {
		return err
	}
	since := watermark - int64(c.cfg.Window)
	if err := c.bindings(ctx, nil, nil, since); err != nil {
		return err
	}
	if err := c.older(ctx, func(fn func(schemas.Key) error) error { return c.store.LoadOlderKeys(ctx, since, fn) }); err != nil {
		return err
	}
	if err := c.share.catchUp(ctx); err != nil {
		return err
	}
	return c.give(ctx, restored{done: true})
}

// bindings brings back the bindings since a time, of all partitions if parts
// is nil.
func (c *comeback) bindings(ctx context.Context, job *restoring, parts []clickhouse.Place, since int64) error {
	return inChunks(chunkRows, func(chunk []schemas.Binding) error { return c.give(ctx, restored{job: job, bindings: chunk}) },
		func(add func(schemas.Binding) error) error {
			return c.store.LoadBindings(ctx, since, parts, func(b *schemas.Binding) error { return add(*b) })
		})
}

func (c *comeback) older(ctx context.Context, load func(func(schemas.Key) error) error) error {
	return inChunks(chunkRows, func(chunk []schemas.Key) error { return c.give(ctx, restored{older: chunk}) }, load)
}

// inChunks hands on what a load brings, so much at a time.
func inChunks[T any](size int, give func([]T) error, load func(add func(T) error) error) error {
	var chunk []T
	err := load(func(v T) error {
		if chunk = append(chunk, v); len(chunk) < size {
			return nil
		}
		full := chunk
		chunk = nil
		return give(full)
	})
	if err == nil && len(chunk) > 0 {
		err = give(chunk)
	}
	return err
}

// rowBytes is about what a waiting row takes: half of the memory is for those
// that come back, and the rest of them is looked up when it is needed.
const rowBytes = 2 << 10

// loadPartitions brings back the rows of partitions that can still be improved.
// Whoever hears of what others know hears all that these rows rest on; who does
// not reads it with them, since others may have written it after we began.
func (c *comeback) loadPartitions(ctx context.Context, job *restoring) error {
	if err := c.share.catchUp(ctx); err != nil {
		return err
	}
	watermark, progress, err := c.newest(ctx)
	if err != nil {
		return err
	}
	parts := make([]clickhouse.Place, len(job.parts))
	for i, p := range job.parts {
		parts[i] = clickhouse.Place{Topic: p.Topic, Partition: p.Partition}
	}
	size := chunkRows
	if c.share == nil {
		size = math.MaxInt // one may rest on a call or a decision in another
		if err := c.bindings(ctx, job, parts, watermark-int64(c.cfg.Window)); err != nil {
			return err
		}
	}
	since := watermark - int64(c.cfg.AllowedLateness)
	cut, err := c.store.RowsSince(ctx, parts, since, max(1000, int(c.cfg.Memory)/2/rowBytes))
	if err != nil {
		return err
	}
	if err := inChunks(size, func(chunk []*schemas.Action) error { return c.give(ctx, restored{job: job, actions: chunk}) },
		func(add func(*schemas.Action) error) error { return c.store.LoadActions(ctx, cut, parts, add) }); err != nil {
		return err
	}
	if cut > since {
		err = c.older(ctx, func(fn func(schemas.Key) error) error { return c.store.LoadRowKeys(ctx, parts, since, cut, fn) })
		if err != nil {
			return err
		}
	}
	return c.give(ctx, restored{job: job, progress: progress, done: true})
}

// prepare takes in what is known before we join the group.
func (p *pipeline) prepare(ctx context.Context) error {
	p.meter.enter(phaseRestoring)
	for !p.based && ctx.Err() == nil {
		if err := p.work(ctx, nil); err != nil {
			return err
		}
		if p.writer.Full() {
			select {
			case <-p.writer.Room():
			case <-ctx.Done():
			}
		}
	}
	return ctx.Err()
}

// comeBack takes in what has come back from the tables since the last call,
// for as long as records can wait.
func (p *pipeline) comeBack(batch *sinks.Batch) {
	if len(p.back.jobs) == 0 && p.based || p.writer.Full() {
		return
	}
	patience := 50 * time.Millisecond
	if len(p.heard) == len(p.back.jobs) { // nothing of ours is read yet
		patience = 500 * time.Millisecond
	}
	for timer := time.After(patience); ; {
		select {
		case r := <-p.back.found:
			if p.takeBack(batch, r); len(p.back.jobs) == 0 {
				return
			}
		case <-timer:
			return
		}
	}
}

func (p *pipeline) takeBack(batch *sinks.Batch, r restored) {
	p.out.Reset()
	p.engine.Older(r.older)
	p.ledger.known(r.progress)
	actions := r.actions
	if r.job != nil {
		r.job.bindings += len(r.bindings)
		r.job.rows += len(r.actions)
		if len(r.job.taken) > 0 {
			actions = slices.DeleteFunc(actions, func(a *schemas.Action) bool {
				return r.job.taken[ingest.Partition{Topic: a.Evidence.Topic, Partition: a.Evidence.Partition}]
			})
		}
	}
	p.engine.Restore(&p.out, r.bindings, actions)
	p.meter.tookBack(len(r.bindings), len(actions))
	p.collect(batch)
	if r.job == nil {
		p.restoredBindings += len(r.bindings)
		if r.done {
			p.based = true
			p.log.Info("bindings restored", "bindings", p.restoredBindings, "seconds", time.Since(p.began).Round(time.Millisecond).Seconds())
		}
		return
	}
	if r.done {
		p.release(r.job)
	}
}

// release lets the partitions be read whose rows are back.
func (p *pipeline) release(job *restoring) {
	var ready []ingest.Partition
	for _, part := range job.parts {
		if p.back.jobs[part] == job {
			delete(p.back.jobs, part)
			ready = append(ready, part)
		}
	}
	took := time.Since(job.since)
	p.log.Info("partitions restored", "partitions", len(ready), "actions", job.rows, "bindings", job.bindings, "seconds", took.Round(time.Millisecond).Seconds())
	p.meter.restored(took)
	p.consumer.Release(ready)
}

// assigned takes partitions over. They are read once everything their last
// owner wrote has come back.
func (p *pipeline) assigned(_ context.Context, parts []ingest.Partition, ownerMillis int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, part := range parts {
		p.engine.Assign(part.Topic, part.Partition, ownerMillis)
		p.heard[part], p.owners[part] = time.Now(), ownerMillis
	}
	p.back.begin(parts)
	go p.checkCompany()
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
	p.mu.Lock()
	defer p.mu.Unlock()
	p.back.end(parts)
	for _, part := range parts {
		p.engine.Unassign(part.Topic, part.Partition)
		delete(p.heard, part)
		delete(p.owners, part)
	}
	p.meter.lost(parts)
}

// lookBack brings back the rows of late records that are read again, so that
// what is known of them is not lost with a poorer row. The pipeline waits for
// the answer: without it there is nothing right to write.
func (p *pipeline) lookBack(ctx context.Context, events []schemas.Event, batch *sinks.Batch) error {
	ids, first, last := p.engine.Unknown(nil, events)
	if len(ids) == 0 {
		return nil
	}
	defer p.traces.step(ctx, "look_back")(nil)
	defer p.meter.wait("ClickHouse, to look late records up")()
	var actions []*schemas.Action
	p.back.insist(ctx, "rows of late records", func(ctx context.Context) (err error) {
		actions, err = p.store.LoadEvents(ctx, ids, first, last)
		return err
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if len(actions) > 0 {
		p.out.Reset()
		p.engine.Remember(&p.out, actions)
		p.collect(batch)
	}
	return nil
}
