package ingest

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"catena/ingest/broker"
)

func TestStartErrors(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"audit", "audit-dlq"}})
	here, quick := at(b), 200*time.Millisecond
	sealed := startBroker(t, broker.Options{Topics: []string{"a"}, Kafka: []kfake.Opt{
		kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "u", "p"), kfake.Superuser("PLAIN", "u", "p"),
	}})
	rude := listen(t, func(conn net.Conn) { conn.Read(make([]byte, 1)); conn.Close() })
	silent := listen(t, func(conn net.Conn) { t.Cleanup(func() { conn.Close() }) })
	base := func(o ConsumerOptions) ConsumerOptions {
		if o.Brokers == nil {
			o.Brokers = here.Brokers
		}
		o.Group, o.StartTimeout = "g", quick
		return o
	}
	for _, tc := range []struct {
		name string
		opts ConsumerOptions
		want string
	}{
		{"refused", ConsumerOptions{Cluster: Cluster{Brokers: []string{"127.0.0.1:1"}}, Topics: []string{"audit"}},
			"kafka: no broker answers at 127.0.0.1:1: connection refused; check CATENA_KAFKA_BROKERS"},
		{"no brokers", ConsumerOptions{Cluster: Cluster{Brokers: []string{}}, Topics: []string{"audit"}}, "kafka: no broker address given; check CATENA_KAFKA_BROKERS"},
		{"no topics", ConsumerOptions{}, "kafka: no topic given; check CATENA_KAFKA_TOPICS"},
		{"missing topic", ConsumerOptions{Topics: []string{"audit", "nope"}},
			"kafka: topic nope does not exist at " + b.Addr() + "; create it or check CATENA_KAFKA_TOPICS"},
		{"missing topics", ConsumerOptions{Topics: []string{"x", "audit", "y"}, Missing: MissingWait},
			"kafka: topics x, y do not exist at " + b.Addr() + "; create it or check CATENA_KAFKA_TOPICS"},
		{"no match", ConsumerOptions{Topics: []string{"aud"}, Regex: true},
			"kafka: no topic matches aud at " + b.Addr() + "; create it or check CATENA_KAFKA_TOPICS"},
		{"excluded", ConsumerOptions{Topics: []string{"audit.*"}, Exclude: []string{"audit", ".*-dlq"}, Regex: true}, "kafka: no topic matches audit.*"},
		{"bad pattern", ConsumerOptions{Topics: []string{"("}, Regex: true}, `kafka: topic pattern "(":`},
		{"bad start", ConsumerOptions{Topics: []string{"audit"}, Start: "yesterday"}, `kafka: start "yesterday" is none of`},
		{"bad mechanism", ConsumerOptions{Cluster: Cluster{SASL: SASL{Mechanism: "GSSAPI"}}, Topics: []string{"audit"}}, `kafka: SASL mechanism "GSSAPI" is none of`},
		// A broker without TLS hangs up, or waits for the rest of what it takes for a request.
		{"TLS to a broker that hangs up", ConsumerOptions{Cluster: Cluster{Brokers: []string{rude}, TLS: systemTLS}, Topics: []string{"audit"}},
			"kafka: " + rude + " hangs up: "},
		{"TLS to a broker that waits", ConsumerOptions{Cluster: Cluster{Brokers: []string{silent}, TLS: systemTLS}, Topics: []string{"audit"}},
			"kafka: no broker answers at " + silent + " within 200ms with TLS; check CATENA_KAFKA_BROKERS and CATENA_KAFKA_TLS"},
		{"silence", ConsumerOptions{Cluster: Cluster{Brokers: []string{silent}}, Topics: []string{"audit"}},
			"kafka: no broker answers at " + silent + " within 200ms; check CATENA_KAFKA_BROKERS"},
		{"wrong password", ConsumerOptions{Cluster: Cluster{Brokers: []string{sealed.Addr()}, SASL: login("SCRAM-SHA-256", "u", "x")}, Topics: []string{"a"}},
			"kafka: " + sealed.Addr() + " hangs up: EOF; check CATENA_KAFKA_TLS and CATENA_KAFKA_TLS_… and CATENA_KAFKA_SASL_MECHANISM"},
		{"no login", ConsumerOptions{Cluster: Cluster{Brokers: []string{sealed.Addr()}}, Topics: []string{"a"}}, "kafka: " + sealed.Addr() + " hangs up: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := NewConsumer(t.Context(), base(tc.opts))
			if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256"} {
		c, err := NewConsumer(t.Context(), ConsumerOptions{Cluster: Cluster{Brokers: []string{sealed.Addr()}, SASL: login(mechanism, "u", "p")}, Group: "g", Topics: []string{"a"}})
		if err != nil {
			t.Errorf("%s: %v", mechanism, err)
			continue
		}
		closeConsumer(t, c)
	}
}

