package doctor

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/antivirus"
	"github.com/stagecoachmail/stagecoach/services/egress"
	"github.com/stagecoachmail/stagecoach/services/ingress"
)

// fakeDNS answers by names without their final dot.
type fakeDNS struct {
	t     *testing.T
	mx    map[string][]string // "10 host"; "0 ." is a null MX
	txt   map[string][]string
	ip    map[string][]string
	ptr   map[string][]string
	alias map[string]string
	// down are names about which nobody answers.
	down map[string]bool
}

func (f *fakeDNS) name(s string) (string, error) {
	name, ok := strings.CutSuffix(s, ".")
	if !ok {
		f.t.Errorf("%q is asked without a final dot: a search list may apply", s)
	}
	name = strings.ToLower(name)
	if f.down[name] {
		return "", &net.DNSError{Err: "no answer", Name: name, IsTemporary: true}
	}
	return name, nil
}

func (f *fakeDNS) LookupMX(_ context.Context, name string) ([]*net.MX, error) {
	name, err := f.name(name)
	if err != nil {
		return nil, err
	}
	var out []*net.MX
	for i, host := range f.mx[name] {
		out = append(out, &net.MX{Host: host, Pref: uint16(10 * (i + 1))})
	}
	if len(out) == 0 {
		return nil, missing(name)
	}
	return out, nil
}

func (f *fakeDNS) LookupTXT(_ context.Context, name string) ([]string, error) {
	name, err := f.name(name)
	if err != nil {
		return nil, err
	}
	if len(f.txt[name]) == 0 {
		return nil, missing(name)
	}
	return append([]string(nil), f.txt[name]...), nil
}

func (f *fakeDNS) LookupIPAddr(ctx context.Context, name string) ([]net.IPAddr, error) {
	name, err := f.name(name)
	if err != nil {
		return nil, err
	}
	if target := f.alias[name]; target != "" {
		return f.LookupIPAddr(ctx, target+".")
	}
	var out []net.IPAddr
	for _, ip := range f.ip[name] {
		out = append(out, net.IPAddr{IP: net.ParseIP(ip)})
	}
	if len(out) == 0 {
		return nil, missing(name)
	}
	return out, nil
}

func (f *fakeDNS) LookupAddr(_ context.Context, addr string) ([]string, error) {
	if f.down[addr] {
		return nil, &net.DNSError{Err: "no answer", Name: addr, IsTemporary: true}
	}
	if len(f.ptr[addr]) == 0 {
		return nil, missing(addr)
	}
	return append([]string(nil), f.ptr[addr]...), nil
}

func (f *fakeDNS) LookupCNAME(_ context.Context, name string) (string, error) {
	name, err := f.name(name)
	if err != nil {
		return "", err
	}
	if f.alias[name] == "" {
		return "", missing(name)
	}
	return f.alias[name] + ".", nil
}

type fakeClock struct {
	state ClockState
	err   error
}

func (c *fakeClock) State() (ClockState, error) { return c.state, c.err }

type fakeDisk struct {
	usage map[string]DiskUsage // by folder
	took  time.Duration
	err   error
}

func (d *fakeDisk) Usage(path string) (DiskUsage, error) {
	if u, ok := d.usage[path]; ok {
		return u, nil
	}
	return DiskUsage{Free: 400e9, Size: 500e9, FreeInodes: 9e6, Inodes: 10e6}, nil
}

func (d *fakeDisk) SyncTime(string) (time.Duration, error) { return d.took, d.err }

type fakeAdmin struct {
	status *adminv1.GetStatusResponse // nil: not running
	err    error
}

func (a *fakeAdmin) Status(context.Context) (*adminv1.GetStatusResponse, error) {
	if a.err != nil {
		return nil, a.err
	}
	if a.status == nil {
		return nil, errNotRunning
	}
	return a.status, nil
}

// localServers are the real probes, by a DNS and a network that lead to this machine.
type localServers struct {
	resolver Resolver
	// hosts leads addresses as they are dialled to ones that are listened on.
	hosts map[string]string
	nats  func(context.Context, *config.Config) ([]ingress.StreamState, error)
}

func (s *localServers) Route(ctx context.Context, o egress.ProbeOptions) ([]egress.Report, error) {
	o.Resolver = s.resolver
	o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		to, ok := s.hosts[address]
		if !ok {
			return nil, &net.OpError{Op: "dial", Net: network, Err: io.ErrClosedPipe}
		}
		var d net.Dialer
		return d.DialContext(ctx, network, to)
	}
	return egress.Probe(ctx, o)
}

func (s *localServers) NATS(ctx context.Context, c *config.Config) ([]ingress.StreamState, error) {
	if s.nats != nil {
		return s.nats(ctx, c)
	}
	return ingress.CheckDurable(ctx, c)
}

func (s *localServers) Clamd(ctx context.Context, address string) (antivirus.ClamdReport, error) {
	return antivirus.ProbeClamd(ctx, address)
}

// serve answers each connection to a free port of this machine until the test ends.
func serve(t *testing.T, handle func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); handle(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String()
}

// serveClamd answers VERSION.
func serveClamd(t *testing.T, version string) string {
	return serve(t, func(c net.Conn) {
		if cmd, err := bufio.NewReader(c).ReadString(0); err == nil && cmd == "zVERSION\x00" {
			_, _ = io.WriteString(c, version+"\x00")
		}
	})
}
