package schemas

import "strings"

// The closed lists of words that stand in the tables. Each type's String is
// the word; the zero value is the empty word or the weakest one.

// word looks a number up in a list of words; anything outside is the first.
func word[T ~uint8](names []string, v T) string {
	if int(v) < len(names) {
		return names[v]
	}
	return names[0]
}

// parse is the inverse of word.
func parse[T ~uint8](names []string, s string) (T, bool) {
	for i, n := range names {
		if n == s {
			return T(i), true
		}
	}
	return 0, false
}

// Class is the sort of thing that happened.
type Class uint8

// The classes.
const (
	ClassOther      Class = iota // an unknown event type of a known source is still an action
	ClassLogin                   // somebody authenticated, or failed to
	ClassIssuance                // a credential was minted, refreshed, exchanged or revoked
	ClassSession                 // a session, run or agent invocation began or ended
	ClassGrant                   // access was asked for, approved, denied or withdrawn
	ClassToolCall                // an agent called a tool
	ClassAPICall                 // a control-plane call
	ClassDataAccess              // data was read or written
	ClassCommand                 // a command in a shell or database session
	ClassDecision                // a policy engine answered
)

var classNames = []string{"other", "login", "issuance", "session", "grant", "tool_call", "api_call", "data_access", "command", "decision"}

func (c Class) String() string { return word(classNames, c) }

// ParseClass is the inverse of [Class.String].
func ParseClass(s string) (Class, bool) { return parse[Class](classNames, s) }

// Outcome is how it ended, as the record says.
type Outcome uint8

// The outcomes.
const (
	OutcomeUnknown Outcome = iota
	OutcomeSuccess
	OutcomeFailure // it was tried and went wrong
	OutcomeDenied  // it was refused
)

var outcomeNames = []string{"unknown", "success", "failure", "denied"}

func (o Outcome) String() string { return word(outcomeNames, o) }

// ParseOutcome is the inverse of [Outcome.String].
func ParseOutcome(s string) (Outcome, bool) { return parse[Outcome](outcomeNames, s) }

// MFA is whether a login was confirmed by more than one factor.
type MFA uint8

// What is known of further factors.
const (
	MFAUnknown MFA = iota
	MFANo
	MFAYes
)

var mfaNames = []string{"unknown", "no", "yes"}

func (m MFA) String() string { return word(mfaNames, m) }

// ParseMFA is the inverse of [MFA.String].
func ParseMFA(s string) (MFA, bool) { return parse[MFA](mfaNames, s) }

// Verdict is what a policy engine answered; the strongest of several wins.
type Verdict uint8

// The verdicts, the stronger last.
const (
	VerdictNone Verdict = iota
	VerdictUndefined
	VerdictAllow
	VerdictDeny
)

var verdictNames = []string{"", "undefined", "allow", "deny"}

func (v Verdict) String() string { return word(verdictNames, v) }

// ParseVerdict is the inverse of [Verdict.String].
func ParseVerdict(s string) (Verdict, bool) { return parse[Verdict](verdictNames, s) }

// Relation says how a parent drives a child.
type Relation uint8

// The relations.
const (
	RelationNone          Relation = iota
	RelationAuthenticated          // the issuer authenticated the parent as the owner of the child
	RelationIssued                 // the child was minted for whoever held the parent
	RelationRefreshed              // the child replaces the parent
	RelationAssumed                // a role was assumed with the parent
	RelationExchanged              // RFC 8693 token exchange
	RelationImpersonated           // the parent acts as the child, and is hidden by it
	RelationDelegated              // the parent lets the child act for it, and both are visible
	RelationSpawned                // the parent started the child
	RelationInvoked                // the parent called the child
	RelationRanAs                  // the child ran inside the parent
	RelationGranted                // the parent is the grant under which the child exists; never a step of the path
	RelationEnded                  // the child ended at From; no parent
	RelationRevoked                // the child was withdrawn at From; no parent
)

var relationNames = []string{"", "authenticated", "issued", "refreshed", "assumed", "exchanged", "impersonated", "delegated", "spawned", "invoked", "ran_as", "granted", "ended", "revoked"}

func (r Relation) String() string { return word(relationNames, r) }

// ParseRelation is the inverse of [Relation.String].
func ParseRelation(s string) (Relation, bool) { return parse[Relation](relationNames, s) }

// Strength is how well a binding is known.
type Strength uint8

// The strengths, the stronger last.
const (
	StrengthWeak   Strength = iota // a shared name and overlapping time
	StrengthStated                 // a record says so of itself, without independent proof
	StrengthExact                  // both ids stand in a record of the system that knows
)

var strengthNames = []string{"weak", "stated", "exact"}

func (s Strength) String() string { return word(strengthNames, s) }

// ParseStrength is the inverse of [Strength.String].
func ParseStrength(s string) (Strength, bool) { return parse[Strength](strengthNames, s) }

// Grade is how well an attribution is known; it is that of the weakest hop.
type Grade uint8

// The grades, the better last.
const (
	GradeUnattributed Grade = iota // the frontier is unknown; the reason says why
	GradeAmbiguous                 // several candidates with different roots
	GradeInferred                  // some hop is a single fitting weak binding
	GradeStated                    // some hop rests on what a record says of itself
	GradeProven                    // every hop is an exact binding whose proof was seen
)

var gradeNames = []string{"unattributed", "ambiguous", "inferred", "stated", "proven"}

func (g Grade) String() string { return word(gradeNames, g) }

