package signer

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

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

// signDKIM makes a DKIM-Signature field for each key, as splices that put them before all others of c.
func signDKIM(ctx context.Context, c mail.Content, keys []domainKey, at time.Time) ([]mail.Splice, error) {
	h := c.Header()
	body, err := hashBody(ctx, io.NewSectionReader(c, h.Size, c.Size()-h.Size))
	if err != nil {
		return nil, err
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
