// Package mail holds what stage authors handle: a Message with its Envelope and Content, the Edits a stage
// asks for, and a byte-exact walk through the MIME structure.
//
// Nothing here changes a message in place. A Content is immutable; an edit is data (a Splice), and Apply makes
// a new Content that shares every unchanged byte with the old one. Bytes that no splice names leave as they came.
package mail
