package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/stagecoachmail/stagecoach/internal/service"
)

// SmarthostOptions of a smarthost that runs by itself.
type SmarthostOptions struct {
	// Listen is its host:port, User and PasswordFile the login that it takes.
	Listen, User, PasswordFile string
	// PKI and Name are a folder of certificates and the identity in it that clients see.
	PKI, Name string
	// Maildir is where its mail goes, whoever it is for.
	Maildir string
}

// Smarthost is a provider's mail server for a demo, until ctx ends: it demands TLS and a login, takes everything and keeps
// it in a maildir.
func Smarthost(ctx context.Context, o SmarthostOptions) error {
	secret, err := os.ReadFile(o.PasswordFile)
	if err != nil {
		return fmt.Errorf("the password: %w", err)
	}
	identity, err := service.OpenPKI(o.PKI, o.Name)
	if err != nil {
		return err
	}
	for _, sub := range []string{"tmp", "new", "cur"} {
		if err := os.MkdirAll(filepath.Join(o.Maildir, sub), 0o700); err != nil {
			return fmt.Errorf("the mailbox: %w", err)
		}
	}
	h := &smarthost{user: o.User, password: strings.TrimRight(string(secret), "\r\n"), keep: func(a arrival) error { return store(o.Maildir, a) }}
	if h.user == "" || h.password == "" {
		return errors.New("a smarthost without a login shows nothing: --user and --password-file")
	}
	h.serveWith(&tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: identity.ServerCertificate})
	l, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, h.stop)
	defer stop()
	if err := h.server.Serve(l); !errors.Is(err, smtp.ErrServerClosed) || ctx.Err() == nil {
		return err
	}
	return nil
}

// store writes a message into a maildir, with its recipients on top.
func store(dir string, a arrival) error {
	name := fmt.Sprintf("%d.%s.stagecoach", time.Now().UnixMicro(), rand.Text())
	temp := filepath.Join(dir, "tmp", name)
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return tryLater(err)
	}
	head := []byte("Delivered-To: " + strings.Join(a.to, ", ") + "\r\n")
	_, err = bytes.NewReader(append(head, a.raw...)).WriteTo(f)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(temp, filepath.Join(dir, "new", name))
	}
	if err != nil {
		_ = os.Remove(temp) // it may be gone
		return tryLater(err)
	}
	return nil
}

func tryLater(err error) error {
	return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "the mailbox cannot be written: " + err.Error()}
}
