package correlate

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"catena/schemas"
)

// noon is time zero of every scenario: noon in UTC, so that 12h is midnight.
var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC).UnixNano()

// table is what the rows and bindings written so far look like in the
// database: of each event the row of the highest version.
type table struct {
	rows     map[schemas.ID]*schemas.Action
	bindings []schemas.Binding
	// What was written since the last commit, call by call, and what stood before
	// it: a crash may lose the end of it.
	pending      []Output
	durable      map[schemas.ID]*schemas.Action
	durableBinds int
}

func newTable() *table { return &table{rows: map[schemas.ID]*schemas.Action{}} }

func (t *table) write(out *Output) {
	t.pending = append(t.pending, Output{Actions: slices.Clone(out.Actions), Bindings: slices.Clone(out.Bindings)})
	t.apply(out.Actions, out.Bindings)
	out.Reset()
}

func (t *table) apply(rows []*schemas.Action, bindings []schemas.Binding) {
	for _, a := range rows {
		if old := t.rows[a.ID]; old == nil || a.Version > old.Version {
			t.rows[a.ID] = a
		}
	}
	t.bindings = append(t.bindings, bindings...)
}

func (t *table) commit() {
	t.durable, t.durableBinds, t.pending = maps.Clone(t.rows), len(t.bindings), nil
}

// crash loses the end of what was written since the last commit. Of a batch,
// the bindings are written first and then the rows, shard by shard.
func (t *table) crash(rng *rand.Rand) {
	t.rows, t.bindings = maps.Clone(t.durable), slices.Clone(t.bindings[:t.durableBinds])
	if t.rows == nil {
		t.rows = map[schemas.ID]*schemas.Action{}
	}
	for i, n := 0, rng.IntN(len(t.pending)+1); i < n; i++ {
		rows := t.pending[i].Actions
		if i == n-1 {
			rows = slices.DeleteFunc(slices.Clone(rows), func(*schemas.Action) bool { return rng.IntN(2) == 0 })
		}
		t.apply(rows, t.pending[i].Bindings)
	}
	t.commit()
}

// loadBindings gives the bindings as the database does: of each the highest
// version.
func (t *table) loadBindings() (out []schemas.Binding) {
	type identity struct {
		child, parent schemas.Key
		relation      schemas.Relation
		strength      schemas.Strength
		from          int64
	}
	at := map[identity]int{}
	for _, b := range t.bindings {
		id := identity{b.Child, b.Parent, b.Relation, b.Strength, b.FromNanos}
		i, found := at[id]
		switch {
		case !found:
			at[id] = len(out)
			out = append(out, b)
		case b.Version > out[i].Version:
			out[i] = b
		}
	}
	return out
}

// load gives the rows as the database does: without the bindings that their
// events made, which stand in their own table.
func (t *table) load() (rows []*schemas.Action) {
	for _, a := range t.rows {
		c := *a
		c.Makes, c.Ends = nil, nil
		rows = append(rows, &c)
	}
	slices.SortFunc(rows, func(a, b *schemas.Action) int { return compareIDs(a.ID, b.ID) })
	return rows
}

// step of a scenario: an event, or something that happens to the engine.
type scriptStep struct {
	event *schemas.Event
	verb  string
	args  map[string]string
}

// script is a scenario as read.
type script struct {
	cfg     Config
	ordered bool // the order of the steps is part of the story
	steps   []scriptStep
	names   map[schemas.ID]string // event ids
	order   []schemas.ID          // of the events, as written
}

func (s *script) events() (out []schemas.Event) {
	for _, st := range s.steps {
		if st.event != nil {
			out = append(out, *st.event)
		}
	}
	return out
}

