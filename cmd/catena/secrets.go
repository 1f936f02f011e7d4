package main

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// freshness is how long a file's content is taken for current. Whoever needs a
// secret asks for it at each new connection, and then the file is read again:
// nothing runs in the background, and a swapped symbolic link (as of a mounted
// Kubernetes secret) is as good as a file that was written anew.
const freshness = time.Second

// secretFile is a secret that stands in a file and may change there. A file
// that cannot be read, or is empty, leaves the last good value in use.
type secretFile struct {
	setting string // CATENA_…_FILE
	path    string

	mu     sync.Mutex
	log    *slog.Logger // nil discards
	value  string
	read   time.Time
	failed string // why the last reading failed; said once
}

// openSecret reads the file for the first time, when a fault ends the start.
func openSecret(setting, path string) (*secretFile, error) {
	s := &secretFile{setting: setting, path: path}
	value, err := s.readFile()
	if err != nil {
		return nil, err
	}
	s.value, s.read = value, time.Now()
	return s, nil
}

func (s *secretFile) readFile() (string, error) {
	text, err := os.ReadFile(s.path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", s.setting, err)
	}
	value := strings.TrimRight(string(text), "\r\n")
	if value == "" {
		return "", fmt.Errorf("%s: %s is empty", s.setting, s.path)
	}
	return value, nil
}

// get returns the secret as it is now.
func (s *secretFile) get() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.read) < freshness {
		return s.value
	}
	s.read = time.Now()
	value, err := s.readFile()
	switch {
	case err != nil:
		s.failed = keepOld(s.log, s.setting, s.failed, err)
		return s.value
	case value != s.value:
		logger(s.log).Info("secret changed: new connections use it", "setting", s.setting)
	}
	s.value, s.failed = value, ""
	return value
}

// keepOld says once that a file cannot be used, and returns what was said.
func keepOld(log *slog.Logger, setting, said string, err error) string {
	if err.Error() != said {
		logger(log).Error("secret cannot be read again: the last good one stays in use", "setting", setting, "error", err)
	}
	return err.Error()
}

func logger(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// secret returns a function that gives the secret of a setting as it is now.
// Without a file it is what the environment said at the start.
func (c *config) secret(name, atStart string, log *slog.Logger) func() string {
	f := c.secrets[envPrefix+"_"+name]
	if f == nil {
		return func() string { return atStart }
	}
	f.mu.Lock()
	f.log = log
	f.mu.Unlock()
	return f.get
}
