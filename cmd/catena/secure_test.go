package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"catena/ingest"
	"catena/ingest/broker"
)

// authority signs certificates for one test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test authority " + rand.Text()}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	return &authority{t, cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns a certificate and its key as PEM, for a server on loopback and
// for a client alike.
func (a *authority) issue(name string) (cert, key []byte) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})
}

// server is a configuration that shows a certificate of the authority, and
// demands one of it where mutual.
func (a *authority) server(mutual bool) *tls.Config {
	a.t.Helper()
	pair, err := tls.X509KeyPair(a.issue("broker.example.com"))
	if err != nil {
		a.t.Fatal(err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if mutual {
		conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		conf.ClientCAs.AddCert(a.cert)
	}
	return conf
}

// files writes the authority and a client certificate and returns the folder.
func (a *authority) files() string {
	a.t.Helper()
	dir := a.t.TempDir()
	cert, key := a.issue("client.example.com")
	write(a.t, filepath.Join(dir, "ca.pem"), string(a.pem))
	write(a.t, filepath.Join(dir, "cert.pem"), string(cert))
	write(a.t, filepath.Join(dir, "key.pem"), string(key))
	return dir
}

// TestSecureKafka connects as a command does, by what the environment says.
func TestSecureKafka(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	good, bad := ours.files(), other.files()
	password := filepath.Join(t.TempDir(), "password")
	write(t, password, "fixture-password\n")
	start := func(opts ...kfake.Opt) string {
		b, err := broker.Start(broker.Options{Partitions: 1, Topics: []string{"okta"}, Kafka: opts})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		return b.Addr()
	}
	encrypted := start(kfake.TLS(ours.server(false)))
	mutual := start(kfake.TLS(ours.server(true)))
	sealed := start(kfake.TLS(ours.server(false)), kfake.EnableSASL(), kfake.Superuser("PLAIN", "u", "fixture-password"),
		kfake.Superuser("SCRAM-SHA-256", "u", "fixture-password"), kfake.Superuser("SCRAM-SHA-512", "u", "fixture-password"))
	ca, wrongCA := "TLS_CA="+good+"/ca.pem", "TLS_CA="+bad+"/ca.pem"
	login := "SASL_USER=u SASL_PASSWORD_FILE=" + password + " SASL_MECHANISM="

	for _, tc := range []struct{ name, addr, settings, want string }{
		{"CA", encrypted, ca, ""},
		{"CA, client certificate not asked for", encrypted, ca + " TLS_CERT=" + good + "/cert.pem TLS_KEY=" + good + "/key.pem", ""},
		{"server name", encrypted, ca + " TLS_SERVER_NAME=broker.example.com", ""},
		{"wrong server name", encrypted, ca + " TLS_SERVER_NAME=other.example.com", "certificate is valid for broker.example.com, not other.example.com; check CATENA_KAFKA_TLS"},
		{"any certificate", encrypted, "TLS_SKIP_VERIFY=true", ""},
		{"unknown authority", encrypted, "TLS=true", "certificate signed by unknown authority; check CATENA_KAFKA_TLS"},
		{"wrong authority", encrypted, wrongCA, "certificate signed by unknown authority"},
		{"client certificate", mutual, ca + " TLS_CERT=" + good + "/cert.pem TLS_KEY=" + good + "/key.pem", ""},
		{"no client certificate", mutual, ca, "certificate required; check CATENA_KAFKA_TLS"},
		{"client certificate of somebody else", mutual, ca + " TLS_CERT=" + bad + "/cert.pem TLS_KEY=" + bad + "/key.pem", "check CATENA_KAFKA_TLS"},
		{"PLAIN", sealed, ca + " " + login + "PLAIN", ""},
		{"SCRAM-SHA-256", sealed, ca + " " + login + "SCRAM-SHA-256", ""},
		{"SCRAM-SHA-512", sealed, ca + " " + login + "SCRAM-SHA-512", ""},
		{"wrong user", sealed, ca + " " + strings.Replace(login, "=u ", "=x ", 1) + "PLAIN", "CATENA_KAFKA_SASL_MECHANISM"},
		{"no login", sealed, ca, "hangs up"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("CATENA_KAFKA_BROKERS", tc.addr)
			for setting := range strings.FieldsSeq(tc.settings) {
				name, value, _ := strings.Cut(setting, "=")
				t.Setenv("CATENA_KAFKA_"+name, value)
			}
			err := produceOne(t)
			switch {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got %v, want %q", err, tc.want)
			case err != nil && strings.Contains(err.Error(), "fixture-password"):
				t.Errorf("the message tells the password: %v", err)
			}
		})
	}
}

// produceOne sends a record with the configuration of the environment.
func produceOne(t *testing.T) error {
	t.Helper()
	cfg, err := loadConfig(&environment{stderr: testLog{t}, getenv: os.Getenv})
	if err != nil {
		return err
	}
	return produceWith(t, cfg)
}

func produceWith(t *testing.T, cfg *config) error {
	t.Helper()
	k := cfg.cluster(slog.New(slog.NewTextHandler(testLog{t}, nil)))
	k.StartTimeout = time.Second
	return sendOne(t, k)
}

func sendOne(t *testing.T, k ingest.Cluster) error {
	t.Helper()
	producer, err := ingest.NewProducer(t.Context(), ingest.ProducerOptions{Cluster: k})
	if err != nil {
		return err
	}
	defer producer.Close()
	_, err = producer.EnsureTopic(t.Context(), "okta", 1, nil)
	return err
}

// testLog is where commands log in a test.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// TestKafkaTokens: OAUTHBEARER with a file and with a token endpoint, and
// AWS_MSK_IAM, against a broker that shows what it was sent.
func TestKafkaTokens(t *testing.T) {
	var got atomic.Value
	b, err := broker.Start(broker.Options{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	for _, key := range []kmsg.Key{kmsg.SASLHandshake, kmsg.SASLAuthenticate} {
		b.Cluster().ControlKey(int16(key), func(req kmsg.Request) (kmsg.Response, error, bool) {
			b.Cluster().KeepControl()
			resp := req.ResponseKind()
			switch r := req.(type) {
			case *kmsg.SASLHandshakeRequest:
				resp.(*kmsg.SASLHandshakeResponse).SupportedMechanisms = []string{r.Mechanism}
			case *kmsg.SASLAuthenticateRequest:
				got.Store(string(r.SASLAuthBytes))
				if r.SASLAuthBytes[0] == '{' { // MSK answers with a document
					resp.(*kmsg.SASLAuthenticateResponse).SASLAuthBytes = []byte("{}")
				}
			}
			return resp, nil, true
		})
	}
	asked := 0
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		w.Header().Set("Content-Type", "application/json")
		id, secret, _ := r.BasicAuth()
		if secret != "fixture-client-secret" {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":"invalid_client","error_description":"who is that","echo":%q}`, secret)
			return
		}
		fmt.Fprintf(w, `{"access_token":"fixture-issued-to-%s-for-%s","token_type":"Bearer","expires_in":3600}`, id, r.FormValue("scope"))
	}))
	t.Cleanup(endpoint.Close)
	dir := t.TempDir()
	write(t, dir+"/token", "fixture-token-1\n")
	write(t, dir+"/secret", "fixture-client-secret\n")
	write(t, dir+"/wrong", "fixture-wrong-secret\n")
	t.Setenv("CATENA_KAFKA_BROKERS", b.Addr())
	connect := func(settings ...string) (*config, error) {
		for _, s := range settings {
			name, value, _ := strings.Cut(s, "=")
			t.Setenv(name, value)
		}
		cfg, err := loadConfig(&environment{stderr: testLog{t}, getenv: os.Getenv})
		if err != nil {
			return nil, err
		}
		return cfg, produceWith(t, cfg)
	}
	want := func(what, text string, err error) {
		t.Helper()
		if sent, _ := got.Load().(string); err != nil || !strings.Contains(sent, text) {
			t.Errorf("%s: the broker was sent %q, want %q (%v)", what, sent, text, err)
		}
	}

	cfg, err := connect("CATENA_KAFKA_SASL_MECHANISM=OAUTHBEARER", "CATENA_KAFKA_SASL_TOKEN_FILE="+dir+"/token", "CATENA_KAFKA_SASL_EXTENSIONS=logicalCluster:lkc-fixture")
	want("token file", "auth=Bearer fixture-token-1\x01logicalCluster=lkc-fixture", err)
	write(t, dir+"/token", "fixture-token-2\n")
	time.Sleep(freshness)
	want("new token in the file", "auth=Bearer fixture-token-2\x01", produceWith(t, cfg))

	const url = "CATENA_KAFKA_SASL_TOKEN_URL="
	cfg, err = connect("CATENA_KAFKA_SASL_TOKEN_FILE=", url+endpoint.URL, "CATENA_KAFKA_SASL_CLIENT_ID=catena-fixture",
		"CATENA_KAFKA_SASL_CLIENT_SECRET_FILE="+dir+"/secret", "CATENA_KAFKA_SASL_SCOPES=kafka")
	want("token endpoint", "auth=Bearer fixture-issued-to-catena-fixture-for-kafka\x01", err)
	k := cfg.cluster(nil)
	before := asked
	for range 2 {
		if err := sendOne(t, k); err != nil {
			t.Error(err)
		}
	}
	if asked != before+1 {
		t.Errorf("the endpoint was asked %d times for a token that lasts an hour", asked-before)
	}
	_, err = connect("CATENA_KAFKA_SASL_CLIENT_SECRET_FILE=" + dir + "/wrong")
	if err == nil || !strings.Contains(err.Error(), "no credentials to log in with") || !strings.Contains(err.Error(), "401 Unauthorized invalid_client who is that") {
		t.Errorf("refused by the endpoint: %v", err)
	} else if strings.Contains(err.Error(), "fixture-wrong-secret") {
		t.Errorf("the message tells the secret: %v", err)
	}

	_, err = connect(url, "CATENA_KAFKA_SASL_CLIENT_SECRET_FILE=", "CATENA_KAFKA_SASL_MECHANISM=AWS_MSK_IAM", "AWS_REGION=eu-central-1",
		"AWS_ACCESS_KEY_ID=AKIAFIXTUREFIXTURE01", "AWS_SECRET_ACCESS_KEY=fixture-secret-key", "AWS_SESSION_TOKEN=fixture-session-token",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	want("AWS", `"x-amz-credential":"AKIAFIXTUREFIXTURE01/`, err)
	want("AWS", `"x-amz-security-token":"fixture-session-token"`, err)
}

// TestConnectionFaults: all of them at once, before anything is connected to.
func TestConnectionFaults(t *testing.T) {
	dir := newAuthority(t).files()
	write(t, dir+"/empty", "\n")
	write(t, dir+"/broken.pem", "-----BEGIN NOTHING-----\n")
	for _, tc := range []struct{ settings, want string }{
		{"KAFKA_TLS_CA=/nowhere/ca.pem", "CATENA_KAFKA_TLS_CA: open /nowhere/ca.pem"},
		{"KAFKA_TLS_CA=" + dir + "/broken.pem", "CATENA_KAFKA_TLS_CA: " + dir + "/broken.pem holds no PEM certificate"},
		{"KAFKA_TLS_CERT=" + dir + "/cert.pem", "CATENA_KAFKA_TLS_CERT and CATENA_KAFKA_TLS_KEY: a client certificate needs both"},
		{"CLICKHOUSE_TLS_CERT=" + dir + "/key.pem CLICKHOUSE_TLS_KEY=" + dir + "/cert.pem", "CATENA_CLICKHOUSE_TLS_CERT and CATENA_CLICKHOUSE_TLS_KEY: "},
		{"KAFKA_SASL_MECHANISM=GSSAPI", `CATENA_KAFKA_SASL_MECHANISM: "GSSAPI" is none of`},
		{"KAFKA_SASL_MECHANISM=PLAIN", "CATENA_KAFKA_SASL_USER: is not set; PLAIN needs it"},
		{"KAFKA_SASL_MECHANISM=PLAIN", "CATENA_KAFKA_SASL_PASSWORD: is not set; PLAIN needs it"},
		{"KAFKA_SASL_USER=u", "CATENA_KAFKA_SASL_MECHANISM: is not set, but the settings of a login are"},
		{"KAFKA_SASL_MECHANISM=OAUTHBEARER", "OAUTHBEARER needs either a token"},
		{"KAFKA_SASL_MECHANISM=OAUTHBEARER KAFKA_SASL_TOKEN_URL=idp", "CATENA_KAFKA_SASL_TOKEN_URL: want https://host/path"},
		{"KAFKA_SASL_MECHANISM=OAUTHBEARER KAFKA_SASL_TOKEN_URL=https://idp.example.com/token", "CATENA_KAFKA_SASL_CLIENT_ID: is not set"},
		{"CLICKHOUSE_PASSWORD_FILE=" + dir + "/empty", "CATENA_CLICKHOUSE_PASSWORD_FILE: " + dir + "/empty is empty"},
	} {
		t.Run(tc.want, func(t *testing.T) {
			t.Setenv("CATENA_BATCH_ROWS", "0") // another fault, told beside it
			for setting := range strings.FieldsSeq(tc.settings) {
				name, value, _ := strings.Cut(setting, "=")
				t.Setenv("CATENA_"+name, value)
			}
			_, err := loadConfig(&environment{getenv: os.Getenv, stderr: testLog{t}})
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "CATENA_BATCH_ROWS") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestSecretChanges: as Kubernetes mounts them, a symbolic link is swapped.
func TestSecretChanges(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"1": "first\n", "2": "second\n", "3": ""} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name, "password"), text)
	}
	swap := func(to string) {
		_ = os.Remove(filepath.Join(dir, "new"))
		if err := os.Symlink(to, filepath.Join(dir, "new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "data")); err != nil {
			t.Fatal(err)
		}
	}
	swap("1")
	s, err := openSecret("CATENA_X_FILE", filepath.Join(dir, "data", "password"))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	for _, step := range []struct{ to, want, logged string }{
		{"1", "first", ""},
		{"2", "second", "secret changed"},
		{"3", "second", "secret cannot be read again"}, // empty
		{"3", "second", ""},                            // told once
		{"4", "second", "no such file"},
		{"1", "first", "secret changed"},
	} {
		swap(step.to)
		log.Reset()
		s.read = time.Time{}
		if got := s.get(); got != step.want {
			t.Errorf("folder %s: got %q, want %q", step.to, got, step.want)
		}
		if text := log.String(); (text == "") != (step.logged == "") || !strings.Contains(text, step.logged) || strings.Contains(text, "first") || strings.Contains(text, "second\n") {
			t.Errorf("folder %s: logged %q, want %q", step.to, text, step.logged)
		}
	}
}

// TestCertificatesChange: a new authority and client certificate are used by
// the next connection; a half-written pair is not.
func TestCertificatesChange(t *testing.T) {
	first, second := newAuthority(t), newAuthority(t)
	dir := first.files()
	r, err := tlsFiles{Setting: "CATENA_KAFKA_TLS", CA: dir + "/ca.pem", Cert: dir + "/cert.pem", Key: dir + "/key.pem"}.open()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	r.logTo(slog.New(slog.NewTextHandler(&log, nil)))
	start := func(a *authority) ingest.Cluster {
		b, err := broker.Start(broker.Options{Partitions: 1, Kafka: []kfake.Opt{kfake.TLS(a.server(true))}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		return ingest.Cluster{Brokers: []string{b.Addr()}, TLS: r.config, StartTimeout: time.Second}
	}
	before, after := start(first), start(second)
	again := func() { r.read = time.Time{}; log.Reset() }
	if err := sendOne(t, before); err != nil {
		t.Fatal(err)
	}
	if err := sendOne(t, after); err == nil {
		t.Fatal("the second authority was trusted from the start")
	}
	cert, key := second.issue("client.example.com")
	write(t, dir+"/cert.pem", string(cert)) // its key not yet
	again()
	if err := sendOne(t, before); err != nil || !strings.Contains(log.String(), "last good one stays in use") {
		t.Errorf("with half a pair: %v\n%s", err, log.String())
	}
	write(t, dir+"/key.pem", string(key))
	write(t, dir+"/ca.pem", string(second.pem))
	again()
	if err := sendOne(t, after); err != nil || !strings.Contains(log.String(), "certificates changed") {
		t.Errorf("with new files: %v\n%s", err, log.String())
	}
	if strings.Contains(log.String(), "PRIVATE") {
		t.Error("the log has a key")
	}
}

// TestClickHousePasswordChanges behind a TLS front that asks for a password
// and for a client certificate.
func TestClickHousePasswordChanges(t *testing.T) {
	target, err := url.Parse(database(t))
	if err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t)
	dir := ca.files()
	var password atomic.Value
	password.Store("fixture-first")
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Header.Del("X-ClickHouse-User")
		r.Out.Header.Del("X-ClickHouse-Key")
		r.Out.Header.Del("X-ClickHouse-SSL-Certificate-Auth")
	}}
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-ClickHouse-Key") != password.Load().(string) {
			w.Header().Set("X-ClickHouse-Exception-Code", "516")
			http.Error(w, "Code: 516. DB::Exception: default: Authentication failed", http.StatusForbidden)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	front.TLS = ca.server(true)
	front.StartTLS()
	t.Cleanup(front.Close)

	write(t, dir+"/password", "fixture-first\n")
	t.Setenv("CATENA_CLICKHOUSE_ADDR", front.URL)
	t.Setenv("CATENA_CLICKHOUSE_DATABASE", "default")
	t.Setenv("CATENA_CLICKHOUSE_PASSWORD_FILE", dir+"/password")
	t.Setenv("CATENA_CLICKHOUSE_TLS_CA", dir+"/ca.pem")
	t.Setenv("CATENA_CLICKHOUSE_TLS_CERT", dir+"/cert.pem")
	t.Setenv("CATENA_CLICKHOUSE_TLS_KEY", dir+"/key.pem")
	cfg, err := loadConfig(&environment{getenv: os.Getenv, stderr: testLog{t}})
	if err != nil {
		t.Fatal(err)
	}
	store, err := openStore(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	password.Store("fixture-second")
	if err := store.Ping(t.Context()); err == nil || strings.Contains(err.Error(), "fixture-") {
		t.Errorf("with the old password: %v", err)
	}
	write(t, dir+"/password", "fixture-second\n")
	time.Sleep(freshness)
	if _, rows, err := store.Query(t.Context(), "SELECT 42", 1); err != nil || rows[0][0] != "42" {
		t.Errorf("with the new password: %v, %v", rows, err)
	}
	t.Setenv("CATENA_CLICKHOUSE_TLS_CERT", "")
	t.Setenv("CATENA_CLICKHOUSE_TLS_KEY", "")
	cfg, err = loadConfig(&environment{getenv: os.Getenv, stderr: testLog{t}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a client certificate: %v", err)
	}
	t.Setenv("CATENA_CLICKHOUSE_ADDR", target.String())
	if cfg, err = loadConfig(&environment{getenv: os.Getenv, stderr: testLog{t}}); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "is plain text") {
		t.Errorf("certificates for an address without TLS: %v", err)
	}
}

// TestKafkaSecured: a real broker with TLS, client certificates and three ways
// to log in.
func TestKafkaSecured(t *testing.T) {
	ca := newAuthority(t)
	dir := ca.files()
	cert, key := ca.issue("broker.example.com")
	write(t, dir+"/broker.pem", string(key)+string(cert))
	secure := freePort(t)
	jaas := func(mechanism, module string) string {
		return "listener.name.sasl_ssl." + mechanism + ".sasl.jaas.config=org.apache.kafka.common.security." + module + ";"
	}
	k := realKafkaWith(t, func(port, controller string) []string {
		return []string{
			"listeners=PLAINTEXT://127.0.0.1:" + port + ",SASL_SSL://127.0.0.1:" + secure + ",CONTROLLER://127.0.0.1:" + controller,
			"advertised.listeners=PLAINTEXT://127.0.0.1:" + port + ",SASL_SSL://127.0.0.1:" + secure,
			"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
			"ssl.keystore.type=PEM", "ssl.keystore.location=" + dir + "/broker.pem",
			"ssl.truststore.type=PEM", "ssl.truststore.location=" + dir + "/ca.pem", "ssl.client.auth=required",
			"sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512,OAUTHBEARER",
			jaas("plain", `plain.PlainLoginModule required user_u="fixture-password"`),
			jaas("scram-sha-512", "scram.ScramLoginModule required"),
			jaas("oauthbearer", `oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="fixture"`),
		}
	})
	addUser(t, k.addr, "u", "fixture-password")
	encode := base64.RawURLEncoding.EncodeToString
	now := time.Now().Unix()
	token := encode([]byte(`{"alg":"none"}`)) + "." + encode(fmt.Appendf(nil, `{"sub":"u","iat":%d,"exp":%d}`, now, now+3600)) + "."
	write(t, dir+"/password", "fixture-password")
	write(t, dir+"/wrong", "fixture-wrong")
	write(t, dir+"/token", token)

	t.Setenv("CATENA_KAFKA_BROKERS", "127.0.0.1:"+secure)
	t.Setenv("CATENA_KAFKA_TLS_CA", dir+"/ca.pem")
	t.Setenv("CATENA_KAFKA_TLS_CERT", dir+"/cert.pem")
	t.Setenv("CATENA_KAFKA_TLS_KEY", dir+"/key.pem")
	for _, tc := range []struct{ mechanism, password, want string }{
		{"PLAIN", "password", ""},
		{"SCRAM-SHA-512", "password", ""},
		{"OAUTHBEARER", "", ""},
		{"PLAIN", "wrong", `refuses the login of user "u" (PLAIN)`},
		{"SCRAM-SHA-512", "wrong", `refuses the login of user "u" (SCRAM-SHA-512)`},
	} {
		t.Run(tc.mechanism+" "+tc.password, func(t *testing.T) {
			t.Setenv("CATENA_KAFKA_SASL_MECHANISM", tc.mechanism)
			if tc.password == "" {
				t.Setenv("CATENA_KAFKA_SASL_TOKEN_FILE", dir+"/token")
			} else {
				t.Setenv("CATENA_KAFKA_SASL_USER", "u")
				t.Setenv("CATENA_KAFKA_SASL_PASSWORD_FILE", filepath.Join(dir, tc.password))
			}
			err := produceOne(t)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// addUser gives a user a password of SCRAM-SHA-512.
func addUser(t *testing.T, addr, user, password string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	set, err := kadm.NewClient(client).AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{{User: user, Mechanism: kadm.ScramSha512, Iterations: 4096, Password: password}})
	if err == nil {
		err = set.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
}
