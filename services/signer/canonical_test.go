package signer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"strings"
	"testing"
	"testing/iotest"
)

func TestRelaxedField(t *testing.T) {
	for in, want := range map[string]string{
		"A: X\r\n":               "a:X\r\n",
		"B : Y\t\r\n\tZ  \r\n":   "b:Y Z\r\n", // RFC 6376, section 3.4.5
		"C:\r\n":                 "c:\r\n",
		"D: \r\n \r\n x\r\n":     "d:x\r\n",
		"Subject:a:b  c":         "subject:a:b c\r\n",
		"E: \xc3\xa4 \xa0 x\r\n": "e:\xc3\xa4 \xa0 x\r\n",
	} {
		if got := string(appendRelaxedField(nil, []byte(in))); got != want {
			t.Errorf("%q: %q, not %q", in, got, want)
		}
	}
}

func TestRelaxedBody(t *testing.T) {
	long := strings.Repeat("\r\n", 100_000)
	for in, want := range map[string]string{
		"":                                "",
		"\r\n\r\n":                        "",
		" \r\n\t\r\n":                     "",
		" C \r\nD \t E\r\n\r\n\r\n":       " C\r\nD E\r\n", // RFC 6376, section 3.4.5
		"no line end":                     "no line end\r\n",
		"no line end ":                    "no line end\r\n",
		"a\r\n \r\nb":                     "a\r\n\r\nb\r\n",
		"\r\na":                           "\r\na\r\n",
		"a" + long + "b" + long:           "a" + long + "b\r\n",
		strings.Repeat("0123 \r\n", 50e3): strings.Repeat("0123\r\n", 50e3),
	} {
		whole, err := hashBody(context.Background(), strings.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		if whole != sha256.Sum256([]byte(want)) {
			t.Errorf("%.40q is not hashed as %.40q", in, want)
		}
		if len(in) > 100 {
			continue
		}
		pieces, err := hashBody(context.Background(), iotest.OneByteReader(strings.NewReader(in)))
		if err != nil || pieces != whole {
			t.Errorf("%q: another hash when read in pieces (%v)", in, err)
		}
	}
}

func BenchmarkHashBody(b *testing.B) {
	body := bytes.Repeat([]byte("A line of text in a large message, as they are.\r\n"), 20_000)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := hashBody(context.Background(), bytes.NewReader(body)); err != nil {
			b.Fatal(err)
		}
	}
}
