package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"catena/ingest"
	"catena/schemas"
	"catena/sinks/clickhouse"
)

var doctorCommand = command{
	name: "doctor", args: "[flags]", short: "check configuration, connections, rights and limits before and while running",
	help: `
Reads the settings as catena run would, connects to everything they name, and says of each
point whether it is right: ok, warn (it runs, and will hurt) or fail (it does not run, or
loses records), with what to do about it. It joins no group, commits nothing, writes
nothing and migrates nothing, so it may run beside a daemon at any time.

  configuration   every setting, files of secrets, folder of sources
  kafka           connection, TLS, login; topics, partitions, rights on the group; what the
                  newest records of each topic are taken for; how far reading is behind, and
                  whether retention will overtake it
  clickhouse      connection, login, version, migrations, rights, settings, disk, clock
  machine         memory limit of the container, file descriptors, clock

Exit code: 0 nothing failed (there may be warnings); 1 something failed; 2 wrong arguments.

  CATENA_KAFKA_TOPICS=okta,cloudtrail catena doctor
  catena doctor --format json | jq '.findings[] | select(.state != "ok")'`,
	run: runDoctor,
}

// The states of a diagnosis, from best to worst.
const (
	stateOK   = "ok"
	stateWarn = "warn"
	stateFail = "fail"
)

// diagnosis is one point that was checked.
type diagnosis struct {
	State string `json:"state"`
	About string `json:"about"`        // configuration, kafka, topic okta, clickhouse, machine
	Found string `json:"found"`        // what is so
	Do    string `json:"do,omitempty"` // what to do about it
}

// doctor collects findings.
type doctor struct {
	State    string      `json:"state"` // the worst of them
	Findings []diagnosis `json:"findings"`

	each func(diagnosis) // told of each; may be nil
}

func (d *doctor) add(f diagnosis) {
	d.Findings = append(d.Findings, f)
	if f.State == stateFail || f.State == stateWarn && d.State == stateOK {
		d.State = f.State
	}
	if d.each != nil {
		d.each(f)
	}
}

func (d *doctor) ok(about, format string, args ...any) {
	d.add(diagnosis{State: stateOK, About: about, Found: fmt.Sprintf(format, args...)})
}

func (d *doctor) warn(about, do, format string, args ...any) {
	d.add(diagnosis{stateWarn, about, fmt.Sprintf(format, args...), do})
}

func (d *doctor) fail(about, do, format string, args ...any) {
	d.add(diagnosis{stateFail, about, fmt.Sprintf(format, args...), do})
}

// doctorTimeout bounds the whole of one side, Kafka or ClickHouse.
const doctorTimeout = time.Minute

func runDoctor(ctx context.Context, env *environment, c *command, args []string) error {
	var fs flag.FlagSet
	format := fs.String("format", "text", "text or json")
	ready := fs.Bool("ready", false, "only ask the daemon at CATENA_LISTEN whether it is ready, for health checks of containers without a shell")
	rest, err := c.parse(env, &fs, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("unexpected argument %q: everything is set by the environment", rest[0])
	}
	if *format != "text" && *format != "json" {
		return usagef("--format %q: want text or json", *format)
	}
	if *ready {
		return askReady(ctx, env)
	}
	d := &doctor{State: stateOK, Findings: []diagnosis{}}
	if *format == "text" {
		d.each = func(f diagnosis) { printFinding(env.stdout, f) }
	}
	d.examine(ctx, env)
	if *format == "json" {
		if err := printJSON(env.stdout, d); err != nil {
			return err
		}
	}
	if d.State == stateFail {
		return exitError(exitFailure)
	}
	return nil
}

// askReady asks the daemon of this container. An address that listens on all
// interfaces answers on loopback as well.
func askReady(ctx context.Context, env *environment) error {
	cfg, err := loadConfig(env)
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return usagef("CATENA_LISTEN=%q: nothing listens that could be asked", cfg.Listen)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(env.stdout, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return exitError(exitFailure)
	}
	return nil
}

// printFinding writes one line, and below it what to do.
func printFinding(w io.Writer, f diagnosis) {
	fmt.Fprintf(w, "%-5s %-14s %s\n", f.State, f.About, safeText(f.Found))
	if f.Do != "" {
		fmt.Fprintf(w, "      %-14s → %s\n", "", safeText(f.Do))
	}
}

// safeText keeps what servers say on its line, and control characters out of
// the terminal.
func safeText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
}

// examine checks everything that can be checked with what is right so far.
func (d *doctor) examine(ctx context.Context, env *environment) {
	d.machine()
	cfg, err := loadConfig(env)
	if err != nil {
		for fault := range strings.SplitSeq(err.Error(), "\n") { // as errors.Join writes them
			d.fail("configuration", "correct the setting; `catena run --help` lists them all", "%s", fault)
		}
		return
	}
	d.configuration(cfg)
	d.memory(cfg)
	d.kafka(ctx, cfg)
	d.clickhouse(ctx, cfg)
}

