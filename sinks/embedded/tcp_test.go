package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/ext"
)

// rawClient speaks the protocol packet by packet.
type rawClient struct {
	t    testing.TB
	conn net.Conn
	in   *proto.Reader
	out  proto.Buffer
}

// connectRaw connects and says nothing yet.
func connectRaw(t testing.TB, address string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &rawClient{t: t, conn: conn, in: proto.NewReader(conn)}
}

// hello connects and introduces itself.
func helloRaw(t testing.TB, address string) *rawClient {
	t.Helper()
	c := connectRaw(t, address)
	hello := proto.ClientHello{Name: "raw", Major: 1, ProtocolVersion: MaxRevision, User: "default"}
	hello.Encode(&c.out)
	c.flush()
	if code := c.code(); code != proto.ServerCodeHello {
		t.Fatalf("packet %v, want hello", code)
	}
	var server proto.ServerHello
	if err := server.DecodeAware(c.in, MaxRevision); err != nil {
		t.Fatal(err)
	}
	if server.Name != "ClickHouse" || server.Major < 20 || server.Revision != MaxRevision {
		t.Fatalf("server %+v", server)
	}
	c.out.PutString("") // addendum
	c.flush()
	return c
}

func (c *rawClient) flush() {
	c.t.Helper()
	if _, err := c.conn.Write(c.out.Buf); err != nil {
		c.t.Fatal("write:", err)
	}
	c.out.Reset()
}

// query sends a query and the end of its external tables.
func (c *rawClient) query(sql string, settings ...proto.Setting) {
	c.t.Helper()
	q := proto.Query{Body: sql, Settings: settings, Stage: proto.StageComplete, Info: proto.ClientInfo{ProtocolVersion: MaxRevision, Interface: proto.InterfaceTCP, Query: proto.ClientQueryInitial}}
	q.EncodeAware(&c.out, MaxRevision)
	c.emptyBlock()
	c.flush()
}

func (c *rawClient) emptyBlock() { c.block(0, 0) }

// block adds a Data packet that says it has that many columns and rows.
func (c *rawClient) block(columns, rows int) {
	proto.ClientCodeData.Encode(&c.out)
	c.out.PutString("")
	c.out.PutRaw([]byte{1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0})
	c.out.PutInt(columns)
	c.out.PutInt(rows)
}

// column adds a column's name and type.
func (c *rawClient) column(name, kind string) {
	c.out.PutString(name)
	c.out.PutString(kind)
	c.out.PutBool(false)
}

func (c *rawClient) code() proto.ServerCode {
	c.t.Helper()
	n, err := c.in.UVarInt()
	if err != nil {
		c.t.Fatal("read:", err)
	}
	return proto.ServerCode(n)
}

// until reads packets up to the code; blocks must have no rows.
func (c *rawClient) until(want proto.ServerCode) {
	c.t.Helper()
	for {
		switch code := c.code(); code {
		case want:
			return
		case proto.ServerCodeProgress:
			var p proto.Progress
			if err := p.DecodeAware(c.in, MaxRevision); err != nil {
				c.t.Fatal(err)
			}
		case proto.ServerProfileEvents:
			c.block0()
		case proto.ServerCodeException:
			c.t.Fatal(c.exception())
		default:
			c.t.Fatalf("packet %v, want %v", code, want)
		}
	}
}

// header passes the block that names the columns and returns their names and types.
func (c *rawClient) header() (columns []string) {
	c.t.Helper()
	c.until(proto.ServerCodeData)
	return c.block0()
}

// block0 reads a block without rows.
func (c *rawClient) block0() (columns []string) {
	c.t.Helper()
	if _, err := c.in.Str(); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.in.ReadRaw(8); err != nil {
		c.t.Fatal(err)
	}
	n, err := c.in.Int()
	if err != nil {
		c.t.Fatal(err)
	}
	if rows, err := c.in.Int(); err != nil || rows != 0 {
		c.t.Fatal(rows, err)
	}
	for range n {
		name, err := c.in.Str()
		if err != nil {
			c.t.Fatal(err)
		}
		kind, err := c.in.Str()
		if err != nil {
			c.t.Fatal(err)
		}
		if _, err := c.in.Bool(); err != nil {
			c.t.Fatal(err)
		}
		columns = append(columns, name+" "+kind)
	}
	return columns
}

