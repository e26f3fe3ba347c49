package antivirus

import (
	"strconv"
	"strings"
)

// severity orders findings: the worst one is the reason that is given.
type severity int

const (
	clean severity = iota
	// unscannable: nobody can say what a reader would see.
	unscannable
	// blocked by a rule about names or types.
	blocked
	infected
)

// finding is why a message is held.
type finding struct {
	severity severity
	reason   string
	// signature is the scanner's name for what it found, made safe; empty if it is no signature.
	signature string
}

// maxQuoted bounds what is shown of a text from outside, in bytes.
const maxQuoted = 120

// quote makes a text from outside safe to show: ASCII, no control characters, not long.
func quote(s string) string {
	if len(s) > maxQuoted {
		s = strings.ToValidUTF8(s[:maxQuoted], "") + "..."
	}
	return strconv.QuoteToASCII(s)
}
