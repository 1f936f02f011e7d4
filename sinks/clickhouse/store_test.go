package clickhouse

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"catena/schemas"
	"catena/sinks"
	"catena/sinks/sinktest"
)

func TestConformance(t *testing.T) { overBoth(t, checkConformance) }

func checkConformance(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Subject {
		s := migrated(t)
		return sinktest.Subject{Sink: s, Read: func(t testing.TB) []*schemas.Action {
			// A connection of its own: the sink may be closed.
			reader := &Store{options: s.options, where: s.where, native: s.native}
			reader.conn = reader.pool(s.options.Database)
			defer reader.Close()
			return actions(t, reader, math.MinInt64)
		}}
	})
}

func actions(t testing.TB, s *Store, sinceNanos int64) (all []*schemas.Action) {
	t.Helper()
	err := s.LoadActions(t.Context(), sinceNanos, nil, func(a *schemas.Action) error {
		all = append(all, a)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func write(t testing.TB, s *Store, b *sinks.Batch) {
	t.Helper()
	if err := s.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func TestColumnsAreThoseOfTheTable(t *testing.T) {
	s := migrated(t)
	if got := rows(t, s, "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = 'actions' AND default_kind != 'ALIAS' ORDER BY position"); !slices.Equal(got, sinks.ActionColumns()) {
		t.Errorf("columns of the table\n%v\nare not those of sinks.ActionColumns\n%v", got, sinks.ActionColumns())
	}
	for name, written := range map[string][]string{
		"bindings":     names(s.tables.bindings.columns),
		"dead_letters": append(names(s.tables.deadLetters.columns), "failed_at"),
		"progress":     append(names(s.tables.progress.columns), "updated_at"),
	} {
		if got := rows(t, s, "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '"+name+"' ORDER BY position"); !slices.Equal(got, written) {
			t.Errorf("columns of %s: %v, want %v", name, got, written)
		}
	}
}

// What the table calls a standing credential is what the correlator takes for
// long-lived.
func TestStandingCredentialsAreLongLived(t *testing.T) {
	s := migrated(t)
	var all []*schemas.Action
	want := map[string]bool{}
	for _, namespace := range []string{"aws.access_key", "x509.sha256", "okta.api_token", "github.hashed", "gcp.sa_key", "entra.credential", "azure.storage_key",
		"azure.sas", "anthropic.api_key", "openai.api_key", "jti", "vault.accessor", "aws.access_keys"} {
		for _, value := range []string{"AKIAFIXTURE0000000001", "ASIAFIXTURE0000000001"} {
			k := schemas.Key{Kind: schemas.KindToken, Namespace: namespace, Value: value}
			want[k.String()] = k.LongLived()
			a := sinktest.Bare()
			a.ID, a.Keys = schemas.MakeID("standing", k.String()), []schemas.Key{k}
			all = append(all, a)
		}
	}
	write(t, s, &sinks.Batch{Actions: all})
	for _, line := range rows(t, s, "SELECT keys[1], standing_credential != '' FROM actions FINAL") {
		key, got, _ := strings.Cut(line, " ")
		if (got == "1") != want[key] {
			t.Errorf("%s: standing %s, long-lived %v", key, got, want[key])
		}
		delete(want, key)
	}
	if len(want) > 0 {
		t.Errorf("not in the table: %v", want)
	}
}

func names[R any](columns []cells[R]) (all []string) {
	for _, c := range columns {
		all = append(all, c.name)
	}
	return all
}

func TestTheRowReadsWell(t *testing.T) { overBoth(t, checkTheRowReadsWell) }

func checkTheRowReadsWell(t *testing.T) {
	s := migrated(t)
	a := sinktest.Actions(1)[0]
	full := sinktest.Full()
	write(t, s, &sinks.Batch{Actions: []*schemas.Action{a, full}})
	for sql, want := range map[string]string{
		"SELECT event_id, event_time, ended_at FROM actions WHERE source = 'aws.cloudtrail'":                              a.ID.String() + " 2026-03-01 08:00:00.123456 2026-03-01 08:00:00.123456",
		"SELECT request, token, session, workload FROM actions WHERE source = 'aws.cloudtrail'":                           a.Keys[0].String() + " " + a.Keys[1].String() + "  ",
		"SELECT actor_kind, actor_id, root_kind, root_id FROM actions WHERE source = 'aws.cloudtrail'":                    "service " + a.Actor.ID() + " human email:person0@example.com",
		"SELECT hops.relation FROM actions WHERE source = 'aws.cloudtrail'":                                               "[, authenticated, assumed, invoked]",
		"SELECT arrayMap(h -> h.key, hops)[1] FROM actions WHERE source = 'aws.cloudtrail'":                               "human:email:person0@example.com",
		"SELECT attributes['aws_region'], attributes FROM actions WHERE source = 'aws.cloudtrail'":                        "eu-central-1 {aws_region: eu-central-1, event_type: AwsApiCall}",
		"SELECT length(flags), has(flags, 'divergent'), length(raw_sha256) FROM actions WHERE source != 'aws.cloudtrail'": "15 1 64",
		"SELECT depth, version, offset FROM actions WHERE source = 'test.full'":                                           "65535 18446744073709551615 9223372036854775807",
		"SELECT candidates.root, decision, policy_decision, redacted FROM actions WHERE source = 'test.full'":             "[human:test.ns:h1, ] deny deny true",
		"SELECT dateDiff('hour', attributed_at, now64()) FROM actions WHERE source = 'test.full'":                         "0",
	} {
		if got := rows(t, s, sql); !slices.Equal(got, []string{want}) {
			t.Errorf("%s:\n got %q\nwant %q", sql, got, want)
		}
	}
}

func TestTimesAtTheirEnds(t *testing.T) { overBoth(t, checkTimesAtTheirEnds) }

func checkTimesAtTheirEnds(t *testing.T) {
	s := migrated(t)
	var all []*schemas.Action
	for i, nanos := range []int64{math.MinInt64, minMicros * 1000, -1, 0, 1, 999, 1000, math.MaxInt64} {
		a := sinktest.Bare()
		a.ID = schemas.MakeID("time", string(rune('a'+i)))
		a.TimeNanos, a.EndedNanos = nanos, nanos
		a.Hops = []schemas.Hop{{Key: schemas.Key{Kind: schemas.KindHuman, Namespace: "n", Value: "v"}, AtNanos: nanos}}
		all = append(all, a)
	}
	write(t, s, &sinks.Batch{Actions: all})
	got := actions(t, s, math.MinInt64)
	if len(got) != len(all) {
		t.Errorf("%d rows, want %d", len(got), len(all))
	}
	for _, want := range all {
		i := slices.IndexFunc(got, func(a *schemas.Action) bool { return a.ID == want.ID })
		if i < 0 {
			t.Errorf("time %d is missing", want.TimeNanos)
			continue
		}
		sinktest.Same(t, got[i], want)
	}
}

func TestCompression(t *testing.T) { overBoth(t, checkCompression) }

func checkCompression(t *testing.T) {
	plain := migrated(t)
	want := append(sinktest.Actions(500), sinktest.Full())
	for i, compression := range []string{"none", "lz4", "zstd"} {
		o := plain.options
		o.Addrs, o.Compression = []string{addrOf(t)}, compression
		s, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		for _, a := range want {
			a.Version = uint64(i + 1)
		}
		write(t, s, &sinks.Batch{Actions: want, DeadLetters: sinktest.DeadLetters()})
		if got := actions(t, s, 0); len(got) != len(want) || got[0].Version != uint64(i+1) {
			t.Errorf("%s: %d rows, version %d", compression, len(got), got[0].Version)
		}
	}
}

func TestLoadActionsSince(t *testing.T) { overBoth(t, checkLoadActionsSince) }

func checkLoadActionsSince(t *testing.T) {
	s := migrated(t)
	all := sinktest.Actions(10)
	all[0].EndedNanos = all[9].TimeNanos // began early, ended late
	write(t, s, &sinks.Batch{Actions: all})
	got := actions(t, s, all[7].TimeNanos)
	slices.SortFunc(got, func(a, b *schemas.Action) int { return cmp.Compare(a.TimeNanos, b.TimeNanos) })
	want := []*schemas.Action{all[0], all[7], all[8], all[9]}
	if len(got) != len(want) {
		t.Fatalf("%d rows, want %d", len(got), len(want))
	}
	for i := range want {
		sinktest.Same(t, got[i], want[i])
	}
	stop := errors.New("stop")
	if err := s.LoadActions(t.Context(), 0, nil, func(*schemas.Action) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error %v, want that of the function", err)
	}
}

func bindings(t testing.TB, s *Store, sinceNanos int64) (all []schemas.Binding) {
	t.Helper()
	err := s.LoadBindings(t.Context(), sinceNanos, nil, func(b *schemas.Binding) error {
		all = append(all, *b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b schemas.Binding) int { return a.Child.Compare(b.Child) })
	return all
}

func TestBindingsComeBack(t *testing.T) { overBoth(t, checkBindingsComeBack) }

func checkBindingsComeBack(t *testing.T) {
	s := migrated(t)
	want := sinktest.Bindings(20)
	write(t, s, &sinks.Batch{Bindings: want})
	write(t, s, &sinks.Batch{Bindings: want[:3]}) // twice is once
	if got := bindings(t, s, 0); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	// Proven at or after the time, or holding beyond it.
	if got := bindings(t, s, want[19].ProofNanos); len(got) != 18 {
		t.Errorf("%d bindings since the last proof, want the 18 that hold beyond it", len(got))
	}

	newer := want[5]
	newer.Version++
	newer.UntilNanos = newer.FromNanos + 1
	stale := want[6]
	stale.Version--
	stale.UntilNanos = 1
	write(t, s, &sinks.Batch{Bindings: []schemas.Binding{newer, stale}})
	want[5] = newer
	children := []schemas.Key{want[5].Child, want[6].Child, {Kind: schemas.KindToken, Namespace: "it's", Value: `a \' b`}}
	got, _, err := s.Recall(t.Context(), children, 0)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b schemas.Binding) int { return a.Child.Compare(b.Child) })
	if !reflect.DeepEqual(got, want[5:7]) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want[5:7])
	}
}

// TestRecall: what the tables hold of a key that left memory is what is bound
// to it, what is looked up from it, the rows that rest on it and can still be
// improved, and however old its calls, decisions and first use.
func TestRecall(t *testing.T) { overBoth(t, checkRecall) }

func checkRecall(t *testing.T) {
	s := migrated(t)
	key := func(k schemas.Kind, ns, v string) schemas.Key { return schemas.Key{Kind: k, Namespace: ns, Value: v} }
	alice, session := key(schemas.KindHuman, "email", "alice@example.com"), key(schemas.KindSession, "okta", "S")
	token, span := key(schemas.KindToken, "jti", "T"), key(schemas.KindCall, "span", "trace1/a")
	bind := func(child, parent schemas.Key, r schemas.Relation) schemas.Binding {
		return schemas.Binding{Child: child, Parent: parent, Relation: r, Strength: schemas.StrengthExact, Proof: schemas.MakeID("p"), Version: 1}
	}
	grant := key(schemas.KindGrant, "teleport.request", "G")
	pod, ip := key(schemas.KindWorkload, "k8s.pod_uid", "P"), key(schemas.KindWorkload, "ip", "10.0.0.1")
	all := []schemas.Binding{
		bind(session, alice, schemas.RelationAuthenticated), bind(token, session, schemas.RelationIssued),
		bind(span, token, schemas.RelationInvoked), bind(ip, pod, schemas.RelationRanAs), bind(session, grant, schemas.RelationGranted),
	}
	row := func(name string, second int64, class schemas.Class, ip string, keys []schemas.Key, hops ...schemas.Key) *schemas.Action {
		at := (1_772_500_000 + second) * 1e9
		a := &schemas.Action{Event: schemas.Event{ID: schemas.MakeID(name), Source: "test", Action: name, TimeNanos: at, EndedNanos: at, Class: class, SourceIP: ip, Keys: keys}, Version: 1}
		for _, k := range hops {
			a.Hops = append(a.Hops, schemas.Hop{Key: k})
		}
		return a
	}
	write(t, s, &sinks.Batch{Bindings: all, Actions: []*schemas.Action{
		row("first use", 1, schemas.ClassAPICall, "10.0.0.1", []schemas.Key{token}),
		row("use", 2, schemas.ClassAPICall, "10.0.0.2", []schemas.Key{token}),
		row("call", 3, schemas.ClassToolCall, "", []schemas.Key{span}, alice, token, span),
		row("late use", 100, schemas.ClassAPICall, "", []schemas.Key{key(schemas.KindRequest, "aws", "R")}, alice, session, token),
		row("stranger", 101, schemas.ClassAPICall, "", []schemas.Key{key(schemas.KindToken, "jti", "other")}),
	}})
	for _, c := range []struct {
		key      schemas.Key
		bindings int
		actions  []string
	}{
		{token, 1, []string{"call", "first use", "late use"}},
		{alice, 1, []string{"call", "late use"}},
		{session, 2, []string{"late use"}},
		{grant, 0, []string{"late use"}},
		{pod, 1, nil},
		{key(schemas.KindCall, "trace", "trace1"), 1, nil},
		{key(schemas.KindToken, "jti", "nobody's"), 0, nil},
	} {
		bindings, actions, err := s.Recall(t.Context(), []schemas.Key{c.key}, 1_772_500_050*1e9)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range actions {
			got = append(got, a.Action)
		}
		slices.Sort(got)
		if len(bindings) != c.bindings || !slices.Equal(got, c.actions) {
			t.Errorf("%v: %d bindings and the actions %q, want %d and %q", c.key, len(bindings), got, c.bindings, c.actions)
		}
	}
}

func TestDeadLettersKeepTheirBytes(t *testing.T) { overBoth(t, checkDeadLettersKeepTheirBytes) }

func checkDeadLettersKeepTheirBytes(t *testing.T) {
	s := migrated(t)
	want := sinktest.DeadLetters()
	for range 2 { // a record delivered again lands on the same row
		write(t, s, &sinks.Batch{DeadLetters: want})
	}
	var got []schemas.DeadLetter
	if err := s.LoadDeadLetters(t.Context(), func(d *schemas.DeadLetter) error { got = append(got, *d); return nil }); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b schemas.DeadLetter) int { return cmp.Compare(a.Evidence.Offset, b.Evidence.Offset) })
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if !bytes.Equal(got[1].Bytes, want[1].Bytes) {
		t.Error("bytes differ")
	}
}