func (d *doctor) configuration(cfg *config) {
	const about = "configuration"
	if len(cfg.KafkaTopics) == 0 {
		d.fail(about, "name the topics that hold your logs, comma separated", "CATENA_KAFKA_TOPICS is not set")
	}
	switch key := cfg.HMACKey; {
	case key == "":
		d.fail(about, "make one with `openssl rand -hex 32` and give every instance the same", "CATENA_HMAC_KEY is not set")
	case len(key) < 32 || strings.Count(key, key[:1]) == len(key):
		d.warn(about, "use `openssl rand -hex 32` before the first record is read: with another key, keys that were secrets no longer join with older ones",
			"CATENA_HMAC_KEY can be guessed: %d bytes", len(key))
	default:
		d.ok(about, "HMAC key %s…: every instance must print the same", fingerprint(key))
	}
	if cfg.KafkaTLSSkipVerify || cfg.ClickHouseTLSSkipVerify {
		d.warn(about, "name the authority with …_TLS_CA instead", "certificates are not verified: whoever is on the way can read and change everything")
	}
	set, err := loadSources(cfg.SourcesDir)
	if err != nil {
		d.fail(about, "`catena sources lint` explains", "%v", err)
		return
	}
	if cfg.SourcesDir != "" {
		d.ok(about, "%d sources, with those of %s", len(set.Sources()), cfg.SourcesDir)
	} else {
		d.ok(about, "%d sources, all built in", len(set.Sources()))
	}
}

// fingerprint tells keys apart and nothing of them.
func fingerprint(key string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte("catena doctor: fingerprint"))
	return hex.EncodeToString(mac.Sum(nil))[:8]
}

// kafka checks the brokers, the group and each topic.
func (d *doctor) kafka(ctx context.Context, cfg *config) {
	const about = "kafka"
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	o := ingest.ConsumerOptions{Cluster: cfg.cluster(nil), Group: cfg.KafkaGroup, Topics: cfg.KafkaTopics, Regex: cfg.KafkaTopicsRegex}
	o.StartTimeout = 5 * time.Second
	in, err := ingest.Inspect(ctx, o)
	if err != nil {
		found, do, _ := strings.Cut(err.Error(), "; check ")
		d.fail(about, "check "+do, "%s", strings.TrimPrefix(found, "kafka: "))
		return
	}
	d.ok(about, "cluster %s, %d brokers: %s (%s)", in.Cluster, len(in.Brokers), strings.Join(in.Brokers, ", "), security(cfg))
	if slices.ContainsFunc(in.Brokers, func(b string) bool { return strings.HasPrefix(b, "localhost:") || strings.HasPrefix(b, "127.") }) &&
		!slices.ContainsFunc(cfg.KafkaBrokers, func(b string) bool { return strings.HasPrefix(b, "localhost:") || strings.HasPrefix(b, "127.") }) {
		d.fail(about, "correct advertised.listeners of the brokers", "the cluster tells its clients to connect to loopback addresses")
	}
	switch {
	case in.GroupFault != nil:
		d.fail(about, "grant Read on the group (kafka-acls --add --allow-principal … --operation Read --group "+cfg.KafkaGroup+")",
			"group %s cannot be used: %v", cfg.KafkaGroup, in.GroupFault)
	case in.Members > 1 && cfg.ShareTopic == "":
		d.warn(about, "set CATENA_SHARE_TOPIC, the same on each: what lies in another instance's partitions is attributed late or not at all",
			"group %s has %d members, and nothing through which they share what they know", cfg.KafkaGroup, in.Members)
	case in.Members > 0:
		d.ok(about, "group %s: %s, %d members", cfg.KafkaGroup, in.Group, in.Members)
	default:
		d.ok(about, "group %s has no members", cfg.KafkaGroup)
	}
	for _, name := range in.Missing {
		d.fail("topic "+name, "create it, correct CATENA_KAFKA_TOPICS, or grant Describe on it (a topic that may not be seen looks as if it did not exist)", "does not exist")
	}
	tried := d.decoder(ctx, cfg)
	for _, t := range in.Topics {
		d.topic(t, tried)
	}
}

// security says how a connection is secured.
func security(cfg *config) string {
	how := []string{"plain text"}
	if cfg.kafkaTLS != nil {
		how[0] = "TLS"
		if cfg.KafkaTLSCert != "" {
			how[0] = "TLS with client certificate"
		}
	}
	if cfg.KafkaSASLMechanism != "" {
		how = append(how, cfg.KafkaSASLMechanism)
	}
	return strings.Join(how, ", ")
}

