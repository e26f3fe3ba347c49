package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// style is how a text looks, where there is colour.
type style string

const (
	normal style = ""
	bold   style = "1"
	faint  style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
)

// span is a text in one style. It need not be escaped: output does that.
type span struct {
	style style
	text  string
}

func text(format string, args ...any) span { return in(normal, format, args...) }

func in(s style, format string, args ...any) span {
	if len(args) == 0 {
		return span{s, format}
	}
	return span{s, fmt.Sprintf(format, args...)}
}

// output is where a command prints. What goes through it is escaped, line by line; only raw is not. A failed write
// is told by close.
type output struct {
	w *bufio.Writer
	// terminal: for eyes; else for a pipe.
	terminal, colour, utc, asJSON bool
	// width of the terminal in columns; 0: without bound.
	width    int
	now      func() time.Time
	location *time.Location
}

func newOutput(w io.Writer) *output { return &output{w: bufio.NewWriter(w)} }

func (o *output) close() error { return o.w.Flush() }

// line prints spans after an indent of so many spaces.
func (o *output) line(indent int, spans ...span) {
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", indent))
	for _, s := range spans {
		b.WriteString(o.paint(s.style, escape(s.text, true)))
	}
	o.put(b.String() + "\n")
}

func (o *output) blank() { o.put("\n") }

func (o *output) paint(s style, escaped string) string {
	if s == normal || !o.colour || escaped == "" {
		return escaped
	}
	return "\x1b[" + string(s) + "m" + escaped + "\x1b[0m"
}

// put and raw write as it is; bufio keeps the first error for close.
func (o *output) put(s string)    { _, _ = o.w.WriteString(s) } //nolint:errcheck // close tells
func (o *output) raw(data []byte) { _, _ = o.w.Write(data) }    //nolint:errcheck // close tells

// fact is a name with what is known of it.
type fact struct {
	name  string
	value span
}

// facts prints names and values in two columns; what is empty is left out.
func (o *output) facts(indent int, facts ...fact) {
	width := 0
	for _, f := range facts {
		if f.value.text != "" {
			width = max(width, columns(clean(f.name)))
		}
	}
	for _, f := range facts {
		if f.value.text != "" {
			name := clean(f.name)
			o.line(indent, in(faint, "%s", name+strings.Repeat(" ", width-columns(name)+2)), f.value)
		}
	}
}

// message prints m as one JSON document.
func (o *output) message(m proto.Message) error {
	doc, err := protoJSON(m)
	if err != nil {
		return err
	}
	return o.document(json.RawMessage(doc))
}

func protoJSON(m proto.Message) ([]byte, error) {
	return protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
}

// document prints v as one JSON document. The white space of protojson differs from build to build; this does not.
func (o *output) document(v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	var doc bytes.Buffer
	if err := json.Indent(&doc, b.Bytes(), "", "  "); err != nil {
		return err
	}
	o.raw(escapeJSON(doc.Bytes()))
	return nil
}
