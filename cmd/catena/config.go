package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"

	"catena/correlate"
	"catena/ingest"
	"catena/ingest/registry"
	"catena/schemas/sources"
)

// config is what the environment sets. Each field is the variable CATENA_ plus
// its name; a secret may also stand in the file that CATENA_…_FILE names.
type config struct {
	KafkaBrokers        []string      `envconfig:"KAFKA_BROKERS" default:"127.0.0.1:9092" desc:"addresses of Kafka brokers, host:port, comma separated"`
	KafkaTopics         []string      `envconfig:"KAFKA_TOPICS" desc:"topics to read, comma separated; with KAFKA_TOPICS_REGEX patterns"`
	KafkaTopicsRegex    bool          `envconfig:"KAFKA_TOPICS_REGEX" default:"false" desc:"KAFKA_TOPICS are regular expressions"`
	KafkaGroup          string        `envconfig:"KAFKA_GROUP" default:"catena" desc:"consumer group"`
	KafkaGroupProtocol  string        `envconfig:"KAFKA_GROUP_PROTOCOL" default:"classic" desc:"classic, or consumer for the protocol of Kafka 4 in which the broker assigns the partitions (4.3 and newer)"`
	KafkaSessionTimeout time.Duration `envconfig:"KAFKA_SESSION_TIMEOUT" default:"45s" desc:"how long the group waits for a sign of life before an instance's partitions go to others"`
	KafkaStart          string        `envconfig:"KAFKA_START" default:"earliest" desc:"where a new group starts: earliest or latest"`
	KafkaTLS            bool          `envconfig:"KAFKA_TLS" default:"false" desc:"connect with TLS; the settings below imply it"`
	KafkaTLSCA          string        `envconfig:"KAFKA_TLS_CA" desc:"file of the authorities (PEM) that may sign the brokers' certificates; the system's if empty"`
	KafkaTLSCert        string        `envconfig:"KAFKA_TLS_CERT" desc:"file of the client's certificate (PEM), for brokers that ask for one; read again when it changes"`
	KafkaTLSKey         string        `envconfig:"KAFKA_TLS_KEY" desc:"file of its private key (PEM)"`
	KafkaTLSServerName  string        `envconfig:"KAFKA_TLS_SERVER_NAME" desc:"name that the brokers' certificates must have; the host of the address if empty"`
	KafkaTLSSkipVerify  bool          `envconfig:"KAFKA_TLS_SKIP_VERIFY" default:"false" desc:"accept any certificate: whoever is on the way can read and change everything"`
	KafkaSASLMechanism  string        `envconfig:"KAFKA_SASL_MECHANISM" desc:"PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or AWS_MSK_IAM (credentials and region are found as Amazon's tools find them); empty for none"`
	KafkaUser           string        `envconfig:"KAFKA_SASL_USER" desc:"SASL user, of PLAIN and SCRAM"`
	KafkaPassword       string        `envconfig:"KAFKA_SASL_PASSWORD" secret:"true" desc:"SASL password, of PLAIN and SCRAM"`
	KafkaToken          string        `envconfig:"KAFKA_SASL_TOKEN" secret:"true" desc:"token of OAUTHBEARER; as a file it is read at each login"`
	KafkaTokenURL       string        `envconfig:"KAFKA_SASL_TOKEN_URL" desc:"where OAUTHBEARER gets its tokens instead, with the client's credentials"`
	KafkaClientID       string        `envconfig:"KAFKA_SASL_CLIENT_ID" desc:"the client's id there"`
	KafkaClientSecret   string        `envconfig:"KAFKA_SASL_CLIENT_SECRET" secret:"true" desc:"the client's secret there"`
	KafkaScopes         []string      `envconfig:"KAFKA_SASL_SCOPES" desc:"scopes to ask for there, comma separated"`

	KafkaExtensions map[string]string `envconfig:"KAFKA_SASL_EXTENSIONS" desc:"what the brokers want to know besides the token of OAUTHBEARER, name:value, comma separated, such as logicalCluster and identityPoolId at Confluent Cloud"`

	ShareTopic string `envconfig:"SHARE_TOPIC" desc:"compacted topic through which several instances of one group share what they know; made if missing. Needed as soon as there is more than one"`

	DeadLetterTopic string `envconfig:"DEAD_LETTER_TOPIC" desc:"topic to which records that could not be decoded are copied, as they came, with headers that say where from and why; made if missing. Off by default: unlike table dead_letters it holds the secrets that stand in the records"`

	TopicFormats map[string]string `envconfig:"TOPIC_FORMATS" desc:"fix the format of topics instead of recognising it: topic:source, topic:otlp_proto, or topic:logs for logs of all kinds, of which what no source knows is left out; topic:audit if what stands in log messages was written by the systems themselves and not by any program; comma separated"`
	TopicScopes  map[string]string `envconfig:"TOPIC_SCOPES" desc:"what $envelope.scope is for the records of a topic, topic:scope, comma separated: two topics of one Vault audit device have one scope; the topic's name by default"`

	SchemaRegistry         []string `envconfig:"SCHEMA_REGISTRY" desc:"schema registry (Confluent, Redpanda, Karapace, Apicurio) for topics in Avro or Protobuf: http://host:8081, several comma separated"`
	SchemaRegistryUser     string   `envconfig:"SCHEMA_REGISTRY_USER" desc:"its user"`
	SchemaRegistryPassword string   `envconfig:"SCHEMA_REGISTRY_PASSWORD" secret:"true" desc:"its password"`

	SourcesDir string `envconfig:"SOURCES_DIR" desc:"folder with log formats of one's own: *.yaml files, or folders with a source.yaml; they join the built-in ones (docs/sources.md)"`

	ClickHouseAddr     []string `envconfig:"CLICKHOUSE_ADDR" default:"http://127.0.0.1:8123" desc:"ClickHouse: http://host:8123, https://host:8443 or clickhouse://host:9000; several comma separated"`
	ClickHouseDatabase string   `envconfig:"CLICKHOUSE_DATABASE" default:"catena" desc:"database; made if missing"`
	ClickHouseCluster  string   `envconfig:"CLICKHOUSE_CLUSTER" desc:"name of a ClickHouse cluster on which the tables are made, replicated and sharded; empty for one server"`
	ClickHouseUser     string   `envconfig:"CLICKHOUSE_USER" default:"default" desc:"user"`
	ClickHousePassword string   `envconfig:"CLICKHOUSE_PASSWORD" secret:"true" desc:"password"`

	ClickHouseCompression string `envconfig:"CLICKHOUSE_COMPRESSION" desc:"of what goes to and from ClickHouse: lz4, zstd or none; lz4 if empty, and none for a server on this machine"`

	ClickHouseTLSCA         string `envconfig:"CLICKHOUSE_TLS_CA" desc:"file of the authorities (PEM) that may sign the server's certificate; the system's if empty. It needs an address with TLS (https, clickhouses), as do the next four"`
	ClickHouseTLSCert       string `envconfig:"CLICKHOUSE_TLS_CERT" desc:"file of the client's certificate (PEM), for servers that ask for one; read again when it changes"`
	ClickHouseTLSKey        string `envconfig:"CLICKHOUSE_TLS_KEY" desc:"file of its private key (PEM)"`
	ClickHouseTLSServerName string `envconfig:"CLICKHOUSE_TLS_SERVER_NAME" desc:"name that the server's certificate must have; the host of the address if empty"`
	ClickHouseTLSSkipVerify bool   `envconfig:"CLICKHOUSE_TLS_SKIP_VERIFY" default:"false" desc:"accept any certificate: whoever is on the way can read and change everything"`

	Retention time.Duration `envconfig:"RETENTION" default:"0" desc:"how long rows are kept, by event time, such as 2160h; 0: for ever. Bindings stay longer, as a token may outlive the record of its issuance"`

	HMACKey string `envconfig:"HMAC_KEY" secret:"true" desc:"keys the HMAC that replaces secrets found in logs; 16 bytes or more, the same on every instance (openssl rand -hex 32)"`

	Skew            time.Duration `envconfig:"SKEW" default:"1s" desc:"how far two systems' clocks may differ; what a workload does within it of the beginning or end of a call is ambiguous, so set it as small as your clocks allow"`
	OutOfOrderness  time.Duration `envconfig:"OUT_OF_ORDERNESS" default:"15m" desc:"how far the watermark trails the newest event time of a partition"`
	AllowedLateness time.Duration `envconfig:"ALLOWED_LATENESS" default:"1h" desc:"how long after the watermark a row can still be improved"`
	Window          time.Duration `envconfig:"WINDOW" default:"168h" desc:"how long a key that nothing touches is remembered"`
	Memory          bytesize      `envconfig:"MEMORY" default:"1GiB" desc:"limit of the correlator's state"`

	MaxRecord  bytesize      `envconfig:"MAX_RECORD" default:"8MiB" desc:"longest record that is decoded; longer ones are dead letters"`
	BatchRows  int           `envconfig:"BATCH_ROWS" default:"50000" desc:"rows of one insert at the most"`
	BatchBytes bytesize      `envconfig:"BATCH_BYTES" default:"64MiB" desc:"bytes of one insert at about the most, before compression; four such batches may wait, then reading pauses"`
	BatchAge   time.Duration `envconfig:"BATCH_AGE" default:"1s" desc:"how long a row waits for its insert at the most"`
	Decoders   int           `envconfig:"DECODERS" default:"0" desc:"decoding goroutines; 0: one a core"`
	IdleAfter  time.Duration `envconfig:"IDLE_AFTER" default:"1m" desc:"a partition without records for so long does not hold the watermark back"`
	Drain      time.Duration `envconfig:"DRAIN" default:"30s" desc:"time to write what is pending when stopping or giving a partition away"`

	Listen    string `envconfig:"LISTEN" default:"127.0.0.1:8321" desc:"where run and demo --serve answer /healthz, /readyz, /metrics and the page; 0.0.0.0:8321 in a container; empty for nowhere"`
	Page      string `envconfig:"PAGE" default:"local" desc:"who gets the page, which shows who did what and asks for no password: local (when LISTEN is a loopback address), always or never"`
	Pprof     bool   `envconfig:"PPROF" default:"false" desc:"profiles at /debug/pprof/"`
	LogFormat string `envconfig:"LOG_FORMAT" default:"json" desc:"log lines as json or text"`
	LogLevel  string `envconfig:"LOG_LEVEL" default:"info" desc:"least level that is logged: debug, info, warn or error"`

	traced bool // OTEL_EXPORTER_OTLP_ENDPOINT is set

	log *slog.Logger // tells of secrets that changed; nil discards
	// What loadConfig made of the files.
	secrets                 map[string]*secretFile // by variable, without _FILE
	kafkaTLS, clickHouseTLS *tlsReload             // nil: without TLS, or as the address says
}

