package correlate

import "math"

// partition names one input in event-time terms.
type partition struct {
	topic string
	index int32
}

// progress is what is known of one partition's event time.
type progress struct {
	maxNanos   int64 // newest event time seen, future timestamps aside
	ownerMilli int64 // when we were assigned it; ranks our rows, see schemas.MakeVersion
	idle       bool  // holds nothing back until it speaks again
}

// watermarks follows event time per partition. The watermark of the whole is
// the minimum over the partitions that are not idle, less the out-of-orderness
// bound, and never goes back.
type watermarks struct {
	parts   map[partition]*progress
	bound   int64
	current int64
}

func newWatermarks(boundNanos int64) watermarks {
	return watermarks{parts: map[partition]*progress{}, bound: boundNanos, current: math.MinInt64}
}

func (w *watermarks) part(p partition) *progress {
	pr := w.parts[p]
	if pr == nil {
		pr = &progress{maxNanos: math.MinInt64}
		w.parts[p] = pr
	}
	return pr
}

// see notes an event time of a partition.
func (w *watermarks) see(p partition, nanos int64) {
	pr := w.part(p)
	pr.idle = false
	pr.maxNanos = max(pr.maxNanos, nanos)
}

// advance recomputes the watermark and returns it.
func (w *watermarks) advance() int64 {
	low := int64(math.MaxInt64)
	for _, pr := range w.parts {
		if !pr.idle && pr.maxNanos != math.MinInt64 {
			low = min(low, pr.maxNanos)
		}
	}
	if low != math.MaxInt64 {
		w.current = max(w.current, low-w.bound)
	}
	return w.current
}
