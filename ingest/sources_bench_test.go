package ingest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"testing"
	"time"

	"github.com/valyala/fastjson"

	"catena/schemas"
)

// BenchmarkSources decodes the golden records of each source, and has fastjson
// parse the same bytes, in turns of some ten microseconds. Of each it takes the
// best turn, which is what a machine that others use, too, does not disturb.
// make bench-sources makes docs/benchmarks.md of it.
//
//	MB/s, events/s      Decode, all of it
//	allocs/record       of Decode
//	x-fastjson          speed of Decode without the SHA-256 of the record, against
//	                    fastjson's parse: 2 is twice as fast
//	x-fastjson-hashed   the same with it
//
// Records that are no JSON (protobuf, lines of text) count in the first three
// alone: fastjson cannot read them. Those that end as dead letters are left out.
func BenchmarkSources(b *testing.B) {
	d := newDecoder(b, DecoderOptions{})
	for _, p := range d.programs {
		b.Run(p.source.Name, func(b *testing.B) { benchmarkSource(b, d.Clone(), p.source.Name) })
	}
}

// turn is one side of a comparison.
type turn struct {
	pass func()
	best time.Duration // of a pass
}

// bestOf runs the turns one after the other until the benchmark's time is up.
func bestOf(b *testing.B, turns ...*turn) {
	const slice = 20 * time.Microsecond
	repeat := make([]int, len(turns))
	for i, t := range turns {
		t.pass() // warm
		start := time.Now()
		t.pass()
		repeat[i] = 1 + int(slice/(time.Since(start)+1))
	}
	for b.Loop() {
		for i, t := range turns {
			start := time.Now()
			for range repeat[i] {
				t.pass()
			}
			if took := time.Since(start) / time.Duration(repeat[i]); t.best == 0 || took < t.best {
				t.best = took
			}
		}
	}
}

func benchmarkSource(b *testing.B, d *Decoder, source string) {
	all, plain := benchRecords(b, d, source)
	if len(all) == 0 {
		b.Fatal("no golden record becomes an event")
	}
	var out Decoded
	var parser fastjson.Parser
	decode := &turn{pass: func() {
		out.Reset()
		for i := range all {
			d.Decode(&out, &all[i])
		}
	}}
	hashed := &turn{pass: func() {
		out.Reset()
		for i := range plain {
			d.Decode(&out, &plain[i])
		}
	}}
	bare := &turn{pass: func() {
		out.Reset()
		for i := range plain {
			d.decode(&out, &plain[i], [sha256.Size]byte{})
		}
	}}
	parse := &turn{pass: func() {
		for i := range plain {
			if _, err := parser.ParseBytes(plain[i].Value); err != nil {
				b.Fatal(err)
			}
		}
	}}
	bestOf(b, decode, hashed, bare, parse)

	decode.pass()
	events, size := len(out.Events), 0
	for i := range all {
		size += len(all[i].Value)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(len(all)), "records")
	b.ReportMetric(float64(size)/float64(len(all)), "B/record")
	b.ReportMetric(float64(size)/1e6/decode.best.Seconds(), "MB/s")
	b.ReportMetric(float64(events)/decode.best.Seconds(), "events/s")
	b.ReportMetric(testing.AllocsPerRun(20, decode.pass)/float64(len(all)), "allocs/record")
	if len(plain) > 0 {
		b.ReportMetric(parse.best.Seconds()/bare.best.Seconds(), "x-fastjson")
		b.ReportMetric(parse.best.Seconds()/hashed.best.Seconds(), "x-fastjson-hashed")
	}
}

// benchRecords are the golden records of a source that do not end as dead
// letters, written compactly as logs are, and those of them that are JSON.
func benchRecords(b *testing.B, d *Decoder, source string) (all, plain []schemas.Record) {
	var out Decoded
	for _, f := range testdata(b, source) {
		for _, v := range recordsOf(b, f) {
			var compact bytes.Buffer
			err := json.Compact(&compact, v)
			if err == nil {
				v = compact.Bytes()
			}
			rec := schemas.Record{Topic: source, Value: v}
			out.Reset()
			if d.Decode(&out, &rec); len(out.Dead) > 0 || len(out.Events) == 0 {
				continue
			}
			all = append(all, rec)
			if err == nil {
				plain = append(plain, rec)
			}
		}
	}
	return all, plain
}
