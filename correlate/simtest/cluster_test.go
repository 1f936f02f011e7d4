package simtest

import (
	"cmp"
	"slices"

	"catena/correlate"
	"catena/schemas"
)

// cluster is several engines that split the partitions and write to one table.
// What one says that the others have to know reaches them in any order, after
// any delay, and now and then twice.
type cluster struct {
	*player
	members []*member
	owners  map[place]int // index of the member that has a partition
	left    map[place][]*schemas.Event
	done    map[place]int // committed, of a partition's records
	unaware []loss        // of partitions, of which who had them has not heard yet
}

// loss is a partition that a member has no longer.
type loss struct {
	of *member
	at place
}

type member struct {
	engine *correlate.Engine
	mail   []correlate.Output // what others said and it has not yet heard
	rows   []*schemas.Action  // of partitions taken over, on their way back
	back   []func()           // to be called when they are
	seen   map[schemas.ID]uint64
	asks   *questions
}

func newCluster(pl *player) *cluster {
	c := &cluster{player: pl, owners: map[place]int{}, left: map[place][]*schemas.Event{}, done: map[place]int{}}
	for _, ev := range pl.feed {
		at := place{ev.Evidence.Topic, ev.Evidence.Partition}
		c.left[at] = append(c.left[at], ev)
	}
	for range pl.plan.instances {
		c.members = append(c.members, nil)
	}
	for i, at := range c.places() {
		c.owners[at] = i % len(c.members)
	}
	for i := range c.members {
		c.begin(i)
	}
	return c
}

func (c *cluster) places() []place {
	places := make([]place, 0, len(c.left))
	for at := range c.left {
		places = append(places, at)
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.index, b.index)) })
	return places
}

// begin starts a member with the partitions that are its own, from the table.
func (c *cluster) begin(i int) {
	m := &member{engine: correlate.New(c.config()), seen: map[schemas.ID]uint64{}, asks: newQuestions()}
	c.members[i] = m
	for _, at := range c.places() {
		if c.owners[at] == i {
			m.engine.Assign(at.topic, at.index, c.owner)
		}
	}
	bindings := c.tab.loadBindings()
	if c.plan.partly {
		bindings = c.leaveBehind(m.engine, bindings)
	}
	m.engine.Restore(&c.out, bindings, c.tab.load())
	c.say(m)
}

// say writes down what a member said, and posts what the others have to know.
// It is posted before it is written: whoever reads the table knows no more than
// those who listen.
func (c *cluster) say(m *member) {
	if len(c.out.Bindings)+len(c.out.Shared) > 0 {
		letter := correlate.Output{Bindings: slices.Clone(c.out.Bindings), Shared: slices.Clone(c.out.Shared)}
		for _, other := range c.members {
			if other == m || other == nil {
				continue
			}
			other.mail = append(other.mail, letter)
			if c.rng.IntN(8) == 0 {
				other.mail = append(other.mail, letter)
			}
		}
	}
	c.player.seen, c.player.asks = m.seen, m.asks
	var stale correlate.Output // somebody else has written better by now, or will have
	c.out.Actions = slices.DeleteFunc(c.out.Actions, func(a *schemas.Action) bool {
		if !slices.ContainsFunc(c.unaware, func(l loss) bool { return l.of == m && lies(a, l.at) }) {
			return false
		}
		stale.Actions = append(stale.Actions, a)
		return true
	})
	c.tab.write(&stale)
	c.take(&c.out)
}

// run delivers everything, and then all letters until nobody has more to say.
func (c *cluster) run() {
	moves := c.plan.crashes
	for c.fail == "" {
		var open []place
		for _, at := range c.places() {
			if c.done[at] < len(c.left[at]) {
				open = append(open, at)
			}
		}
		if len(open) == 0 {
			break
		}
		at := pick(c.rng, open)
		m := c.members[c.owners[at]]
		n := min(1+c.rng.IntN(min(16, c.plan.maxBatch)), len(c.left[at])-c.done[at])
		events := make([]schemas.Event, n)
		for i, ev := range c.left[at][c.done[at] : c.done[at]+n] {
			events[i] = ev.Clone()
		}
		c.done[at] += n
		c.lookUp(m, events)
		m.engine.Process(&c.out, events)
		c.say(m)
		c.post(pick(c.rng, c.members))
		c.bringBack(pick(c.rng, c.members), 1+c.rng.IntN(8))
		c.find(pick(c.rng, c.members))
		if len(c.unaware) > 0 && c.rng.IntN(4) == 0 {
			c.tell(c.unaware[0])
		}
		if moves > 0 && c.rng.IntN(len(c.feed)/n+1) < 2 {
			moves--
			c.move(at)
		}
	}
	for quiet := false; !quiet && c.fail == ""; {
		quiet = true
		for len(c.unaware) > 0 {
			c.tell(c.unaware[0])
		}
		for _, m := range c.members {
			c.bringBack(m, len(m.rows))
			for len(m.mail) > 0 && c.fail == "" {
				quiet = false
				c.post(m)
			}
			for len(m.asks.keys) > 0 && c.fail == "" {
				quiet = false
				c.find(m)
			}
		}
	}
}

