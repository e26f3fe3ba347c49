package mail

import "strings"

// Address is an RFC 5321 Mailbox, parsed: Local is unquoted, Domain is as given (an address literal keeps its
// brackets). The zero Address is the null reverse-path. Keep addresses parsed and print them with String, which
// quotes where it must: a quoted local part put back without quotes is a parameter injection.
type Address struct {
	Local  string
	Domain string
}

// IsNull says that a is the null reverse-path.
func (a Address) IsNull() bool { return a.Local == "" && a.Domain == "" }

// Equal compares as mail systems do: the domain without regard to case, the local part exactly.
func (a Address) Equal(b Address) bool {
	return a.Local == b.Local && strings.EqualFold(a.Domain, b.Domain)
}
