package smtpd

import (
	"errors"
	"io"
	"maps"
	"sync"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/guard"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
)

const (
	// sizeTolerance is what a message may be larger than its SIZE, besides an eighth: clients count line ends differently.
	sizeTolerance = 64 << 10
	// receivedRoom is more than a Received field of ours takes.
	receivedRoom = 4 << 10
	// copyBuffer is the unit in which messages are handed on.
	copyBuffer = 32 << 10
	// maxCuts is how many clients that hold room and do not use it are cut for one message.
	maxCuts = 8
)

var buffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

var errTooLarge = reply(552, "5.3.4", "message too large")

// beforeData reserves room before the 354. A refusal ends the transaction, for us and for go-smtp alike.
func (s *session) beforeData(arg string) guard.Action {
	switch {
	case arg != "":
		return s.answer("data", reply(501, "5.5.4", "DATA takes no argument"))
	case s.tx == nil:
		return s.answer("data", reply(503, "5.5.1", "MAIL first"))
	case len(s.tx.env.Recipients) == 0:
		return s.answer("data", reply(554, "5.5.1", "no valid recipients"))
	}
	if r := s.begin(s.tx); r != nil {
		_ = s.reject("data", s.tx.env.ReversePath, mail.Address{}, r)
		return guard.PassAs("RSET", r)
	}
	return guard.Pass("DATA")
}

// begin asks the intake for room.
func (s *session) begin(tx *transaction) *mail.Reply {
	tx.env.Origin.Direction = tx.direction()
	env := tx.env.Clone()
	starts := maps.Clone(tx.starts)
	rc, err := s.server.opts.Intake.Begin(s.lasting(), &env, starts, tx.limit+receivedRoom)
	for range maxCuts {
		if err == nil || asReply(err).Code != 452 || !s.server.freeBytes() {
			break
		}
		rc, err = s.server.opts.Intake.Begin(s.lasting(), &env, starts, tx.limit+receivedRoom)
	}
	if err != nil {
		return asReply(err)
	}
	if rc == nil {
		return reply(451, "4.3.0", "try again later")
	}
	tx.reception = rc
	return nil
}

// direction is the envelope's: inbound for a stranger, else outbound as soon as one recipient is elsewhere.
func (tx *transaction) direction() mail.Direction {
	d := mail.Internal
	for _, r := range tx.env.Recipients {
		switch one := tx.view.Direction(tx.env.Origin, r.Address); one {
		case mail.Inbound, mail.Outbound:
			d = one
		}
	}
	return d
}

// Data implements smtp.Session. What go-smtp reads is empty: the message comes from the guard.
func (s *session) Data(io.Reader) error {
	tx := s.tx
	if tx == nil || tx.reception == nil {
		return smtpError(reply(451, "4.3.0", "try again later"))
	}
	head := newHeaderScan(s.server.opts.Policy)
	size, err := s.receive(tx, head)
	if err != nil {
		s.endTransaction()
		return s.reject("data", tx.env.ReversePath, mail.Address{}, s.bodyReply(err))
	}
	rc := tx.reception
	tx.reception = nil // Commit ends it, whatever comes of it
	id, err := rc.Commit(s.lasting(), Head{Received: tx.received, MessageID: head.first["message-id"], Subject: head.first["subject"]})
	if err != nil {
		return s.reject("commit", tx.env.ReversePath, mail.Address{}, asReply(err))
	}
	s.guard.Accepted()
	s.count.Accepted(size)
	s.logger.Info("accepted", "id", id, "from", tx.env.ReversePath.String(), "to", len(tx.env.Recipients),
		"relay", tx.env.Origin.Relay, "direction", string(tx.env.Origin.Direction), "user", s.user,
		"helo", s.helo, "tls", tx.env.Origin.TLS, "size", size)
	return smtpError(reply(250, "2.0.0", id+" accepted"))
}

// bodyReply turns a failure to receive into a reply.
func (s *session) bodyReply(err error) *mail.Reply {
	switch {
	case errors.Is(err, guard.ErrTimeout):
		return reply(421, "4.4.2", "timeout")
	case errors.Is(err, errClient):
		return &mail.Reply{Code: 421, Enhanced: "4.4.2", Text: "connection lost", Private: err.Error()}
	}
	return asReply(err)
}

// errClient marks what went wrong between the client and us.
var errClient = errors.New("client")

