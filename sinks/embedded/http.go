package embedded

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// HandlerOptions configure a Handler and, alike, the native protocol beside it. The zero value serves the user "default" without a password, to this machine only.
type HandlerOptions struct {
	User         string       // empty: "default"
	Password     string       // empty: none, and then only requests addressed to a loopback name are served
	MaxBodyBytes int64        // of one request or native INSERT, compressed and not; 0: 4 GiB
	MaxRequests  int          // running and waiting together, or native connections; the next one is refused with code 202; 0: 256
	Log          *slog.Logger // nil: slog.Default()
}

func (o HandlerOptions) withDefaults() HandlerOptions {
	o.User = cmp.Or(o.User, "default")
	o.MaxBodyBytes = cmp.Or(o.MaxBodyBytes, 4<<30)
	o.MaxRequests = cmp.Or(o.MaxRequests, 256)
	o.Log = cmp.Or(o.Log, slog.Default())
	return o
}

const (
	// maxQueryBytes bounds a statement that has to be held in memory: all but an INSERT's data. The engine's own
	// max_query_size (256 KiB by default) bounds what it parses; this bounds what a front reads before asking it.
	maxQueryBytes = 64 << 20
	// queryPrefix is how much of a request is read to recognise its statement.
	queryPrefix = 256 << 10
	// heldBytes is how much of a response waits for an error, so that most of them still get a status of their own.
	heldBytes = 1 << 20
)

// Handler serves ClickHouse's HTTP interface: https://clickhouse.com/docs/interfaces/http
type Handler struct {
	engine   *Engine
	opts     HandlerOptions
	requests chan struct{}
	csrf     *http.CrossOriginProtection
	stall    time.Duration // how long a client may neither send nor take anything
}

// stallTimeout is a server's default http_receive_timeout and http_send_timeout. Without it a client that stops in the
// middle would keep a statement running for ever.
const stallTimeout = 30 * time.Second

// NewHandler makes a Handler for the engine, which it does not own.
func NewHandler(e *Engine, opts HandlerOptions) *Handler {
	opts = opts.withDefaults()
	return &Handler{engine: e, opts: opts, requests: make(chan struct{}, opts.MaxRequests), csrf: http.NewCrossOriginProtection(), stall: stallTimeout}
}

// ServeHTTP answers /ping, /replicas_status and / as a ClickHouse server does; there is nothing else.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-ClickHouse-Server-Display-Name", h.engine.server.displayName)
	if err := h.checkOrigin(r); err != nil {
		h.fail(w, err)
		return
	}
	switch {
	case r.URL.Path == "/ping" || r.URL.Path == "/replicas_status":
		writeText(w, http.StatusOK, "Ok.\n")
	case r.URL.Path != "/" && r.URL.Path != "":
		writeText(w, http.StatusNotFound, "There is no handle "+strconv.Quote(r.URL.Path)+"\n\nUse / or /ping for health checks.\nSend queries from your program with POST method or GET /?query=...\n")
	case r.Method == http.MethodOptions:
		w.WriteHeader(http.StatusNoContent)
	case r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost && r.Method != http.MethodPut:
		w.Header().Set("Allow", "GET, HEAD, POST, PUT, OPTIONS")
		writeText(w, http.StatusMethodNotAllowed, "Method not allowed\n")
	default:
		h.serveQuery(w, r)
	}
}

// serveQuery admits a request, runs it and answers.
func (h *Handler) serveQuery(w http.ResponseWriter, r *http.Request) {
	select {
	case h.requests <- struct{}{}:
		defer func() { <-h.requests }()
	default:
		h.fail(w, newError(codeTooManyQueries, "Too many simultaneous requests. Maximum: %d. (TOO_MANY_SIMULTANEOUS_QUERIES)", h.opts.MaxRequests))
		return
	}
	if err := h.authenticate(r); err != nil {
		h.fail(w, err)
		return
	}
	control := http.NewResponseController(w)
	r.Body = http.MaxBytesReader(w, &timedBody{ReadCloser: r.Body, control: control, timeout: h.stall}, h.opts.MaxBodyBytes)
	q, err := h.readRequest(r)
	if err != nil {
		h.failAfterBody(w, r, err)
		return
	}
	if q.statement.SQL == "" && r.Method != http.MethodPost {
		writeText(w, http.StatusOK, "Ok.\n")
		return
	}
	w.Header().Set("X-ClickHouse-Query-Id", q.id)
	w.Header().Set("X-ClickHouse-Timezone", h.engine.server.timezone)
	// The deadline of a write would outlive this request on a connection that is kept.
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }()
	if err := h.run(w, r, q); err != nil {
		h.failAfterBody(w, r, err)
	}
}

