package sinks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"catena/schemas"
)

// Options of a [Writer]; the zero value of each field means its default.
type Options struct {
	MaxRows  int           // rows of one batch; 50,000
	MaxBytes int           // estimated bytes of one batch; 64 MiB
	MaxAge   time.Duration // how long a row may wait for its batch to fill; 1 s

	// MaxPendingRows and MaxPendingBytes bound what is appended and not yet
	// durable: from there on [Writer.Full] reports true, and at twice as much
	// [Writer.Append] refuses. Four batches.
	MaxPendingRows, MaxPendingBytes int

	// MinBackoff is the wait after a first failure; it doubles up to
	// MaxBackoff. Half of each wait is random. 100 ms, 4 s: when the database
	// is back, nothing waits longer than that.
	MinBackoff, MaxBackoff time.Duration
	// WriteTimeout bounds one attempt, so that a connection that answers
	// nothing becomes a failure; 2 min.
	WriteTimeout time.Duration

	// Record, if set, returns what the record at a place holds, with its secrets
	// replaced and cut to a limit: for the dead letters of rows that the sink
	// refuses, as rows do not keep their record. It is asked for at most a
	// hundred of a batch; the others' records are read again by their place.
	Record func(context.Context, schemas.Evidence) ([]byte, error)
	// Done is called with each batch once all its rows are durable, in order
	// and from one goroutine; the next batch waits until it returned. It may
	// not call the Writer's Flush or Close.
	Done func(*Batch)
	// Log gets one line for each change of state.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	o.MaxRows = orDefault(o.MaxRows, 50_000)
	o.MaxBytes = orDefault(o.MaxBytes, 64<<20)
	o.MaxAge = orDefault(o.MaxAge, time.Second)
	o.MaxPendingRows = orDefault(o.MaxPendingRows, 4*o.MaxRows)
	o.MaxPendingBytes = orDefault(o.MaxPendingBytes, 4*o.MaxBytes)
	o.MinBackoff = orDefault(o.MinBackoff, 100*time.Millisecond)
	o.MaxBackoff = orDefault(o.MaxBackoff, 4*time.Second)
	o.WriteTimeout = orDefault(o.WriteTimeout, 2*time.Minute)
	if o.Done == nil {
		o.Done = func(*Batch) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func orDefault[T int | time.Duration](v, d T) T {
	if v <= 0 {
		return d
	}
	return v
}

// ErrFull is what [Writer.Append] returns to a caller that went on appending
// when [Writer.Full] said to pause. Nothing was taken.
var ErrFull = errors.New("sink: the buffer is full: pause while Full reports true")

// ErrClosed is what [Writer.Append] and [Writer.Flush] return after
// [Writer.Close] was called.
var ErrClosed = errors.New("sink: the writer is closed")

// Writer forms batches and writes them, one at a time and in order. See the
// package comment for what it promises. Its methods may be called from several
// goroutines.
type Writer struct {
	sink    Sink
	options Options

	wake    chan struct{} // capacity 1: the queue changed
	ctx     context.Context
	giveUp  context.CancelFunc
	stopped chan struct{} // closed when run has returned

	mu       sync.Mutex
	queue    []*chunk // in order; the first may be under way
	made     uint64   // number of the newest chunk
	done     uint64   // number of the newest chunk that is durable
	closing  bool
	progress chan struct{} // closed and replaced whenever a chunk is done
	room     chan struct{} // closed when there is room; nil while nobody waits
	stats    Stats

	// The following are the run goroutine's own.
	seen     map[schemas.ID]int // of dedup, kept for its memory
	down     time.Time          // since when attempts fail; zero while they do not
	attempts int                // that have failed since
}

// chunk is a batch in the making. Once sealed, nothing is added to it.
type chunk struct {
	batch       Batch
	rows, bytes int
	number      uint64
	since       time.Time // when its first row came, or began to be made
	sealed      bool
}

// Stats counts since the start; Pending is now.
type Stats struct {
	Batches  uint64 // durable
	Rows     uint64 // durable, of all tables
	Retries  uint64 // failed attempts that were or will be repeated
	Rejected uint64 // rows that the sink refused for good and that became dead letters
	Replaced uint64 // rows left out because their batch held a newer version

	PendingRows, PendingBytes int
	Oldest                    time.Time // since when what is pending waits; zero if nothing is
	Down                      time.Time // since when the sink takes nothing; zero while it does
}

// NewWriter starts a writer; [Writer.Close] stops it. The sink stays the
// caller's, who closes it afterwards.
func NewWriter(sink Sink, o Options) *Writer {
	w := &Writer{
		sink:     sink,
		options:  o.withDefaults(),
		wake:     make(chan struct{}, 1),
		stopped:  make(chan struct{}),
		progress: make(chan struct{}),
		seen:     map[schemas.ID]int{},
	}
	w.ctx, w.giveUp = context.WithCancel(context.Background())
	go w.run()
	return w
}

// Append takes the rows of b, all of them or, with an error, none. It never
// waits. The rows of one call stay in one batch, so that progress never
// separates from the rows it speaks of. The slices of b stay the caller's.
//
// Whoever appends looks at [Writer.Full] and pauses while it reports true.
func (w *Writer) Append(b *Batch) error {
	rows, bytes := b.Rows(), b.Bytes()
	if rows == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing {
		return ErrClosed
	}
	if w.stats.PendingRows >= 2*w.options.MaxPendingRows || w.stats.PendingBytes >= 2*w.options.MaxPendingBytes {
		return ErrFull
	}
	c := w.open()
	if !b.Since.IsZero() && b.Since.Before(c.since) {
		c.since = b.Since
	}
	c.batch.Actions = append(c.batch.Actions, b.Actions...)
	c.batch.Bindings = append(c.batch.Bindings, b.Bindings...)
	c.batch.DeadLetters = append(c.batch.DeadLetters, b.DeadLetters...)
	c.batch.Skips = append(c.batch.Skips, b.Skips...)
	c.batch.ItemCounts = append(c.batch.ItemCounts, b.ItemCounts...)
	c.batch.Progress = append(c.batch.Progress, b.Progress...)
	c.rows += rows
	c.bytes += bytes
	w.stats.PendingRows += rows
	w.stats.PendingBytes += bytes
	if c.rows >= w.options.MaxRows || c.bytes >= w.options.MaxBytes {
		c.sealed = true
		w.signal()
	}
	return nil
}

// open returns the chunk that takes rows, a new one if the last is sealed.
func (w *Writer) open() *chunk {
	if n := len(w.queue); n > 0 && !w.queue[n-1].sealed {
		return w.queue[n-1]
	}
	w.made++
	c := &chunk{number: w.made, since: time.Now()}
	w.queue = append(w.queue, c)
	w.signal() // so that its age is watched
	return c
}

func (w *Writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Full reports whether so much is pending that the caller should pause.
func (w *Writer) Full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.full()
}

func (w *Writer) full() bool {
	return w.stats.PendingRows >= w.options.MaxPendingRows || w.stats.PendingBytes >= w.options.MaxPendingBytes
}

// Room returns a channel that is closed when there is room, at once if there
// is room now.
func (w *Writer) Room() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.full() {
		now := make(chan struct{})
		close(now)
		return now
	}
	if w.room == nil {
		w.room = make(chan struct{})
	}
	return w.room
}

// Flush writes what was appended so far without waiting for more, and returns
// when it is durable and Done has returned. After an error (the context's, or
// ErrClosed when the writer gave up) the rows may still become durable later.
func (w *Writer) Flush(ctx context.Context) error {
	w.mu.Lock()
	if n := len(w.queue); n > 0 && !w.queue[n-1].sealed {
		w.queue[n-1].sealed = true
		w.signal()
	}
	target := w.made
	w.mu.Unlock()
	for {
		w.mu.Lock()
		done, progress := w.done, w.progress
		w.mu.Unlock()
		if done >= target {
			return nil
		}
		select {
		case <-progress:
		case <-w.stopped:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("sink: flush: %w", ctx.Err())
		}
	}
}

// Close takes no more rows, writes all that are pending and stops. When ctx
// ends first it gives up: the rows that are not durable are left, their
// progress is not done, and whoever reads their records again writes them
// again. Close may be called twice.
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	w.closing = true
	w.signal()
	w.mu.Unlock()

	var err error
	select {
	case <-w.stopped:
	case <-ctx.Done():
		err = ctx.Err()
	}
	w.giveUp()
	<-w.stopped
	if n := w.Stats().PendingRows; n > 0 {
		return fmt.Errorf("sink: close: %d rows were not written: %w", n, errors.Join(err, ErrClosed))
	}
	return nil
}

