package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
)

// report is all of a run, as it stands in the JSON file.
type report struct {
	Environment environment `json:"environment"`
	Seconds     float64     `json:"seconds_per_measurement"`
	Results     []result    `json:"results"`
}

// save writes the report as JSON.
func (r report) save(file string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// print writes the report for people.
func (r report) print(w io.Writer) {
	e := r.Environment
	fmt.Fprintf(w, "%s; %d × %s; %.0f GiB; Linux %s; %s; load average before: %s\nfsync of 4 KiB in %s: p50 %.2f ms, p99 %.2f ms, max %.2f ms. Each measurement: %g s\n",
		e.At.Format("2006-01-02 15:04"), e.Cores, e.CPU, e.MemoryGiB, e.Kernel, e.Go, e.Load, e.Folder, e.Fsync.P50, e.Fsync.P99, e.Fsync.Max, r.Seconds)
	for _, loop := range r.loops() {
		rs := slices.DeleteFunc(slices.Clone(r.Results), func(x result) bool { return x.loop() != loop || x.Error != "" })
		if len(rs) == 0 {
			continue
		}
		if rs[0].Rate > 0 {
			fmt.Fprintf(w, "\nOpen loop, %s, %d sessions\n", loop, rs[0].Sessions)
		} else {
			fmt.Fprintf(w, "\nClosed loop, %d sessions\n", rs[0].Sessions)
		}
		throughput(w, rs)
		if rs = slices.DeleteFunc(rs, func(x result) bool { return x.Relay == sinkAlone }); len(rs) > 0 {
			fmt.Fprintln(w)
			latencies(w, rs)
			fmt.Fprintln(w)
			processes(w, rs)
		}
	}
	for _, x := range r.Results {
		if x.Error != "" {
			fmt.Fprintf(w, "\nFAILED: %s\n", x.Error)
		}
	}
}

// loops are the kinds of load that there were, in order.
func (r report) loops() []string {
	var out []string
	for _, x := range r.Results {
		if !slices.Contains(out, x.loop()) {
			out = append(out, x.loop())
		}
	}
	return out
}

// table writes rows whose cells are separated by tabs.
func table(w io.Writer, rows func(row func(format string, args ...any))) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	rows(func(format string, args ...any) { fmt.Fprintf(t, format+"\t\n", args...) })
	_ = t.Flush() // to a terminal or a pipe: who reads sees that the rest is missing
}

func throughput(w io.Writer, rs []result) {
	table(w, func(row func(string, ...any)) {
		row("corpus\trelay\tmessages\tKB each\taccepted/s\tcompleted/s\tMB/s\t× bare\tCPU ms/msg\t× bare\tpeak MiB\tloader+sink ms/msg\tdeferred\tothers' CPUs")
		for _, x := range rs {
			rate, cpu := "", ""
			if x.Times != nil {
				rate, cpu = fmt.Sprintf("%.2f", x.Times.Completed), fmt.Sprintf("%.2f", x.Times.CPU)
			}
			use, peak := "", ""
			if len(x.Processes) > 0 {
				use, peak = figure(x.CPU), fmt.Sprintf("%.0f", x.Peak)
			}
			row("%s\t%s\t%d\t%.1f\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%.2f", x.Corpus, x.Relay, x.Messages, x.KB, figure(x.Accepted), figure(x.Completed), figure(x.MB), rate, use, cpu, peak, figure(x.BenchCPU), x.Deferred, x.Others)
		}
	})
}

func latencies(w io.Writer, rs []result) {
	table(w, func(row func(string, ...any)) {
		row("corpus\trelay\tdata→250 ms: p50\tp95\tp99\tmax\t250→sink ms: p50\tp95\tp99\tmax")
		for _, x := range rs {
			a, d := x.Accept, x.Delivery
			row("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", x.Corpus, x.Relay, figure(a.P50), figure(a.P95), figure(a.P99), figure(a.Max), figure(d.P50), figure(d.P95), figure(d.P99), figure(d.Max))
		}
	})
}

func processes(w io.Writer, rs []result) {
	table(w, func(row func(string, ...any)) {
		row("corpus\trelay\tprocess\tCPU ms/msg\tpeak MiB\twritten KB/msg")
		for _, x := range rs {
			for _, p := range x.Processes {
				row("%s\t%s\t%s\t%s\t%.0f\t%.1f", x.Corpus, x.Relay, p.Name, figure(p.CPU), p.Peak, p.WrittenKB)
			}
			for _, p := range x.Beside {
				row("%s\t%s\t(%s)\t%s\t%.0f\t%.1f", x.Corpus, x.Relay, p.Name, figure(p.CPU), p.Peak, p.WrittenKB)
			}
		}
	})
}

// figure writes a number with about three digits.
func figure(f float64) string {
	switch {
	case f >= 100 || f <= -100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10 || f <= -10:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.2f", f)
}
