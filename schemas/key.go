package schemas

import (
	"fmt"
	"strings"
)

// Kind says what a key names. The order is the precedence in which the keys of
// one action are tried: a request or call link first, then token, session and
// workload, because a cached credential may serve many callers while a link
// belongs to one.
type Kind uint8

// The kinds, principals last.
const (
	KindNone     Kind = iota
	KindRequest       // one request, by the id that both sides log: request:aws:…
	KindCall          // a tool call or other span: call:span:<trace>/<span>
	KindToken         // a credential, by its id, never by its secret: token:jti:…, token:aws.access_key:ASIA…
	KindSession       // a login session, conversation, pipeline run: session:okta:…
	KindWorkload      // where code runs: workload:k8s.pod_uid:…, workload:aws.instance:i-…
	KindGrant         // a just-in-time approval: grant:teleport.request:…

	// Principals: who a chain can end at.

	KindHuman    // an account of a person; IAM and Kubernetes users count as such, those systems do not tell
	KindService  // a service account, role subject or bot
	KindAgent    // an AI agent known by its own identity
	KindExternal // a party outside the organisation, such as another cloud account
)

var kindNames = [...]string{"", "request", "call", "token", "session", "workload", "grant", "human", "service", "agent", "external"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// ParseKind is the inverse of [Kind.String]; ok is false for any other word.
func ParseKind(s string) (k Kind, ok bool) {
	for i, name := range kindNames {
		if i > 0 && name == s {
			return Kind(i), true
		}
	}
	return KindNone, false
}

// Principal reports whether a chain may end at a key of this kind because it
// names somebody rather than something they hold.
func (k Kind) Principal() bool { return k >= KindHuman }

// Root reports whether the walk upward may end here as an answer rather than
// as a frontier: principals, and workloads with nothing above them.
func (k Kind) Root() bool { return k.Principal() || k == KindWorkload }

// Key names one thing, as kind:namespace:value. Keys are comparable; two keys
// are the same thing exactly when they are equal. Value is an id and never a
// secret: whoever makes a key from a secret hashes it first.
type Key struct {
	Kind      Kind
	Namespace string // who issues the values, such as "aws.access_key"; no colon inside
	Value     string // may hold colons
}

// IsZero reports whether the key names nothing.
func (k Key) IsZero() bool { return k.Kind == KindNone }

// String is kind:namespace:value, and empty for the zero key.
func (k Key) String() string {
	if k.IsZero() {
		return ""
	}
	return k.Kind.String() + ":" + k.Namespace + ":" + k.Value
}

// ID is namespace:value, the form of root_id and actor_id.
func (k Key) ID() string {
	if k.IsZero() {
		return ""
	}
	return k.Namespace + ":" + k.Value
}

// ParseKey is the inverse of [Key.String]. The empty string is the zero key.
func ParseKey(s string) (Key, error) {
	if s == "" {
		return Key{}, nil
	}
	kind, rest, ok1 := strings.Cut(s, ":")
	namespace, value, ok2 := strings.Cut(rest, ":")
	k, ok3 := ParseKind(kind)
	if !ok1 || !ok2 || !ok3 || namespace == "" || value == "" {
		return Key{}, fmt.Errorf("key %q: want kind:namespace:value with a kind of %s", s, strings.Join(kindNames[1:], ", "))
	}
	return Key{k, namespace, value}, nil
}

// Compare orders keys by kind, namespace and value: negative, zero or positive.
func (k Key) Compare(o Key) int {
	if k.Kind != o.Kind {
		return int(k.Kind) - int(o.Kind)
	}
	if c := strings.Compare(k.Namespace, o.Namespace); c != 0 {
		return c
	}
	return strings.Compare(k.Value, o.Value)
}

// LongLived reports whether a chain that starts at the key is cut by the UTC
// day of the key's own use, because the key itself lives for months: users'
// access keys, client certificates, API tokens, workloads and principals.
func (k Key) LongLived() bool {
	switch k.Kind {
	case KindWorkload:
		return true
	case KindToken:
		switch k.Namespace {
		case "aws.access_key":
			return strings.HasPrefix(k.Value, "AKIA") // ASIA keys last hours
		case "x509.sha256", "okta.api_token", "github.hashed", "gcp.sa_key",
			"entra.credential", "azure.storage_key", "azure.sas",
			"anthropic.api_key", "openai.api_key":
			return true
		}
		return false
	default:
		return k.Kind.Principal()
	}
}

// Placeholder reports whether a value stands for "not told" in the logs we
// know of. Such values must never become keys: redaction makes unrelated
// records share them.
func Placeholder(v string) bool {
	// Two looks tell nearly all values apart: this is asked of every text of every record.
	if v == "" {
		return true
	}
	return placeholderStarts[v[0]]&placeholderEnds[v[len(v)-1]] != 0 && placeholder(v)
}

// placeholderStarts and placeholderEnds hold, for a byte, of which placeholders
// it is the first, and the last: a bit each.
var (
	placeholderStarts = placeholderBytes(1, map[byte]uint16{'-': 2, '0': 2, 'A': 4, '=': 4, 'n': 8 | 16, 'u': 32, 'R': 64, '[': 128, 'H': 256, '1': 512, '*': 1024})
	placeholderEnds   = placeholderBytes(0, map[byte]uint16{'E': 1, '-': 2, '0': 2, 'A': 4, '=': 4, 'l': 8, 'e': 16, 'n': 32, 'D': 64, ']': 128, 'S': 256, '1': 512, '*': 1024})
)

func placeholderBytes(all uint16, some map[byte]uint16) (t [256]uint16) {
	for c := range t {
		t[c] = all | some[byte(c)]
	}
	return t
}

func placeholder(v string) bool {
	switch {
	case placeholderWord(v), only(v, '0', '-'), len(v) >= 16 && onlyZeros64(v):
		return true // zero UUIDs, zero span ids, base64 of nothing but zeros
	}
	// Documentation keys, AKIAIOSFODNN7EXAMPLE.
	return strings.HasSuffix(v, "EXAMPLE") && len(v) >= 16
}

func placeholderWord(v string) bool {
	switch v {
	case "-", "null", "none", "unknown", "REDACTED", "[REDACTED]", "HIDDEN_DUE_TO_SECURITY_REASONS", "1111", "***":
		return true
	}
	return false
}

func onlyZeros64(v string) bool {
	for v != "" && v[len(v)-1] == '=' {
		v = v[:len(v)-1]
	}
	return only(v, 'A', 'A')
}

// only reports whether a text holds no other bytes than these.
func only(v string, a, b byte) bool {
	for i := range len(v) {
		if v[i] != a && v[i] != b {
			return false
		}
	}
	return true
}
