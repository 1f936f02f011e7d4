package correlate

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"catena/schemas"
)

// live is a world of logins whose sessions minted tokens: the bindings that an
// organisation has at any time.
type live struct {
	e      *Engine
	tokens []schemas.Key
	ips    []string
	zipf   *rand.Zipf
	rng    *rand.Rand
	out    Output
	n      int
}

// newLive makes an engine that knows a number of bindings: each session is
// bound to a person and has four tokens.
func newLive(bindings int) *live {
	l := &live{e: New(Config{OutOfOrderness: time.Second, AllowedLateness: time.Second, MemoryBytes: 16 << 30}), rng: rand.New(rand.NewPCG(1, 2))}
	sessions := max(1, bindings/5)
	l.tokens = make([]schemas.Key, 4*sessions)
	l.zipf = rand.NewZipf(l.rng, 1.1, 8, uint64(len(l.tokens)-1))
	for i := range 256 {
		l.ips = append(l.ips, fmt.Sprintf("10.0.%d.%d", i/16, i))
	}
	events := make([]schemas.Event, 0, 1000)
	for i := range sessions {
		person := schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: fmt.Sprintf("person%d@example.com", i%10_000)}
		session := schemas.Key{Kind: schemas.KindSession, Namespace: "okta", Value: fmt.Sprintf("102fixture%015d", i)}
		ev := schemas.Event{ID: schemas.MakeID("mint", strconv.Itoa(i)), TimeNanos: noon, BindOnly: "x", Source: "okta.system", Evidence: schemas.Evidence{Topic: "t"}}
		login := bind(session, person, schemas.RelationAuthenticated, schemas.StrengthExact, 0, 0)
		login.ParentName = person.Value
		ev.Makes = append(ev.Makes, login)
		for j := range 4 {
			k := schemas.Key{Kind: schemas.KindToken, Namespace: "aws.access_key", Value: fmt.Sprintf("ASIA%016d", 4*i+j)}
			l.tokens[4*i+j] = k
			mint := bind(k, session, schemas.RelationAssumed, schemas.StrengthExact, noon, 0)
			mint.ChildName = "arn:aws:sts::111122223333:assumed-role/fixture"
			ev.Makes = append(ev.Makes, mint)
		}
		if events = append(events, ev); len(events) == cap(events) || i == sessions-1 {
			l.e.Process(&l.out, events)
			l.out.Reset()
			events = events[:0]
		}
	}
	l.rng.Shuffle(len(l.tokens), func(i, j int) { l.tokens[i], l.tokens[j] = l.tokens[j], l.tokens[i] })
	return l
}

// use fills in the next event: a call with one of the tokens, some of which
// are used much and most of which seldom, and a request id of its own.
func (l *live) use(ev *schemas.Event, uniform bool) {
	l.n++
	i := l.n * 7919 % len(l.tokens)
	if !uniform {
		i = int(l.zipf.Uint64())
	}
	ev.ID = schemas.ID{byte(l.n), byte(l.n >> 8), byte(l.n >> 16), byte(l.n >> 24)}
	ev.Source, ev.Class, ev.Action, ev.Outcome = "aws.cloudtrail", schemas.ClassAPICall, "s3:GetObject", schemas.OutcomeSuccess
	ev.Resource, ev.Tenant, ev.UserAgent = "arn:aws:s3:::example-customer-records/customers/4711.json", "111122223333", "aws-sdk-go-v2/1.30"
	ev.TimeNanos = noon + int64(l.n)*int64(time.Millisecond)
	ev.Evidence = schemas.Evidence{Topic: "t", Offset: int64(l.n)}
	ev.SourceIP = l.ips[i%len(l.ips)]
	ev.Keys = append(ev.Keys[:0], l.tokens[i], schemas.Key{Kind: schemas.KindRequest, Namespace: "aws", Value: fmt.Sprintf("00000000-0000-4000-8000-%012x", l.n)})
}

// BenchmarkUses is the common case, the use of a known token, among so many
// live bindings; one operation is one event. Events come 1,000 at a time. The
// CPU time counts the garbage collector's as well.
func BenchmarkUses(b *testing.B) {
	for _, bindings := range []int{10_000, 100_000, 1_000_000, 10_000_000} {
		for _, uniform := range []bool{false, true} {
			name := fmt.Sprintf("bindings=%d/%s", bindings, map[bool]string{false: "zipf", true: "uniform"}[uniform])
			b.Run(name, func(b *testing.B) {
				if bindings > 1_000_000 && testing.Short() {
					b.Skip("takes 2 GiB; run without -short")
				}
				l := newLive(bindings)
				runtime.GC()
				const batch = 1000
				events := make([][]schemas.Event, 64)
				for i := range events {
					events[i] = make([]schemas.Event, batch)
				}
				b.ReportAllocs()
				b.ResetTimer()
				var busy, cpu time.Duration
				for done := 0; done < b.N; {
					b.StopTimer()
					for i := range events {
						for j := range events[i] {
							l.use(&events[i][j], uniform)
						}
					}
					b.StartTimer()
					from, at := cpuTime(), time.Now()
					for i := 0; i < len(events) && done < b.N; i++ {
						l.e.Process(&l.out, events[i])
						l.out.Reset()
						done += batch
					}
					busy, cpu = busy+time.Since(at), cpu+cpuTime()-from
				}
				n := float64((b.N + batch - 1) / batch * batch)
				b.ReportMetric(n/busy.Seconds(), "events/s")
				b.ReportMetric(n/cpu.Seconds(), "events/cpu-s")
			})
		}
	}
}

