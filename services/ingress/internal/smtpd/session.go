package smtpd

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/emersion/go-smtp"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/guard"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/tally"
)

const (
	// maxHelo bounds the argument of EHLO in octets (RFC 5321, section 4.5.3.1.2).
	maxHelo = 255
	// refusals is how many recipients one connection may get refused: who tries more collects addresses.
	refusals = 100
)

// session is one connection. It is the guard's Handler and go-smtp's Session: the guard asks it before go-smtp sees a
// command, go-smtp drives it through the state machine.
type session struct {
	server   *Server
	guard    *guard.Conn
	listener *config.Listener
	client   netip.Addr
	known    bool // a relay rule knows the client's network
	logger   *slog.Logger
	count    *tally.Listener

	started       atomic.Bool
	authenticated atomic.Bool
	gone          chan struct{} // closed at the end
	leaving       bool          // the server's mutex guards these two
	uncounted     bool

	once     sync.Once
	extended bool // EHLO, not HELO
	helo     string
	user     string
	failures int // logins
	refused  int // recipients
	mail     guard.Mail
	rcpt     guard.Rcpt
	tx       *transaction
}

// transaction is what MAIL began (RFC 5321, section 3.3).
type transaction struct {
	cfg       *config.Config
	view      *policy.View
	mail      guard.Mail
	grant     policy.Grant
	env       mail.Envelope
	targets   []policy.Target // of env.Recipients
	starts    map[string][]mail.RecipientID
	prefix    string // what the first recipient's chain runs inline
	limit     int64  // octets of the message
	received  string // our field above it
	reception Reception
	forced    *config.Chain // of a draft: takes every recipient; nil: the chains that match
}

// Command implements guard.Handler.
func (s *session) Command(cmd guard.Command) guard.Action {
	switch cmd.Verb {
	case "EHLO", "HELO":
		name, _, _ := strings.Cut(cmd.Arg, " ")
		if name == "" || len(name) > maxHelo {
			return guard.Answer(reply(501, "5.5.4", cmd.Verb+" needs the client's name"))
		}
		s.helo, s.extended = name, cmd.Verb == "EHLO"
		return guard.Pass(cmd.Verb + " client")
	case "MAIL":
		if s.tx != nil {
			return s.answer("mail", reply(503, "5.5.1", "a transaction is under way; RSET first"))
		}
		m, bad := guard.ParseMail(cmd.Arg)
		if bad != nil {
			return s.answer("mail", bad)
		}
		s.mail = m
		return guard.Pass("MAIL FROM:<>")
	case "RCPT":
		if s.tx == nil {
			return s.answer("rcpt", reply(503, "5.5.1", "MAIL first"))
		}
		r, bad := guard.ParseRcpt(cmd.Arg)
		if bad != nil {
			return s.answer("rcpt", bad)
		}
		s.rcpt = r
		return guard.Pass("RCPT TO:<recipient@placeholder.invalid>")
	case "DATA":
		return s.beforeData(cmd.Arg)
	case "AUTH":
		return s.beforeAuth(cmd.Arg)
	case "RSET":
		if cmd.Arg != "" {
			return guard.Answer(reply(501, "5.5.4", "RSET takes no argument"))
		}
		return guard.Pass("RSET")
	}
	return guard.Answer(reply(500, "5.5.2", "unknown command"))
}

// answer refuses a command before the library sees it.
func (s *session) answer(at string, r *mail.Reply) guard.Action {
	s.count.Refused(at, r)
	return guard.Answer(r)
}

// Extensions implements guard.Handler.
func (s *session) Extensions() []string {
	cfg := s.server.cfg.Load()
	ext := []string{"PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN"}
	ext = append(ext, "SIZE "+strconv.FormatInt(messageSize(cfg), 10))
	ext = append(ext, "LIMITS RCPTMAX="+strconv.Itoa(maxRecipients(cfg))) // RFC 9422
	if s.authOffered() {
		ext = append(ext, "AUTH PLAIN LOGIN")
	}
	return ext
}

