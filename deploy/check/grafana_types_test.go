package check

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// TestGrafanaTypes decodes each dashboard strictly into the types that Grafana
// generates from its own schemas: a member that is unknown or missing is a
// fault, also in the options of the panels.
func TestGrafanaTypes(t *testing.T) {
	plugins.RegisterDefaultPlugins()
	names, err := filepath.Glob("../grafana/dashboards/*.json")
	if err != nil || len(names) < 6 {
		t.Fatalf("%d dashboards, %v", len(names), err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var strict, loose dashboard.Dashboard
		if err := strict.UnmarshalJSONStrict(text); err != nil && err.Error() != "" {
			t.Errorf("%s: %v", name, err)
		}
		if err := json.Unmarshal(text, &loose); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if err := loose.Validate(); err != nil && err.Error() != "" {
			t.Errorf("%s: %v", name, err)
		}
		if len(loose.Panels) == 0 {
			t.Errorf("%s has no panels", name)
		}
	}
}
