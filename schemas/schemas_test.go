package schemas

import (
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

func TestKeyRoundTrip(t *testing.T) {
	for _, k := range []Key{
		{},
		{KindToken, "aws.access_key", "ASIAXYZ"},
		{KindCall, "span", "0af7651916cd43dd8448eb211c80319c/b7ad6b7169203331"},
		{KindService, "github.sub", "repo:acme/shop:ref:refs/heads/main"}, // values may hold colons
		{KindHuman, "email", "älice@example.com"},
	} {
		got, err := ParseKey(k.String())
		if err != nil || got != k {
			t.Errorf("%q comes back as %q, %v", k, got, err)
		}
	}
	for _, s := range []string{"token", "token:", "token::x", "token:ns:", ":ns:x", "nonsense:ns:x", "Token:ns:x", ":"} {
		if k, err := ParseKey(s); err == nil {
			t.Errorf("%q is taken for %#v", s, k)
		}
	}
	for k := KindRequest; k <= KindExternal; k++ {
		if got, ok := ParseKind(k.String()); !ok || got != k {
			t.Errorf("kind %v comes back as %v", k, got)
		}
	}
	for _, s := range []string{"", "kind(77)", "TOKEN"} {
		if k, ok := ParseKind(s); ok {
			t.Errorf("%q is taken for kind %v", s, k)
		}
	}
	if s := Kind(77).String(); s != "kind(77)" {
		t.Errorf("an unknown kind is called %q", s)
	}
}

// FuzzParseKey: what parses is written as it was.
func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"", "token:aws.access_key:ASIA", "service:github.sub:repo:a:b", "a:b:c", "::", "human:email:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseKey(s)
		if err != nil {
			if !k.IsZero() {
				t.Errorf("%q is refused, yet gives %v", s, k)
			}
			return
		}
		if k.String() != s {
			t.Errorf("%q comes back as %q", s, k)
		}
	})
}

