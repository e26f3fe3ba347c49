package ingress

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// mostDestinations is how many destinations a status names.
const mostDestinations = 20

// Status tells how this ingress is. It answers from memory, so at once, whether NATS is there or not.
func (in *Ingress) Status() adminv1.StatusServiceServer { return &statusService{in: in} }

type statusService struct {
	adminv1.UnimplementedStatusServiceServer
	in *Ingress
}

// GetStatus implements the service.
func (s *statusService) GetStatus(context.Context, *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error) {
	in := s.in
	cfg := in.policy.View().Config()
	in.mu.Lock()
	held := in.paused
	in.mu.Unlock()
	out := &adminv1.GetStatusResponse{Hostname: cfg.Hostname, Version: service.Version(), Started: timestamppb.New(in.started), Revision: cfg.Revision,
		Shards: in.shardStates(), Rooms: in.roomStates(), Barriers: in.barriers(), Listeners: in.listenerStates(cfg), Held: held, Durability: in.durability()}
	for _, one := range in.shards() {
		out.Running += uint64(max(one.dispatcher.Running(), 0))
	}
	out.Problems = in.problems(cfg, out)
	return out, nil
}

// shardStates are the own shard, whether it is there or not, and those that were taken over.
func (in *Ingress) shardStates() []*adminv1.Shard {
	own := in.shard()
	var out []*adminv1.Shard
	if own == nil {
		out = append(out, &adminv1.Shard{Name: in.o.Instance, Stopped: shardLost, Reason: "another process has it, or it has not been opened yet"})
	}
	for _, s := range in.shards() {
		state := &adminv1.Shard{Name: s.log.Instance(), Adopted: s != own, Filled: s.log.Filled()}
		if err := s.log.Ready(); err != nil {
			state.Reason = plainText(err.Error())
			switch {
			case errors.Is(err, spool.ErrFull):
				state.Stopped = shardFull
			case errors.Is(err, spool.ErrDown):
				state.Stopped = shardDown
			default:
				state.Stopped = shardLost
			}
		}
		out = append(out, state)
	}
	return out
}

// Why a shard takes no mail.
const (
	shardFull = "full"
	shardDown = "down"
	shardLost = "lost"
)

func (in *Ingress) roomStates() []*adminv1.Room {
	var out []*adminv1.Room
	for _, name := range roomNames() {
		var all depot.Tally
		for _, s := range in.shards() {
			all = sum(all, s.log.Waiting().Room(depot.Room(name)))
		}
		r := &adminv1.Room{Name: name, Messages: uint64(all.Messages), Recipients: uint64(all.Recipients), Bytes: uint64(all.Bytes)}
		if !all.Oldest.IsZero() {
			r.Oldest = timestamppb.New(all.Oldest)
		}
		out = append(out, r)
	}
	return out
}

// barriers are the paused routes, then what is down, then the destinations that most mail waits for.
func (in *Ingress) barriers() []*adminv1.Barrier {
	var out []*adminv1.Barrier
	paused := in.pauses.all()
	for _, name := range slices.Sorted(maps.Keys(paused)) {
		p := paused[name]
		out = append(out, &adminv1.Barrier{Kind: string(chain.AboutRoute), Name: name, Since: timestamppb.New(p.At), Reason: plainText(p.Reason), By: plainText(p.By),
			Waiting: uint64(in.parked(chain.AboutRoute, name).Messages)})
	}
	for _, b := range in.down() {
		out = append(out, &adminv1.Barrier{Kind: string(b.Concern), Name: b.About, Since: timestamppb.New(b.Since), Reason: why(b.Why),
			Waiting: uint64(in.parked(b.Concern, b.About).Messages)})
	}
	return append(out, in.destinations()...)
}

func (in *Ingress) destinations() []*adminv1.Barrier {
	all := map[string]depot.Tally{}
	for _, s := range in.shards() {
		for _, c := range s.log.Waiting().Causes(depot.Retry, chain.AboutDestination, mostDestinations) {
			all[c.About] = sum(all[c.About], c.Tally)
		}
	}
	names := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return cmp.Or(cmp.Compare(all[b].Messages, all[a].Messages), strings.Compare(a, b))
	})
	var out []*adminv1.Barrier
	for _, name := range names[:min(len(names), mostDestinations)] {
		t := all[name]
		out = append(out, &adminv1.Barrier{Kind: string(chain.AboutDestination), Name: plainText(name), Since: timestamppb.New(t.Oldest), Reason: why(t.Last), Waiting: uint64(t.Messages)})
	}
	return out
}

func (in *Ingress) listenerStates(cfg *config.Config) []*adminv1.Listener {
	var out []*adminv1.Listener
	for _, l := range cfg.Ingress.Listeners {
		state := &adminv1.Listener{Name: l.Name, Address: l.Address}
		if a := in.Addr(l.Name); a != nil {
			state.Address = a.String()
		}
		if l.TLS == config.ListenerSTARTTLS || l.TLS == config.ListenerImplicit {
			if c, ok := in.smtp.Certificate(); ok {
				state.CertificateEnds, state.SelfSigned = timestamppb.New(c.Ends), c.SelfSigned
			}
		}
		out = append(out, state)
	}
	return out
}

// public says that others than this machine reach an address.
func public(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return !ip.IsLoopback()
	}
	return host != "localhost"
}

// durability says why what is stored is taken to be on disk.
func (in *Ingress) durability() string {
	n := in.o.Config.NATS
	text := ""
	switch {
	case in.o.Durable:
		text = "the embedded NATS writes to disk before it acknowledges (sync_interval: always)"
	case n.Assumed:
		text = "assumed: the configuration says so (durability: assumed), and nobody has looked"
	case n.Monitor != "":
		text = "the monitor of NATS said at the start: sync_interval is always"
	default:
		text = "every NATS server said at the start: sync_interval is always"
	}
	if n.Replicas > 1 && !in.o.Durable {
		text += "; " + strconv.Itoa(n.Replicas) + " replicas"
	}
	return text
}

// natsAway says since nothing goes to NATS now, or is empty.
func (in *Ingress) natsAway() string {
	if st := in.o.Conn.Status(); st != nats.CONNECTED {
		return strings.ToLower(st.String())
	}
	return ""
}

// why says in one line what a fate has found.
func why(f chain.Fate) string {
	text := f.Reason
	if f.Reply != nil {
		text = f.Reply.Public()
		if f.Reason != "" {
			text = f.Reason + ": " + text
		}
	}
	return cmp.Or(plainText(text), "no reason is known")
}

// textLimit of what others say, as it stands in a status, in runes.
const textLimit = 300

// plainText is what others say as one line that a terminal can show.
func plainText(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, string(unicode.ReplacementChar)))
	if r := []rune(s); len(r) > textLimit {
		s = string(r[:textLimit]) + "…"
	}
	return s
}

// ago says how long ago something was, for people.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(max(d, 0)/time.Second)) + " s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + " min"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + " h"
	}
	return strconv.Itoa(int(d/(24*time.Hour))) + " days"
}
