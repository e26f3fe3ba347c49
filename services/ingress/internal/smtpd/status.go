package smtpd

import (
	"bytes"
	"crypto/x509"
	"time"
)

// CertificateState is what is known of the certificate that listeners show.
type CertificateState struct {
	// Ends is when it is not valid any more.
	Ends time.Time
	// SelfSigned: no client can verify it.
	SelfSigned bool
	// Broken says why the files, as they stand now, are not taken; empty: they are.
	Broken string
}

// Certificate tells of the certificate that listeners with TLS show now; false: there is none.
func (s *Server) Certificate() (CertificateState, bool) {
	cert, broken := s.certs.shown(nil)
	if cert == nil || len(cert.Certificate) == 0 {
		return CertificateState{}, false
	}
	leaf := cert.Leaf
	if leaf == nil {
		var err error
		if leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return CertificateState{Broken: err.Error()}, true
		}
	}
	return CertificateState{Ends: leaf.NotAfter, SelfSigned: bytes.Equal(leaf.RawIssuer, leaf.RawSubject), Broken: broken}, true
}
