package main

import (
	"context"
	"log/slog"
	"time"

	"catena/schemas"
)

// Lookup finds in the tables what the correlator no longer holds of some keys:
// see correlate.Engine.Found for what an answer has to hold. sinceNanos is the
// event time from which rows can still be improved.
type Lookup interface {
	Recall(ctx context.Context, keys []schemas.Key, sinceNanos int64) ([]schemas.Binding, []*schemas.Action, error)
}

// recall looks keys up beside the pipeline: one question is under way at a
// time, of all keys that have come together meanwhile, and no record waits
// for its answer.
type recall struct {
	tables Lookup
	flush  func(context.Context) error // what was handed over may be what is looked for
	log    *slog.Logger
	wanted []schemas.Key // to be asked next; no more come while the database is behind, see backPressure
	since  int64         // event time from which late records want rows; zero if none does
	busy   bool
	asked  chan question
	found  chan answer
	done   chan struct{}
}

type question struct {
	keys       []schemas.Key
	sinceNanos int64
}

type answer struct {
	keys     []schemas.Key
	bindings []schemas.Binding
	actions  []*schemas.Action
}

// maxRecall is how many keys one question names. More wait for the next.
const maxRecall = 1500

func newRecall(tables Lookup, flush func(context.Context) error, log *slog.Logger) *recall {
	return &recall{tables: tables, flush: flush, log: log, asked: make(chan question), found: make(chan answer, 1), done: make(chan struct{})}
}

// run answers questions until ctx ends. A database that does not answer is
// asked again, with a pause that grows to half a minute.
func (r *recall) run(ctx context.Context) {
	defer close(r.done)
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-r.asked:
			for wait, failing := time.Second, false; ; wait = min(2*wait, 30*time.Second) {
				a, err := r.ask(ctx, q)
				if err == nil {
					if failing {
						r.log.Info("looking keys up again")
					}
					r.found <- a
					break
				}
				if ctx.Err() != nil {
					return
				}
				if !failing {
					r.log.Warn("keys cannot be looked up; rows that rest on them wait", "keys", len(q.keys), "error", err)
					failing = true
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(wait):
				}
			}
		}
	}
}

func (r *recall) ask(ctx context.Context, q question) (answer, error) {
	if err := r.flush(ctx); err != nil {
		return answer{}, err
	}
	bindings, actions, err := r.tables.Recall(ctx, q.keys, q.sinceNanos)
	return answer{q.keys, bindings, actions}, err
}

// want notes what the engine wants.
func (r *recall) want(keys []schemas.Key, sinceNanos int64) {
	r.wanted = append(r.wanted, keys...)
	if sinceNanos != 0 && (r.since == 0 || sinceNanos < r.since) {
		r.since = sinceNanos
	}
}

// next hands on a question if none is under way, and returns an answer if one
// has come. finalNanos is the event time before which rows are final.
func (r *recall) next(finalNanos int64) (answer, bool) {
	select {
	case a := <-r.found:
		r.busy = false
		return a, true
	default:
	}
	if n := min(len(r.wanted), maxRecall); n > 0 && !r.busy {
		since := finalNanos
		if r.since != 0 {
			since = min(since, r.since)
		}
		select {
		case r.asked <- question{append([]schemas.Key(nil), r.wanted[:n]...), since}:
			if r.busy, r.wanted = true, append(r.wanted[:0], r.wanted[n:]...); len(r.wanted) == 0 {
				r.since = 0
			}
		default: // not started yet
		}
	}
	return answer{}, false
}
