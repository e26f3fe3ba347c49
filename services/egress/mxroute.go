package egress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/mx"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtpclient"
)

// exchangers sends to the mail exchangers of each recipient's domain.
type exchangers struct {
	outbound
	finder mx.Finder
	port   string
}

func (e *Egress) newExchangers(c *config.Config, name string, conf config.MX) (*exchangers, error) {
	out, err := e.newOutbound(c, name, conf.Out)
	if err != nil {
		return nil, err
	}
	port := conf.Port
	if port == 0 {
		port = 25
	}
	if port < 0 || port > 65535 {
		return nil, fmt.Errorf("port %d", port)
	}
	resolver := e.resolver
	switch {
	case resolver != nil:
	case conf.Resolver != "":
		if _, _, err := net.SplitHostPort(conf.Resolver); err != nil {
			return nil, fmt.Errorf("resolver: %w", err)
		}
		resolver = mx.Server(conf.Resolver)
	default:
		resolver = mx.System()
	}
	return &exchangers{outbound: out, finder: mx.Finder{Resolver: resolver, Self: c.Hostname}, port: strconv.Itoa(port)}, nil
}

// deliver serves the domains at once, so that a slow one does not hold up the others.
func (x *exchangers) deliver(ctx context.Context, d *delivery, to []mail.Recipient) {
	domains := map[string][]mail.Recipient{}
	for _, r := range d.sendable(to) {
		name := strings.ToLower(r.Address.Domain)
		domains[name] = append(domains[name], r)
	}
	var wg sync.WaitGroup
	places := make(chan struct{}, d.limits.domains)
	for domain, to := range domains {
		wg.Go(func() {
			select {
			case places <- struct{}{}:
				defer func() { <-places }()
				x.toDomain(ctx, d, domain, to)
			case <-ctx.Done():
				x.settle(d, leave(to, faultOf(ctx, "", "", context.Cause(ctx))), domain)
			}
		})
	}
	wg.Wait()
}

func (x *exchangers) toDomain(ctx context.Context, d *delivery, domain string, to []mail.Recipient) {
	hosts, err := x.hosts(ctx, domain)
	if err != nil {
		x.unroutable(ctx, d, domain, to, err)
		return
	}
	left := leave(to, &fault{err: errors.New("no mail server of the domain can be reached from the source address")})
	tries := 0
	for _, h := range hosts {
		for _, addr := range h.Addresses {
			if x.source.IsValid() && x.source.Unmap().Is4() != addr.Is4() {
				continue
			}
			if tries++; tries > d.limits.addresses || ctx.Err() != nil && tries > 1 {
				break
			}
			left = d.toHost(ctx, x.target(domain, h, addr), remaining(left))
			if len(left) == 0 || slices.ContainsFunc(left, func(l leftover) bool { return l.fault.ours }) {
				x.settle(d, left, domain)
				return
			}
		}
	}
	x.settle(d, left, domain)
}

func (x *exchangers) hosts(ctx context.Context, domain string) ([]mx.Host, error) {
	ctx, cancel := context.WithTimeout(ctx, x.e.limits.lookup)
	defer cancel()
	return x.finder.Hosts(ctx, domain)
}

// unroutable settles by what the DNS has said, or failed to say.
func (x *exchangers) unroutable(ctx context.Context, d *delivery, domain string, to []mail.Recipient, err error) {
	if reply, ok := mail.AsReply(err); ok {
		for _, r := range to {
			d.settle(r.ID, "", "", chain.Fate{Kind: chain.Rejected, Concern: chain.AboutRecipient, Reply: reply})
		}
		return
	}
	var loop *mx.Loop
	if errors.As(err, &loop) {
		d.logger.LogAttrs(ctx, slog.LevelError, "the mail of a domain loops back to this host: it is not among the domains of this installation",
			slog.String("route", x.name), slog.String("domain", domain))
	}
	x.settle(d, leave(to, faultOf(ctx, "", "", err)), domain)
}

func (x *exchangers) settle(d *delivery, left []leftover, domain string) {
	for _, l := range left {
		d.settle(l.to.ID, l.fault.host, l.fault.tls, l.fault.fate(chain.AboutDestination, domain))
	}
}

func (x *exchangers) target(domain string, h mx.Host, addr netip.Addr) *target {
	address := net.JoinHostPort(addr.String(), x.port)
	// Pooled by name and address: the name was in the handshake.
	return &target{name: fmt.Sprintf("%s[%s]", h.Name, addr), key: h.Name + " " + address, pool: x.pool, concern: chain.AboutDestination, about: domain,
		dial: func(ctx context.Context) (*smtpclient.Client, error) {
			return x.dial(ctx, address, smtpclient.Opportunistic, opportunistic(h.Name), nil)
		}}
}

func remaining(left []leftover) []mail.Recipient {
	to := make([]mail.Recipient, len(left))
	for i, l := range left {
		to[i] = l.to
	}
	return to
}
