package main

import (
	"container/heap"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"catena/correlate"
	"catena/correlate/simtest"
	"catena/ingest"
	"catena/schemas"
)

// flow is made-up worlds without end, one beginning a few seconds of event time
// after the other, as a stream of records in the order of their arrival. No two
// worlds share a key, so that each can be correlated by itself, undisturbed, to
// know its final rows: of them only hashes are kept, so that millions can be
// held against the tables.
type flow struct {
	*carrier
	seed       uint64
	partitions int
	reference  *stitcher // decodes for the reference

	world   uint64
	pending arrivals
	systems map[string]int
	want    map[schemas.ID]uint64
	whole   map[schemas.ID]*schemas.Action // the rows themselves, of short flows, to show what differs
	skipped int                            // worlds that say what the first ones did not, so that no rule reads it
	err     error
}

// Worlds of a flow: their spacing, what of them counts, and what the engine has
// to be configured with. The lateness is the event time of many seconds at full
// speed, so that a partition may stand still for as long.
const (
	flowSpacing  = 10 * time.Second
	flowReach    = 10 * time.Minute
	flowLateness = time.Hour
	flowWindow   = 2 * time.Hour
)

var flowSettings = []string{"CATENA_ALLOWED_LATENESS=" + flowLateness.String(), "CATENA_WINDOW=" + flowWindow.String(), "CATENA_OUT_OF_ORDERNESS=10s"}

// flowShown is how many rows are kept to show what differs.
const flowShown = 100_000

// flowSigns is how many worlds the rules are made from.
const flowSigns = 300

