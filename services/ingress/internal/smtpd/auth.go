package smtpd

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/guard"
)

const (
	// maxFailures is how many logins of one connection may fail.
	maxFailures = 5
	// failureDelay is waited after the first failed login, twice as long after the second, and so on.
	failureDelay = time.Second
	// loginTimeout bounds how long a login may wait for its turn.
	loginTimeout = 20 * time.Second
)

var (
	errLogin = &mail.Reply{Code: 535, Enhanced: "5.7.8", Text: "authentication failed"}
	errGuess = &mail.Reply{Code: 421, Enhanced: "4.7.0", Text: "too many failed logins"}
)

// authOffered: passwords travel under TLS or not at all.
func (s *session) authOffered() bool { return s.guard.TLS() != nil && s.server.opts.Users.Configured() }

// beforeAuth decides whether an AUTH command may begin (RFC 4954, section 4).
func (s *session) beforeAuth(arg string) guard.Action {
	mechanism, initial, _ := strings.Cut(arg, " ")
	switch {
	case s.guard.TLS() == nil && s.listener.TLS != config.ListenerPlain && s.server.opts.Users.Configured():
		return guard.Answer(reply(538, "5.7.11", "encryption required: STARTTLS first"))
	case !s.authOffered() || !s.extended:
		return guard.Answer(reply(502, "5.5.1", "AUTH is not offered"))
	case s.user != "":
		return guard.Answer(reply(503, "5.5.1", "already authenticated"))
	case s.tx != nil:
		return guard.Answer(reply(503, "5.5.1", "AUTH is not allowed within a transaction"))
	}
	switch mechanism = strings.ToUpper(mechanism); mechanism {
	case "PLAIN", "LOGIN":
	default:
		return guard.Answer(reply(504, "5.5.4", "only PLAIN and LOGIN are offered"))
	}
	if initial != "" && initial != "=" {
		if _, err := base64.StdEncoding.DecodeString(initial); err != nil {
			return s.badAuth()
		}
	}
	if initial != "" {
		initial = " " + initial
	}
	return guard.Pass("AUTH " + mechanism + initial)
}

func (s *session) badAuth() guard.Action {
	s.failures++
	if s.failed("", "not base64") {
		return s.guard.Cut(errGuess, "too many failed logins")
	}
	return guard.Answer(reply(501, "5.5.2", "not base64"))
}

// AuthMechanisms implements smtp.AuthSession.
func (s *session) AuthMechanisms() []string {
	if !s.authOffered() {
		return nil
	}
	return []string{"PLAIN", "LOGIN"}
}

// Auth implements smtp.AuthSession. An attempt that is not carried through (cancelled, or garbage) counts as failed, so
// it is counted when it begins.
func (s *session) Auth(mechanism string) (sasl.Server, error) {
	if !s.authOffered() {
		return nil, smtpError(reply(502, "5.5.1", "AUTH is not offered"))
	}
	if s.failures >= maxFailures {
		return nil, smtpError(errGuess)
	}
	s.failures++
	if mechanism == "LOGIN" {
		return &login{check: s.login}, nil
	}
	return &plain{check: s.login}, nil
}

// failed records a failed login, waits, and says whether it was the last one.
func (s *session) failed(user, reason string) bool {
	s.logger.Warn("auth failed", "user", user, "reason", reason, "failures", s.failures)
	s.count.LoginFailed()
	s.server.opts.Sleep(s.server.ctx, time.Duration(s.failures)*failureDelay)
	return s.failures >= maxFailures
}

// login decides about a user and password; the caller has counted the attempt.
func (s *session) login(authzid, user, password string) error {
	ctx, cancel := context.WithTimeout(s.server.ctx, loginTimeout)
	defer cancel()
	ok, err := s.server.opts.Users.Verify(ctx, user, password)
	if err != nil {
		s.failures--
		s.logger.Error("auth failed", "user", user, "reason", "not checked", "error", err)
		return smtpError(reply(454, "4.7.0", "temporary authentication failure"))
	}
	reason := "wrong user or password"
	if ok && authzid != "" && authzid != user {
		ok, reason = false, "may not act for another"
	}
	if !ok {
		if s.failed(user, reason) {
			return smtpError(errGuess)
		}
		return smtpError(errLogin)
	}
	s.failures--
	s.user = user
	s.authenticated.Store(true)
	s.logger.Info("auth ok", "user", user)
	return nil
}

// plain is the server of RFC 4616.
type plain struct {
	check func(authzid, user, password string) error
	asked bool
}

// Next implements sasl.Server.
func (p *plain) Next(response []byte) (challenge []byte, done bool, err error) {
	if response == nil && !p.asked {
		p.asked = true
		return nil, false, nil
	}
	parts := strings.Split(string(response), "\x00")
	if len(parts) != 3 || parts[1] == "" {
		return nil, false, p.check("", "", "")
	}
	if err := p.check(parts[0], parts[1], parts[2]); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}

// login is the server of LOGIN (draft-murchison-sasl-login), which two clients in three still use.
type login struct {
	check func(authzid, user, password string) error
	step  int
	user  string
}

// Next implements sasl.Server.
func (l *login) Next(response []byte) (challenge []byte, done bool, err error) {
	if response != nil && l.step == 0 {
		l.step = 1 // the user came with the command
	}
	l.step++
	switch l.step {
	case 1:
		return []byte("Username:"), false, nil
	case 2:
		l.user = string(response)
		return []byte("Password:"), false, nil
	case 3:
		if err := l.check("", l.user, string(response)); err != nil {
			return nil, false, err
		}
		return nil, true, nil
	}
	return nil, false, errors.New("smtpd: LOGIN is over")
}
