package signer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
)

// appendRelaxedField appends a header field in the "relaxed" form (RFC 6376, section 3.4.2) with its line end.
func appendRelaxedField(out []byte, raw []byte) []byte {
	name, value, _ := bytes.Cut(raw, []byte{':'})
	out = append(out, bytes.ToLower(bytes.TrimRight(name, " \t"))...)
	out = append(out, ':')
	start, gap := len(out), false
	for _, c := range value {
		switch c {
		case ' ', '\t', '\r', '\n':
			gap = true
		default:
			if gap && len(out) > start {
				out = append(out, ' ')
			}
			gap = false
			out = append(out, c)
		}
	}
	return append(out, '\r', '\n')
}

// hashBody gives the SHA-256 of r in the "relaxed" form (RFC 6376, section 3.4.4). It holds a fixed amount of memory
// whatever the body, also one of empty lines alone, and looks at ctx between blocks. A CR or LF that is not part of a
// CRLF is an error: no form of it would verify after transport.
func hashBody(ctx context.Context, r io.Reader) (sum [sha256.Size]byte, err error) {
	h := relaxedBody{sha: sha256.New(), out: make([]byte, 0, 64<<10)}
	block := make([]byte, 64<<10)
	for {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		n, err := r.Read(block)
		if err := h.write(block[:n]); err != nil {
			return sum, err
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return sum, fmt.Errorf("read the body: %w", err)
		}
	}
	return h.sum()
}

// relaxedBody canonicalizes and hashes a body piece by piece.
type relaxedBody struct {
	sha hash.Hash
	out []byte
	// lines counts line ends not yet written: they are dropped where nothing follows.
	lines int64
	// gap: white space was read, not yet written.
	gap bool
	// cr: the last octet was a CR.
	cr bool
	// empty is false once an octet other than a line end was written.
	filled bool
	at     int64
}

func (b *relaxedBody) write(p []byte) error {
	for _, c := range p {
		if b.cr != (c == '\n') {
			return b.bare()
		}
		switch c {
		case '\r':
			b.cr = true
		case '\n':
			b.cr, b.gap = false, false
			b.lines++
		case ' ', '\t':
			b.gap = true
		default:
			b.flush()
			b.out = append(b.out, c)
			b.filled = true
		}
		b.at++
	}
	return nil
}

// flush writes what was held back.
func (b *relaxedBody) flush() {
	for ; b.lines > 0; b.lines-- {
		b.room()
		b.out = append(b.out, '\r', '\n')
	}
	b.room()
	if b.gap {
		b.out = append(b.out, ' ')
		b.gap = false
	}
}

// room makes room for two octets and one more.
func (b *relaxedBody) room() {
	if cap(b.out)-len(b.out) < 3 {
		b.sha.Write(b.out)
		b.out = b.out[:0]
	}
}

func (b *relaxedBody) bare() error {
	return fmt.Errorf("bare CR or LF at octet %d of the body", b.at)
}

func (b *relaxedBody) sum() (sum [sha256.Size]byte, err error) {
	if b.cr {
		return sum, b.bare()
	}
	if b.filled {
		b.room()
		b.out = append(b.out, '\r', '\n')
	}
	b.sha.Write(b.out)
	b.sha.Sum(sum[:0])
	return sum, nil
}
