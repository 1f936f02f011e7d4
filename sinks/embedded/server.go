package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"
)

// ServerOptions configure a Server.
type ServerOptions struct {
	Listen string // HTTP: host:port; empty: 127.0.0.1:8123; port 0 picks a free one
	Native string // the native protocol: host:port; empty: none; port 0 picks a free one
	// NativeOptional goes on without the native protocol when its address is in use; [Server.NativeAddr] is nil then.
	NativeOptional bool
	HandlerOptions
}

// Server is a Handler on a listener, and the native protocol on another.
type Server struct {
	http     http.Server
	listener net.Listener
	served   chan error
	native   *nativeServer // nil for none
}

// NewServer listens and serves. An address that other machines can reach demands a password.
func NewServer(e *Engine, opts ServerOptions) (*Server, error) {
	listener, err := listen(cmp.Or(opts.Listen, "127.0.0.1:8123"), opts.Password)
	if err != nil {
		return nil, err
	}
	s := &Server{listener: listener, served: make(chan error, 1)}
	if opts.Native != "" {
		native, err := listen(opts.Native, opts.Password)
		taken := errors.Is(err, syscall.EADDRINUSE)
		if err != nil && !(taken && opts.NativeOptional) {
			_ = listener.Close()
			return nil, fmt.Errorf("native protocol: %w", err)
		}
		if err == nil {
			s.native = serveNative(e, native, opts.HandlerOptions, defaultNativeTimeouts)
		}
	}
	s.http.Handler = NewHandler(e, opts.HandlerOptions)
	s.http.ReadHeaderTimeout = 10 * time.Second
	s.http.IdleTimeout = 2 * time.Minute
	s.http.MaxHeaderBytes = 1 << 20 // URLs carry queries
	go func() { s.served <- s.http.Serve(listener) }()
	return s, nil
}

// listen opens an address. Other machines may reach it only where a password is asked for.
func listen(address, password string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("embedded: listen: %w", err)
	}
	// The bound address decides, not the text: "localhost" or "" may be anything.
	if addr, ok := listener.Addr().(*net.TCPAddr); !ok || !addr.IP.IsLoopback() {
		if password == "" {
			_ = listener.Close()
			return nil, fmt.Errorf("embedded: listen: %s can be reached from other machines: set a password, or listen on 127.0.0.1", listener.Addr())
		}
	}
	return listener, nil
}

// Addr is the address listened on for HTTP.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// NativeAddr is the address listened on for the native protocol; nil for none.
func (s *Server) NativeAddr() net.Addr {
	if s.native == nil {
		return nil
	}
	return s.native.listener.Addr()
}

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
	native := make(chan error, 1)
	go func() {
		if s.native == nil {
			native <- nil
			return
		}
		native <- s.native.close(ctx)
	}()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	err = errors.Join(err, <-native)
	if ended := <-s.served; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	s.served <- http.ErrServerClosed
	return err
}
