package jsonl

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"catena/schemas"
	"catena/sinks"
	"catena/sinks/sinktest"
)

func TestConformance(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Subject {
		var actions, dead bytes.Buffer
		return sinktest.Subject{
			Sink: New(&actions, &dead),
			Read: func(t testing.TB) []*schemas.Action { return newest(t, actions.String()) },
		}
	})
}

// newest decodes lines and keeps the highest version of each event.
func newest(t testing.TB, text string) []*schemas.Action {
	t.Helper()
	byID := map[schemas.ID]*schemas.Action{}
	for l := range strings.Lines(text) {
		a, err := Decode([]byte(l))
		if err != nil {
			t.Fatal(err)
		}
		if old := byID[a.ID]; old == nil || a.Version >= old.Version {
			byID[a.ID] = a
		}
	}
	var all []*schemas.Action
	for _, a := range byID {
		all = append(all, a)
	}
	return all
}

func TestColumnsAreThoseOfTheTable(t *testing.T) {
	var names []string
	for f := range reflect.TypeFor[line]().Fields() {
		names = append(names, f.Tag.Get("json"))
	}
	if !slices.Equal(names, sinks.ActionColumns()) {
		t.Errorf("columns of a line\n%v\nare not those of the table\n%v", names, sinks.ActionColumns())
	}
	var out bytes.Buffer
	if err := Encode(&out, sinktest.Bare()); err != nil {
		t.Fatal(err)
	}
	if got := keysOf(t, out.Bytes()); !slices.Equal(got, names) {
		t.Errorf("a bare row has the keys\n%v\nwant all of\n%v", got, names)
	}
}

// keysOf returns the keys of an object in the order in which they stand.
func keysOf(t *testing.T, object []byte) (keys []string) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(object))
	depth, key := 0, true
	for {
		token, err := d.Token()
		if err != nil {
			return keys
		}
		switch v := token.(type) {
		case json.Delim:
			if v == '{' || v == '[' {
				depth++
			} else {
				depth--
			}
			key = depth == 1
		case string:
			if depth == 1 && key {
				keys = append(keys, v)
			}
			key = depth == 1 && !key
		default:
			key = depth == 1
		}
	}
}

func TestEncodeReadsWell(t *testing.T) {
	a := sinktest.Full()
	a.Event.Action = "a <b> & c"
	a.TimeNanos = 1_722_455_553_000_000_999
	var out bytes.Buffer
	if err := Encode(&out, a); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"event_time":"2024-07-31T19:52:33.000000Z"`,
		`"attributed_at":"1970-01-01T00:00:00.000000Z"`,
		`"action":"a <b> & c"`,
		`"token":"token:test.ns:t:with:colons"`,
		`"actor_kind":"agent","actor_id":"test.ns:a:b:c"`,
		`"flags":["divergent","new_source_ip",`,
		`"partition":2147483647,"offset":9223372036854775807`,
		`"version":18446744073709551615`,
		`"at":"2026-03-01T08:00:00.123456796Z"`,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is not in\n%s", want, out.String())
		}
	}
	if n := strings.Count(out.String(), "\n"); n != 1 {
		t.Errorf("%d line ends, want 1", n)
	}
}

func TestInvalidUTF8IsReplaced(t *testing.T) {
	a := sinktest.Bare()
	a.Resource = "a\xffb"
	var out bytes.Buffer
	if err := Encode(&out, a); err != nil {
		t.Fatal(err)
	}
	back, err := Decode(out.Bytes())
	if err != nil || back.Resource != "a\ufffdb" {
		t.Errorf("resource %q, error %v", back.Resource, err)
	}
}

func TestDecodeNamesWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		`{`:                "unexpected end of JSON input",
		`{"event_id":"x"}`: `id "x"`,
		`{"event_id":"00000000-0000-0000-0000-000000000000","grade":"certain"}`: `grade: unknown word "certain"`,
	} {
		if _, err := Decode([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Decode(%s): %v; want %s", text, err, want)
		}
	}
}

func TestDeadLettersKeepTheirBytes(t *testing.T) {
	var actions, dead bytes.Buffer
	letters := sinktest.DeadLetters()
	if err := New(&actions, &dead).Write(t.Context(), &sinks.Batch{DeadLetters: letters}); err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(&dead)
	for _, want := range letters {
		var got deadLetter
		if err := d.Decode(&got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes, want.Bytes) || got.Error != want.Error || got.Reason != want.Reason.String() || got.Offset != want.Evidence.Offset {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWriteErrorIsWorthARetry(t *testing.T) {
	var w brokenWriter
	err := New(&w, &w).Write(t.Context(), &sinks.Batch{Actions: sinktest.Actions(1)})
	if err == nil || sinks.IsPermanent(err) {
		t.Errorf("error %v; want one that is not permanent", err)
	}
}

func BenchmarkEncode(b *testing.B) {
	rows := sinktest.Actions(1000)
	var out bytes.Buffer
	e := NewEncoder(&out)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		out.Reset()
		for _, a := range rows {
			if err := e.Encode(a, 0); err != nil {
				b.Fatal(err)
			}
		}
		n += len(rows)
		b.SetBytes(int64(out.Len()))
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
}
