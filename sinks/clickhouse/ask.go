package clickhouse

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"

	"catena/schemas"
)

// What people ask who look at chains: the proofs of steps, what is known of a
// key, findings, and what happened lately. All of it only reads.

type settingsKey struct{}

// withSettings adds settings to those of a context: the driver's own way
// forgets the earlier ones.
func withSettings(ctx context.Context, more clickhouse.Settings) context.Context {
	all := clickhouse.Settings{}
	if before, ok := ctx.Value(settingsKey{}).(clickhouse.Settings); ok {
		maps.Copy(all, before)
	}
	maps.Copy(all, more)
	return clickhouse.Context(context.WithValue(ctx, settingsKey{}, all), clickhouse.WithSettings(all))
}

// Bounded returns a context whose statements can only read and are given up
// after a time, by the server too. Whoever calls it calls cancel.
func Bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	return withSettings(ctx, clickhouse.Settings{
		"readonly": 2, "max_execution_time": int(math.Ceil(limit.Seconds())), "timeout_overflow_mode": "throw",
	}), cancel
}

// Proof is where the record lies that an event came from.
type Proof struct {
	Event   schemas.ID
	Source  string
	At      schemas.Evidence // the place alone
	Row     bool             // the event has a row in actions; else it only made bindings
	Version uint64
}

