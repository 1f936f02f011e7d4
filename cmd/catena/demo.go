package main

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"time"

	"catena/ingest"
	"catena/ingest/broker"
	"catena/schemas"
	"catena/sinks/clickhouse"
)

var demoCommand = command{
	name: "demo", args: "[--serve]", short: "the five stories through the whole path, on embedded Kafka and ClickHouse",
	help: `
Plays log files of five made-up stories into an in-process Kafka, runs them through the same
path as catena run into the ClickHouse engine as a library, and prints what the tables say:
each story's chain as a tree, and three SQL statements with their answers.

With --serve it stays up, says where ClickHouse answers, and keeps feeding live traffic.`,
	run: runDemo,
}

// stories holds the log files, one folder a story, one file a topic.
//
//go:embed stories
var stories embed.FS

// story is what the demo tells about one folder of log files.
type story struct {
	dir, title, question, answer string
	find                         []string // whose chains to draw: keys or names
}

func demoStories() []story {
	return []story{
		{"1-agent", "An AI agent acts for a person", "Who asked for the customer data that was read from S3 and DynamoDB?",
			"One chain from the login to every cloud call: exact where the span names the request, inferred where only time on the instance ties it.",
			[]string{"session:okta:102fixtureALICEdesk1"}},
		{"1b-agent-without-token-id", "The same, without the token's id on the agent's span", "What is still known, and what is missing?",
			"The person is named, as stated: only the span says that it was Carol. Her login was found by name and time and lends its second factor, nothing more.",
			[]string{"session:gen_ai.conversation:conv-fixture-carol-0001"}},
		{"2-cicd", "A pipeline deploys, changes a secret and rolls back", "Was each step the same identity, or was there delegation?",
			"Deploy and secret used the run's own key; the rollback ran with a token minted for rollback-bot by that key: delegation, same root.",
			[]string{"session:github.run:9000001003"}},
		{"3-jit", "A job gets access for half an hour", "Which commands ran under the grant, and what ran outside it?",
			"The migration carries its grant; the last statement came after the window had closed.",
			[]string{"session:github.run:9000003001"}},
		{"4-incident", "A stolen pod token", "Where was the token used, and what did it touch?",
			"The token says one pod, the address says another: divergent.",
			[]string{"workload:k8s.pod_uid:6c9852d6-d286-47db-8ed0-2d3cbbb3e45a", "token:aws.access_key:ASIAFIXTUREIRSA00002"}},
		{"5-policy", "Did each tool call have a decision, and did it respect it?", "Which tool call had none, and how was the person authenticated?",
			"Decisions stand beside the calls they are about; one call has none. The login used a password only.",
			[]string{"session:okta:102fixtureGRACE00001"}},
	}
}

// demo is one run: both servers, the pipeline between them and what it printed.
type demo struct {
	env    *environment
	cfg    *config
	broker *broker.Broker
	server *embeddedServer
	store  *clickhouse.Store
}

func runDemo(ctx context.Context, env *environment, c *command, args []string) error {
	var flags flag.FlagSet
	serve := flags.Bool("serve", false, "stay up and keep feeding live traffic")
	listen := flags.String("listen", "127.0.0.1:8123", "with --serve: where ClickHouse answers")
	if _, err := c.parse(env, &flags, args); err != nil {
		return err
	}
	cfg, err := loadConfig(env)
	if err != nil {
		return err
	}
	if !*serve {
		*listen = "127.0.0.1:0"
	}
	// The demo is its own world, whatever the environment says of others.
	cfg.ClickHouseDatabase, cfg.ClickHouseUser, cfg.ClickHousePassword = "catena", "default", ""
	cfg.KafkaTLS, cfg.KafkaSASLMechanism, cfg.KafkaTopicsRegex, cfg.KafkaGroup, cfg.TopicFormats = false, "", false, "catena", nil
	cfg.TopicScopes, cfg.SchemaRegistry = nil, nil
	d := &demo{env: env, cfg: cfg}
	if err := d.start(ctx, *listen); err != nil {
		return errors.Join(err, d.stop())
	}
	err = d.play(ctx, *serve)
	return errors.Join(err, d.stop())
}

