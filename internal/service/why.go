package service

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// dialing stands before the system's own words in what gRPC says of a connection that could not be made.
const dialing = "Error while dialing: "

// Why is what a failed call says, without what gRPC puts around it.
func Why(err error) string {
	text := status.Convert(err).Message()
	if _, after, ok := strings.Cut(text, dialing); ok && status.Code(err) == codes.Unavailable {
		text = strings.TrimSuffix(after, `"`)
	}
	return text
}