// Proofs returns the places of events: of those that have a row from there, of
// those that only made bindings from these. Ids of which the tables know
// nothing are left out.
func (s *Store) Proofs(ctx context.Context, events []schemas.ID) (map[schemas.ID]Proof, error) {
	found := make(map[schemas.ID]Proof, len(events))
	for part := range slices.Chunk(events, lookupKeys) {
		if err := s.proofs(ctx, part, "event_id", "actions", true, found); err != nil {
			return nil, err
		}
	}
	rest := slices.DeleteFunc(slices.Clone(events), func(id schemas.ID) bool { return found[id].Row })
	for part := range slices.Chunk(rest, lookupKeys) {
		if err := s.proofs(ctx, part, "proof", "bindings", false, found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (s *Store) proofs(ctx context.Context, events []schemas.ID, column, table string, row bool, found map[schemas.ID]Proof) error {
	quoted := make([]string, len(events))
	for i, id := range events {
		quoted[i] = "'" + id.String() + "'"
	}
	var (
		id uuid.UUID
		p  Proof
		at placeReader
	)
	fields := append(at.fields(), field{column, &id}, field{"source", &p.Source}, field{"version", &p.Version})
	return load(ctx, s, fields, fmt.Sprintf("FROM %s WHERE %s IN (%s)", table, column, strings.Join(quoted, ", ")), func() error {
		p.Event, p.At, p.Row = schemas.ID(id), at.place(), row
		if old, ok := found[p.Event]; !ok || p.Version > old.Version {
			found[p.Event] = p
		}
		return nil
	})
}

// BindingsOf returns what is known of who drives some keys, whatever the time,
// the earliest proof first and at most limit of them.
func (s *Store) BindingsOf(ctx context.Context, keys []schemas.Key, limit int) ([]schemas.Binding, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	var all []schemas.Binding
	quoted := make([]string, len(keys))
	for i, k := range keys {
		quoted[i] = quote(k.String())
	}
	from := fmt.Sprintf("FROM bindings FINAL WHERE child IN (%s) ORDER BY proof_time, child, parent, `from`, proof LIMIT %d", strings.Join(quoted, ", "), limit)
	err := s.loadBindings(ctx, from, func(b *schemas.Binding) error {
		all = append(all, *b)
		return nil
	})
	return all, err
}

// LastWith returns the newest action that was performed with a key; nil if the
// table has none.
func (s *Store) LastWith(ctx context.Context, k schemas.Key) (*schemas.Action, error) {
	var id uuid.UUID
	// An event's keys and time never change, so that any of its versions says which is the newest.
	from := "FROM actions WHERE has(keys, " + quote(k.String()) + ") AND " + inHoursOf("key_hours", "key = "+quote(k.String())) + " ORDER BY time_nanos DESC, event_id LIMIT 1"
	if err := load(ctx, s, []field{{"event_id", &id}}, from, func() error { return nil }); err != nil || id == uuid.Nil {
		return nil, err
	}
	return s.Action(ctx, schemas.ID(id))
}

// SourceSeen is what was read of a source.
type SourceSeen struct {
	Source                string
	Actions               int
	FirstNanos, LastNanos int64 // event times
}

// SourcesSeen returns what was read of each source, by name.
func (s *Store) SourcesSeen(ctx context.Context) ([]SourceSeen, error) {
	var (
		seen SourceSeen
		n    uint64
		all  []SourceSeen
	)
	fields := []field{{"source", &seen.Source}, {"count()", &n},
		{"toUnixTimestamp64Micro(min(event_time)) * 1000", &seen.FirstNanos}, {"toUnixTimestamp64Micro(max(event_time)) * 1000", &seen.LastNanos}}
	err := load(ctx, s, fields, "FROM actions GROUP BY source ORDER BY source", func() error {
		seen.Actions = int(n)
		all = append(all, seen)
		return nil
	})
	return all, err
}

// Finding is one row of the view findings.
type Finding struct {
	Rule, Severity, Detail string
	Chain                  schemas.ID
	Subject                schemas.Key
	Root                   schemas.Key
	RootName               string
	Actions                int
	FirstNanos, LastNanos  int64
	Events                 []schemas.ID
}

// Findings returns what an investigator should look at, the gravest first and
// among equals the newest, at most limit of them: of one chain, or of all
// actions at or after sinceNanos if the chain is zero.
func (s *Store) Findings(ctx context.Context, chain schemas.ID, sinceNanos int64, limit int) ([]Finding, error) {
	where, when := "1", fmt.Sprintf("event_time >= fromUnixTimestamp64Micro(%d, \\'UTC\\')", toMicros(sinceNanos))
	if !chain.IsZero() {
		where = "chain_id = '" + chain.String() + "'"
		var first, last uint32
		hours := "FROM chain_hours WHERE " + where + " HAVING count() > 0"
		if err := load(ctx, s, []field{{"toUnixTimestamp(min(hour))", &first}, {"toUnixTimestamp(max(hour))", &last}}, hours, func() error { return nil }); err != nil {
			return nil, err
		}
		when = fmt.Sprintf("toStartOfHour(event_time) BETWEEN toDateTime(%d, \\'UTC\\') AND toDateTime(%d, \\'UTC\\')", first, last)
	}
	// The view groups all of history; this keeps it from reading what lies outside.
	ctx = withSettings(ctx, clickhouse.Settings{"additional_table_filters": fmt.Sprintf("{'%s.actions': '%s'}", s.options.Database, when)})
	var (
		f                   Finding
		id                  uuid.UUID
		subject, kind, root string
		n                   uint64
		events              []uuid.UUID
		all                 []Finding
		severities          = "['high', 'medium', 'low']"
		order               = "ORDER BY indexOf(" + severities + ", severity), last_seen DESC, rule, subject"
		fields              = []field{{"rule", &f.Rule}, {"severity", &f.Severity}, {"detail", &f.Detail}, {"chain_id", &id}, {"subject", &subject}}
		firstSeen, lastSeen int64
	)
	fields = append(fields, field{"root_kind", &kind}, field{"root_id", &root}, field{"root_name", &f.RootName}, field{"actions", &n},
		field{"toUnixTimestamp64Micro(first_seen)", &firstSeen}, field{"toUnixTimestamp64Micro(last_seen)", &lastSeen}, field{"events", &events})
	err := load(ctx, s, fields, fmt.Sprintf("FROM findings WHERE %s %s LIMIT %d", where, order, limit), func() error {
		var w words
		f.Chain, f.Actions, f.FirstNanos, f.LastNanos = schemas.ID(id), int(n), firstSeen*1000, lastSeen*1000
		f.Root = w.keyOf("root_id", kind, root)
		f.Subject, _ = schemas.ParseKey(subject) // an actor without an id makes no key
		f.Events = make([]schemas.ID, len(events))
		for i, e := range events {
			f.Events[i] = schemas.ID(e)
		}
		all = append(all, f)
		return w.err
	})
	return all, err
}

// ChainSummary is a chain in one line.
type ChainSummary struct {
	Chain                 schemas.ID
	Root                  schemas.Key
	RootName              string
	FirstNanos, LastNanos int64
	Actions               int
	Worst                 schemas.Grade
	Flags                 schemas.Flags
	MFA                   schemas.MFA
	Sources               []string
}

// Summaries returns chains in one line each, in the order asked for. Those
// that have no row are left out.
func (s *Store) Summaries(ctx context.Context, chains []schemas.ID) ([]ChainSummary, error) {
	if len(chains) == 0 {
		return nil, nil
	}
	quoted := make([]string, len(chains))
	for i, id := range chains {
		quoted[i] = "'" + id.String() + "'"
	}
	in := "chain_id IN (" + strings.Join(quoted, ", ") + ")"
	all, err := s.summaries(ctx, in+" AND "+inHoursOf("chain_hours", in), len(chains))
	slices.SortStableFunc(all, func(a, b ChainSummary) int { return slices.Index(chains, a.Chain) - slices.Index(chains, b.Chain) })
	return all, err
}

// Recent returns the chains of actions at or after sinceNanos, those with the
// newest action first and at most limit of them. What it counts are the
// actions since then.
func (s *Store) Recent(ctx context.Context, sinceNanos int64, limit int) ([]ChainSummary, error) {
	return s.summaries(ctx, fmt.Sprintf("event_time >= fromUnixTimestamp64Micro(%d, 'UTC') AND chain_id != toUUID('%s')", toMicros(sinceNanos), schemas.ID{}), limit)
}

func (s *Store) summaries(ctx context.Context, where string, limit int) ([]ChainSummary, error) {
	var (
		c              ChainSummary
		id             uuid.UUID
		kind, root     string
		worst, mfa     string
		flags, sources []string
		n              uint64
		all            []ChainSummary
		grades         = "['unattributed', 'ambiguous', 'inferred', 'stated', 'proven']"
	)
	fields := []field{
		{"chain_id", &id}, {"argMax(actions.root_kind, (actions.root_id != '', event_time, event_id))", &kind},
		{"argMax(actions.root_id, (actions.root_id != '', event_time, event_id))", &root},
		{"argMax(actions.root_name, (actions.root_name != '', event_time, event_id))", &c.RootName},
		{"min(time_nanos) AS first", &c.FirstNanos}, {"max(time_nanos) AS last", &c.LastNanos}, {"count()", &n},
		{grades + "[min(indexOf(" + grades + ", grade))]", &worst}, {"groupUniqArrayArray(actions.flags)", &flags},
		{"if(countIf(actions.mfa != 'unknown') = 0, 'unknown', argMinIf(actions.mfa, (event_time, event_id), actions.mfa != 'unknown'))", &mfa},
		{"arraySort(groupUniqArray(actions.source))", &sources},
	}
	from := fmt.Sprintf("FROM actions FINAL WHERE %s GROUP BY chain_id ORDER BY last DESC, chain_id LIMIT %d", where, limit)
	err := load(ctx, s, fields, from, func() error {
		var w words
		c.Chain, c.Root, c.Actions, c.Sources = schemas.ID(id), w.keyOf("root_id", kind, root), int(n), slices.Clone(sources)
		c.Worst, c.MFA, c.Flags = parseWord(&w, "grade", worst, schemas.ParseGrade), parseWord(&w, "mfa", mfa, schemas.ParseMFA), 0
		for _, f := range flags {
			c.Flags |= parseWord(&w, "flags", f, schemas.ParseFlag)
		}
		all = append(all, c)
		return w.err
	})
	return all, err
}

// GradeCount is how many actions of a class have a grade.
type GradeCount struct {
	Grade   schemas.Grade
	Actions int
}

// Grades counts the actions at or after sinceNanos by grade, the best first.
func (s *Store) Grades(ctx context.Context, sinceNanos int64) ([]GradeCount, error) {
	var (
		grade string
		n     uint64
		all   []GradeCount
	)
	from := fmt.Sprintf("FROM actions FINAL WHERE event_time >= fromUnixTimestamp64Micro(%d, 'UTC') GROUP BY grade", toMicros(sinceNanos))
	err := load(ctx, s, []field{{"grade", &grade}, {"count()", &n}}, from, func() error {
		var w words
		all = append(all, GradeCount{parseWord(&w, "grade", grade, schemas.ParseGrade), int(n)})
		return w.err
	})
	slices.SortFunc(all, func(a, b GradeCount) int { return int(b.Grade) - int(a.Grade) })
	return all, err
}

// Pulse says how far the tables are. It costs next to nothing.
type Pulse struct {
	Updated         string // when progress was last reported; changes whenever rows were written
	Records         int64  // accounted for, of all partitions
	FinalNanos      int64  // rows older than this change no more; zero if that is not known
	LastEventMicros int64  // newest event time among the rows; zero if there are none
}

// Pulse asks for it.
func (s *Store) Pulse(ctx context.Context) (p Pulse, err error) {
	fields := []field{{"toString(max(updated_at))", &p.Updated}, {"sum(progress.offset)", &p.Records},
		{"(SELECT if(count() = 0, 0, toUnixTimestamp64Nano(min(final_before))) FROM finality WHERE partitions > 0)", &p.FinalNanos},
		{"(SELECT toUnixTimestamp64Micro(max(event_time)) FROM actions)", &p.LastEventMicros}}
	err = load(ctx, s, fields, "FROM progress FINAL", func() error { return nil })
	p.FinalNanos = max(p.FinalNanos, 0)
	return p, err
}
