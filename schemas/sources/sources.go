// Package sources holds the log formats that catena understands, as data: one
// folder a format, with source.yaml and testdata. FORMAT.md is the
// specification of source.yaml; this package parses it and finds every fault
// in it, with line and column. What a source means for the bytes of a record
// is compiled elsewhere (package ingest).
package sources

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"catena/schemas"
)

//go:embed */source.yaml
var embedded embed.FS

// maxFileBytes bounds a source.yaml: the largest of ours has some 20 KB.
const maxFileBytes = 1 << 20

// Source is one parsed and validated source.yaml.
type Source struct {
	Name, Vendor, Title, Reference string
	File                           string    // where it lies, of a user's own; empty for a built-in one
	Replaces                       bool      // it takes the place of the built-in source of its name
	Priority                       int       // recognition tries lower numbers first
	Match                          Condition // of which records are of this source
	ID                             []Template
	Common                         Fields // of every event of the source
	Rules                          []Rule // in order; every one whose When holds applies

	nameLine, nameCol int
	prioritySet       bool
}

// Where is what an error calls the source by: its file, or its name if it is
// built in.
func (s *Source) Where() string { return cmp.Or(s.File, s.Name) }

// Rule adds to an event, or corrects it, when its condition holds.
type Rule struct {
	When Condition
	Fields
}

// Fields are what a source says of an event, in its common part or in a rule.
// A nil template says nothing.
type Fields struct {
	Time, Ended *Template
	Resolution  time.Duration // zero: not told
	Class       *schemas.Class

	Action, Resource, Tenant, Authority, Scopes, AuthMethod *Template
	SourceIP, UserAgent, TraceID, SpanID                    *Template
	Outcome, MFA                                            *Template // give words of schemas
	Actor                                                   *Actor
	Verdict, DecisionID, Policy                             *Template
	BindOnly                                                *Template

	Keys         []Key
	Makes        []Make
	Ends         []End
	Attributes   []Attribute
	Flags        schemas.Flags
	SelfReported bool
}

// Actor is who the record names. It is replaced as one: a key without a name
// never borrows the name of an earlier actor.
type Actor struct {
	Key  KeyTemplate
	Name *Template
}

// Key is one entry of keys.
type Key struct {
	Key  KeyTemplate
	When Condition
}

// Make is one entry of makes: a binding that the record proves.
type Make struct {
	Child, Parent         KeyTemplate
	ChildName, ParentName *Template
	Relation              schemas.Relation
	Strength              schemas.Strength
	FromAlways            bool      // it held before the record, too
	From, Until, Expires  *Template // times; no From is the event's time
	When                  Condition
}

// End is one entry of ends: a key that stopped being good.
type End struct {
	Key     KeyTemplate
	At      *Template // a time; nil is the event's
	Revoked bool
	When    Condition
}

// Attribute is one extra field for the attributes column.
type Attribute struct {
	Name  string
	Value Template
}

// KeyTemplate is a template of the form kind:namespace:value, of which kind
// and namespace are literal.
type KeyTemplate struct {
	Kind      schemas.Kind
	Namespace string
	Value     Template
}

// Set is a list of sources in the order in which recognition tries them.
type Set struct {
	sources []*Source
}

// Embedded returns the sources that are built in.
func Embedded() (*Set, error) { return Load(embedded, ".") }

// Load reads dir/<name>/source.yaml for every folder in dir. Its error tells
// every fault of every file; the set is nil then.
func Load(fsys fs.FS, dir string) (*Set, error) {
	files, err := fs.Glob(fsys, path.Join(dir, "*", "source.yaml"))
	if err != nil {
		return nil, fmt.Errorf("sources in %s: %w", dir, err)
	}
	var set Set
	var faults []error
	for _, file := range files {
		name := path.Base(path.Dir(file))
		text, err := readFile(fsys, file)
		if err != nil {
			faults = append(faults, fmt.Errorf("source %s: %w", name, err))
			continue
		}
		src, err := Parse(name, text)
		if err == nil && src.Replaces {
			err = Faults{{Source: name, Line: src.nameLine, Col: src.nameCol, Field: "replaces", Message: "is for a user's own files: remove it"}}
		}
		if err != nil {
			faults = append(faults, err)
			continue
		}
		set.sources = append(set.sources, src)
	}
	if len(files) == 0 {
		faults = append(faults, fmt.Errorf("sources: no %s", path.Join(dir, "*", "source.yaml")))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	set.sort()
	return &set, nil
}

func readFile(fsys fs.FS, file string) ([]byte, error) {
	info, err := fs.Stat(fsys, file)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("longer than %d bytes: make several sources of it", maxFileBytes)
	}
	return fs.ReadFile(fsys, file)
}

// NewSet makes a set of given sources. Two of one name are an error.
func NewSet(list ...*Source) (*Set, error) {
	set := &Set{sources: slices.Clone(list)}
	set.sort()
	for i := range set.sources {
		for _, other := range set.sources[:i] {
			if other.Name == set.sources[i].Name {
				return nil, fmt.Errorf("sources: %s is there twice", other.Name)
			}
		}
	}
	return set, nil
}

// sort puts the sources in the order of recognition: by priority, then by
// name, so that it never depends on how they were found.
func (s *Set) sort() {
	slices.SortStableFunc(s.sources, func(a, b *Source) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name))
	})
}

// Sources returns the sources in the order of recognition. The caller may not
// change them.
func (s *Set) Sources() []*Source { return s.sources }

// Get returns the source of a name.
func (s *Set) Get(name string) (*Source, bool) {
	for _, src := range s.sources {
		if src.Name == name {
			return src, true
		}
	}
	return nil, false
}
