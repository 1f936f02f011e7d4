package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"catena/correlate"
	"catena/correlate/simtest"
	"catena/ingest"
	"catena/schemas"
	"catena/sinks"
)

// The worlds of correlate/simtest tell events; what goes through Kafka is
// records. carrier writes each event as JSON that mirrors it field by field, and
// the sources that read it: their rules say nothing that is not in the record,
// so that decoding gives back the event that was made up.
//
// Kinds, relations and strengths are words of the rules and not of records: a
// binding is therefore a member named after its position and them.
type carrier struct {
	systems map[string]time.Duration // source name to resolution
	keys    map[string]bool          // "k0/token.jti": the key at a position
	makes   map[string]bool          // "m0/token.jti session.okta issued exact"
	ends    map[string]bool          // "e0/session.okta revoked"
	actors  map[string]bool          // "human.email"
	skips   map[string]bool          // words of BindOnly
	flags   map[string]bool
}

func newCarrier() *carrier {
	return &carrier{map[string]time.Duration{}, map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}}
}

// nameOf is how a member names kind and namespace of a key: the kind holds no
// slash, the namespace no blank.
func nameOf(k schemas.Key) string { return k.Kind.String() + "/" + k.Namespace }

// carryable leaves out of an event what no record can say: a decoder gives a
// binding the login facts of its event.
func carryable(ev schemas.Event) schemas.Event {
	ev.Makes = slices.Clone(ev.Makes)
	for i := range ev.Makes {
		b := &ev.Makes[i]
		if b.Relation == schemas.RelationAuthenticated && !b.Child.Kind.Principal() && ev.AuthMethod == "" && ev.MFA == schemas.MFAUnknown {
			ev.AuthMethod, ev.MFA = b.AuthMethod, b.MFA
		}
	}
	for i := range ev.Makes {
		b := &ev.Makes[i]
		b.AuthMethod, b.MFA = "", schemas.MFAUnknown
		if b.Relation == schemas.RelationAuthenticated && !b.Child.Kind.Principal() {
			b.AuthMethod, b.MFA = ev.AuthMethod, ev.MFA
		}
	}
	return ev
}

// record writes an event down. The id is what tells it from all others.
func (c *carrier) record(ev *schemas.Event, id string) []byte {
	doc := map[string]any{"sim": ev.Source, "id": id, "t": ev.TimeNanos, "class": ev.Class.String(), "outcome": ev.Outcome.String()}
	put := func(name, v string) {
		if v != "" {
			doc[name] = v
		}
	}
	c.systems[ev.Source] = time.Duration(ev.ResolutionNanos)
	if ev.EndedNanos != 0 {
		doc["ended"] = ev.EndedNanos
	}
	for name, v := range map[string]string{"action": ev.Action, "resource": ev.Resource, "tenant": ev.Tenant, "actor_name": ev.ActorName,
		"authority": ev.Authority, "auth": ev.AuthMethod, "verdict": ev.Decision.Verdict.String(), "did": ev.Decision.ID, "dpol": ev.Decision.Policy,
		"ip": ev.SourceIP, "trace": ev.TraceID, "span": ev.SpanID, "bind_only": ev.BindOnly} {
		put(name, v)
	}
	if ev.MFA != schemas.MFAUnknown {
		doc["mfa"] = ev.MFA.String()
	}
	if ev.Redacted {
		doc["redacted"] = "REDACTED"
	}
	if ev.SelfReported {
		doc["self"] = true
	}
	for _, w := range ev.Flags.Words() {
		doc["flag_"+w] = true
		c.flags[w] = true
	}
	if ev.BindOnly != "" {
		c.skips[ev.BindOnly] = true
	}
	if !ev.Actor.IsZero() {
		doc["actor/"+nameOf(ev.Actor)] = ev.Actor.Value
		c.actors[nameOf(ev.Actor)] = true
	}
	for i, k := range ev.Keys {
		name := fmt.Sprintf("k%d/%s", i, nameOf(k))
		doc[name], c.keys[name] = k.Value, true
	}
	for i := range ev.Makes {
		name, v := binding(i, &ev.Makes[i])
		doc[name], c.makes[name] = v, true
	}
	for i, e := range ev.Ends {
		name := fmt.Sprintf("e%d/%s", i, nameOf(e.Key))
		if e.Revoked {
			name += " revoked"
		}
		doc[name], c.ends[name] = map[string]any{"k": e.Key.Value, "at": e.AtNanos}, true
	}
	text, err := json.Marshal(doc)
	if err != nil {
		panic(err) // strings and numbers
	}
	return text
}

func binding(i int, b *schemas.Binding) (name string, v map[string]any) {
	v = map[string]any{"c": b.Child.Value, "p": b.Parent.Value}
	for n, name := range map[string]string{"cn": b.ChildName, "pn": b.ParentName} {
		if name != "" {
			v[n] = name
		}
	}
	for n, at := range map[string]int64{"from": b.FromNanos, "until": b.UntilNanos, "expires": b.ExpiresNanos} {
		if at != 0 {
			v[n] = at
		}
	}
	when := "always"
	if b.FromNanos != 0 {
		when = "since"
	}
	return fmt.Sprintf("m%d/%s %s %s %s %s", i, nameOf(b.Child), nameOf(b.Parent), b.Relation, b.Strength, when), v
}

