package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
	"github.com/stagecoachmail/stagecoach/stage/stagetest"
)

// noon is in the past: files that a test makes are younger.
var noon = time.Date(2025, 11, 22, 12, 0, 0, 0, time.UTC)

func sample(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/bcc.eml")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// message has three recipients, one of which stands in no header field.
func message(id string, content []byte) *mail.Message {
	at := func(local string) mail.Address { return mail.Address{Local: local, Domain: "example.com"} }
	return &mail.Message{
		ID: id, Attempt: 1, Received: noon, Content: mail.FromBytes(content),
		Envelope: mail.Envelope{
			ReversePath: mail.Address{Local: "the sender", Domain: "example.org"},
			Recipients: []mail.Recipient{
				{ID: "1", Address: at("to"), Notify: "FAILURE,DELAY", ORcpt: "rfc822;to@example.com"},
				{ID: "2", Address: at("cc")}, {ID: "3", Address: at("bcc")},
			},
			Ret: "HDRS", EnvID: "env+1", EightBitMIME: true,
			Origin: mail.Origin{Direction: mail.Outbound, Listener: "submission", Relay: "staff", User: "anna", Client: "192.0.2.7", Helo: "client\xff", TLS: true},
		},
		Pending: []mail.RecipientID{"1", "2", "3"},
	}
}

func testStore(t testing.TB, dir string, d disk) *store {
	t.Helper()
	s, err := newStore(dir, d, func() time.Time { return noon }, 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func get(t testing.TB, dir, id string) *Entry {
	t.Helper()
	a, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	e, err := a.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func content(t testing.TB, v *Version) []byte {
	t.Helper()
	r, err := v.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// files lists the files of an archive, without their folders.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, d.Name())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func TestConformance(t *testing.T) {
	stagetest.Run(t, Factory(), stagetest.Suite{Samples: [][]byte{sample(t)}})
}

func TestProcess(t *testing.T) {
	data := t.TempDir()
	st, err := New(stage.Settings{Logger: slog.New(slog.DiscardHandler), DataDir: data, Now: func() time.Time { return noon }}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	m := message("01abc", sample(t))
	for _, want := range []string{"new", "again"} {
		res, err := st.Process(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if res.Verdict.Kind != stage.KindContinue || !res.Edits.Empty() || len(res.Forks) > 0 {
			t.Fatalf("result %+v, want continue, unchanged", res)
		}
		if got := res.Notes[1].Value.String(); got != want {
			t.Errorf("noted as %q, want %q", got, want)
		}
	}
	e := get(t, filepath.Join(data, "archive"), "01abc")
	if len(e.Versions) != 1 || !e.Received.Equal(noon) || len(e.Damaged) != 0 {
		t.Fatalf("entry %+v", e)
	}
	v := &e.Versions[0]
	if !reflect.DeepEqual(v.Envelope, m.Envelope) {
		t.Errorf("envelope %+v, want %+v", v.Envelope, m.Envelope)
	}
	if !bytes.Equal(content(t, v), sample(t)) {
		t.Error("the bytes are not those of the message")
	}
	if !v.Archived.Equal(noon) || !slices.Equal(v.Recipients, m.Pending) {
		t.Errorf("archived %v for %v", v.Archived, v.Recipients)
	}
	if n := len(files(t, filepath.Join(data, "archive"))); n != 2 {
		t.Errorf("%d files, want a blob and a record", n)
	}
	for name, mode := range map[string]fs.FileMode{"archive": 0o700 | fs.ModeDir, "archive/2025/11/22/records/" + hexSum([]byte("01abc"))[:2] + "/01abc.rec": 0o600} {
		if info, err := os.Stat(filepath.Join(data, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want mode %v", name, info.Mode(), err, mode)
		}
	}
}

// What was put in comes out, whatever it is, and is there once however often it was put in.
func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, quickDisk{})
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		str := rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 12), func(b []byte) string { return string(b) })
		n++
		m := &mail.Message{
			ID:      fmt.Sprintf("%d/%s", n, str.Draw(t, "id")),
			Content: mail.FromBytes(rapid.SliceOf(rapid.Byte()).Draw(t, "content")),
		}
		if rapid.Bool().Draw(t, "dated") {
			m.Received = noon.Add(time.Duration(rapid.Int64Range(-1e15, 1e15).Draw(t, "received")))
		}
		m.Envelope.ReversePath = mail.Address{Local: str.Draw(t, "local"), Domain: str.Draw(t, "domain")}
		m.Envelope.EnvID, m.Envelope.Origin.Helo = str.Draw(t, "envid"), str.Draw(t, "helo")
		m.Envelope.SMTPUTF8 = rapid.Bool().Draw(t, "smtputf8")
		for i := range rapid.IntRange(0, 3).Draw(t, "recipients") {
			id := mail.RecipientID(fmt.Sprint(i))
			m.Envelope.Recipients = append(m.Envelope.Recipients, mail.Recipient{ID: id, Address: mail.Address{Local: str.Draw(t, "to")}, ORcpt: str.Draw(t, "orcpt")})
			m.Pending = append(m.Pending, id)
		}
		for i := range 2 {
			k, err := s.Put(context.Background(), m)
			if err != nil || k.Further || k.Again != (i > 0) {
				t.Fatalf("put %d: %+v, %v", i, k, err)
			}
		}
		a, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		e, err := a.Get(m.ID)
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Versions) != 1 || e.ID != m.ID || !e.Received.Equal(m.Received) {
			t.Fatalf("entry %+v", e)
		}
		v := &e.Versions[0]
		if !reflect.DeepEqual(v.Envelope, m.Envelope) || !slices.Equal(v.Recipients, m.Pending) {
			t.Fatalf("envelope %+v for %v, want %+v", v.Envelope, v.Recipients, m.Envelope)
		}
		r, err := v.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		want, _ := mail.ReadAll(m.Content)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("content %q, %v; want %q", got, err, want)
		}
	})
}

