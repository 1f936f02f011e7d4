package embedded

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go/proto"
)

// nativeServer speaks ClickHouse's native protocol (src/Core/Protocol.h, TCPHandler.cpp) on a listener:
//
//	client --hello--> server hello, or an exception        then, again and again
//	client --query, external tables--> blocks, progress, profile, end of stream, or an exception
//	client --INSERT query--> a block that names the columns; client --blocks--> end of stream, or an exception
//	client --ping--> pong
//
// Blocks are re-encoded between the client's revision and the engine's by a [transcoder].
type nativeServer struct {
	engine   *Engine
	opts     HandlerOptions
	timeouts nativeTimeouts
	listener net.Listener

	life   context.Context // ends when running statements have to
	cancel context.CancelFunc
	served sync.WaitGroup // the accepting goroutine and the connections'

	mu      sync.Mutex
	closing bool
	conns   map[*nativeConn]struct{}
}

// nativeTimeouts are a server's defaults; tests shorten them.
type nativeTimeouts struct {
	hello time.Duration // until the client has introduced itself
	idle  time.Duration // between two statements (idle_connection_timeout)
	data  time.Duration // between two blocks of an INSERT (receive_timeout)
	stall time.Duration // within a packet, in either direction
	beat  time.Duration // how often a client that waits is told that the statement still runs
}

var defaultNativeTimeouts = nativeTimeouts{hello: 10 * time.Second, idle: time.Hour, data: 5 * time.Minute, stall: stallTimeout, beat: time.Second}

// serveNative serves the native protocol until close.
func serveNative(e *Engine, listener net.Listener, opts HandlerOptions, timeouts nativeTimeouts) *nativeServer {
	s := &nativeServer{engine: e, opts: opts.withDefaults(), timeouts: timeouts, listener: listener, conns: make(map[*nativeConn]struct{})}
	s.life, s.cancel = context.WithCancel(context.Background())
	s.served.Go(s.accept)
	return s
}

// accept starts a goroutine for each connection.
func (s *nativeServer) accept() {
	for wait := time.Duration(0); ; {
		socket, err := s.listener.Accept()
		if err != nil {
			s.mu.Lock()
			closing := s.closing
			s.mu.Unlock()
			if closing || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, say: others may close theirs.
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(wait):
				continue
			case <-s.life.Done():
				return
			}
		}
		wait = 0
		c := newNativeConn(s, socket)
		s.mu.Lock()
		if s.closing {
			s.mu.Unlock()
			_ = socket.Close() // nothing was said yet
			return
		}
		s.conns[c] = struct{}{}
		tooMany := len(s.conns) > s.opts.MaxRequests
		s.served.Go(func() {
			c.serve(tooMany)
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
		s.mu.Unlock()
	}
}

// close stops listening, closes the connections that wait for a statement, lets statements finish until ctx ends, and
// cancels the rest.
func (s *nativeServer) close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	for c := range s.conns {
		if !c.busy {
			c.in.interrupt()
		}
	}
	s.mu.Unlock()
	err := s.listener.Close()
	done := make(chan struct{})
	go func() { s.served.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		err = errors.Join(err, ctx.Err())
		s.cancel()
		s.mu.Lock()
		for c := range s.conns {
			_ = c.socket.Close()
		}
		s.mu.Unlock()
		<-done
	}
	s.cancel()
	return err
}

// begin says that a connection has been sent a statement; false while closing.
func (s *nativeServer) begin(c *nativeConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.busy = !s.closing
	return c.busy
}

// end says that it waits for the next.
func (s *nativeServer) end(c *nativeConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.busy = false
	if s.closing {
		c.in.interrupt()
	}
}

// nativeConn is one client's connection. One goroutine serves it; while a statement runs, others may write to it (the beat)
// and watch it (for a cancellation), which these fields' comments name.
type nativeConn struct {
	server *nativeServer
	socket net.Conn
	in     *packetReader
	busy   bool // guarded by the server's lock: a statement runs

	revision uint64
	database string
	session  *Session // made when a statement needs what outlives it: SET, USE, a temporary table
	skipping bool     // an INSERT has failed: what is left of its data is passed over
	packed   bool     // the last query asked for compression: skipped data is compressed too

	write sync.Mutex // guards the following: a packet is written whole
	out   proto.Buffer
	wrote error // of the first write that failed
}