// exception reads what stands behind an exception's code.
func (c *rawClient) exception() *proto.Exception {
	c.t.Helper()
	var e proto.Exception
	if err := e.DecodeAware(c.in, MaxRevision); err != nil {
		c.t.Fatal(err)
	}
	return &e
}

// fails reads packets up to an exception of that code.
func (c *rawClient) fails(code int) string {
	c.t.Helper()
	c.until(proto.ServerCodeException)
	e := c.exception()
	if int(e.Code) != code {
		c.t.Fatalf("exception %d (%s), want %d", e.Code, e.Message, code)
	}
	return e.Message
}

// closed expects the server to hang up.
func (c *rawClient) closed() {
	c.t.Helper()
	if b, err := c.in.ReadByte(); !errors.Is(err, io.EOF) && !strings.Contains(fmt.Sprint(err), "reset") {
		c.t.Fatalf("byte %d, error %v; want the end", b, err)
	}
}

// alive expects the connection to work.
func (c *rawClient) alive() {
	c.t.Helper()
	proto.ClientCodePing.Encode(&c.out)
	c.flush()
	c.until(proto.ServerCodePong)
}

// native opens clickhouse-go on a native server with one connection.
func native(t testing.TB, database string) clickhouse.Conn {
	t.Helper()
	conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{serveTCP(t, HandlerOptions{})}, Auth: clickhouse.Auth{Database: database}, MaxOpenConns: 1, MaxIdleConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func isException(err error, code int32) bool {
	var e *clickhouse.Exception
	return errors.As(err, &e) && e.Code == code
}

func TestNativeHello(t *testing.T) {
	address := serveTCP(t, HandlerOptions{User: "me", Password: "made-up"})
	for _, test := range []struct {
		user, password, database string
		code                     int32
	}{
		{"me", "made-up", "default", 0},
		{"me", "wrong", "default", 516},
		{"me", "", "default", 516},
		{"", "made-up", "default", 516},
		{"me", "made-up", "no_such", 81},
	} {
		conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{address}, Auth: clickhouse.Auth{Database: test.database, Username: test.user, Password: test.password}})
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Ping(t.Context()); test.code == 0 && err != nil || test.code != 0 && !isException(err, test.code) {
			t.Errorf("%+v: %v", test, err)
		}
		_ = conn.Close()
	}
	old := connectRaw(t, address)
	hello := proto.ClientHello{Name: "old", ProtocolVersion: 54032, User: "me", Password: "made-up"}
	hello.Encode(&old.out)
	old.flush()
	if text := old.fails(48); !strings.Contains(text, "54032") {
		t.Error(text)
	}
	old.closed()
}

