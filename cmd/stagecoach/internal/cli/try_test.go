package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

func TestTry(t *testing.T) {
	f := newFake(t)
	f.preview = previewSample()
	dir := filepath.Join(t.TempDir(), "out")
	p := &person{stdin: letter}
	code := p.runs(t, "try", "-", "-o", dir, "--to", "bob@example.net", "--listener", "l", "--relay", "r", "--user", "u", "--client", "192.0.2.1", "--chain", "c", "--socket", f.socket)
	if code != ExitPartly {
		t.Fatalf("exit code %d, %s", code, p.stderr)
	}
	begin, end := f.asked[0].(*adminv1.PreviewRequest).GetBegin(), f.last(t).(*adminv1.PreviewRequest).GetEnd()
	if want := (&adminv1.PreviewBegin{ReversePath: "alice@example.com", Recipients: []string{"bob@example.net"}, Listener: "l", Relay: "r", User: "u", Client: "192.0.2.1", Chain: "c"}); !proto.Equal(begin, want) {
		t.Errorf("it began with %v", begin)
	}
	if chunk := f.asked[1].(*adminv1.PreviewRequest).GetChunk(); end.GetLength() != uint64(len(chunk)) || strings.Contains(string(chunk), "BCC") {
		t.Errorf("%q, %v", chunk, end)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "outbound-1.eml")); err != nil || string(got) != "From: alice@example.com\r\n\r\nhello\r\n" {
		t.Errorf("%q, %v", got, err)
	}
	if code := p.runs(t, "try", "-", "-o", dir, "--socket", f.socket); code == ExitDone {
		t.Error("a file was overwritten")
	}

	f.preview = f.preview[:len(f.preview)-1]
	p = &person{stdin: letter}
	if code := p.runs(t, "try", "-", "--stranger", "--from", "<>", "--socket", f.socket); code != ExitDone {
		t.Errorf("all would go out: %d, %s", code, p.stderr)
	}
	f.preview = f.preview[:1]
	p = &person{stdin: letter}
	if code := p.runs(t, "try", "-", "--socket", f.socket); code != ExitFailed || !strings.Contains(p.stderr, "no outcome") {
		t.Errorf("no outcome: %d, %s", code, p.stderr)
	}
	for c, want := range map[codes.Code]int{codes.FailedPrecondition: ExitPartly, codes.NotFound: ExitFailed} {
		f.fails = status.Error(c, "550 5.7.1 no")
		p = &person{stdin: letter}
		if code := p.runs(t, "try", "-", "--socket", f.socket); code != want || !strings.Contains(p.stderr, "550 5.7.1 no") {
			t.Errorf("%v: exit code %d, %s", c, code, p.stderr)
		}
	}
}

// A large message goes in frames.
func TestTryFrames(t *testing.T) {
	f := newFake(t)
	f.preview = previewSample()
	p := &person{stdin: letter + strings.Repeat("x\r\n", frame)}
	p.runs(t, "try", "-", "--socket", f.socket)
	size := 0
	var end *stagev1.End
	for _, r := range f.asked {
		r := r.(*adminv1.PreviewRequest)
		if len(r.GetChunk()) > frame {
			t.Errorf("a chunk of %d bytes", len(r.GetChunk()))
		}
		size += len(r.GetChunk())
		end = r.GetEnd()
	}
	if size < 3*frame || end.GetLength() != uint64(size) {
		t.Errorf("%d bytes, %v", size, end)
	}
}

func TestPassword(t *testing.T) {
	f := newFake(t)
	file := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(file, []byte("of file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		p      *person
		args   string
		want   string
		failed string
	}{
		{"typed twice", &person{terminal: true, secrets: []string{"typed", "typed"}}, "", "typed", ""},
		{"typed differently", &person{terminal: true, secrets: []string{"typed", "tiped"}}, "", "", "differ"},
		{"typed nothing", &person{terminal: true, secrets: []string{""}}, "", "", "empty"},
		{"pipe", &person{stdin: "piped\n"}, "", "piped", ""},
		{"empty pipe", &person{}, "", "", "empty"},
		{"file", &person{}, "--password-file " + file, "of file", ""},
	} {
		for _, verb := range []string{"add", "passwd"} {
			p := *c.p
			f.asked = nil
			code := p.runs(t, append([]string{"user", verb, "alice", "--socket", f.socket}, strings.Fields(c.args)...)...)
			if (code == ExitDone) != (c.failed == "") || !strings.Contains(p.stderr, c.failed) {
				t.Errorf("%s, %s: exit code %d, %s", c.name, verb, code, p.stderr)
			}
			if strings.Contains(p.stdout+p.stderr, "typed") && c.want != "" {
				t.Errorf("%s: the password was shown: %s%s", c.name, p.stdout, p.stderr)
			}
			if len(f.asked) == 0 {
				if c.want != "" {
					t.Errorf("%s: nothing was asked", c.name)
				}
				continue
			}
			r := f.last(t).(interface {
				GetName() string
				GetPassword() string
			})
			if r.GetName() != "alice" || r.GetPassword() != c.want {
				t.Errorf("%s: %v", c.name, r)
			}
		}
	}
}

// A file of users is edited without a running service.
func TestUserFile(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, c := range []struct {
		args, stdin string
		code        int
		says        string
	}{
		{"user add alice", "correct horse", ExitDone, ""},
		{"user add bob", "battery staple", ExitDone, ""},
		{"user add alice", "correct horse", ExitFailed, "there is a user of that name"},
		{"user add carol", "short", ExitFailed, "at least 8 octets"},
		{"user passwd bob", "another one", ExitDone, ""},
		{"user passwd nobody", "another one", ExitFailed, "no user"},
		{"user list", "", ExitDone, "alice\nbob\n"},
		{"user delete alice", "", ExitDone, ""},
		{"user list --json", "", ExitDone, `"bob"`},
	} {
		p := &person{stdin: c.stdin}
		if code := p.runs(t, append(strings.Fields(c.args), "--file", "users.yaml")...); code != c.code || !strings.Contains(p.stdout+p.stderr, c.says) {
			t.Errorf("%s: exit code %d, %s%s", c.args, code, p.stdout, p.stderr)
		}
	}
}
