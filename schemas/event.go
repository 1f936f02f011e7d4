package schemas

// Record is a Kafka message as consumed: bytes, and where they lie. Nobody
// changes Value after it was handed over.
type Record struct {
	Topic          string
	Partition      int32
	Offset         int64
	Key, Value     []byte
	Headers        []Header
	TimestampNanos int64 // ingestion time, as the broker stamped it
}

// Header is one Kafka record header.
type Header struct {
	Key   string
	Value []byte
}

// Event is one normalised record, or one item of a record that held several.
// Its strings may alias the record's bytes: whoever keeps an event beyond the
// call clones it with [Event.Clone].
type Event struct {
	ID              ID
	Source          string // name of the source that decoded it, such as "aws.cloudtrail"
	TimeNanos       int64
	EndedNanos      int64 // zero for an instant
	ResolutionNanos int64 // how coarse the source writes time; widens comparisons

	Class    Class
	Action   string
	Resource string
	Outcome  Outcome
	Tenant   string // account, organisation or cluster

	Actor     Key // the immediate principal as the record names it; may be zero
	ActorName string
	Keys      []Key     // what it was performed with
	Makes     []Binding // what it proves
	Ends      []End     // which keys it ends (the correlator keeps them as bindings of relation ended or revoked)

	Authority  string // the role, service account or impersonated user in whose name it ran
	Scopes     string // space separated
	AuthMethod string
	MFA        MFA
	Decision   Decision

	SourceIP, UserAgent string
	TraceID, SpanID     string // lower-case hex
	Attributes          []Attribute
	Flags               Flags
	// Redacted is set when a field that would have given a key held a
	// placeholder such as HIDDEN_DUE_TO_SECURITY_REASONS.
	Redacted bool

	// SelfReported is set by sources whose records describe their own sender
	// (telemetry): a workload they name is what they say, not what somebody
	// authenticated, so that a walk starting there is stated at best.
	SelfReported bool

	// BindOnly names the reason for which the event makes bindings but is no
	// row of its own, such as "plain_span"; empty for an ordinary event.
	BindOnly string

	Evidence Evidence
}

// Evidence says where the bytes lie that an event was decoded from.
type Evidence struct {
	Topic          string
	Partition      int32
	Offset         int64
	RecordIndex    int32    // which item of the record, from 0
	RawSHA256      [32]byte // of the whole record value
	TimestampNanos int64    // ingestion time
}

// Attribute is one extra field of an event, for the attributes column.
type Attribute struct{ Name, Value string }

// Decision is what a policy engine answered; zero when the event is none.
type Decision struct {
	Verdict Verdict
	ID      string // the engine's own id of the decision
	Policy  string // which policy or rule was asked
}

// End says that a key stopped being good.
type End struct {
	Key     Key
	AtNanos int64
	Revoked bool // withdrawn, rather than closed or run out
}

// Use is the first time that a token is known to have been used from an address.
type Use struct {
	Token     Key
	TimeNanos int64 // event time
	SourceIP  string
	Event     ID
}

// Binding says that Child is driven by Parent.
type Binding struct {
	Child, Parent         Key
	ChildName, ParentName string // for people to read; may be empty
	Relation              Relation
	Strength              Strength

	// FromNanos..UntilNanos is when the binding holds, end excluded. A zero
	// From means that it always held (an access key belongs to its user before
	// the record that shows it); a zero Until, that no end is known.
	FromNanos, UntilNanos int64
	// ExpiresNanos is an expiry that the record states but the issuer may not
	// enforce: a later use is attributed all the same, and flagged.
	ExpiresNanos int64

	// What the same record shows of the child: how it was authenticated, and
	// what a token may be used for (scopes, space separated). The decoder leaves
	// the scopes to the correlator, which copies those of an issuance.
	AuthMethod string
	MFA        MFA
	Scopes     string

	// Proof is the event that shows it. The decoder leaves the rest to the
	// correlator, which copies it from the event. Of the evidence the place alone
	// is kept: the hash stands in the event's own row.
	Proof      ID
	ProofNanos int64 // event time of the proof
	Source     string
	Evidence   Evidence
	Version    uint64
}

