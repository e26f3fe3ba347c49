package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// jsonStream is a stream over HTTP: each message is a line of JSON (application/x-ndjson). If it ends with an error after
// the first line, the last line is {"error":{"code":…,"message":…}}.
type jsonStream struct {
	ctx     context.Context
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
	// lines are the messages of a request with many; nil: it has one, the body.
	lines *bufio.Scanner
	read  bool
	begun bool
}

func newJSONStream(ctx context.Context, w http.ResponseWriter, r *http.Request, many bool) *jsonStream {
	s := &jsonStream{ctx: ctx, w: w, r: r, control: http.NewResponseController(w)}
	if many {
		_ = s.control.EnableFullDuplex() //nolint:errcheck // HTTP/2 is so always
		s.lines = bufio.NewScanner(r.Body)
		s.lines.Buffer(nil, maxBody)
	}
	return s
}

// Context implements grpc.ServerStream.
func (s *jsonStream) Context() context.Context { return s.ctx }

// SetHeader implements grpc.ServerStream; there is no metadata here.
func (*jsonStream) SetHeader(metadata.MD) error { return nil }

// SendHeader implements grpc.ServerStream.
func (*jsonStream) SendHeader(metadata.MD) error { return nil }

// SetTrailer implements grpc.ServerStream.
func (*jsonStream) SetTrailer(metadata.MD) {}

// RecvMsg implements grpc.ServerStream.
func (s *jsonStream) RecvMsg(m any) error {
	if s.lines == nil {
		if s.read {
			return io.EOF
		}
		s.read = true
		return readBody(s.w, s.r, m)
	}
	_ = s.control.SetReadDeadline(time.Now().Add(bodyTime))       //nolint:errcheck // every connection of ours has one
	defer func() { _ = s.control.SetReadDeadline(time.Time{}) }() //nolint:errcheck // as above
	for s.lines.Scan() {
		if len(s.lines.Bytes()) > 0 {
			return decode(s.lines.Bytes(), m)
		}
	}
	switch err := s.lines.Err(); err {
	case nil:
		return io.EOF
	case bufio.ErrTooLong:
		return status.Errorf(codes.ResourceExhausted, "a line of a request has %d bytes at most", maxBody)
	default:
		return readError(err)
	}
}

// SendMsg implements grpc.ServerStream.
func (s *jsonStream) SendMsg(m any) error {
	data, err := encode(m)
	if err != nil {
		return err
	}
	return s.line(data)
}

func (s *jsonStream) line(data []byte) error {
	s.begin()
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTime)) //nolint:errcheck // every connection of ours has one
	_, err := s.w.Write(append(data, '\n'))
	if err == nil {
		err = s.control.Flush()
	}
	if err != nil {
		return status.Errorf(codes.Canceled, "the caller does not read: %v", err)
	}
	return nil
}

func (s *jsonStream) begin() {
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", "application/x-ndjson")
	}
}

// end tells how the call ended.
func (s *jsonStream) end(err error) {
	switch {
	case err == nil:
		s.begin()
	case !s.begun:
		writeError(s.w, err)
	default:
		if data, marshal := json.Marshal(map[string]jsonError{"error": errorOf(status.Convert(err))}); marshal == nil {
			_ = s.line(data) //nolint:errcheck // the caller is gone
		}
	}
}
