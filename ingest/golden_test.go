package ingest

import (
	"bytes"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"catena/schemas"
	"catena/schemas/sources"
)

var update = flag.Bool("update", false, "write the .golden files again")

// testKey keys the HMAC in tests, so that goldens do not change.
var testKey = []byte("catena golden key")

// TestGolden decodes schemas/sources/<name>/testdata/<situation>.{json,jsonl,b64}
// and compares what comes out with <situation>.golden. A .json file is one
// record; .jsonl and .b64 hold one on each line, the latter in base64.
func TestGolden(t *testing.T) {
	set, err := sources.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDecoder(set, DecoderOptions{HMACKey: testKey})
	if err != nil {
		t.Fatal(err)
	}
	for _, src := range set.Sources() {
		files := testdata(t, src.Name)
		if len(files) == 0 {
			t.Errorf("source %s has no testdata", src.Name)
		}
		for _, file := range files {
			t.Run(src.Name+"/"+filepath.Base(file), func(t *testing.T) { golden(t, d.Clone(), src.Name, file) })
		}
	}
}

func testdata(t testing.TB, source string) (files []string) {
	for _, ext := range []string{"*.json", "*.jsonl", "*.b64"} {
		found, err := filepath.Glob(filepath.Join("..", "schemas", "sources", source, "testdata", ext))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	slices.Sort(files)
	return files
}

// goldenNanos is when Kafka got the records: noon of a day on which no fixture plays.
const goldenNanos = 1772712000 * int64(time.Second)

func golden(t *testing.T, d *Decoder, source, file string) {
	var out Decoded
	for i, value := range recordsOf(t, file) {
		d.Decode(&out, &schemas.Record{Topic: "golden", Offset: int64(i), Value: value, TimestampNanos: goldenNanos})
	}
	for _, ev := range out.Events {
		if ev.Source != source {
			t.Errorf("an event of this folder comes out as one of %s", ev.Source)
		}
	}
	got := textOfDecoded(&out)
	name := strings.TrimSuffix(file, filepath.Ext(file)) + ".golden"
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v (go test ./ingest -run Golden -update writes it)", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("differs from %s; go test ./ingest -run Golden -update writes it again:\n%s", name, lineDiff(string(want), string(got)))
	}
}

// recordsOf reads the record values of a testdata file.
func recordsOf(t testing.TB, file string) (values [][]byte) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Ext(file) == ".json" {
		return [][]byte{data}
	}
	for line := range bytes.Lines(data) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if filepath.Ext(file) == ".b64" {
			plain, err := base64.StdEncoding.DecodeString(string(line))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			line = plain
		}
		values = append(values, line)
	}
	return values
}

// textOfDecoded writes what was decoded, one field a line.
func textOfDecoded(out *Decoded) []byte {
	var b bytes.Buffer
	for i := range out.Events {
		writeEvent(&b, &out.Events[i])
	}
	for _, x := range out.Dead {
		fmt.Fprintf(&b, "dead letter %s\n", place(x.Evidence))
		line(&b, "reason", x.Reason.String())
		line(&b, "error", x.Error)
		line(&b, "bytes", fmt.Sprintf("%q", x.Bytes[:min(len(x.Bytes), 200)]))
	}
	for _, s := range out.Skips {
		fmt.Fprintf(&b, "skip %s %s %d\n", s.Name, s.Source, s.Count)
	}
	if out.SecretKeys > 0 {
		fmt.Fprintf(&b, "keys that were secrets: %d\n", out.SecretKeys)
	}
	return b.Bytes()
}

func place(e schemas.Evidence) string { return fmt.Sprintf("%d.%d", e.Offset, e.RecordIndex) }

func line(b *bytes.Buffer, name, value string) {
	if value != "" {
		fmt.Fprintf(b, "  %-14s %s\n", name, strings.ReplaceAll(value, "\n", `\n`))
	}
}

func instant(nanos int64) string {
	if nanos == 0 {
		return ""
	}
	return time.Unix(0, nanos).UTC().Format(time.RFC3339Nano)
}

func writeEvent(b *bytes.Buffer, ev *schemas.Event) {
	fmt.Fprintf(b, "event %s\n", place(ev.Evidence))
	line(b, "id", ev.ID.String())
	line(b, "source", ev.Source)
	line(b, "time", instant(ev.TimeNanos))
	line(b, "ended", instant(ev.EndedNanos))
	if ev.ResolutionNanos > 0 {
		line(b, "resolution", time.Duration(ev.ResolutionNanos).String())
	}
	line(b, "class", ev.Class.String())
	line(b, "action", ev.Action)
	line(b, "resource", ev.Resource)
	line(b, "outcome", ev.Outcome.String())
	line(b, "tenant", ev.Tenant)
	line(b, "actor", named(ev.Actor, ev.ActorName))
	for _, k := range ev.Keys {
		line(b, "key", k.String())
	}
	for i := range ev.Makes {
		line(b, "makes", makesText(&ev.Makes[i]))
	}
	for _, end := range ev.Ends {
		word := "ended"
		if end.Revoked {
			word = "revoked"
		}
		line(b, "ends", fmt.Sprintf("%s %s at %s", end.Key, word, instant(end.AtNanos)))
	}
	line(b, "authority", ev.Authority)
	line(b, "scopes", ev.Scopes)
	line(b, "auth_method", ev.AuthMethod)
	if ev.MFA != schemas.MFAUnknown {
		line(b, "mfa", ev.MFA.String())
	}
	if ev.Decision != (schemas.Decision{}) {
		line(b, "decision", fmt.Sprintf("%s id=%s policy=%s", ev.Decision.Verdict, ev.Decision.ID, ev.Decision.Policy))
	}
	line(b, "source_ip", ev.SourceIP)
	line(b, "user_agent", ev.UserAgent)
	line(b, "trace_id", ev.TraceID)
	line(b, "span_id", ev.SpanID)
	for _, a := range ev.Attributes {
		line(b, "attribute", a.Name+" = "+a.Value)
	}
	line(b, "flags", ev.Flags.String())
	for _, f := range []struct {
		name string
		is   bool
	}{{"redacted", ev.Redacted}, {"self_reported", ev.SelfReported}} {
		if f.is {
			line(b, f.name, "true")
		}
	}
	line(b, "bind_only", ev.BindOnly)
}

func named(k schemas.Key, name string) string {
	if name == "" {
		return k.String()
	}
	return fmt.Sprintf("%s (%s)", k, name)
}

func makesText(m *schemas.Binding) string {
	s := fmt.Sprintf("%s <- %s %s %s", named(m.Child, m.ChildName), m.Relation, named(m.Parent, m.ParentName), m.Strength)
	if m.FromNanos == 0 {
		s += " from always"
	} else {
		s += " from " + instant(m.FromNanos)
	}
	if m.UntilNanos != 0 {
		s += " until " + instant(m.UntilNanos)
	}
	if m.ExpiresNanos != 0 {
		s += " expires " + instant(m.ExpiresNanos)
	}
	if m.AuthMethod != "" {
		s += " method " + m.AuthMethod
	}
	if m.MFA != schemas.MFAUnknown {
		s += " mfa " + m.MFA.String()
	}
	return s
}

// lineDiff shows the lines that only one of two texts has.
func lineDiff(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var b strings.Builder
	for _, l := range w {
		if !slices.Contains(g, l) {
			b.WriteString("- " + l + "\n")
		}
	}
	for _, l := range g {
		if !slices.Contains(w, l) {
			b.WriteString("+ " + l + "\n")
		}
	}
	if b.Len() == 0 {
		return "the same lines in another order"
	}
	return b.String()
}
