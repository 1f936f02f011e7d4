package ingest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"catena/ingest/broker"
	"catena/schemas"
)

func newProducer(t *testing.T, opts ProducerOptions) *Producer {
	t.Helper()
	p, err := NewProducer(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestProducer(t *testing.T) {
	b := startBroker(t, broker.Options{})
	var told []Progress
	p := newProducer(t, ProducerOptions{Cluster: at(b), OnProgress: func(p Progress) { told = append(told, p) }})
	if created, err := p.EnsureTopic(t.Context(), "a", 4, nil); err != nil || !created {
		t.Fatalf("EnsureTopic = %v, %v, want true", created, err)
	}
	if created, err := p.EnsureTopic(t.Context(), "a", 9, nil); err != nil || created {
		t.Fatalf("EnsureTopic of an existing topic = %v, %v, want false", created, err)
	}
	when := time.UnixMilli(1_600_000_000_123)
	for i := range 400 {
		rec := schemas.Record{Topic: "a", Key: fmt.Append(nil, i%8), Value: fmt.Append(nil, i), TimestampNanos: when.UnixNano()}
		if err := p.Produce(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.Progress(); got.Records != 400 || got.Failed != 0 || got.Bytes != 400+10+90*2+300*3 || told[len(told)-1] != got {
		t.Errorf("progress %+v, told %+v", got, told)
	}

	c := newConsumer(t, ConsumerOptions{Cluster: at(b), Topics: []string{"a"}})
	home, last := map[string]int32{}, map[string]int{}
	for _, r := range pollN(t, c, 400) {
		if was, ok := home[string(r.Key)]; ok && was != r.Partition {
			t.Fatalf("key %s is in partitions %d and %d", r.Key, was, r.Partition)
		}
		home[string(r.Key)] = r.Partition
		var n int
		fmt.Sscan(string(r.Value), &n)
		if was, ok := last[string(r.Key)]; ok && n <= was {
			t.Fatalf("key %s: %d came after %d", r.Key, n, was)
		}
		last[string(r.Key)] = n
		if r.TimestampNanos != when.UnixNano() {
			t.Fatalf("timestamp %v, want %v", time.Unix(0, r.TimestampNanos), when)
		}
	}
}

func TestProducerRoundRobin(t *testing.T) {
	b := startBroker(t, broker.Options{})
	p := newProducer(t, ProducerOptions{Cluster: at(b), RoundRobin: true, Compression: "none", Linger: -1})
	if _, err := p.EnsureTopic(t.Context(), "a", 4, map[string]string{"retention.ms": "-1"}); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if err := p.Produce(t.Context(), schemas.Record{Topic: "a", Key: []byte("same"), Value: []byte("v")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, info := range b.Cluster().PartitionInfos("a") {
		if info.HighWatermark != 10 {
			t.Errorf("partition %d has %d records, want 10", i, info.HighWatermark)
		}
	}
}

func TestProducerErrors(t *testing.T) {
	b := startBroker(t, broker.Options{})
	if err := b.Cluster().CreateTopic("small", 1, map[string]string{"max.message.bytes": "1000"}); err != nil {
		t.Fatal(err)
	}
	if err := b.Cluster().CreateTopic("any", 1, nil); err != nil {
		t.Fatal(err)
	}

	p := newProducer(t, ProducerOptions{Cluster: at(b), MaxMessageBytes: 1 << 20, Compression: "none"})
	err := p.Produce(t.Context(), schemas.Record{Topic: "any", Value: make([]byte, 2<<20)})
	if err == nil || !strings.Contains(err.Error(), "record of 2097152 bytes for topic any is larger than the limit of 1048576") {
		t.Errorf("Produce beyond the limit: %v", err)
	}
	if err := p.Produce(t.Context(), schemas.Record{Topic: "small", Value: make([]byte, 2000)}); err != nil {
		t.Fatal(err)
	}
	err = p.Flush(t.Context())
	if !errors.Is(err, kerr.MessageTooLarge) || !strings.Contains(err.Error(), "raise the topic's max.message.bytes") {
		t.Errorf("Flush after a refused record: %v", err)
	}
	if again := p.Produce(t.Context(), schemas.Record{Topic: "any", Value: []byte("v")}); again == nil || again.Error() != err.Error() {
		t.Errorf("Produce after a refused record: %v, want %v", again, err)
	}

	p = newProducer(t, ProducerOptions{Cluster: at(b)})
	if err := p.Produce(t.Context(), schemas.Record{Topic: "nope", Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "kafka: topic nope does not exist") {
		t.Errorf("Flush to a missing topic: %v", err)
	}

	if _, err := NewProducer(t.Context(), ProducerOptions{Cluster: at(b), Compression: "rar"}); err == nil {
		t.Error("compression rar was accepted")
	}
	_, err = NewProducer(t.Context(), ProducerOptions{Cluster: Cluster{Brokers: []string{"127.0.0.1:1"}, StartTimeout: 100 * time.Millisecond}})
	if err == nil || err.Error() != "kafka: no broker answers at 127.0.0.1:1: connection refused; check CATENA_KAFKA_BROKERS" {
		t.Errorf("NewProducer without a broker: %v", err)
	}
}
