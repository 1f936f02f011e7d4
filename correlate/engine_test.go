package correlate

import (
	"testing"
	"time"

	"catena/schemas"
)

func key(t *testing.T, s string) schemas.Key {
	t.Helper()
	k, err := schemas.ParseKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const base = int64(1_700_000_000) * int64(time.Second)

func at(sec float64) int64 { return base + int64(sec*float64(time.Second)) }

func bnd(t *testing.T, child, parent string, rel schemas.Relation, s schemas.Strength, from, until float64) schemas.Binding {
	b := schemas.Binding{Child: key(t, child), Parent: key(t, parent), Relation: rel, Strength: s}
	if from != 0 {
		b.FromNanos = at(from)
	}
	if until != 0 {
		b.UntilNanos = at(until)
	}
	return b
}

func TestAgentStory(t *testing.T) {
	ev := func(id string, sec float64, class schemas.Class, action string, keys []string, makes ...schemas.Binding) schemas.Event {
		e := schemas.Event{ID: schemas.MakeID(id), Source: "t", TimeNanos: at(sec), Class: class, Action: action, Outcome: schemas.OutcomeSuccess, Makes: makes}
		for _, k := range keys {
			e.Keys = append(e.Keys, key(t, k))
			if e.Keys[len(e.Keys)-1].Kind == schemas.KindCall {
				e.SpanID = k[len(k)-2:]
			}
		}
		e.Evidence = schemas.Evidence{Topic: "t", Offset: int64(sec * 10)}
		return e
	}
	login := bnd(t, "session:okta:S", "human:email:alice", schemas.RelationAuthenticated, schemas.StrengthExact, 0, 0)
	login.MFA = schemas.MFAYes
	events := []schemas.Event{
		ev("login", 1, schemas.ClassLogin, "login", []string{"session:okta:S"}, login),
		ev("grant", 2, schemas.ClassIssuance, "grant", []string{"session:okta:S"},
			bnd(t, "token:jti:AT", "session:okta:S", schemas.RelationIssued, schemas.StrengthExact, 2, 0)),
		ev("invoke", 3, schemas.ClassSession, "invoke_agent", []string{"call:span:T/s0", "session:conv:C"},
			bnd(t, "call:span:T/s0", "session:conv:C", schemas.RelationRanAs, schemas.StrengthExact, 0, 0),
			bnd(t, "session:conv:C", "token:jti:AT", schemas.RelationDelegated, schemas.StrengthExact, 0, 0)),
		ev("tool", 4, schemas.ClassToolCall, "execute_tool read", []string{"call:span:T/s1"},
			bnd(t, "call:span:T/s1", "call:span:T/s0", schemas.RelationInvoked, schemas.StrengthExact, 0, 0),
			bnd(t, "workload:aws.instance:i-1", "call:span:T/s1", schemas.RelationInvoked, schemas.StrengthWeak, 4, 8)),
		ev("mint", 0.5, schemas.ClassIssuance, "AssumeRole", nil,
			bnd(t, "token:aws.access_key:ASIA1", "workload:aws.instance:i-1", schemas.RelationIssued, schemas.StrengthExact, 0.5, 0)),
		ev("s3", 6, schemas.ClassDataAccess, "s3:GetObject", []string{"token:aws.access_key:ASIA1", "request:aws:r1"}),
		ev("housekeeping", 60, schemas.ClassAPICall, "ec2:Describe", []string{"token:aws.access_key:ASIA1", "request:aws:r2"}),
	}
	check := func(t *testing.T, order []int) {
		e := New(Config{})
		rows := map[schemas.ID]*schemas.Action{}
		var out Output
		for _, i := range order {
			out.Reset()
			e.Process(&out, events[i:i+1])
			for _, a := range out.Actions {
				rows[a.ID] = a
			}
		}
		s3 := rows[schemas.MakeID("s3")]
		if s3.Grade != schemas.GradeInferred || s3.Root.Value != "alice" || s3.CauseID != schemas.MakeID("tool") || s3.CauseGrade != schemas.CauseInferred || s3.MFA != schemas.MFAYes {
			t.Errorf("s3: %v %v root %v cause %v %v mfa %v\n%v", s3.Grade, s3.Reason, s3.Root, s3.CauseID, s3.CauseGrade, s3.MFA, s3.Hops)
		}
		hk := rows[schemas.MakeID("housekeeping")]
		if hk.Grade != schemas.GradeProven || hk.Root.Value != "i-1" || hk.CauseGrade != schemas.CauseNone {
			t.Errorf("housekeeping: %v %v root %v cause %v", hk.Grade, hk.Reason, hk.Root, hk.CauseGrade)
		}
		tool := rows[schemas.MakeID("tool")]
		if tool.Grade != schemas.GradeProven || tool.Root.Value != "alice" || tool.ChainID != s3.ChainID || tool.CauseGrade != schemas.CauseNone {
			t.Errorf("tool: %v %v root %v", tool.Grade, tool.Reason, tool.Root)
		}
	}
	check(t, []int{0, 1, 2, 3, 4, 5, 6})
	check(t, []int{6, 5, 4, 3, 2, 1, 0})
	check(t, []int{3, 5, 0, 6, 2, 4, 1})
}
