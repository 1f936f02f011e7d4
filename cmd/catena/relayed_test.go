package main

import (
	"encoding/json"
	"os"
	"testing"

	"catena/schemas"
)

// TestForgedInLogs: a container prints a login of Okta, and a use of the session
// that it made up. Nothing of it is proven, while the same records are when they
// come from Okta itself.
func TestForgedInLogs(t *testing.T) {
	var records [][]byte
	for _, name := range []string{"login", "api_token_use"} {
		b, err := os.ReadFile("../../schemas/sources/okta.system/testdata/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, b)
	}
	printed := func(record []byte) []byte {
		b, err := json.Marshal(map[string]any{"log": string(record), "stream": "stdout", "kubernetes": map[string]any{"pod_name": "web-0", "pod_id": "00000000-0000-4000-8000-00000000000b"}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, forged := range []bool{true, false} {
		var list []schemas.Record
		for i, r := range records {
			if forged {
				r = printed(r)
			}
			list = append(list, schemas.Record{Topic: "logs", Offset: int64(i), Value: r})
		}
		rows, _ := stitchAll(t, list, 1)
		if len(rows) != len(records) {
			t.Fatalf("forged %v: %d rows", forged, len(rows))
		}
		proven := 0
		for _, a := range rows {
			if a.Grade == schemas.GradeProven {
				proven++
			}
			if relayed := a.Flags&schemas.FlagRelayed != 0; relayed != forged {
				t.Errorf("forged %v: %s has flags %s", forged, a.Action, a.Flags)
			}
		}
		if forged && proven > 0 || !forged && proven == 0 {
			t.Errorf("forged %v: %d rows are proven", forged, proven)
		}
	}
}
