package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/admin"
	"github.com/stagecoachmail/stagecoach/services/antivirus"
	"github.com/stagecoachmail/stagecoach/services/egress"
	"github.com/stagecoachmail/stagecoach/services/ingress"
)

// System gives an Env for this machine. c may be nil, and err says then why.
func System(c *config.Config, file string, up bool, err error) *Env {
	e := &Env{Config: c, Err: err, File: file, Up: up, Now: time.Now, Resolver: world(), Ports: ports{}, Clock: clock{}, Disk: disk{}, Servers: servers{},
		UID:        os.Geteuid(),
		ClamdFiles: []string{"/etc/clamav/clamd.conf", "/etc/clamd.d/scan.conf", "/etc/clamd.conf"}}
	if c != nil {
		e.Admin = socket(filepath.Join(c.DataDir, admin.SocketName))
	}
	return e
}

type ports struct{}

func (ports) Listen(ctx context.Context, address string) (io.Closer, error) {
	var c net.ListenConfig
	return c.Listen(ctx, "tcp", address)
}

func (ports) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

type clock struct{}

// State reads the kernel's clock state; that changes nothing and needs no rights (adjtimex(2)).
func (clock) State() (ClockState, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return ClockState{}, err
	}
	return ClockState{Synchronised: state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, Error: time.Duration(t.Maxerror) * time.Microsecond}, nil
}

type disk struct{}

// networkKinds are file systems on other machines, by their magic number in statfs(2).
func networkKinds() map[int64]string {
	return map[int64]string{unix.NFS_SUPER_MAGIC: "NFS", unix.SMB_SUPER_MAGIC: "SMB", unix.CIFS_SUPER_MAGIC: "CIFS", unix.SMB2_SUPER_MAGIC: "SMB",
		unix.CEPH_SUPER_MAGIC: "Ceph", unix.V9FS_MAGIC: "9P", unix.AFS_SUPER_MAGIC: "AFS", unix.CODA_SUPER_MAGIC: "Coda", unix.NCP_SUPER_MAGIC: "NCP", unix.OCFS2_SUPER_MAGIC: "OCFS2"}
}

func (disk) Usage(path string) (DiskUsage, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return DiskUsage{}, fmt.Errorf("statfs %s: %w", path, err)
	}
	u := DiskUsage{Free: st.Bavail * uint64(st.Bsize), Size: st.Blocks * uint64(st.Bsize), FreeInodes: st.Ffree, Inodes: st.Files}
	if u.Kind, u.Network = networkKinds()[int64(uint32(st.Type))]; u.Network {
		return u, nil
	}
	if st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC {
		u.Kind = "tmpfs"
	}
	return u, nil
}

const (
	syncTries = 10
	syncBytes = 4096
)

// SyncTime is the median of syncTries appends of syncBytes, each with its fdatasync, to a file that has no name.
func (disk) SyncTime(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return 0, err
	}
	block := make([]byte, syncBytes)
	took := make([]time.Duration, syncTries)
	for i := range took {
		start := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return took[syncTries/2], nil
}

// socket is the path of the running instance's.
type socket string

func (s socket) Status(ctx context.Context) (*adminv1.GetStatusResponse, error) {
	if _, err := os.Lstat(string(s)); errors.Is(err, fs.ErrNotExist) {
		return nil, errNotRunning
	} else if err != nil {
		return nil, err
	}
	// A socket that nobody listens on was left behind by a process that was killed.
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", string(s))
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil, errNotRunning
	}
	if err != nil {
		return nil, err
	}
	_ = conn.Close() // it was only tried
	conns := service.NewConnections(nil)
	defer conns.Close()
	c, err := conns.Conn("unix:"+string(s), "")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return adminv1.NewStatusServiceClient(c).GetStatus(ctx, &adminv1.GetStatusRequest{})
}

type servers struct{}

func (servers) Route(ctx context.Context, o egress.ProbeOptions) ([]egress.Report, error) {
	return egress.Probe(ctx, o)
}

func (servers) NATS(ctx context.Context, c *config.Config) ([]ingress.StreamState, error) {
	return ingress.CheckDurable(ctx, c)
}

func (servers) Clamd(ctx context.Context, address string) (antivirus.ClamdReport, error) {
	return antivirus.ProbeClamd(ctx, address)
}
