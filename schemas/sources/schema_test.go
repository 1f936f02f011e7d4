package sources

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"catena/schemas"
)

// schemaFile is what editors check a source.yaml with.
const schemaFile = "../source.schema.json"

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fromYAML(t *testing.T, text []byte) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSchemaTakesEverySource(t *testing.T) {
	schema := compileSchema(t)
	set, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range set.Sources() {
		text, err := s.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(fromYAML(t, text)); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
}

// TestSchemaRefusesWhatTheParserRefuses: mistakes that an editor can see.
func TestSchemaRefusesWhatTheParserRefuses(t *testing.T) {
	schema := compileSchema(t)
	if err := schema.Validate(fromYAML(t, []byte(small))); err != nil {
		t.Fatalf("the smallest source: %v", err)
	}
	for _, text := range []string{
		"name: test\n", small + "nonsense: x", small + "class: nap", small + "priority: high", small + "self_reported: perhaps", small + "flags: [odd]",
		small + "keys: ['tocken:a:{b}']", small + "keys: [{when: {a: present}}]", small + "actor: {name: x}", small + "action: {a: b}", small + "time: noon\nid: []",
		small + "makes: [{child: 'token:a:{b}', parent: 'token:a:{c}', relation: issued}]",
		small + "makes: [{child: 'token:a:{b}', parent: 'token:a:{c}', relation: ended, strength: exact}]",
		small + "makes: [{child: 'token:a:{b}', parent: 'token:a:{c}', relation: issued, strength: sure}]",
		small + "rules: [{when: {a: {prefix: ''}}}]", small + "rules: [{when: {a: []}}]", small + "rules: [{when: {any: []}}]", small + "rules: [{when: {a: {begins: x}}}]",
		small + "rules: [{name: x}]", small + "ends: [{at: '{t}'}]", small + "decision: {answer: x}", strings.Replace(small, "{a: present}", "{}", 1), strings.Replace(small, "test", "'A test'", 1),
	} {
		if _, err := Parse("test", []byte(text)); err == nil {
			t.Errorf("the parser takes %q", text)
		}
		var v any
		if yaml.Unmarshal([]byte(text), &v) == nil && schema.Validate(v) == nil {
			t.Errorf("the schema takes %q", text)
		}
	}
}

// TestSchemaKnowsTheParsersWords: the same names and words stand in both.
func TestSchemaKnowsTheParsersWords(t *testing.T) {
	var schema struct {
		Properties  map[string]any
		Definitions struct {
			Rule, Condition struct{ Properties map[string]any }
			Check           struct {
				AnyOf []struct{ Properties map[string]any }
			}
			Template struct{ Description string }
			Key      struct{ Pattern string }
			Flag     struct{ Enum []string }
			Fields   struct {
				Properties struct {
					Class    struct{ Enum []string }
					Actor    struct{ Properties map[string]any }
					Decision struct{ Properties map[string]any }
					Keys     struct {
						Items struct {
							AnyOf []struct{ Properties map[string]any }
						}
					}
					Makes, Ends struct {
						Items struct{ Properties map[string]any }
					}
				}
			}
		}
	}
	text, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	d := &schema.Definitions
	fields := &d.Fields.Properties
	for _, c := range []struct {
		what, parser string
		schema       map[string]any
	}{
		{"a source", topNames, schema.Properties},
		{"a rule", ruleNames, d.Rule.Properties},
		{"actor", actorNames, fields.Actor.Properties},
		{"decision", decisionNames, fields.Decision.Properties},
		{"keys", keyNames, fields.Keys.Items.AnyOf[1].Properties},
		{"makes", makeNames, fields.Makes.Items.Properties},
		{"ends", endNames, fields.Ends.Items.Properties},
		{"a check", checkNames, d.Check.AnyOf[2].Properties},
		{"a condition", "any, none", d.Condition.Properties},
	} {
		want := slices.Sorted(strings.SplitSeq(c.parser, ", "))
		if got := slices.Sorted(maps.Keys(c.schema)); !slices.Equal(got, want) {
			t.Errorf("%s: the schema has %q, the parser %q", c.what, got, want)
		}
	}
	for _, c := range []struct {
		what, parser string
		schema       []string
	}{
		{"classes", words(schemas.ClassOther, schemas.Class.String), fields.Class.Enum},
		{"relations", strings.TrimSuffix(words(schemas.RelationNone, schemas.Relation.String), ", ended, revoked"), enumOf(t, fields.Makes.Items.Properties["relation"])},
		{"strengths", "exact, stated, weak", enumOf(t, fields.Makes.Items.Properties["strength"])},
		{"flags", strings.Join((^schemas.Flags(0)).Words(), ", "), d.Flag.Enum},
	} {
		if got := strings.Join(c.schema, ", "); got != c.parser {
			t.Errorf("%s: the schema has %q, the parser %q", c.what, got, c.parser)
		}
	}
	for k := schemas.KindRequest; k <= schemas.KindExternal; k++ {
		if !strings.Contains(d.Key.Pattern, k.String()) {
			t.Errorf("the schema lacks the kind %s", k)
		}
	}
	for _, name := range Transforms() {
		if !givesTime(name) && !strings.Contains(d.Template.Description, name) {
			t.Errorf("schemas/source.schema.json, template, description: the transform %s is missing, add it", name)
		}
	}
}

func enumOf(t *testing.T, v any) (out []string) {
	t.Helper()
	list, _ := v.(map[string]any)["enum"].([]any)
	for _, w := range list {
		out = append(out, w.(string))
	}
	return out
}
