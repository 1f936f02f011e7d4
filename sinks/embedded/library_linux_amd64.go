package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/ebitengine/purego"
)

// library is libchdb's C interface (chdb.h, version 26.7), function by function. Pointers are C memory unless named
// otherwise; a handle may be used by one goroutine at a time.
type library struct {
	setSignalHandlers func(enabled int32)
	connect           func(argc int32, argv *unsafe.Pointer) *unsafe.Pointer
	closeConn         func(conn *unsafe.Pointer)

	queryParams       func(conn unsafe.Pointer, sql *byte, sqlLen uintptr, format *byte, formatLen uintptr, names, nameLens, values, valueLens unsafe.Pointer, count uintptr) unsafe.Pointer
	streamParams      func(conn unsafe.Pointer, sql *byte, sqlLen uintptr, format *byte, formatLen uintptr, names, nameLens, values, valueLens unsafe.Pointer, count uintptr) unsafe.Pointer
	streamFetch       func(conn, stream unsafe.Pointer) unsafe.Pointer
	streamCancel      func(conn, stream unsafe.Pointer)
	destroyResult     func(result unsafe.Pointer)
	resultError       func(result unsafe.Pointer) string
	resultBuffer      func(result unsafe.Pointer) *byte
	resultLength      func(result unsafe.Pointer) uintptr
	resultRows        func(result unsafe.Pointer) uint64
	resultBytes       func(result unsafe.Pointer) uint64
	resultReadRows    func(result unsafe.Pointer) uint64
	resultReadBytes   func(result unsafe.Pointer) uint64
	resultWriteRows   func(result unsafe.Pointer) uint64
	resultWriteBytes  func(result unsafe.Pointer) uint64
	insertParams      func(conn unsafe.Pointer, sql *byte, sqlLen uintptr, format *byte, formatLen uintptr, names, nameLens, values, valueLens unsafe.Pointer, count uintptr) unsafe.Pointer
	insertAppend      func(stream unsafe.Pointer, data *byte, dataLen uintptr) int32
	insertDone        func(stream unsafe.Pointer) unsafe.Pointer
	insertCancel      func(stream unsafe.Pointer)
	insertError       func(stream unsafe.Pointer) string
	insertDestroy     func(stream unsafe.Pointer)
	classifyStatement func(conn unsafe.Pointer, sql *byte, sqlLen uintptr, database *byte, databaseLen uintptr, out *[4]uint32) int32
}

// loadLibrary maps the shared library and resolves its functions. It takes about a second the first time the file is read
// from disk and stays mapped for the life of the process: the library cannot be unloaded.
func loadLibrary(path string) (*library, error) {
	if _, err := os.Stat(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("embedded: no ClickHouse engine at %s: run `make libchdb`, or use a ClickHouse server (CATENA_CLICKHOUSE_ADDR): %w", path, ErrNoLibrary)
		}
		return nil, fmt.Errorf("embedded: library: %w", err)
	}
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("embedded: load %s: %w", path, err)
	}
	lib := new(library)
	for _, f := range []struct {
		fn   any
		name string
	}{
		{&lib.setSignalHandlers, "chdb_set_signal_handlers_enabled"},
		{&lib.connect, "chdb_connect"},
		{&lib.closeConn, "chdb_close_conn"},
		{&lib.queryParams, "chdb_query_with_params_n"},
		{&lib.streamParams, "chdb_stream_query_with_params_n"},
		{&lib.streamFetch, "chdb_stream_fetch_result"},
		{&lib.streamCancel, "chdb_stream_cancel_query"},
		{&lib.destroyResult, "chdb_destroy_query_result"},
		{&lib.resultError, "chdb_result_error"},
		{&lib.resultBuffer, "chdb_result_buffer"},
		{&lib.resultLength, "chdb_result_length"},
		{&lib.resultRows, "chdb_result_rows_read"},
		{&lib.resultBytes, "chdb_result_bytes_read"},
		{&lib.resultReadRows, "chdb_result_storage_rows_read"},
		{&lib.resultReadBytes, "chdb_result_storage_bytes_read"},
		{&lib.resultWriteRows, "chdb_result_rows_written"},
		{&lib.resultWriteBytes, "chdb_result_bytes_written"},
		{&lib.insertParams, "chdb_stream_insert_with_params_n"},
		{&lib.insertAppend, "chdb_stream_append"},
		{&lib.insertDone, "chdb_stream_done"},
		{&lib.insertCancel, "chdb_stream_cancel_insert"},
		{&lib.insertError, "chdb_stream_insert_error"},
		{&lib.insertDestroy, "chdb_destroy_insert_stream"},
		{&lib.classifyStatement, "chdb_classify_query_n"},
	} {
		symbol, err := purego.Dlsym(handle, f.name)
		if err != nil {
			return nil, fmt.Errorf("embedded: %s is not a libchdb %s: %w", path, LibraryVersion, err)
		}
		purego.RegisterFunc(f.fn, symbol)
	}
	return lib, nil
}