// ParseGrade is the inverse of [Grade.String].
func ParseGrade(s string) (Grade, bool) { return parse[Grade](gradeNames, s) }

// Reason says why a row has its grade.
type Reason uint8

// The reasons.
const (
	ReasonComplete          Reason = iota // every hop to the root was seen
	ReasonNoBindingSeen                   // no record said who drives the frontier key
	ReasonNoKey                           // the record names an actor but no token, session or workload
	ReasonNoIdentity                      // the record names nobody and carries no key
	ReasonRedactedKey                     // the key was replaced by a placeholder before it reached us
	ReasonBindingExpired                  // a binding was seen, and had ended before the action
	ReasonBindingNotYet                   // a binding was seen, and begins after the action
	ReasonSelfReported                    // telemetry names the identity; no authenticated token or session id on the way
	ReasonNameOnly                        // a session name, sourceIdentity or account name says so, its mint was not seen
	ReasonTimeContainment                 // a hop rests on overlapping time on the same workload or trace
	ReasonSubjectMatch                    // a hop rests on a shared subject name and overlapping time
	ReasonSeveralCandidates               // more than one binding fits
	ReasonConflict                        // records of equal strength contradict each other
	ReasonFailedLogin                     // nobody was authenticated; the name is a claim
	ReasonEvicted                         // the binding was dropped to stay inside the memory limit
	ReasonCycle                           // the bindings run in a circle
	ReasonDepthLimit                      // the path is longer than the limit
)

var reasonNames = []string{
	"complete", "no_binding_seen", "no_key", "no_identity", "redacted_key", "binding_expired", "binding_not_yet",
	"self_reported", "name_only", "time_containment", "subject_match", "several_candidates", "conflict", "failed_login",
	"evicted", "cycle", "depth_limit",
}

func (r Reason) String() string { return word(reasonNames, r) }

// ParseReason is the inverse of [Reason.String].
func ParseReason(s string) (Reason, bool) { return parse[Reason](reasonNames, s) }

// CauseGrade is how well the cause of an action is known.
type CauseGrade uint8

// The grades of a cause, the better last.
const (
	CauseNone CauseGrade = iota
	CauseAmbiguous
	CauseInferred
	CauseExact
)

var causeNames = []string{"", "ambiguous", "inferred", "exact"}

func (c CauseGrade) String() string { return word(causeNames, c) }

// ParseCauseGrade is the inverse of [CauseGrade.String].
func ParseCauseGrade(s string) (CauseGrade, bool) { return parse[CauseGrade](causeNames, s) }

// DeadReason says why a record could not be decoded.
type DeadReason uint8

// The reasons of dead letters.
const (
	DeadUnknownFormat DeadReason = iota // no source recognises it
	DeadEmpty                           // the value is empty
	DeadMalformed                       // it is not the JSON or protobuf that it seems to be
	DeadTooLarge                        // longer than the limit
	DeadTooDeep                         // nested deeper than the limit
	DeadInvalidUTF8                     // the bytes are not UTF-8
	DeadMissingField                    // a field without which there is no event is absent or of the wrong type
	DeadTooManyItems                    // one record holds more items than the limit
	DeadRejected                        // the database refused the row
)

var deadNames = []string{"unknown_format", "empty", "malformed", "too_large", "too_deep", "invalid_utf8", "missing_field", "too_many_items", "rejected"}

func (d DeadReason) String() string { return word(deadNames, d) }

// ParseDeadReason is the inverse of [DeadReason.String].
func ParseDeadReason(s string) (DeadReason, bool) { return parse[DeadReason](deadNames, s) }

// Flags mark what an investigator should look at; a set of bits.
type Flags uint32

// The flags.
const (
	FlagDivergent         Flags = 1 << iota // the action's keys lead to different people or different workloads
	FlagNewSourceIP                         // a workload's key was used from an address that is not the workload's
	FlagOutsideGrant                        // the right was used outside the window of its grant
	FlagDeniedButDone                       // a policy denied it and it succeeded all the same
	FlagUsedAfterExpiry                     // a key was used after the expiry that its mint states
	FlagUsedAfterEnd                        // a key was used after its session had ended
	FlagUsedAfterRevoke                     // a key was used after it was revoked
	FlagImpersonated                        // it ran in the name of somebody else
	FlagCycle                               // the bindings run in a circle, which was cut
	FlagDepthLimit                          // the walk stopped at the depth limit
	FlagFutureTime                          // the event time lies ahead of the ingestion time; it does not move the watermark
	FlagLate                                // it arrived after the watermark and the allowed lateness
	FlagSpoofableSourceIP                   // the address came through a header that a client can set
	FlagRelayed                             // the record stood in a log message, where any program can write one: stated at best
	FlagScopeWidened                        // a token on the path was given a scope that the token it came from did not have
)

var flagNames = []string{
	"divergent", "new_source_ip", "outside_grant", "denied_but_done", "used_after_expiry", "used_after_end", "used_after_revoke",
	"impersonated", "cycle", "depth_limit", "future_time", "late", "spoofable_source_ip", "relayed", "scope_widened",
}

// Words returns the names of the flags that are set, in their fixed order.
func (f Flags) Words() []string {
	var out []string
	for i, n := range flagNames {
		if f&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	return out
}

func (f Flags) String() string { return strings.Join(f.Words(), ",") }

// ParseFlag is the flag of one word of [Flags.Words].
func ParseFlag(s string) (Flags, bool) {
	for i, n := range flagNames {
		if n == s {
			return 1 << i, true
		}
	}
	return 0, false
}
