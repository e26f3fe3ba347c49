// Package fleet finds the processes of an installation behind the addresses in its configuration, and makes one
// operator's API of what each of them serves.
//
// A process that does not answer makes no list fail: the answer has what the others said, and its trailer
// `stagecoach-missing` names each process that is missing, and why. Status tells of them as problems, and a stream of events
// says so in a text. Only when nobody answers there is an error.
package fleet

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// The services that are no stages, and the types of stages that serve more than their stages.
const (
	ingress = "ingress"
	egress  = "egress"
	admin   = "admin"
	archive = "archive"
	signer  = "signer"
)

const (
	// lookupTime bounds the question for the addresses behind a name.
	lookupTime = 2 * time.Second
	// forget is how long after an address was found last its connection is kept.
	forget = 10 * time.Minute
)

// Options of a Fleet.
type Options struct {
	// Config is the configuration in force, asked anew at each call.
	Config func() *config.Config
	Conns  *service.Connections
	// Lookup finds the addresses behind a name; nil: the system's.
	Lookup service.Lookup
	// Self is this process.
	Self   adminv1.NodeServiceServer
	Logger *slog.Logger
}

// Fleet is the processes of an installation.
type Fleet struct {
	o   Options
	now func() time.Time

	mu   sync.Mutex
	seen map[[2]string]time.Time // address and identity: when it was found last

	drains sync.Mutex // one after the other: two must not take the last two away
}

// New makes a Fleet; it asks nobody yet.
func New(o Options) *Fleet {
	if o.Lookup == nil {
		o.Lookup = service.SystemLookup
	}
	return &Fleet{o: o, now: time.Now, seen: map[[2]string]time.Time{}}
}

// place is an address of the configuration, with a service behind it.
type place struct {
	service, address, identity string
	// foreign: a stage that only judges, and has no NodeService.
	foreign bool
}

// places are those of the configuration: ingress, egress, then the types of stages.
func places(c *config.Config) []place {
	all := []place{{service: ingress, address: c.Ingress.Address, identity: ingress}, {service: egress, address: c.Egress.Address, identity: egress}}
	var stages []place
	for _, s := range c.Stages {
		stages = append(stages, place{service: s.Type, address: s.Address, identity: cmp.Or(s.Identity, s.Type), foreign: s.ProcessOnly})
	}
	slices.SortFunc(stages, func(a, b place) int {
		return cmp.Or(strings.Compare(a.service, b.service), strings.Compare(a.address, b.address), strings.Compare(a.identity, b.identity))
	})
	all = append(all, slices.CompactFunc(stages, func(a, b place) bool {
		return a.service == b.service && a.address == b.address && a.identity == b.identity
	})...)
	return slices.DeleteFunc(all, func(p place) bool { return p.address == "" })
}

// process is one process that was found, or a place where none was: then err says why.
type process struct {
	place
	at   string // its own address
	conn grpc.ClientConnInterface
	err  error
}

// name is the one that people know it by.
func (p *process) name() string { return p.service + "@" + p.at }

// find gives the processes of a service, or of all, by places and addresses. A place whose name gives no address is one
// that cannot be asked.
func (f *Fleet) find(ctx context.Context, of string) []*process {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	var where []place
	for _, p := range places(f.o.Config()) {
		if of == "" || of == p.service {
			where = append(where, p)
		}
	}
	found := make([][]*process, len(where))
	var wg sync.WaitGroup
	for i, p := range where {
		wg.Go(func() { found[i] = f.behind(ctx, p) })
	}
	wg.Wait()
	f.sweep()
	return slices.Concat(found...)
}

// behind gives the processes behind a place.
func (f *Fleet) behind(ctx context.Context, p place) []*process {
	addresses, err := service.Resolve(ctx, f.o.Lookup, p.address)
	if err != nil {
		return []*process{{place: p, at: p.address, err: status.Error(codes.Unavailable, err.Error())}}
	}
	var out []*process
	for _, at := range addresses {
		one := &process{place: p, at: at}
		var err error
		if one.conn, err = f.o.Conns.Direct(at, p.identity); err != nil {
			one.err = status.Error(codes.Unavailable, err.Error())
		}
		f.mu.Lock()
		f.seen[[2]string{at, p.identity}] = f.now()
		f.mu.Unlock()
		out = append(out, one)
	}
	return out
}

// sweep ends connections to addresses that have not been found for long.
func (f *Fleet) sweep() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, at := range f.seen {
		if f.now().Sub(at) > forget {
			f.o.Conns.Drop(key[0], key[1])
			delete(f.seen, key)
		}
	}
}
