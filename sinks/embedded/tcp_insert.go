package embedded

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// insert serves an INSERT whose data comes in blocks: it names the columns, and streams what the client sends into the
// engine. head is the statement without VALUES or FORMAT.
func (r *nativeRun) insert(head string) error {
	c := r.conn
	columns, err := r.insertColumns(head)
	if err != nil {
		return err
	}
	// From here on the client may have data under way, whatever becomes of the statement.
	c.skipping = true
	if err := newBlockSender(c, r.query).header(columns); err != nil {
		return err
	}
	data := &insertData{run: r, blocks: newTranscoder(c.revision, 0)}
	r.st.SQL, r.st.Data = head+" FORMAT Native\n", data
	result, err := c.server.engine.Start(r.ctx, r.st)
	if err != nil {
		return err
	}
	stats := result.Stats()
	_ = result.Close() // it is finished
	if data.ended {
		c.skipping = false
	}
	if err := r.progress(stats); err != nil {
		return err
	}
	return r.finish(func(*proto.Buffer) {})
}

// insertData reads as the data of an INSERT in the engine's Native format.
type insertData struct {
	run     *nativeRun
	blocks  *transcoder
	pending []byte // of the block that was read last
	at      int
	total   int64
	ended   bool
}

func (d *insertData) Read(p []byte) (int, error) {
	for d.at == len(d.pending) {
		if d.ended {
			return 0, io.EOF
		}
		if err := d.block(); err != nil {
			return 0, err
		}
	}
	n := copy(p, d.pending[d.at:])
	d.at += n
	return n, nil
}

// block reads the next packet.
func (d *insertData) block() error {
	c := d.run.conn
	d.pending, d.at = d.pending[:0], 0
	c.in.next(c.server.timeouts.data)
	kind := c.in.uvarint()
	c.in.within(c.server.timeouts.stall)
	switch {
	case c.in.err != nil:
		return d.fail(c.in.err)
	case kind == clientCancel:
		d.run.cancel(errCancelled)
		return errCancelled
	case kind != clientData:
		return d.fail(newError(codeUnexpectedPacket, "Unexpected packet %d from client amid an INSERT. (UNEXPECTED_PACKET_FROM_CLIENT)", kind))
	}
	packet, err := c.in.block(d.blocks, d.run.query.compressed, func(b []byte) error {
		if d.total += int64(len(b)); d.total > c.server.opts.MaxBodyBytes {
			return newError(codeQueryTooLarge, "data exceeds %d bytes. (QUERY_IS_TOO_LARGE)", c.server.opts.MaxBodyBytes)
		}
		d.pending = append(d.pending, b...)
		return nil
	})
	if err != nil {
		return d.fail(err)
	}
	if err := d.acknowledge(); err != nil {
		return d.fail(err)
	}
	if d.ended = packet.end(); d.ended {
		d.pending = nil
		d.run.watch()
	}
	return nil
}

// revisionInsertEvents is the first at which each block of an INSERT is answered by a packet of profile events.
const revisionInsertEvents = 54456

// acknowledge answers a block with the profile events that clients wait for before they send the next; there are none.
func (d *insertData) acknowledge() error {
	c := d.run.conn
	if c.revision < revisionInsertEvents {
		return nil
	}
	events := newBlockSender(c, &nativeQuery{}) // never compressed
	events.packet = proto.ServerProfileEvents
	return events.header(profileEvents)
}

var profileEvents = []columnType{
	{"host_name", "String"}, {"current_time", "DateTime"}, {"thread_id", "UInt64"},
	{"type", "Enum8('increment' = 1, 'gauge' = 2)"}, {"name", "String"}, {"value", "Int64"},
}