// Progress says up to where a partition is accounted for.
type Progress struct {
	Topic          string
	Partition      int32
	Offset         int64 // the next one to read: everything below is in the tables
	WatermarkNanos int64
	// OwnerMillis is when the writer was assigned the partition, in Unix
	// milliseconds. Of several owners' words the latest owner's counts.
	OwnerMillis int64
}

// Skip says why a place gave neither an action nor a dead letter: the item of a
// record there, or a run of whole offsets, was left out on purpose. Together
// with those two it accounts for every offset below [Progress].
type Skip struct {
	Topic       string
	Partition   int32
	Offset      int64
	RecordIndex int32
	// Until is the offset behind a run of offsets that were left out for one
	// reason; zero, or Offset+1, for a single place.
	Until  int64
	Name   string // why, such as plain_log or duplicate
	Source string // which source said so; may be empty
	Event  ID     // the event that it was, where one is known
}

// The names of skips that are not a source's or an envelope's own.
const (
	SkipDuplicate   = "duplicate"    // the event's row names another place
	SkipAbsent      = "absent"       // the broker has no record there: compacted away, of an aborted transaction, or its marker
	SkipLost        = "lost"         // retention deleted it before it was read
	SkipUnreadable  = "unreadable"   // within a batch that cannot be read; its first offset is a dead letter
	SkipBeforeStart = "before_start" // below the offset at which reading began
)

// ItemCount says how many items a record holds, of those that hold several:
// each is an action, a dead letter or a skip under its own index.
type ItemCount struct {
	Topic     string
	Partition int32
	Offset    int64
	Items     int32
}

// DeadLetter is a record, or an item of one, that could not be decoded.
type DeadLetter struct {
	Evidence Evidence
	Reason   DeadReason
	Error    string // what was wrong, where, and what to do
	Bytes    []byte // the record or item with secrets replaced, cut to a limit
}

// Clone returns a copy that shares no memory with the record: all its strings
// stand in one allocation.
func (e *Event) Clone() Event {
	c := *e
	c.Keys = append([]Key(nil), e.Keys...)
	c.Makes = append([]Binding(nil), e.Makes...)
	c.Ends = append([]End(nil), e.Ends...)
	c.Attributes = append([]Attribute(nil), e.Attributes...)

	n := 0
	c.visitStrings(func(s *string) { n += len(*s) })
	arena := make([]byte, 0, n)
	c.visitStrings(func(s *string) { arena = append(arena, *s...) })
	all := string(arena)
	c.visitStrings(func(s *string) {
		*s, all = all[:len(*s)], all[len(*s):]
	})
	return c
}

// visitStrings calls f on every string of the event in a fixed order. Source
// and Evidence.Topic are left out: they never alias a record.
func (e *Event) visitStrings(f func(*string)) {
	for _, s := range []*string{
		&e.Action, &e.Resource, &e.Tenant, &e.Actor.Namespace, &e.Actor.Value, &e.ActorName,
		&e.Authority, &e.Scopes, &e.AuthMethod, &e.Decision.ID, &e.Decision.Policy,
		&e.SourceIP, &e.UserAgent, &e.TraceID, &e.SpanID, &e.BindOnly,
	} {
		f(s)
	}
	for i := range e.Keys {
		f(&e.Keys[i].Namespace)
		f(&e.Keys[i].Value)
	}
	for i := range e.Makes {
		b := &e.Makes[i]
		for _, s := range []*string{&b.Child.Namespace, &b.Child.Value, &b.Parent.Namespace, &b.Parent.Value, &b.ChildName, &b.ParentName, &b.AuthMethod, &b.Scopes} {
			f(s)
		}
	}
	for i := range e.Ends {
		f(&e.Ends[i].Key.Namespace)
		f(&e.Ends[i].Key.Value)
	}
	for i := range e.Attributes {
		f(&e.Attributes[i].Name)
		f(&e.Attributes[i].Value)
	}
}
