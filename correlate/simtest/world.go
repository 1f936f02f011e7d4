package simtest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"catena/schemas"
)

// Skew is how far two clocks of a world differ at most, unless one is wrong.
// The engine has to be configured with it.
const Skew = time.Second

// What the engine that hears of a world has to be configured with, for no
// record to be late and none to come after the rows that it explains.
const (
	Bound    = 10 * time.Second
	Lateness = 10 * time.Minute
	Window   = 48 * time.Hour
)

// Noon is time zero of every world: noon in UTC, so that 12h is midnight.
var Noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC).UnixNano()

// tick is the grid on which things happen.
const tick = int64(500 * time.Millisecond)

// Shape is how large a world is and what is wrong with it.
type Shape struct {
	Stories int // how many stories are told; each has 5 to 40 events
	Loss    int // of a hundred records, how many never arrive
	// WrongClock sets one system's clock off by more than Skew.
	WrongClock bool
}

// System is one writer of records, with a clock of its own.
type System int

// The systems.
const (
	IDP     System = iota // the identity provider
	Cloud                 // the cloud's audit trail, which writes whole seconds
	Agent                 // telemetry of agents and tools
	CI                    // the pipelines
	Cluster               // the cluster's audit log
	Policy                // the policy engine
	JIT                   // just-in-time access
	Gateway               // what checks tokens
	Systems
)

var systemNames = [Systems]string{"idp", "cloud", "agent", "ci", "cluster", "policy", "jit", "gateway"}

func (s System) String() string { return systemNames[s] }

var resolutions = [Systems]int64{
	int64(time.Millisecond), int64(time.Second), int64(time.Millisecond), int64(time.Millisecond),
	int64(time.Microsecond), int64(time.Microsecond), int64(time.Millisecond), int64(time.Millisecond),
}

// World is what happened, and the records that tell of it.
type World struct {
	Seed   uint64
	Events []schemas.Event // in no order; Evidence says in which partition each lies
	Truth  []Truth         // of each event
	Lost   []bool          // the record never arrives
	Clocks [Systems]int64  // by how much each is ahead of true time
	Wrong  System          // whose clock is off by more than Skew; Systems if none is

	rng    *rand.Rand
	shape  Shape
	recs   []*rec
	serial int
	story  string

	people    []person
	pods      []*pod
	instances []*pod
	sessions  []schemas.Key
	tokens    []schemas.Key // of people, good for an agent
	oracle
}

// person is somebody, under the names that each system has for them.
type person struct {
	name                         string
	email, cloud, github, kubern schemas.Key
}

// pod is a workload with an address and a credential that its platform minted.
type pod struct {
	key  schemas.Key
	name string
	ip   string
	cred schemas.Key
}

// rec is a record in the making.
type rec struct {
	schemas.Event
	Truth
	index  int
	sys    System
	at     int64       // true time
	by     schemas.Key // the key whose path counts; the actor's where no key tells
	arrive int64       // ingestion time
	solid  bool        // must not be lost
	silent bool        // the oracle makes no claim

	wantFlags schemas.Flags // of a row whose root is known
	arrival   schemas.Flags // that its arrival earns it
	thief     *pod          // from whose address it came, though the key is another's
}

// Make makes up a world. The same seed and shape give the same world.
func Make(seed uint64, shape Shape) *World {
	w := &World{Seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), shape: shape, Wrong: Systems, oracle: newOracle()}
	w.setClocks()
	w.populate()
	for range shape.Stories {
		s := pick(w.rng, stories)
		w.story = s.name
		s.tell(w)
	}
	w.finish()
	return w
}

// ShapeOf draws the shape of a small world: half of them lose nothing.
func ShapeOf(seed uint64) Shape {
	rng := rand.New(rand.NewPCG(seed, 2))
	s := Shape{Stories: 14 + rng.IntN(10)}
	if rng.IntN(2) == 0 {
		s.Loss = 1 + rng.IntN(4)
	}
	s.WrongClock = rng.IntN(8) == 0
	return s
}

// setClocks gives each system its clock: two of them differ by at most Skew.
func (w *World) setClocks() {
	for s := range w.Clocks {
		w.Clocks[s] = int64(w.rng.IntN(3)-1) * tick
	}
	if w.shape.WrongClock {
		w.Wrong = pick(w.rng, []System{Agent, Policy, JIT, CI})
		w.Clocks[w.Wrong] = pick(w.rng, []int64{-1, 1}) * int64(30*time.Second)
	}
}

func (w *World) populate() {
	names := []string{"alice", "bob", "carol", "dave"}
	for i := range 4 + w.shape.Stories/16 {
		n := names[i%len(names)]
		id := n
		if i >= len(names) {
			id = fmt.Sprint(n, i)
		}
		w.people = append(w.people, person{n,
			schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: id + "@example.com"},
			schemas.Key{Kind: schemas.KindHuman, Namespace: "aws.user", Value: "arn:aws:iam::111111111111:user/" + id},
			schemas.Key{Kind: schemas.KindHuman, Namespace: "github", Value: id},
			schemas.Key{Kind: schemas.KindHuman, Namespace: "k8s", Value: id},
		})
	}
	for i := range 3 + w.shape.Stories/8 { // names come again, as those of stateful sets do
		w.pods = append(w.pods, w.startPod(fmt.Sprint("tools-", i%2), w.address(0)))
	}
	for range 3 + w.shape.Stories/8 {
		w.instances = append(w.instances, w.startInstance(w.address(1)))
	}
	for range 2 + w.shape.Stories/8 {
		storyLogin(w)
	}
	for range 2 + w.shape.Stories/8 {
		w.mintToken(pick(w.rng, w.sessions), Noon-int64(2*time.Minute)+int64(w.rng.IntN(60))*tick)
	}
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// one reports true once in n times.
func (w *World) one(n int) bool { return w.rng.IntN(n) == 0 }

