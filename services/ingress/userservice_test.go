package ingress

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/users"
)

func TestUserService(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users.yaml")
	if err := EditUsers(file).Add("alice", "alice's password"); err != nil { // before the first start
		t.Fatal(err)
	}
	var log strings.Builder
	store, err := users.Open(file, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	in := &Ingress{users: store, o: Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}}
	u := in.Users()
	ctx := service.AsActor(t.Context(), "the operator")
	logs := func(name, password string) bool {
		t.Helper()
		ok, err := store.Verify(t.Context(), name, password)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	add := func(name, password string) error {
		_, err := u.AddUser(ctx, &adminv1.AddUserRequest{Name: name, Password: password})
		return err
	}
	set := func(name, password string) error {
		_, err := u.SetPassword(ctx, &adminv1.SetPasswordRequest{Name: name, Password: password})
		return err
	}
	del := func(name string) error {
		_, err := u.DeleteUser(ctx, &adminv1.DeleteUserRequest{Name: name})
		return err
	}
	if err := add("bob", "bob's password"); err != nil || !logs("bob", "bob's password") || !logs("alice", "alice's password") {
		t.Errorf("added: %v", err)
	}
	if err := set("alice", "another password"); err != nil || !logs("alice", "another password") || logs("alice", "alice's password") {
		t.Errorf("set: %v", err)
	}
	if list, err := u.ListUsers(ctx, &adminv1.ListUsersRequest{}); err != nil || !slices.Equal(list.GetNames(), []string{"alice", "bob"}) {
		t.Errorf("%v, %v", list, err)
	}
	if err := del("bob"); err != nil || logs("bob", "bob's password") {
		t.Errorf("deleted: %v", err)
	}
	for what, one := range map[string]struct {
		err  error
		code codes.Code
	}{
		"there is one":       {add("alice", "long enough"), codes.AlreadyExists},
		"there is none":      {set("bob", "long enough"), codes.NotFound},
		"none to delete":     {del("bob"), codes.NotFound},
		"short":              {add("carol", "short"), codes.InvalidArgument},
		"NUL":                {set("alice", "nul\x00 in it"), codes.InvalidArgument},
		"a name with a line": {add("a\nb", "long enough"), codes.InvalidArgument},
	} {
		if status.Code(one.err) != one.code {
			t.Errorf("%s: %v, want %v", what, one.err, one.code)
		}
	}
	if err := os.WriteFile(file, []byte("users: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := add("carol", "long enough"); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), file) {
		t.Errorf("a broken file: %v", err)
	}
	if !logs("alice", "another password") {
		t.Error("a broken file is in force")
	}
	if said := log.String(); strings.Contains(said, "password ") && strings.Contains(said, "another password") || strings.Count(said, `by="the operator"`) != 3 {
		t.Errorf("log: %s", said)
	}
	none, err := users.Open("", slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	_, err = (&Ingress{users: none, o: in.o}).Users().ListUsers(context.Background(), &adminv1.ListUsersRequest{})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "ingress.users_file") {
		t.Errorf("without a file: %v", err)
	}
}
