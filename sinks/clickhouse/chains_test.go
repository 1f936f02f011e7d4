package clickhouse

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"catena/schemas"
	"catena/sinks"
	"catena/sinks/sinktest"
)

// awkwardRows writes actions over the turn of a month as a stream would: each several
// times, in several inserts (and so parts), duplicates and stale versions
// among them, and with most of them moving from chain to chain on the way. It
// returns the newest version of each.
func awkwardRows(t *testing.T, s *Store, seed uint64) map[schemas.ID]*schemas.Action {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 0))
	start := time.Date(2026, 1, 28, 22, 0, 0, 0, time.UTC).UnixNano()
	newest := map[schemas.ID]*schemas.Action{}
	for insert := range 12 {
		var batch sinks.Batch
		for range 60 {
			n := random.IntN(150)
			a := *sinktest.Actions(n + 1)[n]
			a.ID = schemas.MakeID("awkward", fmt.Sprint(n))
			a.TimeNanos = start + int64(n)*int64(13*time.Hour)/10 // one chain holds rows of one hour and of both months
			a.EndedNanos = 0
			a.Version = uint64(random.IntN(12)) // a stale one may come last
			a.ChainID = schemas.MakeID("chain", fmt.Sprint(random.IntN(12)))
			if random.IntN(6) == 0 {
				a.ChainID = schemas.ID{}
			}
			a.Grade = schemas.Grade(random.IntN(5))
			a.Keys = []schemas.Key{a.Keys[0], awkwardKey(schemas.KindToken, n%9)} // of the event, so always the same
			if who := random.IntN(5); who == 0 {
				a.Root, a.RootName, a.Hops = schemas.Key{}, "", nil
			} else {
				a.Root = awkwardKey(schemas.KindHuman, who)
				a.Hops = []schemas.Hop{{Key: a.Root}, {Key: awkwardKey(schemas.KindSession, who), Relation: schemas.RelationAuthenticated, Strength: schemas.StrengthExact}, {Key: a.Keys[1], Relation: schemas.RelationAssumed}}
			}
			if old := newest[a.ID]; old != nil && old.Version == a.Version {
				a = *old // the same version says the same: a duplicate
			}
			if old := newest[a.ID]; old == nil || old.Version < a.Version {
				newest[a.ID] = &a
			}
			batch.Actions = append(batch.Actions, &a)
		}
		write(t, s, &batch)
		if insert == 6 {
			exec(t, s, "OPTIMIZE TABLE actions FINAL", "OPTIMIZE TABLE chain_hours FINAL")
		}
	}
	return newest
}

func awkwardKey(kind schemas.Kind, n int) schemas.Key {
	return schemas.Key{Kind: kind, Namespace: "test", Value: fmt.Sprint(n)}
}

// chainOf is what a test expects of a chain.
type chainOf struct {
	first, last int64
	actions     int
	worst       schemas.Grade
}