// Stats returns the counters.
func (w *Writer) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stats
	if len(w.queue) > 0 {
		s.Oldest = w.queue[0].since
	}
	return s
}

// run is the writer's one goroutine.
func (w *Writer) run() {
	defer close(w.stopped)
	for {
		c := w.next()
		if c == nil {
			return
		}
		w.dedup(&c.batch)
		if err := w.write(&c.batch); err != nil {
			return // only when told to give up
		}
		w.recovered()
		w.options.Done(&c.batch)
		w.finish(c)
	}
}

// next waits for a chunk that is due, seals it and returns it; nil when the
// writer is closing and nothing is left.
func (w *Writer) next() *chunk {
	for {
		c, wait := w.due()
		if c != nil {
			return c
		}
		if wait < 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-w.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// idle is how long next sleeps when nothing is pending; a wake ends it.
const idle = time.Hour

// due returns the first chunk if it is due, or else how long to wait for it;
// negative when there is nothing to wait for any more.
func (w *Writer) due() (*chunk, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		if w.closing {
			return nil, -1
		}
		return nil, idle
	}
	c := w.queue[0]
	age := time.Since(c.since)
	if c.sealed || w.closing || age >= w.options.MaxAge {
		c.sealed = true
		return c, 0
	}
	return nil, w.options.MaxAge - age
}

// finish takes a durable chunk off the queue and tells who waits.
func (w *Writer) finish(c *chunk) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue[0] = nil
	w.queue = w.queue[1:]
	w.done = c.number
	w.stats.Batches++
	w.stats.Rows += uint64(c.batch.Rows())
	w.stats.PendingRows -= c.rows
	w.stats.PendingBytes -= c.bytes
	close(w.progress)
	w.progress = make(chan struct{})
	if w.room != nil && !w.full() {
		close(w.room)
		w.room = nil
	}
}

