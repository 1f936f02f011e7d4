package embedded

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go/proto"
)

// query serves a Query packet behind its number. An error ends the connection; what is only the statement's fault has been
// told to the client.
func (c *nativeConn) query() error {
	q, err := c.in.query(c.revision)
	if err != nil {
		return protocolError(err)
	}
	c.packed = q.compressed
	run := &nativeRun{conn: c, query: q}
	if err := run.externalTables(); err != nil {
		return protocolError(err)
	}
	err = run.execute()
	run.unwatch()
	if run.fatal != nil { // the connection cannot be understood any more
		return protocolError(run.fatal)
	}
	if err == nil || errors.Is(err, errHangUp) {
		return err
	}
	e := asError(err)
	if run.cancelled() {
		e = newError(codeQueryCancelled, "Query was cancelled. (QUERY_WAS_CANCELLED)")
	}
	c.server.opts.Log.Debug("clickhouse: native query failed", "code", e.Code, "error", e.Message)
	c.exception(e)
	return nil
}

// nativeRun is a statement on its way.
type nativeRun struct {
	conn  *nativeConn
	query *nativeQuery
	st    Statement
	fatal error // what the client sent could not be read

	ctx    context.Context
	cancel context.CancelCauseFunc
	stop   chan struct{} // ends the beat; nil while nobody watches
	helper sync.WaitGroup
	sent   Stats // what progress has told
}

var errCancelled = errors.New("the client cancelled the statement")

func (r *nativeRun) cancelled() bool { return errors.Is(context.Cause(r.ctx), errCancelled) }

// externalTables reads the tables that a query brings along, up to the empty block that ends them.
func (r *nativeRun) externalTables() error {
	c, total := r.conn, 0
	for {
		c.in.next(c.server.timeouts.data)
		if kind := c.in.uvarint(); c.in.err == nil && kind != clientData {
			return newError(codeUnexpectedPacket, "Unexpected packet %d from client, expected the end of external tables. (UNEXPECTED_PACKET_FROM_CLIENT)", kind)
		}
		c.in.within(c.server.timeouts.stall)
		var data bytes.Buffer
		d, err := c.in.block(newTranscoder(c.revision, 0), r.query.compressed, func(b []byte) error {
			if total += len(b); total > maxQueryBytes {
				return newError(codeQueryTooLarge, "external data exceeds %d bytes. (QUERY_IS_TOO_LARGE)", maxQueryBytes)
			}
			data.Write(b)
			return nil
		})
		if err != nil {
			return err
		}
		if d.end() {
			return nil
		}
		r.addTable(d, data.Bytes())
	}
}

// addTable keeps a block of an external table.
func (r *nativeRun) addTable(d *dataPacket, data []byte) {
	for i := range r.st.tables {
		if t := &r.st.tables[i]; t.name == d.table {
			t.data = append(t.data, data...)
			return
		}
	}
	columns := make([]string, len(d.structure))
	for i, column := range d.structure {
		columns[i] = quoteName(column.name) + " " + column.kind
	}
	r.st.tables = append(r.st.tables, externalTable{name: d.table, structure: strings.Join(columns, ", "), format: "Native", data: data})
}

// execute runs the statement and answers.
func (r *nativeRun) execute() (err error) {
	c := r.conn
	r.ctx, r.cancel = context.WithCancelCause(c.server.life)
	defer r.cancel(nil)
	if r.st.Settings, err = c.knownSettings(r.ctx, r.query.settings); err != nil {
		return err
	}
	r.st.Params, r.st.Database, r.st.Format = r.query.params, c.database, "Native"
	sql := r.query.sql
	s := shapeOf(sql)
	if needsSession(sql) {
		if err := c.keepSession(); err != nil {
			return err
		}
	}
	if c.session != nil {
		r.st.Session, r.st.Database = c.session, ""
	}
	if s.insert && (s.data < 0 || strings.TrimSpace(sql[s.data:]) == "") {
		return r.insert(sql[:s.headEnd])
	}
	if s.format != "" && !s.insert {
		// The format is what a client prints. What it is sent is blocks.
		sql = sql[:s.clause[0]] + sql[s.clause[1]:]
	}
	r.st.SQL = sql
	return r.answer()
}

// needsSession reports whether a statement changes what later ones of the connection see. All others get a connection of the
// engine of their own.
func needsSession(sql string) bool {
	t := tokenizer{sql: sql}
	switch t.next().keyword() {
	case "SET", "USE":
		return true
	case "CREATE", "REPLACE", "ATTACH":
		for range 3 { // CREATE OR REPLACE TEMPORARY
			if t.next().keyword() == "TEMPORARY" {
				return true
			}
		}
	}
	return false
}

