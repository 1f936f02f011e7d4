package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"catena/correlate"
	"catena/ingest"
	"catena/schemas"
	"catena/sinks"
	"catena/sinks/clickhouse"
)

var backfillCommand = command{
	name: "backfill", args: "--topic TOPIC [flags]", short: "read offsets or a time again, beside the consumer group, without spoiling a row",
	help: `
Reads a range of topics straight from the partitions: no consumer group, no commits, and
catena run goes on undisturbed. For what was never read (a topic's past, offsets that verify
calls missing), for what was read before a source or a setting was right, and for evidence
that came too late.

  catena backfill --topic okta --since 720h                      # all that arrived in 30 days
  catena backfill --topic cloudtrail --partition 3 --from 120000 --to 130000
  catena backfill --topic okta,cloudtrail --rate 20000 --dry-run

What it does to rows, which have the ids that catena run gives them:

  - an event that has no row gets one, with the lowest version there is: whatever catena run
    writes of it wins.
  - a row that is final (behind the watermark and CATENA_ALLOWED_LATENESS) is written again
    only if it comes out better: at no lower grade, or with a path that goes on from where it
    ended, and with nothing lost that was known. That also goes for rows of other topics
    that rest on what is read.
  - a row that is not final belongs to catena run and is never touched.

Each record's keys are looked up in the tables first, so a record read alone is attributed
as well as with all that came before it. That takes time: expect some thousand records a
second, and less on large tables. --rate bounds it, so that the database has room for
catena run.

Without --to and --until it reads up to where catena run has come. It notes how far it has
come in table backfills: the same command goes on where it was stopped, --restart begins
again. Instances that are running hear of the bindings that it finds if CATENA_SHARE_TOPIC
is set; else they see them after a restart. At the end it proves, as verify does, that
every offset of the range is accounted for.

Exit code: 0 done, 1 stopped or failed (run it again), 3 done, and offsets of the range are
still missing.

The settings that apply: those of catena run.`,
	run: runBackfill,
}

// backfill is one run of the command.
type backfill struct {
	stitcher
	env   *environment
	cfg   *config
	store *clickhouse.Store
	write *sinks.Writer
	share *sharing

	name    string
	dryRun  bool
	rate    int
	cursors map[ingest.Partition]*clickhouse.Cursor

	began, told         time.Time
	total, before, read int64 // offsets: of all ranges, done by runs before, done now
	records             int64
	result              backfilled
}

// backfilled counts what became of it.
type backfilled struct {
	Added, Improved, Same, Lower, Open int64 // rows
	Bindings, DeadLetters, Expired     int64
}

func runBackfill(ctx context.Context, env *environment, c *command, args []string) error {
	var fs flag.FlagSet
	topics := fs.String("topic", "", "topics to read, comma separated")
	partition := fs.Int("partition", -1, "only this partition, of one topic")
	from := fs.Int64("from", 0, "first offset of --partition")
	to := fs.Int64("to", 0, "offset behind the last of --partition; 0: up to where catena run has come")
	since := fs.String("since", "", "only records that arrived since: a time such as 2026-03-02T08:00:00Z, or an age such as 24h")
	until := fs.String("until", "", "only records that arrived before: a time or an age")
	rate := fs.Int("rate", 0, "most records a second; 0: no limit")
	restart := fs.Bool("restart", false, "begin again, where an earlier run of the same command was stopped")
	dryRun := fs.Bool("dry-run", false, "read, decode and attribute, say what would become of it, and write nothing")
	rest, err := c.parse(env, &fs, args)
	if err != nil {
		return err
	}
	now := time.Now()
	after, err1 := parseWhen(*since, now)
	before, err2 := parseWhen(*until, now)
	names := slices.DeleteFunc(strings.Split(*topics, ","), func(s string) bool { return s == "" })
	switch {
	case len(rest) > 0:
		return usagef("unexpected argument %q", rest[0])
	case errors.Join(err1, err2) != nil:
		return usageError{errors.Join(err1, err2)}
	case len(names) == 0:
		return usagef("--topic is not given: name the topics to read, comma separated")
	case *partition >= 0 && len(names) > 1:
		return usagef("--partition is of one topic, and --topic names %d", len(names))
	case *partition < 0 && (*from != 0 || *to != 0):
		return usagef("--from and --to are offsets of one partition: name it with --partition")
	case *to != 0 && *to <= *from || *from < 0:
		return usagef("--from %d and --to %d are no range", *from, *to)
	case *rate < 0:
		return usagef("--rate %d is negative", *rate)
	}
	cfg, err := loadConfig(env)
	if err != nil {
		return err
	}
	if cfg.HMACKey == "" {
		return usagef("CATENA_HMAC_KEY: is not set; it must be that of catena run, or the same secret has two hashes")
	}
	b := &backfill{env: env, cfg: cfg, dryRun: *dryRun, rate: *rate, cursors: map[ingest.Partition]*clickhouse.Cursor{},
		name: fmt.Sprintf("%s partition=%d from=%d to=%d since=%s until=%s", strings.Join(names, ","), *partition, *from, *to, *since, *until)}
	if err := b.open(ctx); err != nil {
		return err
	}
	defer b.close()
	reader, err := ingest.NewReader(ctx, cfg.cluster(cfg.log))
	if err != nil {
		return err
	}
	defer reader.Close()
	resumed, err := b.resume(ctx, *restart)
	if err != nil {
		return err
	}
	if !resumed {
		want := backfillRange{topics: names, partition: *partition, from: *from, to: *to, since: after, until: before}
		if err := b.plan(ctx, reader, want); err != nil {
			return err
		}
	}
	return b.run(ctx, reader, resumed)
}

