package mail

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"

	"pgregory.net/rapid"
)

// naive is what Apply must come to.
func naive(b []byte, splices []Splice) []byte {
	out := bytes.Clone(b)
	for i := len(splices) - 1; i >= 0; i-- {
		s := splices[i]
		tail := bytes.Clone(out[s.Offset+s.Length:])
		out = append(append(out[:s.Offset:s.Offset], s.Insert...), tail...)
	}
	return out
}

func drawSplices(t *rapid.T, size int64) []Splice {
	var list []Splice
	at := int64(0)
	for range rapid.IntRange(0, 6).Draw(t, "splices") {
		off := rapid.Int64Range(at, size).Draw(t, "offset")
		n := rapid.Int64Range(0, min(size-off, 300_000)).Draw(t, "length")
		ins := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "insert")
		list = append(list, Splice{off, n, ins})
		at = off + n
	}
	return list
}

// Whatever the form of a content, and however often it is changed, Apply comes to what a plain copy comes to.
func TestApplyProperty(t *testing.T) {
	dir := t.TempDir()
	big := pattern(InlineLimit + 200_000)
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.IntRange(0, 200), rapid.IntRange(InlineLimit-50, len(big))).Draw(t, "size")
		want := big[:n:n]
		var c Content
		if rapid.Bool().Draw(t, "memory") {
			c = FromBytes(want)
		} else {
			b := NewBuilder(dir)
			_, _ = b.Write(want)
			var err error
			if c, err = b.Content(); err != nil {
				t.Fatal(err)
			}
		}
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			splices := drawSplices(t, c.Size())
			want = naive(want, splices)
			d, err := Apply(c, splices)
			if err != nil {
				t.Fatal(err)
			}
			c.Release()
			c = d
			if _, inline := c.(*buffer); !inline && c.Size() <= InlineLimit && len(splices) > 0 {
				t.Fatalf("%d bytes in a %T", c.Size(), c)
			}
			got, err := ReadAll(c)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("differs, %v", err)
			}
			var w bytes.Buffer
			if _, err := c.WriteTo(&w); err != nil || !bytes.Equal(w.Bytes(), want) {
				t.Fatalf("WriteTo differs, %v", err)
			}
			if p, ok := c.(*pieces); ok {
				checkTable(t, p)
			}
		}
		c.Release()
	})
}

func checkTable(t *rapid.T, p *pieces) {
	at := int64(0)
	for _, q := range p.table {
		if q.start != at || q.length <= 0 || q.data != nil && int64(len(q.data)) != q.length {
			t.Fatalf("piece %+v at %d", q, at)
		}
		at += q.length
	}
	if at != p.size {
		t.Fatalf("pieces end at %d, size is %d", at, p.size)
	}
}

func TestApplyDoesNotCopyABody(t *testing.T) {
	c := build(t, make([]byte, 20<<20))
	defer c.Release()
	n := allocated(10, func() {
		d, err := Apply(c, []Splice{{Insert: []byte("X: y\r\n")}, {Offset: 10 << 20, Length: 5, Insert: []byte("z")}})
		if err != nil {
			t.Fatal(err)
		}
		d.Release()
	})
	if n > 2000 {
		t.Errorf("%d bytes allocated for two splices of 20 MiB", n)
	}
}

// allocated gives how many bytes a run of f allocates.
func allocated(runs uint64, f func()) uint64 {
	f()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return (after.TotalAlloc - before.TotalAlloc) / runs
}

func TestApplyForeignContent(t *testing.T) {
	want := pattern(InlineLimit + 100)
	base := &counting{Content: FromBytes(want)}
	c, err := Apply(base, []Splice{{Offset: 50, Length: 10, Insert: []byte("abc")}})
	if err != nil {
		t.Fatal(err)
	}
	d, err := Apply(c, []Splice{{Offset: 0, Length: 10}})
	if err != nil {
		t.Fatal(err)
	}
	checkContent(t, d, naive(want, []Splice{{0, 10, nil}, {50, 10, []byte("abc")}}))
	if base.n != 2 {
		t.Errorf("the base has %d owners more", base.n)
	}
	c.Release()
	d.Release()
	if base.n != 0 {
		t.Errorf("the base keeps %d owners", base.n)
	}
}

type counting struct {
	Content
	n int
}

func (c *counting) Retain() Content { c.n++; return c }
func (c *counting) Release()        { c.n-- }

func TestApplyNothingRetains(t *testing.T) {
	base := &counting{Content: FromBytes(nil)}
	c, err := Apply(base, nil)
	if err != nil || c != Content(base) || base.n != 1 {
		t.Errorf("%v, %v, %d owners", c, err, base.n)
	}
}

func TestApplyInsertionsAtOneOffsetKeepTheirOrder(t *testing.T) {
	c, err := Apply(FromBytes([]byte("ac")), []Splice{{1, 0, []byte("1")}, {1, 0, []byte("2")}, {1, 1, []byte("3")}, {2, 0, []byte("4")}})
	if err != nil {
		t.Fatal(err)
	}
	checkContent(t, c, []byte("a1234"))
}

func TestApplyRefuses(t *testing.T) {
	for name, splices := range map[string][]Splice{
		"unsorted":         {{5, 0, nil}, {4, 0, nil}},
		"overlapping":      {{2, 3, nil}, {4, 1, nil}},
		"inside":           {{2, 3, nil}, {2, 0, nil}},
		"offset beyond":    {{11, 0, nil}},
		"length beyond":    {{5, 6, nil}},
		"negative offset":  {{-1, 0, nil}},
		"negative length":  {{5, -1, nil}},
		"overflowing":      {{1, 1<<63 - 1, nil}},
		"second is beyond": {{1, 1, nil}, {9, 2, nil}},
	} {
		for _, c := range []Content{FromBytes(make([]byte, 10)), pieced(t, make([]byte, 10), 3)} {
			if _, err := Apply(c, splices); err == nil {
				t.Errorf("%s: applied", name)
			}
		}
		if err := (&Edits{Splices: splices}).Validate(10); err == nil {
			t.Errorf("%s: valid", name)
		}
	}
}

func FuzzApply(f *testing.F) {
	f.Add([]byte("hello world"), []byte{0, 0, 1, 0, 0, 2, 3, 0})
	f.Add([]byte(""), []byte{0, 0, 0, 0, 3})
	f.Fuzz(func(t *testing.T, b, code []byte) {
		var splices []Splice
		for len(code) >= 5 {
			off := int64(int16(binary.LittleEndian.Uint16(code)))
			length := int64(int16(binary.LittleEndian.Uint16(code[2:])))
			n := min(int(code[4]), len(code)-5)
			splices = append(splices, Splice{off, length, code[5 : 5+n]})
			code = code[5+n:]
		}
		valid := (&Edits{Splices: splices}).Validate(int64(len(b)))
		for _, c := range []Content{FromBytes(b), pieced(t, b, 5)} {
			d, err := Apply(c, splices)
			if (err == nil) != (valid == nil) {
				t.Fatalf("Validate says %v, Apply %v", valid, err)
			}
			if err != nil {
				continue
			}
			got, err := ReadAll(d)
			if err != nil || !bytes.Equal(got, naive(b, splices)) {
				t.Fatalf("differs: %q, %v", got, err)
			}
			d.Release()
		}
	})
}