// start brings up both servers and points the settings at them.
func (d *demo) start(ctx context.Context, listen string) (err error) {
	fmt.Fprint(d.env.stdout, "starting Kafka (in process) and ClickHouse (as a library) … ")
	if d.server, err = startEmbedded(d.env, "", listen, d.cfg); err != nil {
		return err
	}
	if d.broker, err = broker.Start(broker.Options{Partitions: 2}); err != nil {
		return err
	}
	d.cfg.KafkaBrokers = []string{d.broker.Addr()}
	d.cfg.ClickHouseAddr = []string{"http://" + d.server.Addr().String()}
	d.cfg.KafkaTopics = demoTopics()
	d.cfg.BatchAge = 200 * time.Millisecond
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails, as crypto/rand documents
	d.cfg.HMACKey = hex.EncodeToString(key[:])
	if d.store, err = openStore(ctx, d.cfg); err != nil {
		return err
	}
	fmt.Fprintln(d.env.stdout, "done")
	return nil
}

func (d *demo) stop() error {
	var errs []error
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	if d.server != nil {
		errs = append(errs, d.server.stop(d.cfg))
	}
	if d.broker != nil {
		d.broker.Close()
	}
	return errors.Join(errs...)
}

// play sends the stories, runs the pipeline over them and prints the answers.
func (d *demo) play(ctx context.Context, serve bool) (err error) {
	producer, err := ingest.NewProducer(ctx, ingest.ProducerOptions{Cluster: d.cfg.cluster(nil), RoundRobin: true})
	if err != nil {
		return err
	}
	defer producer.Close()
	records, err := d.send(ctx, producer)
	if err != nil {
		return err
	}
	level := slog.LevelWarn
	log := slog.New(slog.NewTextHandler(d.env.stderr, &slog.HandlerOptions{Level: level}))
	var web *server
	if serve {
		if web, err = openWeb(d.cfg, log); err != nil {
			return err
		}
	}
	defer func() { err = errors.Join(err, web.stop()) }()
	p, err := newPipeline(ctx, d.cfg, log)
	if err != nil {
		return err
	}
	if err := web.show(p); err != nil {
		return errors.Join(err, p.close())
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- p.run(running)
		close(ended) // whoever asks again finds it ended
	}()
	if err = d.show(ctx, records, ended); err == nil && serve {
		err = d.live(ctx, producer, ended, web.addr())
	}
	stop() // the servers stay up until the pipeline has drained into them
	return errors.Join(err, <-ended)
}

// show waits for the stories to arrive in the tables and prints them.
func (d *demo) show(ctx context.Context, records int, ended <-chan error) error {
	started := time.Now()
	if err := d.wait(ctx, records, ended); err != nil {
		return err
	}
	fmt.Fprintf(d.env.stdout, "%d log records of %d topics → attributed rows in ClickHouse in %v\n",
		records, len(d.cfg.KafkaTopics), time.Since(started).Round(10*time.Millisecond))
	return d.tell(ctx)
}