// failAfterBody answers with an error once the client has sent its body: one that still sends would find the connection
// closed and never read the answer.
func (h *Handler) failAfterBody(w http.ResponseWriter, r *http.Request, err error) {
	_, _ = io.Copy(io.Discard, r.Body) // bounded by MaxBodyBytes; what goes wrong here has gone wrong already
	h.fail(w, err)
}

// timedBody gives every read of a request's body a deadline of its own.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
	timeout time.Duration
}

func (b *timedBody) Read(p []byte) (int, error) {
	// A writer without deadlines (a test's recorder) refuses them, which is as good as none. The deadline is taken back
	// since the server itself goes on reading, to notice a client that goes away.
	_ = b.control.SetReadDeadline(time.Now().Add(b.timeout))
	n, err := b.ReadCloser.Read(p)
	_ = b.control.SetReadDeadline(time.Time{})
	return n, err
}

// run executes the statement and writes its result. An error means that nothing has been sent yet.
func (h *Handler) run(w http.ResponseWriter, r *http.Request, q *request) error {
	if q.sessionID != "" {
		session, err := h.engine.sessions.acquire(q.sessionID, q.sessionTimeout, q.sessionCheck)
		if err != nil {
			return err
		}
		defer func() { h.engine.sessions.release(session, q.sessionClose) }()
		q.statement.Session = session
	}
	result, err := h.engine.Start(r.Context(), q.statement)
	if err != nil {
		return err
	}
	defer func() { _ = result.Close() }() // read to its end, or failed already

	out := newResponse(w, r, q, result, h.engine.dir, h.stall)
	defer out.discard()
	if err := h.copyResult(out, result, q); err != nil {
		if !out.sent {
			return err
		}
		h.breakOff(out, err)
	}
	if err := out.finish(); err != nil {
		if !out.sent {
			return err
		}
		h.breakOff(out, err)
	}
	return nil
}

// copyResult writes the output, with Native blocks at the revision that the client asked for.
func (h *Handler) copyResult(out *response, result *Result, q *request) error {
	write := out.write
	if q.revision > 0 && strings.EqualFold(result.Format, "Native") {
		blocks := newTranscoder(0, q.revision)
		write = func(data []byte) error { return blocks.transcode(data, out.write) }
	}
	for {
		data, err := result.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := write(data); err != nil {
			return err
		}
	}
}

// breakOff ends a response that is on its way already: the status has been sent, so the error goes into the body in the
// frame that clients look for, and the connection is cut so that nobody takes the rest for complete.
func (h *Handler) breakOff(out *response, err error) {
	out.writeException(h.text(asError(err)))
	panic(http.ErrAbortHandler)
}

// fail answers with an error. Its body is never compressed; clients look at the headers first.
func (h *Handler) fail(w http.ResponseWriter, err error) {
	e := asError(err)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		e = newError(codeQueryTooLarge, "request body exceeds %d bytes. (QUERY_IS_TOO_LARGE)", tooLarge.Limit)
	}
	header := w.Header()
	for _, name := range []string{"Content-Encoding", "Content-Length", "X-ClickHouse-Format", "X-ClickHouse-Exception-Tag"} {
		header.Del(name)
	}
	header.Set("X-ClickHouse-Exception-Code", strconv.Itoa(e.Code))
	if e.HTTPStatus() == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", `Basic realm="ClickHouse server HTTP API"`)
	}
	if e.HTTPStatus() == http.StatusInternalServerError {
		h.opts.Log.Debug("clickhouse: request failed", "code", e.Code, "error", e.Message)
	}
	writeText(w, e.HTTPStatus(), h.text(e)+"\n")
}

// text is an error as a server prints it.
func (h *Handler) text(e *Error) string {
	if strings.Contains(e.Message, "(version ") {
		return e.Error()
	}
	return fmt.Sprintf("%s (version %s)", e.Error(), h.engine.server.version)
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // a client that has gone cannot be told
}