// dedup keeps, of several versions of one event, the newest, and of several
// positions of one partition, the last. In a burst most rows improve within
// the second, so this saves the database the work of merging them.
func (w *Writer) dedup(b *Batch) {
	before := b.Rows()
	clear(w.seen)
	kept := b.Actions[:0]
	for _, a := range b.Actions {
		i, again := w.seen[a.ID]
		switch {
		case !again:
			w.seen[a.ID] = len(kept)
			kept = append(kept, a)
		case a.Version >= kept[i].Version:
			kept[i] = a
		}
	}
	clear(b.Actions[len(kept):])
	b.Actions = kept
	b.Progress = lastProgress(b.Progress)
	w.count(func(s *Stats) { s.Replaced += uint64(before - b.Rows()) })
}

// lastProgress keeps the last row of each partition, in the order in which the
// partitions first came.
func lastProgress(rows []schemas.Progress) []schemas.Progress {
	type place struct {
		topic     string
		partition int32
	}
	seen := make(map[place]int, 16)
	kept := rows[:0]
	for _, p := range rows {
		i, again := seen[place{p.Topic, p.Partition}]
		if again {
			kept[i] = p
			continue
		}
		seen[place{p.Topic, p.Partition}] = len(kept)
		kept = append(kept, p)
	}
	return kept
}

// write makes the batch durable, table by table, progress last. Rows that are
// refused for good move to the batch's dead letters. It returns an error only
// when told to give up.
func (w *Writer) write(b *Batch) (err error) {
	reject := func(e schemas.Evidence, text string) {
		b.DeadLetters = append(b.DeadLetters, schemas.DeadLetter{Evidence: e, Reason: schemas.DeadRejected, Error: text})
		w.count(func(s *Stats) { s.Rejected++ })
	}
	decoded := len(b.DeadLetters) // those behind are rejected
	// Bindings first: whoever reads a row then finds what it rests on.
	b.Bindings, err = writeOrReject(w, b.Bindings,
		func(rows []schemas.Binding) Batch { return Batch{Bindings: rows} },
		func(x schemas.Binding, err error) {
			reject(x.Evidence, fmt.Sprintf("the binding of %s to %s was refused: %v", x.Child, x.Parent, err))
		})
	if err != nil {
		return err
	}
	b.Actions, err = writeOrReject(w, b.Actions,
		func(rows []*schemas.Action) Batch { return Batch{Actions: rows} },
		func(a *schemas.Action, err error) {
			reject(a.Evidence, fmt.Sprintf("the row of event %s was refused: %v", a.ID, err))
		})
	if err != nil {
		return err
	}
	w.fetchRecords(b.DeadLetters[decoded:])
	// These hold nothing of which the database could refuse one row and
	// take the next. If it refuses them all the same, something is wrong with
	// the table, which is mended by hand: wait, and lose nothing.
	for _, part := range []Batch{{DeadLetters: b.DeadLetters}, {Skips: b.Skips, ItemCounts: b.ItemCounts}, {Progress: b.Progress}} {
		if err := w.retry(part, func(error) bool { return true }); err != nil {
			return err
		}
	}
	return nil
}

