package sample

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestMain makes a child of what the environment says: a process of which is known what it uses.
func TestMain(m *testing.M) {
	if os.Getenv("BENCH_TEST_CHILD") != "" {
		if err := child(os.Getenv("BENCH_TEST_CHILD")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const (
	burnt   = 300 * time.Millisecond
	touched = 64 << 20
	written = 4 << 20
)

// child uses what is known, says that it is ready, and waits for the end of its input. A parent has it all done by a child.
func child(what string) error {
	if what == "parent" {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), "BENCH_TEST_CHILD=worker")
		c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
		return c.Run()
	}
	f, err := os.CreateTemp(os.Getenv("BENCH_TEST_DIR"), "")
	if err != nil {
		return err
	}
	b := make([]byte, touched)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	if _, err := f.Write(b[:written]); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	for { // by its own CPU time: others may take the processor away
		all, err := processes()
		if err != nil {
			return err
		}
		if all[os.Getpid()].cpu >= burnt {
			break
		}
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func TestRead(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector, under which the short tests run, takes memory and time of its own")
	}
	for _, what := range []string{"worker", "parent"} {
		t.Run(what, func(t *testing.T) {
			c := exec.Command("/proc/self/exe")
			c.Env = append(os.Environ(), "BENCH_TEST_CHILD="+what, "BENCH_TEST_DIR="+t.TempDir())
			c.Stderr = os.Stderr
			in, err := c.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			ready := make([]byte, 5)
			if _, err := io.ReadFull(out, ready); err != nil {
				t.Fatal(err)
			}
			u, err := Read(c.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			if u.CPU < burnt || u.CPU > 2*burnt {
				t.Errorf("CPU %v, want a little over %v", u.CPU, burnt)
			}
			if u.Peak < touched || u.Peak > 2*touched {
				t.Errorf("peak of %d bytes, want a little over %d", u.Peak, touched)
			}
			if onDisk(t, t.TempDir()) && (u.Written < written || u.Written > 2*written) {
				t.Errorf("%d bytes written, want %d", u.Written, written)
			}
			again, err := Read(c.Process.Pid)
			if err != nil || again.CPU-u.CPU > 50*time.Millisecond {
				t.Errorf("it rests, and has used %v more: %v", again.CPU-u.CPU, err)
			}
			if err := in.Close(); err != nil {
				t.Fatal(err)
			}
			if err := c.Wait(); err != nil {
				t.Fatal(err)
			}
			if u, err := Read(c.Process.Pid); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("of a process that has ended: %+v, %v", u, err)
			}
		})
	}
}

// onDisk says whether what is written to a folder is written to a disk.
func onDisk(t *testing.T, dir string) bool {
	t.Helper()
	const tmpfs = 0x01021994
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	return fs.Type != tmpfs
}

func TestParseStat(t *testing.T) {
	const line = "42 (a) Z (b) S 7 42 42 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 9 9 9\n"
	p, err := parseStat([]byte(line))
	if want := (process{pid: 42, parent: 7, cpu: time.Second}); err != nil || p != want {
		t.Errorf("%+v, %v; want %+v", p, err, want)
	}
	for _, bad := range []string{"", "42", "42 (a", "42 (a) S 7", "x (a) S 7 42 42 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1"} {
		if p, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, p)
		}
	}
}

func TestMachine(t *testing.T) {
	before, err := Machine()
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
	}
	after, err := Machine()
	if err != nil {
		t.Fatal(err)
	}
	if after <= before {
		t.Errorf("%v, and then %v", before, after)
	}
}
