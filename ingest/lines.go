package ingest

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Logs that are no JSON come a line a record, or many. Three kinds of line are
// known: those of container runtimes (CRI: time, stream, F or P, then the
// line), of syslog, and logfmt. Each becomes a document, or what it wraps is
// decoded.

// lines decodes the lines of the text at hand from p on; false, and nothing is decoded, if it holds
// none that anybody knows.
func (d *Decoder) lines(p, level int) bool {
	line := strings.TrimRight(d.eval.s[p:], "\r\n")
	if strings.IndexByte(line, '\n') < 0 {
		return d.logLine(line, level)
	}
	m := d.mark()
	d.stream(p, level)
	return !d.undo(m)
}

// logLine decodes one line of a log; false if it is of no known kind.
func (d *Decoder) logLine(s string, level int) bool {
	if len(s) < 4 {
		return false
	}
	switch c := s[0]; {
	case c == '<':
		return d.syslogLine(s, level)
	case '0' <= c && c <= '9':
		return d.containerLine(s, level) || d.syslogLine(s, level)
	case 'A' <= c && c <= 'Z' && d.syslogLine(s, level):
		return true
	}
	return d.logfmtLine(s, level)
}

// containerLine opens a line of a container runtime's log file (Kubernetes CRI
// logging format).
func (d *Decoder) containerLine(s string, level int) bool {
	at, rest, _ := strings.Cut(s, " ")
	stream, rest, _ := strings.Cut(rest, " ")
	flag, rest, ok := strings.Cut(rest, " ")
	if !ok || stream != "stdout" && stream != "stderr" || flag != "F" && flag != "P" {
		return false
	}
	if d.tooManyLevels(s, level) {
		return true
	}
	hint, known := d.hint, d.known
	d.relay()
	if utf8.ValidString(at) {
		d.known.set("time", at)
	}
	d.inner(rest, -1, level+1)
	d.hint, d.known = hint, known
	return true
}

// syslogLine decodes a line of syslog.
func (d *Decoder) syslogLine(s string, level int) bool {
	m := message{more: d.more}
	rest, pri := priority(s)
	if pri >= 0 {
		m.more = word(m.more, "SYSLOG_FACILITY", strconv.Itoa(pri/8))
		m.more = word(m.more, "PRIORITY", strconv.Itoa(pri%8))
	}
	form := `"syslog":"rfc3164"`
	if text, ok := strings.CutPrefix(rest, "1 "); ok && pri >= 0 {
		if form = `"syslog":"rfc5424"`; !m.rfc5424(text) {
			return false
		}
	} else if !m.rfc3164(rest, pri >= 0) {
		return false
	}
	d.message(form, &m, level)
	return true
}

// priority reads <34>; -1 if there is none.
func priority(s string) (rest string, pri int) {
	if s[0] != '<' {
		return s, -1
	}
	number, _, ok := strings.Cut(s[1:min(len(s), 6)], ">")
	if n, err := strconv.ParseUint(number, 10, 8); ok && err == nil && n < 192 {
		return s[len(number)+2:], int(n)
	}
	return s, -1
}

// rfc5424 reads what follows the version: time, host, program, process,
// message id, structured data and the text.
func (m *message) rfc5424(s string) bool {
	var head [5]string
	for i := range head {
		var ok bool
		if head[i], s, ok = strings.Cut(s, " "); !ok {
			return false
		}
		if head[i] == "-" {
			head[i] = ""
		}
	}
	m.time, m.host, m.app, m.pid = head[0], head[1], head[2], head[3]
	m.more = protoText(m.more, "MESSAGE_ID", []byte(head[4]))
	s, ok := m.structured(s)
	if !ok {
		return false
	}
	m.text = strings.TrimPrefix(strings.TrimPrefix(s, " "), "\ufeff")
	return true
}

