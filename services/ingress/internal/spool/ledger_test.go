package spool

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
)

// world is a ledger with the streams it would write to: a log, a depot and a trail that lag behind as they like.
type world struct {
	ledger *ledger
	log    map[uint64][]byte
	last   uint64
	depot  map[string][]byte
	queue  []*tracked
	flying []flyer
	unpins []func()
	// model is where each recipient stands: "run", "ended", or the room it waits in.
	model map[string]map[mail.RecipientID]string
}

// flyer is a value that the depot's writer has sent, and that has not landed.
type flyer struct {
	t    *tracked
	m    *depot.Message
	data []byte
}

func newWorld() *world {
	w := &world{log: map[uint64][]byte{}, last: 1000, depot: map[string][]byte{}, model: map[string]map[mail.RecipientID]string{}}
	w.boot()
	return w
}

// boot makes the ledger from what is stored.
func (w *world) boot() {
	w.queue, w.flying, w.unpins = nil, nil, nil
	w.ledger = newLedger(depot.NewView())
	w.ledger.store = func(t *tracked) { w.queue = append(w.queue, t) }
	w.ledger.over = func(*tracked) {}
	w.ledger.ended = func(_ uint64, _ *Settled, _ []End, _ []Wait, unpin func()) { w.unpins = append(w.unpins, unpin) }
}

func (w *world) recover(t *rapid.T) {
	w.boot()
	for _, data := range w.depot {
		m, err := decodeWaiting(data)
		if err != nil {
			t.Fatal(err)
		}
		w.ledger.restore(m)
	}
	for _, seq := range slices.Sorted(maps.Keys(w.log)) {
		r, err := decodeRecord(w.log[seq])
		if err != nil {
			t.Fatal(err)
		}
		entries, err := decodeEntries(r)
		if err != nil {
			t.Fatal(err)
		}
		w.ledger.apply(seq, entries)
	}
}

func (w *world) append(t *rapid.T, entries ...entry) {
	data := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), format)
	u, err := newUnit(entries...)
	if err != nil {
		t.Fatal(err)
	}
	w.last++
	w.log[w.last] = append(data, u.data...)
	w.ledger.apply(w.last, entries)
}

// send takes the snapshot of the next message that the depot wants; land makes the oldest one durable.
func (w *world) send(t *rapid.T) {
	if len(w.queue) == 0 {
		return
	}
	tr := w.queue[0]
	w.queue = w.queue[1:]
	tr.again = false
	m := tr.msg
	if m.Over() {
		w.flying = append(w.flying, flyer{tr, m, nil})
		return
	}
	if m.Trimmed() {
		full, err := decodeWaiting(w.depot[m.ID])
		if err != nil {
			t.Fatal(err)
		}
		if m = m.Restore(full); m.Trimmed() {
			t.Fatalf("%s stays trimmed", m.ID)
		}
	}
	data, err := proto.Marshal(encodeWaiting(m))
	if err != nil {
		t.Fatal(err)
	}
	w.flying = append(w.flying, flyer{tr, m, data})
}

func (w *world) land() {
	if len(w.flying) == 0 {
		return
	}
	f := w.flying[0]
	w.flying = w.flying[1:]
	if f.data == nil {
		delete(w.depot, f.m.ID)
		w.ledger.deleted(f.t)
		return
	}
	w.depot[f.m.ID] = f.data
	w.ledger.written(f.t, f.m.Seq)
}

func (w *world) purge() {
	floor := w.ledger.floor()
	maps.DeleteFunc(w.log, func(seq uint64, _ []byte) bool { return seq < floor })
}

func (w *world) check(t *rapid.T) {
	for id, recipients := range w.model {
		got := map[mail.RecipientID]string{}
		if tr := w.ledger.get(id); tr != nil {
			for _, s := range tr.msg.Running {
				for _, r := range s.Recipients {
					got[r] = "run"
				}
			}
			for _, g := range tr.msg.Groups {
				for _, r := range g.Recipients {
					got[r] = string(g.Room)
				}
			}
			if v, waits := w.ledger.view.Get(id); waits != (len(tr.msg.Groups) > 0) || waits && v != tr.msg {
				t.Fatalf("the view of %s differs from the ledger", id)
			}
		}
		for r, want := range recipients {
			if want == "ended" {
				want = ""
			}
			if got[r] != want {
				t.Fatalf("%s of %s: %q, want %q", r, id, got[r], want)
			}
		}
	}
}