func TestKeyOrder(t *testing.T) {
	keys := []Key{ // in order
		{}, {KindRequest, "aws", "z"}, {KindCall, "span", "a"}, {KindToken, "aws.access_key", "A"}, {KindToken, "jti", "A"}, {KindToken, "jti", "B"},
		{KindSession, "okta", "A"}, {KindWorkload, "ip", "10.0.0.1"}, {KindHuman, "email", "a"},
	}
	shuffled := slices.Clone(keys)
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	slices.SortFunc(shuffled, Key.Compare)
	if !slices.Equal(shuffled, keys) {
		t.Errorf("order: %v", shuffled)
	}
	for _, a := range keys {
		for _, b := range keys {
			if sign(a.Compare(b)) != -sign(b.Compare(a)) || (a.Compare(b) == 0) != (a == b) {
				t.Errorf("%v and %v: %d, %d", a, b, a.Compare(b), b.Compare(a))
			}
		}
	}
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

func TestLongLived(t *testing.T) {
	for s, want := range map[string]bool{
		"token:aws.access_key:AKIAU": true, "token:aws.access_key:ASIAS": false, "token:jti:T": false, "token:x509.sha256:F": true,
		"session:okta:S": false, "call:span:T/s": false, "workload:aws.instance:i-1": true, "human:email:a": true, "grant:teleport:G": false,
	} {
		k, err := ParseKey(s)
		if err != nil {
			t.Fatal(err)
		}
		if k.LongLived() != want {
			t.Errorf("%s: long-lived is %v", s, !want)
		}
	}
	if (Key{}).LongLived() || (Key{}).Kind.Root() {
		t.Error("nothing is long-lived or a root")
	}
}

func TestPlaceholder(t *testing.T) {
	for v, want := range map[string]bool{
		"": true, "-": true, "REDACTED": true, "HIDDEN_DUE_TO_SECURITY_REASONS": true, "0": true, "0000000000000000": true,
		"00000000-0000-0000-0000-000000000000": true, "AKIAIOSFODNN7EXAMPLE": true,
		"null": true, "none": true, "unknown": true, "[REDACTED]": true, "1111": true, "***": true, "nullable": false, "11111": false, "****": false, "0-0": true,
		"================": true, "AAAAAAAA=AAAAAAAA": false, "-----": true, "ASIAIOSFODNN7EXAMPLe": false, "zsiaiosfodnn7EXAMPLE": true,
		"AAAAAAAAAAAAAAAAAAAAAA": true, "AAAAAAAAAAAAAAAAAAAAAA==": true, "AAAA": false, "AAAAAAAAAAAAAAAAAAAAAQ": false,
		"00000000-0000-0000-0000-000000000001": false, "EXAMPLE": false, "ASIAXYZ": false, "a": false, "10": false, "redacted-not": false,
	} {
		if Placeholder(v) != want {
			t.Errorf("%q: placeholder is %v", v, !want)
		}
	}
}

func TestIDs(t *testing.T) {
	version8 := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[ID][]string{}
	for _, parts := range [][]string{{}, {""}, {"", ""}, {"a"}, {"a", ""}, {"", "a"}, {"ab"}, {"a", "b"}, {"ab", "c"}, {"a", "bc"}, {"a", "b", "c"}} {
		id := MakeID(parts...)
		if other, ok := seen[id]; ok {
			t.Errorf("%q and %q have one id", parts, other)
		}
		seen[id] = parts
		if id != MakeID(parts...) || id.IsZero() || !version8.MatchString(id.String()) {
			t.Errorf("%q: id %v", parts, id)
		}
		if back, err := ParseID(id.String()); err != nil || back != id {
			t.Errorf("%v comes back as %v, %v", id, back, err)
		}
	}
	// The ids stand in tables for years: this one must never change.
	if got, want := MakeID("okta.system", "a").String(), goldenID; got != want {
		t.Errorf("ids have changed: %s, want %s", got, want)
	}
	for _, s := range []string{"", "x", strings.Repeat("0", 36), "0123456789ab-cdef-0123-4567-89abcdef01", "zzzzzzzz-0000-8000-8000-000000000000"} {
		if id, err := ParseID(s); err == nil {
			t.Errorf("%q is taken for %v", s, id)
		}
	}
}

const goldenID = "1d4aba33-4997-80b7-bc66-8330d580cea3"

func TestVersionsRank(t *testing.T) {
	const owner = int64(1_800_000_000_000) // milliseconds, in 2027
	inOrder := []uint64{
		MakeVersion(0, 1), MakeVersion(owner, 0), MakeVersion(owner, 1), MakeVersion(owner, MaxRevision), MakeVersion(owner+1, 0), MakeVersion(2*owner, 0),
	}
	if !slices.IsSorted(inOrder) || len(slices.Compact(inOrder)) != len(inOrder) {
		t.Errorf("versions do not rank: %v", inOrder)
	}
	if MakeVersion(owner, MaxRevision+1) != MakeVersion(owner, MaxRevision) {
		t.Error("a revision beyond the last must keep the last, not become another owner's")
	}
}

// TestWords: every word is told apart and read back, and nothing else is.
func TestWords(t *testing.T) {
	checkWords(t, classNames, ParseClass)
	checkWords(t, outcomeNames, ParseOutcome)
	checkWords(t, mfaNames, ParseMFA)
	checkWords(t, verdictNames, ParseVerdict)
	checkWords(t, relationNames, ParseRelation)
	checkWords(t, strengthNames, ParseStrength)
	checkWords(t, gradeNames, ParseGrade)
	checkWords(t, reasonNames, ParseReason)
	checkWords(t, causeNames, ParseCauseGrade)
	checkWords(t, deadNames, ParseDeadReason)
	// The last constant of each list has the last word: none was forgotten.
	for last, names := range map[string][]string{
		ClassDecision.String(): classNames, OutcomeDenied.String(): outcomeNames, MFAYes.String(): mfaNames, VerdictDeny.String(): verdictNames,
		RelationRevoked.String(): relationNames, StrengthExact.String(): strengthNames, GradeProven.String(): gradeNames,
		ReasonDepthLimit.String(): reasonNames, CauseExact.String(): causeNames, DeadRejected.String(): deadNames,
	} {
		if last != names[len(names)-1] {
			t.Errorf("the last word is %q, the last constant says %q", names[len(names)-1], last)
		}
	}
}

func checkWords[T interface {
	~uint8
	String() string
}](t *testing.T, names []string, parse func(string) (T, bool)) {
	t.Helper()
	for i, name := range names {
		if slices.Index(names, name) != i {
			t.Errorf("%q stands twice", name)
		}
		if got, ok := parse(name); !ok || int(got) != i || got.String() != name {
			t.Errorf("%T %q comes back as %q, %v", T(0), name, got, ok)
		}
	}
	if _, ok := parse("no such word"); ok {
		t.Errorf("%T takes any word", T(0))
	}
	if s := T(200).String(); s != names[0] {
		t.Errorf("%T: an unknown number is called %q", T(0), s)
	}
}

func TestFlags(t *testing.T) {
	var all Flags
	for i, name := range flagNames {
		f, ok := ParseFlag(name)
		if !ok || f != 1<<i || f.String() != name {
			t.Errorf("flag %q comes back as %v", name, f)
		}
		all |= f
	}
	if FlagScopeWidened != 1<<(len(flagNames)-1) {
		t.Error("a flag has no name, or a name no flag")
	}
	if !slices.Equal(all.Words(), flagNames) || Flags(0).String() != "" {
		t.Errorf("all flags: %v", all)
	}
	if _, ok := ParseFlag(""); ok {
		t.Error("the empty word is no flag")
	}
}

// fill sets every field of a value to something, strings to ones that stand in
// buf, so that overwriting buf shows who still looks at it.
func fill(v reflect.Value, buf []byte, used *int) {
	switch v.Kind() {
	case reflect.String:
		s := unsafe.String(&buf[*used], 8)
		*used += 8
		v.SetString(s)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), buf, used)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), buf, used)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), buf, used)
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int64:
		v.SetInt(int64(*used) + 1)
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	default:
		panic(v.Kind())
	}
}

