package simtest

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"catena/schemas"
)

// ledger counts, over all worlds, how often a grade is right.
type ledger struct {
	mu     sync.Mutex
	worlds int
	rows   [schemas.GradeProven + 1]tally
	exact  tally // inferred, with nothing lost
	edge   tally // inferred, near to the end of a window
	whole  tally // rows that nothing was lost of: right is attributed
	tied   int   // of those not attributed: the clocks cannot tell between two
	other  map[string]int
}

type tally struct{ rows, right, wrong int }

func (t *tally) count(right bool) {
	t.rows++
	if right {
		t.right++
	} else {
		t.wrong++
	}
}

func (t *tally) share() float64 {
	if t.right+t.wrong == 0 {
		return 100
	}
	return 100 * float64(t.right) / float64(t.right+t.wrong)
}

func (l *ledger) add(w *World, rows map[schemas.ID]*schemas.Action) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.worlds++
	if l.other == nil {
		l.other = map[string]int{}
	}
	if w.Wrong != Systems {
		return // a wrong clock: only that proven is true is asked for, and was checked
	}
	for i := range w.Events {
		a, t := rows[w.Events[i].ID], &w.Truth[i]
		if a == nil {
			continue
		}
		var right bool
		switch a.Grade {
		case schemas.GradeInferred:
			right = a.Root == t.Driver
		default:
			right = hasRoot(t.Roots, a.Root)
		}
		switch {
		case a.Root.IsZero():
			l.rows[a.Grade].rows++
		default:
			l.rows[a.Grade].count(right)
		}
		if a.Grade == schemas.GradeInferred && !t.Lossy {
			l.exact.count(right)
		}
		if a.Grade == schemas.GradeInferred && t.Edge {
			l.edge.count(right)
		}
		if t.Lossy || t.Hopeless {
			continue
		}
		switch {
		case a.Grade > schemas.GradeAmbiguous:
			l.whole.count(true)
		case a.Grade == schemas.GradeAmbiguous && t.Want != nil && t.Want.Grade == schemas.GradeAmbiguous:
			l.tied++
		default:
			l.whole.count(false)
			l.other[t.Story+" "+a.Reason.String()]++
		}
	}
}

func (l *ledger) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-24s %9s %9s %7s %8s\n", "grade", "rows", "right", "wrong", "share")
	line := func(name string, t *tally) {
		fmt.Fprintf(&b, "%-24s %9d %9d %7d %7.2f%%\n", name, t.rows, t.right, t.wrong, t.share())
	}
	for g := schemas.GradeProven; ; g-- {
		line(g.String(), &l.rows[g])
		if g == schemas.GradeInferred {
			line("  of them, nothing lost", &l.exact)
			line("  of them, at an edge", &l.edge)
		}
		if g == 0 {
			break
		}
	}
	line("attributed, nothing lost", &l.whole)
	fmt.Fprintf(&b, "%d worlds; besides, with nothing lost: %d rows ambiguous as they have to be; %v\n", l.worlds, l.tied, l.other)
	return b.String()
}

// check holds the figures against what is promised.
func (l *ledger) check(t *testing.T) {
	t.Helper()
	if l.rows[schemas.GradeProven].wrong != 0 {
		t.Errorf("%d proven rows are wrong", l.rows[schemas.GradeProven].wrong)
	}
	if l.rows[schemas.GradeInferred].rows < 1000 {
		return // too few for a share to mean anything
	}
	if l.rows[schemas.GradeInferred].share() < 99 {
		t.Errorf("only %.2f%% of the inferred rows are right", l.rows[schemas.GradeInferred].share())
	}
	if l.whole.share() < 99.5 {
		t.Errorf("only %.2f%% of the rows that nothing was lost of are attributed", l.whole.share())
	}
}
