package egress

import (
	"context"
	"fmt"
	"slices"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtpclient"
)

// nearEnd is how many bytes before the end of a body leave for the final dot is asked for: the round trip is over by the
// time they are sent, and the leave is still young.
const nearEnd = 256 << 10

// target is one host to deliver to.
type target struct {
	name string // in fates and logs
	key  string // in the pool
	pool *pool
	dial func(context.Context) (*smtpclient.Client, error)
	// concern and about say whose fault it is if the host as a whole does not serve.
	concern chain.Concern
	about   string
}

// leftover is a recipient about whom the host has said nothing.
type leftover struct {
	to    mail.Recipient
	fault *fault
}

// outcome is what one transaction leaves to be done; who is settled is in none of the lists.
type outcome struct {
	again []mail.Recipient // in a following transaction
	alone []mail.Recipient // each in a transaction of its own
	left  []leftover
	// broken, if not nil, says that there is no use in going on with this host.
	broken *fault
}

// toHost delivers to one host, in as many transactions as it takes, and returns those who remain without an answer.
func (d *delivery) toHost(ctx context.Context, t *target, to []mail.Recipient) []leftover {
	var left []leftover
	queue := slices.Collect(slices.Chunk(to, d.limits.recipients))
	for len(queue) > 0 {
		out := d.transact(ctx, t, queue[0])
		queue = queue[1:]
		if len(out.again) > 0 {
			queue = slices.Insert(queue, 0, out.again)
		}
		for _, r := range out.alone {
			queue = append(queue, []mail.Recipient{r})
		}
		left = append(left, out.left...)
		if out.broken != nil {
			for _, rest := range queue {
				left = append(left, leave(rest, out.broken)...)
			}
			break
		}
	}
	return left
}

func leave(to []mail.Recipient, f *fault) []leftover {
	left := make([]leftover, len(to))
	for i, r := range to {
		left[i] = leftover{r, f}
	}
	return left
}

// transact makes one transaction.
func (d *delivery) transact(ctx context.Context, t *target, to []mail.Recipient) outcome {
	x := &transaction{delivery: d, target: t, to: to}
	if err := x.open(ctx); err != nil {
		f := faultOf(ctx, t.name, x.tls, err)
		return outcome{left: leave(x.to, f), broken: f}
	}
	if x.session == nil {
		return outcome{} // everybody was settled without a word to the host
	}
	x.answers(ctx)
	x.end(ctx)
	return x.out
}

type transaction struct {
	*delivery
	target  *target
	session *session
	tls     string
	to      []mail.Recipient
	opening smtpclient.Opening
	err     error // the session broke while opening
	taken   []mail.Recipient
	out     outcome
	state   sessionState
}

// sessionState is in what state a transaction leaves its session.
type sessionState int

const (
	inDoubt   sessionState = iota // closed
	needsRset                     // between transactions after RSET
	clean                         // between transactions
)

// open gets a session and says MAIL, RCPT and DATA. A reused session that dies before MAIL was answered was dead before: it
// counts for nothing, a fresh one is taken.
func (x *transaction) open(ctx context.Context) error {
	for fresh := false; ; fresh = true {
		s, err := x.target.pool.get(ctx, x.target.key, fresh, x.target.dial)
		if err != nil {
			return err
		}
		x.tls = s.TLS()
		x.to = x.fitting(s, x.to)
		if len(x.to) == 0 {
			s.put()
			return nil
		}
		x.opening, x.err = s.Open(ctx, x.envelope())
		stale := x.err != nil && x.opening.Mail == nil || x.opening.Mail != nil && x.opening.Mail.Code == 421
		if s.reused && stale && ctx.Err() == nil {
			s.drop()
			continue
		}
		x.session = s
		if s.reused {
			x.route.metrics.again()
		}
		return nil
	}
}

func (x *transaction) envelope() *smtpclient.Envelope {
	e := &x.parcel.Envelope
	return &smtpclient.Envelope{From: e.ReversePath, Size: x.parcel.Content.Size(), EightBit: x.traits.eightBit,
		UTF8: x.needsUTF8(x.to), Ret: e.Ret, EnvID: e.EnvID, To: x.to}
}