// maxFetched and fetchTimeout bound what a batch's refused rows may cost.
const (
	maxFetched   = 100
	fetchTimeout = 30 * time.Second
)

// fetchRecords adds to dead letters of refused rows what their records hold. A
// letter whose record cannot be had says so; its place is enough to read the
// record later.
func (w *Writer) fetchRecords(letters []schemas.DeadLetter) {
	if w.options.Record == nil || len(letters) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(w.ctx, fetchTimeout)
	defer cancel()
	for i := range letters[:min(len(letters), maxFetched)] {
		bytes, err := w.options.Record(ctx, letters[i].Evidence)
		if err != nil {
			letters[i].Error += fmt.Sprintf("; the record could not be read again: %v", err)
		}
		letters[i].Bytes = bytes
	}
}

// writeOrReject writes rows, and halves them while the sink refuses them,
// until the rows at fault stand alone: for k bad rows of n about k·2·log2(n)
// writes. Those go to reject. The rows that were written are returned, in the
// same memory.
func writeOrReject[R any](w *Writer, rows []R, batch func([]R) Batch, reject func(R, error)) ([]R, error) {
	err := w.retry(batch(rows), func(err error) bool { return !IsPermanent(err) })
	if err == nil || !IsPermanent(err) {
		return rows, err
	}
	if len(rows) == 1 {
		reject(rows[0], err)
		return rows[:0], nil
	}
	half := len(rows) / 2
	low, err := writeOrReject(w, rows[:half], batch, reject)
	if err != nil {
		return rows, err
	}
	high, err := writeOrReject(w, rows[half:], batch, reject)
	if err != nil {
		return rows, err
	}
	return append(low, high...), nil
}

// retry writes a part until it is durable, until `again` says that the error
// is not worth another attempt, or until told to give up; it returns the last
// error. Every attempt is given the same rows.
func (w *Writer) retry(part Batch, again func(error) bool) error {
	if part.Rows() == 0 {
		return nil
	}
	backoff := w.options.MinBackoff
	for {
		err := w.attempt(&part)
		if err == nil {
			return nil
		}
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		if !again(err) {
			return err
		}
		w.failing(&part, err)
		if !w.sleep(backoff/2 + rand.N(backoff/2+1)) {
			return context.Cause(w.ctx)
		}
		backoff = min(2*backoff, w.options.MaxBackoff)
	}
}

// failing counts a failed attempt that will be repeated. It logs the first one
// since all was well, and no other: an outage is one line, however long it is.
func (w *Writer) failing(part *Batch, err error) {
	if w.down.IsZero() {
		w.down, w.attempts = time.Now(), 0
		w.options.Log.Warn("sink down: retrying until it takes the rows", "rows", part.Rows(), "error", err)
	}
	w.attempts++
	w.count(func(s *Stats) { s.Retries++; s.Down = w.down })
}

// recovered says that a whole batch is durable again, if attempts had failed.
// It waits for the batch and not only for the part of it that had failed: the
// database may take one table's rows and still refuse the next's.
func (w *Writer) recovered() {
	if w.down.IsZero() {
		return
	}
	w.options.Log.Info("sink recovered", "failed_attempts", w.attempts, "after", time.Since(w.down).Round(time.Millisecond))
	w.down = time.Time{}
	w.count(func(s *Stats) { s.Down = time.Time{} })
}

// attempt is one write of a part within its time.
func (w *Writer) attempt(part *Batch) error {
	ctx, cancel := context.WithTimeout(w.ctx, w.options.WriteTimeout)
	defer cancel()
	return w.sink.Write(ctx, part)
}

// sleep waits, and reports false when told to give up meanwhile.
func (w *Writer) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.ctx.Done():
		return false
	}
}

func (w *Writer) count(f func(*Stats)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.stats)
}
