package service

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc"
)

// maxAnswer bounds one message of a process that is called by its own address: a waiting message comes with the edits of
// its hops, a trace with its diffs.
const maxAnswer = 64 << 20

// Lookup finds the addresses behind the name of a host.
type Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

// SystemLookup asks the system.
func SystemLookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// Resolve gives the addresses of the processes behind the address of a service, sorted, each once: a unix socket is one,
// so is an IP address. Of a name with addresses of both families those of IPv4 are taken: a port that is opened under a
// name is reached by both, so they are the same processes.
func Resolve(ctx context.Context, lookup Lookup, address string) ([]string, error) {
	if strings.HasPrefix(address, "unix:") {
		return []string{address}, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return []string{net.JoinHostPort(ip.Unmap().String(), port)}, nil
	}
	found, err := lookup(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	var out, six []string
	for _, ip := range found {
		if ip = ip.Unmap(); ip.Is4() {
			out = append(out, net.JoinHostPort(ip.String(), port))
		} else {
			six = append(six, net.JoinHostPort(ip.String(), port))
		}
	}
	if len(out) == 0 {
		out = six
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: the name has no address", address)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// Direct returns the connection to one process at its own address, which Resolve gave, whether it says that it serves or
// not. Its certificate must bear identity.
func (c *Connections) Direct(address, identity string) (grpc.ClientConnInterface, error) {
	target := address
	if !strings.HasPrefix(address, "unix:") {
		target = "passthrough:///" + address
	}
	return c.conn(connKey{address, identity, true}, target, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
}

// Drop ends the connection that Direct gave, if there is one.
func (c *Connections) Drop(address, identity string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := connKey{address, identity, true}
	if conn, ok := c.conns[key]; ok {
		_ = conn.Close() //nolint:errcheck // nothing can be done about it
		delete(c.conns, key)
	}
}
