// Package broker runs a Kafka broker inside the process, for the demo and for
// tests. It listens on loopback only, without encryption or login, and is no
// place for data that matters: it is franz-go's kfake, which speaks the
// protocol faithfully and stores as little as it can.
package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kfake"
)

// maxMessageBytes lets batches of the largest records through, with room for
// the batch's own header.
const maxMessageBytes = 16<<20 + 64<<10

// Options configures [Start].
type Options struct {
	Port       int      // 0 takes a free one
	Partitions int      // of Topics and of topics created later; 1 if zero
	Topics     []string // exist from the start
	// DataDir keeps everything in files, across restarts; in memory if empty.
	// Topics are then only created in an empty folder.
	DataDir string
	// Kafka are more options, for tests that inject faults.
	Kafka []kfake.Opt
}

// Broker is a running broker.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
}

// Start returns once the broker accepts connections.
func Start(opts Options) (*Broker, error) {
	if opts.Partitions <= 0 {
		opts.Partitions = 1
	}
	conf := []kfake.Opt{
		kfake.Ports(opts.Port), // one node
		kfake.ClusterID("catena"),
		kfake.DefaultNumPartitions(opts.Partitions),
		kfake.SeedTopics(int32(opts.Partitions), opts.Topics...),
		kfake.AllowAutoTopicCreation(),
		kfake.BrokerConfigs(map[string]string{"message.max.bytes": strconv.Itoa(maxMessageBytes)}),
	}
	if opts.DataDir != "" {
		conf = append(conf, kfake.DataDir(opts.DataDir))
	}
	cluster, err := kfake.NewCluster(append(conf, opts.Kafka...)...)
	if err != nil {
		return nil, explain(opts, err)
	}
	return &Broker{cluster, cluster.ListenAddrs()[0]}, nil
}

func explain(opts Options, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return fmt.Errorf("embedded kafka: data folder: %w", err)
	}
	if strings.Contains(err.Error(), "address already in use") {
		return fmt.Errorf("embedded kafka: port %d is in use: choose another, or 0 for a free one", opts.Port)
	}
	return fmt.Errorf("embedded kafka: %w", err)
}

// Addr is the broker's host:port.
func (b *Broker) Addr() string { return b.addr }

// Cluster is the broker behind it, for tests that inject faults.
func (b *Broker) Cluster() *kfake.Cluster { return b.cluster }

// Close stops the broker and, with a data folder, writes what is left.
func (b *Broker) Close() { b.cluster.Close() }
