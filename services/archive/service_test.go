package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// served is a client of the service over the archives in folders, by the names of their stages.
func served(t *testing.T, dirs map[string]string, change func(*service)) adminv1.ArchiveServiceClient {
	t.Helper()
	cfg := &config.Config{DataDir: "/nowhere", Stages: map[string]*config.Stage{"other": {Name: "other", Type: "signer"}}}
	for name, dir := range dirs {
		cfg.Stages[name] = &config.Stage{Name: name, Type: Type, Decoded: Config{Path: dir}}
	}
	s := &service{current: func() *config.Config { return cfg }, log: slog.New(slog.DiscardHandler), patience: time.Minute}
	if change != nil {
		change(s)
	}
	l := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	adminv1.RegisterArchiveServiceServer(server, s)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return adminv1.NewArchiveServiceClient(conn)
}

// keep archives a message as it was received at a time.
func keep(t *testing.T, s *store, at time.Time, change func(*mail.Message)) string {
	t.Helper()
	m := message(mail.NewID(at), sample(t))
	if m.Received = at; change != nil {
		change(m)
	}
	if _, err := s.Put(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m.ID
}

// all pages to the end.
func all(t *testing.T, c adminv1.ArchiveServiceClient, r *adminv1.ListArchivedRequest) (ids []string, pages int) {
	t.Helper()
	for {
		resp, err := c.ListArchived(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		pages++
		for _, m := range resp.GetMessages() {
			ids = append(ids, m.GetId())
		}
		if r.PageToken = resp.GetNextPageToken(); r.PageToken == "" {
			return ids, pages
		}
		if pages > 10_000 {
			t.Fatal("pages without end")
		}
	}
}

func TestListArchived(t *testing.T) {
	dirs := map[string]string{"one": t.TempDir(), "two": t.TempDir(), "empty": filepath.Join(t.TempDir(), "not yet")}
	one, two := testStore(t, dirs["one"], osDisk{}), testStore(t, dirs["two"], osDisk{})
	dirs["same"] = dirs["one"] // shares a folder
	var ids []string           // oldest first
	days := []time.Time{noon.AddDate(0, -14, 0), noon.AddDate(0, 0, -1), noon}
	for d, day := range days {
		for i := range 10 {
			s := one
			if (i+d)%3 == 0 {
				s = two
			}
			ids = append(ids, keep(t, s, day.Add(time.Duration(i)*time.Minute), func(m *mail.Message) {
				if i == 4 {
					m.Envelope.ReversePath = mail.Address{}
				}
				if i == 5 {
					m.Envelope.Recipients[2].Address = mail.Address{Local: "Dora", Domain: "example.net"}
				}
			}))
		}
	}
	undatedID := keep(t, two, time.Time{}, func(m *mail.Message) { m.ID = "a foreign id" })
	newest := slices.Clone(ids)
	slices.Reverse(newest)
	newest = append(newest, undatedID)
	c := served(t, dirs, nil)

	for _, size := range []uint32{0, 1, 3, 31, 1000} {
		got, pages := all(t, c, &adminv1.ListArchivedRequest{PageSize: size})
		if !slices.Equal(got, newest) {
			t.Errorf("pages of %d:\n%v\nwant\n%v", size, got, newest)
		}
		if size == 3 && (pages < 11 || pages > 12) {
			t.Errorf("%d pages", pages)
		}
	}
	byDay := func(d int, want ...int) (out []string) {
		for _, i := range want {
			out = append(out, ids[10*d+i])
		}
		return out
	}
	for name, one := range map[string]struct {
		r    *adminv1.ListArchivedRequest
		want []string
	}{
		"a stage":     {&adminv1.ListArchivedRequest{Stage: "two", Since: timestamppb.New(days[2])}, byDay(2, 7, 4, 1)},
		"range":       {&adminv1.ListArchivedRequest{Since: timestamppb.New(days[1].Add(8 * time.Minute)), Until: timestamppb.New(days[2].Add(time.Minute))}, append(byDay(2, 1, 0), byDay(1, 9, 8)...)},
		"null sender": {&adminv1.ListArchivedRequest{Sender: "<>"}, append(append(byDay(2, 4), byDay(1, 4)...), byDay(0, 4)...)},
		"recipient":   {&adminv1.ListArchivedRequest{Recipient: "dora@example.net"}, append(append(byDay(2, 5), byDay(1, 5)...), byDay(0, 5)...)},
		"sender":      {&adminv1.ListArchivedRequest{Sender: "*@example.net"}, nil},
		"two at once": {&adminv1.ListArchivedRequest{Sender: "<>", Recipient: "dora@example.net"}, nil},
	} {
		for _, size := range []uint32{0, 1} {
			one.r.PageSize, one.r.PageToken = size, ""
			if got, _ := all(t, c, one.r); !slices.Equal(got, one.want) {
				t.Errorf("%s: %v, want %v", name, got, one.want)
			}
		}
	}
	for name, one := range map[string]struct {
		r    *adminv1.ListArchivedRequest
		code codes.Code
	}{
		"no such stage":  {&adminv1.ListArchivedRequest{Stage: "three"}, codes.NotFound},
		"not an archive": {&adminv1.ListArchivedRequest{Stage: "other"}, codes.NotFound},
		"not here":       {&adminv1.ListArchivedRequest{Stage: "empty"}, codes.FailedPrecondition},
		"token":          {&adminv1.ListArchivedRequest{PageToken: "x"}, codes.InvalidArgument},
		"page size":      {&adminv1.ListArchivedRequest{PageSize: 1001}, codes.InvalidArgument},
		"pattern":        {&adminv1.ListArchivedRequest{Sender: "@@"}, codes.InvalidArgument},
		"time":           {&adminv1.ListArchivedRequest{Until: &timestamppb.Timestamp{Nanos: -1}}, codes.InvalidArgument},
	} {
		if _, err := c.ListArchived(t.Context(), one.r); status.Code(err) != one.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What cannot be read is told of, whatever the filter, and does not hide the rest; neither do files of others.
func TestListDamaged(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, osDisk{})
	good, bad, half := keep(t, s, noon, nil), keep(t, s, noon.Add(time.Minute), nil), keep(t, s, noon.Add(2*time.Minute), nil)
	m := message(half, []byte("another form\r\n"))
	m.Received = noon.Add(2 * time.Minute)
	if _, err := s.Put(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	day := dayOf(noon)
	for _, id := range []string{bad, half} {
		if err := os.WriteFile(filepath.Join(dir, firstRecordName(day, id)), []byte("garbage"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, junk := range []string{".hidden.rec", "README", ".rec"} {
		if err := os.WriteFile(filepath.Join(dir, recordDir(day, good), junk), []byte("junk"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := served(t, map[string]string{"a": dir}, nil).ListArchived(t.Context(), &adminv1.ListArchivedRequest{Sender: "nobody@example.net"})
	if err != nil || len(resp.GetMessages()) != 1 || resp.GetMessages()[0].GetId() != bad || len(resp.GetMessages()[0].GetDamaged()) != 1 {
		t.Errorf("with a filter: %v, %v", resp.GetMessages(), err)
	}
	resp, err = served(t, map[string]string{"a": dir}, nil).ListArchived(t.Context(), &adminv1.ListArchivedRequest{})
	if err != nil || len(resp.GetMessages()) != 3 {
		t.Fatalf("%v, %v", resp.GetMessages(), err)
	}
	h, b, g := resp.GetMessages()[0], resp.GetMessages()[1], resp.GetMessages()[2]
	if h.GetId() != half || len(h.GetVersions()) != 1 || len(h.GetDamaged()) != 1 || len(b.GetVersions()) != 0 || g.GetId() != good || len(g.GetDamaged()) != 0 {
		t.Errorf("%v", resp.GetMessages())
	}
}

// A page is bounded in time: it ends where the time ends, and the next one goes on from there.
func TestListBounded(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, dir, osDisk{})
	var want []string
	for i := range 60 {
		want = append(want, keep(t, s, noon.AddDate(0, 0, -i), nil))
	}
	slow := served(t, map[string]string{"a": dir}, func(s *service) { s.patience = time.Millisecond })
	var got []string
	pages := 0
	r := &adminv1.ListArchivedRequest{PageSize: 1000}
	for range 10_000 {
		resp, err := slow.ListArchived(t.Context(), r)
		if status.Code(err) == codes.DeadlineExceeded {
			continue // not even one, this time
		}
		if err != nil {
			t.Fatal(err)
		}
		pages++
		for _, m := range resp.GetMessages() {
			got = append(got, m.GetId())
		}
		if r.PageToken = resp.GetNextPageToken(); r.PageToken == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d of %d", len(got), len(want))
	}
	if pages < 2 {
		t.Errorf("all in %d page, and a page is a millisecond", pages)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if _, err := slow.ListArchived(ctx, &adminv1.ListArchivedRequest{}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v", err)
	}
}

// retrieve gets a message with its bytes.
func retrieve(t *testing.T, c adminv1.ArchiveServiceClient, r *adminv1.GetArchivedRequest) (*adminv1.ArchivedMessage, []byte, error) {
	t.Helper()
	stream, err := c.GetArchived(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var m *adminv1.ArchivedMessage
	var b []byte
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return m, b, nil
		}
		if err != nil {
			return m, b, err
		}
		if got := resp.GetMessage(); got != nil {
			m = got
		}
		b = append(b, resp.GetChunk()...)
	}
}

func TestGetArchived(t *testing.T) {
	dirs := map[string]string{"one": t.TempDir(), "two": t.TempDir()}
	s := testStore(t, dirs["two"], osDisk{})
	testStore(t, dirs["one"], osDisk{})
	large := bytes.Repeat([]byte("all work and no play\r\n"), 40_000)
	id := keep(t, s, noon, func(m *mail.Message) { m.Content = mail.FromBytes(large) })
	m := message(id, []byte("another form\r\n"))
	s.now = func() time.Time { return noon.Add(time.Hour) }
	if _, err := s.Put(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	c := served(t, dirs, nil)
	entry, b, err := retrieve(t, c, &adminv1.GetArchivedRequest{Id: id})
	if err != nil || string(b) != "another form\r\n" || entry.GetStage() != "two" || len(entry.GetVersions()) != 2 || len(entry.GetVersions()[0].GetEnvelope().GetRecipients()) != 3 {
		t.Fatalf("%q, %v, %v", b, entry, err)
	}
	first := entry.GetVersions()[0]
	if _, b, err = retrieve(t, c, &adminv1.GetArchivedRequest{Id: id, Sha256: first.GetSha256(), Stage: "two"}); err != nil || !bytes.Equal(b, large) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if entry, b, err = retrieve(t, c, &adminv1.GetArchivedRequest{Id: id, WithoutContent: true}); err != nil || len(b) > 0 || entry.GetId() != id {
		t.Errorf("%d bytes, %v, %v", len(b), entry, err)
	}
	for _, r := range []*adminv1.GetArchivedRequest{{Id: "none"}, {}, {Id: id, Stage: "one"}, {Id: id, Sha256: strings.Repeat("0", 64)}, {Id: "../../" + id}, {Id: id, Stage: "x"}} {
		if _, _, err := retrieve(t, c, r); status.Code(err) != codes.NotFound {
			t.Errorf("%v: %v", r, err)
		}
	}
	// Bytes that are not those that were archived.
	blob := filepath.Join(dirs["two"], blobName(dayOf(noon), first.GetSha256()))
	raw, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	for what, damage := range map[string]func() error{
		"flipped":   func() error { raw[len(raw)/2] ^= 1; return os.WriteFile(blob, raw, 0o600) },
		"truncated": func() error { return os.Truncate(blob, int64(len(raw)/2)) },
		"gone":      func() error { return os.Remove(blob) },
	} {
		_ = os.Chmod(blob, 0o600)
		if err := damage(); err != nil {
			t.Fatal(what, err)
		}
		if _, _, err := retrieve(t, c, &adminv1.GetArchivedRequest{Id: id, Sha256: first.GetSha256()}); status.Code(err) != codes.DataLoss {
			t.Errorf("%s: %v", what, err)
		}
		if err := os.WriteFile(blob, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dirs["two"], firstRecordName(dayOf(noon), id)), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if entry, _, err := retrieve(t, c, &adminv1.GetArchivedRequest{Id: id}); err != nil || len(entry.GetDamaged()) != 1 || len(entry.GetVersions()) != 1 {
		t.Errorf("one damaged record: %v, %v", entry, err)
	}
}

// FuzzToken: a token names a position or is refused, and a position comes back as it was.
func FuzzToken(f *testing.F) {
	f.Add("")
	f.Add(position{day: "2025/11/22", name: "x", inst: "a"}.token())
	f.Add(position{day: undated}.token())
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseToken(s)
		if err != nil {
			return
		}
		if q, err := parseToken(p.token()); err != nil || q != p {
			t.Fatalf("%q: %+v, then %+v, %v", s, p, q, err)
		}
		// Wherever it is, listing from there on ends.
		w := newShortlist(p, 2)
		for i := range 5 {
			w.add(position{day: "2025/11/22", name: fmt.Sprint(i)}, "d", "f")
		}
		for _, a := range w.sorted() {
			if !a.after(p) {
				t.Fatalf("%+v is not after %+v", a.position, p)
			}
		}
	})
}
