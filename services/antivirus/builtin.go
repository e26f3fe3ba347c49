package antivirus

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// The limits of the built-in engine. What is beyond them is unscannable.
const (
	// maxDecoded bounds what one message may unfold to, in bytes, over all its readings and archives: its own size
	// times decodedFactor, and this.
	maxDecoded    = 256 << 20
	decodedFactor = 8
	// maxFiles bounds the files within one message: attachments, and what is in archives.
	maxFiles = 20_000
	// maxNesting is how deep messages and archives within parts are opened, beyond the parts that mail.Walk finds.
	maxNesting = 5
)

// patient is a reader that ends with its context.
type patient struct {
	ctx context.Context
	r   io.Reader
}

func (p patient) Read(b []byte) (int, error) {
	if err := context.Cause(p.ctx); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}

// budget is what is left to unfold, shared by everything within one message.
type budget struct {
	bytes int64
	files int
}

// exam is the examination of one content: a message, or something within one.
type exam struct {
	ctx     context.Context
	rules   *rules
	tempDir string
	content mail.Content
	depth   int
	left    *budget
	worst   *finding
}

// examine runs the built-in engine over a message, whose bytes it also gives to also as they pass. An error says
// nothing about the message.
func examine(ctx context.Context, r *rules, tempDir string, c mail.Content, also io.Writer) (finding, error) {
	x := &exam{
		ctx: ctx, rules: r, tempDir: tempDir, content: c,
		left: &budget{bytes: maxDecoded + decodedFactor*c.Size(), files: maxFiles}, worst: &finding{},
	}
	raw := &signatureFinder{}
	if _, err := io.Copy(io.MultiWriter(raw, also), patient{ctx, mail.NewReader(c)}); err != nil {
		return finding{}, fmt.Errorf("reading the message: %w", err)
	}
	if raw.found {
		x.signature("the message")
	}
	if err := x.walk(); err != nil {
		return finding{}, err
	}
	return *x.worst, nil
}

func (x *exam) find(s severity, format string, args ...any) {
	if s > x.worst.severity {
		*x.worst = finding{severity: s, reason: fmt.Sprintf(format, args...)}
	}
}

func (x *exam) signature(where string) {
	x.find(infected, "infected: EICAR test signature in %s", where)
	if x.worst.severity == infected && x.worst.signature == "" {
		x.worst.signature = "EICAR-Test-Signature"
	}
}

// done says that nothing worse can be found.
func (x *exam) done() bool { return x.worst.severity == infected }

// walk examines every part of the content.
func (x *exam) walk() error {
	root, err := mail.Walk(x.content)
	if err != nil {
		return err
	}
	for p := range root.All() {
		if x.done() {
			return nil
		}
		if err := x.part(p); err != nil {
			return fmt.Errorf("part at %d: %w", p.Offset, err)
		}
	}
	return nil
}

