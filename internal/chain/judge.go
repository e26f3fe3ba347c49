package chain

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// ErrContract is the class of failures that are the stage's own: a panic, or a Result that it may not give.
var ErrContract = errors.New("stage broke its contract")

// Judge runs st on m within h's timeout and checks the result against the traits. A panic, a result outside the
// traits and a passed deadline are failures. A stage that does not honour its deadline is left behind: its goroutine
// ends when it ends, and holds the content until then.
func Judge(ctx context.Context, st stage.Stage, traits stage.Traits, h Hop, m *mail.Message) (stage.Result, error) {
	if h.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, h.Timeout, fmt.Errorf("no verdict within %v", h.Timeout))
		defer cancel()
	}
	type answer struct {
		res stage.Result
		err error
	}
	ch := make(chan answer, 1)
	copied := *m
	copied.Envelope, copied.Pending = m.Envelope.Clone(), slices.Clone(m.Pending)
	content := m.Content.Retain()
	release := func() {}
	if e, ok := st.(*entry); ok {
		e.hold() // a stage that was left behind is not closed
		release = e.release
	}
	go func() {
		defer release()
		defer content.Release()
		// This stands if Process neither returns nor panics: its goroutine was ended from within.
		a := answer{err: fmt.Errorf("%w: it ended without an answer", ErrContract)}
		defer func() {
			if v := recover(); v != nil {
				a = answer{err: fmt.Errorf("%w: panic: %v\n%s", ErrContract, v, debug.Stack())}
			}
			ch <- a
		}()
		res, err := st.Process(ctx, &copied)
		a = answer{res: res, err: err}
	}()
	var a answer
	select {
	case a = <-ch:
	case <-ctx.Done():
		select {
		case a = <-ch: // it did answer
		default:
			return stage.Result{}, context.Cause(ctx)
		}
	}
	if a.err != nil {
		return stage.Result{}, a.err
	}
	if err := check(a.res, traits, m); err != nil {
		return stage.Result{}, err
	}
	return a.res, nil
}

// check enforces the contract of a Result.
func check(res stage.Result, traits stage.Traits, m *mail.Message) error {
	if err := checkBranch(res.Branch, traits, m); err != nil {
		return err
	}
	seen := map[mail.RecipientID]bool{}
	for _, f := range res.Forks {
		if err := checkBranch(f.Branch, traits, m); err != nil {
			return err
		}
		if len(f.To) == 0 {
			return fmt.Errorf("%w: a fork for nobody", ErrContract)
		}
		for _, id := range f.To {
			if _, ok := m.Envelope.Recipient(id); !ok || seen[id] {
				return fmt.Errorf("%w: recipient %q stands in no envelope or in two forks", ErrContract, id)
			}
			seen[id] = true
		}
	}
	return nil
}

func checkBranch(b stage.Branch, traits stage.Traits, m *mail.Message) error {
	v := b.Verdict
	switch v.Kind {
	case stage.KindContinue:
	case stage.KindReject:
		if v.Reply == nil || v.Reply.Code < 500 || v.Reply.Code > 599 {
			return fmt.Errorf("%w: reject without a 5xx reply", ErrContract)
		}
	case stage.KindDefer:
		if v.Reply == nil || !v.Reply.Temporary() || v.After < 0 {
			return fmt.Errorf("%w: defer without a 4xx reply", ErrContract)
		}
	case stage.KindQuarantine, stage.KindDiscard:
		if v.Reason == "" {
			return fmt.Errorf("%w: %s without a reason", ErrContract, v.Kind)
		}
	default:
		return fmt.Errorf("%w: unknown verdict %d", ErrContract, v.Kind)
	}
	e := b.Edits
	if e.Empty() {
		return nil
	}
	if v.Kind != stage.KindContinue && v.Kind != stage.KindQuarantine {
		return fmt.Errorf("%w: %s with edits", ErrContract, v.Kind)
	}
	if err := e.Validate(m.Content.Size()); err != nil {
		return fmt.Errorf("%w: %w", ErrContract, err)
	}
	if (e.ReversePath != nil || len(e.Rewrites) > 0) && !traits.EditsEnvelope {
		return fmt.Errorf("%w: edits the envelope, which is not among its traits", ErrContract)
	}
	if len(e.Splices) == 0 || traits.EditsBody && traits.EditsHeader {
		return nil
	}
	if !traits.EditsBody {
		if err := keepsBody(e.Splices, m.Content); err != nil {
			return err
		}
	}
	body := m.Content.Header().Size
	for _, s := range e.Splices {
		switch {
		case s.Offset == 0 && s.Length == 0:
			// Prepending needs no trait, but it has to be prepending: a half line would change the field after it.
			if !traits.EditsHeader && !isFields(s.Insert) {
				return fmt.Errorf("%w: puts something before the header that is no header field", ErrContract)
			}
		case s.Offset+s.Length > body || s.Offset == body && s.Length == 0:
			if !traits.EditsBody {
				return fmt.Errorf("%w: edits the body, which is not among its traits", ErrContract)
			}
			if s.Offset < body && !traits.EditsHeader {
				return fmt.Errorf("%w: edits the header, which is not among its traits", ErrContract)
			}
		case !traits.EditsHeader:
			return fmt.Errorf("%w: edits the header, which is not among its traits", ErrContract)
		}
	}
	return nil
}