// parseScript reads the events of a scenario. A line that begins in the first
// column is an event: name, time, class, action, then field=value words. The
// indented lines below it are its keys, bindings and ends. A line that begins
// with ! is something that happens to the engine.
func parseScript(t testing.TB, text string) *script {
	t.Helper()
	s := &script{names: map[schemas.ID]string{}}
	for i, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		var err error
		switch {
		case len(words) == 0 || strings.HasPrefix(line, "#"):
		case words[0] == "config":
			err = s.config(words[1:])
		case strings.HasPrefix(line, "!"):
			s.ordered = true
			s.steps = append(s.steps, scriptStep{verb: words[0][1:], args: fields(words[1:])})
		case line[0] != ' ' && line[0] != '\t':
			err = s.event(words)
		default:
			err = s.detail(s.steps[len(s.steps)-1].event, words)
		}
		if err != nil {
			t.Fatalf("line %d: %s: %v", i+1, line, err)
		}
	}
	return s
}

func fields(words []string) map[string]string {
	m := map[string]string{}
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		m[k] = strings.ReplaceAll(v, "_", " ")
	}
	return m
}

func (s *script) config(words []string) error {
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		d, derr := time.ParseDuration(v)
		n, nerr := strconv.Atoi(v)
		switch k {
		case "ordered":
			s.ordered = true
			derr = nil
		case "skew":
			s.cfg.Skew = d
		case "bound":
			s.cfg.OutOfOrderness = d
		case "lateness":
			s.cfg.AllowedLateness = d
		case "window":
			s.cfg.Window = d
		case "memory":
			s.cfg.MemoryBytes, derr = n, nerr
		case "depth":
			s.cfg.MaxDepth, derr = n, nerr
		default:
			derr = fmt.Errorf("unknown setting %q", k)
		}
		if derr != nil {
			return derr
		}
	}
	return nil
}

func offset(s string) (int64, error) {
	d, err := time.ParseDuration(s)
	return noon + int64(d), err
}

func (s *script) event(words []string) error {
	if len(words) < 4 {
		return fmt.Errorf("want name, time, class, action")
	}
	at, err := offset(words[1])
	if err != nil {
		return err
	}
	class, ok := schemas.ParseClass(words[2])
	if !ok {
		return fmt.Errorf("class %q", words[2])
	}
	ev := &schemas.Event{ID: schemas.MakeID("event", words[0]), Source: "test", TimeNanos: at, Class: class,
		Action: strings.ReplaceAll(words[3], "_", " "), Outcome: schemas.OutcomeSuccess,
		Evidence: schemas.Evidence{Topic: "t", Offset: int64(len(s.steps))}}
	if s.names[ev.ID] == "" {
		s.order = append(s.order, ev.ID)
	}
	s.names[ev.ID] = words[0]
	s.steps = append(s.steps, scriptStep{event: ev})
	for _, w := range words[4:] {
		k, v, _ := strings.Cut(w, "=")
		if err := setField(ev, k, v); err != nil {
			return err
		}
	}
	return nil
}

func setField(ev *schemas.Event, k, v string) (err error) {
	ok := true
	var n int
	switch k {
	case "actor":
		ev.Actor, err = schemas.ParseKey(v)
	case "name":
		ev.ActorName = strings.ReplaceAll(v, "_", " ")
	case "resource":
		ev.Resource = v
	case "outcome":
		ev.Outcome, ok = schemas.ParseOutcome(v)
	case "ended":
		ev.EndedNanos, err = offset(v)
	case "res":
		var d time.Duration
		d, err = time.ParseDuration(v)
		ev.ResolutionNanos = int64(d)
	case "ip":
		ev.SourceIP = v
	case "auth":
		ev.Authority = v
	case "mfa":
		ev.MFA, ok = schemas.ParseMFA(v)
	case "method":
		ev.AuthMethod = v
	case "scopes":
		ev.Scopes = strings.ReplaceAll(v, "_", " ")
	case "self":
		ev.SelfReported = true
	case "redacted":
		ev.Redacted = true
	case "bindonly":
		ev.BindOnly = v
	case "decision":
		verdict, id, _ := strings.Cut(v, "/")
		ev.Decision.Verdict, ok = schemas.ParseVerdict(verdict)
		ev.Decision.ID = id
	case "flag":
		var f schemas.Flags
		f, ok = schemas.ParseFlag(v)
		ev.Flags |= f
	case "span": // the event's own span
		ev.TraceID, ev.SpanID, _ = strings.Cut(v, "/")
		ev.Keys = append(ev.Keys, schemas.Key{Kind: schemas.KindCall, Namespace: "span", Value: v})
	case "part":
		n, err = strconv.Atoi(v)
		ev.Evidence.Partition = int32(n)
	case "offset":
		n, err = strconv.Atoi(v)
		ev.Evidence.Offset = int64(n)
	case "topic":
		ev.Evidence.Topic = v
	case "ingest":
		ev.Evidence.TimestampNanos, err = offset(v)
	default:
		ok = false
	}
	if err == nil && !ok {
		err = fmt.Errorf("%s=%s is nothing", k, v)
	}
	return err
}

