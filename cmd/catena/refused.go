package main

import (
	"context"
	"fmt"
	"time"

	"catena/ingest"
	"catena/schemas"
)

// refused reads the records of rows that the database refused once more, for
// their dead letters: a row does not keep its record, and there are few.
type refused struct {
	cluster  ingest.Cluster
	redactor *ingest.Redactor
}

// refusedBytes is how much a dead letter keeps of its record, as the decoder's do.
const refusedBytes = 64 << 10

// record returns the record at a place, with secrets replaced. A client is made
// for it and closed again: what happens once a month needs no connections.
func (r refused) record(ctx context.Context, at schemas.Evidence) ([]byte, error) {
	reader, err := ingest.NewReader(ctx, r.cluster)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	reader.Stall = 5 * time.Second
	place := ingest.Partition{Topic: at.Topic, Partition: at.Partition}
	var value []byte
	found := false
	err = reader.Read(ctx, map[ingest.Partition]ingest.LogRange{place: {From: at.Offset, To: at.Offset + 1}}, 1,
		func(records []schemas.Record, _ []ingest.Gap) error {
			for i := range records {
				if records[i].Offset == at.Offset {
					value, found = records[i].Value, true
				}
			}
			return nil
		})
	if err == nil && !found {
		err = fmt.Errorf("the broker has nothing at topic %s partition %d offset %d any more", at.Topic, at.Partition, at.Offset)
	}
	if err != nil {
		return nil, err
	}
	// Cut generously first, so that no secret is cut through before it is found.
	value = r.redactor.RedactBytes(value[:min(len(value), refusedBytes+4096)])
	return value[:min(len(value), refusedBytes)], nil
}
