package mail

import (
	"errors"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The limits of RFC 5321, section 4.5.3.1, in octets of the form that goes over the wire. A path is at most 256
// octets with its angle brackets.
const (
	maxLocal   = 64
	maxDomain  = 255
	maxLabel   = 63
	maxMailbox = 254
)

// Address is an RFC 5321 Mailbox, parsed: Local is unquoted, Domain is as given (an address literal keeps its
// brackets). The zero Address is the null reverse-path. Keep addresses parsed and print them with String, which
// quotes where it must: a quoted local part put back without quotes is a parameter injection.
type Address struct {
	Local  string
	Domain string
}

// IsNull says that a is the null reverse-path.
func (a Address) IsNull() bool { return a.Local == "" && a.Domain == "" }

// Equal compares as mail systems do: the domain without regard to case, the local part exactly.
func (a Address) Equal(b Address) bool {
	return a.Local == b.Local && strings.EqualFold(a.Domain, b.Domain)
}

// ParseAddress reads a Mailbox (RFC 5321, section 4.1.2) without angle brackets and without a source route. The
// local part is a dot-string or a quoted string of at most 64 octets; what stands in it ("%", "!", "+") is kept and
// means nothing here. The domain is made of letter-digit-hyphen labels without a trailing dot, at most 255 octets,
// or is an IPv4 or IPv6 address literal. The whole has at most 254 octets. Only ASCII is accepted.
func ParseAddress(s string) (Address, error) { return parseAddress(s, false) }

// ParseAddressUTF8 is ParseAddress with the extensions of RFC 6531, section 3.3: UTF-8 in the local part, and
// U-labels in the domain. Nothing is normalized.
func ParseAddressUTF8(s string) (Address, error) { return parseAddress(s, true) }

// Validate says whether a stands for a Mailbox that ParseAddressUTF8 would have returned. Call it for addresses that
// came from elsewhere than the parser. The null Address is valid.
func (a Address) Validate() error {
	if a.IsNull() {
		return nil
	}
	b, err := parseAddress(a.String(), true)
	if err != nil {
		return err
	}
	if a != b {
		return errors.New("address holds characters that no mailbox can have")
	}
	return nil
}

// IsASCII says that a can be sent to a server that does not offer SMTPUTF8 (RFC 6531).
func (a Address) IsASCII() bool { return isASCII(a.Local) && isASCII(a.Domain) }

// String gives the Mailbox as it goes over the wire, the local part quoted where it is no dot-string; the null
// Address gives "". For every a that a parser returned, parsing the result gives a again. In an address made by hand,
// what no mailbox can hold (control characters, broken UTF-8, in the domain also spaces and brackets) is printed as
// U+FFFD, so that nothing can be injected into a command or a header.
func (a Address) String() string {
	if a.IsNull() {
		return ""
	}
	var b strings.Builder
	b.Grow(len(a.Local) + len(a.Domain) + 3)
	if isDotString(a.Local) {
		b.WriteString(a.Local)
	} else {
		b.WriteByte('"')
		for _, r := range a.Local {
			switch {
			case r == '"' || r == '\\':
				b.WriteByte('\\')
				b.WriteRune(r)
			case r == ' ' || isAtextOrSpecial(r):
				b.WriteRune(r)
			default:
				b.WriteRune(utf8.RuneError)
			}
		}
		b.WriteByte('"')
	}
	b.WriteByte('@')
	for _, r := range a.Domain {
		if r == '<' || r == '>' || r == '@' || r == ',' || r == ';' || r == '"' || r == '\\' || !isAtextOrSpecial(r) {
			r = utf8.RuneError
		}
		b.WriteRune(r)
	}
	return b.String()
}

func parseAddress(s string, utf bool) (Address, error) {
	if s == "" {
		return Address{}, errors.New("address is empty")
	}
	if len(s) > maxMailbox {
		return Address{}, errors.New("address is longer than 254 octets")
	}
	local, rest, err := parseLocal(s, utf)
	if err != nil {
		return Address{}, err
	}
	if !strings.HasPrefix(rest, "@") {
		return Address{}, errors.New("address has no @ after its local part")
	}
	if len(s)-len(rest) > maxLocal {
		return Address{}, errors.New("local part is longer than 64 octets")
	}
	domain := rest[1:]
	if err := checkDomain(domain, utf); err != nil {
		return Address{}, err
	}
	return Address{Local: local, Domain: domain}, nil
}

func parseLocal(s string, utf bool) (local, rest string, err error) {
	if s[0] == '"' {
		return parseQuoted(s, utf)
	}
	i := 0
	for i < len(s) {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == '@' {
			break
		}
		if r != '.' && (!isAtext(r) || !allowed(r, n, utf)) {
			return "", "", errors.New("local part holds a character that is not allowed without quotes")
		}
		i += n
	}
	if !isDotString(s[:i]) {
		return "", "", errors.New("local part is empty or has an empty atom")
	}
	return s[:i], s[i:], nil
}

func parseQuoted(s string, utf bool) (local, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '"':
			return b.String(), s[i+1:], nil
		case r == '\\':
			i++
			// A quoted pair is "\" and one ASCII character (RFC 5321, quoted-pairSMTP), also under RFC 6531.
			if i == len(s) || s[i] < ' ' || s[i] > '~' {
				return "", "", errors.New("quoted local part has a backslash before a character that cannot be escaped")
			}
			b.WriteByte(s[i])
			i++
			continue
		case r != ' ' && !(isAtextOrSpecial(r) && allowed(r, n, utf)):
			return "", "", errors.New("quoted local part holds a character that is not allowed")
		}
		b.WriteString(s[i : i+n])
		i += n
	}
	return "", "", errors.New("quoted local part does not end")
}

