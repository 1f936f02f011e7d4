package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"regexp"
	"strings"

	"catena/ingest"
	"catena/sinks/clickhouse"
	"catena/sinks/embedded"
)

var runCommand = command{
	name: "run", args: "", short: "the daemon: read topics from Kafka, write attributed actions to ClickHouse",
	help: `
Reads the topics of CATENA_KAFKA_TOPICS as they are, joins them in memory, and writes to
ClickHouse one row per action that says who or what drove it, under which authority,
through which path, and how that is known. Tables are made and migrated at start.

Offsets are committed when the rows are durable: after a crash the records since the last
commit are read again and land on the same rows. SIGTERM or Ctrl-C drains, writes,
commits and leaves the group.

At CATENA_LISTEN it answers /healthz (503 if it hangs and has to be started anew), /readyz
(503, with the reasons, until the group is joined and restored) and /metrics.

  CATENA_KAFKA_BROKERS=kafka:9092 CATENA_KAFKA_TOPICS=okta,cloudtrail,otlp_spans \
  CATENA_CLICKHOUSE_ADDR=clickhouse://ch:9000 CATENA_HMAC_KEY_FILE=/run/secrets/hmac catena run`,
	run: runRun,
}

func runRun(ctx context.Context, env *environment, c *command, args []string) (err error) {
	var fs flag.FlagSet
	rest, err := c.parse(env, &fs, args)
	if errors.Is(err, flag.ErrHelp) {
		printConfig(env.stdout)
	}
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("unexpected argument %q: everything is set by the environment", rest[0])
	}
	cfg, err := loadConfig(env)
	if err != nil {
		return err
	}
	if len(cfg.KafkaTopics) == 0 {
		return usagef("CATENA_KAFKA_TOPICS: is not set; name the topics that hold your logs, comma separated")
	}
	if cfg.HMACKey == "" {
		return usagef("CATENA_HMAC_KEY: is not set; it keys the HMAC that replaces secrets found in logs. Make one with `openssl rand -hex 32` and give every instance the same")
	}
	log := newLog(env.stderr, cfg)
	limitMemory(log)
	web, err := openWeb(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, web.stop()) }()
	p, err := newPipeline(ctx, cfg, log)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil // told to stop before it had begun
	case err != nil:
		return err
	}
	if err := web.show(p); err != nil {
		return errors.Join(err, p.close())
	}
	log.Info("started", "version", version, "topics", strings.Join(cfg.KafkaTopics, ","), "group", cfg.KafkaGroup)
	err = p.run(ctx)
	st := p.engine.Stats()
	log.Info("stopped", "events", st.Events, "improved", st.Improved, "duplicates", st.Duplicates, "late", st.Late,
		"keys_evicted", st.KeysEvicted, "rows_evicted", st.RowsEvicted, "skipped", p.skips, "unclassified", p.unclassified)
	return err
}

