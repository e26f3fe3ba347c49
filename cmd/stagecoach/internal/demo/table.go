package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// conclude shows what became of each message, and says whether it is what should have.
func (d *demo) conclude(ctx context.Context) error {
	keys, err := records(ctx, adminv1.NewDkimServiceClient(d.conn))
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "\nMESSAGE\tWHAT BECAME OF IT\tAFTER\tTHE WAY IT TOOK\n") // what fails is told by Flush
	routes := map[string]string{d.main.address: routeMain, d.late.address: routeBranch}
	var wrong []string
	for _, p := range d.all {
		became, err := d.became(p, keys)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", p.sample.name, err))
			became = "NOT AS IT SHOULD: " + err.Error()
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%.2f s\t%s\n", p.sample.name, became, p.at.Sub(p.accepted).Seconds(), p.way(routes))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%w: %s", ErrUnexpected, strings.Join(wrong, "; "))
	}
	_, err = fmt.Fprintf(d.out, "\nEverything ended as it should, in %.0f s. Nothing is left behind.\nNext: `stagecoach up`, then `stagecoach send`, `stagecoach trace` and `stagecoach status` in another terminal.\n",
		time.Since(d.start).Seconds())
	return err
}

// became says what became of a message, in words, or what is wrong with it.
func (d *demo) became(p *progress, keys map[string]string) (string, error) {
	if p.became != p.sample.want {
		return "", fmt.Errorf("%s instead of %s", p.became, p.sample.want)
	}
	switch p.became {
	case held:
		return "held for a person, nothing left", nil
	case reported:
		return d.report(p)
	}
	return d.arrived(p, keys)
}

// arrived verifies what the smarthost got.
func (d *demo) arrived(p *progress, keys map[string]string) (string, error) {
	host := d.main
	if p.sample.late {
		host = d.late
	}
	a, ok := host.taken(p.sample.name)
	if !ok {
		return "", errNotTaken
	}
	n, err := verifyDKIM(a.raw, keys)
	if err != nil || n == 0 {
		return "", fmt.Errorf("%d DKIM signatures: %w", n, err)
	}
	text := fmt.Sprintf("delivered; %d DKIM signatures verify", n)
	if p.sample.signed {
		if err := verifySigned(a.raw, d.ca.certificate); err != nil {
			return "", fmt.Errorf("the author's signature: %w", err)
		}
		return text + ", the author's too", nil
	}
	if !strings.Contains(string(a.raw), footer[:20]) {
		return "", fmt.Errorf("the company's text is missing")
	}
	return text, nil
}

// report looks for the report to the sender in the company's mail server.
func (d *demo) report(p *progress) (string, error) {
	files, err := filepath.Glob(filepath.Join(d.dir, "mailserver", "new", "*"))
	if err != nil {
		return "", err
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(raw), "multipart/report") && strings.Contains(string(raw), p.sample.to) {
			return "refused (" + p.reply + "); the sender has the report", nil
		}
	}
	return "", fmt.Errorf("the sender has no report")
}