func TestNativePortAnswersHTTP(t *testing.T) {
	c := connectRaw(t, serveTCP(t, HandlerOptions{}))
	c.out.PutRaw([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	c.flush()
	answer, err := io.ReadAll(c.conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.0 400 ") || !strings.Contains(string(answer), "native protocol") {
		t.Errorf("%q, %v", answer, err)
	}
}

func TestNativeTooManyConnections(t *testing.T) {
	address := serveTCP(t, HandlerOptions{MaxRequests: 1})
	first := helloRaw(t, address)
	second := connectRaw(t, address)
	hello := proto.ClientHello{Name: "second", ProtocolVersion: MaxRevision}
	hello.Encode(&second.out)
	second.flush()
	second.fails(202)
	first.alive()
}

// What a statement sets outlives it on its connection, and only there.
func TestNativeConnectionIsASession(t *testing.T) {
	ctx, address := t.Context(), serveTCP(t, HandlerOptions{})
	open := func() clickhouse.Conn {
		conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{address}, MaxOpenConns: 1, MaxIdleConns: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	mine, other := open(), open()
	for _, sql := range []string{"SET max_threads = 3", "CREATE TEMPORARY TABLE mine (a UInt8)", "INSERT INTO mine VALUES (7), (8)", "USE system"} {
		if err := mine.Exec(ctx, sql); err != nil {
			t.Fatal(sql, err)
		}
	}
	batch, err := mine.PrepareBatch(ctx, "INSERT INTO mine")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(batch.Append(uint8(9)), batch.Send(), batch.Close()); err != nil {
		t.Fatal(err)
	}
	var got string
	const sql = "SELECT concat(currentDatabase(), ' ', toString(getSetting('max_threads')))"
	if err := mine.QueryRow(ctx, sql).Scan(&got); err != nil || got != "system 3" {
		t.Errorf("%q, %v", got, err)
	}
	if err := mine.QueryRow(ctx, "SELECT toString(groupArray(a)) FROM (SELECT a FROM mine ORDER BY a)").Scan(&got); err != nil || got != "[7,8,9]" {
		t.Errorf("%q, %v", got, err)
	}
	if err := other.QueryRow(ctx, sql).Scan(&got); err != nil || !strings.HasPrefix(got, "default ") || strings.HasSuffix(got, " 3") {
		t.Errorf("%q, %v", got, err)
	}
	if err := other.Exec(ctx, "SELECT * FROM mine"); !isException(err, 60) {
		t.Error(err)
	}
}

// A result without rows still names its columns, whatever the statement; FORMAT is the client's business.
func TestNativeColumnsOfEmptyResults(t *testing.T) {
	db := database(t)
	mustQuery(t, "CREATE TABLE "+db+".t (id UInt64, kind LowCardinality(String), hops Array(Tuple(`a b` String, n Nullable(UInt8))), grade Enum8('it\\'s' = 1), twice UInt64 ALIAS id * 2, made UInt64 MATERIALIZED 1) ENGINE = MergeTree ORDER BY id")
	c := helloRaw(t, serveTCP(t, HandlerOptions{}))
	columns := []string{"id UInt64", "kind LowCardinality(String)", "hops Array(Tuple(`a b` String, n Nullable(UInt8)))", `grade Enum8('it\'s' = 1)`}
	for sql, want := range map[string][]string{
		"SELECT * FROM " + db + ".t":                                {columns[0], columns[1], columns[2], columns[3]},
		"SELECT * FROM " + db + ".t FORMAT JSON;":                   {columns[0], columns[1], columns[2], columns[3]},
		"SELECT id AS x FROM " + db + ".t SETTINGS max_threads = 1": {"x UInt64"},
		"WITH 1 AS one SELECT one FROM " + db + ".t -- nothing":     {"one UInt8"},
		"SHOW TABLES FROM " + db + " LIKE 'nothing'":                {"name String"},
	} {
		c.query(sql)
		if got := c.header(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: columns %q, want %q", sql, got, want)
		}
		c.endOfQuery()
	}
	for sql, want := range map[string][]string{
		"INSERT INTO " + db + ".t VALUES":                                                         columns,
		"INSERT INTO TABLE " + db + ".`t` (grade, `id`) SETTINGS max_threads = 1 VALUES":          {columns[3], "id UInt64"},
		"INSERT INTO FUNCTION null('a UInt8, b String') VALUES":                                   {"a UInt8", "b String"},
		"/* one */ insert into " + db + ".t(id, grade) FORMAT Native":                             {columns[0], columns[3]},
		"INSERT INTO FUNCTION remote('127.0.0.1', view(SELECT 1 AS a)) (a) FORMAT Native":         nil,
		"INSERT INTO " + db + ".t (* EXCEPT (id)) VALUES":                                         nil,
		"INSERT INTO " + db + ".t (id, nope) VALUES":                                              nil,
		"INSERT INTO " + db + ".nope VALUES":                                                      nil,
		"INSERT INTO " + db + ".t (id) SETTINGS no_such_setting = 1 VALUES":                       {columns[0]},
		"INSERT INTO " + db + ".t (id) SELECT number FROM numbers(3)":                             {},
		"INSERT INTO " + db + ".t (id) VALUES (4), (5)":                                           {},
		"INSERT INTO " + db + ".t (id) FORMAT JSONEachRow {\"id\": 6}":                            {},
		"CREATE TABLE IF NOT EXISTS " + db + ".t (id UInt64) ENGINE = MergeTree ORDER BY tuple()": {},
	} {
		c.query(sql)
		switch {
		case want == nil:
			c.until(proto.ServerCodeException)
			c.exception()
		case len(want) == 0:
			c.until(proto.ServerCodeEndOfStream)
		default:
			if got := c.header(); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: columns %q, want %q", sql, got, want)
			}
			c.emptyBlock() // no rows
			c.flush()
			if strings.Contains(sql, "no_such_setting") {
				c.fails(115)
			} else {
				c.until(proto.ServerCodeEndOfStream)
			}
		}
		c.alive()
	}
	if got := mustQuery(t, "SELECT groupArray(id) FROM (SELECT id FROM "+db+".t ORDER BY id)"); got != "[0,1,2,4,5,6]" {
		t.Error(got)
	}
}

// endOfQuery reads the profile and the end of a result without rows.
func (c *rawClient) endOfQuery() {
	c.t.Helper()
	c.until(proto.ServerCodeProfile)
	var p proto.Profile
	if err := p.DecodeAware(c.in, MaxRevision); err != nil {
		c.t.Fatal(err)
	}
	if p.Rows != 0 {
		c.t.Errorf("%d rows", p.Rows)
	}
	c.until(proto.ServerCodeEndOfStream)
}

// An INSERT that fails leaves the connection usable, whether the client has sent all of its data or goes on sending.
func TestNativeInsertFails(t *testing.T) {
	ctx, db := t.Context(), database(t)
	mustQuery(t, "CREATE TABLE "+db+".t (id UInt64, CONSTRAINT small CHECK id < 10) ENGINE = MergeTree ORDER BY id")
	conn := native(t, db)
	for _, id := range []uint64{100, 1} {
		batch, err := conn.PrepareBatch(ctx, "INSERT INTO t")
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(batch.Append(id), batch.Send())
		if id == 100 && !isException(err, 469) || id == 1 && err != nil {
			t.Error(id, err)
		}
		_ = batch.Close()
	}
	c := helloRaw(t, serveTCP(t, HandlerOptions{}))
	c.query("INSERT INTO " + db + ".t VALUES")
	c.header()
	for range 20 { // far more than the engine reads before it fails
		c.block(1, 100_000)
		c.column("id", "UInt64")
		c.out.PutRaw(bytes.Repeat([]byte{1}, 800_000))
		c.flush()
	}
	c.emptyBlock()
	c.flush()
	c.fails(469)
	c.alive()
	if got := mustQuery(t, "SELECT groupArray(id) FROM "+db+".t"); got != "[1]" {
		t.Error(got)
	}
}

// A type that cannot be re-encoded, and nonsense, end the connection with an exception; nothing is inserted.
func TestNativeInsertOfNonsense(t *testing.T) {
	db := database(t)
	mustQuery(t, "CREATE TABLE "+db+".t (a String) ENGINE = MergeTree ORDER BY a")
	address := serveTCP(t, HandlerOptions{})
	for name, test := range map[string]struct {
		send func(c *rawClient)
		code int
	}{
		"unknown type":      {func(c *rawClient) { c.block(1, 1); c.column("a", "Dynamic") }, 48},
		"many rows":         {func(c *rawClient) { c.block(1, 1<<40); c.column("a", "String") }, 101},
		"a long value":      {func(c *rawClient) { c.block(1, 1); c.column("a", "String"); c.out.PutUVarInt(1 << 50) }, 229},
		"a wide value":      {func(c *rawClient) { c.block(1, 1<<29); c.column("a", "FixedString(4294967295)") }, 229},
		"an unknown packet": {func(c *rawClient) { c.out.PutByte(77) }, 101},
		"a deep type": {func(c *rawClient) {
			c.block(1, 1)
			c.column("a", strings.Repeat("Array(", 200)+"UInt8"+strings.Repeat(")", 200))
		}, 48},
	} {
		t.Run(name, func(t *testing.T) {
			c := helloRaw(t, address)
			c.query("INSERT INTO " + db + ".t VALUES")
			c.header()
			test.send(c)
			c.flush()
			c.fails(test.code)
			c.closed()
		})
	}
	if got := mustQuery(t, "SELECT count() FROM "+db+".t"); got != "0" {
		t.Error(got, "rows")
	}
}

// A client that goes away in the middle of an INSERT inserts nothing, also of the blocks that it had sent.
func TestNativeClientGoesAway(t *testing.T) {
	db, address := database(t), serveTCP(t, HandlerOptions{})
	mustQuery(t, "CREATE TABLE "+db+".t (a UInt64) ENGINE = MergeTree ORDER BY a")
	for _, whole := range []int{3, 500_000} {
		c := helloRaw(t, address)
		c.query("INSERT INTO " + db + ".t VALUES")
		c.header()
		c.block(1, whole)
		c.column("a", "UInt64")
		c.out.PutRaw(make([]byte, 8*whole))
		c.block(1, 1000)
		c.column("a", "UInt64")
		c.flush()
		if err := c.conn.Close(); err != nil {
			t.Fatal(err)
		}
		awaitNone(t, "query LIKE 'INSERT INTO "+db+"%'")
		if got := mustQuery(t, "SELECT count() FROM "+db+".t"); got != "0" {
			t.Errorf("%s rows of %d", got, whole)
		}
	}
}

// awaitNone waits until no statement of that description runs.
func awaitNone(t testing.TB, where string) {
	t.Helper()
	awaitRunning(t, where, "0")
}

func awaitRunning(t testing.TB, where, want string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		n := mustQuery(t, "SELECT count() FROM system.processes WHERE "+where+" AND query NOT LIKE '%system.processes%'")
		if n == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s statements are running, want %s: %s", n, want, where)
		}
	}
}

