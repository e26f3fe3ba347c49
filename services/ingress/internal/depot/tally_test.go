package depot_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/depot"
)

// slowTally counts anew what picks chooses.
func slowTally(all map[string]*depot.Message, picks func(*depot.Wait) bool) (t depot.Tally) {
	for _, m := range all {
		here := false
		for i := range m.Groups {
			w := &m.Groups[i]
			if !picks(w) {
				continue
			}
			here = true
			t.Recipients += len(w.Recipients)
			if t.Oldest.IsZero() || w.Since.Before(t.Oldest) {
				t.Oldest = w.Since
			}
		}
		if here {
			t.Messages++
			t.Bytes += m.Body.Size
		}
	}
	return t
}

// The numbers that are kept are those that counting gives, whatever comes and goes, and a list is what looking at
// each message gives.
func TestTallies(t *testing.T) {
	rooms := []depot.Room{depot.Retry, depot.Park, depot.Quarantine}
	concerns := []chain.Concern{chain.AboutRecipient, chain.AboutDestination, chain.AboutRoute}
	rapid.Check(t, func(t *rapid.T) {
		v, all := depot.NewView(), map[string]*depot.Message{}
		ids := rapid.IntRange(0, 40)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				id := fmt.Sprintf("m%02d", ids.Draw(t, "id"))
				m := &depot.Message{ID: id, Body: depot.Body{Size: rapid.Int64Range(0, 9).Draw(t, "size")}}
				if old := all[id]; old != nil {
					m.Body = old.Body // it stays what it is
				}
				for i := range rapid.IntRange(0, 3).Draw(t, "groups") {
					m.Groups = append(m.Groups, depot.Wait{Recipients: []mail.RecipientID{mail.RecipientID(fmt.Sprint(i, "a")), mail.RecipientID(fmt.Sprint(i, "b"))},
						Room: rapid.SampledFrom(rooms).Draw(t, "room"), Since: at(rapid.IntRange(1, 9).Draw(t, "since")),
						Last: chain.Fate{Concern: rapid.SampledFrom(concerns).Draw(t, "concern"), About: rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "about")}})
				}
				v.Put(m)
				if all[id] = m; len(m.Groups) == 0 {
					delete(all, id)
				}
			},
			"remove": func(t *rapid.T) {
				id := fmt.Sprintf("m%02d", ids.Draw(t, "id"))
				v.Remove(id)
				delete(all, id)
			},
			"wake": func(t *rapid.T) {
				id := fmt.Sprintf("m%02d", ids.Draw(t, "id"))
				for _, d := range v.Wake(id, func(*depot.Wait) bool { return true }) {
					v.Rest(d.ID, d.Wait.Recipients...)
				}
			},
			"": func(t *rapid.T) {
				for _, r := range rooms {
					got := v.Room(r)
					got.Last = chain.Fate{}
					if want := slowTally(all, func(w *depot.Wait) bool { return w.Room == r }); fmt.Sprint(got) != fmt.Sprint(want) {
						t.Fatalf("%s: %+v, counted %+v", r, got, want)
					}
					for _, concern := range concerns[1:] {
						var want []depot.CauseTally
						for _, about := range []string{"x", "y", "z"} {
							c := depot.Cause{Room: r, Concern: concern, About: about}
							n := slowTally(all, func(w *depot.Wait) bool { return w.Room == r && w.Last.Concern == concern && w.Last.About == about })
							got := v.Cause(c)
							if n.Messages > 0 && got.Last.About != about {
								t.Fatalf("%v: the last fate is about %q", c, got.Last.About)
							}
							if got.Last = (chain.Fate{}); fmt.Sprint(got) != fmt.Sprint(n) {
								t.Fatalf("%v: %+v, counted %+v", c, got, n)
							}
							if n.Messages > 0 {
								want = append(want, depot.CauseTally{Cause: c, Tally: n})
							}
						}
						slices.SortFunc(want, func(a, b depot.CauseTally) int {
							return cmp.Or(cmp.Compare(b.Messages, a.Messages), strings.Compare(a.About, b.About))
						})
						for limit := 1; limit <= 3; limit++ {
							list := v.Causes(r, concern, limit)
							if len(list) != min(limit, len(want)) {
								t.Fatalf("%d causes, want %d of %d", len(list), limit, len(want))
							}
							for i := range list {
								if list[i].Messages != want[i].Messages {
									t.Fatalf("cause %d has %d messages, want %d", i, list[i].Messages, want[i].Messages)
								}
							}
						}
					}
				}
				limit := rapid.IntRange(1, 50).Draw(t, "limit")
				f := depot.Filter{Rooms: rooms[:1], Limit: limit, Also: func(m *depot.Message, w *depot.Wait) bool { return m.Body.Size > 2 && w.Last.About != "z" }}
				var got, want []string
				for next := "-"; next != ""; f.After = next {
					var list []*depot.Message
					if list, next = v.List(f); len(list) > limit {
						t.Fatalf("%d in a page of %d", len(list), limit)
					}
					for _, m := range list {
						got = append(got, m.ID)
					}
				}
				for id, m := range all {
					if m.Body.Size > 2 && slices.ContainsFunc(m.Groups, func(w depot.Wait) bool { return w.Room == rooms[0] && w.Last.About != "z" }) {
						want = append(want, id)
					}
				}
				if slices.Sort(want); !slices.Equal(got, want) {
					t.Fatalf("listed %v, want %v", got, want)
				}
			},
		})
	})
}

