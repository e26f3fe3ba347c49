// Package maildir delivers messages into a maildir: tmp, new and cur, a file for each message and recipient.
//
// The name of a file is made of the message id and the recipient id, so that delivering again changes nothing. A message
// is on stable storage before it appears in new, and the entry in new before Commit returns.
package maildir
