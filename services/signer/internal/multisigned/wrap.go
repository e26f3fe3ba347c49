// Package multisigned makes a multipart/signed message (RFC 1847) of a message, as splices: what is not signed anew
// stays where it is.
package multisigned

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/signer/internal/sevenbit"
)

// Signature is a detached signature as it stands in a message.
type Signature struct {
	// Protocol and Micalg are the parameters of the multipart/signed (RFC 1847, section 2.1).
	Protocol, Micalg string
	// Part is the second part: header, empty line and body, with CRLF, without a line end at its end.
	Part []byte
}

// Session makes one signature. What is signed is written to it.
type Session interface {
	io.Writer
	// Finish makes the signature of what was written, whose SHA-256 is digest.
	Finish(digest [sha256.Size]byte) (Signature, error)
}

// Prepared is a message that can be signed, once or in several ways.
type Prepared struct {
	content mail.Content
	header  *mail.Header
	moved   []byte // the fields that go into the first part
	plan    sevenbit.Plan
}

// Prepare looks at what has to change so that m can be signed; see sevenbit.Prepare for limit and the *sevenbit.Unfit
// error.
func Prepare(ctx context.Context, c mail.Content, root *mail.Part, limit int64) (*Prepared, error) {
	h := root.Header
	if h.End != mail.EndEmptyLine {
		return nil, &sevenbit.Unfit{Reason: "its header does not end with an empty line"}
	}
	plan, err := sevenbit.Prepare(ctx, c, root, limit)
	if err != nil {
		return nil, err
	}
	return &Prepared{content: c, header: h, moved: movedFields(root, plan.Encoding), plan: plan}, nil
}

// Sign gives the splices that make the message a multipart/signed one. The same message and signature give the same
// splices. s gets what is signed: the first part with its header, without the line end before the boundary.
func (p *Prepared) Sign(ctx context.Context, s Session) ([]mail.Splice, error) {
	digest, err := p.write(ctx, s)
	if err != nil {
		return nil, err
	}
	sig, err := s.Finish(digest)
	if err != nil {
		return nil, err
	}
	// "=_" stands neither in base64 nor in quoted-printable, and no message holds its own hash.
	boundary := "=_signed-" + hex.EncodeToString(digest[:20])
	open := "--" + boundary + "\r\n" + string(p.moved) + "\r\n"
	end := "\r\n--" + boundary + "\r\n" + string(sig.Part) + "\r\n--" + boundary + "--\r\n"
	splices := p.headerSplices(sig, boundary)
	splices = append(splices, mail.Splice{Offset: p.header.Size, Insert: []byte(open)})
	splices = append(splices, p.plan.Splices...)
	return append(splices, mail.Splice{Offset: p.content.Size(), Insert: []byte(end)}), nil
}

// write gives s what is signed, and gives its SHA-256.
func (p *Prepared) write(ctx context.Context, s Session) (digest [sha256.Size]byte, err error) {
	first := mail.Splice{Length: p.header.Size, Insert: append(p.moved[:len(p.moved):len(p.moved)], '\r', '\n')}
	entity, err := mail.Apply(p.content, append([]mail.Splice{first}, p.plan.Splices...))
	if err != nil {
		return digest, fmt.Errorf("put together what is signed: %w", err)
	}
	defer entity.Release()
	h := sha256.New()
	w := checked{ctx: ctx, out: s, sha: h}
	if _, err := io.CopyBuffer(&w, struct{ io.Reader }{mail.NewReader(entity)}, make([]byte, 64<<10)); err != nil {
		return digest, fmt.Errorf("read what is signed: %w", err)
	}
	if w.cr {
		return digest, errForm
	}
	h.Sum(digest[:0])
	return digest, nil
}

// movedFields are the fields that describe the body, in their order, with its new encoding.
func movedFields(root *mail.Part, encoding string) []byte {
	var out []byte
	line := ""
	if encoding != "" {
		line = "Content-Transfer-Encoding: " + encoding + "\r\n"
	}
	for _, f := range root.Header.Fields {
		switch {
		case !sevenbit.IsContentField(f.Name):
		case encoding != "" && isEncoding(f.Name):
			out = append(out, line...)
			line = ""
		default:
			out = append(out, f.Raw...)
		}
	}
	return append(out, line...)
}

func isEncoding(name string) bool { return strings.EqualFold(name, "Content-Transfer-Encoding") }

// headerSplices take the moved fields out of the header. In the place of the first stands the new Content-Type.
func (p *Prepared) headerSplices(sig Signature, boundary string) []mail.Splice {
	field := "Content-Type: multipart/signed; protocol=\"" + sig.Protocol + "\";\r\n\tmicalg=" + sig.Micalg +
		"; boundary=\"" + boundary + "\"\r\n"
	version := false
	for _, f := range p.header.Fields {
		version = version || strings.EqualFold(f.Name, "MIME-Version")
	}
	if !version {
		field = "MIME-Version: 1.0\r\n" + field
	}
	var out []mail.Splice
	end := int64(0)
	for _, f := range p.header.Fields {
		end = f.Offset + int64(len(f.Raw))
		if sevenbit.IsContentField(f.Name) {
			s := mail.RemoveField(f)
			if len(out) == 0 {
				s.Insert = []byte(field)
			}
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		out = append(out, mail.Splice{Offset: end, Insert: []byte(field)})
	}
	return out
}

// errForm cannot happen, and must not go out: a signature that breaks on its way is worse than none.
var errForm = errors.New("what is to be signed does not have the form that survives transport")

// checked passes on what is signed, and makes sure that it survives 7-bit transport.
type checked struct {
	ctx  context.Context
	out  io.Writer
	sha  hash.Hash
	line int
	cr   bool
}

func (w *checked) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	for _, c := range p {
		switch {
		case w.cr != (c == '\n'), c >= 0x80, c == 0:
			return 0, errForm
		case c == '\n':
			w.line, w.cr = 0, false
		case c == '\r':
			w.cr = true
		default:
			if w.line++; w.line > 998 {
				return 0, errForm
			}
		}
	}
	w.sha.Write(p)
	return w.out.Write(p)
}
