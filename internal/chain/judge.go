package chain

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// errStage is the class of failures that are the stage's own.
var errStage = errors.New("stage broke its contract")

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
	copied.Envelope = m.Envelope.Clone()
	content := m.Content.Retain()
	go func() {
		defer content.Release()
		var a answer
		defer func() {
			if v := recover(); v != nil {
				a = answer{err: fmt.Errorf("%w: panic: %v\n%s", errStage, v, debug.Stack())}
			}
			ch <- a
		}()
		a.res, a.err = st.Process(ctx, &copied)
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
			return fmt.Errorf("%w: a fork for nobody", errStage)
		}
		for _, id := range f.To {
			if _, ok := m.Envelope.Recipient(id); !ok || seen[id] {
				return fmt.Errorf("%w: recipient %q stands in no envelope or in two forks", errStage, id)
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
			return fmt.Errorf("%w: reject without a 5xx reply", errStage)
		}
	case stage.KindDefer:
		if v.Reply == nil || !v.Reply.Temporary() || v.After < 0 {
			return fmt.Errorf("%w: defer without a 4xx reply", errStage)
		}
	case stage.KindQuarantine, stage.KindDiscard:
		if v.Reason == "" {
			return fmt.Errorf("%w: %s without a reason", errStage, v.Kind)
		}
	default:
		return fmt.Errorf("%w: unknown verdict %d", errStage, v.Kind)
	}
	e := b.Edits
	if e.Empty() {
		return nil
	}
	if v.Kind != stage.KindContinue && v.Kind != stage.KindQuarantine {
		return fmt.Errorf("%w: %s with edits", errStage, v.Kind)
	}
	if err := e.Validate(m.Content.Size()); err != nil {
		return fmt.Errorf("%w: %w", errStage, err)
	}
	if (e.ReversePath != nil || len(e.Rewrites) > 0) && !traits.EditsEnvelope {
		return fmt.Errorf("%w: edits the envelope, which is not among its traits", errStage)
	}
	if len(e.Splices) == 0 || traits.EditsBody && traits.EditsHeader {
		return nil
	}
	body := m.Content.Header().Size
	for _, s := range e.Splices {
		switch {
		case s.Offset == 0 && s.Length == 0:
			// Prepending needs no trait.
		case s.Offset+s.Length > body || s.Offset == body && s.Length == 0:
			if !traits.EditsBody {
				return fmt.Errorf("%w: edits the body, which is not among its traits", errStage)
			}
			if s.Offset < body && !traits.EditsHeader {
				return fmt.Errorf("%w: edits the header, which is not among its traits", errStage)
			}
		case !traits.EditsHeader:
			return fmt.Errorf("%w: edits the header, which is not among its traits", errStage)
		}
	}
	return nil
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
			return fmt.Errorf("%w: %w", errStage, err)
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
			return nil, fmt.Errorf("stage %s is not run here with this configuration", h.Instance)
		}
		defer local.release()
		st, traits = local.stage, local.traits
	} else {
		if r.Network == nil {
			return nil, fmt.Errorf("no network to reach %s", h.Address)
		}
		st = stage.Func(func(ctx context.Context, m *mail.Message) (stage.Result, error) { return r.Network.Process(ctx, h, m) })
		traits = r.Stages.foreign(h.Type)
	}
	start := r.Now()
	res, err := Judge(ctx, st, traits, h, m)
	if err != nil {
		return nil, err
	}
	branches, err := split(res, m, h)
	if err != nil {
		return nil, err
	}
	var out []Judged
	for _, b := range branches {
		out = append(out, Judged{Branch: b.Branch, Report: b.report(h, res, r.Now().Sub(start)), Message: b.message})
	}
	return out, nil
}

// report is the hop report of one branch.
func (b *branch) report(h Hop, res stage.Result, took time.Duration) Report {
	rep := Report{Instance: h.Instance, Hash: h.Hash, Recipients: b.to, Outcome: ByVerdict, Verdict: b.Verdict.Kind,
		Took: took, Notes: res.Notes, Reason: b.Verdict.Reason, Edits: b.Edits}
	if b.Edits.EncodedSize() > MaxReportedEdits {
		rep.Edits, rep.EditsOmitted = mail.Edits{}, true
	}
	return rep
}
