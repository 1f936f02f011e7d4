package main

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"

	"catena/ingest"
	"catena/schemas"
)

// deadTopic copies what could not be decoded to a topic, as it came: whole, and
// with the secrets that it may hold, which is why it is off unless asked for.
// The table has each letter all the same. nil when there is no topic.
type deadTopic struct {
	topic    string
	log      *slog.Logger
	producer *ingest.Producer
	failing  bool
}

// The headers of a copy, beside those of the record.
const (
	headerDeadTopic     = "catena-topic"
	headerDeadPartition = "catena-partition"
	headerDeadOffset    = "catena-offset"
	headerDeadReason    = "catena-reason"
	headerDeadError     = "catena-error"
)

func openDeadTopic(ctx context.Context, cfg *config, log *slog.Logger) (*deadTopic, error) {
	if cfg.DeadLetterTopic == "" {
		return nil, nil
	}
	producer, err := ingest.NewProducer(ctx, ingest.ProducerOptions{Cluster: cfg.cluster(log)})
	if err != nil {
		return nil, err
	}
	if _, err := producer.EnsureTopic(ctx, cfg.DeadLetterTopic, 0, nil); err != nil {
		producer.Close()
		return nil, fmt.Errorf("CATENA_DEAD_LETTER_TOPIC: %w", err)
	}
	return &deadTopic{topic: cfg.DeadLetterTopic, log: log, producer: producer}, nil
}

// copy sends the records of dead letters, one a record, without waiting for
// the acknowledgement.
func (d *deadTopic) copy(ctx context.Context, records []schemas.Record, letters []schemas.DeadLetter) {
	if d == nil || len(letters) == 0 {
		return
	}
	first := map[place]*schemas.DeadLetter{}
	for i := range letters {
		e := &letters[i].Evidence
		if at := (place{e.Topic, e.Partition, e.Offset}); first[at] == nil {
			first[at] = &letters[i]
		}
	}
	for i := range records {
		r := &records[i]
		letter := first[place{r.Topic, r.Partition, r.Offset}]
		if letter == nil {
			continue
		}
		headers := append([]schemas.Header{
			{Key: headerDeadTopic, Value: []byte(r.Topic)},
			{Key: headerDeadPartition, Value: strconv.AppendInt(nil, int64(r.Partition), 10)},
			{Key: headerDeadOffset, Value: strconv.AppendInt(nil, r.Offset, 10)},
			{Key: headerDeadReason, Value: []byte(letter.Reason.String())},
			{Key: headerDeadError, Value: []byte(letter.Error)},
		}, r.Headers...)
		d.failed(d.producer.Produce(ctx, schemas.Record{Topic: d.topic, Key: r.Key, Value: r.Value, Headers: headers}))
	}
}

// flush returns when all copies are acknowledged or refused for good. Its error
// is ctx's: then it is not known, and the records' offsets may not be committed.
func (d *deadTopic) flush(ctx context.Context) error {
	if d == nil {
		return nil
	}
	err := d.producer.Flush(ctx)
	if ctx.Err() != nil {
		return err
	}
	d.failed(err)
	return nil
}

// failed says when copies begin to be refused: a record larger than the topic
// takes, a topic that was deleted. The table has the letter, so reading goes on.
func (d *deadTopic) failed(err error) {
	if err == nil || d.failing {
		return
	}
	d.failing = true
	d.log.Error("dead letters are no longer copied, the table has them; mend the topic and restart", "topic", d.topic, "error", err)
}

func (d *deadTopic) close() {
	if d != nil {
		d.producer.Close()
	}
}
