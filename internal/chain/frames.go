package chain

import (
	"fmt"
	"hash/crc32"

	"github.com/stagecoachmail/stagecoach/mail"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

const (
	// frameSize is the largest chunk of content on the wire, in bytes.
	frameSize = 256 << 10
	// maxContent bounds what a peer can make a service store for one message, in bytes.
	maxContent = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// framer cuts what is written to it into frames.
type framer struct {
	send func([]byte) error
	crc  uint32
	n    uint64
	err  error
}

func (f *framer) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		frame := rest[:min(len(rest), frameSize)]
		rest = rest[len(frame):]
		if err := f.send(frame); err != nil {
			f.err = err
			return 0, err
		}
		f.crc = crc32.Update(f.crc, castagnoli, frame)
		f.n += uint64(len(frame))
	}
	return len(p), nil
}

// sendContent sends c in frames and returns what proves it whole. An error of send is returned as it is.
func sendContent(c mail.Content, send func([]byte) error) (*stagev1.End, error) {
	f := &framer{send: send}
	if _, err := c.WriteTo(f); err != nil {
		if f.err != nil {
			return nil, f.err
		}
		return nil, fmt.Errorf("reading the message: %w", err)
	}
	return &stagev1.End{Length: f.n, Crc32C: f.crc}, nil
}

// collector puts frames together again.
type collector struct {
	b   *mail.Builder
	crc uint32
}

func newCollector(tempDir string) *collector { return &collector{b: mail.NewBuilder(tempDir)} }

func (c *collector) add(frame []byte) error {
	if c.b.Size()+int64(len(frame)) > maxContent {
		return fmt.Errorf("%w: a message of more than %d bytes", errWire, maxContent)
	}
	c.crc = crc32.Update(c.crc, castagnoli, frame)
	_, err := c.b.Write(frame)
	return err
}

// end returns the content if it is whole.
func (c *collector) end(e *stagev1.End) (mail.Content, error) {
	if uint64(c.b.Size()) != e.GetLength() || c.crc != e.GetCrc32C() {
		return nil, fmt.Errorf("%w: the content is not what its sender counted: %d bytes of %d", errWire, c.b.Size(), e.GetLength())
	}
	return c.b.Content()
}

func (c *collector) discard() { c.b.Discard() }
