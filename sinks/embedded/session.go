package embedded

import (
	"sync"
	"time"
)

// maxSessions bounds the open sessions; each holds a connection of the engine. One more evicts the session that has been
// idle the longest.
const maxSessions = 256

// Session is a connection that outlives a statement, and with it SET, USE and temporary tables. It runs one statement at a
// time.
type Session struct {
	id       string
	conn     *conn
	busy     bool
	timeout  time.Duration
	lastUsed time.Time
}

// sessions are the open ones by id.
type sessions struct {
	engine *Engine
	mu     sync.Mutex
	byID   map[string]*Session
	closed bool // a connection opened now would boot a new engine
}

// acquire returns the session of that name for one statement, opening it when missing, unless mustExist. The caller releases
// it. A session expires once it has been idle for timeout; that is looked at when sessions are acquired, not by a clock of
// their own.
func (s *sessions) acquire(id string, timeout time.Duration, mustExist bool) (*Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	s.expire(time.Now())
	session := s.byID[id]
	switch {
	case session != nil && session.busy:
		return nil, newError(codeSessionLocked, "Session %s is locked by a concurrent client. (SESSION_IS_LOCKED)", id)
	case session == nil && mustExist:
		return nil, newError(codeSessionNotFound, "Session %s not found. (SESSION_NOT_FOUND)", id)
	case session == nil:
		if len(s.byID) >= maxSessions && !s.evict() {
			return nil, newError(codeLimitExceeded, "more than %d sessions are in use. (LIMIT_EXCEEDED)", maxSessions)
		}
		conn, err := s.engine.lib.openConn(s.engine.args)
		if err != nil {
			return nil, err
		}
		session = &Session{id: id, conn: conn}
		if s.byID == nil {
			s.byID = make(map[string]*Session)
		}
		s.byID[id] = session
	}
	session.busy, session.timeout = true, timeout
	return session, nil
}

// release gives the session back, or ends it.
func (s *sessions) release(session *Session, end bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session.busy, session.lastUsed = false, time.Now()
	if end {
		s.remove(session)
	}
}

func (s *sessions) expire(now time.Time) {
	for _, session := range s.byID {
		if !session.busy && now.Sub(session.lastUsed) > session.timeout {
			s.remove(session)
		}
	}
}

// evict ends the session that has been idle the longest.
func (s *sessions) evict() bool {
	var oldest *Session
	for _, session := range s.byID {
		if !session.busy && (oldest == nil || session.lastUsed.Before(oldest.lastUsed)) {
			oldest = session
		}
	}
	if oldest != nil {
		s.remove(oldest)
	}
	return oldest != nil
}

func (s *sessions) remove(session *Session) {
	delete(s.byID, session.id)
	session.conn.close()
}

// close ends every session; none is in use any more.
func (s *sessions) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, session := range s.byID {
		s.remove(session)
	}
}