// detail reads one indented line:
//
//	key kind:namespace:value
//	make child <- parent relation strength field=value…
//	end kind:namespace:value at=time revoked
func (s *script) detail(ev *schemas.Event, words []string) error {
	k, err := schemas.ParseKey(words[1])
	if err != nil {
		return err
	}
	switch words[0] {
	case "key":
		ev.Keys = append(ev.Keys, k)
		return nil
	case "end":
		end := schemas.End{Key: k, AtNanos: ev.TimeNanos}
		for name, v := range fields(words[2:]) {
			if end.Revoked = end.Revoked || name == "revoked"; name == "at" {
				if end.AtNanos, err = offset(v); err != nil {
					return err
				}
			}
		}
		ev.Ends = append(ev.Ends, end)
		return nil
	case "make":
		return s.binding(ev, k, words[2:])
	}
	return fmt.Errorf("want key, make or end")
}

func (s *script) binding(ev *schemas.Event, child schemas.Key, words []string) (err error) {
	if len(words) < 4 || words[0] != "<-" {
		return fmt.Errorf("want child <- parent relation strength")
	}
	b := schemas.Binding{Child: child, FromNanos: ev.TimeNanos}
	if b.Parent, err = schemas.ParseKey(words[1]); err != nil {
		return err
	}
	var ok1, ok2 bool
	b.Relation, ok1 = schemas.ParseRelation(words[2])
	b.Strength, ok2 = schemas.ParseStrength(words[3])
	if !ok1 || !ok2 {
		return fmt.Errorf("%s %s is no relation and strength", words[2], words[3])
	}
	for name, v := range fields(words[4:]) {
		switch name {
		case "always":
			b.FromNanos = 0
		case "from":
			b.FromNanos, err = offset(v)
		case "until":
			b.UntilNanos, err = offset(v)
		case "expires":
			b.ExpiresNanos, err = offset(v)
		case "name":
			b.ParentName = v
		case "child":
			b.ChildName = v
		case "mfa":
			b.MFA, _ = schemas.ParseMFA(v)
		case "method":
			b.AuthMethod = v
		default:
			err = fmt.Errorf("unknown field %q", name)
		}
		if err != nil {
			return err
		}
	}
	ev.Makes = append(ev.Makes, b)
	return nil
}

// printer writes rows as text with the scenario's names for ids.
type printer struct {
	events map[schemas.ID]string
	chains map[schemas.ID]string
}

func newPrinter(names map[schemas.ID]string, events []schemas.Event) *printer {
	p := &printer{events: names, chains: map[schemas.ID]string{}}
	add := func(k schemas.Key) {
		if !k.LongLived() {
			p.chains[schemas.MakeID("chain", k.String())] = k.String()
			return
		}
		today := noon / int64(24*time.Hour)
		for day := today - 3; day < today+9; day++ {
			p.chains[schemas.MakeID("chain", k.String(), strconv.FormatInt(day, 10))] = fmt.Sprintf("%s@%+d", k, day-today)
		}
	}
	for i := range events {
		add(events[i].Actor)
		for _, k := range events[i].Keys {
			add(k)
		}
		for _, b := range events[i].Makes {
			add(b.Child)
			add(b.Parent)
		}
	}
	return p
}

