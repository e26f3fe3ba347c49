package pgpmime

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/gopenpgp/v3/crypto"
	"github.com/ProtonMail/gopenpgp/v3/profile"

	"github.com/stagecoachmail/stagecoach/services/signer/internal/signtest"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const alice = "alice@example.com"

func parse(t testing.TB, k *pgp.Key) *Key {
	t.Helper()
	b, err := k.Serialize()
	if err != nil {
		t.Fatal(err)
	}
	key, err := Parse(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign gives the second part of a message, and the armored signature in it.
func sign(t testing.TB, k *Key, content string, at, now time.Time) (part, armored, micalg string) {
	t.Helper()
	s, err := k.Begin(at, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	sig, err := s.Finish(sha256.Sum256(nil))
	if err != nil {
		t.Fatal(err)
	}
	_, armored, _ = strings.Cut(string(sig.Part), "\r\n\r\n")
	return string(sig.Part), armored, sig.Micalg
}

func TestSignaturesVerify(t *testing.T) {
	made := noon.Add(-30 * signtest.Day)
	for name, p := range map[string]*profile.Custom{"EdDSA": profile.Default(), "RSA": profile.RFC4880(), "version 6": profile.RFC9580()} {
		t.Run(name, func(t *testing.T) {
			key := signtest.PGP(t, p, made, 0, alice)
			k := parse(t, key)
			part, armored, micalg := sign(t, k, "content\r\n", noon, noon.Add(time.Hour))
			at, err := signtest.Signed{Entity: []byte("content\r\n"), Signature: []byte(armored)}.PGP(key, noon.Add(time.Hour))
			if err != nil || !at.Equal(noon) {
				t.Errorf("signed at %v: %v\n%s", at, err, armored)
			}
			if _, err := (signtest.Signed{Entity: []byte("content \r\n"), Signature: []byte(armored)}).PGP(key, noon.Add(time.Hour)); err == nil {
				t.Error("other content verifies")
			}
			if want := "pgp-sha256"; micalg != want && name != "version 6" {
				t.Errorf("micalg %s, not %s", micalg, want)
			}
			if !signtest.SevenBit(part) || strings.HasSuffix(part, "\n") {
				t.Errorf("the part is\n%q", part)
			}
			again, _, _ := sign(t, k, "content\r\n", noon, noon.Add(2*time.Hour))
			if same := again == part; same != (name != "version 6") {
				t.Errorf("signed again, the same: %v", same)
			}
		})
	}
}

func TestPassphrase(t *testing.T) {
	file := signtest.Locked(t, signtest.PGP(t, profile.Default(), noon.Add(-signtest.Day), 0, alice), "secret")
	for passphrase, want := range map[string]string{"secret": "", "Secret": "does not open", "": "passphrase_file"} {
		_, err := Parse(file, []byte(passphrase))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("passphrase %q: %v", passphrase, err)
		}
	}
}

func TestRefused(t *testing.T) {
	key := signtest.PGP(t, profile.Default(), noon.Add(-signtest.Day), 0, alice)
	public, err := key.GetArmoredPublicKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ file, want string }{
		"a public key": {public, "public key"},
		"no key":       {"hello", "no OpenPGP key"},
		"nothing":      {"", "no OpenPGP key"},
	} {
		if _, err := Parse([]byte(c.file), nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUnusable(t *testing.T) {
	made := noon.Add(-30 * signtest.Day)
	lives := parse(t, signtest.PGP(t, profile.Default(), made, 40*24*3600, alice))
	revoked := signtest.PGP(t, profile.Default(), made, 0, alice)
	if err := revoked.GetEntity().Revoke(packet.KeySuperseded, "", config(noon.Add(-signtest.Day))); err != nil {
		t.Fatal(err)
	}
	encrypts := signtest.PGP(t, profile.Default(), made, 0, alice)
	for _, id := range encrypts.GetEntity().Identities {
		for _, c := range id.SelfCertifications {
			c.Packet.FlagSign = false
		}
	}
	for name, c := range map[string]struct {
		key  *Key
		now  time.Time
		want string
	}{
		"good":                {lives, noon, ""},
		"before it was made":  {lives, made.Add(-time.Second), "not valid before"},
		"after its life":      {lives, made.Add(41 * signtest.Day), "expired"},
		"revoked":             {parse(t, revoked), noon, "revoked"},
		"may not sign at all": {&Key{entity: encrypts.GetEntity()}, noon, "may sign"},
	} {
		if got := c.key.Unusable(c.now); !strings.Contains(got, c.want) || got != "" && c.want == "" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := lives.Ends(noon); !got.Equal(made.Add(40 * signtest.Day)) {
		t.Errorf("it ends %v", got)
	}
	if got := parse(t, encrypts).Ends(noon); !got.IsZero() {
		t.Errorf("what does not end ends %v", got)
	}
}

// A message that was accepted before the key was made bears the time at which it is signed.
func TestSignedNoEarlierThanTheKey(t *testing.T) {
	key := signtest.PGP(t, profile.Default(), noon, 0, alice)
	_, armored, _ := sign(t, parse(t, key), "x", noon.Add(-time.Hour), noon.Add(time.Hour))
	at, err := signtest.Signed{Entity: []byte("x"), Signature: []byte(armored)}.PGP(key, noon.Add(2*time.Hour))
	if err != nil || !at.Equal(noon.Add(time.Hour)) {
		t.Errorf("signed at %v: %v", at, err)
	}
}

func TestAddresses(t *testing.T) {
	key := signtest.PGP(t, profile.Default(), noon.Add(-signtest.Day), 0, alice)
	if err := key.GetEntity().AddUserId("", "", "b@example.com", config(noon)); err != nil {
		t.Fatal(err)
	}
	k := parse(t, key)
	got := k.Addresses(noon)
	if len(got) != 2 || got[0].String() != alice || got[1].String() != "b@example.com" {
		t.Errorf("addresses %v", got)
	}
	if name := k.Name(); !strings.Contains(strings.ToLower(name), key.GetFingerprint()) {
		t.Errorf("name %s", name)
	}
}

// A primary key without its secret half, as gpg --export-secret-subkeys writes it.
func TestSubkeysAlone(t *testing.T) {
	key := signtest.PGP(t, profile.Default(), noon.Add(-signtest.Day), 0, alice)
	e := key.GetEntity()
	if err := e.AddSigningSubkey(&packet.Config{DefaultHash: crypto.SHA256, Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return noon.Add(-time.Hour) }}); err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	if err := e.SerializePrivateWithoutSigning(&all, nil); err != nil {
		t.Fatal(err)
	}
	k, err := Parse(stub(t, all.Bytes()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if reason := k.Unusable(noon); reason != "" {
		t.Fatal(reason)
	}
	_, armored, _ := sign(t, k, "x", noon, noon)
	if _, err := (signtest.Signed{Entity: []byte("x"), Signature: []byte(armored)}).PGP(key, noon); err != nil {
		t.Error(err)
	}
}

// stub takes the secret of the primary key out of a binary secret key: GNU's S2K mode 1.
func stub(t testing.TB, key []byte) []byte {
	t.Helper()
	r := packet.NewReader(bytes.NewReader(key))
	first, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	primary := first.(*packet.PrivateKey)
	var public, whole bytes.Buffer
	if err := primary.PublicKey.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	if err := primary.Serialize(&whole); err != nil {
		t.Fatal(err)
	}
	body := append(public.Bytes()[2:], 254, 9, 101, 0, 'G', 'N', 'U', 1)
	if public.Bytes()[1] != byte(len(body)-8) {
		t.Fatal("the header of the packet is not two octets")
	}
	return append(append([]byte{0xc5, byte(len(body))}, body...), key[whole.Len():]...)
}

func TestAtOnce(t *testing.T) {
	key := signtest.PGP(t, profile.Default(), noon.Add(-signtest.Day), 0, alice)
	k := parse(t, key)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if k.Unusable(noon) != "" || len(k.Addresses(noon)) != 1 {
				t.Error("the key is not usable")
			}
			_, armored, _ := sign(t, k, "x", noon, noon)
			if _, err := (signtest.Signed{Entity: []byte("x"), Signature: []byte(armored)}).PGP(key, noon); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