func TestProgressIsTheLastWritten(t *testing.T) { overBoth(t, checkProgressIsTheLastWritten) }

func checkProgressIsTheLastWritten(t *testing.T) {
	s := migrated(t)
	want := sinktest.Progress()
	write(t, s, &sinks.Batch{Progress: want})
	want[1].Offset, want[1].WatermarkNanos = 77, 123_456_789_012_345_678
	write(t, s, &sinks.Batch{Progress: want[1:]})
	want[1].Offset, want[1].OwnerMillis = 78, 2000 // its next owner
	write(t, s, &sinks.Batch{Progress: want[1:]})
	stale := want[1]
	stale.Offset, stale.OwnerMillis = 79, 1000 // does not know that it is over
	write(t, s, &sinks.Batch{Progress: []schemas.Progress{stale}})
	got, err := s.LoadProgress(t.Context())
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestLoadEvents(t *testing.T) { overBoth(t, checkLoadEvents) }

func checkLoadEvents(t *testing.T) {
	s := migrated(t)
	all := sinktest.Actions(1200)
	write(t, s, &sinks.Batch{Actions: all})
	newer := *all[7]
	newer.Version++
	write(t, s, &sinks.Batch{Actions: []*schemas.Action{&newer}})
	ids := []schemas.ID{schemas.MakeID("nobody")}
	for _, a := range all {
		ids = append(ids, a.ID)
	}
	got, err := s.LoadEvents(t.Context(), ids, all[0].TimeNanos, all[1199].TimeNanos)
	if err != nil || len(got) != len(all) {
		t.Fatalf("%d found, error %v", len(got), err)
	}
	for _, a := range got {
		if a.ID == newer.ID && a.Version != newer.Version {
			t.Errorf("version %d, want the newest, %d", a.Version, newer.Version)
		}
	}
	if none, err := s.LoadEvents(t.Context(), ids, 0, all[0].TimeNanos-1000); len(none) != 0 || err != nil {
		t.Errorf("%d found before their time, error %v", len(none), err)
	}
}

// TestLoadShared: what rows of others may rest on is loaded, and nothing else.
func TestLoadShared(t *testing.T) { overBoth(t, checkLoadShared) }

func checkLoadShared(t *testing.T) {
	s := migrated(t)
	all := sinktest.Actions(8)
	token := func(name string) schemas.Key {
		return schemas.Key{Kind: schemas.KindToken, Namespace: "jti", Value: "shared-" + name}
	}
	for i := range all {
		a := *all[i]
		a.EndedNanos, a.CauseID, a.CauseGrade, a.Keys = 0, schemas.ID{}, schemas.CauseNone, []schemas.Key{token("a"), token("b")}
		all[i] = &a
	}
	request := schemas.Key{Kind: schemas.KindRequest, Namespace: "aws", Value: "shared"}
	all[1].Class = schemas.ClassToolCall
	all[2].Class = schemas.ClassDecision
	all[3].Keys, all[3].CauseGrade, all[3].CauseID = []schemas.Key{request}, schemas.CauseExact, all[1].ID
	all[4].Keys = []schemas.Key{request} // without a cause
	all[5].Keys = []schemas.Key{token("pod")}
	all[6].Keys = all[5].Keys // not the first use
	all[7].SourceIP = "sts.amazonaws.com"
	all[0].SourceIP = all[7].SourceIP
	write(t, s, &sinks.Batch{Actions: all})
	load := func(since int64) (got []int) {
		if err := s.LoadShared(t.Context(), since, func(a *schemas.Action) error {
			got = append(got, slices.IndexFunc(all, func(b *schemas.Action) bool { return a.ID == b.ID }))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		return got
	}
	if got := load(0); !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("rows %v are shared, want 1, 2 and 3", got)
	}
	if got := load(all[2].TimeNanos - 1000); !slices.Equal(got, []int{2, 3}) {
		t.Errorf("rows %v are shared of those since the third, want 2 and 3", got)
	}
	uses := map[schemas.Key]schemas.Use{}
	if err := s.LoadFirstUses(t.Context(), 0, func(u schemas.Use) error { uses[u.Token] = u; return nil }); err != nil {
		t.Fatal(err)
	}
	for _, want := range []schemas.Use{
		{Token: token("a"), TimeNanos: all[1].TimeNanos, SourceIP: all[1].SourceIP, Event: all[1].ID},
		{Token: token("b"), TimeNanos: all[1].TimeNanos, SourceIP: all[1].SourceIP, Event: all[1].ID},
		{Token: token("pod"), TimeNanos: all[5].TimeNanos, SourceIP: all[5].SourceIP, Event: all[5].ID},
	} {
		if got := uses[want.Token]; got != want {
			t.Errorf("first use %+v, want %+v", got, want)
		}
	}
	if len(uses) != 3 {
		t.Errorf("first uses of %d tokens, want 3", len(uses))
	}
}

// TestLoadBounded: of partitions no more rows are loaded than asked for, and
// the keys of the others are named.
func TestLoadBounded(t *testing.T) { overBoth(t, checkLoadBounded) }

func checkLoadBounded(t *testing.T) {
	s := migrated(t)
	all := sinktest.Actions(300)
	for i := range all {
		a := *all[i]
		a.Evidence.Topic, a.Evidence.Partition, a.EndedNanos = "bounded", int32(i%3), 0
		a.Keys = []schemas.Key{{Kind: schemas.KindToken, Namespace: "jti", Value: fmt.Sprint("bounded-", i)}}
		all[i] = &a
	}
	write(t, s, &sinks.Batch{Actions: all})
	parts := []Place{{"bounded", 0}, {"bounded", 2}}
	first := all[0].TimeNanos
	ids, cut, err := s.EventsSince(t.Context(), parts, first, 50)
	if err != nil || cut <= first || len(ids) != 50 {
		t.Fatalf("cut %d after %d, %d events, error %v", cut, first, len(ids), err)
	}
	var near []*schemas.Action
	keys := map[schemas.Key]bool{}
	if err := s.LoadActions(t.Context(), cut, parts, func(a *schemas.Action) error { near = append(near, a); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.LoadRowKeys(t.Context(), parts, first, cut, func(k schemas.Key) error { keys[k] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	if len(near) == 0 || len(near) > 50 {
		t.Errorf("%d rows, want some and at most 50", len(near))
	}
	loaded := map[schemas.Key]bool{}
	for _, a := range near {
		if a.Evidence.Partition == 1 {
			t.Errorf("a row of partition 1 was not asked for")
		}
		if !slices.Contains(ids, a.ID) {
			t.Errorf("event %s is not named, and its row comes back", a.ID)
		}
		loaded[a.Keys[0]] = true
	}
	for _, a := range all {
		if mine := a.Evidence.Partition != 1; mine != (loaded[a.Keys[0]] || keys[a.Keys[0]]) {
			t.Errorf("key %s of partition %d: loaded %v, named %v", a.Keys[0], a.Evidence.Partition, loaded[a.Keys[0]], keys[a.Keys[0]])
		}
	}
	if ids, whole, err := s.EventsSince(t.Context(), parts, first, 1000); err != nil || whole != first || len(ids) != 200 {
		t.Errorf("where all fit the cut is %d with %d events, %v; want %d with 200", whole, len(ids), err, first)
	}
}

// TestLoadOvertaken: the rows of earlier owners that were written lately.
func TestLoadOvertaken(t *testing.T) { overBoth(t, checkLoadOvertaken) }

func checkLoadOvertaken(t *testing.T) {
	s := migrated(t)
	all := sinktest.Actions(60)
	for i := range all {
		a := *all[i]
		a.Evidence.Topic, a.Evidence.Partition, a.EndedNanos = "overtaken", int32(i%2), 0
		a.Version = schemas.MakeVersion(int64(1000+1000*(i%3)), 2)
		all[i] = &a
	}
	write(t, s, &sinks.Batch{Actions: all})
	for _, c := range []struct {
		since  int64
		within time.Duration
		want   func(i int, a *schemas.Action) bool
	}{
		{0, time.Hour, func(i int, a *schemas.Action) bool { return i%2 == 1 && i%3 < 2 }},
		{all[30].TimeNanos, time.Hour, func(i int, a *schemas.Action) bool {
			return i%2 == 1 && i%3 < 2 && a.TimeNanos >= all[30].TimeNanos
		}},
		{0, 0, func(int, *schemas.Action) bool { return false }},
	} {
		got := map[schemas.ID]bool{}
		if err := s.LoadOvertaken(t.Context(), c.since, []Place{{"overtaken", 1}}, 3000, c.within, func(a *schemas.Action) error {
			got[a.ID] = true
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for i, a := range all {
			if want := c.want(i, a); got[a.ID] != want {
				t.Errorf("since %d within %v: row %d of partition %d, version %d: loaded %v, want %v", c.since, c.within, i, a.Evidence.Partition, a.Version, got[a.ID], want)
			}
		}
	}
}

// TestClaim: a new owner takes over what the one before reported, and no more
// than that; whoever comes after cannot be overtaken from before.
func TestClaim(t *testing.T) { overBoth(t, checkClaim) }

func checkClaim(t *testing.T) {
	s := migrated(t)
	report := func(partition int32, offset, owner int64) schemas.Progress {
		return schemas.Progress{Topic: "claim", Partition: partition, Offset: offset, WatermarkNanos: 1e18 + 1, OwnerMillis: owner}
	}
	write(t, s, &sinks.Batch{Progress: []schemas.Progress{report(0, 10, 1000), report(1, 20, 3000), report(2, 30, 1000)}})
	if err := s.Claim(t.Context(), []Place{{"claim", 0}, {"claim", 1}, {"claim", 7}}, 2000); err != nil {
		t.Fatal(err)
	}
	write(t, s, &sinks.Batch{Progress: []schemas.Progress{report(0, 15, 1000)}}) // late
	got, err := s.LoadProgress(t.Context())
	got = slices.DeleteFunc(got, func(p schemas.Progress) bool { return p.Topic != "claim" })
	if want := []schemas.Progress{report(0, 10, 2000), report(1, 20, 3000), report(2, 30, 1000)}; err != nil || !slices.Equal(got, want) {
		t.Errorf("progress is %v, %v; want %v", got, err, want)
	}
	if n := rows(t, s, "SELECT toString(uniqExact(updated_at)) FROM progress WHERE topic = 'claim' AND partition = 0 AND offset = 10"); !slices.Equal(n, []string{"1"}) {
		t.Errorf("the claim counts as a report: %s times", n)
	}
}

// TestLoadOlderKeys: each key is in the bindings of the window or is named.
func TestLoadOlderKeys(t *testing.T) { overBoth(t, checkLoadOlderKeys) }

func checkLoadOlderKeys(t *testing.T) {
	s := migrated(t)
	key := func(kind schemas.Kind, v string) schemas.Key {
		return schemas.Key{Kind: kind, Namespace: "older", Value: v}
	}
	bindings := []schemas.Binding{
		{Child: key(schemas.KindToken, "new"), Parent: key(schemas.KindSession, "a"), Relation: schemas.RelationIssued, Strength: schemas.StrengthExact, ProofNanos: 2e18},
		{Child: key(schemas.KindToken, "old"), Parent: key(schemas.KindSession, "b"), Relation: schemas.RelationIssued, Strength: schemas.StrengthExact, ProofNanos: 1e18},
		{Child: key(schemas.KindSession, "b"), Parent: key(schemas.KindHuman, "eve"), Relation: schemas.RelationAuthenticated, Strength: schemas.StrengthExact, ProofNanos: 1e18},
		{Child: key(schemas.KindToken, "lasts"), Parent: key(schemas.KindSession, "b"), Relation: schemas.RelationIssued, Strength: schemas.StrengthExact, ProofNanos: 1e18, UntilNanos: 3e18},
	}
	write(t, s, &sinks.Batch{Bindings: bindings})
	var got []string
	err := s.LoadOlderKeys(t.Context(), 2e18, func(k schemas.Key) error {
		if k.Namespace == "older" {
			got = append(got, k.String())
		}
		return nil
	})
	slices.Sort(got)
	if want := []string{"human:older:eve", "session:older:b", "token:older:old"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

func TestChainActionAndFindChains(t *testing.T) { overBoth(t, checkChainActionAndFindChains) }

func checkChainActionAndFindChains(t *testing.T) {
	s := migrated(t)
	all := sinktest.Actions(1000) // two chains of 500
	newer := *all[0]
	newer.Version++
	newer.ChainID = all[999].ChainID // improved, and moved to the other chain
	write(t, s, &sinks.Batch{Actions: append(all, sinktest.Full())})
	write(t, s, &sinks.Batch{Actions: []*schemas.Action{&newer}})

	chain, err := s.Chain(t.Context(), all[1].ChainID, 0)
	if err != nil || len(chain) != 499 {
		t.Fatalf("chain of %d, error %v; want 499", len(chain), err)
	}
	for i, a := range chain {
		sinktest.Same(t, a, all[i+1])
	}
	one, err := s.Action(t.Context(), newer.ID)
	if err != nil {
		t.Fatal(err)
	}
	sinktest.Same(t, one, &newer)
	if none, err := s.Action(t.Context(), schemas.MakeID("nobody")); none != nil || err != nil {
		t.Errorf("got %v, %v; want nothing", none, err)
	}

	last := all[999]
	for _, text := range []string{
		last.ID.String(), strings.ToUpper(last.ChainID.String()), last.Keys[0].String(), last.Keys[0].Value,
		last.SourceIP, "person1@example.com", last.Root.String(), last.Root.ID(), last.Hops[1].Key.String(), "1020000001",
	} {
		found, err := s.FindChains(t.Context(), text, 0)
		if err != nil || len(found) != 1 || found[0].Chain != last.ChainID || found[0].Root != last.Root || found[0].LastNanos != last.TimeNanos || found[0].Event != last.ID {
			t.Errorf("%s: got %+v, %v", text, found, err)
		}
	}
	found, err := s.FindChains(t.Context(), last.Authority[:0]+"123456789012", 0)
	if err != nil || len(found) != 0 {
		t.Errorf("a tenant is not searched: %+v, %v", found, err)
	}
	found, err = s.FindChains(t.Context(), all[3].Resource, 1)
	if err != nil || len(found) != 1 || found[0].Actions == 0 {
		t.Errorf("by resource: %+v, %v", found, err)
	}
	for _, awkward := range []string{"", "'", `\`, "a'; DROP TABLE actions; --", "token:x", "token:a:'"} {
		if _, err := s.FindChains(t.Context(), awkward, 0); err != nil {
			t.Errorf("%q: %v", awkward, err)
		}
	}
}

func TestViews(t *testing.T) { overBoth(t, checkViews) }

func checkViews(t *testing.T) {
	s := migrated(t)
	all := append(sinktest.Actions(1000), sinktest.Full(), sinktest.Bare())
	newer := *all[0]
	newer.Version++
	newer.Grade, newer.ChainID = schemas.GradeInferred, all[999].ChainID
	call := *all[1]
	call.ID, call.Class, call.Event.Action = schemas.MakeID("call"), schemas.ClassToolCall, "search_customers"
	asked := call
	asked.ID, asked.PolicyDecision = schemas.MakeID("asked"), schemas.VerdictAllow
	late := call
	late.ID, late.TimeNanos = schemas.MakeID("late"), all[999].TimeNanos
	write(t, s, &sinks.Batch{Actions: append(all, &call, &asked, &late)})
	write(t, s, &sinks.Batch{Actions: []*schemas.Action{&newer}})

	if got := rows(t, s, "SELECT count() FROM agent_tool_calls_without_decision"); got[0] != "0" {
		t.Errorf("%s calls without a decision before anything is final, want 0", got[0])
	}
	write(t, s, &sinks.Batch{Progress: []schemas.Progress{
		{Topic: "a", Partition: 0, Offset: 1, WatermarkNanos: all[500].TimeNanos},
		{Topic: "a", Partition: 1, Offset: 1, WatermarkNanos: all[900].TimeNanos},
	}})
	for sql, want := range map[string][]string{
		"SELECT event_id FROM agent_tool_calls_without_decision": {call.ID.String()},
		"SELECT partitions FROM finality":                        {"2"},
		"SELECT event_id FROM divergent":                         {sinktest.Full().ID.String()},
		"SELECT event_id FROM outside_grant":                     {sinktest.Full().ID.String()},
		"SELECT rule, severity, actions, events FROM findings WHERE rule IN ('divergent', 'no_policy_decision') ORDER BY rule": {
			"divergent high 1 [" + sinktest.Full().ID.String() + "]", "no_policy_decision low 1 [" + call.ID.String() + "]"},
		"SELECT count(), countIf(severity = '' OR detail = '') FROM findings WHERE has((SELECT flags FROM actions WHERE source = 'test.full'), rule)": {"10 0"},
		"SELECT root_id, actions, tools, depth, worst_grade, mfa, auth_method, length(resources) FROM chains WHERE chain_id = '" + all[1].ChainID.String() + "'": {
			"email:person0@example.com 502 [search_customers] 3 proven yes okta.push 499"},
		"SELECT root_id, actions, tools, worst_grade FROM chains WHERE chain_id = '" + all[999].ChainID.String() + "'": {
			"email:person1@example.com 501 [] inferred"},
		// The chains are the grouping of the actions.
		"SELECT (SELECT sum(actions) FROM chains) = (SELECT count() FROM actions FINAL WHERE chain_id != toUUID('00000000-0000-0000-0000-000000000000'))": {"1"},
		"SELECT count() FROM (SELECT chain_id, actions FROM chains EXCEPT SELECT chain_id, count() FROM actions FINAL GROUP BY chain_id)":                 {"0"},
	} {
		if got := rows(t, s, sql); !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", sql, got, want)
		}
	}
}

func TestQueryShowsAnyType(t *testing.T) { overBoth(t, checkQueryShowsAnyType) }

func checkQueryShowsAnyType(t *testing.T) {
	s := migrated(t)
	columns, got, err := s.Query(t.Context(), `SELECT 1 AS n, 'a' AS s, CAST(NULL AS Nullable(String)) AS nothing, toNullable(2) AS two, [1, 2] AS list, map('b', 'x', 'a', 'y') AS m,
		toDateTime64('2026-01-02 03:04:05.5', 6, 'UTC') AS t, (1, 'x')::Tuple(a UInt8, b String) AS tup, 1.5 AS f, true AS yes,
		toUUID('01234567-89ab-8cde-8f01-23456789abcd') AS id, toDate('2026-01-02') AS d`, 0)
	if err != nil {
		t.Fatal(err)
	}
	if want := "n s nothing two list m t tup f yes id d"; strings.Join(columns, " ") != want {
		t.Errorf("columns %v, want %s", columns, want)
	}
	want := []string{"1", "a", "NULL", "2", "[1, 2]", "{a: y, b: x}", "2026-01-02 03:04:05.500000", "{a: 1, b: x}", "1.5", "true", "01234567-89ab-8cde-8f01-23456789abcd", "2026-01-02"}
	if len(got) != 1 || !slices.Equal(got[0], want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if _, got, err = s.Query(t.Context(), "SELECT number FROM numbers(100000)", 10); err != nil || len(got) != 10 {
		t.Errorf("%d rows, error %v; want 10", len(got), err)
	}
	if _, _, err = s.Query(t.Context(), "SELECT nonsense", 0); err == nil || !strings.Contains(err.Error(), addrOf(t)) {
		t.Errorf("error %v, want one with the address", err)
	}
}
