package signer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"github.com/stagecoachmail/stagecoach/internal/config"
)

// Config is the operator's part. The zero Config signs with what lies in the key directory.
type Config struct {
	// Domains are the author domains to sign for, by name.
	Domains map[string]Domain `yaml:"domains"`
	// KeyDir holds <domain>/<selector>.pem, as `stagecoach dkim new` makes it; every domain found there is signed for.
	// Relative to the configuration file; "keys" in the data directory if empty.
	KeyDir string `yaml:"key_dir"`
	// MustSign are author domains whose mail waits rather than leave without a signature.
	MustSign []string `yaml:"must_sign"`
	// Create makes the missing keys when the stage starts: for Domains without keys, or, where Domains is empty, for the
	// installation's hostname. Meant for one process; replicas would each make their own.
	Create bool `yaml:"create"`
	// Sign says which mail is signed with S/MIME or OpenPGP, for whom.
	Sign []Rule `yaml:"sign"`
	// MaxEncoded bounds what of one message is encoded anew for that, in bytes; it is held in memory. 25 MB by default.
	MaxEncoded config.Size `yaml:"max_encoded"`
}

// defaultMaxEncoded: only text with 8-bit characters is encoded anew, attachments come in base64.
const defaultMaxEncoded = 25_000_000

// Domain says how one author domain is signed for.
type Domain struct {
	// Keys are used all together, one signature each. If empty, those in the key directory are used.
	Keys []KeyRef `yaml:"keys"`
}

// KeyRef is one key of a domain.
type KeyRef struct {
	// Selector is the s= tag (RFC 6376, section 3.1): the public key stands at <selector>._domainkey.<domain>.
	Selector string `yaml:"selector"`
	// KeyFile is a PEM file, PKCS#8 or PKCS#1, relative to the configuration file.
	KeyFile string `yaml:"key_file"`
}

// maxKeys bounds the signatures on one message; verifiers commonly look at no more than a few.
const maxKeys = 4

// Validate checks what can be checked without reading files.
func (c *Config) Validate() error {
	var errs []error
	seen := make(map[string]string, len(c.Domains))
	for _, name := range sortedKeys(c.Domains) {
		canonical, err := domainName(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("domains: %w", err))
			continue
		}
		if other, ok := seen[canonical]; ok {
			errs = append(errs, fmt.Errorf("domains: %q and %q are the same domain", other, name))
		}
		seen[canonical] = name
		if err := validateKeys(c.Domains[name].Keys); err != nil {
			errs = append(errs, fmt.Errorf("domains.%s.keys: %w", name, err))
		}
	}
	for _, name := range c.MustSign {
		if _, err := domainName(name); err != nil {
			errs = append(errs, fmt.Errorf("must_sign: %w", err))
		}
	}
	if err := validateRules(c.Sign); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func validateKeys(keys []KeyRef) error {
	if len(keys) > maxKeys {
		return fmt.Errorf("%d keys; at most %d sign one message", len(keys), maxKeys)
	}
	seen := make(map[string]bool, len(keys))
	for _, k := range keys {
		if err := checkSelector(k.Selector); err != nil {
			return err
		}
		if k.KeyFile == "" {
			return fmt.Errorf("selector %q has no key_file", k.Selector)
		}
		if s := strings.ToLower(k.Selector); seen[s] {
			return fmt.Errorf("selector %q stands twice: one name in the DNS holds one key", k.Selector)
		} else {
			seen[s] = true
		}
	}
	return nil
}

// domainName gives the form in which domains are compared and put into d=: A-labels in lower case (RFC 6376,
// section 2.4). What it returns is safe as a folder name and within a header field.
func domainName(s string) (string, error) {
	a, err := idna.ToASCII(strings.ToLower(s))
	if err != nil || checkName(a) != nil {
		return "", fmt.Errorf("%q is not a domain name", s)
	}
	return strings.ToLower(a), nil
}

// checkSelector says whether s is a selector: labels of letters, digits and hyphens, separated by dots.
func checkSelector(s string) error {
	if err := checkName(s); err != nil {
		return fmt.Errorf("%q is not a selector (letters, digits, hyphens, dots)", s)
	}
	return nil
}

var errName = errors.New("not a name")

// checkName admits letter-digit-hyphen labels, with underscores, as they occur in the DNS.
func checkName(s string) error {
	if s == "" || len(s) > 253 {
		return errName
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return errName
		}
		for i := range len(label) {
			switch c := label[i]; {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			default:
				return errName
			}
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
