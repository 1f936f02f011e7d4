package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"catena/ingest"
	"catena/schemas"
	"catena/schemas/sources"
)

var sourcesCommand = command{
	name: "sources", args: "list | show NAME | test FILE… | lint FILE.yaml", short: "the log formats that are understood; try one's own files and formats",
	help: `
  list         the built-in sources; --format json for programs
  show NAME    a source's description: how it is recognised, what it binds
  test FILE…   what becomes of the records of log files: source, events, keys and bindings,
               and of what was not recognised, why; exit code 3 if there was any
  lint FILE    check a source.yaml of one's own; errors name line and column`,
	run: runSources,
}

func runSources(_ context.Context, env *environment, c *command, args []string) error {
	var fs flag.FlagSet
	format := fs.String("format", "table", "with list: table or json")
	rest, err := c.parse(env, &fs, args)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return usagef("want list, show, test or lint")
	}
	set, err := loadSources(env.getenv("CATENA_SOURCES_DIR"))
	if err != nil {
		return usageError{err}
	}
	switch verb, rest := rest[0], rest[1:]; {
	case verb == "list" && len(rest) == 0:
		return listSources(env, set, *format)
	case verb == "show" && len(rest) == 1:
		return showSource(env, set, rest[0])
	case verb == "test" && len(rest) > 0:
		return testSources(env, rest)
	case verb == "lint" && len(rest) == 1:
		return lintSource(env, rest[0])
	default:
		return usagef("want list, show NAME, test FILE… or lint FILE, got %q", verb)
	}
}

func listSources(env *environment, set *sources.Set, format string) error {
	type line struct {
		Name      string `json:"name"`
		Vendor    string `json:"vendor"`
		Title     string `json:"title"`
		Reference string `json:"reference"`
	}
	var lines []line
	for _, s := range set.Sources() {
		lines = append(lines, line{s.Name, s.Vendor, s.Title, s.Reference})
	}
	switch format {
	case "json":
		enc := json.NewEncoder(env.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(lines)
	case "table":
		rows := make([][]string, 0, len(lines))
		for _, l := range lines {
			rows = append(rows, []string{l.Name, l.Vendor, l.Title})
		}
		printTable(env.stdout, []string{"name", "vendor", "title"}, rows)
		return nil
	}
	return usagef("--format %q: want table or json", format)
}

func showSource(env *environment, set *sources.Set, name string) error {
	src, ok := set.Get(name)
	if !ok {
		return usagef("there is no source %q; `catena sources list` names them", name)
	}
	text, err := src.YAML()
	if err != nil {
		return err
	}
	_, err = env.stdout.Write(text)
	return err
}

func lintSource(env *environment, file string) error {
	src, err := sources.ReadFile(file)
	if err != nil {
		return err
	}
	fmt.Fprintf(env.stdout, "%s: source %s is well formed\n", file, src.Name)
	return nil
}

// testSources decodes files and says what came of each record.
func testSources(env *environment, files []string) error {
	cfg, err := loadConfig(env)
	if err != nil {
		return err
	}
	if cfg.HMACKey == "" {
		cfg.HMACKey = stitchHMACKey
	}
	st, err := newStitcher(cfg)
	if err != nil {
		return err
	}
	dead := 0
	for _, name := range files {
		n, err := testFile(env, st.decoders[0], name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		dead += n
	}
	if dead > 0 {
		return exitError(exitFound)
	}
	return nil
}

func testFile(env *environment, dec *ingest.Decoder, name string) (dead int, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	counts := map[string]int{}
	var offset int64
	err = ingest.SplitFile(f, func(value []byte) error {
		var out ingest.Decoded
		dec.Decode(&out, &schemas.Record{Topic: name, Offset: offset, Value: value})
		for i := range out.Events {
			printEvent(env, &out.Events[i])
			counts[out.Events[i].Source]++
		}
		for _, d := range out.Dead {
			fmt.Fprintf(env.stdout, "%s record %d: %s: %s\n", name, offset, d.Reason, safe(d.Error))
			dead++
		}
		for _, r := range dec.Recognise(value) {
			if len(r.Envelopes) > 0 {
				counts["in "+strings.Join(r.Envelopes, " in ")]++
			}
		}
		for _, s := range out.Skips {
			counts["skipped: "+s.Name] += s.Count
		}
		offset++
		return nil
	})
	fmt.Fprintf(env.stdout, "%s: %d records", name, offset)
	for _, k := range sortedKeys(counts) {
		fmt.Fprintf(env.stdout, ", %s %d", k, counts[k])
	}
	fmt.Fprintf(env.stdout, ", not decoded %d\n", dead)
	return dead, err
}

func printEvent(env *environment, e *schemas.Event) {
	fmt.Fprintf(env.stdout, "%d.%d  %s  %s  %s %s  %s\n", e.Evidence.Offset, e.Evidence.RecordIndex, e.Source, e.Class, safe(e.Action), shorten(e.Resource, 60), e.Outcome)
	for _, k := range e.Keys {
		fmt.Fprintf(env.stdout, "      with   %s\n", safe(k.String()))
	}
	for i := range e.Makes {
		b := &e.Makes[i]
		fmt.Fprintf(env.stdout, "      binds  %s → %s  %s, %s\n", safe(b.Child.String()), safe(b.Parent.String()), b.Relation, b.Strength)
	}
}

func sortedKeys(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
