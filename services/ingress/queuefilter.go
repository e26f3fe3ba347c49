package ingress

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
)

// mostIDs is how many messages one filter may name.
const mostIDs = 10_000

// nullSender stands for the null reverse-path in a filter.
const nullSender = "<>"

// picker is a filter as it was asked for, ready to be used.
type picker struct {
	ids    []string // sorted, each once; none: every message
	filter depot.Filter
	// recipient narrows a group to those of its recipients that match; nil: all.
	recipient *mail.Pattern
}

// pickerOf reads a filter; it may be nil, which picks everything.
func pickerOf(cfg *config.Config, f *adminv1.Filter) (*picker, error) {
	p := &picker{filter: depot.Filter{Chain: f.GetChain(), About: f.GetAbout()}}
	if len(f.GetIds()) > mostIDs {
		return nil, status.Errorf(codes.InvalidArgument, "%d ids: at most %d in one request", len(f.GetIds()), mostIDs)
	}
	p.ids = slices.Compact(slices.Sorted(slices.Values(f.GetIds())))
	for _, name := range f.GetRooms() {
		if !depot.Room(name).Valid() {
			return nil, status.Errorf(codes.InvalidArgument, "there is no room %.64q%s", name, config.Suggest(name, roomNames(), "rooms"))
		}
		p.filter.Rooms = append(p.filter.Rooms, depot.Room(name))
	}
	if route := f.GetRoute(); route != "" && cfg.RouteNamed(route) == nil {
		return nil, status.Errorf(codes.InvalidArgument, "there is no route %.64q%s", route, config.Suggest(route, slices.Collect(maps.Keys(cfg.Routes)), "routes"))
	}
	var sender *mail.Pattern
	var err error
	if f.GetSender() != nullSender {
		if sender, err = patternOf("sender", f.GetSender()); err != nil {
			return nil, err
		}
	}
	if p.recipient, err = patternOf("recipient", f.GetRecipient()); err != nil {
		return nil, err
	}
	route, null := f.GetRoute(), f.GetSender() == nullSender
	p.filter.Also = func(m *depot.Message, w *depot.Wait) bool {
		if route != "" {
			if c := cfg.ChainNamed(w.Chain); c == nil || c.Deliver != route {
				return false
			}
		}
		return (!null || m.Envelope.ReversePath.IsNull()) && (sender == nil || sender.Match(m.Envelope.ReversePath)) && len(p.narrow(m, w)) > 0
	}
	return p, nil
}

func roomNames() []string {
	return []string{string(depot.Retry), string(depot.Park), string(depot.Demand), string(depot.Quarantine), string(depot.Dead)}
}

func patternOf(field, s string) (*mail.Pattern, error) {
	if s == "" {
		return nil, nil
	}
	p, err := mail.ParsePattern(s)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%s %.128q: %v; write an address, \"*@example.com\" or \"*@*.example.com\"", field, s, err)
	}
	return &p, nil
}

// narrow gives those recipients of a group whose addresses match.
func (p *picker) narrow(m *depot.Message, w *depot.Wait) []mail.RecipientID {
	if p.recipient == nil {
		return w.Recipients
	}
	var out []mail.RecipientID
	for _, id := range w.Recipients {
		if r, ok := m.Envelope.Recipient(id); ok && p.recipient.Match(r.Address) {
			out = append(out, id)
		}
	}
	return out
}

// recipients are those of a group that the filter means.
func (p *picker) recipients(m *depot.Message, w *depot.Wait) []mail.RecipientID {
	if !p.filter.Match(m, w) {
		return nil
	}
	return p.narrow(m, w)
}

func (p *picker) meansMessage(m *depot.Message) bool { return p.filter.MatchMessage(m) }

// pick is a message that was named, or found to match.
type pick struct {
	id string
	// shard it is in; nil: it waits nowhere here.
	shard *shard
}

func (f pick) message() (*depot.Message, bool) {
	if f.shard == nil {
		return nil, false
	}
	return f.shard.log.Waiting().Get(f.id)
}

// find gives the next messages after an id, in the order of their ids, at most limit; next is the last of them, or empty
// when there are no more. Ids that were named are all given, whether they wait here or not, and whether they match.
func (p *picker) find(shards []*shard, after string, limit int) (found []pick, next string) {
	if len(p.ids) > 0 {
		at, there := slices.BinarySearch(p.ids, after)
		if there {
			at++
		}
		end := min(at+limit, len(p.ids))
		for _, id := range p.ids[at:end] {
			found = append(found, pick{id: id, shard: shardOf(shards, id)})
		}
		if end < len(p.ids) {
			next = p.ids[end-1]
		}
		return found, next
	}
	f := p.filter
	f.After, f.Limit = after, limit
	more := false
	for _, s := range shards { // ids are ordered by time, so one cursor serves all shards
		list, rest := s.log.Waiting().List(f)
		for _, m := range list {
			found = append(found, pick{m.ID, s})
		}
		more = more || rest != ""
	}
	slices.SortFunc(found, func(a, b pick) int { return strings.Compare(a.id, b.id) })
	if len(found) > limit {
		found, more = found[:limit], true
	}
	if more {
		next = found[len(found)-1].id
	}
	return found, next
}

func shardOf(shards []*shard, id string) *shard {
	for _, s := range shards {
		if _, ok := s.log.Waiting().Get(id); ok {
			return s
		}
	}
	return nil
}
