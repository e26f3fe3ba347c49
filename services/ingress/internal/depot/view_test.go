package depot_test

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
)

func at(second int) time.Time { return time.Unix(int64(second), 0) }

// The view against a model that keeps every recipient by itself and looks at all of them each time.
func TestViewAgainstModel(t *testing.T) {
	type state struct {
		room  depot.Room
		next  int
		open  bool
		awake bool
	}
	rooms := []depot.Room{depot.Retry, depot.Park, depot.Demand, depot.Quarantine, depot.Dead}
	rapid.Check(t, func(t *rapid.T) {
		v := depot.NewView()
		messages := map[string]*depot.Message{}
		model := map[string]map[mail.RecipientID]*state{}
		ids := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
		rs := rapid.SliceOfNDistinct(rapid.SampledFrom([]mail.RecipientID{"1", "2", "3"}), 1, 3, rapid.ID[mail.RecipientID])
		seq := uint64(0)
		settle := func(id string, ends []depot.End, waits []depot.Wait) {
			seq++
			next, _, changed := messages[id].Settle(seq, ends, waits)
			messages[id] = next
			v.Put(next, changed...)
		}
		t.Repeat(map[string]func(*rapid.T){
			"new": func(t *rapid.T) {
				id := ids.Draw(t, "id")
				if messages[id] != nil && !messages[id].Over() {
					t.Skip()
				}
				messages[id] = &depot.Message{ID: id, Running: []depot.Start{{Recipients: []mail.RecipientID{"1", "2", "3"}}}}
				model[id] = map[mail.RecipientID]*state{}
			},
			"wait": func(t *rapid.T) {
				id := ids.Draw(t, "id")
				if messages[id] == nil {
					t.Skip()
				}
				s := state{room: rapid.SampledFrom(rooms).Draw(t, "room"), next: rapid.IntRange(1, 9).Draw(t, "next"), open: rapid.Bool().Draw(t, "open")}
				who := rs.Draw(t, "who")
				for _, r := range who {
					if !slices.Contains(messages[id].Ended, r) {
						c := s
						model[id][r] = &c
					}
				}
				settle(id, nil, []depot.Wait{{Recipients: who, Room: s.room, Next: at(s.next), Open: s.open}})
			},
			"end": func(t *rapid.T) {
				id := ids.Draw(t, "id")
				if messages[id] == nil {
					t.Skip()
				}
				who := rs.Draw(t, "who")
				for _, r := range who {
					delete(model[id], r)
				}
				settle(id, []depot.End{{Recipients: who, Kind: depot.EndDelivered}}, nil)
			},
			"due": func(t *rapid.T) {
				now := rapid.IntRange(0, 10).Draw(t, "now")
				got := map[string]bool{}
				for _, d := range v.Due(at(now), 1000) {
					for _, r := range d.Wait.Recipients {
						got[d.ID+string(r)] = true
					}
				}
				want := map[string]bool{}
				for id, m := range model {
					for r, s := range m {
						if (s.room == depot.Retry || s.room == depot.Park) && !s.open && !s.awake && s.next <= now {
							want[id+string(r)] = true
							s.awake = true
						}
					}
				}
				if !maps.Equal(got, want) {
					t.Fatalf("due at %d: %v, want %v", now, got, want)
				}
			},
			"wake": func(t *rapid.T) {
				id, room := ids.Draw(t, "id"), rapid.SampledFrom(rooms).Draw(t, "room")
				got, want := map[string]bool{}, map[string]bool{}
				for _, d := range v.Wake(id, func(w *depot.Wait) bool { return w.Room == room }) {
					for _, r := range d.Wait.Recipients {
						got[string(r)] = true
					}
				}
				for r, s := range model[id] {
					if s.room == room && !s.open && !s.awake {
						want[string(r)], s.awake = true, true
					}
				}
				if !maps.Equal(got, want) {
					t.Fatalf("woke %v of %s, want %v", got, id, want)
				}
			},
			"rest": func(t *rapid.T) {
				id, who := ids.Draw(t, "id"), rs.Draw(t, "who")
				for _, r := range who {
					if s := model[id][r]; s != nil {
						s.awake = false
					}
				}
				v.Rest(id, who...)
			},
			"": func(t *rapid.T) {
				waiting, first := 0, 0
				listed := map[depot.Room]int{}
				for _, m := range model {
					if len(m) > 0 {
						waiting++
					}
					seen := map[depot.Room]bool{}
					for _, s := range m {
						seen[s.room] = true
						if (s.room == depot.Retry || s.room == depot.Park) && !s.open && !s.awake && (first == 0 || s.next < first) {
							first = s.next
						}
					}
					for r := range seen {
						listed[r]++
					}
				}
				if v.Len() != waiting {
					t.Fatalf("%d wait, want %d", v.Len(), waiting)
				}
				next, ok := v.Next()
				if ok != (first > 0) || ok && !next.Equal(at(first)) {
					t.Fatalf("next %v %v, want %d", next, ok, first)
				}
				for _, room := range rooms {
					n, after := 0, ""
					for {
						page, next := v.List(depot.Filter{Rooms: []depot.Room{room}, Limit: 2, After: after})
						for _, m := range page {
							if m.ID <= after {
								t.Fatalf("list out of order: %s after %s", m.ID, after)
							}
							after = m.ID
						}
						n += len(page)
						if next == "" {
							break
						}
					}
					if n != listed[room] {
						t.Fatalf("%d listed in %s, want %d", n, room, listed[room])
					}
				}
			},
		})
	})
}

