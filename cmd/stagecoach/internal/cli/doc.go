// Package cli is the operator's side of the program: commands that ask a running Stagecoach by the unix socket in its
// data folder, or send it mail. One file per noun.
//
// What a command prints is made in one place (output): everything is escaped there, since nearly all of it came from
// outside. Lists are tables on a terminal, lines with tabs in a pipe, and one JSON document with --json.
package cli
