package registry

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/avro"
)

func compileAvro(text string, parts *parts) (*schema, error) {
	var cache avro.SchemaCache
	anyName := avro.WithLaxNames(func(string) error { return nil }) // registries take more than the specification does
	for _, name := range parts.names {
		if _, err := cache.Parse(parts.have[name], anyName); err != nil {
			return nil, fmt.Errorf("%s, which it refers to: %w", name, err)
		}
	}
	s, err := cache.Parse(text, anyName)
	if err != nil {
		return nil, err
	}
	return &schema{json: func(dst, payload []byte, _ []int) ([]byte, error) {
		var v any
		rest, err := s.Decode(payload, &v)
		if err != nil {
			return dst, err
		}
		if len(rest) > 0 {
			return dst, fmt.Errorf("%d bytes follow the record", len(rest))
		}
		return appendAvro(dst, v)
	}}, nil
}

// appendAvro writes a decoded value as JSON: times in RFC 3339, bytes in
// base64, decimals as text, members in the order of their names, so that equal
// records give equal text.
func appendAvro(b []byte, v any) (_ []byte, err error) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case int32:
		return strconv.AppendInt(b, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(b, v, 10), nil
	case float32:
		return appendFloat(b, float64(v), 32), nil
	case float64:
		return appendFloat(b, v, 64), nil
	case string:
		return appendText(b, v)
	case []byte:
		return append(base64.StdEncoding.AppendEncode(append(b, '"'), v), '"'), nil
	case time.Time:
		return append(v.AppendFormat(append(b, '"'), time.RFC3339Nano), '"'), nil
	case time.Duration: // a time of the day
		return append(time.Time{}.Add(v).AppendFormat(append(b, '"'), "15:04:05.999999"), '"'), nil
	case *big.Rat:
		digits, exact := v.FloatPrec()
		if !exact {
			return b, fmt.Errorf("the decimal %s has no end", v)
		}
		return append(append(append(b, '"'), v.FloatString(digits)...), '"'), nil
	case [16]byte:
		return append(append(append(b, '"'), uuid.UUID(v).String()...), '"'), nil
	case avro.Duration:
		return fmt.Appendf(b, `{"months":%d,"days":%d,"millis":%d}`, v.Months, v.Days, v.Milliseconds), nil
	case []any:
		b = append(b, '[')
		for i, x := range v {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendAvro(b, x); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	case map[string]any:
		b = append(b, '{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendText(b, name); err != nil {
				return b, err
			}
			if b, err = appendAvro(append(b, ':'), v[name]); err != nil {
				return b, err
			}
		}
		return append(b, '}'), nil
	}
	return b, fmt.Errorf("a value of type %T has no JSON", v)
}

// appendFloat writes what JSON has no number for as text.
func appendFloat(b []byte, x float64, bits int) []byte {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return append(strconv.AppendFloat(append(b, '"'), x, 'g', -1, bits), '"')
	}
	return strconv.AppendFloat(b, x, 'g', -1, bits)
}

func appendText(b []byte, s string) ([]byte, error) {
	text, err := json.Marshal(s)
	return append(b, text...), err
}
