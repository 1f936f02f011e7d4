package correlate

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"catena/schemas"
)

var update = flag.Bool("update", false, "write the expected rows of the scenarios again")

// TestScenarios plays each scenario as written and compares the final rows
// with the expected ones. Unless its order is part of the story, it is then
// played in other orders, cut into other batches and with duplicates, which
// must not make a difference.
func TestScenarios(t *testing.T) {
	for _, file := range scenarioFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := parseScript(t, section(ar, "events"))
			got, stats := s.play(t)
			if want := section(ar, "rows"); got != want && !*update {
				t.Errorf("rows differ\ngot:\n%s\nwant:\n%s", got, want)
			}
			if want, ok := maybeSection(ar, "stats"); ok && stats != want && !*update {
				t.Errorf("stats differ: got %swant %s", stats, want)
			}
			if *update {
				rewrite(t, file, ar, map[string]string{"rows": got, "stats": stats})
			}
			if s.ordered {
				return
			}
			orders := uint64(100)
			if testing.Short() || raceEnabled {
				orders = 24
			}
			for seed := range orders {
				rng := rand.New(rand.NewPCG(seed, 1))
				if other := s.shuffled(t, rng, s.events()); other != got {
					t.Fatalf("another order (seed %d) gives other rows\ngot:\n%s\nwant:\n%s", seed, other, got)
				}
			}
		})
	}
}

func scenarioFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	return files
}

func section(ar *txtar.Archive, name string) string {
	s, _ := maybeSection(ar, name)
	return s
}

func maybeSection(ar *txtar.Archive, name string) (string, bool) {
	for _, f := range ar.Files {
		if f.Name == name {
			return string(f.Data), true
		}
	}
	return "", false
}

func rewrite(t *testing.T, file string, ar *txtar.Archive, with map[string]string) {
	t.Helper()
	if _, ok := maybeSection(ar, "rows"); !ok {
		ar.Files = append(ar.Files, txtar.File{Name: "rows"})
	}
	for i, f := range ar.Files {
		if s, ok := with[f.Name]; ok {
			ar.Files[i].Data = []byte(s)
		}
	}
	if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
		t.Fatal(err)
	}
}

// play runs the steps as written, each in a call of its own, and returns the
// final rows and the counters that are not zero.
func (s *script) play(t testing.TB) (rows, stats string) {
	t.Helper()
	cfg := s.cfg
	if !s.ordered { // no row is too late, in no order
		cfg.AllowedLateness, cfg.Window = Forever, Forever
	}
	e, tab, pr := New(cfg), newTable(), newPrinter(s.names, s.events())
	var out Output
	for _, st := range s.steps {
		part, _ := strconv.Atoi(st.args["part"])
		owner, _ := strconv.ParseInt(st.args["owner"], 10, 64)
		switch st.verb {
		case "":
			e.Process(&out, []schemas.Event{*st.event})
		case "assign":
			e.Assign("t", int32(part), owner)
		case "unassign":
			e.Unassign("t", int32(part))
		case "idle":
			e.Idle("t", int32(part))
		case "restore":
			e = New(s.cfg)
			e.Assign("t", int32(part), owner)
			e.Restore(&out, tab.loadBindings(), tab.load())
		default:
			t.Fatalf("unknown step !%s", st.verb)
		}
		tab.write(&out)
		checkEngine(t, e)
	}
	return pr.rows(tab, s.order), statsText(e.Stats())
}

// statsText shows the counters that are not zero and that do not depend on
// how large our structs are.
func statsText(st Stats) string {
	var b strings.Builder
	for _, c := range []struct {
		name string
		n    int64
	}{
		{"events", st.Events}, {"bind_only", st.BindOnly}, {"duplicates", st.Duplicates}, {"late", st.Late}, {"future", st.Future},
		{"rows_evicted", st.RowsEvicted}, {"keys_evicted", st.KeysEvicted}, {"keys_expired", st.KeysExpired},
		{"rows", int64(st.Rows)}, {"keys", int64(st.Keys)},
	} {
		if c.n != 0 {
			fmt.Fprintf(&b, "%s %d\n", c.name, c.n)
		}
	}
	if st.WatermarkNanos != 0 {
		fmt.Fprintf(&b, "watermark %+d s\n", (st.WatermarkNanos-noon)/1e9)
	}
	return b.String()
}

// shuffled plays events in a random order, in random batches, some of them
// twice, perhaps with a restart in between, and returns the final rows.
// Nothing is too late.
func (s *script) shuffled(t testing.TB, rng *rand.Rand, events []schemas.Event) string {
	t.Helper()
	cfg := s.cfg
	cfg.AllowedLateness, cfg.Window = Forever, Forever
	tab := deliver(t, rng, cfg, events)
	return newPrinter(s.names, events).rows(tab, s.order)
}

// deliver is a delivery as Kafka and crashes make it: any order, any cut into
// batches, duplicates, and restarts, each of which takes back what was written
// and reads again what was not yet committed.
func deliver(t testing.TB, rng *rand.Rand, cfg Config, events []schemas.Event) *table {
	t.Helper()
	todo := slices.Clone(events)
	for i := range events {
		if rng.IntN(5) == 0 { // the copy lies behind the original
			again := events[i].Clone()
			again.Evidence.Offset += 1000
			todo = append(todo, again)
		}
	}
	rng.Shuffle(len(todo), func(i, j int) { todo[i], todo[j] = todo[j], todo[i] })
	restarts := rng.IntN(3)
	owner := int64(1000)
	start := func() *Engine {
		e := New(cfg)
		for i := range events {
			e.Assign(events[i].Evidence.Topic, events[i].Evidence.Partition, owner)
		}
		return e
	}
	e, tab := start(), newTable()
	var out Output
	committed := 0
	for done := 0; done < len(todo); {
		n := min(1+rng.IntN(4), len(todo)-done)
		batch := make([]schemas.Event, n)
		for i := range batch {
			batch[i] = todo[done+i].Clone()
		}
		e.Process(&out, batch)
		done += n
		tab.write(&out)
		if rng.IntN(3) == 0 {
			checkEngine(t, e)
			tab.commit()
			committed = done
		}
		if restarts > 0 && rng.IntN(len(todo)) < 3 {
			restarts--
			owner += 1000
			e, done = start(), committed
			tab.crash(rng)
			bindings := tab.loadBindings()
			rng.Shuffle(len(bindings), func(i, j int) { bindings[i], bindings[j] = bindings[j], bindings[i] })
			e.Restore(&out, bindings, tab.load())
			tab.write(&out)
		}
	}
	checkEngine(t, e)
	return tab
}
