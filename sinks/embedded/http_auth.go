package embedded

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// checkOrigin keeps web pages out. Without a password the address is the only protection, and a browser on this machine
// would lend it to any page: so a request has to name a loopback host (a page that rebinds its own DNS name to 127.0.0.1
// still names itself), and what a browser marks as coming from another site may not write.
func (h *Handler) checkOrigin(r *http.Request) error {
	if h.opts.Password == "" && !isLoopbackHost(r.Host) {
		return newError(codeAuthenticationError, "host %q is not this machine: a server without a password answers on loopback names only. (AUTHENTICATION_FAILED)", r.Host)
	}
	if err := h.csrf.Check(r); err != nil {
		return newError(codeAuthenticationError, "request from another web site refused. (AUTHENTICATION_FAILED)")
	}
	return nil
}

// isLoopbackHost reports whether a Host header (name or address, perhaps with a port) is this machine's loopback.
func isLoopbackHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.IsLoopback()
	}
	return strings.EqualFold(host, "localhost")
}

// authenticate checks user and password, wherever the client put them: X-ClickHouse-User and -Key, Basic authentication, or
// the parameters user and password. As with a server these do not mix.
func (h *Handler) authenticate(r *http.Request) error {
	query := r.URL.Query()
	user, password := r.Header.Get("X-ClickHouse-User"), r.Header.Get("X-ClickHouse-Key")
	inHeaders, inQuery := user != "" || password != "", query.Has("user") || query.Has("password")
	basicUser, basicPassword, inBasic := r.BasicAuth()
	switch {
	case inHeaders && (inBasic || inQuery), inBasic && inQuery:
		return newError(codeAuthenticationError, "Invalid authentication: it is not allowed to use more than one of headers, Basic authentication and parameters. (AUTHENTICATION_FAILED)")
	case inBasic:
		user, password = basicUser, basicPassword
	case inQuery:
		user, password = query.Get("user"), query.Get("password")
	}
	return h.opts.letIn(user, password)
}

// letIn checks a user and a password. A user without a password may send any, as with a server. Both comparisons always run,
// on digests of one length.
func (o *HandlerOptions) letIn(user, password string) error {
	user = cmp.Or(user, "default")
	userOK := equal(user, o.User)
	passwordOK := equal(password, o.Password) | subtle.ConstantTimeByteEq(0, byte(min(len(o.Password), 1)))
	if userOK&passwordOK != 1 {
		return newError(codeAuthenticationError, "%s: Authentication failed: password is incorrect, or there is no user with such name. (AUTHENTICATION_FAILED)", user)
	}
	return nil
}

// equal compares in a time that does not depend on the content.
func equal(a, b string) int {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:])
}
