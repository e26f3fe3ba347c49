package antivirus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

const (
	dialTimeout = 10 * time.Second
	// writeTimeout bounds one chunk: a clamd that takes none for so long has stopped.
	writeTimeout = 60 * time.Second
	// maxReply bounds clamd's reply in bytes.
	maxReply = 4096
	// chunkSize is how much is sent at once, in bytes; clamd reads into a buffer of its own anyway.
	chunkSize = 64 << 10
)

// reply is what clamd says of a stream. Its zero value is none.
type reply struct {
	kind replyKind
	// name of what was found.
	name string
}

type replyKind int

const (
	noReply replyKind = iota
	replyClean
	replyFound
	// replyLimit: clamd did not scan all of it.
	replyLimit
)

// limitNames are how clamd calls what it did not scan to its end (AlertExceedsMax) or could not open (AlertEncrypted).
var limitNames = []string{"Heuristics.Limits.Exceeded", "Heuristics.Encrypted"}

var (
	replyPrefix = regexp.MustCompile(`^(stream|instream\([^()]{0,100}\)): `)
	replyName   = regexp.MustCompile(`^[!-~]([ -~]{0,300}[!-~])?$`)
)

// parseReply reads what came until the connection's end or the first NUL, which has to be there: half a reply is none.
func parseReply(b []byte) (reply, error) {
	text, rest, whole := bytes.Cut(b, []byte{0})
	if !whole {
		return reply{}, fmt.Errorf("clamd: half a reply: %s", quote(string(b)))
	}
	if len(rest) > 0 {
		return reply{}, fmt.Errorf("clamd: more than one reply: %s", quote(string(b)))
	}
	s := string(text)
	if strings.HasPrefix(s, "INSTREAM size limit exceeded") {
		return reply{kind: replyLimit, name: "StreamMaxLength"}, nil
	}
	prefix := replyPrefix.FindString(s)
	if prefix == "" {
		return reply{}, fmt.Errorf("clamd: reply %s", quote(s))
	}
	s = s[len(prefix):]
	if s == "OK" {
		return reply{kind: replyClean}, nil
	}
	name, found := strings.CutSuffix(s, " FOUND")
	if !found || !replyName.MatchString(name) {
		return reply{}, fmt.Errorf("clamd: reply %s", quote(s))
	}
	for _, l := range limitNames {
		if strings.HasPrefix(name, l) {
			return reply{kind: replyLimit, name: name}, nil
		}
	}
	return reply{kind: replyFound, name: name}, nil
}

// instream sends c to clamd (INSTREAM) and gives its reply. An error is never a verdict. sent is called when clamd
// has all of it: from then on closing the connection does not stop the scan.
func instream(ctx context.Context, at endpoint, c mail.Content, sent func()) (reply, error) {
	dial := net.Dialer{Timeout: dialTimeout}
	conn, err := dial.DialContext(ctx, at.network, at.address)
	if err != nil {
		return reply{}, fmt.Errorf("clamd: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	// The reply is read all the while: clamd may refuse in the middle and close, and what it said is lost with a reset
	// that is noticed too late.
	type answer struct {
		reply reply
		err   error
	}
	answers := make(chan answer, 1)
	w := &stream{conn: conn}
	go func() {
		r, err := readReply(conn)
		w.stop()
		answers <- answer{r, err}
	}()
	werr := w.send(c)
	switch ours := (*contentError)(nil); {
	case werr == nil:
		sent()
	case errors.As(werr, &ours):
		conn.Close() // so that clamd does not wait for the rest
	default:
		// clamd has said why, or will say nothing.
		_ = conn.SetReadDeadline(time.Now().Add(dialTimeout))
	}
	a := <-answers
	switch {
	case ctx.Err() != nil && a.err != nil:
		return reply{}, fmt.Errorf("clamd: %w", context.Cause(ctx))
	case a.err != nil && werr != nil:
		return reply{}, fmt.Errorf("%w, after %w", a.err, werr)
	case a.err != nil:
		return reply{}, a.err
	case a.reply.kind == replyClean && werr != nil:
		return reply{}, fmt.Errorf("clamd: said OK to a part of the message: %w", werr)
	}
	return a.reply, nil
}

// errEarly says that clamd answered before it had the whole message.
var errEarly = errors.New("a reply before the end of the message")

func readReply(conn net.Conn) (reply, error) {
	b := make([]byte, 0, 256)
	for {
		if len(b) == maxReply {
			return reply{}, fmt.Errorf("clamd: a reply of more than %d bytes", maxReply)
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := conn.Read(b[len(b):min(cap(b), maxReply)])
		b = b[:len(b)+n]
		if bytes.IndexByte(b, 0) >= 0 {
			return parseReply(b)
		}
		if err == io.EOF {
			return parseReply(b)
		}
		if err != nil {
			return reply{}, fmt.Errorf("clamd: reading the reply: %w", err)
		}
	}
}

// contentError says that the message could not be read: nothing that clamd did.
type contentError struct{ err error }

func (e *contentError) Error() string { return "reading the message: " + e.err.Error() }
func (e *contentError) Unwrap() error { return e.err }

// stream is the sending half of INSTREAM.
type stream struct {
	conn net.Conn
	// stopped: clamd has answered, so that nobody may read what is still sent.
	stopped atomic.Bool
}

func (w *stream) stop() {
	w.stopped.Store(true)
	_ = w.conn.SetWriteDeadline(time.Unix(1, 0))
}

// send sends the command, then c in chunks, each with its length before it, then an empty one.
func (w *stream) send(c mail.Content) error {
	if err := w.write([]byte("zINSTREAM\x00")); err != nil {
		return err
	}
	frame := make([]byte, 4+chunkSize)
	r := mail.NewReader(c)
	for {
		n, err := io.ReadFull(r, frame[4:])
		if n > 0 {
			binary.BigEndian.PutUint32(frame, uint32(n))
			if err := w.write(frame[:4+n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return w.write(make([]byte, 4))
		case err != nil:
			return &contentError{err}
		}
	}
}

func (w *stream) write(b []byte) error {
	if err := w.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	// In this order: stop sets its deadline after stopped.
	if w.stopped.Load() {
		return errEarly
	}
	_, err := w.conn.Write(b)
	return err
}
