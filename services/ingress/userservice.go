package ingress

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/users"
)

// UsersFile is a users file to be edited without a running service: Names, Add, SetPassword, Delete.
type UsersFile = users.File

// EditUsers is the users file at path, which need not be there yet: the first user makes it, with mode 0600. A running
// ingress takes an edit up within a second.
func EditUsers(path string) *UsersFile { return users.NewFile(path) }

// Users serves the users file.
func (in *Ingress) Users() adminv1.UserServiceServer { return &userService{in: in} }

type userService struct {
	adminv1.UnimplementedUserServiceServer
	in *Ingress
}

// ListUsers implements the service.
func (u *userService) ListUsers(context.Context, *adminv1.ListUsersRequest) (*adminv1.ListUsersResponse, error) {
	resp := &adminv1.ListUsersResponse{}
	err := u.in.users.Edit(func(f *users.File) (err error) {
		resp.Names, err = f.Names()
		return err
	})
	return resp, userStatus(err)
}

// AddUser implements the service.
func (u *userService) AddUser(ctx context.Context, r *adminv1.AddUserRequest) (*adminv1.AddUserResponse, error) {
	return &adminv1.AddUserResponse{}, u.edit(ctx, "user added", r.GetName(), func(f *users.File) error { return f.Add(r.GetName(), r.GetPassword()) })
}

// SetPassword implements the service.
func (u *userService) SetPassword(ctx context.Context, r *adminv1.SetPasswordRequest) (*adminv1.SetPasswordResponse, error) {
	return &adminv1.SetPasswordResponse{}, u.edit(ctx, "password set", r.GetName(), func(f *users.File) error { return f.SetPassword(r.GetName(), r.GetPassword()) })
}

// DeleteUser implements the service.
func (u *userService) DeleteUser(ctx context.Context, r *adminv1.DeleteUserRequest) (*adminv1.DeleteUserResponse, error) {
	return &adminv1.DeleteUserResponse{}, u.edit(ctx, "user deleted", r.GetName(), func(f *users.File) error { return f.Delete(r.GetName()) })
}

func (u *userService) edit(ctx context.Context, what, name string, do func(*users.File) error) error {
	if err := u.in.users.Edit(do); err != nil {
		return userStatus(err)
	}
	u.in.o.Logger.Info(what, "user", name, "by", service.Actor(ctx))
	return nil
}

// userStatus is an error of an edit as gRPC knows it.
func userStatus(err error) error {
	if err == nil {
		return nil
	}
	code := codes.FailedPrecondition
	switch {
	case errors.Is(err, users.ErrNoFile):
		return status.Error(code, "there is no users file: set ingress.users_file in the configuration, and make the file with: stagecoach user add NAME --file FILE")
	case errors.Is(err, users.ErrExists):
		code = codes.AlreadyExists
	case errors.Is(err, users.ErrUnknown):
		code = codes.NotFound
	case errors.Is(err, users.ErrInvalid):
		code = codes.InvalidArgument
	case errors.Is(err, users.ErrChanged):
		code = codes.Aborted
	}
	return status.Error(code, err.Error())
}
