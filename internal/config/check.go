package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/net/idna"

	"github.com/stagecoachmail/stagecoach/mail"
)

// missing reports a key that must be there, at the mapping where it belongs.
func (b *builder) missing(at spot, path, key, why string) {
	b.p.add(at, join(path, key), "is missing%s", why)
}

// oneOf gives the word, or otherwise when it is left out.
func (b *builder) oneOf(v *val[string], otherwise string, words ...string) string {
	if !v.ok() {
		return otherwise
	}
	if !slices.Contains(words, v.V) {
		b.p.add(v.at, v.path, "%q is not known%s", v.V, suggest(v.V, words, "values"))
		return otherwise
	}
	return v.V
}

// validName is the form of the names of listeners, rules, stages, chains and routes: they stand in logs, trails,
// metrics and file names.
var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (b *builder) name(v *val[string]) bool {
	if v.ok() && !validName.MatchString(v.V) {
		b.p.add(v.at, v.path, "%q is not a name: letters, digits, dot, hyphen and underscore, 63 at most", v.V)
		v.bad = true
	}
	return v.ok()
}

// unique reports a name that stands in the list already.
func (b *builder) unique(seen map[string]spot, v *val[string], what string) {
	if first, ok := seen[v.V]; ok {
		b.p.add(v.at, v.path, "a second %s %q; the first is at line %d", what, v.V, first.line)
		return
	}
	seen[v.V] = v.at
}

// among reports a name that nothing bears.
func (b *builder) among(v *val[string], known []string, what string) bool {
	if !v.ok() || slices.Contains(known, v.V) {
		return v.ok()
	}
	b.p.add(v.at, v.path, "there is no %s %q%s", what, v.V, suggest(v.V, known, what+"s"))
	return false
}

// host is the name of a machine, in lower case and A-labels.
func hostName(s string) (string, error) {
	a, err := idna.Lookup.ToASCII(strings.TrimSuffix(s, "."))
	if err != nil || a == "" || len(a) > 253 {
		return "", fmt.Errorf("%q is not a host name", s)
	}
	for label := range strings.SplitSeq(a, ".") {
		if !validLabel.MatchString(label) {
			return "", fmt.Errorf("%q is not a host name", s)
		}
	}
	return strings.ToLower(a), nil
}

var (
	validLabel = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)
	numeric    = regexp.MustCompile(`^[0-9.]*$`)
)

// hostPort takes host:port apart and checks both. The host is a name, an address ([…] around IPv6), or empty.
func hostPort(s string, least int) (host, port string, err error) {
	host, port, err = net.SplitHostPort(s)
	if err != nil {
		return "", "", fmt.Errorf("%q is not host:port", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || int(n) < least || strconv.FormatUint(n, 10) != port {
		return "", "", fmt.Errorf("%q is not a port between %d and 65535", port, least)
	}
	if host == "" {
		return host, port, nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host, port, nil
	}
	if numeric.MatchString(host) || strings.Contains(host, ":") {
		return "", "", fmt.Errorf("%q is not an IP address", host)
	}
	_, err = hostName(host)
	return host, port, err
}

// loopback says that a host is this machine seen from itself.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// service checks the gRPC address of a service: host:port, or unix:path.
func (b *builder) service(v *val[string]) string {
	if !v.ok() {
		return ""
	}
	if path, ok := strings.CutPrefix(v.V, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		if path == "" || strings.ContainsRune(path, 0) {
			b.p.add(v.at, v.path, "%q names no socket: unix:path", v.V)
			return ""
		}
		return "unix:" + b.abs(path)
	}
	host, _, err := hostPort(v.V, 1)
	switch {
	case err != nil:
		b.p.add(v.at, v.path, "%v", err)
	case host == "":
		b.p.add(v.at, v.path, "%q names no host: the address is what the other services dial", v.V)
	default:
		return v.V
	}
	return ""
}

// local says that nothing sent to this gRPC address leaves the machine.
func local(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	return err == nil && loopback(host)
}

func (b *builder) abs(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(b.c.Dir, path)
}

// path gives the absolute form of a path.
func (b *builder) path(v *val[string]) string {
	if !v.ok() {
		return ""
	}
	if v.V == "" || strings.ContainsRune(v.V, 0) {
		b.p.add(v.at, v.path, "is not a path")
		v.bad = true
		return ""
	}
	return b.abs(v.V)
}

// file is path for a file that a service reads: it must be there, and readable.
func (b *builder) file(v *val[string], service string) string {
	path := b.path(v)
	if path == "" || !b.wants(service) {
		return path
	}
	if err := readable(path); err != nil {
		b.p.add(v.at, v.path, "%s: %v", path, err)
	}
	return path
}

// secret is file for one whose content is a secret: it must not be empty, and others had better not read it.
func (b *builder) secret(v *val[string], service string) string {
	path := b.file(v, service)
	if path == "" || !b.wants(service) {
		return path
	}
	if i, err := os.Stat(path); err == nil && i.Mode().IsRegular() {
		if i.Size() == 0 {
			b.p.add(v.at, v.path, "%s: is empty", path)
		}
		if i.Mode().Perm()&0o004 != 0 {
			b.p.warn(v.at, v.path, "%s: every user of this machine can read it", path)
		}
	}
	return path
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return cause(err)
	}
	defer f.Close()
	i, err := f.Stat()
	if err != nil {
		return cause(err)
	}
	if i.IsDir() {
		return errors.New("is a directory")
	}
	return nil
}

// cause leaves out the path, which the message has already.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// plain reports control characters in a text that goes into a protocol.
func (b *builder) plainText(v *val[string]) bool {
	if v.ok() && strings.ContainsFunc(v.V, unicode.IsControl) {
		b.p.add(v.at, v.path, "has a control character")
		v.bad = true
	}
	return v.ok()
}

func (b *builder) patterns(list texts) []string {
	var out []string
	for i := range list {
		v := &list[i]
		if !v.ok() {
			continue
		}
		if err := mail.ValidatePattern(v.V); err != nil {
			b.p.add(v.at, v.path, "%q is not a pattern such as *@example.com or user@example.com: %v", v.V, err)
			continue
		}
		out = append(out, v.V)
	}
	return out
}
