// Package registry turns records in the wire format of a schema registry into
// JSON, so that the decoder reads them like any other.
//
//	value:   0 | schema id, 4 bytes | for Protobuf: message indexes | payload
//	header:  __value_schema_id: 0 | schema id, or 1 | GUID of the schema, 16 bytes | message indexes; the value is the payload
//
// JSON stays as it is. Avro and Protobuf are decoded by the schema that the
// record names; the schemas are fetched once and kept, up to a limit.
//
// A registry that does not answer is no fault of the record: whoever asks waits
// until it does. At the end of the process it is [ErrAway], and the record has
// to be read again. A schema that the registry does not know, or that cannot be
// compiled, is a fault.
package registry

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/twmb/franz-go/pkg/sr"
)

// ErrAway is in the error of a record whose schema could not be asked for: the
// registry is away or refuses us.
var ErrAway = errors.New("the schema registry does not answer")

// Header names the schema where the value does not.
const Header = "__value_schema_id"

const (
	maxSchemas    = 1000             // that are kept; the one used longest ago goes first
	maxReferences = 100              // of one schema, over all levels
	maxIndexes    = 32               // of a Protobuf message in others
	missingFor    = time.Minute      // how long a schema that is not there is not asked for again
	askTimeout    = 10 * time.Second // of one request
	maxBackoff    = 5 * time.Second
)

// Options say where the registry is.
type Options struct {
	URLs     []string
	User     string
	Password func() string // asked for each request; nil for none
	Log      *slog.Logger  // nil: the default one
}

// Registry is safe for concurrent use.
type Registry struct {
	ctx    context.Context // of the process: waiting ends with it
	client *sr.Client
	log    *slog.Logger

	mu      sync.Mutex
	schemas *simplelru.LRU[ref, *schema]
	loading sync.Mutex // one schema at a time
	away    atomic.Bool
}

// ref names a schema: by its id, or by its GUID if that is not zero.
type ref struct {
	id   int
	guid uuid.UUID
}

func (r ref) String() string {
	if r.guid != uuid.Nil {
		return r.guid.String()
	}
	return fmt.Sprint(r.id)
}

// schema is what was made of one.
type schema struct {
	json    func(dst, payload []byte, indexes []int) ([]byte, error)
	indexed bool      // the payload begins with message indexes
	fault   error     // why there is none
	until   time.Time // when a schema that is missing is asked for again
}

// New makes a registry. Nothing is asked for yet. Waiting ends with ctx.
func New(ctx context.Context, opts Options) (*Registry, error) {
	with := []sr.ClientOpt{sr.URLs(opts.URLs...), sr.HTTPClient(&http.Client{Timeout: askTimeout}), sr.UserAgent("catena")}
	if opts.User != "" {
		with = append(with, sr.PreReq(func(req *http.Request) error {
			password := ""
			if opts.Password != nil {
				password = opts.Password()
			}
			req.SetBasicAuth(opts.User, password)
			return nil
		}))
	}
	client, err := sr.NewClient(with...)
	if err != nil {
		return nil, fmt.Errorf("schema registry: %w", err)
	}
	schemas, err := simplelru.NewLRU[ref, *schema](maxSchemas, nil)
	if err != nil {
		return nil, err
	}
	return &Registry{ctx: ctx, client: client, log: cmp.Or(opts.Log, slog.Default()), schemas: schemas}, nil
}

// Framed reports whether a value, or the header of that name, says that it is
// in the wire format.
func Framed(value, header []byte) bool {
	return len(header) > 0 || len(value) > 5 && value[0] == 0
}

// JSON appends a record as a JSON document to dst. The error is [ErrAway], or
// says what is wrong with the record.
func (r *Registry) JSON(dst, value, header []byte) ([]byte, error) {
	at, payload, err := reference(value, header)
	if err != nil {
		return dst, err
	}
	s, err := r.schema(at)
	if err != nil {
		return dst, err
	}
	if s.fault != nil {
		return dst, fmt.Errorf("schema %s: %w", at, s.fault)
	}
	var indexes []int
	if s.indexed {
		if rest := header[min(len(header), 17):]; len(rest) > 0 && at.guid != uuid.Nil {
			indexes, _, err = new(sr.ConfluentHeader).DecodeIndex(rest, maxIndexes)
		} else {
			indexes, payload, err = new(sr.ConfluentHeader).DecodeIndex(payload, maxIndexes)
		}
		if err != nil {
			return dst, fmt.Errorf("the message indexes: %w", err)
		}
	}
	if dst, err = s.json(dst, payload, indexes); err != nil {
		return dst, fmt.Errorf("schema %s: %w", at, err)
	}
	return dst, nil
}