// conn is one connection of the engine: a session with its own settings, current database and temporary tables. It runs
// one statement at a time and is not safe for concurrent use.
type conn struct {
	lib    *library
	handle *unsafe.Pointer
}

// boot opens the first connection, which starts the engine. Only this one touches signal handlers.
func (l *library) boot(args []string) (*conn, error) {
	before := signalHandlers()
	defer repairSignalHandlers(before)
	l.setSignalHandlers(0)
	return l.openConn(args)
}

// openConn opens a connection. The C interface gives no reason for a refusal (it goes to standard error), hence the bare
// error.
func (l *library) openConn(args []string) (*conn, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	argv := make([]unsafe.Pointer, len(args)+1)
	for i, arg := range args {
		text := append([]byte(arg), 0)
		pin.Pin(&text[0])
		argv[i] = unsafe.Pointer(&text[0])
	}
	handle := l.connect(int32(len(args)), &argv[0])
	if handle == nil || *handle == nil {
		return nil, errors.New("the engine refused the connection")
	}
	return &conn{lib: l, handle: handle}, nil
}

func (c *conn) close() {
	if c.handle == nil {
		return
	}
	c.lib.closeConn(c.handle)
	c.handle = nil
}

// paramArrays lays names and values out as the four parallel C arrays that the *_with_params_n functions take.
type paramArrays struct {
	names, nameLens, values, valueLens unsafe.Pointer
	count                              uintptr
	pin                                runtime.Pinner
}

func newParamArrays(params []Param) *paramArrays {
	p := &paramArrays{count: uintptr(len(params))}
	if len(params) == 0 {
		return p
	}
	text := func(get func(Param) string) (pointers, lengths unsafe.Pointer) {
		ptrs, lens := make([]*byte, len(params)), make([]uintptr, len(params))
		for i, param := range params {
			ptrs[i], lens[i] = bytePointer(get(param)), uintptr(len(get(param)))
			p.pin.Pin(ptrs[i])
		}
		p.pin.Pin(&ptrs[0])
		p.pin.Pin(&lens[0])
		return unsafe.Pointer(&ptrs[0]), unsafe.Pointer(&lens[0])
	}
	p.names, p.nameLens = text(func(p Param) string { return p.Name })
	p.values, p.valueLens = text(func(p Param) string { return p.Value })
	return p
}

// bytePointer points at a copy of s. It is never nil: the library builds a std::string from it, which must not be given a
// null pointer even for length zero.
func bytePointer(s string) *byte {
	return &append([]byte(s), 0)[0]
}

// query runs a statement to its end; the result holds all of its output.
func (c *conn) query(sql, format string, params []Param) (*chunk, error) {
	p := newParamArrays(params)
	defer p.pin.Unpin()
	return c.newChunk(c.lib.queryParams(*c.handle, bytePointer(sql), uintptr(len(sql)), bytePointer(format), uintptr(len(format)),
		p.names, p.nameLens, p.values, p.valueLens, p.count))
}

// stream starts a SELECT whose output is fetched block by block.
func (c *conn) stream(sql, format string, params []Param) (*stream, error) {
	p := newParamArrays(params)
	defer p.pin.Unpin()
	handle := c.lib.streamParams(*c.handle, bytePointer(sql), uintptr(len(sql)), bytePointer(format), uintptr(len(format)),
		p.names, p.nameLens, p.values, p.valueLens, p.count)
	if handle == nil {
		return nil, errors.New("the engine returned no result")
	}
	if text := c.lib.resultError(handle); text != "" {
		c.lib.destroyResult(handle)
		return nil, ParseError(text)
	}
	return &stream{conn: c, handle: handle}, nil
}

// classify reports what kind of statement the SQL is, as the engine's parser sees it, without running it.
func (c *conn) classify(sql string) statementClass {
	out := [4]uint32{0: 16} // struct_size; then statement_count, flags, query_class
	if c.lib.classifyStatement(*c.handle, bytePointer(sql), uintptr(len(sql)), nil, 0, &out) != 0 {
		return classUnknown
	}
	return statementClass(out[3])
}

// chunk is output in C memory, valid until free.
type chunk struct {
	lib    *library
	handle unsafe.Pointer
	data   []byte
	stats  Stats
}

func (c *conn) newChunk(handle unsafe.Pointer) (*chunk, error) {
	if handle == nil {
		return nil, errors.New("the engine returned no result")
	}
	lib := c.lib
	if text := lib.resultError(handle); text != "" {
		lib.destroyResult(handle)
		return nil, ParseError(text)
	}
	k := &chunk{lib: lib, handle: handle, stats: Stats{
		ReadRows: lib.resultReadRows(handle), ReadBytes: lib.resultReadBytes(handle),
		WrittenRows: lib.resultWriteRows(handle), WrittenBytes: lib.resultWriteBytes(handle),
		ResultRows: lib.resultRows(handle), ResultBytes: lib.resultBytes(handle),
	}}
	if n := lib.resultLength(handle); n > 0 {
		k.data = unsafe.Slice(lib.resultBuffer(handle), n)
	}
	return k, nil
}

