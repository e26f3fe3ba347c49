package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	netmail "net/mail"
	"os"
	"slices"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// draft is a message from a file, with the envelope that is asked for or that its header says.
type draft struct {
	name    string
	from    mail.Address
	to      []mail.Address
	content []byte // lines end with CRLF
}

// readDraft reads a message. Bare LF becomes CRLF, as mail is written in files; Bcc is removed. from is nil where the
// header From says it, and so is to for the recipients (To, Cc and Bcc).
func readDraft(name string, stdin io.Reader, from *string, to []string) (*draft, error) {
	data, err := readNamed(name, stdin)
	if err != nil {
		return nil, err
	}
	d := &draft{name: name}
	c := mail.FromBytes(crlf(data))
	defer c.Release()
	h := c.Header()
	if d.from, err = sender(h, from); err != nil {
		return nil, usagef("%s: %w", name, err)
	}
	if d.to, err = recipients(h, to); err != nil {
		return nil, usagef("%s: %w", name, err)
	}
	var splices []mail.Splice
	for _, f := range h.Find("Bcc") {
		splices = append(splices, mail.RemoveField(f))
	}
	open, err := mail.Apply(c, splices)
	if err != nil {
		return nil, err
	}
	defer open.Release()
	all, err := mail.ReadAll(open)
	d.content = slices.Clone(all)
	return d, err
}

func readNamed(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}

// crlf ends every line with CRLF. A CR that stands alone stays: the server says what it thinks of it.
func crlf(b []byte) []byte {
	out := make([]byte, 0, len(b)+bytes.Count(b, []byte("\n")))
	for i, c := range b {
		if c == '\n' && (i == 0 || b[i-1] != '\r') {
			out = append(out, '\r')
		}
		out = append(out, c)
	}
	return out
}

func sender(h *mail.Header, from *string) (mail.Address, error) {
	if from != nil {
		if *from == "" || *from == "<>" {
			return mail.Address{}, nil
		}
		a, err := mail.ParseAddressUTF8(unbracketed(*from))
		if err != nil {
			return a, fmt.Errorf("--from %q: %w", *from, err)
		}
		return a, nil
	}
	list, err := headerAddresses(h, "From")
	if err != nil || len(list) == 0 {
		return mail.Address{}, fmt.Errorf("its From says no sender (%w): name one with --from", orMissing(err))
	}
	return list[0], nil
}

func recipients(h *mail.Header, to []string) (list []mail.Address, err error) {
	for _, s := range to {
		a, err := mail.ParseAddressUTF8(unbracketed(s))
		if err != nil {
			return nil, fmt.Errorf("--to %q: %w", s, err)
		}
		list = append(list, a)
	}
	if len(to) == 0 {
		if list, err = headerAddresses(h, "To", "Cc", "Bcc"); err != nil || len(list) == 0 {
			return nil, fmt.Errorf("its To, Cc and Bcc say no recipient (%w): name them with --to", orMissing(err))
		}
	}
	var out []mail.Address
	for _, a := range list {
		if !slices.ContainsFunc(out, a.Equal) {
			out = append(out, a)
		}
	}
	return out, nil
}

func orMissing(err error) error {
	if err == nil {
		return errors.New("there is none")
	}
	return err
}

func unbracketed(s string) string {
	if inner, ok := strings.CutPrefix(s, "<"); ok {
		return strings.TrimSuffix(inner, ">")
	}
	return s
}

// headerAddresses are the addresses in the fields of these names.
func headerAddresses(h *mail.Header, names ...string) ([]mail.Address, error) {
	var out []mail.Address
	for _, name := range names {
		for _, value := range h.Values(name) {
			if strings.TrimSpace(value) == "" {
				continue
			}
			list, err := netmail.ParseAddressList(value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			for _, l := range list {
				// The library gives the local part without its quotes: put together again it could be anything.
				at := strings.LastIndexByte(l.Address, '@')
				a := mail.Address{Local: l.Address[:max(at, 0)], Domain: l.Address[at+1:]}
				if err := a.Validate(); err != nil {
					return nil, fmt.Errorf("%s: %q: %w", name, l.Address, err)
				}
				out = append(out, a)
			}
		}
	}
	return out, nil
}
