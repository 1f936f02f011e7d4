package schemas

import "strings"

// Action is an event with its attribution: one row of the actions table.
// An Action owns its memory; whoever receives one may keep it, and must not
// change it.
type Action struct {
	Event

	Grade    Grade
	Reason   Reason
	ChainID  ID  // zero when the action belongs to no chain
	Root     Key // principal or workload at the end of the path; zero when unknown
	RootName string
	Hops     []Hop // from the root to the actor
	Depth    int   // number of steps from the action's key to the end of its path
	Frontier Key   // the key at which the walk stopped; zero when it reached a root

	CauseID    ID // event id of the tool call that drove it
	CauseGrade CauseGrade
	Candidates []Candidate // competing parents, when more than one fits

	// What the record itself says of how the person was authenticated. What is
	// known of the chain stands in AuthMethod and MFA and may come from another
	// record; kept apart, it can be worked out anew after a restart.
	RecordAuthMethod string
	RecordMFA        MFA

	GrantID        string
	PolicyDecision Verdict
	PolicyID       string

	// Version ranks the writes of one event: the highest wins. See [MakeVersion].
	Version uint64
}

// Hop is one step of a path: Key is who or what, Relation says how it drives
// the next hop, and Proof is the event that shows it (zero for the first).
type Hop struct {
	Key      Key
	Name     string
	Relation Relation // how the hop before it drives this one; none for the root
	Strength Strength
	Proof    ID
	AtNanos  int64 // event time of the proof
	// Lent marks a login session that was found by name and time: it lends
	// mfa and auth_method, and changes neither grade nor chain.
	Lent bool
}

// Candidate is one of several parents that fit, with the root it leads to.
type Candidate struct {
	Parent Key
	Root   Key
	Proof  ID
}

// revisionBits is how much of a version counts revisions; the rest is the
// ownership epoch in milliseconds, good until the year 2109.
const revisionBits = 22

// MaxRevision is the highest revision a row can reach; later ones keep it.
const MaxRevision = 1<<revisionBits - 1

// MakeVersion ranks a write by ownership first (ownerMillis: when its writer
// was assigned the partition) and by the row's revision within it second. A
// stale writer can therefore never overwrite its successor, and a grade may
// go down when more evidence arrives.
func MakeVersion(ownerMillis int64, revision uint32) uint64 {
	return uint64(ownerMillis)<<revisionBits | uint64(min(revision, MaxRevision))
}

// FirstKey returns the first of the event's keys of a kind; zero if none.
func (e *Event) FirstKey(k Kind) Key {
	for _, key := range e.Keys {
		if key.Kind == k {
			return key
		}
	}
	return Key{}
}

// ProtocolSpan reports whether a tool call is the protocol's own span of it
// (MCP's tools/call, on either side), as opposed to the call as the agent made
// it. The agent's call is the cause of what follows where there is one.
func (e *Event) ProtocolSpan() bool {
	return e.Class == ClassToolCall && strings.HasPrefix(e.Action, "tools/call")
}
