package ingress

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/telemetry"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/dispatch"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/smtpd"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// intake takes messages from SMTP sessions into the log.
type intake struct {
	in *Ingress
}

var _ smtpd.Intake = (*intake)(nil)

// Admit implements smtpd.Intake.
func (k *intake) Admit(context.Context, mail.Origin) error {
	sh := k.in.shard()
	if sh == nil {
		return downReply(spool.ErrDown)
	}
	if err := sh.log.Ready(); err != nil {
		return downReply(err)
	}
	return nil
}

// downReply is what the client hears of trouble with the log.
func downReply(err error) *mail.Reply {
	if errors.Is(err, spool.ErrFull) {
		return &mail.Reply{Code: 452, Enhanced: "4.3.1", Text: "insufficient system storage", Private: err.Error()}
	}
	return &mail.Reply{Code: 451, Enhanced: "4.3.0", Text: "mail cannot be accepted now, try again later", Private: err.Error()}
}

// Begin implements smtpd.Intake.
func (k *intake) Begin(ctx context.Context, env *mail.Envelope, starts map[string][]mail.RecipientID, size int64) (smtpd.Reception, error) {
	sh := k.in.shard()
	if sh == nil {
		return nil, downReply(spool.ErrDown)
	}
	cfg := k.in.policy.View().Config()
	need := size
	if size > cfg.Ingress.Limits.MessageSize { // the limit, because the client gave none
		need = min(size, undeclared)
	}
	g := k.in.admission.reserve(need, !env.Origin.Trusted())
	if g == nil {
		return nil, errNoRoom
	}
	now := k.in.now()
	id := mail.NewID(now)
	return &reception{shard: sh, cfg: cfg, grant: g, need: need, size: size, id: id, received: now, env: env, starts: starts,
		content: mail.NewBuilder(cfg.TempDir), body: sh.log.NewBody(ctx, id), tracer: k.in.o.Telemetry.Tracer()}, nil
}

// reception is one message on its way in: its bytes go to the log and to a Content for its first run.
type reception struct {
	shard    *shard
	cfg      *config.Config
	grant    *grant
	need     int64 // bytes that are reserved
	size     int64 // the most that will be written
	id       string
	received time.Time
	env      *mail.Envelope
	starts   map[string][]mail.RecipientID
	content  *mail.Builder
	body     *spool.BodyWriter
	tracer   *telemetry.Tracer
}

func (r *reception) ID() string { return r.id }

func (r *reception) Write(p []byte) (int, error) {
	if written := r.content.Size() + int64(len(p)); written > r.need {
		if r.need = min(max(written, 2*r.need), r.size); !r.grant.grow(max(r.need, written)) {
			return 0, errNoRoom
		}
	}
	if _, err := r.content.Write(p); err != nil {
		return 0, &mail.Reply{Code: 452, Enhanced: "4.3.1", Text: "insufficient system storage", Private: err.Error()}
	}
	n, err := r.body.Write(p)
	if err != nil {
		return n, downReply(err)
	}
	return n, nil
}

func (r *reception) Abort() {
	r.body.Abort()
	r.content.Discard()
	r.grant.release()
}

// Commit judges by the inline stages, makes the message durable, and lets it run.
func (r *reception) Commit(ctx context.Context, head smtpd.Head) (string, error) {
	content, err := r.content.Content()
	if err != nil {
		r.Abort()
		return "", &mail.Reply{Code: 452, Enhanced: "4.3.1", Text: "insufficient system storage", Private: err.Error()}
	}
	defer content.Release()
	r.grant.shrink(content.Size())
	ctx, span := r.trace(ctx, content)
	defer span.End()
	a := &spool.Accepted{ID: r.id, Received: r.received, Envelope: *r.env, About: spool.About{MessageID: mail.DecodeWords(head.MessageID),
		Subject: mail.DecodeWords(head.Subject), Prepended: []byte(head.Received)}}
	judged, reply := r.judge(ctx, content)
	if reply != nil {
		span.Set(attribute.Int("stagecoach.reply", reply.Code))
		r.Abort()
		return "", reply
	}
	if judged != nil {
		a.Starts = judged.Starts(r.starts)
	} else {
		for name, ids := range r.starts {
			a.Starts = append(a.Starts, spool.Start{Chain: name, Recipients: ids})
		}
	}
	if a.Body, err = r.body.Finish(); err != nil {
		r.grant.release()
		return "", downReply(err)
	}
	if err := r.shard.dispatcher.Accept(ctx, a, content, judged, func() { r.grant.release() }); err != nil {
		r.grant.release() // of what may be stored the shard takes care
		return "", downReply(err)
	}
	return r.id, nil
}

// judge runs the inline stages, which are the same for every chain of the transaction; nil if there are none.
func (r *reception) judge(ctx context.Context, content mail.Content) (*dispatch.Inline, *mail.Reply) {
	for name := range r.starts {
		c := r.cfg.ChainNamed(name)
		if c == nil || c.InlinePrefix() == 0 {
			return nil, nil
		}
		m := &mail.Message{ID: r.id, Attempt: 1, Received: r.received, Envelope: *r.env, Content: content}
		for _, to := range r.env.Recipients {
			m.Pending = append(m.Pending, to.ID)
		}
		return r.shard.dispatcher.Judge(ctx, r.cfg, c, m)
	}
	return nil, nil
}

// trace begins the message's trace with the span of its receipt.
func (r *reception) trace(ctx context.Context, content mail.Content) (context.Context, *telemetry.Span) {
	if !r.tracer.On() {
		return ctx, nil
	}
	link := telemetry.SenderTrace(&mail.Message{Envelope: *r.env, Content: content})
	return r.tracer.Begin(ctx, r.id, "receive", r.received, link, attribute.String("stagecoach.id", r.id), attribute.String("stagecoach.listener", r.env.Origin.Listener),
		attribute.Int64("stagecoach.bytes", content.Size()), attribute.Int("stagecoach.recipients", len(r.env.Recipients)))
}
