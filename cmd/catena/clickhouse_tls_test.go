package main

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"catena/sinks"
	"catena/sinks/embedded"
	"catena/sinks/sinktest"
)

// tlsFront ends TLS in front of a server and returns its host:port.
func tlsFront(t *testing.T, conf *tls.Config, upstream string) string {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				server, err := net.Dial("tcp", upstream)
				if err != nil {
					return
				}
				defer server.Close()
				go func() {
					_, _ = io.Copy(server, client) // ends with either side
					_ = server.Close()
				}()
				_, _ = io.Copy(client, server) // likewise
			}()
		}
	}()
	return listener.Addr().String()
}

// TestClickHouseTLS writes and reads through TLS, by what the environment says,
// over both protocols; and what does not fit is refused with words that help.
func TestClickHouseTLS(t *testing.T) {
	database(t)
	server, err := embedded.NewServer(engine.server.engine, embedded.ServerOptions{Listen: "127.0.0.1:0", Native: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(t.Context()); err != nil {
			t.Log(err) // connections that a refused client left
		}
	})
	ca, other := newAuthority(t), newAuthority(t)
	dir, otherDir := ca.files(), other.files()
	mine := "TLS_CA=" + dir + "/ca.pem TLS_CERT=" + dir + "/cert.pem TLS_KEY=" + dir + "/key.pem"
	for protocol, addr := range map[string]string{
		"https":       "https://" + tlsFront(t, ca.server(true), server.Addr().String()),
		"clickhouses": "clickhouses://" + tlsFront(t, ca.server(true), server.NativeAddr().String()),
	} {
		for _, test := range []struct{ name, set, want string }{
			{"all right", mine, ""},
			{"compressed", mine + " COMPRESSION=zstd", ""},
			{"the name that it has", mine + " TLS_SERVER_NAME=broker.example.com", ""},
			{"another name", mine + " TLS_SERVER_NAME=db.example.com", "TLS failed: check the certificate and the name"},
			{"another authority", strings.Replace(mine, dir+"/ca.pem", otherDir+"/ca.pem", 1), "TLS failed"},
			{"the system's authorities", strings.Replace(mine, "TLS_CA="+dir+"/ca.pem ", "", 1), "TLS failed"},
			{"any certificate", "TLS_SKIP_VERIFY=true TLS_CERT=" + dir + "/cert.pem TLS_KEY=" + dir + "/key.pem", ""},
			{"no certificate of the client", "TLS_CA=" + dir + "/ca.pem", "certificate"},
			{"a certificate of another authority", strings.NewReplacer(dir+"/cert.pem", otherDir+"/cert.pem", dir+"/key.pem", otherDir+"/key.pem").Replace(mine), "certificate"},
		} {
			t.Run(protocol+"/"+test.name, func(t *testing.T) {
				t.Setenv("CATENA_CLICKHOUSE_ADDR", addr)
				t.Setenv("CATENA_CLICKHOUSE_DATABASE", "over_tls")
				for _, setting := range strings.Fields(test.set) {
					name, value, _ := strings.Cut(setting, "=")
					t.Setenv("CATENA_CLICKHOUSE_"+name, value)
				}
				cfg, err := loadConfig(&environment{getenv: os.Getenv, stderr: testLog{t}})
				if err != nil {
					t.Fatal(err)
				}
				store, err := openStore(t.Context(), cfg)
				if test.want != "" {
					if err == nil {
						_ = store.Close()
					}
					if err == nil || !strings.Contains(err.Error(), test.want) {
						t.Errorf("%v, want %q", err, test.want)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = store.Close() }()
				if _, err := store.Migrate(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := store.Write(t.Context(), &sinks.Batch{Actions: sinktest.Actions(100)}); err != nil {
					t.Fatal(err)
				}
				if _, rows, err := store.Query(t.Context(), "SELECT count() FROM actions FINAL", 1); err != nil || rows[0][0] != "100" {
					t.Error(rows, err)
				}
			})
		}
	}
}
