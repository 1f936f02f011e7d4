package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// tlsFiles name what a TLS client needs. All are optional: without a CA the
// system's roots count, without a certificate the client shows none.
type tlsFiles struct {
	Setting       string // CATENA_KAFKA_TLS: what the settings begin with
	CA, Cert, Key string // PEM files
	ServerName    string
	SkipVerify    bool
}

// set reports whether any of it is.
func (f tlsFiles) set() bool { return f != tlsFiles{Setting: f.Setting} }

// tlsReload makes configurations of TLS from files that may change. Files that
// cannot be used leave the last good configuration in use: a certificate and
// its key are not replaced in one instant.
type tlsReload struct {
	files tlsFiles

	mu      sync.Mutex
	log     *slog.Logger // nil discards
	content [3]string    // of CA, certificate and key, behind current
	current *tls.Config
	read    time.Time
	failed  string // why the last reading failed; said once
}

// open reads the files for the first time, when a fault ends the start.
func (f tlsFiles) open() (*tlsReload, error) {
	if (f.Cert == "") != (f.Key == "") {
		return nil, fmt.Errorf("%s_CERT and %[1]s_KEY: a client certificate needs both", f.Setting)
	}
	r := &tlsReload{files: f, read: time.Now()}
	content, err := f.readAll()
	if err != nil {
		return nil, err
	}
	r.content = content
	r.current, err = f.build(content)
	return r, err
}

// config returns the configuration as it is now. The same pointer comes back
// for as long as nothing changed; nobody may change what it points to.
func (r *tlsReload) config() *tls.Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.read) < freshness {
		return r.current
	}
	r.read = time.Now()
	content, err := r.files.readAll()
	if err == nil && content == r.content {
		r.failed = ""
		return r.current
	}
	var fresh *tls.Config
	if err == nil {
		fresh, err = r.files.build(content)
	}
	if err != nil {
		r.failed = keepOld(r.log, r.files.Setting, r.failed, err)
		return r.current
	}
	logger(r.log).Info("certificates changed: new connections use them", "setting", r.files.Setting)
	r.content, r.current, r.failed = content, fresh, ""
	return fresh
}

// logTo says where changes are logged.
func (r *tlsReload) logTo(log *slog.Logger) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = log
}

func (f tlsFiles) readAll() (content [3]string, err error) {
	var faults []error
	for i, file := range []struct{ setting, path string }{{"_CA", f.CA}, {"_CERT", f.Cert}, {"_KEY", f.Key}} {
		if file.path == "" {
			continue
		}
		text, err := os.ReadFile(file.path)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s%s: %w", f.Setting, file.setting, err))
		}
		content[i] = string(text)
	}
	return content, errors.Join(faults...)
}

func (f tlsFiles) build(content [3]string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.ServerName, InsecureSkipVerify: f.SkipVerify}
	if f.CA != "" {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM([]byte(content[0])) {
			return nil, fmt.Errorf("%s_CA: %s holds no PEM certificate", f.Setting, f.CA)
		}
	}
	if f.Cert != "" {
		pair, err := tls.X509KeyPair([]byte(content[1]), []byte(content[2]))
		if err != nil {
			// What the library says of a key never holds the key.
			return nil, fmt.Errorf("%s_CERT and %[1]s_KEY: %s and %s: %s", f.Setting, f.Cert, f.Key, strings.TrimPrefix(err.Error(), "tls: "))
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}
