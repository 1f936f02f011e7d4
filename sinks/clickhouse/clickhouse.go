package clickhouse

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"catena/sinks"
)

// Options say where the database is and how to talk to it.
type Options struct {
	// Addrs are the servers, tried in order: host:port, or with a scheme that
	// says the protocol: http, https, clickhouse and tcp (both native),
	// clickhouses and tls (native with TLS). Without a scheme, Protocol decides, or else the
	// port: 9000 and 9440 are native, all others HTTP; 8443 and 9440 with TLS.
	// All must come to the same protocol. Default: http://127.0.0.1:8123.
	Addrs    []string
	Protocol string // "http", "native" or empty

	Database string // default "catena"; created by Migrate
	// Cluster makes Migrate set the tables up on all servers of that cluster,
	// replicated and sharded; empty for one server. Retention is how long rows are
	// kept, and 0 for ever; Migrate sets it.
	Cluster   string
	Retention time.Duration
	User      string // default "default"
	Password  string
	TLS       *tls.Config // nil for the system's defaults where the address asks for TLS
	// Login, if given, replaces Password and TLS. It is asked at each statement:
	// when it gives something else than before (the same pointer is the same
	// configuration), new connections are made with that.
	Login func() (password string, certificates *tls.Config)

	Compression string         // "lz4", "zstd" or "none"; default lz4, and none when all servers are on this machine
	Settings    map[string]any // for every statement, beside those that the sink sets itself
	DialTimeout time.Duration  // default 10 s
	ReadTimeout time.Duration  // longest silence of the server; default 5 min
	MaxConns    int            // default 8
}

// Store is a database. Its methods may be called from several goroutines;
// writes queue up behind each other.
type Store struct {
	conn    *pool
	options Options // with defaults, addresses without scheme
	where   string  // for messages: scheme://host:port, …
	native  clickhouse.Protocol
	tls     bool

	settling sync.Mutex     // guards insert until it is known
	insert   map[string]any // settings of every insert

	mu     sync.Mutex // guards tables
	tables tables
}

var _ sinks.Sink = (*Store)(nil)

// Open connects and makes sure that the server answers and lets us in. The
// database itself need not exist yet: Migrate creates it. Errors name the
// address and what to do.
func Open(ctx context.Context, o Options) (*Store, error) {
	s, err := newStore(o)
	if err != nil {
		return nil, err
	}
	s.conn = s.pool(s.options.Database)
	if _, err := s.conn.get(); err != nil {
		return nil, s.explain(err)
	}
	if err := s.conn.Ping(ctx); err != nil && !isCode(err, codeUnknownDatabase) {
		_ = s.conn.Close()
		return nil, s.explain(err)
	}
	return s, nil
}

func newStore(o Options) (*Store, error) {
	s := &Store{options: o, tables: newTables()}
	if len(o.Addrs) == 0 {
		s.options.Addrs = []string{"http://127.0.0.1:8123"}
	}
	if o.Database == "" {
		s.options.Database = "catena"
	}
	if !databaseName.MatchString(s.options.Database) {
		return nil, fmt.Errorf("clickhouse: database %q: want letters, digits and underscores, not beginning with a digit", s.options.Database)
	}
	if o.Cluster != "" && !clusterName.MatchString(o.Cluster) {
		return nil, fmt.Errorf("clickhouse: cluster %q: want letters, digits, underscores, dots and dashes, or a macro such as {cluster}", o.Cluster)
	}
	if o.Cluster != "" {
		s.options.Settings = withClusterSettings(o.Settings)
	}
	if o.User == "" {
		s.options.User = "default"
	}
	s.options.DialTimeout = orDefault(o.DialTimeout, 10*time.Second)
	s.options.ReadTimeout = orDefault(o.ReadTimeout, 5*time.Minute)
	if o.MaxConns <= 0 {
		s.options.MaxConns = 8
	}
	if err := s.parseAddrs(); err != nil {
		return nil, err
	}
	switch s.options.Compression {
	case "lz4", "zstd", "none":
	case "":
		// Compressing for the loopback device costs more than it saves.
		s.options.Compression = "lz4"
		if allLoopback(s.options.Addrs) {
			s.options.Compression = "none"
		}
	default:
		return nil, fmt.Errorf("clickhouse: compression %q: want lz4, zstd or none", o.Compression)
	}
	return s, nil
}

var databaseName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func orDefault(v, d time.Duration) time.Duration {
	if v <= 0 {
		return d
	}
	return v
}

// parseAddrs turns the addresses into host:port and settles protocol and TLS.
func (s *Store) parseAddrs() error {
	var first address
	var plain, shown []string
	for i, text := range s.options.Addrs {
		a, err := parseAddr(text, s.options.Protocol)
		if err != nil {
			return err
		}
		if i == 0 {
			first = a
		}
		if a.protocol != first.protocol || a.tls != first.tls {
			return fmt.Errorf("clickhouse: addresses %s and %s differ in protocol: use one of them throughout", first, a)
		}
		plain = append(plain, a.host)
		shown = append(shown, a.String())
	}
	s.options.Addrs, s.where, s.native = plain, strings.Join(shown, ", "), first.protocol
	s.tls = first.tls
	if login := s.options.Login; login != nil && !first.tls {
		if _, certificates := login(); certificates != nil {
			return fmt.Errorf("clickhouse: certificates are configured, but %s is plain text: use https:// or clickhouses://", s.where)
		}
	}
	return nil
}

