package mx

import (
	"context"
	"net"
	"time"
)

// Resolver is what is asked of the DNS. Names end in a dot, so that no search list applies. What does not exist is a
// *net.DNSError with IsNotFound; every other error may pass. *net.Resolver is one.
type Resolver interface {
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error)
}

// System asks the resolvers of this machine.
func System() Resolver { return &net.Resolver{PreferGo: true} }

// Server asks one DNS server, given as host:port.
func Server(address string) Resolver {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, address)
	}}
}
