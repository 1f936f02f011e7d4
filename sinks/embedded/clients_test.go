package embedded

import (
	"bytes"
	"context"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The clients of other languages work against the server as they do against ClickHouse: they insert, read, stream and get
// the errors that they know.
func TestClients(t *testing.T) {
	clients := os.Getenv("CATENA_TEST_CLIENTS")
	if clients == "" {
		t.Skip("CATENA_TEST_CLIENTS is not set: set it to the folder that deploy/dev/clients.sh prints")
	}
	server := serve(t, HandlerOptions{})
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(address.Host)
	if err != nil {
		t.Fatal(err)
	}
	nativeHost, nativePort, err := net.SplitHostPort(serveTCP(t, HandlerOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	python := filepath.Join(clients, "venv", "bin", "python")
	for name, command := range map[string][]string{
		"javascript": {"node", "testdata/client.mjs", server.URL},
		"python":     {python, "testdata/client.py", host, port},
		"native":     {python, "testdata/client_native.py", nativeHost, nativePort},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, command[0], append(command[1:], database(t))...)
			cmd.Env = append(os.Environ(), "CLIENT_MODULES="+clients)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil || strings.TrimSpace(string(out)) != "ok" {
				t.Fatalf("%v\n%s%s", err, out, &stderr)
			}
		})
	}
}
