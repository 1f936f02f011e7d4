package jsonl

import (
	"testing"

	"catena/schemas"
	"catena/sinks/sinktest"
)

func TestBindingRoundTrip(t *testing.T) {
	all := append(sinktest.Bindings(50), schemas.Binding{Child: schemas.Key{Kind: schemas.KindToken, Namespace: "jti", Value: "only:a<child>"},
		Relation: schemas.RelationRevoked, Strength: schemas.StrengthExact})
	for _, b := range all {
		text, err := AppendBinding(nil, &b)
		if err != nil {
			t.Fatal(err)
		}
		want := b
		want.Evidence.RawSHA256, want.Evidence.TimestampNanos = [32]byte{}, 0 // of the evidence, the place
		got, err := DecodeBinding(text)
		if err != nil || got != want {
			t.Fatalf("%s\ngot  %+v, %v\nwant %+v", text, got, err, want)
		}
	}
	for _, bad := range []string{``, `{`, `{"child":"token:jti:x","relation":"dreamt","strength":"exact","proof":"00000000-0000-0000-0000-000000000000"}`,
		`{"relation":"issued","strength":"exact","proof":"00000000-0000-0000-0000-000000000000"}`, `[]`} {
		if b, err := DecodeBinding([]byte(bad)); err == nil {
			t.Errorf("%s became %+v", bad, b)
		}
	}
}

func FuzzDecodeBinding(f *testing.F) {
	for _, b := range sinktest.Bindings(3) {
		text, _ := AppendBinding(nil, &b)
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := DecodeBinding(text)
		if err != nil {
			return
		}
		again, err := AppendBinding(nil, &b)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := DecodeBinding(again); err != nil || c != b {
			t.Fatalf("%+v became %+v, %v", b, c, err)
		}
	})
}
