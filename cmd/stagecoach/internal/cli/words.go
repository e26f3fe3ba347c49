package cli

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// words turns what gRPC says into what a person can use. Errors of other kinds stay.
func words(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*exitError](err); ok {
		return err
	}
	s, ok := statusOf(err)
	if !ok {
		if errors.Is(err, context.Canceled) {
			return errors.New("interrupted")
		}
		return err
	}
	said := clean(s.Message())
	switch s.Code() {
	case codes.OK:
		return nil
	case codes.Canceled:
		return errors.New("interrupted")
	case codes.DeadlineExceeded:
		return errors.New("no answer in time: the running Stagecoach is overloaded or hangs; its log says more")
	case codes.Unavailable:
		return fmt.Errorf("the running Stagecoach does not answer: %s\nIf it was stopped or started again just now, try once more; else its log says why", said)
	case codes.PermissionDenied, codes.Unauthenticated:
		return fmt.Errorf("not allowed: %s", said)
	case codes.Unimplemented:
		return fmt.Errorf("the running Stagecoach does not offer this (%s): is it of another version than this program (`stagecoach --version`), or has it no stage of that kind?", said)
	case codes.InvalidArgument:
		return usagef("%s", said)
	case codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.ResourceExhausted, codes.OutOfRange, codes.Aborted:
		return errors.New(said)
	case codes.DataLoss:
		return fmt.Errorf("the data are damaged: %s", said)
	default:
		return fmt.Errorf("the running Stagecoach failed: %s; its log says more", said)
	}
}

// statusOf finds the gRPC status in err, with the message that was sent: status.FromError gives what wraps it as well.
func statusOf(err error) (*status.Status, bool) {
	if e, ok := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err); ok {
		return e.GRPCStatus(), true
	}
	return nil, false
}

// isCode says whether err is a gRPC status of that code.
func isCode(err error, c codes.Code) bool {
	s, ok := statusOf(err)
	return ok && s.Code() == c
}