func (p *printer) event(id schemas.ID) string {
	if id.IsZero() {
		return "-"
	}
	return cmp.Or(p.events[id], id.String())
}

var strengthMarks = map[schemas.Strength]string{schemas.StrengthExact: "=", schemas.StrengthStated: "?", schemas.StrengthWeak: "~"}

// row is an action in a few lines. Of a hop, = is exact, ? stated and ~ weak.
func (p *printer) row(a *schemas.Action) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %v %v", p.event(a.ID), a.Grade, a.Reason)
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, " %s=%s", name, value)
		}
	}
	field("root", a.Root.String())
	if a.RootName != a.Root.Value {
		field("name", strings.ReplaceAll(a.RootName, " ", "_"))
	}
	field("frontier", a.Frontier.String())
	if !a.ChainID.IsZero() {
		field("chain", cmp.Or(p.chains[a.ChainID], a.ChainID.String()))
	}
	if a.CauseGrade != schemas.CauseNone {
		field("cause", a.CauseGrade.String()+":"+p.event(a.CauseID))
	}
	field("grant", a.GrantID)
	if a.PolicyDecision != schemas.VerdictNone {
		field("policy", a.PolicyDecision.String()+":"+a.PolicyID)
	}
	if a.MFA != schemas.MFAUnknown {
		field("mfa", a.MFA.String())
	}
	field("method", a.AuthMethod)
	field("flags", a.Flags.String())
	if a.Evidence.Topic != "t" || a.Evidence.Partition != 0 {
		fmt.Fprintf(&b, " at=%s/%d/%d", a.Evidence.Topic, a.Evidence.Partition, a.Evidence.Offset)
	}
	b.WriteString("\n")
	for i, h := range a.Hops {
		if i == 0 {
			fmt.Fprintf(&b, "\t%s%s", h.Key, map[bool]string{true: "", false: " (" + h.Strength.String() + ")"}[h.Strength == schemas.StrengthExact])
			continue
		}
		lent := ""
		if h.Lent {
			lent = " lent"
		}
		m := strengthMarks[h.Strength]
		fmt.Fprintf(&b, "\n\t  %s%s[%s]%s> %s%s", m, h.Relation, p.event(h.Proof), m, h.Key, lent)
	}
	if len(a.Hops) > 0 {
		b.WriteString("\n")
	}
	for _, c := range a.Candidates {
		fmt.Fprintf(&b, "\tor %s of %s [%s]\n", c.Parent, cmp.Or(c.Root.String(), "nobody known"), p.event(c.Proof))
	}
	return b.String()
}

func (p *printer) rows(t *table, order []schemas.ID) string {
	var b strings.Builder
	for _, id := range order {
		if a := t.rows[id]; a != nil {
			b.WriteString(p.row(a))
		}
	}
	return b.String()
}

