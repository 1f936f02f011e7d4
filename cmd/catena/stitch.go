package main

import (
	"bufio"
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"catena/correlate"
	"catena/ingest"
	"catena/schemas"
	"catena/sinks"
	"catena/sinks/jsonl"
)

var stitchCommand = command{
	name: "stitch", args: "[flags] [FILE…|-]", short: "log files in, attributed actions out as JSON lines; no broker, no database",
	help: `
Reads log files, or standard input, and prints each action's final row as one JSON line
in event-time order, with the columns of the actions table. Files are read side by side,
as partitions of one stream, and nothing is too late: order does not matter. A file holds
one JSON object a line, a JSON array, or CloudTrail's {"Records":[…]}, gzipped or not.
topic is the file, offset the record's index in it from 0.

Records that no source takes are named on standard error, and the exit code is then 3.

  catena stitch cloudtrail/*.json.gz okta.jsonl | jq -c '[.event_time,.grade,.root_name,.action]'

The settings that apply: CATENA_SKEW, CATENA_MEMORY, CATENA_MAX_RECORD, CATENA_HMAC_KEY,
CATENA_TOPIC_FORMATS (a file is a topic). Without CATENA_HMAC_KEY a fixed key is used:
replaced secrets are then the same in every run and on every machine.`,
	run: runStitch,
}

// stitchHMACKey makes runs over the same files comparable.
const stitchHMACKey = "catena stitch: no CATENA_HMAC_KEY was set"

// chunk is how many records are decoded at a time.
const chunk = 4096

func runStitch(ctx context.Context, env *environment, c *command, args []string) error {
	var fs flag.FlagSet
	updates := fs.Bool("updates", false, "print every improvement of a row as it happens, instead of the final rows")
	files, err := c.parse(env, &fs, args)
	if err != nil {
		return err
	}
	cfg, err := loadConfig(env)
	if err != nil {
		return err
	}
	cfg.HMACKey = cmp.Or(cfg.HMACKey, stitchHMACKey)
	cfg.AllowedLateness, cfg.Window = correlate.Forever, correlate.Forever
	if len(files) == 0 {
		files = []string{"-"}
	}
	reg, err := cfg.openRegistry(ctx, newLog(env.stderr, cfg))
	if err != nil {
		return err
	}
	st, err := newStitcher(cfg, reg)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(env.stdout, 1<<16)
	s := stitching{stitcher: st, env: env, out: out, updates: *updates, final: map[schemas.ID]*schemas.Action{}}
	for _, f := range files {
		if err := s.file(ctx, f); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
	}
	if err := s.finish(); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return s.complain()
}

// stitching is one run of the command.
type stitching struct {
	stitcher
	env     *environment
	out     io.Writer
	updates bool
	final   map[schemas.ID]*schemas.Action
	dead    int
}

func (s *stitching) file(ctx context.Context, name string) error {
	r := s.env.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		r = f
	}
	var records []schemas.Record
	var offset int64
	err := ingest.SplitFile(r, func(value []byte) error {
		records = append(records, schemas.Record{Topic: name, Offset: offset, Value: value})
		offset++
		if len(records) == chunk {
			defer func() { records = records[:0] }()
			return s.records(ctx, records)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.records(ctx, records)
}

func (s *stitching) records(ctx context.Context, records []schemas.Record) error {
	var batch sinks.Batch
	if err := s.decode(records); err != nil {
		return err
	}
	s.correlate(&batch)
	for _, d := range batch.DeadLetters {
		if s.dead++; s.dead <= 20 {
			fmt.Fprintf(s.env.stderr, "%s record %d: %s: %s\n", d.Evidence.Topic, d.Evidence.Offset, d.Reason, d.Error)
		}
	}
	for _, a := range batch.Actions {
		if s.updates {
			if err := jsonl.Encode(s.out, a); err != nil {
				return err
			}
		}
		s.final[a.ID] = a
	}
	return ctx.Err()
}

// finish prints the final rows. Each is the only writing of its event, so that
// its version is 1 whatever the order in which its evidence came.
func (s *stitching) finish() error {
	if s.updates {
		return nil
	}
	rows := slices.SortedFunc(maps.Values(s.final), actionOrder)
	for _, a := range rows {
		row := *a
		row.Version = 1
		if err := jsonl.Encode(s.out, &row); err != nil {
			return err
		}
	}
	return nil
}

// actionOrder is event time, then place.
func actionOrder(a, b *schemas.Action) int {
	return cmp.Or(cmp.Compare(a.TimeNanos, b.TimeNanos), slices.Compare(a.ID[:], b.ID[:]))
}

// complain sums up what did not become a row.
func (s *stitching) complain() error {
	for _, name := range slices.Sorted(maps.Keys(s.skips)) {
		fmt.Fprintf(s.env.stderr, "%d skipped: %s\n", s.skips[name], name)
	}
	for _, name := range slices.Sorted(maps.Keys(s.unclassified)) {
		fmt.Fprintf(s.env.stderr, "%d of %s are of types that no rule names: class other; `catena sources test` lists them\n", s.unclassified[name], name)
	}
	st := s.engine.Stats()
	if st.RowsEvicted+st.KeysEvicted > 0 {
		fmt.Fprintf(s.env.stderr, "the state reached its limit: %d rows and %d keys left early, some rows may miss their root; raise CATENA_MEMORY\n", st.RowsEvicted, st.KeysEvicted)
	}
	if s.dead == 0 {
		return nil
	}
	if s.dead > 20 {
		fmt.Fprintf(s.env.stderr, "… and %d more\n", s.dead-20)
	}
	fmt.Fprintf(s.env.stderr, "%d records could not be decoded\n", s.dead)
	return exitError(exitFound)
}