func newNativeConn(s *nativeServer, socket net.Conn) *nativeConn {
	return &nativeConn{server: s, socket: socket, in: newPacketReader(socket, s.opts.MaxBodyBytes)}
}

// errHangUp ends a connection without another word.
var errHangUp = errors.New("the client has gone")

// serve talks to the client until it leaves.
func (c *nativeConn) serve(tooMany bool) {
	defer func() { _ = c.socket.Close() }() // all has been said
	defer func() {
		if c.session != nil {
			c.server.engine.sessions.release(c.session, true)
		}
	}()
	err := c.hello(tooMany)
	for err == nil {
		err = c.packet()
	}
	var e *Error
	if !errors.As(err, &e) {
		return // gone, silent for too long, or the server closes
	}
	c.server.opts.Log.Debug("clickhouse: native connection ended", "code", e.Code, "error", e.Message)
	c.exception(e)
	c.linger()
}

// linger lets the client read the last exception: closing at once, with data unread, would reset the connection.
func (c *nativeConn) linger() {
	if half, ok := c.socket.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = c.socket.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, _ = io.CopyN(io.Discard, c.socket, 64<<20)
	}
}

// packet serves one packet from outside of any statement.
func (c *nativeConn) packet() error {
	c.in.next(c.server.timeouts.idle)
	kind := c.in.uvarint()
	if c.in.err != nil {
		return errHangUp // between two packets a client may go
	}
	c.in.within(c.server.timeouts.stall)
	if kind != clientData {
		c.skipping = false
	}
	switch kind {
	case clientPing:
		return c.send(func(b *proto.Buffer) { proto.ServerCodePong.Encode(b) })
	case clientCancel: // of a statement that has ended already
		return nil
	case clientData:
		return c.skipData()
	case clientQuery:
		if !c.server.begin(c) {
			return errHangUp
		}
		defer c.server.end(c)
		return c.query()
	}
	return newError(codeUnexpectedPacket, "Unexpected packet %d from client. (UNEXPECTED_PACKET_FROM_CLIENT)", kind)
}

// skipData passes over what a client was still sending when its INSERT had failed.
func (c *nativeConn) skipData() error {
	if !c.skipping {
		return newError(codeUnexpectedPacket, "Unexpected packet Data received from client. (UNEXPECTED_PACKET_FROM_CLIENT)")
	}
	_, err := c.in.block(newTranscoder(c.revision, 0), c.packed, func([]byte) error { return nil })
	return protocolError(err)
}

// hello reads who the client is and answers who the server is.
func (c *nativeConn) hello(tooMany bool) error {
	c.in.next(c.server.timeouts.hello)
	c.in.until(time.Now().Add(c.server.timeouts.hello))
	defer c.in.until(time.Time{})
	switch first := c.in.uvarint(); {
	case c.in.err != nil:
		return errHangUp
	case first == 'G' || first == 'P': // GET, POST, PUT
		return c.answerHTTP()
	case first != clientHello:
		return newError(codeUnexpectedPacket, "Unexpected packet %d from client. (UNEXPECTED_PACKET_FROM_CLIENT)", first)
	}
	name := c.in.word()
	major, minor, revision := c.in.uvarint(), c.in.uvarint(), c.in.uvarint()
	database, user, password := c.in.word(), c.in.word(), c.in.word()
	if c.in.err != nil {
		return protocolError(c.in.err)
	}
	c.revision = min(revision, MaxRevision)
	switch {
	case revision < minRevision:
		return newError(codeNotImplemented, "client %q %d.%d speaks revision %d of the protocol; this server wants %d or newer. (NOT_IMPLEMENTED)", name, major, minor, revision, minRevision)
	case tooMany:
		return newError(codeTooManyQueries, "Too many simultaneous connections. Maximum: %d. (TOO_MANY_SIMULTANEOUS_QUERIES)", c.server.opts.MaxRequests)
	}
	if err := c.server.opts.letIn(user, password); err != nil {
		return err
	}
	if err := c.chooseDatabase(database); err != nil {
		return err
	}
	if err := c.send(c.serverHello); err != nil {
		return err
	}
	if proto.FeatureAddendum.In(int(c.revision)) {
		c.in.word() // the quota key
	}
	return protocolError(c.in.err)
}