// checkEngine proves what must hold after every call.
func checkEngine(t testing.TB, e *Engine) {
	t.Helper()
	if len(e.dirty) != 0 {
		t.Fatalf("%d rows are left dirty", len(e.dirty))
	}
	if got := e.bytes(); got > e.room {
		t.Fatalf("state of %d bytes is over the bound of %d", got, e.room)
	}
	s := e.state
	refs := map[nodeID]uint32{}
	watches := map[watchID]bool{}
	live, edges, exts, mores, uses, moreBytes, blocks := 0, 0, 0, 0, 0, 0, 0
	countEdges := func(i edgeID) {
		for ; i != 0; i = s.edge(i).next {
			edges++
			refs[s.edge(i).parent]++
			if s.edge(i).ext != 0 {
				exts++
			}
		}
	}
	nodes := map[nodeID]bool{}
	for g := range s.index.segments {
		for _, slot := range s.index.segments[g].slots {
			if slot == 0 {
				continue
			}
			n := nodeID(slot)
			at := s.at(n)
			if h := s.hash(s.key(n)); nodes[n] || h>>56 != uint64(g) || s.peek(s.key(n)) != n {
				t.Fatalf("%v stands in the wrong place of the index", s.key(n))
			}
			nodes[n] = true
			if at.bits&nodeLive != 0 {
				live++
			} else if s.knows(n) {
				t.Fatalf("%v is a name alone, and something is known of it", s.key(n))
			}
			if at.bits&nodeAsked != 0 {
				refs[n]++
			}
			blocks += (int(at.size) + blockText - 1) / blockText
			countEdges(at.up)
			if at.more != 0 {
				m := s.extra(n)
				mores++
				moreBytes += m.bytes()
				countEdges(m.grants)
				for _, d := range m.down {
					refs[d]++
				}
				for _, told := range m.told {
					refs[told.cause.call]++
				}
			}
			if at.use != 0 {
				uses++
			}
			var prev watchID
			for i := at.watch; i != 0; i = s.watches.at(uint32(i)).next {
				w := s.watches.at(uint32(i))
				if w.node != n || w.prev != prev {
					t.Fatalf("the watches of %v are torn", s.key(n))
				}
				watches[i], prev = true, i
			}
		}
	}
	rows, held, owned := 0, 0, 0
	owns := func(head watchID, owner uint32) {
		for i := head; i != 0; i = s.watches.at(uint32(i)).sibling {
			owned++
			if !watches[i] || s.watches.at(uint32(i)).owner != owner {
				t.Fatal("a watch is known to its owner alone")
			}
		}
	}
	trails := map[uint32]bool{}
	for id, i := range e.rows.byID {
		r := e.rows.at(i)
		rows++
		held += int(r.weight)
		if r.act == nil || r.act.ID != id || r.bits&(rowDirty|rowTouched) != 0 {
			t.Fatalf("row %v has bits %b", id, r.bits)
		}
		if r.judged != 0 {
			refs[r.judged]++
		}
		for _, n := range r.own {
			refs[n]++
		}
		owns(r.watches, i)
		for l := r.trails; l != 0; l = e.links.at(l).sibling {
			trails[e.links.at(l).trail] = true
		}
	}
	for i := range trails {
		owns(e.trails.at(i).watches, i|trailOwner)
	}
	if len(nodes) != s.nodes.len() || live != s.live || edges != s.edges.len() || exts != s.exts.len() || mores != s.mores.len() || uses != s.uses.len() {
		t.Fatalf("leaked: %d keys of %d, %d live of %d, %d edges of %d, %d exts of %d, %d mores of %d, %d uses of %d", len(nodes), s.nodes.len(), live, s.live,
			edges, s.edges.len(), exts, s.exts.len(), mores, s.mores.len(), uses, s.uses.len())
	}
	if moreBytes != s.moreBytes || held != e.rows.held || len(watches) != s.watches.len() || owned != len(watches) || len(trails) != e.trails.len() {
		t.Fatalf("lists weigh %d bytes of %d, rows %d of %d; %d watches of %d, %d owned; %d trails of %d", moreBytes, s.moreBytes, held, e.rows.held,
			len(watches), s.watches.len(), owned, len(trails), e.trails.len())
	}
	for i := range s.names.slots.used {
		blocks += (int(s.names.slots.at(i+1).text.size) + blockText - 1) / blockText
	}
	if blocks != s.texts.blocks.len() {
		t.Fatalf("texts take %d blocks and %d are out", blocks, s.texts.blocks.len())
	}
	for n := range nodes {
		if got := s.at(n).refs; got != refs[n] {
			t.Fatalf("%v is referred to %d times and counts %d", s.key(n), refs[n], got)
		}
	}
	for n, seen := s.oldest, 0; n != 0; n = s.at(n).newer {
		if seen++; seen > live || s.at(n).bits&nodeLive == 0 || s.at(n).newer == 0 && s.newest != n {
			t.Fatal("the order of use is torn")
		}
	}
}
