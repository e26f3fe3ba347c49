package policy

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
)

// MaxReceived is the number of Received fields at which a message goes in a circle (RFC 5321, section 6.3).
const MaxReceived = 100

// MaxPasses is how often a message may come through this installation; the next time it is cut.
const MaxPasses = 2

func deriveKey(secret []byte) []byte {
	key, err := hkdf.Key(sha256.New, secret, nil, "stagecoach received token v1", 32)
	if err != nil {
		// It fails for lengths that the hash cannot give, and 32 is not one.
		panic("policy: " + err.Error())
	}
	return key
}

// Token is the comment by which we know our own Received field again: 32 hex digits, made of the message's id.
func (p *Policy) Token(id string) string {
	m := hmac.New(sha256.New, p.key)
	m.Write([]byte(id))
	return hex.EncodeToString(m.Sum(nil)[:16])
}

// token is how Token stands in a Received field; the session writes it.
var token = regexp.MustCompile(`\bid[ \t\r\n]+([0-9A-Za-z.-]{1,64})[ \t\r\n]+\(stagecoach ([0-9a-f]{32})\)`)

// Pass finds the id under which the message came through this installation, in the value of a Received field. Nobody
// else can make one; a field that was copied counts once, because its id does.
func (p *Policy) Pass(received []byte) (id string, ok bool) {
	m := token.FindSubmatch(received)
	if m == nil {
		return "", false
	}
	id = string(m[1])
	return id, hmac.Equal([]byte(p.Token(id)), m[2])
}
