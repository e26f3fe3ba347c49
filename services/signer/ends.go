package signer

import "time"

// Ends tells when the certificates and OpenPGP keys that mail is signed with end, by their names. DKIM keys do not end.
func (s *Signer) Ends() map[string]time.Time {
	out := map[string]time.Time{}
	if s.credentials == nil {
		return out
	}
	s.credentials.refresh()
	now := s.now()
	for i := range s.credentials.rules {
		c := s.credentials.of(i)
		if end := c.ends(now); !end.IsZero() {
			out[c.kind()+" "+c.Name()] = end
		}
	}
	return out
}
