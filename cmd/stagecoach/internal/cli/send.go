package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

type sendFlags struct {
	to                     []string
	from, server, tls      string
	ca, user, passwordFile string
	fromSet                bool
}

func (a *app) sendCommand() *cobra.Command {
	var f sendFlags
	c := &cobra.Command{
		Use:   "send FILE…",
		Short: "Send messages from files by SMTP",
		Long: `Send messages from files by SMTP ("-" is the standard input), and print the id of each from its 250.

Without --from and --to the header says from whom and to whom; the field Bcc is removed. Lines that end with LF alone are
sent with CRLF; nothing else is changed. With TLS the certificate of the server is checked; on this machine one that cannot
be verified is taken, with a note.

The exit code is 0 if every recipient of every message was accepted, 1 if some were, 2 if none was.

In a pipe a line for each recipient: file, recipient, accepted or refused, id, the server's answer.`,
		Example: `  stagecoach send hello.eml
  stagecoach send --from alice@example.com --to bob@example.net --server mail.example.com:587 --user alice --password-file pw a.eml b.eml
  printf 'From: a@example.com\nTo: b@example.net\n\nhello\n' | stagecoach send -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.fromSet = cmd.Flags().Changed("from")
			return a.printed(cmd, func(o *output) error { return a.send(cmd, o, args, f) })
		},
	}
	fl := c.Flags()
	fl.StringArrayVar(&f.to, "to", nil, "recipient, an `address` (may be repeated; default: To, Cc and Bcc of the message)")
	fl.StringVar(&f.from, "from", "", "reverse-path, an `address` or <> (default: From of the message)")
	fl.StringVar(&f.server, "server", "127.0.0.1:2525", "`host:port` of the server")
	fl.StringVar(&f.tls, "tls", "", "`mode`: none, starttls or implicit (default: starttls, if the server offers it)")
	fl.StringVar(&f.ca, "ca", "", "PEM `file` of the certificates to trust, instead of those of the system")
	fl.StringVar(&f.user, "user", "", "log in under this `name`")
	fl.StringVar(&f.passwordFile, "password-file", "", "`file` with the password (default: asks for it)")
	fl.BoolVar(&a.asJSON, "json", false, "one JSON document, for programs")
	complete(c, "tls", func(*cobra.Command) []string { return []string{"none", "starttls", "implicit"} })
	return c
}

// sent is what became of one file.
type sent struct {
	File string `json:"file"`
	// ID is the one from the 250; empty if the answer has none.
	ID         string          `json:"id"`
	Reply      string          `json:"reply"`
	Recipients []sentRecipient `json:"recipients"`
}

type sentRecipient struct {
	Address  string `json:"address"`
	Accepted bool   `json:"accepted"`
	Reply    string `json:"reply"`
}

func (s sent) accepted() (n int) {
	for _, r := range s.Recipients {
		if r.Accepted {
			n++
		}
	}
	return n
}

func (a *app) send(cmd *cobra.Command, o *output, files []string, f sendFlags) error {
	var from *string
	if f.fromSet {
		from = &f.from
	}
	var drafts []*draft
	for _, file := range files {
		d, err := readDraft(file, cmd.InOrStdin(), from, f.to)
		if err != nil {
			return err
		}
		drafts = append(drafts, d)
	}
	login, err := a.login(cmd, f)
	if err != nil {
		return err
	}
	client, err := dialSMTP(cmd.Context(), smtpOptions{server: f.server, tls: f.tls, ca: f.ca, login: login,
		note: func(s string) { cmd.PrintErrln(clean(s)) }})
	if err != nil {
		return err
	}
	defer client.close()
	var done []sent
	for _, d := range drafts {
		var s sent
		if s, err = client.send(d); err != nil {
			err = fmt.Errorf("%s: %w", d.name, err)
			break
		}
		done = append(done, s)
	}
	if printed := o.sent(done); printed != nil {
		return printed
	}
	return verdictOfSending(done, len(drafts), err)
}

func verdictOfSending(done []sent, all int, err error) error {
	accepted, recipients := 0, 0
	for _, s := range done {
		accepted += s.accepted()
		recipients += len(s.Recipients)
	}
	switch {
	case err != nil && accepted > 0:
		return partlyf("%d of %s went out, then: %w", len(done), count(all, "message"), err)
	case err != nil:
		return err
	case accepted == recipients:
		return nil
	case accepted == 0:
		return errors.New("no recipient was accepted: the answers say why")
	}
	return partlyf("%d of %s were refused: the answers say why", recipients-accepted, count(recipients, "recipient"))
}

func (o *output) sent(list []sent) error {
	if o.asJSON {
		if list == nil {
			list = []sent{}
		}
		return o.document(map[string]any{"messages": list})
	}
	if !o.terminal {
		t := &table{}
		for _, s := range list {
			for _, r := range s.Recipients {
				word := "refused"
				if r.Accepted {
					word = "accepted"
				}
				t.add(text("%s", s.File), text("%s", r.Address), text("%s", word), text("%s", s.ID), text("%s", r.Reply))
			}
		}
		o.table(0, t)
		return nil
	}
	for _, s := range list {
		n := s.accepted()
		switch {
		case n == 0:
			o.line(0, text("%s: ", s.File), in(red, "refused"), text(": %s", s.Reply))
		case s.ID != "":
			o.line(0, text("%s: ", s.File), in(green, "accepted"), text(" for %s, id ", count(n, "recipient")), in(bold, "%s", s.ID))
		default:
			o.line(0, text("%s: ", s.File), in(green, "accepted"), text(" for %s: %s", count(n, "recipient"), s.Reply))
		}
		for _, r := range s.Recipients {
			if !r.Accepted && r.Reply != s.Reply {
				o.line(2, text("%s: ", r.Address), in(red, "refused"), text(": %s", r.Reply))
			}
		}
	}
	return nil
}

// credentials are for AUTH PLAIN.
type credentials struct{ user, password string }

func (a *app) login(cmd *cobra.Command, f sendFlags) (*credentials, error) {
	switch {
	case f.user == "" && f.passwordFile != "":
		return nil, usagef("--password-file needs --user")
	case f.user == "":
		return nil, nil
	case f.passwordFile != "":
		file, err := os.Open(f.passwordFile)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		p, err := firstLine(file)
		return &credentials{f.user, p}, err
	case !a.isTerminal(cmd.InOrStdin()):
		return nil, usagef("whose password? Name a file with --password-file, where nobody can be asked")
	}
	p, err := a.ask(cmd, "Password of "+f.user+": ")
	return &credentials{f.user, p}, err
}

// firstLine reads a password: the first line, without its end.
func firstLine(r io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(r, 64<<10))
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return "", errors.New("the password is empty")
	}
	return line, nil
}

// ask asks a person for a secret.
func (a *app) ask(cmd *cobra.Command, question string) (string, error) {
	cmd.PrintErr(clean(question))
	p, err := a.Secret(cmd.InOrStdin())
	cmd.PrintErrln()
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if len(p) == 0 {
		return "", errors.New("the password is empty")
	}
	return string(p), nil
}
