package main

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"catena/schemas"
)

var explainCommand = command{
	name: "explain", args: "[flags] WHAT", short: "one action, key, person or chain as a tree, with its evidence",
	help: `
WHAT is an event id, a chain id, a key (token:aws.access_key:ASIA… or the bare ASIA…), a
principal (an e-mail address, a role ARN), a resource, an address, a trace id or a grant id.

A chain is drawn from its root down: how each key is driven, and the record that proves it
(topic/partition@offset); under each key the actions performed with it, with grade, flags and
findings. If WHAT touches several chains they are listed, and you choose: by their id, with
--pick N, or --each for all. An event is shown step by step; if it is not proven, with what was
missing: the bindings that came nearest and by how much they missed, and which records of
which sources would have proven it.

  catena explain ASIAFICTITIOUS000001                      who drove a key, and all that it did
  catena explain alice@example.com --pick 1                the newest chain of a person
  catena explain arn:aws:s3:::customers/4711.json --each   every chain that touched a resource
  catena explain 3f2a0c1e-… --format json | jq .action.lack
  catena explain token:jti:7d1e… --format dot | dot -Tsvg > chain.svg
  catena explain 3f2a0c1e-… --format html > evidence.html  one file, for the ticket

The text is in colour on a terminal; NO_COLOR=1 turns that off. docs/page.md has the shape of
the JSON. The settings that apply: CATENA_CLICKHOUSE_ADDR, …_DATABASE, …_USER, …_PASSWORD,
and CATENA_SOURCES_DIR for what sources of your own would have proven.`,
	run: runExplain,
}

type explainFlags struct {
	limit, pick int
	all, each   bool
	format      string
}

