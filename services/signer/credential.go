package signer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/signer/internal/multisigned"
	"github.com/stagecoachmail/stagecoach/services/signer/internal/pgpmime"
	"github.com/stagecoachmail/stagecoach/services/signer/internal/smime"
)

// credential is what a rule signs with.
type credential interface {
	// kind is the name of the rule's key: "smime" or "openpgp".
	kind() string
	// Name names the certificate or key for a log or a trail.
	Name() string
	// Unusable says why it cannot sign now, or "".
	Unusable(now time.Time) string
	// begin begins a signature that bears the time at, if the key was there then.
	begin(at, now time.Time) (multisigned.Session, error)
	// addresses are those that it says it is for.
	addresses(now time.Time) []mail.Address
	// ends is when it expires; zero if never.
	ends(now time.Time) time.Time
}

type smimeCredential struct{ *smime.Identity }

func (smimeCredential) kind() string                         { return "smime" }
func (c smimeCredential) addresses(time.Time) []mail.Address { return c.Addresses() }
func (c smimeCredential) ends(time.Time) time.Time           { return c.Ends() }
func (c smimeCredential) begin(at, _ time.Time) (multisigned.Session, error) {
	return c.Begin(at), nil
}

type pgpCredential struct{ *pgpmime.Key }

func (pgpCredential) kind() string                             { return "openpgp" }
func (c pgpCredential) addresses(now time.Time) []mail.Address { return c.Addresses(now) }
func (c pgpCredential) ends(now time.Time) time.Time           { return c.Ends(now) }
func (c pgpCredential) begin(at, now time.Time) (multisigned.Session, error) {
	return c.Begin(at, now)
}

// files are those that the credential of a rule is made of: with secrets the first, whatever the form.
func (r *Rule) files() []string {
	if o := r.OpenPGP; o != nil {
		return slices.DeleteFunc([]string{o.KeyFile, o.PassphraseFile}, isEmpty)
	}
	if r.SMIME.PKCS12 != "" {
		return slices.DeleteFunc([]string{r.SMIME.PKCS12, r.SMIME.PasswordFile}, isEmpty)
	}
	return []string{r.SMIME.KeyFile, r.SMIME.Certificate}
}

func isEmpty(s string) bool { return s == "" }

// secret says whether a file of the rule is for its owner's eyes alone.
func (r *Rule) secret(file string) bool { return r.SMIME == nil || file != r.SMIME.Certificate }

// parse makes the credential of a rule from its files, by name.
func (r *Rule) parse(content map[string][]byte) (credential, error) {
	if o := r.OpenPGP; o != nil {
		key, err := pgpmime.Parse(content[o.KeyFile], firstLine(content[o.PassphraseFile]))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.KeyFile, err)
		}
		return pgpCredential{key}, nil
	}
	s := r.SMIME
	if s.PKCS12 != "" {
		id, err := smime.ParsePKCS12(content[s.PKCS12], string(firstLine(content[s.PasswordFile])))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.PKCS12, err)
		}
		return smimeCredential{id}, nil
	}
	id, err := smime.ParsePEM(content[s.Certificate], content[s.KeyFile])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Certificate, err)
	}
	return smimeCredential{id}, nil
}

// firstLine is a password as it stands in a file.
func firstLine(b []byte) []byte {
	text, _, _ := strings.Cut(string(b), "\n")
	return []byte(strings.TrimSuffix(text, "\r"))
}

// checkAddress says why a credential is not one for the senders of the rule. That of one sender bears this address.
// That of a whole domain bears an address of it, or none at all: readers compare (RFC 8550, section 3).
func (r *Rule) checkAddress(c credential, now time.Time) error {
	pattern, err := mail.ParsePattern(r.Sender)
	if err != nil {
		return err
	}
	addresses := c.addresses(now)
	if slices.ContainsFunc(addresses, pattern.Match) || len(addresses) == 0 && !r.isOneAddress() {
		return nil
	}
	if len(addresses) == 0 {
		return errors.New("it names no address, and is for " + r.Sender)
	}
	names := make([]string, len(addresses))
	for i, a := range addresses {
		names[i] = a.String()
	}
	return fmt.Errorf("it is for %s, not for %s", strings.Join(names, ", "), r.Sender)
}