// keepsBody says that the body begins where it did: what edits of the header put there does not end the header early,
// or late.
func keepsBody(splices []mail.Splice, c mail.Content) error {
	old := c.Header()
	if old.End == mail.EndLimit || old.End == mail.EndUnreadable {
		return nil // where the body begins is not known
	}
	section := make([]byte, old.Size)
	if n, err := c.ReadAt(section, 0); int64(n) < old.Size {
		return fmt.Errorf("reading the header: %w", err)
	}
	within := splices
	for i, s := range splices {
		if s.Offset+s.Length > old.Size || s.Offset == old.Size && s.Length > 0 {
			within = splices[:i] // the rest is the body's
			break
		}
	}
	edited, err := mail.Apply(mail.FromBytes(section), within)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrContract, err)
	}
	defer edited.Release()
	h := edited.Header()
	if h.End != mail.EndLimit && (h.Size != edited.Size() || (h.End == mail.EndEmptyLine) != (old.End == mail.EndEmptyLine)) {
		return fmt.Errorf("%w: moves the border between header and body, and to edit the body is not among its traits", ErrContract)
	}
	return nil
}

// isFields says that b is header fields, whole ones.
func isFields(b []byte) bool {
	h := mail.FromBytes(b).Header()
	return len(b) == 0 || h.End == mail.EndOfMessage && h.Size == int64(len(b)) && b[len(b)-1] == '\n'
}

// branch is what one verdict means for some pending recipients: the message as it goes on for them.
type branch struct {
	stage.Branch
	to      []mail.RecipientID
	message mail.Message
}

// split turns a Result into branches over the pending recipients, each with its edits applied. Each branch's
// content is retained; the caller releases it.
func split(res stage.Result, m *mail.Message, h Hop) (out []branch, err error) {
	defer func() {
		if err != nil {
			for _, b := range out {
				b.message.Content.Release()
			}
			out = nil
		}
	}()
	add := func(b stage.Branch, to []mail.RecipientID) error {
		if len(to) == 0 {
			return nil
		}
		if b.Verdict.Kind == stage.KindQuarantine && h.Released {
			b.Verdict = stage.Continue()
		}
		next, err := ApplyTo(m, b.Edits)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrContract, err)
		}
		next.Pending = to
		out = append(out, branch{Branch: b, to: to, message: next})
		return nil
	}
	pending := map[mail.RecipientID]bool{}
	for _, id := range m.Pending {
		pending[id] = true
	}
	for _, f := range res.Forks {
		var to []mail.RecipientID
		for _, id := range f.To {
			if pending[id] {
				to = append(to, id)
				delete(pending, id)
			}
		}
		if err := add(f.Branch, to); err != nil {
			return out, err
		}
	}
	var rest []mail.RecipientID
	for _, id := range m.Pending {
		if pending[id] {
			rest = append(rest, id)
		}
	}
	return out, add(res.Branch, rest)
}

// ApplyTo makes the message that m is after the edits. Its content is retained; the caller releases it.
func ApplyTo(m *mail.Message, e mail.Edits) (mail.Message, error) {
	next := *m
	env, err := m.Envelope.Apply(e)
	if err != nil {
		return mail.Message{}, err
	}
	next.Envelope = env
	if len(e.Splices) == 0 {
		next.Content = m.Content.Retain()
		return next, nil
	}
	next.Content, err = mail.Apply(m.Content, e.Splices)
	return next, err
}

// Judged is what one hop said of some of the pending recipients. Message is as it goes on for them; its content is
// retained, and the caller releases it.
type Judged struct {
	stage.Branch
	Report  Report
	Message mail.Message
}

// Inline lets h judge m and no more: a check before the 250, or a preview. An error means that the stage failed or
// could not be reached.
func (r *Runner) Inline(ctx context.Context, h Hop, m *mail.Message) ([]Judged, error) {
	var (
		st     stage.Stage
		traits stage.Traits
	)
	if h.Address == "" {
		local, ok := r.Stages.acquire(h.Instance, h.Hash)
		if !ok {
			return nil, &NotHandedOver{Unknown: true, Cause: fmt.Errorf("stage %s is not run here with this configuration", h.Instance)}
		}
		defer local.release()
		st, traits = local, local.traits
	} else {
		if r.Network == nil {
			return nil, fmt.Errorf("no network to reach %s", h.Address)
		}
		st = stage.Func(func(ctx context.Context, m *mail.Message) (stage.Result, error) { return r.Network.Process(ctx, h, m) })
		traits = r.Stages.foreign(h.Type)
	}
	start := r.Now()
	res, err := r.observed(ctx, st, traits, h, m)
	if err != nil {
		return nil, err
	}
	branches, err := split(res, m, h)
	if err != nil {
		return nil, err
	}
	var out []Judged
	for _, b := range branches {
		out = append(out, Judged{Branch: b.Branch, Report: b.report(h, res, m.Content, r.Now().Sub(start)), Message: b.message})
	}
	return out, nil
}

// report is the hop report of one branch; c is the message as the stage received it.
func (b *branch) report(h Hop, res stage.Result, c mail.Content, took time.Duration) Report {
	rep := Report{Instance: h.Instance, Hash: h.Hash, Recipients: b.to, Outcome: ByVerdict, Verdict: b.Verdict.Kind,
		Took: took, Notes: res.Notes, Reason: b.Verdict.Reason, Edits: b.Edits, Diff: diffOf(c, b.Edits), Shadow: h.Shadow}
	if b.Edits.EncodedSize() > MaxReportedEdits {
		rep.Edits, rep.EditsOmitted = mail.Edits{}, true
	}
	return rep
}
