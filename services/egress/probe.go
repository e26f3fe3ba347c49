package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/mx"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtpclient"
)

// SessionError is why a session failed: the step, and the server's answer or the cause.
type SessionError = smtpclient.Error

// Steps of a session, as SessionError names them.
const (
	StepConnect  = smtpclient.StepConnect
	StepGreeting = smtpclient.StepGreeting
	StepEHLO     = smtpclient.StepEHLO
	StepSTARTTLS = smtpclient.StepSTARTTLS
	StepTLS      = smtpclient.StepTLS
	StepAUTH     = smtpclient.StepAUTH
)

// What a SessionError may wrap.
var (
	// ErrNoTLS: TLS is required, and STARTTLS is not offered.
	ErrNoTLS = smtpclient.ErrNoTLS
	// ErrNoMechanism: none of the allowed AUTH mechanisms is offered.
	ErrNoMechanism = smtpclient.ErrNoMechanism
)

// The patience of a probe. A message waits longer; a person at a terminal does not.
const (
	probeConnect = 10 * time.Second
	probeStep    = 15 * time.Second
	// probeAddresses of one domain's exchangers are tried until one connects.
	probeAddresses = 2
)

// ProbeOptions say what Probe looks at.
type ProbeOptions struct {
	Config *config.Config
	// Route is one of Config.
	Route *config.Route
	// Domains are those whose exchangers an mx route calls; each must be one that has nothing against being called.
	Domains []string
	// Own says that an address is ours: an mx route does not call it. nil: none is.
	Own func(netip.Addr) bool
	// Resolver answers for an mx route, whatever its resolver setting; nil: as configured.
	Resolver Resolver
	// Dial connects; nil: net.Dialer, from the route's source address.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Report is what one server said to a probe, as far as that went.
type Report struct {
	// Domain whose exchanger was called; empty for a smarthost.
	Domain string
	// Host that was called: host:port, or name[address].
	Host string
	// TLS is the name of the version in use; empty: none.
	TLS string
	// Certificate that the server has shown, be it good or not; nil: none.
	Certificate *x509.Certificate
	// Mechanism of the login that succeeded; empty: none was made.
	Mechanism string
	// SizeLimit is the largest message in bytes that the server takes; 0: it does not say.
	SizeLimit int64
	// TLSFault is why an opportunistic route goes on without TLS.
	TLSFault error
	// Err is why mail would not go this way now; usually a *SessionError. nil: it would.
	Err error
}

// Probe makes the sessions that a route makes, by the same code: connection, greeting, EHLO, TLS, login; then QUIT,
// without a mail. A smarthost route gives one report, an mx route one for each domain whose exchangers are not ours, a
// maildir route none. The error says that the route itself is impossible.
func Probe(ctx context.Context, o ProbeOptions) ([]Report, error) {
	limits := defaultLimits()
	limits.connect = probeConnect
	e := &Egress{logger: slog.New(slog.DiscardHandler), now: time.Now, resolver: o.Resolver, limits: limits,
		deadlines: Deadlines{Greeting: probeStep, Hello: probeStep}}
	rt, err := e.newRoute(o.Config, o.Route)
	if err != nil {
		return nil, fmt.Errorf("route %s: %w", o.Route.Name, err)
	}
	defer rt.way.close()
	switch way := rt.way.(type) {
	case *smarthost:
		return []Report{o.smarthost(ctx, way)}, nil
	case *exchangers:
		return o.exchangers(ctx, way), nil
	}
	return nil, nil
}

func (o *ProbeOptions) smarthost(ctx context.Context, s *smarthost) Report {
	rep := Report{Host: s.conf.Address}
	var conf *tls.Config
	if s.mode != smtpclient.PlainText {
		if conf, rep.Err = s.tls(); rep.Err != nil {
			rep.Err = &SessionError{Step: StepTLS, Err: rep.Err}
			return rep
		}
	}
	auth, err := s.login()
	if err != nil {
		rep.Err = err
		return rep
	}
	o.session(ctx, &rep, &s.outbound, s.conf.Address, smtpclient.Options{TLS: s.mode, TLSConfig: conf, Auth: auth})
	return rep
}

// exchangers calls those of each domain at once.
func (o *ProbeOptions) exchangers(ctx context.Context, x *exchangers) []Report {
	all := make([]*Report, len(o.Domains))
	var wg sync.WaitGroup
	for i, domain := range o.Domains {
		wg.Go(func() { all[i] = o.domain(ctx, x, domain) })
	}
	wg.Wait()
	var reports []Report
	for _, r := range all {
		if r != nil {
			reports = append(reports, *r)
		}
	}
	return reports
}

// domain gives nil where there is nobody to be called.
func (o *ProbeOptions) domain(ctx context.Context, x *exchangers, domain string) *Report {
	hosts, err := x.hosts(ctx, domain)
	var loop *mx.Loop
	if errors.As(err, &loop) {
		return nil
	}
	if err != nil {
		return &Report{Domain: domain, Err: err}
	}
	var last *Report
	tries := 0
	for _, h := range hosts {
		for _, addr := range h.Addresses {
			if o.Own != nil && o.Own(addr) || x.source.IsValid() && x.source.Unmap().Is4() != addr.Is4() {
				continue
			}
			if tries++; tries > probeAddresses {
				return last
			}
			last = &Report{Domain: domain, Host: fmt.Sprintf("%s[%s]", h.Name, addr)}
			o.session(ctx, last, &x.outbound, net.JoinHostPort(addr.String(), x.port),
				smtpclient.Options{TLS: smtpclient.Opportunistic, TLSConfig: opportunistic(h.Name)})
			if last.Err == nil {
				return last
			}
		}
	}
	return last
}

// session fills rep. Where TLS is opportunistic and fails it goes on without, as deliveries do.
func (o *ProbeOptions) session(ctx context.Context, rep *Report, out *outbound, address string, opts smtpclient.Options) {
	opts.Helo, opts.Deadlines = out.helo, out.e.deadlines
	if opts.TLSConfig != nil {
		opts.TLSConfig = watched(opts.TLSConfig, rep)
	}
	c, err := o.start(ctx, out, address, opts)
	if e, ok := smtpclient.AsError(err); ok && opts.TLS == smtpclient.Opportunistic && e.Step == StepTLS && ctx.Err() == nil {
		rep.TLSFault = err
		opts.TLS = smtpclient.PlainText
		c, err = o.start(ctx, out, address, opts)
	}
	if err != nil {
		rep.Err = err
		if v, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && len(v.UnverifiedCertificates) > 0 {
			rep.Certificate = v.UnverifiedCertificates[0]
		}
		return
	}
	rep.TLS, rep.Mechanism, rep.SizeLimit = c.TLS(), c.Mechanism(), c.SizeLimit()
	c.Quit()
}

func (o *ProbeOptions) start(ctx context.Context, out *outbound, address string, opts smtpclient.Options) (*smtpclient.Client, error) {
	if o.Dial == nil {
		return out.connect(ctx, address, opts)
	}
	conn, err := o.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, &SessionError{Step: StepConnect, Err: err}
	}
	return smtpclient.Start(ctx, conn, opts)
}

// watched is config, which keeps the certificate that it is shown in rep.
func watched(config *tls.Config, rep *Report) *tls.Config {
	config = config.Clone()
	verify := config.VerifyConnection
	config.VerifyConnection = func(s tls.ConnectionState) error {
		rep.Certificate = s.PeerCertificates[0]
		if verify != nil {
			return verify(s)
		}
		return nil
	}
	return config
}
