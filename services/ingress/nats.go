package ingress

import (
	"net"
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/stagecoachmail/stagecoach/internal/service"
)

func joined(servers []string) string { return strings.Join(servers, ",") }

// tlsIfAsked gives our certificate to servers that are reached over tls://, or that are on another machine: between
// machines nothing goes in the clear.
func tlsIfAsked(servers []string, pki *service.PKI) []nats.Option {
	for _, s := range servers {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "tls" && loopback(u.Hostname()) {
			continue
		}
		return []nats.Option{nats.Secure(pki.NATS())}
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
