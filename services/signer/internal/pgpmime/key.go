// Package pgpmime signs with OpenPGP: detached signatures (RFC 9580, RFC 4880) as RFC 3156 has them in mail.
package pgpmime

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	pgp "github.com/ProtonMail/gopenpgp/v3/crypto"

	"github.com/stagecoachmail/stagecoach/mail"
)

// Key is a secret key, unlocked. It is safe for concurrent use.
type Key struct {
	// mu guards entity, which notes in itself which of its signatures it has found valid.
	mu     sync.Mutex
	entity *openpgp.Entity
}

// Parse reads a transferable secret key (RFC 9580, section 10.2), armored or binary, and unlocks it. A primary key without
// its secret half, as backups of subkeys have it, will do if there is a subkey that signs. If the key is not protected,
// the passphrase is not looked at.
func Parse(file, passphrase []byte) (*Key, error) {
	key, err := pgp.NewKey(file)
	if err != nil {
		return nil, fmt.Errorf("it is no OpenPGP key: %w", err)
	}
	if !key.IsPrivate() {
		return nil, errors.New("it is a public key: export the secret one (gpg --export-secret-keys)")
	}
	locked, err := key.IsLocked()
	if err != nil {
		return nil, err
	}
	if locked {
		if len(passphrase) == 0 {
			return nil, errors.New("the key is protected: name its passphrase_file")
		}
		if key, err = key.Unlock(passphrase); err != nil {
			return nil, errors.New("the passphrase does not open it")
		}
	}
	k := &Key{entity: key.GetEntity()}
	if err := k.canSign(); err != nil {
		return nil, err
	}
	return k, nil
}

// config is how signatures are made. Without a random notation, RSA and EdDSA give the same octets each time.
func config(at time.Time) *packet.Config {
	return &packet.Config{DefaultHash: crypto.SHA256, Time: func() time.Time { return at },
		NonDeterministicSignaturesViaNotation: packet.BoolPointer(false)}
}

// canSign says why the key could at no time make a signature. Whether it may now is for Unusable.
func (k *Key) canSign() error {
	has := func(p *packet.PrivateKey) bool {
		return p != nil && !p.Dummy() && !p.Encrypted && p.PubKeyAlgo.CanSign()
	}
	if has(k.entity.PrivateKey) || slices.ContainsFunc(k.entity.Subkeys, func(s openpgp.Subkey) bool { return has(s.PrivateKey) }) {
		return nil
	}
	return errors.New("no secret key in it can sign")
}

// Name names the key for a log or a trail.
func (k *Key) Name() string { return fmt.Sprintf("OpenPGP key %X", k.entity.PrimaryKey.Fingerprint) }

// Addresses are those of its user ids that are not revoked.
func (k *Key) Addresses(now time.Time) []mail.Address {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []mail.Address
	for _, id := range k.entity.Identities {
		cert, err := id.LatestValidSelfCertification(now, config(now))
		if err != nil || id.Revoked(cert, now, config(now)) {
			continue
		}
		text := id.UserId.Email
		if text == "" {
			text = id.UserId.Id // many have an address alone
		}
		if a, err := mail.ParseAddressUTF8(strings.TrimSpace(text)); err == nil {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b mail.Address) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// Unusable says why the key cannot sign now, or "".
func (k *Key) Unusable(now time.Time) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now.Before(k.entity.PrimaryKey.CreationTime) {
		return "the key is not valid before " + k.entity.PrimaryKey.CreationTime.UTC().Format(time.RFC3339)
	}
	_, err := k.entity.VerifyPrimaryKey(now, config(now))
	switch {
	case k.entity.Revoked(now):
		return "the key is revoked"
	case err != nil:
		return "the key has expired, or has no valid signature of its own"
	case !k.signsAt(now):
		return "none of its keys may sign: they have expired, are revoked, or are not there"
	}
	return ""
}

// signsAt says whether a signature of that time can be made; k.mu is held.
func (k *Key) signsAt(at time.Time) bool {
	key, ok := k.entity.SigningKey(at, config(at))
	return ok && key.PrivateKey != nil && !key.PrivateKey.Dummy() && !key.PrivateKey.Encrypted && !at.Before(key.PublicKey.CreationTime)
}

// Ends is when the key that signs now expires; zero if it does not.
func (k *Key) Ends(now time.Time) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, ok := k.entity.SigningKey(now, config(now))
	if !ok {
		return time.Time{}
	}
	var end time.Time
	earliest := func(made time.Time, sig *packet.Signature) {
		if sig == nil || sig.KeyLifetimeSecs == nil || *sig.KeyLifetimeSecs == 0 {
			return
		}
		if e := made.Add(time.Duration(*sig.KeyLifetimeSecs) * time.Second); end.IsZero() || e.Before(end) {
			end = e
		}
	}
	earliest(k.entity.PrimaryKey.CreationTime, key.PrimarySelfSignature)
	earliest(key.PublicKey.CreationTime, key.SelfSignature)
	return end
}
