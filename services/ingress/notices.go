package ingress

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/notices"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/smtpd"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// NoticeTimes are when the postmaster is told; see package notices.
type NoticeTimes = notices.Times

// openNotices prepares to tell the postmaster.
func (in *Ingress) openNotices(ctx context.Context) error {
	t, err := notices.New(ctx, notices.Options{Conn: in.o.Conn, Replicas: in.o.Config.NATS.Replicas, Instance: in.o.Instance, Process: processName(),
		Logger: in.o.Logger, Now: in.now, Times: in.o.NoticeTimes})
	in.notices = t
	return err
}

// noticeSource is this ingress as the postmaster is told of it.
func (in *Ingress) noticeSource() notices.Source {
	return notices.Source{Stops: in.stops, Certificates: in.certificates, Fills: in.fills, Held: in.heldOnes, Send: in.notify,
		Postmaster: func() (mail.Address, string) {
			cfg := in.policy.View().Config()
			return cfg.Postmaster, cfg.Hostname
		}}
}

var errNoShard = errors.New("this ingress has no log to put it into now")

// notify puts a message of ours into a log.
func (in *Ingress) notify(ctx context.Context, to mail.Address, write func(id string, at time.Time) []byte) error {
	for _, s := range in.shards() {
		return s.dispatcher.Notify(ctx, to, write)
	}
	return errNoShard
}

// onLoop hears of mail loops.
func (in *Ingress) onLoop(l smtpd.Loop) {
	in.o.Logger.Error("mail loop", "from", l.From.String(), "client", l.Client, "listener", l.Listener, "received", l.Received, "passes", l.Passes)
	loop := notices.Loop{From: l.From.String(), Client: l.Client, Listener: l.Listener, Received: l.Received}
	for _, to := range l.To {
		loop.To = append(loop.To, to.String())
	}
	in.notices.Loop(loop)
}

// stops are what is down now, but for what a person has stopped and what is down elsewhere.
func (in *Ingress) stops() []notices.Stop {
	var out []notices.Stop
	if away := in.natsAway(); away != "" {
		return append(out, notices.Stop{Kind: notices.Intake, Name: "NATS", Reason: "NATS cannot be reached: " + away})
	}
	if in.shard() == nil {
		out = append(out, notices.Stop{Kind: notices.Intake, Name: "ingress " + in.o.Instance, Reason: "another process has its shard, or it has not been opened yet"})
	}
	for _, s := range in.shards() {
		if err := s.log.Ready(); err != nil {
			out = append(out, notices.Stop{Kind: notices.Intake, Name: "ingress " + s.log.Instance(), Reason: err.Error()})
		}
	}
	for _, b := range in.down() {
		stop := notices.Stop{Kind: notices.Hop, Name: b.About, Since: b.Since, Reason: why(b.Why), Waiting: uint64(in.parked(b.Concern, b.About).Messages)}
		if b.Concern == chain.AboutRoute {
			stop.Kind = notices.Route
			if loginRefused(stop.Reason) {
				stop.Kind = notices.Login
			}
		}
		out = append(out, stop)
	}
	return out
}

// certificates are those that this process uses: of its listeners, between services, and of stages that run in it.
func (in *Ingress) certificates() []notices.Certificate {
	var out []notices.Certificate
	cfg := in.policy.View().Config()
	if c, ok := in.smtp.Certificate(); ok && !c.SelfSigned {
		out = append(out, notices.Certificate{Name: "the certificate of the listeners", Ends: c.Ends, Remedy: "Renew it: the files of ingress.certificate are read again when they change."})
	}
	if cfg.PKI != nil {
		for name, ends := range endsIn(cfg.PKI.Directory) {
			out = append(out, notices.Certificate{Name: "the certificate between services " + name, Ends: ends, Remedy: "Renew it with `stagecoach pki renew`; services read it again when it changes."})
		}
	}
	return append(out, in.signingCertificates(cfg)...)
}

