package correlate

import (
	"cmp"
	"encoding/binary"

	"catena/schemas"
)

// relearn takes in another telling of a binding.
func (s *state) relearn(n nodeID, at *edge, b *schemas.Binding, told bool) learned {
	old := s.binding(n, at)
	now, changed := merge(&old, b)
	write := changed
	switch {
	case told: // the tables hold whichever of the two ranks higher, either if they tie; what says more goes above
		held := &old
		if b.Version >= old.Version {
			held = b
		}
		if now.Version, write = held.Version, differs(&now, held) || b.Version == old.Version && differs(&now, &old); write {
			now.Version++
		}
	case s.incomplete(n) && old.Version <= schemas.MaxRevision: // must not outrank what the tables hold either, see learn
		if changed {
			now.Version = old.Version + 1
		}
	case !changed && old.Version < b.Version && !s.incomplete(n): // by a later owner, see Engine.outranked
		now.Version, changed, write = b.Version, true, true
	}
	if differs(&now, &old) {
		s.fill(at, &now)
	} else if now.Version != old.Version { // nobody is woken, so that what points at the edge must go on to hold
		at.version = uint32(s.versions.number(now.Version))
	}
	return learned{n, s.binding(n, at), changed, write}
}

// differs reports whether two tellings of a binding say something else.
func differs(a, b *schemas.Binding) bool {
	x, y := *a, *b
	x.Version, y.Version = 0, 0
	x.Evidence, y.Evidence = place(&a.Evidence), place(&b.Evidence)
	return x != y
}

// place is where a record lies, in memory of our own.
func (s *state) place(e *schemas.Evidence) schemas.Evidence {
	part := s.parts.all[s.part(e.Topic, e.Partition)]
	return schemas.Evidence{Topic: part.topic, Partition: part.index, Offset: e.Offset, RecordIndex: e.RecordIndex}
}

// merge joins two tellings of one edge, in whatever order they come. The
// earliest proof stays with its times; names and what either shows of the
// child are kept, the smallest name of several.
func merge(old, add *schemas.Binding) (schemas.Binding, bool) {
	was := *old
	was.Evidence = place(&old.Evidence)
	now := was
	if proofOrder(add, old) < 0 {
		now = *add
		now.Evidence = place(&add.Evidence)
	}
	if now.Strength == schemas.StrengthWeak { // two tellings of one time: the longer
		now.UntilNanos = latestEnd(old.UntilNanos, add.UntilNanos)
	}
	now.ChildName = smallest(old.ChildName, add.ChildName)
	now.ParentName = smallest(old.ParentName, add.ParentName)
	now.Scopes = smallest(old.Scopes, add.Scopes)
	now.MFA = max(old.MFA, add.MFA)
	now.AuthMethod = method(old.AuthMethod, add.AuthMethod)
	now.Version = old.Version
	changed := now != was
	if changed {
		now.Version = max(old.Version+1, add.Version)
	}
	return now, changed
}

// place is where a record lies, without what stands there.
func place(e *schemas.Evidence) schemas.Evidence {
	return schemas.Evidence{Topic: e.Topic, Partition: e.Partition, Offset: e.Offset, RecordIndex: e.RecordIndex}
}

// method joins two tellings of how somebody was authenticated. A password is
// what stands before a second factor, so that anything else tells more.
func method(a, b string) string {
	switch {
	case a == "" || a == "password" && b != "":
		return b
	case b == "" || b == "password":
		return a
	}
	return min(a, b)
}

// latestEnd is the later of two ends, of which zero is none.
func latestEnd(a, b int64) int64 {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

func smallest(a, b string) string {
	if a == "" || b != "" && b < a {
		return b
	}
	return a
}

func proofOrder(a, b *schemas.Binding) int {
	return cmp.Or(cmp.Compare(a.ProofNanos, b.ProofNanos), compareIDs(a.Proof, b.Proof), evidenceOrder(&a.Evidence, &b.Evidence))
}

// evidenceOrder ranks two deliveries of one event: the lowest place wins.
func evidenceOrder(a, b *schemas.Evidence) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition),
		cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.RecordIndex, b.RecordIndex))
}

func compareIDs(a, b schemas.ID) int {
	x, y := binary.BigEndian.Uint64(a[:]), binary.BigEndian.Uint64(b[:])
	if x != y {
		return cmp.Compare(x, y)
	}
	return cmp.Compare(binary.BigEndian.Uint64(a[8:]), binary.BigEndian.Uint64(b[8:]))
}

// earliest lowers *at to nanos, if it is set and later or not set at all.
func earliest(at *int64, nanos int64) bool {
	if *at != 0 && *at <= nanos {
		return false
	}
	*at = nanos
	return true
}