// knownSettings leaves out settings that the engine does not know and the client calls unimportant, as a server does.
func (c *nativeConn) knownSettings(ctx context.Context, all []nativeSetting) ([]Setting, error) {
	var kept []Setting
	var known map[string]bool
	for _, s := range all {
		if !s.important && known == nil {
			var err error
			if known, err = c.server.engine.settingNames(ctx); err != nil {
				return nil, err
			}
		}
		if s.important || known[s.Name] {
			kept = append(kept, s.Setting)
		}
	}
	return kept, nil
}

// settingNames returns the names of the engine's settings.
func (e *Engine) settingNames(ctx context.Context) (map[string]bool, error) {
	e.mu.Lock()
	names := e.settings
	e.mu.Unlock()
	if names != nil {
		return names, nil
	}
	text, err := e.Query(ctx, "SELECT name FROM system.settings", "TabSeparatedRaw")
	if err != nil {
		return nil, err
	}
	names = make(map[string]bool)
	for name := range strings.Lines(string(text)) {
		names[strings.TrimSuffix(name, "\n")] = true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.settings = names
	return names, nil
}

// answer runs a statement whose input is complete and sends its output.
func (r *nativeRun) answer() error {
	r.watch()
	result, err := r.conn.server.engine.Start(r.ctx, r.st)
	if err != nil {
		return err
	}
	defer func() { _ = result.Close() }() // read to its end, or failed already
	profile := proto.Profile{}
	out := newBlockSender(r.conn, r.query)
	for {
		data, err := result.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		blocks := &cursor{data: data}
		for blocks.at < len(data) {
			if err := out.block(blocks); err != nil {
				return err
			}
			profile.Blocks++
		}
		if err := r.progress(result.Stats()); err != nil {
			return err
		}
	}
	if !out.headed {
		if err := r.emptyHeader(out); err != nil {
			return err
		}
	}
	stats := result.Stats()
	profile.Rows, profile.Bytes = stats.ResultRows, stats.ResultBytes
	if err := r.progress(stats); err != nil {
		return err
	}
	// The statement has to be over before the client hears so, or its next one would find the session busy.
	_ = result.Close()
	return r.finish(func(b *proto.Buffer) {
		if out.headed {
			profile.EncodeAware(b, int(r.conn.revision))
		}
	})
}

// finish ends the stream, after what last writes.
func (r *nativeRun) finish(last func(*proto.Buffer)) error {
	r.unwatch()
	return r.conn.send(func(b *proto.Buffer) {
		last(b)
		proto.ServerCodeEndOfStream.Encode(b)
	})
}

// progress tells what has been done since it last told.
func (r *nativeRun) progress(now Stats) error {
	p := proto.Progress{
		Rows: now.ReadRows - r.sent.ReadRows, Bytes: now.ReadBytes - r.sent.ReadBytes,
		WroteRows: now.WrittenRows - r.sent.WrittenRows, WroteBytes: now.WrittenBytes - r.sent.WrittenBytes,
		ElapsedNs: uint64(now.Elapsed - r.sent.Elapsed),
	}
	r.sent = now
	return r.conn.send(func(b *proto.Buffer) {
		proto.ServerCodeProgress.Encode(b)
		p.EncodeAware(b, int(r.conn.revision))
	})
}

// emptyHeader names the columns of a result without rows, of which the engine prints nothing at all.
func (r *nativeRun) emptyHeader(out *blockSender) error {
	s := shapeOf(r.st.SQL)
	sql, format := r.st.SQL, "JSONCompact"
	switch {
	case s.streams():
		sql = "DESCRIBE (" + strings.TrimRight(strings.TrimSpace(sql), ";") + "\n)"
		format = "JSONCompactEachRow"
	case !repeatable[s.verb]:
		return nil // it has no columns
	}
	st := r.st
	st.SQL, st.Format = sql, format
	st.Settings = append(st.Settings[:len(st.Settings):len(st.Settings)], Setting{"print_pretty_type_names", "0"})
	text, err := r.collect(st)
	if err != nil {
		return err
	}
	columns, err := parseColumns(text, s.streams())
	if err != nil {
		return fmt.Errorf("columns of an empty result: %w", err)
	}
	return out.header(columns)
}

// repeatable are the statements besides SELECT that have columns and can be asked a second time without harm.
var repeatable = map[string]bool{"SHOW": true, "DESCRIBE": true, "DESC": true, "EXISTS": true, "EXPLAIN": true}

// collect runs a statement for its output.
func (r *nativeRun) collect(st Statement) ([]byte, error) {
	result, err := r.conn.server.engine.Start(r.ctx, st)
	if err != nil {
		return nil, err
	}
	defer func() { _ = result.Close() }() // read to its end, or failed already
	var text []byte
	for {
		data, err := result.Next()
		if errors.Is(err, io.EOF) {
			return text, nil
		}
		if err != nil {
			return nil, err
		}
		text = append(text, data...)
	}
}

// parseColumns reads names and types: DESCRIBE's rows as JSONCompactEachRow, or the head of a JSONCompact document.
func parseColumns(text []byte, described bool) (columns []columnType, err error) {
	if !described {
		var document struct {
			Meta []struct{ Name, Type string }
		}
		err = json.Unmarshal(text, &document)
		for _, m := range document.Meta {
			columns = append(columns, columnType{m.Name, m.Type})
		}
		return columns, err
	}
	for rows := json.NewDecoder(bytes.NewReader(text)); ; {
		var row []any
		if err := rows.Decode(&row); errors.Is(err, io.EOF) {
			return columns, nil
		} else if err != nil {
			return nil, err
		}
		if len(row) < 2 {
			return nil, fmt.Errorf("DESCRIBE has %d columns", len(row))
		}
		columns = append(columns, columnType{fmt.Sprint(row[0]), fmt.Sprint(row[1])})
	}
}

// watch looks, while the statement runs, whether the client cancels it or goes away, and tells the client now and then that
// it still runs.
func (r *nativeRun) watch() {
	c := r.conn
	r.stop = make(chan struct{})
	c.in.next(365 * 24 * time.Hour) // as long as it runs
	r.helper.Go(func() {
		if !c.in.need(1) {
			if !c.in.interrupted() {
				r.cancel(errHangUp)
			}
			return
		}
		if c.in.data[c.in.at] == clientCancel {
			c.in.at++
			r.cancel(errCancelled)
		}
		// Anything else is for later: a client may send its next query early.
	})
	r.helper.Go(func() {
		beat := time.NewTicker(c.server.timeouts.beat)
		defer beat.Stop()
		for {
			select {
			case <-beat.C:
				err := c.send(func(b *proto.Buffer) {
					proto.ServerCodeProgress.Encode(b)
					proto.Progress{}.EncodeAware(b, int(c.revision))
				})
				if err != nil {
					r.cancel(errHangUp)
				}
			case <-r.stop:
				return
			}
		}
	})
}

// unwatch ends what watch began, and waits for it.
func (r *nativeRun) unwatch() {
	if r.stop == nil {
		return
	}
	close(r.stop)
	r.conn.in.interrupt()
	r.helper.Wait()
	r.conn.in.resume()
	r.stop = nil
}

// blockSender sends blocks as Data packets, the first one preceded by a block of its columns without rows.
type blockSender struct {
	conn    *nativeConn
	blocks  *transcoder
	packet  proto.ServerCode
	headed  bool
	packed  *blockWriter // nil without compression
	payload []byte       // of the packet in the making
}

func newBlockSender(c *nativeConn, q *nativeQuery) *blockSender {
	s := &blockSender{conn: c, blocks: newTranscoder(0, c.revision), packet: proto.ServerCodeData}
	if q.compressed {
		method := "LZ4"
		for _, setting := range q.settings {
			if setting.Name == "network_compression_method" {
				method = strings.ToUpper(setting.Value)
			}
		}
		s.packed = newBlockWriter(method, func(data []byte) error {
			s.payload = append(s.payload, data...)
			return nil
		})
	}
	return s
}

// block sends the next block of a result.
func (s *blockSender) block(c *cursor) error {
	start := c.at
	if !s.headed {
		var columns []columnType
		_, err := s.blocks.blockRows(c, func([]byte) error { return nil }, func(name, kind string) {
			columns = append(columns, columnType{name, kind})
		})
		if err != nil {
			return err
		}
		if err := s.header(columns); err != nil {
			return err
		}
		c.at = start
	}
	s.payload = s.payload[:0]
	if err := s.blocks.block(c, s.add); err != nil {
		return err
	}
	return s.send()
}

// header sends the columns without rows.
func (s *blockSender) header(columns []columnType) error {
	s.headed = true
	var b proto.Buffer
	b.PutInt(len(columns))
	b.PutInt(0)
	for _, column := range columns {
		b.PutString(column.name)
		b.PutString(column.kind)
	}
	s.payload = s.payload[:0]
	if err := s.blocks.block(&cursor{data: b.Buf}, s.add); err != nil {
		return err
	}
	return s.send()
}

func (s *blockSender) add(data []byte) error {
	if s.packed != nil {
		return s.packed.write(data)
	}
	s.payload = append(s.payload, data...)
	return nil
}

func (s *blockSender) send() error {
	if s.packed != nil {
		if err := s.packed.flush(); err != nil {
			return err
		}
	}
	return s.conn.send(func(b *proto.Buffer) {
		s.packet.Encode(b)
		b.PutString("") // the table: the result
		b.PutRaw(s.payload)
	})
}
