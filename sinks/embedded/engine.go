package embedded

import (
	"bytes"
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// LibraryVersion is the libchdb that this package is written against and that deploy/dev/libchdb.sh fetches.
const LibraryVersion = "26.7.3-stable.1"

// Options say which engine to open, and where. The zero value opens the cached library on a temporary directory.
type Options struct {
	Library       string // path of libchdb.so; empty: DefaultLibrary()
	Dir           string // data directory, created when missing; empty: a temporary one, removed by Close
	MaxConcurrent int    // statements running at once, the others wait; 0: four a core, at least 16
	MaxMemory     int64  // bytes that all statements together may use; 0: the engine's default, nine tenths of the machine
	HostFiles     bool   // let SQL read and write files of the host through file() and the File table engine
}

// Engine is the running database. Its methods are safe for concurrent use.
type Engine struct {
	lib      *library
	dir      string
	tempDir  bool
	args     []string // of every connection
	anchor   *conn    // keeps the engine booted; the engine stops when its last connection closes
	slots    chan struct{}
	tags     atomic.Uint64
	sessions sessions
	server   serverInfo

	mu       sync.Mutex // guards closed and orders Add before Wait on active
	closed   bool
	settings map[string]bool // names of all, once they were asked for
	active   sync.WaitGroup  // statements, open results and kill requests
	cancel   context.CancelFunc
	life     context.Context // ends with Close, and with it every statement
}

// serverInfo is what the engine says of itself once at start.
type serverInfo struct {
	version, timezone, displayName string
}

// process holds what libchdb keeps once per process: the mapped library and the one engine.
var process struct {
	mu      sync.Mutex
	lib     *library
	libPath string
	engine  *Engine
}

// DefaultLibrary is where deploy/dev/libchdb.sh puts the library: under CATENA_CACHE, else XDG_CACHE_HOME/catena, else
// ~/.cache/catena. Reading the environment here rather than in cmd keeps one rule for the script, the tests and the daemon.
func DefaultLibrary() string {
	cache := os.Getenv("CATENA_CACHE") //nolint:forbidigo // see above: one rule for all
	if cache == "" {
		base := cmp.Or(os.Getenv("XDG_CACHE_HOME"), filepath.Join(os.Getenv("HOME"), ".cache")) //nolint:forbidigo // see above
		cache = filepath.Join(base, "catena")
	}
	return filepath.Join(cache, "libchdb", LibraryVersion, "libchdb.so")
}

// Open boots the engine on a data directory. One engine may be open in a process: a second Open fails with ErrAlreadyOpen
// until the first is closed. A directory in use by another process is refused.
func Open(opts Options) (*Engine, error) {
	process.mu.Lock()
	defer process.mu.Unlock()
	if process.engine != nil {
		return nil, fmt.Errorf("embedded: open: %w, on %s", ErrAlreadyOpen, process.engine.dir)
	}
	path := cmp.Or(opts.Library, DefaultLibrary())
	if process.lib != nil && process.libPath != path {
		return nil, fmt.Errorf("embedded: open: this process has loaded %s already and cannot load %s as well", process.libPath, path)
	}
	if process.lib == nil {
		lib, err := loadLibrary(path)
		if err != nil {
			return nil, err
		}
		process.lib, process.libPath = lib, path
	}
	e, err := boot(process.lib, opts)
	if err != nil {
		return nil, fmt.Errorf("embedded: open: %w", err)
	}
	process.engine = e
	return e, nil
}

// boot starts the engine with its first connection.
func boot(lib *library, opts Options) (_ *Engine, err error) {
	e := &Engine{lib: lib, slots: make(chan struct{}, cmp.Or(opts.MaxConcurrent, max(16, 4*runtime.GOMAXPROCS(0))))}
	e.life, e.cancel = context.WithCancel(context.Background())
	e.sessions.engine = e
	if err := e.prepareDir(opts.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.release())
		}
	}()
	config, err := writeConfig(e.dir, opts)
	if err != nil {
		return nil, err
	}
	// implicit_select would run the text "1" as SELECT 1, and introspection functions read the process's memory layout:
	// clickhouse-local's defaults, not a server's.
	e.args = []string{"clickhouse", "--path=" + e.dir, "--config-file=" + config, "--implicit_select=0", "--allow_introspection_functions=0"}
	if e.anchor, err = lib.boot(e.args); err != nil {
		return nil, fmt.Errorf("data directory %s: %w (its reason is on standard error)", e.dir, err)
	}
	k, err := e.anchor.query("SELECT version(), timezone(), displayName()", "TabSeparated", nil)
	if err != nil {
		return nil, fmt.Errorf("first query: %w", err)
	}
	defer k.free()
	fields := strings.Split(strings.TrimSuffix(string(k.data), "\n"), "\t")
	if len(fields) != 3 {
		return nil, fmt.Errorf("first query: unexpected answer %q", k.data)
	}
	e.server = serverInfo{version: fields[0], timezone: fields[1], displayName: fields[2]}
	return e, nil
}

