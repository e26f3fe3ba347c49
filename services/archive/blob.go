package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// window bounds what compressing and reading a blob cost in memory.
const window = 1 << 20

func newEncoder() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
		zstd.WithWindowSize(window), zstd.WithZeroFrames(true))
}

// patient is a reader that ends with its context.
type patient struct {
	ctx context.Context
	r   io.Reader
}

func (p patient) Read(b []byte) (int, error) {
	if err := context.Cause(p.ctx); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}

func sumOf(ctx context.Context, r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, patient{ctx, r}); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// blobReader gives the bytes of a blob, and ErrDamaged in place of io.EOF when they are not those it is named for.
type blobReader struct {
	file *os.File
	dec  *zstd.Decoder
	hash hash.Hash
	sum  string
	left int64
	err  error
}

func openBlob(name, sum string, size int64) (*blobReader, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &blobReader{file: f, dec: dec, hash: sha256.New(), sum: sum, left: size}, nil
}

func (b *blobReader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.dec.Read(p)
	b.hash.Write(p[:n])
	b.left -= int64(n)
	switch {
	case b.left < 0:
		// A damaged blob may unpack without end.
		b.err = fmt.Errorf("blob %s is longer than its record says: %w", b.sum, ErrDamaged)
		return 0, b.err
	case err == nil:
		return n, nil
	case !errors.Is(err, io.EOF):
		b.err = fmt.Errorf("blob %s: %w (%w)", b.sum, ErrDamaged, err)
	case b.left > 0 || hex.EncodeToString(b.hash.Sum(nil)) != b.sum:
		b.err = fmt.Errorf("blob %s does not have its digest: %w", b.sum, ErrDamaged)
	default:
		b.err = io.EOF
	}
	return n, b.err
}

func (b *blobReader) Close() error {
	b.dec.Close()
	return b.file.Close()
}

// intact says whether the blob is there and whole.
func intact(ctx context.Context, name, sum string, size int64) (bool, error) {
	b, err := openBlob(name, sum, size)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = io.Copy(io.Discard, patient{ctx, b})
	if cerr := b.Close(); err == nil {
		err = cerr
	}
	if errors.Is(err, ErrDamaged) {
		return false, nil
	}
	return err == nil, err
}
