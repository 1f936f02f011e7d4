package main

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"catena/schemas"
	"catena/sinks/clickhouse"
)

// What the templates of the page and of explain's HTML draw. All texts that
// come from logs pass through safe or shorten here and are escaped there.

// chainView is a chain: a tree beside a timeline, a row each line.
type chainView struct {
	ID, Root, RootKind, RootID string
	Frontier                   bool // the root is not known: the chain stops at a frontier
	Day, First, Last, Span     string
	Actions, Folded            int
	Cut, All                   bool
	Weakest                    string
	Grades                     []countView
	Flags                      []flagView
	MFA, Method                string
	Findings                   []findingView
	Sources, Resources         []string
	More                       int // resources that are not listed
	Rows                       []*rowView
	Ticks, Gaps                []tickView
	Lack                       string
	Detail                     any // *actionView, *keyView or nil
	Link                       linker
}

// rowView is a line of the tree with its place on the timeline.
type rowView struct {
	ID                      string // of the element: stable from one drawing to the next
	Level, Pos, Size        int
	Children                bool
	Guides                  []string
	Type                    string // key, action or more
	Selected                bool
	Kind, Label, Also, Full string // of a key
	Relation, Strength      string
	Root, Frontier          bool
	Class, Action, Object   string // of an action
	Outcome, Grade, Reason  string
	Flags                   []flagView
	Policy, Grant, As, With string
	Cause                   string
	Time, Place, PlaceTitle string
	Text                    string // of more
	Href                    string
	Mark                    *markView
	Ticks                   []tickView
	action                  *schemas.Action
	hop                     *keyNode
}

// markView is where a row stands on the timeline, in per cent of its width.
type markView struct {
	X, W  string
	Line  bool // a line for the life of a key, or of many; else a sign for the grade
	Bar   bool // an action that took a while
	Flag  bool
	Grade string
	Title string
}

type tickView struct {
	X, Text string
	End     bool // the text stands to its left
}

type flagView struct{ Name, Text string }

type countView struct {
	Name  string
	N     int
	Share string // per cent
	X     string // where it begins in a bar of all
}

type findingView struct {
	Rule, Severity, Detail, Root, RootKind, Subject, Last, Href string
	Actions                                                     int
}

// linker says where the details of a row are to be found: on the server, or
// further down in the one file.
type linker struct {
	chain string
	all   bool
	file  bool
}

// InFile reports whether all stands in one file, without a server to ask.
func (l linker) InFile() bool { return l.file }

func (l linker) row(id string) string {
	if l.file {
		return "#d-" + id
	}
	s := "/chain/" + l.chain + "?row=" + id
	if l.all {
		s += "&all=1"
	}
	return s
}

// event links an event wherever it lies; empty where nothing can be shown.
func (l linker) event(id schemas.ID) string {
	if l.file || id.IsZero() {
		return ""
	}
	return "/event/" + id.String()
}

// flagTexts says what each flag means.
var flagTexts = map[schemas.Flags]string{
	schemas.FlagDivergent:         "The action's keys lead to different people or different workloads: a credential in the wrong hands.",
	schemas.FlagNewSourceIP:       "The workload's credential was used from an address that is not the workload's.",
	schemas.FlagOutsideGrant:      "The right was used outside the window of its grant.",
	schemas.FlagDeniedButDone:     "A policy engine denied it, and it succeeded all the same.",
	schemas.FlagUsedAfterExpiry:   "The key was used after the expiry that its mint states.",
	schemas.FlagUsedAfterEnd:      "The key was used after its session had ended.",
	schemas.FlagUsedAfterRevoke:   "The key was used after it had been withdrawn.",
	schemas.FlagImpersonated:      "It ran in the name of somebody else.",
	schemas.FlagCycle:             "The bindings run in a circle, which was cut.",
	schemas.FlagDepthLimit:        "The path is longer than the limit.",
	schemas.FlagFutureTime:        "The event time lies ahead of the time at which the record arrived.",
	schemas.FlagLate:              "The record arrived after the watermark and the allowed lateness.",
	schemas.FlagSpoofableSourceIP: "The address came through a header that a client can set.",
	schemas.FlagRelayed:           "The record stood in a log message, where any program can write one: stated at best.",
	schemas.FlagScopeWidened:      "A token on the path was given a scope that the token it came from did not have.",
}