// find answers some of what a member asks of the tables.
func (c *cluster) find(m *member) {
	if len(m.asks.keys) > 0 {
		c.answer(m.engine, m.asks)
		c.say(m)
	}
}

// post hands a member one of its letters.
func (c *cluster) post(m *member) {
	if len(m.mail) == 0 {
		return
	}
	i := c.rng.IntN(len(m.mail))
	letter := m.mail[i]
	m.mail = slices.Delete(m.mail, i, i+1)
	m.engine.Learn(&c.out, letter.Bindings, letter.Shared)
	c.say(m)
}

// move gives a partition to somebody else, or starts its owner anew. In half of
// the moves the last records are read once more, as after a crash.
func (c *cluster) move(at place) {
	c.owner += 1000
	old := c.owners[at]
	if c.rng.IntN(2) == 0 {
		c.done[at] -= c.rng.IntN(min(pick(c.rng, []int{8, 8, 1000}), c.done[at]) + 1)
	}
	if c.rng.IntN(2) == 0 { // a restart: letters that were on their way come from the topic again
		mail := c.members[old].mail
		c.begin(old)
		c.members[old].mail = append(c.members[old].mail, mail...)
		return
	}
	next := (old + 1 + c.rng.IntN(len(c.members)-1)) % len(c.members)
	c.owners[at] = next
	m := c.members[next]
	c.tell(loss{m, at}) // of an earlier time
	c.unaware = append(c.unaware, loss{c.members[old], at})
	if c.rng.IntN(2) == 0 {
		c.tell(loss{c.members[old], at})
	}
	m.engine.Assign(at.topic, at.index, c.owner)
	for len(m.mail) > 0 && c.fail == "" { // it reads on only when it has heard all that its last owner said
		c.post(m)
	}
	c.comeBack(m, at)
}

// comeBack lets the rows of a partition come back to its owner, by and by.
func (c *cluster) comeBack(m *member, at place) {
	rows := slices.DeleteFunc(c.tab.load(), func(a *schemas.Action) bool { return !lies(a, at) })
	ids := make([]schemas.ID, len(rows))
	for i, a := range rows {
		ids[i] = a.ID
	}
	m.back = append(m.back, m.engine.Coming(ids))
	m.rows = append(m.rows, rows...)
	c.rng.Shuffle(len(m.rows), func(i, j int) { m.rows[i], m.rows[j] = m.rows[j], m.rows[i] })
}

// tell lets a member know that it has lost a partition, if it does not know.
// Until then it writes what it has learned, and the owner does not hear of it.
func (c *cluster) tell(l loss) {
	i := slices.Index(c.unaware, l)
	if i < 0 {
		return
	}
	c.unaware = slices.Delete(c.unaware, i, i+1)
	if !slices.Contains(c.members, l.of) { // it has begun anew
		return
	}
	l.of.engine.Unassign(l.at.topic, l.at.index)
	l.of.rows = slices.DeleteFunc(l.of.rows, func(a *schemas.Action) bool { return lies(a, l.at) })
	if m := c.members[c.owners[l.at]]; m != l.of { // who looks once more at what was written meanwhile
		c.comeBack(m, l.at)
	}
}

func lies(a *schemas.Action, at place) bool {
	return a.Evidence.Topic == at.topic && a.Evidence.Partition == at.index
}

// lookUp finds the rows of events that are not back yet.
func (c *cluster) lookUp(m *member, events []schemas.Event) {
	ids, first, last := m.engine.Unknown(nil, events)
	if len(ids) == 0 {
		return
	}
	m.engine.Remember(&c.out, c.tab.rowsAmong(ids, first, last))
	c.say(m)
}

// bringBack hands a member some of the rows that its partitions had before.
func (c *cluster) bringBack(m *member, n int) {
	if n = min(n, len(m.rows)); n == 0 || c.fail != "" {
		return
	}
	m.engine.Restore(&c.out, nil, m.rows[:n:n])
	c.say(m)
	if m.rows = m.rows[n:]; len(m.rows) == 0 {
		for _, back := range m.back {
			back()
		}
		m.back = nil
	}
}
