package clickhouse

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"catena/schemas"
)

// Place is a partition of a topic.
type Place struct {
	Topic     string
	Partition int32
}

// in is the condition that a row's record lies in one of the partitions; of
// none that it lies anywhere.
func in(parts []Place) string {
	if len(parts) == 0 {
		return "true"
	}
	all := make([]string, len(parts))
	for i, p := range parts {
		all[i] = fmt.Sprintf("(%s, %d)", quote(p.Topic), p.Partition)
	}
	return "(topic, partition) IN (" + strings.Join(all, ", ") + ")"
}

// endedSince is the condition that an action ended at a time or after it.
func endedSince(nanos int64) string {
	return fmt.Sprintf("ended_at >= fromUnixTimestamp64Micro(%d, 'UTC')", toMicros(nanos))
}

// LoadActions calls fn with every action that ended at or after sinceNanos and
// whose record lies in one of the partitions (in any, if none is named), in
// its newest version and in no particular order, until fn returns an error.
// Everything that was written comes back, to the nanosecond; Makes, Ends and
// BindOnly are not in the table and stay empty.
func (s *Store) LoadActions(ctx context.Context, sinceNanos int64, parts []Place, fn func(*schemas.Action) error) error {
	where := endedSince(sinceNanos) + " AND " + in(parts)
	if len(parts) == 0 {
		return s.loadActions(ctx, "FROM actions FINAL WHERE "+where, fn)
	}
	return s.loadFew(ctx, where, fn)
}

// LoadOvertaken is LoadActions for the rows that owners before ownerMillis
// (Unix milliseconds) have written within some time up to now, by the clock of
// the database.
func (s *Store) LoadOvertaken(ctx context.Context, sinceNanos int64, parts []Place, ownerMillis int64, within time.Duration, fn func(*schemas.Action) error) error {
	return s.loadFew(ctx, fmt.Sprintf("%s AND %s AND version < %d AND attributed_at > now64(6, 'UTC') - toIntervalSecond(%d)",
		endedSince(sinceNanos), in(parts), schemas.MakeVersion(ownerMillis, 0), int64(within/time.Second)), fn)
}

// loadFew loads the actions of which a condition is true that few rows meet.
func (s *Store) loadFew(ctx context.Context, where string, fn func(*schemas.Action) error) error {
	// FINAL reads all columns of whatever the sorting key does not exclude, before it looks at the partition. The time of
	// the first row and the ids exclude. The ids may be of versions that lay elsewhere.
	var (
		first int64
		rows  uint64
	)
	if err := load(ctx, s, []field{{"toUnixTimestamp64Micro(min(event_time))", &first}, {"count()", &rows}}, "FROM actions WHERE "+where, func() error { return nil }); err != nil {
		return err
	}
	if rows == 0 {
		return nil
	}
	return s.loadActions(ctx, fmt.Sprintf("FROM actions FINAL PREWHERE event_time >= fromUnixTimestamp64Micro(%d, 'UTC') AND "+
		"event_id GLOBAL IN (SELECT event_id FROM actions WHERE %[2]s) WHERE %[2]s", first, where), fn)
}

// LoadShared calls fn with the actions on which more than a binding of other
// actions may rest, as correlate.Output.Shared has them: the tool calls, the
// decisions and what names the cause of a request, of those that ended at or
// after sinceNanos. One may come twice.
func (s *Store) LoadShared(ctx context.Context, sinceNanos int64, fn func(*schemas.Action) error) error {
	// What all versions of a row have in common may be looked at before they are merged.
	for _, from := range []string{
		"PREWHERE " + endedSince(sinceNanos) + " AND class IN ('tool_call', 'decision')",
		"PREWHERE " + endedSince(sinceNanos) + " AND request != '' WHERE cause_grade != ''",
	} {
		if err := s.loadActions(ctx, "FROM actions FINAL "+from, fn); err != nil {
			return err
		}
	}
	return nil
}

