package clickhouse

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"catena/schemas"
)

// sortKeyOfActions names an event by where its versions lie.
const sortKeyOfActions = "toStartOfHour(event_time), source, event_time, event_id"

// inHoursOf is the condition that a row lies in the hours that a table names for
// a chain or a key: see the migration that makes chain_hours and key_hours.
func inHoursOf(table, where string) string {
	return "(toStartOfHour(event_time), source) GLOBAL IN (SELECT hour, source FROM " + table + " WHERE " + where + ")"
}

// twoSteps reads the newest versions of the actions that meet a condition: first,
// without FINAL, which events ever had a version that does, then, with FINAL,
// these events. The view actions_of_chain says why. The first condition may be
// narrower in what has to be read, not in what it lets through.
func twoSteps(ever, newest string) string {
	return "FROM actions FINAL PREWHERE (" + sortKeyOfActions + ") GLOBAL IN (SELECT " + sortKeyOfActions + " FROM actions WHERE " + ever + ") WHERE " + newest
}

// Chain returns the actions of a chain in event-time order, at most limit of
// them; the zero limit means 10,000.
func (s *Store) Chain(ctx context.Context, chain schemas.ID, limit int) ([]*schemas.Action, error) {
	if limit <= 0 {
		limit = 10_000
	}
	var found []*schemas.Action
	of := "chain_id = '" + chain.String() + "'"
	from := twoSteps(of+" AND "+inHoursOf("chain_hours", of), of) + fmt.Sprintf(" ORDER BY time_nanos, event_id LIMIT %d", limit)
	err := s.loadActions(ctx, from, func(a *schemas.Action) error {
		found = append(found, a)
		return nil
	})
	return found, err
}

// Action returns one action; nil when the table has none of that id.
func (s *Store) Action(ctx context.Context, event schemas.ID) (*schemas.Action, error) {
	var found *schemas.Action
	// The newest of the event's versions, without the cost of FINAL.
	err := s.loadActions(ctx, "FROM actions WHERE event_id = '"+event.String()+"' ORDER BY version DESC LIMIT 1", func(a *schemas.Action) error {
		found = a
		return nil
	})
	return found, err
}

// Found is a chain that FindChains came upon.
type Found struct {
	Chain                 schemas.ID // zero for actions that belong to no chain
	Root                  schemas.Key
	RootName              string
	FirstNanos, LastNanos int64      // of the actions that matched
	Actions               int        // that matched
	Event                 schemas.ID // the newest that matched
}

// FindChains returns the chains that a text touches, the newest first and at
// most limit of them (zero means 20). The text may be an event id, a chain id,
// a key as kind:namespace:value, a key's bare value, a principal's id or name,
// a resource, an address, a trace id or a grant id.
//
// What is indexed is tried first; only if that finds nothing are all keys and
// the columns of names read, which takes a while on a large table.
func (s *Store) FindChains(ctx context.Context, text string, limit int) ([]Found, error) {
	if limit <= 0 {
		limit = 20
	}
	found, err := s.find(ctx, indexedMatches(text), limit)
	if err != nil || len(found) > 0 {
		return found, err
	}
	conditions, err := s.scannedMatches(ctx, text, limit)
	if err != nil {
		return nil, err
	}
	return s.find(ctx, conditions, limit)
}

// indexedMatches are conditions that each have an index.
func indexedMatches(text string) []string {
	q := quote(text)
	conditions := []string{"root_id = " + q, "resource = " + q, "source_ip = " + q, "trace_id = " + q}
	if id, err := schemas.ParseID(strings.ToLower(text)); err == nil {
		conditions = append(conditions, "event_id = '"+id.String()+"'", "chain_id = '"+id.String()+"'", "cause_id = '"+id.String()+"'")
	}
	if _, err := schemas.ParseKey(text); err == nil {
		conditions = append(conditions, withKey(q)...)
	}
	return conditions
}

// withKey are the conditions that a key is one of an action's or on its path, to
// a root at its end.
func withKey(quoted string) []string {
	hours := " AND " + inHoursOf("key_hours", "key = "+quoted)
	return []string{"has(keys, " + quoted + ")" + hours, "has(hops.key, " + quoted + ")" + hours}
}

// scannedMatches are conditions for which all rows of their columns are read,
// and those of the latest keys of which the text is the value or its last part.
func (s *Store) scannedMatches(ctx context.Context, text string, limit int) ([]string, error) {
	q, tail := quote(text), quote(":"+text)
	conditions := []string{strings.Join([]string{
		"actor_id = " + q, "actor_name = " + q, "root_name = " + q, "frontier = " + q, "authority = " + q, "grant_id = " + q, "policy_id = " + q,
		"endsWith(actor_id, " + tail + ")", "concat(actor_kind, ':', actor_id) = " + q,
	}, " OR ")}
	var key string
	from := fmt.Sprintf("FROM key_hours WHERE endsWith(key, %s) GROUP BY key ORDER BY max(hour) DESC, key LIMIT %d", tail, limit)
	err := load(ctx, s, []field{{"key", &key}}, from, func() error {
		conditions = append(conditions, withKey(quote(key))...)
		return nil
	})
	return conditions, err
}

