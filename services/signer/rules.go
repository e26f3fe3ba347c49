package signer

import (
	"io"
	"mime"
	netmail "net/mail"
	"slices"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// matcher is a Rule with its patterns parsed.
type matcher struct {
	Rule
	sender     mail.Pattern
	recipients []mail.Pattern
}

func parseRules(rules []Rule) ([]matcher, error) {
	out := make([]matcher, len(rules))
	for i, r := range rules {
		out[i].Rule = r
		var err error
		if out[i].sender, err = mail.ParsePattern(r.Sender); err != nil {
			return nil, err
		}
		for _, p := range r.Recipients {
			q, err := mail.ParsePattern(p)
			if err != nil {
				return nil, err
			}
			out[i].recipients = append(out[i].recipients, q)
		}
	}
	return out, nil
}

func (r *matcher) takes(author, recipient mail.Address) bool {
	return r.sender.Match(author) &&
		(len(r.recipients) == 0 || slices.ContainsFunc(r.recipients, func(p mail.Pattern) bool { return p.Match(recipient) }))
}

// refuses says why a message may not have the signature of the rule although author and recipient fit, or "". Who may
// write as the author is not asked of the header alone, which anybody can write.
func (r *matcher) refuses(env *mail.Envelope, author mail.Address) string {
	if len(r.Users) > 0 && !slices.Contains(r.Users, env.Origin.User) {
		return "its user may not have the signature of " + r.Sender
	}
	from := env.ReversePath
	sameDomain := sameName(from.Domain, author.Domain)
	switch r.ReversePath {
	case reverseAny:
		return ""
	case reverseSameDomain:
		if !sameDomain {
			return "its reverse-path is of another domain than its author"
		}
	default:
		if !sameDomain || !strings.EqualFold(from.Local, author.Local) {
			return "its reverse-path is not the address of its author"
		}
	}
	return ""
}

// sameName compares domains, also where one is written with U-labels.
func sameName(a, b string) bool {
	if strings.EqualFold(a, b) {
		return a != ""
	}
	x, err := domainName(a)
	if err != nil {
		return false
	}
	y, err := domainName(b)
	return err == nil && x == y
}

// soleAuthor gives the author of a message that has exactly one, on whom every reader agrees.
func soleAuthor(h *mail.Header) (mail.Address, bool) {
	fields := h.Find("From")
	if len(fields) != 1 || len(fields[0].Raw) > maxHeaderSize {
		return mail.Address{}, false
	}
	value := fields[0].Value()
	// Display names are of no interest, whatever their charset.
	parser := netmail.AddressParser{WordDecoder: &mime.WordDecoder{CharsetReader: func(_ string, r io.Reader) (io.Reader, error) { return r, nil }}}
	list, err := parser.ParseList(value)
	if err != nil || len(list) != 1 {
		return mail.Address{}, false
	}
	a, err := mail.ParseAddressUTF8(list[0].Address)
	if err != nil {
		return mail.Address{}, false
	}
	domain, err := domainName(a.Domain)
	if err != nil || !slices.Equal(authorDomains(value, 2), []string{domain}) {
		return mail.Address{}, false // two readers see two authors
	}
	return a, true
}

// group is a set of recipients that a message goes to in one form.
type group struct {
	// rule is the index of the rule that holds for them, or -1.
	rule int
	to   []mail.RecipientID
}

// groups puts the pending recipients together by the rule that holds for them, in the order of the message.
func groups(rules []matcher, m *mail.Message, author mail.Address, ok bool) []group {
	var out []group
	for _, id := range m.Pending {
		r, found := m.Envelope.Recipient(id)
		if !found {
			continue
		}
		rule := -1
		if ok {
			rule = slices.IndexFunc(rules, func(q matcher) bool { return q.takes(author, r.Address) })
		}
		at := slices.IndexFunc(out, func(g group) bool { return g.rule == rule })
		if at < 0 {
			at = len(out)
			out = append(out, group{rule: rule})
		}
		out[at].to = append(out[at].to, id)
	}
	return out
}
