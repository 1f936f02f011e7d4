package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"catena/ingest"
	"catena/schemas"
	"catena/sinks/clickhouse"
)

var deadlettersCommand = command{
	name: "deadletters", args: "list|show|redrive [flags] [TOPIC/PARTITION/OFFSET]", short: "what could not be decoded: look at it, write it to a topic again",
	help: `
A record, or an item of one, that could not be decoded is a dead letter: it stands in table
dead_letters with its place, the reason, what was wrong and what to do, and its bytes, in
which secrets are replaced and which are cut to 64 KiB.

  catena deadletters list                                  # how many, by topic and reason, with an example
  catena deadletters show okta/0/4711                      # one letter: where, why, its bytes
  catena deadletters redrive --reason unknown_format --dry-run
  catena deadletters redrive --reason unknown_format --topic okta

What to do about them: mend what writes the topic, or add a source for the format
(docs/sources.md) or raise a limit. Then the records have to be decoded again:

  catena backfill --topic okta --from …   reads them where they are. Nothing is written to a
                                          topic. Best while the broker still has them.
  catena deadletters redrive              writes them to their topic, or to --to, once more,
                                          where catena run reads them as new records.

redrive takes the original record from Kafka, by its place, if the broker still has it. If
not, it takes the kept bytes, but only where these are the whole record, unchanged: its hash
tells. What was cut or held a secret cannot be redriven then, and is counted as gone.
Letters whose record has become an action since are left out, unless --all.

Loop guard: a redriven record carries the header catena-redrives with a count; one that has
become a dead letter --max times (3) is refused. A record redriven is a new record at a new
place: the letter stays, and list counts it as mended once the record became an action.

Reasons: unknown_format, empty, malformed, too_large, too_deep, invalid_utf8, missing_field,
too_many_items, rejected (the database refused the row; see its error).

Exit code of redrive: 0 all were written, 3 some were refused or are gone.

The settings that apply: CATENA_CLICKHOUSE_…; for redrive CATENA_KAFKA_….`,
	run: runDeadletters,
}

// The headers of a redriven record.
const (
	headerRedrives    = "catena-redrives"     // how often it was redriven
	headerRedriveFrom = "catena-redrive-from" // topic/partition/offset of the letter
)

type letters struct {
	env   *environment
	cfg   *config
	store *clickhouse.Store
	which clickhouse.Letters

	json, dryRun bool
	limit        int
	to           string
	max          int
}

func runDeadletters(ctx context.Context, env *environment, c *command, args []string) error {
	var fs flag.FlagSet
	l := letters{env: env, which: clickhouse.AllLetters("")}
	fs.StringVar(&l.which.Topic, "topic", "", "only letters of this topic")
	fs.StringVar(&l.which.Reason, "reason", "", "only letters with this reason")
	since := fs.String("since", "", "only records that arrived since: a time such as 2026-03-02T08:00:00Z, or an age such as 24h")
	fs.IntVar(&l.limit, "limit", 0, "most letters to show or redrive; 0: all")
	format := fs.String("format", "text", "list, show: text or json")
	fs.BoolVar(&l.dryRun, "dry-run", false, "redrive: say what would be done, and write nothing")
	fs.StringVar(&l.to, "to", "", "redrive: topic to write to; the record's own if empty")
	fs.IntVar(&l.max, "max", 3, "redrive: how often one record may be redriven")
	all := fs.Bool("all", false, "redrive: also letters whose record has become an action since")
	rest, err := c.parse(env, &fs, args)
	if err != nil {
		return err
	}
	if len(rest) == 0 || !slices.Contains([]string{"list", "show", "redrive"}, rest[0]) {
		return usagef("want list, show or redrive")
	}
	verb := rest[0]
	if err := l.narrow(rest[1:]); err != nil {
		return err
	}
	when, err := parseWhen(*since, time.Now())
	l.which.SinceNanos = nanosOf(when)
	_, known := schemas.ParseDeadReason(l.which.Reason)
	switch {
	case err != nil:
		return usageError{err}
	case l.which.Reason != "" && !known:
		return usagef("--reason %q is none of the reasons that `catena deadletters --help` lists", l.which.Reason)
	case *format != "text" && *format != "json":
		return usagef("--format %q: want text or json", *format)
	case l.limit < 0 || l.max < 1:
		return usagef("--limit %d and --max %d: want no negative limit, and at least one redrive", l.limit, l.max)
	}
	l.json, l.which.Open = *format == "json", verb == "redrive" && !*all
	if l.cfg, err = loadConfig(env); err != nil {
		return err
	}
	if l.store, err = openStore(ctx, l.cfg); err != nil {
		return err
	}
	defer func() { _ = l.store.Close() }()
	switch verb {
	case "show":
		return l.show(ctx)
	case "redrive":
		return l.redrive(ctx)
	}
	return l.list(ctx)
}