// Whatever is written when, and wherever it crashes: replay finds every recipient where the log put it.
func TestReplayFindsEveryRecipient(t *testing.T) {
	rooms := []Room{Retry, Park, Demand, Quarantine, Dead}
	edits := mail.Edits{Splices: []mail.Splice{{Offset: 1, Insert: []byte("x")}}}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		n, crowd := 0, rapid.IntRange(1, 6).Draw(t, "crowd") // a single message holds the floor by itself
		pick := func(t *rapid.T) string {
			if n == 0 {
				t.Skip("no message yet")
			}
			return fmt.Sprintf("m%d", rapid.IntRange(max(0, n-3), n-1).Draw(t, "message"))
		}
		actions := map[string]func(*rapid.T){
			"accept": func(t *rapid.T) {
				if n >= crowd {
					t.Skip("crowded")
				}
				a := &Accepted{ID: fmt.Sprintf("m%d", n)}
				n++
				w.model[a.ID] = map[mail.RecipientID]string{}
				for i := range rapid.IntRange(1, 3).Draw(t, "recipients") {
					r := mail.RecipientID(fmt.Sprint("r", i))
					a.Envelope.Recipients = append(a.Envelope.Recipients, mail.Recipient{ID: r})
					a.Starts = append(a.Starts, Start{Chain: "c", Recipients: []mail.RecipientID{r}})
					w.model[a.ID][r] = "run"
				}
				w.append(t, entry{accepted: a})
			},
			"settle": func(t *rapid.T) {
				s := &Settled{ID: pick(t)}
				for _, r := range slices.Sorted(maps.Keys(w.model[s.ID])) {
					switch what := rapid.IntRange(0, len(rooms)+2).Draw(t, "what"); {
					case what < len(rooms):
						s.Waits = append(s.Waits, Wait{
							Recipients: []mail.RecipientID{r}, Room: rooms[what], Next: time.Unix(int64(what), 0),
							Done: []chain.Report{{Instance: "i", Edits: edits}},
						})
						if w.model[s.ID][r] != "ended" {
							w.model[s.ID][r] = string(rooms[what])
						}
					case what == len(rooms):
						s.Ends = append(s.Ends, End{Recipients: []mail.RecipientID{r}, Kind: EndDelivered})
						w.model[s.ID][r] = "ended"
					}
				}
				if len(s.Ends)+len(s.Waits) > 0 {
					w.append(t, entry{settled: s})
				}
			},
			"void": func(t *rapid.T) {
				id := pick(t)
				for r := range w.model[id] {
					w.model[id][r] = "ended"
				}
				w.append(t, entry{void: id})
			},
			"send": w.send,
			"land": func(*rapid.T) { w.land() },
			"trail": func(*rapid.T) {
				for _, unpin := range w.unpins {
					unpin()
				}
				w.unpins = nil
			},
			"purge": func(*rapid.T) { w.purge() },
			"crash": func(t *rapid.T) {
				if rapid.Bool().Draw(t, "purged") {
					w.purge()
				}
				w.recover(t)
			},
			"": w.check,
		}
		for range 10 {
			t.Repeat(actions)
		}
		// Once everything is written, the log is needed only for what runs.
		for len(w.queue)+len(w.flying) > 0 {
			w.send(t)
			w.land()
		}
		for _, unpin := range w.unpins {
			unpin()
		}
		floor := w.ledger.floor()
		for id, tr := range w.ledger.messages {
			if len(tr.needs) > 0 && len(tr.msg.Running) == 0 {
				t.Fatalf("%s needs %v, though nothing of it runs", id, tr.needs)
			}
			if len(tr.msg.Running) > 0 && floor > tr.needs[0] {
				t.Fatalf("the floor %d has passed %s, which runs", floor, id)
			}
		}
		runs := slices.ContainsFunc(slices.Collect(maps.Values(w.ledger.messages)), func(tr *tracked) bool { return len(tr.msg.Running) > 0 })
		if len(w.log) > 0 && !runs && floor != w.last+1 {
			t.Fatalf("nothing runs, and the floor is %d of %d", floor, w.last)
		}
	})
}
