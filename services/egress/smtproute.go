package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtpclient"
)

// outbound is what the SMTP routes have in common: how a connection is made, and the pool.
type outbound struct {
	e      *Egress
	name   string // of the route
	helo   string
	source netip.Addr
	pool   *pool
	count  *routeMetrics
}

func (e *Egress) newOutbound(c *config.Config, name string, o config.Out) (outbound, error) {
	b := outbound{e: e, name: name, helo: o.Helo, source: o.Source, pool: newPool(e.limits, &e.farewells), count: e.metrics.route(name)}
	if b.helo == "" {
		b.helo = c.Hostname
	}
	if b.helo == "" {
		return b, errors.New("there is neither a helo name nor a hostname")
	}
	return b, nil
}

func (o *outbound) close() { o.pool.close() }

// dial connects and starts a session. Where TLS is opportunistic and the handshake fails, a second connection without it is
// made, as "takes what it gets" says; not after injected plaintext, which is no failure but an attack.
func (o *outbound) dial(ctx context.Context, address string, mode smtpclient.TLSMode, config *tls.Config, auth *smtpclient.Auth) (*smtpclient.Client, error) {
	opts := smtpclient.Options{Helo: o.helo, TLS: mode, TLSConfig: config, Auth: auth, Deadlines: o.e.deadlines}
	c, err := o.connect(ctx, address, opts)
	if e, ok := smtpclient.AsError(err); ok && mode == smtpclient.Opportunistic && e.Step == smtpclient.StepTLS && ctx.Err() == nil {
		o.e.logger.Warn("TLS failed; going on without it, the route allows that", slog.String("route", o.name), slog.String("host", address), slog.String("error", e.Error()))
		opts.TLS = smtpclient.PlainText
		return o.connect(ctx, address, opts)
	}
	return c, err
}

func (o *outbound) connect(ctx context.Context, address string, opts smtpclient.Options) (*smtpclient.Client, error) {
	begun := o.e.now()
	c, err := o.start(ctx, address, opts)
	o.count.connected(c, err, o.e.now().Sub(begun))
	return c, err
}

func (o *outbound) start(ctx context.Context, address string, opts smtpclient.Options) (*smtpclient.Client, error) {
	d := net.Dialer{Timeout: o.e.limits.connect}
	if o.source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(o.source, 0))
	}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, &smtpclient.Error{Step: smtpclient.StepConnect, Err: err}
	}
	return smtpclient.Start(ctx, conn, opts)
}

// traits are what is known of a message after one pass over it.
type traits struct{ eightBit bool }

// sendable settles those to whom the message cannot be said in SMTP at all, before anybody is called.
func (d *delivery) sendable(to []mail.Recipient) []mail.Recipient {
	all := func(f chain.Fate) []mail.Recipient {
		for _, r := range to {
			d.settle(r.ID, "", "", f)
		}
		return nil
	}
	reject := func(code int, enhanced, text string, cause error) chain.Fate {
		return chain.Fate{Kind: chain.Rejected, Concern: chain.AboutRecipient, Reply: &mail.Reply{Code: code, Enhanced: enhanced, Text: text, Private: cause.Error()}}
	}
	t, err := smtpclient.Inspect(d.parcel.Content)
	if errors.Is(err, smtpclient.ErrBareControl) {
		return all(reject(554, "5.6.0", "The message contains a bare CR, a bare LF or a NUL, which SMTP cannot carry", err))
	}
	if err != nil {
		return all(chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient, Reason: fmt.Sprintf("reading the message: %v", err)})
	}
	d.traits = traits{eightBit: t.EightBit}
	if _, err := smtpclient.Path(d.parcel.Envelope.ReversePath); err != nil {
		return all(reject(553, "5.1.7", "The address of the sender is not valid", err))
	}
	var fit []mail.Recipient
	for _, r := range to {
		_, err := smtpclient.Path(r.Address)
		if err == nil && r.Address.IsNull() {
			err = errors.New("null address")
		}
		if err != nil {
			d.settle(r.ID, "", "", reject(553, "5.1.3", "The address of the recipient is not valid", err))
			continue
		}
		fit = append(fit, r)
	}
	return fit
}
