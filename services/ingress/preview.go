package ingress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/guard"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/policy"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/smtpd"
)

const (
	// maxPreviews is how many previews run at once: each may hold a message, and what the stages make of it.
	maxPreviews = 2
	// previewTime bounds a preview, with the time that its caller takes to send the message and to read the results.
	previewTime = 10 * time.Minute
)

// Preview serves previews of what would become of a message. They share nothing with mail that is under way: nothing is
// stored, no gate hears of a stage that fails.
func (in *Ingress) Preview() adminv1.PreviewServiceServer {
	return &preview{in: in, slots: make(chan struct{}, maxPreviews), timeout: previewTime}
}

type preview struct {
	adminv1.UnimplementedPreviewServiceServer
	in      *Ingress
	slots   chan struct{}
	timeout time.Duration
}

type previewStream = grpc.BidiStreamingServer[adminv1.PreviewRequest, adminv1.PreviewResponse]

// Preview implements the service. Whoever sends or reads too slowly is cut: the end of the call ends what waits for him.
func (p *preview) Preview(stream previewStream) error {
	select {
	case p.slots <- struct{}{}:
	default:
		return status.Errorf(codes.ResourceExhausted, "%d previews are under way; try again", maxPreviews)
	}
	ctx, cancel := context.WithTimeout(stream.Context(), p.timeout)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		defer func() { <-p.slots }()
		done <- p.preview(ctx, stream)
	}()
	select {
	case err := <-done:
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && stream.Context().Err() == nil {
			break
		}
		return err
	case <-ctx.Done():
		if err := stream.Context().Err(); err != nil {
			return status.FromContextError(err).Err()
		}
	}
	return status.Errorf(codes.DeadlineExceeded, "the preview took longer than %v", p.timeout)
}

func (p *preview) preview(ctx context.Context, stream previewStream) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	begin := first.GetBegin()
	if begin == nil {
		return status.Error(codes.InvalidArgument, "the first message of a preview is its begin")
	}
	d, err := p.in.draft(begin)
	if err != nil {
		return err
	}
	cfg := d.View.Config()
	content, err := receivePreview(stream, cfg.TempDir, smtpd.MessageSize(cfg))
	if err != nil {
		return previewStatus(err)
	}
	defer content.Release()
	d.EightBit = content.eightBit
	plan, refused, err := d.Plan(io.NewSectionReader(content, 0, content.Size()))
	if err != nil {
		return previewStatus(err)
	}
	if len(refused) > 0 {
		return refusal(refused)
	}
	show := &previewShow{stream: stream, now: p.in.now, withoutContent: begin.GetWithoutContent()}
	for i := range plan {
		if err := p.in.previewPlan(ctx, d, &plan[i], content, show); err != nil {
			return previewStatus(err)
		}
	}
	return show.err()
}

// previewStatus is an error as gRPC knows it. A reply is a refusal of the message.
func previewStatus(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	r, ok := mail.AsReply(err)
	switch {
	case !ok:
		return status.Error(codes.Internal, err.Error())
	case r == errPreviewTooLarge:
		return status.Error(codes.ResourceExhausted, "the message would be refused: "+r.Public())
	}
	return status.Error(codes.FailedPrecondition, "the message would be refused: "+r.Public())
}

// refusal tells which recipients would be refused, and how.
func refusal(refused []smtpd.Refusal) error {
	code := codes.FailedPrecondition
	var all []string
	for _, r := range refused {
		to := r.To.Mailbox.String()
		if r.To.Postmaster {
			to = "postmaster"
		}
		if policy.IsNoChain(r.Reply) {
			code = codes.NotFound
		}
		all = append(all, fmt.Sprintf("<%s>: %s", to, r.Reply.Public()))
	}
	return status.Error(code, "recipients would be refused: "+strings.Join(all, "; "))
}

var errPreviewTooLarge = &mail.Reply{Code: 552, Enhanced: "5.3.4", Text: "message too large"}

// previewContent is the message of a preview as a client would send it.
type previewContent struct {
	mail.Content
	eightBit bool
}

// receivePreview takes the message, up to its end.
func receivePreview(stream previewStream, tempDir string, limit int64) (*previewContent, error) {
	b := mail.NewBuilder(tempDir)
	defer b.Discard()
	out := &previewContent{}
	r := guard.NewPlain(&previewUpload{stream: stream})
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if b.Size()+int64(n) > limit {
			return nil, errPreviewTooLarge
		}
		for _, x := range buf[:n] {
			if x >= 0x80 {
				out.eightBit = true
				break
			}
		}
		if _, err := b.Write(buf[:n]); err != nil {
			return nil, err
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	var err error
	out.Content, err = b.Content()
	return out, err
}
