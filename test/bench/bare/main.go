// Command bare is the least that a relay can do, as a measure for Stagecoach: it takes a message with go-smtp, writes it
// to a file that it syncs, says 250, signs with DKIM (RSA) and sends it to a smarthost. It has no queue: whatever goes
// wrong ends it, and nothing is tried again. It is not for mail.
package main

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// atOnce is how many messages are delivered at once: as many as Stagecoach's egress has connections to one host. When
// all are in use, the next message gets its 250 later.
const atOnce = 20

// relay is what all sessions share.
type relay struct {
	dir       string
	sign      dkim.SignOptions
	smarthost string
	tls       *tls.Config
	login     sasl.Client
	files     atomic.Int64
	idle      chan *smtp.Client // atOnce; nil: not connected yet
}

func main() {
	var (
		listen     = flag.String("listen", "127.0.0.1:2525", "address")
		dir        = flag.String("dir", "", "folder for messages under way")
		key        = flag.String("key", "", "file of the RSA key, PKCS#8 in PEM")
		domain     = flag.String("domain", "example.com", "domain that signs")
		selector   = flag.String("selector", "bench", "DKIM selector")
		smarthost  = flag.String("smarthost", "", "address")
		ca         = flag.String("ca", "", "file of the authority that the smarthost's certificate is from")
		serverName = flag.String("server-name", "", "name in that certificate")
		user       = flag.String("user", "", "login")
		password   = flag.String("password-file", "", "file of its password")
	)
	flag.Parse()
	signer, err := readKey(*key)
	authority, cerr := os.ReadFile(*ca)
	secret, perr := os.ReadFile(*password)
	if err := errors.Join(err, cerr, perr); err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	r := &relay{dir: *dir, smarthost: *smarthost, tls: &tls.Config{RootCAs: pool, ServerName: *serverName, ClientSessionCache: tls.NewLRUClientSessionCache(0)},
		login: sasl.NewPlainClient("", *user, strings.TrimSpace(string(secret))), idle: make(chan *smtp.Client, atOnce),
		sign: dkim.SignOptions{Domain: *domain, Selector: *selector, Signer: signer,
			HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed,
			HeaderKeys: []string{"From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"}}}
	for range atOnce {
		r.idle <- nil
	}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{relay: r}, nil }))
	server.Addr, server.Domain, server.MaxMessageBytes = *listen, "bare.example.com", 60_000_000
	log.Fatal(server.ListenAndServe())
}

func readKey(file string) (crypto.Signer, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM", file)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	signer, ok := key.(crypto.Signer)
	if err == nil && !ok {
		err = fmt.Errorf("%s: no key that signs", file)
	}
	return signer, err
}

// session is one SMTP session.
type session struct {
	relay *relay
	from  string
	size  int64 // as declared, 0: it was not
	to    []string
}

func (s *session) Mail(from string, o *smtp.MailOptions) error {
	s.from, s.size, s.to = from, o.Size, nil
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}

func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

// Data implements smtp.Session. It returns when the message is on disk and there is a connection for it.
func (s *session) Data(r io.Reader) error {
	message := bytes.NewBuffer(make([]byte, 0, s.size+bytes.MinRead))
	if _, err := message.ReadFrom(r); err != nil {
		return err
	}
	raw := message.Bytes()
	file := filepath.Join(s.relay.dir, fmt.Sprintf("%d.eml", s.relay.files.Add(1)))
	if err := store(file, raw); err != nil {
		log.Fatal(err)
	}
	c, from, to := <-s.relay.idle, s.from, s.to
	go func() {
		c, err := s.relay.deliver(c, from, to, raw)
		if err := errors.Join(err, os.Remove(file)); err != nil {
			log.Fatal(err)
		}
		s.relay.idle <- c
	}()
	return nil
}

func store(name string, raw []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	return errors.Join(err, f.Sync(), f.Close())
}

// deliver signs and sends; it connects where c is nil, and gives the connection back.
func (r *relay) deliver(c *smtp.Client, from string, to []string, raw []byte) (*smtp.Client, error) {
	var signed bytes.Buffer
	if err := dkim.Sign(&signed, bytes.NewReader(raw), &r.sign); err != nil {
		return c, err
	}
	if c == nil {
		var err error
		if c, err = smtp.DialStartTLS(r.smarthost, r.tls); err != nil {
			return nil, err
		}
		if err := c.Auth(r.login); err != nil {
			return c, err
		}
	}
	return c, c.SendMail(from, to, &signed)
}
