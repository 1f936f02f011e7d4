package embedded

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go/proto"
)

// Packets that a client sends (Protocol.h).
const (
	clientHello  = 0
	clientQuery  = 1
	clientData   = 2
	clientCancel = 3
	clientPing   = 4
)

// minRevision is the oldest client spoken to: since it, settings travel as text. It is of 2019.
const minRevision = 54429

const (
	// maxWordBytes bounds names: of clients, users, settings, columns' tables.
	maxWordBytes = 64 << 10
	// maxColumnBytes bounds one column of one block, which is held in memory.
	maxColumnBytes = 512 << 20
	// maxQueryItems bounds the settings, and the parameters, of one query.
	maxQueryItems = 10_000
)

var errPacketTooLarge = errors.New("a packet holds more than it may")

// packetReader reads what a client sends. Nothing is allocated because a length field says so: memory grows only as bytes
// arrive, up to a limit. It is the cursor over the bytes of the connection; its first error sticks.
type packetReader struct {
	cursor
	socket net.Conn
	body   int64 // most bytes of an INSERT's data, as they come and uncompressed

	unpacked cursor // over the compressed blocks in it
	blocks   *blockReader

	mu       sync.Mutex // guards the following: interrupt is called from elsewhere
	timeout  time.Duration
	deadline time.Time // an absolute one, the earlier counts; zero for none
	stopped  bool
}

func newPacketReader(socket net.Conn, maxBody int64) *packetReader {
	p := &packetReader{socket: socket, body: maxBody}
	p.cursor = cursor{more: func(*cursor) error { return p.fetch() }, limit: maxQueryBytes}
	p.blocks = newBlockReader(rawReader{p})
	p.unpacked = cursor{more: func(c *cursor) error { return fetchFrom(c, p.blocks) }, limit: maxColumnBytes}
	return p
}

// next begins a packet, which may be that long in coming.
func (p *packetReader) next(timeout time.Duration) {
	p.compact()
	if len(p.data) == 0 && cap(p.data) > maxHeldInMemory {
		p.data = nil
	}
	p.limit = maxQueryBytes
	p.within(timeout)
}

// within bounds each of the reads that follow.
func (p *packetReader) within(timeout time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timeout = timeout
}

// until bounds all of the reads that follow together.
func (p *packetReader) until(deadline time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline = deadline
}

// interrupt makes the running read fail, and those to come until resume.
func (p *packetReader) interrupt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	_ = p.socket.SetReadDeadline(time.Unix(1, 0)) // fails only where the socket is closed
}

// interrupted reports whether reads fail because interrupt was called.
func (p *packetReader) interrupted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopped
}

// resume undoes interrupt.
func (p *packetReader) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = false
	if errors.Is(p.err, os.ErrDeadlineExceeded) {
		p.err = nil
	}
}

// arm sets the deadline of the next read.
func (p *packetReader) arm() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return os.ErrDeadlineExceeded
	}
	deadline := time.Now().Add(p.timeout)
	if !p.deadline.IsZero() && p.deadline.Before(deadline) {
		deadline = p.deadline
	}
	return p.socket.SetReadDeadline(deadline)
}

// fetch appends to data what the connection has.
func (p *packetReader) fetch() error {
	if err := p.arm(); err != nil {
		return err
	}
	return fetchFrom(&p.cursor, p.socket)
}

// fetchFrom appends one read to a cursor's data.
func fetchFrom(c *cursor, src io.Reader) error {
	const least = 64 << 10
	if cap(c.data)-len(c.data) < least {
		grown := make([]byte, len(c.data), 2*len(c.data)+least)
		copy(grown, c.data)
		c.data = grown
	}
	n, err := src.Read(c.data[len(c.data):cap(c.data)])
	c.data = c.data[:len(c.data)+n]
	if n > 0 {
		return nil // an error comes again
	}
	return err
}

// rawReader reads the bytes of the connection that follow, no more than it is asked for.
type rawReader struct{ p *packetReader }

func (r rawReader) Read(b []byte) (int, error) {
	p := r.p
	if len(b) == 0 || !p.need(1) {
		return 0, p.err
	}
	n := copy(b, p.data[p.at:])
	p.at += n
	p.compactRead()
	return n, nil
}

// compactRead forgets what has been read once that is much.
func (p *packetReader) compactRead() {
	if p.at == len(p.data) || p.at > 1<<20 {
		p.compact()
	}
}

// word reads a text that is a name.
func (p *packetReader) word() string { return p.bounded(maxWordBytes) }

// bounded reads a text of at most that many bytes.
func (p *packetReader) bounded(limit int) string {
	n := p.uvarint()
	if p.err == nil && n > uint64(limit) {
		p.err = fmt.Errorf("%w: a text of %d bytes where %d are allowed", errPacketTooLarge, n, limit)
	}
	p.skip(n)
	if p.err != nil {
		return ""
	}
	return string(p.data[p.at-int(n) : p.at])
}

// nativeQuery is what a Query packet holds of use here.
type nativeQuery struct {
	sql        string
	compressed bool
	settings   []nativeSetting
	params     []Param
}

