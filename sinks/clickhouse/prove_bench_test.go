package clickhouse

import (
	"flag"
	"fmt"
	"testing"
)

var proveRows = flag.Int("prove.rows", 200_000, "rows of BenchmarkProve")

// BenchmarkProve proves that rows over twelve partitions are accounted for: the
// offsets, and then the events, chains and bindings. The parts metric is how
// many rows were read a second.
//
//	go test ./sinks/clickhouse -run '^$' -bench Prove -benchtime 1x -prove.rows 20000000
func BenchmarkProve(b *testing.B) {
	s := migrated(b)
	n := *proveRows
	const partitions = 12
	for from := 0; from < n; from += 1_000_000 {
		rows := min(1_000_000, n-from)
		insert := fmt.Sprintf(`INSERT INTO actions (event_id, event_time, ended_at, source, class, action, chain_id, topic, partition, offset, version)
			SELECT reinterpretAsUUID(sipHash128(number)), toDateTime64('2026-03-01 00:00:00', 6, 'UTC') + toIntervalMillisecond(number * 4) AS at, at, 'aws.cloudtrail', 'api_call', 's3:GetObject',
				reinterpretAsUUID(sipHash128(intDiv(number, 40), 'chain')), 'cloudtrail', number %% %d, intDiv(number, %d), 1 FROM numbers(%d, %d)`, partitions, partitions, from, rows)
		if err := s.conn.Exec(b.Context(), insert); err != nil {
			b.Fatal(err)
		}
	}
	ranges := make([]Range, partitions)
	for i := range ranges {
		ranges[i] = Range{"cloudtrail", int32(i), 0, int64((n - i + partitions - 1) / partitions)}
	}
	perRow := func(b *testing.B) {
		b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	}
	b.Run("offsets", func(b *testing.B) {
		for b.Loop() {
			accounts, err := s.Prove(b.Context(), ranges)
			if err != nil {
				b.Fatal(err)
			}
			for i := range accounts {
				if a := &accounts[i]; a.Missing != 0 || len(a.Faults) > 0 || !a.Balanced() {
					b.Fatalf("%+v", *a)
				}
			}
		}
		perRow(b)
	})
	b.Run("ids", func(b *testing.B) {
		for b.Loop() {
			twice, err := s.LiveTwice(b.Context(), 10)
			if err != nil || len(twice) > 0 {
				b.Fatal(twice, err)
			}
			odd, err := s.OddChains(b.Context(), 10)
			if err != nil || len(odd) > 0 {
				b.Fatal(odd, err)
			}
			unproven, err := s.Unproven(b.Context(), ranges, 10)
			if err != nil || len(unproven) > 0 {
				b.Fatal(unproven, err)
			}
		}
		perRow(b)
	})
}