// Secured implements guard.Handler.
func (s *session) Secured() {
	s.endTransaction()
	s.helo, s.extended, s.user = "", false, ""
	s.authenticated.Store(false)
}

// Closed implements guard.Handler.
func (s *session) Closed() {
	s.once.Do(func() {
		s.endTransaction()
		s.server.unregister(s)
		close(s.gone)
	})
}

// Reset implements smtp.Session: RSET, EHLO, and the end of every message.
func (s *session) Reset() { s.endTransaction() }

// Logout implements smtp.Session.
func (s *session) Logout() error {
	s.endTransaction()
	return nil
}

func (s *session) endTransaction() {
	tx := s.tx
	s.tx = nil
	if tx != nil && tx.reception != nil {
		tx.reception.Abort()
		tx.reception = nil
	}
}

// leave ends the session when it waits for a command; one that has not begun ends at once.
func (s *session) leave(r *mail.Reply) {
	if !s.started.Load() {
		s.guard.Kill()
		return
	}
	s.guard.Leave(r)
}

func (s *session) fault(reason string) { s.logger.Info("connection fault", "reason", reason) }

func (s *session) origin(g policy.Grant) mail.Origin {
	return mail.Origin{
		Listener: s.listener.Name,
		Relay:    g.Relay,
		User:     s.user,
		Client:   s.client.String(),
		Helo:     s.helo,
		TLS:      s.guard.TLS() != nil,
	}
}

// Mail implements smtp.Session; what it works with is what the guard has parsed.
func (s *session) Mail(string, *smtp.MailOptions) error {
	cfg, view := s.server.cfg.Load(), s.server.opts.Policy.View()
	from := s.mail.From.Mailbox
	if s.listener.AuthRequired && s.user == "" {
		return s.reject("mail", from, mail.Address{}, reply(530, "5.7.0", "authentication required"))
	}
	limit := messageSize(cfg)
	if s.mail.Size > limit {
		return s.reject("mail", from, mail.Address{}, reply(552, "5.3.4", "message larger than "+strconv.FormatInt(limit, 10)+" octets"))
	}
	if n := s.mail.Size; n > 0 {
		limit = min(limit, n+n/8+sizeTolerance)
	}
	grant := view.Grant(policy.Client{Listener: s.listener.Name, Addr: s.client, User: s.user}, from)
	origin := s.origin(grant)
	if err := s.server.opts.Intake.Admit(s.server.ctx, origin); err != nil {
		return s.reject("mail", from, mail.Address{}, asReply(err))
	}
	s.tx = &transaction{
		cfg:   cfg,
		view:  view,
		mail:  s.mail,
		grant: grant,
		limit: limit,
		env: mail.Envelope{
			ReversePath:  from,
			Ret:          s.mail.Ret,
			EnvID:        s.mail.EnvID,
			EightBitMIME: s.mail.EightBitMIME,
			Origin:       origin,
		},
		starts: map[string][]mail.RecipientID{},
	}
	return nil
}

// Rcpt implements smtp.Session.
func (s *session) Rcpt(string, *smtp.RcptOptions) error {
	tx := s.tx
	to, bad := tx.recipient(s.rcpt)
	if bad == nil {
		return nil
	}
	if bad.Code >= 550 && bad.Code <= 554 {
		if s.refused++; s.refused > refusals {
			s.logger.Warn("connection cut", "reason", "too many refused recipients")
			return smtpError(reply(421, "4.7.0", "too many refused recipients"))
		}
	}
	return s.reject("rcpt", tx.env.ReversePath, to, bad)
}

// Of a transaction that cannot take more, or not this one; in the next it can.
var (
	errTooMany        = reply(452, "4.5.3", "too many recipients, send the others in another transaction")
	errOwnTransaction = reply(452, "4.5.3", "this recipient needs a transaction of its own")
)

// chain is the one that takes a recipient.
func (tx *transaction) chain(r mail.Recipient) (*config.Chain, *mail.Reply) {
	if tx.forced != nil {
		return tx.forced, nil
	}
	return tx.view.Chain(&tx.env, r)
}