// TestCloneSharesNoMemory fills every field there is, also those that are
// added later, and overwrites the bytes below the original.
func TestCloneSharesNoMemory(t *testing.T) {
	buf := make([]byte, 1<<12)
	for i := range buf {
		buf[i] = byte('a' + i%26)
	}
	var ev Event
	used := 0
	fill(reflect.ValueOf(&ev).Elem(), buf, &used)
	// These never alias a record, so that Clone may leave them.
	ev.Source, ev.Evidence.Topic = "source", "topic"
	for i := range ev.Makes {
		ev.Makes[i].Source, ev.Makes[i].Evidence.Topic = "source", "topic"
	}
	c := ev.Clone()
	if !reflect.DeepEqual(c, ev) {
		t.Fatalf("the clone differs:\n%+v\n%+v", c, ev)
	}
	again := ev.Clone()
	for i := range buf {
		buf[i] = '!'
	}
	ev.Keys[0], ev.Makes[0], ev.Ends[0], ev.Attributes[0] = Key{}, Binding{}, End{}, Attribute{}
	var shares func(path string, v reflect.Value)
	shares = func(path string, v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			if strings.Contains(v.String(), "!") {
				t.Errorf("%s looks at the record's memory", path)
			}
		case reflect.Struct:
			for i := range v.NumField() {
				shares(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case reflect.Slice:
			for i := range v.Len() {
				shares(path+"[]", v.Index(i))
			}
		}
	}
	shares("Event", reflect.ValueOf(c))
	if !reflect.DeepEqual(c, again) {
		t.Error("the clone shares a slice with the original")
	}
}

func TestFirstKey(t *testing.T) {
	ev := Event{Keys: []Key{{KindSession, "okta", "1"}, {KindToken, "jti", "2"}, {KindToken, "jti", "3"}}}
	if got := ev.FirstKey(KindToken); got.Value != "2" {
		t.Errorf("first token: %v", got)
	}
	if got := ev.FirstKey(KindCall); !got.IsZero() {
		t.Errorf("first call: %v", got)
	}
}
