package sources

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"catena/schemas"
)

// Limits of one source; far beyond what a person writes.
const (
	maxRules   = 2000
	maxDepth   = 16 // of conditions within conditions
	maxEntries = 256
)

const defaultPriority = 50

// Parse reads the text of a source.yaml. The name is that of its folder. The
// error is of type [Faults] and names every fault.
func Parse(name string, text []byte) (*Source, error) { return parse(name, name, text) }

// parse is Parse for a source whose faults are named by where. The name is
// that of the folder; empty if the source may have any.
func parse(where, name string, text []byte) (*Source, error) {
	p := &parser{source: where}
	var doc yaml.Node
	switch err := yaml.Unmarshal(text, &doc); {
	case err != nil:
		p.yamlFault(err, text)
	case len(doc.Content) != 1:
		p.faults = append(p.faults, Fault{Source: where, Line: 1, Col: 1, Message: "the file is empty: write name, match, id and time at least"})
	}
	if len(p.faults) > 0 {
		return nil, p.faults
	}
	src := p.parse(doc.Content[0], name)
	if len(p.faults) > 0 {
		slices.SortStableFunc(p.faults, func(a, b Fault) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
		})
		return nil, p.faults
	}
	return src, nil
}

type parser struct {
	source string
	faults Faults
}

func (p *parser) parse(n *yaml.Node, folder string) *Source {
	src := &Source{Priority: defaultPriority}
	seen := map[string]bool{}
	top := func(key string, v *yaml.Node) bool {
		seen[key] = true
		switch key {
		case "name":
			src.Name, src.nameLine, src.nameCol = p.text(v, key), v.Line, v.Column
			switch {
			case folder != "" && src.Name != folder:
				p.fault(v, key, "%q is not the name of the folder, %q: make the two the same", src.Name, folder)
			case v.Kind == yaml.ScalarNode && !validName(src.Name):
				p.fault(v, key, "%q is no name: write small letters, digits, dots and underscores, such as acme.app", src.Name)
			}
		case "replaces":
			src.Replaces = p.boolean(v, key)
		case "vendor":
			src.Vendor = p.text(v, key)
		case "title":
			src.Title = p.text(v, key)
		case "reference":
			src.Reference = p.text(v, key)
		case "priority":
			src.Priority, src.prioritySet = p.number(v, key), true
		case "match":
			src.Match = p.condition(v, key, 0)
		case "id":
			src.ID = p.templates(v, key)
		case "rules":
			src.Rules = p.rules(v)
		default:
			return p.field(&src.Common, key, key, v)
		}
		return true
	}
	p.mapping(n, "", topNames, top)
	for _, must := range []struct{ key, fix string }{
		{"name", "write name: acme.app, which becomes the value of the source column"},
		{"match", "name the members that only records of this source have, such as match: {app: acme}"},
		{"id", `write the members that tell one event from all others, such as id: ["{id}", "{time}"]`},
		{"time", `write where the event time lies, such as time: "{time}"`},
	} {
		if n.Kind == yaml.MappingNode && !seen[must.key] {
			p.fault(n, must.key, "is missing: %s", must.fix)
		}
	}
	if seen["match"] && len(src.Match) == 0 {
		p.fault(n, "match", "is empty: it would take every record; name members that only records of this source have")
	}
	return src
}

// validName keeps names fit for a column, a file and the command line.
func validName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") == "" && strings.Trim(s, "._-") != ""
}

func (p *parser) rules(n *yaml.Node) []Rule {
	var rules []Rule
	p.list(n, "rules", maxRules, func(i int, v *yaml.Node) {
		field := fmt.Sprintf("rules[%d]", i)
		var r Rule
		p.mapping(v, field, ruleNames, func(key string, v *yaml.Node) bool {
			if key == "when" {
				r.When = p.condition(v, field+".when", 0)
				return true
			}
			return p.field(&r.Fields, key, field+"."+key, v)
		})
		rules = append(rules, r)
	})
	return rules
}

