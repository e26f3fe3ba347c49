package signer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/signer/internal/multisigned"
	"github.com/stagecoachmail/stagecoach/services/signer/internal/sevenbit"
	"github.com/stagecoachmail/stagecoach/stage"
)

// form is how a message goes on for some of its recipients, before DKIM.
type form struct {
	group
	verdict stage.Verdict
	splices []mail.Splice
	notes   []slog.Attr
}

// forms gives the forms of m, at least one, in an order that depends on the message alone. The recipients for whom it
// goes on as it is are together in one of them.
func (s *Signer) forms(ctx context.Context, m *mail.Message) ([]form, error) {
	if len(s.rules) == 0 {
		return []form{{}}, nil
	}
	s.credentials.refresh()
	author, sole := soleAuthor(m.Content.Header())
	var out []form
	plain := -1
	todo := signing{signer: s, ctx: ctx, m: m, author: author}
	for _, g := range groups(s.rules, m, author, sole) {
		f := form{group: g}
		if g.rule >= 0 {
			var err error
			if f, err = todo.form(g); err != nil {
				return nil, err
			}
		} else {
			f.notes = todo.unsigned(g, "no rule for this author and recipient").notes
		}
		if f.splices == nil && f.verdict.Kind == stage.KindContinue {
			if plain >= 0 {
				out[plain].to = append(out[plain].to, f.to...)
				out[plain].notes = append(out[plain].notes, f.notes...)
				continue
			}
			plain = len(out)
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		out = append(out, form{})
	}
	return out, nil
}

// signing is one message under way. What every signature needs of it is made once.
type signing struct {
	signer *Signer
	ctx    context.Context
	m      *mail.Message
	author mail.Address

	looked   bool
	prepared *multisigned.Prepared
	done     string // why it needs no signature: it has one
	unfit    string // why it can have none
}

// form makes the form of the message for the recipients that one rule takes. An error is for what mends itself, or is
// mended by new keys; what waiting does not mend is held for a person where it must be signed.
func (t *signing) form(g group) (form, error) {
	s, rule := t.signer, &t.signer.rules[g.rule]
	if t.m.Envelope.ReversePath.IsNull() {
		return t.unsigned(g, "reports are not signed"), nil
	}
	if reason := rule.refuses(&t.m.Envelope, t.author); reason != "" {
		return t.held(g, reason), nil
	}
	if err := t.look(); err != nil {
		return form{}, err
	}
	switch {
	case t.done != "":
		return t.unsigned(g, t.done), nil
	case t.unfit != "":
		return t.held(g, t.unfit), nil
	}
	c := s.credentials.of(g.rule)
	if reason := c.Unusable(s.now()); reason != "" {
		if s.mustSign(rule, t.author) {
			return form{}, fmt.Errorf("%s must be signed: %s: %s", t.author, c.Name(), reason)
		}
		return t.unsigned(g, reason), nil
	}
	session, err := c.begin(s.time(t.m), s.now())
	if err != nil {
		return form{}, err
	}
	splices, err := t.prepared.Sign(t.ctx, session)
	if err != nil {
		return form{}, err
	}
	s.signed(c.kind())
	return form{group: g, splices: splices, notes: []slog.Attr{slog.String("signed", fmt.Sprintf("%s, %s, for %s", c.kind(), c.Name(), count(g.to)))}}, nil
}

// look finds out whether the message can be signed, once.
func (t *signing) look() error {
	if t.looked {
		return nil
	}
	t.looked = true
	root, err := mail.Walk(t.m.Content)
	if err != nil {
		return err
	}
	if t.done, err = protected(t.m.Content, root); err != nil || t.done != "" {
		return err
	}
	if d, odd := root.Ambiguity(); odd {
		t.unfit = fmt.Sprintf("readers may differ on what is in it (%s at octet %d)", d.Kind, d.Offset)
		return nil
	}
	t.prepared, err = multisigned.Prepare(t.ctx, t.m.Content, root, t.signer.maxEncoded)
	if u, ok := errors.AsType[*sevenbit.Unfit](err); ok {
		t.unfit = u.Reason
		return nil
	}
	return err
}

// mustSign says whether mail of the author waits rather than leave without the rule's signature.
func (s *Signer) mustSign(r *matcher, author mail.Address) bool {
	if r.MustSign != nil {
		return *r.MustSign
	}
	domain, err := domainName(author.Domain)
	return err == nil && s.must[domain]
}

// unsigned lets the message go on as it is.
func (t *signing) unsigned(g group, reason string) form {
	return form{group: g, notes: []slog.Attr{slog.String("unsigned", reason+", for "+count(g.to))}}
}

// held is for what cannot be signed, now and later: where it must be, a person decides.
func (t *signing) held(g group, reason string) form {
	if !t.signer.mustSign(&t.signer.rules[g.rule], t.author) {
		return t.unsigned(g, reason)
	}
	f := t.unsigned(g, reason)
	f.verdict = stage.Quarantine("it must be signed, and cannot be: " + reason)
	return f
}

func count(to []mail.RecipientID) string {
	if len(to) == 1 {
		return "1 recipient"
	}
	return fmt.Sprintf("%d recipients", len(to))
}
