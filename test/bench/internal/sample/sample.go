// Package sample reads from /proc what processes have used (proc(5), Linux).
package sample

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc: USER_HZ is 100 on every architecture that Go knows.
const tick = 10 * time.Millisecond

// Usage is what a process and its descendants have used since they began.
type Usage struct {
	// CPU time of user and system, with that of children that have ended and were waited for; in steps of 10 ms.
	CPU time.Duration
	// Peak is the largest resident set in bytes (VmHWM), added up over the descendants that live.
	Peak int64
	// Written is how many bytes went to the disk, or will: page cache that was made dirty. A file that is removed before
	// it was written counts, too.
	Written int64
}

// Read gives the usage of a process. It is an error if it does not live, or has ended and was not waited for.
func Read(pid int) (Usage, error) {
	all, err := processes()
	if err != nil {
		return Usage{}, err
	}
	p, ok := all[pid]
	if !ok || p.zombie {
		return Usage{}, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	u, err := p.usage()
	if err != nil {
		return Usage{}, err
	}
	for _, child := range descendants(all, pid) {
		more, err := child.usage()
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just ended: its parent has its time, or will
		}
		if err != nil {
			return Usage{}, err
		}
		u.CPU += more.CPU
		u.Peak += more.Peak
		u.Written += more.Written
	}
	return u, nil
}

// process is a line of /proc/PID/stat.
type process struct {
	pid, parent int
	zombie      bool
	cpu         time.Duration
}

// processes are all that there are.
func processes() (map[int]process, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all := make(map[int]process, len(stats))
	for _, file := range stats {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		p, err := parseStat(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all[p.pid] = p
	}
	return all, nil
}

// parseStat reads /proc/PID/stat. The name in it may hold anything, also spaces and parentheses.
func parseStat(b []byte) (process, error) {
	open, closing := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || closing < open {
		return process{}, fmt.Errorf("no process: %q", b)
	}
	var p process
	var err error
	if p.pid, err = strconv.Atoi(strings.TrimSpace(string(b[:open]))); err != nil {
		return process{}, err
	}
	// From field 3, the state, on: ppid is the 4th; utime, stime, cutime and cstime are the 14th to the 17th.
	f := strings.Fields(string(b[closing+1:]))
	if len(f) < 15 {
		return process{}, fmt.Errorf("only %d fields", len(f)+2)
	}
	p.zombie = f[0] == "Z" || f[0] == "X"
	if p.parent, err = strconv.Atoi(f[1]); err != nil {
		return process{}, err
	}
	for _, field := range f[11:15] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return process{}, err
		}
		p.cpu += time.Duration(n) * tick
	}
	return p, nil
}

// descendants are the children of pid, and theirs.
func descendants(all map[int]process, pid int) []process {
	var out []process
	for _, p := range all {
		if p.parent == pid {
			out = append(append(out, p), descendants(all, p.pid)...)
		}
	}
	return out
}

// usage is that of the process alone.
func (p process) usage() (Usage, error) {
	peak, err := field(fmt.Sprintf("/proc/%d/status", p.pid), "VmHWM:")
	if err != nil {
		return Usage{}, err
	}
	written, err := field(fmt.Sprintf("/proc/%d/io", p.pid), "write_bytes:")
	if err != nil {
		return Usage{}, err
	}
	return Usage{CPU: p.cpu, Peak: peak << 10, Written: written}, nil
}

// field finds a number in a file of lines "name: number"; 0 if there is none.
func field(file, name string) (int64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, nil
}

// Machine is the CPU time that the whole machine has used since it began, by whomever, without waiting and idling.
func Machine() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal
	if len(f) < 9 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat: %q", line)
	}
	var busy time.Duration
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		busy += time.Duration(n) * tick
	}
	return busy, nil
}
