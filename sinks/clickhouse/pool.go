package clickhouse

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"sync"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// pool is the connections of one database. The driver takes password and
// certificates when a pool is made; so when [Options.Login] gives others, the
// next statement opens a new pool, and the old one closes each of its
// connections when the statement on it is over.
type pool struct {
	login func() (password string, certificates *tls.Config)
	open  func(password string, certificates *tls.Config) (driver.Conn, error)

	mu           sync.Mutex
	conn         driver.Conn // nil before the first use
	password     string      // of conn
	certificates *tls.Config // of conn
	closed       bool
}

// get returns the connections for the login of this moment.
func (p *pool) get() (driver.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	password, certificates := p.login()
	if p.conn != nil && (p.closed || password == p.password && certificates == p.certificates) {
		return p.conn, nil
	}
	fresh, err := p.open(password, certificates)
	if err != nil {
		if p.conn != nil {
			return p.conn, nil // the old one may still do
		}
		return nil, err
	}
	if p.conn != nil {
		_ = p.conn.Close()
	}
	p.conn, p.password, p.certificates = fresh, password, certificates
	return fresh, nil
}

// using does something on the connections. A pool that is replaced in this
// very moment has not done any of it, so the new one does.
func using[T any](p *pool, do func(driver.Conn) (T, error)) (T, error) {
	conn, err := p.get()
	if err != nil {
		var none T
		return none, err
	}
	result, err := do(conn)
	if errors.Is(err, clickhouse.ErrConnectionClosed) {
		if fresh, newErr := p.get(); newErr == nil && fresh != conn {
			return do(fresh)
		}
	}
	return result, err
}

// Query is that of driver.Conn, as are the methods below.
func (p *pool) Query(ctx context.Context, query string, args ...any) (driver.Rows, error) {
	return using(p, func(c driver.Conn) (driver.Rows, error) { return c.Query(ctx, query, args...) })
}

func (p *pool) Exec(ctx context.Context, query string, args ...any) error {
	_, err := using(p, func(c driver.Conn) (any, error) { return nil, c.Exec(ctx, query, args...) })
	return err
}

func (p *pool) PrepareBatch(ctx context.Context, query string, opts ...driver.PrepareBatchOption) (driver.Batch, error) {
	return using(p, func(c driver.Conn) (driver.Batch, error) { return c.PrepareBatch(ctx, query, opts...) })
}

func (p *pool) InsertFormat(ctx context.Context, format, query string, data io.Reader) error {
	_, err := using(p, func(c driver.Conn) (any, error) { return nil, c.InsertFormat(ctx, format, query, data) })
	return err
}

func (p *pool) Ping(ctx context.Context) error {
	_, err := using(p, func(c driver.Conn) (any, error) { return nil, c.Ping(ctx) })
	return err
}

// Close closes the connections. It may be called twice.
func (p *pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.conn == nil {
		return nil
	}
	return p.conn.Close()
}
