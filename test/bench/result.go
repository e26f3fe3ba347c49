package main

import (
	"slices"
	"syscall"
	"time"

	"github.com/stagecoachmail/stagecoach/test/bench/internal/ledger"
	"github.com/stagecoachmail/stagecoach/test/bench/internal/sample"
)

// result is what a scenario has shown. CPU times are per message accepted, in milliseconds of one processor.
type result struct {
	scenario
	Messages int `json:"messages"`
	// KB is the mean size as sent (1000 bytes).
	KB float64 `json:"kb_per_message"`
	// Accepted: 250s to the data per second, until the last one. Completed: messages at the sink per second, until the
	// last one has arrived: what the relay can sustain. MB is of those, in 1000000 bytes.
	Accepted  float64 `json:"accepted_per_second"`
	Completed float64 `json:"completed_per_second"`
	MB        float64 `json:"mb_per_second"`
	// Deferred is how many 4xx there were; the messages were sent again.
	Deferred int `json:"deferred"`
	// CPU and Peak (MiB) are sums over Processes: the relay. Beside is what it needs and is not counted in.
	CPU       float64 `json:"cpu_ms_per_message"`
	Peak      float64 `json:"peak_mib"`
	Processes []usage `json:"processes"`
	Beside    []usage `json:"beside"`
	// BenchCPU is what loader and sink have used per message, Others how many processors everybody else on the machine
	// had in use (with the kernel's own work) on average.
	BenchCPU float64 `json:"bench_cpu_ms_per_message"`
	Others   float64 `json:"others_processors"`
	// Accept: from the first byte of the data (open loop: from when it was due) to the 250. Delivery: from the 250 to the
	// final dot at the sink.
	Accept   latency `json:"data_to_250_ms"`
	Delivery latency `json:"from_250_to_sink_ms"`
	// Times is this relay over the bare one, if that was measured in the same run.
	Times *times `json:"times_bare,omitempty"`
	// Error says why there are no figures, or that they are of no worth.
	Error string `json:"error,omitempty"`
}

// usage is that of one process.
type usage struct {
	Name      string  `json:"name"`
	CPU       float64 `json:"cpu_ms_per_message"`
	Peak      float64 `json:"peak_mib"`
	WrittenKB float64 `json:"written_kb_per_message"`
}

// latency is in milliseconds.
type latency struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// times is a ratio: 2 is twice as much as the bare relay.
type times struct {
	CPU       float64 `json:"cpu"`
	Completed float64 `json:"completed"`
	Peak      float64 `json:"peak"`
}

// readings is what all have used so far.
type readings struct {
	at             time.Time
	parts, beside  []sample.Usage
	self, everyone time.Duration
}

// sample reads all counters at about the same time.
func (s *subject) sample() readings {
	r := readings{at: time.Now()}
	read := func(parts []part) []sample.Usage {
		var out []sample.Usage
		for _, p := range parts {
			u, err := sample.Read(p.Pid())
			if err != nil {
				s.T.Fatalf("%s: %v", p.name, err)
			}
			out = append(out, u)
		}
		return out
	}
	r.parts, r.beside = read(s.parts), read(s.beside)
	var self syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &self); err != nil {
		s.T.Fatal(err)
	}
	r.self = time.Duration(self.Utime.Nano() + self.Stime.Nano())
	var err error
	if r.everyone, err = sample.Machine(); err != nil {
		s.T.Fatal(err)
	}
	return r
}

// sum makes the result of a scenario.
func sum(s scenario, sub *subject, f ledger.Figures, deferred int, before, after readings) result {
	n := float64(max(f.Messages, 1))
	res := result{scenario: s, Messages: f.Messages, KB: float64(f.Bytes) / 1e3 / n, Deferred: deferred, Accept: milliseconds(f.Accept), Delivery: milliseconds(f.Delivery)}
	accepting, all := f.LastAccepted.Sub(f.FirstBegan).Seconds(), f.LastArrived.Sub(f.FirstBegan).Seconds()
	res.Accepted, res.Completed, res.MB = ratio(n, accepting), ratio(n, all), ratio(float64(f.Bytes)/1e6, all)
	spent := after.self - before.self
	perMessage := func(d time.Duration) float64 { return d.Seconds() * 1e3 / n }
	use := func(parts []part, from, to []sample.Usage) (out []usage) {
		for i, p := range parts {
			spent += to[i].CPU - from[i].CPU
			out = append(out, usage{Name: p.name, CPU: perMessage(to[i].CPU - from[i].CPU), Peak: float64(to[i].Peak) / (1 << 20), WrittenKB: float64(to[i].Written-from[i].Written) / 1e3 / n})
		}
		return out
	}
	res.Processes, res.Beside = use(sub.parts, before.parts, after.parts), use(sub.beside, before.beside, after.beside)
	for _, p := range res.Processes {
		res.CPU += p.CPU
		res.Peak += p.Peak
	}
	res.BenchCPU = perMessage(after.self - before.self)
	res.Others = max(0, ratio((after.everyone-before.everyone-spent).Seconds(), after.at.Sub(before.at).Seconds()))
	return res
}

func milliseconds(l ledger.Latency) latency {
	ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
	return latency{ms(l.P50), ms(l.P95), ms(l.P99), ms(l.Max)}
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// compare sets each result against that of the bare relay under the same load.
func compare(all []result) {
	for i := range all {
		r := &all[i]
		base := slices.IndexFunc(all, func(b result) bool {
			return b.Relay == bareRelay && b.Corpus == r.Corpus && b.Rate == r.Rate && b.Error == ""
		})
		if base < 0 || r.Relay == sinkAlone || r.Relay == bareRelay || r.Error != "" {
			continue
		}
		b := all[base]
		r.Times = &times{CPU: ratio(r.CPU, b.CPU), Completed: ratio(r.Completed, b.Completed), Peak: ratio(r.Peak, b.Peak)}
	}
}
