package signer

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/stagecoachmail/stagecoach/mail"
)

// protected says why a message is left as it is: its sender has signed or encrypted it. Else it gives "".
func protected(c mail.Content, root *mail.Part) (string, error) {
	switch {
	case root.IsEncrypted():
		return "it is encrypted already", nil
	case root.IsSigned():
		return "it is signed already", nil
	case root.MediaType == "application/pkcs7-mime", root.MediaType == "application/x-pkcs7-mime":
		return "it is S/MIME already", nil
	}
	for p := range root.All() {
		if p.MediaType != "text/plain" || p.IsMultipart() {
			continue
		}
		inline, err := startsWithPGP(c, p)
		if err != nil {
			return "", fmt.Errorf("read the text: %w", err)
		}
		if inline {
			return "it is signed or encrypted already, by PGP in its text", nil
		}
		break // the text that is shown first decides
	}
	return "", nil
}

// startsWithPGP says whether the first line of a text is that of PGP's own formats (RFC 9580, sections 6.2 and 7).
func startsWithPGP(c mail.Content, p *mail.Part) (bool, error) {
	text, err := p.Decoded(c)
	if err != nil {
		return false, err
	}
	r := bufio.NewReader(io.LimitReader(text, 4<<10))
	for {
		line, err := r.ReadSlice('\n')
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return bytes.HasPrefix(line, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) || bytes.HasPrefix(line, []byte("-----BEGIN PGP MESSAGE-----")), nil
		}
		if err == io.EOF || err == bufio.ErrBufferFull {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}
