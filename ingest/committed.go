package ingest

import (
	"context"
	"fmt"
)

// CommittedOffsets returns the commit points of a consumer group: for each
// partition the next offset that the group will read.
func CommittedOffsets(ctx context.Context, c Cluster, group string) (map[Partition]int64, error) {
	admin, err := c.admin(ctx)
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	fetched, err := admin.FetchOffsets(ctx, group)
	if err != nil {
		return nil, fmt.Errorf("kafka: committed offsets of group %s: %w", group, err)
	}
	committed := map[Partition]int64{}
	for topic, parts := range fetched {
		for index, o := range parts {
			if o.Err == nil && o.At >= 0 {
				committed[Partition{topic, index}] = o.At
			}
		}
	}
	return committed, nil
}
