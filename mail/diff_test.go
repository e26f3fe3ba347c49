package mail_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/stagecoachmail/stagecoach/mail"
)

func diffOf(t *testing.T, raw string, splices ...mail.Splice) mail.Diff {
	t.Helper()
	d, err := mail.NewDiff(mail.FromBytes([]byte(raw)), splices)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Validate(); err != nil {
		t.Fatal(err)
	}
	return d
}

func show(h mail.Hunk) string {
	return fmt.Sprintf("at %d: %q - %q + %q %q", h.Offset, h.Before, h.Removed, h.Inserted, h.After)
}

// at is the splice that replaces old, which stands once in raw.
func at(raw, old, with string) mail.Splice {
	return mail.Splice{Offset: int64(strings.Index(raw, old)), Length: int64(len(old)), Insert: []byte(with)}
}

func TestDiffShowsWhatWasChangedAmongItsLines(t *testing.T) {
	raw := "A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nE: 5\r\nF: 6\r\nG: 7\r\n\r\nbody\r\n" + strings.Repeat("long ", 100) + "\r\n"
	d := diffOf(t, raw, mail.Splice{Insert: []byte("X: y\r\n")}, at(raw, "5", "five"), mail.Splice{Offset: int64(strings.Index(raw, "\r\nF")), Insert: []byte("!")})
	if len(d.Hunks) != 2 || d.Cut {
		t.Fatalf("%+v", d)
	}
	if h := d.Hunks[0]; h.Offset != 0 || string(h.Inserted) != "X: y\r\n" || len(h.Before) != 0 || string(h.After) != "A: 1\r\nB: 2\r\nC: 3\r\n" {
		t.Error(show(h))
	}
	// What was shown after the first hunk is not shown again; splices that touch are one hunk.
	if h := d.Hunks[1]; string(h.Removed) != "5" || string(h.Inserted) != "five!" || string(h.Before) != "D: 4\r\nE: " || string(h.After) != "\r\nF: 6\r\nG: 7\r\n" {
		t.Error(show(h))
	}
	d = diffOf(t, raw, at(raw, "body", "text"))
	if h := d.Hunks[0]; string(h.Before) != "F: 6\r\nG: 7\r\n\r\n" || string(h.After) != "\r\n" {
		t.Errorf("a line that is longer than the context: %s", show(h))
	}
	d = diffOf(t, raw, mail.Splice{Offset: int64(len(raw) - 100), Length: 3})
	if h := d.Hunks[0]; len(h.Before) != mail.ContextLimit || len(h.After) != 97 || len(h.Removed) != 3 {
		t.Errorf("amid a long line: %s", show(h))
	}
	if d := diffOf(t, raw, mail.Splice{Offset: 4}); len(d.Hunks) != 0 {
		t.Errorf("a splice that changes nothing: %+v", d)
	}
}

func TestDiffIsCutWhereItIsLarge(t *testing.T) {
	raw := "S: 1\r\n\r\n" + strings.Repeat("0123456789abcde\n", 4<<10) // 64 KiB
	c := mail.FromBytes([]byte(raw))
	large := bytes.Repeat([]byte("x"), 1<<20)
	for _, splices := range [][]mail.Splice{
		{{Offset: 8, Length: 64 << 10, Insert: large}},
		{{Offset: 8, Length: 64 << 10}},
		{{Offset: 8, Insert: large}},
		{{Insert: large}, {Offset: 8, Length: 1}},
		many(4<<10, 16),
	} {
		d, err := mail.NewDiff(c, splices)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Validate(); err != nil {
			t.Error(err)
		}
		if !d.Cut || len(d.Hunks) == 0 {
			t.Errorf("%d hunks, cut %t", len(d.Hunks), d.Cut)
		}
		if _, err := d.Apply(c); !errors.Is(err, mail.ErrDiffCut) {
			t.Errorf("applied: %v", err)
		}
		for _, h := range d.Hunks {
			if cap(h.Inserted) > mail.DiffLimit+4<<10 {
				t.Errorf("%d bytes are kept for %d", cap(h.Inserted), len(h.Inserted))
			}
		}
	}
	// What is removed and what is inserted share the room; who needs less leaves it to the other.
	d, err := mail.NewDiff(c, []mail.Splice{{Offset: 8, Length: 64 << 10, Insert: large}})
	if h := d.Hunks[0]; err != nil || len(h.Removed) < 7<<10 || len(h.Inserted) < 7<<10 {
		t.Errorf("%d removed, %d inserted, %v", len(h.Removed), len(h.Inserted), err)
	}
	d, err = mail.NewDiff(c, []mail.Splice{{Offset: 8, Length: 2, Insert: large}})
	if h := d.Hunks[0]; err != nil || len(h.Removed) != 2 || len(h.Inserted) < 15<<10 {
		t.Errorf("%d removed, %d inserted, %v", len(h.Removed), len(h.Inserted), err)
	}
}

// many are n insertions, each so many bytes after the one before.
func many(n int, apart int64) (out []mail.Splice) {
	for i := range int64(n) {
		out = append(out, mail.Splice{Offset: 8 + i*apart, Insert: []byte("y")})
	}
	return out
}

func TestDiffDoesNotFitAnotherMessage(t *testing.T) {
	raw := "A: 1\r\n\r\nbody\r\n"
	d := diffOf(t, raw, at(raw, "body", "text"))
	for _, other := range []string{"A: 1\r\n\r\nbodY\r\n", "A: 1\r\n", ""} {
		if _, err := d.Apply(mail.FromBytes([]byte(other))); err == nil {
			t.Errorf("applied to %q", other)
		}
	}
}

