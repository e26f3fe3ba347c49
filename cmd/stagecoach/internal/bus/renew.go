package bus

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// renewLook is how often the certificates of the configuration file are looked at, unless Options say it.
const renewLook = time.Minute

// renew takes up certificates that were renewed, for the connections that come. Until both files of a pair are in place
// the old pair stays in use. Nothing else of the file is taken up, but by chance with a certificate.
func (s *Server) renew() {
	if s.how.ConfigFile == "" || time.Since(s.looked) < cmp.Or(s.how.Look, renewLook) {
		return
	}
	s.looked = time.Now()
	fresh, err := s.how.server()
	if err == nil && slices.EqualFunc(shown(fresh), shown(s.options), bytes.Equal) {
		s.complaint = ""
		return
	}
	s.mu.Lock()
	ns := s.ns
	s.mu.Unlock()
	if err == nil && ns != nil {
		err = ns.ReloadOptions(fresh.Clone())
	}
	if err == nil {
		s.options, s.complaint = fresh, ""
		s.log.Info("nats: renewed certificates are in use")
		return
	}
	if text := err.Error(); text != s.complaint {
		s.complaint = text
		s.log.Warn("nats: renewed certificates cannot be taken up: the former ones stay in use", "error", err)
	}
}

// shown are the certificates that the server shows to clients and to other servers.
func shown(o *server.Options) (certificates [][]byte) {
	for _, c := range []*tls.Config{o.TLSConfig, o.Cluster.TLSConfig} {
		if c == nil {
			continue
		}
		for _, pair := range c.Certificates {
			certificates = append(certificates, pair.Certificate...)
		}
	}
	return certificates
}
