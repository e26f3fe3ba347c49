package doctor

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/admin"
)

// What the real machine says cannot be foreseen, but it says something.
func TestMachine(t *testing.T) {
	dir := t.TempDir()
	if s, err := (clock{}).State(); err != nil || s.Error < 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if u, err := (disk{}).Usage(dir); err != nil || u.Size == 0 || u.Free > u.Size {
		t.Errorf("%+v, %v", u, err)
	}
	if u, err := (disk{}).Usage("/proc"); err != nil || u.Kind != "" {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := (disk{}).Usage(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if took, err := (disk{}).SyncTime(dir); err != nil || took <= 0 {
		t.Errorf("%v, %v", took, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := (disk{}).SyncTime(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

type status struct {
	adminv1.UnimplementedStatusServiceServer
}

func (status) GetStatus(context.Context, *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error) {
	return &adminv1.GetStatusResponse{Hostname: "relay.example.com"}, nil
}

// The running instance is asked by its socket; one that was left behind is no instance.
func TestSocket(t *testing.T) {
	dir := t.TempDir()
	e := System(&config.Config{DataDir: dir}, "", true, nil)
	if _, err := e.Admin.Status(t.Context()); !errors.Is(err, errNotRunning) {
		t.Errorf("no socket: %v", err)
	}
	path := filepath.Join(dir, admin.SocketName)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Admin.Status(t.Context()); !errors.Is(err, errNotRunning) {
		t.Errorf("a socket that was left behind: %v", err)
	}
	s, err := admin.Listen(admin.Options{Socket: path, Logger: slog.New(slog.DiscardHandler), Services: admin.Services{Status: status{}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, time.Second) }()
	if got, err := e.Admin.Status(t.Context()); err != nil || got.GetHostname() != "relay.example.com" {
		t.Errorf("%v, %v", got, err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
