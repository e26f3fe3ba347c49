package mail

// Header is the header section of a message, byte-exact (RFC 5322, section 2.2).
type Header struct {
	// Fields are in the order of the message. What is no field (a line without a colon) ends the section.
	Fields []Field
	// Size is the length in bytes of the section with the empty line that ends it; it is where the body begins.
	Size int64
}

// Field is one header field with its place in the message.
type Field struct {
	// Name as written, without the colon.
	Name string
	// Raw is the whole field as it stands: name, colon, folded value, line end.
	Raw []byte
	// Offset is where Raw begins in the message.
	Offset int64
}
