package guard

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// reference is the end of data, said in the simplest way: the message, its fault, and what follows it.
func reference(data []byte, limit int) (msg, rest []byte, ended bool, fault error) {
	whole := append([]byte("\r\n"), data...)
	i := bytes.Index(whole, []byte("\r\n.\r\n"))
	if i >= 0 {
		rest, ended = whole[i+5:], true
		whole = whole[:i+2]
	}
	content := whole[2:]
	if i == 0 {
		content = nil
	}
	first := len(content)
	note := func(at int, err error) {
		if at < first {
			first, fault = at, err
		}
	}
	line := 0
	for k, b := range content {
		switch {
		case b == 0:
			note(k, errBodyNUL)
		case b == '\n' && (k == 0 || content[k-1] != '\r'):
			note(k, errBodyLF)
		case b == '\r' && k+1 < len(content) && content[k+1] != '\n':
			note(k, errBodyCR)
		}
		if b == '\n' {
			line = 0
		} else if b != '\r' {
			dotted := b == '.' && (k == 0 || content[k-1] == '\n')
			if !dotted {
				if line++; line > limit {
					note(k, errBodyLine)
				}
			}
		}
	}
	unstuffed := bytes.ReplaceAll(append([]byte("\r\n"), content...), []byte("\r\n."), []byte("\r\n"))[2:]
	return unstuffed, rest, ended, fault
}

// play runs the scanner over data in pieces, and then, if there was a fault, reads the rest away.
func play(data []byte, limit, in, out int) (msg, rest []byte, ended bool, fault error) {
	s := bodyState{}
	dst := make([]byte, out)
	for len(data) > 0 && !s.ended && s.fault == nil {
		chunk := data[:min(in, len(data))]
		used, n := s.scan(dst, chunk, limit)
		msg = append(msg, dst[:n]...)
		if used == 0 && n == 0 && s.fault == nil {
			panic("no progress")
		}
		data = data[used:]
	}
	if s.fault != nil {
		for len(data) > 0 && !s.ended {
			data = data[s.skip(data[:min(in, len(data))]):]
		}
	}
	return msg, data, s.ended, s.fault
}

func checkBody(t *testing.T, data []byte, limit, in, out int) {
	t.Helper()
	wantMsg, wantRest, wantEnded, wantFault := reference(data, limit)
	msg, rest, ended, fault := play(data, limit, in, out)
	where := fmt.Sprintf("%q in %d out %d limit %d", data, in, out, limit)
	if ended != wantEnded {
		t.Fatalf("%s: ended %v, want %v", where, ended, wantEnded)
	}
	if !ended {
		return
	}
	if !errors.Is(fault, wantFault) && !(fault == nil && wantFault == nil) {
		t.Fatalf("%s: fault %v, want %v", where, fault, wantFault)
	}
	if !bytes.Equal(rest, wantRest) {
		t.Fatalf("%s: rest %q, want %q", where, rest, wantRest)
	}
	if fault == nil && !bytes.Equal(msg, wantMsg) {
		t.Fatalf("%s: message %q, want %q", where, msg, wantMsg)
	}
}

// TestBodyAllShort tries every string of eight over the octets that matter.
func TestBodyAllShort(t *testing.T) {
	const alphabet = "\r\n.x"
	const length = 8
	total := 1
	for range length {
		total *= len(alphabet)
	}
	data := make([]byte, length)
	for i := range total {
		for k, v := 0, i; k < length; k, v = k+1, v/len(alphabet) {
			data[k] = alphabet[v%len(alphabet)]
		}
		checkBody(t, data, 100, 1+i%3, 1+i%5)
	}
}

func FuzzBody(f *testing.F) {
	for _, s := range []string{".\r\n", "x\r\n.\r\nRSET\r\n", "\r\r\n.\r\n", "\r\n.\rX\r\n.\r\n", "a\x00b\r\n.\r\n", "..\r\n.\r\n", strings.Repeat("x", 50) + "\r\n.\r\n"} {
		f.Add([]byte(s), uint8(3), uint8(2))
	}
	f.Fuzz(func(t *testing.T, data []byte, in, out uint8) {
		checkBody(t, data, 20, 1+int(in), 1+int(out))
	})
}

func BenchmarkBody(b *testing.B) {
	data := []byte(strings.Repeat(strings.Repeat("x", 76)+"\r\n", 13000) + ".\r\n")
	dst := make([]byte, 32<<10)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		s := bodyState{}
		for src := data; len(src) > 0 && !s.ended; {
			used, _ := s.scan(dst, src[:min(len(src), 32<<10)], 1000)
			src = src[used:]
		}
	}
}
