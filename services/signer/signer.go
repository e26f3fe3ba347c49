// Package signer is the stage that signs mail: with S/MIME (RFC 8551) or OpenPGP (RFC 3156) where a rule says so, then
// with DKIM (RFC 6376, RFC 8463), for each author domain that has keys one signature per key, usually RSA and Ed25519
// together. DKIM looks at the body once, whatever the number of keys, and holds a fixed amount of memory.
package signer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/telemetry"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// Type is the name in the configuration.
const Type = "signer"

// maxAuthors bounds the author domains of one message that are looked up.
const maxAuthors = 16

// Factory makes signers.
func Factory() stage.Factory {
	traits := stage.Traits{ReadsBody: true, EditsHeader: true, EditsBody: true, Seals: true}
	return stage.NewFactory(Type, traits, func() Config { return Config{MaxEncoded: defaultMaxEncoded} }, New)
}

// Signer is the stage. It is safe for concurrent use.
type Signer struct {
	ring *keyring
	must map[string]bool
	now  func() time.Time

	rules       []matcher
	credentials *credentials
	maxEncoded  int64
	signed      func(form string)
}

// New loads the keys, and makes the missing ones where the configuration says so. A key that is missing or cannot be
// read is an error that names the file.
func New(s stage.Settings, c Config) (stage.Stage, error) {
	r := &keyring{config: c, configDir: s.ConfigDir, keyDir: keyDir(s, c), log: s.Logger, now: s.Now}
	var listed []string
	for _, name := range sortedKeys(c.Domains) {
		domain, err := domainName(name)
		if err != nil {
			return nil, err
		}
		listed = append(listed, domain)
	}
	if c.Create {
		domains := listed
		if len(domains) == 0 {
			host, err := domainName(s.Hostname)
			if err != nil {
				return nil, fmt.Errorf("create: the hostname: %w", err)
			}
			domains = []string{host}
		}
		if err := r.create(domains); err != nil {
			return nil, err
		}
	}
	if err := r.open(); err != nil {
		return nil, err
	}
	keys := *r.keys.Load()
	rules, err := parseRules(c.Sign)
	if err != nil {
		return nil, err
	}
	signer := &Signer{ring: r, must: make(map[string]bool), now: s.Now, rules: rules, maxEncoded: int64(c.MaxEncoded),
		credentials: &credentials{rules: c.Sign, configDir: s.ConfigDir, log: s.Logger, now: s.Now}}
	signatures := telemetry.Counters(s.Metrics, "stagecoach_signer_signatures_total", "Signatures made, by form: dkim, smime, openpgp.", "stage", "form")
	signer.signed = func(form string) { signatures.WithLabelValues(s.Instance, form).Inc() }
	for _, name := range c.MustSign {
		domain, err := domainName(name)
		if err != nil {
			return nil, err
		}
		signer.must[domain] = true
		listed = append(listed, domain)
	}
	errs := []error{signer.credentials.open()}
	slices.Sort(listed)
	for _, domain := range slices.Compact(listed) {
		if len(keys[domain]) == 0 {
			errs = append(errs, fmt.Errorf("%s has no key: none is named under domains, and there is none in %s (make one with: stagecoach dkim new %s)",
				domain, filepath.Join(r.keyDir, domain), domain))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return signer, nil
}

// KeyDir is where the keys of a configuration are looked for: key_dir relative to the folder of the configuration file,
// or "keys" in the data directory.
func KeyDir(configDir, dataDir, keyDir string) string {
	switch {
	case keyDir == "":
		return filepath.Join(dataDir, "keys")
	case filepath.IsAbs(keyDir):
		return keyDir
	}
	return filepath.Join(configDir, keyDir)
}

func keyDir(s stage.Settings, c Config) string { return KeyDir(s.ConfigDir, s.DataDir, c.KeyDir) }

// Process signs m: for the recipients that a rule names with S/MIME or OpenPGP, and the result for its author domain
// with DKIM, both by the header From. Without a key the message goes on with a note; where it must be signed that is an
// error. What has a DKIM key and yet no header that could be signed safely is rejected: it would not verify anywhere,
// and waiting does not mend it. A stranger's mail is never signed, whatever chain it takes: our signature says that we
// let the author in.
func (s *Signer) Process(ctx context.Context, m *mail.Message) (stage.Result, error) {
	if !m.Envelope.Origin.Trusted() {
		return stage.Result{Notes: []slog.Attr{slog.String("dkim", "unsigned"), slog.String("reason", "no relay rule let it in")}}, nil
	}
	h := m.Content.Header()
	if h.End == mail.EndUnreadable {
		return stage.Result{}, fmt.Errorf("read the header: %w", h.Err)
	}
	var authors []string
	from := h.Find("From")
	for _, f := range from {
		if len(f.Raw) <= maxHeaderSize {
			authors = append(authors, authorDomains(f.Value(), maxAuthors)...)
		}
	}
	keys, err := s.keysFor(authors)
	if err != nil {
		return stage.Result{}, err
	}
	notes := []slog.Attr{slog.String("dkim", "signed"), slog.String("keys", keyNames(keys))}
	if len(keys) == 0 {
		reason := "no author domain"
		if len(authors) > 0 {
			reason = "no key for " + strings.Join(slices.Compact(authors), ", ")
		}
		notes = []slog.Attr{slog.String("dkim", "unsigned"), slog.String("reason", reason)}
	} else if flaw := unsignable(h, len(from)); flaw != "" {
		return stage.Result{
			Branch: stage.Branch{Verdict: stage.Reject(mail.Reply{
				Code: 550, Enhanced: "5.6.0", Text: "This message cannot be signed: " + flaw,
			})},
			Notes: []slog.Attr{slog.String("dkim", "unsignable"), slog.String("reason", flaw)},
		}, nil
	}
	forms, err := s.forms(ctx, m)
	if err != nil {
		return stage.Result{}, err
	}
	res := stage.Result{Notes: notes}
	for i, f := range forms {
		b, err := s.branch(ctx, m, f, keys)
		if err != nil {
			return stage.Result{}, err
		}
		if i == 0 {
			res.Branch = b
		} else {
			res.Forks = append(res.Forks, stage.Fork{To: f.to, Branch: b})
		}
		res.Notes = append(res.Notes, f.notes...)
	}
	return res, nil
}

// branch seals one form of the message with DKIM, over what S/MIME or OpenPGP made of it.
func (s *Signer) branch(ctx context.Context, m *mail.Message, f form, keys []domainKey) (stage.Branch, error) {
	b := stage.Branch{Verdict: f.verdict, Edits: mail.Edits{Splices: f.splices}}
	if len(keys) == 0 {
		return b, nil
	}
	edited := m.Content
	if len(f.splices) > 0 {
		var err error
		if edited, err = mail.Apply(m.Content, f.splices); err != nil {
			return stage.Branch{}, fmt.Errorf("apply the signature: %w", err)
		}
		defer edited.Release()
	}
	fields, err := signDKIM(ctx, edited, keys, s.time(m))
	if err != nil {
		return stage.Branch{}, err
	}
	s.signed("dkim")
	b.Edits.Splices = append(fields, f.splices...)
	return b, nil
}

// time is the time that signatures bear: that of acceptance, so that a message that is run again gets the same ones.
// Never a time to come, which verifiers refuse (RFC 6376, section 3.5).
func (s *Signer) time(m *mail.Message) time.Time {
	if at := m.Received; !at.IsZero() && at.Before(s.now()) {
		return at
	}
	return s.now()
}