// LoadFirstUses calls fn with the first use of each token in the records of
// actions that ended at or after sinceNanos: when, from where, and in which event.
func (s *Store) LoadFirstUses(ctx context.Context, sinceNanos int64, fn func(schemas.Use) error) error {
	var (
		key, ip string
		u       schemas.Use
		id      uuid.UUID
	)
	// The ids in the order of their text, in which they are told apart elsewhere.
	return load(ctx, s, []field{{"t", &key}, {"min(time_nanos)", &u.TimeNanos},
		{"argMin(source_ip, (time_nanos, toString(event_id)))", &ip}, {"argMin(event_id, (time_nanos, toString(event_id)))", &id}},
		"FROM actions ARRAY JOIN arrayFilter(k -> startsWith(k, 'token:'), keys) AS t WHERE "+endedSince(sinceNanos)+" AND (isIPv4String(source_ip) OR isIPv6String(source_ip)) GROUP BY t", func() (err error) {
			if u.Token, err = schemas.ParseKey(key); err != nil {
				return err
			}
			u.SourceIP, u.Event = ip, schemas.ID(id)
			return fn(u)
		})
}

// EventsSince returns the ids of the rows of the partitions that ended at or
// after sinceNanos, of maxRows of them at most, the last ones, and the time from
// which on these ended, in nanoseconds. Versions that are not merged yet count
// as rows.
func (s *Store) EventsSince(ctx context.Context, parts []Place, sinceNanos int64, maxRows int) (ids []schemas.ID, cutNanos int64, err error) {
	var (
		id     uuid.UUID
		micros int64
	)
	cutNanos = sinceNanos
	err = load(ctx, s, []field{{"event_id", &id}, {"toUnixTimestamp64Micro(ended_at)", &micros}},
		fmt.Sprintf("FROM actions WHERE %s AND %s ORDER BY ended_at DESC LIMIT %d", endedSince(sinceNanos), in(parts), maxRows+1), func() error {
			if len(ids) == maxRows {
				cutNanos = max(cutNanos, (micros+1)*1000)
				return nil
			}
			ids = append(ids, schemas.ID(id))
			return nil
		})
	return ids, cutNanos, err
}

// LoadRowKeys calls fn with every key that the rows of the partitions name
// which ended from sinceNanos on and before untilNanos, until fn returns an
// error.
func (s *Store) LoadRowKeys(ctx context.Context, parts []Place, sinceNanos, untilNanos int64, fn func(schemas.Key) error) error {
	return s.loadKeys(ctx, "arrayJoin(arrayConcat(keys, hops.key))", fmt.Sprintf("FROM actions WHERE %s AND NOT %s AND %s",
		endedSince(sinceNanos), endedSince(untilNanos), in(parts)), fn)
}

// LoadOlderKeys calls fn with every key of which LoadBindings would leave
// something out for the same time, until fn returns an error.
func (s *Store) LoadOlderKeys(ctx context.Context, sinceNanos int64, fn func(schemas.Key) error) error {
	older := "FROM bindings WHERE NOT (" + provenSince(sinceNanos) + ")"
	if err := s.loadKeys(ctx, "child", older, fn); err != nil {
		return err
	}
	return s.loadKeys(ctx, "parent", older+" AND (relation = 'authenticated' OR startsWith(child, 'workload:ip:'))", fn)
}

func (s *Store) loadKeys(ctx context.Context, key, from string, fn func(schemas.Key) error) error {
	var text string
	return load(ctx, s, []field{{"DISTINCT " + key, &text}}, from, func() error {
		k, err := schemas.ParseKey(text)
		if err != nil || k.IsZero() {
			return err
		}
		return fn(k)
	})
}

func (s *Store) loadActions(ctx context.Context, from string, fn func(*schemas.Action) error) error {
	r := new(actionReader)
	return load(ctx, s, r.fields(), from, func() error {
		a, err := r.build()
		if err != nil {
			return fmt.Errorf("row of event %s: %w", schemas.ID(r.id), err)
		}
		return fn(a)
	})
}

