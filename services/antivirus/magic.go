package antivirus

import "bytes"

// kind is what the first bytes of a file say it is.
type kind string

const (
	kindPE     kind = "pe"     // Windows and DOS programs and libraries
	kindELF    kind = "elf"    // Unix programs and libraries
	kindMachO  kind = "macho"  // macOS programs and libraries, also those for several processors
	kindJava   kind = "java"   // compiled Java classes
	kindLNK    kind = "lnk"    // Windows shortcuts
	kindCHM    kind = "chm"    // compiled Windows help
	kindScript kind = "script" // "#!" and an interpreter
)

func kinds() []kind {
	return []kind{kindPE, kindELF, kindMachO, kindJava, kindLNK, kindCHM, kindScript}
}

// headSize is how many bytes of a file kindOf wants to see.
const headSize = 64

// kindOf tells what head, the first headSize bytes of a file or all of a shorter one, begins; "" if it is none of the
// kinds.
func kindOf(head []byte) kind {
	switch {
	case bytes.HasPrefix(head, []byte("MZ")):
		// A text may begin so; the header of a program has zeros within its 28 bytes, or soon after.
		if len(head) >= 28 && bytes.IndexByte(head, 0) >= 0 {
			return kindPE
		}
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return kindELF
	case hasAnyPrefix(head, "\xfe\xed\xfa\xce", "\xfe\xed\xfa\xcf", "\xce\xfa\xed\xfe", "\xcf\xfa\xed\xfe"):
		return kindMachO
	case bytes.HasPrefix(head, []byte("\xca\xfe\xba\xbe")) && len(head) >= 8:
		// The same four bytes for both: then comes the number of processors, or the version of Java, 45 and up.
		if head[4] == 0 && head[5] == 0 && head[6] == 0 && head[7] < 45 {
			return kindMachO
		}
		return kindJava
	case bytes.HasPrefix(head, []byte("L\x00\x00\x00\x01\x14\x02\x00")):
		return kindLNK
	case bytes.HasPrefix(head, []byte("ITSF")):
		return kindCHM
	case bytes.HasPrefix(head, []byte("#!")):
		return kindScript
	}
	return ""
}

func hasAnyPrefix(b []byte, prefixes ...string) bool {
	for _, p := range prefixes {
		if bytes.HasPrefix(b, []byte(p)) {
			return true
		}
	}
	return false
}

// The test signature that every scanner knows, in two pieces: in one, a scanner would hold this very file.
const testSignature = `X5O!P%@AP[4\PZX54(P^)7CC)7}$` + `EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*`

// signatureFinder looks for the test signature in what is written to it.
type signatureFinder struct {
	found bool
	tail  []byte // what may be the beginning of it
}

func (f *signatureFinder) Write(p []byte) (int, error) {
	if f.found {
		return len(p), nil
	}
	const keep = len(testSignature) - 1
	// Across the border of two writes.
	joined := append(f.tail, p[:min(len(p), keep)]...)
	f.found = bytes.Contains(joined, []byte(testSignature)) || bytes.Contains(p, []byte(testSignature))
	if len(p) >= keep {
		f.tail = append(f.tail[:0], p[len(p)-keep:]...)
	} else {
		f.tail = append(f.tail[:0], joined[max(0, len(joined)-keep):]...)
	}
	return len(p), nil
}
