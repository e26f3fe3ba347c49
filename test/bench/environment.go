package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/test/bench/internal/ledger"
)

// environment is where the figures are from.
type environment struct {
	At        time.Time `json:"at"`
	CPU       string    `json:"cpu"`
	Cores     int       `json:"cores"`
	MemoryGiB float64   `json:"memory_gib"`
	Kernel    string    `json:"kernel"`
	Go        string    `json:"go"`
	// Load is the load average over a minute before anything was started: more than 0.2 or so, and the machine is not quiet.
	Load string `json:"load_average"`
	// Fsync is how long it takes in the folder where the data is to append 4 KiB to a file and sync it, in milliseconds.
	Fsync latency `json:"fsync_ms"`
	// Folder is where the data is.
	Folder string `json:"folder"`
}

// survey looks at the machine.
func survey() (environment, error) {
	e := environment{At: time.Now().UTC().Truncate(time.Second), Cores: runtime.NumCPU(), Go: runtime.Version(), Folder: os.TempDir()}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	average, aerr := os.ReadFile("/proc/loadavg")
	cpu, cerr := procField("/proc/cpuinfo", "model name")
	memory, merr := procField("/proc/meminfo", "MemTotal")
	if err := errors.Join(err, aerr, cerr, merr); err != nil {
		return e, err
	}
	e.Kernel, e.CPU = strings.TrimSpace(string(kernel)), cpu
	e.Load, _, _ = strings.Cut(string(average), " ")
	var kib float64
	if _, err := fmt.Sscanf(memory, "%f kB", &kib); err != nil {
		return e, fmt.Errorf("/proc/meminfo: MemTotal %q: %w", memory, err)
	}
	e.MemoryGiB = kib / (1 << 20)
	e.Fsync, err = fsync(e.Folder)
	return e, err
}

// procField finds "name : value"; empty if there is none (not every processor has a model name).
func procField(file, name string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == name {
			return strings.TrimSpace(value), nil
		}
	}
	return "", nil
}

// fsync appends and syncs for a while.
func fsync(folder string) (_ latency, err error) {
	const (
		block = 4 << 10
		times = 200
	)
	dir, err := os.MkdirTemp(folder, "bench")
	if err != nil {
		return latency{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		return latency{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var took []time.Duration
	for range times {
		start := time.Now()
		if _, err := f.Write(make([]byte, block)); err != nil {
			return latency{}, err
		}
		if err := f.Sync(); err != nil {
			return latency{}, err
		}
		took = append(took, time.Since(start))
	}
	return milliseconds(ledger.Quantiles(took)), nil
}
