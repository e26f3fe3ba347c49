package smtpclient

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stagecoachmail/stagecoach/mail"
)

func parse(s string) (reply, error) {
	return readReply(bufio.NewReaderSize(strings.NewReader(s), 2*maxReplyLine))
}

func TestReply(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want mail.Reply
	}{
		"one line":                     {"250 ok\r\n", mail.Reply{Code: 250, Text: "ok"}},
		"code alone":                   {"250\r\n", mail.Reply{Code: 250}},
		"code and space":               {"354 \r\n", mail.Reply{Code: 354}},
		"bare LF":                      {"250 ok\n", mail.Reply{Code: 250, Text: "ok"}},
		"enhanced":                     {"550 5.1.1 no such user\r\n", mail.Reply{Code: 550, Enhanced: "5.1.1", Text: "no such user"}},
		"enhanced alone":               {"250 2.1.0\r\n", mail.Reply{Code: 250, Enhanced: "2.1.0"}},
		"enhanced, every line":         {"550-5.1.1 The account\r\n550-5.1.1  does not\r\n550 5.1.1 exist. x1\r\n", mail.Reply{Code: 550, Enhanced: "5.1.1", Text: "The account\n does not\nexist. x1"}},
		"enhanced, last line lacks it": {"452-4.2.2 full\r\n452 see 4.2.2\r\n", mail.Reply{Code: 452, Enhanced: "4.2.2", Text: "full\nsee 4.2.2"}},
		"other class":                  {"550 4.7.1 odd\r\n", mail.Reply{Code: 550, Text: "4.7.1 odd"}},
		"no status code":               {"550 5.1.1.1 odd\r\n", mail.Reply{Code: 550, Text: "5.1.1.1 odd"}},
		"too many digits":              {"550 5.1234.1 odd\r\n", mail.Reply{Code: 550, Text: "5.1234.1 odd"}},
		"spaces are kept":              {"550-  a  b \r\n550 \tc\r\n", mail.Reply{Code: 550, Text: "  a  b \n\tc"}},
		"control characters":           {"550 a\x00b\x1b[31mc\rd\x7f\r\n", mail.Reply{Code: 550, Text: "a?b?[31mc?d?"}},
		"broken UTF-8":                 {"550 gr\xfc\xdfe ü\r\n", mail.Reply{Code: 550, Text: "gr\uFFFDe ü"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parse(c.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := *r.mail(); got != c.want {
				t.Errorf("got %#v, want %#v", got, c.want)
			}
		})
	}
}

func TestReplyMalformed(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want error
	}{
		"empty":              {"", io.EOF},
		"no line end":        {"250 ok", io.ErrUnexpectedEOF},
		"ends in the middle": {"250-ok\r\n", io.ErrUnexpectedEOF},
		"code changes":       {"250-ok\r\n251 ok\r\n", errReplySyntax},
		"1yz":                {"150 ok\r\n", errReplySyntax},
		"6yz":                {"650 ok\r\n", errReplySyntax},
		"letters":            {"2x0 ok\r\n", errReplySyntax},
		"four digits":        {"2500 ok\r\n", errReplySyntax},
		"short":              {"25\r\n", errReplySyntax},
		"HTTP":               {"HTTP/1.1 400 Bad Request\r\n", errReplySyntax},
		"blank":              {"\r\n", errReplySyntax},
		"long line":          {"250 " + strings.Repeat("x", maxReplyLine) + "\r\n", errReplyLong},
		"endless line":       {"250 " + strings.Repeat("x", 1<<20), errReplyLong},
		"endless lines":      {strings.Repeat("250-x\r\n", 1<<16), errReplyLong},
		"many bytes":         {strings.Repeat("250-"+strings.Repeat("x", 1000)+"\r\n", 100), errReplyLong},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parse(c.in); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// What is read stays within its bounds, can travel as protobuf text and on a log line, and nothing of the next reply is taken.
func FuzzReply(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "550-5.1.1 a\r\n550 5.1.1 b\r\n", "354\r\n", "250-\x00\xff\r\n250 \r\r\n", "2\n", "550 4.4.4\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		const next = "221 next\r\n"
		r := bufio.NewReaderSize(strings.NewReader(s+next), 2*maxReplyLine)
		rep, err := readReply(r)
		if err != nil {
			return
		}
		m := rep.mail()
		if m.Code < 200 || m.Code > 599 || len(rep.lines) == 0 || len(rep.lines) > maxReplyLines {
			t.Fatalf("code %d, %d lines", m.Code, len(rep.lines))
		}
		if !utf8.ValidString(m.Text) || strings.ContainsAny(m.Text, "\r\x00\x1b") || strings.Count(m.Text, "\n") != len(rep.lines)-1 {
			t.Fatalf("text %q", m.Text)
		}
		if m.Enhanced != "" && int(m.Enhanced[0]-'0') != m.Code/100 {
			t.Fatalf("enhanced %q of %d", m.Enhanced, m.Code)
		}
		if rest, _ := io.ReadAll(r); !strings.HasSuffix(s+next, string(rest)) {
			t.Fatalf("rest %q", rest)
		}
	})
}
