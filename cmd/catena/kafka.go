package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"catena/ingest"
)

// tokenTimeout bounds a request for a token or for credentials.
const tokenTimeout = 10 * time.Second

// cluster is the part of the settings that each client of Kafka takes: how to
// reach the brokers and how to log in. Secrets are read again when they change.
func (c *config) cluster(log *slog.Logger) ingest.Cluster {
	k := ingest.Cluster{Brokers: c.KafkaBrokers, Logger: log}
	if c.kafkaTLS != nil {
		c.kafkaTLS.logTo(log)
		k.TLS = c.kafkaTLS.config
	}
	k.SASL = ingest.SASL{Mechanism: c.KafkaSASLMechanism}
	switch c.KafkaSASLMechanism {
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
		k.SASL.User, k.SASL.Password = c.KafkaUser, c.secret("KAFKA_SASL_PASSWORD", c.KafkaPassword, log)
	case "OAUTHBEARER":
		k.SASL.Token, k.SASL.Extensions = c.kafkaToken(log), c.KafkaExtensions
	case "AWS_MSK_IAM":
		k.SASL.AWS = (&awsLogin{}).credentials
	}
	return k
}

// kafkaTLSFiles are the settings of TLS to Kafka.
func (c *config) kafkaTLSFiles() tlsFiles {
	return tlsFiles{Setting: "CATENA_KAFKA_TLS", CA: c.KafkaTLSCA, Cert: c.KafkaTLSCert, Key: c.KafkaTLSKey,
		ServerName: c.KafkaTLSServerName, SkipVerify: c.KafkaTLSSkipVerify}
}

// checkKafka finds what is missing or contradicts itself, and reads the
// certificates.
func (c *config) checkKafka() (faults []error) {
	need := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	files := c.kafkaTLSFiles()
	if c.KafkaTLS || files.set() {
		var err error
		if c.kafkaTLS, err = files.open(); err != nil {
			faults = append(faults, err)
		}
	}
	switch m := c.KafkaSASLMechanism; m {
	case "", "AWS_MSK_IAM":
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
		need(c.KafkaUser != "", "CATENA_KAFKA_SASL_USER: is not set; %s needs it", m)
		need(c.KafkaPassword != "", "CATENA_KAFKA_SASL_PASSWORD: is not set; %s needs it, or CATENA_KAFKA_SASL_PASSWORD_FILE", m)
	case "OAUTHBEARER":
		need((c.KafkaToken != "") != (c.KafkaTokenURL != ""), "CATENA_KAFKA_SASL_MECHANISM: OAUTHBEARER needs either a token "+
			"(CATENA_KAFKA_SASL_TOKEN_FILE) or where to get one (CATENA_KAFKA_SASL_TOKEN_URL, …_CLIENT_ID, …_CLIENT_SECRET_FILE)")
		if c.KafkaTokenURL != "" {
			u, err := url.Parse(c.KafkaTokenURL)
			need(err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http"), "CATENA_KAFKA_SASL_TOKEN_URL: want https://host/path")
			need(c.KafkaClientID != "", "CATENA_KAFKA_SASL_CLIENT_ID: is not set; CATENA_KAFKA_SASL_TOKEN_URL needs it")
			need(c.KafkaClientSecret != "", "CATENA_KAFKA_SASL_CLIENT_SECRET: is not set; CATENA_KAFKA_SASL_TOKEN_URL needs it, or CATENA_KAFKA_SASL_CLIENT_SECRET_FILE")
		}
	default:
		need(false, "CATENA_KAFKA_SASL_MECHANISM: %q is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, AWS_MSK_IAM", m)
	}
	if c.KafkaSASLMechanism == "" {
		need(c.KafkaUser == "" && c.KafkaPassword == "" && c.KafkaToken == "" && c.KafkaTokenURL == "",
			"CATENA_KAFKA_SASL_MECHANISM: is not set, but the settings of a login are: without it nobody logs in")
	}
	return faults
}

// kafkaToken gives the token of each login: the one in the file, or the one
// that the token endpoint issues.
func (c *config) kafkaToken(log *slog.Logger) func(context.Context) (string, error) {
	if c.KafkaTokenURL == "" {
		token := c.secret("KAFKA_SASL_TOKEN", c.KafkaToken, log)
		return func(context.Context) (string, error) { return token(), nil }
	}
	e := &tokenEndpoint{
		conf:   clientcredentials.Config{ClientID: c.KafkaClientID, TokenURL: c.KafkaTokenURL, Scopes: c.KafkaScopes},
		secret: c.secret("KAFKA_SASL_CLIENT_SECRET", c.KafkaClientSecret, log),
	}
	return e.get
}

// tokenEndpoint asks for tokens with the client's credentials (RFC 6749, 4.4)
// and keeps each until shortly before it expires.
type tokenEndpoint struct {
	conf   clientcredentials.Config
	secret func() string

	mu    sync.Mutex
	token *oauth2.Token
}

func (e *tokenEndpoint) get(ctx context.Context) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.token.Valid() {
		return e.token.AccessToken, nil
	}
	conf := e.conf
	conf.ClientSecret = e.secret()
	token, err := conf.Token(context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Timeout: tokenTimeout}))
	if err != nil {
		// The whole answer may repeat what we sent.
		var refused *oauth2.RetrieveError
		if errors.As(err, &refused) && refused.Response != nil {
			why := strings.TrimSpace(refused.ErrorCode + " " + refused.ErrorDescription)
			return "", fmt.Errorf("%s answers %s %s", e.conf.TokenURL, refused.Response.Status, why)
		}
		return "", fmt.Errorf("ask %s for a token: %w", e.conf.TokenURL, err)
	}
	e.token = token
	return token.AccessToken, nil
}

// awsLogin finds credentials as Amazon's own tools do: environment, shared
// files, web identity (IRSA), container endpoint (EKS Pod Identity), instance
// metadata. What it finds is kept until shortly before it expires.
type awsLogin struct {
	mu       sync.Mutex
	provider aws.CredentialsProvider
}

func (l *awsLogin) credentials(ctx context.Context) (ingest.AWSCredentials, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.provider == nil {
		conf, err := awsconfig.LoadDefaultConfig(ctx)
		if err != nil {
			return ingest.AWSCredentials{}, fmt.Errorf("AWS configuration: %w", err)
		}
		l.provider = conf.Credentials
	}
	found, err := l.provider.Retrieve(ctx)
	if err != nil {
		return ingest.AWSCredentials{}, fmt.Errorf("AWS credentials: %w", err)
	}
	return ingest.AWSCredentials{AccessKey: found.AccessKeyID, SecretKey: found.SecretAccessKey, SessionToken: found.SessionToken}, nil
}
