package main

import (
	"context"
	"slices"
	"time"

	"catena/schemas"
)

// who answers "who is behind this key now", for programs that are to let
// something through or to stop it.

// whoAnswer is the answer of /api/who; docs/page.md describes it.
type whoAnswer struct {
	Key     string        `json:"key"`
	Known   bool          `json:"known"` // false: nothing that was read says anything of the key
	State   string        `json:"state"` // active, expired, ended, revoked or unknown
	Grade   string        `json:"grade"` // of the newest action with the key, or of its mint
	Reason  string        `json:"reason"`
	Root    jsonRoot      `json:"root"`
	ChainID string        `json:"chain_id"`
	Flags   []string      `json:"flags"` // of all that the key's newest chain did with it and of its findings
	MFA     string        `json:"mfa"`
	Method  string        `json:"auth_method"`
	Path    []jsonHop     `json:"path"`
	Basis   string        `json:"basis"`        // action: it was used; mint: it was only minted; empty: neither
	Event   *jsonProof    `json:"event"`        // the record of that action or mint
	Others  []jsonMatch   `json:"other_chains"` // further chains of the key, newest first
	Finds   []jsonFinding `json:"findings"`
	FinalTo string        `json:"final_before"` // what happened before it is settled; what is later may still change
	AsOf    string        `json:"as_of"`        // the newest event time that was read
}

// maxMints bounds the way up from a key that was never used.
const maxMints = 16

func (q *asker) who(ctx context.Context, k schemas.Key) (*whoAnswer, error) {
	pulse, err := q.store.Pulse(ctx)
	if err != nil {
		return nil, err
	}
	w := &whoAnswer{Key: k.String(), State: "unknown", Grade: schemas.GradeUnattributed.String(), Reason: schemas.ReasonNoBindingSeen.String(), MFA: schemas.MFAUnknown.String(),
		Flags: []string{}, Path: []jsonHop{}, Others: []jsonMatch{}, Finds: []jsonFinding{}}
	if pulse.FinalNanos > 0 {
		w.FinalTo = rfc(pulse.FinalNanos)
	}
	if pulse.LastEventMicros > 0 {
		w.AsOf = rfc(pulse.LastEventMicros * 1000)
	}
	a, err := q.store.LastWith(ctx, k)
	if err != nil {
		return nil, err
	}
	known, err := q.store.BindingsOf(ctx, []schemas.Key{k}, maxKnown)
	if err != nil {
		return nil, err
	}
	w.Known = len(known) > 0 || a != nil
	if w.Known {
		w.State = stateOf(known, time.Now().UnixNano())
	}
	switch {
	case a != nil:
		w.Basis = "action"
		err = q.tell(ctx, w, k, a)
	case len(known) > 0:
		w.Basis = "mint"
		err = q.minted(ctx, w, k, known)
	}
	return w, err
}

// minted answers for a key that was never used itself, from the bindings above
// it. It follows exact ones only, and only while there is no choice: who minted
// a key is not always who it was minted for, so the row of the mint would not do.
func (q *asker) minted(ctx context.Context, w *whoAnswer, k schemas.Key, known []schemas.Binding) error {
	hops := []jsonHop{}
	for range maxMints {
		b := onlyParent(known)
		if b == nil {
			break
		}
		proof := &jsonProof{b.Proof.String(), rfc(b.ProofNanos), b.Source, b.Evidence.Topic, b.Evidence.Partition, b.Evidence.Offset, b.Evidence.RecordIndex, true}
		if w.Event == nil {
			w.Event, w.MFA, w.Method = proof, b.MFA.String(), b.AuthMethod
		}
		hops = append([]jsonHop{{k.String(), b.ChildName, b.Relation.String(), b.Strength.String(), false, proof}}, hops...)
		k = b.Parent
		w.Root = rootJSON(k, b.ParentName)
		var err error
		if known, err = q.store.BindingsOf(ctx, []schemas.Key{k}, maxKnown); err != nil {
			return err
		}
	}
	w.Path = append([]jsonHop{{Key: k.String(), Name: w.Root.Name}}, hops...)
	switch {
	case k.Kind.Root() && len(parents(known)) == 0 && len(hops) > 0:
		w.Grade, w.Reason = schemas.GradeProven.String(), schemas.ReasonComplete.String()
	case len(parents(known)) > 1:
		w.Grade, w.Reason, w.Root = schemas.GradeAmbiguous.String(), schemas.ReasonSeveralCandidates.String(), jsonRoot{}
	default:
		w.Root = jsonRoot{} // a frontier, or claims above it
	}
	return nil
}

// parents are the distinct keys that drive a key by whatever strength.
func parents(known []schemas.Binding) []schemas.Key {
	var out []schemas.Key
	for _, b := range known {
		if !b.Parent.IsZero() && b.Relation != schemas.RelationGranted && !slices.Contains(out, b.Parent) {
			out = append(out, b.Parent)
		}
	}
	return out
}

// onlyParent is an exact binding to the one key that drives another; nil where
// there is none, or a choice.
func onlyParent(known []schemas.Binding) *schemas.Binding {
	if len(parents(known)) != 1 {
		return nil
	}
	for i := range known {
		if b := &known[i]; b.Strength == schemas.StrengthExact && !b.Parent.IsZero() && b.Relation != schemas.RelationGranted {
			return b
		}
	}
	return nil
}

// stateOf says whether a key was ended or withdrawn, or has run out by now.
func stateOf(known []schemas.Binding, now int64) string {
	state, open, bound := "active", false, false
	for _, b := range known {
		switch b.Relation {
		case schemas.RelationRevoked:
			return "revoked"
		case schemas.RelationEnded:
			state = "ended"
		case schemas.RelationGranted:
		default:
			bound = true
			open = open || b.UntilNanos == 0 || b.UntilNanos > now
		}
	}
	if state == "active" && bound && !open {
		return "expired"
	}
	return state
}

// tell fills in what the action a says of the key.
func (q *asker) tell(ctx context.Context, w *whoAnswer, k schemas.Key, a *schemas.Action) error {
	proofs, err := q.proofsOf(ctx, []*schemas.Action{a})
	if err != nil {
		return err
	}
	w.Grade, w.Reason, w.Root, w.MFA, w.Method = a.Grade.String(), a.Reason.String(), rootJSON(a.Root, a.RootName), a.MFA.String(), a.AuthMethod
	w.Event = proofJSON(proofs, a.ID, a.TimeNanos)
	for _, h := range a.Hops {
		w.Path = append(w.Path, jsonHop{h.Key.String(), h.Name, h.Relation.String(), strengthOf(h), h.Lent, proofJSON(proofs, h.Proof, h.AtNanos)})
	}
	flags := a.Flags
	if !a.ChainID.IsZero() {
		w.ChainID = a.ChainID.String()
		found, err := q.store.Findings(ctx, a.ChainID, 0, maxFindings)
		if err != nil {
			return err
		}
		for _, f := range found {
			if f.Subject == k {
				flag, _ := schemas.ParseFlag(f.Rule)
				flags |= flag
			}
			w.Finds = append(w.Finds, findingJSON(f))
		}
	}
	w.Flags = append(w.Flags, flags.Words()...)
	others, err := q.find(ctx, k.String(), 10)
	for _, m := range others {
		if m.Chain != a.ChainID {
			w.Others = append(w.Others, m.json())
		}
	}
	return err
}
