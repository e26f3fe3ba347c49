package signtest

import (
	"testing"
	"time"

	pgp "github.com/ProtonMail/gopenpgp/v3/crypto"
	"github.com/ProtonMail/gopenpgp/v3/profile"
)

// PGP makes a secret key, made at that time, for the address; with a life in seconds, or 0.
func PGP(t testing.TB, p *profile.Custom, made time.Time, life int32, address string) *pgp.Key {
	t.Helper()
	k, err := pgp.PGPWithProfile(p).KeyGeneration().AddUserId("Test", address).GenerationTime(made.Unix()).Lifetime(life).New().GenerateKey()
	must(t, err)
	return k
}

// Locked is the key in armor, protected by the passphrase.
func Locked(t testing.TB, k *pgp.Key, passphrase string) []byte {
	t.Helper()
	l, err := pgp.PGP().LockKey(k, []byte(passphrase))
	must(t, err)
	s, err := l.Armor()
	must(t, err)
	return []byte(s)
}
