package egress

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtpclient"
)

// smarthost sends everything to one host.
type smarthost struct {
	outbound
	conf        config.Smarthost
	dir         string // relative files start here
	host        string
	mode        smtpclient.TLSMode
	fingerprint []byte
}

func (e *Egress) newSmarthost(c *config.Config, name string, conf config.Smarthost) (*smarthost, error) {
	out, err := e.newOutbound(c, name, conf.Out)
	if err != nil {
		return nil, err
	}
	s := &smarthost{outbound: out, conf: conf, dir: c.Dir}
	var port string
	if s.host, port, err = net.SplitHostPort(conf.Address); err != nil || s.host == "" || port == "" {
		return nil, fmt.Errorf("address %q is no host:port", conf.Address)
	}
	switch conf.TLS {
	case config.TLSNone:
		s.mode = smtpclient.PlainText
	case config.TLSOpportunistic:
		s.mode = smtpclient.Opportunistic
		// Who logs in, or says how the certificate is to be known, does not mean "whatever it is, or none".
		if conf.Auth != nil || conf.CAFile != "" || conf.Fingerprint != "" {
			s.mode = smtpclient.Required
		}
	case config.TLSRequired:
		s.mode = smtpclient.Required
	case config.TLSImplicit:
		s.mode = smtpclient.Implicit
	default:
		return nil, fmt.Errorf("unknown tls mode %q", conf.TLS)
	}
	if conf.Fingerprint != "" {
		s.fingerprint, err = hex.DecodeString(strings.ReplaceAll(conf.Fingerprint, ":", ""))
		if err != nil || len(s.fingerprint) != sha256.Size {
			return nil, errors.New("fingerprint is no SHA-256 in hex")
		}
	}
	return s, s.checkAuth()
}

func (s *smarthost) checkAuth() error {
	a := s.conf.Auth
	if a == nil {
		return nil
	}
	if s.mode == smtpclient.PlainText {
		return errors.New("auth without TLS")
	}
	if a.Username == "" || a.PasswordFile == "" && a.PasswordEnv == "" {
		return errors.New("auth needs a username and a password file or variable")
	}
	for _, m := range a.Mechanisms {
		if !smtpclient.Supported(m) {
			return fmt.Errorf("unknown AUTH mechanism %q", m)
		}
	}
	return nil
}

func (s *smarthost) deliver(ctx context.Context, d *delivery, to []mail.Recipient) {
	to = d.sendable(to)
	if len(to) == 0 {
		return
	}
	t := &target{name: s.conf.Address, key: s.conf.Address, pool: s.pool, dial: s.dial, concern: chain.AboutRoute, about: s.name}
	for _, l := range d.toHost(ctx, t, to) {
		d.settle(l.to.ID, l.fault.host, l.fault.tls, l.fault.fate(chain.AboutRoute, s.name))
	}
}

// dial reads certificates and password anew: what was corrected takes effect by itself.
func (s *smarthost) dial(ctx context.Context) (*smtpclient.Client, error) {
	var conf *tls.Config
	if s.mode != smtpclient.PlainText {
		var err error
		if conf, err = s.tls(); err != nil {
			return nil, &smtpclient.Error{Step: smtpclient.StepTLS, Err: err}
		}
	}
	auth, err := s.login()
	if err == nil {
		var c *smtpclient.Client
		if c, err = s.outbound.dial(ctx, s.conf.Address, s.mode, conf, auth); err == nil {
			return c, nil
		}
	}
	if f := faultOf(ctx, s.conf.Address, "", err); f.login && !f.ours {
		s.e.logger.LogAttrs(ctx, slog.LevelError, "the login at the smarthost failed: mail for this route waits until it is corrected",
			slog.String("route", s.name), slog.String("host", s.conf.Address), slog.String("user", s.conf.Auth.Username), slog.String("error", err.Error()))
	}
	return nil, err
}

func (s *smarthost) tls() (*tls.Config, error) {
	c := &tls.Config{ServerName: s.conf.ServerName, MinVersion: tls.VersionTLS12}
	if c.ServerName == "" {
		c.ServerName = s.host
	}
	if s.mode == smtpclient.Opportunistic {
		return opportunistic(c.ServerName), nil
	}
	if s.fingerprint != nil {
		// The pin takes the place of the chain and the name: it is for certificates that have neither.
		c.InsecureSkipVerify = true //nolint:gosec // VerifyConnection checks more strictly
		c.VerifyConnection = func(state tls.ConnectionState) error {
			sum := sha256.Sum256(state.PeerCertificates[0].Raw)
			if subtle.ConstantTimeCompare(sum[:], s.fingerprint) != 1 {
				return fmt.Errorf("the certificate has the fingerprint %x, not the one in the configuration", sum)
			}
			return nil
		}
		return c, nil
	}
	if s.conf.CAFile != "" {
		pem, err := os.ReadFile(s.path(s.conf.CAFile))
		if err != nil {
			return nil, fmt.Errorf("reading the CA file: %w", err)
		}
		if c.RootCAs, err = x509.SystemCertPool(); err != nil {
			c.RootCAs = x509.NewCertPool()
		}
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("the CA file holds no certificate")
		}
	}
	return c, nil
}

// opportunistic encrypts against those who only listen. An old version and an unknown certificate are still better than
// plaintext, which is what this mode falls back to.
func opportunistic(name string) *tls.Config {
	return &tls.Config{ServerName: name, InsecureSkipVerify: true, MinVersion: tls.VersionTLS10} //nolint:gosec // see above
}

func (s *smarthost) login() (*smtpclient.Auth, error) {
	a := s.conf.Auth
	if a == nil {
		return nil, nil
	}
	password, err := s.password(a)
	if err != nil {
		return nil, &smtpclient.Error{Step: smtpclient.StepAUTH, Err: err}
	}
	return &smtpclient.Auth{Username: a.Username, Password: password, Mechanisms: a.Mechanisms}, nil
}

const maxPassword = 4 << 10 // bytes

func (s *smarthost) password(a *config.Auth) (string, error) {
	if a.PasswordFile == "" {
		p := os.Getenv(a.PasswordEnv)
		if p == "" {
			return "", fmt.Errorf("the environment variable %s is empty", a.PasswordEnv)
		}
		return p, nil
	}
	f, err := os.Open(s.path(a.PasswordFile))
	if err != nil {
		return "", fmt.Errorf("reading the password file: %w", err)
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, maxPassword+1))
	if err != nil {
		return "", fmt.Errorf("reading the password file: %w", err)
	}
	if p = bytes.TrimRight(p, "\r\n"); len(p) == 0 || len(p) > maxPassword {
		return "", errors.New("the password file is empty or too long")
	}
	return string(p), nil
}

func (s *smarthost) path(p string) string { return within(s.dir, p) }