func TestVersions(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, quickDisk{})
	put := func(m *mail.Message) kept {
		t.Helper()
		k, err := s.Put(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	m := message("v", sample(t))
	m.Pending = []mail.RecipientID{"1"}
	put(m)
	second := message("v", sample(t))
	second.Pending = []mail.RecipientID{"2", "3"} // the recipients of another chain
	if k := put(second); k.Again || !k.Further {
		t.Errorf("other recipients: %+v", k)
	}
	second.Pending = []mail.RecipientID{"3", "1"} // a later attempt for some of both
	if k := put(second); !k.Again {
		t.Errorf("recipients that are on record: %+v", k)
	}
	edited := message("v", append([]byte("X-Edited: yes\r\n"), sample(t)...))
	if k := put(edited); k.Again || !k.Further {
		t.Errorf("other bytes: %+v", k)
	}
	rewritten := message("v", sample(t))
	rewritten.Envelope.Recipients[2].Address.Local = "elsewhere"
	if k := put(rewritten); k.Again || !k.Further {
		t.Errorf("another envelope: %+v", k)
	}
	e := get(t, dir, "v")
	if len(e.Versions) != 3 {
		t.Fatalf("%d versions, want 3: %+v", len(e.Versions), e.Versions)
	}
	var originals, edits int
	for i := range e.Versions {
		v := &e.Versions[i]
		if !slices.Equal(v.Recipients, []mail.RecipientID{"1", "2", "3"}) {
			t.Errorf("version %d for %v", i, v.Recipients)
		}
		if bytes.HasPrefix(content(t, v), []byte("X-Edited")) {
			edits++
		} else {
			originals++
		}
	}
	if originals != 2 || edits != 1 {
		t.Errorf("%d originals, %d edited", originals, edits)
	}
	var blobs int
	for _, f := range files(t, dir) {
		if strings.HasSuffix(f, blobExt) {
			blobs++
		}
	}
	if blobs != 2 {
		t.Errorf("%d blobs, want one for each form of the bytes", blobs)
	}
}

// Several processes archive the same message at the same time, each for its recipients.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 8 {
		s := testStore(t, dir, quickDisk{})
		wg.Go(func() {
			for _, id := range []string{"a", "b"} {
				m := message(id, sample(t))
				m.Pending = []mail.RecipientID{mail.RecipientID(fmt.Sprint(i%3 + 1))}
				if _, err := s.Put(t.Context(), m); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, id := range []string{"a", "b"} {
		e := get(t, dir, id)
		if len(e.Versions) != 1 || !slices.Equal(e.Versions[0].Recipients, []mail.RecipientID{"1", "2", "3"}) {
			t.Errorf("%s: %+v", id, e)
		}
	}
}

func TestNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	s := testStore(t, dir, quickDisk{})
	for _, id := range []string{"../../../escape", "a/b", "", ".", "x\x00y", strings.Repeat("long", 100), "a", "a.b", "~a"} {
		if _, err := s.Put(t.Context(), message(id, []byte("Subject: "+hexSum([]byte(id))+"\r\n\r\n"))); err != nil {
			t.Errorf("%q: %v", id, err)
			continue
		}
		if e := get(t, dir, id); e.ID != id || len(e.Versions) != 1 || len(e.Damaged) != 0 {
			t.Errorf("%q: %+v", id, e)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the archive: %v, %v", entries, err)
	}
}

func TestNotFound(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of nothing: %v", err)
	}
	dir := t.TempDir()
	testStore(t, dir, quickDisk{})
	a, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Get("nobody"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get: %v, want ErrNotFound", err)
	}
}

func TestLarge(t *testing.T) {
	b := mail.NewBuilder(t.TempDir())
	r := rand.NewChaCha8([32]byte{1})
	if _, err := io.CopyN(b, r, 5<<20); err != nil {
		t.Fatal(err)
	}
	c, err := b.Content()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	dir := t.TempDir()
	m := message("large", nil)
	m.Content = c
	if _, err := testStore(t, dir, quickDisk{}).Put(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	v := &get(t, dir, "large").Versions[0]
	got := content(t, v)
	want, err := mail.ReadAll(c)
	if err != nil || v.Size != c.Size() || !bytes.Equal(got, want) {
		t.Errorf("not the bytes that were archived (%v)", err)
	}
}

func TestCancelled(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, quickDisk{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Put(ctx, message("c", sample(t))); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	// No compressor is free until the deadline.
	enc := []any{<-s.encoders, <-s.encoders}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Put(ctx, message("c", sample(t))); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	for range enc {
		e, _ := newEncoder()
		s.encoders <- e
	}
	if f := files(t, dir); len(f) > 0 {
		t.Errorf("left behind: %v", f)
	}
}

func TestConfig(t *testing.T) {
	s := stage.Settings{DataDir: "/data", ConfigDir: "/etc/mail"}
	for path, want := range map[string]string{"": "/data/archive", "kept": "/etc/mail/kept", "/srv/../srv/mail": "/srv/mail"} {
		c := Config{Path: path}
		if err := c.Validate(); err != nil || c.Dir(s) != want {
			t.Errorf("%q: %s, %v; want %s", path, c.Dir(s), err, want)
		}
	}
	if err := (&Config{Path: "a\x00b"}).Validate(); err == nil {
		t.Error("a path with NUL is taken")
	}
}
