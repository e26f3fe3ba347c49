package mail

import (
	"errors"
	"strings"
)

// Pattern is a parsed address pattern: which addresses a rule is about. The zero Pattern matches nothing.
type Pattern struct {
	any    bool
	local  string // empty: every local part
	domain string
	below  bool // domain is a suffix: every name below it
}

// ParsePattern reads one of the forms in which the configuration names addresses:
//
//   - every address, the null one too
//     *@example.com         every address of the domain; "@example.com" is the same
//     *@*.example.com       every address of a domain below example.com, not of example.com itself
//     user@example.com      this address
//     user@*.example.com    this local part in every domain below
//
// The local part may be quoted as in RFC 5321; a "*" in it stands for nothing else than the whole.
func ParsePattern(s string) (Pattern, error) {
	if s == "*" {
		return Pattern{any: true}, nil
	}
	var p Pattern
	form := s
	switch {
	case strings.HasPrefix(form, "*@"):
		form = "x" + form[1:]
	case strings.HasPrefix(form, "@"):
		form = "x" + form
	default:
		p.local = "x"
	}
	if at := strings.LastIndexByte(form, '@'); at >= 0 && strings.HasPrefix(form[at+1:], "*.") {
		p.below = true
		form = form[:at+1] + form[at+3:]
	}
	a, err := ParseAddressUTF8(form)
	if err != nil {
		return Pattern{}, err
	}
	if p.below && a.Domain[0] == '[' {
		return Pattern{}, errors.New("there is nothing below an address literal")
	}
	if p.local != "" {
		if a.Local == "" {
			return Pattern{}, errors.New("local part is empty")
		}
		if strings.ContainsRune(a.Local, '*') {
			return Pattern{}, errors.New("a * stands for a whole local part only")
		}
		p.local = a.Local
	}
	p.domain = a.Domain
	return p, nil
}

// ValidatePattern says why s is no pattern that ParsePattern reads.
func ValidatePattern(s string) error {
	_, err := ParsePattern(s)
	return err
}

// Match says whether the pattern means a. Case does not matter, in the local part either: RFC 5321, section 2.4
// leaves it to the receiving domain, and who writes a rule about "info@" means "Info@" as well.
func (p Pattern) Match(a Address) bool {
	if p.any {
		return true
	}
	if p.domain == "" || a.Domain == "" {
		return false
	}
	if p.local != "" && !strings.EqualFold(p.local, a.Local) {
		return false
	}
	if !p.below {
		return strings.EqualFold(p.domain, a.Domain)
	}
	cut := len(a.Domain) - len(p.domain)
	return cut > 1 && a.Domain[cut-1] == '.' && strings.EqualFold(p.domain, a.Domain[cut:])
}

// MatchAddress says whether pattern means a. A pattern that does not parse matches nothing; where many addresses are
// matched, parse it once.
func MatchAddress(pattern string, a Address) bool {
	p, err := ParsePattern(pattern)
	return err == nil && p.Match(a)
}