// A cancellation ends the statement and keeps the connection; while it runs the client hears of it.
func TestNativeCancelAndBeat(t *testing.T) {
	timeouts := defaultNativeTimeouts
	timeouts.beat = 10 * time.Millisecond
	c := helloRaw(t, serveTCP(t, HandlerOptions{}, timeouts))
	c.query("SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 6 SETTINGS max_threads = 1")
	c.until(proto.ServerCodeProgress)
	var p proto.Progress
	if err := p.DecodeAware(c.in, MaxRevision); err != nil {
		t.Fatal(err)
	}
	proto.ClientCodeCancel.Encode(&c.out)
	c.flush()
	c.fails(394)
	awaitNone(t, "query LIKE '%sipHash64(number) = 6%'")
	c.alive()
	c.query("SELECT 1 WHERE 0")
	c.header()
	c.endOfQuery()
}

// A client that says nothing, or stops amid a packet, is not waited for.
func TestNativeSilence(t *testing.T) {
	const soon = 50 * time.Millisecond
	with := func(set func(*nativeTimeouts)) string {
		timeouts := defaultNativeTimeouts // long: only one of them is to count
		set(&timeouts)
		return serveTCP(t, HandlerOptions{}, timeouts)
	}
	t.Run("no hello", func(t *testing.T) {
		connectRaw(t, with(func(n *nativeTimeouts) { n.hello = soon })).closed()
	})
	t.Run("idle", func(t *testing.T) {
		helloRaw(t, with(func(n *nativeTimeouts) { n.idle = soon })).closed()
	})
	t.Run("half a query", func(t *testing.T) {
		c := helloRaw(t, with(func(n *nativeTimeouts) { n.stall = soon }))
		proto.ClientCodeQuery.Encode(&c.out)
		c.flush()
		c.fails(209)
		c.closed()
	})
	t.Run("no data", func(t *testing.T) {
		c := helloRaw(t, with(func(n *nativeTimeouts) { n.data = soon }))
		c.query("INSERT INTO FUNCTION null('a UInt8') VALUES")
		c.header()
		c.fails(209)
		c.closed()
	})
}

