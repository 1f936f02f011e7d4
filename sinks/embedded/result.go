package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Result is a statement's output. It is not safe for concurrent use and must be closed.
type Result struct {
	// Format is the format of the output, in the spelling of the statement.
	Format string

	engine  *Engine
	ctx     context.Context
	tag     string
	session *Session
	conn    *conn
	undo    []string // restores the session's settings
	stream  *stream  // nil when the output came at once
	pending *chunk   // fetched and not yet returned
	current *chunk   // returned by Next, freed by the next call
	stats   Stats
	started time.Time
	done    chan struct{} // closed by Close: nothing is running any more
	stop    func() bool   // disarms the cancellation
	closed  sync.Once
}

// newResult admits a statement: it waits for a free slot and arms the cancellation.
func (e *Engine) newResult(ctx context.Context) (*Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := e.enter(); err != nil {
		return nil, err
	}
	select {
	case e.slots <- struct{}{}:
	case <-ctx.Done():
		e.active.Done()
		return nil, ctx.Err()
	case <-e.life.Done():
		e.active.Done()
		return nil, ErrClosed
	}
	// Not the process id: a tag only has to be unique among the statements of this engine.
	tag := "catena-" + strconv.FormatUint(e.tags.Add(1), 10)
	return &Result{engine: e, ctx: ctx, tag: tag, started: time.Now(), done: make(chan struct{})}, nil
}

// open gets the connection and prepares it.
func (r *Result) open(st Statement) (err error) {
	if r.session = st.Session; r.session != nil {
		r.conn = r.session.conn
	} else if r.conn, err = r.engine.lib.openConn(r.engine.args); err != nil {
		return err
	}
	if r.undo, err = r.conn.configure(st, r.tag); err != nil {
		return err
	}
	if err := r.conn.load(st.tables); err != nil {
		return err
	}
	if st.ReadOnly && st.Session != nil {
		if err := r.leaveSession(st); err != nil {
			return err
		}
	}
	// Whoever cancels, the caller or Close, the statement has to be stopped and its end awaited.
	ctx, cancel := context.WithCancel(r.ctx)
	stopLife := context.AfterFunc(r.engine.life, cancel)
	stopKill := context.AfterFunc(ctx, func() {
		select {
		case <-r.done:
			return
		default:
		}
		if r.engine.enterKill(r) {
			defer r.engine.active.Done()
			r.engine.kill(r.tag, r.done)
		}
	})
	r.stop = func() bool {
		stopLife()
		stopped := stopKill()
		cancel()
		return stopped
	}
	return nil
}

// enterKill counts a kill request in, while the statement it is for still counts itself.
func (e *Engine) enterKill(r *Result) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-r.done:
		return false
	default:
		e.active.Add(1)
		return true
	}
}

// leaveSession moves a read-only statement that is not plainly a read to a read-only connection of its own, where the
// engine refuses it with its own words. A session cannot be made read-only and writable again: the engine forbids that.
func (r *Result) leaveSession(st Statement) error {
	if r.conn.classify(st.SQL) == classReadOnly {
		return nil
	}
	r.restore()
	r.session, st.Session = nil, nil
	conn, err := r.engine.lib.openConn(r.engine.args)
	if err != nil {
		return err
	}
	r.conn = conn
	_, err = conn.configure(st, r.tag)
	return err
}

// query runs what is not an INSERT with data.
func (r *Result) query(st Statement, s shape) error {
	if st.Data != nil {
		rest, err := io.ReadAll(st.Data)
		if err != nil {
			return err
		}
		st.SQL += string(rest)
	}
	if s.streams() && streamable[strings.ToLower(r.Format)] {
		err := r.startStream(st)
		if !notStreamable(err) {
			return err
		}
	}
	k, err := r.conn.query(st.SQL, r.Format, st.Params)
	if err != nil {
		return err
	}
	r.stats.add(k.stats)
	r.pending = k
	return nil
}

// startStream starts a streamed SELECT and fetches its first block: most errors come with it.
func (r *Result) startStream(st Statement) (err error) {
	if r.stream, err = r.conn.stream(st.SQL, r.Format, st.Params); err != nil {
		return err
	}
	if r.pending, err = r.stream.next(); err != nil {
		return err
	}
	if r.pending != nil {
		r.stats.add(r.pending.stats)
	}
	return nil
}

// notStreamable recognises the engine's refusal to stream, which it raises before it runs anything.
func notStreamable(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == codeBadArguments && strings.HasPrefix(e.Message, "Streaming query is not supported")
}

// Next returns the next piece of output, which is valid until the next call of Next or Close, and io.EOF at the end. In a
// streamed result (Native included) a piece is one block.
func (r *Result) Next() ([]byte, error) {
	r.current.free()
	r.current = nil
	if r.pending == nil && r.stream != nil {
		k, err := r.stream.next()
		if err != nil {
			return nil, r.explain(err)
		}
		if r.pending = k; k != nil {
			r.stats.add(k.stats)
		}
	}
	if r.pending == nil {
		return nil, io.EOF
	}
	r.current, r.pending = r.pending, nil
	if len(r.current.data) == 0 {
		return r.Next()
	}
	return r.current.data, nil
}

// Stats counts what has been done so far; it is final after io.EOF.
func (r *Result) Stats() Stats {
	stats := r.stats
	stats.Elapsed = time.Since(r.started)
	return stats
}

func (s *Stats) add(o Stats) {
	s.ReadRows += o.ReadRows
	s.ReadBytes += o.ReadBytes
	s.WrittenRows += o.WrittenRows
	s.WrittenBytes += o.WrittenBytes
	s.ResultRows += o.ResultRows
	s.ResultBytes += o.ResultBytes
}

// Close ends the statement, cancelling it if output is left, and gives its connection back. It may be called twice.
func (r *Result) Close() error {
	r.closed.Do(func() {
		r.current.free()
		r.pending.free()
		if r.stream != nil {
			r.stream.close()
		}
		// The order matters: a kill request looks at done under the engine's lock, and adds itself to active only while
		// this statement still holds its own count, so that Engine.Close cannot overtake it.
		r.engine.mu.Lock()
		close(r.done)
		r.engine.mu.Unlock()
		if r.stop != nil {
			r.stop()
		}
		if r.session != nil {
			r.restore()
		} else if r.conn != nil {
			r.conn.close()
		}
		<-r.engine.slots
		r.engine.active.Done()
	})
	return nil
}

// restore takes a statement's settings back from its session. What the engine refuses to take back stays.
func (r *Result) restore() {
	for _, sql := range r.undo {
		_ = r.conn.exec(sql)
	}
	r.undo = nil
}

// explain tells why a statement failed when the engine's error is only the echo of a cancellation.
func (r *Result) explain(err error) error {
	if cause := context.Cause(r.ctx); cause != nil {
		return fmt.Errorf("embedded: %w: %w", cause, err)
	}
	if r.engine.life.Err() != nil {
		return fmt.Errorf("embedded: %w: %w", ErrClosed, err)
	}
	return err
}
