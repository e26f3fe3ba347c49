package service

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// lookAgain is how long the files of a certificate are not looked at again.
const lookAgain = time.Second

// Certificate is a certificate in files that may be renewed at any time. It is looked at again at a handshake, at most
// once a second; a pair that is bad leaves the former one in use.
type Certificate struct {
	file, keyFile string
	log           *slog.Logger
	now           func() time.Time

	mu      sync.Mutex
	pair    *tls.Certificate
	stamp   [2]time.Time
	checked time.Time
	broken  string
}

// OpenCertificate reads a certificate with its chain, and its key, in PEM form.
func OpenCertificate(file, keyFile string, log *slog.Logger, now func() time.Time) (*Certificate, error) {
	c := &Certificate{file: file, keyFile: keyFile, log: log, now: now, checked: now()}
	var err error
	c.pair, c.stamp, err = c.load()
	return c, err
}

// Get implements tls.Config.GetCertificate.
func (c *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refresh()
	return c.pair, nil
}

// Broken says why the files, as they stand now, are not taken; empty: they are.
func (c *Certificate) Broken() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refresh()
	return c.broken
}

func (c *Certificate) refresh() {
	now := c.now()
	if since := now.Sub(c.checked); since >= 0 && since < lookAgain {
		return
	}
	c.checked = now
	if stamp, err := c.stamps(); err == nil && stamp == c.stamp {
		return
	}
	pair, stamp, err := c.load()
	if err != nil {
		if err.Error() != c.broken {
			c.broken = err.Error()
			c.log.Error("certificate not taken; the former one stays in use", "error", err)
		}
		return
	}
	c.pair, c.stamp, c.broken = pair, stamp, ""
	c.log.Info("certificate read again", "file", c.file)
}

func (c *Certificate) stamps() (s [2]time.Time, err error) {
	for i, name := range []string{c.file, c.keyFile} {
		fi, err := os.Stat(name)
		if err != nil {
			return s, fmt.Errorf("certificate: %w", err)
		}
		s[i] = fi.ModTime()
	}
	return s, nil
}

func (c *Certificate) load() (*tls.Certificate, [2]time.Time, error) {
	s, err := c.stamps()
	if err != nil {
		return nil, s, err
	}
	pair, err := tls.LoadX509KeyPair(c.file, c.keyFile)
	if err != nil {
		return nil, s, fmt.Errorf("certificate %s: %w", c.file, err)
	}
	return &pair, s, nil
}
