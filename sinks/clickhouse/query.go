package clickhouse

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"catena/schemas"
)

// Chain returns the actions of a chain in event-time order, at most limit of
// them; the zero limit means 10,000.
func (s *Store) Chain(ctx context.Context, chain schemas.ID, limit int) ([]*schemas.Action, error) {
	return s.actions(ctx, "chain_id = '"+chain.String()+"'", limit)
}

// Action returns one action; nil when the table has none of that id.
func (s *Store) Action(ctx context.Context, event schemas.ID) (*schemas.Action, error) {
	found, err := s.actions(ctx, "event_id = '"+event.String()+"'", 1)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}

func (s *Store) actions(ctx context.Context, where string, limit int) ([]*schemas.Action, error) {
	if limit <= 0 {
		limit = 10_000
	}
	var found []*schemas.Action
	from := fmt.Sprintf("FROM actions FINAL WHERE %s ORDER BY time_nanos, event_id LIMIT %d", where, limit)
	err := s.loadActions(ctx, from, func(a *schemas.Action) error {
		found = append(found, a)
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
// What is indexed is tried first; only if that finds nothing are the values of
// all keys read, which takes a while on a large table.
func (s *Store) FindChains(ctx context.Context, text string, limit int) ([]Found, error) {
	if limit <= 0 {
		limit = 20
	}
	for _, where := range []string{indexedMatch(text), scanMatch(text)} {
		found, err := s.find(ctx, where, limit)
		if err != nil || len(found) > 0 {
			return found, err
		}
	}
	return nil, nil
}

// indexedMatch is a condition whose every part has an index.
func indexedMatch(text string) string {
	q := quote(text)
	any := []string{
		"has(keys, " + q + ")", "has(hops.key, " + q + ")", "root_id = " + q,
		"resource = " + q, "source_ip = " + q, "trace_id = " + q,
	}
	if id, err := schemas.ParseID(strings.ToLower(text)); err == nil {
		any = append(any, "event_id = '"+id.String()+"'", "chain_id = '"+id.String()+"'", "cause_id = '"+id.String()+"'")
	}
	if k, err := schemas.ParseKey(text); err == nil && k.Kind.Root() {
		any = append(any, "(root_kind = "+quote(k.Kind.String())+" AND root_id = "+quote(k.ID())+")")
	}
	return strings.Join(any, " OR ")
}

// scanMatch is a condition for which all rows of these columns are read.
func scanMatch(text string) string {
	q, tail := quote(text), quote(":"+text)
	return strings.Join([]string{
		"actor_id = " + q, "actor_name = " + q, "root_name = " + q, "frontier = " + q, "authority = " + q, "grant_id = " + q, "policy_id = " + q,
		"endsWith(actor_id, " + tail + ")", "endsWith(root_id, " + tail + ")",
		"concat(actor_kind, ':', actor_id) = " + q,
		"arrayExists(k -> endsWith(k, " + tail + "), keys)", "arrayExists(k -> endsWith(k, " + tail + "), hops.key)",
	}, " OR ")
}

func (s *Store) find(ctx context.Context, where string, limit int) ([]Found, error) {
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
	from := fmt.Sprintf("FROM actions FINAL WHERE %s GROUP BY chain_id ORDER BY last DESC, chain_id LIMIT %d", where, limit)
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