// decoder is what records are tried with; nil if it cannot be made.
func (d *doctor) decoder(ctx context.Context, cfg *config) *ingest.Decoder {
	once := *cfg
	once.Decoders = 1
	reg, err := once.openRegistry(ctx, nil)
	if err != nil {
		d.fail("registry", "check CATENA_SCHEMA_REGISTRY", "%v", err)
		return nil
	}
	if once.HMACKey == "" {
		once.HMACKey = stitchHMACKey // that it is missing was said
	}
	st, err := newStitcher(&once, reg)
	if err != nil {
		d.fail("configuration", "correct the setting", "%v", err)
		return nil
	}
	return st.decoders[0]
}

func (d *doctor) topic(t ingest.TopicState, decoder *ingest.Decoder) {
	about := "topic " + t.Topic
	if len(t.Leaderless) > 0 {
		d.fail(about, "bring the brokers back that hold them", "%d of %d partitions have no leader: %v", len(t.Leaderless), t.Partitions, t.Leaderless)
	}
	if t.Fault != nil {
		d.fail(about, "grant Read and Describe on the topic", "cannot be read: %v", t.Fault)
		return
	}
	d.lag(about, t)
	switch {
	case t.Records == 0:
		d.warn(about, "see that something writes to it", "%d partitions, no records", t.Partitions)
	case len(t.Newest) == 0:
		d.warn(about, "try again: a broker may be slow", "%d partitions, %d records, none of which came within five seconds", t.Partitions, t.Records)
	case decoder != nil:
		d.recognised(about, t, decoder)
	}
	if t.Compacted {
		d.warn(about, "set cleanup.policy=delete: of records with one key all but the newest are removed, read or not", "the topic is compacted")
	}
}

// lag compares how far reading is behind with how long the topic keeps records.
func (d *doctor) lag(about string, t ingest.TopicState) {
	const raise = "start catena run, add instances, or raise retention.ms of the topic"
	age := time.Since(t.OldestUnread).Round(time.Second)
	switch {
	case t.Overtaken > 0:
		d.fail(about, "raise retention.ms, and bring the records back from where they came with catena replay", "retention deleted %d records before they were read", t.Overtaken)
	case t.Lag < 0:
		d.ok(about, "the group has not read it yet; retention %s", retention(t.Retention))
	case t.OldestUnread.IsZero() || t.Retention <= 0:
		d.ok(about, "%d of %d records not read yet; retention %s", t.Lag, t.Records, retention(t.Retention))
	case age > t.Retention/2:
		d.warn(about, raise, "%d records not read yet, the oldest %s old; retention is %s", t.Lag, age, t.Retention)
	default:
		d.ok(about, "%d records not read yet, the oldest %s old; retention is %s", t.Lag, age, t.Retention)
	}
}

func retention(r time.Duration) string {
	switch {
	case r == 0:
		return "unknown (no right to DescribeConfigs)"
	case r < 0:
		return "for ever"
	}
	return r.String()
}

// recognised decodes the newest records, and shows no more of them than what
// they were taken for.
func (d *doctor) recognised(about string, t ingest.TopicState, decoder *ingest.Decoder) {
	var out ingest.Decoded
	taken := map[string]int{}
	dead := map[schemas.DeadReason]int{}
	for i := range t.Newest {
		out.Reset()
		decoder.Decode(&out, &t.Newest[i])
		if out.Err != nil {
			d.fail(about, "check CATENA_SCHEMA_REGISTRY and that it answers", "%v", out.Err)
			return
		}
		for j := range out.Events {
			taken[out.Events[j].Source]++
		}
		for _, skip := range out.Skips {
			taken["skipped: "+skip.Name] += skip.Count
		}
		for _, letter := range out.Dead {
			dead[letter.Reason]++
		}
	}
	found := fmt.Sprintf("%d partitions, %d records; the newest are %s", t.Partitions, t.Records, counts(taken))
	if len(dead) == 0 {
		d.ok(about, "%s", found)
		return
	}
	var reasons []string
	for reason, n := range dead {
		reasons = append(reasons, fmt.Sprintf("%s (%d)", reason, n))
	}
	slices.Sort(reasons)
	do := "look at them with `catena sources test FILE`; a format of your own is one YAML file (docs/sources.md)"
	if len(taken) == 0 {
		d.fail(about, do, "%d records; of the %d newest none is understood: %s", t.Records, len(t.Newest), strings.Join(reasons, ", "))
		return
	}
	d.warn(about, do, "%s; not understood: %s", found, strings.Join(reasons, ", "))
}

func counts(taken map[string]int) string {
	var all []string
	for name, n := range taken {
		all = append(all, fmt.Sprintf("%s (%d)", name, n))
	}
	slices.Sort(all)
	if len(all) == 0 {
		return "without events"
	}
	return strings.Join(all, ", ")
}

