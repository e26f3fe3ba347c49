package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"time"
)

// Renewal says what is renewed.
type Renewal struct {
	// Before: what ends within this time is renewed. It must be less than Valid.
	Before time.Duration
	// All: whenever they end.
	All bool
	// Names are the identities that are meant; those that are not there are made, and those of another CA replaced.
	// Without names all are meant that this CA issued.
	Names []string
}

// Renew gives new keys and certificates to the identities that need them: they end soon, are not valid yet, or do not fit
// their key. Run again it changes nothing. The error says why nothing could be done at all; what failed for one identity
// is in its result. caEnds is when the CA ends: no identity outlives it.
func (f Folder) Renew(r Renewal) (results []Result, caEnds time.Time, err error) {
	for _, name := range r.Names {
		if err := CheckName(name); err != nil {
			return nil, caEnds, err
		}
	}
	unlock, err := lock(f.Dir)
	if err != nil {
		return nil, caEnds, err
	}
	defer unlock()
	ca, err := f.authority()
	if err != nil {
		return nil, caEnds, err
	}
	names := slices.Compact(slices.Sorted(slices.Values(r.Names)))
	if len(names) == 0 {
		if names, err = f.names(); err != nil {
			return nil, caEnds, err
		}
	}
	for _, name := range names {
		if res, meant := f.renew(ca, name, r); meant {
			results = append(results, res)
		}
	}
	return results, ca.cert.NotAfter, nil
}

// renew looks at one identity and renews it if it is time. It is not meant where it is somebody else's, and all is well.
func (f Folder) renew(ca *authority, name string, r Renewal) (res Result, meant bool) {
	named := len(r.Names) > 0
	res = Result{Name: name, Change: Renewed}
	cas, err := readCertificates(f.CAFile())
	if err != nil {
		return failed(res, err), true
	}
	old, err := f.look(name, cas)
	res.Ends = old.Ends
	now := f.Now()
	soon, person := old.Ends.Sub(now) < r.Before, strings.HasPrefix(name, PeoplePrefix)
	switch {
	case errors.Is(err, fs.ErrNotExist) && person:
		return failed(res, fmt.Errorf("is not there: `stagecoach pki person %s` makes it", strings.TrimPrefix(name, PeoplePrefix))), true
	case errors.Is(err, fs.ErrNotExist):
		res.Change = Made
	case err != nil:
		return failed(res, err), true
	case named && !old.OfCA:
		res.Why = "was not of this CA"
	case !named && old.leaf != nil && !old.own():
		// Nobody asked to replace what is not ours; that it ends is worth a word. A name that does not belong here is not
		// renewed: who can write one file (the service itself) could get the identity of another service that way.
		return failed(res, fmt.Errorf("is not of this CA for %s: `stagecoach pki renew %s` replaces it", name, name)), soon || r.All
	case !named && person && old.own() && !old.HasKey && !soon && !r.All:
		res.Change = Kept // he has taken his key away, as he should
		return res, true
	case !named && (old.leaf == nil || !old.HasKey):
		what := old.Problem
		if what == "" {
			what = "there is a certificate without a key"
		}
		return failed(res, fmt.Errorf("%s: `stagecoach pki renew %s` makes both anew", what, name)), true
	case old.Problem != "":
		res.Why = old.Problem
	case named && !old.Named:
		res.Why = "did not bear its name"
	case !old.FitsKey:
		res.Why = "did not fit its key"
	case now.Before(old.Begins):
		res.Why = "was not valid yet"
	case r.All:
	case soon && ca.endsAgain(now, name, old).After(old.Ends):
		res.Why = "ended on " + date(old.Ends)
		if old.Ends.After(now) {
			res.Why = "would end on " + date(old.Ends)
		}
	default:
		res.Change = Kept
		return res, true
	}
	p, err := ca.again(now, name, old)
	if err == nil {
		err = f.replace(name, p)
	}
	if err != nil {
		return failed(res, err), true
	}
	res.Ends = p.leaf.NotAfter
	return res, true
}

// again issues an identity as the one that is there, if it is ours.
func (a *authority) again(now time.Time, name string, old Identity) (pair, error) {
	if person, ok := strings.CutPrefix(name, PeoplePrefix); ok {
		return a.issuePerson(now, person, a.endsAgain(now, name, old))
	}
	var dns []string
	var ips []net.IP
	if old.own() {
		dns, ips = old.leaf.DNSNames, old.leaf.IPAddresses
	}
	if len(dns) == 0 {
		dns = []string{name}
	}
	return a.issue(now, name, dns, ips)
}

// endsAgain is when an identity ends that is issued again now: that of a person is good for as long as the former one.
func (a *authority) endsAgain(now time.Time, name string, old Identity) time.Time {
	if strings.HasPrefix(name, PeoplePrefix) && old.own() {
		return a.endsAfter(now, old.Ends.Sub(old.Begins)-backdate)
	}
	return a.ends(now)
}

func failed(r Result, err error) Result {
	r.Change, r.Why = Failed, err.Error()
	return r
}
