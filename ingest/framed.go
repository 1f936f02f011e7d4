package ingest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"catena/ingest/registry"
	"catena/schemas"
)

// framed decodes a record in the wire format of a schema registry; false if it
// is not in it. JSON can be read without a registry.
func (d *Decoder) framed(rec *schemas.Record) bool {
	r := d.opts.Registry
	if r == nil {
		if !registry.Framed(rec.Value, nil) || rec.Value[5] != '{' && rec.Value[5] != '[' {
			return false
		}
		d.inner(text(rec.Value[5:]), 5, 1)
		return true
	}
	var header []byte
	for _, h := range rec.Headers {
		if h.Key == registry.Header {
			header = h.Value
			break
		}
	}
	if !registry.Framed(rec.Value, header) {
		return false
	}
	if d.out.Err != nil {
		return true // the registry was away a moment ago
	}
	doc, err := r.JSON(nil, rec.Value, header)
	switch {
	case errors.Is(err, registry.ErrAway):
		d.out.Err = err
	case err != nil:
		d.dead(schemas.DeadMalformed, text(rec.Value), "the record is in the wire format of a schema registry: %v", err)
	case d.spend(len(doc), text(rec.Value)):
		d.inner(text(doc), -1, 1)
	}
	return true
}

// schemaHint says of bytes that nobody knows what they may be.
func (d *Decoder) schemaHint(s string) string {
	if d.opts.Registry != nil || len(s) <= 5 || s[0] != 0 {
		return ""
	}
	return fmt.Sprintf(" (it may name schema %d of a schema registry: set CATENA_SCHEMA_REGISTRY)", binary.BigEndian.Uint32([]byte(s[1:5])))
}
