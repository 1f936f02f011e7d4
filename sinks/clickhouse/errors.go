package clickhouse

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"

	"catena/sinks"
)

// ClickHouse's error codes, as in src/Common/ErrorCodes.cpp.
const (
	codeTableExists     = 57
	codeUnknownTable    = 60
	codeUnknownDatabase = 81
	codeReadOnly        = 164
	codeTableReadOnly   = 242 // a replica without its keeper
	codeNoSpace         = 243
	codeUnknownUser     = 192
	codeWrongPassword   = 193
	codeAccessDenied    = 497
	codeAuthFailed      = 516
	codePermReadOnly    = 774 // a table whose setting says so
)

// rowCodes are the server errors that are a row's own fault and will be there
// again however often it is sent.
//
// All others are worth a retry, also those that a person has to mend: a missing
// table or column, a full disk, a quota, a read-only replica. Were they counted
// as the rows' fault, a forgotten migration would turn the whole stream into
// dead letters, one row at a time.
var rowCodes = map[int32]bool{
	6:   true, // CANNOT_PARSE_TEXT
	26:  true, // CANNOT_PARSE_QUOTED_STRING
	27:  true, // CANNOT_PARSE_INPUT_ASSERTION_FAILED
	38:  true, // CANNOT_PARSE_DATE
	41:  true, // CANNOT_PARSE_DATETIME
	53:  true, // TYPE_MISMATCH
	69:  true, // ARGUMENT_OUT_OF_BOUND
	70:  true, // CANNOT_CONVERT_TYPE
	72:  true, // CANNOT_PARSE_NUMBER
	128: true, // TOO_LARGE_ARRAY_SIZE
	131: true, // TOO_LARGE_STRING_SIZE
	321: true, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
	349: true, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
	376: true, // CANNOT_PARSE_UUID
	407: true, // DECIMAL_OVERFLOW
	469: true, // VIOLATED_CONSTRAINT
}

// classify marks an error of an insert as permanent when it is a row's own
// fault. Everything else, and all that is not understood, is worth a retry.
func classify(err error) error {
	if err == nil {
		return nil
	}
	var server *clickhouse.Exception
	if errors.As(err, &server) {
		if rowCodes[server.Code] {
			return sinks.Permanent(err)
		}
		return err
	}
	var (
		convert *column.ColumnConverterError
		col     *column.Error
		block   *proto.BlockError
	)
	if errors.As(err, &convert) || errors.As(err, &col) || errors.As(err, &block) || errors.Is(err, clickhouse.ErrBatchInvalid) {
		return sinks.Permanent(err)
	}
	return err
}

func isCode(err error, codes ...int32) bool {
	var server *clickhouse.Exception
	if !errors.As(err, &server) {
		return false
	}
	for _, c := range codes {
		if server.Code == c {
			return true
		}
	}
	return false
}

// explain says where the error happened and what to do about it.
func (s *Store) explain(err error) error {
	hint := s.hint(err)
	// The address of a request holds all of its settings, which nobody wants to read.
	var request *url.Error
	if errors.As(err, &request) {
		err = shorter{err, strings.ReplaceAll(err.Error(), fmt.Sprintf("%s %q: ", request.Op, request.URL), "")}
	}
	if hint == "" {
		return fmt.Errorf("clickhouse at %s: %w", s.where, err)
	}
	return fmt.Errorf("clickhouse at %s: %s: %w", s.where, hint, err)
}

// shorter is an error told in fewer words.
type shorter struct {
	error
	text string
}

func (e shorter) Error() string { return e.text }
func (e shorter) Unwrap() error { return e.error }

func (s *Store) hint(err error) string {
	text := err.Error()
	var dns *net.DNSError
	switch {
	case isCode(err, codeAuthFailed, codeWrongPassword, codeUnknownUser):
		return fmt.Sprintf("user %q was not let in: check the user and the password", s.options.User)
	case isCode(err, codeAccessDenied):
		return fmt.Sprintf("user %q lacks a right: grant what the message names", s.options.User)
	case isCode(err, codeReadOnly):
		return "the server or the user is read-only: use one that may write"
	case isCode(err, codeTableReadOnly, codePermReadOnly):
		return "a table is read-only: its replica has lost its keeper, or its setting table_readonly is on"
	case isCode(err, codeNoSpace):
		return "the server's disk is full: free space there; the rows wait"
	case isCode(err, codeUnknownDatabase, codeUnknownTable):
		return fmt.Sprintf("database %q is not set up: run `catena migrate`", s.options.Database)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: start the server (`catena clickhouse` starts a small one) or correct the address"
	case errors.As(err, &dns):
		return fmt.Sprintf("the name %q is unknown: correct the address", dns.Name)
	case strings.Contains(text, "unexpected packet [72]"), strings.Contains(text, "Port 9000 is for clickhouse-client"):
		return "the port speaks the other protocol: 8123 is for http://, 9000 for clickhouse://"
	case strings.Contains(text, "server gave HTTP response to HTTPS client"):
		return "the port does not speak TLS: use http:// or correct the port"
	case strings.Contains(text, "tls:"), strings.Contains(text, "x509:"), strings.Contains(text, "certificate"):
		return "TLS failed: check the certificate and the name it is for"
	case s.native == clickhouse.Native && strings.Contains(text, "handshake:") && (isTimeout(err) || hungUp(err)):
		// An HTTP or TLS server waits for more of what it cannot read, or hangs up.
		return "no answer: is the server starting or stopping, or does this port not speak the native protocol (9000, with TLS 9440) but HTTP (8123)?"
	case hungUp(err):
		return "the connection was cut: is the server restarting?"
	case isTimeout(err):
		return "no answer in time: check the address, firewalls and the server's load"
	}
	return ""
}

// hungUp reports whether the other side closed the connection.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, clickhouse.ErrAcquireConnTimeout) || errors.As(err, &timeout) && timeout.Timeout()
}
