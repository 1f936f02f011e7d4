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

// owner is when we were assigned a partition; zero if it is not ours.
func (w *watermarks) owner(p partition) int64 {
	if pr := w.parts[p]; pr != nil {
		return pr.ownerMilli
	}
	return 0
}

// assigned reports whether any partition was assigned to us.
func (w *watermarks) assigned() bool {
	for _, pr := range w.parts {
		if pr.ownerMilli != 0 {
			return true
		}
	}
	return false
}

// newest is the newest event time of any partition.
func (w *watermarks) newest() int64 {
	newest := int64(math.MinInt64)
	for _, pr := range w.parts {
		newest = max(newest, pr.maxNanos)
	}
	return newest
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
		if !pr.idle {
			low = min(low, pr.maxNanos) // one that has not spoken yet holds everything
		}
	}
	if low != math.MaxInt64 && low != math.MinInt64 {
		w.current = max(w.current, satSub(low, w.bound))
	}
	return w.current
}
