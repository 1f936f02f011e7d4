//go:build !(linux && amd64)

package embedded

import "fmt"

// The types below stand in for libchdb's where there is no libchdb, so that whoever imports this package compiles
// everywhere. loadLibrary fails, so none of them is ever used.
type (
	library      struct{}
	conn         struct{}
	stream       struct{}
	insertStream struct{}
	chunk        struct {
		data  []byte
		stats Stats
	}
)

func loadLibrary(string) (*library, error) {
	return nil, fmt.Errorf("embedded: the embedded ClickHouse engine exists for linux/amd64 only: use a ClickHouse server (CATENA_CLICKHOUSE_ADDR): %w", ErrNoLibrary)
}

func (l *library) boot([]string) (*conn, error)                       { return nil, ErrNoLibrary }
func (l *library) openConn([]string) (*conn, error)                   { return nil, ErrNoLibrary }
func (c *conn) close()                                                {}
func (c *conn) query(string, string, []Param) (*chunk, error)         { return nil, ErrNoLibrary }
func (c *conn) stream(string, string, []Param) (*stream, error)       { return nil, ErrNoLibrary }
func (c *conn) insert(string, string, []Param) (*insertStream, error) { return nil, ErrNoLibrary }
func (c *conn) classify(string) statementClass                        { return classUnknown }
func (k *chunk) free()                                                {}
func (s *stream) next() (*chunk, error)                               { return nil, ErrNoLibrary }
func (s *stream) close()                                              {}
func (s *insertStream) append([]byte) bool                            { return false }
func (s *insertStream) finish() (Stats, error)                        { return Stats{}, ErrNoLibrary }
func (s *insertStream) cancel()                                       {}
func (s *insertStream) close()                                        {}
func lockedByOther(string) bool                                       { return false }
