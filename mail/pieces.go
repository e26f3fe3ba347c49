package mail

import (
	"fmt"
	"io"
	"os"
	"sort"
	"sync"
	"sync/atomic"
)

// copyBuffers serve WriteTo: a large message goes out in reads of this size, whatever the number of messages.
var copyBuffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// base is where the unchanged bytes of a piece table are: the temporary file, or a Content of another make.
type base interface {
	io.ReaderAt
	retain()
	release()
}

// tempFile is an unlinked temporary file with its owners: the contents whose piece tables point into it.
type tempFile struct {
	*os.File
	owners atomic.Int64
}

func (f *tempFile) retain() { f.owners.Add(1) }

func (f *tempFile) release() {
	if f.owners.Add(-1) == 0 {
		// Nobody reads it any more and it has no name: there is nothing that a failure could lose.
		_ = f.Close()
	}
}

type foreignBase struct{ Content }

func (f foreignBase) retain()  { f.Retain() }
func (f foreignBase) release() { f.Release() }

// piece is a run of bytes of a pieces content: data, or if that is nil, bytes of the base.
type piece struct {
	start  int64 // in the content
	length int64
	data   []byte
	off    int64 // in the base
}

// pieces is a Content too large for one buffer: runs of bytes of its base, and inserted ones in memory.
type pieces struct {
	table  []piece // sorted, without gaps and empty pieces
	size   int64
	base   base // nil if every piece has data
	owners atomic.Int64
	header lazyHeader
}

// newPieces takes over one ownership of b, which may be nil.
func newPieces(table []piece, size int64, b base) *pieces {
	p := &pieces{table: table, size: size, base: b}
	p.owners.Store(1)
	return p
}

func (p *pieces) Size() int64     { return p.size }
func (p *pieces) Header() *Header { return p.header.of(p) }

func (p *pieces) Retain() Content {
	for {
		n := p.owners.Load()
		// Who retains after the last Release has a defect; the base is gone, and every read will say so.
		if n <= 0 || p.owners.CompareAndSwap(n, n+1) {
			return p
		}
	}
}

func (p *pieces) Release() {
	for {
		n := p.owners.Load()
		// One Release too many must not take the file from other contents that share it.
		if n <= 0 {
			return
		}
		if p.owners.CompareAndSwap(n, n-1) {
			if n == 1 && p.base != nil {
				p.base.release()
			}
			return
		}
	}
}

// find gives the index of the piece that holds the byte at off.
func (p *pieces) find(off int64) int {
	return sort.Search(len(p.table), func(i int) bool { return p.table[i].start+p.table[i].length > off })
}

func (p *pieces) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read content: negative offset %d", off)
	}
	if p.owners.Load() <= 0 {
		return 0, fmt.Errorf("read content after its release: %w", os.ErrClosed)
	}
	done := 0
	for i := p.find(off); i < len(p.table) && done < len(b); i++ {
		q := &p.table[i]
		in := off + int64(done) - q.start
		want := b[done : done+int(min(int64(len(b)-done), q.length-in))]
		if q.data != nil {
			copy(want, q.data[in:])
		} else if err := readFull(p.base, want, q.off+in); err != nil {
			return done, fmt.Errorf("read content: %w", err)
		}
		done += len(want)
	}
	if done < len(b) {
		return done, io.EOF
	}
	return done, nil
}

func (p *pieces) WriteTo(w io.Writer) (int64, error) {
	if p.owners.Load() <= 0 {
		return 0, fmt.Errorf("read content after its release: %w", os.ErrClosed)
	}
	buf := copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(buf)
	var written int64
	write := func(b []byte) error {
		n, err := w.Write(b)
		written += int64(n)
		if err == nil && n < len(b) {
			err = io.ErrShortWrite
		}
		return err
	}
	for i := range p.table {
		q := &p.table[i]
		if q.data != nil {
			if err := write(q.data); err != nil {
				return written, err
			}
			continue
		}
		for in := int64(0); in < q.length; {
			b := buf[:min(int64(len(buf)), q.length-in)]
			if err := readFull(p.base, b, q.off+in); err != nil {
				return written, fmt.Errorf("read content: %w", err)
			}
			if err := write(b); err != nil {
				return written, err
			}
			in += int64(len(b))
		}
	}
	return written, nil
}