const envPrefix = "CATENA"

// loadSources returns the built-in sources and those of the folder that
// CATENA_SOURCES_DIR names.
func loadSources(dir string) (*sources.Set, error) {
	set, err := sources.Embedded()
	if err != nil || dir == "" {
		return set, err
	}
	own, err := sources.ReadFolder(dir)
	if err == nil {
		set, err = set.With(own...)
	}
	if err != nil {
		return nil, fmt.Errorf("CATENA_SOURCES_DIR:\n%w", err)
	}
	return set, nil
}

// loadConfig reads the environment and reports all faults together.
func loadConfig(env *environment) (*config, error) {
	var c config
	var faults []error
	faults = append(faults, fileSecrets(&c, env.getenv)...)
	// envconfig stops at its first fault; processing field by field finds all.
	faults = append(faults, processEach(&c)...)
	c.log = newLog(env.stderr, &c)
	c.traced = tracesWanted(env.getenv)
	if c.HMACKey != "" && len(c.HMACKey) < 16 {
		faults = append(faults, errors.New("CATENA_HMAC_KEY: shorter than 16 bytes; make one with `openssl rand -hex 32`"))
	}
	if c.KafkaStart != "earliest" && c.KafkaStart != "latest" {
		faults = append(faults, fmt.Errorf("CATENA_KAFKA_START: %q is neither earliest nor latest", c.KafkaStart))
	}
	if c.KafkaGroupProtocol != "classic" && c.KafkaGroupProtocol != "consumer" {
		faults = append(faults, fmt.Errorf("CATENA_KAFKA_GROUP_PROTOCOL: %q is neither classic nor consumer", c.KafkaGroupProtocol))
	}
	faults = append(faults, c.checkServing()...)
	faults = append(faults, c.checkKafka()...)
	faults = append(faults, c.checkClickHouse()...)
	for _, f := range []struct {
		name string
		v    time.Duration
	}{{"SKEW", c.Skew}, {"OUT_OF_ORDERNESS", c.OutOfOrderness}, {"ALLOWED_LATENESS", c.AllowedLateness}, {"RETENTION", c.Retention}, {"WINDOW", c.Window},
		{"BATCH_AGE", c.BatchAge}, {"KAFKA_SESSION_TIMEOUT", c.KafkaSessionTimeout}, {"IDLE_AFTER", c.IdleAfter}, {"DRAIN", c.Drain}} {
		if f.v < 0 {
			faults = append(faults, fmt.Errorf("CATENA_%s: %v is negative", f.name, f.v))
		}
	}
	if c.BatchRows < 1 {
		faults = append(faults, fmt.Errorf("CATENA_BATCH_ROWS: %d is not positive", c.BatchRows))
	}
	if c.BatchBytes < 1 {
		faults = append(faults, fmt.Errorf("CATENA_BATCH_BYTES: %d is not positive", c.BatchBytes))
	}
	switch c.ClickHouseCompression {
	case "", "lz4", "zstd", "none":
	default:
		faults = append(faults, fmt.Errorf("CATENA_CLICKHOUSE_COMPRESSION: %q is none of lz4, zstd and none", c.ClickHouseCompression))
	}
	if _, err := loadSources(c.SourcesDir); err != nil && c.SourcesDir != "" {
		faults = append(faults, err)
	}
	if !c.KafkaTopicsRegex && c.DeadLetterTopic != "" && slices.Contains(c.KafkaTopics, c.DeadLetterTopic) {
		faults = append(faults, fmt.Errorf("CATENA_DEAD_LETTER_TOPIC: %s is one of CATENA_KAFKA_TOPICS: what cannot be decoded would go round for ever", c.DeadLetterTopic))
	}
	if len(faults) > 0 {
		return nil, usageError{errors.Join(faults...)}
	}
	return &c, nil
}