// open connects, and makes a correlator that takes nothing for granted.
func (b *backfill) open(ctx context.Context) error {
	reg, err := b.cfg.openRegistry(ctx, b.cfg.log)
	if err != nil {
		return err
	}
	if b.stitcher, err = newStitcher(b.cfg, reg); err != nil {
		return err
	}
	settings := b.cfg.correlator()
	settings.Lookup, settings.Reread, settings.AllowedLateness = true, true, correlate.Forever
	settings.Share = b.cfg.ShareTopic != ""
	b.engine = correlate.New(settings)
	if b.store, err = openStore(ctx, b.cfg); err != nil {
		return err
	}
	pending, err := b.store.Pending(ctx)
	if err == nil && len(pending) > 0 {
		err = fmt.Errorf("the database lacks %s: run catena migrate first", strings.Join(pending, ", "))
	}
	if err == nil && !b.dryRun {
		b.share, err = openSharing(ctx, b.cfg, b.cfg.log)
	}
	if err != nil {
		return errors.Join(err, b.store.Close())
	}
	b.write = sinks.NewWriter(b.store, sinks.Options{MaxRows: b.cfg.BatchRows, Log: b.cfg.log})
	return nil
}

func (b *backfill) close() {
	ctx, cancel := context.WithTimeout(context.Background(), b.cfg.Drain)
	defer cancel()
	hangUp := b.share.close(b.cfg.Drain)
	_ = b.write.Close(ctx) // what was not written was not noted as done
	hangUp()
	_ = b.store.Close()
}

// resume takes up what an earlier run of the same command has left.
func (b *backfill) resume(ctx context.Context, restart bool) (bool, error) {
	if restart || b.dryRun {
		return false, nil
	}
	cursors, err := b.store.LoadBackfill(ctx, b.name)
	if err != nil {
		return false, err
	}
	left := false
	for i := range cursors {
		left = left || cursors[i].Next < cursors[i].To
	}
	if !left {
		return false, nil
	}
	for i := range cursors {
		b.cursors[ingest.Partition{Topic: cursors[i].Topic, Partition: cursors[i].Partition}] = &cursors[i]
	}
	return true, nil
}

// backfillRange is what was asked for.
type backfillRange struct {
	topics       []string
	partition    int
	from, to     int64
	since, until time.Time
}