// key makes a new key; no two worlds of different seeds share it.
func (w *World) key(kind schemas.Kind, namespace, prefix string) schemas.Key {
	w.serial++
	return schemas.Key{Kind: kind, Namespace: namespace, Value: fmt.Sprintf("%sFIXTURE%dx%d", prefix, w.Seed, w.serial)}
}

// moment is a true time in the two minutes around noon.
func (w *World) moment() int64 { return Noon + int64(w.rng.IntN(240))*tick }

// delay is how long a record takes: none, as long as the out-of-orderness bound
// allows, a little longer, or anything up to half the allowed lateness.
func (w *World) delay() int64 {
	switch w.rng.IntN(8) {
	case 0:
		return int64(Bound)
	case 1:
		return int64(Bound) + tick
	case 2:
		return w.rng.Int64N(int64(Lateness/2)/tick) * tick
	default:
		return 0
	}
}

// later is a true time up to n ticks after another.
func (w *World) later(at int64, n int) int64 { return at + int64(w.rng.IntN(n+1))*tick }

// stamp is what a system's clock writes for a true time.
func (w *World) stamp(s System, at int64) int64 {
	t := at + w.Clocks[s]
	return t - t%resolutions[s]
}

// near draws a true time such that its record by a system lies on or beside the
// edge of a window: the edge itself, and the edge widened by what may be
// allowed, each with one unit of resolution before and after.
func (w *World) near(s System, edge int64) int64 {
	res := resolutions[s]
	slack := int64(Skew) + res
	t := edge + pick(w.rng, []int64{-slack, 0, slack, slack})*int64(w.rng.IntN(2)) + int64(w.rng.IntN(3)-1)*res
	if w.one(3) {
		t = edge + int64(w.rng.IntN(9)-4)*tick
	}
	return t - w.Clocks[s]
}

// record writes down what happened at a true time, as a system would.
func (w *World) record(s System, at int64, class schemas.Class, action string) *rec {
	r := &rec{index: len(w.recs), sys: s, at: at}
	res := resolutions[s]
	r.Event = schemas.Event{ID: schemas.MakeID("simtest", fmt.Sprint(w.Seed, " ", r.index)), Source: "test." + s.String(),
		TimeNanos: w.stamp(s, at), ResolutionNanos: res, Class: class, Action: action, Outcome: schemas.OutcomeSuccess}
	r.Truth.Cause, r.Truth.Story = none, w.story
	r.arrive = at + w.delay()
	w.recs = append(w.recs, r)
	return r
}

// with names the keys of a record; the first is the one whose path counts.
func (r *rec) with(keys ...schemas.Key) *rec {
	if r.by.IsZero() && len(keys) > 0 {
		r.by = keys[0]
	}
	r.Keys = append(r.Keys, keys...)
	return r
}

// driven says who truly drove it, and whom a proven row may name besides.
func (r *rec) driven(driver schemas.Key, or ...schemas.Key) *rec {
	r.Driver, r.Roots = driver, append([]schemas.Key{driver}, or...)
	return r
}

// shows adds a binding that the record proves.
func (r *rec) shows(b schemas.Binding) { r.Makes = append(r.Makes, b) }

// mint is the time from which a binding holds that this record makes.
func (r *rec) mint() int64 { return r.TimeNanos }

func always(child, parent schemas.Key, rel schemas.Relation, s schemas.Strength) schemas.Binding {
	return schemas.Binding{Child: child, Parent: parent, Relation: rel, Strength: s}
}

func from(at int64, child, parent schemas.Key, rel schemas.Relation, s schemas.Strength) schemas.Binding {
	return schemas.Binding{Child: child, Parent: parent, Relation: rel, Strength: s, FromNanos: at}
}

// truly adds a binding that the record proves and that is how it was: the
// oracle follows it.
func (w *World) truly(r *rec, b schemas.Binding) {
	r.shows(b)
	w.link(r, b)
}

// finish drops what is lost, lays the records into partitions, and works out
// what each row has to say.
func (w *World) finish() {
	w.Events = make([]schemas.Event, len(w.recs))
	w.Lost = make([]bool, len(w.recs))
	arrived := slices.Clone(w.recs)
	slices.SortStableFunc(arrived, func(a, b *rec) int { return cmp.Compare(a.arrive, b.arrive) })
	offsets := map[string]int64{}
	for _, r := range arrived {
		w.Lost[r.index] = !r.solid && w.rng.IntN(100) < w.shape.Loss
		r.Evidence = schemas.Evidence{Topic: r.sys.String(), Partition: int32(w.rng.IntN(2)), TimestampNanos: r.arrive}
		place := fmt.Sprint(r.Evidence.Topic, r.Evidence.Partition)
		r.Evidence.Offset = offsets[place]
		offsets[place]++
		w.Events[r.index] = r.Event
	}
	w.answer(w)
	w.Truth = make([]Truth, len(w.recs))
	for i, r := range w.recs {
		w.Truth[i] = r.Truth
	}
}
