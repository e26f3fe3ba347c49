package egress

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
)

func files(t *testing.T, parts ...string) int {
	t.Helper()
	all, err := os.ReadDir(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestMaildirRoute(t *testing.T) {
	r := build(t, setup{route: config.Route{Maildir: &config.Maildir{Path: "box"}}})
	content := "Subject: bare\n\r\nas it \x00 came\r"
	r.carry(t, parcel("m1", content, "a@x.example", "b@x.example")).want(t, chain.Delivered, chain.Delivered)
	got, err := os.ReadFile(filepath.Join(r.dir, "box/new/m1.r0"))
	if want := "Return-Path: <sender@from.example>\r\nDelivered-To: a@x.example\r\n" + content; err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	if files(t, r.dir, "box/new") != 2 || files(t, r.dir, "box/tmp") != 0 {
		t.Error("files")
	}
	// Another egress, after a crash, with the same message: nothing doubles, also when a reader has moved one.
	if err := os.Rename(filepath.Join(r.dir, "box/new/m1.r1"), filepath.Join(r.dir, "box/cur/m1.r1:2,S")); err != nil {
		t.Fatal(err)
	}
	again := build(t, setup{route: config.Route{Maildir: &config.Maildir{Path: filepath.Join(r.dir, "box")}}})
	again.carry(t, parcel("m1", content, "a@x.example", "b@x.example")).want(t, chain.Delivered, chain.Delivered)
	if files(t, r.dir, "box/new") != 1 || files(t, r.dir, "box/cur") != 1 {
		t.Error("doubled")
	}
}

// A disk that does not take it is ours: the mail waits.
func TestMaildirFails(t *testing.T) {
	r := build(t, setup{route: config.Route{Maildir: &config.Maildir{Path: "box"}}})
	r.file(t, "box", nil)
	f := r.carry(t, parcel("m1", simple, "a@x.example")).want(t, chain.Deferred)[0]
	if f.Concern != chain.AboutRoute || f.About != "out" {
		t.Error(describe(f))
	}
}
