package faults

import (
	"testing"
	"time"
)

var epoch = time.Date(2026, 2, 3, 4, 5, 0, 0, time.UTC)

func at(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }

// The ledger's own check must see each kind of violation, and none where there is none.
func TestViolations(t *testing.T) {
	message := func(o outcome) sending {
		return sending{token: "m", to: []string{"a", "b"}, outcome: o, id: "1", reply: "451 later", dot: at(0), answered: at(10)}
	}
	copied := func(id, to string, dot int) arrival {
		return arrival{token: "m", id: id, to: to, dot: at(dot), answered: at(dot + 5)}
	}
	both := []arrival{copied("1", "a", 50), copied("1", "b", 50)}
	damage := copied("1", "a", 50)
	damage.damage = "cut short"
	kill := func(from, to int) fault { return fault{what: "kill", from: at(from), to: at(to)} }
	for name, c := range map[string]struct {
		outcome outcome
		got     []arrival
		faults  []fault
		want    []kind
	}{
		"delivered":                            {acked, both, nil, nil},
		"one recipient lost":                   {acked, both[:1], nil, []kind{lost}},
		"a fault excuses no loss":              {acked, nil, []fault{kill(0, 9000)}, []kind{lost, lost}},
		"twice, without a fault":               {acked, append(both[:2:2], copied("1", "a", 90)), nil, []kind{doubled}},
		"twice, killed before the record":      {acked, append(both[:2:2], copied("1", "a", 9000)), []fault{kill(100, 200)}, nil},
		"twice, killed before the dot":         {acked, append([]arrival{copied("1", "a", 5000), copied("1", "b", 50)}, copied("1", "a", 9000)), []fault{kill(100, 200)}, []kind{doubled}},
		"twice, killed long after the record":  {acked, append(both[:2:2], copied("1", "a", 9000)), []fault{kill(3000, 3100)}, []kind{doubled}},
		"twice, killed after the last copy":    {acked, append(both[:2:2], copied("1", "a", 9000)), []fault{kill(9001, 9100)}, []kind{doubled}},
		"three times, one kill":                {acked, append(both[:2:2], copied("1", "a", 90), copied("1", "a", 9000)), []fault{kill(100, 200)}, []kind{doubled}},
		"twice, killed when the log was back":  {acked, append(both[:2:2], copied("1", "a", 9000)), []fault{{what: "nats", from: at(60), to: at(4000), log: true}, kill(4500, 4600)}, nil},
		"twice, the fault was elsewhere":       {acked, append(both[:2:2], copied("1", "a", 9000)), []fault{{what: "stop", from: at(100), to: at(200), of: "n"}}, []kind{doubled}},
		"never asked for":                      {unsent, both[:1], nil, []kind{unasked}},
		"no answer":                            {unanswered, both[:1], nil, nil},
		"no answer, and no copy":               {unanswered, nil, nil, nil},
		"refused":                              {refused, both[:1], nil, []kind{unasked}},
		"refused by who could not know":        {refused, both[:1], []fault{kill(5, 8)}, nil},
		"refused, and a fault long after that": {refused, both[:1], []fault{kill(5000, 5001)}, []kind{unasked}},
		"as another message":                   {acked, []arrival{copied("2", "a", 50), both[1]}, nil, []kind{lost, misplaced, doubled}},
		"to somebody else":                     {acked, append(both[:2:2], copied("1", "c", 60)), nil, []kind{misplaced}},
		"damaged":                              {acked, []arrival{damage, both[1]}, nil, []kind{damaged}},
	} {
		t.Run(name, func(t *testing.T) {
			got := map[kind]int{}
			for _, v := range violations([]sending{message(c.outcome)}, c.got, c.faults) {
				got[v.kind]++
			}
			want := map[kind]int{}
			for _, k := range c.want {
				want[k]++
			}
			for _, k := range []kind{lost, doubled, unasked, damaged, misplaced} {
				if got[k] != want[k] {
					t.Errorf("%s: %d, want %d", k, got[k], want[k])
				}
			}
		})
	}
}
