package maildir

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/mail"
)

// staleAfter is when a file in tmp counts as left behind.
const staleAfter = 36 * time.Hour

// Maildir is one folder. It is safe for concurrent use, also by several processes.
type Maildir struct{ path string }

// Open makes the folders that are missing.
func Open(path string) (*Maildir, error) {
	for _, d := range []string{"tmp", "new", "cur"} {
		if err := os.MkdirAll(filepath.Join(path, d), 0o700); err != nil {
			return nil, fmt.Errorf("making the maildir: %w", err)
		}
	}
	return &Maildir{path: path}, nil
}

// Sweep removes what crashes left in tmp.
func (m *Maildir) Sweep(now time.Time) error {
	files, err := os.ReadDir(filepath.Join(m.path, "tmp"))
	if err != nil {
		return err
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil || now.Sub(info.ModTime()) < staleAfter {
			continue
		}
		if e := os.Remove(filepath.Join(m.path, "tmp", f.Name())); e != nil && !errors.Is(e, fs.ErrNotExist) {
			return e
		}
	}
	return nil
}

// Draft is a message on stable storage that nobody sees yet.
type Draft struct {
	dir  *Maildir
	name string
	tmp  string // "" if the message is there already
}

// Prepare writes the message for one recipient. In front of it stand Return-Path, as final delivery demands (RFC 5321,
// section 4.4), and Delivered-To; every other byte is as it came, line ends included.
func (m *Maildir) Prepare(id string, from mail.Address, to mail.Recipient, message io.WriterTo) (*Draft, error) {
	d := &Draft{dir: m, name: Name(id, to.ID)}
	there, err := d.delivered()
	if err != nil || there {
		return d, err
	}
	tmp := filepath.Join(m.path, "tmp", rand.Text()+"."+d.name)
	if err := write(tmp, from, to.Address, message); err != nil {
		_ = os.Remove(tmp)
		return nil, fmt.Errorf("writing a message into the maildir: %w", err)
	}
	d.tmp = tmp
	return d, nil
}

// Commit makes the message visible. Doing it twice, here or elsewhere, makes one.
func (d *Draft) Commit() error {
	if d.tmp == "" {
		return nil
	}
	defer d.Discard()
	err := os.Link(d.tmp, filepath.Join(d.dir.path, "new", d.name))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("moving a message into new: %w", err)
	}
	return syncDir(filepath.Join(d.dir.path, "new"))
}

// Discard forgets a draft that was not committed.
func (d *Draft) Discard() {
	if d.tmp != "" {
		_ = os.Remove(d.tmp)
		d.tmp = ""
	}
}

// delivered looks for an earlier delivery: in new, or in cur with the flags that a reader has added.
func (d *Draft) delivered() (bool, error) {
	_, err := os.Lstat(filepath.Join(d.dir.path, "new", d.name))
	if err == nil {
		// It may have been linked by a process that died before it saw to the directory.
		return true, syncDir(filepath.Join(d.dir.path, "new"))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	cur, err := os.Open(filepath.Join(d.dir.path, "cur"))
	if err != nil {
		return false, err
	}
	defer cur.Close()
	for {
		names, err := cur.Readdirnames(512)
		for _, n := range names {
			if base, _, _ := strings.Cut(n, ":"); base == d.name {
				return true, nil
			}
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}

func write(path string, from, to mail.Address, message io.WriterTo) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	w := bufio.NewWriterSize(f, 64<<10)
	fmt.Fprintf(w, "Return-Path: <%s>\r\nDelivered-To: %s\r\n", from, to)
	if _, err = message.WriteTo(w); err != nil {
		return err
	}
	if err = w.Flush(); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Name is the name of the file for one recipient of one message. Two different pairs never share one.
func Name(id string, to mail.RecipientID) string {
	name := escape(id) + "." + escape(string(to))
	if len(name) > 180 {
		sum := sha256.Sum256([]byte(name))
		name = name[:100] + "~" + hex.EncodeToString(sum[:])
	}
	return name
}

// escape leaves no dot, colon or slash: they mean something in a maildir.
func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c == '-' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}
