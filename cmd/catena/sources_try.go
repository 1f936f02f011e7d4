package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"catena/ingest"
	"catena/schemas"
)

// tryFiles decodes files and says what became of their records.
func tryFiles(ctx context.Context, env *environment, files []string, asJSON, events bool) error {
	if asJSON && events {
		return usagef("--events and --format json exclude each other")
	}
	cfg, err := loadConfig(env)
	if err != nil {
		return err
	}
	cfg.HMACKey = cmp.Or(cfg.HMACKey, stitchHMACKey)
	cfg.Decoders = 1
	reg, err := cfg.openRegistry(ctx, newLog(env.stderr, cfg))
	if err != nil {
		return err
	}
	st, err := newStitcher(cfg, reg)
	if err != nil {
		return err
	}
	reports := []*fileReport{}
	dead := 0
	for _, name := range files {
		r := newFileReport(name)
		if events {
			r.each = func(e *schemas.Event) { printEvent(env, e) }
		}
		if err := r.read(st.decoders[0]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		dead += r.Dead
		if reports = append(reports, r); !asJSON {
			r.print(&shower{w: env.stdout, colour: env.colour()})
		}
	}
	if asJSON {
		if err := printJSON(env.stdout, reports); err != nil {
			return err
		}
	}
	if dead > 0 {
		return exitError(exitFound)
	}
	return nil
}

// maxMistakes bounds the kinds of mistakes that are told apart in one file, and
// maxActions the types without a class of one source.
const (
	maxMistakes = 50
	maxActions  = 1000
)

// fileReport is what became of a file.
type fileReport struct {
	File      string                   `json:"file"`
	Records   int64                    `json:"records"`
	Envelopes map[string]int           `json:"envelopes"` // the chain, outermost first, and how many items it held
	Sources   map[string]*sourceReport `json:"sources"`
	Skipped   map[string]*skipped      `json:"skipped"` // by envelopes, and what of their kind no source knows
	Dead      int                      `json:"not_decoded"`
	Mistakes  []*mistake               `json:"mistakes"`

	each func(*schemas.Event)
}

// sourceReport is what was decoded by one source.
type sourceReport struct {
	Events       int            `json:"events"` // that become rows
	Classes      map[string]int `json:"classes"`
	Unclassified map[string]int `json:"unclassified"` // actions to which no rule gave a class
	Keys         map[string]int `json:"keys"`         // by kind:namespace
	Bindings     map[string]int `json:"bindings"`     // child ← parent, relation, strength
	Redacted     int            `json:"redacted"`     // events with a placeholder where a key belongs

	Skipped map[string]*skipped `json:"skipped"` // that only bind
}

// skipped counts what was left out on purpose under one name.
type skipped struct {
	Count  int   `json:"count"`
	Record int64 `json:"record"` // where the first is, from 0
}

func skip(m map[string]*skipped, name string, count int, record int64) {
	if m[name] == nil {
		m[name] = &skipped{Record: record}
	}
	m[name].Count += count
}

// mistake is what several items have in common that were not decoded.
type mistake struct {
	Reason  string   `json:"reason"`
	Error   string   `json:"error"` // of the first
	Count   int      `json:"count"`
	Record  int64    `json:"record"` // where the first is, from 0
	Item    int32    `json:"item"`
	Nearest string   `json:"nearest,omitempty"` // the source that it comes nearest to
	Wants   []string `json:"wants,omitempty"`   // what that one also asks for

	kind string
}

func newFileReport(name string) *fileReport {
	return &fileReport{File: name, Envelopes: map[string]int{}, Sources: map[string]*sourceReport{}, Skipped: map[string]*skipped{}, Mistakes: []*mistake{}}
}

func (r *fileReport) source(name string) *sourceReport {
	s := r.Sources[name]
	if s == nil {
		s = &sourceReport{Classes: map[string]int{}, Unclassified: map[string]int{}, Keys: map[string]int{}, Bindings: map[string]int{}, Skipped: map[string]*skipped{}}
		r.Sources[name] = s
	}
	return s
}

func (r *fileReport) read(dec *ingest.Decoder) error {
	f, err := os.Open(r.File)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var out ingest.Decoded
	return ingest.SplitFile(f, func(value []byte) error {
		out.Reset()
		dec.Decode(&out, &schemas.Record{Topic: r.File, Offset: r.Records, Value: value})
		if out.Err != nil {
			return out.Err
		}
		r.add(&out, dec.Recognise(value))
		r.Records++
		return nil
	})
}

// add counts what one record gave.
func (r *fileReport) add(out *ingest.Decoded, items []ingest.Recognition) {
	for i := range out.Events {
		r.event(&out.Events[i])
	}
	for _, i := range out.Unclassified {
		e := &out.Events[i]
		if s := r.source(e.Source); len(s.Unclassified) < maxActions || s.Unclassified[e.Action] > 0 {
			s.Unclassified[strings.Clone(e.Action)]++
		}
	}
	for _, s := range out.Skips {
		if s.Source == "" {
			skip(r.Skipped, s.Name, s.Count, r.Records)
		} else {
			skip(r.source(s.Source).Skipped, s.Name, s.Count, r.Records)
		}
	}
	nearest := map[int]ingest.Nearest{}
	for _, item := range items {
		if len(item.Envelopes) > 0 {
			r.Envelopes[strings.Join(item.Envelopes, " in ")]++
		}
		nearest[item.Item] = item.Nearest
	}
	for i := range out.Dead {
		r.dead(&out.Dead[i], nearest[int(out.Dead[i].Evidence.RecordIndex)])
	}
}

func (r *fileReport) event(e *schemas.Event) {
	if r.each != nil {
		r.each(e)
	}
	s := r.source(e.Source)
	if e.BindOnly == "" { // otherwise it is counted as what it is called
		s.Events++
		s.Classes[e.Class.String()]++
	}
	if e.Redacted {
		s.Redacted++
	}
	for _, k := range e.Keys {
		s.Keys[kindOf(k)]++
	}
	for i := range e.Makes {
		b := &e.Makes[i]
		s.Bindings[fmt.Sprintf("%s ← %s, %s, %s", kindOf(b.Child), kindOf(b.Parent), b.Relation, b.Strength)]++
	}
}

func kindOf(k schemas.Key) string { return k.Kind.String() + ":" + k.Namespace }

// numbers and quoted texts are what differs between mistakes of one kind.
var (
	numbers = regexp.MustCompile(`[0-9]+`)
	quoted  = regexp.MustCompile(`"[^"]*"`)
	itemAt  = regexp.MustCompile(` \(item [0-9]+ of the record\)`)
)

func (r *fileReport) dead(d *schemas.DeadLetter, near ingest.Nearest) {
	r.Dead++
	text := itemAt.ReplaceAllString(d.Error, "")
	kind := d.Reason.String() + numbers.ReplaceAllString(quoted.ReplaceAllString(text, `""`), "0")
	i := slices.IndexFunc(r.Mistakes, func(m *mistake) bool { return m.kind == kind })
	if i < 0 && len(r.Mistakes) == maxMistakes {
		i = maxMistakes - 1 // the last one counts for all that follow
		r.Mistakes[i].Reason, r.Mistakes[i].Error = "several", "and others of more kinds"
	}
	if i >= 0 {
		r.Mistakes[i].Count++
		return
	}
	r.Mistakes = append(r.Mistakes, &mistake{Reason: d.Reason.String(), Error: text, Count: 1,
		Record: d.Evidence.Offset, Item: d.Evidence.RecordIndex, Nearest: near.Source, Wants: near.Wants, kind: kind})
}

func (r *fileReport) print(x *shower) {
	x.printf("%s: %d records\n", x.paint(bold, safe(r.File)), r.Records)
	x.counts("  in envelopes", r.Envelopes)
	for _, name := range slices.Sorted(maps.Keys(r.Sources)) {
		s := r.Sources[name]
		x.printf("  %s %d events\n", x.paint(green, name), s.Events)
		x.counts("    classes", s.Classes)
		x.counts("    no rule names", s.Unclassified)
		x.counts("    keys", s.Keys)
		x.counts("    binds", s.Bindings)
		x.skips("    no row", s.Skipped)
		if s.Redacted > 0 {
			x.printf("    redacted       %d events with a placeholder where a key belongs\n", s.Redacted)
		}
	}
	x.skips("  skipped", r.Skipped)
	if r.Dead == 0 {
		return
	}
	x.printf("  %s %d\n", x.paint(red, "not decoded"), r.Dead)
	for _, m := range r.Mistakes {
		x.printf("    %d × %s, first record %d, item %d\n      %s\n", m.Count, m.Reason, m.Record, m.Item, safe(m.Error))
		if m.Nearest != "" {
			x.printf("      nearest is %s, which also wants: %s\n", m.Nearest, safe(strings.Join(m.Wants, ", ")))
		}
	}
}

// counts writes the entries of a map on lines of their own, most frequent first.
func (x *shower) counts(title string, m map[string]int) {
	const shown = 12
	names := slices.SortedFunc(maps.Keys(m), func(a, b string) int { return cmp.Or(cmp.Compare(m[b], m[a]), cmp.Compare(a, b)) })
	for i, name := range names {
		if i == shown {
			x.printf("%-17s %s\n", "", x.paint(dim, fmt.Sprintf("… and %d more", len(names)-shown)))
			return
		}
		if i > 0 {
			title = ""
		}
		x.printf("%-17s %6d  %s\n", title, m[name], safe(name))
	}
}

// skips writes what was left out, with a place to look at.
func (x *shower) skips(title string, m map[string]*skipped) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		x.printf("%-17s %6d  %s, first record %d\n", title, m[name].Count, safe(name), m[name].Record)
		title = ""
	}
}

// printEvent writes one event with what it was performed with and what it binds.
func printEvent(env *environment, e *schemas.Event) {
	w := env.stdout
	fmt.Fprintf(w, "%d.%d  %s  %s  %s %s  %s\n", e.Evidence.Offset, e.Evidence.RecordIndex, e.Source, e.Class, safe(e.Action), shorten(e.Resource, 60), e.Outcome)
	for _, k := range e.Keys {
		fmt.Fprintf(w, "      with   %s\n", safe(k.String()))
	}
	for i := range e.Makes {
		b := &e.Makes[i]
		fmt.Fprintf(w, "      binds  %s → %s  %s, %s\n", safe(b.Child.String()), safe(b.Parent.String()), b.Relation, b.Strength)
	}
}
