package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"catena/schemas"
	"catena/schemas/sources"
	"catena/sinks/clickhouse"
)

// asker puts together what the tables and the sources' plans say of chains and
// actions, for explain and for the page alike. Its methods may be called from
// several goroutines.
type asker struct {
	store   *clickhouse.Store
	sources *sources.Set

	mu     sync.Mutex // guards what follows
	seen   map[string]clickhouse.SourceSeen
	seenAt time.Time
}

// seenFor is how long what was read of each source is not asked again: it is a
// look at all rows.
const seenFor = time.Minute

func (q *asker) sourcesSeen(ctx context.Context) (map[string]clickhouse.SourceSeen, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.seen != nil && time.Since(q.seenAt) < seenFor {
		return q.seen, nil
	}
	all, err := q.store.SourcesSeen(ctx)
	if err != nil {
		return nil, err
	}
	q.seen, q.seenAt = map[string]clickhouse.SourceSeen{}, time.Now()
	for _, s := range all {
		q.seen[s.Source] = s
	}
	return q.seen, nil
}

// chainStory is one chain with all that is told of it.
type chainStory struct {
	*tree
	proofs   map[schemas.ID]clickhouse.Proof
	findings []clickhouse.Finding
	cut      bool // it has more rows than were read
}

// actionStory is one action with all that is told of it.
type actionStory struct {
	*schemas.Action
	proofs map[schemas.ID]clickhouse.Proof
	lack   *lack
}

const maxFindings = 50

// chain tells one chain, of which at most limit rows are read (zero: 10,000).
func (q *asker) chain(ctx context.Context, id schemas.ID, limit int, all bool) (*chainStory, error) {
	if limit <= 0 {
		limit = 10_000
	}
	rows, err := q.store.Chain(ctx, id, limit+1)
	if err != nil {
		return nil, err
	}
	c := &chainStory{cut: len(rows) > limit}
	rows = rows[:min(len(rows), limit)]
	c.tree = newTree(rows, all)
	if c.proofs, err = q.proofsOf(ctx, rows); err != nil {
		return nil, err
	}
	c.findings, err = q.store.Findings(ctx, id, 0, maxFindings)
	return c, err
}

// action tells one action.
func (q *asker) action(ctx context.Context, a *schemas.Action) (s *actionStory, err error) {
	s = &actionStory{Action: a}
	if s.proofs, err = q.proofsOf(ctx, []*schemas.Action{a}); err != nil {
		return nil, err
	}
	s.lack, err = q.lackOf(ctx, a)
	return s, err
}

// proofsOf finds where the records lie that prove the steps of rows.
func (q *asker) proofsOf(ctx context.Context, rows []*schemas.Action) (map[schemas.ID]clickhouse.Proof, error) {
	own := map[schemas.ID]clickhouse.Proof{}
	for _, a := range rows {
		own[a.ID] = clickhouse.Proof{Event: a.ID, Source: a.Source, At: a.Evidence, Row: true, Version: a.Version}
	}
	var ask []schemas.ID
	add := func(id schemas.ID) {
		if _, ok := own[id]; !ok && !id.IsZero() && !slices.Contains(ask, id) {
			ask = append(ask, id)
		}
	}
	for _, a := range rows {
		for _, h := range a.Hops {
			add(h.Proof)
		}
		for _, c := range a.Candidates {
			add(c.Proof)
		}
	}
	if len(ask) == 0 {
		return own, nil
	}
	found, err := q.store.Proofs(ctx, ask)
	for id, p := range found {
		own[id] = p
	}
	return own, err
}

// match is a chain, or an action without one, that a text touches.
type match struct {
	clickhouse.Found
	Summary *clickhouse.ChainSummary // of the whole chain; nil for an action without one
}

// find returns the chains that a text touches, the newest first.
func (q *asker) find(ctx context.Context, text string, limit int) ([]match, error) {
	found, err := q.store.FindChains(ctx, text, limit)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	matches := make([]match, len(found))
	var ids []schemas.ID
	for i, f := range found {
		matches[i].Found = f
		if !f.Chain.IsZero() {
			ids = append(ids, f.Chain)
		}
	}
	all, err := q.store.Summaries(ctx, ids)
	for i := range all {
		for j := range matches {
			if matches[j].Chain == all[i].Chain {
				matches[j].Summary = &all[i]
			}
		}
	}
	return matches, err
}

// event returns the action of an id if the text is one; else nil.
func (q *asker) event(ctx context.Context, text string) (*schemas.Action, error) {
	if id, err := schemas.ParseID(text); err == nil && !id.IsZero() {
		return q.store.Action(ctx, id)
	}
	return nil, nil
}
