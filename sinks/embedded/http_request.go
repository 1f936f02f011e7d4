package embedded

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// request is what a client asked for.
type request struct {
	statement Statement
	id        string // query id: the client's, or a random one
	revision  uint64 // of Native output; 0 unless the client names one

	sessionID                  string
	sessionTimeout             time.Duration
	sessionCheck, sessionClose bool

	compress       bool   // answer in ClickHouse's own compressed blocks
	compressMethod string // LZ4 or ZSTD
	encoding       string // Content-Encoding of the answer; empty: none
	waitEnd        bool   // hold the answer until it is complete
}

// maxSessionTimeout is a server's default max_session_timeout.
const maxSessionTimeout = time.Hour

// readRequest reads parameters and as much of the body as is needed to know the statement.
func (h *Handler) readRequest(r *http.Request) (*request, error) {
	q := &request{id: r.Header.Get("X-ClickHouse-Query-Id"), sessionTimeout: time.Minute, compressMethod: "LZ4"}
	params := r.URL.Query()
	body, err := h.openBody(r, params.Get("decompress") == "1" || params.Get("decompress") == "true")
	if err != nil {
		return nil, err
	}
	sql := params.Get("query")
	if media, values, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && media == "multipart/form-data" {
		if sql, err = q.readForm(multipart.NewReader(body, values["boundary"]), params, sql); err != nil {
			return nil, err
		}
		body = nil
	}
	st := &q.statement
	st.Database = r.Header.Get("X-ClickHouse-Database")
	st.Format = r.Header.Get("X-ClickHouse-Format")
	st.ReadOnly = r.Method == http.MethodGet || r.Method == http.MethodHead
	if err := q.readParams(params); err != nil {
		return nil, err
	}
	q.id = cmp.Or(q.id, rand.Text())
	if params.Get("enable_http_compression") != "0" {
		q.encoding = chooseEncoding(r.Header.Get("Accept-Encoding"))
	}
	err = q.readStatement(sql, body)
	return q, err
}

// readParams sorts the parameters: the interface's own, values of placeholders, and settings.
func (q *request) readParams(params url.Values) (err error) {
	st := &q.statement
	// In a fixed order, so that of two bad settings the same one is reported.
	names := make([]string, 0, len(params))
	for name := range params {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		value := params.Get(name)
		switch name {
		case "", "query", "user", "password", "quota_key", "stacktrace", "buffer_size", "decompress":
		case "database":
			st.Database = cmp.Or(st.Database, value)
		case "default_format":
			st.Format = cmp.Or(st.Format, value)
		case "query_id":
			q.id = value
		case "session_id":
			q.sessionID = value
		case "session_timeout":
			seconds, err := strconv.Atoi(value)
			if q.sessionTimeout = time.Duration(seconds) * time.Second; err != nil || seconds < 0 || q.sessionTimeout > maxSessionTimeout {
				return newError(codeInvalidSessionTime, "Invalid session timeout: '%s'. (INVALID_SESSION_TIMEOUT)", value)
			}
		case "session_check":
			q.sessionCheck = isTrue(value)
		case "close_session":
			q.sessionClose = isTrue(value)
		case "wait_end_of_query":
			q.waitEnd = isTrue(value)
		case "compress":
			q.compress = isTrue(value)
		case "client_protocol_version":
			if q.revision, err = strconv.ParseUint(value, 10, 32); err != nil {
				return newError(codeBadArguments, "client_protocol_version is not a number: '%s'. (BAD_ARGUMENTS)", value)
			}
		case "role":
			return newError(codeNotImplemented, "the embedded engine has no roles. (NOT_IMPLEMENTED)")
		case "readonly":
			st.ReadOnly = st.ReadOnly || value != "0"
		default:
			if param, ok := strings.CutPrefix(name, "param_"); ok {
				st.Params = append(st.Params, Param{Name: param, Value: value})
				continue
			}
			if name == "network_compression_method" {
				q.compressMethod = strings.ToUpper(value)
			}
			st.Settings = append(st.Settings, Setting{Name: name, Value: value})
		}
	}
	return nil
}

func isTrue(value string) bool { return value == "1" || value == "true" }

// readStatement puts the statement together: the query parameter, a line end and the body, as a server reads it. Data of an
// INSERT is left in the body; anything else is read whole.
func (q *request) readStatement(sql string, body io.Reader) error {
	if body == nil {
		q.statement.SQL = sql
		return nil
	}
	if sql != "" {
		body = io.MultiReader(strings.NewReader(sql+"\n"), body)
	}
	prefix := make([]byte, queryPrefix+len(sql))
	n, err := fill(prefix, body)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("request body: %w", err)
	}
	text := string(prefix[:n])
	s := shapeOf(text)
	if err == nil && !(s.insert && s.data >= 0 && s.data < len(text)) { // not the end, nor an INSERT that may go on
		rest, err := io.ReadAll(io.LimitReader(body, maxQueryBytes+1))
		if err != nil {
			return fmt.Errorf("request body: %w", err)
		}
		if len(rest) > maxQueryBytes {
			return newError(codeQueryTooLarge, "statement exceeds %d bytes. (QUERY_IS_TOO_LARGE)", maxQueryBytes)
		}
		text += string(rest)
		s, body = shapeOf(text), nil
	}
	if s.verb == "" {
		text = ""
	}
	q.statement.SQL, q.statement.shape = text, &s
	if s.insert && body != nil {
		q.statement.Data = body
	}
	return nil
}

// readForm reads a multipart body: the query and further parameters as fields, external tables as files.
func (q *request) readForm(form *multipart.Reader, params url.Values, sql string) (string, error) {
	total := 0
	for {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", newError(codeBadArguments, "multipart body: %v. (BAD_ARGUMENTS)", err)
		}
		data, err := io.ReadAll(io.LimitReader(part, int64(maxQueryBytes-total)+1))
		if err != nil {
			return "", fmt.Errorf("multipart body: %w", err)
		}
		if total += len(data); total > maxQueryBytes {
			return "", newError(codeQueryTooLarge, "external data exceeds %d bytes. (QUERY_IS_TOO_LARGE)", maxQueryBytes)
		}
		name := part.FormName()
		switch {
		case name == "query":
			sql += string(data)
		case part.FileName() != "" || params.Has(name+"_structure") || params.Has(name+"_types"):
			q.statement.tables = append(q.statement.tables, externalTable{name: name, data: bytes.Clone(data)})
		default:
			params.Set(name, string(data))
		}
	}
	// Their description may come in fields after the data.
	for i := range q.statement.tables {
		describeTable(&q.statement.tables[i], params)
	}
	return sql, nil
}

// describeTable takes an external table's structure and format out of the parameters, where they would pass for settings.
func describeTable(table *externalTable, params url.Values) {
	table.format = cmp.Or(params.Get(table.name+"_format"), "TabSeparated")
	table.structure = params.Get(table.name + "_structure")
	if types := params.Get(table.name + "_types"); table.structure == "" && types != "" {
		columns := strings.Split(types, ",")
		for i, t := range columns {
			columns[i] = fmt.Sprintf("_%d %s", i+1, t)
		}
		table.structure = strings.Join(columns, ", ")
	}
	for _, suffix := range []string{"_format", "_structure", "_types"} {
		params.Del(table.name + suffix)
	}
}
