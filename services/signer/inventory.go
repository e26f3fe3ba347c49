package signer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// keyInfo is what may be known of a key: nothing of its private half.
type keyInfo struct {
	domain, selector string
	file             string
	kind             Kind
	bits             int
	record           Record
	active           bool
	problem          string
}

// inventory lists the keys of a domain, or of all: those that are in use, and what else lies in the key folder.
func (r *keyring) inventory(ctx context.Context, domain string) ([]keyInfo, error) {
	r.lookNow()
	inUse := map[[2]string]Record{}
	for _, keys := range *r.keys.Load() {
		for _, k := range keys {
			record, err := k.key.Record(k.domain, k.selector)
			if err != nil {
				return nil, err
			}
			inUse[[2]string{k.domain, k.selector}] = record
		}
	}
	files, err := r.files(domain)
	if err != nil {
		return nil, err
	}
	for i := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		k := &files[i]
		k.read()
		name := [2]string{k.domain, k.selector}
		if in, ok := inUse[name]; ok && in == k.record && r.uses(k) {
			k.active = true
		}
	}
	slices.SortFunc(files, func(a, b keyInfo) int {
		return cmp.Or(cmp.Compare(a.domain, b.domain), cmp.Compare(a.selector, b.selector), cmp.Compare(a.file, b.file))
	})
	return files, nil
}

// lookNow looks at the files whether they were looked at just now or not.
func (r *keyring) lookNow() {
	r.mu.Lock()
	r.looked = time.Time{}
	r.mu.Unlock()
	r.refresh()
}

// files are the key files named in the configuration, and those in the key folder.
func (r *keyring) files(domain string) ([]keyInfo, error) {
	var out []keyInfo
	for _, name := range sortedKeys(r.config.Domains) {
		d, err := domainName(name)
		if err != nil || domain != "" && d != domain {
			continue
		}
		for _, k := range r.config.Domains[name].Keys {
			out = append(out, keyInfo{domain: d, selector: k.Selector, file: r.configured(k)})
		}
	}
	folders, err := os.ReadDir(r.keyDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("key directory: %w", err)
	}
	for _, f := range folders {
		d, err := domainName(f.Name())
		if err != nil || d != f.Name() || domain != "" && d != domain {
			continue
		}
		found, err := os.ReadDir(filepath.Join(r.keyDir, d))
		if err != nil {
			return nil, fmt.Errorf("key directory: %w", err)
		}
		for _, e := range found {
			selector, ok := strings.CutSuffix(e.Name(), keySuffix)
			file := filepath.Join(r.keyDir, d, e.Name())
			if ok && !strings.HasPrefix(selector, ".") && !slices.ContainsFunc(out, func(k keyInfo) bool { return k.file == file }) {
				out = append(out, keyInfo{domain: d, selector: selector, file: file})
			}
		}
	}
	return out, nil
}

// configured is the path of a key that the configuration names.
func (r *keyring) configured(k KeyRef) string {
	if filepath.IsAbs(k.KeyFile) {
		return filepath.Clean(k.KeyFile)
	}
	return filepath.Join(r.configDir, k.KeyFile)
}

// uses says that the file is the one that the ring takes its key from: a domain with keys in the configuration has
// none from the folder.
func (r *keyring) uses(k *keyInfo) bool {
	for name, d := range r.config.Domains {
		if canonical, err := domainName(name); err == nil && canonical == k.domain && len(d.Keys) > 0 {
			return slices.ContainsFunc(d.Keys, func(ref KeyRef) bool { return ref.Selector == k.selector && r.configured(ref) == k.file })
		}
	}
	return true
}

// read fills in what the file says of the key.
func (k *keyInfo) read() {
	if err := checkSelector(k.selector); err != nil {
		k.problem = err.Error()
		return
	}
	info, err := os.Stat(k.file)
	switch {
	case err != nil:
		k.problem = err.Error()
		return
	case !info.Mode().IsRegular() || info.Size() > maxKeySize:
		k.problem = "is not a file, or too large for a key"
		return
	}
	data, err := os.ReadFile(k.file)
	if err != nil {
		k.problem = err.Error()
		return
	}
	key, err := ParseKey(data)
	if err == nil {
		k.record, err = key.Record(k.domain, k.selector)
	}
	if err != nil {
		k.problem = err.Error()
		return
	}
	k.kind, k.bits = key.Kind(), key.bits()
}

// roomFor says whether a domain may have more keys in the folder: with too many the stage would not start again.
func (r *keyring) roomFor(domain string, more int) error {
	for name, d := range r.config.Domains {
		if canonical, err := domainName(name); err == nil && canonical == domain && len(d.Keys) > 0 {
			return nil // what is in the folder is not used
		}
	}
	found, err := r.folder(domain)
	if err != nil {
		return err
	}
	if len(found)+more > maxKeys {
		return fmt.Errorf("%s has %d keys, and at most %d sign one message: move old ones away, out of %s",
			domain, len(found), maxKeys, filepath.Join(r.keyDir, domain))
	}
	return nil
}

func (k *keyInfo) proto(stage string) *adminv1.DkimKey {
	out := &adminv1.DkimKey{Stage: stage, Domain: k.domain, Selector: strings.ToValidUTF8(k.selector, "\uFFFD"), Algorithm: string(k.kind), Bits: uint32(max(k.bits, 0)),
		Active: k.active, File: strings.ToValidUTF8(k.file, "\uFFFD"), Problem: strings.ToValidUTF8(k.problem, "\uFFFD")}
	if k.problem == "" {
		out.RecordName, out.RecordValue, out.ZoneLine = k.record.Name, k.record.Text, k.record.String()
	}
	return out
}
