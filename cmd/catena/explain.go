package main

import (
	"context"
	"flag"
	"fmt"
	"strings"

	"catena/schemas"
	"catena/sinks/clickhouse"
	"catena/sinks/jsonl"
)

var explainCommand = command{
	name: "explain", args: "[flags] WHAT", short: "one action, key, person or chain as a tree, with its evidence",
	help: `
WHAT is an event id, a chain id, a key (token:aws.access_key:ASIA… or the bare ASIA…), a
principal (an e-mail address, a role ARN), a resource or an address. Every chain that it
occurs in is drawn from its root down; for an event, each step is shown with the record
that proves it, and for what is not proven, what was missing.

  catena explain ASIAFICTITIOUS000001
  catena explain alice@example.com --limit 3
  catena explain 3f2a0c1e-… --format json

The settings that apply: CATENA_CLICKHOUSE_ADDR, …_DATABASE, …_USER, …_PASSWORD.`,
	run: runExplain,
}

func runExplain(ctx context.Context, env *environment, c *command, args []string) error {
	var fs flag.FlagSet
	limit := fs.Int("limit", 10, "most chains to draw, newest first")
	all := fs.Bool("all", false, "draw every row, also the spans and decisions that the line above tells")
	format := fs.String("format", "text", "text, or json: the rows as in stitch")
	rest, err := c.parse(env, &fs, args)
	if err != nil {
		return err
	}
	if len(rest) != 1 {
		return usagef("want one thing to explain, got %d", len(rest))
	}
	if *format != "text" && *format != "json" {
		return usagef("--format %q: want text or json", *format)
	}
	cfg, err := loadConfig(env)
	if err != nil {
		return err
	}
	store, err := openStore(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	x := explainer{store: store, env: env, json: *format == "json", p: &painter{w: env.stdout, colour: env.terminal, all: *all}}
	return x.explain(ctx, rest[0], *limit)
}

type explainer struct {
	store *clickhouse.Store
	env   *environment
	json  bool
	p     *painter
}

func (x *explainer) explain(ctx context.Context, what string, limit int) error {
	if id, err := schemas.ParseID(what); err == nil {
		a, err := x.store.Action(ctx, id)
		if err != nil {
			return err
		}
		if a != nil {
			return x.action(ctx, a)
		}
	}
	chains, err := x.store.FindChains(ctx, what, limit)
	if err != nil {
		return err
	}
	if len(chains) == 0 {
		return fmt.Errorf("nothing found for %q: it is no event, chain, key, principal, resource or address in the tables", what)
	}
	for i, found := range chains {
		if i > 0 && !x.json {
			fmt.Fprintln(x.env.stdout)
		}
		if err := x.found(ctx, found); err != nil {
			return err
		}
	}
	return nil
}

// found draws a chain, or the newest action where there is none, as for failed
// logins.
func (x *explainer) found(ctx context.Context, f clickhouse.Found) error {
	if !f.Chain.IsZero() {
		return x.chain(ctx, f.Chain)
	}
	a, err := x.store.Action(ctx, f.Event)
	if err != nil || a == nil {
		return err
	}
	return x.action(ctx, a)
}

func (x *explainer) chain(ctx context.Context, id schemas.ID) error {
	rows, err := x.store.Chain(ctx, id, 0)
	if err != nil {
		return err
	}
	if x.json {
		for _, a := range rows {
			if err := jsonl.Encode(x.env.stdout, a); err != nil {
				return err
			}
		}
		return nil
	}
	x.p.chain(rows)
	return nil
}

// action draws one action's own path, step by step, and then its chain.
func (x *explainer) action(ctx context.Context, a *schemas.Action) error {
	if x.json {
		return jsonl.Encode(x.env.stdout, a)
	}
	x.p.action(a)
	if a.ChainID.IsZero() {
		return nil
	}
	fmt.Fprintln(x.env.stdout)
	return x.chain(ctx, a.ChainID)
}

// action prints one action with the proof of each step.
func (p *painter) action(a *schemas.Action) {
	fmt.Fprintf(p.w, "%s  %s  %s %s  %s\n", clock(a.TimeNanos), a.Class, p.paint(bold, safe(a.Event.Action)), safe(a.Resource), a.Outcome)
	fmt.Fprintf(p.w, "%s: %s\n", p.grade(a.Grade), safe(reasonText(a)))
	for i, h := range a.Hops {
		indent := strings.Repeat("   ", i)
		if i == 0 {
			fmt.Fprintf(p.w, "%s%s %s %s\n", indent, h.Key.Kind, p.paint(bold, safe(h.Key.ID())), safe(h.Name))
			continue
		}
		fmt.Fprintf(p.w, "%s└─ %s %s  %s, %s", indent[3:], h.Key.Kind, p.paint(bold, safe(h.Key.ID())), h.Relation, h.Strength)
		switch {
		case h.Lent:
			fmt.Fprint(p.w, ", lends mfa and method only")
		case h.Proof == a.ID:
			fmt.Fprint(p.w, p.paint(dim, "  proven by this very record"))
		case !h.Proof.IsZero():
			fmt.Fprint(p.w, p.paint(dim, "  proof "+h.Proof.String()+" at "+clock(h.AtNanos)))
		}
		fmt.Fprintln(p.w)
	}
	for _, c := range a.Candidates {
		fmt.Fprintf(p.w, "   candidate %s, which leads to %s\n", safe(c.Parent.String()), orUnknown(safe(c.Root.String())))
	}
	if m := missing(a); m != "" {
		fmt.Fprintln(p.w, "missing: "+safe(m))
	}
	e := a.Evidence
	fmt.Fprintln(p.w, p.paint(dim, fmt.Sprintf("event %s  record %s/%d@%d item %d  sha256 %x", a.ID, e.Topic, e.Partition, e.Offset, e.RecordIndex, e.RawSHA256)))
}

func orUnknown(s string) string {
	if s == "" {
		return "nobody known"
	}
	return s
}

// reasonText says a reason in a sentence.
func reasonText(a *schemas.Action) string {
	switch a.Reason {
	case schemas.ReasonComplete:
		return "every step up to the root was seen"
	case schemas.ReasonNoBindingSeen:
		return "no record says who drives " + a.Frontier.String()
	case schemas.ReasonNoKey:
		return "the record names " + a.Actor.ID() + " but holds no token, session or workload id"
	case schemas.ReasonNoIdentity:
		return "the record names nobody and holds no key"
	case schemas.ReasonRedactedKey:
		return "the key was redacted before the record reached the topic"
	case schemas.ReasonBindingExpired:
		return "what was seen of " + a.Frontier.String() + " had ended before this action"
	case schemas.ReasonBindingNotYet:
		return "what was seen of " + a.Frontier.String() + " began after this action"
	case schemas.ReasonSelfReported:
		return "telemetry says so of itself; no authenticated token or session id stands on the way"
	case schemas.ReasonNameOnly:
		return "only a session or account name says so; its mint was not seen"
	case schemas.ReasonTimeContainment:
		return "one step rests on what was running there at that time, and only one thing fits"
	case schemas.ReasonSubjectMatch:
		return "one step rests on a shared subject name at that time, and only one fits"
	case schemas.ReasonSeveralCandidates:
		return "more than one thing was running there at that time"
	case schemas.ReasonConflict:
		return "records contradict each other"
	case schemas.ReasonFailedLogin:
		return "nobody was authenticated: the name is a claim"
	case schemas.ReasonEvicted:
		return "the binding of " + a.Frontier.String() + " had been dropped to stay inside the memory limit"
	case schemas.ReasonCycle:
		return "the bindings run in a circle"
	default:
		return "the path is longer than the limit"
	}
}

// missing says what would have made the attribution proven; empty if it is.
func missing(a *schemas.Action) string {
	switch a.Reason {
	case schemas.ReasonSelfReported:
		return "the id of the access token, or of the login session, on the agent's span (attribute enduser.token.id): it would tie the run to the login that authenticated " + a.RootName
	case schemas.ReasonNameOnly, schemas.ReasonNoBindingSeen, schemas.ReasonEvicted, schemas.ReasonBindingExpired, schemas.ReasonBindingNotYet:
		k := a.Frontier
		if k.IsZero() {
			k = a.FirstKey(schemas.KindToken)
		}
		return "the record that minted " + k.String() + ": is the topic that holds it being read, and does it go back far enough?"
	case schemas.ReasonNoKey:
		return "a token, session or workload id in the record"
	case schemas.ReasonTimeContainment, schemas.ReasonSeveralCandidates:
		return "a link between the tool call and this request, such as the attribute aws.request_id on the span of the SDK call"
	case schemas.ReasonSubjectMatch:
		return "the id of the run in the token's subject or claims"
	case schemas.ReasonRedactedKey:
		return "the key itself: keep ids when redacting, they are no secrets"
	default:
		return ""
	}
}

// lack prints what would have proven a chain whose weakest step is a claim.
func (p *painter) lack(rows []*schemas.Action) {
	for _, a := range rows {
		if a.Reason == schemas.ReasonSelfReported {
			fmt.Fprintln(p.w, p.paint(yellow, "missing: ")+safe(missing(a)))
			return
		}
	}
}