// What may stand where. source.schema.json says the same, and a test holds the
// two together.
const (
	topNames      = "name, vendor, title, reference, priority, replaces, match, id, rules, " + fieldNames
	ruleNames     = "when, " + fieldNames
	actorNames    = "key, name"
	decisionNames = "verdict, id, policy"
	keyNames      = "key, when"
	makeNames     = "child, parent, relation, strength, from, until, expires, child_name, parent_name, when"
	endNames      = "key, at, revoked, when"
	checkNames    = "prefix, suffix, contains, matches, not, one_of"
)

const fieldNames = "time, ended, resolution, class, action, resource, outcome, tenant, actor, keys, makes, ends, authority, scopes, auth_method, mfa, " +
	"decision, source_ip, user_agent, trace_id, span_id, attributes, flags, self_reported, bind_only"

// field parses one entry of the table of fields; false if there is none of
// that name.
func (p *parser) field(f *Fields, key, at string, v *yaml.Node) bool {
	switch key {
	case "time":
		f.Time = p.timeTemplate(v, at)
	case "ended":
		f.Ended = p.timeTemplate(v, at)
	case "resolution":
		d, err := time.ParseDuration(p.text(v, at))
		if err != nil || d <= 0 || d > 24*time.Hour {
			p.fault(v, at, "%q is no duration such as 1s, 1ms or 1us", v.Value)
		}
		f.Resolution = d
	case "class":
		c, ok := schemas.ParseClass(p.text(v, at))
		if !ok {
			p.fault(v, at, "%q is no class; there are %s", v.Value, words(schemas.ClassOther, schemas.Class.String))
		}
		f.Class = &c
	case "outcome":
		f.Outcome = p.word(v, at, words(schemas.OutcomeUnknown, schemas.Outcome.String))
	case "mfa":
		f.MFA = p.word(v, at, words(schemas.MFAUnknown, schemas.MFA.String))
	case "actor":
		f.Actor = p.actor(v, at)
	case "decision":
		p.decision(f, v, at)
	case "keys":
		f.Keys = p.keys(v, at)
	case "makes":
		f.Makes = p.makes(v, at)
	case "ends":
		f.Ends = p.ends(v, at)
	case "attributes":
		f.Attributes = p.attributes(v, at)
	case "flags":
		f.Flags = p.flags(v, at)
	case "self_reported":
		f.SelfReported = p.boolean(v, at)
	default:
		t := f.text(key)
		if t == nil {
			return false
		}
		*t = p.template(v, at)
		if key == "bind_only" && *t != nil {
			if _, ok := (*t).Literal(); !ok {
				p.fault(v, at, "is not a plain word: skips are counted by it; write one, such as heartbeat")
			}
		}
	}
	return true
}

// text is where a plain text field is kept; nil if there is none of that name.
func (f *Fields) text(key string) **Template {
	switch key {
	case "action":
		return &f.Action
	case "resource":
		return &f.Resource
	case "tenant":
		return &f.Tenant
	case "authority":
		return &f.Authority
	case "scopes":
		return &f.Scopes
	case "auth_method":
		return &f.AuthMethod
	case "source_ip":
		return &f.SourceIP
	case "user_agent":
		return &f.UserAgent
	case "trace_id":
		return &f.TraceID
	case "span_id":
		return &f.SpanID
	case "bind_only":
		return &f.BindOnly
	}
	return nil
}

// words lists the words of a type from its zero value on, without the empty one.
func words[T ~uint8](first T, text func(T) string) string {
	var out []string
	for v := first; ; v++ {
		w := text(v)
		if v > first && w == text(first) { // beyond the last, it is the first again
			return strings.Join(out, ", ")
		}
		if w != "" {
			out = append(out, w)
		}
	}
}

// word is a template that must give one of some words.
func (p *parser) word(v *yaml.Node, at, allowed string) *Template {
	t := p.template(v, at)
	if t == nil {
		return nil
	}
	if lit, ok := t.Literal(); ok && !slices.Contains(strings.Split(allowed, ", "), lit) {
		p.fault(v, at, "%q is none of %s", lit, allowed)
	}
	return t
}

