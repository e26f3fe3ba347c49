package ingress

import (
	"errors"
	"hash/crc32"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// previewUpload reads the chunks of a preview. io.EOF means that the end has come, and that it proves them whole.
type previewUpload struct {
	stream previewStream
	chunk  []byte
	n      uint64
	crc    uint32
	err    error
}

// Read implements io.Reader.
func (u *previewUpload) Read(p []byte) (int, error) {
	for len(u.chunk) == 0 && u.err == nil {
		u.next()
	}
	if len(u.chunk) == 0 {
		return 0, u.err
	}
	n := copy(p, u.chunk)
	u.chunk = u.chunk[n:]
	return n, nil
}

func (u *previewUpload) next() {
	req, err := u.stream.Recv()
	switch {
	case errors.Is(err, io.EOF):
		u.err = status.Error(codes.InvalidArgument, "the preview ended without its end")
		return
	case err != nil:
		u.err = err
		return
	}
	switch k := req.GetKind().(type) {
	case *adminv1.PreviewRequest_Chunk:
		u.chunk = k.Chunk
		u.n += uint64(len(k.Chunk))
		u.crc = crc32.Update(u.crc, castagnoli, k.Chunk)
	case *adminv1.PreviewRequest_End:
		u.err = io.EOF
		if k.End.GetLength() != u.n || k.End.GetCrc32C() != u.crc {
			u.err = status.Error(codes.InvalidArgument, "the message of the preview is not whole: length or CRC-32C differ")
		}
	default:
		u.err = status.Error(codes.InvalidArgument, "a preview is begin, chunks and end")
	}
}
