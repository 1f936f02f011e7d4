package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"catena/ingest"
	"catena/schemas"
	"catena/sinks/clickhouse"
)

var verifyCommand = command{
	name: "verify", args: "[flags]", short: "prove that no offset is missing and nothing is counted twice",
	help: `
Every record that catena reads ends as rows: each of its items is an action, a dead letter
or a named skip. verify proves it from the tables, for every partition up to its progress:

  in = actions + dead letters + skips - again

where in counts the items of all offsets, and again what was accounted for twice on
purpose: a dead letter or a skip that became an action when it was read once more. It also
proves that no event has two live rows, that chains is the grouping of actions, and that
the event behind every binding is in the tables. With --kafka it asks the brokers where
their logs begin and end and what the group has committed.

What it may find:
  missing       items of an offset without any account: they are lost to the tables.
                catena backfill reads them again while the broker has them
  lost          retention deleted records before they were read: gone for good
  twice         two live actions name one place; after a topic was deleted and made anew,
                offsets come again, and the records' hashes differ
  conflict      an action and a duplicate name one place
  surplus       rows of items that the record no longer has, decoded by an older catena
  event_twice   one event has two rows that no merge makes one
  chain         a chain's row is not the grouping of its actions
  proof         a binding names an event that is not in the tables
  expiring      (--kafka) deleted by retention and not read yet: will be lost
  log_shorter   (--kafka) the broker's log ends before what the tables have

Names of skips: those of the sources (plain_span, …), plain_log, duplicate (the event's row
names another place), absent (the broker has no record there: compacted away, aborted, a
transaction's marker), lost, unreadable, before_start (below where reading began).

Cost: one pass over the place columns of actions, dead_letters, skips and item_counts, and
some passes over ids in parts of four million; the memory it takes, here and in the server,
does not grow with the tables. --offsets-only leaves the ids out.

With CATENA_RETENTION, rows expire by the event's time: proved is what arrived within nine
tenths of it. Events that were older than that when they arrived look as if they were missing.

Exit code: 0 clean, 3 something was found. catena may go on running meanwhile.

  catena verify
  catena verify --since 24h --kafka
  catena verify --topic cloudtrail --partition 3 --from 120000 --to 130000
  catena verify --watch 30s                    # prints what changes; Ctrl-C ends it
  catena verify --format json | jq '.findings[]'

The settings that apply: CATENA_CLICKHOUSE_…; with --kafka CATENA_KAFKA_….`,
	run: runVerify,
}

func runVerify(ctx context.Context, env *environment, c *command, args []string) error {
	var fs flag.FlagSet
	v := verifier{env: env}
	since := fs.String("since", "", "only records that arrived since: a time such as 2026-03-02T08:00:00Z, or an age such as 24h")
	until := fs.String("until", "", "only records that arrived before: a time or an age")
	fs.StringVar(&v.topic, "topic", "", "only this topic")
	fs.IntVar(&v.partition, "partition", -1, "only this partition of --topic")
	fs.Int64Var(&v.from, "from", 0, "first offset of --partition")
	fs.Int64Var(&v.to, "to", 0, "offset behind the last of --partition; 0: up to its progress")
	format := fs.String("format", "text", "text or json")
	watch := fs.Duration("watch", 0, "verify again each so often, and print what changes")
	fs.BoolVar(&v.kafka, "kafka", false, "compare with the brokers, too")
	fs.BoolVar(&v.offsetsOnly, "offsets-only", false, "only the offsets: no events, chains and bindings")
	rest, err := c.parse(env, &fs, args)
	if err != nil {
		return err
	}
	now := time.Now()
	if v.since, err = parseWhen(*since, now); err == nil {
		v.until, err = parseWhen(*until, now)
	}
	switch {
	case err != nil:
		return usageError{err}
	case len(rest) > 0:
		return usagef("unexpected argument %q", rest[0])
	case *format != "text" && *format != "json":
		return usagef("--format %q: want text or json", *format)
	case v.partition >= 0 && v.topic == "":
		return usagef("--partition without --topic")
	case (v.from != 0 || v.to != 0) && v.partition < 0:
		return usagef("--from and --to are offsets of one partition: name it with --topic and --partition")
	case v.to != 0 && v.to <= v.from:
		return usagef("--to %d is not behind --from %d", v.to, v.from)
	case *watch < 0:
		return usagef("--watch %v is negative", *watch)
	}
	v.json = *format == "json"
	if v.cfg, err = loadConfig(env); err != nil {
		return err
	}
	if v.store, err = openStore(ctx, v.cfg); err != nil {
		return err
	}
	defer func() { _ = v.store.Close() }()
	if *watch > 0 {
		return v.watch(ctx, *watch)
	}
	r, err := v.verify(ctx)
	if err != nil {
		return err
	}
	return v.print(r)
}

