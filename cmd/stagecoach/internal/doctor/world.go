package doctor

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// worldResolver asks the DNS servers of this machine and nothing else. The resolver of the standard library, for addresses
// and their names, looks into /etc/hosts first, where installers like to put 127.0.1.1 behind the machine's name.
type worldResolver struct {
	net.Resolver // for MX and TXT, for which there is only the DNS
	servers      []string
	dial         func(ctx context.Context, network, address string) (net.Conn, error)
}

// world gives the resolver of this machine.
func world() *worldResolver {
	var d net.Dialer
	return &worldResolver{Resolver: net.Resolver{PreferGo: true}, servers: nameservers("/etc/resolv.conf"), dial: d.DialContext}
}

// nameservers reads resolv.conf(5), which has three at most.
func nameservers(file string) []string {
	var list []string
	if f, err := os.Open(file); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan() && len(list) < 3; {
			if w := strings.Fields(s.Text()); len(w) >= 2 && w[0] == "nameserver" {
				if a, err := netip.ParseAddr(w[1]); err == nil {
					list = append(list, net.JoinHostPort(a.String(), "53"))
				}
			}
		}
	}
	if len(list) == 0 {
		list = []string{"127.0.0.1:53"}
	}
	return list
}

// LookupIPAddr implements Resolver.
func (r *worldResolver) LookupIPAddr(ctx context.Context, name string) ([]net.IPAddr, error) {
	var addrs []net.IPAddr
	var failed error
	for _, typ := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		answers, err := r.ask(ctx, name, typ)
		if err != nil {
			if exists(err) != nil {
				failed = err
			}
			continue
		}
		for _, a := range answers {
			switch b := a.Body.(type) {
			case *dnsmessage.AResource:
				addrs = append(addrs, net.IPAddr{IP: b.A[:]})
			case *dnsmessage.AAAAResource:
				addrs = append(addrs, net.IPAddr{IP: b.AAAA[:]})
			}
		}
	}
	switch {
	case len(addrs) > 0:
		return addrs, nil
	case failed != nil:
		return nil, failed
	}
	return nil, missing(name)
}

// LookupAddr implements Resolver.
func (r *worldResolver) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, err
	}
	answers, err := r.ask(ctx, reverse(a.Unmap()), dnsmessage.TypePTR)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, a := range answers {
		if b, ok := a.Body.(*dnsmessage.PTRResource); ok {
			names = append(names, b.PTR.String())
		}
	}
	if len(names) == 0 {
		return nil, missing(addr)
	}
	return names, nil
}

// LookupCNAME implements Resolver: the first step alone, which is the one that is asked about.
func (r *worldResolver) LookupCNAME(ctx context.Context, name string) (string, error) {
	answers, err := r.ask(ctx, name, dnsmessage.TypeCNAME)
	if err != nil {
		return "", err
	}
	for _, a := range answers {
		if b, ok := a.Body.(*dnsmessage.CNAMEResource); ok {
			return b.CNAME.String(), nil
		}
	}
	return "", missing(name)
}

// reverse is the name under which the names of an address stand (RFC 1035, section 3.5; RFC 3596, section 2.5).
func reverse(a netip.Addr) string {
	var b strings.Builder
	raw := a.AsSlice()
	for i := len(raw) - 1; i >= 0; i-- {
		if a.Is4() {
			fmt.Fprintf(&b, "%d.", raw[i])
		} else {
			fmt.Fprintf(&b, "%x.%x.", raw[i]&0xf, raw[i]>>4)
		}
	}
	if a.Is4() {
		return b.String() + "in-addr.arpa."
	}
	return b.String() + "ip6.arpa."
}

func missing(name string) error {
	return &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

// askWait is for one question to one server.
const askWait = 4 * time.Second

// ask asks one server after the other, over UDP, and over TCP where the answer is too long for that.
func (r *worldResolver) ask(ctx context.Context, name string, typ dnsmessage.Type) ([]dnsmessage.Resource, error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, missing(name) // what cannot be asked does not exist
	}
	var failed error
	for _, server := range r.servers {
		m, err := r.exchange(ctx, "udp", server, n, typ)
		if err == nil && m.Truncated {
			m, err = r.exchange(ctx, "tcp", server, n, typ)
		}
		if err != nil {
			failed = &net.DNSError{Err: err.Error(), Name: name, Server: server, IsTemporary: true}
			continue
		}
		switch m.RCode {
		case dnsmessage.RCodeSuccess:
			return m.Answers, nil
		case dnsmessage.RCodeNameError:
			return nil, missing(name)
		}
		failed = &net.DNSError{Err: "the server answers " + strings.TrimPrefix(m.RCode.String(), "RCode"), Name: name, Server: server, IsTemporary: true}
	}
	return nil, failed
}

func (r *worldResolver) exchange(ctx context.Context, network, server string, name dnsmessage.Name, typ dnsmessage.Type) (*dnsmessage.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	conn, err := r.dial(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var id [2]byte
	_, _ = rand.Read(id[:]) // it never fails
	question := dnsmessage.Question{Name: name, Type: typ, Class: dnsmessage.ClassINET}
	query := dnsmessage.Message{Header: dnsmessage.Header{ID: binary.BigEndian.Uint16(id[:]), RecursionDesired: true}, Questions: []dnsmessage.Question{question}}
	raw, err := query.Pack()
	if err != nil {
		return nil, err
	}
	if network == "tcp" {
		raw = append(binary.BigEndian.AppendUint16(nil, uint16(len(raw))), raw...)
	}
	if _, err := conn.Write(raw); err != nil {
		return nil, err
	}
	for {
		answer, err := receive(conn, network)
		if err != nil {
			if ctx.Err() != nil {
				err = errors.New("no answer")
			}
			return nil, err
		}
		var m dnsmessage.Message
		if err := m.Unpack(answer); err != nil || m.ID != query.ID || !m.Response || len(m.Questions) != 1 || !same(m.Questions[0], question) {
			if network == "tcp" {
				return nil, errors.New("not an answer to the question")
			}
			continue // somebody else's, or forged
		}
		return &m, nil
	}
}

func same(a, b dnsmessage.Question) bool {
	return a.Type == b.Type && a.Class == b.Class && strings.EqualFold(a.Name.String(), b.Name.String())
}

func receive(conn net.Conn, network string) ([]byte, error) {
	size := 4096
	if network == "tcp" {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return nil, err
		}
		raw := make([]byte, binary.BigEndian.Uint16(length[:]))
		_, err := io.ReadFull(conn, raw)
		return raw, err
	}
	raw := make([]byte, size)
	n, err := conn.Read(raw)
	return raw[:n], err
}
