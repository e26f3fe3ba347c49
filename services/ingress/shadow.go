package ingress

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
	"github.com/stagecoachmail/stagecoach/stage"
)

const (
	// mostCompared is how many messages one report counts.
	mostCompared = 200_000
	// mostExamples of ids.
	mostExamples = 5
	// shadowReach is the first stretch of the trail that is read, from its end; each further one is reachFactor times as
	// long.
	shadowReach = time.Hour
)

// GetShadowReport implements the service. The trail is read from its end, stretch by stretch, for 80% of the time that the
// caller has.
func (t *trace) GetShadowReport(ctx context.Context, r *adminv1.GetShadowReportRequest) (*adminv1.GetShadowReportResponse, error) {
	if r.GetChain() == "" || r.GetStage() == "" {
		return nil, status.Error(codes.InvalidArgument, "name the chain and the stage in shadow")
	}
	until := t.in.now()
	if r.GetUntil() != nil {
		until = r.GetUntil().AsTime()
	}
	since := until.Add(-defaultRange)
	if r.GetSince() != nil {
		since = r.GetSince().AsTime()
	}
	if since.After(until) {
		return nil, status.Error(codes.InvalidArgument, "since is after until")
	}
	beside := r.GetBeside()
	if beside == "" {
		beside = besideOf(t.in.policy.View().Config(), r.GetChain(), r.GetStage())
	}
	done, err := t.begin(ctx, &ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c := &comparison{chain: r.GetChain(), stage: r.GetStage(), beside: beside, since: since, until: until, messages: map[string]*compared{}}
	if err := t.compare(ctx, c); err != nil {
		return nil, t.failed(ctx, err)
	}
	return c.report(), nil
}

// besideOf is the stage of the same type in the chain, as it is configured now; empty: there is none.
func besideOf(cfg *config.Config, chainName, shadow string) string {
	c, s := cfg.ChainNamed(chainName), cfg.StageNamed(shadow)
	if c == nil || s == nil {
		return ""
	}
	for _, u := range c.Stages {
		if !u.Shadow && u.Stage.Name != shadow && u.Stage.Type == s.Type {
			return u.Stage.Name
		}
	}
	return ""
}

// compare reads the trail from its end, until all is read or the time is over.
func (t *trace) compare(ctx context.Context, c *comparison) error {
	limited := ctx
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, time.Until(end)*8/10)
		defer cancel()
	}
	first, last := c.since.Add(-clockSkew), c.until.Add(trailLag)
	for to, reach := last, trailLag+shadowReach; to.After(first); reach *= reachFactor {
		from := to.Add(-reach)
		if from.Before(first) {
			from = first
		}
		err := spool.ScanTrail(limited, t.in.o.Conn, from, func(written time.Time, s *spool.Sketch) (bool, error) {
			if !written.Before(to) {
				return false, nil
			}
			if !s.Hops {
				return true, nil
			}
			e, err := s.Event()
			if err == nil {
				c.hear(e)
			}
			return true, err
		})
		switch {
		case err != nil && limited.Err() != nil && ctx.Err() == nil && to.Before(last): // something was read
			c.partly = true
			return nil
		case err != nil:
			return err
		case c.partly:
			return nil
		}
		to = from
	}
	return nil
}

// comparison is a report in the making.
type comparison struct {
	chain, stage, beside string
	since, until         time.Time
	once                 spool.Once
	messages             map[string]*compared
	partly               bool
}

// compared is what both stages said of one message, by recipient: the last word counts.
type compared struct {
	shadow, beside map[mail.RecipientID]word
}

// word is a hop as far as it matters here.
type word struct {
	at   time.Time
	said string
	took time.Duration
	diff mail.Diff
	// envelope edits: the reverse-path, and what this recipient became
	reverse, rewritten string
}

const saidFailed = "failed"

// hear takes the hops of an event.
func (c *comparison) hear(e *spool.Event) {
	if e.Chain != c.chain || !c.once.First(e) {
		return
	}
	for i := range e.Hops {
		h := &e.Hops[i]
		at := h.At
		if at.IsZero() {
			at = e.At
		}
		shadow := h.Instance == c.stage && h.Shadow
		if !shadow && (h.Instance != c.beside || h.Shadow) || shadow && (h.Outcome == chain.Skipped || at.Before(c.since) || at.After(c.until)) {
			continue
		}
		m := c.messages[e.ID]
		if m == nil {
			if len(c.messages) >= mostCompared {
				c.partly = true
				continue
			}
			m = &compared{shadow: map[mail.RecipientID]word{}, beside: map[mail.RecipientID]word{}}
			c.messages[e.ID] = m
		}
		words := m.beside
		if shadow {
			words = m.shadow
		}
		for _, id := range h.Recipients {
			if old, ok := words[id]; !ok || at.After(old.at) {
				words[id] = wordOf(h, id, at)
			}
		}
	}
}

