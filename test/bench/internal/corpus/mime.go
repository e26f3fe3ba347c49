package corpus

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"mime/quotedprintable"
)

// writer writes one message after the other.
type writer struct {
	rng   *rand.Rand
	words []string
	room  int

	b   bytes.Buffer
	cut int // where the token goes
	n   int
	err error
}

// begin starts message n with the fields that all have.
func (w *writer) begin(n int) {
	w.b.Reset()
	w.n = n
	w.b.WriteString("Message-ID: <bench-")
	w.cut = w.b.Len()
	fmt.Fprintf(&w.b, "@bench.example.com>\r\nFrom: Alice Example <alice@example.com>\r\nTo: Bob Example <bob@example.net>\r\n"+
		"Date: Tue, 03 Feb 2026 04:05:06 +0000\r\nSubject: Message %d of the benchmark\r\nUser-Agent: bench\r\nMIME-Version: 1.0\r\n", n)
}

// message is what was written.
func (w *writer) message() Message {
	b := bytes.Clone(w.b.Bytes())
	return Message{before: b[:w.cut], after: b[w.cut:], room: w.room}
}

// rest is how many bytes are left of size.
func (w *writer) rest(size int) int { return size - w.b.Len() - w.room }

// plain is a text in ASCII.
func (w *writer) plain(size int) {
	w.b.WriteString("Content-Type: text/plain; charset=us-ascii\r\n\r\n")
	w.sentences(w.rest(size), true, "", "\r\n")
}

// mixed is what people send, by size: a text, text and HTML, that with files.
func (w *writer) mixed(size int) {
	switch {
	case size > 40_000:
		w.attached(size)
	case size > 6_000:
		w.alternative("alt", size)
	case w.n%2 == 0:
		w.plain(size)
	default:
		w.b.WriteString("Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n")
		w.sentences(w.rest(size), false, "", "\r\n")
	}
}

// alternative is a text in 8-bit UTF-8 and twice as much HTML, which is quoted-printable, up to size bytes of the message.
func (w *writer) alternative(boundary string, size int) {
	fmt.Fprintf(&w.b, "Content-Type: multipart/alternative; boundary=%s\r\n\r\n--%s\r\n"+
		"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n", boundary, boundary)
	w.sentences(w.rest(size)/3, false, "", "\r\n")
	fmt.Fprintf(&w.b, "--%s\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n", boundary)
	left := w.rest(size) - len(boundary) - 8
	html := w.aside(func() {
		w.b.WriteString("<html><head><title>Benchmark</title></head><body style=\"font-family: sans-serif\">\r\n")
		w.sentences(left*81/100, false, "<p style=\"margin: 1em 0\">", "</p>")
		w.b.WriteString("</body></html>\r\n")
	})
	q := quotedprintable.NewWriter(&w.b)
	_, err := q.Write(html)
	w.fail(err)
	w.fail(q.Close())
	fmt.Fprintf(&w.b, "--%s--\r\n", boundary)
}

// attached is text and HTML of 6 kB with files, up to size bytes.
func (w *writer) attached(size int) {
	w.b.WriteString("Content-Type: multipart/mixed; boundary=mix\r\n\r\n--mix\r\n")
	w.alternative("alt", w.b.Len()+w.room+6_000)
	files := 1
	if size < 200_000 {
		files += w.n % 3
	}
	for i := range files {
		w.file(w.n+i, w.rest(size)/(files-i))
	}
	w.b.WriteString("--mix--\r\n")
}

// file is one attachment, size bytes long in base64: a PDF, a picture, or an office document.
func (w *writer) file(kind, size int) {
	start := w.b.Len()
	mediaType, name, data := "application/pdf", "report.pdf", w.pdf
	switch kind % 3 {
	case 1:
		mediaType, name, data = "image/jpeg", "photo.jpeg", w.jpeg
	case 2:
		mediaType, name, data = "application/vnd.openxmlformats-officedocument.wordprocessingml.document", "letter.docx", w.docx
	}
	fmt.Fprintf(&w.b, "--mix\r\nContent-Type: %s; name=%q\r\nContent-Disposition: attachment; filename=%q\r\nContent-Transfer-Encoding: base64\r\n\r\n",
		mediaType, name, name)
	left := size - (w.b.Len() - start) - len("--mix--\r\n")
	text := base64.StdEncoding.EncodeToString(data(max(left, 200) * 57 / 78))
	for len(text) > 0 {
		n := min(len(text), 76)
		w.b.WriteString(text[:n])
		w.b.WriteString("\r\n")
		text = text[n:]
	}
}

func (w *writer) pdf(size int) []byte { return append([]byte("%PDF-1.7\n"), w.noise(size-9)...) }

func (w *writer) jpeg(size int) []byte {
	return append([]byte("\xff\xd8\xff\xe0\x00\x10JFIF\x00"), w.noise(size-11)...)
}

// docx is a ZIP with a text, which is packed, and a picture, which is not.
func (w *writer) docx(size int) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	put := func(name string, method uint16, data []byte) {
		f, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: method})
		w.fail(err)
		if err == nil {
			_, err = f.Write(data)
			w.fail(err)
		}
	}
	put("word/document.xml", zip.Deflate, w.aside(func() {
		w.b.WriteString("<?xml version=\"1.0\"?><w:document><w:body>")
		w.sentences(size/4, false, "<w:p><w:r><w:t>", "</w:t></w:r></w:p>")
		w.b.WriteString("</w:body></w:document>")
	}))
	put("word/styles.xml", zip.Store, nil) // ends the file before, so that its size is known
	w.fail(z.Flush())
	const directory = 450 // the entries of the last file and of the directory, about
	put("word/media/image1.jpeg", zip.Store, w.jpeg(max(size-b.Len()-directory, 20)))
	w.fail(z.Close())
	return b.Bytes()
}

// noise is data that does not shrink.
func (w *writer) noise(size int) []byte {
	b := make([]byte, max(size, 0))
	seed := [32]byte{byte(w.rng.Uint32()), byte(w.rng.Uint32()), byte(w.rng.Uint32()), byte(w.rng.Uint32())}
	_, err := rand.NewChaCha8(seed).Read(b)
	w.fail(err)
	return b
}

// aside gives what write writes, which does not become a part of the message.
func (w *writer) aside(write func()) []byte {
	start := w.b.Len()
	write()
	out := bytes.Clone(w.b.Bytes()[start:])
	w.b.Truncate(start)
	return out
}

func (w *writer) fail(err error) {
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("message %d of the corpus: %w", w.n, err)
	}
}
