package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/service"
)

// Identity is what lies in the folder under one name. That of the CA is "ca".
type Identity struct {
	Name string
	// Begins and Ends of the certificate; zero if it cannot be read.
	Begins, Ends time.Time
	// HasKey says that there is a key; FitsKey, that the certificate is for it.
	HasKey, FitsKey bool
	// OfCA says that the certificate was issued by one in ca.pem, whatever the time is.
	OfCA bool
	// DNS are the names that the certificate bears, of a person also the URIs; Named says that this one is among them.
	DNS   []string
	Named bool
	// Problem is why the files cannot be used; empty if they can be read.
	Problem string

	leaf *x509.Certificate
}

// own says that the identity was issued by this CA for the service of that name.
func (i Identity) own() bool { return i.OfCA && i.Named }

// List tells of the CA, first, and of the identities in the folder, by name. The key of the CA is not needed.
func (f Folder) List() ([]Identity, error) {
	cas, err := readCertificates(f.CAFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noFolder(err)
	}
	if err != nil {
		return nil, err
	}
	ca := Identity{Name: "ca", Begins: cas[0].NotBefore, Ends: cas[0].NotAfter, OfCA: true, Named: true}
	key, err := readKey(f.CAKeyFile())
	switch {
	case err == nil:
		// ca.pem may hold several: the one that issues counts.
		ca.HasKey = true
		for _, c := range cas {
			if fits(c, key) {
				ca.FitsKey, ca.Begins, ca.Ends = true, c.NotBefore, c.NotAfter
			}
		}
	case errors.Is(err, errContent):
		ca.HasKey, ca.Problem = true, err.Error()
	}
	list := []Identity{ca}
	names, err := f.names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		i, err := f.look(name, cas)
		if err != nil {
			return nil, err
		}
		list = append(list, i)
	}
	return list, nil
}

// short is the text of err without the name of the folder, which the reader knows.
func (f Folder) short(err error) string {
	return strings.TrimPrefix(err.Error(), filepath.Clean(f.Dir)+string(filepath.Separator))
}

func noFolder(err error) error {
	return fmt.Errorf("%w: name the folder with --dir; `stagecoach pki init` makes one", err)
}

// names are those of the identities in the folder: what has a certificate or a key. Other files are not looked at. People
// come last.
func (f Folder) names() ([]string, error) {
	names, err := f.namesIn("")
	if err != nil {
		return nil, err
	}
	people, err := f.namesIn(PeoplePrefix)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return append(names, people...), err
}

// namesIn are those of the services, or those of persons.
func (f Folder) namesIn(prefix string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(f.Dir, prefix))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), keySuffix)
		if !ok {
			name, ok = strings.CutSuffix(e.Name(), certSuffix)
		}
		if ok && CheckName(prefix+name) == nil {
			names = append(names, prefix+name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// look reads the files of one identity; fs.ErrNotExist: there are none. Any other error is one of reading.
func (f Folder) look(name string, cas []*x509.Certificate) (Identity, error) {
	i := Identity{Name: name}
	cert, keyFile := f.files(name)
	certs, err := readCertificates(cert)
	key, keyErr := readKey(keyFile)
	i.HasKey = keyErr == nil || errors.Is(keyErr, errContent)
	noCert := errors.Is(err, fs.ErrNotExist)
	switch {
	case noCert && errors.Is(keyErr, fs.ErrNotExist):
		return i, err
	case noCert:
		i.Problem = "there is a key without a certificate"
		return i, nil
	case errors.Is(err, errContent):
		i.Problem = f.short(err)
		return i, nil
	case err != nil:
		return i, err
	}
	i.leaf = certs[0]
	i.Begins, i.Ends, i.DNS = i.leaf.NotBefore, i.leaf.NotAfter, i.leaf.DNSNames
	// Whether it has ended is another question than who issued it.
	at := f.Now()
	if at.After(i.Ends) {
		at = i.Ends
	} else if at.Before(i.Begins) {
		at = i.Begins
	}
	_, err = i.leaf.Verify(x509.VerifyOptions{Roots: poolOf(cas), Intermediates: poolOf(certs[1:]), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	i.OfCA = err == nil
	person, isPerson := strings.CutPrefix(name, PeoplePrefix)
	i.Named = i.leaf.VerifyHostname(name) == nil
	if isPerson {
		i.DNS, i.Named = bearers(i.leaf), service.PersonOf(i.leaf) == person
	}
	switch {
	case keyErr == nil:
		i.FitsKey = fits(i.leaf, key)
	case errors.Is(keyErr, errContent):
		i.Problem = f.short(keyErr)
	case !errors.Is(keyErr, fs.ErrNotExist):
		return i, keyErr
	}
	if !isPerson && len(i.DNS) > 0 && i.OfCA && i.Problem == "" {
		if err := accepted(i.leaf, certs[1:], poolOf(cas), i.DNS[0], at); err != nil {
			i.Problem = err.Error()
		}
	}
	return i, nil
}
