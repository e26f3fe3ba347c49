// Package pki keeps the internal certificate authority of an installation and the identities that it gives to the
// services: the files that internal/service.OpenPKI reads.
//
// A folder holds ca.pem and, for each service, NAME.pem (its certificate and that of the CA) and NAME-key.pem. The key of
// the CA, ca-key.pem, may lie in another folder, which no service needs. The folder people in it has the certificates by
// which persons call the operator's API; their identities are named people/NAME.
package pki

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	// Valid is how long an identity is good for, unless its CA ends before.
	Valid = 365 * 24 * time.Hour
	// caYears is how long a CA is good for.
	caYears = 10
	// backdate is how far the clocks of two machines may differ.
	backdate = time.Hour
)

// Folder is where the identities of an installation lie.
type Folder struct {
	// Dir has ca.pem and the identities.
	Dir string
	// KeyDir has ca-key.pem; empty: Dir.
	KeyDir string
	// Now is the clock.
	Now func() time.Time
}

// CAFile is the certificate of the CA.
func (f Folder) CAFile() string { return filepath.Join(f.Dir, "ca.pem") }

// CAKeyFile is the private key of the CA.
func (f Folder) CAKeyFile() string {
	if f.KeyDir != "" {
		return filepath.Join(f.KeyDir, "ca-key.pem")
	}
	return filepath.Join(f.Dir, "ca-key.pem")
}

// files of an identity: the certificate with its chain, and its key.
func (f Folder) files(name string) (cert, key string) {
	return filepath.Join(f.Dir, name+certSuffix), filepath.Join(f.Dir, name+keySuffix)
}

const (
	certSuffix = ".pem"
	keySuffix  = "-key.pem"
)

var serviceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

// CheckName says whether name may be that of a service: one that stages in the configuration may have as their type, and
// whose files are not those of the CA or of another service.
func CheckName(name string) error {
	if person, ok := strings.CutPrefix(name, PeoplePrefix); ok {
		return CheckPerson(person)
	}
	switch {
	case !serviceName.MatchString(name):
		return fmt.Errorf("%q is no name of a service: letters, digits, dot, hyphen and underscore, 63 at most", name)
	case strings.EqualFold(name, "ca") || strings.HasSuffix(name, "-key"):
		return fmt.Errorf("%q cannot be the name of a service: its files would be taken for others", name)
	}
	return nil
}
