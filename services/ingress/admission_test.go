package ingress

import (
	"math/rand/v2"
	"testing"
)

const mega = 1_000_000

func TestAdmissionShares(t *testing.T) {
	a := &admission{}
	a.setLimit(10*mega, 1*mega)
	var strangers, ours []*grant
	for {
		g := a.reserve(mega, true)
		if g == nil {
			break
		}
		strangers = append(strangers, g)
	}
	for {
		g := a.reserve(mega, false)
		if g == nil {
			break
		}
		ours = append(ours, g)
	}
	if len(strangers) != 5 || len(ours) != 5 {
		t.Errorf("%d of strangers and %d of ours", len(strangers), len(ours))
	}
	strangers[0].shrink(mega / 2)
	if a.reserve(mega, false) != nil {
		t.Error("half the room was enough")
	}
	strangers[1].shrink(mega / 2)
	if g := a.reserve(mega, true); g != nil { // half of the whole, but all of it is taken but one
		ours = append(ours, g)
	} else {
		t.Error("what was given back cannot be had")
	}
	strangers[0].shrink(mega) // it does not grow
	for _, g := range append(strangers, ours...) {
		g.release()
		g.release()
	}
	if a.total != 0 || a.byStranger != 0 {
		t.Errorf("left: %d, of strangers %d", a.total, a.byStranger)
	}
}

// With the smallest budget that the configuration allows, a stranger's message of the largest size, with the field
// that we add, still gets in.
func TestAdmissionSmallBudget(t *testing.T) {
	a := &admission{}
	a.setLimit(0, mega)
	g := a.reserve(mega+4096, true)
	if g == nil {
		t.Fatal("no room for one")
	}
	if a.reserve(mega+4096, true) != nil {
		t.Error("strangers have more than half")
	}
	g.release()
	if a.reserve(mega+4096, true) == nil {
		t.Error("no room for the next one")
	}
}

// Small messages cost room too: their number is bounded.
func TestAdmissionBoundsTheNumber(t *testing.T) {
	a := &admission{}
	a.setLimit(mega, 1000)
	n := 0
	for {
		g := a.reserve(10, false)
		if g == nil {
			break
		}
		g.shrink(1)
		n++
	}
	if n != mega/leastBytes {
		t.Errorf("%d messages", n)
	}
}

func TestAdmissionNeverLeaks(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	a := &admission{}
	a.setLimit(20*mega, mega)
	var open []*grant
	for range 20000 {
		switch k := r.IntN(3); {
		case k == 0:
			if g := a.reserve(r.Int64N(2*mega), r.IntN(2) == 0); g != nil {
				open = append(open, g)
			}
		case len(open) == 0:
		case k == 1:
			open[r.IntN(len(open))].shrink(r.Int64N(2 * mega))
		default:
			i := r.IntN(len(open))
			open[i].release()
			open = append(open[:i], open[i+1:]...)
		}
		var total, strangers int64
		for _, g := range open {
			if total += g.bytes; g.stranger {
				strangers += g.bytes
			}
		}
		if a.total != total || a.byStranger != strangers || total > a.limit {
			t.Fatalf("counted %d and %d, there are %d and %d", a.total, a.byStranger, total, strangers)
		}
	}
}

// A message whose client did not say how large it is takes room as it comes, and is refused when there is none left.
func TestAdmissionGrows(t *testing.T) {
	a := &admission{}
	a.setLimit(10*mega, mega)
	g := a.reserve(mega, true)
	if !g.grow(4*mega) || !g.grow(2*mega) || g.bytes != 4*mega {
		t.Fatalf("grew to %d", g.bytes)
	}
	other := a.reserve(mega, true)
	if other == nil {
		t.Fatal("no room for another stranger within the half")
	}
	if g.grow(4*mega + 1) {
		t.Error("strangers took more than half")
	}
	own := a.reserve(5*mega, false)
	if own == nil || own.grow(5*mega+1) {
		t.Error("more than the whole was taken")
	}
	g.release()
	if !own.grow(9 * mega) {
		t.Error("what was given back cannot be had")
	}
	own.release()
	other.release()
	if a.total != 0 || a.byStranger != 0 {
		t.Errorf("left: %d, of strangers %d", a.total, a.byStranger)
	}
	if alone := a.reserve(mega, true); !alone.grow(30 * mega) {
		t.Error("one message alone did not fit")
	}
}
