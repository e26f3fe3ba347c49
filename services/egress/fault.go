package egress

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/egress/internal/smtpclient"
)

// fault is why a session with a host came to nothing for some recipients: no answer about them, but about the way there.
type fault struct {
	host  string
	tls   string
	reply *mail.Reply
	err   error
	// ours: we ended it ourselves; the host is not to blame.
	ours bool
	// login: it is the login that was refused, or could not be tried. A person has to look.
	login bool
}

func (f *fault) reason() string {
	if f.err == nil {
		return ""
	}
	return f.err.Error()
}

// faultOf reads the error of a session.
func faultOf(ctx context.Context, host, tls string, err error) *fault {
	f := &fault{host: host, tls: tls, err: err}
	if ctx.Err() != nil {
		// Who cancels has a reason of his own. A deadline that runs out while a host keeps us waiting is the host's
		// doing: to try that again at once would go round in circles.
		f.err = context.Cause(ctx)
		if f.ours = !errors.Is(f.err, context.DeadlineExceeded); !f.ours {
			f.err = fmt.Errorf("out of time: %w", err)
		}
		return f
	}
	if e, ok := smtpclient.AsError(err); ok {
		f.reply = e.Reply
		f.login = e.Step == smtpclient.StepAUTH && (e.Reply == nil && !timedOut(e.Err) || e.Reply != nil && !e.Reply.Temporary())
		if e.Reply != nil {
			f.err = fmt.Errorf("refused at %s", e.Step)
		}
	}
	return f
}

// fate of a recipient that was left over, where concern and about name the way: a route, or a destination.
func (f *fault) fate(concern chain.Concern, about string) chain.Fate {
	if f.ours {
		return abandoned(f.err)
	}
	return chain.Fate{Kind: chain.Deferred, Concern: concern, About: about, Reply: f.reply, Reason: f.reason()}
}

// finding is what a reply to MAIL, RCPT, DATA or the final dot means.
type finding int

const (
	accepted finding = iota
	later            // 4xx: for this message or recipient, for now
	final            // 5xx: for this message or recipient, for good
	unserved         // the host does not serve us: a fault of the way, whatever the code says
	hangup           // the host ends the session
)

// judge reads a reply. What the peer says of itself or of us is no answer about the message: 421, 530 and the other answers that
// demand a login (RFC 4954), complaints about the order of commands, a refusal to relay, or to talk to our address.
func judge(step string, r *mail.Reply) finding {
	switch {
	case r.Code/100 == 2:
		return accepted
	case r.Code == 421, r.Code < 400: // 3xx has no place here
		return hangup
	case r.Code/100 == 4:
		return later
	}
	switch r.Code {
	case 530, 534, 535, 538, 500, 502, 503:
		return unserved
	}
	if (step == smtpclient.StepMAIL || step == smtpclient.StepRCPT) && deniesService(r) {
		return unserved
	}
	return final
}

// deniesService recognises "we do not relay for you" and "your address is not welcome" by the words that servers use: the
// codes alone (550, 551, 553, 554 with 5.7.x or nothing) also stand for refusals of one sender or recipient. To err
// towards waiting costs time, and the postmaster is told; to err towards a bounce costs mail.
func deniesService(r *mail.Reply) bool {
	switch r.Code {
	case 550, 551, 553, 554:
	default:
		return false
	}
	if r.Enhanced != "" && !strings.HasPrefix(r.Enhanced, "5.7.") {
		return false
	}
	text := strings.ToLower(r.Text)
	for _, words := range []string{
		"relay access denied", "relaying denied", "unable to relay", "relay not permitted", "relaying not allowed",
		"relaying is not allowed", "not allowed to relay", "relay denied", "relaying prohibited", "relay prohibited", "do not relay",
		"cannot relay", "invalid credentials for relay", "list of allowed rcpthosts", "authentication required", "authentication is required",
		"must authenticate", "not authenticated", "authenticate first", "client host rejected", "client host [",
	} {
		if strings.Contains(text, words) {
			return true
		}
	}
	return false
}

// tooMany says that a reply to RCPT may mean "no more in this transaction" (RFC 5321, section 4.5.3.1.10): 452, and 552 unless it
// speaks of this one mailbox.
func tooMany(r *mail.Reply) bool {
	return r.Code == 452 || r.Code == 552 && !strings.HasPrefix(r.Enhanced, "5.2.")
}

// blames says that a refusal of the whole message speaks of one address (5.1.x): it may be that of another recipient.
func blames(r *mail.Reply) bool {
	return r.Code/100 == 5 && strings.HasPrefix(r.Enhanced, "5.1.")
}

func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}