func (p *parser) actor(v *yaml.Node, at string) *Actor {
	var a Actor
	found := false
	p.mapping(v, at, actorNames, func(key string, v *yaml.Node) bool {
		switch key {
		case "key":
			a.Key, found = p.key(v, at+".key"), true
		case "name":
			a.Name = p.template(v, at+".name")
		default:
			return false
		}
		return true
	})
	if !found {
		p.fault(v, at, "has no key: it is written {key: …, name: …}")
	}
	return &a
}

func (p *parser) decision(f *Fields, v *yaml.Node, at string) {
	p.mapping(v, at, decisionNames, func(key string, v *yaml.Node) bool {
		switch key {
		case "verdict":
			f.Verdict = p.word(v, at+".verdict", words(schemas.VerdictNone, schemas.Verdict.String))
		case "id":
			f.DecisionID = p.template(v, at+".id")
		case "policy":
			f.Policy = p.template(v, at+".policy")
		default:
			return false
		}
		return true
	})
}

func (p *parser) keys(n *yaml.Node, at string) []Key {
	var out []Key
	p.list(n, at, maxEntries, func(i int, v *yaml.Node) {
		field := fmt.Sprintf("%s[%d]", at, i)
		var k Key
		if v.Kind == yaml.ScalarNode {
			k.Key = p.key(v, field)
			out = append(out, k)
			return
		}
		found := false
		p.mapping(v, field, keyNames, func(key string, v *yaml.Node) bool {
			switch key {
			case "key":
				k.Key, found = p.key(v, field+".key"), true
			case "when":
				k.When = p.condition(v, field+".when", 0)
			default:
				return false
			}
			return true
		})
		if !found {
			p.fault(v, field, "is neither a key template nor {key: …, when: …}")
		}
		out = append(out, k)
	})
	return out
}

func (p *parser) makes(n *yaml.Node, at string) []Make {
	var out []Make
	p.list(n, at, maxEntries, func(i int, v *yaml.Node) {
		field := fmt.Sprintf("%s[%d]", at, i)
		var m Make
		seen := map[string]bool{}
		p.mapping(v, field, makeNames, func(key string, v *yaml.Node) bool {
			seen[key] = true
			return p.makeField(&m, key, field+"."+key, v)
		})
		for _, key := range []string{"child", "parent", "relation", "strength"} {
			if !seen[key] {
				p.fault(v, field, "has no %s: a binding has child, parent, relation and strength", key)
			}
		}
		p.oneStar(v, field, m.Child.Value, m.Parent.Value, m.ChildName, m.ParentName, m.From, m.Until, m.Expires)
		out = append(out, m)
	})
	return out
}

func (p *parser) makeField(m *Make, key, at string, v *yaml.Node) bool {
	switch key {
	case "child":
		m.Child = p.key(v, at)
	case "parent":
		m.Parent = p.key(v, at)
	case "child_name":
		m.ChildName = p.template(v, at)
	case "parent_name":
		m.ParentName = p.template(v, at)
	case "relation":
		r, ok := schemas.ParseRelation(p.text(v, at))
		if !ok || r == schemas.RelationNone || r >= schemas.RelationEnded {
			p.fault(v, at, "%q is no relation; there are %s (what ends a key stands in ends)", v.Value,
				strings.TrimSuffix(words(schemas.RelationNone, schemas.Relation.String), ", ended, revoked"))
		}
		m.Relation = r
	case "strength":
		s, ok := schemas.ParseStrength(p.text(v, at))
		if !ok {
			p.fault(v, at, "%q is no strength; there are %s", v.Value, words(schemas.StrengthWeak, schemas.Strength.String))
		}
		m.Strength = s
	case "from":
		if v.Kind == yaml.ScalarNode && v.Value == "always" {
			m.FromAlways = true
		} else {
			m.From = p.timeTemplate(v, at)
		}
	case "until":
		m.Until = p.timeTemplate(v, at)
	case "expires":
		m.Expires = p.timeTemplate(v, at)
	case "when":
		m.When = p.condition(v, at, 0)
	default:
		return false
	}
	return true
}