// TestChainsAreTheGroupingOfActions holds every form in which chains can be
// asked for against the newest versions, as counted here.
func TestChainsAreTheGroupingOfActions(t *testing.T) {
	for seed := range uint64(3) {
		s := migrated(t)
		newest := awkwardRows(t, s, seed)
		chains := map[schemas.ID]*chainOf{}
		for _, a := range newest {
			if a.ChainID.IsZero() {
				continue
			}
			c := chains[a.ChainID]
			if c == nil {
				c = &chainOf{first: a.TimeNanos, last: a.TimeNanos, worst: a.Grade}
				chains[a.ChainID] = c
			}
			c.first, c.last, c.worst = min(c.first, a.TimeNanos), max(c.last, a.TimeNanos), min(c.worst, a.Grade)
			c.actions++
		}
		want := func(keep func(id schemas.ID, c *chainOf) bool) []string {
			var lines []string
			for id, c := range chains {
				if keep(id, c) {
					lines = append(lines, fmt.Sprint(id, " ", c.first/1000, " ", c.last/1000, " ", c.actions, " ", c.worst))
				}
			}
			slices.Sort(lines)
			return lines
		}
		check := func(from string, keep func(id schemas.ID, c *chainOf) bool) {
			t.Helper()
			got := rows(t, s, "SELECT chain_id, toUnixTimestamp64Micro(first_seen), toUnixTimestamp64Micro(last_seen), actions, worst_grade FROM "+from)
			slices.Sort(got)
			if want := want(keep); !slices.Equal(got, want) {
				t.Errorf("seed %d: %s:\n got %s\nwant %s", seed, from, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
			}
		}
		check("chains", func(schemas.ID, *chainOf) bool { return true })
		for _, id := range append(slices.Collect(maps.Keys(chains)), schemas.MakeID("chain", "nobody's")) {
			check("chains WHERE chain_id = '"+id.String()+"'", func(other schemas.ID, _ *chainOf) bool { return other == id })
			got := rows(t, s, "SELECT count(), countIf(chain_id = '"+id.String()+"') FROM actions_of_chain(chain = '"+id.String()+"')")
			n := 0
			if c := chains[id]; c != nil {
				n = c.actions
			}
			if got[0] != fmt.Sprint(n, " ", n) {
				t.Errorf("seed %d: rows of chain %s: %s, want %d", seed, id, got[0], n)
			}
			if all, err := s.Chain(t.Context(), id, 0); err != nil || len(all) != n {
				t.Errorf("seed %d: Chain %s: %d rows, error %v; want %d", seed, id, len(all), err, n)
			}
		}
		for _, day := range []int{-5, 0, 1, 2, 3, 4, 5, 6, 7, 30} {
			since := time.Date(2026, 1, 28+day, 0, 0, 0, 0, time.UTC)
			until := since.Add(17 * time.Hour)
			check(fmt.Sprintf("chains_between(since = '%s', until = '%s')", since.Format(time.DateTime), until.Format(time.DateTime)), func(id schemas.ID, _ *chainOf) bool {
				for _, a := range newest {
					if a.ChainID == id && a.TimeNanos >= since.UnixNano() && a.TimeNanos < until.UnixNano() {
						return true
					}
				}
				return false
			})
		}
	}
}

// TestKeysAndPeopleAreFoundInTheirHours holds what is looked up by the hours of
// a key against the newest versions, as counted here.
func TestKeysAndPeopleAreFoundInTheirHours(t *testing.T) {
	for seed := range uint64(3) {
		s := migrated(t)
		newest := awkwardRows(t, s, seed)
		count := func(meets func(a *schemas.Action) bool) (n int) {
			for _, a := range newest {
				if meets(a) {
					n++
				}
			}
			return n
		}
		ask := func(want int, from string) {
			t.Helper()
			if got := rows(t, s, "SELECT count(), uniqExact(event_id) FROM "+from); got[0] != fmt.Sprint(want, " ", want) {
				t.Errorf("seed %d: %s: %s rows and events, want %d", seed, from, got[0], want)
			}
		}
		for n := range 10 {
			k := awkwardKey(schemas.KindToken, n)
			ofToken := count(func(a *schemas.Action) bool { return slices.Contains(a.Keys, k) })
			ask(ofToken, "actions_with(key = '"+k.String()+"')")
			last, err := s.LastWith(t.Context(), k)
			if err != nil || (last != nil) != (ofToken > 0) || last != nil && count(func(a *schemas.Action) bool { return slices.Contains(a.Keys, k) && a.TimeNanos > last.TimeNanos }) > 0 {
				t.Errorf("seed %d: LastWith %s: %v, error %v", seed, k, last, err)
			}
		}
		for n := range 6 {
			person, session := awkwardKey(schemas.KindHuman, n), awkwardKey(schemas.KindSession, n)
			for _, day := range []int{-1, 0, 3, 30} {
				since := time.Date(2026, 1, 28+day, 22, 30, 0, 0, time.UTC)
				until := since.Add(49 * time.Hour)
				ask(count(func(a *schemas.Action) bool {
					return a.Root == person && a.TimeNanos >= since.UnixNano() && a.TimeNanos < until.UnixNano()
				}), fmt.Sprintf("actions_of(identity = '%s', since = '%s', until = '%s')", person.ID(), since.Format(time.DateTime), until.Format(time.DateTime)))
			}
			through := count(func(a *schemas.Action) bool {
				return slices.ContainsFunc(a.Hops, func(h schemas.Hop) bool { return h.Key == session })
			})
			ask(through, "blast_radius(start = '"+session.String()+"')")
			_, actions, err := s.Recall(t.Context(), []schemas.Key{session}, 0)
			if err != nil || len(actions) != through {
				t.Errorf("seed %d: Recall %s: %d rows, error %v; want %d", seed, session, len(actions), err, through)
			}
		}
	}
}