func (e *Engine) prepareDir(dir string) (err error) {
	if dir == "" {
		e.tempDir = true
		e.dir, err = os.MkdirTemp("", "catena-clickhouse-")
		return err
	}
	if e.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return err
	}
	if lockedByOther(filepath.Join(e.dir, "status")) {
		return fmt.Errorf("data directory %s is in use by another process", e.dir)
	}
	return nil
}

// writeConfig writes the engine's configuration. Passing one explicitly also keeps the engine from picking up a config.xml
// of the working directory or of /etc/clickhouse-local.
func writeConfig(dir string, opts Options) (path string, err error) {
	revoke := []string{"REVOKE SYSTEM SHUTDOWN ON *.*"} // it would end this process
	if !opts.HostFiles {
		revoke = append(revoke, "REVOKE READ, WRITE ON FILE", "REVOKE READ, WRITE ON SQLITE",
			"REVOKE TABLE ENGINE ON File", "REVOKE TABLE ENGINE ON SQLite")
	}
	var users, config bytes.Buffer
	users.WriteString("<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users><default><password/>" +
		"<networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota><grants><query>GRANT ALL ON *.*</query>")
	for _, query := range revoke {
		users.WriteString("<query>" + query + "</query>")
	}
	users.WriteString("</grants></default></users></clickhouse>\n")

	usersPath, configPath := filepath.Join(dir, "catena-users.xml"), filepath.Join(dir, "catena-config.xml")
	config.WriteString("<clickhouse><users_config>")
	if err := xml.EscapeText(&config, []byte(usersPath)); err != nil {
		return "", err
	}
	config.WriteString("</users_config>")
	if opts.MaxMemory > 0 {
		fmt.Fprintf(&config, "<max_server_memory_usage>%d</max_server_memory_usage>", opts.MaxMemory)
	}
	config.WriteString("</clickhouse>\n")
	if err := os.WriteFile(usersPath, users.Bytes(), 0o600); err != nil {
		return "", err
	}
	return configPath, os.WriteFile(configPath, config.Bytes(), 0o600)
}

// Dir is the data directory.
func (e *Engine) Dir() string { return e.dir }

// Version is ClickHouse's version, such as "26.7.2.1".
func (e *Engine) Version() string { return e.server.version }

// Close cancels what is running, waits for it, closes every session and stops the engine. Results that are still open must
// be closed by whoever holds them: Close waits for that. It is safe to call twice.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.mu.Unlock()
	e.cancel()
	// Closing a connection under a running statement aborts the process, so every one has to end first.
	e.active.Wait()
	process.mu.Lock()
	defer process.mu.Unlock()
	process.engine = nil
	return e.release()
}

// release frees what boot acquired, in reverse.
func (e *Engine) release() error {
	e.cancel()
	e.sessions.close()
	if e.anchor != nil {
		e.anchor.close()
	}
	if e.tempDir {
		return os.RemoveAll(e.dir)
	}
	return nil
}

// enter counts a user of the engine in, unless the engine is closed. The caller calls e.active.Done.
func (e *Engine) enter() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	e.active.Add(1)
	return nil
}

// Param is a value for a {name:Type} placeholder. Value is text as in a TabSeparated field, as over HTTP: a tab, line end or
// backslash in it is escaped, and \N is NULL.
type Param struct{ Name, Value string }

// Setting is a ClickHouse setting for one statement.
type Setting struct{ Name, Value string }

// Statement is one SQL statement and what it runs with. Only SQL is needed.
type Statement struct {
	SQL      string
	Format   string    // of the output, unless SQL has a FORMAT clause; empty: TabSeparated
	Data     io.Reader // data of an INSERT, read after what SQL itself carries; nil: none
	Database string    // current database; empty: default, or the session's
	Params   []Param
	Settings []Setting
	ReadOnly bool     // refuse what changes anything
	Session  *Session // nil: a connection of the statement's own

	tables []externalTable
	shape  *shape // of SQL when the caller has it already
}

// Stats counts what a statement did. Bytes are uncompressed, in the engine's memory format.
type Stats struct {
	ReadRows, ReadBytes       uint64 // from tables
	WrittenRows, WrittenBytes uint64 // materialized views included
	ResultRows, ResultBytes   uint64
	Elapsed                   time.Duration
}

