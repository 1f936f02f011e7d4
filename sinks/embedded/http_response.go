package embedded

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// response writes a result's bytes:
//
//	write --> ClickHouse's compressed blocks --> Content-Encoding --> held back --> client
//	          (compress=1)                      (Accept-Encoding)
//
// The first megabyte, or everything with wait_end_of_query, is held back so that an error can still become a status.
type response struct {
	w       http.ResponseWriter
	request *http.Request
	query   *request
	result  *Result
	dir     string
	control *http.ResponseController
	timeout time.Duration // of one write to the client

	blocks  *blockWriter   // nil unless compress=1
	encoder io.WriteCloser // nil without Content-Encoding
	held    bytes.Buffer
	spill   *os.File // what wait_end_of_query holds beyond maxHeldInMemory
	sent    bool     // the header is out
	tag     string   // marks an exception in the body
}

// maxHeldInMemory is how much wait_end_of_query holds in memory; the rest goes to a temporary file in the data directory.
const maxHeldInMemory = 16 << 20

func newResponse(w http.ResponseWriter, r *http.Request, q *request, result *Result, dir string, timeout time.Duration) *response {
	out := &response{w: w, request: r, query: q, result: result, dir: dir, control: http.NewResponseController(w), timeout: timeout, tag: strings.ToLower(rand.Text())[:16]}
	header := w.Header()
	header.Set("Content-Type", contentType(result.Format))
	header.Set("X-ClickHouse-Format", result.Format)
	header.Set("X-ClickHouse-Exception-Tag", out.tag)
	if out.encoder = newEncoder(q.encoding, holder{out}); out.encoder != nil {
		header.Set("Content-Encoding", q.encoding)
	}
	if q.compress {
		out.blocks = newBlockWriter(q.compressMethod, out.encode)
	}
	return out
}

// write takes output of the statement.
func (out *response) write(data []byte) error {
	if out.blocks != nil {
		return out.blocks.write(data)
	}
	return out.encode(data)
}

func (out *response) encode(data []byte) error {
	if out.encoder == nil {
		return out.hold(data)
	}
	_, err := out.encoder.Write(data)
	return err
}

// holder is where the encoder writes.
type holder struct{ out *response }

func (h holder) Write(data []byte) (int, error) { return len(data), h.out.hold(data) }

// hold keeps data back until there is too much of it.
func (out *response) hold(data []byte) error {
	if out.sent {
		_, err := writer{out}.Write(data)
		return err
	}
	out.held.Write(data)
	switch {
	case !out.query.waitEnd && out.held.Len() > heldBytes:
		return out.send()
	case out.query.waitEnd && out.held.Len() > maxHeldInMemory:
		return out.spillHeld()
	}
	return nil
}

// setDeadline bounds the writes that follow. A writer without deadlines (a test's recorder) refuses, which is as good as none.
func (out *response) setDeadline() {
	_ = out.control.SetWriteDeadline(time.Now().Add(out.timeout))
}

// spillHeld moves what is held from memory to a file.
func (out *response) spillHeld() (err error) {
	if out.spill == nil {
		if out.spill, err = os.CreateTemp(filepath.Join(out.dir, "tmp"), "response-"); err != nil {
			return fmt.Errorf("response: %w", err)
		}
		// Only the open file is needed.
		if err := os.Remove(out.spill.Name()); err != nil {
			return fmt.Errorf("response: %w", err)
		}
	}
	_, err = out.held.WriteTo(out.spill)
	return err
}

// send sends the header and what has been held.
func (out *response) send() error {
	out.sent = true
	out.w.Header().Set("X-ClickHouse-Summary", summary(out.result.Stats()))
	if out.request.Method == http.MethodHead {
		return nil
	}
	if out.spill != nil {
		if _, err := out.spill.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.Copy(writer{out}, out.spill); err != nil {
			return err
		}
	}
	_, err := out.held.WriteTo(writer{out})
	return err
}

// writer writes to the client piece by piece, so that each has its deadline.
type writer struct{ out *response }

func (w writer) Write(data []byte) (n int, err error) {
	for n < len(data) && err == nil {
		w.out.setDeadline()
		var m int
		m, err = w.out.w.Write(data[n:min(n+blockSize, len(data))])
		n += m
	}
	return n, err
}

// finish completes the response.
func (out *response) finish() error {
	if out.blocks != nil {
		if err := out.blocks.flush(); err != nil {
			return err
		}
	}
	if out.encoder != nil {
		if err := out.encoder.Close(); err != nil {
			return err
		}
	}
	if out.sent {
		return nil
	}
	if out.spill == nil {
		// An empty answer has no body to decode, and clients tell it by its length.
		out.w.Header().Set("Content-Length", strconv.Itoa(out.held.Len()))
	}
	return out.send()
}

// discard frees what is still held.
func (out *response) discard() {
	if out.spill != nil {
		_ = out.spill.Close() // removed already
	}
}

// writeException puts an error into a body that is already on its way, framed as a server does. A failure to write means
// that the client has gone.
func (out *response) writeException(text string) {
	const marker = "__exception__"
	frame := fmt.Sprintf("\r\n%s\r\n%s\r\n%s\n%d %s\r\n%s\r\n", marker, out.tag, text, len(text)+1, out.tag, marker)
	err := out.write([]byte(frame))
	if out.blocks != nil && err == nil {
		err = out.blocks.flush()
	}
	if flusher, ok := out.encoder.(interface{ Flush() error }); ok && err == nil {
		err = flusher.Flush()
	}
	if err == nil {
		err = out.control.Flush()
	}
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return
	}
}

// summary is X-ClickHouse-Summary: numbers as strings, as a server prints them.
func summary(s Stats) string {
	return fmt.Sprintf(`{"read_rows":"%d","read_bytes":"%d","written_rows":"%d","written_bytes":"%d","total_rows_to_read":"0","result_rows":"%d","result_bytes":"%d","elapsed_ns":"%d"}`,
		s.ReadRows, s.ReadBytes, s.WrittenRows, s.WrittenBytes, s.ResultRows, s.ResultBytes, s.Elapsed.Nanoseconds())
}

// contentType is what a server calls a format.
func contentType(format string) string {
	f := strings.ToLower(format)
	switch {
	case f == "jsoneachrow" || f == "ndjson" || f == "jsonlines" || f == "jsonstringseachrow":
		return "application/x-ndjson; charset=UTF-8"
	case strings.HasPrefix(f, "json"):
		return "application/json; charset=UTF-8"
	case strings.HasPrefix(f, "csv"):
		return "text/csv; charset=UTF-8; header=" + presence(strings.Contains(f, "withnames"))
	case strings.HasPrefix(f, "tabseparated") || strings.HasPrefix(f, "tsv"):
		return "text/tab-separated-values; charset=UTF-8"
	case f == "xml":
		return "application/xml; charset=UTF-8"
	case f == "native" || strings.HasPrefix(f, "rowbinary") || f == "parquet" || strings.HasPrefix(f, "arrow") || f == "orc" || f == "avro" || f == "msgpack":
		return "application/octet-stream"
	}
	return "text/plain; charset=UTF-8"
}

func presence(present bool) string {
	if present {
		return "present"
	}
	return "absent"
}
