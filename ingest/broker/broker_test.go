package broker

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
)

func start(t *testing.T, opts Options) *Broker {
	t.Helper()
	b, err := Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func client(t *testing.T, b *Broker, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(b.Addr()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// TestGroups reads with both protocols of consumer groups, the classic one and
// that of KIP-848, a record of the largest size.
func TestGroups(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	b := start(t, Options{Partitions: 2, Topics: []string{"a"}})
	if !strings.HasPrefix(b.Addr(), "127.0.0.1:") {
		t.Errorf("listens on %s, want loopback", b.Addr())
	}
	value := make([]byte, 16<<20-100)
	w := client(t, b, kgo.ProducerBatchMaxBytes(16<<20), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err := w.ProduceSync(t.Context(), &kgo.Record{Topic: "a", Value: value}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string][]kgo.Opt{
		"classic": {kgo.Balancers(kgo.CooperativeStickyBalancer())},
		"kip848":  {kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer())},
	} {
		r := client(t, b, append(opts, kgo.ConsumerGroup(name), kgo.ConsumeTopics("a"))...)
		recs := r.PollFetches(t.Context()).Records()
		if len(recs) != 1 || !bytes.Equal(recs[0].Value, value) {
			t.Fatalf("%s: %d records came back, or changed", name, len(recs))
		}
		if err := r.CommitRecords(t.Context(), recs...); err != nil {
			t.Errorf("%s: commit: %v", name, err)
		}
	}
}

func TestDataDir(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		b, err := Start(Options{Topics: []string{"a"}, DataDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.ConsumeTopics("a"), kgo.DefaultProduceTopic("a"))
		if err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(t.Context(), kgo.StringRecord(fmt.Sprint(i))).FirstErr(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for len(got) < i+1 {
			for _, r := range cl.PollFetches(t.Context()).Records() {
				got = append(got, string(r.Value))
			}
		}
		if want := fmt.Sprint([]string{"0", "1", "2"}[:i+1]); fmt.Sprint(got) != want {
			t.Errorf("start %d: read %v, want %v", i, got, want)
		}
		cl.Close()
		b.Close()
	}
}

func TestStartErrors(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	want := fmt.Sprintf("embedded kafka: port %d is in use: choose another, or 0 for a free one", port)
	if _, err := Start(Options{Port: port}); err == nil || err.Error() != want {
		t.Errorf("Start on a port in use: %v, want %s", err, want)
	}
	if _, err := Start(Options{DataDir: "/dev/null/x"}); err == nil || !strings.HasPrefix(err.Error(), "embedded kafka: data folder:") {
		t.Errorf("Start in a folder that cannot be: %v", err)
	}
}