// many fills a view with n messages, each to a destination of its own, or all to one.
func many(n int, alike bool) *depot.View {
	v := depot.NewView()
	for i := range n {
		v.Put(waiter(i, alike))
	}
	return v
}

func waiter(i int, alike bool) *depot.Message {
	about := "example.net"
	if !alike {
		about = fmt.Sprintf("d%06d.example.net", i)
	}
	return &depot.Message{ID: fmt.Sprintf("m%06d", i), Body: depot.Body{Size: 1000}, Groups: []depot.Wait{{Recipients: []mail.RecipientID{"1"}, Room: depot.Retry,
		Since: at(i % 1000), Next: at(i), Last: chain.Fate{Concern: chain.AboutDestination, About: about}}}}
}

// A list that finds nothing among 100,000 messages does not keep others from the view.
func TestListLetsOthersIn(t *testing.T) {
	v := many(100_000, true)
	looked, in := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(looked)
		began := false
		v.List(depot.Filter{Also: func(*depot.Message, *depot.Wait) bool {
			if !began {
				began = true
				close(in)
			}
			return false
		}})
	}()
	<-in
	asked := time.Now()
	v.Room(depot.Retry)
	waited := time.Since(asked)
	<-looked
	if whole := time.Since(asked); waited > whole/4+5*time.Millisecond {
		t.Errorf("waited %v while a list took %v", waited, whole)
	}
}

func BenchmarkView(b *testing.B) {
	for _, alike := range []bool{true, false} {
		v := many(100_000, alike)
		name := map[bool]string{true: "one destination", false: "100k destinations"}[alike]
		b.Run(name+"/put", func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				v.Put(waiter(i%100_000, alike), "1")
			}
		})
		b.Run(name+"/rooms", func(b *testing.B) {
			for b.Loop() {
				for _, r := range []depot.Room{depot.Retry, depot.Park, depot.Demand, depot.Quarantine, depot.Dead} {
					v.Room(r)
				}
			}
		})
		b.Run(name+"/destinations", func(b *testing.B) {
			for b.Loop() {
				v.Causes(depot.Retry, chain.AboutDestination, 20)
			}
		})
		b.Run(name+"/list nothing", func(b *testing.B) {
			for b.Loop() {
				v.List(depot.Filter{Rooms: []depot.Room{depot.Dead}})
			}
		})
	}
}
