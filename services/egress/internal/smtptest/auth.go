package smtptest

import (
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // CRAM-MD5
	"encoding/base64"
	"encoding/hex"
	"strings"
)

func (s *Server) auth(c *Conn, arg string) {
	mech, initial, has := strings.Cut(arg, " ")
	user := ""
	switch strings.ToUpper(mech) {
	case "PLAIN":
		if !has {
			initial = c.Challenge("")
		}
		parts := strings.Split(decode(initial), "\x00")
		if len(parts) == 3 && s.valid(parts[1], parts[2]) {
			user = parts[1]
		}
	case "LOGIN":
		name := initial
		if !has {
			name = c.Challenge("Username:")
		}
		if pass := c.Challenge("Password:"); s.valid(decode(name), decode(pass)) {
			user = decode(name)
		}
	case "CRAM-MD5":
		const challenge = "<1896.697170952@test.example>"
		name, digest, _ := strings.Cut(decode(c.Challenge(challenge)), " ")
		mac := hmac.New(md5.New, []byte(s.config.Users[name]))
		mac.Write([]byte(challenge))
		if want, ok := s.config.Users[name]; ok && want != "" && digest == hex.EncodeToString(mac.Sum(nil)) {
			user = name
		}
	default:
		c.Say("504 5.5.4 unknown mechanism")
		return
	}
	if user == "" {
		c.Say("535 5.7.8 authentication failed")
		return
	}
	c.User = user
	c.Say("235 2.7.0 welcome")
}

func (s *Server) valid(user, pass string) bool {
	want, ok := s.config.Users[user]
	return ok && want == pass
}

// Challenge asks for the next line of a SASL exchange and returns it as it came.
func (c *Conn) Challenge(text string) string {
	c.Say("334 " + base64.StdEncoding.EncodeToString([]byte(text)))
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.Hangup()
		return ""
	}
	return strings.TrimRight(line, "\r\n")
}

func decode(s string) string {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return ""
	}
	return string(b)
}
