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
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/aws"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
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
	checkTLS     = "check CATENA_KAFKA_TLS and CATENA_KAFKA_TLS_…"
	checkSASL    = "check CATENA_KAFKA_SASL_MECHANISM and the CATENA_KAFKA_SASL_… that it needs"
)

// dialTimeout bounds a connection.
const dialTimeout = 5 * time.Second

// Cluster says how to reach the brokers. Only Brokers is required.
type Cluster struct {
	Brokers  []string // host:port, any of the cluster; the rest is learned from them
	ClientID string   // what brokers log and quotas go by; "catena" if empty
	// TLS is asked for each connection, so that new certificates are used
	// without a restart; nil for plain text. The name that the broker's
	// certificate must have is that of the address, unless it says another.
	TLS  func() *tls.Config
	SASL SASL
	// StartTimeout bounds how long a constructor waits for a broker, and for
	// topics where it waits for them; 15 s if zero.
	StartTimeout time.Duration
	Logger       *slog.Logger // nil discards
}

// SASL authenticates the connections. The zero value does not. What its
// functions return is asked for at each login, so that a new password or token
// is used without a restart; connections that stand are not cut.
type SASL struct {
	Mechanism string // PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or AWS_MSK_IAM

	User     string        // PLAIN and SCRAM
	Password func() string // PLAIN and SCRAM

	Token      func(context.Context) (string, error) // OAUTHBEARER
	Extensions map[string]string                     // OAUTHBEARER: what the broker wants to know besides (RFC 7628)

	AWS func(context.Context) (AWSCredentials, error) // AWS_MSK_IAM; the region is that of the broker's name, or AWS_REGION
}

// AWSCredentials sign a login at Amazon MSK.
type AWSCredentials struct{ AccessKey, SecretKey, SessionToken string }

// loginError says that there is nothing to log in with.
type loginError struct{ error }

func (e loginError) Unwrap() error { return e.error }

// mechanism is nil where nobody logs in.
func (s SASL) mechanism() (sasl.Mechanism, error) {
	user := func(context.Context) (scram.Auth, error) { return scram.Auth{User: s.User, Pass: s.Password()}, nil }
	switch strings.ToUpper(s.Mechanism) {
	case "":
		return nil, nil
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
		if s.Password == nil {
			return nil, fmt.Errorf("kafka: SASL mechanism %s needs a password; %s", s.Mechanism, checkSASL)
		}
	case "OAUTHBEARER":
		if s.Token == nil {
			return nil, fmt.Errorf("kafka: SASL mechanism OAUTHBEARER needs a token; %s", checkSASL)
		}
		return oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
			token, err := s.Token(ctx)
			if err != nil {
				return oauth.Auth{}, loginError{err}
			}
			return oauth.Auth{Token: token, Extensions: s.Extensions}, nil
		}), nil
	case "AWS_MSK_IAM":
		if s.AWS == nil {
			return nil, fmt.Errorf("kafka: SASL mechanism AWS_MSK_IAM needs credentials; %s", checkSASL)
		}
		return aws.ManagedStreamingIAM(func(ctx context.Context) (aws.Auth, error) {
			c, err := s.AWS(ctx)
			if err != nil {
				return aws.Auth{}, loginError{err}
			}
			return aws.Auth{AccessKey: c.AccessKey, SecretKey: c.SecretKey, SessionToken: c.SessionToken}, nil
		}), nil
	default:
		return nil, fmt.Errorf("kafka: SASL mechanism %q is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, AWS_MSK_IAM; %s", s.Mechanism, checkSASL)
	}
	switch strings.ToUpper(s.Mechanism) {
	case "SCRAM-SHA-256":
		return scram.Sha256(user), nil
	case "SCRAM-SHA-512":
		return scram.Sha512(user), nil
	}
	return plain.Plain(func(context.Context) (plain.Auth, error) { return plain.Auth{User: s.User, Pass: s.Password()}, nil }), nil
}

// who names, in messages, whoever logs in.
func (s SASL) who() string {
	if s.User != "" {
		return fmt.Sprintf(" of user %q (%s)", s.User, s.Mechanism)
	}
	return " (" + s.Mechanism + ")"
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
		kgo.DialTimeout(dialTimeout),
		kgo.WithHooks(&brokerWatch{log: c.logger(), down: map[string]bool{}}),
		kgo.WithLogger(clientLogger{c.logger()}),
		// New topics of a pattern and new partitions are found at the next
		// refresh. The client's own default is five minutes.
		kgo.MetadataMaxAge(time.Minute),
		kgo.DisableClientMetrics(),
	}
	if c.TLS != nil {
		opts = append(opts, kgo.Dialer(c.dialTLS))
	}
	mechanism, err := c.SASL.mechanism()
	if err != nil {
		return nil, err
	}
	if mechanism != nil {
		opts = append(opts, kgo.SASL(mechanism))
	}
	return opts, nil
}

// dialTLS connects to a broker with the configuration of this moment.
func (c Cluster) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: c.TLS()}
	ctx, cancel := context.WithTimeout(ctx, 2*dialTimeout) // with the handshake
	defer cancel()
	return dialer.DialContext(ctx, network, addr)
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
		login   loginError
		eof     *kgo.ErrFirstReadEOF
		dns     *net.DNSError
		op      *net.OpError
		record  tls.RecordHeaderError
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &login):
		return false, fmt.Errorf("kafka: no credentials to log in with at %s: %w; %s", at, login, checkSASL)
	case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.UnsupportedSaslMechanism), errors.Is(err, kerr.IllegalSaslState):
		return true, fmt.Errorf("kafka: %s refuses the login%s: %w; %s", at, c.SASL.who(), err, checkSASL)
	case errors.As(err, &eof), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		// How a broker answers who should speak TLS or log in and does not, and
		// how some answer a wrong password.
		return false, fmt.Errorf("kafka: %s hangs up: %w; %s and %s", at, err, checkTLS, strings.TrimPrefix(checkSASL, "check "))
	case errors.As(err, &record), errors.As(err, &unknown), errors.As(err, &host), errors.As(err, &invalid),
		errors.As(err, &op) && op.Op == "remote error": // what crypto/tls calls an alert of the other side
		return true, fmt.Errorf("kafka: %s: TLS: %w; %s", at, err, checkTLS)
	case errors.As(err, &dns):
		return false, fmt.Errorf("kafka: no broker answers at %s: %w; %s", at, dns, checkBrokers)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		if c.TLS != nil {
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
