package signer

import (
	"strings"
)

// authorDomains finds the domains of the mailboxes in a From field (RFC 5322, section 3.4), each once, in their order,
// at most limit of them. It is lenient: what is no mailbox is passed over, display names, comments and quoted strings
// are never taken for addresses.
func authorDomains(value string, limit int) []string {
	var domains []string
	add := func(mailbox string) {
		at := strings.LastIndexByte(mailbox, '@')
		if at <= 0 || len(domains) >= limit {
			return
		}
		name, err := domainName(strings.TrimSuffix(mailbox[at+1:], "."))
		if err != nil {
			return
		}
		for _, d := range domains {
			if d == name {
				return
			}
		}
		domains = append(domains, name)
	}
	s := mailboxScanner{rest: value}
	for {
		mailbox, more := s.next()
		add(mailbox)
		if !more {
			return domains
		}
	}
}

// mailboxScanner cuts a mailbox list into its addresses.
type mailboxScanner struct{ rest string }

// next gives the address of the next element: what stands in angle brackets, else the bare text. Quoted strings
// become "q", which is all that is needed of them here: a local part may be one, a domain never.
func (s *mailboxScanner) next() (mailbox string, more bool) {
	var bare strings.Builder
	angle, hasAngle := "", false
	for i := 0; i < len(s.rest); {
		switch c := s.rest[i]; c {
		case ',', ';':
			s.rest = s.rest[i+1:]
			return pick(angle, bare.String(), hasAngle), true
		case ':': // the name of a group ends
			bare.Reset()
			i++
		case '"':
			bare.WriteByte('q')
			i = skipQuoted(s.rest, i)
		case '(':
			i = skipComment(s.rest, i)
		case '<':
			angle, i = angleAddress(s.rest, i)
			hasAngle = true
		case ' ', '\t':
			i++
		default:
			bare.WriteByte(c)
			i++
		}
	}
	s.rest = ""
	return pick(angle, bare.String(), hasAngle), false
}

func pick(angle, bare string, hasAngle bool) string {
	if hasAngle {
		return angle
	}
	return bare
}

// angleAddress reads from the "<" at i to the ">" that ends it, and gives the place after it.
func angleAddress(s string, i int) (string, int) {
	var b strings.Builder
	for i++; i < len(s); {
		switch c := s[i]; c {
		case '>':
			return b.String(), i + 1
		case '"':
			b.WriteByte('q')
			i = skipQuoted(s, i)
		case '(':
			i = skipComment(s, i)
		case ':': // a source route (RFC 5322, section 4.4) ends
			b.Reset()
			i++
		case ' ', '\t':
			i++
		default:
			b.WriteByte(c)
			i++
		}
	}
	return "", i
}

// skipQuoted gives the place after the quoted string that begins at i.
func skipQuoted(s string, i int) int {
	for i++; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(s)
}

// skipComment gives the place after the comment that begins at i; comments nest.
func skipComment(s string, i int) int {
	depth := 0
	for ; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}
