package mail

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// Splice replaces the bytes [Offset, Offset+Length) of a message with Insert.
type Splice struct {
	Offset int64
	Length int64
	Insert []byte
}

// Rewrite gives a recipient another address; its id stays.
type Rewrite struct {
	Recipient RecipientID
	To        Address
}

// Edits are what one stage changes of one message, as data: they are logged, diffed, kept with waiting mail,
// and sent over the wire without the body. The zero value changes nothing.
type Edits struct {
	// Splices are sorted by Offset and disjoint. Two insertions at one offset are applied in their order.
	Splices []Splice
	// ReversePath, if not nil, is the new reverse-path; the zero Address is the null one.
	ReversePath *Address
	Rewrites    []Rewrite
}

// Empty says that the edits change nothing.
func (e *Edits) Empty() bool {
	return len(e.Splices) == 0 && e.ReversePath == nil && len(e.Rewrites) == 0
}

// Validate says whether the edits can be applied to a message of size bytes: splices sorted, disjoint and within the
// message, addresses well-formed, no recipient rewritten twice or to the null address.
func (e *Edits) Validate(size int64) error {
	if _, err := checkSplices(e.Splices, size); err != nil {
		return err
	}
	if e.ReversePath != nil {
		if err := e.ReversePath.Validate(); err != nil {
			return fmt.Errorf("new reverse-path: %w", err)
		}
	}
	seen := make(map[RecipientID]bool, len(e.Rewrites))
	for i, r := range e.Rewrites {
		switch {
		case r.Recipient == "":
			return fmt.Errorf("rewrite %d names no recipient", i)
		case seen[r.Recipient]:
			return fmt.Errorf("rewrite %d: recipient %q is rewritten twice", i, r.Recipient)
		case r.To.IsNull():
			return fmt.Errorf("rewrite %d: recipient %q gets the null address", i, r.Recipient)
		}
		if err := r.To.Validate(); err != nil {
			return fmt.Errorf("rewrite %d: %w", i, err)
		}
		seen[r.Recipient] = true
	}
	return nil
}

// EncodedSize is the size in bytes of the edits as they travel (stagecoach.stage.v1.Edits).
func (e *Edits) EncodedSize() int {
	n := 0
	for _, s := range e.Splices {
		n += framed(numberSize(s.Offset) + numberSize(s.Length) + bytesSize(len(s.Insert)))
	}
	if e.ReversePath != nil {
		n += framed(addressSize(*e.ReversePath))
	}
	for _, r := range e.Rewrites {
		n += framed(bytesSize(len(r.Recipient)) + addressSize(r.To))
	}
	return n
}

// checkSplices gives the size of the message after the splices.
func checkSplices(splices []Splice, size int64) (int64, error) {
	var end int64
	result := size
	for i, s := range splices {
		switch {
		case s.Offset < 0 || s.Length < 0:
			return 0, fmt.Errorf("splice %d has a negative offset or length", i)
		case s.Offset < end:
			return 0, fmt.Errorf("splice %d begins at %d, before the end of the one before it at %d", i, s.Offset, end)
		case s.Offset > size || s.Length > size-s.Offset:
			return 0, fmt.Errorf("splice %d [%d,+%d) is outside the message of %d bytes", i, s.Offset, s.Length, size)
		}
		end = s.Offset + s.Length
		result -= s.Length
		if result > math.MaxInt64-int64(len(s.Insert)) {
			return 0, errors.New("the message would become too large")
		}
		result += int64(len(s.Insert))
	}
	return result, nil
}

// The sizes of the protobuf encoding; every field number involved is below 16, so a tag is one byte, and zero values
// are left out.

func varintSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

func numberSize(v int64) int {
	if v == 0 {
		return 0
	}
	return 1 + varintSize(uint64(v))
}

func bytesSize(n int) int {
	if n == 0 {
		return 0
	}
	return framed(n)
}

func framed(n int) int { return 1 + varintSize(uint64(n)) + n }

func addressSize(a Address) int { return bytesSize(len(a.String())) }