func TestValidateDiff(t *testing.T) {
	for name, d := range map[string]mail.Diff{
		"too large":            {Hunks: []mail.Hunk{{Inserted: make([]byte, mail.DiffLimit)}}},
		"too many":             {Hunks: make([]mail.Hunk, 1000)},
		"context":              {Hunks: []mail.Hunk{{Inserted: []byte("x"), Before: make([]byte, mail.ContextLimit+1)}}},
		"negative":             {Hunks: []mail.Hunk{{Offset: -1}}},
		"beyond any message":   {Hunks: []mail.Hunk{{Offset: 1 << 62}, {Offset: 1<<62 + 1, Length: 1 << 62}}},
		"out of order":         {Hunks: []mail.Hunk{{Offset: 9}, {Offset: 3}}},
		"touching":             {Hunks: []mail.Hunk{{Offset: 3, Length: 1, Removed: []byte("x")}, {Offset: 4}}},
		"removed not shown":    {Hunks: []mail.Hunk{{Length: 5, Removed: []byte("x")}}},
		"more than it removes": {Cut: true, Hunks: []mail.Hunk{{Length: 1, Removed: []byte("xy")}}},
	} {
		if d.Validate() == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// inFile is content that is too large for one buffer.
func inFile(t testing.TB, raw []byte) mail.Content {
	t.Helper()
	b := mail.NewBuilder(t.TempDir())
	if _, err := b.Write(raw); err != nil {
		t.Fatal(err)
	}
	c, err := b.Content()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDiffOfWhatIsInAFile(t *testing.T) {
	raw := bytes.Repeat([]byte("0123456789abcde\n"), 128<<10)
	c := inFile(t, raw)
	defer c.Release()
	checkDiff(t, c, []mail.Splice{{Insert: []byte("A: 1\n")}, {Offset: 1 << 20, Length: 100, Insert: []byte("x")}, {Offset: 2 << 20, Insert: []byte("end")}})
	c.Release()
	if _, err := mail.NewDiff(c, []mail.Splice{{Offset: 5}, {Offset: 9, Length: 1}}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a content that cannot be read: %v", err)
	}
}

// checkDiff: a diff that is not cut says all that the splices do.
func checkDiff(t interface{ Fatalf(string, ...any) }, c mail.Content, splices []mail.Splice) (cut bool) {
	d, err := mail.NewDiff(c, splices)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if err := d.Validate(); err != nil {
		t.Fatalf("%v", err)
	}
	want, err := mail.Apply(c, splices)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer want.Release()
	if d.Cut {
		return true
	}
	got, err := d.Apply(c)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer got.Release()
	a, err := mail.ReadAll(want)
	if err != nil {
		t.Fatalf("%v", err)
	}
	b, err := mail.ReadAll(got)
	if err != nil || !bytes.Equal(a, b) {
		t.Fatalf("the diff gives %q (%v), the splices %q", b, err, a)
	}
	raw, err := mail.ReadAll(c)
	if err != nil {
		t.Fatalf("%v", err)
	}
	// What stands around a hunk stands there, and nothing is shown twice.
	shown := 0
	for _, h := range d.Hunks {
		from, to := int(h.Offset)-len(h.Before), int(h.Offset+h.Length)
		if from < shown || !bytes.Equal(raw[from:h.Offset], h.Before) || !bytes.HasPrefix(raw[to:], h.After) {
			t.Fatalf("around %s", show(h))
		}
		shown = to + len(h.After)
	}
	return false
}

func TestDiffProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := []byte(strings.Join(rapid.SliceOfN(rapid.StringMatching(`[a-z: ]{0,99}(\r?\n)?`), 0, 30).Draw(t, "raw"), ""))
		var splices []mail.Splice
		at := int64(0)
		for range rapid.IntRange(0, 8).Draw(t, "splices") {
			at += rapid.Int64Range(0, max(0, min(int64(len(raw))-at, 60))).Draw(t, "gap")
			s := mail.Splice{Offset: at, Length: rapid.Int64Range(0, min(int64(len(raw))-at, 40)).Draw(t, "length"), Insert: []byte(rapid.StringMatching(`[x\n]{0,40}`).Draw(t, "insert"))}
			at += s.Length
			splices = append(splices, s)
		}
		if checkDiff(t, mail.FromBytes(raw), splices) {
			t.Fatalf("so little is cut")
		}
	})
}

func FuzzDiff(f *testing.F) {
	f.Add([]byte("A: 1\r\n\r\nbody\r\n"), []byte{0, 0, 3, 2, 1, 0, 4, 4, 4})
	f.Add(bytes.Repeat([]byte("line of text\n"), 2000), []byte{0, 255, 255, 255, 255, 0})
	f.Fuzz(func(t *testing.T, raw, how []byte) {
		var splices []mail.Splice
		at := int64(0)
		for len(how) >= 3 {
			at = min(at+int64(how[0]), int64(len(raw)))
			s := mail.Splice{Offset: at, Length: min(int64(how[1])*int64(how[1]), int64(len(raw))-at), Insert: bytes.Repeat([]byte("i\n"), int(how[2])*2)}
			at += s.Length
			splices, how = append(splices, s), how[3:]
		}
		checkDiff(t, mail.FromBytes(raw), splices)
	})
}
