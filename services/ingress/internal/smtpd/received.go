package smtpd

import (
	"crypto/tls"
	"net/netip"
	"strings"
	"time"
)

// stamp is what a Received field of ours says (RFC 5321, section 4.4).
type stamp struct {
	helo     string
	client   netip.Addr
	protocol string
	tls      *tls.ConnectionState // nil: none, or not known
	id       string
	token    string // by which we know the field again
	at       time.Time
}

func (s *session) received(tx *transaction, id string) string {
	return tx.receivedField(stamp{helo: s.helo, client: s.client, protocol: protocol(s.extended, s.guard.TLS() != nil, s.user != ""), tls: s.guard.TLS(),
		id: id, token: s.server.opts.Policy.Token(id), at: s.server.opts.Now()})
}

// receivedField is our Received field above a message of the transaction.
func (tx *transaction) receivedField(s stamp) string {
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
	b.WriteString(")\r\n\tby " + tx.cfg.Hostname + " (Stagecoach) with " + s.protocol)
	if s.tls != nil {
		b.WriteString("\r\n\t(" + tls.VersionName(s.tls.Version) + " " + tls.CipherSuiteName(s.tls.CipherSuite) + ")")
	}
	b.WriteString("\r\n\tid " + s.id + " (stagecoach " + s.token + ")")
	if to, ok := tx.single(); ok {
		b.WriteString("\r\n\tfor <" + to.String() + ">")
	}
	b.WriteString(";\r\n\t" + s.at.Format("Mon, 02 Jan 2006 15:04:05 -0700") + "\r\n")
	return b.String()
}

// protocol is the transmission type of RFC 3848.
func protocol(extended, secured, authenticated bool) string {
	if !extended {
		return "SMTP"
	}
	p := "ESMTP"
	if secured {
		p += "S"
	}
	if authenticated {
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