func (p *parser) ends(n *yaml.Node, at string) []End {
	var out []End
	p.list(n, at, maxEntries, func(i int, v *yaml.Node) {
		field := fmt.Sprintf("%s[%d]", at, i)
		var e End
		found := false
		p.mapping(v, field, endNames, func(key string, v *yaml.Node) bool {
			switch key {
			case "key":
				e.Key, found = p.key(v, field+".key"), true
			case "at":
				e.At = p.timeTemplate(v, field+".at")
			case "revoked":
				e.Revoked = p.boolean(v, field+".revoked")
			case "when":
				e.When = p.condition(v, field+".when", 0)
			default:
				return false
			}
			return true
		})
		if !found {
			p.fault(v, field, "has no key: write which key stops being good, as in {key: \"token:acme:{id}\"}")
		}
		p.oneStar(v, field, e.Key.Value, Template{}, e.At)
		out = append(out, e)
	})
	return out
}

func (p *parser) attributes(n *yaml.Node, at string) []Attribute {
	var out []Attribute
	p.mapping(n, at, "", func(key string, v *yaml.Node) bool {
		if t := p.template(v, at+"."+key); t != nil {
			out = append(out, Attribute{Name: key, Value: *t})
		}
		return true
	})
	return out
}

func (p *parser) flags(n *yaml.Node, at string) (set schemas.Flags) {
	p.list(n, at, maxEntries, func(_ int, v *yaml.Node) {
		f, ok := schemas.ParseFlag(p.text(v, at))
		if !ok {
			p.fault(v, at, "%q is no flag; there are %s", v.Value, strings.Join((^schemas.Flags(0)).Words(), ", "))
		}
		set |= f
	})
	return set
}

// key parses kind:namespace:value.
func (p *parser) key(v *yaml.Node, at string) (k KeyTemplate) {
	t := p.template(v, at)
	if t == nil {
		return k
	}
	first := ""
	if len(t.Parts) > 0 {
		first = t.Parts[0].Literal
	}
	kind, rest, ok1 := strings.Cut(first, ":")
	namespace, value, ok2 := strings.Cut(rest, ":")
	parsed, ok3 := schemas.ParseKind(kind)
	if !ok1 || !ok2 || !ok3 || namespace == "" {
		p.fault(v, at, "%q is no key: want kind:namespace:value with literal kind and namespace; kinds are request, call, token, session, workload, grant, human, service, agent, external", t.Text)
		return k
	}
	k = KeyTemplate{Kind: parsed, Namespace: namespace, Value: *t}
	k.Value.Parts = slices.Clone(t.Parts)
	if k.Value.Parts[0].Literal = value; value == "" {
		k.Value.Parts = k.Value.Parts[1:]
	}
	if len(k.Value.Parts) == 0 {
		p.fault(v, at, "%q has no value: write a path behind the namespace, as in token:acme:{id}", t.Text)
	}
	p.oneStar(v, at, k.Value, Template{})
	return k
}

// oneStar checks that all [*] of one entry run through one array.
func (p *parser) oneStar(n *yaml.Node, at string, a, b Template, more ...*Template) {
	var star Path
	check := func(path Path) {
		s := path.Star()
		if s == nil {
			return
		}
		if star != nil && star.String() != s.String() {
			p.fault(n, at, "runs through two arrays, %s and %s: [*] of one entry advance together and must be of one array; make two entries of it", star, s)
		}
		star = s
	}
	a.Paths(check)
	b.Paths(check)
	for _, t := range more {
		if t != nil {
			t.Paths(check)
		}
	}
}

func (p *parser) templates(n *yaml.Node, at string) []Template {
	var out []Template
	p.list(n, at, maxEntries, func(i int, v *yaml.Node) {
		if t := p.template(v, fmt.Sprintf("%s[%d]", at, i)); t != nil {
			out = append(out, *t)
		}
	})
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		p.fault(n, at, "is empty: write a template, such as [\"{id}\"]")
	}
	return out
}