// LoadBindings calls fn with every binding that was proven at or after
// sinceNanos or holds at some time known to be after it, in no particular
// order, until fn returns an error; of partitions, those whose proof lies in one
// of them. The binding is fn's to keep. Bindings without a known end that were
// proven earlier are left to [Store.Recall].
func (s *Store) LoadBindings(ctx context.Context, sinceNanos int64, parts []Place, fn func(*schemas.Binding) error) error {
	return s.loadBindings(ctx, "FROM bindings FINAL WHERE ("+provenSince(sinceNanos)+") AND "+in(parts), fn)
}

func provenSince(nanos int64) string {
	return fmt.Sprintf("proof_time >= fromUnixTimestamp64Nano(%[1]d, 'UTC') OR `until` >= fromUnixTimestamp64Nano(%[1]d, 'UTC')", nanos)
}

// lookupKeys is how many keys one statement names, so that it stays well under
// the server's max_query_size of 256 KiB.
const lookupKeys = 300

func (s *Store) loadBindings(ctx context.Context, from string, fn func(*schemas.Binding) error) error {
	r := new(bindingReader)
	return load(ctx, s, r.fields(), from, func() error {
		b, err := r.build()
		if err != nil {
			return fmt.Errorf("binding of %s: %w", r.child, err)
		}
		return fn(b)
	})
}

// Recall returns what the tables hold of some keys, for the correlator that
// dropped them: their bindings, those of logins, addresses and spans that are
// looked up from them, the rows that rest on them and ended at or after
// sinceNanos, and, however old, their tool calls, decisions and first uses.
func (s *Store) Recall(ctx context.Context, keys []schemas.Key, sinceNanos int64) ([]schemas.Binding, []*schemas.Action, error) {
	var bindings []schemas.Binding
	var actions []*schemas.Action
	seen := map[schemas.ID]bool{}
	for part := range slices.Chunk(keys, lookupKeys) {
		var wheres, quoted, tokens []string
		for _, k := range part {
			quoted = append(quoted, quote(k.String()))
			if k.Kind == schemas.KindToken {
				tokens = append(tokens, quote(k.String()))
			}
			if k.Kind == schemas.KindCall && k.Namespace == "trace" {
				wheres = append(wheres, "startsWith(child, "+quote("call:span:"+k.Value+"/")+")")
			}
		}
		in := "(" + strings.Join(quoted, ", ") + ")"
		// A statement each, so that each can use its index.
		wheres = append(wheres, "child IN "+in, below(in, "(relation = 'authenticated' OR startsWith(child, 'workload:ip:'))"))
		for _, where := range wheres {
			if err := s.loadBindings(ctx, "FROM bindings FINAL WHERE "+where, func(b *schemas.Binding) error {
				bindings = append(bindings, *b)
				return nil
			}); err != nil {
				return nil, nil, err
			}
		}
		// A row names the grant that it is under only once the window is known.
		var child string
		if err := load(ctx, s, []field{{"child", &child}}, "FROM bindings FINAL WHERE "+below(in, "relation = 'granted'"), func() error {
			quoted = append(quoted, quote(child))
			return nil
		}); err != nil {
			return nil, nil, err
		}
		all := strings.Join(quoted, ", ")
		hours := inHoursOf("key_hours", "key IN ("+all+")")
		// hasAny would hold every key of a row against every one that is looked for; a set is asked once.
		rests := fmt.Sprintf("(ended_at >= fromUnixTimestamp64Micro(%d, 'UTC') OR class IN ('tool_call', 'decision')) AND arrayExists(k -> k IN (%s), arrayConcat(keys, hops.key))", toMicros(sinceNanos), all)
		ask := []string{twoSteps(hours+" AND "+rests, rests)}
		if len(tokens) > 0 {
			uses := "token IN (" + strings.Join(tokens, ", ") + ") AND source_ip != ''"
			const first = " ORDER BY event_time, event_id LIMIT 1 BY token"
			ask = append(ask, twoSteps(hours+" AND "+uses+first, uses+first))
		}
		for _, from := range ask {
			if err := s.loadActions(ctx, from, func(a *schemas.Action) error {
				if !seen[a.ID] {
					seen[a.ID] = true
					actions = append(actions, a)
				}
				return nil
			}); err != nil {
				return nil, nil, err
			}
		}
	}
	return bindings, actions, nil
}