// serverHello says who the server is.
func (c *nativeConn) serverHello(b *proto.Buffer) {
	info := c.server.engine.server
	var version [3]int
	for i, part := range strings.SplitN(info.version, ".", 4) {
		if i < len(version) {
			version[i], _ = strconv.Atoi(part) // the engine's own version
		}
	}
	hello := proto.ServerHello{Name: "ClickHouse", Major: version[0], Minor: version[1], Patch: version[2], Revision: MaxRevision,
		Timezone: info.timezone, DisplayName: info.displayName}
	hello.EncodeAware(b, int(c.revision))
}

// answerHTTP tells a browser or curl where it has come to, in its own language.
func (c *nativeConn) answerHTTP() error {
	c.write.Lock()
	defer c.write.Unlock()
	c.out.Buf = append(c.out.Buf[:0], "HTTP/1.0 400 Bad Request\r\n\r\nThis port speaks ClickHouse's native protocol (clickhouse-client and drivers).\nUse the port of --listen, 8123 by default, for HTTP.\n"...)
	err := c.flush()
	c.linger()
	return errors.Join(errHangUp, err)
}

// chooseDatabase makes a database the default of all statements, if there is one.
func (c *nativeConn) chooseDatabase(name string) error {
	c.database = cmp.Or(name, "default")
	ctx, cancel := context.WithTimeout(c.server.life, c.server.timeouts.hello)
	defer cancel()
	exists, err := c.server.engine.Query(ctx, "EXISTS DATABASE "+quoteName(c.database), "TabSeparatedRaw")
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(exists)) != "1" {
		return newError(codeUnknownDatabase, "Database %s does not exist. (UNKNOWN_DATABASE)", quoteName(c.database))
	}
	return nil
}

// keepSession gives the connection a session, so that what a statement sets outlives it.
func (c *nativeConn) keepSession() error {
	if c.session != nil {
		return nil
	}
	session, err := c.server.engine.sessions.acquire("native "+rand.Text(), time.Hour, false)
	if err != nil {
		return err
	}
	if err := session.conn.exec("USE " + quoteName(c.database)); err != nil {
		c.server.engine.sessions.release(session, true)
		return err
	}
	c.session = session
	return nil
}

// send writes one packet.
func (c *nativeConn) send(encode func(*proto.Buffer)) error {
	c.write.Lock()
	defer c.write.Unlock()
	c.out.Reset()
	encode(&c.out)
	return c.flush()
}

// flush writes out. The caller holds the lock. After a failure nothing is written any more.
func (c *nativeConn) flush() error {
	for at := 0; at < len(c.out.Buf) && c.wrote == nil; at += blockSize {
		if c.wrote = c.socket.SetWriteDeadline(time.Now().Add(c.server.timeouts.stall)); c.wrote == nil {
			_, c.wrote = c.socket.Write(c.out.Buf[at:min(at+blockSize, len(c.out.Buf))])
		}
	}
	if cap(c.out.Buf) > maxHeldInMemory {
		c.out.Buf = nil
	}
	if c.wrote != nil {
		return fmt.Errorf("%w: %w", errHangUp, c.wrote)
	}
	return nil
}

// exception tells the client what went wrong. One that has gone cannot be told.
func (c *nativeConn) exception(e *Error) {
	text := e.Message
	if !strings.Contains(text, "(version ") {
		text += " (version " + c.server.engine.server.version + ")"
	}
	x := proto.Exception{Code: proto.Error(e.Code), Name: "DB::Exception", Message: "DB::Exception: " + text}
	_ = c.send(func(b *proto.Buffer) {
		proto.ServerCodeException.Encode(b)
		x.EncodeAware(b, int(c.revision))
	})
}

// protocolError turns a failure to read what a client sends into one that ends the connection.
func protocolError(err error) error {
	var e *Error
	switch {
	case err == nil || errors.As(err, &e) || errors.Is(err, errHangUp):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return newError(codeSocketTimeout, "the client stopped sending. (SOCKET_TIMEOUT)")
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed):
		return errHangUp
	case errors.Is(err, errPacketTooLarge):
		return newError(codeQueryTooLarge, "%v. (QUERY_IS_TOO_LARGE)", err)
	}
	var network net.Error
	if errors.As(err, &network) {
		return errHangUp
	}
	return newError(codeUnexpectedPacket, "cannot read what the client sent: %v. (UNEXPECTED_PACKET_FROM_CLIENT)", err)
}
