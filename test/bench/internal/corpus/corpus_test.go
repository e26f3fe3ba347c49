package corpus

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math"
	"mime"
	"mime/multipart"
	"net/mail"
	"slices"
	"strings"
	"testing"
)

const token = "b00001x00000001"

func bytesOf(t *testing.T, m *Message) []byte {
	t.Helper()
	var b bytes.Buffer
	buffers := m.Buffers(token)
	if _, err := buffers.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func build(t *testing.T, name string, seed uint64) *Corpus {
	t.Helper()
	c, err := New(name, seed, len(token))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSizes(t *testing.T) {
	for _, want := range []struct {
		name         string
		median, mean float64
	}{{"10k", 10_000, 10_000}, {"mixed", mixedMedian, mixedMean}, {"1m", 1_000_000, 1_000_000}, {"10m", 10_000_000, 10_000_000}} {
		var sizes []int
		total := 0
		for _, m := range build(t, want.name, 1).Messages {
			sizes = append(sizes, m.Size())
			total += m.Size()
		}
		slices.Sort(sizes)
		near := func(what string, got, want float64) {
			t.Helper()
			if math.Abs(got-want) > want*0.03 {
				t.Errorf("%s: %.0f bytes, want about %.0f", what, got, want)
			}
		}
		near(want.name+": median", float64(sizes[len(sizes)/2-1]+sizes[len(sizes)/2])/2, want.median)
		near(want.name+": mean", float64(total)/float64(len(sizes)), want.mean)
		if want.name != "mixed" {
			near(want.name+": smallest", float64(sizes[0]), want.mean)
			near(want.name+": largest", float64(sizes[len(sizes)-1]), want.mean)
		}
	}
}

// Any stretch of the mixed corpus has its share of small and large ones.
func TestSpread(t *testing.T) {
	c := build(t, "mixed", 1)
	for start := 0; start < mixedMessages; start += 32 {
		small := 0
		for i := range 32 {
			if c.At(start+i).Size() < mixedMedian {
				small++
			}
		}
		if small < 14 || small > 18 {
			t.Errorf("of 32 messages from %d on, %d are below the median", start, small)
		}
	}
}

func TestSameSeedSameBytes(t *testing.T) {
	digest := func(name string, seed uint64) [32]byte {
		h := sha256.New()
		for _, m := range build(t, name, seed).Messages {
			h.Write(bytesOf(t, &m))
		}
		return [32]byte(h.Sum(nil))
	}
	for _, name := range []string{"10k", "mixed", "1m"} {
		one, again, other := digest(name, 1), digest(name, 1), digest(name, 2)
		if one != again {
			t.Errorf("%s: not the same again", name)
		}
		if one == other {
			t.Errorf("%s: the same from another seed", name)
		}
	}
}

// What goes onto the wire is valid there, and as long as it says.
func TestWire(t *testing.T) {
	for _, name := range Names {
		for i, m := range build(t, name, 1).Messages {
			b := bytesOf(t, &m)
			if len(b) != m.Size() {
				t.Fatalf("%s %d: %d bytes, and it says %d", name, i, len(b), m.Size())
			}
			if !bytes.HasPrefix(b, []byte("Message-ID: <bench-"+token+"@")) {
				t.Fatalf("%s %d: no token", name, i)
			}
			if !bytes.HasSuffix(b, []byte("\r\n")) || bytes.Contains(b, []byte("\n.")) || bytes.ContainsRune(b, 0) {
				t.Fatalf("%s %d: no line end at its end, a dot at the start of a line, or a NUL", name, i)
			}
			if cr, lf, both := bytes.Count(b, []byte("\r")), bytes.Count(b, []byte("\n")), bytes.Count(b, []byte("\r\n")); cr != both || lf != both {
				t.Fatalf("%s %d: a bare CR or LF", name, i)
			}
			for line := range bytes.Lines(b) {
				if len(line) > 1000 {
					t.Fatalf("%s %d: a line of %d bytes", name, i, len(line))
				}
			}
		}
	}
}

// The mixed corpus has all kinds of messages and parts, and what is in it can be read.
func TestKinds(t *testing.T) {
	kinds := map[string]int{}
	for i, m := range build(t, "mixed", 1).Messages {
		msg, err := mail.ReadMessage(bytes.NewReader(bytesOf(t, &m)))
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		body, err := io.ReadAll(msg.Body)
		if err != nil {
			t.Fatal(err)
		}
		count(t, kinds, msg.Header.Get("Content-Type"), body)
	}
	for kind, least := range map[string]int{"text/plain": 200, "text/html": 150, "8-bit": 100, "multipart/alternative": 150, "multipart/mixed": 50,
		"application/pdf": 20, "image/jpeg": 20, "application/vnd.openxmlformats-officedocument.wordprocessingml.document": 20} {
		if kinds[kind] < least {
			t.Errorf("%s: %d times, want %d at least", kind, kinds[kind], least)
		}
	}
}

func count(t *testing.T, kinds map[string]int, contentType string, body []byte) {
	t.Helper()
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		t.Fatal(err)
	}
	kinds[kind]++
	if !strings.HasPrefix(kind, "multipart/") {
		if slices.ContainsFunc(body, func(b byte) bool { return b >= 0x80 }) {
			kinds["8-bit"]++
		}
		return
	}
	r := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for {
		part, err := r.NextRawPart()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		count(t, kinds, part.Header.Get("Content-Type"), b)
	}
}

func TestNoSuchCorpus(t *testing.T) {
	if _, err := New("2m", 1, 1); err == nil || !strings.Contains(err.Error(), "10k, mixed, 1m, 10m") {
		t.Errorf("error %v", err)
	}
}