// Start runs a statement. An INSERT, or anything else without a streamed result, is finished when Start returns. The caller
// must close the Result. Cancelling ctx stops the statement, also while its result is read. Errors of the engine are *Error.
func (e *Engine) Start(ctx context.Context, st Statement) (_ *Result, err error) {
	r, err := e.newResult(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = r.Close() // err says more
		}
	}()
	s := st.shape
	if s == nil {
		read := shapeOf(st.SQL)
		s = &read
	}
	switch {
	case s.verb == "":
		return nil, newError(codeSyntaxError, "Syntax error: empty query. (SYNTAX_ERROR)")
	case s.multi:
		return nil, newError(codeSyntaxError, "Syntax error: multi-statements are not allowed. (SYNTAX_ERROR)")
	case s.outfile:
		return nil, newError(codeIntoOutfile, "INTO OUTFILE and FROM INFILE are not allowed. (INTO_OUTFILE_NOT_ALLOWED)")
	}
	if err := r.open(st); err != nil {
		return nil, r.explain(err)
	}
	r.Format = cmp.Or(s.format, st.Format, "TabSeparated")
	if s.insert {
		r.Format = cmp.Or(st.Format, "TabSeparated") // the FORMAT of an INSERT is its data's
		err = r.insert(st, *s)
	} else {
		err = r.query(st, *s)
	}
	if err != nil {
		return nil, r.explain(err)
	}
	return r, nil
}

// Query runs a statement and returns all of its output. format is the output format, unless SQL has a FORMAT clause.
func (e *Engine) Query(ctx context.Context, sql, format string, settings ...Setting) ([]byte, error) {
	r, err := e.Start(ctx, Statement{SQL: sql, Format: format, Settings: settings})
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // read to its end, or failed already
	var out []byte
	for {
		data, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, data...)
	}
}

// Insert runs INSERT INTO … with the rows that data holds in the given format. sql has neither FORMAT nor VALUES.
func (e *Engine) Insert(ctx context.Context, sql, format string, data io.Reader, settings ...Setting) (Stats, error) {
	r, err := e.Start(ctx, Statement{SQL: sql + " FORMAT " + format + "\n", Data: data, Settings: settings})
	if err != nil {
		return Stats{}, err
	}
	return r.Stats(), r.Close()
}

// kill cancels the tagged statement until done is closed. It repeats because a statement is known to the engine only some
// time after it was sent.
func (e *Engine) kill(tag string, done <-chan struct{}) {
	c, err := e.lib.openConn(e.args)
	if err != nil {
		return
	}
	defer c.close()
	sql := "KILL QUERY WHERE Settings['" + tagSetting + "'] = " + quoteString(tag) + " ASYNC FORMAT Null"
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if k, err := c.query(sql, "Null", nil); err == nil {
			k.free()
		}
		select {
		case <-done:
			return
		case <-time.After(wait):
		}
	}
}

// tagSetting carries the tag by which a running statement is found. It labels entries of the query cache, which the
// embedded engine does not have.
const tagSetting = "query_cache_tag"

// configure applies a statement's database and settings to its connection. On a session's connection, undo is the SQL that
// takes them back.
func (c *conn) configure(st Statement, tag string) (undo []string, err error) {
	settings := append([]Setting{{tagSetting, tag}}, st.Settings...)
	if st.Session != nil {
		if undo, err = c.savedState(st, settings); err != nil {
			return nil, err
		}
	}
	if st.Database != "" {
		if err := c.exec("USE " + quoteName(st.Database)); err != nil {
			return undo, err
		}
	}
	if st.ReadOnly && st.Session == nil {
		settings = append(settings, Setting{"readonly", "2"})
	}
	sql := []byte("SET ")
	for i, setting := range settings {
		if !isWord(setting.Name) {
			return undo, newError(codeUnknownSetting, "Unknown setting '%s'. (UNKNOWN_SETTING)", setting.Name)
		}
		if i > 0 {
			sql = append(sql, ", "...)
		}
		sql = append(sql, setting.Name+" = "+quoteString(setting.Value)...)
	}
	return undo, c.exec(string(sql))
}

// savedState reads what configure is about to change and returns the statements that restore it.
func (c *conn) savedState(st Statement, settings []Setting) (undo []string, err error) {
	if st.Database != "" {
		name, err := c.read("SELECT currentDatabase()")
		if err != nil {
			return nil, err
		}
		undo = append(undo, "USE "+quoteName(name))
	}
	names := make([]string, len(settings))
	for i, setting := range settings {
		names[i] = quoteString(setting.Name)
	}
	// TabSeparated escapes a value just as a string literal does. One statement per setting, so that what cannot be
	// restored (readonly) leaves the others alone.
	text, err := c.read("SELECT name, changed, value FROM system.settings WHERE name IN (" + strings.Join(names, ", ") + ") FORMAT TabSeparated")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 3)
		if len(fields) != 3 || fields[1] == "0" {
			undo = append(undo, "SET "+fields[0]+" = DEFAULT")
			continue
		}
		undo = append(undo, "SET "+fields[0]+" = '"+fields[2]+"'")
	}
	return undo, nil
}

// exec runs a statement for its effect.
func (c *conn) exec(sql string) error {
	k, err := c.query(sql, "Null", nil)
	if err != nil {
		return err
	}
	k.free()
	return nil
}

// read runs a query for its output, without the last line end.
func (c *conn) read(sql string) (string, error) {
	k, err := c.query(sql, "TabSeparatedRaw", nil)
	if err != nil {
		return "", err
	}
	defer k.free()
	return strings.TrimSuffix(string(k.data), "\n"), nil
}
