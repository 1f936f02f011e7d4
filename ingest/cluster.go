package ingest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// MaxRecordBytes is the largest record that the consumer fetches and the
// producer sends by default: 16 MiB. A broker refuses records over 1 MiB unless
// its message.max.bytes, or the topic's max.message.bytes, says otherwise.
const MaxRecordBytes = 16 << 20

// Where an operator looks when a connection fails. The names are those of the
// configuration that cmd reads.
const (
	checkBrokers = "check CATENA_KAFKA_BROKERS"
	checkTopics  = "check CATENA_KAFKA_TOPICS"
	checkTLS     = "check CATENA_KAFKA_TLS"
	checkSASL    = "check CATENA_KAFKA_SASL_MECHANISM, CATENA_KAFKA_SASL_USER and CATENA_KAFKA_SASL_PASSWORD"
)

// Cluster says how to reach the brokers. Only Brokers is required.
type Cluster struct {
	Brokers  []string // host:port, any of the cluster; the rest is learned from them
	ClientID string   // what brokers log and quotas go by; "catena" if empty
	TLS      TLS
	SASL     SASL
	// StartTimeout bounds how long a constructor waits for a broker, and for
	// topics where it waits for them; 15 s if zero.
	StartTimeout time.Duration
	Logger       *slog.Logger // nil discards
}

// TLS encrypts the connections. The zero value is plain text.
type TLS struct {
	Enabled           bool
	CAFile            string // PEM; the system's roots if empty
	CertFile, KeyFile string // PEM, both or neither: a client certificate
	ServerName        string // expected in the broker's certificate; the host dialled if empty
	Insecure          bool   // do not verify the broker's certificate
}

// SASL authenticates the connections. The zero value does not.
type SASL struct {
	Mechanism      string // PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
	User, Password string
}

func (c Cluster) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

func (c Cluster) startTimeout() time.Duration {
	if c.StartTimeout <= 0 {
		return 15 * time.Second
	}
	return c.StartTimeout
}

// options are those that every client of the cluster has.
func (c Cluster) options() ([]kgo.Opt, error) {
	if len(c.Brokers) == 0 {
		return nil, errors.New("kafka: no broker address given; " + checkBrokers)
	}
	id := c.ClientID
	if id == "" {
		id = "catena"
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(id),
		kgo.SoftwareNameAndVersion("catena", "1"),
		kgo.DialTimeout(5 * time.Second),
		kgo.WithHooks(&brokerWatch{log: c.logger(), down: map[string]bool{}}),
		kgo.WithLogger(clientLogger{c.logger()}),
		// New topics of a pattern and new partitions are found at the next
		// refresh. The client's own default is five minutes.
		kgo.MetadataMaxAge(time.Minute),
		kgo.DisableClientMetrics(),
	}
	if c.TLS.Enabled {
		conf, err := c.TLS.config()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(conf))
	}
	switch strings.ToUpper(c.SASL.Mechanism) {
	case "":
	case "PLAIN":
		opts = append(opts, kgo.SASL(plain.Auth{User: c.SASL.User, Pass: c.SASL.Password}.AsMechanism()))
	case "SCRAM-SHA-256":
		opts = append(opts, kgo.SASL(scram.Auth{User: c.SASL.User, Pass: c.SASL.Password}.AsSha256Mechanism()))
	case "SCRAM-SHA-512":
		opts = append(opts, kgo.SASL(scram.Auth{User: c.SASL.User, Pass: c.SASL.Password}.AsSha512Mechanism()))
	default:
		return nil, fmt.Errorf("kafka: SASL mechanism %q is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512; %s", c.SASL.Mechanism, checkSASL)
	}
	return opts, nil
}

func (t TLS) config() (*tls.Config, error) {
	conf := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.ServerName,
		InsecureSkipVerify: t.Insecure,
	}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("kafka: TLS: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("kafka: TLS: %s holds no PEM certificate", t.CAFile)
		}
	}
	if t.CertFile != "" || t.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("kafka: TLS: client certificate: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// check returns once a broker answers, and the error of the last attempt if
// none has when the start timeout is over. What waiting cannot mend (a wrong
// password, the wrong kind of TLS) is returned at once.
func (c Cluster) check(ctx context.Context, cl *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, c.startTimeout())
	defer cancel()
	var last error
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := cl.Ping(ctx)
		if err == nil {
			return nil
		}
		// An attempt that only ran out of time hides why the ones before failed.
		if last == nil || ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
			last = err
		}
		permanent, explained := c.explain(last)
		if permanent || !pause(ctx, wait) {
			return explained
		}
	}
}