// Settings that the engine does not know are passed over unless the client insists.
func TestNativeUnknownSettings(t *testing.T) {
	c := helloRaw(t, serveTCP(t, HandlerOptions{}))
	c.query("SELECT 1 WHERE getSetting('max_threads') != 3", proto.Setting{Key: "of_another_version", Value: "1"}, proto.Setting{Key: "max_threads", Value: "3"})
	c.header()
	c.endOfQuery()
	c.query("SELECT 1", proto.Setting{Key: "of_another_version", Value: "1", Important: true})
	c.fails(115)
	c.query("SELECT 1", proto.Setting{Key: "max_threads", Value: "many", Important: true})
	c.until(proto.ServerCodeException)
	c.exception()
	c.alive()
}

func TestNativeExternalTables(t *testing.T) {
	table, err := ext.NewTable("mine", ext.Column("a", "UInt64"), ext.Column("b c", "LowCardinality(String)"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if err := table.Append(uint64(i), fmt.Sprint("x", i%3)); err != nil {
			t.Fatal(err)
		}
	}
	conn := native(t, "default")
	var sum uint64
	ctx := clickhouse.Context(t.Context(), clickhouse.WithExternalTable(table))
	if err := conn.QueryRow(ctx, "SELECT sum(a) FROM mine WHERE `b c` = 'x1'").Scan(&sum); err != nil || sum != 1+4+7 {
		t.Error(sum, err)
	}
	if err := conn.Exec(t.Context(), "SELECT * FROM mine"); !isException(err, 60) {
		t.Error("the table stayed:", err)
	}
}

// Progress adds up to what was read and written, and the profile to what was returned.
func TestNativeProgressAndProfile(t *testing.T) {
	db := database(t)
	conn := native(t, db)
	var p clickhouse.Progress
	var rows uint64
	ctx := clickhouse.Context(t.Context(),
		clickhouse.WithProgress(func(now *clickhouse.Progress) { p.Rows += now.Rows; p.WroteRows += now.WroteRows }),
		clickhouse.WithProfileInfo(func(i *clickhouse.ProfileInfo) { rows = i.Rows }))
	if err := conn.Exec(ctx, "CREATE TABLE t ENGINE = MergeTree ORDER BY number AS SELECT number FROM numbers(100000)"); err != nil {
		t.Fatal(err)
	}
	if p.WroteRows != 100_000 {
		t.Errorf("%+v", p)
	}
	p = clickhouse.Progress{}
	var got []struct {
		Number uint64 `ch:"number"`
	}
	if err := conn.Select(ctx, &got, "SELECT number FROM t WHERE number % 10 = {r:UInt8}", clickhouse.Named("r", 3)); err != nil {
		t.Fatal(err)
	}
	if len(got) != 10_000 || rows != 10_000 || p.Rows == 0 || p.Rows > 100_000 { // the engine does not always count its last block in time
		t.Errorf("%d rows, profile %d, progress %+v", len(got), rows, p)
	}
}

// Close lets a statement finish, closes idle connections at once, and cancels what runs on when its time is up.
func TestNativeClose(t *testing.T) {
	e := engine(t)
	start := func() (*nativeServer, string) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return serveNative(e, listener, HandlerOptions{}, defaultNativeTimeouts), listener.Addr().String()
	}
	server, address := start()
	idle, busy := helloRaw(t, address), helloRaw(t, address)
	busy.query("SELECT sleepEachRow(0.1) FROM numbers(5) WHERE sleepEachRow(0.1) = 2")
	busy.until(proto.ServerCodeData) // the header comes at the end: it is over
	if err := server.close(t.Context()); err != nil {
		t.Error(err)
	}
	idle.closed()

	server, address = start()
	busy = helloRaw(t, address)
	busy.query("SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 7 SETTINGS max_threads = 1")
	awaitRunning(t, "query LIKE '%sipHash64(number) = 7%'", "1") // a connection that has not begun is idle
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := server.close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	awaitNone(t, "query LIKE '%sipHash64(number) = 7%'")
	if _, err := net.Dial("tcp", address); err == nil {
		t.Error("it still listens")
	}
}