// plan turns what was asked for into offsets that the broker has.
func (b *backfill) plan(ctx context.Context, reader *ingest.Reader, want backfillRange) error {
	logs, err := reader.Ranges(ctx, want.topics...)
	if err != nil {
		return err
	}
	for _, topic := range want.topics {
		some := false
		for p := range logs {
			some = some || p.Topic == topic && (want.partition < 0 || int(p.Partition) == want.partition)
		}
		if !some {
			return fmt.Errorf("topic %s does not exist at %s, or has no such partition; check --topic, --partition and CATENA_KAFKA_BROKERS", topic, strings.Join(b.cfg.KafkaBrokers, ","))
		}
	}
	maps.DeleteFunc(logs, func(p ingest.Partition, _ ingest.LogRange) bool {
		return want.partition >= 0 && int(p.Partition) != want.partition
	})
	if want.to == 0 && want.until.IsZero() {
		progress, err := b.store.LoadProgress(ctx)
		if err != nil {
			return err
		}
		for _, pr := range progress { // the rest catena run will read
			p := ingest.Partition{Topic: pr.Topic, Partition: pr.Partition}
			if r, ok := logs[p]; ok {
				r.To = min(r.To, pr.Offset)
				logs[p] = r
			}
		}
	}
	if logs, err = ingest.LogRangesAt(ctx, b.cfg.cluster(b.cfg.log), logs, want.since, want.until); err != nil {
		return err
	}
	for p, r := range logs {
		r.From = max(r.From, want.from)
		if want.to != 0 {
			r.To = min(r.To, want.to)
		}
		if r.From < r.To {
			b.cursors[p] = &clickhouse.Cursor{Range: clickhouse.Range{Topic: p.Topic, Partition: p.Partition, From: r.From, To: r.To}, Next: r.From}
		}
	}
	return nil
}

// chunkRecords is how many records are looked up at a time.
const chunkRecords = 5000

func (b *backfill) run(ctx context.Context, reader *ingest.Reader, resumed bool) error {
	ranges := map[ingest.Partition]ingest.LogRange{}
	for p, c := range b.cursors {
		b.total += c.To - c.From
		b.before += c.Next - c.From
		ranges[p] = ingest.LogRange{From: c.Next, To: c.To}
	}
	if b.total == 0 {
		fmt.Fprintln(b.env.stdout, "the broker has no records in that range")
		return nil
	}
	from := ""
	if resumed {
		from = fmt.Sprintf(", of which %d are done: going on (--restart begins again)", b.before)
	}
	fmt.Fprintf(b.env.stdout, "%d offsets in %d partitions%s\n", b.total, len(b.cursors), from)
	if !b.dryRun {
		if err := b.store.SaveBackfill(ctx, b.name, b.all()); err != nil {
			return err
		}
	}
	b.began, b.told = time.Now(), time.Now()
	size := chunkRecords
	if b.rate > 0 {
		size = min(size, max(100, b.rate))
	}
	err := reader.Read(ctx, ranges, size, func(records []schemas.Record, gaps []ingest.Gap) error {
		if err := b.chunk(ctx, records, gaps); err != nil {
			return err
		}
		b.tell(false)
		return b.pace(ctx)
	})
	b.tell(true)
	if err != nil {
		if !b.dryRun {
			err = fmt.Errorf("stopped after %d of %d offsets; the same command goes on from there: %w", b.before+b.read, b.total, err)
		}
		return err
	}
	return b.finish(ctx)
}