// template parses a text template, which may not give a time.
func (p *parser) template(v *yaml.Node, at string) *Template {
	t := p.anyTemplate(v, at)
	if t != nil && t.Time() {
		p.fault(v, at, "has a transform that gives a time (seconds, millis, micros, nanos, aws_time): only time, ended, from, until, expires and at take one")
	}
	return t
}

// timeTemplate parses a template of which a time is made.
func (p *parser) timeTemplate(v *yaml.Node, at string) *Template {
	t := p.anyTemplate(v, at)
	if t == nil {
		return nil
	}
	for i, part := range t.Parts {
		for j, tr := range part.Transforms {
			if givesTime(tr.Name) && (len(t.Parts) > 1 || j < len(part.Transforms)-1) {
				p.fault(v, at, "%s gives a time: it must be the last transform, and its placeholder stand alone", tr.Name)
			}
		}
		if i == 0 && len(t.Parts) == 1 && len(part.Choices) == 0 {
			p.fault(v, at, "%q is literal text: a time comes from the record; write its path in braces", t.Text)
		}
	}
	return t
}

func (p *parser) anyTemplate(v *yaml.Node, at string) *Template {
	text := p.text(v, at)
	if v.Kind != yaml.ScalarNode {
		return nil
	}
	if text == "" {
		p.fault(v, at, "is empty; leave it out instead")
		return nil
	}
	t, err := ParseTemplate(text)
	if err != nil {
		p.fault(v, at, "%v", err)
		return nil
	}
	t.Line, t.Col = v.Line, v.Column
	return &t
}

// condition parses a map of paths to what is asked of them.
func (p *parser) condition(n *yaml.Node, at string, depth int) Condition {
	if depth > maxDepth {
		p.fault(n, at, "nested deeper than %d: split it over several rules", maxDepth)
		return nil
	}
	var c Condition
	p.mapping(n, at, "", func(key string, v *yaml.Node) bool {
		switch key {
		case "any":
			c = append(c, Clause{Any: p.conditions(v, at+".any", depth)})
		case "none":
			c = append(c, Clause{None: p.conditions(v, at+".none", depth)})
		default:
			path, err := ParsePath(key)
			if err != nil {
				p.fault(v, at, "path: %v", err)
				return true
			}
			c = append(c, Clause{Test: &Test{Path: path, Check: p.check(v, at+"."+key, depth), Line: v.Line, Col: v.Column}})
		}
		return true
	})
	return c
}

func (p *parser) conditions(n *yaml.Node, at string, depth int) []Condition {
	var out []Condition
	p.list(n, at, maxEntries, func(i int, v *yaml.Node) {
		field := fmt.Sprintf("%s[%d]", at, i)
		c := p.condition(v, field, depth+1)
		if v.Kind == yaml.MappingNode && len(v.Content) == 0 {
			p.fault(v, field, "is empty: write a condition, or leave the entry out")
		}
		out = append(out, c)
	})
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		p.fault(n, at, "is empty: write a condition, or leave it out")
	}
	return out
}

