package doctor

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/antivirus"
	"github.com/stagecoachmail/stagecoach/services/egress"
	"github.com/stagecoachmail/stagecoach/services/ingress"
)

// Env is what is looked at, and everything outside of this program by which that is done. System gives the real one.
type Env struct {
	// Config as `stagecoach check` reads it; nil where it could not be read, and then Err says why.
	Config *config.Config
	Err    error
	// File is the name of the configuration; empty: the built-in one.
	File string
	// Up: it is for `stagecoach up`, everything in one process.
	Up bool

	Now      func() time.Time
	Resolver Resolver
	Ports    Ports
	Clock    Clock
	Disk     Disk
	Admin    Admin
	Servers  Servers
	// UID is the user that runs this program.
	UID int
	// ClamdFiles are where a clamd of this machine may have its configuration.
	ClamdFiles []string
}

// Resolver asks the DNS, as the world sees it: never /etc/hosts. Names end in a dot. What does not exist is a
// *net.DNSError with IsNotFound.
type Resolver interface {
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupIPAddr(ctx context.Context, name string) ([]net.IPAddr, error)
	// LookupAddr gives the names of an address (PTR), with their final dots.
	LookupAddr(ctx context.Context, addr string) ([]string, error)
	// LookupCNAME gives where an alias points to; what is none is not found.
	LookupCNAME(ctx context.Context, name string) (string, error)
}

// Ports opens and calls TCP ports.
type Ports interface {
	Listen(ctx context.Context, address string) (io.Closer, error)
	Dial(ctx context.Context, network, address string) (net.Conn, error)
}

// Clock tells what the kernel knows of the machine's clock.
type Clock interface {
	State() (ClockState, error)
}

// ClockState is what adjtimex(2) says.
type ClockState struct {
	Synchronised bool
	// Error is the largest error that the kernel estimates.
	Error time.Duration
}

// Disk looks at file systems.
type Disk interface {
	// Usage of the file system that holds path, which is there.
	Usage(path string) (DiskUsage, error)
	// SyncTime measures a small write with its sync in the folder dir, and leaves nothing there.
	SyncTime(dir string) (time.Duration, error)
}

// DiskUsage is what statfs(2) says. Zero inodes in all: the file system does not count them.
type DiskUsage struct {
	Free, Size         uint64 // bytes, for users that are not root
	FreeInodes, Inodes uint64
	// Kind is tmpfs, or the name of a network file system; empty: any other.
	Kind    string
	Network bool
}

// Admin asks the running instance on this machine. errNotRunning: there is none.
type Admin interface {
	Status(ctx context.Context) (*adminv1.GetStatusResponse, error)
}

var errNotRunning = errors.New("no stagecoach answers on the socket of the data folder")

// Servers are those that mail or its services depend on.
type Servers interface {
	Route(ctx context.Context, o egress.ProbeOptions) ([]egress.Report, error)
	NATS(ctx context.Context, c *config.Config) ([]ingress.StreamState, error)
	Clamd(ctx context.Context, address string) (antivirus.ClamdReport, error)
}

// outbound are the routes by which mail leaves for the outside, in the order of the chains.
func (e *Env) outbound() []*config.Route {
	var routes []*config.Route
	for _, c := range e.Config.Chains {
		out := len(c.Match.Direction) == 0 || slices.Contains(c.Match.Direction, mail.Outbound)
		if r := e.Config.Routes[c.Deliver]; out && r != nil && r.Maildir == nil && !slices.Contains(routes, r) {
			routes = append(routes, r)
		}
	}
	return routes
}

// byMX says that mail leaves for the mail servers of the world directly.
func (e *Env) byMX() bool {
	return slices.ContainsFunc(e.outbound(), func(r *config.Route) bool { return r.MX != nil })
}

// staysHere is the finding of the checks about the world where no mail leaves for it.
func (e *Env) staysHere() ([]Finding, bool) {
	if len(e.outbound()) > 0 {
		return nil, false
	}
	var n notes
	n.info("", "not looked at: no chain for outgoing mail has a route that leaves this machine")
	return n, true
}

// senders are the domains that mail is sent from, as far as the configuration knows: ours, those that relay rules name,
// and those that have keys.
func (e *Env) senders() []string {
	var names []string
	add := func(name string) {
		if name = strings.ToLower(strings.TrimSuffix(name, ".")); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, d := range e.Config.Domains {
		add(d.Name)
	}
	for _, r := range e.Config.Relay {
		for _, p := range r.Senders {
			if _, domain, ok := strings.Cut(p, "@"); ok && !strings.Contains(domain, "*") {
				add(domain)
			}
		}
	}
	keys, _ := e.keys()
	for _, k := range keys {
		add(k.domain)
	}
	return names
}

// runsHere says that a service of this type can run on this machine: each has its own certificate, if there are any.
func (e *Env) runsHere(typ string) bool {
	if e.Up || e.Config.PKI == nil {
		return true
	}
	_, err := os.Stat(filepath.Join(e.Config.PKI.Directory, typ+".pem"))
	return err == nil
}

// public says that a host of the internet can have this address.
func public(a netip.Addr) bool {
	a = a.Unmap() // the zero Addr is none of all these
	return a.IsGlobalUnicast() && !a.IsPrivate() && !cgnat.Contains(a)
}

// cgnat is the shared address space behind a provider's NAT (RFC 6598).
var cgnat = netip.MustParsePrefix("100.64.0.0/10")
