package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// ServerOptions configure a Server.
type ServerOptions struct {
	Listen string // host:port; empty: 127.0.0.1:8123; port 0 picks a free one
	HandlerOptions
}

// Server is a Handler on a listener.
type Server struct {
	http     http.Server
	listener net.Listener
	served   chan error
}

// NewServer listens and serves. An address that other machines can reach demands a password.
func NewServer(e *Engine, opts ServerOptions) (*Server, error) {
	listener, err := net.Listen("tcp", cmp.Or(opts.Listen, "127.0.0.1:8123"))
	if err != nil {
		return nil, fmt.Errorf("embedded: listen: %w", err)
	}
	// The bound address decides, not the text: "localhost" or "" may be anything.
	if addr, ok := listener.Addr().(*net.TCPAddr); !ok || !addr.IP.IsLoopback() {
		if opts.Password == "" {
			_ = listener.Close()
			return nil, fmt.Errorf("embedded: listen: %s can be reached from other machines: set a password, or listen on 127.0.0.1", listener.Addr())
		}
	}
	s := &Server{listener: listener, served: make(chan error, 1)}
	s.http.Handler = NewHandler(e, opts.HandlerOptions)
	s.http.ReadHeaderTimeout = 10 * time.Second
	s.http.IdleTimeout = 2 * time.Minute
	s.http.MaxHeaderBytes = 1 << 20 // URLs carry queries
	go func() { s.served <- s.http.Serve(listener) }()
	return s, nil
}

// Addr is the address listened on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Wait returns when serving has ended: nil after Close, the reason otherwise.
func (s *Server) Wait() error {
	err := <-s.served
	s.served <- err
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("embedded: serve: %w", err)
}

// Close stops listening, lets running requests finish until ctx ends and cancels the rest. The engine stays open.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	if ended := <-s.served; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	s.served <- http.ErrServerClosed
	return err
}
