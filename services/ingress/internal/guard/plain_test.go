package guard

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stagecoachmail/stagecoach/mail"
)

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a": "a\r\n", "a\n": "a\r\n", "a\r\n": "a\r\n", "a\nb\r\n\n.\n..\n": "a\r\nb\r\n\r\n.\r\n..\r\n", "\n": "\r\n",
		"a\rb\n": "554 5.6.0", "a\r": "554 5.6.0", "a\r\r\n": "554 5.6.0", "a\x00": "554 5.6.0",
		strings.Repeat("x", 1<<20):   strings.Repeat("x", 1<<20) + "\r\n",
		strings.Repeat("x", 1<<20+1): "554 5.6.0",
	} {
		for name, r := range map[string]io.Reader{
			"whole": strings.NewReader(in), "octet by octet": iotest.OneByteReader(strings.NewReader(in)), "with its end": iotest.DataErrReader(strings.NewReader(in)),
		} {
			b, err := io.ReadAll(NewPlain(r))
			got := string(b)
			if reply, ok := mail.AsReply(err); ok {
				got = reply.Public()[:9]
			} else if err != nil {
				t.Errorf("%.20q, %s: %v", in, name, err)
			}
			if got != want {
				t.Errorf("%.20q, %s: %.20q, want %.20q", in, name, got, want)
			}
		}
	}
	if _, err := io.ReadAll(NewPlain(iotest.ErrReader(io.ErrUnexpectedEOF))); err != io.ErrUnexpectedEOF {
		t.Errorf("%v", err)
	}
}

// FuzzPlain: what a client sends as it is comes through Body and Plain alike.
func FuzzPlain(f *testing.F) {
	f.Add("a: b\r\n\r\n.c\r\n")
	f.Add("a\n\rb")
	f.Add("a\x00\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		plain, err := io.ReadAll(NewPlain(strings.NewReader(text)))
		if err != nil {
			if strings.ContainsAny(text, "\r\x00") || len(text) > 1<<20 {
				return
			}
			t.Fatalf("%q: %v", text, err)
		}
		if want := strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\n", "\r\n"); string(plain) != want && string(plain) != want+"\r\n" {
			t.Fatalf("%q became %q", text, plain)
		}
		// As a client sends it, with its dots doubled.
		sent := strings.ReplaceAll("\r\n"+string(plain), "\r\n.", "\r\n..")[2:] + ".\r\n"
		s, dst := bodyState{}, make([]byte, len(sent)+2)
		used, n := s.scan(dst, []byte(sent), 1<<20)
		if used != len(sent) || !s.ended || s.fault != nil || string(dst[:n]) != string(plain) {
			t.Fatalf("%q: the guard says %q, %v", plain, dst[:n], s.fault)
		}
	})
}
