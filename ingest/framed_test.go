package ingest

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"catena/ingest/registry"
	"catena/schemas"
)

func framedValue(id uint32, payload string) string {
	return string(binary.BigEndian.AppendUint32([]byte{0}, id)) + payload
}

// TestFramed decodes records in the wire format of a schema registry: what comes
// out is what JSON of the same would give.
func TestFramed(t *testing.T) {
	fake := srfake.New()
	defer fake.Close()
	fake.SeedSchema("json", 1, 1, sr.Schema{Schema: `{"type":"object"}`, Type: sr.TypeJSON})
	fake.SeedSchema("avro", 1, 2, sr.Schema{Schema: `{"type":"record","name":"R","fields":[{"name":"match","type":"int"},{"name":"id","type":"string"},{"name":"time","type":{"type":"long","logicalType":"timestamp-millis"}}]}`})
	fake.SeedSchema("proto", 1, 3, sr.Schema{Schema: `syntax = "proto3"; message R { int32 match = 1; string id = 2; string time = 3; repeated R in = 4; }`, Type: sr.TypeProtobuf})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := registry.New(ctx, registry.Options{URLs: []string{fake.URL()}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	d := testDecoder(t, DecoderOptions{Registry: r, MaxRecordBytes: 1 << 16, MaxDepth: 8}, header+"tenant: '{id}'\n")
	millis := "\xb2\x89\xd7\x94\xc1\x68" // zigzag
	for _, c := range []struct {
		name, value, header string
		events              int
		dead                string
	}{
		{"json", framedValue(1, `{"match":1,"id":"x"}`), "", 1, ""}, {"json of several", framedValue(1, `[{"match":1,"id":"x"},{"match":1,"id":"x"}]`), "", 2, ""}, {"plain JSON beside", `{"match":1,"id":"x"}`, "", 1, ""},
		{"avro", framedValue(2, "\x02\x02x"+millis), "", 1, ""}, {"avro by header", "\x02\x02x" + millis, framedValue(2, ""), 1, ""},
		{"protobuf", framedValue(3, "\x00\x08\x01\x12\x01x"), "", 1, ""},
		{"short", framedValue(2, "\x02"), "", 0, "malformed: the record is in the wire format of a schema registry: schema 2: "}, {"no such schema", framedValue(9, "x"), "", 0, "malformed: the record is in the wire format of a schema registry: schema 9: the registry does not have it"},
		{"deep", framedValue(3, "\x00"+nestedProto(20)), "", 0, "too_deep: nested deeper"},
		{"no frame", "\x00\x01", "", 0, "unknown_format"},
	} {
		rec := schemas.Record{Topic: "t", Value: []byte(c.value)}
		if c.header != "" {
			rec.Headers = []schemas.Header{{Key: registry.Header, Value: []byte(c.header)}}
		}
		var out Decoded
		d.Decode(&out, &rec)
		if len(out.Events) != c.events || out.Err != nil || c.dead == "" && len(out.Dead) > 0 {
			t.Errorf("%s: %v\n%s", c.name, out.Err, textOfDecoded(&out))
			continue
		}
		for i := range out.Events {
			if out.Events[i].Tenant != "x" {
				t.Errorf("%s: got %+v", c.name, out.Events[i])
			}
		}
		if c.dead != "" && (len(out.Dead) != 1 || !strings.HasPrefix(out.Dead[0].Reason.String()+": "+out.Dead[0].Error, c.dead)) {
			t.Errorf("%s: want %s:\n%s", c.name, c.dead, textOfDecoded(&out))
		}
	}

	// A registry that is away leaves no dead letter, and no half of a batch.
	fake.Intercept(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true })
	time.AfterFunc(200*time.Millisecond, cancel)
	var out Decoded
	d.Decode(&out, &schemas.Record{Topic: "t", Value: []byte(framedValue(7, "x"))})
	d.Decode(&out, &schemas.Record{Topic: "t", Value: []byte(framedValue(8, "x"))})
	if !errors.Is(out.Err, registry.ErrAway) || len(out.Dead)+len(out.Events)+len(out.Skips) > 0 {
		t.Errorf("away: %v\n%s", out.Err, textOfDecoded(&out))
	}
	if out.Reset(); out.Err != nil {
		t.Error("the error stays")
	}
}

// nestedProto is a message in itself, so many times.
func nestedProto(n int) string {
	s := ""
	for range n {
		s = "\x22" + string(rune(len(s))) + s
	}
	return s
}

// TestFramedWithoutRegistry: JSON is read all the same, and of the rest the dead
// letter says what is missing.
func TestFramedWithoutRegistry(t *testing.T) {
	d := testDecoder(t, DecoderOptions{}, header+"tenant: '{id}'\n")
	if ev := oneEvent(t, d, framedValue(77, `{"match":1,"id":"x"}`)); ev.Tenant != "x" {
		t.Errorf("got %+v", ev)
	}
	out := decode(d, framedValue(77, "\x02\x02x"))
	if len(out.Dead) != 1 || !strings.Contains(out.Dead[0].Error, "schema 77 of a schema registry: set CATENA_SCHEMA_REGISTRY") {
		t.Errorf("got:\n%s", textOfDecoded(out))
	}
}
