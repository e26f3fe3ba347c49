// Package signer is the stage that signs mail with DKIM (RFC 6376, RFC 8463): for each author domain that has keys, one
// signature per key, usually RSA and Ed25519 together. It looks at the body once, whatever the number of keys, and holds
// a fixed amount of memory.
package signer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// Type is the name in the configuration.
const Type = "signer"

// maxAuthors bounds the author domains of one message that are looked up.
const maxAuthors = 16

// Factory makes signers.
func Factory() stage.Factory {
	traits := stage.Traits{ReadsBody: true, Seals: true}
	return stage.NewFactory(Type, traits, func() Config { return Config{} }, New)
}

// Signer is the stage. It is safe for concurrent use.
type Signer struct {
	ring *keyring
	must map[string]bool
	now  func() time.Time
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
	signer := &Signer{ring: r, must: make(map[string]bool), now: s.Now}
	for _, name := range c.MustSign {
		domain, err := domainName(name)
		if err != nil {
			return nil, err
		}
		signer.must[domain] = true
		listed = append(listed, domain)
	}
	var errs []error
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

// Process signs m for its author domain, by the header From. Without a key the message goes on with a note; for a domain
// under must_sign that is an error. What has a key and yet no header that could be signed safely is rejected: it would
// not verify anywhere, and waiting does not mend it. A stranger's mail is never signed, whatever chain it takes: our
// signature says that we let the author in.
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
	if len(keys) == 0 {
		reason := "no author domain"
		if len(authors) > 0 {
			reason = "no key for " + strings.Join(slices.Compact(authors), ", ")
		}
		return stage.Result{Notes: []slog.Attr{slog.String("dkim", "unsigned"), slog.String("reason", reason)}}, nil
	}
	if flaw := unsignable(h, len(from)); flaw != "" {
		return stage.Result{
			Branch: stage.Branch{Verdict: stage.Reject(mail.Reply{
				Code: 550, Enhanced: "5.6.0", Text: "This message cannot be signed: " + flaw,
			})},
			Notes: []slog.Attr{slog.String("dkim", "unsignable"), slog.String("reason", flaw)},
		}, nil
	}
	splices, err := s.sign(ctx, m, h, keys)
	if err != nil {
		return stage.Result{}, err
	}
	return stage.Result{
		Branch: stage.Branch{Edits: mail.Edits{Splices: splices}},
		Notes:  []slog.Attr{slog.String("dkim", "signed"), slog.String("keys", keyNames(keys))},
	}, nil
}

// keysFor gives the keys of the first author domain that has some, and of every one that must be signed for.
func (s *Signer) keysFor(authors []string) ([]domainKey, error) {
	var keys []domainKey
	var done []string
	for _, domain := range authors {
		must := s.must[domain]
		if len(done) > 0 && !must || slices.Contains(done, domain) {
			continue
		}
		found := s.ring.find(domain)
		if len(found) == 0 {
			if must {
				return nil, fmt.Errorf("no key for %s, which stands under must_sign", domain)
			}
			continue
		}
		done = append(done, domain)
		keys = append(keys, found...)
	}
	return keys, nil
}

// unsignable says what is wrong with a header that should be signed, or "".
func unsignable(h *mail.Header, froms int) string {
	fields := 0
	for _, f := range h.Fields {
		if isSigned(f.Name) {
			fields++
		}
	}
	switch {
	case froms > 1:
		return "it has several From fields"
	case h.End == mail.EndLimit || h.Size > maxHeaderSize:
		return "its header is too large"
	case h.End == mail.EndNoField:
		return "its header has a line that is no field"
	case fields > maxSignedFields:
		return "its header has too many fields"
	}
	return ""
}

func isSigned(name string) bool {
	same := func(s string) bool { return strings.EqualFold(s, name) }
	return slices.ContainsFunc(oversigned, same) || slices.ContainsFunc(signed, same)
}

// sign prepends a DKIM-Signature field for each key.
func (s *Signer) sign(ctx context.Context, m *mail.Message, h *mail.Header, keys []domainKey) ([]mail.Splice, error) {
	body, err := hashBody(ctx, io.NewSectionReader(m.Content, h.Size, m.Content.Size()-h.Size))
	if err != nil {
		return nil, err
	}
	// The time of acceptance: a message that is run again gets the same signature. Never a time to come, which
	// verifiers refuse (RFC 6376, section 3.5).
	at := s.now()
	if !m.Received.IsZero() && m.Received.Before(at) {
		at = m.Received
	}
	fields := selectFields(h)
	splices := make([]mail.Splice, 0, len(keys))
	for _, k := range keys {
		field, err := signField(k, fields, body, at)
		if err != nil {
			return nil, err
		}
		splice, err := mail.PrependRaw(field)
		if err != nil {
			return nil, fmt.Errorf("signature of %s: %w", k.domain, err)
		}
		splices = append(splices, splice)
	}
	return splices, nil
}

func keyNames(keys []domainKey) string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.selector + "._domainkey." + k.domain + " " + string(k.key.Kind())
	}
	return strings.Join(names, ", ")
}