func flagViews(f schemas.Flags) []flagView {
	var out []flagView
	for bit := schemas.Flags(1); bit != 0 && bit <= f; bit <<= 1 {
		if f&bit != 0 {
			out = append(out, flagView{(f & bit).String(), flagTexts[bit]})
		}
	}
	return out
}

// viewChain lays a chain out. selected is the id of the row whose details are
// shown, if any.
func viewChain(c *chainStory, link linker, selected string) *chainView {
	t := c.tree
	link.chain, link.all = t.chain.String(), t.all
	v := &chainView{ID: t.chain.String(), Root: safe(orElse(t.rootName, t.rootKey.Value)), RootKind: t.rootKey.Kind.String(), RootID: safe(t.rootKey.ID()),
		Day: day(t.first), First: clock(t.first)[:8], Last: clock(t.last)[:8], Span: spokenSpan(t.span()), Actions: len(t.rows), Folded: t.folded,
		Cut: c.cut, All: t.all, Weakest: t.worst.String(), Flags: flagViews(t.flags), MFA: t.mfa.String(), Method: safe(t.method), Link: link,
		Frontier: !t.rootKey.Kind.Root()}
	v.Grades = countGrades(t.rows)
	for _, f := range c.findings {
		v.Findings = append(v.Findings, viewFinding(f))
	}
	v.facts(t)
	axis := newAxis(t)
	v.Ticks, v.Gaps = axis.ticks()
	b := rowBuilder{t: t, proofs: c.proofs, axis: axis, link: link, selected: selected}
	b.rows(t.top.children, nil)
	v.Rows = b.out
	for _, r := range v.Rows {
		r.Ticks = v.Ticks
	}
	for _, a := range t.rows {
		if v.Lack == "" && a.Reason == schemas.ReasonSelfReported {
			v.Lack = safe(missing(a))
		}
	}
	return v
}

// facts are the lists beside the tree.
func (v *chainView) facts(t *tree) {
	sources, resources := map[string]bool{}, map[string]int{}
	for _, a := range t.rows {
		sources[a.Source] = true
		if a.Resource != "" && (a.Class == schemas.ClassDataAccess || a.Class == schemas.ClassAPICall || a.Class == schemas.ClassCommand) {
			resources[a.Resource]++
		}
	}
	for s := range sources {
		v.Sources = append(v.Sources, s)
	}
	slices.Sort(v.Sources)
	for r := range resources {
		v.Resources = append(v.Resources, r)
	}
	slices.SortFunc(v.Resources, func(a, b string) int { return cmp.Or(resources[b]-resources[a], strings.Compare(a, b)) })
	const most = 8
	v.More = max(0, len(v.Resources)-most)
	v.Resources = v.Resources[:min(len(v.Resources), most)]
}

func countGrades(rows []*schemas.Action) []countView {
	n := map[schemas.Grade]int{}
	for _, a := range rows {
		n[a.Grade]++
	}
	var list []clickhouse.GradeCount
	for g := schemas.GradeProven; ; g-- {
		if n[g] > 0 {
			list = append(list, clickhouse.GradeCount{Grade: g, Actions: n[g]})
		}
		if g == schemas.GradeUnattributed {
			return viewGrades(list)
		}
	}
}

// viewGrades lays the shares of the grades out in one bar.
func viewGrades(list []clickhouse.GradeCount) []countView {
	total, at := 0, 0
	for _, g := range list {
		total += g.Actions
	}
	var out []countView
	for _, g := range list {
		out = append(out, countView{g.Grade.String(), g.Actions, percent(float64(g.Actions) / float64(total)), percent(float64(at) / float64(total))})
		at += g.Actions
	}
	return out
}

