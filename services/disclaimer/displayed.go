package disclaimer

import (
	"strconv"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// text is a part that a client displays as the text of the message.
type text struct {
	part *mail.Part
	// section is the part's number as IMAP counts (RFC 9051, section 6.4.5): "1.2".
	section string
}

func (t text) html() bool { return t.part.MediaType == "text/html" }

// selection is what of a message is displayed.
type selection struct {
	texts []text
	// untouchable says why the message as a whole must stay as it is, or "".
	untouchable string
	// left says of displayed parts why they stay as they are.
	left []string
}

// displayed finds the texts of a message: the message itself, or the root of a multipart/related, the first displayed
// child of a multipart/mixed and of every multipart that is unknown (RFC 2046, section 5.1.3), every child of a
// multipart/alternative. Attachments and messages within the message are not its text.
func displayed(root *mail.Part) selection {
	var s selection
	s.visit(root, "")
	if s.untouchable == "" && len(s.texts) == 0 && len(s.left) == 0 {
		s.untouchable = "there is no displayed text"
	}
	return s
}

// visit says whether the part displays something, be it stamped or left.
func (s *selection) visit(p *mail.Part, section string) bool {
	switch {
	case s.untouchable != "":
		return true
	case strings.EqualFold(p.Disposition, "attachment"):
		return false
	case p.IsSigned():
		s.untouchable = "signed"
		return true
	case p.IsEncrypted(), p.MediaType == "application/pgp-encrypted":
		s.untouchable = "encrypted"
		return true
	case p.MediaType == "multipart/report":
		s.untouchable = "a report"
		return true
	}
	switch p.MediaType {
	case "text/plain", "text/html":
		if p.DispositionParams["filename"] != "" {
			return false // a file that is shown in place
		}
		t := text{p, section}
		if section == "" {
			t.section = "1"
		}
		if flaw := blocking(p); flaw != "" {
			s.left = append(s.left, t.section+": "+flaw)
			return true
		}
		s.texts = append(s.texts, t)
		return true
	}
	if !p.IsMultipart() {
		if strings.HasPrefix(p.MediaType, "text/") && section != "" {
			// An alternative that some client may prefer, in a format that nothing can be added to here.
			s.left = append(s.left, section+": "+printable(p.MediaType))
		}
		return false
	}
	if flaw := blocking(p); flaw != "" {
		s.untouchable = flaw
		return true
	}
	switch p.MediaType {
	case "multipart/alternative":
		any := false
		for i, c := range p.Children {
			any = s.visit(c, child(section, i)) || any
		}
		return any
	case "multipart/related":
		i := start(p)
		return i >= 0 && s.visit(p.Children[i], child(section, i))
	}
	for i, c := range p.Children {
		left := len(s.left)
		if s.visit(c, child(section, i)) {
			return true
		}
		s.left = s.left[:left]
	}
	return false
}

func child(section string, i int) string {
	if section == "" {
		return strconv.Itoa(i + 1)
	}
	return section + "." + strconv.Itoa(i+1)
}

// start gives the root of a multipart/related (RFC 2387, section 3.2).
func start(p *mail.Part) int {
	if want := p.Params["start"]; want != "" {
		for i, c := range p.Children {
			if c.Header.Get("Content-ID") == want {
				return i
			}
		}
	}
	if len(p.Children) == 0 {
		return -1
	}
	return 0
}

// blocking says which defect of a part makes it unclear what a client shows, so that an insertion could end up
// anywhere; "" if there is none.
func blocking(p *mail.Part) string {
	for _, d := range p.Defects {
		switch d.Kind {
		case mail.DefectHeaderEnd, mail.DefectHeaderLimit, mail.DefectHeaderRepeat, mail.DefectMediaType,
			mail.DefectParamRepeat, mail.DefectUnknownEncoding, mail.DefectEncodedEntity, mail.DefectNoBoundary,
			mail.DefectBoundaryReuse, mail.DefectNoParts, mail.DefectBareCR, mail.DefectDepth, mail.DefectParts:
			return "malformed: " + string(d.Kind)
		}
	}
	if p.Header.End != mail.EndEmptyLine {
		return "malformed: there is no body"
	}
	return ""
}

// printable makes a value from outside fit for a note.
func printable(s string) string {
	q := strconv.QuoteToASCII(cleanValue(s))
	return q[1 : len(q)-1]
}
