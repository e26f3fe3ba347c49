package signer

import (
	"errors"
	"fmt"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Rule says whose mail is signed with S/MIME or OpenPGP, and for whom. Of several, the first that takes the author and
// the recipient holds.
type Rule struct {
	// Sender is a pattern for the author: the one mailbox in the header From.
	Sender string `yaml:"sender"`
	// Recipients are patterns; all recipients, if empty.
	Recipients []string `yaml:"recipients"`
	// Users narrows the rule to mail of these users, as they have logged in.
	Users []string `yaml:"users"`
	// ReversePath says what the reverse-path has to be: "same" as the author (the default), of the "same-domain", or
	// "any". The null one is never signed.
	ReversePath string `yaml:"reverse_path"`
	// MustSign says that mail waits rather than leave without this signature. Where it is not said, it holds for
	// author domains that stand in must_sign of the whole configuration.
	MustSign *bool `yaml:"must_sign"`
	// SMIME or OpenPGP, one of them.
	SMIME   *SMIME   `yaml:"smime"`
	OpenPGP *OpenPGP `yaml:"openpgp"`
}

// SMIME names a certificate and its key: a PKCS#12 file, or PEM files. Paths are relative to the configuration file.
type SMIME struct {
	PKCS12       string `yaml:"pkcs12"`
	PasswordFile string `yaml:"password_file"`
	Certificate  string `yaml:"certificate"`
	KeyFile      string `yaml:"key_file"`
}

// OpenPGP names a secret key. Paths are relative to the configuration file.
type OpenPGP struct {
	KeyFile        string `yaml:"key_file"`
	PassphraseFile string `yaml:"passphrase_file"`
}

// The values of Rule.ReversePath.
const (
	reverseSame       = "same"
	reverseSameDomain = "same-domain"
	reverseAny        = "any"
)

func validateRules(rules []Rule) error {
	var errs []error
	for i := range rules {
		if err := rules[i].validate(); err != nil {
			errs = append(errs, fmt.Errorf("sign[%d]: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

func (r *Rule) validate() error {
	if r.Sender == "" {
		return errors.New("sender is missing: an address, or a pattern like \"*@example.com\"")
	}
	if r.Sender == "*" {
		return errors.New("sender: \"*\" is everybody: name a domain, \"*@example.com\"")
	}
	if err := mail.ValidatePattern(r.Sender); err != nil {
		return fmt.Errorf("sender %q: %w", r.Sender, err)
	}
	for _, p := range r.Recipients {
		if err := mail.ValidatePattern(p); err != nil {
			return fmt.Errorf("recipients: %q: %w", p, err)
		}
	}
	for _, u := range r.Users {
		if u == "" {
			return errors.New("users: a name is empty")
		}
	}
	switch r.ReversePath {
	case "", reverseSame, reverseSameDomain, reverseAny:
	default:
		return fmt.Errorf("reverse_path: %q is none of %s, %s, %s", r.ReversePath, reverseSame, reverseSameDomain, reverseAny)
	}
	if (r.SMIME == nil) == (r.OpenPGP == nil) {
		return errors.New("either smime or openpgp has to be there: a message gets one of them")
	}
	if r.SMIME != nil {
		return r.SMIME.validate()
	}
	if r.OpenPGP.KeyFile == "" {
		return errors.New("openpgp: key_file is missing")
	}
	return nil
}

func (s *SMIME) validate() error {
	switch {
	case s.PKCS12 != "" && (s.Certificate != "" || s.KeyFile != ""):
		return errors.New("smime: a PKCS#12 file holds certificate and key: leave out certificate and key_file, or pkcs12")
	case s.PKCS12 != "":
		return nil
	case s.PasswordFile != "":
		return errors.New("smime: password_file belongs to pkcs12; a PEM key has no password here")
	case s.Certificate == "" || s.KeyFile == "":
		return errors.New("smime: name a pkcs12 with its password_file, or a certificate with its key_file")
	}
	return nil
}

// isOneAddress says that the sender is an address rather than a pattern for several.
func (r *Rule) isOneAddress() bool {
	_, err := mail.ParseAddressUTF8(r.Sender)
	return err == nil && !strings.HasPrefix(r.Sender, "*@")
}