// nativeSetting is a setting; a server that does not know it may pass over it unless it is important.
type nativeSetting struct {
	Setting
	important bool
}

// The stage up to which a server works; all but other servers want a query complete.
const stageComplete = 2

// query reads a Query packet behind its number.
func (p *packetReader) query(revision uint64) (*nativeQuery, error) {
	q := &nativeQuery{}
	p.word() // query id: the engine has its own
	p.clientInfo(int(revision))
	for range maxQueryItems + 1 {
		name, flags, value := p.setting()
		if name == "" || p.err != nil {
			break
		}
		if flags&2 != 0 { // custom: a dump of a field
			value = undump(value)
		}
		q.settings = append(q.settings, nativeSetting{Setting{name, value}, flags&1 != 0})
	}
	if len(q.settings) > maxQueryItems {
		return nil, fmt.Errorf("%w: %d settings", errPacketTooLarge, maxQueryItems)
	}
	if proto.FeatureInterServerSecret.In(int(revision)) {
		p.word()
	}
	stage := p.uvarint()
	q.compressed = p.uvarint() != 0
	q.sql = p.bounded(maxQueryBytes)
	if proto.FeatureParameters.In(int(revision)) {
		for range maxQueryItems + 1 {
			name, _, value := p.setting()
			if name == "" || p.err != nil {
				break
			}
			q.params = append(q.params, Param{Name: name, Value: undump(value)})
		}
	}
	switch {
	case p.err != nil:
		return nil, p.err
	case len(q.params) > maxQueryItems:
		return nil, fmt.Errorf("%w: %d parameters", errPacketTooLarge, maxQueryItems)
	case stage != stageComplete:
		return nil, newError(codeNotImplemented, "stage %d of a query: this server is no shard of another. (NOT_IMPLEMENTED)", stage)
	}
	return q, nil
}

// clientInfo passes over who the client says it is.
func (p *packetReader) clientInfo(revision int) {
	if p.byte() == 0 { // no query: nothing follows
		return
	}
	p.word() // initial user
	p.word() // initial query id
	p.word() // initial address
	if proto.FeatureQueryStartTime.In(revision) {
		p.skip(8)
	}
	const tcp = 1
	way := p.byte()
	if way != tcp && p.err == nil {
		p.err = fmt.Errorf("client information of interface %d", way)
	}
	p.word() // user of the operating system
	p.word() // host
	p.word() // client
	p.uvarint()
	p.uvarint()
	p.uvarint()
	p.word() // quota key, since 54060
	if proto.FeatureDistributedDepth.In(revision) {
		p.uvarint()
	}
	p.uvarint() // patch, since 54401
	if proto.FeatureOpenTelemetry.In(revision) && p.byte() != 0 {
		p.skip(16 + 8) // trace and span
		p.word()       // trace state
		p.skip(1)
	}
	if proto.FeatureParallelReplicas.In(revision) {
		p.uvarint()
		p.uvarint()
		p.uvarint()
	}
}

// setting reads a setting or parameter; an empty name ends them.
func (p *packetReader) setting() (name string, flags uint64, value string) {
	if name = p.word(); name == "" {
		return "", 0, ""
	}
	flags = p.uvarint()
	return name, flags, p.bounded(maxQueryBytes)
}

// undump takes the quotes off a text as ClickHouse's fields are dumped.
func undump(value string) string {
	if len(value) >= 2 && value[0] == '\'' && value[len(value)-1] == '\'' {
		return unquote(value)
	}
	return value
}

// dataPacket says what came in a Data packet.
type dataPacket struct {
	table     string // of an external table; empty for the data of an INSERT
	columns   int
	rows      uint64
	structure []columnType
}

// columnType is a column's name and type.
type columnType struct{ name, kind string }

// end reports whether the packet is the one that ends a series.
func (d *dataPacket) end() bool { return d.columns == 0 && d.rows == 0 }

// block reads a Data packet behind its number and passes its block on, re-encoded.
func (p *packetReader) block(t *transcoder, compressed bool, emit func([]byte) error) (*dataPacket, error) {
	d := &dataPacket{table: p.word()}
	c := &p.cursor
	if compressed {
		c = &p.unpacked
	}
	p.limit = maxColumnBytes
	passed := int64(0)
	bounded := func(b []byte) error {
		if passed += int64(len(b)); passed > p.body {
			return fmt.Errorf("%w: %d bytes of data", errPacketTooLarge, p.body)
		}
		return emit(b)
	}
	var err error
	if p.err == nil {
		d.rows, err = t.blockRows(c, bounded, func(name, kind string) {
			d.columns++
			d.structure = append(d.structure, columnType{name, kind})
		})
	}
	switch {
	case p.err != nil: // what the connection says is the cause of what the block says
		return nil, p.err
	case err != nil:
		return nil, err
	case compressed && p.unpacked.at < len(p.unpacked.data):
		return nil, errors.New("a compressed block goes on behind its columns")
	}
	p.unpacked.compact()
	return d, nil
}