func (x *exam) part(p *mail.Part) error {
	defect, err := x.ambiguity(p)
	if err != nil {
		return err
	}
	if defect != "" {
		x.find(unscannable, "unscannable: malformed MIME (%s), which mail clients read differently", defect)
	}
	names, strange := partNames(p)
	if strange != "" {
		x.find(unscannable, "unscannable: %s", strange)
	}
	for _, n := range names {
		x.name(n, "an attachment")
	}
	x.types(p)
	if p.MediaType == "message/partial" {
		x.find(unscannable, "unscannable: a fragment of a message (message/partial)")
	}
	if x.done() {
		return nil
	}
	composite := p.IsMultipart() || p.IsMessage()
	for _, encoding := range encodings(p) {
		if x.done() {
			return nil
		}
		if composite {
			err = x.encodedEntity(p, encoding)
		} else {
			err = x.leaf(p, encoding, names)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// name judges a file name in all its forms.
func (x *exam) name(name, where string) {
	if disguised(name) {
		x.find(blocked, "blocked: the file name %s of %s is shown otherwise than it is", quote(name), where)
	}
	for _, form := range nameForms(name) {
		if pattern := x.rules.name(form); pattern != "" {
			x.find(blocked, "blocked: the file name %s of %s matches %s", quote(form), where, quote(pattern))
			return
		}
	}
}

// types judges every media type that the header declares.
func (x *exam) types(p *mail.Part) {
	declared := []string{p.MediaType}
	for _, v := range p.Header.Values("Content-Type") {
		t, _, _ := strings.Cut(stripComments(v), ";")
		declared = append(declared, strings.ToLower(strings.Join(strings.Fields(t), "")))
	}
	for _, t := range declared {
		if pattern := x.rules.mediaType(t); pattern != "" {
			x.find(blocked, "blocked: the media type %s matches %s", quote(t), quote(pattern))
			return
		}
	}
}

func identity(encoding string) bool {
	return encoding == "7bit" || encoding == "8bit" || encoding == "binary"
}

// encodings are those in which the part may be read: the declared one, and all where that is in doubt.
func encodings(p *mail.Part) []string {
	doubt := slices.ContainsFunc(p.Defects, func(d mail.Defect) bool {
		switch d.Kind {
		case mail.DefectUnknownEncoding, mail.DefectOddEncoding, mail.DefectHeaderRepeat, mail.DefectHeaderEnd, mail.DefectHeaderName, mail.DefectHeaderByte:
			return true
		}
		return false
	})
	all := []string{"binary", "base64", "quoted-printable"}
	// What is in these as they stand comes as parts of its own.
	walked := p.IsMultipart() || p.IsMessage() && identity(p.Encoding)
	switch {
	case doubt && walked:
		return all[1:]
	case doubt:
		return all
	case walked && identity(p.Encoding):
		return nil
	case p.IsMessage():
		// It may not be encoded, and some readers do not look whether it is.
		return []string{"binary", p.Encoding}
	case walked, p.Encoding == "base64", p.Encoding == "quoted-printable":
		return []string{p.Encoding}
	}
	return all[:1]
}

// decoded reads the body of a part in one of its readings.
func (x *exam) decoded(p *mail.Part, encoding string) (io.Reader, error) {
	q := *p
	q.Encoding = encoding
	r, err := q.Decoded(x.content)
	if err != nil {
		return nil, err
	}
	return patient{x.ctx, r}, nil
}

// leaf examines the data of a part.
func (x *exam) leaf(p *mail.Part, encoding string, names []string) error {
	if x.left.files <= 0 {
		x.tooManyFiles()
		return nil
	}
	r, err := x.decoded(p, encoding)
	if err != nil {
		return err
	}
	f := x.newFile("an attachment", names)
	f.declared = p.MediaType
	w := io.WriteCloser(f)
	if encoding == "binary" && !strings.HasPrefix(p.MediaType, "image/") {
		w = &withUU{file: f, finder: &uuFinder{open: func(name string) (io.WriteCloser, error) {
			if x.left.files <= 0 {
				x.tooManyFiles()
				return nopCloser{io.Discard}, nil
			}
			x.name(name, "a uuencoded attachment")
			return x.newFile("a uuencoded attachment", []string{name}), nil
		}}}
	}
	return x.fill(w, r)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func (x *exam) tooManyFiles() { x.find(unscannable, "unscannable: more than %d files", maxFiles) }

// withUU gives a part's bytes to both.
type withUU struct {
	file   *file
	finder *uuFinder
}

func (w *withUU) Write(p []byte) (int, error) {
	if _, err := w.finder.Write(p); err != nil {
		return 0, err
	}
	return w.file.Write(p)
}

func (w *withUU) Close() error {
	if err := w.finder.Close(); err != nil {
		w.file.discard()
		return err
	}
	return w.file.Close()
}

// fill copies r to w and closes w, whose examination that ends. Beyond the budget there is no examination.
func (x *exam) fill(w io.WriteCloser, r io.Reader) error {
	n, err := io.Copy(w, io.LimitReader(r, x.left.bytes+1))
	x.left.bytes -= n
	if err == nil && x.left.bytes < 0 {
		x.left.bytes = 0
		x.find(unscannable, "unscannable: it unfolds to more than %d MB", maxDecoded>>20)
	}
	return closeWith(w, err)
}

// closeWith closes w after err, or gives the error of closing it.
func closeWith(w io.Closer, err error) error {
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	return err
}

// encodedEntity examines what a reader sees that decodes a multipart or message before it takes it apart.
func (x *exam) encodedEntity(p *mail.Part, encoding string) error {
	r, err := x.decoded(p, encoding)
	if err != nil {
		return err
	}
	var head []byte
	if p.IsMultipart() {
		for _, f := range p.Header.Find("Content-Type") {
			head = append(head, bytes.TrimRight(f.Raw, "\r\n")...)
			head = append(head, "\r\n"...)
		}
		head = append(head, "\r\n"...)
	}
	b := mail.NewBuilder(x.tempDir)
	defer b.Discard()
	n, err := io.Copy(b, io.LimitReader(io.MultiReader(bytes.NewReader(head), r), x.left.bytes+1))
	if x.left.bytes -= n; err != nil {
		return err
	}
	return x.nested(b)
}

// nested examines, as a message, what was built.
func (x *exam) nested(b *mail.Builder) error {
	if x.left.bytes < 0 || x.depth >= maxNesting {
		x.left.bytes = max(x.left.bytes, 0)
		x.find(unscannable, "unscannable: messages within messages, too deep or too large")
		return nil
	}
	c, err := b.Content()
	if err != nil {
		return err
	}
	defer c.Release()
	y := *x
	y.content, y.depth = c, x.depth+1
	raw := &signatureFinder{}
	if _, err := io.Copy(raw, patient{x.ctx, mail.NewReader(c)}); err != nil {
		return err
	}
	if raw.found {
		x.signature("a message within the message")
	}
	return y.walk()
}