// checkServing finds the faults of the settings of logs and of the server.
func (c *config) checkServing() []error {
	var faults []error
	oneOf := func(name, v string, words ...string) {
		if !slices.Contains(words, v) {
			faults = append(faults, fmt.Errorf("CATENA_%s: %q is none of %s", name, v, strings.Join(words, ", ")))
		}
	}
	oneOf("LOG_FORMAT", c.LogFormat, "json", "text")
	oneOf("LOG_LEVEL", c.LogLevel, "debug", "info", "warn", "error")
	oneOf("PAGE", c.Page, pageLocal, pageAlways, pageNever)
	if _, _, err := net.SplitHostPort(c.Listen); err != nil && c.Listen != "" {
		faults = append(faults, fmt.Errorf("CATENA_LISTEN: %q is no host:port: %w", c.Listen, err))
	}
	return faults
}

// fileSecrets reads the files that CATENA_…_FILE variables name into the
// fields they stand for.
func fileSecrets(c *config, getenv func(string) string) []error {
	c.secrets = map[string]*secretFile{}
	return eachField(c, func(name string, f reflect.StructField, v reflect.Value) error {
		path := getenv(name + "_FILE")
		if path == "" || f.Tag.Get("secret") == "" {
			return nil
		}
		if getenv(name) != "" {
			return fmt.Errorf("%s and %s_FILE are both set: use one", name, name)
		}
		file, err := openSecret(name+"_FILE", path)
		if err != nil {
			return err
		}
		c.secrets[name] = file
		v.SetString(file.value)
		return nil
	})
}