func (x *transaction) needsUTF8(to []mail.Recipient) bool {
	e := &x.parcel.Envelope
	return e.SMTPUTF8 || !e.ReversePath.IsASCII() ||
		slices.ContainsFunc(to, func(r mail.Recipient) bool { return !r.Address.IsASCII() })
}

// fitting settles those for whom the host's own announcement is the answer, and returns the rest. 8BITMIME is not looked at: where
// a host does not offer it, 8-bit bytes are sent nevertheless. To convert them would break signatures, to bounce them
// would lose mail that practically every host takes.
func (x *transaction) fitting(s *session, to []mail.Recipient) []mail.Recipient {
	if limit, size := s.SizeLimit(), x.parcel.Content.Size(); limit > 0 && size > limit {
		r := &mail.Reply{Code: 552, Enhanced: "5.3.4", Text: fmt.Sprintf("The message has %d bytes; %s takes no more than %d", size, x.target.name, limit)}
		x.settleAll(to, chain.Fate{Kind: chain.Rejected, Concern: chain.AboutRecipient, Reply: r})
		return nil
	}
	if s.Offers("SMTPUTF8") {
		return to
	}
	r := &mail.Reply{Code: 553, Enhanced: "5.6.7", Text: x.target.name + " does not take internationalized addresses (SMTPUTF8)"} // RFC 6531, section 3.5
	var fit []mail.Recipient
	for _, rcpt := range to {
		if x.needsUTF8([]mail.Recipient{rcpt}) {
			x.settleAll([]mail.Recipient{rcpt}, chain.Fate{Kind: chain.Rejected, Concern: chain.AboutRecipient, Reply: r})
		} else {
			fit = append(fit, rcpt)
		}
	}
	return fit
}

func (x *transaction) settleAll(to []mail.Recipient, f chain.Fate) {
	for _, r := range to {
		x.settle(r.ID, x.target.name, x.tls, f)
	}
}

// answers reads what MAIL, RCPT and DATA were answered, and goes on to the body if there is somebody to send it to.
func (x *transaction) answers(ctx context.Context) {
	if x.opening.Mail == nil {
		x.breakOff(x.to, faultOf(ctx, x.target.name, x.tls, x.err))
		return
	}
	if x.refused(smtpclient.StepMAIL, x.opening.Mail, x.to) {
		x.state = x.after(x.opening.Mail)
		return
	}
	for i, r := range x.to {
		x.recipient(ctx, r, x.opening.Rcpt[i])
	}
	switch {
	case x.err != nil:
		x.breakOff(x.taken, faultOf(ctx, x.target.name, x.tls, x.err))
	case x.out.broken != nil:
		x.breakOff(x.taken, x.out.broken)
	case x.opening.Open && len(x.taken) > 0:
		x.body(ctx)
	case x.opening.Open:
		// Nobody is left, and the host waits for a message: a lone dot would be a delivery without leave.
	case len(x.taken) == 0:
		x.state = needsRset
	default:
		x.refused(smtpclient.StepDATA, x.opening.Data, x.taken)
		x.state = x.after(x.opening.Data)
	}
}

func (x *transaction) after(r *mail.Reply) sessionState {
	if x.err != nil || r.Code == 421 || x.opening.Open {
		return inDoubt
	}
	return needsRset
}

func (x *transaction) breakOff(to []mail.Recipient, f *fault) {
	x.out.left = append(x.out.left, leave(to, f)...)
	x.out.broken = f
}