// address is one server.
type address struct {
	host     string // host:port
	protocol clickhouse.Protocol
	tls      bool
}

// String is the address as it can be configured.
func (a address) String() string {
	switch {
	case a.protocol == clickhouse.HTTP && a.tls:
		return "https://" + a.host
	case a.protocol == clickhouse.HTTP:
		return "http://" + a.host
	case a.tls:
		return "clickhouses://" + a.host
	}
	return "clickhouse://" + a.host
}

func parseAddr(text, protocol string) (address, error) {
	// What is wrong is told without repeating the text: it may hold a password.
	scheme, rest, hasScheme := strings.Cut(text, "://")
	if !hasScheme {
		scheme, rest = protocol, text
	}
	if strings.Contains(rest, "@") {
		return address{}, errors.New("clickhouse: an address holds a user or password: set them on their own")
	}
	u, err := url.Parse("x://" + rest)
	if err != nil || u.Hostname() == "" {
		return address{}, fmt.Errorf("clickhouse: address %q: want host:port, http://host:8123, https://host:8443 or clickhouse://host:9000", text)
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return address{}, fmt.Errorf("clickhouse: address %q: want only scheme, host and port; the database and settings are set on their own", text)
	}
	a := address{}
	port := u.Port()
	switch scheme {
	case "http":
		a.protocol = clickhouse.HTTP
	case "https":
		a.protocol, a.tls = clickhouse.HTTP, true
	case "clickhouse", "tcp", "native":
		a.protocol = clickhouse.Native
	case "clickhouses", "tls":
		a.protocol, a.tls = clickhouse.Native, true
	case "":
		a.protocol = clickhouse.HTTP
		if port == "9000" || port == "9440" {
			a.protocol = clickhouse.Native
		}
	default:
		return address{}, fmt.Errorf("clickhouse: address %q: the protocol %q is none of http, https, clickhouse (native) and clickhouses (native with TLS)", text, scheme)
	}
	a.tls = a.tls || !hasScheme && (port == "8443" || port == "9440")
	if port == "" {
		port = defaultPort(a)
	}
	a.host = net.JoinHostPort(u.Hostname(), port)
	return a, nil
}

func defaultPort(a address) string {
	switch {
	case a.protocol == clickhouse.HTTP && a.tls:
		return "8443"
	case a.protocol == clickhouse.HTTP:
		return "8123"
	case a.tls:
		return "9440"
	}
	return "9000"
}

func allLoopback(hosts []string) bool {
	for _, h := range hosts {
		host, _, _ := net.SplitHostPort(h)
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}

// pool makes connections whose default database is the one named; empty for
// the user's own.
func (s *Store) pool(database string) *pool {
	login := s.options.Login
	if login == nil {
		login = func() (string, *tls.Config) { return s.options.Password, s.options.TLS }
	}
	return &pool{login: login, open: func(password string, certificates *tls.Config) (driver.Conn, error) {
		return s.connect(database, password, certificates)
	}}
}

func (s *Store) connect(database, password string, certificates *tls.Config) (driver.Conn, error) {
	switch {
	case !s.tls:
		certificates = nil
	case certificates == nil:
		certificates = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	o := &clickhouse.Options{
		Protocol:         s.native,
		Addr:             s.options.Addrs,
		Auth:             clickhouse.Auth{Database: database, Username: s.options.User, Password: password},
		TLS:              certificates,
		Settings:         clickhouse.Settings{},
		DialTimeout:      s.options.DialTimeout,
		ReadTimeout:      s.options.ReadTimeout,
		MaxOpenConns:     s.options.MaxConns,
		MaxIdleConns:     s.options.MaxConns,
		ConnOpenStrategy: clickhouse.ConnOpenInOrder,
		ClientInfo: clickhouse.ClientInfo{Products: []struct{ Name, Version string }{
			{Name: "catena"},
		}},
	}
	for name, value := range s.options.Settings {
		o.Settings[name] = value
	}
	switch s.options.Compression {
	case "lz4":
		o.Compression = &clickhouse.Compression{Method: clickhouse.CompressionLZ4}
	case "zstd":
		o.Compression = &clickhouse.Compression{Method: clickhouse.CompressionZSTD, Level: 1}
	}
	return clickhouse.Open(o)
}

// Ping asks whether the server answers.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.conn.Ping(ctx); err != nil {
		return s.explain(err)
	}
	return nil
}

// Close closes the connections. It may be called twice.
func (s *Store) Close() error { return s.conn.Close() }

// Where is the address for messages, without user and password.
func (s *Store) Where() string { return s.where }
