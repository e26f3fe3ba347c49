package signer

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

// oversigned fields are listed once more than they are there, so that adding one breaks the signature
// (RFC 6376, section 8.15).
var oversigned = []string{"From", "To", "Subject", "Date"}

// signed fields are listed as often as they are there. RFC 6376, section 5.4.1, with the fields of RFC 2369, 2919 and
// 8058 that mail clients act on. Trace fields and Return-Path are changed on the way and stay out.
var signed = []string{
	"Sender", "Reply-To", "Cc", "Message-ID", "In-Reply-To", "References",
	"MIME-Version", "Content-Type", "Content-Transfer-Encoding", "Content-Disposition", "Content-ID", "Content-Description",
	"Resent-Date", "Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc", "Resent-Message-ID",
	"List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Subscribe", "List-Post", "List-Owner",
	"List-Archive", "Autocrypt",
}

// The limits of a header section that is signed. Beyond them verifiers run into limits of their own.
const (
	maxHeaderSize   = 256 << 10
	maxSignedFields = 500
)

// headerFields is what of a header section is signed: the names for h=, and the canonical fields in that order.
type headerFields struct {
	names     []string
	canonical []byte
}

// selectFields picks the fields, the lowest of each name first (RFC 6376, section 5.4.2).
func selectFields(h *mail.Header) headerFields {
	byName := make(map[string][]mail.Field, len(h.Fields))
	for _, f := range h.Fields {
		name := strings.ToLower(f.Name)
		byName[name] = append(byName[name], f)
	}
	var s headerFields
	take := func(name string) {
		fields := byName[strings.ToLower(name)]
		for i := len(fields) - 1; i >= 0; i-- {
			s.names = append(s.names, name)
			s.canonical = appendRelaxedField(s.canonical, fields[i].Raw)
		}
	}
	for _, name := range oversigned {
		take(name)
		s.names = append(s.names, name)
	}
	for _, name := range signed {
		take(name)
	}
	return s
}

// signField makes a whole DKIM-Signature field with its line end (RFC 6376, section 3.5). There is no l= and no x=.
func signField(k domainKey, fields headerFields, body [sha256.Size]byte, at time.Time) ([]byte, error) {
	w := folder{limit: 78}
	w.add("DKIM-Signature:")
	w.add(" v=1;")
	w.add(" a=" + string(k.key.Kind()) + "-sha256;")
	w.add(" c=relaxed/relaxed;")
	w.add(" d=" + k.domain + ";")
	w.add(" s=" + k.selector + ";")
	w.add(" t=" + strconv.FormatInt(at.Unix(), 10) + ";")
	// Folding white space may stand after a colon, and is not part of the name.
	separated := " h="
	for i, name := range fields.names {
		end := ":"
		if i == len(fields.names)-1 {
			end = ";"
		}
		w.add(separated + name + end)
		separated = ""
	}
	w.add(" bh=" + base64.StdEncoding.EncodeToString(body[:]) + ";")
	w.add(" b=")

	input := appendRelaxedField(fields.canonical[:len(fields.canonical):len(fields.canonical)], w.out)
	digest := sha256.Sum256(input[:len(input)-2]) // without the line end of the signature itself
	signature, err := k.key.sign(digest)
	if err != nil {
		return nil, fmt.Errorf("sign with %s._domainkey.%s: %w", k.selector, k.domain, err)
	}
	// White space within b= is not signed, so the value may be folded anywhere.
	for value := base64.StdEncoding.EncodeToString(signature); value != ""; {
		n := min(len(value), w.limit-w.line)
		w.add(value[:n])
		if value = value[n:]; value != "" {
			w.fold()
		}
	}
	return append(w.out, '\r', '\n'), nil
}

// folder writes a header field, folding between the pieces it is given.
type folder struct {
	limit int
	out   []byte
	line  int
}

// add appends a piece, on a new line if this one has no room. A piece that begins with white space is folded at it.
func (w *folder) add(piece string) {
	if w.line > 0 && w.line+len(piece) > w.limit {
		w.fold()
		piece = strings.TrimPrefix(piece, " ")
	}
	w.out = append(w.out, piece...)
	w.line += len(piece)
}

func (w *folder) fold() {
	w.out = append(w.out, "\r\n\t"...)
	w.line = 1
}
