package disclaimer

import (
	"bytes"
	"context"
	"html"
	"strings"
	"unicode"

	"github.com/stagecoachmail/stagecoach/mail"
)

// finding is what one look at a displayed text has shown.
type finding struct {
	text
	decoder *decoder
	charset charset
	// place is where the addition goes, last is behind the text.
	place, last place
	// armored: the text is an OpenPGP message of its own (RFC 9580, section 6).
	armored bool
	// newlines is how many line ends the text ends with, 2 at most.
	newlines int
	// flowing: the last line goes on in the next one, in format=flowed (RFC 3676, section 4.1).
	flowing bool
	// shifted: ISO-2022 text ends within an escape.
	shifted bool
}

// examine reads the part once, streaming. errEncoding says that it cannot be added to; other errors are of reading.
func examine(ctx context.Context, c mail.Content, t text) (*finding, error) {
	f := &finding{text: t, charset: charsetOf(t.part.Charset())}
	var ends endings
	var pgp armor
	r := reader{charset: f.charset}
	body := bodyEnd{at: r.here}
	r.char = func(c byte) {
		ends.char(c)
		pgp.char(c, t.html())
		if t.html() {
			body.char(c)
		}
	}
	d, err := decode(ctx, c, t.part, r.octet)
	if err != nil {
		return nil, err
	}
	if r.half {
		return nil, errEncoding
	}
	f.decoder, f.last = d, d.here()
	f.place = f.last
	if t.html() {
		f.place = body.place(f.last)
	}
	f.charset = r.charset.ordered(r.first)
	f.shifted = r.shifted
	f.armored = pgp.done()
	f.newlines, f.flowing = min(ends.newlines, 2), ends.flowing()
	return f, nil
}

func (f *finding) atEnd() bool { return f.place.octets == f.last.octets }

func (f *finding) empty() bool { return f.last.octets == 0 }

// endings follows how a text ends.
type endings struct {
	newlines int
	last     byte
	column   int
	start    [3]byte
	wasFlow  bool
}

func (e *endings) char(c byte) {
	switch c {
	case '\r':
		return
	case '\n':
		e.wasFlow = e.line()
		e.newlines++
		e.column = 0
		return
	}
	e.newlines = 0
	if e.column < len(e.start) {
		e.start[e.column] = c
	}
	e.column++
	e.last = c
}

// line says whether the line read so far is flowed. "-- " is the separator before a signature.
func (e *endings) line() bool {
	return e.column > 0 && e.last == ' ' && !(e.column == 3 && string(e.start[:]) == "-- ")
}

func (e *endings) flowing() bool {
	switch e.newlines {
	case 0:
		return e.line()
	case 1:
		return e.wasFlow
	}
	return false
}

// armor looks for the lines that begin an OpenPGP message. In HTML a line may also begin behind a tag.
type armor struct {
	line  [40]byte
	n     int
	found bool
}

func (a *armor) char(c byte, html bool) {
	switch {
	case c == '\n' || html && (c == '>' || c == '<'):
		a.found = a.done()
		a.n = 0
	case html && a.n == 0 && c == ' ':
	case a.n < len(a.line):
		a.line[a.n] = c
		a.n++
	}
}

func (a *armor) done() bool {
	l := a.line[:a.n]
	return a.found || bytes.HasPrefix(l, []byte("-----BEGIN PGP MESSAGE-----")) ||
		bytes.HasPrefix(l, []byte("-----BEGIN PGP SIGNED MESSAGE-----"))
}

// stamped says whether the text before the place already ends with the addition. White space does not count, since mail
// systems wrap lines anew; nor, in HTML, does markup.
func (f *finding) stamped(ctx context.Context, c mail.Content, rendered string) (bool, error) {
	want := f.squeeze(rendered)
	if want == "" {
		return false, nil
	}
	tail, err := f.tail(ctx, c, int64(4*len(rendered)+16<<10))
	if err != nil {
		return false, err
	}
	return strings.HasSuffix(f.squeeze(tail), want), nil
}

// tail gives at most n decoded octets before the place, as UTF-8.
func (f *finding) tail(ctx context.Context, c mail.Content, n int64) (string, error) {
	from := max(0, f.place.octets-n)
	if f.charset.family == wide {
		from &^= 1
	}
	var b []byte
	_, err := decode(ctx, c, f.part, func(d *decoder, c byte) {
		if d.octets >= from && d.octets < f.place.octets {
			b = append(b, c)
		}
	})
	return f.charset.decode(b), err
}

func (f *finding) squeeze(s string) string {
	if f.html() {
		if visible := squeeze(html.UnescapeString(stripTags(s))); visible != "" {
			return visible
		}
	}
	return squeeze(s)
}

// squeeze takes all white space out.
func squeeze(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s)
}

// stripTags takes out what stands in angle brackets. Only for comparing.
func stripTags(s string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '<')
		if i < 0 {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		end := ">"
		if strings.HasPrefix(s[i:], "<!--") {
			end = "-->"
		}
		j := strings.Index(s[i:], end)
		if j < 0 {
			return b.String()
		}
		s = s[i+j+len(end):]
	}
}
