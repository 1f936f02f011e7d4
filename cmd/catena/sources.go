package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"catena/ingest"
	"catena/schemas/sources"
)

var sourcesCommand = command{
	name: "sources", args: "list | show NAME | test FILE… | lint FILE.yaml…", short: "the log formats that are understood; try one's own files and formats",
	help: `
  list            the sources: what each mints, carries and grants
  show NAME       one source in words: how it is recognised, what it binds; --yaml as it is written
  test FILE…      what becomes of the records of log files: envelopes, sources, classes, keys and
                  bindings, and of what was not recognised, why, with a place to look at;
                  --events prints every event. Exit code 3 if anything was not decoded
  lint FILE.yaml… check a source of one's own; errors name line, column and what to do

The first look at a topic: save some of its records, one a line, and test them.

  kafka-console-consumer.sh --topic audit --max-messages 1000 … > audit.jsonl
  catena sources test audit.jsonl

A format that nobody else has is a YAML file, and needs no new build (docs/sources.md):

  catena sources lint acme.yaml
  CATENA_SOURCES_DIR=. catena sources test acme.jsonl

CATENA_SOURCES_DIR adds the sources of a folder, here and in every other command.`,
	run: runSources,
}

func runSources(ctx context.Context, env *environment, c *command, args []string) error {
	var fs flag.FlagSet
	format := fs.String("format", "table", "with list and test: table or json")
	asYAML := fs.Bool("yaml", false, "with show: the source as it is written")
	events := fs.Bool("events", false, "with test: every event with its keys and bindings")
	rest, err := c.parse(env, &fs, args)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return usagef("want list, show, test or lint")
	}
	if *format != "table" && *format != "json" {
		return usagef("--format %q: want table or json", *format)
	}
	verb, rest := rest[0], rest[1:]
	switch {
	case verb == "lint" && len(rest) > 0:
		return lintSources(env, rest)
	case verb == "test" && len(rest) > 0:
		return tryFiles(ctx, env, rest, *format == "json", *events)
	}
	set, err := loadSources(env.getenv("CATENA_SOURCES_DIR"))
	if err != nil {
		return usageError{err}
	}
	switch {
	case verb == "list" && len(rest) == 0:
		return listSources(env, set, *format == "json")
	case verb == "show" && len(rest) == 1:
		return showSource(env, set, rest[0], *asYAML)
	default:
		return usagef("want list, show NAME, test FILE… or lint FILE.yaml…, got %q", strings.Join(append([]string{verb}, rest...), " "))
	}
}

// listed is a line of list, for programs.
type listed struct {
	Name      string   `json:"name"`
	Vendor    string   `json:"vendor"`
	Title     string   `json:"title"`
	Reference string   `json:"reference"`
	File      string   `json:"file,omitempty"` // of a user's own
	Priority  int      `json:"priority"`
	Classes   []string `json:"classes"`
	Mints     []string `json:"mints"`
	Binds     []string `json:"binds"`
	Carries   []string `json:"carries"`
	Ends      []string `json:"ends"`
	Grants    []string `json:"grants"`
	Decides   bool     `json:"decides"`
}

func listSources(env *environment, set *sources.Set, asJSON bool) error {
	lines := []listed{}
	for _, s := range set.Sources() {
		sum := s.Summary()
		lines = append(lines, listed{s.Name, s.Vendor, s.Title, s.Reference, s.File, s.Priority, some(sum.Classes),
			some(sum.Mints), some(sum.Binds), some(sum.Carries), some(sum.Ends), some(sum.Grants), sum.Decides})
	}
	slices.SortFunc(lines, func(a, b listed) int { return strings.Compare(a.Name, b.Name) })
	if asJSON {
		return printJSON(env.stdout, lines)
	}
	rows := make([][]string, 0, len(lines))
	for _, l := range lines {
		rows = append(rows, []string{l.Name, l.Vendor, namespaces(l.Mints), namespaces(l.Carries), namespaces(l.Grants)})
	}
	printTable(env.stdout, []string{"name", "vendor", "mints", "carries", "grants"}, rows)
	fmt.Fprintf(env.stdout, "\n%d sources; `catena sources show NAME` explains one, --format json lists all they bind\n", len(lines))
	return nil
}

// some is an empty list rather than null.
func some(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// namespaces leaves the kinds of keys out, for people.
func namespaces(keys []string) string {
	var out []string
	for _, k := range keys {
		if _, ns, _ := strings.Cut(k, ":"); !slices.Contains(out, ns) {
			out = append(out, ns)
		}
	}
	return strings.Join(out, " ")
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// lintSources checks every file, and tells the faults of all.
func lintSources(env *environment, files []string) error {
	builtIn, err := sources.Embedded()
	if err != nil {
		return err
	}
	var faults []error
	for _, file := range files {
		src, err := sources.ReadFile(file)
		if err == nil {
			err = compiles(src)
		}
		if err != nil {
			faults = append(faults, err)
			continue
		}
		sum := src.Summary()
		fmt.Fprintf(env.stdout, "%s: source %s is well formed: %d rules; mints %s; carries %s\n", file, src.Name, len(src.Rules), none(namespaces(sum.Mints)), none(namespaces(sum.Carries)))
		if _, known := builtIn.Get(src.Name); known && !src.Replaces {
			fmt.Fprintf(env.stdout, "%s: note: there is a built-in source of this name; in CATENA_SOURCES_DIR the file has to say replaces: true\n", file)
		}
	}
	return errors.Join(faults...)
}

func none(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// compiles tells the faults that only the decoder finds.
func compiles(src *sources.Source) error {
	set, err := sources.NewSet(src)
	if err != nil {
		return err
	}
	_, err = ingest.NewDecoder(set, ingest.DecoderOptions{HMACKey: []byte(stitchHMACKey)})
	return err
}
