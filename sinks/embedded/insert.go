package embedded

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
)

// insertPiece is how many bytes of an INSERT's data are handed to the engine at a time. The engine copies them into a
// bounded queue, so an insert needs this much here whatever its size.
const insertPiece = 1 << 20

// maxInlineData bounds, in bytes, data that has to travel in the query text: VALUES with query parameters.
const maxInlineData = 64 << 20

// insert streams an INSERT's data into the engine: first what follows the statement in its text, then Data.
func (r *Result) insert(st Statement, s shape) error {
	head, inline, format := st.SQL, "", cmp.Or(s.format, "Values")
	if s.data >= 0 {
		head, inline = st.SQL[:s.headEnd], st.SQL[s.data:]
	}
	data := io.Reader(strings.NewReader(inline))
	if st.Data != nil {
		data = io.MultiReader(data, st.Data)
	}
	switch {
	case s.input:
		// The engine takes such a statement and inserts nothing, without an error.
		return newError(codeNotImplemented, "the embedded engine cannot read data through input(). (NOT_IMPLEMENTED)")
	case s.data >= 0 && len(st.Params) > 0 && strings.EqualFold(format, "Values"):
		return r.insertInline(st, s, data)
	}
	in, err := r.conn.insert(head+"\n", format, st.Params)
	if err != nil {
		return err
	}
	defer in.close()
	if err := pump(in, data); err != nil {
		// Half an insert must not be committed; blocks that the engine has already stored stay, as with a server.
		in.cancel()
		return err
	}
	stats, err := in.finish()
	if err != nil {
		return err
	}
	r.stats.add(stats)
	return nil
}

// pump copies data into the insert. An insert that fails in between is not an error here: finish reports it.
func pump(in *insertStream, data io.Reader) error {
	buf := make([]byte, insertPiece)
	for {
		n, err := fill(buf, data)
		if !in.append(buf[:n]) || errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("insert data: %w", err)
		}
	}
}

// fill reads until buf is full or data ends or fails. Unlike io.ReadFull it keeps the reader's error, so that the end of
// the data (io.EOF) differs from a body cut short by a client that has gone (io.ErrUnexpectedEOF).
func fill(buf []byte, data io.Reader) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = data.Read(buf[n:])
		n += m
	}
	return n, err
}

// insertInline sends statement and data as one text, where the engine replaces parameters in VALUES, which it does not do in
// a stream.
func (r *Result) insertInline(st Statement, s shape, data io.Reader) error {
	values, err := io.ReadAll(io.LimitReader(data, maxInlineData+1))
	if err != nil {
		return fmt.Errorf("insert data: %w", err)
	}
	if len(values) > maxInlineData {
		return newError(codeQueryTooLarge, "VALUES with parameters exceeds %d bytes. (QUERY_IS_TOO_LARGE)", maxInlineData)
	}
	k, err := r.conn.query(st.SQL[:s.data]+string(values), r.Format, st.Params)
	if err != nil {
		return err
	}
	r.stats.add(k.stats)
	r.pending = k
	return nil
}

// externalTable is data sent along with a query, visible to it as a temporary table.
type externalTable struct {
	name, structure, format string
	data                    []byte
}

// load creates the statement's external tables on its connection.
func (c *conn) load(tables []externalTable) error {
	for _, table := range tables {
		if err := c.exec("CREATE TEMPORARY TABLE " + quoteName(table.name) + " (" + table.structure + ") ENGINE = Memory"); err != nil {
			return fmt.Errorf("external table %s: %w", table.name, err)
		}
		in, err := c.insert("INSERT INTO "+quoteName(table.name)+"\n", table.format, nil)
		if err != nil {
			return fmt.Errorf("external table %s: %w", table.name, err)
		}
		in.append(table.data)
		_, err = in.finish()
		in.close()
		if err != nil {
			return fmt.Errorf("external table %s: %w", table.name, err)
		}
	}
	return nil
}
