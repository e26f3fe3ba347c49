package disclaimer

import "bytes"

// bodyEnd finds where a fragment is put into an HTML document: before the last </body>, else before the last </html>,
// else at the end; if a comment, a script or a tag is open there, before that, since it would not be shown within. It
// follows the tokenizer of the HTML standard (section 13.2.5) as far as it takes to know what is markup.
type bodyEnd struct {
	// at gives the place of the character that char was called with.
	at     func() place
	state  htmlState
	open   place // of the "<" of the construct that is open
	name   []byte
	end    bool // the tag is an end tag
	dashes int
	opened bool // the comment has just begun
	bang   bool
	raw    []byte // "</name" of the element whose content is no markup
	match  int

	body, html *place
}

type htmlState int

const (
	htmlData htmlState = iota
	htmlTagOpen
	htmlEndTagOpen
	htmlTagName
	htmlAttribute
	htmlBeforeValue
	htmlDoubleQuoted
	htmlSingleQuoted
	htmlUnquoted
	htmlDeclaration // after "<!"
	htmlDeclarationDash
	htmlComment
	htmlBogus // until ">"
	htmlRaw
)

// rawElements have content that is no markup.
var rawElements = [...]string{"script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "plaintext"}

const maxTagName = 16

func isHTMLSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' }

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// char takes the next character.
func (b *bodyEnd) char(c byte) {
	switch b.state {
	case htmlData:
		b.data(c)
	case htmlTagOpen:
		switch {
		case isLetter(c):
			b.state, b.end = htmlTagName, false
			b.name = append(b.name[:0], c|0x20)
		case c == '/':
			b.state = htmlEndTagOpen
		case c == '!':
			b.state = htmlDeclaration
		case c == '?':
			b.state = htmlBogus
		default:
			b.data(c)
		}
	case htmlEndTagOpen:
		switch {
		case isLetter(c):
			b.state, b.end = htmlTagName, true
			b.name = append(b.name[:0], c|0x20)
		case c == '>':
			b.state = htmlData
		default:
			b.state = htmlBogus
		}
	case htmlDeclaration:
		switch c {
		case '-':
			b.state = htmlDeclarationDash
		case '>':
			b.state = htmlData
		default:
			b.state = htmlBogus
		}
	case htmlDeclarationDash:
		switch c {
		case '-':
			b.state, b.dashes, b.opened, b.bang = htmlComment, 2, true, false
		case '>':
			b.state = htmlData
		default:
			b.state = htmlBogus
		}
	case htmlComment:
		b.comment(c)
	case htmlBogus:
		if c == '>' {
			b.state = htmlData
		}
	case htmlRaw:
		b.rawText(c)
	default:
		b.tag(c)
	}
}

func (b *bodyEnd) data(c byte) {
	b.state = htmlData
	if c == '<' {
		b.state, b.open = htmlTagOpen, b.at()
	}
}

func (b *bodyEnd) comment(c byte) {
	switch {
	case c == '>' && (b.dashes >= 2 || b.bang):
		b.state = htmlData
	case c == '-':
		b.dashes++
		b.bang = false
	default:
		b.bang = c == '!' && b.dashes >= 2 && !b.opened
		b.dashes, b.opened = 0, false
	}
}

func (b *bodyEnd) tag(c byte) {
	switch b.state {
	case htmlDoubleQuoted:
		if c == '"' {
			b.state = htmlAttribute
		}
		return
	case htmlSingleQuoted:
		if c == '\'' {
			b.state = htmlAttribute
		}
		return
	}
	switch {
	case c == '>':
		b.tagDone()
	case b.state == htmlBeforeValue && isHTMLSpace(c):
	case b.state == htmlBeforeValue && c == '"':
		b.state = htmlDoubleQuoted
	case b.state == htmlBeforeValue && c == '\'':
		b.state = htmlSingleQuoted
	case b.state == htmlBeforeValue:
		b.state = htmlUnquoted
	case b.state == htmlUnquoted:
		if isHTMLSpace(c) {
			b.state = htmlAttribute
		}
	case b.state == htmlTagName && (isHTMLSpace(c) || c == '/'):
		b.state = htmlAttribute
	case b.state == htmlTagName:
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if len(b.name) < maxTagName {
			b.name = append(b.name, c)
		}
	case c == '=':
		b.state = htmlBeforeValue
	}
}

func (b *bodyEnd) tagDone() {
	b.state = htmlData
	name := string(b.name)
	switch {
	case b.end && name == "body":
		p := b.open
		b.body = &p
	case b.end && name == "html":
		p := b.open
		b.html = &p
	case b.end:
	default:
		for _, r := range rawElements {
			if r == name {
				b.state, b.match = htmlRaw, 0
				b.raw = append(b.raw[:0], "</"+name...)
			}
		}
	}
}

// rawText looks for the end tag of the element, and for nothing else.
func (b *bodyEnd) rawText(c byte) {
	if b.match == len(b.raw) {
		switch {
		case bytes.Equal(b.raw, []byte("</plaintext")): // has no end
		case c == '>':
			b.state = htmlData
			return
		case isHTMLSpace(c) || c == '/':
			b.state, b.end = htmlAttribute, true
			b.name = append(b.name[:0], b.raw[2:]...)
			return
		}
		b.match = 0
	}
	if c >= 'A' && c <= 'Z' {
		c |= 0x20
	}
	switch c {
	case b.raw[b.match]:
		b.match++
	case '<':
		b.match = 1
	default:
		b.match = 0
	}
}

// place is where the fragment goes; last is the place behind the document.
func (b *bodyEnd) place(last place) place {
	switch {
	case b.body != nil:
		return *b.body
	case b.html != nil:
		return *b.html
	case b.state != htmlData:
		return b.open
	}
	return last
}
