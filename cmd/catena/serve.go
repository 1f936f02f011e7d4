package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// server answers over HTTP how the process is doing:
//
//	/healthz   alive: the loop turns, or waits for what is expected to come back
//	/readyz    the group is joined and what the last owner knew is restored
//	/metrics   Prometheus
//	/debug/    profiles, with CATENA_PPROF alone
//	/          what was mounted: see mount
//
// It listens before anything else is connected, so that a process which waits
// for Kafka can be told from one that hangs.
type server struct {
	http     http.Server
	listener net.Listener
	stopped  chan error

	pages bool // what is mounted may be shown

	base *prometheus.Registry // of the process: build, Go runtime, memory
	now  atomic.Pointer[health]
	page atomic.Pointer[http.Handler]
}

// health is what the probes and the metrics ask the pipeline.
type health interface {
	// alive returns an error if the process has to be started anew.
	alive() error
	// ready returns the phase, why it is not ready (nothing if it is), and what
	// is wrong without keeping it from being ready.
	ready() (phase string, reasons, warnings []string)
	prometheus.Gatherer
}

// Who gets the page: CATENA_PAGE.
const (
	pageLocal  = "local"
	pageAlways = "always"
	pageNever  = "never"
)

// Timeouts of the server. A profile of 30 s has to fit in writing.
const (
	readTimeout  = 10 * time.Second
	writeTimeout = time.Minute
	idleTimeout  = 2 * time.Minute
	stopTimeout  = 3 * time.Second
)

// openWeb listens as CATENA_LISTEN says; it returns nil, which may be used
// as a server that does nothing, when that is empty.
func openWeb(cfg *config, log *slog.Logger) (*server, error) {
	if cfg.Listen == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("CATENA_LISTEN=%s: %w; give each instance its own address, or set it empty for none", cfg.Listen, err)
	}
	s := &server{listener: listener, pages: showsPage(cfg.Page, listener.Addr()), stopped: make(chan error, 1), base: processMetrics().registry}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(prometheus.GathererFunc(s.gather), promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		MaxRequestsInFlight: 4, Timeout: readTimeout, EnableOpenMetrics: true}))
	if cfg.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	mux.HandleFunc("/", s.root)
	s.http = http.Server{Handler: mux, ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	go func() { s.stopped <- s.http.Serve(listener) }()
	log.Info("listening", "addr", listener.Addr().String(), "pprof", cfg.Pprof)
	return s, nil
}

// showsPage decides whether whoever reaches the address may see the page.
func showsPage(setting string, at net.Addr) bool {
	tcp, ok := at.(*net.TCPAddr)
	return setting == pageAlways || setting == pageLocal && ok && tcp.IP.IsLoopback()
}

// addr is where the server listens; empty if there is none.
func (s *server) addr() string {
	if s == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// gather collects the metrics of the process, and those of what is attached.
func (s *server) gather() ([]*dto.MetricFamily, error) {
	from := prometheus.Gatherers{s.base}
	if h := s.now.Load(); h != nil {
		from = append(from, *h)
	}
	return from.Gather()
}

// attach makes the probes and the metrics those of h.
func (s *server) attach(h health) {
	if s != nil {
		s.now.Store(&h)
	}
}

// show attaches a pipeline, and mounts the page over its tables if CATENA_PAGE
// lets it.
func (s *server) show(p *pipeline) error {
	s.attach(p.meter)
	if s == nil || !s.pages {
		return nil
	}
	set, err := loadSources(p.cfg.SourcesDir)
	if err != nil {
		return err
	}
	s.mount(newPage(p.store, set, p.log))
	return nil
}

// mount serves h below /, for what the server's own paths leave, if CATENA_PAGE
// lets it.
func (s *server) mount(h http.Handler) {
	if s != nil && s.pages {
		s.page.Store(&h)
	}
}

// stop lets the answers under way end, for a few seconds.
func (s *server) stop() error {
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close() // somebody reads slowly; the process ends all the same
	}
	if err := <-s.stopped; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("http: %w", err)
	}
	return nil
}

// verdict is the answer of a probe.
type verdict struct {
	OK       bool     `json:"ok"`
	Phase    string   `json:"phase"`
	Reasons  []string `json:"reasons,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	v := verdict{OK: true, Phase: phaseStarting}
	if h := s.now.Load(); h != nil {
		v.Phase, _, _ = (*h).ready()
		if err := (*h).alive(); err != nil {
			v.OK, v.Reasons = false, []string{err.Error()}
		}
	}
	v.answer(w)
}

func (s *server) readyz(w http.ResponseWriter, _ *http.Request) {
	v := verdict{Phase: phaseStarting, Reasons: []string{"connecting to Kafka and ClickHouse, migrating the tables"}}
	if h := s.now.Load(); h != nil {
		v.Phase, v.Reasons, v.Warnings = (*h).ready()
		v.OK = len(v.Reasons) == 0
	}
	v.answer(w)
}

func (v verdict) answer(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !v.OK {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(v) // who asked may have gone
}

// root is the mounted page, or a list of what there is.
func (s *server) root(w http.ResponseWriter, r *http.Request) {
	if page := s.page.Load(); page != nil {
		(*page).ServeHTTP(w, r)
		return
	}
	if r.URL.Path != "/" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "catena %s\n\n/healthz  alive?\n/readyz   taking part?\n/metrics  for Prometheus\n", version)
}
