package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/stagecoachmail/stagecoach/internal/config"
)

// checkConfig tells everything that is wrong with the configuration, and who can read its secrets.
func checkConfig(_ context.Context, e *Env) []Finding {
	var n notes
	file := e.File
	if file == "" {
		file = "(built in)"
	}
	if e.Config == nil {
		if many, ok := errors.AsType[config.Errors](e.Err); ok {
			for _, one := range many {
				n.fail(at(one), "Correct it; docs/configuration.md has every key.", "%s", said(one))
			}
			return n
		}
		n.fail(file, "Name the file with -c, and run this as the user that stagecoach runs as.", "%v", e.Err)
		return n
	}
	secrets := e.secrets()
	for _, s := range secrets {
		n.secret(s)
	}
	open := slices.Clone(n) // the configuration warns of some of them too
	for _, w := range e.Config.Warnings {
		if !slices.ContainsFunc(open, func(f Finding) bool { return f.Level == Warning && strings.Contains(w.Message, f.Subject) }) {
			n.warn(at(w), "Change it, or be sure that it is meant.", "%s", said(w))
		}
	}
	n.owner(e)
	if !n.bad() {
		n.ok(file, "%d stages, %d chains, %d routes, %d secret files (revision %.12s)", len(e.Config.Stages), len(e.Config.Chains), len(e.Config.Routes),
			len(secrets), e.Config.Revision)
	}
	return n
}

func at(e *config.Error) string { return fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column) }

func said(e *config.Error) string {
	if e.KeyPath == "" {
		return e.Message
	}
	return e.KeyPath + ": " + e.Message
}

// secrets are the files that nobody else may read, as far as they are on this machine.
func (e *Env) secrets() []string {
	c := e.Config
	var files []string
	add := func(path string) {
		if path != "" {
			files = append(files, path)
		}
	}
	if !e.Up {
		add(c.NATS.CredentialsFile)
	}
	add(c.Ingress.Certificate.KeyFile)
	add(c.Ingress.UsersFile)
	for _, r := range sorted(c.Routes) {
		if r.Smarthost != nil && r.Smarthost.Auth != nil {
			add(r.Smarthost.Auth.PasswordFile)
		}
	}
	if c.PKI != nil {
		keys, _ := filepath.Glob(filepath.Join(escapeGlob(c.PKI.Directory), "*-key.pem"))
		files = append(files, keys...)
	}
	keys, _ := e.keys()
	for _, k := range keys {
		add(k.file)
	}
	return files
}

// secret says who else can read a file. What is missing is told by who needs it.
func (n *notes) secret(path string) {
	i, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		n.info(path, "cannot be looked at: %v", err)
		return
	}
	if i.Mode().Perm()&0o007 != 0 {
		n.warn(path, "chmod o= "+path, "every user of this machine can read or change this secret (mode %04o)", i.Mode().Perm())
	}
}

// owner says that this program looks with the eyes of another user than stagecoach.
func (n *notes) owner(e *Env) {
	i, err := os.Stat(e.Config.DataDir)
	if err != nil {
		return // not made yet
	}
	if st, ok := i.Sys().(*syscall.Stat_t); ok && int(st.Uid) != e.UID {
		n.info(e.Config.DataDir, "belongs to uid %d, and this runs as uid %d: what that user may read, write and open can be different; run doctor as that user", st.Uid, e.UID)
	}
}