// writeSources writes the sources of all that was carried so far into a folder
// for CATENA_SOURCES_DIR. They come before the built-in ones.
func (c *carrier) writeSources(dir string) error {
	for name, resolution := range c.systems {
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(c.source(name, resolution)), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (c *carrier) source(name string, resolution time.Duration) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("name: %s\nvendor: made up\ntitle: the events of a made-up world\nreference: https://example.com\npriority: 1", name)
	line("match: {sim: %s, id: present, t: present}\nid: [\"{id}\"]\ntime: \"{t|nanos}\"\nended: \"{ended|nanos}\"\nresolution: %s", name, resolution)
	line(`outcome: "{outcome}"
action: "{action}"
resource: "{resource}"
tenant: "{tenant}"
authority: "{authority}"
auth_method: "{auth}"
mfa: "{mfa}"
decision: {verdict: "{verdict}", id: "{did}", policy: "{dpol}"}
source_ip: "{ip}"
trace_id: "{trace}"
span_id: "{span}"`)
	key := func(kind, path string) string { return strings.Replace(kind, "/", ":", 1) + ":{" + path + "}" }
	line("keys:")
	for _, name := range slices.Sorted(maps.Keys(c.keys)) {
		_, kind, _ := strings.Cut(name, "/")
		line(`  - '%s'`, key(kind, `"`+name+`"`))
	}
	line(`  - 'token:jti:{redacted}'`)
	line("makes:")
	for _, name := range slices.Sorted(maps.Keys(c.makes)) {
		_, sig, _ := strings.Cut(name, "/")
		w := strings.Fields(sig)
		at := func(member string) string { return `"` + name + `".` + member }
		from := ", from: always"
		if w[4] == "since" {
			from = ", from: '{" + at("from") + "|nanos}'"
		}
		line(`  - {child: '%s', parent: '%s', relation: %s, strength: %s, child_name: '{%s}', parent_name: '{%s}', until: '{%s|nanos}', expires: '{%s|nanos}'%s}`,
			key(w[0], at("c")), key(w[1], at("p")), w[2], w[3], at("cn"), at("pn"), at("until"), at("expires"), from)
	}
	if len(c.ends) > 0 {
		line("ends:")
	}
	for _, name := range slices.Sorted(maps.Keys(c.ends)) {
		_, sig, _ := strings.Cut(name, "/")
		kind, revoked := strings.CutSuffix(sig, " revoked")
		line(`  - {key: '%s', at: '{"%s".at|nanos}', revoked: %v}`, key(kind, `"`+name+`".k`), name, revoked)
	}
	line("rules:")
	for i := range 10 {
		line("  - {when: {class: %[1]s}, class: %[1]s}", schemas.Class(i))
	}
	line("  - {when: {self: true}, self_reported: true}")
	for _, a := range slices.Sorted(maps.Keys(c.actors)) {
		line(`  - {when: {'"actor/%[1]s"': present}, actor: {key: '%[2]s', name: "{actor_name}"}}`, a, key(a, `"actor/`+a+`"`))
	}
	for _, w := range slices.Sorted(maps.Keys(c.skips)) {
		line("  - {when: {bind_only: %[1]s}, bind_only: %[1]s}", w)
	}
	for _, w := range slices.Sorted(maps.Keys(c.flags)) {
		line("  - {when: {flag_%[1]s: true}, flags: [%[1]s]}", w)
	}
	return b.String()
}

// TestCarrier: what goes out as records comes back as the events that were made
// up, and correlating either gives the same rows; so the truth of the worlds is
// the truth of the records.
func TestCarrier(t *testing.T) {
	for seed := range uint64(20) {
		w := simtest.Make(seed, simtest.ShapeOf(seed))
		feed := newFeed([]*simtest.World{w}, 4)
		decode := feed.stitcher(t)
		var made, read []schemas.Event
		for i := range feed.records {
			ev := carryable(w.Events[feed.origin[i]].Clone())
			var d ingest.Decoded
			decode.decoders[0].Decode(&d, &feed.records[i])
			if len(d.Events) != 1 {
				t.Fatalf("seed %d: %d events and %v of %s", seed, len(d.Events), d.Dead, feed.records[i].Value)
			}
			got := d.Events[0].Clone()
			read = append(read, got)
			ev.ID, ev.Evidence = got.ID, got.Evidence // of what ties, the lowest id counts
			made = append(made, ev)
			if a, b := plainEvent(got), plainEvent(ev); !reflect.DeepEqual(a, b) {
				t.Fatalf("seed %d: %s\n got %+v\nwant %+v", seed, feed.records[i].Value, a, b)
			}
		}
		a, b := finalRows(made), finalRows(read)
		if len(a) != len(b) || len(a) == 0 {
			t.Fatalf("seed %d: %d rows of the records, %d of the events", seed, len(b), len(a))
		}
		for id, got := range b {
			if want := a[id]; want == nil || attribution(got) != attribution(want) {
				t.Fatalf("seed %d: of the record %+v\nof the event %+v", seed, got, want)
			}
		}
	}
}

// plainEvent is an event without what the way through a record has to change.
func plainEvent(ev schemas.Event) schemas.Event {
	ev = ev.Clone()
	ev.ID, ev.Evidence = schemas.ID{}, schemas.Evidence{}
	for i := range ev.Makes {
		b := &ev.Makes[i]
		b.Proof, b.ProofNanos, b.Source, b.Evidence = schemas.ID{}, 0, "", schemas.Evidence{}
	}
	return ev
}

func finalRows(events []schemas.Event) map[schemas.ID]*schemas.Action {
	e := correlate.New(correlate.Config{Skew: simtest.Skew, OutOfOrderness: simtest.Bound, AllowedLateness: correlate.Forever, Window: correlate.Forever})
	rows := map[schemas.ID]*schemas.Action{}
	var out correlate.Output
	for i := range events {
		e.Process(&out, events[i:i+1])
	}
	for _, a := range out.Actions {
		rows[a.ID] = a
	}
	return rows
}

// feed is the records of some worlds, in the order in which they arrive, each
// with the place that it will have in Kafka.
type feed struct {
	*carrier
	records []schemas.Record
	worlds  []*simtest.World
	world   []int // of each record
	origin  []int // its event there
	next    []int64
	known   map[string]schemas.Binding // what the undisturbed run learned, by edge
}

// The topic of the records.
const feedTopic = "sim"

// newFeed carries the worlds' events that were not lost, into so many
// partitions of one topic: systems keep to two of them each, as they do in
// simtest.
func newFeed(worlds []*simtest.World, partitions int) *feed {
	f := &feed{carrier: newCarrier(), worlds: worlds, next: make([]int64, partitions)}
	type arrival struct {
		world, event int
	}
	var order []arrival
	for n, w := range worlds {
		for i := range w.Events {
			if !w.Lost[i] {
				order = append(order, arrival{n, i})
			}
		}
	}
	slices.SortStableFunc(order, func(a, b arrival) int {
		return int(worlds[a.world].Events[a.event].Evidence.TimestampNanos/1e6 - worlds[b.world].Events[b.event].Evidence.TimestampNanos/1e6)
	})
	systems := map[string]int{}
	for _, a := range order {
		ev := carryable(worlds[a.world].Events[a.event].Clone())
		if _, ok := systems[ev.Source]; !ok {
			systems[ev.Source] = len(systems)
		}
		p := (2*systems[ev.Source] + int(ev.Evidence.Partition)) % partitions
		f.add(&ev, fmt.Sprintf("%d.%d", worlds[a.world].Seed, a.event), p)
		f.world, f.origin = append(f.world, a.world), append(f.origin, a.event)
	}
	return f
}

func (f *feed) add(ev *schemas.Event, id string, partition int) {
	f.records = append(f.records, schemas.Record{Topic: feedTopic, Partition: int32(partition), Offset: f.next[partition],
		Value: f.record(ev, id), TimestampNanos: ev.Evidence.TimestampNanos / 1e6 * 1e6}) // Kafka keeps milliseconds
	f.next[partition]++
}

// settings are what the engine has to be configured with.
func (f *feed) settings(t *testing.T, dir string) *config {
	t.Helper()
	if err := f.writeSources(dir); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig()
	cfg.SourcesDir, cfg.Skew, cfg.OutOfOrderness, cfg.Decoders = dir, simtest.Skew, simtest.Bound, 2
	cfg.AllowedLateness, cfg.Window = correlate.Forever, correlate.Forever
	return cfg
}

// stitcher is a fresh path for the records.
func (f *feed) stitcher(t *testing.T) *stitcher {
	t.Helper()
	st, err := newStitcher(f.settings(t, t.TempDir()), nil)
	if err != nil {
		t.Fatal(err)
	}
	return &st
}

// rows are the final rows of one undisturbed run, which also tells what is known.
func (f *feed) rows(t *testing.T) map[schemas.ID]*schemas.Action {
	t.Helper()
	st, final := f.stitcher(t), map[schemas.ID]*schemas.Action{}
	f.known = map[string]schemas.Binding{}
	for part := range slices.Chunk(f.records, 1000) {
		var batch sinks.Batch
		if err := st.decode(part); err != nil {
			t.Fatal(err)
		}
		st.correlate(&batch)
		if len(batch.DeadLetters) > 0 {
			t.Fatalf("the undisturbed run left a dead letter: %+v", batch.DeadLetters[0])
		}
		for _, a := range batch.Actions {
			final[a.ID] = a
		}
		for _, b := range batch.Bindings {
			f.known[edgeOf(&b)] = b
		}
	}
	return final
}

// edgeOf is what makes a binding one row of its table.
func edgeOf(b *schemas.Binding) string {
	return fmt.Sprintf("%v %v %v %v from %d", b.Child, b.Relation, b.Parent, b.Strength, b.FromNanos)
}
