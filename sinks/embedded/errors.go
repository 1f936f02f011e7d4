package embedded

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
)

var (
	// ErrNoLibrary means that libchdb is not there: not fetched yet, or not made for this platform.
	ErrNoLibrary = errors.New("no embedded engine")
	// ErrAlreadyOpen means that this process has an engine already; libchdb allows one.
	ErrAlreadyOpen = errors.New("an engine is already open in this process")
	// ErrClosed means that the engine has been closed.
	ErrClosed = errors.New("the engine is closed")
)

// Codes of ClickHouse's errors that this package itself raises or tells apart (ErrorCodes.cpp).
const (
	codeNoSuchColumn        = 16
	codeBadArguments        = 36
	codeNotImplemented      = 48
	codeSyntaxError         = 62
	codeUnknownDatabase     = 81
	codeUnknownCompression  = 89
	codeUnexpectedPacket    = 101
	codeUnknownSetting      = 115
	codeTooManyQueries      = 202
	codeSocketTimeout       = 209
	codeQueryTooLarge       = 229
	codeCannotDecompress    = 271
	codeLimitExceeded       = 290
	codeIntoOutfile         = 358
	codeSessionNotFound     = 372
	codeSessionLocked       = 373
	codeQueryCancelled      = 394
	codeInvalidSessionTime  = 374
	codeAuthenticationError = 516
	codeUnknown             = 1002
)

// Error is an exception of the engine, or one this package raises in its place with ClickHouse's code for it.
type Error struct {
	Code    int    // ClickHouse's error code; 0 where the engine gave none
	Message string // text without the "Code: 60. DB::Exception: " in front
}

func (e *Error) Error() string {
	return fmt.Sprintf("Code: %d. DB::Exception: %s", e.Code, e.Message)
}

// HTTPStatus is the status that a ClickHouse server answers with (exceptionCodeToHTTPStatus.cpp).
func (e *Error) HTTPStatus() int {
	switch e.Code {
	case 194: // REQUIRED_PASSWORD
		return http.StatusUnauthorized
	case 192, 193, 497, 512, 516: // unknown user, wrong password, access, role, authentication
		return http.StatusForbidden
	case 6, 25, 26, 27, 38, 41, 72, 376, 441, 675, 676, // text that cannot be parsed as a value
		8, 15, 36, 37, 44, 53, 62, 117, 123, 167, 168, 223, 321, 427: // bad syntax, columns, types, arguments
		return http.StatusBadRequest
	case 46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511: // something unknown
		return http.StatusNotFound
	case 229: // QUERY_IS_TOO_LARGE
		return http.StatusRequestEntityTooLarge
	case 48: // NOT_IMPLEMENTED
		return http.StatusNotImplemented
	case 76, 209, 439: // CANNOT_OPEN_FILE, SOCKET_TIMEOUT, CANNOT_SCHEDULE_TASK
		return http.StatusServiceUnavailable
	case 159: // TIMEOUT_EXCEEDED
		return http.StatusRequestTimeout
	case 381: // HTTP_LENGTH_REQUIRED
		return http.StatusLengthRequired
	case 779: // UNSUPPORTED_MEDIA_TYPE
		return http.StatusUnsupportedMediaType
	}
	return http.StatusInternalServerError
}

func newError(code int, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// ParseError reads the engine's error text, such as
//
//	Code: 60. DB::Exception: Unknown table expression identifier 'x' … (UNKNOWN_TABLE) (version 26.7.2.1)
//
// Nested errors repeat the prefix; the innermost, which is the cause, is kept. Text of another form becomes the message of
// an error without a code.
func ParseError(text string) *Error {
	text = strings.TrimSpace(strings.TrimPrefix(text, "Error: "))
	e := &Error{Message: text}
	for {
		code, rest, ok := cutErrorPrefix(e.Message)
		if !ok {
			return e
		}
		e.Code, e.Message = code, rest
	}
}

// cutErrorPrefix cuts "Code: 60. DB::Exception: " off the front; the class may be another (DB::NetException).
func cutErrorPrefix(text string) (code int, rest string, ok bool) {
	text, ok = strings.CutPrefix(text, "Code: ")
	if !ok {
		return 0, "", false
	}
	digits, rest, ok := strings.Cut(text, ". ")
	if !ok {
		return 0, "", false
	}
	code, err := strconv.Atoi(digits)
	if err != nil || code <= 0 {
		return 0, "", false
	}
	class, message, ok := strings.Cut(rest, ": ")
	if !ok || !strings.HasSuffix(class, "Exception") || strings.ContainsAny(class, " \n") {
		return 0, "", false
	}
	return code, strings.TrimSpace(message), true
}

// asError turns any error into one with a code, for a front that must answer with one.
func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &Error{Code: codeSocketTimeout, Message: "the client stopped sending: " + err.Error() + ". (SOCKET_TIMEOUT)"}
	}
	return &Error{Code: codeUnknown, Message: err.Error()}
}
