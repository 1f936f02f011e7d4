package ingest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
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

func sortPartitions(ps []Partition) []Partition {
	slices.SortFunc(ps, func(a, b Partition) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return ps
}
