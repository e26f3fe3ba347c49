package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"
)

// Names inside the archive, all relative to its folder and with forward slashes:
//
//	tmp/                                 files that are still being written
//	2026/11/22/blobs/1f/1f3a….zst        the bytes of a message, by their SHA-256
//	2026/11/22/records/c0/ID.rec         the first record of the message ID; c0 is from the SHA-256 of the id
//	2026/11/22/records/c0/ID.9b…e1.rec   a further record of it
//
// The day is that of the reception, in UTC, so that every attempt of a message meets in one folder, and a day can
// be backed up, moved or removed as a whole.
const (
	tmpDir    = "tmp"
	undated   = "undated" // in place of the day
	blobExt   = ".zst"
	recordExt = ".rec"
)

// plainID are the ids that are good file names as they are. Others, which only a foreign caller can bring, are
// named by their digest.
var plainID = regexp.MustCompile(`^[0-9A-Za-z_-]{1,128}$`)

func idName(id string) string {
	if plainID.MatchString(id) {
		return id
	}
	return "~" + hexSum([]byte(id))
}

func dayOf(t time.Time) string {
	if t.IsZero() {
		return undated
	}
	y, m, d := t.UTC().Date()
	return fmt.Sprintf("%04d/%02d/%02d", y, int(m), d)
}

func blobName(day, sum string) string {
	return path.Join(day, "blobs", sum[:2], sum+blobExt)
}

func recordDir(day, id string) string {
	return path.Join(day, "records", hexSum([]byte(id))[:2])
}

func firstRecordName(day, id string) string {
	return path.Join(recordDir(day, id), idName(id)+recordExt)
}

func furtherRecordName(day, id, key string) string {
	return path.Join(recordDir(day, id), idName(id)+"."+key+recordExt)
}

// isRecordOf says whether a file name in id's recordDir is one of id's records.
func isRecordOf(file, id string) bool {
	rest, ok := strings.CutPrefix(file, idName(id))
	if !ok {
		return false
	}
	return rest == recordExt || strings.HasPrefix(rest, ".") && strings.HasSuffix(rest, recordExt)
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