// explain turns a failed connection into a sentence for the operator.
// Permanent means that trying again will not help.
func (c Cluster) explain(err error) (permanent bool, explained error) {
	at := strings.Join(c.Brokers, ", ")
	var (
		eof     *kgo.ErrFirstReadEOF
		dns     *net.DNSError
		op      *net.OpError
		record  tls.RecordHeaderError
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.UnsupportedSaslMechanism), errors.Is(err, kerr.IllegalSaslState):
		return true, fmt.Errorf("kafka: %s refuses the login of user %q: %w; %s", at, c.SASL.User, err, checkSASL)
	case errors.As(err, &eof), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		// How a broker answers who should speak TLS or log in and does not, and
		// how some answer a wrong password.
		return false, fmt.Errorf("kafka: %s hangs up: %w; %s and %s", at, err, checkTLS, strings.TrimPrefix(checkSASL, "check "))
	case errors.As(err, &record), errors.As(err, &unknown), errors.As(err, &host), errors.As(err, &invalid):
		return true, fmt.Errorf("kafka: %s: TLS: %w; %s", at, err, checkTLS)
	case errors.As(err, &dns):
		return false, fmt.Errorf("kafka: no broker answers at %s: %w; %s", at, dns, checkBrokers)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		if c.TLS.Enabled {
			return false, fmt.Errorf("kafka: no broker answers at %s within %s with TLS; %s and %s", at, c.startTimeout(), checkBrokers, strings.TrimPrefix(checkTLS, "check "))
		}
		return false, fmt.Errorf("kafka: no broker answers at %s within %s; %s", at, c.startTimeout(), checkBrokers)
	case errors.As(err, &op) && op.Op == "dial":
		cause := op.Err
		var call *os.SyscallError
		if errors.As(cause, &call) {
			cause = call.Err // "connection refused", without the name of the system call
		}
		return false, fmt.Errorf("kafka: no broker answers at %s: %w; %s", at, cause, checkBrokers)
	}
	return false, fmt.Errorf("kafka: no broker answers at %s: %w; %s", at, err, checkBrokers)
}

// admin opens a client without a group, for the questions asked at start. The
// caller closes it.
func (c Cluster) admin(ctx context.Context) (*kadm.Client, error) {
	opts, err := c.options()
	if err != nil {
		return nil, err
	}
	cl, err := kgo.NewClient(append(opts,
		kgo.MetadataMinAge(250*time.Millisecond), // a topic that was just created is to be seen soon
		// An answer is awaited for no longer than we wait in all; the client
		// would not be interrupted.
		kgo.RequestTimeoutOverhead(min(10*time.Second, max(100*time.Millisecond, c.startTimeout()))),
	)...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	if err := c.check(ctx, cl); err != nil {
		cl.Close()
		return nil, err
	}
	return kadm.NewClient(cl), nil
}

// pause waits, and reports false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// brokerWatch logs when a broker stops answering and when it answers again,
// and none of the attempts between.
type brokerWatch struct {
	log  *slog.Logger
	mu   sync.Mutex
	down map[string]bool
}

var _ kgo.HookBrokerConnect = (*brokerWatch)(nil)

// OnBrokerConnect implements [kgo.HookBrokerConnect].
func (w *brokerWatch) OnBrokerConnect(meta kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) {
		return // we hung up
	}
	at := net.JoinHostPort(meta.Host, fmt.Sprint(meta.Port))
	w.mu.Lock()
	was := w.down[at]
	w.down[at] = err != nil
	w.mu.Unlock()
	switch {
	case err != nil && !was:
		w.log.Warn("kafka broker does not answer, trying on", "broker", at, "error", err)
	case err == nil && was:
		w.log.Info("kafka broker answers again", "broker", at)
	}
}

// clientLogger passes on what the client library says of itself, for
// debugging only: it logs each attempt, and we log changes of state.
type clientLogger struct{ log *slog.Logger }

// Level implements [kgo.Logger].
func (l clientLogger) Level() kgo.LogLevel {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelNone
}

// Log implements [kgo.Logger].
func (l clientLogger) Log(_ kgo.LogLevel, msg string, keyvals ...any) {
	l.log.Debug("kafka client", slog.String("message", msg), slog.Group("client", keyvals...))
}