// BenchmarkLatency is how long one event takes that comes alone, among a
// million live bindings.
func BenchmarkLatency(b *testing.B) {
	l := newLive(1_000_000)
	runtime.GC()
	took := make([]time.Duration, 0, b.N)
	events := make([]schemas.Event, 1)
	for range b.N {
		l.use(&events[0], false)
		at := time.Now()
		l.e.Process(&l.out, events)
		took = append(took, time.Since(at))
		l.out.Reset()
	}
	slices.Sort(took)
	for _, p := range []struct {
		name string
		of   float64
	}{{"p50-ns", 0.5}, {"p99-ns", 0.99}, {"p99.9-ns", 0.999}} {
		b.ReportMetric(float64(took[int(p.of*float64(len(took)-1))]), p.name)
	}
}

// BenchmarkBytesPerBinding is what a live binding takes: as it is accounted
// for, and as the heap grows.
func BenchmarkBytesPerBinding(b *testing.B) {
	for _, bindings := range []int{10_000, 100_000, 1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("bindings=%d", bindings), func(b *testing.B) {
			if bindings > 1_000_000 && testing.Short() {
				b.Skip("takes 2 GiB; run without -short")
			}
			for range b.N {
				before := heap()
				l := newLive(bindings)
				l.tokens = nil
				grown := heap() - before
				b.ReportMetric(float64(l.e.Stats().Bytes)/float64(bindings), "accounted-B/binding")
				b.ReportMetric(float64(grown)/float64(bindings), "heap-B/binding")
				runtime.KeepAlive(l)
			}
		})
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBusyWorkload is an event with a credential of a workload on which
// ten tool calls are active at once, and of which hundreds ran before.
func BenchmarkBusyWorkload(b *testing.B) {
	e := New(Config{OutOfOrderness: time.Second, AllowedLateness: time.Second})
	pod := schemas.Key{Kind: schemas.KindWorkload, Namespace: "k8s.pod_uid", Value: "pod"}
	cred := schemas.Key{Kind: schemas.KindToken, Namespace: "aws.access_key", Value: "ASIA0123456789"}
	alice := schemas.Key{Kind: schemas.KindHuman, Namespace: "email", Value: "alice@example.com"}
	conv := schemas.Key{Kind: schemas.KindSession, Namespace: "conv", Value: "c"}
	var out Output
	for i := range 500 {
		span := schemas.Key{Kind: schemas.KindCall, Namespace: "span", Value: fmt.Sprintf("0123456789abcdef0123456789abcdef/%016x", i)}
		from, until := noon-int64(i)*int64(time.Minute), noon-int64(i)*int64(time.Minute)+int64(30*time.Second)
		if i < 10 {
			from, until = noon, noon+int64(1000*time.Hour)
		}
		ev := schemas.Event{ID: schemas.MakeID("call", fmt.Sprint(i)), TimeNanos: noon, BindOnly: "x", Evidence: schemas.Evidence{Topic: "t"}}
		ev.Makes = []schemas.Binding{
			bind(pod, span, schemas.RelationInvoked, schemas.StrengthWeak, from, until),
			bind(span, conv, schemas.RelationRanAs, schemas.StrengthExact, 0, 0),
			bind(conv, alice, schemas.RelationAuthenticated, schemas.StrengthExact, 0, 0),
			bind(cred, pod, schemas.RelationIssued, schemas.StrengthExact, noon-int64(2*time.Hour), 0),
		}
		e.Process(&out, []schemas.Event{ev})
	}
	out.Reset()
	const batch = 1000
	events := make([]schemas.Event, batch)
	i, n := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		ev := &events[n]
		i++
		ev.ID = schemas.ID{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24)}
		ev.Source, ev.Class, ev.Action, ev.Outcome = "aws.cloudtrail", schemas.ClassAPICall, "s3:GetObject", schemas.OutcomeSuccess
		ev.TimeNanos = noon + int64(i)*int64(time.Millisecond)
		ev.Evidence = schemas.Evidence{Topic: "t", Offset: int64(i)}
		ev.Keys = append(ev.Keys[:0], cred)
		if n++; n == batch {
			e.Process(&out, events)
			out.Reset()
			n = 0
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
