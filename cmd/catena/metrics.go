package main

import (
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metric is one line of docs/reference.md. Names end as Prometheus wants it:
// counters in _total, and every quantity in its base unit.
type metric struct {
	name, kind, help string
	labels           []string
}

const metricPrefix = "catena_"

// metricSet makes metrics and remembers them, so that the reference can list
// also those of which nothing was counted yet.
type metricSet struct {
	registry *prometheus.Registry
	all      []metric
}

func newMetricSet() *metricSet { return &metricSet{registry: prometheus.NewRegistry()} }

func (s *metricSet) note(name, kind, help string, labels []string) string {
	s.all = append(s.all, metric{metricPrefix + name, kind, help, labels})
	return metricPrefix + name
}

// counter makes a counter. Without labels it is there from the start, at zero.
func (s *metricSet) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: s.note(name, "counter", help, labels), Help: help}, labels)
	if len(labels) == 0 {
		v.WithLabelValues()
	}
	s.registry.MustRegister(v)
	return v
}

func (s *metricSet) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: s.note(name, "gauge", help, labels), Help: help}, labels)
	if len(labels) == 0 {
		v.WithLabelValues()
	}
	s.registry.MustRegister(v)
	return v
}

func (s *metricSet) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: s.note(name, "histogram", help, labels), Help: help, Buckets: buckets}, labels)
	if len(labels) == 0 {
		v.WithLabelValues()
	}
	s.registry.MustRegister(v)
	return v
}

// emit is called with a value and the values of its labels.
type emit func(value float64, labels ...string)

// reader is a metric that is read when it is asked for, from what somebody
// else counts.
type reader struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(emit)
}

// read makes a metric of what a function says. It is called from the server's
// goroutines.
func (s *metricSet) read(kind prometheus.ValueType, name, help string, read func(emit), labels ...string) {
	word := "gauge"
	if kind == prometheus.CounterValue {
		word = "counter"
	}
	s.registry.MustRegister(&reader{prometheus.NewDesc(s.note(name, word, help, labels), help, labels, nil), kind, read})
}

// Describe implements prometheus.Collector.
func (r *reader) Describe(out chan<- *prometheus.Desc) { out <- r.desc }

// Collect implements prometheus.Collector.
func (r *reader) Collect(out chan<- prometheus.Metric) {
	r.read(func(v float64, labels ...string) { out <- prometheus.MustNewConstMetric(r.desc, r.kind, v, labels...) })
}

// processMetrics are those of the process as such.
func processMetrics() *metricSet {
	s := newMetricSet()
	s.gauge("build_info", "1, with the version as labels", "version", "go_version", "revision").
		WithLabelValues(version, runtime.Version(), revision()).Set(1)
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return s
}

// revision is the commit that was built, as far as the build tells.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	if i := slices.IndexFunc(info.Settings, func(b debug.BuildSetting) bool { return b.Key == "vcs.revision" }); i >= 0 {
		return info.Settings[i].Value
	}
	return ""
}