func newFlow(l *lab, seed uint64, partitions int) *flow {
	l.t.Helper()
	f := &flow{carrier: newCarrier(), seed: seed << 20, partitions: partitions, systems: map[string]int{}, want: map[schemas.ID]uint64{}, whole: map[schemas.ID]*schemas.Action{}}
	for i := range uint64(flowSigns) {
		for _, ev := range f.events(i) {
			f.record(&ev, "x")
		}
	}
	dir := l.t.TempDir()
	if err := f.writeSources(dir); err != nil {
		l.t.Fatal(err)
	}
	l.env = append(l.env, "CATENA_SOURCES_DIR="+dir)
	cfg := testConfig()
	cfg.SourcesDir, cfg.Decoders = dir, 1
	st, err := newStitcher(cfg, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	f.reference = &st
	l.makeTopic(feedTopic, partitions, nil)
	return f
}

// events are those of a world that lie in its ten minutes before and after.
func (f *flow) events(k uint64) []schemas.Event {
	w := simtest.Make(f.seed+k, simtest.Shape{Stories: 20, Loss: int(k % 3)})
	shift := int64(k) * int64(flowSpacing)
	var out []schemas.Event
	for i := range w.Events {
		far := w.Events[i].TimeNanos - simtest.Noon
		if w.Lost[i] || far > int64(flowReach) || far < -int64(flowReach) {
			continue
		}
		ev := carryable(w.Events[i].Clone())
		moveEvent(&ev, k, shift)
		out = append(out, ev)
	}
	return out
}

// moveEvent makes an event another world's: later, of other people, at other
// addresses.
func moveEvent(ev *schemas.Event, k uint64, by int64) {
	later := func(at *int64) {
		if *at != 0 {
			*at += by
		}
	}
	other := func(key *schemas.Key) {
		switch {
		case key.Kind == schemas.KindHuman:
			key.Value += fmt.Sprintf("-%d", k)
		case key.Kind == schemas.KindWorkload && key.Namespace == "ip":
			key.Value = otherAddress(key.Value, k)
		}
	}
	later(&ev.TimeNanos)
	later(&ev.EndedNanos)
	later(&ev.Evidence.TimestampNanos)
	ev.SourceIP = otherAddress(ev.SourceIP, k)
	other(&ev.Actor)
	for i := range ev.Keys {
		other(&ev.Keys[i])
	}
	for i := range ev.Makes {
		b := &ev.Makes[i]
		other(&b.Child)
		other(&b.Parent)
		later(&b.FromNanos)
		later(&b.UntilNanos)
		later(&b.ExpiresNanos)
	}
	for i := range ev.Ends {
		other(&ev.Ends[i].Key)
		later(&ev.Ends[i].AtNanos)
	}
}

// otherAddress maps 10.a.b.c into a network of the world's own.
func otherAddress(s string, k uint64) string {
	a, err := netip.ParseAddr(s)
	if err != nil || !strings.HasPrefix(s, "10.") {
		return s
	}
	var to [16]byte
	to[0] = 0xfd
	binary.BigEndian.PutUint64(to[4:], k+1)
	four := a.As4()
	copy(to[12:], four[:])
	return netip.AddrFrom16(to).String()
}

// arrival is a record on its way; arrivals are a heap by time.
type arrival struct {
	at     int64
	number int // of equal times the earlier one
	record schemas.Record
}

type arrivals struct {
	list   []arrival
	number int
}

func (a *arrivals) Len() int { return len(a.list) }
func (a *arrivals) Less(i, j int) bool {
	x, y := &a.list[i], &a.list[j]
	return x.at < y.at || x.at == y.at && x.number < y.number
}
func (a *arrivals) Swap(i, j int) { a.list[i], a.list[j] = a.list[j], a.list[i] }
func (a *arrivals) Push(x any)    { a.list = append(a.list, x.(arrival)) }
func (a *arrivals) Pop() any {
	n := len(a.list) - 1
	x := a.list[n]
	a.list[n] = arrival{}
	a.list = a.list[:n]
	return x
}

// next appends up to n records. Stop ends the making of worlds: what is left of
// those that have begun still comes.
func (f *flow) next(dst []schemas.Record, n int, stop bool) []schemas.Record {
	for ; n > 0; n-- {
		// Whatever the worlds to come have to tell arrives after their ten minutes before.
		for !stop && (f.pending.Len() == 0 || f.pending.list[0].at >= simtest.Noon+int64(f.world)*int64(flowSpacing)-int64(flowReach)) {
			f.begin()
		}
		if f.pending.Len() == 0 {
			break
		}
		dst = append(dst, heap.Pop(&f.pending).(arrival).record)
	}
	return dst
}

// begin makes the next world, and works out its rows.
func (f *flow) begin() {
	k := f.world
	f.world++
	events := f.events(k)
	known := len(f.keys) + len(f.makes) + len(f.ends) + len(f.actors) + len(f.skips) + len(f.flags)
	records := make([]schemas.Record, len(events))
	for i := range events {
		ev := &events[i]
		if _, ok := f.systems[ev.Source]; !ok {
			f.systems[ev.Source] = len(f.systems)
		}
		records[i] = schemas.Record{Topic: feedTopic, Partition: int32((2*f.systems[ev.Source] + int(ev.Evidence.Partition)) % f.partitions),
			Value: f.record(ev, fmt.Sprintf("%d.%d", k, i)), TimestampNanos: ev.Evidence.TimestampNanos / 1e6 * 1e6}
	}
	if known != len(f.keys)+len(f.makes)+len(f.ends)+len(f.actors)+len(f.skips)+len(f.flags) {
		f.skipped++
		return
	}
	f.refer(records)
	for _, r := range records {
		heap.Push(&f.pending, arrival{r.TimestampNanos, f.pending.number, r})
		f.pending.number++
	}
}

// refer works out the rows of a world's records.
func (f *flow) refer(records []schemas.Record) {
	engine := correlate.New(correlate.Config{Skew: simtest.Skew, OutOfOrderness: simtest.Bound, AllowedLateness: correlate.Forever, Window: correlate.Forever, MemoryBytes: 256 << 20})
	final := map[schemas.ID]*schemas.Action{}
	var out correlate.Output
	var d ingest.Decoded
	for i := range records {
		d.Reset()
		f.reference.decoders[0].Decode(&d, &records[i])
		if len(d.Dead) > 0 {
			f.err = fmt.Errorf("a record of a made-up world is a dead letter: %s: %s", d.Dead[0].Error, records[i].Value)
			return
		}
		out.Reset()
		engine.Process(&out, d.Events)
		for _, a := range out.Actions {
			final[a.ID] = a
		}
	}
	for id, a := range final {
		f.want[id] = rowHash(a)
		if len(f.whole) < flowShown {
			f.whole[id] = a
		}
	}
}

// rowHash is a row without place, processing times and version.
func rowHash(a *schemas.Action) uint64 {
	row := *a
	row.Evidence.Topic, row.Evidence.Partition, row.Evidence.Offset = "", 0, 0
	sum := sha256.Sum256([]byte(rowLine(&row)))
	return binary.BigEndian.Uint64(sum[:])
}

// compare holds the tables against the rows of all worlds, and returns what is
// wrong.
func (f *flow) compare(l *lab) (faults []string) {
	l.t.Helper()
	seen := make(map[schemas.ID]bool, len(f.want))
	differ, extra := 0, 0
	err := l.store.LoadActions(l.t.Context(), -1<<62, nil, func(a *schemas.Action) error {
		want, ok := f.want[a.ID]
		seen[a.ID] = true
		switch {
		case !ok:
			extra++
		case rowHash(a) != want:
			if differ++; differ > 3 {
				break
			}
			if w := f.undisturbed(a); w != nil {
				faults = append(faults, rowDifference(a, w), f.versions(l, a))
			} else {
				faults = append(faults, "row differs from the undisturbed run: "+rowLine(a), f.versions(l, a))
			}
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	missing := 0
	for id := range f.want {
		if !seen[id] {
			missing++
		}
	}
	if differ+extra+missing > 0 {
		faults = append(faults, fmt.Sprintf("of %d rows %d are missing, %d differ, %d are too many", len(f.want), missing, differ, extra))
	}
	if f.err != nil {
		faults = append(faults, f.err.Error())
	}
	return faults
}

var worldOf = regexp.MustCompile(`FIXTURE(\d+)x`)

// undisturbed is what a row shall be; of long flows its world is made again, once
// all records are sent. Nil if its world cannot be told.
func (f *flow) undisturbed(a *schemas.Action) *schemas.Action {
	if w := f.whole[a.ID]; w != nil {
		return w
	}
	if m := worldOf.FindStringSubmatch(rowLine(a)); m != nil {
		if n, err := strconv.ParseUint(m[1], 10, 64); err == nil {
			begun := f.world
			f.world, f.whole = n-f.seed, map[schemas.ID]*schemas.Action{}
			f.begin()
			f.world = begun
		}
	}
	return f.whole[a.ID]
}

// versions tells who wrote a row, and those that share a key with it, and when.
func (f *flow) versions(l *lab, a *schemas.Action) string {
	quoted := make([]string, len(a.Keys))
	for i, k := range a.Keys {
		quoted[i] = "'" + k.String() + "'"
	}
	_, rows, err := l.store.Query(l.t.Context(), fmt.Sprintf("SELECT event_id, class, action, partition, offset, attributed_at AS written, "+
		"fromUnixTimestamp64Milli(toInt64(intDiv(version, %[1]d)), 'UTC') AS owned_since, version %% %[1]d AS revision, decision_id, policy_id, flags "+
		"FROM actions WHERE hasAny(keys, [%[2]s]) ORDER BY event_id, version", schemas.MaxRevision+1, strings.Join(quoted, ", ")), 100)
	if err != nil {
		return err.Error()
	}
	text := "rows with one of its keys: event, class, action, partition, offset, written, owned since, revision, decision, policy, flags"
	for _, row := range rows {
		text += "\n  " + strings.Join(row, "  ")
	}
	return text
}

// pump sends a flow's records at a pace, in its own goroutine, and knows how far
// each partition has come.
type pump struct {
	l    *lab
	f    *flow
	rate int // records a second; 0 is as fast as it goes

	mu   sync.Mutex
	sent map[int32]int64 // acknowledged, by partition
	all  int64
	stop context.CancelFunc
	done chan struct{}
	err  error
}

// start sends n records, or until finish; n 0 is without end.
func (l *lab) pump(f *flow, rate int, n int64) *pump {
	ctx, stop := context.WithCancel(l.t.Context())
	p := &pump{l: l, f: f, rate: rate, sent: map[int32]int64{}, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.run(ctx, n)
	}()
	l.t.Cleanup(p.finish)
	return p
}

func (p *pump) run(ctx context.Context, n int64) {
	const piece = 50 * time.Millisecond
	began, made := time.Now(), int64(0)
	var records []schemas.Record
	for p.err == nil {
		over := ctx.Err() != nil || n > 0 && made >= n
		size := 2000
		if p.rate > 0 {
			due := int64(time.Since(began).Seconds() * float64(p.rate))
			if size = int(min(due-made, 5000)); size <= 0 {
				time.Sleep(piece)
				continue
			}
		}
		records = p.f.next(records[:0], size, over)
		if len(records) == 0 {
			return // the worlds that had begun are told to their end
		}
		made += int64(len(records))
		p.send(records)
	}
}

func (p *pump) send(records []schemas.Record) {
	out := make([]*kgo.Record, len(records))
	for i := range records {
		out[i] = kafkaRecord(&records[i])
	}
	err := p.l.client.ProduceSync(context.Background(), out...).FirstErr()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
	for _, r := range out {
		p.sent[r.Partition] = max(p.sent[r.Partition], r.Offset+1)
	}
	p.all += int64(len(out))
}

// finish ends the making of worlds and waits until all is sent.
func (p *pump) finish() {
	p.stop()
	<-p.done
}

// total is how many records are in Kafka.
func (p *pump) total() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all
}

func (p *pump) ends() map[int32]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	ends := make(map[int32]int64, len(p.sent))
	for part, n := range p.sent {
		ends[part] = n
	}
	return ends
}