// clickhouse checks the database.
func (d *doctor) clickhouse(ctx context.Context, cfg *config) {
	const about = "clickhouse"
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	store, err := clickhouse.Open(ctx, cfg.clickhouse())
	if err != nil {
		d.fail(about, "check CATENA_CLICKHOUSE_ADDR, …_USER, …_PASSWORD and …_TLS_…", "%s", strings.TrimPrefix(err.Error(), "clickhouse "))
		return
	}
	defer func() { _ = store.Close() }()
	facts, err := store.Inspect(ctx)
	if err != nil {
		d.fail(about, "see that the user may read the system tables", "%v", err)
		return
	}
	d.ok(about, "%s at %s", facts.Version, store.Where())
	if !facts.Supported {
		d.warn(about, "upgrade the server", "version %s is older than %s, the oldest that is tested", facts.Version, clickhouse.OldestVersion)
	}
	d.migrations(ctx, cfg, store, facts.Database)
	if len(facts.MissingGrants) > 0 {
		d.fail(about, fmt.Sprintf("GRANT %s ON %s.* TO %s", strings.Join(facts.MissingGrants, ", "), cfg.ClickHouseDatabase, cfg.ClickHouseUser),
			"user %s lacks rights: %s", cfg.ClickHouseUser, strings.Join(facts.MissingGrants, ", "))
	} else {
		d.ok(about, "user %s may read, insert and migrate", cfg.ClickHouseUser)
	}
	if len(facts.FixedSettings) > 0 {
		d.fail(about, "remove the constraint from the user's settings profile", "settings of inserts that the user may not set: %s", strings.Join(facts.FixedSettings, ", "))
	} else {
		d.ok(about, "the settings of inserts can be set")
	}
	if facts.DiskFree >= 0 && facts.DiskFree < 0.1 {
		d.warn(about, "add space, or shorten the TTL of the tables", "%.0f %% of a disk are free", 100*facts.DiskFree)
	}
	d.clock(about, facts.Clock)
}

func (d *doctor) migrations(ctx context.Context, cfg *config, store *clickhouse.Store, exists bool) {
	const about = "clickhouse"
	pending, err := store.Pending(ctx)
	switch {
	case err != nil:
		d.fail(about, "run the version of catena that the message names", "%v", err)
	case !exists:
		d.warn(about, "`catena migrate` makes it, as does the start of catena run", "database %s does not exist", cfg.ClickHouseDatabase)
	case len(pending) > 0:
		d.warn(about, "`catena migrate` applies them, as does the start of catena run", "migrations not applied yet: %s", strings.Join(pending, ", "))
	default:
		d.ok(about, "database %s is up to date", cfg.ClickHouseDatabase)
	}
}

// clock judges how far the database's clock is ahead of ours.
func (d *doctor) clock(about string, ahead time.Duration) {
	if ahead.Abs() > 2*time.Second {
		d.warn(about, "let both keep their clocks by NTP: latencies and alarms on silence are wrong by as much", "its clock differs from ours by %s", ahead.Round(100*time.Millisecond))
		return
	}
	d.ok(about, "its clock agrees with ours")
}

// memory compares the settings with what the container may use.
func (d *doctor) memory(cfg *config) {
	const about = "machine"
	limit, err := memoryLimit()
	need := neededMemory(int64(cfg.Memory))
	switch {
	case errors.Is(err, errNoLimit):
		d.ok(about, "no memory limit; about %s are used at most", showBytes(need))
	case err != nil:
		d.warn(about, "see that /sys/fs/cgroup can be read", "the memory limit is unknown: %v", err)
	case limit < need:
		d.warn(about, fmt.Sprintf("raise the limit to %s, or lower CATENA_MEMORY", showBytes(need)),
			"the memory limit is %s, and CATENA_MEMORY=%s needs about %s", showBytes(limit), showBytes(int64(cfg.Memory)), showBytes(need))
	default:
		d.ok(about, "memory limit %s, of which about %s are used at most", showBytes(limit), showBytes(need))
	}
}

// machine checks what the settings do not say.
func (d *doctor) machine() {
	const about = "machine"
	const enough = 1024
	if n, err := descriptors(); err == nil && n < enough {
		d.warn(about, "raise the limit (ulimit -n, LimitNOFILE=)", "%d file descriptors at most, want %d: each broker and each connection takes some", n, enough)
	} else if err == nil {
		d.ok(about, "%d file descriptors at most", n)
	}
	switch synchronised, err := clockSynchronised(); {
	case err != nil: // not every container may ask
	case !synchronised:
		d.warn(about, "start an NTP client on the host", "the kernel says that nothing keeps the clock right")
	default:
		d.ok(about, "the clock is kept right")
	}
}