// below is the condition that a binding's parent is one of some and that it
// meets another condition, in two steps: the projection by_parent names the
// children, and FINAL looks at these.
func below(parents, condition string) string {
	where := "parent IN " + parents + " AND " + condition
	return where + " AND child GLOBAL IN (SELECT child FROM bindings WHERE " + where + ")"
}

// LoadEvents returns the rows of the events with the given ids, in their newest
// version; ids that are not there are left out. It is how a duplicate is known
// that has left memory. The event times of all of them lie between firstNanos
// and lastNanos, both included: rows are kept in the order of time, so that a
// narrow range makes for a quick answer.
func (s *Store) LoadEvents(ctx context.Context, ids []schemas.ID, firstNanos, lastNanos int64) (found []*schemas.Action, err error) {
	for part := range slices.Chunk(ids, lookupEvents) {
		quoted := make([]string, len(part))
		for i, id := range part {
			quoted[i] = "'" + id.String() + "'"
		}
		err := s.loadActions(ctx, "FROM actions FINAL PREWHERE event_id IN ("+strings.Join(quoted, ", ")+") WHERE "+between(firstNanos, lastNanos), func(a *schemas.Action) error {
			found = append(found, a)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// lookupEvents is how many ids one statement names, for the same reason.
const lookupEvents = 5000

// between is the condition that an event time lies in a range, both ends
// included.
func between(firstNanos, lastNanos int64) string {
	return fmt.Sprintf("event_time BETWEEN fromUnixTimestamp64Micro(%d, 'UTC') AND fromUnixTimestamp64Micro(%d, 'UTC')", toMicros(firstNanos), toMicros(lastNanos))
}

// LoadProgress returns up to where each partition is accounted for.
func (s *Store) LoadProgress(ctx context.Context) ([]schemas.Progress, error) {
	var (
		p   schemas.Progress
		all []schemas.Progress
	)
	fields := []field{{"topic", &p.Topic}, {"partition", &p.Partition}, {"offset", &p.Offset}, {nanosOf("watermark"), &p.WatermarkNanos}, {"toInt64(owner)", &p.OwnerMillis}}
	err := load(ctx, s, fields, "FROM progress FINAL ORDER BY topic, partition", func() error {
		all = append(all, p)
		return nil
	})
	return all, err
}

// LoadDeadLetters calls fn with every dead letter, oldest place first, until
// fn returns an error.
func (s *Store) LoadDeadLetters(ctx context.Context, fn func(*schemas.DeadLetter) error) error {
	return s.loadLetters(ctx, "FROM dead_letters FINAL ORDER BY topic, partition, offset, record_index", fn)
}

func (s *Store) loadLetters(ctx context.Context, from string, fn func(*schemas.DeadLetter) error) error {
	var (
		e             evidenceReader
		reason, fault string
		bytes         string
	)
	fields := append(e.fields(), field{"reason", &reason}, field{"error", &fault}, field{"bytes", &bytes})
	return load(ctx, s, fields, from, func() error {
		d := schemas.DeadLetter{Error: fault, Bytes: []byte(bytes)}
		var w words
		d.Reason = parseWord(&w, "reason", reason, schemas.ParseDeadReason)
		d.Evidence = e.evidence(&w)
		if w.err != nil {
			return fmt.Errorf("dead letter at %s/%d/%d: %w", d.Evidence.Topic, d.Evidence.Partition, d.Evidence.Offset, w.err)
		}
		return fn(&d)
	})
}

// field is an expression to select and where its value goes.
type field struct {
	expression string
	into       any
}

// load selects the fields and calls row after each row was read into them.
func load(ctx context.Context, s *Store, fields []field, from string, row func() error) (err error) {
	expressions := make([]string, len(fields))
	into := make([]any, len(fields))
	for i, f := range fields {
		expressions[i], into[i] = f.expression, f.into
	}
	rows, err := s.conn.Query(ctx, "SELECT "+strings.Join(expressions, ", ")+" "+from)
	if err != nil {
		return s.explain(err)
	}
	defer func() {
		if closed := rows.Close(); err == nil && closed != nil {
			err = s.explain(closed)
		}
	}()
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return s.explain(err)
		}
		if err := row(); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return s.explain(err)
	}
	return nil
}

// nanosOf selects a DateTime64(9) as nanoseconds; the driver's own way there is
// through time.Time.
func nanosOf(column string) string { return "toUnixTimestamp64Nano(" + column + ")" }

// quote writes a string as an SQL literal.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// words collects the first word that could not be understood, so that a row is
// read in one go.
type words struct{ err error }

func parseWord[T any](w *words, column, s string, parse func(string) (T, bool)) T {
	v, ok := parse(s)
	if !ok && w.err == nil {
		w.err = fmt.Errorf("column %s holds %q, which this program does not know: was it written by a newer one?", column, s)
	}
	return v
}

func (w *words) key(column, s string) schemas.Key {
	k, err := schemas.ParseKey(s)
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("column %s: %w", column, err)
	}
	return k
}

// keyOf puts a key together from its kind and its namespace:value.
func (w *words) keyOf(column, kind, id string) schemas.Key {
	if kind == "" {
		return schemas.Key{}
	}
	return w.key(column, kind+":"+id)
}

func (w *words) keys(column string, texts []string) []schemas.Key {
	if len(texts) == 0 {
		return nil
	}
	keys := make([]schemas.Key, len(texts))
	for i, t := range texts {
		keys[i] = w.key(column, t)
	}
	return keys
}

// placeReader reads the columns that say where a record lies.
type placeReader struct {
	topic       string
	partition   int32
	offset      int64
	recordIndex int32
}

func (r *placeReader) fields() []field {
	return []field{{"topic", &r.topic}, {"partition", &r.partition}, {"offset", &r.offset}, {"record_index", &r.recordIndex}}
}

func (r *placeReader) place() schemas.Evidence {
	return schemas.Evidence{Topic: r.topic, Partition: r.partition, Offset: r.offset, RecordIndex: r.recordIndex}
}

// evidenceReader reads the place of a record, what it hashes to and when it
// arrived.
type evidenceReader struct {
	placeReader
	hash           string
	ingestedMicros int64
}

func (r *evidenceReader) fields() []field {
	return append(r.placeReader.fields(), field{"raw_sha256", &r.hash}, field{"toUnixTimestamp64Micro(ingested_at)", &r.ingestedMicros})
}

func (r *evidenceReader) evidence(w *words) schemas.Evidence {
	e := r.place()
	e.TimestampNanos = r.ingestedMicros * 1000 // Kafka stamps milliseconds
	if r.hash == "" {
		return e
	}
	if n, err := hex.Decode(e.RawSHA256[:], []byte(r.hash[:min(len(r.hash), 64)])); (err != nil || n != 32) && w.err == nil {
		w.err = fmt.Errorf("column raw_sha256 holds %q: want 64 hexadecimal digits", r.hash)
	}
	return e
}

// bindingReader reads one row of bindings.
type bindingReader struct {
	placeReader
	child, parent, childName, parentName, relation, strength string
	from, until, expires                                     int64
	authMethod, mfa, scopes, source                          string
	proof                                                    uuid.UUID
	proofTime                                                int64
	version                                                  uint64
}

func (r *bindingReader) fields() []field {
	return append(r.placeReader.fields(),
		field{"child", &r.child}, field{"parent", &r.parent},
		field{"child_name", &r.childName}, field{"parent_name", &r.parentName},
		field{"relation", &r.relation}, field{"strength", &r.strength},
		field{nanosOf("`from`"), &r.from}, field{nanosOf("`until`"), &r.until}, field{nanosOf("expires"), &r.expires},
		field{"auth_method", &r.authMethod}, field{"mfa", &r.mfa}, field{"scopes", &r.scopes}, field{"source", &r.source},
		field{"proof", &r.proof}, field{nanosOf("proof_time"), &r.proofTime}, field{"version", &r.version})
}

func (r *bindingReader) build() (*schemas.Binding, error) {
	var w words
	b := &schemas.Binding{
		Child: w.key("child", r.child), Parent: w.key("parent", r.parent),
		ChildName: r.childName, ParentName: r.parentName,
		Relation: parseWord(&w, "relation", r.relation, schemas.ParseRelation), Strength: parseWord(&w, "strength", r.strength, schemas.ParseStrength),
		FromNanos: r.from, UntilNanos: r.until, ExpiresNanos: r.expires,
		AuthMethod: r.authMethod, MFA: parseWord(&w, "mfa", r.mfa, schemas.ParseMFA), Scopes: r.scopes,
		Proof: schemas.ID(r.proof), ProofNanos: r.proofTime, Source: r.source,
		Evidence: r.place(), Version: r.version,
	}
	return b, w.err
}

// actionReader reads one row of actions.
type actionReader struct {
	evidenceReader
	id, chain, cause                                                    uuid.UUID
	source, class, action, resource, outcome, tenant                    string
	actorKind, actorID, actorName                                       string
	traceID, spanID, sourceIP, userAgent                                string
	grade, reason, rootKind, rootID, rootName                           string
	hopKeys, hopNames, hopRelations, hopStrengths                       []string
	hopProofs                                                           []uuid.UUID
	hopTimes                                                            []int64
	hopLent                                                             []bool
	depth                                                               uint16
	frontier, causeGrade                                                string
	candidateParents, candidateRoots                                    []string
	candidateProofs                                                     []uuid.UUID
	authority, scopes, grant, policyDecision, policyID, authMethod, mfa string
	flags, attributeNames, attributeValues, keys                        []string
	version                                                             uint64
	redacted, selfReported                                              bool
	recordAuthMethod, recordMFA                                         string
	decision, decisionID, decisionPolicy                                string
	timeNanos, endedNanos, resolutionNanos                              int64
}

func (r *actionReader) fields() []field {
	return append(r.evidenceReader.fields(), []field{
		{"event_id", &r.id}, {"source", &r.source}, {"class", &r.class}, {"action", &r.action}, {"resource", &r.resource},
		{"outcome", &r.outcome}, {"tenant", &r.tenant}, {"actor_kind", &r.actorKind}, {"actor_id", &r.actorID}, {"actor_name", &r.actorName},
		{"trace_id", &r.traceID}, {"span_id", &r.spanID}, {"source_ip", &r.sourceIP}, {"user_agent", &r.userAgent},
		{"grade", &r.grade}, {"reason", &r.reason}, {"chain_id", &r.chain},
		{"root_kind", &r.rootKind}, {"root_id", &r.rootID}, {"root_name", &r.rootName},
		// Field by field: the driver reads arrays of strings much faster than arrays of tuples.
		{"hops.key", &r.hopKeys}, {"hops.name", &r.hopNames}, {"hops.relation", &r.hopRelations}, {"hops.strength", &r.hopStrengths},
		{"hops.proof", &r.hopProofs}, {"arrayMap(t -> toUnixTimestamp64Nano(t), hops.at)", &r.hopTimes}, {"hops.lent", &r.hopLent},
		{"depth", &r.depth}, {"frontier", &r.frontier}, {"cause_id", &r.cause}, {"cause_grade", &r.causeGrade},
		{"candidates.parent", &r.candidateParents}, {"candidates.root", &r.candidateRoots}, {"candidates.proof", &r.candidateProofs},
		{"authority", &r.authority}, {"scopes", &r.scopes}, {"grant_id", &r.grant},
		{"policy_decision", &r.policyDecision}, {"policy_id", &r.policyID}, {"auth_method", &r.authMethod}, {"mfa", &r.mfa},
		{"flags", &r.flags}, {"mapKeys(attributes)", &r.attributeNames}, {"mapValues(attributes)", &r.attributeValues}, {"keys", &r.keys},
		{"version", &r.version}, {"redacted", &r.redacted}, {"self_reported", &r.selfReported},
		{"record_auth_method", &r.recordAuthMethod}, {"record_mfa", &r.recordMFA},
		{"decision", &r.decision}, {"decision_id", &r.decisionID}, {"decision_policy", &r.decisionPolicy},
		{"time_nanos", &r.timeNanos}, {"ended_nanos", &r.endedNanos}, {"resolution_nanos", &r.resolutionNanos},
	}...)
}

func (r *actionReader) build() (*schemas.Action, error) {
	var w words
	a := &schemas.Action{
		Event: r.event(&w),
		Grade: parseWord(&w, "grade", r.grade, schemas.ParseGrade), Reason: parseWord(&w, "reason", r.reason, schemas.ParseReason),
		ChainID: schemas.ID(r.chain), Root: w.keyOf("root_id", r.rootKind, r.rootID), RootName: r.rootName,
		Hops: r.hops(&w), Depth: int(r.depth), Frontier: w.key("frontier", r.frontier),
		CauseID: schemas.ID(r.cause), CauseGrade: parseWord(&w, "cause_grade", r.causeGrade, schemas.ParseCauseGrade),
		Candidates:       r.candidates(&w),
		RecordAuthMethod: r.recordAuthMethod, RecordMFA: parseWord(&w, "record_mfa", r.recordMFA, schemas.ParseMFA),
		GrantID: r.grant, PolicyDecision: parseWord(&w, "policy_decision", r.policyDecision, schemas.ParseVerdict), PolicyID: r.policyID,
		Version: r.version,
	}
	return a, w.err
}

func (r *actionReader) event(w *words) schemas.Event {
	e := schemas.Event{
		ID: schemas.ID(r.id), Source: r.source,
		TimeNanos: r.timeNanos, EndedNanos: r.endedNanos, ResolutionNanos: r.resolutionNanos,
		Class: parseWord(w, "class", r.class, schemas.ParseClass), Action: r.action, Resource: r.resource,
		Outcome: parseWord(w, "outcome", r.outcome, schemas.ParseOutcome), Tenant: r.tenant,
		Actor: w.keyOf("actor_id", r.actorKind, r.actorID), ActorName: r.actorName, Keys: w.keys("keys", r.keys),
		Authority: r.authority, Scopes: r.scopes, AuthMethod: r.authMethod, MFA: parseWord(w, "mfa", r.mfa, schemas.ParseMFA),
		Decision: schemas.Decision{Verdict: parseWord(w, "decision", r.decision, schemas.ParseVerdict), ID: r.decisionID, Policy: r.decisionPolicy},
		SourceIP: r.sourceIP, UserAgent: r.userAgent, TraceID: r.traceID, SpanID: r.spanID,
		Redacted: r.redacted, SelfReported: r.selfReported, Evidence: r.evidence(w),
	}
	for _, f := range r.flags {
		e.Flags |= parseWord(w, "flags", f, schemas.ParseFlag)
	}
	for i, name := range r.attributeNames {
		e.Attributes = append(e.Attributes, schemas.Attribute{Name: name, Value: r.attributeValues[i]})
	}
	return e
}

func (r *actionReader) hops(w *words) []schemas.Hop {
	if len(r.hopKeys) == 0 {
		return nil
	}
	hops := make([]schemas.Hop, len(r.hopKeys))
	for i := range hops {
		hops[i] = schemas.Hop{
			Key: w.key("hops.key", r.hopKeys[i]), Name: r.hopNames[i],
			Relation: parseWord(w, "hops.relation", r.hopRelations[i], schemas.ParseRelation),
			Strength: parseWord(w, "hops.strength", r.hopStrengths[i], schemas.ParseStrength),
			Proof:    schemas.ID(r.hopProofs[i]), AtNanos: r.hopTimes[i], Lent: r.hopLent[i],
		}
	}
	return hops
}

func (r *actionReader) candidates(w *words) []schemas.Candidate {
	if len(r.candidateParents) == 0 {
		return nil
	}
	all := make([]schemas.Candidate, len(r.candidateParents))
	for i := range all {
		all[i] = schemas.Candidate{
			Parent: w.key("candidates.parent", r.candidateParents[i]), Root: w.key("candidates.root", r.candidateRoots[i]),
			Proof: schemas.ID(r.candidateProofs[i]),
		}
	}
	return all
}