func viewFinding(f clickhouse.Finding) findingView {
	v := findingView{Rule: f.Rule, Severity: f.Severity, Detail: f.Detail, Root: safe(orElse(f.RootName, f.Root.ID())), RootKind: f.Root.Kind.String(),
		Subject: shorten(f.Subject.ID(), 60), Last: stamp(f.LastNanos), Actions: f.Actions}
	switch {
	case len(f.Events) > 0:
		v.Href = "/event/" + f.Events[0].String()
	case !f.Chain.IsZero():
		v.Href = "/chain/" + f.Chain.String()
	}
	return v
}

// rowBuilder walks the tree and writes its rows.
type rowBuilder struct {
	t        *tree
	proofs   map[schemas.ID]clickhouse.Proof
	axis     *axis
	link     linker
	selected string
	out      []*rowView
}

func (b *rowBuilder) rows(list []*node, guides []string) {
	for i, n := range list {
		last := i == len(list)-1
		r := &rowView{Level: len(guides) + 1, Pos: i + 1, Size: len(list), Children: len(n.children) > 0}
		below := guides
		if n.parent != nil && n.parent != b.t.top {
			own, rest := "tee", "pipe"
			if last {
				own, rest = "end", "gap"
			}
			r.Guides = append(slices.Clone(guides), own)
			r.Level = len(r.Guides) + 1
			below = append(slices.Clone(guides), rest)
		}
		switch {
		case n.key != nil:
			b.key(r, n)
		case n.action != nil:
			b.action(r, n.action)
		default:
			b.more(r, n, list[i-1])
		}
		r.Selected = r.ID == b.selected
		b.out = append(b.out, r)
		b.rows(n.children, below)
	}
}

func (b *rowBuilder) key(r *rowView, n *node) {
	h := n.key.Hop
	r.Type, r.ID, r.hop = "key", "k-"+pathHash(n), n.key
	r.Root = n.parent == nil || n.parent == b.t.top
	r.Kind, r.Label, r.Also, r.Full = h.Key.Kind.String(), shorten(h.Key.ID(), 90), shorten(h.Name, 60), safe(h.Key.ID())
	if h.Name != "" && (r.Root || h.Key.Kind == schemas.KindWorkload) {
		r.Label, r.Also = shorten(h.Name, 90), shorten(h.Key.ID(), 90)
	}
	r.Frontier = n.key.frontier
	if !r.Root {
		r.Relation, r.Strength = h.Relation.String(), h.Strength.String()
	}
	if !h.Proof.IsZero() {
		r.Time = clock(h.AtNanos)
		r.Place, r.PlaceTitle = b.place(h.Proof)
	}
	r.Href = b.link.row(r.ID)
	first, last := life(n)
	r.Mark = b.axis.mark(first, last)
	r.Mark.Line, r.Mark.Title = true, clock(first)+" to "+clock(last)
}

// place says where the record of a proof lies.
func (b *rowBuilder) place(id schemas.ID) (text, title string) {
	p, ok := b.proofs[id]
	if !ok {
		return shortID(id), "event " + id.String() + "; its record is not in the tables any more"
	}
	return safe(placeOf(p.At)), fmt.Sprintf("proof: event %s of %s, topic %s, partition %d, offset %d, item %d", id, p.Source, safe(p.At.Topic), p.At.Partition, p.At.Offset, p.At.RecordIndex)
}

func (b *rowBuilder) action(r *rowView, a *schemas.Action) {
	r.Type, r.ID, r.action = "action", "e-"+a.ID.String(), a
	r.Class, r.Action, r.Object = a.Class.String(), safe(a.Event.Action), shorten(object(a), 120)
	r.Grade, r.Reason, r.Flags = a.Grade.String(), a.Reason.String(), flagViews(a.Flags)
	if a.Outcome == schemas.OutcomeFailure || a.Outcome == schemas.OutcomeDenied {
		r.Outcome = a.Outcome.String()
	}
	r.Policy, r.Grant, r.Cause = a.PolicyDecision.String(), safe(a.GrantID), a.CauseGrade.String()
	r.As = shorten(authorityName(a), 40)
	if k := b.t.via(a); !k.IsZero() {
		r.With = shorten(k.ID(), 40)
	}
	r.Time = clock(a.TimeNanos)
	r.Place, r.PlaceTitle = b.place(a.ID)
	r.Href = b.link.row(r.ID)
	r.Mark = b.axis.mark(a.TimeNanos, max(a.EndedNanos, a.TimeNanos))
	r.Mark.Bar, r.Mark.Grade = a.EndedNanos > a.TimeNanos, r.Grade
	r.Mark.Title, r.Mark.Flag = clock(a.TimeNanos), a.Flags != 0
	if r.Mark.Bar {
		r.Mark.Title += ", " + spoken(time.Duration(a.EndedNanos-a.TimeNanos))
	}
}

