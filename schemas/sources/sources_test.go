package sources

import "testing"

func TestEmbedded(t *testing.T) {
	set, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range set.Sources() {
		t.Log(s.Priority, s.Name, len(s.Rules))
	}
}