// A server has both protocols; a native address in use is an error unless it may be done without.
func TestServerOfBothProtocols(t *testing.T) {
	e := engine(t)
	first, err := NewServer(e, ServerOptions{Listen: "127.0.0.1:0", Native: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := first.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	helloRaw(t, first.NativeAddr().String()).alive()
	taken := ServerOptions{Listen: "127.0.0.1:0", Native: first.NativeAddr().String()}
	if s, err := NewServer(e, taken); err == nil || !strings.Contains(err.Error(), "native protocol") {
		t.Error(s, err)
	}
	taken.NativeOptional = true
	second, err := NewServer(e, taken)
	if err != nil {
		t.Fatal(err)
	}
	if second.NativeAddr() != nil {
		t.Error(second.NativeAddr())
	}
	if err := second.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := NewServer(e, ServerOptions{Listen: "127.0.0.1:0", Native: "0.0.0.0:0", NativeOptional: true}); err == nil || !strings.Contains(err.Error(), "password") {
		t.Error(err)
	}
}

// FuzzNativePackets sends anything to a connection's reader: it neither panics nor allocates what it was not sent.
func FuzzNativePackets(f *testing.F) {
	var hello, query proto.Buffer
	proto.ClientHello{Name: "seed", ProtocolVersion: MaxRevision, User: "default"}.Encode(&hello)
	proto.Query{Body: "SELECT 1", Settings: []proto.Setting{{Key: "a", Value: "b"}}, Parameters: []proto.Parameter{{Key: "p", Value: "'1'"}},
		Info: proto.ClientInfo{Interface: proto.InterfaceTCP, Query: proto.ClientQueryInitial}}.EncodeAware(&query, MaxRevision)
	block := []byte("\x00\x01\x00\x02\xff\xff\xff\xff\x00\x01\x02\x01a\x06String\x00\x01x\x00")
	low := binary.LittleEndian.AppendUint64([]byte("\x00\x01\x00\x02\xff\xff\xff\xff\x00\x01\x01\x01a\x16LowCardinality(String)\x00"), 1)
	f.Add(append([]byte{}, query.Buf[1:]...), block, false)
	f.Add(hello.Buf, low, true)
	f.Fuzz(func(t *testing.T, packet, data []byte, compressed bool) {
		for _, revision := range []uint64{minRevision, 54450, MaxRevision} {
			q, err := fuzzReader(packet).query(revision)
			if err == nil && len(q.sql)+len(q.settings)+len(q.params) > len(packet) {
				t.Errorf("%d bytes became more", len(packet))
			}
			p := fuzzReader(data)
			emitted := 0
			d, err := p.block(newTranscoder(revision, 0), compressed, func(b []byte) error { emitted += len(b); return nil })
			if err == nil && !compressed && emitted > len(data) {
				t.Errorf("%d bytes of data became %d", len(data), emitted)
			}
			if err == nil && d.columns != len(d.structure) {
				t.Error(d)
			}
			if cap(p.data) > 1<<20+2*len(data) {
				t.Errorf("%d bytes held for %d", cap(p.data), len(data))
			}
		}
	})
}

// fuzzReader reads from bytes.
func fuzzReader(data []byte) *packetReader {
	return newPacketReader(&fuzzConn{Reader: bytes.NewReader(data)}, 1<<20)
}

type fuzzConn struct {
	net.Conn
	*bytes.Reader
}

func (c *fuzzConn) Read(p []byte) (int, error)      { return c.Reader.Read(p) }
func (c *fuzzConn) SetReadDeadline(time.Time) error { return nil }
