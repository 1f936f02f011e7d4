package sources

import (
	"fmt"
	"slices"
	"strings"
)

// transformSpec says how a transform may be written.
type transformSpec struct {
	name  string
	args  int
	pairs bool // of map: 'from'='to', at least one
	time  bool // its result is a time: only in time fields, and last
}

// transforms is the closed list. A name that is here and unknown to the
// decoder fails its test.
var transforms = []transformSpec{
	{name: "lower"}, {name: "upper"}, {name: "trim"},
	{name: "trim_prefix", args: 1}, {name: "trim_suffix", args: 1},
	{name: "before", args: 1}, {name: "after", args: 1},
	{name: "before_last", args: 1}, {name: "after_last", args: 1},
	{name: "has_prefix", args: 1}, {name: "contains", args: 1},
	{name: "replace", args: 2}, {name: "first_word"},
	{name: "hex"}, {name: "hmac"}, {name: "sha256"},
	{name: "map", pairs: true},
	{name: "seconds", time: true}, {name: "millis", time: true}, {name: "micros", time: true}, {name: "nanos", time: true},
	{name: "aws_time", time: true},
	{name: "private_ip"},
	{name: "split", args: 2}, {name: "later", args: 1}, {name: "earlier", args: 1}, {name: "at_most", args: 1}, {name: "url_decode"},
	{name: "decimal"}, {name: "entra_id"},
}

// Transforms returns the names of all transforms.
func Transforms() []string {
	names := make([]string, len(transforms))
	for i, t := range transforms {
		names[i] = t.name
	}
	return names
}

func transformNames() string { return strings.Join(Transforms(), ", ") }

func findTransform(name string) (transformSpec, bool) {
	i := slices.IndexFunc(transforms, func(t transformSpec) bool { return t.name == name })
	if i < 0 {
		return transformSpec{}, false
	}
	return transforms[i], true
}

func givesTime(name string) bool {
	t, ok := findTransform(name)
	return ok && t.time
}

func (t transformSpec) check(args int) error {
	if t.pairs {
		if args == 0 || args%2 != 0 {
			return fmt.Errorf("%s takes pairs, as in %s('a'='x','b'='y')", t.name, t.name)
		}
		return nil
	}
	if args != t.args {
		return fmt.Errorf("%s takes %d arguments in single quotes, not %d", t.name, t.args, args)
	}
	return nil
}
