package jsonl

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"catena/schemas"
	"catena/sinks"
)

// Sink writes batches as lines: actions to one writer and dead letters to
// another. Bindings, progress and what accounts for the rest of the offsets are
// not written: the actions hold what they led to, and a file has no offsets to
// commit.
//
// A write that failed half way is repeated whole, so a line may come twice, as
// may an event that improved: the line with the highest version counts.
type Sink struct {
	// Now stamps attributed_at; nil leaves it at 1970-01-01, so that the same
	// input gives the same bytes.
	Now func() time.Time

	actions, deadLetters io.Writer
}

var _ sinks.Sink = (*Sink)(nil)

// New returns a sink that writes to the two writers, which stay the caller's
// to close. What Write has returned for was written to them.
func New(actions, deadLetters io.Writer) *Sink {
	return &Sink{actions: actions, deadLetters: deadLetters}
}

// Write writes a line for each action and each dead letter.
func (s *Sink) Write(ctx context.Context, b *sinks.Batch) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("jsonl: %w", err)
	}
	var now int64
	if s.Now != nil {
		now = s.Now().UnixNano()
	}
	return errors.Join(s.writeActions(b.Actions, now), s.writeDeadLetters(b.DeadLetters))
}

// Close does nothing: Write leaves nothing behind.
func (s *Sink) Close() error { return nil }

func (s *Sink) writeActions(actions []*schemas.Action, attributedNanos int64) error {
	// A buffer a call, because one that met an error would return it for ever.
	w := bufio.NewWriterSize(s.actions, 64<<10)
	e := NewEncoder(w)
	for _, a := range actions {
		if err := e.Encode(a, attributedNanos); err != nil {
			return err
		}
	}
	return flush(w)
}

// deadLetter is a line of a dead letter. Its bytes are any bytes and so in
// base64.
type deadLetter struct {
	Topic       string `json:"topic"`
	Partition   int32  `json:"partition"`
	Offset      int64  `json:"offset"`
	RecordIndex int32  `json:"record_index"`
	Reason      string `json:"reason"`
	Error       string `json:"error"`
	Bytes       []byte `json:"bytes_base64"`
	RawSHA256   string `json:"raw_sha256"`
	IngestedAt  string `json:"ingested_at"`
}

func (s *Sink) writeDeadLetters(letters []schemas.DeadLetter) error {
	w := bufio.NewWriter(s.deadLetters)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for i := range letters {
		d := &letters[i]
		err := e.Encode(deadLetter{
			d.Evidence.Topic, d.Evidence.Partition, d.Evidence.Offset, d.Evidence.RecordIndex,
			d.Reason.String(), d.Error, d.Bytes, hash(&d.Evidence), micros(d.Evidence.TimestampNanos),
		})
		if err != nil {
			return fmt.Errorf("jsonl: dead letter: %w", err)
		}
	}
	return flush(w)
}

func flush(w *bufio.Writer) error {
	if err := w.Flush(); err != nil {
		return fmt.Errorf("jsonl: %w", err)
	}
	return nil
}
