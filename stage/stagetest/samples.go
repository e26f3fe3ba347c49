package stagetest

import (
	"bytes"
	"strings"
)

// builtin are messages that every stage must cope with.
func builtin() [][]byte {
	var out [][]byte
	for _, s := range []string{plain, alternative, attachment, latin, signed, noHeader, "Subject: no body\r\n\r\n", ""} {
		out = append(out, []byte(strings.ReplaceAll(s, "\n", "\r\n")))
	}
	for i := range out { // those written with CRLF above got one CR too many
		out[i] = bytes.ReplaceAll(out[i], []byte("\r\r\n"), []byte("\r\n"))
	}
	return append(out, large())
}

const head = `From: Sender <sender@example.com>
To: one@example.net
Subject: a sample
Date: Tue, 03 Feb 2026 04:05:06 +0000
Message-ID: <sample@example.com>
MIME-Version: 1.0
`

const plain = head + `Content-Type: text/plain; charset=utf-8

Good morning.
`

const alternative = head + `Content-Type: multipart/alternative; boundary="alt"

--alt
Content-Type: text/plain; charset=us-ascii

Good morning.
--alt
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: quoted-printable

<html><body><p>Good =
morning.</p></body></html>
--alt--
`

const attachment = head + `Content-Type: multipart/mixed; boundary="mix"

preamble
--mix
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: base64

R29vZCBtb3JuaW5nLgo=
--mix
Content-Type: application/octet-stream
Content-Disposition: attachment; filename="numbers.dat"
Content-Transfer-Encoding: base64

AAECAwQFBgcICQ==
--mix--
epilogue
`

const latin = head + "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: 8bit\n\nGr\xfc\xdfe\n"

const signed = head + `Content-Type: multipart/signed; protocol="application/pgp-signature"; micalg=pgp-sha256; boundary="sig"

--sig
Content-Type: text/plain

Good morning.
--sig
Content-Type: application/pgp-signature

-----BEGIN PGP SIGNATURE-----
-----END PGP SIGNATURE-----
--sig--
`

const noHeader = "\njust a body\n"

// large is above mail.InlineLimit.
func large() []byte {
	var b bytes.Buffer
	b.WriteString(strings.ReplaceAll(head, "\n", "\r\n"))
	b.WriteString("Content-Type: text/plain; charset=utf-8\r\n\r\n")
	for b.Len() < 1200<<10 {
		b.WriteString("All work and no play makes Jack a dull boy.\r\n")
	}
	return b.Bytes()
}
