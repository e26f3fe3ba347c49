package mail

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"sync"
)

// The limits of Walk.
const (
	// MaxDepth is how deep parts may be nested; the root has depth 1.
	MaxDepth = 50
	// MaxParts is how many parts a message may have, the root included.
	MaxParts = 5000

	// maxWalkHeaders bounds the bytes of all part headers together, maxWalkFields their number.
	maxWalkHeaders = 4 << 20
	maxWalkFields  = 50_000

	// walkBuffer is the longest line that can be a delimiter.
	walkBuffer = 64 << 10
)

var walkReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, walkBuffer) }}

// Walk finds the parts of a message (RFC 2046). It reads c once from start to end and keeps nothing but headers,
// whatever the size. It accepts everything: what is wrong is in the Defects of the parts. An error means that c could
// not be read, and says nothing about the message.
func Walk(c Content) (*Part, error) {
	r := walkReaders.Get().(*bufio.Reader)
	r.Reset(NewReader(c))
	defer func() {
		r.Reset(nil)
		walkReaders.Put(r)
	}()
	w := walker{content: c, headers: headerLimits{maxWalkHeaders, maxWalkFields}}
	root := w.begin(nil, 0)
	if err := w.run(r); err != nil {
		return nil, fmt.Errorf("walk content: %w", err)
	}
	return root, nil
}

// walker is a state machine fed line by line: the parts that are open, the innermost last.
type walker struct {
	content Content
	open    []*frame
	count   int
	full    bool // MaxParts is reached

	headers headerLimits // what is left for all parts
}

// frame is an open part.
type frame struct {
	part     *Part
	inHeader bool
	fields   bool // the header has a field
	// boundary is "--" and the boundary parameter, if the part is a multipart that can be split.
	boundary []byte
	digest   bool
}

// line is one line, or the beginning of one too long for the buffer.
type line struct {
	text  []byte // without the line end
	raw   []byte
	at    int64
	whole bool
	// before is the length of the line end before it, which would belong to a delimiter.
	before int
}

func (l *line) end() int64 { return l.at + int64(len(l.raw)) }

func (w *walker) run(r *bufio.Reader) error {
	l := line{whole: true}
	cr := false // what was read before ends with a CR
	for !w.full {
		raw, err := r.ReadSlice('\n')
		if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
			return err
		}
		begins := l.whole
		l.raw, l.text, l.whole = raw, trimLineEnd(raw), err != bufio.ErrBufferFull
		if begins && len(raw) > 0 {
			if err := w.line(&l); err != nil {
				return err
			}
		}
		w.bareCR(&l)
		if err == io.EOF {
			break
		}
		l.at, l.before = l.end(), len(l.raw)-len(l.text)
		if !begins && cr && len(l.text) == 0 {
			l.before++ // the buffer ended between CR and LF
		}
		cr = bytes.HasSuffix(raw, []byte{'\r'})
	}
	size := w.content.Size()
	_, err := w.closeTo(0, size, size)
	return err
}