// fail notes that the client cannot be understood any more. The end of a connection is not the end of the data.
func (d *insertData) fail(err error) error {
	d.run.fatal = err
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// insertColumns are the columns that an INSERT names, or all that take data, with their types.
func (r *nativeRun) insertColumns(head string) ([]columnType, error) {
	target, names, err := insertTarget(head)
	if err != nil {
		return nil, err
	}
	st := r.st
	st.SQL, st.Format = "DESCRIBE TABLE "+target, "JSONCompactEachRow"
	st.Settings = append(st.Settings[:len(st.Settings):len(st.Settings)], Setting{"print_pretty_type_names", "0"}, Setting{"describe_include_subcolumns", "0"})
	text, err := r.collect(st)
	if err != nil {
		return nil, err
	}
	all, kinds, err := parseDescription(text)
	if err != nil {
		return nil, err
	}
	if names == nil {
		return all, nil
	}
	columns := make([]columnType, len(names))
	for i, name := range names {
		kind, ok := kinds[name]
		if !ok {
			return nil, newError(codeNoSuchColumn, "No such column %s in table %s. (NO_SUCH_COLUMN_IN_TABLE)", name, target)
		}
		columns[i] = columnType{name, kind}
	}
	return columns, nil
}

// parseDescription reads DESCRIBE TABLE: the columns that an INSERT without a list takes, and the types of all.
func parseDescription(text []byte) (all []columnType, kinds map[string]string, err error) {
	kinds = make(map[string]string)
	for rows := json.NewDecoder(bytes.NewReader(text)); ; {
		var row []string
		if err := rows.Decode(&row); errors.Is(err, io.EOF) {
			return all, kinds, nil
		} else if err != nil {
			return nil, nil, fmt.Errorf("description of the table: %w", err)
		}
		if len(row) < 3 {
			return nil, nil, fmt.Errorf("description of the table: %d columns", len(row))
		}
		name, kind, special := row[0], row[1], row[2]
		kinds[name] = kind
		if special != "MATERIALIZED" && special != "ALIAS" && special != "EPHEMERAL" {
			all = append(all, columnType{name, kind})
		}
	}
}

// insertTarget reads the table, or table function, of an INSERT and the columns that it lists; nil for none. The target is
// the text, as it can stand behind DESCRIBE TABLE.
func insertTarget(head string) (target string, columns []string, err error) {
	t := tokenizer{sql: head}
	t.next() // INSERT
	tok := t.next()
	if tok.keyword() == "INTO" {
		tok = t.next()
	}
	for _, word := range []string{"TABLE", "FUNCTION"} {
		if next := t.peek(); tok.keyword() == word && (next.kind == tokenWord || next.kind == tokenQuoted) {
			tok = t.next()
		}
	}
	start, end := tok.start, tok.end
	if tok.kind != tokenWord && tok.kind != tokenQuoted {
		return "", nil, badInsert(head)
	}
	isFunction := strings.Contains(strings.ToUpper(head[:start]), "FUNCTION")
	if t.peek().text == "." {
		t.next()
		end = t.next().end
	}
	if isFunction {
		if end = skipParentheses(&t); end < 0 {
			return "", nil, badInsert(head)
		}
	}
	target = head[start:end]
	if t.peek().text != "(" {
		return target, nil, nil
	}
	t.next()
	columns, ok := columnList(&t)
	if !ok {
		return "", nil, newError(codeNotImplemented, "the columns of an INSERT over the native protocol have to be named one by one. (NOT_IMPLEMENTED)")
	}
	return target, columns, nil
}

func badInsert(head string) error {
	return newError(codeSyntaxError, "Syntax error: no table in %q. (SYNTAX_ERROR)", head[:min(len(head), 200)])
}

// skipParentheses passes (…) and returns where it ends; -1 where there is none.
func skipParentheses(t *tokenizer) int {
	depth := 0
	for tok := t.next(); tok.kind != tokenEnd; tok = t.next() {
		switch tok.text {
		case "(":
			depth++
		case ")":
			depth--
		}
		if depth == 0 {
			if tok.text != ")" {
				return -1
			}
			return tok.end
		}
	}
	return -1
}

// columnList reads a, `b`, n.c and the closing parenthesis.
func columnList(t *tokenizer) (columns []string, ok bool) {
	name, wanted := "", true
	for tok := t.next(); ; tok = t.next() {
		switch {
		case wanted && tok.kind == tokenWord:
			name, wanted = name+tok.text, false
		case wanted && tok.kind == tokenQuoted && tok.text[0] != '\'' && tok.text[0] != '$':
			name, wanted = name+unquote(tok.text), false
		case !wanted && tok.text == ".":
			name, wanted = name+".", true
		case !wanted && (tok.text == "," || tok.text == ")"):
			columns = append(columns, name)
			name, wanted = "", true
			if tok.text == ")" {
				return columns, true
			}
		default:
			return nil, false
		}
	}
}

var _ io.Reader = (*insertData)(nil)