func checkDomain(d string, utf bool) error {
	if d == "" {
		return errors.New("domain is empty")
	}
	if len(d) > maxDomain {
		return errors.New("domain is longer than 255 octets")
	}
	if d[0] == '[' {
		return checkLiteral(d)
	}
	for label := range strings.SplitSeq(d, ".") {
		if label == "" {
			return errors.New("domain has an empty label")
		}
		if len(label) > maxLabel {
			return errors.New("domain has a label longer than 63 octets")
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("domain has a label that begins or ends with a hyphen")
		}
		for i := 0; i < len(label); {
			r, n := utf8.DecodeRuneInString(label[i:])
			if !isLabelRune(r, n, utf) {
				return errors.New("domain holds a character that is no letter, digit or hyphen")
			}
			i += n
		}
	}
	return nil
}

func checkLiteral(d string) error {
	if d[len(d)-1] != ']' {
		return errors.New("address literal does not end with ]")
	}
	in := d[1 : len(d)-1]
	const tag = "IPv6:"
	v6 := len(in) >= len(tag) && strings.EqualFold(in[:len(tag)], tag)
	if v6 {
		in = in[len(tag):]
	}
	ip, err := netip.ParseAddr(in)
	if err != nil || ip.Zone() != "" || ip.Is4() == v6 {
		return errors.New("address literal holds no IP address")
	}
	return nil
}

func isLabelRune(r rune, n int, utf bool) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-':
		return true
	case r < utf8.RuneSelf || !utf || r == utf8.RuneError && n == 1:
		return false
	}
	return unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsDigit(r) || isJoiner(r)
}

// isDotString says whether s may stand unquoted as a local part.
func isDotString(s string) bool {
	if s == "" || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return false
	}
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r != '.' && !isAtext(r) || r == utf8.RuneError && n == 1 {
			return false
		}
		i += n
	}
	return true
}

func isAtext(r rune) bool {
	return isAtextOrSpecial(r) && !strings.ContainsRune(`()<>[]:;@\,."`, r)
}

// isAtextOrSpecial is every visible character that can stand in a mailbox: ASCII 33 to 126, and outside ASCII no
// spaces, no control characters and no separators, which would only serve to deceive.
func isAtextOrSpecial(r rune) bool {
	if r < utf8.RuneSelf {
		return r > ' ' && r <= '~'
	}
	return unicode.IsGraphic(r) && !unicode.IsSpace(r) && !unicode.Is(unicode.Zs, r) || isJoiner(r)
}

// isJoiner: the zero-width joiners, which some scripts need (RFC 5892, appendix A).
func isJoiner(r rune) bool { return r == 0x200C || r == 0x200D }

func allowed(r rune, n int, utf bool) bool {
	return r < utf8.RuneSelf || utf && !(r == utf8.RuneError && n == 1)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
