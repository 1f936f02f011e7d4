package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"catena/ingest"
	"catena/schemas"
)

var replayCommand = command{
	name: "replay", args: "[flags] FILE…", short: "log files into Kafka topics, a record each",
	help: `
Sends every record of the files to Kafka, as a producer would have. A file holds one JSON
object a line, a JSON array, or CloudTrail's {"Records":[…]}, gzipped or not. Without
--topic a file's records go to the topic named after the file (cloudtrail.json: cloudtrail).
Topics that do not exist are made.

  catena replay --topic cloudtrail trail/*.json.gz
  catena replay okta.jsonl otlp_spans.jsonl

The settings that apply: CATENA_KAFKA_BROKERS and the other CATENA_KAFKA_… of the connection.`,
	run: runReplay,
}

func runReplay(ctx context.Context, env *environment, c *command, args []string) error {
	var fs flag.FlagSet
	topic := fs.String("topic", "", "topic for all files")
	partitions := fs.Int("partitions", 4, "partitions of a topic that has to be made")
	files, err := c.parse(env, &fs, args)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return usagef("no files given")
	}
	cfg, err := loadConfig(env)
	if err != nil {
		return err
	}
	producer, err := ingest.NewProducer(ctx, ingest.ProducerOptions{Cluster: cfg.cluster(newLog(env.stderr, cfg)), RoundRobin: true})
	if err != nil {
		return err
	}
	defer producer.Close()
	for _, name := range files {
		to := *topic
		if to == "" {
			to = topicOf(name)
		}
		n, err := replayFile(ctx, producer, name, to, int32(*partitions))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintf(env.stdout, "%s: %d records to %s\n", name, n, to)
	}
	return nil
}

// topicOf names a topic after a file.
func topicOf(name string) string {
	base := strings.TrimSuffix(filepath.Base(name), ".gz")
	return strings.TrimSuffix(base, filepath.Ext(base))
}

func replayFile(ctx context.Context, producer *ingest.Producer, name, topic string, partitions int32) (n int, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	if _, err := producer.EnsureTopic(ctx, topic, partitions, nil); err != nil {
		return 0, err
	}
	err = ingest.SplitFile(f, func(value []byte) error {
		n++
		return producer.Produce(ctx, schemas.Record{Topic: topic, Value: value})
	})
	if err != nil {
		return n, err
	}
	return n, producer.Flush(ctx)
}
