// Package guard stands between the network and go-smtp: a net.Conn that hands the library one well-formed command
// line at a time, and keeps everything from it that it does not handle.
//
// What the guard takes off the library, and why (go-smtp v0.25.1):
//
//   - A failed read stays failed. The library goes on parsing commands after a timeout in DATA.
//   - Message data never reaches the library's dot reader, which overlooks the end of data after a bare CR and lets
//     bare CR, bare LF and NUL through. Body reads it strictly; the library is given an empty message instead.
//   - MAIL and RCPT are parsed here (ParseMail, ParseRcpt). The library unquotes local parts, so that what it
//     hands on cannot be told from an injected parameter; it refuses <postmaster>, and keeps one of two equal parameters.
//   - Command lines, AUTH lines and data lines have limits of their own.
//   - Timeouts count from the last progress, and a client that trickles is cut.
//   - STARTTLS is done here: bytes that were pipelined behind it are refused, and a failed handshake ends the connection.
//   - BDAT and CHUNKING are neither offered nor accepted: the library runs the chunks beside the session.
//   - Replies that belong together leave in one write, and say what we want them to say.
//   - Leave and Kill end a connection from outside; the library's Shutdown waits for idle clients for ever.
//
// Everything but Leave, Kill, Activity and the addresses belongs to the one goroutine that serves the connection.
package guard
