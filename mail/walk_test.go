package mail

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files of what Walk finds")

// outline prints a tree: for each part its place, what it is, and its defects; for leaves the decoded body.
func outline(t testing.TB, c Content, p *Part, indent string, w *strings.Builder) {
	t.Helper()
	fmt.Fprintf(w, "%s%d-%d-%d %s %s", indent, p.Offset, p.Body, p.End, p.MediaType, p.Encoding)
	if p.Disposition != "" {
		fmt.Fprintf(w, " %s", p.Disposition)
	}
	if n := p.Filenames(); len(n) > 0 {
		fmt.Fprintf(w, " %q", n)
	}
	if p.IsSigned() {
		w.WriteString(" signed")
	}
	if p.IsEncrypted() {
		w.WriteString(" encrypted")
	}
	for _, d := range p.Defects {
		mark := "?"
		if d.Kind.Ambiguous() {
			mark = "!"
		}
		fmt.Fprintf(w, " %s%s@%d", mark, d.Kind, d.Offset)
	}
	w.WriteByte('\n')
	if len(p.Children) == 0 {
		r, err := p.Decoded(c)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(io.LimitReader(r, 60))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(w, "%s  %q\n", indent, b)
	}
	for _, q := range p.Children {
		outline(t, c, q, indent+"  ", w)
	}
}

// The mails in testdata/mime have LF line ends in the repository, and are walked with CRLF. What Walk finds is in the
// .want beside each; "!" marks the defects that are ambiguous.
func TestWalkGolden(t *testing.T) {
	mails, err := filepath.Glob("testdata/mime/*.eml")
	if err != nil || len(mails) < 20 {
		t.Fatalf("%d mails, %v", len(mails), err)
	}
	for _, name := range mails {
		t.Run(filepath.Base(name), func(t *testing.T) {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			b = bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))
			c := FromBytes(b)
			root, err := Walk(c)
			if err != nil {
				t.Fatal(err)
			}
			checkTree(t, b, root)
			var got strings.Builder
			outline(t, c, root, "", &got)
			golden := strings.TrimSuffix(name, ".eml") + ".want"
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
			}
		})
	}
}

// checkTree: every byte of a part is in exactly one of header, preamble, delimiter, child, epilogue, in order.
func checkTree(t testing.TB, b []byte, root *Part) {
	t.Helper()
	if root.Offset != 0 || root.End != int64(len(b)) {
		t.Fatalf("the root is %d-%d of %d bytes", root.Offset, root.End, len(b))
	}
	n := 0
	for p := range root.All() {
		n++
		if p.Offset > p.Body || p.Body > p.End || p.End > int64(len(b)) {
			t.Fatalf("part %d-%d-%d of %d bytes", p.Offset, p.Body, p.End, len(b))
		}
		checkHeader(t, p.Header, b, p.Offset)
		if p.Header.End != EndLimit && p.Header.Size != p.Body-p.Offset {
			t.Fatalf("part %d-%d has a header of %d bytes", p.Offset, p.Body, p.Header.Size)
		}
		if p.IsMessage() {
			if len(p.Children) > 1 || len(p.Children) == 1 && (p.Children[0].Offset != p.Body || p.Children[0].End != p.End) {
				t.Fatalf("the message in %d-%d-%d is not all of it", p.Offset, p.Body, p.End)
			}
			continue
		}
		var again []byte
		at := p.Body
		for i, d := range p.Delimiters {
			if d.Start < at || d.End < d.Start {
				t.Fatalf("delimiter %d-%d at %d", d.Start, d.End, at)
			}
			again = append(again, b[at:d.Start]...)
			again = append(again, b[d.Start:d.End]...)
			if !bytes.HasPrefix(bytes.TrimLeft(b[d.Start:d.End], "\r\n"), []byte("--")) {
				t.Fatalf("delimiter %q", b[d.Start:d.End])
			}
			at = d.End
			if p.Terminated && i == len(p.Delimiters)-1 {
				break
			}
			c := p.Children[i]
			if c.Offset != at {
				t.Fatalf("child %d begins at %d, the delimiter before it ends at %d", i, c.Offset, at)
			}
			again = append(again, b[c.Offset:c.End]...)
			at = c.End
		}
		again = append(again, b[at:p.End]...)
		if !bytes.Equal(again, b[p.Body:p.End]) {
			t.Fatalf("the pieces of %d-%d are not the whole", p.Body, p.End)
		}
		want := len(p.Delimiters)
		if p.Terminated {
			want--
		}
		if len(p.Children) != want {
			t.Fatalf("%d children, %d delimiters", len(p.Children), len(p.Delimiters))
		}
	}
	if n > MaxParts {
		t.Fatalf("%d parts", n)
	}
}

