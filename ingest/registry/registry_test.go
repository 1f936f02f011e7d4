package registry

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	userAvro = `{"type":"record","name":"User","namespace":"acme","fields":[{"name":"email","type":"string"}]}`
	openAvro = `{"type":"record","name":"Opened","namespace":"acme","fields":[
		{"name":"who","type":"acme.User"},{"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},{"name":"door","type":["null","string"]},{"name":"kind","type":{"type":"enum","name":"Kind","symbols":["IN","OUT"]}},
		{"name":"raw","type":"bytes"},{"name":"tags","type":{"type":"map","values":"long"}},{"name":"list","type":{"type":"array","items":"double"}},{"name":"fee","type":{"type":"bytes","logicalType":"decimal","precision":6,"scale":2}},{"name":"ok","type":"boolean"}]}`
	commonProto = `syntax = "proto3"; package acme; message User { string email = 1; }`
	openProto   = `syntax = "proto3"; package acme; import "acme/common.proto"; import "google/protobuf/timestamp.proto";
		message Unrelated { string x = 1; }
		message Door { message Opened { User who = 1; google.protobuf.Timestamp opened_at = 2; int64 door = 3; repeated string tags = 4; } }`
	openJSON = `{"type":"object","properties":{"who":{"type":"string"}}}`
)

// newRegistry starts a registry with the schemas above, and counts what it is
// asked.
func newRegistry(t *testing.T, opts Options) (*Registry, *srfake.Registry, *atomic.Int64) {
	t.Helper()
	fake := srfake.New()
	t.Cleanup(fake.Close)
	ref := func(name, subject string) []sr.SchemaReference {
		return []sr.SchemaReference{{Name: name, Subject: subject, Version: 1}}
	}
	fake.SeedSchema("user", 1, 1, sr.Schema{Schema: userAvro})
	fake.SeedSchema("opened", 1, 2, sr.Schema{Schema: openAvro, References: ref("acme.User", "user")})
	fake.SeedSchema("common", 1, 3, sr.Schema{Schema: commonProto, Type: sr.TypeProtobuf})
	fake.SeedSchema("opened-proto", 1, 4, sr.Schema{Schema: openProto, Type: sr.TypeProtobuf, References: ref("acme/common.proto", "common")})
	fake.SeedSchema("opened-json", 1, 5, sr.Schema{Schema: openJSON, Type: sr.TypeJSON})
	fake.SeedSchema("broken", 1, 6, sr.Schema{Schema: `syntax = "proto3"; message {`, Type: sr.TypeProtobuf})
	asked := new(atomic.Int64)
	fake.Intercept(func(http.ResponseWriter, *http.Request) bool { asked.Add(1); return false })
	opts.URLs, opts.Log = []string{fake.URL()}, slog.New(slog.DiscardHandler)
	r, err := New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return r, fake, asked
}

func frame(id uint32, rest ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, id), rest...)
}

