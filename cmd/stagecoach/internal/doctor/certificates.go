package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/stagecoachmail/stagecoach/internal/config"
)

// checkCertificates looks at our own: the one that SMTP clients see, and those between the services.
func checkCertificates(_ context.Context, e *Env) []Finding {
	var n notes
	n.ingress(e)
	if e.Config.PKI != nil {
		n.pki(e, e.Config.PKI.Directory)
	}
	return n
}

func (n *notes) ingress(e *Env) {
	pair := e.Config.Ingress.Certificate
	if pair.File == "" {
		if slices.ContainsFunc(e.Config.Ingress.Listeners, func(l config.Listener) bool { return l.TLS != config.ListenerPlain }) {
			n.info("ingress.certificate", "is not set: clients are shown a self-signed certificate, which those that verify refuse")
		}
		return
	}
	leaf, ok := n.pair(pair.File, pair.KeyFile)
	if !ok {
		return
	}
	n.ends(e, pair.File, leaf, "Renew it: "+pair.File+" is read again when it changes.")
	if err := leaf.VerifyHostname(e.Config.Hostname); err != nil {
		n.warn(pair.File, "Get a certificate for "+e.Config.Hostname+".", "is for %s, not for the hostname %s", certNames(leaf), e.Config.Hostname)
	}
	if !n.bad() {
		n.ok(pair.File, "for %s, until %s", certNames(leaf), day(leaf.NotAfter))
	}
}

// pair reads a certificate with its key.
func (n *notes) pair(file, keyFile string) (*x509.Certificate, bool) {
	both, err := tls.LoadX509KeyPair(file, keyFile)
	if err != nil {
		n.fail(file, "Put the certificate with its chain into "+file+" and its private key into "+keyFile+", both PEM.", "the certificate and its key cannot be used: %v", err)
		return nil, false
	}
	leaf, err := x509.ParseCertificate(both.Certificate[0])
	if err != nil {
		n.fail(file, "Make it again.", "%v", err)
		return nil, false
	}
	return leaf, true
}

// types are the services that need an identity.
func (e *Env) types() []string {
	types := []string{"ingress", "egress", "admin"}
	for _, name := range sortedKeys(e.Config.Stages) {
		if s := e.Config.Stages[name]; !slices.Contains(types, s.Type) {
			types = append(types, s.Type)
		}
	}
	return types
}

const pkiRemedy = "Make it again, signed by the key of ca.pem, with `stagecoach pki renew` (docs/operations.md, Certificates between services)."

// pki looks at the identities that are on this machine; it needs only those of the services that run here.
func (n *notes) pki(e *Env, dir string) {
	file := filepath.Join(dir, "ca.pem")
	data, err := os.ReadFile(file)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(data) {
		n.fail(file, pkiRemedy, "holds no certificate that can be read: %v", err)
		return
	}
	before := len(*n)
	var here, absent []string
	for _, typ := range e.types() {
		file, key := filepath.Join(dir, typ+".pem"), filepath.Join(dir, typ+"-key.pem")
		_, noFile := os.Stat(file)
		_, noKey := os.Stat(key)
		if errors.Is(noFile, fs.ErrNotExist) && errors.Is(noKey, fs.ErrNotExist) {
			absent = append(absent, typ)
			continue
		}
		here = append(here, typ)
		n.identity(e, typ, file, key, roots)
	}
	if len(here) == 0 {
		n.fail(dir, pkiRemedy, "holds no certificate of a service: none can run here")
		return
	}
	if len(absent) > 0 {
		n.info(dir, "has no certificate of %s: these services cannot run on this machine", list(absent))
	}
	if !notes((*n)[before:]).bad() {
		n.ok(dir, "certificates of %s", list(here))
	}
}

func (n *notes) identity(e *Env, typ, file, key string, roots *x509.CertPool) {
	both, err := tls.LoadX509KeyPair(file, key)
	if err != nil {
		n.fail(file, pkiRemedy, "the certificate and its key cannot be used: %v", err)
		return
	}
	leaf, err := x509.ParseCertificate(both.Certificate[0])
	if err != nil {
		n.fail(file, pkiRemedy, "%v", err)
		return
	}
	before := len(*n)
	if n.ends(e, file, leaf, pkiRemedy); notes((*n)[before:]).bad() {
		return
	}
	chain := x509.NewCertPool()
	for _, der := range both.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			chain.AddCert(c)
		}
	}
	names := []string{typ}
	for _, s := range e.Config.Stages {
		if s.Type == typ && s.Identity != "" {
			names = append(names, s.Identity)
		}
	}
	if !slices.ContainsFunc(names, func(name string) bool { return leaf.VerifyHostname(name) == nil }) {
		n.fail(file, pkiRemedy, "is for %s; the name (SAN) of this service is %s", certNames(leaf), typ)
		return
	}
	// Each service is called, and calls.
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: chain, CurrentTime: e.Now(), KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			n.fail(file, pkiRemedy, "the other services do not take it: %v", err)
			return
		}
	}
}
