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

// index is where the text first stands in s; -1 if it does not.
func (n *needle) index(s string) int {
	if n.text == "" {
		return 0
	}
	for p := n.at; p < len(s); p++ {
		i := strings.IndexByte(s[p:], n.text[n.at])
		if i < 0 {
			return -1
		}
		p += i
		if strings.HasPrefix(s[p-n.at:], n.text) {
			return p - n.at
		}
	}
	return -1
}

// lastIndex is where it last stands in s; -1 if it does not.
func (n *needle) lastIndex(s string) int {
	if n.text == "" {
		return len(s)
	}
	for p := len(s) - len(n.text) + n.at; p >= n.at; p-- {
		if p = strings.LastIndexByte(s[:p+1], n.text[n.at]); p < n.at {
			return -1
		}
		if strings.HasPrefix(s[p-n.at:], n.text) {
			return p - n.at
		}
	}
	return -1
}
