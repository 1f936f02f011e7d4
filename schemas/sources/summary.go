package sources

import (
	"slices"

	"catena/schemas"
)

// Summary says what a source is good for, read off its rules. Its lists are
// sorted and hold kind:namespace.
type Summary struct {
	Classes []string // that its rules give
	Mints   []string // tokens and sessions that come into being in its records
	Binds   []string // other keys whose driver its records tell
	Carries []string // keys with which its actions are performed
	Ends    []string // keys that its records end or revoke
	Grants  []string // approvals whose window its records tell
	Decides bool     // it tells what a policy engine answered
}

// Summary derives what the source mints, carries and grants. A token or session
// counts as minted where the record proves it from its own time on, and in a
// source that knows of logins, a session also where it is bound to who
// authenticated. A binding that always held only says whose a key is.
func (s *Source) Summary() Summary {
	var sum Summary
	add := func(list *[]string, k KeyTemplate) {
		name := k.Kind.String() + ":" + k.Namespace
		if !slices.Contains(*list, name) {
			*list = append(*list, name)
		}
	}
	logins := false
	s.eachFields(func(f *Fields) { logins = logins || f.Class != nil && *f.Class == schemas.ClassLogin })
	s.eachFields(func(f *Fields) {
		if f.Class != nil && !slices.Contains(sum.Classes, f.Class.String()) {
			sum.Classes = append(sum.Classes, f.Class.String())
		}
		sum.Decides = sum.Decides || f.Verdict != nil
		for i := range f.Keys {
			add(&sum.Carries, f.Keys[i].Key)
		}
		for i := range f.Ends {
			add(&sum.Ends, f.Ends[i].Key)
		}
		for i := range f.Makes {
			switch m := &f.Makes[i]; {
			case m.Child.Kind == schemas.KindGrant:
				add(&sum.Grants, m.Child)
			case m.mints(logins):
				add(&sum.Mints, m.Child)
			case m.Relation != schemas.RelationGranted:
				add(&sum.Binds, m.Child)
			}
		}
	})
	sum.Binds = slices.DeleteFunc(sum.Binds, func(b string) bool { return slices.Contains(sum.Mints, b) })
	for _, list := range [][]string{sum.Classes, sum.Mints, sum.Binds, sum.Carries, sum.Ends, sum.Grants} {
		slices.Sort(list)
	}
	return sum
}

func (m *Make) mints(logins bool) bool {
	switch {
	case m.Strength != schemas.StrengthExact:
		return false
	case m.Child.Kind == schemas.KindToken:
		return !m.FromAlways
	case m.Child.Kind == schemas.KindSession:
		return !m.FromAlways || logins && m.Relation == schemas.RelationAuthenticated
	}
	return false
}

// eachFields calls f with the common fields and those of every rule.
func (s *Source) eachFields(f func(*Fields)) {
	f(&s.Common)
	for i := range s.Rules {
		f(&s.Rules[i].Fields)
	}
}
