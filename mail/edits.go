package mail

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
