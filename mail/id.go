package mail

import (
	"crypto/rand"
	"strings"
	"time"
)

// idDigits are in ASCII order, so that the order of ids is the order of their times; one case only, for file systems
// that know but one; no letters that are taken for digits, because ids are read out on the telephone.
const idDigits = "0123456789abcdefghjkmnpqrstvwxyz"

const (
	idTimeDigits = 11 // 55 bits: microseconds since 1970, until the year 3111
	idLength     = 26
)

// NewID makes an id of 26 characters (digits and lower case letters) that no other process makes: the time in
// microseconds, then 75 random bits. Ids of later microseconds sort after earlier ones. It is safe in subjects, file
// names and SMTP replies, and, since it cannot be guessed, as a name for a message.
func NewID(now time.Time) string {
	var b [idLength]byte
	us := uint64(max(now.UnixMicro(), 0))
	for i := idTimeDigits - 1; i >= 0; i-- {
		b[i] = idDigits[us&31]
		us >>= 5
	}
	var r [idLength - idTimeDigits]byte
	rand.Read(r[:])
	for i, x := range r {
		b[idTimeDigits+i] = idDigits[x&31]
	}
	return string(b[:])
}

// IDTime gives the time that NewID was told when it made id, in microseconds; false if it did not make it.
func IDTime(id string) (time.Time, bool) {
	if len(id) != idLength {
		return time.Time{}, false
	}
	us := int64(0)
	for i := range idLength {
		digit := strings.IndexByte(idDigits, id[i])
		if digit < 0 {
			return time.Time{}, false
		}
		if i < idTimeDigits {
			us = us<<5 | int64(digit)
		}
	}
	return time.UnixMicro(us).UTC(), true
}
