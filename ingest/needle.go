package ingest

import "strings"

// needle is a text that is looked for in others. Most that logs are cut at begin
// with a blank, of which lines are full, so the search goes by the byte of it that is
// least common.
type needle struct {
	text string
	at   int // of that byte in it
}

func newNeedle(text string) needle {
	n := needle{text: text}
	for i := range len(text) {
		if rarity(text[i]) > rarity(text[n.at]) {
			n.at = i
		}
	}
	return n
}

// rarity guesses how seldom a byte stands in a log.
func rarity(c byte) int {
	// From the most common on; what is not here, capitals and brackets above all, is rarer.
	if i := strings.IndexByte(" etaoinsr/.-0123456789hldcu:\"mfpgwybvk", c); i >= 0 {
		return i
	}
	return 256
}

// tooMany reports whether so many misses among so many bytes say that a text is
// full of the byte by which it is searched, as somebody may have written it.
// Package strings is faster then.
func tooMany(misses, bytes int) bool { return misses > 16 && misses > bytes/8 }

// index is where the text first stands in s; -1 if it does not.
func (n *needle) index(s string) int {
	if n.text == "" {
		return 0
	}
	misses := 0
	for p := n.at; p < len(s); p++ {
		i := strings.IndexByte(s[p:], n.text[n.at])
		if i < 0 {
			return -1
		}
		p += i
		start := p - n.at
		if strings.HasPrefix(s[start:], n.text) {
			return start
		}
		if misses++; tooMany(misses, p) {
			if i = strings.Index(s[start:], n.text); i >= 0 {
				i += start
			}
			return i
		}
	}
	return -1
}

// lastIndex is where it last stands in s; -1 if it does not.
func (n *needle) lastIndex(s string) int {
	if n.text == "" {
		return len(s)
	}
	misses := 0
	for p := len(s) - len(n.text) + n.at; p >= n.at; p-- {
		if p = strings.LastIndexByte(s[:p+1], n.text[n.at]); p < n.at {
			return -1
		}
		start := p - n.at
		if strings.HasPrefix(s[start:], n.text) {
			return start
		}
		if misses++; tooMany(misses, len(s)-p) {
			return strings.LastIndex(s[:start+len(n.text)], n.text)
		}
	}
	return -1
}
