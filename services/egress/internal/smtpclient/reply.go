package smtpclient

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Bounds on one reply. RFC 5321, section 4.5.3.1.5 allows lines of 512 bytes; servers exceed it with long explanations.
const (
	maxReplyLine  = 2048     // bytes, with the line end
	maxReplyLines = 128      // lines
	maxReplyBytes = 32 << 10 // bytes of text
)

var (
	errReplySyntax = errors.New("malformed reply")
	errReplyLong   = errors.New("reply too long")
)

// reply is one SMTP reply (RFC 5321, section 4.2) with its text lines, made printable.
type reply struct {
	code  int
	lines []string
}

// readReply reads one reply of any number of lines. Lines may end in a bare LF: some servers do that, and nothing
// can be smuggled through an answer that is only read.
func readReply(r *bufio.Reader) (reply, error) {
	var rep reply
	total := 0
	for {
		line, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull), len(line) > maxReplyLine:
			return rep, errReplyLong
		case errors.Is(err, io.EOF) && (len(line) > 0 || len(rep.lines) > 0):
			return rep, io.ErrUnexpectedEOF
		case err != nil:
			return rep, err
		}
		code, text, more, err := splitReplyLine(line)
		if err != nil {
			return rep, err
		}
		if len(rep.lines) > 0 && code != rep.code {
			return rep, fmt.Errorf("%w: code changes from %d to %d", errReplySyntax, rep.code, code)
		}
		total += len(text)
		if len(rep.lines) == maxReplyLines || total > maxReplyBytes {
			return rep, errReplyLong
		}
		rep.code, rep.lines = code, append(rep.lines, text)
		if !more {
			return rep, nil
		}
	}
}

func splitReplyLine(line []byte) (code int, text string, more bool, err error) {
	s := strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")
	if len(s) < 3 || s[0] < '2' || s[0] > '5' || !isDigit(s[1]) || !isDigit(s[2]) {
		return 0, "", false, fmt.Errorf("%w: %q", errReplySyntax, clip(s, 80))
	}
	code = int(s[0]-'0')*100 + int(s[1]-'0')*10 + int(s[2]-'0')
	if len(s) == 3 {
		return code, "", false, nil
	}
	switch s[3] {
	case '-':
		more = true
	case ' ':
	default:
		return 0, "", false, fmt.Errorf("%w: %q", errReplySyntax, clip(s, 80))
	}
	return code, printable(s[4:]), more, nil
}

// printable keeps a line as it came but for what may not go into a log, a report or a protobuf string.
func printable(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// mail turns the reply into the value that travels. The enhanced status code (RFC 2034) is taken off the lines that
// repeat it; one of another class than the reply code is no status code, and stays in the text.
func (r reply) mail() *mail.Reply {
	m := &mail.Reply{Code: r.code}
	lines := make([]string, len(r.lines))
	copy(lines, r.lines)
	if len(lines) > 0 {
		if code, _ := cutEnhanced(lines[0]); code != "" && int(code[0]-'0') == r.code/100 {
			m.Enhanced = code
		}
	}
	if m.Enhanced != "" {
		for i, l := range lines {
			if code, rest := cutEnhanced(l); code == m.Enhanced {
				lines[i] = rest
			}
		}
	}
	m.Text = strings.Join(lines, "\n")
	return m
}

// cutEnhanced splits "5.1.1 text" into the status code (RFC 3463, section 2) and the rest.
func cutEnhanced(s string) (code, rest string) {
	head, rest, _ := strings.Cut(s, " ")
	parts := strings.Split(head, ".")
	if len(parts) != 3 || len(parts[0]) != 1 || !strings.Contains("245", parts[0]) {
		return "", s
	}
	for _, p := range parts[1:] {
		if len(p) == 0 || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return "", s
		}
	}
	return head, rest
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}
