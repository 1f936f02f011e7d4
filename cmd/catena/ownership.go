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
// that its last owner told has been heard, and it is known which rows can still
// be improved. These come back while it is read; who does not hear of what others
// know waits for them. Later it is looked again whether the last owner has
// written since. The tables are read beside the loop, which takes in what has
// come between two polls.

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
	held  map[ingest.Partition]*restoring // ours, and not read yet
	jobs  map[ingest.Partition]*restoring // not all rows of them are back yet
}

// restoring is one assignment on its way back.
type restoring struct {
	parts    []ingest.Partition
	owner    int64                     // since when they are ours, Unix milliseconds
	taken    map[ingest.Partition]bool // from us, meanwhile
	stop     context.CancelFunc
	since    time.Time
	bindings int
	rows     int
	back     func() // to be called when all rows are back
}

// restored is a part of what has come back.
type restored struct {
	job      *restoring // nil for what is known before any partition is ours
	bindings []schemas.Binding
	actions  []*schemas.Action
	uses     []schemas.Use // the first of tokens
	older    []schemas.Key // left in the tables, to be looked up when somebody uses them
	done     bool
	again    bool // rows that were written after they had come back

	named    bool               // it is known which rows of a job come now,
	coming   []schemas.ID       // namely those of these events,
	progress []schemas.Progress // and how far all partitions are accounted for
}

// How many bindings or keys come back at a time, and how many rows.
const (
	chunkBindings = 5000
	chunkRows     = 1000
)

func newComeback(store *clickhouse.Store, share *sharing, cfg *config, log *slog.Logger, m *meter) *comeback {
	c := &comeback{store: store, share: share, cfg: cfg, log: log, meter: m, found: make(chan restored, 2), held: map[ingest.Partition]*restoring{}, jobs: map[ingest.Partition]*restoring{}}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.wg.Go(func() {
		c.insist(c.ctx, "bindings", "all records", c.loadBase)
	})
	return c
}

// close ends the reading.
func (c *comeback) close() {
	c.stop()
	c.wg.Wait()
}

// begin reads back what partitions need that have just become ours.
func (c *comeback) begin(parts []ingest.Partition, ownerMillis int64) {
	job := &restoring{parts: parts, owner: ownerMillis, taken: map[ingest.Partition]bool{}, since: time.Now(), back: func() {}}
	ctx, stop := context.WithCancel(c.ctx)
	job.stop = stop
	for _, p := range parts {
		c.jobs[p], c.held[p] = job, job
	}
	c.wg.Go(func() {
		defer stop()
		c.insist(ctx, "rows", "records of these partitions", func(ctx context.Context) error { return c.loadPartitions(ctx, job) })
		c.lookAgain(ctx, job)
	})
}

// lookAgain brings back what the last owner of partitions wrote after we had
// read their rows: its insert was under way when we claimed them, or it shares
// with nobody and does not ask. What it made of a row, knowing less, would stay.
func (c *comeback) lookAgain(ctx context.Context, job *restoring) {
	for _, after := range []time.Duration{c.cfg.KafkaSessionTimeout, 4 * c.cfg.KafkaSessionTimeout} {
		select {
		case <-time.After(after - time.Since(job.since)):
		case <-ctx.Done():
			return
		}
		c.insist(ctx, "rows that were written late", "nothing", func(ctx context.Context) error {
			watermark, _, err := c.newest(ctx)
			if err != nil {
				return err
			}
			within := time.Since(job.since) + lateWrites
			return inChunks(chunkRows, func(chunk []*schemas.Action) error { return c.give(ctx, restored{actions: chunk, again: true}) },
				func(add func(*schemas.Action) error) error {
					return c.store.LoadOvertaken(ctx, watermark-int64(c.cfg.AllowedLateness), places(job.parts), job.owner, within, add)
				})
		})
	}
}

// lateWrites is how much earlier than a partition became ours a row may have
// been written that we did not see when we read them.
const lateWrites = 10 * time.Second

func places(parts []ingest.Partition) []clickhouse.Place {
	out := make([]clickhouse.Place, len(parts))
	for i, p := range parts {
		out[i] = clickhouse.Place{Topic: p.Topic, Partition: p.Partition}
	}
	return out
}

// end forgets partitions that are no longer ours.
func (c *comeback) end(parts []ingest.Partition) {
	for _, p := range parts {
		job := c.jobs[p]
		if job == nil {
			continue
		}
		delete(c.jobs, p)
		delete(c.held, p)
		if job.taken[p] = true; len(job.taken) == len(job.parts) {
			job.stop()
			job.back()
		}
	}
}