// pace keeps to the rate.
func (b *backfill) pace(ctx context.Context) error {
	if b.rate == 0 {
		return ctx.Err()
	}
	due := b.began.Add(time.Duration(float64(b.records) / float64(b.rate) * float64(time.Second)))
	select {
	case <-time.After(time.Until(due)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tell prints how far it has come: a line that is written over on a terminal,
// else a line every ten seconds.
func (b *backfill) tell(last bool) {
	every := 10 * time.Second
	if b.env.terminal {
		every = 200 * time.Millisecond
	}
	if now := time.Now(); !last && now.Sub(b.told) < every {
		return
	}
	b.told = time.Now()
	done := b.before + b.read
	rate := float64(b.read) / max(0.001, time.Since(b.began).Seconds())
	left := time.Duration(float64(b.total-done) / max(rate, 0.001) * float64(time.Second)).Round(time.Second)
	r := &b.result
	line := fmt.Sprintf("%3d%%  %d of %d offsets, %.0f/s, %s left; rows: %d added, %d improved, %d as they were",
		done*100/b.total, done, b.total, rate, left, r.Added, r.Improved, r.Same+r.Lower+r.Open)
	if !b.env.terminal {
		fmt.Fprintln(b.env.stdout, line)
		return
	}
	const width = 24
	filled := int(done * width / b.total)
	end := ""
	if last {
		end = "\n"
	}
	fmt.Fprintf(b.env.stdout, "\r[%s%s] %s\x1b[K%s", strings.Repeat("#", filled), strings.Repeat(".", width-filled), line, end)
}

// finish says what became of it, and proves it.
func (b *backfill) finish(ctx context.Context) error {
	r := &b.result
	did := [...]string{"added", "improved"}
	if b.dryRun {
		did = [...]string{"would be added", "would be improved"}
	}
	fmt.Fprintf(b.env.stdout, "%d records: %d rows %s, %d %s, %d are as they were; %d bindings, %d dead letters\n",
		b.records, r.Added, did[0], r.Improved, did[1], r.Same, r.Bindings, r.DeadLetters)
	if r.Open > 0 {
		fmt.Fprintf(b.env.stdout, "%d rows are not final yet and were left to catena run\n", r.Open)
	}
	if r.Lower > 0 {
		fmt.Fprintf(b.env.stdout, "%d rows came out no better and were left as they are\n", r.Lower)
	}
	if r.Expired > 0 {
		fmt.Fprintf(b.env.stdout, "%d offsets were deleted by retention before they were read\n", r.Expired)
	}
	if b.dryRun {
		return nil
	}
	var ranges []clickhouse.Range
	for _, c := range b.all() {
		ranges = append(ranges, c.Range)
	}
	accounts, err := b.store.Prove(ctx, ranges)
	if err != nil {
		return err
	}
	var missing int64
	for i := range accounts {
		missing += accounts[i].Missing
	}
	if missing > 0 {
		fmt.Fprintf(b.env.stdout, "%d items of the range are missing; catena verify says which\n", missing)
		return exitError(exitFound)
	}
	fmt.Fprintf(b.env.stdout, "all %d offsets are accounted for\n", b.total)
	return nil
}

// all returns the cursors in the order of partitions.
func (b *backfill) all() []clickhouse.Cursor {
	var all []clickhouse.Cursor
	for _, c := range b.cursors {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(x, y clickhouse.Cursor) int {
		return cmp.Or(strings.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
	})
	return all
}

// chunk takes records through the path: looked up, attributed, written, noted.
func (b *backfill) chunk(ctx context.Context, records []schemas.Record, gaps []ingest.Gap) error {
	var batch sinks.Batch
	if err := b.decode(records); err != nil {
		return err
	}
	if err := b.attribute(ctx, &batch); err != nil {
		return err
	}
	if err := b.choose(ctx, &batch); err != nil {
		return err
	}
	for _, g := range gaps {
		if g.Expired {
			b.result.Expired += g.Next - g.From
			continue
		}
		b.ledger.gap(g.Partition, g.From, g.Next, schemas.SkipAbsent)
	}
	b.ledger.known(b.progress())
	next := b.ledger.account(records, &batch)
	for _, g := range gaps {
		next[g.Partition] = max(next[g.Partition], g.Next)
	}
	b.records += int64(len(records))
	b.result.Bindings += int64(len(batch.Bindings))
	b.result.DeadLetters += int64(len(batch.DeadLetters))
	if !b.dryRun {
		if err := b.write.Append(&batch); err != nil {
			return err
		}
		if err := b.write.Flush(ctx); err != nil {
			return err
		}
		if err := b.share.flush(ctx); err != nil {
			return err
		}
	}
	for p, at := range next {
		if c := b.cursors[p]; c != nil {
			b.read += min(at, c.To) - c.Next
			c.Next = min(at, c.To)
		}
	}
	if b.dryRun {
		return nil
	}
	// What is written is noted even when asked to stop.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.cfg.Drain)
	defer cancel()
	return b.store.SaveBackfill(ctx, b.name, b.all())
}

// progress makes the ledger take all partitions for begun: where a backfill
// begins is not where reading began.
func (b *backfill) progress() []schemas.Progress {
	var all []schemas.Progress
	for p := range b.cursors {
		all = append(all, schemas.Progress{Topic: p.Topic, Partition: p.Partition})
	}
	return all
}

// maxRounds bounds how often the tables are asked for a chunk: each round asks
// for what the one before has brought up. What is left is asked for with the
// next chunk.
const maxRounds = 24

// attribute correlates the decoded events with all that the tables know of
// their keys, and gathers what the engine says.
func (b *backfill) attribute(ctx context.Context, batch *sinks.Batch) error {
	var wanted []schemas.Key
	since := int64(math.MaxInt64)
	hear := func() {
		b.gather(batch)
		b.share.tell(&b.out)
		wanted = append(wanted, b.out.Wanted...)
		if b.out.WantedSince != 0 {
			since = min(since, b.out.WantedSince)
		}
	}
	if b.share != nil {
		bindings, actions := b.share.hear()
		b.out.Reset()
		b.engine.Learn(&b.out, bindings, actions)
		hear()
	}
	for i := range b.decoded {
		for j := range b.decoded[i].Events {
			since = min(since, b.decoded[i].Events[j].TimeNanos)
		}
		ids, first, last := b.engine.Unknown(nil, b.decoded[i].Events)
		if len(ids) == 0 {
			continue
		}
		rows, err := b.store.LoadEvents(ctx, ids, first, last)
		if err != nil {
			return err
		}
		b.out.Reset()
		b.engine.Remember(&b.out, rows)
		hear()
	}
	b.correlate(batch)
	b.share.tell(&b.out)
	wanted = append(wanted, b.out.Wanted...)
	if b.out.WantedSince != 0 {
		since = min(since, b.out.WantedSince)
	}
	if err := b.callBelow(ctx, batch.Bindings, since, hear); err != nil {
		return err
	}
	for round := 0; len(wanted) > 0 && round < maxRounds; round++ {
		keys := wanted
		wanted = nil
		bindings, actions, err := b.store.Recall(ctx, keys, since)
		if err != nil {
			return err
		}
		b.out.Reset()
		b.engine.Found(&b.out, keys, bindings, actions)
		hear()
	}
	return nil
}

// maxBelow bounds how many keys below new bindings are looked up for a chunk.
const maxBelow = 20_000

// callBelow brings back the rows that rest on keys below what was bound, since
// a row whose path in the table goes another way does not name the new key, and
// those that look down on it.
func (b *backfill) callBelow(ctx context.Context, bindings []schemas.Binding, since int64, hear func()) error {
	var made, above []schemas.Key
	seen := map[schemas.Key]bool{}
	for i := range bindings {
		k := bindings[i].Child
		if !seen[k] {
			seen[k] = true
			made = append(made, k)
		}
		// Rows look down from a person for a login, and from a workload for its
		// addresses.
		p := bindings[i].Parent
		if !seen[p] && (bindings[i].Relation == schemas.RelationAuthenticated || k.Kind == schemas.KindWorkload && k.Namespace == "ip") {
			seen[p] = true
			above = append(above, p)
		}
	}
	below, err := b.store.DrivenBy(ctx, made, maxBelow)
	if err != nil {
		return err
	}
	if below = append(below, above...); len(below) == 0 {
		return nil
	}
	known, rows, err := b.store.Recall(ctx, below, since)
	if err != nil {
		return err
	}
	b.out.Reset()
	b.engine.Restore(&b.out, known, nil)
	hear()
	b.out.Reset()
	b.engine.Remember(&b.out, rows)
	hear()
	return nil
}

// choose keeps of the rows those that may be written, and says of the places
// of all others where their row is.
func (b *backfill) choose(ctx context.Context, batch *sinks.Batch) error {
	newest := map[schemas.ID]*schemas.Action{}
	var order []schemas.ID
	var ids []schemas.ID
	first, last := int64(math.MaxInt64), int64(math.MinInt64)
	note := func(id schemas.ID, nanos int64) {
		ids = append(ids, id)
		first, last = min(first, nanos), max(last, nanos)
	}
	for _, a := range batch.Actions {
		if newest[a.ID] == nil {
			order = append(order, a.ID)
			note(a.ID, a.TimeNanos)
		}
		newest[a.ID] = a
	}
	b.eachEvent(func(ev *schemas.Event) {
		if newest[ev.ID] == nil {
			note(ev.ID, ev.TimeNanos)
		}
	})
	batch.Actions = batch.Actions[:0]
	batch.Skips = slices.DeleteFunc(batch.Skips, func(s schemas.Skip) bool { return s.Name == schemas.SkipDuplicate })
	if len(ids) == 0 {
		return nil
	}
	rows, err := b.store.LoadEvents(ctx, ids, first, last)
	if err != nil {
		return err
	}
	watermark, err := b.store.Watermark(ctx)
	if err != nil {
		return err
	}
	final := watermark
	if watermark != math.MaxInt64 {
		final -= int64(b.cfg.AllowedLateness)
	}
	kept := map[schemas.ID]schemas.Evidence{}
	existing := map[schemas.ID]*schemas.Action{}
	for _, a := range rows {
		existing[a.ID], kept[a.ID] = a, a.Evidence
	}
	for _, id := range order {
		a, was := newest[id], existing[id]
		switch {
		case was == nil:
			b.result.Added++
		case same(was, a):
			b.result.Same++
			continue
		case max(was.TimeNanos, was.EndedNanos) >= final:
			b.result.Open++
			continue
		case !better(was, a):
			b.result.Lower++
			continue
		default:
			// Within the ownership of the row's writer: if that learns more later,
			// it goes on from this version.
			row := *a
			row.Version = max(a.Version, was.Version+1)
			a = &row
			b.result.Improved++
			if was.Evidence != a.Evidence {
				b.ledger.duplicates([]correlate.Duplicate{{Event: id, At: was.Evidence}}, batch)
			}
		}
		kept[id] = a.Evidence
		batch.Actions = append(batch.Actions, a)
	}
	b.eachEvent(func(ev *schemas.Event) {
		at, ok := kept[ev.ID]
		if ok && newest[ev.ID] == nil {
			b.result.Same++ // nothing was to be said of it
			newest[ev.ID] = existing[ev.ID]
		}
		if ok && (at.Topic != ev.Evidence.Topic || at.Partition != ev.Evidence.Partition || at.Offset != ev.Evidence.Offset || at.RecordIndex != ev.Evidence.RecordIndex) {
			b.ledger.duplicates([]correlate.Duplicate{{Event: ev.ID, At: ev.Evidence}}, batch)
		}
	})
	return nil
}

// eachEvent calls f with the events of the chunk that are rows.
func (b *backfill) eachEvent(f func(*schemas.Event)) {
	for i := range b.decoded {
		for j := range b.decoded[i].Events {
			if ev := &b.decoded[i].Events[j]; ev.BindOnly == "" {
				f(ev)
			}
		}
	}
}

// same reports whether two rows say the same.
func same(was, now *schemas.Action) bool {
	a, b := *was, *now
	a.Version, b.Version = 0, 0
	a.Makes, a.Ends, b.Makes, b.Ends = nil, nil, nil, nil // not in the table
	a.Evidence.RawSHA256, a.Evidence.TimestampNanos = b.Evidence.RawSHA256, b.Evidence.TimestampNanos
	return allSaid(&a) == allSaid(&b)
}

// allSaid is all of a row that attribution may change, and where it lies.
func allSaid(a *schemas.Action) string {
	return fmt.Sprint(a.Grade, a.Reason, a.ChainID, a.Root, a.RootName, a.Hops, a.Depth, a.Frontier, a.CauseID, a.CauseGrade, a.Candidates,
		a.GrantID, a.PolicyDecision, a.PolicyID, a.AuthMethod, a.MFA, a.Flags, a.Evidence.Topic, a.Evidence.Partition, a.Evidence.Offset, a.Evidence.RecordIndex)
}

// better reports whether a row may take the place of one that stands. It may
// if its path goes on from where the other ended, even if the further steps are
// weaker and the grade falls: the person above a proven workload is inferred.
// Else its grade must not fall. In no case may something be lost that was known.
func better(was, now *schemas.Action) bool {
	keeps := func(had, has bool) bool { return has || !had }
	return (now.Grade >= was.Grade || goesOn(was.Hops, now.Hops)) &&
		keeps(!was.Root.IsZero(), !now.Root.IsZero() && now.Depth >= was.Depth && len(now.Hops) >= len(was.Hops)) &&
		now.CauseGrade >= was.CauseGrade && now.PolicyDecision >= was.PolicyDecision &&
		keeps(was.GrantID != "", now.GrantID != "") && keeps(was.MFA != schemas.MFAUnknown, now.MFA != schemas.MFAUnknown) &&
		keeps(was.AuthMethod != "", now.AuthMethod != "") && keeps(was.RootName != "", now.RootName != "") &&
		keeps(len(was.Candidates) > 0, len(now.Candidates) > 0 || now.Grade > was.Grade) &&
		was.Flags&^now.Flags == 0
}

// goesOn reports whether a path is the end of a longer one.
func goesOn(was, now []schemas.Hop) bool {
	was = slices.DeleteFunc(slices.Clone(was), func(h schemas.Hop) bool { return h.Lent })
	if len(was) == 0 || len(now) <= len(was) {
		return false
	}
	return slices.EqualFunc(was, now[len(now)-len(was):], func(a, b schemas.Hop) bool { return a.Key == b.Key })
}