// recipient decides about one recipient, and takes it into the transaction.
func (tx *transaction) recipient(rcpt guard.Rcpt) (mail.Address, *mail.Reply) {
	path := rcpt.To
	target := policy.Target{Mailbox: path.Mailbox, Postmaster: path.Postmaster, Routed: path.Routed}
	asked := path.Mailbox
	if path.Postmaster {
		asked = mail.Address{Local: "postmaster", Domain: tx.cfg.Hostname}
	}
	to, bad := tx.view.Recipient(tx.grant, target)
	if bad != nil {
		return asked, bad
	}
	r := mail.Recipient{Address: to, Notify: rcpt.Notify, ORcpt: rcpt.ORcpt}
	if r.ORcpt == "" && !to.Equal(asked) {
		// RFC 3461, section 5.2.1 (b): who rewrites says what was asked for.
		r.ORcpt = "rfc822;" + asked.String()
	}
	for _, old := range tx.env.Recipients {
		if old.Address.Equal(to) {
			return to, nil
		}
	}
	if len(tx.env.Recipients) >= maxRecipients(tx.cfg) {
		return to, errTooMany
	}
	chain, bad := tx.chain(r)
	if bad != nil {
		return to, bad
	}
	prefix := policy.InlinePrefix(chain)
	if len(tx.env.Recipients) > 0 && prefix != tx.prefix {
		return to, errOwnTransaction
	}
	r.ID = mail.RecipientID("r" + strconv.Itoa(len(tx.env.Recipients)+1))
	tx.prefix = prefix
	tx.env.Recipients = append(tx.env.Recipients, r)
	tx.targets = append(tx.targets, target)
	tx.starts[chain.Name] = append(tx.starts[chain.Name], r.ID)
	return to, nil
}

// reject logs a refusal and makes it go-smtp's.
func (s *session) reject(at string, from, to mail.Address, r *mail.Reply) error {
	attrs := []any{"at", at, "from", from.String()}
	if !to.IsNull() {
		attrs = append(attrs, "to", to.String())
	}
	attrs = append(attrs, "code", r.Code, "enhanced", r.Enhanced, "reason", r.Text)
	if r.Private != "" {
		attrs = append(attrs, "cause", r.Private)
	}
	s.logger.Info("rejected", attrs...)
	s.count.Refused(at, r)
	return smtpError(r)
}

// The limits where the configuration sets none.
const (
	defaultMessageSize = 50e6
	defaultRecipients  = 1000
)

func messageSize(cfg *config.Config) int64 {
	if n := cfg.Ingress.Limits.MessageSize; n > 0 {
		return n
	}
	return defaultMessageSize
}

func maxRecipients(cfg *config.Config) int {
	if n := cfg.Ingress.Limits.Recipients; n > 0 {
		return n
	}
	return defaultRecipients
}

func reply(code int, enhanced, text string) *mail.Reply {
	return &mail.Reply{Code: code, Enhanced: enhanced, Text: text}
}

// asReply is what the client is told of an error: its reply, else that it is our fault and will pass.
func asReply(err error) *mail.Reply {
	if r, ok := mail.AsReply(err); ok && r != nil && r.Code >= 400 && r.Code < 600 {
		return r
	}
	return &mail.Reply{Code: 451, Enhanced: "4.3.0", Text: "try again later", Private: err.Error()}
}

// smtpError is the reply as go-smtp knows it; the library takes any code for one, also 250.
func smtpError(r *mail.Reply) error {
	e := smtp.EnhancedCode{r.Code / 100, 0, 0}
	if n, err := fmt.Sscanf(r.Enhanced, "%d.%d.%d", &e[0], &e[1], &e[2]); err != nil || n != 3 {
		e = smtp.EnhancedCode{r.Code / 100, 0, 0}
	}
	return &smtp.SMTPError{Code: r.Code, EnhancedCode: e, Message: strings.ReplaceAll(r.Text, "\r", "")}
}

var (
	_ guard.Handler    = (*session)(nil)
	_ smtp.AuthSession = (*session)(nil)
)

// lasting is a context that the end of the client does not end.
func (s *session) lasting() context.Context { return s.server.ctx }
