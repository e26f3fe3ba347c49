package antivirus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// ClamdReport is what a clamd says of itself.
type ClamdReport struct {
	// Version of the program, "ClamAV 1.4.1".
	Version string
	// Signed is when the daily signatures in use were made; zero: it has not said. clamd writes it in the time zone of
	// its machine without naming it, so it is exact to a day only.
	Signed time.Time
}

// ProbeClamd asks the clamd at an address as in Config.Clamd for its version (VERSION), which it answers once it has
// loaded its signatures. Nothing is scanned.
func ProbeClamd(ctx context.Context, address string) (ClamdReport, error) {
	at, err := parseClamd(address)
	if err != nil {
		return ClamdReport{}, fmt.Errorf("clamd: %w", err)
	}
	dial := net.Dialer{Timeout: dialTimeout}
	conn, err := dial.DialContext(ctx, at.network, at.address)
	if err != nil {
		return ClamdReport{}, fmt.Errorf("clamd: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, "zVERSION\x00"); err != nil {
		return ClamdReport{}, fmt.Errorf("clamd: %w", err)
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxReply))
	text, _, whole := bytes.Cut(answer, []byte{0})
	if !whole {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return ClamdReport{}, fmt.Errorf("clamd: no whole answer to VERSION: %w", errors.Join(err, fmt.Errorf("it said %s", quote(string(answer)))))
	}
	return parseVersion(string(text))
}

// parseVersion reads "ClamAV 1.4.1/27486/Mon Dec 16 09:42:13 2024". Without signatures there is the first part alone.
func parseVersion(s string) (ClamdReport, error) {
	version, rest, _ := strings.Cut(s, "/")
	if !strings.HasPrefix(version, "ClamAV ") {
		return ClamdReport{}, fmt.Errorf("clamd: VERSION gives %s", quote(s))
	}
	r := ClamdReport{Version: version}
	_, date, dated := strings.Cut(rest, "/")
	if signed, err := time.Parse(time.ANSIC, strings.TrimSpace(date)); dated && err == nil {
		r.Signed = signed
	}
	return r, nil
}
