// Package users checks SMTP AUTH passwords against the users file:
//
//	users:
//	  alice: {password: "$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>"}
//
// The file is read again when it changes; one that does not parse changes nothing, and says so in the log.
package users
