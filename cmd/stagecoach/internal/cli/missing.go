package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// missingTrailer names the processes whose part is not in an answer, and why.
const missingTrailer = "stagecoach-missing"

// partial notices which processes did not answer to admin.
type partial struct {
	clientConn
	gone []string
}

// Invoke implements grpc.ClientConnInterface.
func (p *partial) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	var trailer metadata.MD
	err := p.clientConn.Invoke(ctx, method, args, reply, append(opts, grpc.Trailer(&trailer))...)
	if err == nil {
		p.gone = append(p.gone, trailer.Get(missingTrailer)...)
	}
	return err
}

// tell says what is missing in what was printed, and that it worked in part only.
func (p *partial) tell(cmd *cobra.Command, err error) error {
	slices.Sort(p.gone)
	for _, text := range slices.Compact(p.gone) {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "stagecoach: no answer from", escape(text, true)) //nolint:errcheck // there is nowhere else to say it
	}
	if err == nil && len(p.gone) > 0 {
		return ExitWith(ExitPartly)
	}
	return err
}