// narrow takes a place: topic/partition/offset.
func (l *letters) narrow(args []string) error {
	if len(args) == 0 {
		return nil
	}
	if len(args) > 1 {
		return usagef("want one place, got %d", len(args))
	}
	parts := strings.Split(args[0], "/")
	if len(parts) != 3 {
		return usagef("%q is no place: want topic/partition/offset, as list prints it", args[0])
	}
	partition, err1 := strconv.ParseInt(parts[1], 10, 32)
	offset, err2 := strconv.ParseInt(parts[2], 10, 64)
	if err1 != nil || err2 != nil || partition < 0 || offset < 0 {
		return usagef("%q is no place: want topic/partition/offset, such as okta/0/4711", args[0])
	}
	l.which.Topic, l.which.Partition, l.which.Offset = parts[0], int32(partition), offset
	return nil
}

func (l *letters) list(ctx context.Context) error {
	counts, err := l.store.CountLetters(ctx, l.which)
	if err != nil {
		return err
	}
	if l.json {
		return l.listJSON(counts)
	}
	if len(counts) == 0 {
		fmt.Fprintln(l.env.stdout, "no dead letters")
		return nil
	}
	t := tabwriter.NewWriter(l.env.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "topic\treason\tletters\tmended\tfirst\tlast\texample\terror")
	for _, c := range counts {
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%s\t%s/%d/%d\t%s\n", c.Topic, c.Reason, c.Letters, c.Mended, moment(c.FirstMicros), moment(c.LastMicros),
			c.Topic, c.Partition, c.Offset, shorten(c.Error, 100))
	}
	return t.Flush()
}

func moment(micros int64) string {
	if micros == 0 {
		return "-"
	}
	return time.UnixMicro(micros).UTC().Format("2006-01-02 15:04:05")
}

func (l *letters) listJSON(counts []clickhouse.LetterCount) error {
	type line struct {
		Topic     string `json:"topic"`
		Reason    string `json:"reason"`
		Letters   int64  `json:"letters"`
		Mended    int64  `json:"mended"`
		First     string `json:"first"`
		Last      string `json:"last"`
		Partition int32  `json:"partition"`
		Offset    int64  `json:"offset"`
		Error     string `json:"error"`
	}
	lines := make([]line, len(counts))
	for i, c := range counts {
		lines[i] = line{c.Topic, c.Reason, c.Letters, c.Mended, moment(c.FirstMicros), moment(c.LastMicros), c.Partition, c.Offset, c.Error}
	}
	e := json.NewEncoder(l.env.stdout)
	e.SetIndent("", "  ")
	return e.Encode(lines)
}

// shownLetters is how many letters show prints without --limit.
const shownLetters = 10

func (l *letters) show(ctx context.Context) error {
	limit := l.limit
	if limit == 0 {
		limit = shownLetters
	}
	n := 0
	err := l.store.EachLetter(ctx, l.which, limit, func(d *schemas.DeadLetter) error {
		n++
		if l.json {
			return json.NewEncoder(l.env.stdout).Encode(jsonLetter(d))
		}
		l.print(d)
		return nil
	})
	if err != nil {
		return err
	}
	if n == 0 {
		return errors.New("no dead letter there; `catena deadletters list` says where there are some")
	}
	return nil
}

type shownLetter struct {
	Topic       string `json:"topic"`
	Partition   int32  `json:"partition"`
	Offset      int64  `json:"offset"`
	RecordIndex int32  `json:"record_index"`
	Reason      string `json:"reason"`
	Error       string `json:"error"`
	IngestedAt  string `json:"ingested_at"`
	RawSHA256   string `json:"raw_sha256"`
	Complete    bool   `json:"complete"` // the bytes are the whole record, unchanged
	Text        string `json:"text,omitempty"`
	Bytes       []byte `json:"bytes,omitempty"` // base64, where they are no text
}

func jsonLetter(d *schemas.DeadLetter) shownLetter {
	e := &d.Evidence
	s := shownLetter{Topic: e.Topic, Partition: e.Partition, Offset: e.Offset, RecordIndex: e.RecordIndex, Reason: d.Reason.String(), Error: d.Error,
		IngestedAt: moment(e.TimestampNanos / 1000), RawSHA256: hex.EncodeToString(e.RawSHA256[:]), Complete: complete(d)}
	if utf8.Valid(d.Bytes) {
		s.Text = string(d.Bytes)
	} else {
		s.Bytes = d.Bytes
	}
	return s
}

