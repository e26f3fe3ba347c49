package users

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"
)

// cheap makes the PHC string of a password with the least cost.
func cheap(password string) string {
	h := hash{memory: 8, time: 1, lanes: 1, salt: []byte("saltsalt")}
	h.key = argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.lanes, 16)
	return h.String()
}

func write(t *testing.T, name, text string, modified time.Time) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, modified, modified); err != nil {
		t.Fatal(err)
	}
}

func file(entries ...string) string {
	out := "users:\n"
	for i := 0; i+1 < len(entries); i += 2 {
		out += "  " + entries[i] + ": {password: \"" + entries[i+1] + "\"}\n"
	}
	return out
}

func verify(t *testing.T, s *Store, user, password string) bool {
	t.Helper()
	ok, err := s.Verify(t.Context(), user, password)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func TestVerify(t *testing.T) {
	name := filepath.Join(t.TempDir(), "users.yaml")
	write(t, name, file("alice", cheap("secret"), "bob@example.com", cheap("other"), "empty", cheap("")), time.Now())
	s, err := Open(name, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct {
		user, password string
		want           bool
	}{
		{"alice", "secret", true}, {"bob@example.com", "other", true},
		{"alice", "other", false}, {"alice", "", false}, {"Alice", "secret", false}, {"", "", false},
		{"nobody", "secret", false}, {"empty", "", false}, {"alice", strings.Repeat("x", 5000), false},
	} {
		if got := verify(t, s, one.user, one.password); got != one.want {
			t.Errorf("%q %q: %v", one.user, one.password, got)
		}
	}
}

func TestUnknownUsersCostTheSame(t *testing.T) {
	tab, err := parse([]byte(file("a", cheap("x"), "b", "$argon2id$v=19$m=64,t=3,p=2$c2FsdHNhbHQ$MDEyMzQ1Njc4OWFiY2RlZg")))
	if err != nil {
		t.Fatal(err)
	}
	if tab.dummy.memory != 64 || tab.dummy.time != 3 || tab.dummy.lanes != 2 {
		t.Errorf("dummy %+v", tab.dummy)
	}
}

func TestHash(t *testing.T) {
	one, err := Hash("pass word")
	if err != nil {
		t.Fatal(err)
	}
	two, _ := Hash("pass word")
	if one == two {
		t.Error("no salt")
	}
	h, err := parsePHC(one)
	if err != nil || !h.matches("pass word") || h.matches("password") {
		t.Errorf("%s: %v", one, err)
	}
	if _, err := Hash(""); err == nil {
		t.Error("an empty password was hashed")
	}
}

func TestReload(t *testing.T) {
	name := filepath.Join(t.TempDir(), "users.yaml")
	now := time.Now()
	var log strings.Builder
	write(t, name, file("alice", cheap("one")), now)
	s, err := Open(name, slog.New(slog.NewTextHandler(&log, nil)), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	write(t, name, file("alice", cheap("two")), now.Add(time.Minute))
	if verify(t, s, "alice", "two") {
		t.Error("the file is read at every login")
	}
	now = now.Add(2 * time.Second)
	if !verify(t, s, "alice", "two") || verify(t, s, "alice", "one") {
		t.Error("the change is not seen")
	}
	write(t, name, "users: {alice: {password: plain}}", now.Add(2*time.Minute))
	now = now.Add(2 * time.Second)
	if !verify(t, s, "alice", "two") {
		t.Error("a broken file takes effect")
	}
	if !strings.Contains(log.String(), "users file not taken") || strings.Contains(log.String(), "plain") {
		t.Errorf("log: %s", log.String())
	}
	if err := s.SetPath(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) || !s.Configured() {
		t.Errorf("error %v", err)
	}
	if err := s.SetPath(""); err != nil || s.Configured() || verify(t, s, "alice", "two") {
		t.Errorf("without a file: %v", err)
	}
}

func TestMalformedFiles(t *testing.T) {
	good := cheap("x")
	for name, text := range map[string]string{
		"unknown key":     "users: {a: {password: \"" + good + "\", admin: true}}",
		"unknown top key": "users: {}\nmore: 1",
		"twice":           "users:\n  a: {password: \"" + good + "\"}\n  a: {password: \"" + good + "\"}\n",
		"no password":     "users: {a: {}}",
		"plain":           "users: {a: {password: hunter2}}",
		"bcrypt":          "users: {a: {password: \"$2a$10$abcdefghijklmnopqrstuv\"}}",
		"argon2i":         "users: {a: {password: \"" + strings.Replace(good, "argon2id", "argon2i", 1) + "\"}}",
		"old version":     "users: {a: {password: \"" + strings.Replace(good, "v=19", "v=16", 1) + "\"}}",
		"too much memory": "users: {a: {password: \"" + strings.Replace(good, "m=8,", "m=4000000,", 1) + "\"}}",
		"too little":      "users: {a: {password: \"" + strings.Replace(good, "p=1", "p=2", 1) + "\"}}",
		"no time":         "users: {a: {password: \"" + strings.Replace(good, "t=1", "t=0", 1) + "\"}}",
		"order":           "users: {a: {password: \"" + strings.Replace(good, "m=8,t=1", "t=1,m=8", 1) + "\"}}",
		"short salt":      "users: {a: {password: \"$argon2id$v=19$m=8,t=1,p=1$c2FsdA$MDEyMzQ1Njc4OWFiY2RlZg\"}}",
		"padding":         "users: {a: {password: \"" + good + "==\"}}",
		"trailing":        "users: {a: {password: \"" + good + "$x\"}}",
		"space in name":   "users: {\" a\": {password: \"" + good + "\"}}",
		"control in name": "users: {\"a\\nb\": {password: \"" + good + "\"}}",
		"list":            "users: [a]",
		"not yaml":        "users: {",
	} {
		_, err := parse([]byte(text))
		if err == nil {
			t.Errorf("%s: taken", name)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "MDEy") {
			t.Errorf("%s: the error tells the secret: %v", name, err)
		}
	}
	for _, text := range []string{"", "users:", "users: {}"} {
		if _, err := parse([]byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestBusyIsNoVerdict: who finds no turn is neither right nor wrong.
func TestBusyIsNoVerdict(t *testing.T) {
	s, err := Open("", slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for range concurrent {
		s.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Verify(ctx, "a", "b"); !errors.Is(err, ErrBusy) {
		t.Errorf("error %v", err)
	}
	<-s.slots
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if ok, err := s.Verify(t.Context(), "a", "b"); ok || err != nil {
				t.Errorf("%v %v", ok, err)
			}
		})
	}
	wg.Wait()
}

func FuzzPHC(f *testing.F) {
	f.Add(cheap("x"))
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=,t=,p=$$")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parsePHC(s)
		if err != nil {
			return
		}
		if h.memory > maxMemory || h.time > maxTime || h.lanes > maxLanes || h.time == 0 || h.lanes == 0 || len(h.salt) < minSalt || len(h.key) < minKey {
			t.Fatalf("%q: %+v", s, h)
		}
		if h.String() != s {
			t.Fatalf("%q is written as %q", s, h.String())
		}
	})
}

func FuzzFile(f *testing.F) {
	f.Add([]byte(file("alice", cheap("x"))))
	f.Add([]byte("users: {a: {password: *x}}"))
	f.Add([]byte("users: &a\n  <<: *a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		tab, err := parse(data)
		if err != nil {
			return
		}
		for name := range tab.users {
			if checkName(name) != nil {
				t.Fatalf("name %q", name)
			}
		}
	})
}
