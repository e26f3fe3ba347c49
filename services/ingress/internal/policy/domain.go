package policy

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/mail"
)

const (
	// fresh is how long a recipients file is not looked at again.
	fresh = time.Second
	// maxList bounds a recipients file in bytes.
	maxList = 256 << 20
)

// domain is one of ours with its recipients.
type domain struct {
	name string
	any  bool
	path string
	opts Options

	mu       sync.Mutex
	locals   map[string]struct{} // in lower case
	modified time.Time
	size     int64
	checked  time.Time
	broken   string
}

func newDomain(c config.Domain, opts Options) (*domain, error) {
	d := &domain{name: strings.ToLower(c.Name), any: c.Any, path: c.File, opts: opts}
	if d.any {
		return d, nil
	}
	if d.path == "" {
		return nil, fmt.Errorf("domain %s: neither a file of recipients nor any", c.Name)
	}
	if err := d.load(); err != nil {
		return nil, err
	}
	d.checked = opts.Now()
	return d, nil
}

// has says that the mailbox exists. Local parts are compared without regard to case, as every mail server in use does.
func (d *domain) has(a mail.Address) bool { return d.any || d.listed(a) }

// listed says that the mailbox stands in the file.
func (d *domain) listed(a mail.Address) bool {
	if d.any {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refresh()
	_, ok := d.locals[strings.ToLower(a.Local)]
	return ok
}

// refresh reads the file again if it has changed. One that cannot be read changes nothing: an error is no verdict.
func (d *domain) refresh() {
	now := d.opts.Now()
	if now.Sub(d.checked) < fresh && !now.Before(d.checked) {
		return
	}
	d.checked = now
	fi, err := os.Stat(d.path)
	if err == nil && fi.ModTime().Equal(d.modified) && fi.Size() == d.size {
		return
	}
	if err = d.load(); err != nil {
		if err.Error() != d.broken {
			d.broken = err.Error()
			d.opts.Logger.Error("recipients file not taken; the former one stays in force", "domain", d.name, "error", err)
		}
		return
	}
	d.broken = ""
	d.opts.Logger.Info("recipients file read again", slog.String("domain", d.name), slog.Int("recipients", len(d.locals)))
}

// load reads the file; its stamp is taken first, so that a change in between is seen the next time.
func (d *domain) load() error {
	fi, err := os.Stat(d.path)
	if err != nil {
		return fmt.Errorf("domain %s: recipients: %w", d.name, err)
	}
	if fi.Size() > maxList {
		return fmt.Errorf("domain %s: recipients file is larger than %d bytes", d.name, maxList)
	}
	data, err := os.ReadFile(d.path)
	if err != nil {
		return fmt.Errorf("domain %s: recipients: %w", d.name, err)
	}
	locals, err := parseList(d.name, data)
	if err != nil {
		return fmt.Errorf("%s:%w", d.path, err)
	}
	d.locals, d.modified, d.size = locals, fi.ModTime(), fi.Size()
	return nil
}

// parseList reads one local part or full address a line; "#" begins a comment. Addresses of other domains are
// skipped, so that one file can serve several domains. A malformed line makes the file invalid: what would be left out
// would bounce.
func parseList(name string, data []byte) (map[string]struct{}, error) {
	locals := map[string]struct{}{}
	sc := bufio.NewScanner(bytes.NewReader(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if i := strings.Index(line, " #"); i >= 0 {
			line = strings.TrimSpace(line[:i])
		}
		full := line
		if !strings.Contains(line, "@") || strings.HasSuffix(line, `"`) {
			full = line + "@" + name
		}
		a, err := mail.ParseAddress(full)
		if err != nil {
			return nil, fmt.Errorf("%d: %q is neither a local part nor an address: %w", n, line, err)
		}
		if strings.EqualFold(a.Domain, name) {
			locals[strings.ToLower(a.Local)] = struct{}{}
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf(" %w", err)
	}
	return locals, nil
}