func login(mechanism, user, password string) SASL {
	return SASL{Mechanism: mechanism, User: user, Password: func() string { return password }}
}

func systemTLS() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS12} }

// listen runs a listener that is no broker and returns its address.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serve(conn)
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func TestMissingTopics(t *testing.T) {
	b := startBroker(t, broker.Options{})
	time.AfterFunc(300*time.Millisecond, func() { b.Cluster().CreateTopic("late", 1, nil) })
	c := newConsumer(t, ConsumerOptions{Cluster: at(b), Topics: []string{"late"}, Missing: MissingWait})
	produce(t, b, "late", 1, 3)
	pollN(t, c, 3)

	c = newConsumer(t, ConsumerOptions{Cluster: at(b), Group: "h", Topics: []string{"later"}, Missing: MissingAllow})
	if _, err := c.Poll(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	b.Cluster().CreateTopic("later", 1, nil)
	produce(t, b, "later", 1, 3)
	pollN(t, c, 3)
}

func TestRegex(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"audit", "audit-dlq", "audit-eu", "my-audit"}})
	for _, topic := range []string{"audit", "audit-dlq", "audit-eu", "my-audit"} {
		produce(t, b, topic, 1, 5)
	}
	c := newConsumer(t, ConsumerOptions{Cluster: at(b), Topics: []string{"audit.*"}, Exclude: []string{".*-dlq"}, Regex: true})
	got := map[string]int{}
	for _, r := range pollN(t, c, 10) {
		got[r.Topic]++
	}
	if len(got) != 2 || got["audit"] != 5 || got["audit-eu"] != 5 {
		t.Errorf("read %v, want audit and audit-eu", got)
	}
}

func TestStart(t *testing.T) {
	b := startBroker(t, broker.Options{Topics: []string{"a"}})
	produce(t, b, "a", 1, 5)
	time.Sleep(20 * time.Millisecond)
	middle := time.Now()
	produce(t, b, "a", 1, 5)
	time.Sleep(20 * time.Millisecond)
	for i, tc := range []struct {
		start string
		first int64
	}{
		{"", 0}, {"earliest", 0}, {middle.Format(time.RFC3339Nano), 5}, {"latest", 10},
	} {
		c := newConsumer(t, ConsumerOptions{Cluster: at(b), Group: fmt.Sprint("g", i), Topics: []string{"a"}, Start: tc.start})
		if tc.first == 10 {
			pollUntil(t, c, "the assignment", func() bool { return c.Stats().Assigned == 1 })
			// What a start leaves out is nothing to read: it must not count as lag.
			if err := c.UpdateEnds(t.Context()); err != nil {
				t.Fatal(err)
			}
			if p := c.Positions(nil)[0]; p.First != 10 || p.End != 10 {
				t.Errorf("before the first record: %+v, want reading to begin at 10", p)
			}
			produce(t, b, "a", 1, 5)
		}
		if recs := pollN(t, c, 5); recs[0].Offset != tc.first {
			t.Errorf("start %q: the first record is %d, want %d", tc.start, recs[0].Offset, tc.first)
		}
		if p := c.Positions(nil)[0]; p.First != tc.first {
			t.Errorf("start %q: reading began at %d, want %d", tc.start, p.First, tc.first)
		}
	}
}
