package egress

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/telemetry"
	"github.com/stagecoachmail/stagecoach/mail"
)

// delivery is one call of Carry for the recipients that are its own.
type delivery struct {
	*Egress
	parcel *chain.Parcel
	sink   chain.Sink
	route  *route
	begun  time.Time
	traits traits
	span   *telemetry.Span

	mu   sync.Mutex
	open map[mail.RecipientID]bool // those that have no fate yet
}

func (e *Egress) newDelivery(p *chain.Parcel, s chain.Sink, rt *route, own []mail.RecipientID) *delivery {
	d := &delivery{Egress: e, parcel: p, sink: s, route: rt, begun: e.now(), open: make(map[mail.RecipientID]bool, len(own))}
	for _, id := range own {
		d.open[id] = true
	}
	return d
}

func (d *delivery) run(ctx context.Context) {
	to := make([]mail.Recipient, 0, len(d.open))
	for _, r := range d.parcel.Envelope.Recipients {
		if d.open[r.ID] {
			to = append(to, r)
		}
	}
	if len(to) > 0 {
		d.route.way.deliver(ctx, d, to)
	}
	// Whatever way a mistake of ours took, nobody stays without an answer, and no answer is taken for a delivery.
	for _, id := range d.left() {
		d.settle(id, "", "", chain.Fate{Kind: chain.Deferred, Concern: chain.AboutHop, About: chain.EgressHop, Reason: "the attempt ended without an outcome for this recipient"})
	}
}

func (d *delivery) left() []mail.RecipientID {
	d.mu.Lock()
	defer d.mu.Unlock()
	ids := make([]mail.RecipientID, 0, len(d.open))
	for id := range d.open {
		ids = append(ids, id)
	}
	return ids
}

// settle gives a recipient its one fate: to the table first, so that nobody begins again what has ended.
func (d *delivery) settle(id mail.RecipientID, host, tls string, f chain.Fate) {
	d.mu.Lock()
	ok := d.open[id]
	delete(d.open, id)
	d.mu.Unlock()
	if !ok {
		d.logger.Error("a second outcome for a recipient was dropped", slog.String("id", d.parcel.ID), slog.String("recipient", string(id)), slog.String("fate", string(f.Kind)))
		return
	}
	f.Recipient, f.Host = id, host
	d.keys.finish(d.parcel.ID, f)
	d.route.metrics.settled(&f, d.now().Sub(d.begun))
	d.trace(&f)
	d.log(f, tls, false)
	d.sink.Fate(f)
}

func (d *delivery) join(ctx context.Context, id mail.RecipientID, first *attempt) chain.Fate {
	f := first.wait(ctx)
	f.Recipient = id
	d.log(f, "", true)
	return f
}

// log writes the line of the mail log: one for each recipient and attempt. Handlers escape what comes from outside.
func (d *delivery) log(f chain.Fate, tls string, joined bool) {
	attrs := []slog.Attr{slog.String("id", d.parcel.ID), slog.Int("attempt", d.parcel.Attempt), slog.String("recipient", string(f.Recipient))}
	if r, ok := d.parcel.Envelope.Recipient(f.Recipient); ok {
		attrs = append(attrs, slog.String("to", r.Address.String()))
	}
	attrs = append(attrs, slog.String("fate", string(f.Kind)), slog.String("route", d.route.name), slog.Duration("took", d.now().Sub(d.begun)))
	add := func(name, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(name, value))
		}
	}
	add("host", f.Host)
	add("tls", tls)
	if f.Kind != chain.Delivered {
		add("concern", string(f.Concern))
		add("about", f.About)
	}
	if f.Reply != nil {
		add("reply", f.Reply.Public())
		add("private", f.Reply.Private)
	}
	add("reason", f.Reason)
	if joined {
		attrs = append(attrs, slog.Bool("joined", true))
	}
	level := slog.LevelInfo
	if f.Kind != chain.Delivered {
		level = slog.LevelWarn
	}
	d.logger.LogAttrs(context.Background(), level, "delivery", attrs...)
}

// errLate says that leave was given, and grew old before it could be used.
var errLate = errors.New("leave to deliver came too late")

// errNoLeave says that leave to give the final dot was refused.
var errNoLeave = errors.New("no leave to deliver")

// abandoned is the fate of recipients whose attempt we ended ourselves before anything was handed on.
func abandoned(err error) chain.Fate {
	return chain.Fate{Kind: chain.Refused, Concern: chain.AboutRecipient, Reason: err.Error()}
}