func crlf(s string) []byte { return []byte(strings.ReplaceAll(s, "\n", "\r\n")) }

func TestWalkDepthIsLimited(t *testing.T) {
	for name, unit := range map[string]string{"messages": "Content-Type: message/rfc822\n\n", "multiparts": ""} {
		var b strings.Builder
		for i := range 200 {
			if unit != "" {
				b.WriteString(unit)
			} else {
				fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=\"b%03d.\"\n\n--b%03d.\n", i, i)
			}
		}
		msg := crlf(b.String())
		root, err := Walk(FromBytes(msg))
		if err != nil {
			t.Fatal(err)
		}
		checkTree(t, msg, root)
		depth, p := 1, root
		for ; len(p.Children) > 0; p = p.Children[0] {
			depth++
		}
		if depth != MaxDepth {
			t.Errorf("%s: depth %d", name, depth)
		}
		if !has(p, DefectDepth) {
			t.Errorf("%s: the deepest has %v", name, p.Defects)
		}
	}
}

func has(p *Part, k DefectKind) bool {
	return slices.ContainsFunc(p.Defects, func(d Defect) bool { return d.Kind == k })
}

func TestWalkPartsAreLimited(t *testing.T) {
	msg := crlf("Content-Type: multipart/mixed; boundary=b\n\n" + strings.Repeat("--b\n\nx\n", MaxParts+10) + "--b--\n")
	root, err := Walk(FromBytes(msg))
	if err != nil {
		t.Fatal(err)
	}
	checkTree(t, msg, root)
	if len(root.Children) != MaxParts-1 || !has(root, DefectParts) {
		t.Errorf("%d children, %v", len(root.Children), root.Defects)
	}
}

func TestWalkHeadersAreLimited(t *testing.T) {
	part := "--b\nX: " + strings.Repeat("x", 600_000) + "\nContent-Type: text/html\n\nbody\n"
	msg := crlf("Content-Type: multipart/mixed; boundary=b\n\n" + strings.Repeat(part, 10) + "--b--\n")
	for _, c := range []Content{FromBytes(msg), build(t, msg)} {
		root, err := Walk(c)
		if err != nil {
			t.Fatal(err)
		}
		checkTree(t, msg, root)
		total, limited := int64(0), 0
		for p := range root.All() {
			total += p.Header.Size
			if has(p, DefectHeaderLimit) {
				limited++
			}
		}
		if total > maxWalkHeaders || limited != 4 {
			t.Errorf("%d bytes of headers, %d parts limited", total, limited)
		}
		c.Release()
	}
}

// Buffers end anywhere: the line ends of delimiters are found all the same.
func TestWalkBufferEdges(t *testing.T) {
	for shift := range 6 {
		body := strings.Repeat("x", walkBuffer-60+shift)
		for _, end := range []string{"\r\n", "\n"} {
			for fill := range 120 {
				msg := []byte("Content-Type: multipart/mixed; boundary=b" + end + end + "--b" + end + end +
					strings.Repeat("y", fill) + body + end + "--b--" + end)
				if fill%7 != 0 && fill < 100 {
					continue
				}
				root, err := Walk(FromBytes(msg))
				if err != nil {
					t.Fatal(err)
				}
				checkTree(t, msg, root)
				if len(root.Children) != 1 || !root.Terminated {
					t.Fatalf("fill %d: %d children", fill, len(root.Children))
				}
				if p := root.Children[0]; p.End-p.Body != int64(fill+len(body)) {
					t.Fatalf("fill %d: the part has %d bytes, want %d", fill, p.End-p.Body, fill+len(body))
				}
			}
		}
	}
	// A delimiter does not end in the middle of its line.
	long := []byte("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b" + strings.Repeat(" ", 2*walkBuffer) + "\r\n\r\nx")
	root, err := Walk(FromBytes(long))
	if err != nil {
		t.Fatal(err)
	}
	if !has(root, DefectBoundaryLike) || len(root.Children) != 0 {
		t.Errorf("%+v", root)
	}
}

