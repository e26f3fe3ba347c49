package smtpclient

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // CRAM-MD5 (RFC 2195) is made of it
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/emersion/go-sasl"
)

// CramMD5 is the name of the mechanism of RFC 2195.
const CramMD5 = "CRAM-MD5"

// DefaultMechanisms are tried in this order where the operator names none.
func DefaultMechanisms() []string { return []string{CramMD5, sasl.Plain, sasl.Login} }

// Auth is how to log in (RFC 4954).
type Auth struct {
	Username string
	Password string
	// Mechanisms allowed, in order of preference; empty: DefaultMechanisms.
	Mechanisms []string
}

// maxChallenges is far above what any mechanism here needs.
const maxChallenges = 8

// Supported says that this package speaks an AUTH mechanism.
func Supported(mechanism string) bool {
	return slices.Contains(DefaultMechanisms(), strings.ToUpper(mechanism))
}

func (a *Auth) client(offered []string) (sasl.Client, bool) {
	allowed := a.Mechanisms
	if len(allowed) == 0 {
		allowed = DefaultMechanisms()
	}
	for _, m := range allowed {
		if !slices.ContainsFunc(offered, func(o string) bool { return strings.EqualFold(o, m) }) {
			continue
		}
		switch strings.ToUpper(m) {
		case CramMD5:
			return &cramMD5{username: a.Username, password: a.Password}, true
		case sasl.Plain:
			return sasl.NewPlainClient("", a.Username, a.Password), true
		case sasl.Login:
			return &login{answers: []string{a.Username, a.Password}}, true
		}
	}
	return nil, false
}

// login authenticates. An answer other than 235 is an *Error with that Reply.
func (c *Client) login(ctx context.Context, a *Auth) error {
	if c.tls == nil {
		return &Error{Step: StepAUTH, Err: errors.New("AUTH is used over TLS only")}
	}
	client, ok := a.client(strings.Fields(c.ext["AUTH"]))
	if !ok {
		return &Error{Step: StepAUTH, Err: fmt.Errorf("%w: it offers %q", ErrNoMechanism, c.ext["AUTH"])}
	}
	mech, first, err := client.Start()
	if err != nil {
		return &Error{Step: StepAUTH, Err: fmt.Errorf("starting %s", mech)} // the cause might quote the secret
	}
	line := "AUTH " + mech
	secrets := []string{a.Password}
	if first != nil {
		line += " " + encodeInitial(first)
		secrets = append(secrets, encodeInitial(first))
	}
	rep, err := c.command(ctx, StepAUTH, c.deadlines.Hello, line)
	for n := 0; err == nil && rep.code == 334; n++ {
		answer, ok := respond(client, rep)
		if !ok || n == maxChallenges {
			// RFC 4954, section 4: "*" takes the attempt back; the answer to it is of no use.
			_, _ = c.command(ctx, StepAUTH, c.deadlines.Hello, "*")
			return &Error{Step: StepAUTH, Err: fmt.Errorf("unexpected challenge in %s", mech)}
		}
		secrets = append(secrets, answer)
		rep, err = c.command(ctx, StepAUTH, c.deadlines.Hello, answer)
	}
	if err != nil {
		if errors.Is(err, errReplySyntax) {
			err = &Error{Step: StepAUTH, Err: errReplySyntax} // without the quotation
		}
		return err
	}
	if rep.code != 235 {
		rep.lines = blank(rep.lines, secrets)
		return &Error{Step: StepAUTH, Reply: rep.mail()}
	}
	c.auth = mech
	return nil
}

// blank takes secrets out of what a server said: some repeat the line that they do not like, and what they say is logged.
func blank(lines, secrets []string) []string {
	out := slices.Clone(lines)
	for i := range out {
		for _, s := range secrets {
			if len(s) > 1 {
				out[i] = strings.ReplaceAll(out[i], s, "***")
			}
		}
	}
	return out
}

func encodeInitial(b []byte) string {
	if len(b) == 0 {
		return "=" // RFC 4954, section 4
	}
	return base64.StdEncoding.EncodeToString(b)
}

func respond(client sasl.Client, rep reply) (string, bool) {
	challenge, err := base64.StdEncoding.DecodeString(strings.TrimSpace(strings.Join(rep.lines, "")))
	if err != nil {
		return "", false
	}
	answer, err := client.Next(challenge)
	if err != nil {
		return "", false
	}
	return base64.StdEncoding.EncodeToString(answer), true
}

// cramMD5 answers a challenge with its HMAC under the password (RFC 2195, section 2).
type cramMD5 struct {
	username, password string
	done               bool
}

func (a *cramMD5) Start() (string, []byte, error) { return CramMD5, nil, nil }

func (a *cramMD5) Next(challenge []byte) ([]byte, error) {
	if a.done || len(bytes.TrimSpace(challenge)) == 0 {
		return nil, sasl.ErrUnexpectedServerChallenge
	}
	a.done = true
	mac := hmac.New(md5.New, []byte(a.password))
	mac.Write(challenge)
	return []byte(a.username + " " + hex.EncodeToString(mac.Sum(nil))), nil
}

// login gives the name to the first challenge and the password to the second, whatever they say: servers disagree on
// the words ("Username:", "User Name\0", nothing at all), and not on the order.
type login struct{ answers []string }

func (a *login) Start() (string, []byte, error) { return sasl.Login, nil, nil }

func (a *login) Next([]byte) ([]byte, error) {
	if len(a.answers) == 0 {
		return nil, sasl.ErrUnexpectedServerChallenge
	}
	answer := a.answers[0]
	a.answers = a.answers[1:]
	return []byte(answer), nil
}