// reference reads which schema a record names.
func reference(value, header []byte) (at ref, payload []byte, err error) {
	switch {
	case len(header) >= 17 && header[0] == 1:
		return ref{guid: uuid.UUID(header[1:17])}, value, nil
	case len(header) >= 5 && header[0] == 0:
		return ref{id: int(binary.BigEndian.Uint32(header[1:]))}, value, nil
	case len(header) > 0:
		return at, value, fmt.Errorf("the header %s names no schema", Header)
	case len(value) > 5 && value[0] == 0:
		return ref{id: int(binary.BigEndian.Uint32(value[1:]))}, value[5:], nil
	}
	return at, value, errors.New("the value names no schema")
}

// schema returns a schema, which it fetches if it is not there yet.
func (r *Registry) schema(at ref) (*schema, error) {
	if s := r.kept(at); s != nil {
		return s, nil
	}
	r.loading.Lock()
	defer r.loading.Unlock()
	if s := r.kept(at); s != nil {
		return s, nil
	}
	s, err := r.load(at)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.schemas.Add(at, s)
	return s, nil
}

func (r *Registry) kept(at ref) *schema {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.schemas.Get(at)
	if !ok || !s.until.IsZero() && time.Now().After(s.until) {
		return nil
	}
	return s
}

// Waiting reports whether the registry is away and somebody waits for it. Of
// no registry it is false.
func (r *Registry) Waiting() bool { return r != nil && r.away.Load() }

// load fetches and compiles a schema, and waits for a registry that is away.
func (r *Registry) load(at ref) (*schema, error) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, maxBackoff) {
		s, err := r.fetch(at)
		missing := notFound(err)
		switch {
		case missing:
			r.away.Store(false)
			return &schema{fault: fmt.Errorf("the registry does not have it (%w): register it, then redrive", err), until: time.Now().Add(missingFor)}, nil
		case err == nil:
			if wait > 100*time.Millisecond {
				r.log.Info("recovered", "what", "schema registry")
			}
			r.away.Store(false)
			return s, nil
		case r.ctx.Err() != nil:
			return nil, fmt.Errorf("%w: schema %s: %w", ErrAway, at, err)
		}
		if wait == 100*time.Millisecond {
			r.away.Store(true)
			r.log.Warn("retrying", "what", "schema registry", "error", err)
		}
		select {
		case <-time.After(wait + rand.N(wait)):
		case <-r.ctx.Done():
		}
	}
}

// notFound reports whether the registry has said that it does not have a
// schema.
func notFound(err error) bool {
	var said *sr.ResponseError
	return errors.As(err, &said) && said.StatusCode == http.StatusNotFound
}

// fetch asks for a schema and those that it refers to. What it returns as
// error is worth another try, unless it is [notFound].
func (r *Registry) fetch(at ref) (*schema, error) {
	ctx, cancel := context.WithTimeout(r.ctx, askTimeout)
	defer cancel()
	var main sr.Schema
	var err error
	if at.guid != uuid.Nil {
		var found sr.SubjectSchema
		found, err = r.client.SchemaByGUID(ctx, at.guid.String())
		main = found.Schema
	} else {
		main, err = r.client.SchemaByID(ctx, at.id)
	}
	if err != nil {
		return nil, err
	}
	parts := &parts{client: r.client, have: map[string]string{}}
	if err := parts.add(ctx, main.References); err != nil {
		if errors.Is(err, errReferences) {
			return &schema{fault: err}, nil
		}
		return nil, err
	}
	s, err := compile(ctx, main, parts)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return &schema{fault: fmt.Errorf("cannot be compiled: %w", err)}, nil
	}
	return s, nil
}

// parts are the schemas to which one refers, those first that others need.
type parts struct {
	client *sr.Client
	names  []string
	have   map[string]string // by name: their text
}

var errReferences = fmt.Errorf("refers to more than %d others", maxReferences)

func (p *parts) add(ctx context.Context, list []sr.SchemaReference) error {
	for _, at := range list {
		if _, ok := p.have[at.Name]; ok {
			continue
		}
		if len(p.have) >= maxReferences {
			return errReferences
		}
		p.have[at.Name] = "" // against circles
		found, err := p.client.SchemaByVersion(ctx, at.Subject, at.Version)
		if err != nil {
			return err
		}
		if err := p.add(ctx, found.References); err != nil {
			return err
		}
		p.have[at.Name] = found.Schema.Schema
		p.names = append(p.names, at.Name)
	}
	return nil
}

func compile(ctx context.Context, main sr.Schema, parts *parts) (*schema, error) {
	switch main.Type {
	case sr.TypeJSON:
		return &schema{json: func(dst, payload []byte, _ []int) ([]byte, error) { return append(dst, payload...), nil }}, nil
	case sr.TypeAvro:
		return compileAvro(main.Schema, parts)
	case sr.TypeProtobuf:
		return compileProto(ctx, main.Schema, parts)
	}
	return nil, fmt.Errorf("its type is %s", main.Type)
}
