package mail

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"io"
	"mime/quotedprintable"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

func decode(t testing.TB, encoding, in string) string {
	t.Helper()
	c := pieced(t, []byte("--head--"+in+"--tail--"), 9)
	p := &Part{Body: 8, End: 8 + int64(len(in)), Encoding: encoding}
	r, err := p.Decoded(c)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	r, _ = p.Decoded(c)
	slow, err := io.ReadAll(iotest.OneByteReader(r))
	if err != nil || !bytes.Equal(slow, b) {
		t.Fatalf("byte by byte %q is %q, %v, else %q", in, slow, err, b)
	}
	return string(b)
}

func TestDecoded(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, c := range []struct{ encoding, in, want string }{
		{"7bit", "a=41\r\n", "a=41\r\n"},
		{"8bit", "\xff", "\xff"},
		{"binary", "\x00\r", "\x00\r"},
		{"x-nonsense", "a=41", "a=41"},
		{"base64", "aGVsbG8=", "hello"},
		{"base64", "aGVsbG8", "hello"},
		{"base64", "aGVs\r\nbG8=\r\n", "hello"},
		{"base64", "a!G*V s-b_G8=", "hello"},
		{"base64", "aGVsbG8=aGVsbG8=", "hellohello"},
		{"base64", "aGVsbG8==\r\n\r\n--\r\naGk=", "hellohi"},
		{"base64", "", ""},
		{"base64", "a", ""},
		{"base64", "====", ""},
		{"quoted-printable", "a=3Db=3db", "a=b=b"},
		{"quoted-printable", "soft=\r\nbreak=\nagain= \t\r\nend=", "softbreakagainend"},
		{"quoted-printable", "trailing \t\r\nspace \nend  ", "trailing\r\nspace\nend"},
		{"quoted-printable", "bad =ZZ =4 =\t=", "bad =ZZ =4 =\t"},
		{"quoted-printable", "in the middle  of it", "in the middle  of it"},
		{"quoted-printable", "a=20\r\n", "a \r\n"},
		{"quoted-printable", "\xff=FF", "\xff\xff"},
		{"quoted-printable", long + "=41" + long, long + "A" + long},
		{"quoted-printable", long[:4095] + "=41", long[:4095] + "A"},
		{"quoted-printable", long[:4094] + "=41", long[:4094] + "A"},
		{"quoted-printable", long[:4095] + " \t \r\nx", long[:4095] + "\r\nx"},
		{"quoted-printable", long[:4095] + "=\r\nx", long[:4095] + "x"},
		{"quoted-printable", long[:4095] + "\r\nx", long[:4095] + "\r\nx"},
		{"quoted-printable", strings.Repeat(" ", 10000) + "\r\nx", "\r\nx"},
		{"x-uuencode", "text\r\nbegin 644 a.txt\r\n%:&5L;&\\\r\n`\r\nend\r\nmore\r\n", "hello"},
		{"uuencode", "begin 644 a\nM\n#\nend\n", ""},
	} {
		if got := decode(t, c.encoding, c.in); got != c.want {
			t.Errorf("%s of %.60q is %.60q, want %.60q", c.encoding, c.in, got, c.want)
		}
	}
	if _, err := (&Part{Body: 0, End: 5}).Decoded(FromBytes([]byte("abc"))); err == nil {
		t.Error("a part of another content is decoded")
	}
}

func TestDecodedProperty(t *testing.T) {
	tb := t
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte(" \t=\r\n"))), 0, 10000).Draw(t, "data")
		if got := decode(tb, "base64", base64.StdEncoding.EncodeToString(b)); got != string(b) {
			t.Fatalf("base64 of %q gives %q", b, got)
		}
		var w bytes.Buffer
		q := quotedprintable.NewWriter(&w)
		q.Binary = true
		_, _ = q.Write(b)
		_ = q.Close()
		if got := decode(tb, "quoted-printable", w.String()); got != string(b) {
			t.Fatalf("quoted-printable of %q gives %q", b, got)
		}
	})
}

// A line of white space has no end that could be waited for.
func TestQuotedPrintableMemoryIsBounded(t *testing.T) {
	d := &qpReader{r: bufio.NewReader(io.LimitReader(spaces{}, 8<<20))}
	most := 0
	b := make([]byte, 4096)
	for {
		_, err := d.Read(b)
		most = max(most, cap(d.pending), cap(d.out))
		if err != nil {
			break
		}
	}
	if most > 4*maxPending {
		t.Errorf("%d bytes held", most)
	}
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func FuzzDecoded(f *testing.F) {
	f.Add([]byte("a=\r\nb=4"), uint8(1))
	f.Add([]byte("aGk=aGk"), uint8(0))
	f.Add([]byte("begin 1 x\n#86)C\nend"), uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, e uint8) {
		out := decode(t, []string{"base64", "quoted-printable", "uue"}[e%3], string(b))
		if len(out) > len(b) {
			t.Fatalf("%d bytes from %d", len(out), len(b))
		}
	})
}
