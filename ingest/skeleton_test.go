package ingest

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// twoWalks walks over the same documents along skeletons and without them.
type twoWalks struct {
	program   *program
	skeletons *skeletons
	along     walker
	plain     walker
}

func newTwoWalks(p *program) *twoWalks {
	var memory [2]arena
	return &twoWalks{
		program: p, skeletons: newSkeletons(),
		along: walker{cursor: cursor{maxDepth: 16}, limit: 100, arena: &memory[0]},
		plain: walker{cursor: cursor{maxDepth: 16}, limit: 100, arena: &memory[1]},
	}
}

// check walks over a document and fails where the walks differ.
func (t *twoWalks) check(tb testing.TB, doc string) {
	tb.Helper()
	t.along.arena.reset()
	t.plain.arena.reset()
	t.along.open(doc)
	t.plain.open(doc)
	end, want := t.skeletons.walk(&t.along, t.program.trie, 0), t.plain.walkOver(t.program.trie, 0)
	if end != want || end < 0 && t.along.fault != t.plain.fault {
		tb.Fatalf("the end is %d (%v), want %d (%v), of %s", end, t.along.fault, want, t.plain.fault, doc)
	}
	if end < 0 {
		return
	}
	if t.along.high&highBits == 0 && strings.ContainsFunc(doc[:end], func(r rune) bool { return r >= utf8.RuneSelf }) {
		tb.Errorf("bytes that are not ASCII went unnoticed in %s", doc)
	}
	if !slices.Equal(t.along.has, t.plain.has) || !slices.Equal(t.along.counts, t.plain.counts) || !slices.Equal(t.along.many, t.plain.many) || t.along.items != t.plain.items {
		tb.Errorf("slots %x with %v, want %x with %v, of %s", t.along.has, t.along.many, t.plain.has, t.plain.many, doc)
	}
	for i := range t.program.trie.slots {
		if t.plain.filled(int32(i)) && t.along.slots[i] != t.plain.slots[i] {
			tb.Errorf("slot %s: %+v, want %+v, of %s", t.program.trie.slots[i].path, t.along.slots[i], t.plain.slots[i], doc)
		}
	}
}

// goesAlong reports whether a document has a skeleton that is known.
func (t *twoWalks) goesAlong(doc string) bool {
	t.along.open(doc)
	t.along.begin(t.program.trie)
	end, _, _ := t.along.follow(t.skeletons, 0)
	return end >= 0
}

// TestSkeletons walks over the golden records of each source, and over the same with
// a few bytes changed, along the skeletons of all that came before.
func TestSkeletons(t *testing.T) {
	d := newDecoder(t, DecoderOptions{})
	for i, p := range d.programs {
		t.Run(p.source.Name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			walks, docs, along := newTwoWalks(p), []string(nil), 0
			for _, f := range testdata(t, p.source.Name) {
				for _, v := range recordsOf(t, f) {
					if len(v) > 0 && v[0] == '{' {
						docs = append(docs, string(v))
					}
				}
			}
			for range 3 {
				for _, doc := range docs {
					walks.check(t, doc)
				}
			}
			for _, doc := range docs {
				if walks.goesAlong(doc) {
					along++
				}
			}
			if along < len(docs)*3/4 {
				t.Errorf("%d of %d records go along a skeleton", along, len(docs))
			}
			const bytes = `"\{}[],: 0-1tfnuae` + "\n\xff"
			for range 200 {
				for _, doc := range docs {
					b := []byte(doc)
					for range 1 + random.IntN(2) {
						at, c := random.IntN(len(b)), bytes[random.IntN(len(bytes))]
						switch random.IntN(4) {
						case 0:
							b[at] = c
						case 1:
							b = slices.Insert(b, at, c)
						case 2:
							b = slices.Delete(b, at, at+1)
						default:
							b = b[:at+1]
						}
					}
					walks.skeletons.luck = maxLuck
					walks.check(t, string(b))
				}
			}
		})
	}
}

// FuzzSkeletons walks over a document along the skeletons of others.
func FuzzSkeletons(f *testing.F) {
	d := newDecoder(f, DecoderOptions{})
	f.Add(`{"a":1}`, `{"a":"x"}`)
	f.Add(cloudtrailRecord, cloudtrailRecord[:len(cloudtrailRecord)-2]+`,"x":{}}`)
	f.Add(`{"kind":"x","spec":{"a":[]}}`, `{"kind":null,"spec":{"a":""}}`)
	f.Fuzz(func(t *testing.T, first, second string) {
		for _, p := range []*program{d.recognise, d.programs[0], d.programs[len(d.programs)/2]} {
			walks := newTwoWalks(p)
			for _, doc := range []string{first, first, second, second, first, second} {
				if doc != "" && doc[0] == '{' {
					walks.check(t, doc)
				}
			}
		}
	})
}

// TestSkeletonsOfStrings goes astray in a document that stands in a string.
func TestSkeletonsOfStrings(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, header+"tenant: '{inner~json.a}{x}'\n")
	walks := newTwoWalks(d.programs[0])
	const before = `{"kind":"t","time":"2026-03-02T09:00:00Z","something":"else","inner":`
	for _, doc := range []string{
		before + `"{\"a\":\"b\"}","x":"y"}`, before + `"{\"a\":\"b\"}","x":"y"}`, before + `"{\"a\":\"c\"}","x":"z"}`,
		before + `"{\"a\":1,\"a\":2}","x":"y"}`, before + `"{\"a\":1","x":"y"}`, before + `{"a":1},"x":"y"}`, before + `"{\"a\":[]}","x":1}`,
	} {
		walks.check(t, doc)
	}
}

// TestElementOfStrings finds what is wrong in a document that stands in a string
// of an element, and what is wrong with the element before that.
func TestElementOfStrings(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, header+"tenant: '{list[k=v].inner~json.a}'\n")
	const before = `{"match":1,"something":"else","list":[{"k":"v","inner":"{\"a\":1,\"a\":2}"`
	for _, c := range []struct{ doc, want string }{
		{before + `}]}`, "an object has a member twice, with different values (inside a string of JSON, counted from its start)"},
		{before + `,]}`, "expected the name of a member"},
	} {
		out := decode(d, c.doc)
		if len(out.Dead) != 1 || !strings.Contains(out.Dead[0].Error, c.want) {
			t.Errorf("%s: %+v, want one that says %q", c.doc, out.Dead, c.want)
		}
	}
}