// demoTopics are the names of the stories' files.
func demoTopics() []string {
	var topics []string
	for _, f := range storyFiles() {
		topics = append(topics, topicOf(f))
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

// storyFiles lists all log files, by story and name.
func storyFiles() []string {
	files, err := fs.Glob(stories, "stories/*/*.json*")
	if err != nil {
		panic(err) // impossible: the pattern is well formed
	}
	return files
}

// send plays the stories into their topics and returns how many records.
func (d *demo) send(ctx context.Context, producer *ingest.Producer) (n int, err error) {
	for _, topic := range d.cfg.KafkaTopics {
		if _, err := producer.EnsureTopic(ctx, topic, 2, nil); err != nil {
			return 0, err
		}
	}
	for _, name := range storyFiles() {
		err := eachStoryRecord(name, func(value []byte) error {
			n++
			return producer.Produce(ctx, schemas.Record{Topic: topicOf(name), Value: value})
		})
		if err != nil {
			return n, fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, r := range unreadableRecords() {
		n++
		if err := producer.Produce(ctx, r); err != nil {
			return n, err
		}
	}
	return n, producer.Flush(ctx)
}

// unreadableRecords are what real topics hold too: a record that was cut off
// on its way, and one in a format that nobody has described. Both become dead
// letters, and nothing else suffers.
func unreadableRecords() []schemas.Record {
	return []schemas.Record{
		{Topic: "cloudtrail", Value: []byte(`{"eventVersion":"1.11","userIdentity":{"type":"AssumedRole","accountId":"111122223333","accessKeyId":"ASIAFIXT`)},
		{Topic: "okta", Value: []byte(`{"app":"door-control","at":"2026-03-02T09:00:00Z","badge":"B-0042","door":"north-2"}`)},
	}
}

func eachStoryRecord(name string, each func([]byte) error) error {
	f, err := stories.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return ingest.SplitFile(f, each)
}

// wait returns when everything sent is accounted for in the tables.
func (d *demo) wait(ctx context.Context, records int, ended <-chan error) error {
	for {
		progress, err := d.store.LoadProgress(ctx)
		if err != nil {
			return err
		}
		done := int64(0)
		for _, pr := range progress {
			done += pr.Offset
		}
		if done >= int64(records) {
			return nil
		}
		select {
		case err := <-ended:
			return errors.Join(errors.New("the pipeline ended before the stories were told"), err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tell prints the stories and the statements to try.
func (d *demo) tell(ctx context.Context) error {
	p := &painter{w: d.env.stdout, colour: d.env.colour()}
	for _, s := range demoStories() {
		number, _, _ := strings.Cut(s.dir, "-")
		fmt.Fprintf(d.env.stdout, "\n%s\n%s\n\n", p.paint(bold, fmt.Sprintf("Story %s. %s", number, s.title)), s.question)
		if err := d.drawChains(ctx, p, s); err != nil {
			return err
		}
		fmt.Fprintf(d.env.stdout, "\n%s\n", s.answer)
	}
	fmt.Fprintf(d.env.stdout, "\n%s\n", p.paint(bold, "Three statements to try"))
	for _, q := range demoQueries() {
		fmt.Fprintf(d.env.stdout, "\n%s\n\n", p.paint(cyan, q))
		columns, rows, err := d.store.Query(ctx, q, 50)
		if err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
		printTable(d.env.stdout, columns, rows)
	}
	return nil
}

func (d *demo) drawChains(ctx context.Context, p *painter, s story) error {
	drawn, q := map[schemas.ID]bool{}, &asker{store: d.store}
	for _, what := range s.find {
		chains, err := d.store.FindChains(ctx, what, 8)
		if err != nil {
			return err
		}
		slices.Reverse(chains) // oldest first
		for _, found := range chains {
			if drawn[found.Chain] {
				continue
			}
			drawn[found.Chain] = true
			rows, err := d.store.Chain(ctx, found.Chain, 0)
			if err != nil {
				return err
			}
			if p.proofs, err = q.proofsOf(ctx, rows); err != nil {
				return err
			}
			p.chain(rows)
			p.lack(rows)
		}
	}
	if len(drawn) == 0 {
		return fmt.Errorf("story %s: no chain found", s.dir)
	}
	return nil
}

// demoQueries are three questions as people would ask them.
func demoQueries() []string {
	return []string{
		"SELECT root_name, action, resource, grade, cause_grade\nFROM catena.actions FINAL\nWHERE class = 'data_access' AND root_kind = 'human'\nORDER BY event_time",
		"SELECT root_name, mfa, action, policy_decision, outcome\nFROM catena.actions FINAL\nWHERE class = 'tool_call' AND action LIKE 'execute_tool%'\nORDER BY event_time",
		"SELECT event_time, root_name, action, source_ip, flags\nFROM catena.actions FINAL\nWHERE notEmpty(flags)\nORDER BY event_time",
	}
}

// printTable prints rows under their columns, cut to what a line can hold.
func printTable(w io.Writer, columns []string, rows [][]string) {
	widths := make([]int, len(columns))
	for i, c := range columns {
		widths[i] = len(c)
	}
	for _, r := range rows {
		for i, v := range r {
			r[i] = shorten(v, 48)
			widths[i] = max(widths[i], len([]rune(r[i])))
		}
	}
	line := func(cells []string) {
		for i, v := range cells {
			cells[i] = v + strings.Repeat(" ", max(0, widths[i]-len([]rune(v))))
		}
		fmt.Fprintln(w, "  "+strings.TrimRight(strings.Join(cells, "  "), " "))
	}
	line(slices.Clone(columns))
	for _, r := range rows {
		line(r)
	}
}