func avroRecord(t *testing.T) []byte {
	t.Helper()
	var cache avro.SchemaCache
	if _, err := cache.Parse(userAvro); err != nil {
		t.Fatal(err)
	}
	s, err := cache.Parse(openAvro)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Encode(map[string]any{"who": map[string]any{"email": "alice@example.com"}, "at": time.UnixMilli(1795452232281).UTC(), "door": "7", "kind": "OUT", "raw": []byte{0, 255},
		"tags": map[string]any{"b": int64(2), "a": int64(1 << 60)}, "list": []any{1.5, 3.0}, "fee": big.NewRat(1250, 100), "ok": true})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// protoRecord is a Door.Opened.
func protoRecord() (b []byte) {
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendBytes(b, append([]byte("\x0a\x11"), "alice@example.com"...))
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendBytes(b, protowire.AppendVarint([]byte("\x08"), 1795452232))
	b = protowire.AppendTag(b, 3, protowire.VarintType)
	b = protowire.AppendVarint(b, 7)
	b = protowire.AppendTag(b, 4, protowire.BytesType)
	return protowire.AppendString(b, "in")
}

func TestFormats(t *testing.T) {
	r, _, asked := newRegistry(t, Options{})
	guids := map[string]uuid.UUID{}
	for _, subject := range []string{"opened", "opened-proto"} {
		s, err := r.client.SchemaByVersion(t.Context(), subject, 1)
		if err != nil {
			t.Fatal(err)
		}
		guids[subject] = uuid.MustParse(s.GUID)
	}
	const wantAvro = `{"at":"2026-11-23T16:43:52.281Z","door":"7","fee":"12.5","kind":"OUT","list":[1.5,3],"ok":true,"raw":"AP8=","tags":{"a":1152921504606846976,"b":2},"who":{"email":"alice@example.com"}}`
	const wantProto = `{"who":{"email":"alice@example.com"},"openedAt":"2026-11-23T16:43:52Z","door":"7","tags":["in"]}`
	inProto := []byte{4, 2, 0} // two indexes, zigzag: message 1, and 0 in it
	byGUID := func(subject string, more ...byte) []byte {
		g := guids[subject]
		return append(append([]byte{1}, g[:]...), more...)
	}
	for _, c := range []struct {
		name          string
		value, header []byte
		want          string
	}{
		{"json", frame(5, []byte(`{"who": "alice"}`)...), nil, `{"who": "alice"}`},
		{"avro", frame(2, avroRecord(t)...), nil, wantAvro}, {"avro, id in the header", avroRecord(t), frame(2), wantAvro}, {"avro, GUID in the header", avroRecord(t), byGUID("opened"), wantAvro},
		{"protobuf", frame(4, append(inProto, protoRecord()...)...), nil, wantProto}, {"protobuf, GUID in the header", protoRecord(), byGUID("opened-proto", inProto...), wantProto},
		{"protobuf, the first message", frame(4, append([]byte{0}, "\x0a\x01x"...)...), nil, `{"x":"x"}`},
	} {
		for range 2 { // fetched, and kept
			got, err := r.JSON([]byte("before "), c.value, c.header)
			if err != nil || string(got) != "before "+c.want {
				t.Errorf("%s: got %s, %v\nwant %s", c.name, got, err, c.want)
			}
		}
	}
	n := asked.Load()
	if _, err := r.JSON(nil, frame(2, avroRecord(t)...), nil); err != nil || asked.Load() != n {
		t.Errorf("asked again for a schema that is kept: %v", err)
	}
}

// TestFaults: what is wrong with a record, or its schema, is told and not
// waited for.
func TestFaults(t *testing.T) {
	r, fake, asked := newRegistry(t, Options{})
	deep := append([]byte{0}, "\x0a\x01"...)
	for _, c := range []struct {
		name          string
		value, header []byte
		want          string
	}{
		{"no frame", []byte("{}"), nil, "names no schema"}, {"a short header", []byte("{}"), []byte{0, 1}, "names no schema"}, {"another magic byte", []byte("{}"), append([]byte{2}, make([]byte, 16)...), "names no schema"},
		{"an unknown schema", frame(99, 1), nil, "schema 99: the registry does not have it"}, {"a broken schema", frame(6, 0, 1), nil, "schema 6: cannot be compiled"},
		{"a short record", frame(2, 2), nil, "schema 2: "}, {"a record and more", frame(1, 2, 'a', 'b'), nil, "1 bytes follow the record"},
		{"no such message", frame(4, 2, 18), nil, "no message at the indexes"}, {"no such message inside", frame(4, 4, 0, 2), nil, "no message at the indexes"}, {"half of the indexes", frame(4, 4), nil, "message indexes"}, {"too many indexes", frame(4, append([]byte{200, 1}, make([]byte, 100)...)...), nil, "message indexes"},
		{"no Protobuf", frame(4, deep...), nil, "schema 4: "},
	} {
		_, err := r.JSON(nil, c.value, c.header)
		if err == nil || errors.Is(err, ErrAway) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
	n := asked.Load()
	if _, err := r.JSON(nil, frame(99, 1), nil); err == nil || asked.Load() != n {
		t.Errorf("asked again at once for a schema that is missing: %v", err)
	}
	fake.SeedSchema("late", 1, 99, sr.Schema{Schema: `"string"`})
	s := r.kept(ref{id: 99})
	s.until = time.Now().Add(-time.Second)
	if got, err := r.JSON(nil, frame(99, 2, 'x'), nil); err != nil || string(got) != `"x"` {
		t.Errorf("a schema that came later: %s, %v", got, err)
	}
}

// TestAway: a registry that does not answer is waited for; the record has no
// part in it.
func TestAway(t *testing.T) {
	r, fake, _ := newRegistry(t, Options{})
	var left atomic.Int64
	left.Store(3)
	fake.ClearInterceptors()
	fake.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		if left.Add(-1) < 0 {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	if got, err := r.JSON(nil, frame(1, 2, 'x'), nil); err != nil || string(got) != `{"email":"x"}` {
		t.Errorf("a registry that comes back: %s, %v", got, err)
	}

	left.Store(1 << 40)
	r.ctx = soon(t)
	if _, err := r.JSON(nil, frame(2, 2, 'x'), nil); !errors.Is(err, ErrAway) {
		t.Errorf("at the end of the process: got %v", err)
	}
}

// soon is a context that ends.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// TestRefusedIsAway: wrong credentials are no fault of the records.
func TestRefusedIsAway(t *testing.T) {
	r, fake, _ := newRegistry(t, Options{})
	r.ctx = soon(t)
	fake.Intercept(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusUnauthorized); return true })
	if _, err := r.JSON(nil, frame(1, 2, 'x'), nil); !errors.Is(err, ErrAway) {
		t.Errorf("got %v", err)
	}
}

// TestBound: no more schemas are kept than the limit.
func TestBound(t *testing.T) {
	r, _, _ := newRegistry(t, Options{})
	for id := range uint32(maxSchemas + 10) {
		if _, err := r.JSON(nil, frame(1000+id, 1), nil); err == nil {
			t.Fatal("a schema that is not there")
		}
	}
	if n := r.schemas.Len(); n != maxSchemas {
		t.Errorf("%d schemas are kept", n)
	}
}

func FuzzJSON(f *testing.F) {
	fake := srfake.New()
	f.Cleanup(fake.Close)
	fake.SeedSchema("user", 1, 1, sr.Schema{Schema: userAvro})
	fake.SeedSchema("opened", 1, 2, sr.Schema{Schema: openAvro, References: []sr.SchemaReference{{Name: "acme.User", Subject: "user", Version: 1}}})
	fake.SeedSchema("common", 1, 3, sr.Schema{Schema: commonProto, Type: sr.TypeProtobuf})
	fake.SeedSchema("opened-proto", 1, 4, sr.Schema{Schema: openProto, Type: sr.TypeProtobuf, References: []sr.SchemaReference{{Name: "acme/common.proto", Subject: "common", Version: 1}}})
	r, err := New(context.Background(), Options{URLs: []string{fake.URL()}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(byte(2), []byte("\x02x\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add(byte(4), append([]byte{4, 2, 0}, protoRecord()...))
	f.Add(byte(1), []byte("\x02x"))
	f.Fuzz(func(t *testing.T, id byte, payload []byte) {
		value := frame(uint32(id%5), payload...)
		a, err := r.JSON(nil, value, nil)
		b, _ := r.JSON(nil, value, nil)
		if err == nil && string(a) != string(b) {
			t.Fatalf("one record gives two documents: %s, %s", a, b)
		}
		if errors.Is(err, ErrAway) {
			t.Fatal(err)
		}
		if len(a) > 1000*len(value)+1000 {
			t.Fatalf("%d bytes of %d", len(a), len(value))
		}
	})
}
