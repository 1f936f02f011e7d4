package ingest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Commit stores commit points: for each partition the next offset to read.
// Those that are at the broker already are not sent. It returns once the broker
// has answered, having retried what can be retried within CommitTimeout.
//
// The error joins those of the partitions that were not committed, and is never
// a reason to stop: what is not committed is read again. errors.Is tells
// [ErrNotOwned] and [ErrStale]. The others are committed all the same.
func (c *Consumer) Commit(ctx context.Context, offsets []Offset) error {
	c.commitMu.Lock()
	defer c.commitMu.Unlock()
	cl := c.client.Load()
	if cl == nil {
		return ErrNotOwned
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.CommitTimeout)
	defer cancel()

	want, err := c.commitable(offsets)
	errs := []error{err}
	for wait := 50 * time.Millisecond; len(want) > 0; wait = min(2*wait, 2*time.Second) {
		again, permanent := c.commitOnce(ctx, cl, want)
		errs = append(errs, permanent)
		if again == nil {
			break
		}
		if !pause(ctx, wait/2+rand.N(wait)) {
			errs = append(errs, fmt.Errorf("kafka: commit: %w", again))
			c.mu.Lock()
			c.stats.CommitErrors += int64(size(want))
			c.mu.Unlock()
			break
		}
	}
	return errors.Join(errs...)
}

// points are commit points as the client takes them.
type points = map[string]map[int32]kgo.EpochOffset

func size(p points) (n int) {
	for _, ps := range p {
		n += len(ps)
	}
	return n
}

// commitable picks those that may be sent and have to be.
func (c *Consumer) commitable(offsets []Offset) (points, error) {
	var errs []error
	want := points{}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range offsets {
		key := Partition{o.Topic, o.Partition}
		own, asking := c.owned[key], o.Offset
		switch {
		case own == nil:
			errs = append(errs, fmt.Errorf("kafka: commit %s at %d: %w", key, o.Offset, ErrNotOwned))
			c.stats.CommitErrors++
			continue
		case o.Offset > own.handed && (c.opts.OnGap == nil || o.Offset > own.position):
			// Committing what nobody has seen would lose it.
			errs = append(errs, fmt.Errorf("kafka: commit %s at %d: only records below %d were polled", key, o.Offset, own.handed))
			c.stats.CommitErrors++
			continue
		case o.Offset == own.committed || o.Offset == own.asked:
			continue
		case o.Offset == own.handed && own.position > own.handed && c.opts.OnGap == nil:
			o.Offset = own.position // past control records, so that the lag becomes zero
		}
		own.asking = asking
		if want[o.Topic] == nil {
			want[o.Topic] = map[int32]kgo.EpochOffset{}
		}
		want[o.Topic][o.Partition] = kgo.EpochOffset{Epoch: own.epochBefore(o.Offset), Offset: o.Offset}
	}
	return want, errors.Join(errs...)
}

// epochBefore is the leader epoch of the last record below an offset, or -1.
// With it in the commit, the next owner notices a truncated log.
func (o *ownership) epochBefore(offset int64) int32 {
	e := int32(-1)
	for _, s := range o.epochs {
		if s.from < offset {
			e = s.epoch
		}
	}
	return e
}

// commitOnce sends want and removes from it what has been answered for good.
// Again is why the rest has to be sent again, nil if there is no rest.
func (c *Consumer) commitOnce(ctx context.Context, cl *kgo.Client, want points) (again, permanent error) {
	var errs []error
	send := make(points, len(want)) // the client keeps the maps it is given
	for topic, ps := range want {
		send[topic] = maps.Clone(ps)
	}
	cl.CommitOffsetsSync(c.withOwner(ctx), send, func(_ *kgo.Client, req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			if errors.Is(err, kgo.ErrClientClosed) {
				again, errs = nil, append(errs, ErrClosed)
				clear(want)
				return
			}
			again = err
			return
		}
		names := map[[16]byte]string{} // from version 10 on, topics are answered by id
		for _, t := range req.Topics {
			names[t.TopicID] = t.Topic
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, t := range resp.Topics {
			if t.Topic == "" {
				t.Topic = names[t.TopicID]
			}
			for _, p := range t.Partitions {
				key := Partition{t.Topic, p.Partition}
				err := kerr.ErrorForCode(p.ErrorCode)
				switch {
				case err == nil:
					c.committed(key, want[t.Topic][p.Partition].Offset)
				case kerr.IsRetriable(err) || errors.Is(err, kerr.RebalanceInProgress):
					again = fmt.Errorf("%s: %w", key, err)
					continue
				case errors.Is(err, kerr.IllegalGeneration), errors.Is(err, kerr.UnknownMemberID),
					errors.Is(err, kerr.FencedInstanceID), errors.Is(err, kerr.StaleMemberEpoch), errors.Is(err, kerr.FencedMemberEpoch):
					c.stats.CommitErrors++
					errs = append(errs, fmt.Errorf("kafka: commit %s: %w: %w", key, ErrStale, err))
				default:
					c.stats.CommitErrors++
					errs = append(errs, fmt.Errorf("kafka: commit %s: %w", key, err))
				}
				if delete(want[t.Topic], p.Partition); len(want[t.Topic]) == 0 {
					delete(want, t.Topic)
				}
			}
		}
	})
	c.commitState(again)
	return again, errors.Join(errs...)
}

// committed notes a commit. The caller holds mu.
func (c *Consumer) committed(key Partition, offset int64) {
	c.stats.Commits++
	own := c.owned[key]
	if own == nil {
		return
	}
	own.committed, own.asked = offset, own.asking
	for len(own.epochs) > 1 && own.epochs[1].from < offset {
		own.epochs = own.epochs[1:]
	}
}

// commitState logs when commits begin to fail and when they succeed again.
func (c *Consumer) commitState(err error) {
	c.mu.Lock()
	was := c.retrying
	c.retrying = err != nil
	c.mu.Unlock()
	switch {
	case err != nil && !was:
		c.log.Warn("commit failed, trying again", "group", c.opts.Group, "error", err)
	case err == nil && was:
		c.log.Info("commits succeed again", "group", c.opts.Group)
	}
}