// check parses what is asked of one value.
func (p *parser) check(v *yaml.Node, at string, depth int) Check {
	switch {
	case depth > maxDepth:
		p.fault(v, at, "nested deeper than %d: split it over several rules", maxDepth)
	case v.Kind == yaml.ScalarNode && v.Tag == "!!null":
		p.fault(v, at, "asks nothing; for no value write absent")
	case v.Kind == yaml.ScalarNode && v.Style == 0 && v.Value == "present":
		return Check{Op: Present}
	case v.Kind == yaml.ScalarNode && v.Style == 0 && v.Value == "absent":
		return Check{Op: Not, Sub: []Check{{Op: Present}}}
	case v.Kind == yaml.ScalarNode:
		return Check{Op: OneOf, Texts: []string{v.Value}}
	case v.Kind == yaml.SequenceNode:
		return Check{Op: OneOf, Texts: p.texts(v, at)}
	}
	var all []Check
	p.mapping(v, at, checkNames, func(key string, v *yaml.Node) bool {
		op, ok := map[string]CheckOp{"prefix": Prefix, "suffix": Suffix, "contains": Contains, "matches": Matches, "not": Not, "one_of": OneOf}[key]
		if ok {
			all = append(all, p.operator(op, v, at+"."+key, depth))
		}
		return ok
	})
	switch {
	case v.Kind == yaml.MappingNode && len(v.Content) == 0:
		p.fault(v, at, "asks nothing: write present, absent, a text, a list of texts, or one of {prefix: …}, {suffix: …}, {contains: …}, {matches: …}, {not: …}")
	case len(all) == 1:
		return all[0]
	}
	return Check{Op: All, Sub: all}
}

func (p *parser) operator(op CheckOp, v *yaml.Node, at string, depth int) Check {
	switch op {
	case Not:
		return Check{Op: Not, Sub: []Check{p.check(v, at, depth+1)}}
	case OneOf:
		return Check{Op: OneOf, Texts: p.texts(v, at)}
	case Matches:
		re, err := regexp.Compile(p.text(v, at))
		if err != nil {
			p.fault(v, at, "no RE2 expression: %v; RE2 has neither look-around nor back references", err)
		}
		return Check{Op: Matches, Regexp: re}
	}
	text := p.text(v, at)
	if text == "" && v.Kind == yaml.ScalarNode {
		p.fault(v, at, "is empty: write the text to look for")
	}
	return Check{Op: op, Texts: []string{text}}
}

func (p *parser) texts(n *yaml.Node, at string) []string {
	var out []string
	p.list(n, at, maxRules, func(i int, v *yaml.Node) { out = append(out, p.text(v, fmt.Sprintf("%s[%d]", at, i))) })
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		p.fault(n, at, "is empty: write the texts of which one must be there")
	}
	return out
}

// mapping calls f with each member; f returns false for a name it does not
// know, which is a fault that lists what is allowed.
func (p *parser) mapping(n *yaml.Node, at, allowed string, f func(key string, v *yaml.Node) bool) {
	if n.Kind != yaml.MappingNode {
		p.fault(n, at, "want a map, not %s: write name: value, one a line", kindName(n))
		return
	}
	seen := make(map[string]bool, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode || k.Value == "" || k.Tag == "!!merge":
			p.fault(k, at, "want a plain name, without anchors or merge keys")
		case seen[k.Value]:
			p.fault(k, at, "%q stands twice: keep one", k.Value)
		case !f(k.Value, v):
			p.fault(k, at, "unknown field %q; %sthere are %s", k.Value, didYouMean(k.Value, allowed), allowed)
		}
		seen[k.Value] = true
	}
}

func (p *parser) list(n *yaml.Node, at string, limit int, f func(i int, v *yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		p.fault(n, at, "want a list, not %s: write [a, b], or - before each entry", kindName(n))
		return
	}
	if len(n.Content) > limit {
		p.fault(n, at, "longer than %d: make several sources of it", limit)
		return
	}
	for i, v := range n.Content {
		f(i, v)
	}
}

func (p *parser) text(n *yaml.Node, at string) string {
	if n.Kind != yaml.ScalarNode {
		p.fault(n, at, "want text, not %s%s", kindName(n), quoteHint(n))
		return ""
	}
	return n.Value
}

func (p *parser) number(n *yaml.Node, at string) int {
	v, err := strconv.Atoi(p.text(n, at))
	if err != nil && n.Kind == yaml.ScalarNode {
		p.fault(n, at, "%q is no whole number, such as 50", n.Value)
	}
	return v
}

func (p *parser) boolean(n *yaml.Node, at string) bool {
	v := p.text(n, at)
	if v != "true" && v != "false" && n.Kind == yaml.ScalarNode {
		p.fault(n, at, "%q is neither true nor false", v)
	}
	return v == "true"
}