// complete reports whether a letter's bytes are the whole record, unchanged.
func complete(d *schemas.DeadLetter) bool {
	return sha256.Sum256(d.Bytes) == d.Evidence.RawSHA256
}

func (l *letters) print(d *schemas.DeadLetter) {
	e := &d.Evidence
	w := l.env.stdout
	fmt.Fprintf(w, "%s/%d/%d", e.Topic, e.Partition, e.Offset)
	if e.RecordIndex > 0 {
		fmt.Fprintf(w, "  item %d of the record", e.RecordIndex)
	}
	fmt.Fprintf(w, "\n  reason   %s\n  error    %s\n  arrived  %s\n  sha256   %x of the record\n", d.Reason, safe(d.Error), moment(e.TimestampNanos/1000), e.RawSHA256)
	what := "whole and unchanged"
	if !complete(d) {
		what = "a part of the record, or changed: secrets are replaced, long records cut"
	}
	fmt.Fprintf(w, "  bytes    %d, %s\n\n", len(d.Bytes), what)
	if printable(d.Bytes) {
		fmt.Fprintf(w, "%s\n\n", bytes.TrimRight(d.Bytes, "\n"))
	} else {
		fmt.Fprintf(w, "%s\n", hex.Dump(d.Bytes))
	}
}

// printable reports whether bytes are text that does a terminal no harm.
func printable(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	return !bytes.ContainsFunc(b, func(r rune) bool {
		return r < ' ' && r != '\n' && r != '\t' && r != '\r' || r >= 0x7f && r < 0xa0
	})
}

// redriving is one record to be written again.
type redriving struct {
	letter   schemas.DeadLetter
	record   *schemas.Record // from the broker; nil if it has it no longer
	redrives int             // so far
}

// redriveChunk is how many letters are held at a time; their records may have
// megabytes each.
const redriveChunk = 200

func (l *letters) redrive(ctx context.Context) error {
	reader, err := ingest.NewReader(ctx, l.cfg.cluster(newLog(l.env.stderr, l.cfg)))
	if err != nil {
		return err
	}
	defer reader.Close()
	var producer *ingest.Producer
	if !l.dryRun {
		if producer, err = ingest.NewProducer(ctx, ingest.ProducerOptions{Cluster: l.cfg.cluster(newLog(l.env.stderr, l.cfg))}); err != nil {
			return err
		}
		defer producer.Close()
	}
	r := redriver{letters: l, reader: reader, producer: producer}
	// The places first, then what stands there: writing to the topics that are
	// read at the same time must not make the list longer.
	var places []schemas.Evidence
	err = l.store.EachLetter(ctx, l.which, l.limit, func(d *schemas.DeadLetter) error {
		n := len(places)
		if n == 0 || places[n-1].Topic != d.Evidence.Topic || places[n-1].Partition != d.Evidence.Partition || places[n-1].Offset != d.Evidence.Offset {
			places = append(places, d.Evidence) // once a record
		}
		return nil
	})
	if err != nil {
		return err
	}
	for some := range slices.Chunk(places, redriveChunk) {
		if err := r.chunk(ctx, some); err != nil {
			return err
		}
	}
	verb := "redriven"
	if l.dryRun {
		verb = "would be redriven"
	}
	fmt.Fprintf(l.env.stdout, "%d %s, %d refused by the loop guard, %d gone\n", r.written, verb, r.refused, r.gone)
	if r.refused+r.gone > 0 {
		return exitError(exitFound)
	}
	return nil
}

type redriver struct {
	*letters
	reader                 *ingest.Reader
	producer               *ingest.Producer
	written, refused, gone int
}