// eachField calls f with every variable's name, field and value.
func eachField(c *config, f func(name string, field reflect.StructField, v reflect.Value) error) []error {
	var errs []error
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Tag.Get("envconfig") == "" {
			continue // no setting
		}
		if err := f(envPrefix+"_"+field.Tag.Get("envconfig"), field, v.Field(i)); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// processEach lets envconfig fill one field at a time, so that every fault is
// found and a secret that came from a file stays.
func processEach(c *config) []error {
	return eachField(c, func(name string, f reflect.StructField, v reflect.Value) error {
		if f.Tag.Get("secret") != "" && v.String() != "" {
			return nil
		}
		one := reflect.New(reflect.StructOf([]reflect.StructField{f}))
		if err := envconfig.Process(envPrefix, one.Interface()); err != nil {
			var parse *envconfig.ParseError
			if errors.As(err, &parse) {
				shown := parse.Value
				if f.Tag.Get("secret") != "" {
					shown = "…"
				}
				return fmt.Errorf("%s: %q is no %s: %w", name, shown, kindWord(f.Type), parse.Err)
			}
			return fmt.Errorf("%s: %w", name, err)
		}
		v.Set(one.Elem().Field(0))
		return nil
	})
}

func kindWord(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "duration such as 90s or 15m"
	case reflect.TypeFor[bytesize]():
		return "size such as 512MiB"
	}
	return t.Kind().String()
}