// line takes one line.
func (w *walker) line(l *line) error {
	if len(l.text) > 2 && l.text[0] == '-' && l.text[1] == '-' {
		if hit, err := w.delimiter(l); hit || err != nil {
			return err
		}
	}
	for f := w.top(); f.inHeader; f = w.top() {
		switch kindOf(l.raw, f.fields) {
		case lineEmpty:
			return w.endHeader(f, l.end(), EndEmptyLine)
		case lineField:
			f.fields = true
			return nil
		case lineFolded:
			return nil
		}
		// If this opens the message in a message/rfc822, the line is the first of the next header.
		if err := w.endHeader(f, l.at, EndNoField); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) top() *frame { return w.open[len(w.open)-1] }

// delimiter looks whether the line is a delimiter of an open multipart, the innermost first, and acts on it.
// RFC 2046, section 5.1.1 lets anything follow the boundary; most readers want the line to end there. Where the two
// differ there is a defect.
func (w *walker) delimiter(l *line) (bool, error) {
	text := bytes.TrimRight(l.text, " \t")
	for i := len(w.open) - 1; i >= 0; i-- {
		f := w.open[i]
		if f.boundary == nil || !bytes.HasPrefix(text, f.boundary) {
			continue
		}
		rest := text[len(f.boundary):]
		last := string(rest) == "--"
		switch {
		case len(rest) > 0 && !last || !l.whole:
			f.part.flag(DefectBoundaryLike, l.at)
		case f.part.Terminated:
			f.part.flag(DefectAfterTermination, l.at)
		default:
			return true, w.split(i, l, last)
		}
	}
	return false, nil
}

// split ends what is open in the multipart at index i, and begins its next part unless the delimiter is the last.
func (w *walker) split(i int, l *line, last bool) error {
	start, err := w.closeTo(i+1, l.at-int64(l.before), l.at)
	if err != nil {
		return err
	}
	p := w.open[i].part
	start = max(start, p.contentEnd())
	if last {
		// Its line end belongs to what follows: the epilogue, or the next delimiter.
		p.Delimiters = append(p.Delimiters, Span{start, l.at + int64(len(l.text))})
		p.Terminated = true
		return nil
	}
	if !w.room(p, l.at) {
		return nil
	}
	p.Delimiters = append(p.Delimiters, Span{start, l.end()})
	w.begin(p, l.end())
	return nil
}

// room says whether one more part is allowed.
func (w *walker) room(p *Part, at int64) bool {
	if w.count == MaxParts {
		p.flag(DefectParts, at)
		w.full = true
	}
	return !w.full
}

// begin opens a part at offset at.
func (w *walker) begin(parent *Part, at int64) *Part {
	w.count++
	p := &Part{Offset: at, Body: at, End: at}
	if parent != nil {
		parent.Children = append(parent.Children, p)
	}
	w.open = append(w.open, &frame{part: p, inHeader: true})
	return p
}

// endHeader ends the header of f, the innermost part, at offset end, and opens what the header announces.
func (w *walker) endHeader(f *frame, end int64, how HeaderEnd) error {
	f.inHeader = false
	p := f.part
	p.Body = end
	if err := w.readHeader(p, how); err != nil {
		return err
	}
	digest := len(w.open) > 1 && w.open[len(w.open)-2].digest
	p.describe(digest)
	switch {
	case p.IsMultipart():
		f.digest = p.MediaType == "multipart/digest"
		if len(w.open) == MaxDepth {
			p.flag(DefectDepth, p.Offset)
			return nil
		}
		f.boundary = p.boundary(w.open)
	case p.IsMessage() && isIdentity(p.Encoding):
		if len(w.open) == MaxDepth {
			p.flag(DefectDepth, p.Offset)
		} else if w.room(p, p.Offset) {
			w.begin(p, p.Body)
		}
	}
	return nil
}

// readHeader parses the header of p, which lies between Offset and Body.
func (w *walker) readHeader(p *Part, how HeaderEnd) error {
	if w.count == 1 {
		p.Header = w.content.Header()
		return p.Header.Err
	}
	limits := headerLimits{min(w.headers.bytes, MaxHeaderSize), min(w.headers.fields, MaxHeaderFields)}
	b, err := readRange(w.content, p.Offset, min(p.Body-p.Offset, headerRead(limits.bytes)))
	if err != nil {
		return err
	}
	h := parseHeader(b, p.Offset, limits, true)
	if h.End != EndLimit {
		h.End = how
	}
	w.headers.bytes -= int(h.Size)
	w.headers.fields -= len(h.Fields)
	p.Header = h
	return nil
}

// closeTo closes the open parts from index n on. Their bodies end at end, or later where something of them does;
// headers that are still open end at headerEnd. It gives where the outermost of them ended.
func (w *walker) closeTo(n int, end, headerEnd int64) (int64, error) {
	for i := n; i < len(w.open); i++ {
		if f := w.open[i]; f.inHeader {
			// This may open the message in a message/rfc822, which is then closed as well.
			if err := w.endHeader(f, headerEnd, EndOfMessage); err != nil {
				return 0, err
			}
		}
	}
	for i := len(w.open) - 1; i >= n; i-- {
		f := w.open[i]
		p := f.part
		end = max(end, p.Body)
		p.End = end
		switch {
		case f.boundary == nil:
		case p.End == p.Body:
			// Reports return the header of a multipart without its body.
		case len(p.Delimiters) == 0:
			p.flag(DefectNoParts, p.Offset)
		case !p.Terminated:
			p.flag(DefectUnterminated, end)
		}
	}
	w.open = w.open[:n]
	return end, nil
}

// contentEnd is where what is known of the part's body ends, while the part is open.
func (p *Part) contentEnd() int64 {
	end := p.Body
	if n := len(p.Delimiters); n > 0 {
		end = max(end, p.Delimiters[n-1].End)
	}
	if n := len(p.Children); n > 0 {
		end = max(end, p.Children[n-1].End)
	}
	return end
}

// bareCR notes a delimiter that stands after a CR: no line for us, but one for some readers.
func (w *walker) bareCR(l *line) {
	cr := bytes.IndexByte(l.text, '\r')
	if cr < 0 {
		return
	}
	for _, f := range w.open {
		if f.boundary == nil {
			continue
		}
		for rest := l.text[cr:]; ; {
			i := bytes.Index(rest, f.boundary)
			if i < 0 {
				break
			}
			if i > 0 && rest[i-1] == '\r' {
				f.part.flag(DefectBareCR, l.at)
				break
			}
			rest = rest[i+1:]
		}
	}
}

// readRange gives n bytes at off, without a copy where the content is one buffer.
func readRange(c Content, off, n int64) ([]byte, error) {
	if m, ok := c.(*buffer); ok {
		return m.b[off : off+n : off+n], nil
	}
	b := make([]byte, n)
	return b, readFull(c, b, off)
}
