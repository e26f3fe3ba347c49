package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/service"
)

// PeoplePrefix begins the name of a person's identity, and is the folder that it lies in.
const PeoplePrefix = "people/"

// personName is that of admin.people in the configuration.
var personName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$`)

// CheckPerson says whether name may be that of a person.
func CheckPerson(name string) error {
	switch {
	case !personName.MatchString(name):
		return fmt.Errorf("%q is no name of a person: letters, digits, dot, hyphen, underscore and @, 63 at most", name)
	case strings.HasSuffix(name, "-key"):
		return fmt.Errorf("%q cannot be the name of a person: its files would be taken for others", name)
	}
	return nil
}

// Person makes the key and the certificate by which a person calls the operator's API, for that long or until the CA
// ends. It overwrites nothing: fs.ErrExist if one of the two files is there.
func (f Folder) Person(name string, d time.Duration) (res Result, files [2]string, err error) {
	res = Result{Name: PeoplePrefix + name, Change: Made}
	if err := CheckPerson(name); err != nil {
		return res, files, err
	}
	unlock, err := lock(f.Dir)
	if err != nil {
		return res, files, err
	}
	defer unlock()
	ca, err := f.authority()
	if err != nil {
		return res, files, err
	}
	cert, key := f.files(PeoplePrefix + name)
	files = [2]string{cert, key}
	for _, file := range files {
		if _, err := os.Lstat(file); err == nil {
			return res, files, fmt.Errorf("%s: %w; nothing is overwritten: `stagecoach pki renew %s` renews it", file, fs.ErrExist, res.Name)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return res, files, err
		}
	}
	now := f.Now()
	p, err := ca.issuePerson(now, name, ca.endsAfter(now, d))
	if err != nil {
		return res, files, err
	}
	if err := os.MkdirAll(filepath.Dir(cert), 0o700); err != nil {
		return res, files, err
	}
	acc, err := ownAccess(filepath.Dir(cert))
	if err != nil {
		return res, files, err
	}
	if err := write(key, p.key, acc); err != nil {
		return res, files, err
	}
	if err := write(cert, p.cert, acc); err != nil {
		_ = os.Remove(key) //nolint:errcheck // the first error counts
		return res, files, err
	}
	res.Ends = p.leaf.NotAfter
	return res, files, errors.Join(syncDir(filepath.Dir(cert)), syncDir(f.Dir))
}

// issuePerson makes a person's identity with a new key. It bears no name by which a service could be called, and is for
// callers alone.
func (a *authority) issuePerson(now time.Time, name string, ends time.Time) (pair, error) {
	tmpl := &x509.Certificate{Subject: pkix.Name{Organization: []string{"people"}, CommonName: name}, URIs: []*url.URL{service.PersonURI(name)},
		NotAfter: ends, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	p, err := a.sign(now, tmpl)
	if err != nil {
		return pair{}, fmt.Errorf("issue %s: %w", name, err)
	}
	_, err = p.leaf.Verify(x509.VerifyOptions{Roots: a.pool, CurrentTime: now, KeyUsages: tmpl.ExtKeyUsage})
	if err == nil && service.PersonOf(p.leaf) != name {
		err = errors.New("it does not bear the name")
	}
	if err != nil {
		return pair{}, fmt.Errorf("issue %s: admin would refuse it: %w", name, err)
	}
	return p, nil
}

// bearers are all names that a certificate bears.
func bearers(c *x509.Certificate) []string {
	names := append([]string{}, c.DNSNames...)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	return names
}
