package clickhouse

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// proxy stands between the store and its database and does to the connections
// what networks and servers do.
type proxy struct {
	listener net.Listener

	mu       sync.Mutex
	upstream string
	mode     proxyMode
	budget   int64  // of cutting: bytes towards the database that still pass
	cut      func() // of cutting: called once the budget is used up
	delay    time.Duration
	open     map[net.Conn]struct{}
	sockets  sync.WaitGroup
}

type proxyMode int

const (
	passing  proxyMode = iota
	refusing           // closes what comes
	silent             // takes everything and answers nothing
	deaf               // passes requests and loses the answers
	slow               // each piece waits
	cutting            // passes some bytes of requests, then cuts the connection
)

func newProxy(t testing.TB, upstream string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, upstream: upstream, open: map[net.Conn]struct{}{}}
	p.sockets.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			p.sockets.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.set(refusing)
		p.sockets.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// set changes the mode. Existing connections end where new ones would not come about.
func (p *proxy) set(mode proxyMode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = mode
	if mode == refusing {
		p.drop()
	}
}

// drop closes all connections. The caller holds the lock.
func (p *proxy) drop() {
	for c := range p.open {
		_ = c.Close()
	}
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	p.mu.Lock()
	mode, upstream := p.mode, p.upstream
	p.open[client] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.open, client)
		p.mu.Unlock()
	}()
	switch mode {
	case refusing:
		return
	case silent:
		_, _ = io.Copy(io.Discard, client) // until one side closes
		return
	}
	server, err := net.DialTimeout("tcp", upstream, 5*time.Second)
	if err != nil {
		return
	}
	defer server.Close()
	var both sync.WaitGroup
	both.Go(func() {
		p.copy(server, client, true)
		_ = server.Close()
	})
	p.copy(client, server, false)
	_ = client.Close()
	both.Wait()
}

// copy passes on what the mode of the moment lets pass.
func (p *proxy) copy(dst, src net.Conn, request bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			p.mu.Lock()
			mode, delay, cut := p.mode, p.delay, func() {}
			if mode == cutting && request {
				if p.budget -= int64(n); p.budget < 0 {
					n += int(p.budget)
					p.mode, cut = refusing, p.cut
					err = io.ErrUnexpectedEOF
				}
			}
			p.mu.Unlock()
			if mode == slow {
				time.Sleep(delay)
			}
			if mode == refusing {
				return
			}
			if mode == silent || mode == deaf && !request {
				continue
			}
			if _, werr := dst.Write(buf[:max(n, 0)]); werr != nil {
				return
			}
			cut()
		}
		if err != nil {
			return
		}
	}
}
