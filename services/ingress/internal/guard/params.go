package guard

import (
	"strconv"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Mail is a parsed MAIL command.
type Mail struct {
	From Path
	// Size is the SIZE parameter in octets (RFC 1870); 0 if there was none.
	Size int64
	// EightBitMIME: BODY=8BITMIME (RFC 6152).
	EightBitMIME bool
	// Ret and EnvID are those of RFC 3461, EnvID decoded.
	Ret, EnvID string
}

// Rcpt is a parsed RCPT command.
type Rcpt struct {
	To Path
	// Notify is the NOTIFY parameter in upper case, ORcpt the ORCPT parameter, decoded (RFC 3461).
	Notify, ORcpt string
}

// ParseMail parses the argument of MAIL: "FROM:<…>" and its parameters.
func ParseMail(arg string) (Mail, *mail.Reply) {
	path, params, bad := splitArg(arg, "FROM:")
	if bad != nil {
		return Mail{}, bad
	}
	if path.Postmaster {
		return Mail{}, replyOf(501, "5.1.7", "the sender needs a domain")
	}
	m := Mail{From: path}
	for key, value := range params.all {
		switch key {
		case "SIZE":
			n, err := strconv.ParseUint(value, 10, 63)
			if err != nil && !(allDigits(value) && len(value) <= 20) {
				return Mail{}, badParam("SIZE")
			}
			if err != nil {
				n = 1<<63 - 1 // 20 digits are legal, and too large
			}
			m.Size = int64(n)
		case "BODY":
			switch strings.ToUpper(value) {
			case "7BIT":
			case "8BITMIME":
				m.EightBitMIME = true
			default:
				return Mail{}, replyOf(555, "5.5.4", "BODY: only 7BIT and 8BITMIME are offered")
			}
		case "RET":
			m.Ret = strings.ToUpper(value)
			if m.Ret != "FULL" && m.Ret != "HDRS" {
				return Mail{}, badParam("RET")
			}
		case "ENVID":
			id, ok := xtext(value)
			if !ok || id == "" || len(value) > 100 {
				return Mail{}, badParam("ENVID")
			}
			m.EnvID = id
		case "AUTH":
			// RFC 4954, section 5: taken, and given no weight.
			if id, ok := xtext(value); !ok || id == "" {
				return Mail{}, badParam("AUTH")
			}
		default:
			return Mail{}, replyOf(555, "5.5.4", "unknown parameter of MAIL")
		}
	}
	return m, nil
}

// ParseRcpt parses the argument of RCPT: "TO:<…>" and its parameters.
func ParseRcpt(arg string) (Rcpt, *mail.Reply) {
	path, params, bad := splitArg(arg, "TO:")
	if bad != nil {
		return Rcpt{}, bad
	}
	if path.Null {
		return Rcpt{}, replyOf(501, "5.1.3", "a recipient is needed")
	}
	r := Rcpt{To: path}
	for key, value := range params.all {
		switch key {
		case "NOTIFY":
			r.Notify = strings.ToUpper(value)
			if !notify(r.Notify) {
				return Rcpt{}, badParam("NOTIFY")
			}
		case "ORCPT":
			kind, addr, ok := strings.Cut(value, ";")
			text, fine := xtext(addr)
			if !ok || !fine || !atom(kind) || text == "" || len(value) > 500 {
				return Rcpt{}, badParam("ORCPT")
			}
			r.ORcpt = strings.ToLower(kind) + ";" + text
		default:
			return Rcpt{}, replyOf(555, "5.5.4", "unknown parameter of RCPT")
		}
	}
	return r, nil
}

func badParam(name string) *mail.Reply { return replyOf(501, "5.5.4", "malformed parameter "+name) }

// splitArg parses the path behind prefix, and cuts the parameters.
func splitArg(arg, prefix string) (Path, parameters, *mail.Reply) {
	if len(arg) < len(prefix) || !strings.EqualFold(arg[:len(prefix)], prefix) {
		return Path{}, nil, replyOf(501, "5.5.2", "expected "+prefix+"<address>")
	}
	// A space behind the colon is wrong, common and harmless.
	inner, rest, ok := cutPath(strings.TrimLeft(arg[len(prefix):], " "))
	if !ok {
		return Path{}, nil, replyOf(501, "5.5.2", "expected "+prefix+"<address>")
	}
	path, ok := parsePath(inner)
	if !ok {
		code := "5.1.3"
		if prefix == "FROM:" {
			code = "5.1.7"
		}
		return Path{}, nil, replyOf(501, code, "malformed address")
	}
	params, ok := cutParameters(rest)
	if !ok {
		return Path{}, nil, replyOf(501, "5.5.4", "malformed or repeated parameter")
	}
	return path, params, nil
}

// parameters are "KEY=value" pairs with the keys in upper case, in their order.
type parameters [][2]string

func (p parameters) all(yield func(key, value string) bool) {
	for _, kv := range p {
		if !yield(kv[0], kv[1]) {
			return
		}
	}
}

// cutParameters takes each keyword once: of two equal ones, two readers may believe different ones.
func cutParameters(s string) (parameters, bool) {
	var p parameters
	for _, word := range strings.Fields(s) {
		key, value, eq := strings.Cut(word, "=")
		key = strings.ToUpper(key)
		if !atom(key) || (eq && value == "") || strings.Contains(value, "=") {
			return nil, false
		}
		for _, kv := range p {
			if kv[0] == key {
				return nil, false
			}
		}
		p = append(p, [2]string{key, value})
	}
	return p, true
}

// atom is an esmtp-keyword (RFC 5321, section 4.1.2).
func atom(s string) bool {
	for i := range len(s) {
		b := s[i]
		alnum := b >= '0' && b <= '9' || b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z'
		if !alnum && (b != '-' || i == 0) {
			return false
		}
	}
	return s != ""
}

func allDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// notify checks NOTIFY (RFC 3461, section 4.1).
func notify(s string) bool {
	if s == "NEVER" {
		return true
	}
	seen := map[string]bool{}
	for word := range strings.SplitSeq(s, ",") {
		if (word != "SUCCESS" && word != "FAILURE" && word != "DELAY") || seen[word] {
			return false
		}
		seen[word] = true
	}
	return true
}

// xtext decodes RFC 3461, section 4. What decodes to anything but printable US-ASCII is refused: it would end up in a
// header field of a report.
func xtext(s string) (string, bool) {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		b := s[i]
		if b == '+' {
			if i+2 >= len(s) || !hexUpper(s[i+1]) || !hexUpper(s[i+2]) {
				return "", false
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", false
			}
			b, i = byte(n), i+2
		} else if b == '=' {
			return "", false
		}
		if b < ' ' || b > '~' {
			return "", false
		}
		out.WriteByte(b)
	}
	return out.String(), true
}

func hexUpper(b byte) bool { return b >= '0' && b <= '9' || b >= 'A' && b <= 'F' }