// receive carries the message from the guard to the intake, and looks at its header on the way.
func (s *session) receive(tx *transaction, head *headerScan) (size int64, err error) {
	pending := len(tx.grant.Pending) > 0
	var held []byte // the header of a message whose sender is still to be decided by it
	if !pending {
		if err := s.writeReceived(tx); err != nil {
			return 0, err
		}
	}
	body := s.guard.Body()
	pb, _ := buffers.Get().(*[]byte)
	defer buffers.Put(pb)
	for done := false; !done; {
		n, err := body.Read(*pb)
		switch {
		case err == io.EOF:
			done = true
		case err != nil:
			if _, ok := mail.AsReply(err); ok {
				return size, err
			}
			return size, errors.Join(errClient, err)
		}
		chunk := (*pb)[:n]
		if size += int64(n); size > tx.limit {
			return size, errTooLarge
		}
		head.write(chunk)
		if done {
			head.end()
		}
		if err := s.checkHeader(tx, head); err != nil {
			return size, err
		}
		if pending {
			held = append(held, chunk...)
			if !head.done {
				continue
			}
			if err := s.decideSender(tx, head); err != nil {
				return size, err
			}
			pending = false
			if err := s.writeReceived(tx); err != nil {
				return size, err
			}
			chunk, held = held, nil
		}
		if len(chunk) > 0 {
			if _, err := tx.reception.Write(chunk); err != nil {
				return size, err
			}
		}
	}
	return size, nil
}

func (s *session) writeReceived(tx *transaction) error {
	tx.received = s.received(tx, tx.reception.ID())
	_, err := io.WriteString(tx.reception, tx.received)
	return err
}

// checkHeader refuses headers without end, and messages that go in a circle (RFC 5321, section 6.3).
func (s *session) checkHeader(tx *transaction, head *headerScan) error {
	bad := head.refused()
	if bad == nil {
		return nil
	}
	if bad == errLoop && s.server.opts.OnLoop != nil {
		loop := Loop{
			From: tx.env.ReversePath, Client: s.client.String(), Listener: s.listener.Name,
			Received: head.received, Passes: len(head.passes),
		}
		for _, r := range tx.env.Recipients {
			loop.To = append(loop.To, r.Address)
		}
		s.server.opts.OnLoop(loop)
	}
	return bad
}

// decideSender lets the header From decide where the reverse-path was null and the rules narrow the sender. Where no
// rule takes it, the client is a stranger like any other.
func (s *session) decideSender(tx *transaction, head *headerScan) error {
	changed, bad := tx.decideSender(head)
	if bad != nil {
		return bad
	}
	if !changed {
		return nil
	}
	// Nothing has been written yet: the room is given back, and taken again for what the message has turned out to be.
	tx.reception.Abort()
	tx.reception = nil
	if bad := s.begin(tx); bad != nil {
		return bad
	}
	return nil
}

// decideSender puts the rule that the header From decides on into the envelope, and finds the chains again if it is
// another one.
func (tx *transaction) decideSender(head *headerScan) (changed bool, bad *mail.Reply) {
	relay, ok := tx.view.CheckFrom(tx.grant, head.authors())
	if !ok {
		for _, t := range tx.targets {
			if _, bad := tx.view.Recipient(policy.Grant{}, t); bad != nil {
				return false, reply(550, "5.7.1", "relaying denied: the header From is not among the senders allowed")
			}
		}
	}
	if relay == tx.env.Origin.Relay {
		return false, nil
	}
	tx.env.Origin.Relay = relay
	starts := map[string][]mail.RecipientID{}
	prefixes := map[string]bool{}
	for _, r := range tx.env.Recipients {
		chain, bad := tx.chain(r)
		if bad != nil {
			return false, bad
		}
		starts[chain.Name] = append(starts[chain.Name], r.ID)
		prefixes[policy.InlinePrefix(chain)] = true
	}
	if len(prefixes) > 1 {
		return false, reply(550, "5.7.1", "these recipients cannot share a transaction")
	}
	tx.starts = starts
	return true, nil
}

// single gives the one recipient that a Received field may name; with more, it would disclose them to each other.
func (tx *transaction) single() (mail.Address, bool) {
	if len(tx.env.Recipients) != 1 || !tx.env.Recipients[0].Address.IsASCII() {
		return mail.Address{}, false
	}
	return tx.env.Recipients[0].Address, true
}