func (k *chunk) free() {
	if k == nil || k.handle == nil {
		return
	}
	k.data = nil
	k.lib.destroyResult(k.handle)
	k.handle = nil
}

// stream is a SELECT in progress.
type stream struct {
	conn   *conn
	handle unsafe.Pointer
	ended  bool
}

// next returns the next block's output, or nil at the end. The caller frees it.
func (s *stream) next() (*chunk, error) {
	if s.ended {
		return nil, nil
	}
	k, err := s.conn.newChunk(s.conn.lib.streamFetch(*s.conn.handle, s.handle))
	if err != nil || len(k.data) == 0 {
		s.ended = true
		if k != nil {
			k.free()
		}
		return nil, err
	}
	return k, nil
}

func (s *stream) close() {
	if s.handle == nil {
		return
	}
	if !s.ended {
		s.conn.lib.streamCancel(*s.conn.handle, s.handle)
	}
	s.conn.lib.destroyResult(s.handle)
	s.handle = nil
}

// insertStream is an INSERT in progress.
type insertStream struct {
	lib    *library
	handle unsafe.Pointer
}

func (c *conn) insert(sql, format string, params []Param) (*insertStream, error) {
	p := newParamArrays(params)
	defer p.pin.Unpin()
	handle := c.lib.insertParams(*c.handle, bytePointer(sql), uintptr(len(sql)), bytePointer(format), uintptr(len(format)),
		p.names, p.nameLens, p.values, p.valueLens, p.count)
	if handle == nil {
		return nil, errors.New("the engine returned no insert stream")
	}
	if text := c.lib.insertError(handle); text != "" {
		c.lib.insertDestroy(handle)
		return nil, ParseError(text)
	}
	return &insertStream{lib: c.lib, handle: handle}, nil
}

// append copies data into the engine and blocks while its queue is full. False means that the insert has failed; finish
// tells why.
func (s *insertStream) append(data []byte) bool {
	return len(data) == 0 || s.lib.insertAppend(s.handle, &data[0], uintptr(len(data))) == 0
}

// finish ends the data and waits until the rows are stored.
func (s *insertStream) finish() (Stats, error) {
	result := s.lib.insertDone(s.handle)
	if result == nil {
		return Stats{}, errors.New("the engine returned no result")
	}
	defer s.lib.destroyResult(result)
	if text := s.lib.resultError(result); text != "" {
		return Stats{}, ParseError(text)
	}
	return Stats{WrittenRows: s.lib.resultWriteRows(result), WrittenBytes: s.lib.resultWriteBytes(result)}, nil
}

func (s *insertStream) cancel() { s.lib.insertCancel(s.handle) }

func (s *insertStream) close() {
	if s.handle == nil {
		return
	}
	s.lib.insertDestroy(s.handle)
	s.handle = nil
}

// sigaction mirrors the kernel's struct on amd64 (not glibc's), as rt_sigaction(2) takes it.
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

const (
	numSignals = 64
	saOnStack  = 0x08000000
	saRestart  = 0x10000000
	sigDefault = 0
	sigIgnore  = 1
)

// signalHandlers reads the handler of every signal; index 0 is unused.
func signalHandlers() (actions [numSignals + 1]sigaction) {
	for sig := 1; sig <= numSignals; sig++ {
		rtSigaction(sig, nil, &actions[sig])
	}
	return actions
}

// repairSignalHandlers undoes what the library did to Go's handlers and makes its own safe beside goroutines: what Go had
// goes back, and a handler for a signal that Go left alone stays but moves to the signal stack.
func repairSignalHandlers(before [numSignals + 1]sigaction) {
	for sig := 1; sig <= numSignals; sig++ {
		var now sigaction
		rtSigaction(sig, nil, &now)
		if now == before[sig] {
			continue
		}
		if before[sig].handler != sigDefault && before[sig].handler != sigIgnore {
			rtSigaction(sig, &before[sig], nil)
			continue
		}
		if now.handler != sigDefault && now.handler != sigIgnore && now.flags&saOnStack == 0 {
			now.flags |= saOnStack | saRestart
			rtSigaction(sig, &now, nil)
		}
	}
}

func rtSigaction(sig int, set, old *sigaction) {
	// Errors are impossible but for SIGKILL and SIGSTOP, which have no handlers.
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
}

// lockedByOther reports whether another process holds the engine's lock file. The engine finds out itself, but can only
// refuse the connection without a reason.
func lockedByOther(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // opened to be locked
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}
