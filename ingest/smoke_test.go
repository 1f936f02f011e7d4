package ingest

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"catena/schemas"
	"catena/schemas/sources"
)

func TestSmoke(t *testing.T) {
	set, err := sources.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDecoder(set, DecoderOptions{HMACKey: []byte("0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, g := range []string{"cloudtrail-stratus/*.json", "real-software/kubernetes/*.jsonl", "real-software/opa/*.jsonl", "real-software/mcp*/traces.otlp.jsonl", "real-software/otel-kafka/*.jsonl","mixed-plaso/*.jsonl"} {
		m, _ := filepath.Glob("/work/shared/samples/" + g)
		files = append(files, m...)
	}
	for _, f := range files {
		b, _ := os.ReadFile(f)
		var out Decoded
		counts := map[string]int{}
		sc := bufio.NewScanner(bytes.NewReader(b))
		sc.Buffer(nil, 1<<24)
		if filepath.Ext(f) == ".json" {
			d.Decode(&out, &schemas.Record{Value: b})
		} else {
			for sc.Scan() {
				v := append([]byte(nil), sc.Bytes()...)
				r := schemas.Record{Value: v}
				var kr struct {
					Topic string `json:"topic"`
					V     string `json:"value_b64"`
				}
				if json.Unmarshal(v, &kr) == nil && kr.V != "" {
					r.Topic = kr.Topic
					r.Value, _ = base64.StdEncoding.DecodeString(kr.V)
				}
				d.Decode(&out, &r)
			}
		}
		for _, e := range out.Events {
			counts[e.Source]++
		}
		fmt.Println(filepath.Base(f), counts, "dead", len(out.Dead), "skips", out.Skips, "secret", out.SecretKeys)
		for i, x := range out.Dead {
			if i < 3 {
				fmt.Println("   ", x.Reason, x.Error)
			}
		}
	}
}
