package ingest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Partition names one partition of a topic.
type Partition struct {
	Topic     string
	Partition int32
}

// String is the name as Kafka's own tools write it: topic-0.
func (p Partition) String() string { return fmt.Sprintf("%s-%d", p.Topic, p.Partition) }

// Offset is a commit point: the next record to read of a partition, everything
// below being durable.
type Offset struct {
	Topic     string
	Partition int32
	Offset    int64
}

// Tracker turns "these records went into that batch" and "that batch is
// durable" into commit points. It knows nothing of Kafka.
//
//	Assign ── Add Add Add ── Seal ─┐        Add Add ── Seal ─┐         Forget
//	          (open batch)         │ batch 1                 │ batch 2
//	                               └─────── Done(1) ─────────┴─ Done(2) ─→ Points
//
// Per partition, the commit point is one past the last record of the longest
// run of batches, from the oldest on, that are all done: a batch that is done
// before an older one waits for it. Partitions do not wait for each other.
//
// Offsets have gaps where the log was compacted or holds control records; only
// the order of Add counts, so a gap needs nothing. A partition that goes back
// (its log was truncated, or it is read again) is followed back: the commit
// point is where the last done batch ended, not the highest ever seen.
//
// A record of a partition that is not assigned is ignored. After Forget, the
// caller must have dropped or drained what was in flight of the partition
// before it is assigned again, because a record does not say under which
// assignment it was read.
//
// All methods may be called from any goroutine. The zero value is ready.
type Tracker struct {
	mu    sync.Mutex
	parts map[Partition]*tracked
	last  *tracked // of the latest Add: runs of one partition are the rule
	open  *Batch
}

// Batch is a set of records that become durable together.
type Batch struct {
	parts []*tracked // that have an entry for it
	done  bool
}

// tracked is one assigned partition.
type tracked struct {
	Partition
	entries []entry // oldest first; the last may be of the open batch
	point   int64   // commit point
	known   bool    // whether there is one yet
}

// entry says that a batch ends a partition's records at next, exclusive.
type entry struct {
	batch *Batch
	next  int64
}

// Assign starts following partitions. One that is followed already starts
// afresh.
func (t *Tracker) Assign(ps []Partition) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(ps)
	if t.parts == nil {
		t.parts = make(map[Partition]*tracked, len(ps))
	}
	for _, p := range ps {
		t.parts[p] = &tracked{Partition: p}
	}
}

// Forget stops following partitions. Batches that hold records of them may
// still be done; that yields no commit point.
func (t *Tracker) Forget(ps []Partition) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(ps)
}

func (t *Tracker) forget(ps []Partition) {
	t.last = nil
	for _, p := range ps {
		if k := t.parts[p]; k != nil {
			k.entries = nil // batches may point here for a while yet
			delete(t.parts, p)
		}
	}
}

// Add puts a record into the open batch. Records of one partition come in the
// order of the log. It reports false if the partition is not followed: the
// record must not be written either then, another instance has it.
func (t *Tracker) Add(topic string, partition int32, offset int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.last
	if k == nil || k.Partition.Partition != partition || k.Topic != topic {
		if k = t.parts[Partition{topic, partition}]; k == nil {
			return false
		}
		t.last = k
	}
	if t.open == nil {
		t.open = new(Batch)
	}
	if n := len(k.entries); n > 0 && k.entries[n-1].batch == t.open {
		k.entries[n-1].next = offset + 1
		return true
	}
	k.entries = append(k.entries, entry{t.open, offset + 1})
	t.open.parts = append(t.open.parts, k)
	return true
}

// Seal closes the open batch and returns it. It returns nil if nothing was
// added since the last one.
func (t *Tracker) Seal() *Batch {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.open
	t.open = nil
	return b
}

// Done says that a sealed batch is durable. Batches may be done in any order;
// nil, and a batch done already, are nothing to do.
func (t *Tracker) Done(b *Batch) {
	if b == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	b.done = true
	for _, k := range b.parts {
		n := 0
		for n < len(k.entries) && k.entries[n].batch.done {
			n++
		}
		if n > 0 {
			k.point, k.known = k.entries[n-1].next, true
			k.entries = append(k.entries[:0], k.entries[n:]...)
		}
	}
	b.parts = nil
}

// Points appends the commit point of each partition that has one, in the order
// of topic and partition. It tells them all each time, committed or not, so
// that a failed commit needs no memory here; [Consumer.Commit] sends only those
// that moved.
func (t *Tracker) Points(dst []Offset) []Offset {
	t.mu.Lock()
	defer t.mu.Unlock()
	from := len(dst)
	for _, k := range t.parts {
		if k.known {
			dst = append(dst, Offset{k.Topic, k.Partition.Partition, k.point})
		}
	}
	slices.SortFunc(dst[from:], func(a, b Offset) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return dst
}

// Pending counts the batches, open one included, that hold back a partition.
func (t *Tracker) Pending() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := map[*Batch]bool{}
	for _, k := range t.parts {
		for _, e := range k.entries {
			seen[e.batch] = true
		}
	}
	return len(seen)
}

func sortPartitions(ps []Partition) []Partition {
	slices.SortFunc(ps, func(a, b Partition) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return ps
}
