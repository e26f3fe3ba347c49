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

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/services/signer"
)

// dkimKey is a file that a signer of the configuration signs with.
type dkimKey struct {
	stage, domain, selector, file string
}

// signers are the signer stages that some chain runs.
func (e *Env) signers() []*config.Stage {
	var list []*config.Stage
	for _, c := range e.Config.Chains {
		for _, u := range c.Stages {
			if u.Stage.Type == signer.Type && !slices.Contains(list, u.Stage) {
				list = append(list, u.Stage)
			}
		}
	}
	return list
}

// keys finds the key files as the signer does: those that the configuration names, and for other domains those in the
// key folder. What is not there is left out; the error is one of looking.
func (e *Env) keys() ([]dkimKey, error) {
	var keys []dkimKey
	var errs []error
	for _, s := range e.signers() {
		c, ok := s.Decoded.(signer.Config)
		if !ok {
			continue
		}
		named := map[string]bool{}
		for _, domain := range sortedKeys(c.Domains) {
			for _, k := range c.Domains[domain].Keys {
				file := k.KeyFile
				if !filepath.IsAbs(file) {
					file = filepath.Join(e.Config.Dir, file)
				}
				named[strings.ToLower(domain)] = true
				keys = append(keys, dkimKey{s.Name, strings.ToLower(domain), k.Selector, file})
			}
		}
		dir := signer.KeyDir(e.Config.Dir, e.Config.DataDir, c.KeyDir)
		folders, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, f := range folders {
			if named[f.Name()] {
				continue
			}
			files, err := os.ReadDir(filepath.Join(dir, f.Name()))
			if err != nil {
				if f.IsDir() {
					errs = append(errs, err)
				}
				continue
			}
			for _, file := range files {
				if selector, ok := strings.CutSuffix(file.Name(), ".pem"); ok && selector != "" && selector[0] != '.' {
					keys = append(keys, dkimKey{s.Name, f.Name(), selector, filepath.Join(dir, f.Name(), file.Name())})
				}
			}
		}
	}
	return keys, errors.Join(errs...)
}

// checkDKIM asks whether the public halves of the keys that we sign with are published (RFC 6376, section 3.6).
func checkDKIM(ctx context.Context, e *Env) []Finding {
	if f, ok := e.staysHere(); ok {
		return f
	}
	var n notes
	keys, err := e.keys()
	if err != nil {
		n.warn("", "Run doctor as the user that the signer runs as.", "the key files cannot be looked at: %v", err)
	}
	if len(e.signers()) == 0 {
		n.warn("", "Put a stage of the type signer at the end of the chains for outgoing mail.", "no chain signs mail: large receivers want a DKIM signature")
		return n
	}
	if !e.runsHere(signer.Type) {
		n.info("", "the signer does not run on this machine: look at its keys where it does")
	}
	for _, domain := range e.senders() {
		if e.runsHere(signer.Type) && !slices.ContainsFunc(keys, func(k dkimKey) bool { return k.domain == domain }) && err == nil {
			n.warn(domain, "`stagecoach dkim new "+domain+"` makes keys and says what to publish.", "has no DKIM key on this machine: its mail leaves unsigned")
		}
	}
	return append(n, each(keys, func(k dkimKey) notes {
		var n notes
		n.dkim(ctx, e, k)
		return n
	})...)
}

func (n *notes) dkim(ctx context.Context, e *Env, k dkimKey) {
	name := k.selector + "._domainkey." + k.domain
	pem, err := os.ReadFile(k.file)
	if err != nil {
		n.fail(name, "Run doctor as the user that the signer runs as, or correct the configuration of the stage "+k.stage+".", "the key cannot be read: %v", err)
		return
	}
	key, err := signer.ParseKey(pem)
	if err != nil {
		n.fail(name, "`stagecoach dkim new "+k.domain+"` makes keys.", "%s: %v", k.file, err)
		return
	}
	want, err := key.Record(k.domain, k.selector)
	if err != nil {
		n.fail(name, "Name the file <selector>.pem.", "%s: %v", k.file, err)
		return
	}
	texts, err := e.txt(ctx, name)
	if err != nil {
		n.unanswered(name, err)
		return
	}
	publish := fmt.Sprintf("Publish `%s. IN TXT` with the value: %s", name, want.Text)
	records := slices.DeleteFunc(texts, func(t string) bool { return !isDKIM(t) })
	switch len(records) {
	case 0:
		n.fail(name, publish, "mail is signed with this key, and its record is not published: the signatures do not verify")
	case 1:
		n.dkimRecord(name, publish, tags(want.Text), tags(records[0]))
	default:
		n.fail(name, "Leave the one with the value: "+want.Text, "has %d key records: which of them receivers take is chance", len(records))
	}
}

func isDKIM(text string) bool {
	t := tags(text)
	_, has := t["p"]
	return has || strings.HasPrefix(strings.TrimSpace(text), "v=DKIM1")
}

// dkimRecord compares what is published with what should be.
func (n *notes) dkimRecord(name, publish string, want, got map[string]string) {
	kind, p := got["k"], squeeze(got["p"])
	if kind == "" {
		kind = "rsa"
	}
	switch {
	case got["v"] != "" && got["v"] != "DKIM1":
		n.fail(name, publish, "the record is of version %q, which nobody takes", got["v"])
	case p == "":
		n.fail(name, "Make a key with another selector (`stagecoach dkim new`), and move this one out of the key folder.",
			"the record says that the key is revoked (p= is empty), and mail is still signed with it")
	case kind != want["k"]:
		n.fail(name, publish, "the record says k=%s, and the key is %s", kind, want["k"])
	case p != want["p"] && len(p) < len(want["p"]) && strings.HasPrefix(want["p"], p):
		n.fail(name, "Publish the value in several character-strings of at most 255 characters; `stagecoach dkim new` has written them so beside the key. "+publish,
			"the record is cut off after %d of %d characters of the key", len(p), len(want["p"]))
	case p != want["p"]:
		n.fail(name, publish, "the record holds another key than the one that mail is signed with: the signatures do not verify")
	case got["h"] != "" && !slices.Contains(strings.Split(squeeze(got["h"]), ":"), "sha256"):
		n.fail(name, "Take the tag h= out of the record.", "the record allows h=%s, and signatures are made with sha256", got["h"])
	case got["s"] != "" && !slices.ContainsFunc(strings.Split(squeeze(got["s"]), ":"), func(s string) bool { return s == "*" || s == "email" }):
		n.fail(name, "Take the tag s= out of the record.", "the record is not for mail: s=%s", got["s"])
	case slices.Contains(strings.Split(squeeze(got["t"]), ":"), "y"):
		n.warn(name, "Take t=y out of the record when the signatures verify.", "the record is in test mode (t=y): receivers treat the mail as unsigned")
	default:
		n.ok(name, "is published (%s)", want["k"])
	}
}

// tags reads a tag list (RFC 6376, section 3.2).
func tags(text string) map[string]string {
	t := map[string]string{}
	for part := range strings.SplitSeq(text, ";") {
		if name, value, ok := strings.Cut(part, "="); ok {
			t[strings.ToLower(strings.TrimSpace(name))] = strings.TrimSpace(value)
		}
	}
	return t
}

// squeeze takes out the white space that may stand in a value.
func squeeze(s string) string { return strings.Join(strings.Fields(s), "") }