func (b *rowBuilder) more(r *rowView, n, before *node) {
	r.Type, r.ID = "more", "m-"+before.action.ID.String()
	r.Text = fmt.Sprintf("%d more like it, until %s", n.more, clock(n.until))
	r.Time = clock(n.at)
	if !b.link.file {
		r.Href = "/chain/" + b.link.chain + "?all=1"
	}
	r.Mark = b.axis.mark(n.at, n.until)
	r.Mark.Line, r.Mark.Title = true, r.Text
}

// pathHash names a key by the keys above it, so that its row has the same id
// in every drawing.
func pathHash(n *node) string {
	h := fnv.New64a()
	for ; n != nil && n.key != nil; n = n.parent {
		_, _ = h.Write([]byte(n.key.Key.String() + "\x00"))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// life is from when to when a key and what hangs below it were seen.
func life(n *node) (first, last int64) {
	first, last = n.at, n.at
	if n.action != nil {
		last = max(last, n.action.EndedNanos)
	}
	last = max(last, n.until)
	for _, c := range n.children {
		f, l := life(c)
		first, last = min(first, f), max(last, l)
	}
	return first, last
}

// axis lays times out over the width of the timeline. Chains are short bursts
// with hours between them, and a straight scale would draw each burst as one
// dot: so half of the width goes in equal parts to the times at which something
// happened, and half by the third root of what lies between them. The marks on
// the axis say the true times.
type axis struct {
	at  []int64   // times at which something happened, ascending
	pos []float64 // of each, from 0 to 1
}

const axisMargin = 0.02

func newAxis(t *tree) *axis {
	x := &axis{}
	for _, a := range t.rows {
		x.at = append(x.at, a.TimeNanos)
		if a.EndedNanos > a.TimeNanos {
			x.at = append(x.at, a.EndedNanos)
		}
	}
	slices.Sort(x.at)
	x.at = slices.Compact(x.at)
	x.pos = make([]float64, len(x.at))
	if len(x.at) == 1 {
		x.pos[0] = 0.5
		return x
	}
	sum := 0.0
	for i := 1; i < len(x.at); i++ {
		sum += math.Cbrt(float64(x.at[i] - x.at[i-1]))
	}
	for i := 1; i < len(x.at); i++ {
		x.pos[i] = x.pos[i-1] + 0.5/float64(len(x.at)-1) + 0.5*math.Cbrt(float64(x.at[i]-x.at[i-1]))/sum
	}
	for i := range x.pos {
		x.pos[i] = axisMargin + x.pos[i]*(1-2*axisMargin)
	}
	return x
}

func (x *axis) position(nanos int64) float64 {
	if len(x.at) == 0 || nanos < x.at[0] {
		return 0
	}
	i, exact := slices.BinarySearch(x.at, nanos)
	switch {
	case exact:
		return x.pos[i]
	case i == len(x.at):
		return 1
	}
	part := float64(nanos-x.at[i-1]) / float64(x.at[i]-x.at[i-1])
	return x.pos[i-1] + part*(x.pos[i]-x.pos[i-1])
}

func (x *axis) mark(first, last int64) *markView {
	a, b := x.position(first), x.position(last)
	return &markView{X: percent(a), W: percent(max(b-a, 0))}
}

// ticks are the times written on the axis, as far apart as their texts are
// wide, and the gaps in which nothing happened for long.
func (x *axis) ticks() (ticks, gaps []tickView) {
	const apart, wide, rightmost = 0.24, 0.12, 0.6
	last := -1.0
	for i, p := range x.pos {
		if p-last >= apart && p <= rightmost || i == 0 {
			ticks = append(ticks, tickView{X: percent(p), Text: clock(x.at[i])[:8]})
			last = p
		}
		if i > 0 && p-x.pos[i-1] >= wide {
			gaps = append(gaps, tickView{X: percent((p + x.pos[i-1]) / 2), Text: coarse(time.Duration(x.at[i] - x.at[i-1]))})
		}
	}
	if end := len(x.pos) - 1; end > 0 && x.pos[end]-last >= 0.38 {
		ticks = append(ticks, tickView{X: percent(x.pos[end]), Text: clock(x.at[end])[:8], End: true})
	}
	return ticks, gaps
}

func percent(share float64) string {
	if math.IsNaN(share) {
		share = 0
	}
	return strconv.FormatFloat(100*min(max(share, 0), 1), 'f', 2, 64)
}

// coarse is a duration in its largest unit, for where there is little room.
func coarse(d time.Duration) string {
	words := strings.Fields(spoken(d))
	return strings.Join(words[:2], " ")
}

func spokenSpan(d time.Duration) string {
	if d < time.Second {
		return "a moment"
	}
	return spoken(d)
}

// actionView is all that is known of one action.
type actionView struct {
	Row                          *rowView
	ID, Title, Class, Outcome    string
	At, Took                     string
	Grade, Sentence              string
	Flags                        []flagView
	Facts                        []factView
	Path                         []stepView
	Candidates                   []candidateView
	Lack                         *lackView
	Topic, Source, SHA           string
	Partition                    int32
	Offset                       int64
	Item                         int32
	Attributes                   []factView
	CauseHref, ChainHref, Search string
	JSON                         string
}

type factView struct{ Name, Value, Href string }

// stepView is one step of a path with its proof.
type stepView struct {
	Kind, Key, Name, Relation, Strength string
	Lent, Own                           bool
	At, Place, PlaceTitle, Source, Href string
	Search                              string
}

type candidateView struct{ Parent, Root, Place, Href string }

type lackView struct {
	Sentence string
	Nothing  []string // keys that nothing that was read binds to anybody else
	Near     []nearView
	Would    []wouldProve
}

type nearView struct{ Child, Parent, Relation, Strength, Miss, Place string }

// keyView is all that a chain shows of one key.
type keyView struct {
	stepView
	Row      *rowView
	Frontier bool
	Uses     int
	First    string
	Last     string
	WhoHref  string
}

func viewAction(s *actionStory, link linker) *actionView {
	a := s.Action
	b := rowBuilder{proofs: s.proofs}
	v := &actionView{ID: a.ID.String(), Title: safe(a.Event.Action), Class: a.Class.String(), Outcome: a.Outcome.String(),
		At: stampMillis(a.TimeNanos), Grade: a.Grade.String(), Sentence: safe(reasonText(a)), Flags: flagViews(a.Flags),
		Topic: safe(a.Evidence.Topic), Partition: a.Evidence.Partition, Offset: a.Evidence.Offset, Item: a.Evidence.RecordIndex, Source: a.Source,
		SHA: hex.EncodeToString(a.Evidence.RawSHA256[:])}
	if a.EndedNanos > a.TimeNanos {
		v.Took = spoken(time.Duration(a.EndedNanos - a.TimeNanos))
	}
	v.facts(a, link)
	for _, h := range a.Hops {
		v.Path = append(v.Path, b.step(h, a, link))
	}
	for _, c := range a.Candidates {
		text, _ := b.place(c.Proof)
		v.Candidates = append(v.Candidates, candidateView{safe(c.Parent.String()), orElse(safe(c.Root.String()), "nobody known"), text, link.event(c.Proof)})
	}
	if !a.CauseID.IsZero() {
		v.CauseHref = link.event(a.CauseID)
	}
	if !link.file {
		v.JSON = "/api/explain?what=" + v.ID
	}
	for _, at := range a.Attributes {
		v.Attributes = append(v.Attributes, factView{Name: safe(at.Name), Value: shorten(at.Value, 400)})
	}
	v.Lack = viewLack(s)
	return v
}

func (v *actionView) facts(a *schemas.Action, link linker) {
	add := func(name, value string, search bool) {
		if value == "" {
			return
		}
		f := factView{Name: name, Value: shorten(value, 400)}
		if search && !link.file {
			f.Href = searchHref(value)
		}
		v.Facts = append(v.Facts, f)
	}
	add("resource", a.Resource, true)
	add("actor", orElse(a.ActorName, a.Actor.ID()), false)
	if a.ActorName != "" && a.ActorName != a.Actor.Value {
		add("actor id", a.Actor.ID(), true)
	}
	add("authority", a.Authority, true)
	add("scopes", a.Scopes, false)
	if a.MFA != schemas.MFAUnknown {
		add("mfa", strings.TrimSpace(a.MFA.String()+"  "+a.AuthMethod), false)
	}
	add("policy", strings.TrimSpace(a.PolicyDecision.String()+"  "+a.PolicyID), false)
	add("grant", a.GrantID, true)
	add("address", a.SourceIP, true)
	add("user agent", a.UserAgent, false)
	add("tenant", a.Tenant, false)
	if a.CauseGrade != schemas.CauseNone {
		add("cause", a.CauseGrade.String(), false)
	}
	for _, k := range a.Keys {
		add(k.Kind.String(), k.ID(), false)
		if f := &v.Facts[len(v.Facts)-1]; !link.file {
			f.Href = searchHref(k.String())
		}
	}
}

func (b *rowBuilder) step(h schemas.Hop, a *schemas.Action, link linker) stepView {
	s := stepView{Kind: h.Key.Kind.String(), Key: safe(h.Key.ID()), Name: safe(h.Name), Relation: h.Relation.String(), Strength: strengthOf(h), Lent: h.Lent}
	if !link.file {
		s.Search = searchHref(h.Key.String())
	}
	if h.Proof.IsZero() {
		return s
	}
	s.Own, s.At = a != nil && h.Proof == a.ID, stampMillis(h.AtNanos)
	s.Place, s.PlaceTitle = b.place(h.Proof)
	if p := b.proofs[h.Proof]; p.Row {
		s.Href, s.Source = link.event(h.Proof), p.Source
	} else {
		s.Source = p.Source
	}
	return s
}

func viewLack(s *actionStory) *lackView {
	if s.lack == nil {
		if m := missing(s.Action); m != "" {
			return &lackView{Sentence: safe(m)}
		}
		return nil
	}
	v := &lackView{Sentence: safe(s.lack.Sentence)}
	for _, w := range s.lack.Would {
		w.Binds, w.When = shorten(w.Binds, 200), shorten(w.When, 240)
		v.Would = append(v.Would, w)
	}
	for _, n := range s.lack.Near {
		v.Near = append(v.Near, nearView{safe(n.Child.String()), orElse(safe(n.Parent.String()), "nobody"), n.Relation.String(), n.Strength.String(), n.Miss, safe(placeOf(n.Evidence))})
	}
	if len(s.lack.Near) == 0 {
		for _, k := range s.lack.Keys {
			v.Nothing = append(v.Nothing, safe(k.String()))
		}
	}
	return v
}

func viewKey(r *rowView, c *chainStory, link linker) *keyView {
	b := rowBuilder{proofs: c.proofs}
	v := &keyView{stepView: b.step(r.hop.Hop, nil, link), Row: r, Frontier: r.Frontier}
	if r.Root {
		v.Relation, v.Strength = "", ""
	}
	k := r.hop.Key
	for _, a := range c.rows {
		if slices.Contains(a.Keys, k) || slices.ContainsFunc(a.Hops, func(h schemas.Hop) bool { return h.Key == k && !h.Lent }) {
			if v.Uses == 0 {
				v.First = stampMillis(a.TimeNanos)
			}
			v.Uses++
			v.Last = stampMillis(a.TimeNanos)
		}
	}
	if !link.file && !k.Kind.Principal() {
		v.WhoHref = "/api/who?key=" + queryEscape(k.String())
	}
	return v
}

func stampMillis(nanos int64) string {
	return time.Unix(0, nanos).UTC().Format("2006-01-02 15:04:05.000")
}