func TestWalkLongLineBetweenCRAndLF(t *testing.T) {
	head := "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n"
	msg := []byte(head + strings.Repeat("x", walkBuffer-1) + "\r\n--b--\r\n")
	root, err := Walk(FromBytes(msg))
	if err != nil {
		t.Fatal(err)
	}
	if got := root.Children[0].End; got != int64(len(head)+walkBuffer-1) {
		t.Errorf("the part ends at %d, want %d", got, len(head)+walkBuffer-1)
	}
}

// Some readers take a CR for a line end, and so see a part where we see text.
func TestWalkBareCR(t *testing.T) {
	head := "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n"
	for body, want := range map[string]bool{
		"text\r--b\rContent-Type: application/x-sh\r\rrm": true,
		"x\rtext--b and --b\r--b":                         true,
		"text\rtext--b":                                   false,
		"text --b":                                        false,
	} {
		root, err := Walk(FromBytes([]byte(head + body + "\r\n--b--\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		if len(root.Children) != 1 || has(root, DefectBareCR) != want {
			t.Errorf("%q: %v", body, root.Defects)
		}
	}
}

func TestAmbiguity(t *testing.T) {
	for msg, want := range map[string]DefectKind{
		"Subject: x\n\nbody": "",
		"Content-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n":                                                "", // cut off
		"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/mixed\n\n--b--\n":             DefectNoBoundary,
		"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Transfer-Encoding: x-base64\n\nYQ==\n--b--\n": DefectOddEncoding,
	} {
		root, err := Walk(FromBytes(crlf(msg)))
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := root.Ambiguity(); d.Kind != want || ok != (want != "") {
			t.Errorf("%q: %v", msg, d)
		}
	}
}

// The same bytes give the same tree, whatever holds them; and a walk takes no memory for a body.
func TestWalkLargeFile(t *testing.T) {
	var b bytes.Buffer
	b.Write(crlf("From: a@b\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\ntext\n--b\nContent-Transfer-Encoding: base64\n\n"))
	line := []byte(strings.Repeat("QUJD", 19) + "\r\n")
	for b.Len() < 8<<20 {
		b.Write(line)
	}
	b.WriteString("--b--\r\n")
	file, memory := build(t, b.Bytes()), FromBytes(b.Bytes())
	defer file.Release()
	want, err := Walk(memory)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Walk(file)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Error("the trees differ")
	}
	file.Header()
	n := allocated(3, func() {
		if _, err := Walk(file); err != nil {
			t.Fatal(err)
		}
	})
	if n > 64<<10 {
		t.Errorf("%d bytes for a walk", n)
	}
	d, err := got.Children[1].Decoded(file)
	if err != nil {
		t.Fatal(err)
	}
	size, err := io.Copy(io.Discard, d)
	if err != nil || size < 5<<20 {
		t.Errorf("%d bytes decoded, %v", size, err)
	}
}

func FuzzWalk(f *testing.F) {
	mails, err := filepath.Glob("testdata/mime/*.eml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range mails {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(crlf(string(b)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := FromBytes(b)
		root, err := Walk(c)
		if err != nil {
			t.Fatal(err)
		}
		checkTree(t, b, root)
		for p := range root.All() {
			_ = p.Filenames()
			_, _ = p.IsSigned(), p.IsEncrypted()
			r, err := p.Decoded(c)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, r); err != nil {
				t.Fatal(err)
			}
		}
		again, err := Walk(pieced(t, b, 11))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(root, again) {
			t.Fatal("in pieces the tree differs")
		}
	})
}