// refused settles everybody by an answer about the message as a whole, unless it is one of acceptance.
func (x *transaction) refused(step string, r *mail.Reply, to []mail.Recipient) bool {
	switch judge(step, r) {
	case accepted:
		return false
	case later:
		f := chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient, Reply: r}
		// Before it knows recipients or content, a host that is short of something is so for every message.
		if step == smtpclient.StepMAIL && (r.Code == 452 || len(r.Enhanced) > 3 && r.Enhanced[:4] == "4.3.") {
			f.Concern, f.About = x.target.concern, x.target.about
		}
		x.settleAll(to, f)
	case final:
		x.settleAll(to, chain.Fate{Kind: chain.Rejected, Concern: chain.AboutRecipient, Reply: r})
	case unserved, hangup:
		x.breakOff(to, &fault{host: x.target.name, tls: x.tls, reply: r, err: fmt.Errorf("refused at %s", step)})
	}
	return true
}

// recipient reads the answer to one RCPT.
func (x *transaction) recipient(ctx context.Context, to mail.Recipient, r *mail.Reply) {
	if r == nil {
		f := x.out.broken
		if f == nil {
			f = faultOf(ctx, x.target.name, x.tls, x.err)
		}
		x.breakOff([]mail.Recipient{to}, f)
		return
	}
	found := judge(smtpclient.StepRCPT, r)
	switch {
	case found == accepted:
		x.taken = append(x.taken, to)
	case len(x.taken) > 0 && tooMany(r):
		// For the first of a transaction it cannot mean "too many", so this comes to an end.
		x.out.again = append(x.out.again, to)
	case found == later:
		x.settleAll([]mail.Recipient{to}, chain.Fate{Kind: chain.Deferred, Concern: chain.AboutRecipient, Reply: r})
	case found == final:
		x.settleAll([]mail.Recipient{to}, chain.Fate{Kind: chain.Rejected, Concern: chain.AboutRecipient, Reply: r})
	default:
		f := &fault{host: x.target.name, tls: x.tls, reply: r, err: fmt.Errorf("refused at %s", smtpclient.StepRCPT)}
		x.out.left = append(x.out.left, leftover{to, f})
		if found == hangup {
			x.out.broken = f
		}
	}
}

// body sends the message, gets leave, and gives the final dot.
func (x *transaction) body(ctx context.Context) {
	ids := make([]mail.RecipientID, len(x.taken))
	for i, r := range x.taken {
		ids[i] = r.ID
	}
	var asked *petition
	size := x.parcel.Content.Size()
	err := x.session.Body(ctx, x.parcel.Content, func(sent int64) {
		if asked == nil && size-sent <= nearEnd {
			asked = x.ask(ctx, ids)
		}
	})
	if err != nil {
		asked.withdraw()
		if e, ok := smtpclient.AsError(err); ok && e.Reply != nil && ctx.Err() == nil {
			// The host did not want to hear the end: that is its answer to the message.
			x.verdict(e.Reply)
			return
		}
		x.breakOff(x.taken, faultOf(ctx, x.target.name, x.tls, err))
		return
	}
	hold, err := x.leaveFor(ctx, asked, ids)
	if err != nil {
		x.breakOff(x.taken, &fault{host: x.target.name, tls: x.tls, err: err, ours: true})
		return
	}
	reply, err := x.session.Dot(hold)
	if err != nil {
		x.settleAll(x.taken, chain.Fate{Kind: chain.Unknown, Concern: chain.AboutRecipient, Reason: err.Error()})
		x.out.broken = &fault{host: x.target.name, tls: x.tls, err: err}
		return
	}
	x.verdict(reply)
	if reply.Code != 421 {
		x.state = clean
	}
}

// verdict settles by the answer to the message.
func (x *transaction) verdict(r *mail.Reply) {
	if len(x.taken) > 1 && blames(r) {
		x.out.alone = x.taken
		return
	}
	if !x.refused(smtpclient.StepDot, r, x.taken) {
		x.settleAll(x.taken, chain.Fate{Kind: chain.Delivered, Concern: chain.AboutRecipient, Reply: r})
	}
}

func (x *transaction) end(ctx context.Context) {
	switch {
	case x.state == clean, x.state == needsRset && x.session.Idle() && x.session.Reset(ctx) == nil:
		x.session.put()
	default:
		x.session.drop()
	}
}