func runExplain(ctx context.Context, env *environment, c *command, args []string) error {
	var fs flag.FlagSet
	var f explainFlags
	fs.IntVar(&f.limit, "limit", 10, "most chains to list or draw, newest first")
	fs.IntVar(&f.pick, "pick", 0, "of several chains, draw the N-th of the list")
	fs.BoolVar(&f.each, "each", false, "of several chains, draw each")
	fs.BoolVar(&f.all, "all", false, "draw every row, also the spans and decisions that the line above tells")
	fs.StringVar(&f.format, "format", "text", "text, json, dot (Graphviz) or html (one self-contained file)")
	rest, err := c.parse(env, &fs, args)
	if err != nil {
		return err
	}
	switch {
	case len(rest) != 1 || strings.TrimSpace(rest[0]) == "":
		return usagef("want one thing to explain, got %d", len(rest))
	case !slices.Contains([]string{"text", "json", "dot", "html"}, f.format):
		return usagef("--format %q: want text, json, dot or html", f.format)
	case f.limit < 1 || f.pick < 0:
		return usagef("--limit %d --pick %d: want numbers from 1", f.limit, f.pick)
	}
	cfg, err := loadConfig(env)
	if err != nil {
		return err
	}
	set, err := loadSources(cfg.SourcesDir)
	if err != nil {
		return err
	}
	store, err := openStore(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	q := &asker{store: store, sources: set}
	e, err := q.explain(ctx, strings.TrimSpace(rest[0]), f)
	if err != nil {
		return err
	}
	return e.write(env, f)
}

// explanation is the answer to one question, whatever the format.
type explanation struct {
	what    string
	asOf    int64 // rows older than this change no more; zero if that is not known
	action  *actionStory
	chains  []*chainStory
	lone    []*actionStory // actions that matched and belong to no chain
	matches []match        // all that matched; more than are drawn if a choice is to be made
	choose  bool
}

// explain answers for a text. If it touches several chains, they are listed
// unless the flags choose.
func (q *asker) explain(ctx context.Context, what string, f explainFlags) (*explanation, error) {
	e := &explanation{what: what}
	pulse, err := q.store.Pulse(ctx)
	if err != nil {
		return nil, err
	}
	e.asOf = pulse.FinalNanos
	a, err := q.event(ctx, strings.ToLower(what))
	if err != nil {
		return nil, err
	}
	if a != nil {
		return e, q.explainAction(ctx, e, a, f)
	}
	if e.matches, err = q.find(ctx, what, f.limit); err != nil {
		return nil, err
	}
	if len(e.matches) == 0 {
		return nil, nothingFound(what, pulse.LastEventMicros)
	}
	draw := e.matches
	switch {
	case f.pick > len(draw):
		return nil, usagef("--pick %d: %q touches %d chains; --limit lists more", f.pick, what, len(draw))
	case f.pick > 0:
		draw = draw[f.pick-1 : f.pick]
	case len(draw) > 1 && !f.each:
		e.choose = true
		return e, nil
	}
	for _, m := range draw {
		if err := q.explainMatch(ctx, e, m, f); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// explainAction tells an action and the chain that it belongs to.
func (q *asker) explainAction(ctx context.Context, e *explanation, a *schemas.Action, f explainFlags) (err error) {
	if e.action, err = q.action(ctx, a); err != nil || a.ChainID.IsZero() {
		return err
	}
	c, err := q.chain(ctx, a.ChainID, 0, f.all)
	e.chains = append(e.chains, c)
	return err
}

// explainMatch tells a chain, or the newest action where there is none, as for
// failed logins.
func (q *asker) explainMatch(ctx context.Context, e *explanation, m match, f explainFlags) error {
	if !m.Chain.IsZero() {
		c, err := q.chain(ctx, m.Chain, 0, f.all)
		e.chains = append(e.chains, c)
		return err
	}
	a, err := q.store.Action(ctx, m.Event)
	if err != nil || a == nil {
		return err
	}
	s, err := q.action(ctx, a)
	e.lone = append(e.lone, s)
	return err
}

// nothingError says that nothing was found, and what to try.
type nothingError string

func (e nothingError) Error() string { return string(e) }

// nothingFound says what to try instead.
func nothingFound(what string, lastMicros int64) error {
	text := fmt.Sprintf("nothing found for %q: it is no event, chain, key, principal, resource, address, trace or grant in the tables.\n", what)
	if lastMicros <= 0 {
		return nothingError(text + "The table actions is empty: is `catena run` writing into this database (CATENA_CLICKHOUSE_ADDR, CATENA_CLICKHOUSE_DATABASE)?")
	}
	text += "Names are compared whole and as the logs write them. Try\n"
	if k, err := schemas.ParseKey(what); err == nil {
		text += fmt.Sprintf("  catena explain %s          the value alone, in whatever namespace\n", shorten(k.Value, 80))
	} else {
		text += "  the other name that it has in the logs: an access key's id (AKIA…, ASIA…), a token's jti, an e-mail address, a full ARN\n"
	}
	return nothingError(fmt.Sprintf("%s  catena deadletters list                a record that could not be decoded has no row\nThe newest action is of %s UTC; what happened later has not been read yet.", text, stamp(lastMicros*1000)))
}

// write prints the answer in the format asked for.
func (e *explanation) write(env *environment, f explainFlags) error {
	switch f.format {
	case "json":
		return e.writeJSON(env.stdout)
	case "dot":
		return e.writeDOT(env.stdout)
	case "html":
		return e.writeHTML(env.stdout)
	}
	p := &painter{w: env.stdout, colour: env.colour(), all: f.all}
	if e.choose {
		p.choices(e.what, e.matches, len(e.matches) == f.limit)
		return nil
	}
	first := true
	blank := func() {
		if !first {
			fmt.Fprintln(p.w)
		}
		first = false
	}
	for _, a := range append(e.lone, e.action) {
		if a != nil {
			blank()
			p.story(a)
		}
	}
	for _, c := range e.chains {
		blank()
		p.chainStory(c)
	}
	return nil
}

// choices lists what a text touches, and says how to go on.
func (p *painter) choices(what string, matches []match, cut bool) {
	touched := count(len(matches), "chain")
	if cut {
		touched += " or more"
	}
	fmt.Fprintf(p.w, "%q touches %s, the newest first:\n\n", safe(what), touched)
	for i, m := range matches {
		id, line := m.Chain, "no chain: "+orElse(safe(orElse(m.RootName, m.Root.ID())), "nobody known")
		if s := m.Summary; s != nil {
			line = fmt.Sprintf("%s %s  %s (%d match), weakest %s", s.Root.Kind, p.paint(bold, safe(orElse(s.RootName, orElse(s.Root.ID(), "nobody known")))), count(s.Actions, "action"), m.Actions, p.grade(s.Worst))
			if s.Flags != 0 {
				line += "  " + p.paint(red, "⚑ "+s.Flags.String())
			}
		} else {
			id = m.Event
		}
		fmt.Fprintf(p.w, "%3d  %s  %s to %s  %s\n", i+1, id, stamp(m.FirstNanos), time.Unix(0, m.LastNanos).UTC().Format("15:04:05"), line)
	}
	fmt.Fprintf(p.w, "\nChoose with its id, or with --pick N; --each draws them all, --limit lists more.\n")
}

func (p *painter) story(s *actionStory) {
	p.proofs = s.proofs
	p.action(s.Action)
	p.lackOf(s.lack)
}

func (p *painter) chainStory(c *chainStory) {
	p.proofs = c.proofs
	p.tree(c.tree)
	for _, f := range c.findings {
		fmt.Fprintf(p.w, "%s %s: %s  %s, the last at %s\n", p.paint(red, "finding"), p.paint(bold, f.Rule), f.Detail, count(f.Actions, "action"), clock(f.LastNanos))
	}
	p.lack(c.rows)
	if c.cut {
		fmt.Fprintf(p.w, "the chain is longer: only its first %d rows are drawn; the rest stands in the table actions\n", len(c.rows))
	}
}