func (r *redriver) chunk(ctx context.Context, places []schemas.Evidence) error {
	found := map[place]*redriving{}
	for _, p := range places {
		which := clickhouse.Letters{Topic: p.Topic, Partition: p.Partition, Offset: p.Offset}
		err := r.store.EachLetter(ctx, which, 1, func(d *schemas.DeadLetter) error {
			found[place{p.Topic, p.Partition, p.Offset}] = &redriving{letter: *d}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := r.fetch(ctx, found); err != nil {
		return err
	}
	for _, p := range places {
		if x := found[place{p.Topic, p.Partition, p.Offset}]; x != nil {
			if err := r.one(ctx, x); err != nil {
				return err
			}
		}
	}
	if r.producer != nil {
		return r.producer.Flush(ctx)
	}
	return nil
}

// near is how far two letters may lie apart for what is between them to be
// read along.
const near = 500

// fetch reads the records from the broker, as far as it still has them, a run
// of neighbours of each partition at a time.
func (r *redriver) fetch(ctx context.Context, wanted map[place]*redriving) error {
	offsets := map[ingest.Partition][]int64{}
	topics := map[string]bool{}
	for p := range wanted {
		part := ingest.Partition{Topic: p.topic, Partition: p.partition}
		offsets[part] = append(offsets[part], p.offset)
		topics[p.topic] = true
	}
	var names []string
	for name := range topics {
		names = append(names, name)
	}
	logs, err := r.reader.Ranges(ctx, names...)
	if err != nil {
		return err
	}
	for part := range offsets {
		log := logs[part]
		offsets[part] = slices.DeleteFunc(offsets[part], func(o int64) bool { return o < log.From || o >= log.To })
		slices.Sort(offsets[part])
	}
	for {
		wave := map[ingest.Partition]ingest.LogRange{}
		for part, left := range offsets {
			if len(left) == 0 {
				continue
			}
			n := 1
			for n < len(left) && left[n]-left[n-1] <= near {
				n++
			}
			wave[part] = ingest.LogRange{From: left[0], To: left[n-1] + 1}
			offsets[part] = left[n:]
		}
		if len(wave) == 0 {
			return nil
		}
		err := r.reader.Read(ctx, wave, 1000, func(records []schemas.Record, _ []ingest.Gap) error {
			for i := range records {
				rec := records[i]
				if x := wanted[place{rec.Topic, rec.Partition, rec.Offset}]; x != nil && sameRecord(&x.letter, rec.Value) {
					x.record = &rec
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// sameRecord reports whether a record is that of a letter: after a topic was
// deleted and made anew another has its place. Letters of rows that the
// database refused may have no hash.
func sameRecord(d *schemas.DeadLetter, value []byte) bool {
	return d.Evidence.RawSHA256 == [32]byte{} || sha256.Sum256(value) == d.Evidence.RawSHA256
}

// one writes a record again, or says why not.
func (r *redriver) one(ctx context.Context, x *redriving) error {
	e := &x.letter.Evidence
	at := fmt.Sprintf("%s/%d/%d", e.Topic, e.Partition, e.Offset)
	rec := schemas.Record{Topic: e.Topic}
	source := "kafka"
	switch {
	case x.record != nil:
		rec.Key, rec.Value, rec.Headers = x.record.Key, x.record.Value, x.record.Headers
	case e.RecordIndex == 0 && complete(&x.letter):
		rec.Value, source = x.letter.Bytes, "kept bytes"
	default:
		r.gone++
		fmt.Fprintf(r.env.stdout, "gone     %s  %s  the broker no longer has it, and the kept bytes are not the whole record\n", at, x.letter.Reason)
		return nil
	}
	if err := r.countRedrives(ctx, x, rec.Headers); err != nil {
		return err
	}
	if x.redrives >= r.max {
		r.refused++
		fmt.Fprintf(r.env.stdout, "refused  %s  %s  it has been redriven %d times and is a dead letter still: mend what writes it, or the source; --max raises the limit\n", at, x.letter.Reason, x.redrives)
		return nil
	}
	if r.to != "" {
		rec.Topic = r.to
	}
	rec.Headers = slices.DeleteFunc(slices.Clone(rec.Headers), func(h schemas.Header) bool { return h.Key == headerRedrives || h.Key == headerRedriveFrom })
	rec.Headers = append(rec.Headers, schemas.Header{Key: headerRedrives, Value: strconv.AppendInt(nil, int64(x.redrives+1), 10)},
		schemas.Header{Key: headerRedriveFrom, Value: []byte(at)})
	r.written++
	verb := "redriven"
	if r.dryRun {
		verb = "would"
	}
	fmt.Fprintf(r.env.stdout, "%-8s %s  %s  to %s, %d bytes from %s, redrive %d\n", verb, at, x.letter.Reason, rec.Topic, len(rec.Value), source, x.redrives+1)
	if r.dryRun {
		return nil
	}
	return r.producer.Produce(ctx, rec)
}

// countRedrives: by its header, or, where the header is gone with the record,
// by the letters that the same bytes have left at other places.
func (r *redriver) countRedrives(ctx context.Context, x *redriving, headers []schemas.Header) error {
	for _, h := range headers {
		if h.Key == headerRedrives {
			n, err := strconv.Atoi(string(h.Value))
			if err != nil || n < 0 {
				n = r.max // no number of ours: take no risk
			}
			x.redrives = max(x.redrives, n)
		}
	}
	if x.record != nil {
		return nil
	}
	n, err := r.store.SameRecord(ctx, x.letter.Evidence.RawSHA256)
	x.redrives = max(x.redrives, n-1)
	return err
}