func TestListByWhatIsDown(t *testing.T) {
	v := depot.NewView()
	for i := range 10 {
		v.Put(&depot.Message{ID: fmt.Sprintf("m%d", i), Groups: []depot.Wait{{
			Recipients: []mail.RecipientID{"r"}, Room: depot.Park, Chain: "c",
			Last: chain.Fate{Concern: chain.AboutDestination, About: fmt.Sprintf("host%d", i%2)},
		}}})
	}
	list, next := v.List(depot.Filter{Concern: chain.AboutDestination, About: "host1"})
	if len(list) != 5 || next != "" || list[0].ID != "m1" {
		t.Fatalf("%d listed, next %q", len(list), next)
	}
	if list, _ := v.List(depot.Filter{Chain: "other"}); len(list) != 0 {
		t.Fatal("listed another chain's")
	}
	if v.Count(depot.Park) != 10 || v.Count(depot.Retry) != 0 {
		t.Fatal("counts are wrong")
	}
}

func TestTrimAndRestore(t *testing.T) {
	edits := mail.Edits{Splices: []mail.Splice{{Insert: []byte("x")}}}
	m := &depot.Message{ID: "m", Groups: []depot.Wait{
		{Recipients: []mail.RecipientID{"1", "2"}, Room: depot.Retry, Done: []chain.Report{{Instance: "a", Edits: edits}, {Instance: "b"}}},
		{Recipients: []mail.RecipientID{"3"}, Room: depot.Park, Done: []chain.Report{{Instance: "b"}}},
	}}
	trimmed := m.Trim()
	if m.Trimmed() || !trimmed.Trimmed() || trimmed.Groups[1].Trimmed() {
		t.Fatal("trimmed the wrong ones")
	}
	if r := trimmed.Groups[0].Done; !r[0].Edits.Empty() || !r[0].EditsOmitted || r[1].EditsOmitted {
		t.Fatalf("trimmed: %+v", r)
	}
	if m.Groups[0].Done[0].EditsOmitted {
		t.Fatal("the original was changed")
	}
	// One of the group's recipients ends; the other still finds its edits.
	next, _, _ := trimmed.Settle(9, []depot.End{{Recipients: []mail.RecipientID{"1"}, Kind: depot.EndDelivered}}, nil)
	if back := next.Restore(m); back.Trimmed() || string(back.Groups[0].Done[0].Edits.Splices[0].Insert) != "x" {
		t.Fatalf("restored: %+v", back.Groups)
	}
	if back := next.Restore(trimmed); !back.Trimmed() {
		t.Fatal("restored from nothing")
	}
}

// A hundred thousand messages that wait must be bearable.
func TestMemoryOfManyWaiting(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a hundred thousand messages")
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n = 100_000
	v := depot.NewView()
	for i := range n {
		id := fmt.Sprintf("%032d", i)
		v.Put((&depot.Message{
			ID: id, Envelope: mail.Envelope{
				ReversePath: mail.Address{Local: "sender", Domain: "example.com"},
				Recipients:  []mail.Recipient{{ID: "r", Address: mail.Address{Local: "user" + id, Domain: "example.net"}}},
			},
			Groups: []depot.Wait{{
				Recipients: []mail.RecipientID{"r"}, Chain: "outbound", Room: depot.Retry, Next: at(i),
				Done: []chain.Report{{Instance: "footer", Edits: mail.Edits{Splices: []mail.Splice{{Insert: make([]byte, 4<<10)}}}}},
			}},
		}).Trim())
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := int(after.HeapAlloc-before.HeapAlloc) / n
	t.Logf("%d bytes for each message that waits", per)
	if per > 2048 {
		t.Errorf("%d bytes for each message that waits", per)
	}
	if d := v.Due(at(n), n); len(d) != n || d[0].Wait.Next.After(d[n-1].Wait.Next) {
		t.Errorf("%d due", len(d))
	}
}