// find returns the newest chains with a row that meets one of the conditions.
// A row may since have moved to another chain; so the first step, condition by
// condition and each by its index, only says where to look, and the second
// looks at the newest versions there.
func (s *Store) find(ctx context.Context, conditions []string, limit int) ([]Found, error) {
	var (
		chain       uuid.UUID
		first, last int64
		where       []string
		from, until int64 = math.MaxInt64, math.MinInt64
	)
	either := make([]string, len(conditions))
	for i, c := range conditions {
		either[i] = "SELECT chain_id, time_nanos FROM actions WHERE " + c
	}
	// Twice as many as asked for, since some may drop out in the second step.
	candidates := fmt.Sprintf("FROM (%s) GROUP BY chain_id ORDER BY last DESC, chain_id LIMIT %d", strings.Join(either, " UNION ALL "), 2*limit)
	err := load(ctx, s, []field{{"chain_id", &chain}, {"min(time_nanos) AS first", &first}, {"max(time_nanos) AS last", &last}}, candidates, func() error {
		where = append(where, "'"+chain.String()+"'")
		from, until = min(from, first), max(until, last)
		return nil
	})
	if err != nil || len(where) == 0 {
		return nil, err
	}
	in := fmt.Sprintf("%s AND chain_id IN (%s)", between(from, until), strings.Join(where, ", "))
	for i, c := range conditions {
		either[i] = "SELECT " + sortKeyOfActions + " FROM actions WHERE " + c + " AND " + in
	}
	return s.confirm(ctx, fmt.Sprintf("PREWHERE ("+sortKeyOfActions+") GLOBAL IN (%s) WHERE (%s) AND %s", strings.Join(either, " UNION ALL "), strings.Join(conditions, " OR "), in), limit)
}

// confirm groups by chain the newest versions of the rows that meet the
// clauses.
func (s *Store) confirm(ctx context.Context, clauses string, limit int) ([]Found, error) {
	var (
		chain, event   uuid.UUID
		kind, id, name string
		first, last    int64
		n              uint64
		all            []Found
	)
	fields := []field{
		{"chain_id", &chain}, {"argMax(root_kind, time_nanos)", &kind}, {"argMax(root_id, time_nanos)", &id}, {"argMax(root_name, time_nanos)", &name},
		{"min(time_nanos) AS first", &first}, {"max(time_nanos) AS last", &last}, {"count()", &n}, {"argMax(event_id, time_nanos)", &event},
	}
	from := fmt.Sprintf("FROM actions FINAL %s GROUP BY chain_id ORDER BY last DESC, chain_id LIMIT %d", clauses, limit)
	err := load(ctx, s, fields, from, func() error {
		var w words
		all = append(all, Found{schemas.ID(chain), w.keyOf("root_id", kind, id), name, first, last, int(n), schemas.ID(event)})
		return w.err
	})
	return all, err
}

// Query runs any SQL and returns the names of its columns and its rows as
// text, for printing. maxRows bounds what is kept; zero means 1,000.
func (s *Store) Query(ctx context.Context, sql string, maxRows int) (columns []string, rows [][]string, err error) {
	if maxRows <= 0 {
		maxRows = 1000
	}
	result, err := s.conn.Query(ctx, sql)
	if err != nil {
		return nil, nil, s.explain(err)
	}
	defer result.Close()
	types := result.ColumnTypes()
	into := make([]any, len(types))
	for i, t := range types {
		into[i] = reflect.New(t.ScanType()).Interface()
	}
	for len(rows) < maxRows && result.Next() {
		if err := result.Scan(into...); err != nil {
			return nil, nil, s.explain(err)
		}
		row := make([]string, len(into))
		for i := range into {
			row[i] = show(reflect.ValueOf(into[i]).Elem())
			if name := types[i].DatabaseTypeName(); name == "Date" || name == "Date32" {
				row[i] = strings.TrimSuffix(row[i], " 00:00:00")
			}
		}
		rows = append(rows, row)
	}
	if err := result.Err(); err != nil {
		return nil, nil, s.explain(err)
	}
	return result.Columns(), rows, nil
}

// show prints a cell as a person would write it.
func show(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Time:
		return strings.TrimSuffix(x.UTC().Format("2006-01-02 15:04:05.000000"), ".000000")
	case fmt.Stringer:
		return x.String()
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return "NULL"
		}
		return show(v.Elem())
	case reflect.Slice, reflect.Array:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = show(v.Index(i))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.Map:
		return showMap(v)
	}
	return fmt.Sprint(v.Interface())
}

func showMap(v reflect.Value) string {
	keys := v.MapKeys()
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = show(k) + ": " + show(v.MapIndex(k))
	}
	// Go's maps have no order, and output must not depend on chance.
	slices.Sort(parts)
	return "{" + strings.Join(parts, ", ") + "}"
}