// printConfig prints the reference of all settings.
func printConfig(w io.Writer) {
	fmt.Fprint(w, "\nsettings, from the environment:\n")
	var c config
	eachField(&c, func(name string, f reflect.StructField, _ reflect.Value) error {
		note := ""
		if f.Tag.Get("secret") != "" {
			note = "; or " + name + "_FILE"
		} else if d := f.Tag.Get("default"); d != "" {
			note = "; default " + d
		}
		fmt.Fprintf(w, "  %s\n      %s%s\n", name, f.Tag.Get("desc"), note)
		return nil
	})
}

// correlator is the part of the settings that the correlator takes.
func (c *config) correlator() correlate.Config {
	return correlate.Config{Skew: c.Skew, OutOfOrderness: c.OutOfOrderness, AllowedLateness: c.AllowedLateness,
		Window: c.Window, MemoryBytes: int(c.Memory)}
}

// decoder is the part of the settings that the decoder takes.
func (c *config) decoder() ingest.DecoderOptions {
	topics := map[string]ingest.TopicFormat{}
	for topic, format := range c.TopicFormats {
		if strings.HasPrefix(format, "otlp_") || format == "logs" || format == "audit" {
			topics[topic] = ingest.TopicFormat{Envelope: format}
		} else {
			topics[topic] = ingest.TopicFormat{Source: format}
		}
	}
	for topic, scope := range c.TopicScopes {
		f := topics[topic]
		f.Scope = scope
		topics[topic] = f
	}
	return ingest.DecoderOptions{Topics: topics, MaxRecordBytes: int(c.MaxRecord), HMACKey: []byte(c.HMACKey), Reference: time.Now()}
}

// openRegistry returns the schema registry; nil if there is none. The context is
// that of the process: whoever waits for the registry waits that long.
func (c *config) openRegistry(ctx context.Context, log *slog.Logger) (*registry.Registry, error) {
	if len(c.SchemaRegistry) == 0 {
		return nil, nil
	}
	r, err := registry.New(ctx, registry.Options{URLs: c.SchemaRegistry, User: c.SchemaRegistryUser, Password: c.secret("SCHEMA_REGISTRY_PASSWORD", c.SchemaRegistryPassword, log), Log: log})
	if err != nil {
		return nil, usagef("CATENA_SCHEMA_REGISTRY: %w", err)
	}
	return r, nil
}

// bytesize is a number of bytes, written 512MiB, 2GiB or plainly.
type bytesize int64

// Decode implements envconfig.Decoder.
func (b *bytesize) Decode(s string) error {
	number := strings.TrimRight(s, "KMGTiBkb ")
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n <= 0 {
		return fmt.Errorf("want a positive number with KiB, MiB, GiB or nothing behind it")
	}
	unit, ok := map[string]float64{"": 1, "B": 1, "K": 1e3, "KB": 1e3, "KIB": 1 << 10, "M": 1e6, "MB": 1e6, "MIB": 1 << 20,
		"G": 1e9, "GB": 1e9, "GIB": 1 << 30}[strings.ToUpper(strings.TrimSpace(s[len(number):]))]
	if !ok {
		return fmt.Errorf("unknown unit %q: want KiB, MiB or GiB", s[len(number):])
	}
	*b = bytesize(n * unit)
	return nil
}