// signingCertificates are those of stages in this process that say when theirs end.
func (in *Ingress) signingCertificates(cfg *config.Config) []notices.Certificate {
	var out []notices.Certificate
	if in.o.Runner == nil || in.o.Runner.Stages == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Stages)) {
		st, release, ok := in.o.Runner.Stages.Use(name)
		if !ok {
			continue
		}
		if s, ok := st.(interface{ Ends() map[string]time.Time }); ok {
			for what, ends := range s.Ends() {
				out = append(out, notices.Certificate{Name: "the signing key of stage " + name + ", " + what + ",", Ends: ends, Remedy: "Put the files of a new one in its place; they are read again when they change."})
			}
		}
		release()
	}
	return out
}

// mostPEM bounds a file of certificates, in bytes.
const mostPEM = 1 << 20

// endsIn gives when the certificates of a folder end, by the name of their file. What cannot be read is the concern of who
// needs it.
func endsIn(dir string) map[string]time.Time {
	out := map[string]time.Time{}
	files, _ := filepath.Glob(filepath.Join(dir, "*.pem")) //nolint:errcheck // the pattern is good
	for _, f := range files {
		name := filepath.Base(f)
		if strings.HasSuffix(name, "-key.pem") {
			continue
		}
		if fi, err := os.Stat(f); err != nil || fi.Size() > mostPEM {
			continue
		}
		data, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		block, _ := pem.Decode(data)
		if block == nil || block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			out[name] = c.NotAfter
		}
	}
	return out
}

// fills are the streams of the shards, and the disk under the data folder if this process has it.
func (in *Ingress) fills() []notices.Fill {
	var out []notices.Fill
	for _, s := range in.shards() {
		for _, z := range s.log.Sizes() {
			out = append(out, notices.Fill{Name: "the stream " + z.Stream, Used: z.Used, Limit: z.Limit,
				Effect: "At 80% no more mail is accepted. Find out with `stagecoach status` why mail waits, and let it go, or delete what is not wanted."})
		}
	}
	cfg := in.policy.View().Config()
	var st unix.Statfs_t
	if cfg.DataDir != "" && unix.Statfs(cfg.DataDir, &st) == nil {
		block := uint64(st.Bsize)
		used := (st.Blocks - st.Bfree) * block
		out = append(out, notices.Fill{Name: "the disk under " + cfg.DataDir, Used: used, Limit: used + st.Bavail*block,
			Effect: "With less than 512 MiB free no more mail is accepted. Make room, or give it a larger disk."})
	}
	return out
}

// heldOnes are messages in the rooms that only a person empties.
func (in *Ingress) heldOnes(ctx context.Context, most int) (list []notices.Held, all int) {
	for _, s := range in.shards() {
		view := s.log.Waiting()
		f := depot.Filter{Rooms: []depot.Room{depot.Quarantine, depot.Dead}, Limit: 1000}
		for {
			page, next := view.List(f)
			for _, m := range page {
				if all++; len(list) < most {
					list = append(list, heldOne(ctx, s.log, m))
				}
			}
			if next == "" {
				break
			}
			f.After = next
		}
	}
	slices.SortStableFunc(list, func(a, b notices.Held) int { return cmp.Compare(a.ID, b.ID) })
	return list, all
}

func heldOne(ctx context.Context, log *spool.Shard, m *depot.Message) notices.Held {
	h := notices.Held{ID: m.ID, Sender: m.Envelope.ReversePath.String()}
	for i := range m.Groups {
		g := &m.Groups[i]
		if g.Room != depot.Quarantine && g.Room != depot.Dead {
			continue
		}
		if h.Room == "" {
			h.Room, h.Since, h.Why = string(g.Room), g.Since, why(g.Last)
		}
		for _, id := range g.Recipients {
			if r, ok := m.Envelope.Recipient(id); ok {
				h.Recipients = append(h.Recipients, r.Address.String())
			}
		}
	}
	if head, err := log.Head(ctx, m.ID, m.Body); err == nil {
		h.Subject = spool.AboutOf(mail.FromBytes(head).Header(), m.ID).Subject
	}
	return h
}