// insist repeats a load until it succeeds or ctx ends; waiting says who waits for
// it.
func (c *comeback) insist(ctx context.Context, what, waiting string, load func(context.Context) error) {
	failing := false
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		err := load(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && failing:
			c.log.Info("reading back goes on", "of", what)
			return
		case err == nil:
			return
		case !failing:
			failing = true
			c.meter.restoreFaults.WithLabelValues().Inc()
			c.log.Warn("cannot read back from the tables, trying on", "of", what, "waiting", waiting, "error", err)
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

// loadBase brings back the bindings of the window, the names of those that are
// older, and what instances share, and waits for what they tell now.
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
	if c.share != nil {
		since := watermark - int64(c.cfg.AllowedLateness)
		if err := inChunks(chunkRows, func(chunk []*schemas.Action) error { return c.give(ctx, restored{actions: chunk}) },
			func(add func(*schemas.Action) error) error {
				return c.store.LoadShared(ctx, since, add)
			}); err != nil {
			return err
		}
		if err := inChunks(chunkBindings, func(chunk []schemas.Use) error { return c.give(ctx, restored{uses: chunk}) },
			func(add func(schemas.Use) error) error {
				return c.store.LoadFirstUses(ctx, min(since, watermark-int64(sharedFor)), add)
			}); err != nil {
			return err
		}
	}
	if err := c.share.catchUp(ctx); err != nil {
		return err
	}
	return c.give(ctx, restored{done: true})
}

// bindings brings back the bindings since a time, of all partitions if parts
// is nil.
func (c *comeback) bindings(ctx context.Context, job *restoring, parts []clickhouse.Place, since int64) error {
	return inChunks(chunkBindings, func(chunk []schemas.Binding) error { return c.give(ctx, restored{job: job, bindings: chunk}) },
		func(add func(schemas.Binding) error) error {
			return c.store.LoadBindings(ctx, since, parts, func(b *schemas.Binding) error { return add(*b) })
		})
}

func (c *comeback) older(ctx context.Context, load func(func(schemas.Key) error) error) error {
	return inChunks(chunkBindings, func(chunk []schemas.Key) error { return c.give(ctx, restored{older: chunk}) }, load)
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
	parts := places(job.parts)
	if c.share != nil { // see amongOthers
		if err := c.store.Claim(ctx, parts, job.owner); err != nil {
			return err
		}
	}
	if err := c.share.catchUp(ctx); err != nil {
		return err
	}
	watermark, progress, err := c.newest(ctx)
	if err != nil {
		return err
	}
	size := chunkRows
	if c.share == nil {
		size = math.MaxInt // one may rest on a call or a decision in another
		if err := c.bindings(ctx, job, parts, watermark-int64(c.cfg.Window)); err != nil {
			return err
		}
	}
	since := watermark - int64(c.cfg.AllowedLateness)
	ids, cut, err := c.store.EventsSince(ctx, parts, since, max(1000, int(c.cfg.Memory)/2/rowBytes))
	if err == nil {
		err = c.give(ctx, restored{job: job, named: true, coming: ids, progress: progress})
	}
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
	return c.give(ctx, restored{job: job, done: true})
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
	if len(p.back.jobs)+len(p.back.found) == 0 && p.based || p.writer.Full() {
		return
	}
	patience := 50 * time.Millisecond
	if len(p.heard) == len(p.back.held) { // nothing of ours is read yet
		patience = 500 * time.Millisecond
	}
	wait := 10 * time.Millisecond // and then hear what others say
	if p.based && len(p.back.held) == 0 {
		wait = 0 // what is to be read does not wait for rows
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		select {
		case r := <-p.back.found:
			if p.takeBack(batch, r); p.based && len(p.back.jobs) == 0 {
				return
			}
		case <-time.After(wait):
			return
		}
	}
}

func (p *pipeline) takeBack(batch *sinks.Batch, r restored) {
	p.out.Reset()
	p.engine.Older(r.older)
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
	if r.again {
		actions = slices.DeleteFunc(actions, func(a *schemas.Action) bool {
			return p.owners[ingest.Partition{Topic: a.Evidence.Topic, Partition: a.Evidence.Partition}] == 0
		})
	}
	p.engine.Restore(&p.out, r.bindings, actions)
	p.engine.Used(&p.out, r.uses)
	p.meter.tookBack(len(r.bindings), len(actions))
	p.collect(batch)
	switch {
	case r.job == nil:
		if p.restoredBindings += len(r.bindings); r.done {
			p.based = true
			p.log.Info("bindings restored", "bindings", p.restoredBindings, "seconds", time.Since(p.began).Round(time.Millisecond).Seconds())
		}
	case len(r.job.taken) == len(r.job.parts): // all were taken from us meanwhile
	case r.named:
		p.ledger.known(r.progress)
		r.job.back() // those of an attempt before
		r.job.back = p.engine.Coming(r.coming)
		if p.share != nil {
			p.release(r.job)
		}
	case r.done:
		r.job.back()
		p.release(r.job)
		p.finish(r.job)
	}
}

// release lets the partitions of a job be read.
func (p *pipeline) release(job *restoring) {
	var ready []ingest.Partition
	for _, part := range job.parts {
		if p.back.held[part] == job {
			delete(p.back.held, part)
			ready = append(ready, part)
		}
	}
	if len(ready) == 0 {
		return
	}
	took := time.Since(job.since)
	p.meter.restored(took)
	p.log.Info("reading partitions", "partitions", len(ready), "seconds", took.Round(time.Millisecond).Seconds())
	p.consumer.Release(ready)
}

// finish ends a job whose rows are all back.
func (p *pipeline) finish(job *restoring) {
	n := 0
	for _, part := range job.parts {
		if p.back.jobs[part] == job {
			delete(p.back.jobs, part)
			n++
		}
	}
	p.log.Info("partitions restored", "partitions", n, "actions", job.rows, "bindings", job.bindings, "seconds", time.Since(job.since).Round(time.Millisecond).Seconds())
}

// lastOwner is the highest number under which one of the partitions was ours or
// somebody's, as far as it is in the tables.
func (p *pipeline) lastOwner(ctx context.Context, parts []ingest.Partition) (last int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second) // the group waits
	defer cancel()
	progress, err := p.store.LoadProgress(ctx)
	for _, pr := range progress {
		if slices.Contains(parts, ingest.Partition{Topic: pr.Topic, Partition: pr.Partition}) {
			last = max(last, pr.OwnerMillis)
		}
	}
	return last, err
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
	p.back.begin(parts, ownerMillis)
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
	p.back.insist(ctx, "rows of late records", "all records", func(ctx context.Context) (err error) {
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
