// Package disclaimer is the stage that puts a text below what a client displays of a message: the text/plain and
// text/html parts, in their charset and transfer encoding, with every other byte as it was. What is signed or encrypted
// stays untouched.
package disclaimer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stagecoachmail/stagecoach/internal/telemetry"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
)

// Type is the name in the configuration.
const Type = "disclaimer"

// Factory makes disclaimers.
func Factory() stage.Factory {
	traits := stage.Traits{ReadsBody: true, EditsHeader: true, EditsBody: true}
	return stage.NewFactory(Type, traits, func() Config { return Config{} }, New)
}

// Disclaimer is the stage. It is safe for concurrent use.
type Disclaimer struct {
	text *textTemplate
	html *htmlTemplate
	now  func() time.Time
	// inserts counts the parts that the text was put into.
	inserts prometheus.Counter
}

// New reads the templates. An error names the key, or the file, and the line.
func New(s stage.Settings, c Config) (stage.Stage, error) {
	text, html, err := c.load(s.ConfigDir)
	if err != nil {
		return nil, err
	}
	inserts := telemetry.Counters(s.Metrics, "stagecoach_disclaimer_inserts_total", "Parts of messages that the text was put into.", "stage").WithLabelValues(s.Instance)
	return &Disclaimer{text: text, html: html, now: s.Now, inserts: inserts}, nil
}

// Process adds the text. A part that cannot take it stays as it is, with a note: that is a property of the message, and
// trying again would not change it. An error means that the message could not be read.
func (d *Disclaimer) Process(ctx context.Context, m *mail.Message) (stage.Result, error) {
	if h := m.Content.Header(); h.End == mail.EndUnreadable {
		return stage.Result{}, fmt.Errorf("read the header: %w", h.Err)
	}
	root, err := mail.Walk(m.Content)
	if err != nil {
		return stage.Result{}, err
	}
	s := displayed(root)
	if s.untouchable != "" {
		return untouched(s.untouchable), nil
	}
	variables := variablesOf(m, d.now())
	plain, err := d.text.render(variables)
	if err != nil {
		return stage.Result{}, err
	}
	markup, err := d.html.render(variables)
	if err != nil {
		return stage.Result{}, err
	}
	var splices []mail.Splice
	var stamped, before []string
	for _, t := range s.texts {
		rendered := plain
		if t.html() {
			rendered = markup
		}
		added, err := stamp(ctx, m.Content, t, rendered, t.part == root)
		switch {
		case errors.Is(err, errArmored):
			return untouched("OpenPGP in the text"), nil
		case errors.Is(err, errStamped):
			before = append(before, t.section)
		case isFlaw(err):
			s.left = append(s.left, t.section+": "+err.Error())
		case err != nil:
			return stage.Result{}, fmt.Errorf("part %s: %w", t.section, err)
		default:
			splices = append(splices, added...)
			stamped = append(stamped, t.section)
		}
	}
	// The fields of a header stand in any order.
	slices.SortStableFunc(splices, func(a, b mail.Splice) int { return cmp.Compare(a.Offset, b.Offset) })
	r := stage.Result{Branch: stage.Branch{Edits: mail.Edits{Splices: splices}}}
	d.inserts.Add(float64(len(stamped)))
	note(&r, "stamped", stamped)
	note(&r, "stamped_before", before)
	note(&r, "left", s.left)
	if len(stamped) > 0 && len(m.Content.Header().Find("DKIM-Signature")) > 0 {
		r.Notes = append(r.Notes, slog.Bool("breaks_dkim_signature", true))
	}
	return r, nil
}

func note(r *stage.Result, key string, values []string) {
	if len(values) > 0 {
		r.Notes = append(r.Notes, slog.String(key, strings.Join(values, ", ")))
	}
}

func untouched(why string) stage.Result {
	return stage.Result{Notes: []slog.Attr{slog.String("untouched", why)}}
}

// errArmored and errStamped say that nothing is to be added.
var (
	errArmored = errors.New("the text is OpenPGP")
	errStamped = errors.New("the text is there already")
)

// isFlaw says that err is about the part, not about reading it.
func isFlaw(err error) bool {
	for _, flaw := range []error{errEncoding, errCharset, errLarge, errContentType} {
		if errors.Is(err, flaw) {
			return true
		}
	}
	return false
}

// stamp makes the splices that add a rendered text to one part.
func stamp(ctx context.Context, c mail.Content, t text, rendered string, root bool) ([]mail.Splice, error) {
	f, err := examine(ctx, c, t)
	if err != nil {
		return nil, err
	}
	if f.armored {
		return nil, errArmored
	}
	there, err := f.stamped(ctx, c, rendered)
	if err != nil {
		return nil, err
	}
	if there {
		return nil, errStamped
	}
	payload := f.payload(rendered, root)
	splices := make([]mail.Splice, 1)
	splices[0], err = f.insert(c, payload)
	if errors.Is(err, errCharset) {
		splices, err = f.convert(ctx, c, payload, root)
	}
	if err != nil {
		return nil, err
	}
	crowded, err := f.crowded(c)
	if err != nil {
		return nil, err
	}
	if crowded {
		body := &splices[len(splices)-1]
		body.Insert = append(body.Insert, "\r\n"...)
	}
	return splices, nil
}

// crowded says that the part has no body at all, so that the line end before the delimiter is that of the empty line
// behind the header: what is added needs one of its own, or the delimiter would be none.
func (f *finding) crowded(c mail.Content) (bool, error) {
	if f.part.End > f.part.Body || f.part.End >= c.Size() {
		return false, nil
	}
	next, err := byteAt(c, f.part.End)
	return next == '-', err
}
