package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"catena/schemas"
	"catena/sinks/clickhouse"
	"catena/sinks/jsonl"
)

// The JSON of explain and of /api/explain. docs/page.md describes it; members
// may be added, and what is there keeps its name and meaning.

type jsonExplanation struct {
	What    string       `json:"what"`
	FinalTo string       `json:"final_before"` // rows older than this change no more; empty if that is not known
	Choose  bool         `json:"choose"`       // several match and none was chosen: matches lists them
	Matches []jsonMatch  `json:"matches"`
	Action  *jsonAction  `json:"action"` // when an event was asked for
	Actions []jsonAction `json:"actions_without_chain"`
	Chains  []jsonChain  `json:"chains"`
}

type jsonRoot struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
	Name string `json:"name"`
}

type jsonMatch struct {
	ChainID string   `json:"chain_id"` // empty if the action belongs to none
	EventID string   `json:"event_id"` // the newest that matched
	Root    jsonRoot `json:"root"`
	First   string   `json:"first"`
	Last    string   `json:"last"`
	Matched int      `json:"matched"`
	Actions int      `json:"actions"`
	Weakest string   `json:"weakest"`
	Flags   []string `json:"flags"`
}

type jsonProof struct {
	EventID     string `json:"event_id"`
	At          string `json:"at"`
	Source      string `json:"source"`
	Topic       string `json:"topic"`
	Partition   int32  `json:"partition"`
	Offset      int64  `json:"offset"`
	RecordIndex int32  `json:"record_index"`
	Known       bool   `json:"known"` // false: the tables hold no record of that event any more
}

type jsonHop struct {
	Key      string     `json:"key"`
	Name     string     `json:"name"`
	Relation string     `json:"relation"`
	Strength string     `json:"strength"`
	Lent     bool       `json:"lent"`
	Proof    *jsonProof `json:"proof"`
}

type jsonAction struct {
	Row        json.RawMessage `json:"row"` // as catena stitch prints it
	Sentence   string          `json:"sentence"`
	Path       []jsonHop       `json:"path"`
	Candidates []jsonCandidate `json:"candidates"`
	Lack       *jsonLack       `json:"lack"` // null if the action is proven
}

type jsonCandidate struct {
	Parent string     `json:"parent"`
	Root   string     `json:"root"`
	Proof  *jsonProof `json:"proof"`
}

type jsonLack struct {
	Sentence string      `json:"sentence"`
	Keys     []string    `json:"keys"`
	Nearest  []jsonNear  `json:"nearest"`
	Would    []jsonWould `json:"would_prove"`
}

type jsonNear struct {
	Child    string     `json:"child"`
	Parent   string     `json:"parent"`
	Relation string     `json:"relation"`
	Strength string     `json:"strength"`
	Miss     string     `json:"miss"`
	MissedBy float64    `json:"missed_by_seconds"`
	Proof    *jsonProof `json:"proof"`
}

type jsonWould struct {
	Source   string `json:"source"`
	Binds    string `json:"binds"`
	Relation string `json:"relation"`
	When     string `json:"when"`
	Seen     string `json:"seen"`
}

type jsonChain struct {
	ChainID    string            `json:"chain_id"`
	Root       jsonRoot          `json:"root"`
	First      string            `json:"first"`
	Last       string            `json:"last"`
	Weakest    string            `json:"weakest"`
	Flags      []string          `json:"flags"`
	MFA        string            `json:"mfa"`
	AuthMethod string            `json:"auth_method"`
	Truncated  bool              `json:"truncated"`
	Findings   []jsonFinding     `json:"findings"`
	Tree       []jsonNode        `json:"tree"`
	Rows       []json.RawMessage `json:"rows"`
}

type jsonFinding struct {
	Rule     string   `json:"rule"`
	Severity string   `json:"severity"`
	Subject  string   `json:"subject"`
	Actions  int      `json:"actions"`
	First    string   `json:"first"`
	Last     string   `json:"last"`
	Events   []string `json:"events"`
	Detail   string   `json:"detail"`
}

// jsonNode is a line of the tree: type key, action or more.
type jsonNode struct {
	Type     string     `json:"type"`
	Key      string     `json:"key,omitempty"`
	Name     string     `json:"name,omitempty"`
	Relation string     `json:"relation,omitempty"`
	Strength string     `json:"strength,omitempty"`
	Frontier bool       `json:"frontier,omitempty"`
	Proof    *jsonProof `json:"proof,omitempty"`
	EventID  string     `json:"event_id,omitempty"` // of an action; its row stands in rows
	At       string     `json:"at"`
	More     int        `json:"more,omitempty"`
	Until    string     `json:"until,omitempty"`
	Children []jsonNode `json:"children,omitempty"`
}

func (e *explanation) writeJSON(w io.Writer) error {
	out, err := e.json()
	if err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // for people and jq, not for browsers
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}

func (e *explanation) json() (*jsonExplanation, error) {
	out := &jsonExplanation{What: e.what, Choose: e.choose, Matches: []jsonMatch{}, Actions: []jsonAction{}, Chains: []jsonChain{}}
	if e.asOf > 0 {
		out.FinalTo = rfc(e.asOf)
	}
	for _, m := range e.matches {
		out.Matches = append(out.Matches, m.json())
	}
	if e.action != nil {
		a, err := e.action.json()
		if err != nil {
			return nil, err
		}
		out.Action = &a
	}
	for _, s := range e.lone {
		a, err := s.json()
		if err != nil {
			return nil, err
		}
		out.Actions = append(out.Actions, a)
	}
	for _, c := range e.chains {
		chain, err := c.json()
		if err != nil {
			return nil, err
		}
		out.Chains = append(out.Chains, chain)
	}
	return out, nil
}

