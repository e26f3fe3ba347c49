package mail

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

// pieced makes a Content like those of large messages, of little data: bytes of a base and inserted ones in turn.
func pieced(t testing.TB, b []byte, step int) Content {
	t.Helper()
	// What stands in the base before the data must never be seen.
	base := foreignBase{FromBytes(append([]byte("prefix"), b...))}
	var tb tabler
	for at, n := 0, 0; at < len(b); at, n = at+step, n+1 {
		end := min(at+step, len(b))
		if n%2 == 0 {
			tb.add(piece{length: int64(end - at), off: int64(at + len("prefix"))})
		} else {
			tb.add(piece{length: int64(end - at), data: b[at:end:end]})
		}
	}
	return newPieces(tb.table, int64(len(b)), base)
}

func build(t testing.TB, b []byte) Content {
	t.Helper()
	bd := NewBuilder(t.TempDir())
	defer bd.Discard()
	if _, err := io.Copy(bd, iotest.HalfReader(bytes.NewReader(b))); err != nil {
		t.Fatal(err)
	}
	c, err := bd.Content()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

// checkContent compares everything that c says with want.
func checkContent(t testing.TB, c Content, want []byte) {
	t.Helper()
	if c.Size() != int64(len(want)) {
		t.Fatalf("size is %d, want %d", c.Size(), len(want))
	}
	got, err := ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("ReadAll differs")
	}
	var w bytes.Buffer
	if n, err := c.WriteTo(&w); err != nil || n != c.Size() || !bytes.Equal(w.Bytes(), want) {
		t.Fatalf("WriteTo gives %d bytes, %v", n, err)
	}
	if len(want) < 1<<12 {
		if err := iotest.TestReader(NewReader(c), want); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.ReadAt(make([]byte, 1), c.Size()); err != io.EOF {
		t.Fatalf("reading at the end gives %v", err)
	}
	if _, err := c.ReadAt(make([]byte, 1), -1); err == nil || err == io.EOF {
		t.Fatalf("reading at -1 gives %v", err)
	}
	b := make([]byte, 10)
	if n, err := c.ReadAt(b, max(c.Size()-4, 0)); err != io.EOF || !bytes.Equal(b[:n], want[max(len(want)-4, 0):]) {
		t.Fatalf("reading over the end gives %q, %v", b[:n], err)
	}
}

func TestContentForms(t *testing.T) {
	for _, n := range []int{0, 1, 100, InlineLimit - 1, InlineLimit, InlineLimit + 1, 3*InlineLimit + 17} {
		b := pattern(n)
		c := build(t, b)
		if _, inline := c.(*buffer); inline != (n <= InlineLimit) {
			t.Errorf("%d bytes: a %T", n, c)
		}
		checkContent(t, c, b)
		checkContent(t, FromBytes(b), b)
		checkContent(t, pieced(t, b, max(n/7, 1)), b)
		c.Release()
	}
}

func TestReadAllSharesTheBuffer(t *testing.T) {
	b := []byte("abc")
	got, err := ReadAll(FromBytes(b))
	if err != nil || &got[0] != &b[0] {
		t.Error("ReadAll copies a buffer")
	}
}

func TestBuilderGrow(t *testing.T) {
	b := NewBuilder("")
	b.Grow(1000)
	buf := b.buf[:0]
	if _, err := b.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if &buf[:1][0] != &b.buf[0] || b.Size() != 1000 {
		t.Error("the buffer was made again")
	}
	b.Grow(1 << 40)
	if cap(b.buf) > 2000 {
		t.Error("a claim of a large message takes memory")
	}
}

func TestBuilderEnds(t *testing.T) {
	b := NewBuilder("")
	if _, err := b.Content(); err != nil {
		t.Fatal(err)
	}
	b.Discard()
	if _, err := b.Write([]byte("x")); err == nil {
		t.Error("an ended builder takes bytes")
	}
	if _, err := b.Content(); err == nil {
		t.Error("an ended builder gives a second content")
	}
}

func TestBuilderErrorStays(t *testing.T) {
	b := NewBuilder(t.TempDir() + "/missing")
	if _, err := b.Write(make([]byte, InlineLimit)); err != nil {
		t.Fatal(err)
	}
	_, first := b.Write([]byte("x"))
	if !errors.Is(first, os.ErrNotExist) {
		t.Fatalf("no directory for the file, and the error is %v", first)
	}
	if _, err := b.Write(nil); err != first {
		t.Errorf("the second error is %v", err)
	}
	if c, err := b.Content(); c != nil || err != first {
		t.Errorf("after an error Content gives %v, %v", c, err)
	}
}

// files counts the open files of this process.
func files(t *testing.T) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("counts files by /proc")
	}
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func TestLastReleaseClosesTheFile(t *testing.T) {
	dir := t.TempDir()
	before := files(t)
	b := NewBuilder(dir)
	if _, err := b.Write(make([]byte, 2*InlineLimit)); err != nil {
		t.Fatal(err)
	}
	c, err := b.Content()
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the temporary file has a name: %v, %v", left, err)
	}
	d, err := Apply(c, []Splice{{Insert: []byte("X: y\r\n")}})
	if err != nil {
		t.Fatal(err)
	}
	e, err := Apply(d, []Splice{{Offset: 3, Length: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if n := files(t); n != before+1 {
		t.Errorf("%d files for three contents", n-before)
	}
	if c.Retain() != c {
		t.Error("Retain gives another content")
	}
	c.Release()
	c.Release()
	c.Release() // one too many: the others still need the file
	d.Release()
	if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a released content reads: %v", err)
	}
	if _, err := d.WriteTo(io.Discard); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a released content writes: %v", err)
	}
	if n := files(t); n != before+1 {
		t.Errorf("%d files while one content is left", n-before)
	}
	checkContent(t, e, append([]byte("X: \r\n"), make([]byte, 2*InlineLimit)...))
	e.Release()
	if n := files(t); n != before {
		t.Errorf("%d files after the last release", n-before)
	}

	f := NewBuilder(dir)
	if _, err := f.Write(make([]byte, 2*InlineLimit)); err != nil {
		t.Fatal(err)
	}
	f.Discard()
	if n := files(t); n != before {
		t.Errorf("%d files after Discard", n-before)
	}
}

