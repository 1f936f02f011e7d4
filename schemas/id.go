package schemas

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
)

// ID is a deterministic UUID (version 8, RFC 9562 §5.8): the same parts give
// the same id on every machine and in every replay.
type ID [16]byte

// IsZero reports whether the id names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// String is the usual 8-4-4-4-12 form.
func (id ID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], id[0:4])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:36], id[10:16])
	return string(b[:])
}

// ParseID is the inverse of [ID.String].
func ParseID(s string) (id ID, err error) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return ID{}, fmt.Errorf("id %q: want a UUID such as 01234567-89ab-8cde-8f01-23456789abcd", s)
	}
	if _, err := hex.Decode(id[:], []byte(s[0:8]+s[9:13]+s[14:18]+s[19:23]+s[24:36])); err != nil {
		return ID{}, fmt.Errorf("id %q: %w", s, err)
	}
	return id, nil
}

// MakeID hashes the parts. Parts of up to half a kilobyte in all cost no
// allocation.
func MakeID(parts ...string) ID {
	var stack [512]byte
	p := IDParts(stack[:0])
	for _, part := range parts {
		p = p.Add(part)
	}
	return p.ID()
}

// IDParts are the parts of an id to be. The decoder makes an id for every event,
// and has what its ids begin with ready.
type IDParts []byte

// Add appends a part behind its length, so that no two lists of parts give the
// same bytes.
func (p IDParts) Add(part string) IDParts {
	n := len(p)
	p = slices.Grow(p, 8+len(part))[:n+8]
	binary.BigEndian.PutUint64(p[n:], uint64(len(part)))
	return append(p, part...)
}

// ID is the id that the parts give.
func (p IDParts) ID() (id ID) {
	sum := sha256.Sum256(p)
	copy(id[:], sum[:])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}