func (m match) json() jsonMatch {
	j := jsonMatch{EventID: m.Event.String(), Root: rootJSON(m.Root, m.RootName), First: rfc(m.FirstNanos), Last: rfc(m.LastNanos), Matched: m.Actions, Flags: []string{}}
	if s := m.Summary; s != nil {
		j.ChainID, j.Root, j.Actions, j.Weakest = s.Chain.String(), rootJSON(s.Root, s.RootName), s.Actions, s.Worst.String()
		j.Flags = append(j.Flags, s.Flags.Words()...)
	}
	return j
}

func (s *actionStory) json() (jsonAction, error) {
	row, err := rowJSON(s.Action)
	j := jsonAction{Row: row, Sentence: reasonText(s.Action), Path: []jsonHop{}, Candidates: []jsonCandidate{}}
	for _, h := range s.Hops {
		j.Path = append(j.Path, jsonHop{h.Key.String(), h.Name, h.Relation.String(), strengthOf(h), h.Lent, proofJSON(s.proofs, h.Proof, h.AtNanos)})
	}
	for _, c := range s.Candidates {
		j.Candidates = append(j.Candidates, jsonCandidate{c.Parent.String(), c.Root.String(), proofJSON(s.proofs, c.Proof, 0)})
	}
	if s.lack != nil {
		j.Lack = s.lack.json()
	}
	return j, err
}

func (l *lack) json() *jsonLack {
	j := &jsonLack{Sentence: l.Sentence, Keys: []string{}, Nearest: []jsonNear{}, Would: []jsonWould{}}
	for _, k := range l.Keys {
		j.Keys = append(j.Keys, k.String())
	}
	for _, n := range l.Near {
		at := &jsonProof{n.Proof.String(), rfc(n.ProofNanos), n.Source, n.Evidence.Topic, n.Evidence.Partition, n.Evidence.Offset, n.Evidence.RecordIndex, true}
		j.Nearest = append(j.Nearest, jsonNear{n.Child.String(), n.Parent.String(), n.Relation.String(), n.Strength.String(), n.Miss, n.missBy.Seconds(), at})
	}
	for _, w := range l.Would {
		j.Would = append(j.Would, jsonWould{w.Source, w.Binds, w.Relation, w.When, w.Seen})
	}
	return j
}

func (c *chainStory) json() (jsonChain, error) {
	j := jsonChain{ChainID: c.chain.String(), Root: rootJSON(c.rootKey, c.rootName), First: rfc(c.first), Last: rfc(c.last), Weakest: c.worst.String(),
		Flags: append([]string{}, c.flags.Words()...), MFA: c.mfa.String(), AuthMethod: c.method, Truncated: c.cut, Findings: []jsonFinding{}, Rows: []json.RawMessage{}}
	for _, f := range c.findings {
		j.Findings = append(j.Findings, findingJSON(f))
	}
	for _, a := range c.rows {
		row, err := rowJSON(a)
		if err != nil {
			return j, err
		}
		j.Rows = append(j.Rows, row)
	}
	j.Tree = c.nodes(c.top.children)
	return j, nil
}

func (c *chainStory) nodes(list []*node) []jsonNode {
	out := []jsonNode{}
	for _, n := range list {
		j := jsonNode{At: rfc(n.at)}
		switch {
		case n.key != nil:
			h := n.key.Hop
			j.Type, j.Key, j.Name, j.Relation, j.Strength, j.Frontier = "key", h.Key.String(), h.Name, h.Relation.String(), strengthOf(h), n.key.frontier
			j.Proof = proofJSON(c.proofs, h.Proof, h.AtNanos)
		case n.action != nil:
			j.Type, j.EventID = "action", n.action.ID.String()
		default:
			j.Type, j.More, j.Until = "more", n.more, rfc(n.until)
		}
		j.Children = c.nodes(n.children)
		out = append(out, j)
	}
	return out
}

func findingJSON(f clickhouse.Finding) jsonFinding {
	j := jsonFinding{f.Rule, f.Severity, f.Subject.String(), f.Actions, rfc(f.FirstNanos), rfc(f.LastNanos), []string{}, f.Detail}
	for _, id := range f.Events {
		j.Events = append(j.Events, id.String())
	}
	return j
}

// strengthOf is empty for the root, which nothing drives.
func strengthOf(h schemas.Hop) string {
	if h.Relation == schemas.RelationNone {
		return ""
	}
	return h.Strength.String()
}

func proofJSON(proofs map[schemas.ID]clickhouse.Proof, id schemas.ID, atNanos int64) *jsonProof {
	if id.IsZero() {
		return nil
	}
	p, ok := proofs[id]
	j := &jsonProof{id.String(), "", p.Source, p.At.Topic, p.At.Partition, p.At.Offset, p.At.RecordIndex, ok}
	if atNanos != 0 {
		j.At = rfc(atNanos)
	}
	return j
}

func rootJSON(k schemas.Key, name string) jsonRoot { return jsonRoot{k.Kind.String(), k.ID(), name} }

func rowJSON(a *schemas.Action) (json.RawMessage, error) {
	var b bytes.Buffer
	if err := jsonl.Encode(&b, a); err != nil {
		return nil, fmt.Errorf("event %s: %w", a.ID, err)
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

func rfc(nanos int64) string { return time.Unix(0, nanos).UTC().Format("2006-01-02T15:04:05.000000Z") }
