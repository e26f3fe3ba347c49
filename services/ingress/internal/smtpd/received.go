package smtpd

import (
	"crypto/tls"
	"strings"
)

// received is our Received field (RFC 5321, section 4.4), with the token by which we know it again.
func (s *session) received(tx *transaction, id string) string {
	var b strings.Builder
	b.WriteString("Received: from " + heloAtom(s.helo) + " (")
	switch {
	case !s.client.IsValid():
		b.WriteString("unknown")
	case s.client.Is4():
		b.WriteString("[" + s.client.String() + "]")
	default:
		b.WriteString("[IPv6:" + s.client.String() + "]")
	}
	b.WriteString(")\r\n\tby " + tx.cfg.Hostname + " (Stagecoach) with " + s.protocol())
	if t := s.guard.TLS(); t != nil {
		b.WriteString("\r\n\t(" + tls.VersionName(t.Version) + " " + tls.CipherSuiteName(t.CipherSuite) + ")")
	}
	b.WriteString("\r\n\tid " + id + " (stagecoach " + s.server.opts.Policy.Token(id) + ")")
	if to, ok := tx.single(); ok {
		b.WriteString("\r\n\tfor <" + to.String() + ">")
	}
	b.WriteString(";\r\n\t" + s.server.opts.Now().Format("Mon, 02 Jan 2006 15:04:05 -0700") + "\r\n")
	return b.String()
}

// protocol is the transmission type of RFC 3848.
func (s *session) protocol() string {
	if !s.extended {
		return "SMTP"
	}
	p := "ESMTP"
	if s.guard.TLS() != nil {
		p += "S"
	}
	if s.user != "" {
		p += "A"
	}
	return p
}

// heloAtom is what the client calls itself, as far as it can stand in a header field.
func heloAtom(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(".-_:[]", r):
			return r
		}
		return '?'
	}, s)
}