func wordOf(h *spool.Hop, id mail.RecipientID, at time.Time) word {
	w := word{at: at, said: saidFailed, took: h.Took, diff: h.Diff}
	if h.Outcome == chain.ByVerdict {
		w.said = h.Verdict.String()
	}
	w.diff.Cut = w.diff.Cut || h.EditsOmitted
	if r := h.Edits.ReversePath; r != nil {
		w.reverse = "<" + r.String() + ">"
	}
	for _, r := range h.Edits.Rewrites {
		if r.Recipient == id {
			w.rewritten = r.To.String()
		}
	}
	return w
}

// said is what a stage said of a message: mixed, if its recipients differ.
func said(words map[mail.RecipientID]word) string {
	out := ""
	for _, w := range words {
		if out != "" && out != w.said {
			return "mixed"
		}
		out = w.said
	}
	return out
}

// edits of a message: the same, others, or not to be told.
type edits int

const (
	sameEdits edits = iota
	otherEdits
	unknownEdits
)

// compareEdits compares what two stages changed; a nil map changed nothing. What one would have changed for recipients
// that the other did not see is not compared.
func compareEdits(a, b map[mail.RecipientID]word) edits {
	out := sameEdits
	for id, x := range a {
		y, ok := b[id]
		if b != nil && !ok {
			continue
		}
		switch {
		case x.reverse != y.reverse || x.rewritten != y.rewritten || !x.diff.Cut && !y.diff.Cut && !sameHunks(x.diff.Hunks, y.diff.Hunks):
			return otherEdits
		case x.diff.Cut || y.diff.Cut:
			out = unknownEdits
		}
	}
	return out
}

func sameHunks(a, b []mail.Hunk) bool {
	return slices.EqualFunc(a, b, func(x, y mail.Hunk) bool {
		return x.Offset == y.Offset && x.Length == y.Length && bytes.Equal(x.Inserted, y.Inserted)
	})
}

// tookTimes are those that a stage took, once for each message.
type tookTimes struct {
	sum, most time.Duration
	n         int64
}

func (t *tookTimes) add(words map[mail.RecipientID]word) {
	var took time.Duration
	for _, w := range words {
		took = max(took, w.took)
	}
	t.sum, t.most, t.n = t.sum+took, max(t.most, took), t.n+1
}

func (t *tookTimes) mean() *durationpb.Duration {
	if t.n == 0 {
		return nil
	}
	return durationpb.New(t.sum / time.Duration(t.n))
}

func (c *comparison) report() *adminv1.GetShadowReportResponse {
	out := &adminv1.GetShadowReportResponse{Beside: c.beside, Partly: c.partly}
	type pair struct{ shadow, beside string }
	pairs := map[pair]*adminv1.ShadowVerdicts{}
	var took, besideTook tookTimes
	ids := make([]string, 0, len(c.messages))
	for id := range c.messages {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int { return cmp.Compare(b, a) }) // the newest are the examples
	pass := stage.KindContinue.String()
	for _, id := range ids {
		m := c.messages[id]
		if len(m.shadow) == 0 {
			continue
		}
		p := pair{said(m.shadow), pass}
		out.Messages++
		took.add(m.shadow)
		if p.shadow == saidFailed {
			out.Failed++
		}
		var beside map[mail.RecipientID]word
		if c.beside != "" {
			if len(m.beside) == 0 {
				out.Alone++
				continue
			}
			beside = m.beside
			besideTook.add(beside)
			p.beside = said(beside)
		}
		v := pairs[p]
		if v == nil {
			v = &adminv1.ShadowVerdicts{Shadow: p.shadow, Beside: p.beside}
			pairs[p] = v
			out.Verdicts = append(out.Verdicts, v)
		}
		if v.Messages++; len(v.Examples) < mostExamples {
			v.Examples = append(v.Examples, id)
		}
		if p.shadow != pass || p.beside != pass {
			continue
		}
		switch compareEdits(m.shadow, beside) {
		case sameEdits:
			out.SameEdits++
		case unknownEdits:
			out.UnknownEdits++
		case otherEdits:
			if out.OtherEdits++; len(out.OtherEditsExamples) < mostExamples {
				out.OtherEditsExamples = append(out.OtherEditsExamples, id)
			}
		}
	}
	slices.SortStableFunc(out.Verdicts, func(a, b *adminv1.ShadowVerdicts) int {
		return cmp.Or(cmp.Compare(b.GetMessages(), a.GetMessages()), cmp.Compare(a.GetShadow()+a.GetBeside(), b.GetShadow()+b.GetBeside()))
	})
	out.Took, out.TookMost, out.BesideTook = took.mean(), durationpb.New(took.most), besideTook.mean()
	return out
}