// parseWhen reads a time or an age; empty is the zero time.
func parseWhen(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if age, err := time.ParseDuration(s); err == nil {
		return now.Add(-age), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is neither a time such as 2026-03-02T08:00:00Z nor an age such as 24h", s)
}

// verifier is one run of the command.
type verifier struct {
	env   *environment
	cfg   *config
	store *clickhouse.Store

	topic       string
	partition   int
	from, to    int64
	since       time.Time
	until       time.Time
	kafka, json bool
	offsetsOnly bool
	kept        time.Duration // if retention narrows what is proved
}

// verification is what one round found.
type verification struct {
	At         time.Time       `json:"at"`
	Seconds    float64         `json:"seconds"`
	Clean      bool            `json:"clean"`
	Partitions []partitionLine `json:"partitions"`
	Findings   []finding       `json:"findings"`
}

// partitionLine is the account of one partition.
type partitionLine struct {
	Topic       string           `json:"topic"`
	Partition   int32            `json:"partition"`
	From        int64            `json:"from"`
	To          int64            `json:"to"`
	In          int64            `json:"in"`
	Actions     int64            `json:"actions"`
	DeadLetters int64            `json:"dead_letters"`
	Skips       map[string]int64 `json:"skips"`
	Again       int64            `json:"again"`
	Missing     int64            `json:"missing"`
	LogStart    *int64           `json:"log_start,omitempty"`
	LogEnd      *int64           `json:"log_end,omitempty"`
	Committed   *int64           `json:"committed,omitempty"`
	Lag         *int64           `json:"lag,omitempty"` // records that the tables do not have yet
}

// finding is one thing that is wrong.
type finding struct {
	Kind      string `json:"kind"`
	Topic     string `json:"topic,omitempty"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from,omitempty"`
	To        int64  `json:"to,omitempty"`
	Count     int64  `json:"count,omitempty"`
	ID        string `json:"id,omitempty"` // of an event or a chain
	Detail    string `json:"detail"`
}

// verify proves, and proves once more if something was found: what is written
// between two statements looks like a fault for a moment.
func (v *verifier) verify(ctx context.Context) (*verification, error) {
	began := time.Now()
	r, err := v.once(ctx)
	for range 2 {
		if err != nil || r.Clean {
			break
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		r, err = v.once(ctx)
	}
	if err != nil {
		return nil, err
	}
	r.At, r.Seconds = began, time.Since(began).Seconds()
	return r, nil
}

func (v *verifier) once(ctx context.Context) (*verification, error) {
	r := &verification{Partitions: []partitionLine{}, Findings: []finding{}}
	brokers, committed, err := v.brokers(ctx) // before the progress, which runs ahead of the commits
	if err != nil {
		return nil, err
	}
	ranges, progress, err := v.ranges(ctx, committed)
	if err != nil {
		return nil, err
	}
	accounts, err := v.store.Prove(ctx, ranges)
	if err != nil {
		return nil, err
	}
	for i := range accounts {
		r.account(&accounts[i])
		if err := v.explainTwice(ctx, r, &accounts[i]); err != nil {
			return nil, err
		}
	}
	if v.kafka {
		v.compare(r, progress, brokers, committed)
	}
	if !v.offsetsOnly {
		if err := v.rows(ctx, r, ranges); err != nil {
			return nil, err
		}
	}
	r.Clean = len(r.Findings) == 0
	return r, nil
}

// ranges are the offsets to prove: of each partition from 0 up to its
// progress, or to what the group has committed if that is more.
func (v *verifier) ranges(ctx context.Context, committed map[ingest.Partition]int64) ([]clickhouse.Range, map[ingest.Partition]int64, error) {
	rows, err := v.store.LoadProgress(ctx)
	if err != nil {
		return nil, nil, err
	}
	progress := map[ingest.Partition]int64{}
	for _, p := range rows {
		progress[ingest.Partition{Topic: p.Topic, Partition: p.Partition}] = p.Offset
	}
	ends := maps.Clone(progress)
	for p, at := range committed {
		ends[p] = max(ends[p], at)
	}
	if v.to != 0 { // a range that was named is proved even where catena run never was: see backfill
		p := ingest.Partition{Topic: v.topic, Partition: int32(v.partition)}
		ends[p] = max(ends[p], v.to)
	}
	var ranges []clickhouse.Range
	for p, to := range ends {
		if v.topic != "" && p.Topic != v.topic || v.partition >= 0 && int(p.Partition) != v.partition {
			continue
		}
		r := clickhouse.Range{Topic: p.Topic, Partition: p.Partition, From: v.from, To: to}
		if v.to != 0 {
			r.To = v.to
		}
		if r.From < r.To {
			ranges = append(ranges, r)
		}
	}
	if len(ranges) == 0 && (v.topic != "" || len(ends) == 0) {
		what := "the tables have no progress of any partition"
		if v.topic != "" {
			what = "the tables have no progress of topic " + v.topic
			if v.partition >= 0 {
				what = fmt.Sprintf("the tables have no offset of topic %s partition %d behind %d", v.topic, v.partition, v.from)
			}
		}
		return nil, nil, fmt.Errorf("%s: there is nothing to prove; is CATENA_CLICKHOUSE_DATABASE right, and has catena run read anything?", what)
	}
	slices.SortFunc(ranges, func(a, b clickhouse.Range) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	since, err := v.horizon(ctx)
	if err == nil && (!since.IsZero() || !v.until.IsZero()) {
		ranges, err = v.store.Arrived(ctx, ranges, nanosOf(since), nanosOf(v.until))
	}
	return ranges, progress, err
}

// horizon is since when records are proved: as was asked for, and not before
// what retention leaves of the rows. A tenth of it is left out, as rows go by
// the event's time, which is before the record's arrival.
func (v *verifier) horizon(ctx context.Context) (time.Time, error) {
	kept, err := v.store.Kept(ctx)
	if err != nil || kept == 0 {
		return v.since, err
	}
	oldest := time.Now().Add(-kept + max(kept/10, time.Hour))
	if v.since.Before(oldest) {
		v.kept = kept
		return oldest, nil
	}
	return v.since, nil
}

func nanosOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// account adds a partition and what is wrong with it.
func (r *verification) account(a *clickhouse.Account) {
	r.Partitions = append(r.Partitions, partitionLine{Topic: a.Topic, Partition: a.Partition, From: a.From, To: a.To, In: a.In,
		Actions: a.Actions, DeadLetters: a.DeadLetters, Skips: a.Skips, Again: a.Again, Missing: a.Missing})
	find := func(kind string, from, to, count int64, detail string) {
		r.Findings = append(r.Findings, finding{Kind: kind, Topic: a.Topic, Partition: a.Partition, From: from, To: to, Count: count, Detail: detail})
	}
	kept := map[clickhouse.FaultKind]int64{}
	for _, f := range a.Faults {
		kept[f.Kind] += f.Count
		find(string(f.Kind), f.From, f.To, f.Count, faultDetails[f.Kind])
	}
	for kind, n := range map[clickhouse.FaultKind]int64{clickhouse.FaultMissing: a.Missing, clickhouse.FaultTwice: a.Twice,
		clickhouse.FaultConflict: a.Conflict, clickhouse.FaultSurplus: a.Surplus} {
		if n > kept[kind] {
			find(string(kind), a.From, a.To, n-kept[kind], "as many more of the same; name a range to see them")
		}
	}
	if n := a.Skips[schemas.SkipLost]; n > 0 {
		find(schemas.SkipLost, a.From, a.To, n, "retention deleted these offsets before they were read; table skips has them: raise the topic's retention or add capacity")
	}
	if !a.Balanced() {
		find("unbalanced", a.From, a.To, 0, "the sums do not agree though no fault was found: rows were written meanwhile, or this is a mistake in catena")
	}
}

var faultDetails = map[clickhouse.FaultKind]string{
	clickhouse.FaultMissing:  "no action, dead letter or skip accounts for them: read them again with catena backfill",
	clickhouse.FaultTwice:    "two live actions name the place",
	clickhouse.FaultConflict: "an action is here, and a skip says that the event's row is elsewhere",
	clickhouse.FaultSurplus:  "rows of items that the record does not have: an older catena decoded it otherwise",
}

// explainTwice says of the first places with two actions what they are.
func (v *verifier) explainTwice(ctx context.Context, r *verification, a *clickhouse.Account) error {
	looked := 0
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Kind != string(clickhouse.FaultTwice) || f.Topic != a.Topic || f.Partition != a.Partition || looked == 3 {
			continue
		}
		looked++
		rows, err := v.store.AtPlace(ctx, a.Topic, a.Partition, f.From, 2)
		if err != nil {
			return err
		}
		if len(rows) < 2 {
			continue
		}
		f.Detail = fmt.Sprintf("events %s (%s) and %s (%s) name offset %d", rows[0].Event, rows[0].Source, rows[1].Event, rows[1].Source, f.From)
		if rows[0].SHA256 != rows[1].SHA256 {
			f.Detail += " and come of different records: was the topic deleted and made anew?"
		}
	}
	return nil
}

// maxIDs is how many events or chains are named.
const maxIDs = 20

// rows checks what is not a matter of offsets.
func (v *verifier) rows(ctx context.Context, r *verification, ranges []clickhouse.Range) error {
	add := func(kind, detail string, ids []schemas.ID, err error) error {
		for _, id := range ids {
			r.Findings = append(r.Findings, finding{Kind: kind, ID: id.String(), Detail: detail})
		}
		return err
	}
	ids, err := v.store.LiveTwice(ctx, maxIDs)
	if err := add("event_twice", "the event has two rows, which differ in time or source", ids, err); err != nil {
		return err
	}
	ids, err = v.oddChains(ctx)
	if err := add("chain", "the chain's row in chains is not the grouping of its actions", ids, err); err != nil {
		return err
	}
	if len(ranges) == 0 {
		return nil
	}
	ids, err = v.store.Unproven(ctx, ranges, maxIDs)
	return add("proof", "a binding names this event as its proof, and the tables do not have it", ids, err)
}

// oddChains looks up to three times: chains grow while they are read.
func (v *verifier) oddChains(ctx context.Context) ([]schemas.ID, error) {
	ids, err := v.store.OddChains(ctx, maxIDs)
	for range 2 {
		if err != nil || len(ids) == 0 {
			break
		}
		var again []schemas.ID
		again, err = v.store.OddChains(ctx, maxIDs)
		ids = slices.DeleteFunc(ids, func(id schemas.ID) bool { return !slices.Contains(again, id) })
	}
	return ids, err
}

// brokers asks Kafka, if wanted.
func (v *verifier) brokers(ctx context.Context) (map[ingest.Partition]ingest.LogRange, map[ingest.Partition]int64, error) {
	if !v.kafka {
		return nil, nil, nil
	}
	cluster := v.cfg.cluster(newLog(v.env.stderr, v.cfg))
	committed, err := ingest.CommittedOffsets(ctx, cluster, v.cfg.KafkaGroup)
	if err != nil {
		return nil, nil, err
	}
	progress, err := v.store.LoadProgress(ctx)
	if err != nil {
		return nil, nil, err
	}
	topics := map[string]bool{}
	for p := range committed {
		topics[p.Topic] = true
	}
	for _, p := range progress {
		topics[p.Topic] = true
	}
	logs, err := ingest.LogRanges(ctx, cluster, slices.Sorted(maps.Keys(topics))...)
	return logs, committed, err
}

// compare adds to the partitions what the brokers say of them, and what does
// not agree.
func (v *verifier) compare(r *verification, progress map[ingest.Partition]int64, logs map[ingest.Partition]ingest.LogRange, committed map[ingest.Partition]int64) {
	seen := map[ingest.Partition]bool{}
	for i := range r.Partitions {
		seen[ingest.Partition{Topic: r.Partitions[i].Topic, Partition: r.Partitions[i].Partition}] = true
	}
	for p := range logs { // of which the tables have nothing yet
		if !seen[p] && (v.topic == "" || v.topic == p.Topic) && (v.partition < 0 || v.partition == int(p.Partition)) && v.since.IsZero() && v.until.IsZero() {
			r.Partitions = append(r.Partitions, partitionLine{Topic: p.Topic, Partition: p.Partition, Skips: map[string]int64{}})
		}
	}
	slices.SortFunc(r.Partitions, func(a, b partitionLine) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	for i := range r.Partitions {
		line := &r.Partitions[i]
		p := ingest.Partition{Topic: line.Topic, Partition: line.Partition}
		at, read := progress[p]
		if c, ok := committed[p]; ok {
			line.Committed = &c
		}
		find := func(kind string, from, to int64, detail string) {
			r.Findings = append(r.Findings, finding{Kind: kind, Topic: p.Topic, Partition: p.Partition, From: from, To: to, Count: to - from, Detail: detail})
		}
		log, ok := logs[p]
		if !ok {
			find("log_shorter", 0, at, "the broker has no such partition: the topic was deleted")
			continue
		}
		lag := log.To - max(log.From, at)
		line.LogStart, line.LogEnd, line.Lag = &log.From, &log.To, &lag
		if read && at > log.To {
			find("log_shorter", log.To, at, "the tables have more than the broker: the topic was deleted and made anew, or the brokers lost records")
		}
		if read && at < log.From {
			find("expiring", at, log.From, "retention has deleted these offsets and they were not read: raise the topic's retention or add capacity")
		}
	}
}

// watch verifies again and again, and prints what changes.
func (v *verifier) watch(ctx context.Context, every time.Duration) error {
	var last *verification
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		r, err := v.verify(ctx)
		switch {
		case ctx.Err() != nil:
			return v.verdict(last)
		case err != nil:
			fmt.Fprintf(v.env.stderr, "catena verify: %v\n", err) // goes on: the database comes back
		case last == nil:
			if err := v.print(r); err != nil && !errors.As(err, new(exitError)) {
				return err
			}
			last = r
		default:
			if err := v.printChanges(last, r); err != nil {
				return err
			}
			last = r
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return v.verdict(last)
		}
	}
}

func (v *verifier) verdict(r *verification) error {
	if r != nil && !r.Clean {
		return exitError(exitFound)
	}
	return nil
}

// printChanges tells what is new since the last round; nothing if nothing is.
func (v *verifier) printChanges(last, r *verification) error {
	key := func(f finding) finding { f.Detail, f.Count = "", 0; return f }
	had, has := map[finding]bool{}, map[finding]bool{}
	for _, f := range last.Findings {
		had[key(f)] = true
	}
	for _, f := range r.Findings {
		has[key(f)] = true
	}
	read := r.sum().In - last.sum().In
	if read == 0 && maps.Equal(had, has) {
		return nil
	}
	if v.json {
		return json.NewEncoder(v.env.stdout).Encode(r)
	}
	state := "clean"
	if !r.Clean {
		state = fmt.Sprintf("%d findings", len(r.Findings))
	}
	fmt.Fprintf(v.env.stdout, "%s  %+d items, %s\n", r.At.UTC().Format("15:04:05"), read, state)
	for _, f := range r.Findings {
		if !had[key(f)] {
			fmt.Fprintf(v.env.stdout, "  new   %s\n", f)
		}
	}
	for _, f := range last.Findings {
		if !has[key(f)] {
			fmt.Fprintf(v.env.stdout, "  gone  %s\n", f)
		}
	}
	return nil
}

func (r *verification) sum() (total partitionLine) {
	total.Skips = map[string]int64{}
	for _, p := range r.Partitions {
		total.In += p.In
		total.Actions += p.Actions
		total.DeadLetters += p.DeadLetters
		total.Again += p.Again
		total.Missing += p.Missing
		for name, n := range p.Skips {
			total.Skips[name] += n
		}
	}
	return total
}

// print writes the report; its error is the exit code.
func (v *verifier) print(r *verification) error {
	if v.json {
		e := json.NewEncoder(v.env.stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(r); err != nil {
			return err
		}
		return v.verdict(r)
	}
	r.table(v.env.stdout)
	total := r.sum()
	skips := int64(0)
	for _, n := range total.Skips {
		skips += n
	}
	fmt.Fprintf(v.env.stdout, "\n%d in = %d actions + %d dead letters + %d skips - %d again + %d missing   (%d partitions, %.1f s)\n",
		total.In, total.Actions, total.DeadLetters, skips, total.Again, total.Missing, len(r.Partitions), r.Seconds)
	if v.kept > 0 {
		fmt.Fprintf(v.env.stdout, "rows are kept for %v (CATENA_RETENTION): what arrived more than nine tenths of it ago is left out\n", v.kept)
	}
	for _, f := range r.Findings {
		fmt.Fprintf(v.env.stdout, "  %s\n", f)
	}
	if r.Clean {
		fmt.Fprintln(v.env.stdout, "clean")
	} else {
		fmt.Fprintf(v.env.stdout, "%d findings; catena verify --help explains them\n", len(r.Findings))
	}
	return v.verdict(r)
}

// table is a line a partition.
func (r *verification) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	kafka := slices.ContainsFunc(r.Partitions, func(p partitionLine) bool { return p.LogEnd != nil })
	head := "partition\toffsets\tin\tactions\tdead letters\tagain\tmissing\t"
	if kafka {
		head += "log\tcommitted\tlag\t"
	}
	fmt.Fprintln(t, head+"  skips")
	for _, p := range r.Partitions {
		fmt.Fprintf(t, "%s/%d\t%d-%d\t%d\t%d\t%d\t%d\t%d\t", p.Topic, p.Partition, p.From, p.To, p.In, p.Actions, p.DeadLetters, p.Again, p.Missing)
		if kafka {
			if p.LogEnd != nil {
				fmt.Fprintf(t, "%d-%d\t", *p.LogStart, *p.LogEnd)
			} else {
				fmt.Fprint(t, "gone\t")
			}
			fmt.Fprintf(t, "%s\t%s\t", orDash(p.Committed), orDash(p.Lag))
		}
		var skips []string
		for _, name := range slices.Sorted(maps.Keys(p.Skips)) {
			if p.Skips[name] != 0 {
				skips = append(skips, fmt.Sprintf("%s %d", name, p.Skips[name]))
			}
		}
		fmt.Fprintf(t, "  %s\n", strings.Join(skips, ", "))
	}
	_ = t.Flush()
}

func orDash(n *int64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

func (f finding) String() string {
	if f.ID != "" {
		return fmt.Sprintf("%-12s %s: %s", f.Kind, f.ID, f.Detail)
	}
	where := fmt.Sprintf("offset %d", f.From)
	if f.To > f.From+1 {
		where = fmt.Sprintf("offsets %d to %d", f.From, f.To-1)
	}
	items := ""
	if f.Count > 0 && f.Count != f.To-f.From {
		items = fmt.Sprintf(" (%d items)", f.Count)
	}
	return fmt.Sprintf("%-12s %s/%d %s%s: %s", f.Kind, f.Topic, f.Partition, where, items, f.Detail)
}
