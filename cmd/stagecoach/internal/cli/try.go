package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

// frame is the size of a chunk of a message in bytes.
const frame = 256 << 10

type tryFlags struct {
	to                            []string
	from, listener, relay         string
	user, client, chain, outcomes string
	stranger, fromSet             bool
}

func (a *app) tryCommand() *cobra.Command {
	var f tryFlags
	c := &cobra.Command{
		Use:   "try FILE",
		Short: "Show what would become of a message, without sending it",
		Long: `Show what would become of a message ("-" is the standard input): the chains that would take it, what each stage says and
changes, and what would become of each recipient. Nothing is stored or sent; a stage that does something outside the message
(an archive) is passed over.

Without --from and --to the header says from whom and to whom; the field Bcc is removed. How it would come in is said by
--listener, --relay or --stranger, --user and --client; by default it comes from this machine.

The exit code is 0 if it would go out to every recipient, 1 if to some it would not, 2 after an error.`,
		Example: `  stagecoach try hello.eml
  stagecoach try --stranger --client 192.0.2.1 --to alice@example.com spam.eml
  stagecoach try --chain outbound -o results hello.eml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.fromSet = cmd.Flags().Changed("from")
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				return try(ctx, cmd, adminv1.NewPreviewServiceClient(conn), o, args[0], f)
			})
		},
	}
	a.connection(c)
	a.printing(c)
	fl := c.Flags()
	fl.StringArrayVar(&f.to, "to", nil, "recipient, an `address` (may be repeated; default: To, Cc and Bcc of the message)")
	fl.StringVar(&f.from, "from", "", "reverse-path, an `address` or <> (default: From of the message)")
	fl.StringVar(&f.listener, "listener", "", "as if the listener of this `name` had accepted it (default: the first)")
	fl.StringVar(&f.relay, "relay", "", "as if the relay rule of this `name` had let it in (default: the first that fits)")
	fl.BoolVar(&f.stranger, "stranger", false, "as if no relay rule had let it in")
	fl.StringVar(&f.user, "user", "", "as if the user of this `name` had logged in")
	fl.StringVar(&f.client, "client", "", "as if it came from this IP `address` (default: this machine)")
	fl.StringVar(&f.chain, "chain", "", "run the chain of this `name`, whatever its match says (default: those that match)")
	fl.StringVarP(&f.outcomes, "output", "o", "", "`folder` for the messages as they would leave")
	complete(c, "chain", a.chainNames)
	return c
}

func try(ctx context.Context, cmd *cobra.Command, client adminv1.PreviewServiceClient, o *output, file string, f tryFlags) error {
	if f.stranger && f.relay != "" {
		return usagef("--stranger and --relay say the opposite: leave one of them out")
	}
	var from *string
	if f.fromSet {
		from = &f.from
	}
	d, err := readDraft(file, cmd.InOrStdin(), from, f.to)
	if err != nil {
		return err
	}
	begin := &adminv1.PreviewBegin{ReversePath: d.from.String(), Listener: f.listener, Relay: f.relay, Stranger: f.stranger, User: f.user,
		Client: f.client, Chain: f.chain, WithoutContent: f.outcomes == ""}
	for _, a := range d.to {
		begin.Recipients = append(begin.Recipients, a.String())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Preview(ctx)
	if err != nil {
		return err
	}
	if err := sendPreview(stream, begin, d.content); err != nil {
		return err
	}
	p := &preview{o: o, cmd: cmd, folder: f.outcomes}
	err = p.receive(stream)
	if isCode(err, codes.FailedPrecondition) {
		err = partlyf("it would not be taken: %w", words(err))
	}
	if closed := p.closeFile(err); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return p.finish()
}

// sendPreview sends the message. A broken stream is told by what is received.
func sendPreview(stream adminv1.PreviewService_PreviewClient, begin *adminv1.PreviewBegin, content []byte) error {
	requests := []*adminv1.PreviewRequest{{Kind: &adminv1.PreviewRequest_Begin{Begin: begin}}}
	sum := crc32.Checksum(content, crc32.MakeTable(crc32.Castagnoli))
	size := len(content)
	for len(content) > 0 {
		n := min(frame, len(content))
		requests = append(requests, &adminv1.PreviewRequest{Kind: &adminv1.PreviewRequest_Chunk{Chunk: content[:n]}})
		content = content[n:]
	}
	requests = append(requests, &adminv1.PreviewRequest{Kind: &adminv1.PreviewRequest_End{End: &stagev1.End{Length: uint64(size), Crc32C: sum}}})
	for _, r := range requests {
		if err := stream.Send(r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return stream.CloseSend()
}

// previewChain is what is known of one chain, as JSON shows it.
type previewChain struct {
	Itinerary json.RawMessage   `json:"itinerary"`
	Steps     []json.RawMessage `json:"steps"`
	Outcomes  []json.RawMessage `json:"outcomes"`
	Files     []string          `json:"files,omitempty"`
}

// preview tells the answers of a preview as they come.
type preview struct {
	o      *output
	cmd    *cobra.Command
	folder string

	chains  []*previewChain
	teller  *teller
	current *adminv1.PreviewItinerary
	file    *os.File
	forms   int
	out     int // recipients to whom it would go out
	stays   int
}

func (p *preview) receive(stream adminv1.PreviewService_PreviewClient) error {
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := p.take(resp); err != nil {
			return err
		}
	}
}

func (p *preview) take(resp *adminv1.PreviewResponse) error {
	if it := resp.GetItinerary(); it != nil {
		return p.itinerary(it)
	}
	if p.current == nil {
		return errors.New("the running Stagecoach gave a step without an itinerary: its log says more")
	}
	switch {
	case resp.GetStep() != nil:
		return p.step(resp.GetStep())
	case resp.GetOutcome() != nil:
		return p.outcome(resp.GetOutcome())
	case len(resp.GetChunk()) > 0 && p.folder != "":
		return p.write(resp.GetChunk())
	}
	return nil
}

func (p *preview) itinerary(it *adminv1.PreviewItinerary) error {
	if err := p.closeFile(nil); err != nil {
		return err
	}
	doc, err := protoJSON(it)
	if err != nil {
		return err
	}
	p.chains = append(p.chains, &previewChain{Itinerary: doc, Steps: []json.RawMessage{}, Outcomes: []json.RawMessage{}})
	p.current, p.forms = it, 0
	to := addresses{}
	var names []string
	for _, r := range it.GetRecipients() {
		to[r.GetId()] = r.GetAddress()
		names = append(names, r.GetAddress())
	}
	p.teller = &teller{o: p.o, to: to, diff: true}
	if p.o.asJSON {
		return nil
	}
	if len(p.chains) > 1 {
		p.o.blank()
	}
	var hops []string
	for _, h := range it.GetHops() {
		name := h.GetInstance()
		if h.GetShadow() {
			name += " (shadow)"
		}
		hops = append(hops, name)
	}
	let := "a stranger"
	if it.GetRelay() != "" {
		let = "relay rule " + it.GetRelay()
	}
	p.o.line(0, in(bold, "chain %s", it.GetChain()))
	p.o.facts(2, fact{"let in by", text("%s, %s", let, it.GetDirection())}, fact{"to", text("%s", some(names, 20))}, fact{"stages", text("%s", strings.Join(hops, " → "))}, fact{"route", text("%s", it.GetRoute())})
	if len(it.GetPrepended()) > 0 {
		p.o.line(2, in(faint, "ingress puts above it"))
		for _, l := range lines(it.GetPrepended()) {
			p.o.diffLine(4, cutLine(diffLine{added, l}))
		}
	}
	return nil
}

func (p *preview) step(h *adminv1.HopStep) error {
	doc, err := protoJSON(h)
	if err != nil {
		return err
	}
	c := p.chains[len(p.chains)-1]
	c.Steps = append(c.Steps, doc)
	if !p.o.asJSON {
		r := h.GetReport()
		spans := []span{text("%-12s  ", r.GetInstance()), hopText(r), tookSpan(r)}
		if h.GetShadow() || r.GetShadow() {
			spans = append(spans, in(faint, "  in shadow: without effect"))
		}
		p.o.line(2, spans...)
		for _, n := range r.GetNotes() {
			p.o.line(4, in(faint, "%s: ", n.GetKey()), text("%s", n.GetValue()))
		}
		if h.GetDiff() != nil {
			p.o.diff(4, h.GetDiff(), p.teller.to)
		}
	}
	return nil
}

func (p *preview) outcome(out *adminv1.PreviewOutcome) error {
	if err := p.closeFile(nil); err != nil {
		return err
	}
	doc, err := protoJSON(out)
	if err != nil {
		return err
	}
	c := p.chains[len(p.chains)-1]
	c.Outcomes = append(c.Outcomes, doc)
	what := in(green, "would go out by route %s, %s", p.current.GetRoute(), bytesText(out.GetSize()))
	if out.GetFate() != nil {
		p.stays += len(out.GetRecipients())
		what = in(fateStyle(out.GetFate()), "would be %s", fateText(out.GetFate()))
	} else {
		p.out += len(out.GetRecipients())
	}
	if p.o.asJSON {
		return nil
	}
	p.o.line(2, in(bold, "%s", p.teller.to.list(out.GetRecipients(), 20)), text(": "), what)
	return nil
}

// write keeps the form that the last outcome told of in a file of its own.
func (p *preview) write(chunk []byte) error {
	if p.file == nil {
		if err := os.MkdirAll(p.folder, 0o700); err != nil {
			return err
		}
		p.forms++
		name := filepath.Join(p.folder, fmt.Sprintf("%s-%d.eml", fileName(p.current.GetChain()), p.forms))
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("%w: choose another folder, or empty it", err)
		}
		p.file = f
	}
	_, err := p.file.Write(chunk)
	return err
}

// closeFile ends the file that is being written; after a failure it is removed.
func (p *preview) closeFile(failed error) error {
	if p.file == nil {
		return nil
	}
	name := p.file.Name()
	err := p.file.Close()
	p.file = nil
	if failed != nil || err != nil {
		return errors.Join(err, os.Remove(name))
	}
	c := p.chains[len(p.chains)-1]
	c.Files = append(c.Files, name)
	if !p.o.asJSON {
		p.o.line(4, in(faint, "written to %s", name))
	}
	return nil
}

// fileName makes a name for a file of any text.
func fileName(s string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, s)
	if name == "" {
		return "chain"
	}
	return name
}

func (p *preview) finish() error {
	if p.o.asJSON {
		chains := p.chains
		if chains == nil {
			chains = []*previewChain{}
		}
		if err := p.o.document(map[string]any{"chains": chains}); err != nil {
			return err
		}
	}
	if len(p.chains) == 0 || p.out+p.stays == 0 {
		return errors.New("the running Stagecoach gave no outcome: its log says more")
	}
	if p.stays > 0 {
		return ExitWith(ExitPartly)
	}
	return nil
}