// structured reads structured data, [id name="value" …][…], into a member of
// that name.
func (m *message) structured(s string) (rest string, ok bool) {
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		return rest, true
	}
	if s == "" || s[0] != '[' {
		return s, false
	}
	m.more = append(name(m.more, "structured"), '{')
	for s != "" && s[0] == '[' {
		end := strings.IndexAny(s, " ]")
		if end < 0 {
			return s, false
		}
		if m.more[len(m.more)-1] != '{' {
			m.more = append(m.more, ',')
		}
		m.more = append(appendJSON(m.more, []byte(s[1:end])), ':', '{')
		for s = s[end:]; s != "" && s[0] == ' '; {
			key, value, ok := strings.Cut(s[1:], `="`)
			if !ok {
				return s, false
			}
			plain := []byte(nil)
			for value != "" && value[0] != '"' {
				if value[0] == '\\' && len(value) > 1 && strings.IndexByte(`"\]`, value[1]) >= 0 {
					value = value[1:]
				}
				plain, value = append(plain, value[0]), value[1:]
			}
			if value == "" {
				return s, false
			}
			if m.more[len(m.more)-1] != '{' {
				m.more = append(m.more, ',')
			}
			m.more = appendJSON(append(appendJSON(m.more, []byte(key)), ':'), plain)
			s = value[1:]
		}
		if s == "" || s[0] != ']' {
			return s, false
		}
		m.more, s = append(m.more, '}'), s[1:]
	}
	m.more = append(m.more, '}')
	return s, true
}

// rfc3164 reads time, host, tag and text; the time may also be that of RFC
// 3339, as rsyslog writes it to files. Without a priority before it, only a
// line with a tag is syslog: sshd[123]: or sudo:.
func (m *message) rfc3164(s string, tagOptional bool) bool {
	at, rest := syslogStamp(s)
	if at == "" {
		return false
	}
	m.time = at
	host, text, _ := strings.Cut(rest, " ")
	if isTag(host) { // written by the host itself
		host, text = "", rest
	}
	tag, after, ok := strings.Cut(text, ":")
	if !ok || !isTag(tag+":") {
		if !tagOptional {
			return false
		}
		m.host, m.text = host, text
		return true
	}
	m.host, m.text = host, strings.TrimPrefix(after, " ")
	m.tag(tag)
	return true
}

// syslogStamp takes the time off the beginning of a line.
func syslogStamp(s string) (at, rest string) {
	if len(s) > bsdTimeLen && s[bsdTimeLen] == ' ' {
		if _, err := time.Parse(time.Stamp, s[:bsdTimeLen]); err == nil {
			return s[:bsdTimeLen], s[bsdTimeLen+1:]
		}
	}
	at, rest, ok := strings.Cut(s, " ")
	if _, good := parseTime(at, unitRFC3339); ok && good && strings.IndexByte(at, 'T') > 0 {
		return at, rest
	}
	return "", ""
}

// isTag reports whether a word is a program's name with its process id, or
// without, and a colon.
func isTag(s string) bool {
	s, ok := strings.CutSuffix(s, ":")
	if !ok || s == "" || len(s) > 64 {
		return false
	}
	name, pid, ok := strings.Cut(s, "[")
	if ok {
		if pid, ok = strings.CutSuffix(pid, "]"); !ok || pid == "" || strings.Trim(pid, "0123456789") != "" {
			return false
		}
	}
	return name != "" && strings.IndexFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`[]:="'`, r)
	}) < 0
}

// logfmtLine decodes a line of logfmt, which many Go services write: every word
// of it is name=value, and one says the time, the level or the message. Values
// are text.
func (d *Decoder) logfmtLine(s string, level int) bool {
	arena := d.eval.arena
	start := len(arena.buf)
	b := append(arena.buf, '{')
	log := false
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimLeft(s, " \t") {
		n := strings.IndexAny(s, "= \t\"")
		if n <= 0 || s[n] != '=' {
			return false
		}
		key := s[:n]
		value, rest, ok := logfmtValue(s[n+1:])
		if !ok {
			return false
		}
		switch key {
		case "time", "ts", "level", "lvl", "msg":
			log = true
		}
		if len(b)-start > 1 {
			b = append(b, ',')
		}
		b = appendJSON(append(appendJSON(b, []byte(key)), ':'), []byte(value))
		s = rest
	}
	if !log {
		return false
	}
	arena.buf = append(b, '}')
	d.repair(arena.since(start), level)
	return true
}

// logfmtValue reads a value, quoted as in Go or up to the next blank.
func logfmtValue(s string) (value, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		n := strings.IndexAny(s, " \t")
		if n < 0 {
			n = len(s)
		}
		return s[:n], s[n:], true
	}
	quoted, err := strconv.QuotedPrefix(s)
	if err != nil {
		return "", "", false
	}
	value, err = strconv.Unquote(quoted)
	return value, s[len(quoted):], err == nil
}
