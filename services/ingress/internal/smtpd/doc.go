// Package smtpd speaks SMTP with whoever brings mail: sessions on go-smtp behind package guard, the relay policy of
// package policy, logins of package users. What it accepts it hands to an Intake, which makes it durable.
//
// One Server serves all listeners. A session works by the configuration that was in force when its transaction began.
package smtpd
