package guard

import (
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// maxPath bounds a path in octets. RFC 5321, section 4.5.3.1.3 asks for 256; VERP makes longer ones.
const maxPath = 512

// Path is a Reverse-path or Forward-path (RFC 5321, section 4.1.2), parsed.
type Path struct {
	// Null: "<>", the null reverse-path.
	Null bool
	// Mailbox is the mailbox; zero if Null or Postmaster.
	Mailbox mail.Address
	// Postmaster: "<postmaster>", without a domain.
	Postmaster bool
	// Routed: there was a source route (RFC 5321, appendix C); it is dropped.
	Routed bool
}

// cutPath takes a path off the front of s: what is between the angle brackets, and what follows them.
// A bracket within a quoted local part is not the end.
func cutPath(s string) (path, rest string, ok bool) {
	if s == "" || s[0] != '<' {
		return "", "", false
	}
	quoted := false
	for i := 1; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == '<' && !quoted:
			return "", "", false
		case s[i] == '>' && !quoted:
			rest = s[i+1:]
			return s[1:i], rest, rest == "" || rest[0] == ' '
		}
	}
	return "", "", false
}

// parsePath parses what stands between angle brackets.
func parsePath(s string) (Path, bool) {
	if s == "" {
		return Path{Null: true}, true
	}
	if len(s) > maxPath {
		return Path{}, false
	}
	if strings.EqualFold(s, "postmaster") {
		return Path{Postmaster: true}, true
	}
	var p Path
	if s[0] == '@' {
		route, rest, ok := strings.Cut(s, ":")
		if !ok || !sourceRoute(route) {
			return Path{}, false
		}
		p.Routed, s = true, rest
	}
	a, err := mail.ParseAddress(s)
	if err != nil || a.IsNull() {
		return Path{}, false
	}
	p.Mailbox = a
	return p, true
}

// sourceRoute checks an A-d-l: "@a.example,@b.example".
func sourceRoute(s string) bool {
	for hop := range strings.SplitSeq(s, ",") {
		name, ok := strings.CutPrefix(hop, "@")
		if !ok || name == "" || strings.ContainsAny(name, " \"<>@\\()") {
			return false
		}
	}
	return true
}
