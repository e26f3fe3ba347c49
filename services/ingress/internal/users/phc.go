package users

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// The bounds of what is accepted as a hash: its cost is paid at every login, also by strangers who guess.
const (
	maxMemory = 256 << 10 // KiB
	maxTime   = 32
	maxLanes  = 32
	minSalt   = 8
	maxSalt   = 64
	minKey    = 16
	maxKey    = 64
)

// hash is an argon2id hash as a PHC string has it.
type hash struct {
	memory uint32 // KiB
	time   uint32
	lanes  uint8
	salt   []byte
	key    []byte
}

// cost compares hashes by what checking them takes.
func (h hash) cost() uint64 { return uint64(h.memory) * uint64(h.time) }

func (h hash) derive(password string) []byte {
	return argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.lanes, uint32(len(h.key)))
}

func (h hash) matches(password string) bool {
	return subtle.ConstantTimeCompare(h.derive(password), h.key) == 1
}

// String is the PHC string.
func (h hash) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.time, h.lanes,
		b64.EncodeToString(h.salt), b64.EncodeToString(h.key))
}

// Hash makes the PHC string that stands for the password in the users file: argon2id with 19 MiB, 2 passes, 1 lane,
// a salt of 16 octets. An empty password is an error.
func Hash(password string) (string, error) {
	if password == "" {
		return "", errors.New("users: the password is empty")
	}
	h := hash{memory: 19 << 10, time: 2, lanes: 1, salt: make([]byte, 16), key: make([]byte, 32)}
	rand.Read(h.salt)
	h.key = h.derive(password)
	return h.String(), nil
}

// parsePHC reads an argon2id PHC string. Its errors do not repeat the string: it is a secret.
func parsePHC(s string) (hash, error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" {
		return hash{}, errors.New("not a PHC string ($argon2id$v=19$m=…,t=…,p=…$salt$hash)")
	}
	if parts[1] != "argon2id" {
		return hash{}, errors.New("only argon2id hashes are accepted")
	}
	if parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return hash{}, errors.New("only version 19 of argon2id is accepted")
	}
	cost := strings.Split(parts[3], ",")
	if len(cost) != 3 {
		return hash{}, errors.New("the parameters must be m, t and p, in this order")
	}
	memory, err := parameter(cost[0], "m=", maxMemory)
	if err != nil {
		return hash{}, err
	}
	time, err := parameter(cost[1], "t=", maxTime)
	if err != nil {
		return hash{}, err
	}
	lanes, err := parameter(cost[2], "p=", maxLanes)
	if err != nil {
		return hash{}, err
	}
	if memory < 8*lanes {
		return hash{}, errors.New("m is less than 8 times p")
	}
	h := hash{memory: memory, time: time, lanes: uint8(lanes)}
	if h.salt, err = field(parts[4], "salt", minSalt, maxSalt); err != nil {
		return hash{}, err
	}
	if h.key, err = field(parts[5], "hash", minKey, maxKey); err != nil {
		return hash{}, err
	}
	return h, nil
}

func parameter(s, prefix string, limit uint32) (uint32, error) {
	digits, ok := strings.CutPrefix(s, prefix)
	n, err := strconv.ParseUint(digits, 10, 32)
	if !ok || err != nil || digits[0] == '0' || digits[0] == '+' {
		return 0, fmt.Errorf("parameter %smust be a number from 1", prefix)
	}
	if n > uint64(limit) {
		return 0, fmt.Errorf("parameter %s%d is more than %d", prefix, n, limit)
	}
	return uint32(n), nil
}

func field(s, name string, least, most int) ([]byte, error) {
	b, err := base64.RawStdEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return nil, fmt.Errorf("the %s is not base64 without padding", name)
	}
	if len(b) < least || len(b) > most {
		return nil, fmt.Errorf("the %s has %d octets, not %d to %d", name, len(b), least, most)
	}
	return b, nil
}