func TestContentIsSafeForConcurrentUse(t *testing.T) {
	want := append([]byte("Subject: x\r\nA: b\r\n\r\n"), pattern(2*InlineLimit)...)
	c := build(t, want)
	var wg sync.WaitGroup
	headers := make([]*Header, 8)
	for i := range headers {
		c.Retain()
		wg.Go(func() {
			defer c.Release()
			headers[i] = c.Header()
			d, err := Apply(c, []Splice{{Offset: int64(i), Length: 1, Insert: []byte{byte(i)}}})
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Release()
			var b bytes.Buffer
			if _, err := d.WriteTo(&b); err != nil {
				t.Error(err)
			}
			exp := bytes.Clone(want)
			exp[i] = byte(i)
			if !bytes.Equal(b.Bytes(), exp) {
				t.Error("bytes differ")
			}
		})
	}
	wg.Wait()
	for _, h := range headers {
		if h != headers[0] {
			t.Error("the header is parsed more than once")
		}
	}
	c.Release()
}

type shortWriter struct{ err error }

func (w shortWriter) Write(p []byte) (int, error) { return len(p) / 2, w.err }

func TestWriteToTellsOfErrors(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []Content{FromBytes([]byte("abcdef")), pieced(t, []byte("abcdef"), 2)} {
		if n, err := c.WriteTo(shortWriter{}); err != io.ErrShortWrite || n == 6 {
			t.Errorf("%T: %d, %v", c, n, err)
		}
		if _, err := c.WriteTo(shortWriter{boom}); err != boom {
			t.Errorf("%T: %v", c, err)
		}
	}
}

// broken is a Content whose disk fails.
type broken struct {
	Content
	err error
}

func (b broken) ReadAt([]byte, int64) (int, error) { return 0, b.err }

func TestReadErrorsAreNoVerdict(t *testing.T) {
	boom := errors.New("boom")
	text := strings.Repeat("x", 100)
	c := broken{FromBytes([]byte("A: b\r\n\r\n" + text)), boom}
	if _, err := ReadAll(c); !errors.Is(err, boom) {
		t.Errorf("ReadAll: %v", err)
	}
	if h := readHeader(c); h.End != EndUnreadable || !errors.Is(h.Err, boom) {
		t.Errorf("header: %+v", h)
	}
	if _, err := Walk(c); !errors.Is(err, boom) {
		t.Errorf("Walk: %v", err)
	}
	if _, err := Apply(c, []Splice{{Insert: []byte("x")}}); !errors.Is(err, boom) {
		t.Errorf("Apply: %v", err)
	}
	p := newPieces([]piece{{length: c.Size()}}, c.Size(), foreignBase{c})
	if h := p.Header(); h.End != EndUnreadable {
		t.Errorf("header of a broken file: %+v", h)
	}
	if p.header.parsed.Load() != nil {
		t.Error("a header that could not be read is kept")
	}
	if _, err := p.WriteTo(io.Discard); !errors.Is(err, boom) {
		t.Errorf("WriteTo: %v", err)
	}
	// A file that became shorter is an error, never an end.
	s := newPieces([]piece{{length: 200}}, 200, foreignBase{FromBytes([]byte(text))})
	if _, err := ReadAll(s); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a short file: %v", err)
	}
}
