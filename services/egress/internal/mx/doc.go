// Package mx finds the hosts that take the mail of a domain (RFC 5321, section 5).
package mx