// newLog makes the logger that the settings ask for; JSON from info on if they
// are empty.
func newLog(w io.Writer, cfg *config) *slog.Logger {
	opts := &slog.HandlerOptions{}
	var level slog.Level
	if level.UnmarshalText([]byte(cfg.LogLevel)) == nil {
		opts.Level = level
	}
	if cfg.LogFormat == "text" {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

// consumer is the part of the settings that the consumer takes.
func (c *config) consumer(log *slog.Logger, p *pipeline) ingest.ConsumerOptions {
	return ingest.ConsumerOptions{
		Cluster: c.cluster(log), Group: c.KafkaGroup, Topics: c.KafkaTopics, Regex: c.KafkaTopicsRegex, Exclude: c.excluded(), Start: c.KafkaStart,
		Protocol: c.KafkaGroupProtocol, SessionTimeout: c.KafkaSessionTimeout, Hold: true,
		LastOwner: p.lastOwner, OnAssigned: p.assigned, OnRevoked: p.revoked, OnLost: p.lost, OnUnreadable: p.unreadable, OnGap: p.gap,
	}
}

// excluded are the topics that a pattern must not match: what cannot be decoded
// would go round for ever.
func (c *config) excluded() []string {
	if c.DeadLetterTopic == "" {
		return nil
	}
	return []string{regexp.QuoteMeta(c.DeadLetterTopic)}
}

// checkClickHouse reads the certificates.
func (c *config) checkClickHouse() (faults []error) {
	files := tlsFiles{Setting: "CATENA_CLICKHOUSE_TLS", CA: c.ClickHouseTLSCA, Cert: c.ClickHouseTLSCert, Key: c.ClickHouseTLSKey,
		ServerName: c.ClickHouseTLSServerName, SkipVerify: c.ClickHouseTLSSkipVerify}
	if !files.set() {
		return nil
	}
	var err error
	if c.clickHouseTLS, err = files.open(); err != nil {
		faults = append(faults, err)
	}
	return faults
}

// clickhouse is the part of the settings that the database takes. Secrets are
// read again when they change.
func (c *config) clickhouse() clickhouse.Options {
	o := clickhouse.Options{Addrs: c.ClickHouseAddr, Database: c.ClickHouseDatabase, User: c.ClickHouseUser, Compression: c.ClickHouseCompression,
		Cluster: c.ClickHouseCluster, Retention: c.Retention}
	password := c.secret("CLICKHOUSE_PASSWORD", c.ClickHousePassword, c.log)
	certificates := func() *tls.Config { return nil }
	if c.clickHouseTLS != nil {
		c.clickHouseTLS.logTo(c.log)
		certificates = c.clickHouseTLS.config
	}
	o.Login = func() (string, *tls.Config) { return password(), certificates() }
	return o
}

func openStore(ctx context.Context, c *config) (*clickhouse.Store, error) {
	store, err := clickhouse.Open(ctx, c.clickhouse())
	if err != nil {
		return nil, fmt.Errorf("CATENA_CLICKHOUSE_ADDR=%s: %w", strings.Join(c.ClickHouseAddr, ","), err)
	}
	return store, nil
}

var migrateCommand = command{
	name: "migrate", args: "", short: "make or bring up to date the tables in ClickHouse",
	help: `
Applies the migrations that the database lacks, in order, and says which. It only goes
forward, and refuses a database that a newer catena has migrated. catena run does the same
at its start.

CATENA_RETENTION says how long rows are kept; changing it and starting again changes it in the
tables. With CATENA_CLICKHOUSE_CLUSTER the tables are made on every server of that cluster:
name_local replicated within its shard, and name Distributed over all of them.

The settings that apply: CATENA_CLICKHOUSE_ADDR, CATENA_CLICKHOUSE_DATABASE,
CATENA_CLICKHOUSE_USER, CATENA_CLICKHOUSE_PASSWORD, CATENA_CLICKHOUSE_CLUSTER, CATENA_RETENTION.`,
	run: runMigrate,
}

func runMigrate(ctx context.Context, env *environment, c *command, args []string) error {
	var fs flag.FlagSet
	if _, err := c.parse(env, &fs, args); err != nil {
		return err
	}
	cfg, err := loadConfig(env)
	if err != nil {
		return err
	}
	store, err := openStore(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	applied, err := store.Migrate(ctx)
	for _, name := range applied {
		fmt.Fprintln(env.stdout, "applied", name)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(env.stdout, "database %s is up to date\n", cfg.ClickHouseDatabase)
	return nil
}

var clickhouseCommand = command{
	name: "clickhouse", args: "[flags]", short: "the ClickHouse engine as a small server, for one machine",
	help: `
Serves ClickHouse's HTTP interface and its native protocol from the engine as a library
(libchdb), for trying out, tests and single-machine installs. clickhouse-go, curl,
@clickhouse/client, clickhouse-connect and clickhouse-driver work with it.

It listens on loopback unless told otherwise, and demands a password on any other address
(CATENA_CLICKHOUSE_PASSWORD, or CATENA_CLICKHOUSE_PASSWORD_FILE). The library is looked for
where make libchdb puts it; CATENA_LIBCHDB names another place.

The native protocol is at 127.0.0.1:9000. If that port is taken, the server says so and
serves HTTP alone; an address named by --tcp has to be free. --tcp off does without.

  catena clickhouse --data /var/lib/catena &
  curl 'http://127.0.0.1:8123/' --data-binary 'SELECT version()'`,
	run: runClickHouse,
}

func runClickHouse(ctx context.Context, env *environment, c *command, args []string) error {
	var fs flag.FlagSet
	listen := fs.String("listen", "127.0.0.1:8123", "address to listen on for HTTP")
	tcp := fs.String("tcp", "", "address to listen on for the native protocol, or off; without it 127.0.0.1:9000 if that is free")
	data := fs.String("data", "", "folder of the tables; without it they are gone when the server stops")
	if _, err := c.parse(env, &fs, args); err != nil {
		return err
	}
	cfg, err := loadConfig(env)
	if err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(*listen); err != nil {
		return usagef("--listen %q: want host:port: %w", *listen, err)
	}
	options := embedded.ServerOptions{Listen: *listen, Native: *tcp}
	switch *tcp {
	case "off":
		options.Native = ""
	case "":
		options.Native, options.NativeOptional = defaultNative, true
	default:
		if _, _, err := net.SplitHostPort(*tcp); err != nil {
			return usagef("--tcp %q: want host:port or off: %w", *tcp, err)
		}
	}
	server, err := startServer(env, *data, options, cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(env.stdout, "ClickHouse %s answers at http://%s\n", server.engine.Version(), server.Addr())
	switch {
	case server.NativeAddr() != nil:
		fmt.Fprintf(env.stdout, "the native protocol at clickhouse://%s\n", server.NativeAddr())
	case options.NativeOptional:
		fmt.Fprintf(env.stderr, "catena clickhouse: %s is in use: serving HTTP alone; --tcp names another address for the native protocol\n", defaultNative)
	}
	<-ctx.Done()
	return server.stop(cfg)
}

// defaultNative is ClickHouse's own default.
const defaultNative = "127.0.0.1:9000"

// embeddedServer is the engine with its fronts.
type embeddedServer struct {
	*embedded.Server
	engine *embedded.Engine
}

// startEmbedded serves HTTP alone.
func startEmbedded(env *environment, dir, listen string, cfg *config) (*embeddedServer, error) {
	return startServer(env, dir, embedded.ServerOptions{Listen: listen}, cfg)
}

func startServer(env *environment, dir string, o embedded.ServerOptions, cfg *config) (*embeddedServer, error) {
	engine, err := embedded.Open(embedded.Options{Library: env.getenv("CATENA_LIBCHDB"), Dir: dir})
	if err != nil {
		return nil, err
	}
	o.HandlerOptions = embedded.HandlerOptions{User: cfg.ClickHouseUser, Password: cfg.ClickHousePassword, Log: newLog(env.stderr, cfg)}
	server, err := embedded.NewServer(engine, o)
	if err != nil {
		return nil, errors.Join(err, engine.Close())
	}
	return &embeddedServer{server, engine}, nil
}

func (s *embeddedServer) stop(cfg *config) error {
	ctx, cancel := context.WithTimeout(context.Background(), cfg.Drain)
	defer cancel()
	return errors.Join(s.Close(ctx), s.engine.Close())
}
